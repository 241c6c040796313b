//! What a client can be told when howdah itself has to say no.
//!
//! One `match` each says the SQLSTATE, whether the session ends, and what to do about it. The words are PgBouncer's
//! where tools match on them. No text holds a phrase that makes drivers drop a healthy connection ("terminating
//! connection", "closed the connection" and their kin); `tests::no_text_scares_a_driver` looks.

use crate::pg::SqlState;
use crate::protocol::error_response::{self, Severity};
use crate::protocol::frame::FrameError;
use crate::protocol::scram::ScramError;
use crate::protocol::startup::StartupError;

/// Why a request or a session is refused or ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// `limits.max_client_connections`. PgBouncer: `max_client_conn`.
    #[error("no more connections allowed (max_client_conn)")]
    TooManyClients,
    /// `pool.max_client_connections` of the database.
    #[error("client connections exceeded (max_db_client_connections)")]
    TooManyClientsOfDatabase,
    /// `pool.max_client_connections` of the user.
    #[error("client connections exceeded (max_user_client_connections)")]
    TooManyClientsOfUser,
    /// No `[databases]` entry fits.
    #[error("no such database: {0}")]
    NoSuchDatabase(String),
    /// Wrong password, no password, no such user: not to be told apart.
    #[error("password authentication failed for user \"{0}\"")]
    WrongPassword(String),
    /// The same, while nobody knows whether the password is right: the cluster cannot be asked, and a role may be new.
    #[error("password of user \"{0}\" could not be checked: the cluster's passwords cannot be read now")]
    PasswordsUnreadable(String),
    /// The client's part of SCRAM is not SCRAM, or somebody stands in between.
    #[error("{}", scram_text(.0))]
    Scram(ScramError),
    /// SASL with something that was not offered.
    #[error("client selected an invalid SASL authentication mechanism")]
    NoSuchMechanism,
    /// What is said to be a password is none.
    #[error("password packet is too long")]
    AnswerTooLong,
    /// A rule of `hba_file` says so.
    #[error("pg_hba.conf rejects connection for {0}")]
    HbaRejects(String),
    /// The same for physical replication.
    #[error("pg_hba.conf rejects replication connection for {0}")]
    HbaRejectsReplication(String),
    /// No rule of `hba_file` fits.
    #[error("no pg_hba.conf entry for {0}")]
    HbaNoEntry(String),
    /// The same for physical replication.
    #[error("no pg_hba.conf entry for replication connection from {0}")]
    HbaNoReplicationEntry(String),
    /// The method or the rule wants a certificate.
    #[error("connection requires a valid client certificate")]
    NoCertificate,
    /// The client's certificate is another user's.
    #[error("certificate authentication failed for user \"{0}\"")]
    WrongCertificate(String),
    /// The client's process is another user's.
    #[error("Peer authentication failed for user \"{0}\"")]
    WrongPeer(String),
    /// The client expected another answer to its startup.
    #[error("expected SASL response, got message type {0}")]
    NotSasl(u8),
    /// The same for md5.
    #[error("expected password response, got message type {0}")]
    NotAPassword(u8),
    /// The listener wants TLS.
    #[error("SSL required")]
    TlsRequired,
    /// Bytes came behind the request for TLS: somebody may have put them there.
    #[error("received unencrypted data after SSL request")]
    PlaintextBeforeTls,
    /// The first packet is not what it should be.
    #[error("{0}")]
    Startup(#[from] StartupError),
    /// The console is for `admin.users` and `admin.stats_users`.
    #[error("not allowed")]
    NotAllowed,
    /// Login took too long.
    #[error("client_login_timeout")]
    LoginTimeout,
    /// SIGTERM.
    #[error("pooler is shutting down")]
    ShuttingDown,
    /// DISABLE.
    #[error("database \"{0}\" is disabled")]
    Disabled(String),
    /// KILL. The words are PgBouncer's.
    #[error("database removed")]
    Killed,
    /// KILL_CLIENT.
    #[error("admin forced disconnect")]
    Disconnected,
    /// SUSPEND found no end of a message in time.
    #[error("suspend_timeout")]
    SuspendTimeout,
    /// All server connections were busy for `query_wait`. PgBouncer: `query_wait_timeout`.
    #[error("query_wait_timeout")]
    QueryWait,
    /// `pool.max_waiting`.
    #[error("too many clients wait for a server connection")]
    TooManyWaiting,
    /// Nobody to ask for `query_wait`.
    #[error("no primary available: {0}")]
    NoPrimary(String),
    /// Nothing but a replica will do, and there is none for `query_wait`.
    #[error("no replica available: {0}")]
    NoReplica(String),
    /// On a replica the statement would silently do something else.
    #[error("cannot run on a replica: {0}")]
    SilentOnReplica(&'static str),
    /// A read whose replica went away in the middle of its answer.
    #[error("the read is lost: its replica went away")]
    ReadLost,
    /// No server connection could be opened for `query_wait`.
    #[error("server login has been failing, cached error: {0}")]
    ServerUnreachable(String),
    /// The server refused the login, in these fields of its own ErrorResponse.
    #[error("the server refused the login")]
    ServerRefused(Box<[u8]>),
    /// The client's cancel ended its wait.
    #[error("canceling statement due to user request")]
    Cancelled,
    /// `timeouts.query`. PgBouncer: `query_timeout`.
    #[error("query timeout")]
    QueryTimeout,
    /// `timeouts.transaction`. PgBouncer: `transaction_timeout`.
    #[error("transaction timeout")]
    TransactionTimeout,
    /// `timeouts.idle_in_transaction`. PgBouncer: `idle_transaction_timeout`.
    #[error("idle transaction timeout")]
    IdleInTransaction,
    /// `timeouts.client_idle`. PgBouncer: `client_idle_timeout`.
    #[error("client_idle_timeout")]
    ClientIdle,
    /// `timeouts.read`: a message too large to be held back was begun and not finished.
    #[error("client stalled in the middle of a message")]
    Stalled,
    /// `timeouts.write`.
    #[error("client does not take its results")]
    SlowReader,
    /// The server went away, or its answers stopped making sense, with this request on its way.
    #[error("server conn crashed? whether the request took effect is not known")]
    OutcomeUnknown,
    /// The server has committed, and ended its wait for its synchronous standbys.
    #[error("the transaction is committed, but no standby has confirmed it: it may yet be lost")]
    CommitAlone,
    /// The server went away inside a block whose COMMIT had not been sent.
    #[error("the transaction is lost: its server went away")]
    BlockLost,
    /// The server of a session that depends on it went away.
    #[error("the session is lost: its server went away")]
    SessionLost,
    /// A statement in a failed block.
    #[error("current transaction is aborted, commands ignored until end of transaction block")]
    BlockFailed,
    /// Something else than COPY data while the server reads it.
    #[error("unexpected message type 0x{0:02X} during COPY from stdin")]
    InCopy(u8),
    /// Not a message.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// A message whose body is not what its tag promises.
    #[error("invalid message format")]
    BadMessage,
    /// `pool.mode = "statement"`.
    #[error("transaction blocks not allowed in statement pooling mode")]
    StatementMode,
    /// A named statement too large to be prepared again elsewhere.
    #[error("prepared statement \"{name}\" is too large: {bytes} bytes, at most {max} can be kept")]
    StatementTooLarge {
        /// The client's name for it.
        name: String,
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// A Parse under a name in use.
    #[error("prepared statement \"{0}\" already exists")]
    StatementExists(String),
    /// A Bind or Describe of a name not in use.
    #[error("prepared statement \"{0}\" does not exist")]
    NoSuchStatement(String),
    /// The same of the empty name.
    #[error("unnamed prepared statement does not exist")]
    NoUnnamedStatement,
    /// `pool.pins = "forbid"`: this kind of state.
    #[error("the statement would keep its server connection for this session ({0}), which is forbidden here")]
    PinsForbidden(&'static str),
    /// `currval` or `lastval` on another server than `nextval`.
    #[error("the sequence was not used on this server connection by this session")]
    SequenceElsewhere,
    /// The pool a client waits in is not the one to wait in any more. Never told: the client waits elsewhere.
    #[error("the pool has moved")]
    PoolRetired,
    /// A defect of howdah, named.
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl ClientError {
    /// Its SQLSTATE.
    #[must_use]
    pub const fn code(&self) -> SqlState {
        match self {
            Self::TooManyClients
            | Self::TooManyClientsOfDatabase
            | Self::TooManyClientsOfUser
            | Self::QueryWait
            | Self::TooManyWaiting => SqlState::TOO_MANY_CONNECTIONS,
            Self::NoSuchDatabase(_) => SqlState::INVALID_CATALOG_NAME,
            Self::WrongPassword(_) => SqlState::INVALID_PASSWORD,
            Self::Scram(error) => error.sqlstate(),
            Self::TlsRequired
            | Self::HbaRejects(_)
            | Self::HbaRejectsReplication(_)
            | Self::HbaNoEntry(_)
            | Self::HbaNoReplicationEntry(_)
            | Self::NoCertificate
            | Self::WrongCertificate(_)
            | Self::WrongPeer(_)
            | Self::NotAllowed => SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            Self::Startup(error) => error.sqlstate(),
            Self::StatementMode | Self::PinsForbidden(_) => SqlState::FEATURE_NOT_SUPPORTED,
            Self::ShuttingDown | Self::SessionLost | Self::Killed | Self::Disconnected | Self::SuspendTimeout => {
                SqlState::ADMIN_SHUTDOWN
            }
            Self::Disabled(_) => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::NoPrimary(_)
            | Self::NoReplica(_)
            | Self::ServerUnreachable(_)
            | Self::PoolRetired
            | Self::PasswordsUnreadable(_) => SqlState::CANNOT_CONNECT_NOW,
            Self::SilentOnReplica(_) => SqlState::READ_ONLY_SQL_TRANSACTION,
            Self::LoginTimeout | Self::Stalled | Self::SlowReader | Self::ServerRefused(_) => {
                SqlState::CONNECTION_FAILURE
            }
            Self::Cancelled | Self::QueryTimeout => SqlState::QUERY_CANCELED,
            Self::TransactionTimeout => SqlState::TRANSACTION_TIMEOUT,
            Self::IdleInTransaction => SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            Self::ClientIdle => SqlState::IDLE_SESSION_TIMEOUT,
            Self::OutcomeUnknown | Self::CommitAlone => SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
            Self::BlockLost | Self::ReadLost => SqlState::SERIALIZATION_FAILURE,
            Self::BlockFailed => SqlState::IN_FAILED_SQL_TRANSACTION,
            Self::NoSuchMechanism
            | Self::AnswerTooLong
            | Self::NotSasl(_)
            | Self::NotAPassword(_)
            | Self::PlaintextBeforeTls
            | Self::InCopy(_)
            | Self::Frame(_)
            | Self::BadMessage => SqlState::PROTOCOL_VIOLATION,
            Self::SequenceElsewhere => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::StatementTooLarge { .. } => SqlState::PROGRAM_LIMIT_EXCEEDED,
            Self::StatementExists(_) => SqlState::DUPLICATE_PREPARED_STATEMENT,
            Self::NoSuchStatement(_) | Self::NoUnnamedStatement => SqlState::INVALID_SQL_STATEMENT_NAME,
            Self::Internal(_) => SqlState::INTERNAL_ERROR,
        }
    }

    /// Whether it says that a wait for a server was in vain.
    #[must_use]
    pub const fn is_of_waiting(&self) -> bool {
        matches!(
            self,
            Self::QueryWait
                | Self::TooManyWaiting
                | Self::NoPrimary(_)
                | Self::NoReplica(_)
                | Self::ServerUnreachable(_)
        )
    }

    /// Whether the session ends, once it has begun. Before login everything does.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match self {
            Self::QueryWait
            | Self::TooManyWaiting
            | Self::NoPrimary(_)
            | Self::NoReplica(_)
            | Self::SilentOnReplica(_)
            | Self::ReadLost
            | Self::ServerUnreachable(_)
            | Self::PoolRetired
            | Self::ServerRefused(_)
            | Self::Cancelled
            | Self::QueryTimeout
            | Self::OutcomeUnknown
            | Self::CommitAlone
            | Self::BlockLost
            | Self::BlockFailed
            | Self::StatementMode
            | Self::PinsForbidden(_)
            | Self::SequenceElsewhere
            | Self::StatementTooLarge { .. }
            | Self::StatementExists(_)
            | Self::NoSuchStatement(_)
            | Self::NoUnnamedStatement => Severity::Error,
            Self::TooManyClients
            | Self::TooManyClientsOfDatabase
            | Self::TooManyClientsOfUser
            | Self::NoSuchDatabase(_)
            | Self::WrongPassword(_)
            | Self::PasswordsUnreadable(_)
            | Self::Scram(_)
            | Self::NoSuchMechanism
            | Self::AnswerTooLong
            | Self::HbaRejects(_)
            | Self::HbaRejectsReplication(_)
            | Self::HbaNoEntry(_)
            | Self::HbaNoReplicationEntry(_)
            | Self::NoCertificate
            | Self::WrongCertificate(_)
            | Self::WrongPeer(_)
            | Self::NotSasl(_)
            | Self::NotAPassword(_)
            | Self::TlsRequired
            | Self::NotAllowed
            | Self::PlaintextBeforeTls
            | Self::Startup(_)
            | Self::LoginTimeout
            | Self::ShuttingDown
            | Self::Disabled(_)
            | Self::Killed
            | Self::Disconnected
            | Self::SuspendTimeout
            | Self::SessionLost
            | Self::TransactionTimeout
            | Self::IdleInTransaction
            | Self::ClientIdle
            | Self::Stalled
            | Self::SlowReader
            | Self::InCopy(_)
            | Self::Frame(_)
            | Self::BadMessage
            | Self::Internal(_) => Severity::Fatal,
        }
    }

    /// What to do about it, naming the setting.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::TooManyClients => "Raise \"max_client_connections\" under [limits] in howdah.toml.",
            Self::TooManyClientsOfDatabase => {
                "Raise \"max_client_connections\" under the database's [databases.NAME.pool] in howdah.toml."
            }
            Self::TooManyClientsOfUser => {
                "Raise \"max_client_connections\" under the user's [users.NAME.pool] in howdah.toml."
            }
            Self::NoSuchDatabase(_) => "Add it under [databases] in howdah.toml, or [databases.\"*\"] for every name.",
            Self::TlsRequired => "The listener has tls mode \"require\" or stricter; connect with sslmode=require.",
            Self::NotAllowed => "Name the user in \"users\" or \"stats_users\" under [admin] in howdah.toml.",
            Self::PasswordsUnreadable(_) => "Try again; /status of howdah says what is known of the cluster.",
            Self::HbaRejects(_)
            | Self::HbaRejectsReplication(_)
            | Self::HbaNoEntry(_)
            | Self::HbaNoReplicationEntry(_) => "The rules are those of \"hba_file\" under [auth] in howdah.toml.",
            Self::NoCertificate => {
                "The method asks for a certificate that \"ca\" of the listener has signed; connect with sslcert and sslkey."
            }
            Self::LoginTimeout => "The bound is \"client_login\" under [timeouts] in howdah.toml.",
            Self::QueryWait => {
                "All server connections of the pool are busy. Raise \"size\" under [pool], or \"query_wait\" under \
                 [timeouts] in howdah.toml."
            }
            Self::TooManyWaiting => {
                "All server connections of the pool are busy. Raise \"size\" or \"max_waiting\" under [pool] in \
                 howdah.toml."
            }
            Self::CommitAlone => {
                "The wait for synchronous standbys was cancelled. Look whether it took effect before sending it again."
            }
            Self::SilentOnReplica(_) => {
                "Run it in a READ WRITE transaction, or behind the comment /* howdah: primary */."
            }
            Self::ReadLost => "Run it again.",
            Self::NoPrimary(_) | Self::NoReplica(_) | Self::ServerUnreachable(_) => {
                "The statement has waited for \"query_wait\" under [timeouts] in howdah.toml; nothing was sent."
            }
            Self::QueryTimeout => "The bound is \"query\" under [timeouts] in howdah.toml.",
            Self::TransactionTimeout => "The bound is \"transaction\" under [timeouts] in howdah.toml.",
            Self::IdleInTransaction => "The bound is \"idle_in_transaction\" under [timeouts] in howdah.toml.",
            Self::ClientIdle => "The bound is \"client_idle\" under [timeouts] in howdah.toml.",
            Self::Stalled => "The bound is \"read\" under [timeouts] in howdah.toml.",
            Self::SlowReader => "The bound is \"write\" under [timeouts] in howdah.toml.",
            Self::OutcomeUnknown => "Look whether it did before sending it again.",
            Self::BlockLost => "Roll back and run the transaction again.",
            Self::PinsForbidden(_) => "The setting is \"pins\" under [pool] in howdah.toml.",
            Self::SequenceElsewhere => {
                "Use INSERT … RETURNING, or nextval and currval in one transaction. Sessions that use nextval from now on \
                 keep their server connection."
            }
            Self::StatementMode => "Use \"transaction\" as the pool's mode in howdah.toml.",
            Self::StatementTooLarge { .. } => "Send it as an unnamed statement.",
            _ => return None,
        })
    }

    /// What exactly, where PostgreSQL says it apart.
    fn detail(&self) -> Option<String> {
        match self {
            Self::Scram(error) => scram_detail(error),
            _ => None,
        }
    }

    /// Appends it as an ErrorResponse.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_as(out, self.severity());
    }

    /// Appends it as an ErrorResponse that ends the session.
    pub fn write_fatal(&self, out: &mut Vec<u8>) {
        self.write_as(out, Severity::Fatal);
    }

    fn write_as(&self, out: &mut Vec<u8>, severity: Severity) {
        match self {
            Self::ServerRefused(fields) => error_response::relabel(out, severity, fields),
            _ => {
                let detail = self.detail();
                error_response::error(out, severity, self.code(), &self.to_string(), detail.as_deref(), self.hint());
            }
        }
    }

    /// As a whole message.
    #[must_use]
    pub fn message(&self) -> Box<[u8]> {
        let mut out = Vec::new();
        self.write(&mut out);
        out.into()
    }
}

