//! SQL over PostgreSQL's Unix socket, as its superuser: one connection, every wait bounded.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow};

use super::pid_file::PidFile;
use crate::agent::config::AgentConfig;
use crate::directive::{Code, Failure};

/// For a login, and for a statement that only looks.
pub const BOUND: Duration = Duration::from_secs(5);

/// Why PostgreSQL could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocalError {
    /// No postmaster has said where it listens, or nobody listens there.
    #[error("PostgreSQL does not listen: {0}")]
    Nobody(String),
    /// It starts, recovers or stops (57P03).
    #[error("PostgreSQL takes no connections yet: {0}")]
    NotYet(String),
    /// All its connections are taken (53300): it lives.
    #[error("PostgreSQL has no connection left: {0}")]
    Full(String),
    /// It has not answered in time.
    #[error("PostgreSQL has not answered within {0:?}")]
    Silent(Duration),
    /// It has refused, or the connection has broken.
    #[error("{text}")]
    Failed {
        /// The SQLSTATE, if PostgreSQL gave one.
        sqlstate: Option<String>,
        /// In words.
        text: String,
    },
}

impl LocalError {
    fn of(error: &tokio_postgres::Error) -> Self {
        use std::error::Error as _;
        if let Some(db) = error.as_db_error() {
            let text = match db.detail() {
                Some(detail) => format!("{} ({detail})", db.message()),
                None => db.message().to_owned(),
            };
            return match db.code().code() {
                "57P03" => Self::NotYet(text),
                "53300" => Self::Full(text),
                code => Self::Failed { sqlstate: Some(code.to_owned()), text },
            };
        }
        let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
        match io.map(std::io::Error::kind) {
            Some(std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) => {
                Self::Nobody(error.to_string())
            }
            // its queue of connections is full: nobody takes any out
            Some(std::io::ErrorKind::WouldBlock) => Self::Silent(Duration::ZERO),
            _ => {
                let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
                Self::Failed { sqlstate: None, text: format!("{error}{cause}") }
            }
        }
    }

    /// What PostgreSQL called it.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Failed { sqlstate, .. } => sqlstate.as_deref(),
            _ => None,
        }
    }
}

impl From<LocalError> for Failure {
    fn from(error: LocalError) -> Self {
        let code = match &error {
            LocalError::Nobody(_) | LocalError::NotYet(_) | LocalError::Full(_) => Code::WrongState,
            LocalError::Silent(_) => Code::TimedOut,
            LocalError::Failed { sqlstate, .. } => match sqlstate.as_deref() {
                Some("42501" | "28000" | "28P01") => Code::Permission,
                Some("53100") => Code::DiskFull,
                _ => Code::Program,
            },
        };
        Self::new(code, error.to_string())
    }
}

/// A connection. Dropping it closes the socket.
#[derive(Debug)]
pub struct Local {
    client: Client,
    _driver: JoinSet<()>,
}

impl Local {
    /// Connects to the PostgreSQL of the data directory.
    ///
    /// # Errors
    /// [`LocalError`].
    pub async fn open(config: &AgentConfig) -> Result<Self, LocalError> {
        let nobody = |text: &str| LocalError::Nobody(text.to_owned());
        let file = PidFile::read(&config.data_directory).ok_or_else(|| nobody("there is no postmaster.pid"))?;
        if file.postmaster().is_none() || file.port == 0 {
            return Err(nobody("postmaster.pid names no port yet"));
        }
        let socket: Option<PathBuf> = config.superuser.socket.clone().or(file.socket_directory);
        let socket = socket.ok_or_else(|| nobody("it has no Unix socket: set unix_socket_directories"))?;
        let mut options = Config::new();
        options.host_path(socket).port(file.port).user(&config.superuser.user).dbname("postgres");
        options.application_name("howdah agent");
        // the agent's own sessions wait for no standby, for nobody's lock for long, and for no plan
        options
            .options("-c synchronous_commit=local -c lock_timeout=5s -c statement_timeout=0 -c search_path=pg_catalog");
        match time::timeout(BOUND, options.connect(NoTls)).await {
            Err(_) => Err(LocalError::Silent(BOUND)),
            Ok(Err(error)) => Err(LocalError::of(&error)),
            Ok(Ok((client, connection))) => {
                let mut driver = JoinSet::new();
                driver.spawn(async move {
                    let _ = connection.await;
                });
                Ok(Self { client, _driver: driver })
            }
        }
    }

    /// Runs a statement that only looks, or is quick.
    ///
    /// # Errors
    /// [`LocalError`]; after [`LocalError::Silent`] the connection must not be used again.
    pub async fn rows(&self, sql: &str) -> Result<Vec<SimpleQueryRow>, LocalError> {
        match time::timeout(BOUND, self.rows_unbounded(sql)).await {
            Err(_) => Err(LocalError::Silent(BOUND)),
            Ok(rows) => rows,
        }
    }

    /// Runs a statement that takes as long as it takes.
    ///
    /// # Errors
    /// [`LocalError`].
    pub async fn rows_unbounded(&self, sql: &str) -> Result<Vec<SimpleQueryRow>, LocalError> {
        let messages = self.client.simple_query(sql).await.map_err(|error| LocalError::of(&error))?;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    /// The first column of the first row; `None` when there is no row, or it is null.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub async fn value(&self, sql: &str) -> Result<Option<String>, LocalError> {
        let rows = self.rows(sql).await?;
        Ok(rows.first().and_then(|row| row.get(0)).map(str::to_owned))
    }

    /// Makes PostgreSQL read its configuration again.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub async fn reload(&self) -> Result<(), LocalError> {
        self.rows("SELECT pg_reload_conf()").await.map(drop)
    }
}

/// A text as a literal in SQL.
#[must_use]
pub fn literal(text: &str) -> String {
    let escape = if text.contains('\\') { "E" } else { "" };
    format!("{escape}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// A name as an identifier in SQL.
#[must_use]
pub fn identifier(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stay_texts_in_sql() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\'b"), r"E'a\\''b'");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
    }
}
