//! What the console says when it says no: PgBouncer's words, because tools match on them, with SQLSTATEs that tell what is wrong.
//!
//! PgBouncer sends all of these as 08P01, which drivers take for a broken connection.

use crate::pg::SqlState;
use crate::proxy::orders::OrderError;

/// PgBouncer formats its errors in a buffer of this size, with the zero at their end.
const TEXT_BYTES_MAX: usize = 1023;

/// Why a command is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsoleError {
    /// Not a command, or one that takes no such argument.
    #[error("{0}")]
    Syntax(String),
    /// A word is longer than the console's buffers.
    #[error("bad arguments")]
    BadArguments,
    /// The user may only look.
    #[error("admin access needed")]
    AdminNeeded,
    /// The console itself cannot be paused, killed, disabled …
    #[error("cannot {verb} admin db: {database}")]
    AdminDatabase {
        /// What was to be done.
        verb: &'static str,
        /// Which console.
        database: String,
    },
    /// The command is for one database.
    #[error("a database is required")]
    DatabaseRequired,
    /// Not a number.
    #[error("invalid client pointer supplied")]
    BadClient,
    /// An order that cannot be carried out.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// There is no such cluster.
    #[error("{0}")]
    NoSuchCluster(String),
    /// The coordinator does not do it, or there is none.
    #[error("{0}")]
    Refused(String),
}

impl ConsoleError {
    /// PgBouncer's answer to what it does not understand.
    #[must_use]
    pub fn syntax(text: &str) -> Self {
        let mut said = format!("invalid command '{text}', use SHOW HELP;");
        said.truncate(said.floor_char_boundary(TEXT_BYTES_MAX));
        Self::Syntax(said)
    }

    /// What programs look at.
    #[must_use]
    pub const fn sqlstate(&self) -> SqlState {
        match self {
            Self::Syntax(_) | Self::DatabaseRequired => SqlState::SYNTAX_ERROR,
            Self::BadArguments => SqlState::PROGRAM_LIMIT_EXCEEDED,
            Self::AdminNeeded => SqlState::INSUFFICIENT_PRIVILEGE,
            Self::AdminDatabase { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            Self::BadClient => SqlState::INVALID_PARAMETER_VALUE,
            Self::NoSuchCluster(_) => SqlState::UNDEFINED_OBJECT,
            Self::Refused(_) => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::Order(error) => match error {
                OrderError::NoSuchDatabase(_) => SqlState::INVALID_CATALOG_NAME,
                OrderError::AlreadyPaused
                | OrderError::NotPaused
                | OrderError::DatabaseNotPaused(_)
                | OrderError::PausedDatabases => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                OrderError::ShuttingDown => SqlState::CANNOT_CONNECT_NOW,
                OrderError::ClientNotFound => SqlState::UNDEFINED_OBJECT,
                OrderError::ReloadFailed => SqlState::CONFIG_FILE_ERROR,
                OrderError::SetFailed(_) => SqlState::INVALID_PARAMETER_VALUE,
                OrderError::Undone => SqlState::QUERY_CANCELED,
            },
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::AdminNeeded => Some("name the user in admin.users"),
            Self::Order(OrderError::SetFailed(why)) => Some(why),
            Self::Order(OrderError::ReloadFailed) => Some("`howdah check` says what is wrong with the configuration"),
            Self::Syntax(_)
            | Self::BadArguments
            | Self::AdminDatabase { .. }
            | Self::DatabaseRequired
            | Self::BadClient
            | Self::NoSuchCluster(_)
            | Self::Refused(_)
            | Self::Order(_) => None,
        }
    }
}
