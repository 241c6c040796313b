//! What the console says when it says no: PgBouncer's words, because tools match on them, with SQLSTATEs that tell what is wrong.
//!
//! PgBouncer sends all of these as 08P01, which drivers take for a broken connection.

use crate::pg::SqlState;

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
    /// No entry of the configuration fits.
    #[error("no such database: {0}")]
    NoSuchDatabase(String),
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
    /// Everything is paused, or suspended.
    #[error("already suspended/paused")]
    AlreadyPaused,
    /// Nothing to go on with.
    #[error("pooler is not paused/suspended")]
    NotPaused,
    /// The same for one database.
    #[error("database {0} is not paused")]
    DatabaseNotPaused(String),
    /// What a paused database holds cannot be flushed.
    #[error("cannot suspend with paused databases")]
    PausedDatabases,
    /// Too late for this.
    #[error("pooler is shutting down")]
    ShuttingDown,
    /// Not a number.
    #[error("invalid client pointer supplied")]
    BadClient,
    /// Nobody has this number.
    #[error("client not found")]
    ClientNotFound,
    /// The log says why.
    #[error("RELOAD failed, see logs for additional details")]
    ReloadFailed,
    /// The key cannot be set, or not to this.
    #[error("SET failed")]
    SetFailed {
        /// Why, for the hint.
        reason: String,
    },
    /// The wait was ended by somebody else: a RESUME ends a PAUSE that is not over.
    #[error("canceling statement due to user request")]
    Undone,
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
            Self::NoSuchDatabase(_) => SqlState::INVALID_CATALOG_NAME,
            Self::AdminDatabase { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            Self::AlreadyPaused
            | Self::NotPaused
            | Self::DatabaseNotPaused(_)
            | Self::PausedDatabases
            | Self::Refused(_) => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::ShuttingDown => SqlState::CANNOT_CONNECT_NOW,
            Self::BadClient | Self::SetFailed { .. } => SqlState::INVALID_PARAMETER_VALUE,
            Self::ClientNotFound | Self::NoSuchCluster(_) => SqlState::UNDEFINED_OBJECT,
            Self::ReloadFailed => SqlState::CONFIG_FILE_ERROR,
            Self::Undone => SqlState::QUERY_CANCELED,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::SetFailed { reason } => Some(reason),
            Self::AdminNeeded => Some("name the user in admin.users"),
            Self::ReloadFailed => Some("`howdah check` says what is wrong with the configuration"),
            Self::Syntax(_)
            | Self::BadArguments
            | Self::NoSuchDatabase(_)
            | Self::AdminDatabase { .. }
            | Self::DatabaseRequired
            | Self::AlreadyPaused
            | Self::NotPaused
            | Self::DatabaseNotPaused(_)
            | Self::PausedDatabases
            | Self::ShuttingDown
            | Self::BadClient
            | Self::ClientNotFound
            | Self::Undone
            | Self::NoSuchCluster(_)
            | Self::Refused(_) => None,
        }
    }
}
