//! A control connection: one node, the monitor's user, every wait bounded.
//!
//! Not here: connections that carry a client's statements (`proxy/server`); what is asked (`verifiers`, `cluster/observe`).
//!
//! Relies on an outer timeout around every wait: the ones of the socket do not end a query whose backend is frozen.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row, SimpleQueryMessage, SimpleQueryRow, Socket, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{ChannelBinding, Secret};
use crate::pg::SqlState;
use crate::topology::{ClusterName, NodeName};

/// How long an orderly goodbye may take before the socket is simply closed.
const GOODBYE: Duration = Duration::from_millis(100);
/// Lost probes after which a silent peer is taken for gone by the kernel.
const KEEPALIVE_RETRIES: u32 = 3;

/// A cluster to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedCluster {
    /// Its name in the configuration.
    pub name: ClusterName,
    /// Its nodes, in the order of the configuration.
    pub nodes: Vec<WatchedNode>,
    /// As whom and how often to ask; `None` only makes sense with one node, which is then the primary without asking.
    pub monitor: Option<Monitor>,
}

/// Where one node listens.
#[derive(Clone)]
pub struct WatchedNode {
    /// Its name in the configuration.
    pub name: NodeName,
    /// A host name, an IP address, or the directory of a Unix socket (it starts with a slash).
    pub host: String,
    /// The port; also part of the name of a Unix socket.
    pub port: u16,
    /// How to speak TLS; `None` for never. Not used over Unix sockets, as in libpq.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Whether a node that does not offer TLS is refused (libpq: `sslmode` `require` and stricter).
    pub tls_required: bool,
    /// Whether its login must be bound to TLS (libpq: `channel_binding`).
    pub channel_binding: ChannelBinding,
}

impl WatchedNode {
    /// Host and port as people write them: `10.0.0.1:5432`, `[::1]:5432`, `/run/postgresql:5432`.
    #[must_use]
    pub fn address(&self) -> String {
        match self.host.contains(':') && !self.host.starts_with('/') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Whether `other` is the same place, however it is spoken to.
    #[must_use]
    pub fn same_place(&self, other: &Self) -> bool {
        self.host == other.host && self.port == other.port
    }
}

/// The same place spoken to in the same way. TLS configurations are the same only if they are one object.
impl PartialEq for WatchedNode {
    fn eq(&self, other: &Self) -> bool {
        let same_tls = match (&self.tls, &other.tls) {
            (Some(mine), Some(theirs)) => Arc::ptr_eq(mine, theirs),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.name == other.name
            && self.same_place(other)
            && same_tls
            && self.tls_required == other.tls_required
            && self.channel_binding == other.channel_binding
    }
}

impl Eq for WatchedNode {}

impl fmt::Debug for WatchedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedNode")
            .field("name", &self.name)
            .field("address", &self.address())
            .field("tls", &self.tls.is_some())
            .field("tls_required", &self.tls_required)
            .finish()
    }
}

/// As whom a cluster's nodes are asked, and how patiently: `[clusters.NAME.monitor]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Monitor {
    /// The role; member of `pg_monitor` to see all, superuser (or granted) to read `pg_authid`.
    pub user: String,
    /// Its password, if the nodes ask for one.
    pub password: Option<Secret>,
    /// The database to connect to.
    pub dbname: String,
    /// Between two questions to a node.
    pub interval: Duration,
    /// How long connecting with login, and each question, may take.
    pub timeout: Duration,
    /// So many timeouts in a row make a node unhealthy; 0 is taken as 1.
    pub failure_threshold: u32,
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor")
            .field("user", &self.user)
            .field("password", &self.password)
            .field("dbname", &self.dbname)
            .field("interval", &self.interval)
            .field("timeout", &self.timeout)
            .field("failure_threshold", &self.failure_threshold)
            .finish()
    }
}

/// Why a control connection gave no answer. The texts go to people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// Refused, reset or closed, or the server said that it does not accept connections now: nobody serves there.
    #[error("{0}")]
    Gone(String),
    /// Nothing came back in time; the node may be slow, frozen, or cut off.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// All its connections are taken (53300): alive, but it cannot be asked.
    #[error("{0}")]
    Full(String),
    /// Any other error the server reported, such as a wrong password.
    #[error("{message}")]
    Reported {
        /// Its SQLSTATE.
        sqlstate: Option<SqlState>,
        /// Its message.
        message: String,
    },
    /// Name resolution, TLS, or an answer that makes no sense.
    #[error("{0}")]
    Failed(String),
}

impl ConnectionError {
    fn from_postgres(error: &tokio_postgres::Error, timeout: Duration) -> Self {
        if let Some(reported) = error.as_db_error() {
            let message = reported.message().to_owned();
            return match reported.code().code() {
                // admin_shutdown, crash_shutdown, cannot_connect_now
                "57P01" | "57P02" | "57P03" => Self::Gone(message),
                "53300" => Self::Full(message),
                code => Self::Reported { sqlstate: SqlState::from_wire(code.as_bytes()), message },
            };
        }
        if error.is_closed() {
            return Self::Gone("connection closed".to_owned());
        }
        match io_error_behind(error) {
            Some(io) => Self::from_io(io, timeout),
            None => Self::Failed(match error.source() {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            }),
        }
    }

    fn from_io(error: &io::Error, timeout: Duration) -> Self {
        let gone = |text: &str| Self::Gone(text.to_owned());
        match error.kind() {
            io::ErrorKind::ConnectionRefused => gone("connection refused"),
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                gone("connection reset")
            }
            io::ErrorKind::UnexpectedEof => gone("connection closed"),
            io::ErrorKind::NotFound => gone("no such socket"),
            io::ErrorKind::TimedOut => Self::TimedOut(timeout),
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// The innermost I/O error; TLS and login wrap it more than once.
fn io_error_behind(error: &tokio_postgres::Error) -> Option<&io::Error> {
    let mut found = None;
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            found = Some(io);
        }
        next = cause.source();
    }
    found
}

