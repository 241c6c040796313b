//! `howdah demo`: a whole cluster in a temporary directory, built from the public parts as anyone would.
//!
//! The story is in [`show`]: [`postgres`] makes the nodes, [`agent`] an agent beside each, [`endpoint`] starts `howdah serve` as a child, [`workload`]
//! goes through it, [`status`] asks it how it is, [`flow`] says what went where, [`screen`] shows that; [`scratch`] takes everything away again, whatever
//! happens. Not here: the data path, which runs in the child. The tests use [`postgres`], [`process`] and [`ports`] too.

pub mod agent;
pub mod chaos;
pub mod checker;
pub mod endpoint;
pub mod flow;
pub mod latency;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod scratch;
pub mod screen;
pub mod show;
pub mod status;
pub mod stop;
pub mod workload;

use std::io;

pub use self::show::{Options, run};

/// Why the demo ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// PostgreSQL could not be had.
    #[error(transparent)]
    Local(#[from] postgres::LocalError),
    /// The endpoint failed.
    #[error("the endpoint (howdah serve) {what}\n--- the end of its log\n{log}")]
    Endpoint {
        /// What is wrong with it.
        what: String,
        /// The last lines it wrote.
        log: String,
    },
    /// Not one transaction came through.
    #[error("no transaction came through; the last error was: {error}")]
    NoTransaction {
        /// What a client was told.
        error: String,
    },
    /// The operating system refused something.
    #[error("could not {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The standard output is gone.
    #[error("could not write to the standard output: {0}")]
    Output(#[from] io::Error),
}
