//! PostgreSQL on this machine, for the demo and for every test: nodes that are made, started, stopped, killed for real
//! and thrown away.
//!
//! Blocking on purpose, so that it works from any context. Not here: what runs through the nodes (`demo`,
//! `tests/support`), and nothing of howdah's own paths.
//!
//! ```no_run
//! # fn main() -> Result<(), howdah::demo::postgres::LocalError> {
//! use howdah::demo::postgres::LocalCluster;
//! let cluster = LocalCluster::builder().standby("b").setting("max_connections", "200").start()?;
//! assert_eq!(cluster.primary().sql("SELECT 1")?.cell(), Some("1"));
//! # Ok(()) }
//! ```

mod binaries;
mod local_cluster;
mod node;
pub(super) mod query;
mod rejoin;

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use self::binaries::Binaries;
pub use self::local_cluster::{Builder, LocalCluster};
pub use self::node::{Node, StopMode};
pub use self::query::Rows;
use super::process::{Process, log_tail};

/// How many lines of a log an error shows.
const TAIL_LINES: usize = 15;

/// Why a local PostgreSQL could not be had. Texts carry the end of the log that explains them.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// No usable PostgreSQL on this machine.
    #[error(
        "no PostgreSQL server programs found (looked for {looked})\n\
         HINT: apt-get install postgresql-15 postgresql-contrib, or set HOWDAH_PG_BIN to the directory that holds initdb"
    )]
    NoPostgres {
        /// The place that was looked at.
        looked: String,
    },
    /// Running as root, and there is nobody to run PostgreSQL as.
    #[error("PostgreSQL refuses to run as root, and there is neither a user \"postgres\" nor \"nobody\"")]
    NoUser,
    /// The operating system refused something.
    #[error("could not {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// A program of PostgreSQL's failed.
    #[error("{what} failed ({status})\n{log}")]
    Failed {
        /// The program and what it was for.
        what: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines it wrote.
        log: String,
    },
    /// Something did not happen in time.
    #[error("{what} took more than {bound:?}\n{log}")]
    TooSlow {
        /// What was waited for.
        what: String,
        /// How long.
        bound: Duration,
        /// The last lines of the log of who should have done it.
        log: String,
    },
    /// PostgreSQL answered a statement with an error, or not at all.
    #[error("node \"{node}\": {message}")]
    Sql {
        /// Which node was asked.
        node: String,
        /// The error's SQLSTATE, if PostgreSQL gave one.
        code: Option<String>,
        /// Its text.
        message: String,
    },
    /// The node is not in the state that the call needs.
    #[error("node \"{node}\" {state}")]
    State {
        /// Which node.
        node: String,
        /// What it is or is not.
        state: &'static str,
    },
    /// The flag given to [`Builder::interrupt`] was raised.
    #[error("interrupted")]
    Interrupted,
}

/// What the making of a cluster is told from outside, and tells.
#[derive(Clone, Default)]
pub(super) struct Watch {
    interrupt: Option<Arc<AtomicBool>>,
}

impl Watch {
    fn check(&self) -> Result<(), LocalError> {
        match &self.interrupt {
            Some(flag) if flag.load(Ordering::Relaxed) => Err(LocalError::Interrupted),
            Some(_) | None => Ok(()),
        }
    }

    /// Asks until the answer is `Some`, at most `bound`.
    fn until<T>(
        &self,
        what: &str,
        bound: Duration,
        log: &Path,
        mut ask: impl FnMut() -> Result<Option<T>, LocalError>,
    ) -> Result<T, LocalError> {
        let deadline = Instant::now() + bound;
        loop {
            if let Some(answer) = ask()? {
                return Ok(answer);
            }
            self.check()?;
            if Instant::now() >= deadline {
                return Err(LocalError::TooSlow { what: what.to_owned(), bound, log: log_tail(log, TAIL_LINES) });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs a program to its end and insists on success.
    fn run(&self, what: &str, command: Command, log: PathBuf, bound: Duration) -> Result<(), LocalError> {
        let process = Process::spawn(command, &log).map_err(io_error(&format!("start {what}")))?;
        let status = self.until(what, bound, &log, || Ok(process.wait(Duration::from_millis(50))))?;
        if status.success() {
            return Ok(());
        }
        Err(LocalError::Failed { what: what.to_owned(), status, log: log_tail(&log, TAIL_LINES) })
    }
}

fn io_error(what: &str) -> impl FnOnce(io::Error) -> LocalError {
    let what = what.to_owned();
    move |source| LocalError::Io { what, source }
}
