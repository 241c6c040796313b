//! Asks another node who it is, as a standby would: with the replication login, over a replication connection.
//!
//! By `psql`: it speaks to the node in the very way that PostgreSQL's own receiver will, TLS and passfile included.

use std::time::Duration;

use crate::agent::config::{AgentConfig, Login};
use crate::agent::postgres::conninfo;
use crate::agent::postgres::control::ControlFile;
use crate::agent::postgres::program::Programs;
use crate::agent::step::{Act, Step, Work};
use crate::directive::{Code, Failure, Upstream};
use crate::pg::{SystemIdentifier, Timeline};

/// For a connection and one answer.
const BOUND: Duration = Duration::from_secs(10);

/// Checks that the upstream answers, is of the same cluster, and on the timeline that it was said to be on.
pub struct SameSystem(pub Upstream);

impl Step for SameSystem {
    fn name(&self) -> &'static str {
        "ask the other node who it is"
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            let programs = Programs::find(&work.config)?;
            let (system, timeline) = identify(&work.config, &programs, &self.0).await?;
            let own = ControlFile::read(&programs, &work.config.data_directory).await?.system_identifier;
            if system != own {
                let node = &self.0.node;
                let text =
                    format!("\"{node}\" is of system {system}, and the data directory here of {own}: another cluster");
                return Err(Failure::new(Code::OtherSystem, text));
            }
            if timeline < self.0.history.timeline {
                let (node, said) = (&self.0.node, self.0.history.timeline);
                let text = format!("\"{node}\" is on timeline {timeline}, and should be on {said}");
                return Err(Failure::new(Code::WrongState, text));
            }
            Ok(())
        })
    }
}

async fn identify(
    config: &AgentConfig,
    programs: &Programs,
    upstream: &Upstream,
) -> Result<(SystemIdentifier, Timeline), Failure> {
    let said = ask(config, programs, upstream, &config.replication, "replication=true", "IDENTIFY_SYSTEM").await?;
    let mut fields = said.trim().split('|');
    let system = fields.next().and_then(|text| text.parse().ok()).map(SystemIdentifier);
    let timeline = fields.next().and_then(|text| text.parse().ok()).map(Timeline);
    system.zip(timeline).ok_or_else(|| {
        let text = format!("\"{}\" has answered IDENTIFY_SYSTEM with \"{}\"", upstream.node, said.trim());
        Failure::new(Code::Unreachable, text)
    })
}

/// One question to another node, unaligned.
///
/// # Errors
/// [`Code::Unreachable`] when it does not answer or does not let the login in.
pub(super) async fn ask(
    config: &AgentConfig,
    programs: &Programs,
    upstream: &Upstream,
    login: &Login,
    options: &str,
    question: &str,
) -> Result<String, Failure> {
    let conninfo = format!("{} connect_timeout=5 {options}", conninfo::program(config, upstream, login, None)?);
    let mut psql = programs.bound_command("psql");
    psql.args(["--no-psqlrc", "--no-align", "--tuples-only", "--no-password", "-d", &conninfo, "-c", question]);
    match programs.run(psql, Some(BOUND), |_| ()).await {
        Ok(output) => Ok(output.stdout),
        Err(failure) => {
            let text = format!("\"{}\" at {}:{}: {}", upstream.node, upstream.host, upstream.port, failure.text);
            Err(Failure::new(Code::Unreachable, text))
        }
    }
}
