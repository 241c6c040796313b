//! What the console says when it says no: PgBouncer's words, because tools match on them, with SQLSTATEs that tell what is wrong.
//!
//! PgBouncer sends all of these as 08P01, which drivers take for a broken connection.

use crate::pg::SqlState;
use crate::proxy::orders::OrderError;

/// PgBouncer formats its errors in a buffer of this size, with the zero at their end.
const TEXT_BYTES_MAX: usize = 1023;

/// Why a command is not carried out. Each of these texts is explained in docs/errors.md.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsoleError {
    /// Not a command, or one that takes no such argument.
    #[error("{}", cut(format!("invalid command '{}', use SHOW HELP;", .0)))]
    Syntax(String),
    /// A word is longer than the console's buffers.
    #[error("bad arguments")]
    BadArguments,
    /// Bytes that are no text.
    #[error("invalid byte sequence for encoding \"UTF8\"")]
    NotUtf8,
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
    /// The client's cancel has ended it.
    #[error("canceling statement due to user request")]
    Canceled,
    /// Other consoles have answers of such sizes that they have not taken.
    #[error("too many large answers wait for their readers")]
    TooManyAnswers,

    /// There is no such cluster.
    #[error("no such cluster: {name}; there are: {known}")]
    NoSuchCluster {
        /// What was named.
        name: String,
        /// What could be.
        known: String,
    },
    /// None is named.
    #[error("there are several clusters: say which one with IN name")]
    WhichCluster,
    /// There is no coordinator.
    #[error("cluster \"{0}\" is only observed: write \"agent\" at every node of it, and no mode = \"observe\"")]
    Observed(String),
    /// The coordinator does not do it. The words are its own.
    #[error("{0}")]
    Refused(String),
    /// The coordinator has something else to do.
    #[error("the coordinator has not answered in time; it may still do it: look at the status")]
    Unanswered,
    /// A switchover that came to nothing.
    #[error("no other node could take over: the old primary was started again")]
    Restarted,
    /// An operation was taken back.
    #[error("{tag} undone: {why}")]
    Undone {
        /// Which.
        tag: &'static str,
        /// The coordinator's words.
        why: String,
    },
    /// An operation came to no good end.
    #[error("{tag} failed: {why}")]
    Failed {
        /// Which.
        tag: &'static str,
        /// The coordinator's words.
        why: String,
    },
    /// An operation that the ledger does not have.
    #[error("\"{0}\" was accepted, and nothing more is known of it")]
    Vanished(String),

    /// The extended protocol takes one at a time.
    #[error("cannot insert multiple commands into a prepared statement")]
    ManyCommands,
    /// No command has parameters.
    #[error("bind message supplies {given} parameters, but prepared statement \"{name}\" requires 0")]
    Parameters {
        /// How many came.
        given: usize,
        /// The statement.
        name: String,
    },
    /// Formats that fit no result of so many columns.
    #[error("bind message has {given} result formats but query has {has} columns")]
    ResultFormats {
        /// How many came.
        given: usize,
        /// How many columns there are.
        has: usize,
    },
    /// A Parse under a name in use.
    #[error("prepared statement \"{0}\" already exists")]
    StatementExists(String),
    /// A name not in use.
    #[error("prepared statement \"{0}\" does not exist")]
    NoSuchStatement(String),
    /// The same of the empty name.
    #[error("unnamed prepared statement does not exist")]
    NoUnnamedStatement,
    /// More names than anybody needs.
    #[error("too many prepared statements")]
    TooManyStatements,
    /// A Bind under a name in use.
    #[error("cursor \"{0}\" already exists")]
    PortalExists(String),
    /// A name not in use.
    #[error("portal \"{0}\" does not exist")]
    NoSuchPortal(String),
    /// More names than anybody needs.
    #[error("too many portals")]
    TooManyPortals,

    /// Not a message. The console ends.
    #[error("bad packet")]
    BadPacket,
    /// A message that no command needs. The console ends.
    #[error("message is too long for the console")]
    TooLong,
}

/// As much of a text as PgBouncer sends.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

impl ConsoleError {
    /// PgBouncer's answer to what it does not understand.
    #[must_use]
    pub fn syntax(text: &str) -> Self {
        Self::Syntax(text.to_owned())
    }

    /// What programs look at.
    #[must_use]
    pub const fn sqlstate(&self) -> SqlState {
        match self {
            Self::Syntax(_) | Self::DatabaseRequired | Self::ManyCommands => SqlState::SYNTAX_ERROR,
            Self::BadArguments | Self::TooManyStatements | Self::TooManyPortals => SqlState::PROGRAM_LIMIT_EXCEEDED,
            Self::NotUtf8 => SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            Self::AdminNeeded => SqlState::INSUFFICIENT_PRIVILEGE,
            Self::AdminDatabase { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            Self::BadClient => SqlState::INVALID_PARAMETER_VALUE,
            Self::Canceled => SqlState::QUERY_CANCELED,
            Self::TooManyAnswers => SqlState::INSUFFICIENT_RESOURCES,
            Self::NoSuchCluster { .. } | Self::WhichCluster => SqlState::UNDEFINED_OBJECT,
            Self::Observed(_)
            | Self::Refused(_)
            | Self::Unanswered
            | Self::Restarted
            | Self::Undone { .. }
            | Self::Failed { .. }
            | Self::Vanished(_) => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::Parameters { .. } | Self::ResultFormats { .. } | Self::BadPacket | Self::TooLong => {
                SqlState::PROTOCOL_VIOLATION
            }
            Self::StatementExists(_) => SqlState::DUPLICATE_PREPARED_STATEMENT,
            Self::NoSuchStatement(_) | Self::NoUnnamedStatement => SqlState::INVALID_SQL_STATEMENT_NAME,
            Self::PortalExists(_) => SqlState::DUPLICATE_CURSOR,
            Self::NoSuchPortal(_) => SqlState::INVALID_CURSOR_NAME,
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
            Self::TooManyAnswers => Some("close consoles that do not read, or ask for less with LIKE"),
            Self::Order(OrderError::SetFailed(why)) => Some(why),
            Self::Order(OrderError::ReloadFailed) => Some("`howdah check` says what is wrong with the configuration"),
            _ => None, // the text is enough
        }
    }
}
