//! How somebody asks the daemon for a reload, and what it answers. SIGHUP, the console and the API all come by here, one after
//! the other.

use std::fmt;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::super::problem::Problems;
use super::RestartNeeded;
use super::change::Change;

/// More than this many who wait for a reload are told to come back.
const WAITING_MAX: usize = 16;

/// What a reload has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// What holds from now on.
    pub changed: Vec<Change>,
    /// What stays as it was until a restart.
    pub restart: Vec<RestartNeeded>,
    /// What is not wrong, and not right either.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.changed.is_empty() && self.restart.is_empty() && self.warnings.is_empty() {
            return f.write_str("nothing has changed");
        }
        let changed = self.changed.iter().map(ToString::to_string);
        let lines = changed.chain(self.restart.iter().map(ToString::to_string));
        let lines: Vec<String> = lines.chain(self.warnings.iter().map(|text| format!("warning: {text}"))).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// Why a reload has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReloaded {
    /// Everything that is wrong with the files.
    #[error("{0}")]
    Problems(#[from] Problems),
    /// The daemon is going down, or too many wait already.
    #[error("{0}")]
    Busy(&'static str),
}

/// What comes of a reload.
pub type Outcome = Result<Reloaded, NotReloaded>;

/// Asks for reloads. May be used from any thread.
#[derive(Clone, Debug)]
pub struct Reloads(mpsc::Sender<Order>);

/// Somebody waits for a reload.
#[derive(Debug)]
pub struct Order {
    /// Who asked, for the log: `SIGHUP`, `the API`, `console user "x"`.
    pub by: String,
    answer: oneshot::Sender<Outcome>,
}

impl Order {
    /// Tells who asked.
    pub fn answer(self, outcome: Outcome) {
        let _ = self.answer.send(outcome); // may have gone
    }
}

impl Reloads {
    /// Both ends.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Order>) {
        let (send, receive) = mpsc::channel(WAITING_MAX);
        (Self(send), receive)
    }

    /// Reads the files again; answered when everything that has changed holds, or when it is certain that nothing has.
    ///
    /// # Errors
    /// [`NotReloaded`], and then nothing has changed.
    pub async fn reload(&self, by: impl Into<String>) -> Outcome {
        let gone = NotReloaded::Busy("the daemon is shutting down");
        let (answer, answered) = oneshot::channel();
        match self.0.try_send(Order { by: by.into(), answer }) {
            Ok(()) => answered.await.unwrap_or(Err(gone)),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(NotReloaded::Busy("too many reloads are waiting already; ask again"))
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(gone),
        }
    }
}