/// An open connection to one node. Dropping it closes the socket.
#[derive(Debug)]
pub struct ControlConnection {
    client: Client,
    /// One task that moves the bytes; it ends with the connection. Aborted when this is dropped.
    driver: JoinSet<Option<tokio_postgres::Error>>,
    timeout: Duration,
}

impl ControlConnection {
    /// Connects and logs in, within the monitor's timeout. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`ConnectionError`], also when the node refuses the login.
    pub async fn open(node: &WatchedNode, monitor: &Monitor, application_name: &str) -> Result<Self, ConnectionError> {
        let mut config = Config::new();
        config
            .host(&node.host)
            .port(node.port)
            .user(&monitor.user)
            .dbname(&monitor.dbname)
            .application_name(application_name)
            .connect_timeout(monitor.timeout)
            .tcp_user_timeout(monitor.timeout)
            .keepalives(true)
            .keepalives_idle(monitor.timeout.max(Duration::from_secs(1)))
            .keepalives_interval(Duration::from_secs(1))
            .keepalives_retries(KEEPALIVE_RETRIES);
        if let Some(password) = &monitor.password {
            config.password(password.reveal());
        }
        let opening = async {
            match &node.tls {
                Some(tls) if !node.host.starts_with('/') => {
                    if node.channel_binding == ChannelBinding::Require {
                        config.channel_binding(tokio_postgres::config::ChannelBinding::Require);
                    }
                    config.ssl_mode(if node.tls_required { SslMode::Require } else { SslMode::Prefer });
                    Self::open_with(&config, MakeRustlsConnect::new(rustls::ClientConfig::clone(tls)), monitor).await
                }
                _ => {
                    config.ssl_mode(SslMode::Disable);
                    Self::open_with(&config, NoTls, monitor).await
                }
            }
        };
        match time::timeout(monitor.timeout, opening).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ConnectionError::TimedOut(monitor.timeout)),
        }
    }

    async fn open_with<T>(config: &Config, tls: T, monitor: &Monitor) -> Result<Self, ConnectionError>
    where
        T: MakeTlsConnect<Socket>,
        T::Stream: Send + 'static,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let timeout = monitor.timeout;
        let connected = config.connect(tls).await;
        let (client, connection) = connected.map_err(|error| ConnectionError::from_postgres(&error, timeout))?;
        let mut driver = JoinSet::new();
        driver.spawn(async move { connection.await.err() });
        Ok(Self { client, driver, timeout })
    }

    /// Runs one statement without parameters and returns its rows, all values as text.
    ///
    /// # Errors
    /// [`ConnectionError`]. After [`ConnectionError::TimedOut`] the connection must not be used again: a late answer may
    /// still hold it up.
    pub async fn rows(&self, statement: &str) -> Result<Vec<SimpleQueryRow>, ConnectionError> {
        match time::timeout(self.timeout, self.client.simple_query(statement)).await {
            Err(_) => Err(ConnectionError::TimedOut(self.timeout)),
            Ok(Err(error)) => Err(ConnectionError::from_postgres(&error, self.timeout)),
            Ok(Ok(messages)) => Ok(messages
                .into_iter()
                .filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                })
                .collect()),
        }
    }

    /// Prepares a statement.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub async fn prepare(&self, statement: &str) -> Result<Statement, ConnectionError> {
        match time::timeout(self.timeout, self.client.prepare(statement)).await {
            Err(_) => Err(ConnectionError::TimedOut(self.timeout)),
            Ok(prepared) => prepared.map_err(|error| ConnectionError::from_postgres(&error, self.timeout)),
        }
    }

    /// Runs a prepared statement.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub async fn query(
        &self,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, ConnectionError> {
        match time::timeout(self.timeout, self.client.query(statement, parameters)).await {
            Err(_) => Err(ConnectionError::TimedOut(self.timeout)),
            Ok(rows) => rows.map_err(|error| ConnectionError::from_postgres(&error, self.timeout)),
        }
    }

    /// Waits until the connection has ended, and says why.
    ///
    /// # Cancel safety
    /// Safe: dropping the future changes nothing.
    pub async fn ended(&mut self) -> ConnectionError {
        match self.driver.join_next().await {
            Some(Ok(Some(error))) => ConnectionError::from_postgres(&error, self.timeout),
            _ => ConnectionError::Gone("connection closed".to_owned()),
        }
    }

    /// Says goodbye in the protocol, so that the server has nothing to log.
    pub async fn close(mut self) {
        drop(self.client);
        // whether it was heard does not matter: dropping the driver closes the socket anyway
        let _ = time::timeout(GOODBYE, self.driver.join_next()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitor_never_shows_its_password() {
        let monitor = Monitor {
            user: "howdah".to_owned(),
            password: Some(Secret::new("hunter2".to_owned())),
            dbname: "postgres".to_owned(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            failure_threshold: 3,
        };
        let shown = format!("{monitor:?}");
        assert!(!shown.contains("hunter2") && shown.contains("howdah"), "{shown}");
    }

    #[test]
    fn an_address_reads_as_people_write_it() {
        let node = |host: &str| WatchedNode {
            name: "a".into(),
            host: host.to_owned(),
            port: 5432,
            tls: None,
            tls_required: false,
            channel_binding: ChannelBinding::Prefer,
        };
        assert_eq!(node("10.0.0.1").address(), "10.0.0.1:5432");
        assert_eq!(node("::1").address(), "[::1]:5432");
        assert_eq!(node("/run/postgresql").address(), "/run/postgresql:5432");
    }
}
