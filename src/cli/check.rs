//! `howdah check`: what is wrong with a configuration, all of it at once; with `--connect` also what is wrong with what it points at.
//!
//! Its exit code: 0 the file is right (there may be warnings), 1 it is not, 2 the command line is wrong, 5 the file is right and
//! something that it points at is not (`--connect`).
//!
//! - this file: the command, and what reading the file shows
//! - [`certificates`]: when they end
//! - [`reach`]: nodes, what the monitor's user may do there, agents
//! - [`ports`]: whether the listeners can be opened

pub(super) mod certificates;
mod ports;
mod reach;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::exit::Exit;
use super::managed::managed;
use crate::admin::reload::ProblemRow;
use crate::agent::{self, load};
use crate::config::{self, Config, Problem, Problems, VERSION};
use crate::net::dial::Dialer;
use crate::proxy::shared::Running;

/// Reads a configuration as `serve` would, certificates included, and says what is wrong with it.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 the file is right, 1 it is not, 2 the command line is wrong, 5 the file is right and \
                        something that it points at is not (--connect)"
)]
pub struct CheckArgs {
    /// The configuration file [default: /etc/howdah/howdah.toml].
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Also look at what it points at: nodes, rights of the monitor's user, agents, free ports.
    #[arg(long)]
    pub connect: bool,
    /// The file is an agent's [default: /etc/howdah/agent.toml].
    #[arg(long, conflicts_with = "connect")]
    pub agent: bool,
    /// For scripts: one JSON object with all that was found.
    #[arg(long)]
    pub json: bool,
}

/// One thing that was found by looking at what the file points at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    /// What it is about: `node a of main`, `listener 127.0.0.1:6432`.
    about: String,
    text: String,
    /// What to do; empty where nothing is.
    #[serde(skip_serializing_if = "String::is_empty")]
    advice: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Error,
}

impl Finding {
    fn new(level: Level, about: &str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level, about: about.to_owned(), text: text.into(), advice: advice.into() }
    }

    fn ok(about: &str, text: impl Into<String>) -> Self {
        Self::new(Level::Ok, about, text, "")
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        write!(f, "{level}: {}: {}", self.about, self.text)?;
        if self.advice.is_empty() { Ok(()) } else { write!(f, "; {}", self.advice) }
    }
}

/// Runs it.
///
/// # Errors
/// Every problem of the file, each with line and column; [`Exit::Amiss`] for what it points at.
pub fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let default = || if args.agent { load::default_path() } else { PathBuf::from(super::serve::DEFAULT_CONFIG) };
    let path = args.config.clone().unwrap_or_else(default);
    let read = if args.agent {
        Read { version: agent::config::VERSION, ..Read::of(load::load(&path).map(drop)) }
    } else {
        config::load(&path).map_or_else(|problems| Read::of(Err(problems)), examine)
    };
    let Read { problems, warnings, running, version } = read;
    let findings = match running {
        Some(running) if args.connect && problems.is_empty() => look(&running)?,
        Some(_) | None => Vec::new(),
    };
    let errors = findings.iter().filter(|finding| finding.level == Level::Error).count();
    let shown = path.display();
    let mut out = std::io::stdout(); // nobody reads it: the exit code says it too
    if args.json {
        let rows = |problems: &[Problem]| problems.iter().map(ProblemRow::from).collect::<Vec<_>>();
        let answer = json!({
            "file": shown.to_string(),
            "ok": problems.is_empty() && errors == 0,
            "version": version,
            "problems": rows(&problems),
            "warnings": rows(&warnings),
            "findings": findings,
        });
        let _ = writeln!(out, "{answer}");
    } else {
        for warning in &warnings {
            eprintln!("warning: {warning}");
        }
        for finding in &findings {
            let _ = writeln!(out, "{finding}");
        }
        if problems.is_empty() {
            let told = match warnings.len() {
                0 => String::new(),
                1 => ", 1 warning".to_owned(),
                count => format!(", {count} warnings"),
            };
            let _ = writeln!(out, "{shown}: ok{told}");
        }
    }
    Problems::none_or_all(problems)?;
    match errors {
        0 => Ok(()),
        1 => Err(Exit::Amiss(format!("\"{shown}\" is right, and one thing that it points at is not")).into()),
        _ => Err(Exit::Amiss(format!("\"{shown}\" is right, and {errors} things that it points at are not")).into()),
    }
}

/// What reading has shown.
struct Read {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    running: Option<Running>,
    version: u32,
}

impl Read {
    fn of(read: Result<(), Problems>) -> Self {
        let problems = read.err().map(Problems::into_vec).unwrap_or_default();
        Self { problems, warnings: Vec::new(), running: None, version: VERSION }
    }
}

/// What reading the file alone does not show: certificates and their keys.
fn examine(config: Config) -> Read {
    let (mut problems, warnings) = certificates::dates(&config);
    if let Err(more) = managed(&config) {
        problems.extend(more.into_vec());
    }
    let dialer = Dialer::new(&config.network);
    let running = match Running::new(config, &dialer) {
        Ok(running) => Some(running),
        Err(more) => {
            problems.extend(more.into_vec());
            None
        }
    };
    Read { problems, warnings, running, version: VERSION }
}

/// Goes and looks. Every wait is bounded, and nothing waits for something else.
fn look(running: &Running) -> anyhow::Result<Vec<Finding>> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("could not start a runtime")?;
    let found = runtime.block_on(async {
        let mut found = reach::clusters(running).await;
        found.extend(ports::look(&running.config).await);
        found
    });
    runtime.shutdown_background(); // a name server that hangs holds up nobody
    Ok(found)
}
