//! What the exit code of an operating command says, the same for all of them and for good:
//!
//! 0 done; 1 an error, or not done after it was begun; 2 the command line is wrong; 3 the daemon has refused, and nothing has
//! changed; 4 there is no daemon; 5 the configuration is right, and something that it points at is not (`howdah check --connect`).

/// An end of a command that has a code of its own.
#[derive(Debug, thiserror::Error)]
pub enum Exit {
    /// 2
    #[error("{0}")]
    Usage(String),
    /// 3
    #[error("refused: {0}")]
    Refused(String),
    /// 4
    #[error("{0}")]
    NoDaemon(String),
    /// 5
    #[error("{0}")]
    Amiss(String),
}

/// The code for the end of a command.
#[must_use]
pub fn code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Exit>() {
        Some(Exit::Usage(_)) => 2,
        Some(Exit::Refused(_)) => 3,
        Some(Exit::NoDaemon(_)) => 4,
        Some(Exit::Amiss(_)) => 5,
        None => 1,
    }
}
