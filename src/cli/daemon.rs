//! The daemon as the operating commands see it: found, asked with a token, its refusals told with what to do.
//!
//! Not here: what is asked (`look`, `operate`), how an answer is shown.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::advice::advice;
use super::api::ApiArgs;
use super::exit::Exit;
use crate::admin::client::{self, Answer, Question};
use crate::admin::refusal::Refusal;
use crate::admin::{ClusterRow, HttpAddress};
use crate::config::Secret;

/// For one answer: coordinators answer at once.
const ANSWER_BOUND: Duration = Duration::from_secs(10);

/// Which daemon, and as whom.
#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// Where it is.
    #[command(flatten)]
    pub api: ApiArgs,
    /// The file with the token. Without it the one that the daemon's configuration names, if it may be read.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Which cluster, where there are several.
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// For scripts: the daemon's answer as it is.
    #[arg(long)]
    pub json: bool,
}

/// The parts of `GET /status` that commands show.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Status {
    /// What keeps it from serving, or from serving all.
    pub(super) missing: Vec<String>,
    /// All of them.
    pub(super) clusters: Vec<ClusterRow>,
    /// Client connections.
    pub(super) clients: u64,
}

/// A daemon that was found.
pub(super) struct Daemon {
    address: HttpAddress,
    token: Option<Secret>,
    correlation: String,
}

impl Daemon {
    /// Finds it.
    pub(super) fn of(args: &DaemonArgs) -> anyhow::Result<Self> {
        let address = args.api.address()?;
        let token = match &args.token_file {
            Some(path) => {
                let text = fs::read_to_string(path)
                    .with_context(|| format!("cannot read the token in \"{}\"", path.display()))?;
                first_line(text)
            }
            // the daemon says it when one is needed
            None => args.api.token_files().iter().find_map(|path| first_line(fs::read_to_string(path).ok()?)),
        };
        Ok(Self { address, token, correlation: format!("cli-{:08x}", rand::random::<u32>()) })
    }

    /// An answer that is one.
    pub(super) fn ask(&self, path: &str, body: Option<&[u8]>) -> anyhow::Result<String> {
        let address = &self.address;
        let token = self.token.as_ref().map(Secret::reveal);
        let question = Question { path, body, token, correlation: Some(&self.correlation) };
        let answer = client::ask(address, &question, ANSWER_BOUND).map_err(|error| {
            let how = "is it running? -c FILE or --api ADDRESS say where it is";
            Exit::NoDaemon(format!("no answer from the daemon at {address}: {error}; {how}"))
        })?;
        match answer {
            Answer { status: 200 | 202, body } => Ok(body),
            Answer { status, body } => Err(refused(address, status, &body)),
        }
    }

    /// A `GET` whose answer is read.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        read(&self.ask(path, None)?)
    }

    /// What is known.
    pub(super) fn status(&self) -> anyhow::Result<Status> {
        self.get("/status")
    }

    /// The one cluster that is meant.
    pub(super) fn cluster(&self, named: Option<&str>) -> anyhow::Result<String> {
        if let Some(named) = named {
            return Ok(named.to_owned());
        }
        let mut names: Vec<String> = self.status()?.clusters.into_iter().map(|cluster| cluster.name).collect();
        match (names.pop(), names.is_empty()) {
            (Some(only), true) => Ok(only),
            (Some(last), false) => {
                names.push(last);
                Err(Exit::Usage(format!("there are several clusters: say --cluster and one of {}", names.join(", ")))
                    .into())
            }
            (None, _) => anyhow::bail!("the daemon has no cluster"),
        }
    }
}

/// Reads an answer.
pub(super) fn read<T: DeserializeOwned>(body: &str) -> anyhow::Result<T> {
    serde_json::from_str(body).context("the daemon is of another version: its answer is not understood")
}

/// A name as a part of a path.
pub(super) fn encoded(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn first_line(text: String) -> Option<Secret> {
    let text = Secret::new(text);
    let line = text.reveal().lines().next().map(str::trim).filter(|line| !line.is_empty())?;
    Some(Secret::new(line.to_owned()))
}

fn refused(address: &HttpAddress, status: u16, body: &str) -> anyhow::Error {
    let Ok(Refusal { error, reason, .. }) = serde_json::from_str::<Refusal>(body) else {
        return anyhow::anyhow!("{address} answers {status}: is that the HTTP API of a howdah of this version?");
    };
    match reason.as_str() {
        "no-answer" | "unknown-path" | "wrong-method" | "" => anyhow::anyhow!("{error}"),
        "unreachable" if status >= 500 => anyhow::anyhow!("{error}"),
        _ => {
            let what = advice(&reason).map(|advice| format!("\n  {advice}")).unwrap_or_default();
            Exit::Refused(format!("{reason}: {error}{what}")).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::exit::code;
    use super::*;

    #[test]
    fn a_refusal_is_told_with_its_reason_and_what_to_do() {
        let address = HttpAddress::Tcp("127.0.0.1:6433".to_owned());
        let said = |status, body| {
            let error = refused(&address, status, body);
            (code(&error), error.to_string())
        };
        let (code, text) = said(409, r#"{"error":"main-s1 runs","reason":"busy"}"#);
        assert_eq!(code, 3);
        let golden =
            "refused: busy: main-s1 runs\n  \"howdah status\" says what is under way; ask again when it has ended";
        assert_eq!(text, golden);
        assert_eq!(said(401, r#"{"error":"this needs a token","reason":"no-token"}"#).0, 3);
        assert_eq!(said(504, r#"{"error":"no answer","reason":"no-answer"}"#), (1, "no answer".to_owned()));
        assert_eq!(said(502, "<html>").0, 1);
    }

    #[test]
    fn a_name_cannot_be_another_path() {
        assert_eq!(encoded("main-1.a_b"), "main-1.a_b");
        assert_eq!(encoded("a/../b ü"), "a%2F..%2Fb%20%C3%BC");
    }
}
