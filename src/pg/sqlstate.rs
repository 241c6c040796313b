//! The five characters that tell a program what went wrong (PostgreSQL: appendix "PostgreSQL Error Codes").

use std::fmt;

/// A SQLSTATE. Only the ones howdah itself sends or looks for have a name here; any other passes through as it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// A warning of no particular kind.
    pub const WARNING: Self = Self(*b"01000");
    /// Nothing went wrong: what notices carry.
    pub const SUCCESSFUL_COMPLETION: Self = Self(*b"00000");
    /// `08000`-class: the connection to the server failed or broke.
    pub const CONNECTION_FAILURE: Self = Self(*b"08006");
    /// A request was on its way and nobody can say whether it took effect.
    pub const TRANSACTION_RESOLUTION_UNKNOWN: Self = Self(*b"08007");
    /// The peer sent something the protocol does not allow.
    pub const PROTOCOL_VIOLATION: Self = Self(*b"08P01");
    /// The feature exists in PostgreSQL but not here, or not in this mode.
    pub const FEATURE_NOT_SUPPORTED: Self = Self(*b"0A000");
    /// Bytes that are no text in the encoding that was agreed on.
    pub const CHARACTER_NOT_IN_REPERTOIRE: Self = Self(*b"22021");
    /// There is not enough of something now.
    pub const INSUFFICIENT_RESOURCES: Self = Self(*b"53000");
    /// A startup parameter or setting has an impossible value.
    pub const INVALID_PARAMETER_VALUE: Self = Self(*b"22023");
    /// The transaction, or its server, only reads.
    pub const READ_ONLY_SQL_TRANSACTION: Self = Self(*b"25006");
    /// The command may not run in an idle-in-transaction session any longer.
    pub const IDLE_IN_TRANSACTION_SESSION_TIMEOUT: Self = Self(*b"25P03");
    /// PostgreSQL 17: `transaction_timeout`.
    pub const TRANSACTION_TIMEOUT: Self = Self(*b"25P04");
    /// The block has failed; only its end is accepted.
    pub const IN_FAILED_SQL_TRANSACTION: Self = Self(*b"25P02");
    /// No such prepared statement.
    pub const INVALID_SQL_STATEMENT_NAME: Self = Self(*b"26000");
    /// The user may not log in this way.
    pub const INVALID_AUTHORIZATION_SPECIFICATION: Self = Self(*b"28000");
    /// Wrong password.
    pub const INVALID_PASSWORD: Self = Self(*b"28P01");
    /// No such database.
    pub const INVALID_CATALOG_NAME: Self = Self(*b"3D000");
    /// The block is lost through no fault of its own; the application may run it again.
    pub const SERIALIZATION_FAILURE: Self = Self(*b"40001");
    /// `deadlock_detected`.
    pub const DEADLOCK_DETECTED: Self = Self(*b"40P01");
    /// A prepared statement of that name exists.
    pub const DUPLICATE_PREPARED_STATEMENT: Self = Self(*b"42P05");
    /// A portal of this name is there already.
    pub const DUPLICATE_CURSOR: Self = Self(*b"42P03");
    /// There is no portal of this name.
    pub const INVALID_CURSOR_NAME: Self = Self(*b"34000");
    /// Not a statement, or not a command-line switch, that is understood.
    pub const SYNTAX_ERROR: Self = Self(*b"42601");
    /// There is no such thing.
    pub const UNDEFINED_OBJECT: Self = Self(*b"42704");
    /// Not allowed for this user.
    pub const INSUFFICIENT_PRIVILEGE: Self = Self(*b"42501");
    /// A limit on connections or waiting is reached.
    pub const TOO_MANY_CONNECTIONS: Self = Self(*b"53300");
    /// Something is larger than is accepted here.
    pub const PROGRAM_LIMIT_EXCEEDED: Self = Self(*b"54000");
    /// What the statement needs has not happened before in this session.
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: Self = Self(*b"55000");
    /// Cancelled by the user or by a timeout on the query.
    pub const QUERY_CANCELED: Self = Self(*b"57014");
    /// The session is ended from outside.
    pub const ADMIN_SHUTDOWN: Self = Self(*b"57P01");
    /// Another process of the server has crashed, and takes all others with it.
    pub const CRASH_SHUTDOWN: Self = Self(*b"57P02");
    /// Nobody can serve this now, it may work in a moment.
    pub const CANNOT_CONNECT_NOW: Self = Self(*b"57P03");
    /// The session was idle for longer than it may.
    pub const IDLE_SESSION_TIMEOUT: Self = Self(*b"57P05");
    /// The configuration is wrong. PgBouncer: what a failed RELOAD answers.
    pub const CONFIG_FILE_ERROR: Self = Self(*b"F0000");
    /// A defect of howdah.
    pub const INTERNAL_ERROR: Self = Self(*b"XX000");

    /// Takes five bytes off the wire; `None` when they are not digits and upper-case letters.
    #[must_use]
    pub fn from_wire(bytes: &[u8]) -> Option<Self> {
        let code: [u8; 5] = bytes.try_into().ok()?;
        code.iter().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()).then_some(Self(code))
    }

    /// The five bytes as they go over the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 5] {
        &self.0
    }

    /// The first two characters, which name the class (`08`: connection exceptions).
    #[must_use]
    pub const fn class(&self) -> [u8; 2] {
        [self.0[0], self.0[1]]
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{}", char::from(*b)))
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