/// PostgreSQL's words (`auth-scram.c`).
fn scram_text(error: &ScramError) -> String {
    match error {
        ScramError::TooLong | ScramError::Malformed(_) | ScramError::BindingFlag => {
            "malformed SCRAM message".to_owned()
        }
        ScramError::UnsupportedExtension => "client requires an unsupported SCRAM extension".to_owned(),
        ScramError::BindingDowngrade => "SCRAM channel binding negotiation error".to_owned(),
        ScramError::Nonce => "invalid SCRAM response".to_owned(),
        other => other.to_string(),
    }
}

fn scram_detail(error: &ScramError) -> Option<String> {
    match error {
        ScramError::Malformed(what) => Some(format!("Malformed {what}.")),
        ScramError::TooLong | ScramError::BindingFlag | ScramError::BindingDowngrade => Some(format!("{error}.")),
        ScramError::Nonce => Some("Nonce does not match.".to_owned()),
        _ => None,
    }
}

/// Appends what a client is told that waits for a server. The words are PgBouncer's.
pub fn write_queued(out: &mut Vec<u8>) {
    let text = "No server connection available in postgres backend, client being queued";
    error_response::notice(out, SqlState::SUCCESSFUL_COMPLETION, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_scares_a_driver() {
        let scary = ["terminating connection", "closed the connection", "connection already closed", "cursor already"];
        let more =
            ["could not receive data", "could not send data", "losed the connection", "has been closed", "SSL er"];
        for error in [
            ClientError::QueryWait,
            ClientError::TooManyWaiting,
            ClientError::NoPrimary("x".into()),
            ClientError::NoReplica("x".into()),
            ClientError::SilentOnReplica("x"),
            ClientError::ReadLost,
            ClientError::ServerUnreachable("x".into()),
            ClientError::OutcomeUnknown,
            ClientError::CommitAlone,
            ClientError::BlockLost,
            ClientError::BlockFailed,
            ClientError::QueryTimeout,
            ClientError::Cancelled,
        ] {
            assert_eq!(error.severity(), Severity::Error);
            let text = format!("{error} {}", error.hint().unwrap_or_default());
            assert!(!scary.iter().chain(&more).any(|phrase| text.contains(phrase)), "{text}");
        }
    }
}
