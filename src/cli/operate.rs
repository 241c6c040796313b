//! The commands that change something: `howdah switchover`, `failover`, `pause` …
//!
//! Each is one request to the daemon, which accepts or refuses it at once; what takes longer is followed (`follow`). Exit codes: `exit`.

use std::io::{self, Write};

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::daemon::{Daemon, DaemonArgs, encoded, read};
use super::{follow, look};
use crate::admin::operate::Taken;
use crate::cluster::decide::Command;

/// Looking at clusters, and changing them. All of it asks the running daemon.
#[derive(Debug, Subcommand)]
pub enum Operate {
    /// Say who is the primary, what is under way and what stands in the way.
    Status(look::LookArgs),
    /// Say of each node where its log is and whether it might be promoted.
    Nodes(look::LookArgs),
    /// Say what howdah would do, what keeps it from that, and what to do about it.
    Explain(look::LookArgs),
    /// The last changes of the primary: when, why, how long it took, what was lost.
    History(look::LookArgs),
    /// Change the primary as planned: clients wait for a moment and see no error.
    Switchover(SwitchoverArgs),
    /// Make another node the primary now: the old one is fenced, and transactions there end.
    Failover(FailoverArgs),
    /// No failovers and no repairs from now on, for maintenance.
    Pause(PlainArgs),
    /// Failovers and repairs go on.
    Resume(PlainArgs),
    /// Let a node join the cluster again, after a detach or a quarantine.
    Attach(NodeArgs),
    /// Leave a node alone: it is not repaired and not promoted.
    Detach(NodeArgs),
    /// End every server process of a node, and start none that writes.
    Fence(NodeArgs),
    /// Let a fenced node start and join again.
    Unfence(NodeArgs),
    /// Replace a standby's data by a new copy of the primary's.
    Rebuild(NodeArgs),
    /// Stop a node's PostgreSQL and start it again.
    Restart(NodeArgs),
}

/// `howdah switchover`
#[derive(Debug, Args)]
pub struct SwitchoverArgs {
    /// The new primary; the best standby when nobody is named.
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    #[command(flatten)]
    plain: PlainArgs,
}

/// `howdah failover`
#[derive(Debug, Args)]
pub struct FailoverArgs {
    /// The new primary; the standby that has most when nobody is named.
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    /// You have made sure that this node, the old primary, is off and stays off: its agent's proof is not waited for. If it is
    /// not off, what it still acknowledges is lost.
    #[arg(long, value_name = "NODE")]
    vouch: Option<String>,
    /// Also to a standby that is known to lack more than max_lag_on_failover of what the old primary has acknowledged.
    #[arg(long)]
    allow_data_loss: bool,
    #[command(flatten)]
    plain: PlainArgs,
}

/// A command about a node.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Which node.
    #[arg(value_name = "NODE")]
    node: String,
    #[command(flatten)]
    plain: PlainArgs,
}

/// What every command takes.
#[derive(Debug, Args)]
pub struct PlainArgs {
    /// Which daemon.
    #[command(flatten)]
    daemon: DaemonArgs,
    /// Follow it to its end. Switchover, failover, rebuild and restart do so anyway.
    #[arg(long, conflicts_with = "no_wait")]
    wait: bool,
    /// Come back as soon as it is accepted.
    #[arg(long)]
    no_wait: bool,
}

/// Runs one.
///
/// # Errors
/// When it is refused, not done, or there is no daemon; [`exit::code`](super::exit::code) tells these apart.
pub fn run(operate: Operate) -> anyhow::Result<()> {
    match operate {
        Operate::Status(args) => look::status(&args),
        Operate::Nodes(args) => look::nodes(&args),
        Operate::Explain(args) => look::explain(&args),
        Operate::History(args) => look::history(&args),
        Operate::Switchover(SwitchoverArgs { to, plain }) => {
            give(&plain, true, &Command::Switchover { to: to.map(Into::into) })
        }
        Operate::Failover(FailoverArgs { to, vouch, allow_data_loss, plain }) => {
            let (to, vouch) = (to.map(Into::into), vouch.map(Into::into));
            give(&plain, true, &Command::Failover { to, vouch, allow_data_loss })
        }
        Operate::Pause(plain) => give(&plain, false, &Command::Pause),
        Operate::Resume(plain) => give(&plain, false, &Command::Resume),
        Operate::Attach(NodeArgs { node, plain }) => give(&plain, false, &Command::Attach { node: node.into() }),
        Operate::Detach(NodeArgs { node, plain }) => give(&plain, false, &Command::Detach { node: node.into() }),
        Operate::Fence(NodeArgs { node, plain }) => give(&plain, false, &Command::Fence { node: node.into() }),
        Operate::Unfence(NodeArgs { node, plain }) => give(&plain, false, &Command::Unfence { node: node.into() }),
        Operate::Rebuild(NodeArgs { node, plain }) => give(&plain, true, &Command::Rebuild { node: node.into() }),
        Operate::Restart(NodeArgs { node, plain }) => give(&plain, true, &Command::Restart { node: node.into() }),
    }
}

fn give(args: &PlainArgs, is_long: bool, command: &Command) -> anyhow::Result<()> {
    let daemon = Daemon::of(&args.daemon)?;
    let cluster = daemon.cluster(args.daemon.cluster.as_deref())?;
    let (name, body) = request(command)?;
    let path = format!("/clusters/{}/{name}", encoded(&cluster));
    let answer = daemon.ask(&path, Some(&body))?;
    let taken: Taken = read(&answer)?;
    let follow = (is_long || args.wait) && !args.no_wait && !taken.id.is_empty();
    if args.daemon.json {
        return match follow {
            true => follow::to_the_end(&daemon, &cluster, &taken.id, follow::Show::Json),
            false => print(&(answer + "\n")),
        };
    }
    let operation = if taken.id.is_empty() { String::new() } else { format!(" ({})", taken.id) };
    let text = if taken.text.is_empty() { "done" } else { &taken.text };
    print(&format!("{text}{operation}\n"))?;
    match follow {
        true => follow::to_the_end(&daemon, &cluster, &taken.id, follow::Show::Text),
        false => Ok(()),
    }
}

/// The command's name in the path, and its fields as the body.
fn request(command: &Command) -> anyhow::Result<(String, Vec<u8>)> {
    let serde_json::Value::Object(mut fields) = serde_json::to_value(command)? else {
        anyhow::bail!("a command is no object");
    };
    let name =
        fields.remove("command").and_then(|name| Some(name.as_str()?.to_owned())).context("a command has a name")?;
    Ok((name, serde_json::to_vec(&fields)?))
}

/// Writes to the standard output; that nobody reads it any more is no error.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write the answer"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_sent_as_the_api_takes_it() {
        let command = Command::Failover { to: None, vouch: Some("a".into()), allow_data_loss: false };
        let (name, body) = request(&command).unwrap();
        assert_eq!(name, "failover");
        assert_eq!(String::from_utf8(body).unwrap(), r#"{"allow_data_loss":false,"to":null,"vouch":"a"}"#);
        assert_eq!(request(&Command::Pause).unwrap(), ("pause".to_owned(), b"{}".to_vec()));
    }
}
