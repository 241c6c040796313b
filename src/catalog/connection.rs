//! A control connection: one node, the monitor's user, every wait bounded.
//!
//! Not here: connections that carry a client's statements (`proxy/server`); what is asked (`verifiers`, `cluster/observe`).
//!
//! Relies on an outer timeout around every wait: the ones of the socket do not end a query whose backend is frozen.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::TcpKeepalive;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;
use tokio::time;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{TlsConnect, TlsStream};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Row, SimpleQueryMessage, SimpleQueryRow, Statement};

use crate::config::{ChannelBinding, Secret};
use crate::net::dial::{Place, Reason, Unreached};
use crate::net::stream::Stream;
use crate::net::way::{Demand, OpenError, Opened, Way};
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
    /// Bytes of log that a standby may be behind and still get reads; 0 = any number.
    pub max_lag: u64,
}

/// Where one node listens.
#[derive(Clone)]
pub struct WatchedNode {
    /// Its name in the configuration.
    pub name: NodeName,
    /// How one gets there.
    pub way: Arc<Way>,
}

impl WatchedNode {
    /// Host and port as people write them: `10.0.0.1:5432`, `[::1]:5432`, `/run/postgresql:5432`.
    #[must_use]
    pub fn address(&self) -> String {
        self.way.target.to_string()
    }

    /// Whether `other` is the same place, however it is spoken to.
    #[must_use]
    pub fn same_place(&self, other: &Self) -> bool {
        self.way.target == other.way.target
    }
}

/// The same place spoken to in the same way. TLS configurations are the same only if they are one object.
impl PartialEq for WatchedNode {
    fn eq(&self, other: &Self) -> bool {
        let same_tls = match (&self.way.tls, &other.way.tls) {
            (Some(mine), Some(theirs)) => {
                Arc::ptr_eq(&mine.config, &theirs.config)
                    && (mine.mode, mine.negotiation) == (theirs.mode, theirs.negotiation)
            }
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.name == other.name
            && self.same_place(other)
            && same_tls
            && self.way.channel_binding == other.way.channel_binding
    }
}

impl Eq for WatchedNode {}

impl fmt::Debug for WatchedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedNode")
            .field("name", &self.name)
            .field("address", &self.address())
            .field("tls", &self.way.tls.as_ref().map(|tls| tls.mode))
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
    /// Between two questions how far the log is; there is only one question, so the shorter of the two counts.
    pub lag_interval: Duration,
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
            .field("lag_interval", &self.lag_interval)
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
    /// TLS did not come about.
    #[error("{0}")]
    Tls(String),
    /// Name resolution, or an answer that makes no sense.
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

    fn from_open(error: OpenError, timeout: Duration) -> Self {
        match error {
            OpenError::Unreached(Unreached { reason: Reason::Refused, text }) => Self::Gone(text),
            OpenError::Unreached(Unreached { reason: Reason::Silent, .. }) => Self::TimedOut(timeout),
            OpenError::Unreached(Unreached { reason: Reason::Failed, text }) => Self::Failed(text),
            OpenError::Tls(_) => Self::Tls(error.to_string()),
            OpenError::Nonsense(text) => Self::Failed(text.to_owned()),
        }
    }

    /// Whether the node might like the other kind of connection better (libpq: `sslmode` allow and prefer).
    fn is_of_encryption(&self) -> bool {
        match self {
            Self::Tls(_) => true,
            Self::Reported { sqlstate, .. } => *sqlstate == Some(SqlState::INVALID_AUTHORIZATION_SPECIFICATION),
            Self::Gone(_) | Self::TimedOut(_) | Self::Full(_) | Self::Failed(_) => false,
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

/// TLS that is there already, and what SCRAM binds to in it.
struct Encrypted(Option<Vec<u8>>);

impl TlsConnect<Stream> for Encrypted {
    type Stream = EncryptedStream;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<EncryptedStream>>;

    fn connect(self, stream: Stream) -> Self::Future {
        std::future::ready(Ok(EncryptedStream { stream, end_point_hash: self.0 }))
    }
}

struct EncryptedStream {
    stream: Stream,
    end_point_hash: Option<Vec<u8>>,
}

impl TlsStream for EncryptedStream {
    fn channel_binding(&self) -> tokio_postgres::tls::ChannelBinding {
        use tokio_postgres::tls::ChannelBinding;
        self.end_point_hash.clone().map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl AsyncRead for EncryptedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.stream), cx, buf)
    }
}

impl AsyncWrite for EncryptedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.stream), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.stream), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.stream), cx)
    }
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
        config.user(&monitor.user).dbname(&monitor.dbname).application_name(application_name);
        if let Some(password) = &monitor.password {
            config.password(password.reveal());
        }
        let opening = async {
            if node.way.channel_binding == ChannelBinding::Require {
                config.channel_binding(tokio_postgres::config::ChannelBinding::Require);
            }
            let mut refusal = None;
            for demand in node.way.attempts() {
                match Self::attempt(node, *demand, &mut config, monitor.timeout).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) if error.is_of_encryption() => refusal = refusal.or(Some(error)),
                    Err(error) => return Err(error),
                }
            }
            Err(refusal.unwrap_or_else(|| ConnectionError::Failed("no way to speak to the node".to_owned())))
        };
        match time::timeout(monitor.timeout, opening).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ConnectionError::TimedOut(monitor.timeout)),
        }
    }

    async fn attempt(
        node: &WatchedNode,
        demand: Demand,
        config: &mut Config,
        timeout: Duration,
    ) -> Result<Self, ConnectionError> {
        let Opened { stream, place, end_point_hash, trial } =
            node.way.open(demand).await.map_err(|error| ConnectionError::from_open(error, timeout))?;
        if let (Some(options), Place::Tcp(..)) = (stream.socket().options(), &place) {
            let keepalive = TcpKeepalive::new()
                .with_time(timeout.max(Duration::from_secs(1)))
                .with_interval(Duration::from_secs(1))
                .with_retries(KEEPALIVE_RETRIES);
            let set = options.set_tcp_keepalive(&keepalive).and_then(|()| options.set_tcp_user_timeout(Some(timeout)));
            set.map_err(|error| ConnectionError::from_io(&error, timeout))?;
        }
        // "direct" makes tokio_postgres take over the TLS that there is, with what SCRAM binds to
        config.ssl_mode(if stream.is_tls() { SslMode::Require } else { SslMode::Disable });
        config.ssl_negotiation(SslNegotiation::Direct);
        let connected = config.connect_raw(stream, Encrypted(end_point_hash)).await;
        let connected = connected.map_err(|error| ConnectionError::from_postgres(&error, timeout));
        if let Some(trial) = trial.filter(|_| !matches!(connected, Err(ConnectionError::Gone(_)))) {
            trial.answered();
        }
        let (client, connection) = connected?;
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
            lag_interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            failure_threshold: 3,
        };
        let shown = format!("{monitor:?}");
        assert!(!shown.contains("hunter2") && shown.contains("howdah"), "{shown}");
    }
}
