//! The HTTP API: `/healthz`, `/readyz`, `/status`, and `/route` (`route.rs`).
//!
//! Not here: the admin console, metrics. Everything shown is read from snapshots; nothing here waits for a node or a lock
//! that clients need.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use tokio::net::{TcpListener, UnixListener};

use super::route::{self, Explain};
use crate::proxy::route::explain::ExplainError;
use crate::topology::{Board, ClusterName, ClusterView, NodeName, NodeView, Role, Topology};

/// Says where a node listens, by cluster and node: `10.0.0.1:5432`.
pub type AddressOf = Arc<dyn Fn(&str, &str) -> Option<String> + Send + Sync>;

/// Where to read from. The closures are called per request, on the thread that serves HTTP.
#[derive(Clone)]
pub struct Sources {
    /// Who is primary, and what is known of every node.
    pub board: Arc<Board>,
    /// The pools, one row each.
    pub pools: Arc<dyn Fn() -> Vec<PoolRow> + Send + Sync>,
    /// How many clients are connected.
    pub clients: Arc<dyn Fn() -> usize + Send + Sync>,
    /// Set when the daemon has begun to go down: it is then not ready, so that load balancers look elsewhere.
    pub shutting_down: Arc<AtomicBool>,
    /// Further lines for `missing`, such as [`Verifiers::missing`](crate::catalog::Verifiers::missing). They are shown and
    /// do not decide readiness.
    pub extra_missing: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// Where a node listens, such as [`Watch::address`](crate::cluster::Watch::address).
    pub address: AddressOf,
    /// How many sessions read from a node, by cluster and node.
    pub sessions: Arc<dyn Fn(&ClusterName, &NodeName) -> u64 + Send + Sync>,
    /// How many requests went where, over all workers.
    pub routing: Arc<dyn Fn() -> RoutingRow + Send + Sync>,
    /// Sessions that have panicked: each is a defect of howdah's.
    pub panics: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Where a statement would go, and why.
    pub explain: Explain,
}

impl Sources {
    /// Nothing but what the board says.
    #[must_use]
    pub fn of(board: Arc<Board>) -> Self {
        Self {
            board,
            pools: Arc::new(Vec::new),
            clients: Arc::new(|| 0),
            shutting_down: Arc::default(),
            extra_missing: Arc::new(Vec::new),
            address: Arc::new(|_, _| None),
            sessions: Arc::new(|_, _| 0),
            routing: Arc::new(RoutingRow::default),
            panics: Arc::new(|| 0),
            explain: Arc::new(|question| {
                Box::pin(std::future::ready(Err(ExplainError::NoSuchDatabase(question.database))))
            }),
        }
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// One pool as `/status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PoolRow {
    /// The node its connections go to.
    pub node: String,
    /// The database, as the server knows it.
    pub database: String,
    /// The user.
    pub user: String,
    /// How many connections it may open.
    pub size: u64,
    /// How many there are: connecting, idle, in use and closing.
    pub open: u64,
    /// Connected and lent to nobody.
    pub idle: u64,
    /// Lent to clients.
    pub in_use: u64,
    /// Clients that wait for one.
    pub waiting: u64,
    /// Transactions since the start.
    pub transactions: u64,
    /// Servers that are kept for one client, by the state that keeps them there.
    pub pinned: BTreeMap<&'static str, u64>,
}

/// How many requests went where, since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RoutingRow {
    /// What has happened, by [`Event`](crate::proxy::route::counters::Event).
    pub events: BTreeMap<&'static str, u64>,
    /// Why, by [`Reason::label`](crate::sql::class::Reason::label); only those there were.
    pub reasons: BTreeMap<&'static str, u64>,
}

/// Where the API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpAddress {
    /// `host:port`.
    Tcp(String),
    /// A socket file.
    Unix(PathBuf),
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for HttpAddress {
    type Err = HttpError;

    /// Reads `127.0.0.1:6433` and `unix:/run/howdah/api.sock`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = |text: &str| text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            None if port(text) => Ok(Self::Tcp(text.to_owned())),
            Some(_) | None => Err(HttpError::BadAddress(text.to_owned())),
        }
    }
}

/// Why the API does not listen.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Neither form of an address.
    #[error("invalid HTTP address \"{0}\": write host:port, or unix: and the path of a socket from the root")]
    BadAddress(String),
    /// Somebody answers on that socket file.
    #[error("another process listens on \"{0}\"")]
    InUse(HttpAddress),
    /// There is a file in the way that howdah did not make.
    #[error("\"{0}\" exists and is not a socket")]
    NotASocket(HttpAddress),
    /// The system refused.
    #[error("cannot listen on \"{address}\": {error}")]
    Bind {
        /// Where.
        address: HttpAddress,
        /// Why.
        error: io::Error,
    },
    /// Serving ended by itself.
    #[error("HTTP API: {0}")]
    Serve(io::Error),
}

/// Bound, so that a wrong address fails at start and not later.
#[derive(Debug)]
pub struct HttpListener {
    socket: Socket,
    address: HttpAddress,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl HttpListener {
    /// Listens on `address`. A socket file that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// [`HttpError`] when somebody else listens there, or the system refuses.
    pub async fn bind(address: HttpAddress) -> Result<Self, HttpError> {
        match &address {
            HttpAddress::Tcp(text) => match TcpListener::bind(text).await {
                Ok(socket) => {
                    // with port 0 the system has chosen one
                    let address = socket.local_addr().map_or(address, |local| HttpAddress::Tcp(local.to_string()));
                    Ok(Self { socket: Socket::Tcp(socket), address })
                }
                Err(error) => Err(HttpError::Bind { address, error }),
            },
            HttpAddress::Unix(path) => {
                make_room(path, &address).await?;
                match UnixListener::bind(path) {
                    Ok(socket) => Ok(Self { socket: Socket::Unix(socket), address }),
                    Err(error) => Err(HttpError::Bind { address, error }),
                }
            }
        }
    }

    /// Where it listens; with port 0 the one the system chose.
    #[must_use]
    pub fn address(&self) -> &HttpAddress {
        &self.address
    }

    /// Serves until `stop` resolves, then finishes the requests under way and removes its socket file.
    ///
    /// # Errors
    /// [`HttpError::Serve`].
    pub async fn serve(
        self,
        sources: Sources,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), HttpError> {
        let routes = routes(sources);
        let served = match self.socket {
            Socket::Tcp(socket) => axum::serve(socket, routes).with_graceful_shutdown(stop).await,
            Socket::Unix(socket) => axum::serve(socket, routes).with_graceful_shutdown(stop).await,
        };
        if let HttpAddress::Unix(path) = &self.address {
            // somebody may have removed it already
            let _ = fs::remove_file(path);
        }
        served.map_err(HttpError::Serve)
    }
}

/// Removes the socket file of a process that is gone.
async fn make_room(path: &Path, address: &HttpAddress) -> Result<(), HttpError> {
    match fs::symlink_metadata(path) {
        Err(_) => return Ok(()), // nothing there, or bind says why not
        Ok(file) if !file.file_type().is_socket() => return Err(HttpError::NotASocket(address.clone())),
        Ok(_) => {}
    }
    match tokio::net::UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| HttpError::Bind { address: address.clone(), error })
        }
        Ok(_) => Err(HttpError::InUse(address.clone())),
        Err(error) => Err(HttpError::Bind { address: address.clone(), error }),
    }
}

fn routes(sources: Sources) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/route", post(route::route).layer(DefaultBodyLimit::max(route::BODY_BYTES_MAX)))
        .with_state(sources)
}

async fn readyz(State(sources): State<Sources>) -> (StatusCode, String) {
    match not_ready(&sources).as_slice() {
        [] => (StatusCode::OK, "ready".to_owned()),
        missing => (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n"),
    }
}

async fn status(State(sources): State<Sources>) -> Json<Status> {
    let mut missing = not_ready(&sources);
    let ready = missing.is_empty();
    missing.extend((sources.extra_missing)());
    let topology = sources.board.read();
    Json(Status {
        ready,
        missing,
        clusters: topology.clusters.iter().map(|(name, view)| ClusterRow::new(name, view, &sources)).collect(),
        pools: (sources.pools)(),
        clients: (sources.clients)(),
        routing: (sources.routing)(),
        panics: (sources.panics)(),
    })
}

/// What keeps howdah from serving, one line each; empty when it is ready.
fn not_ready(sources: &Sources) -> Vec<String> {
    let mut missing = Vec::new();
    if sources.shutting_down.load(Ordering::Acquire) {
        missing.push("shutting down".to_owned());
    }
    let topology: Arc<Topology> = sources.board.read();
    for (name, view) in topology.clusters.iter().filter(|(_, view)| view.primary.is_none()) {
        missing.push(no_primary(name, view, &*sources.address));
    }
    missing
}

fn no_primary(cluster: &str, view: &ClusterView, address: &dyn Fn(&str, &str) -> Option<String>) -> String {
    let nodes: Vec<String> = view
        .nodes
        .iter()
        .map(|node| {
            let place = address(cluster, &node.name).map(|address| format!(" ({address})")).unwrap_or_default();
            let why = match (&node.trouble, node.role) {
                (Some(trouble), _) => trouble,
                (None, Some(Role::Standby)) => "is a standby",
                (None, Some(Role::Primary)) => "waits for the other nodes to be asked",
                (None, None) => "not asked yet",
            };
            format!("node \"{}\"{place}: {why}", node.name)
        })
        .collect();
    format!("cluster \"{cluster}\": no primary: {}", nodes.join("; "))
}

#[derive(Serialize)]
struct Status {
    ready: bool,
    missing: Vec<String>,
    clusters: Vec<ClusterRow>,
    pools: Vec<PoolRow>,
    clients: usize,
    routing: RoutingRow,
    panics: u64,
}

#[derive(Serialize)]
struct ClusterRow {
    name: String,
    epoch: u64,
    primary: Option<String>,
    /// How often the line of samples has been broken.
    era: u32,
    /// Where the primary's log was at the newest sample.
    sample_lsn: Option<String>,
    nodes: Vec<NodeRow>,
}

#[derive(Serialize)]
struct NodeRow {
    name: String,
    role: Option<&'static str>,
    healthy: bool,
    timeline: Option<u32>,
    received_lsn: Option<String>,
    replayed_lsn: Option<String>,
    lag_bytes: Option<u64>,
    lag_time_ms: Option<u64>,
    /// Whether reads may go there.
    replica: bool,
    /// Why not.
    unfit: Option<String>,
    /// Sessions that read there.
    sessions: u64,
    trouble: Option<String>,
}

impl ClusterRow {
    fn new(name: &ClusterName, view: &ClusterView, sources: &Sources) -> Self {
        Self {
            name: name.to_string(),
            epoch: view.epoch.0,
            primary: view.primary.as_ref().map(ToString::to_string),
            era: view.samples.era().0,
            sample_lsn: view.samples.newest().map(|sample| sample.lsn.to_string()),
            nodes: view.nodes.iter().map(|node| NodeRow::new(node, (sources.sessions)(name, &node.name))).collect(),
        }
    }
}

impl NodeRow {
    fn new(view: &NodeView, sessions: u64) -> Self {
        Self {
            name: view.name.to_string(),
            role: view.role.map(|role| match role {
                Role::Primary => "primary",
                Role::Standby => "standby",
            }),
            healthy: view.healthy,
            timeline: view.timeline.map(|timeline| timeline.0),
            received_lsn: view.received_lsn.map(|lsn| lsn.to_string()),
            replayed_lsn: view.replayed_lsn.map(|lsn| lsn.to_string()),
            lag_bytes: view.lag_bytes,
            lag_time_ms: view.lag_time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            replica: view.unfit.is_none(),
            unfit: view.unfit.map(|unfit| unfit.to_string()),
            sessions,
            trouble: view.trouble.clone(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {

    use super::*;
    use crate::pg::{Lsn, Timeline};
    use crate::topology::{Epoch, Unfit};

    fn sources(primary: Option<&str>, trouble: Option<&str>) -> Sources {
        let mut node = NodeView::unknown("a".into());
        node.role = Some(Role::Primary);
        node.healthy = trouble.is_none();
        node.timeline = Some(Timeline(1));
        node.received_lsn = Some(Lsn(0x300_0060));
        node.lag_bytes = Some(0);
        node.unfit = Some(Unfit::Primary);
        node.trouble = trouble.map(ToOwned::to_owned);
        let view =
            ClusterView { epoch: Epoch(1), primary: primary.map(Into::into), nodes: vec![node], ..Default::default() };
        let board = Arc::new(Board::new());
        board.publish(Topology { clusters: BTreeMap::from([("main".into(), Arc::new(view))]) });
        let pool = PoolRow {
            node: "a".to_owned(),
            database: "app".to_owned(),
            user: "app".to_owned(),
            size: 20,
            open: 4,
            idle: 2,
            in_use: 2,
            waiting: 0,
            transactions: 1234,
            pinned: BTreeMap::from([("listen", 1)]),
        };
        Sources {
            pools: Arc::new(move || vec![pool.clone()]),
            clients: Arc::new(|| 16),
            address: Arc::new(|_, _| Some("10.0.0.1:5432".to_owned())),
            sessions: Arc::new(|_, _| 7),
            routing: Arc::new(|| RoutingRow {
                events: BTreeMap::from([("to_primary", 3)]),
                reasons: BTreeMap::from([("reads", 2)]),
            }),
            ..Sources::of(board)
        }
    }

    #[tokio::test]
    async fn readiness_names_the_cluster_the_node_and_the_trouble() {
        let (code, text) = readyz(State(sources(None, Some("connection refused")))).await;
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "cluster \"main\": no primary: node \"a\" (10.0.0.1:5432): connection refused\n");
    }

    #[tokio::test]
    async fn a_daemon_that_goes_down_is_not_ready() {
        let sources = sources(Some("a"), None);
        assert_eq!(readyz(State(sources.clone())).await.0, StatusCode::OK);
        sources.shutting_down.store(true, Ordering::Release);
        assert_eq!(readyz(State(sources)).await, (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n".to_owned()));
    }

    #[tokio::test]
    async fn status_reads_as_documented() {
        let Json(status) = status(State(sources(Some("a"), None))).await;
        let expected = concat!(
            r#"{"ready":true,"missing":[],"clusters":[{"name":"main","epoch":1,"primary":"a","era":0,"sample_lsn":null,"#,
            r#""nodes":[{"name":"a","#,
            r#""role":"primary","healthy":true,"timeline":1,"received_lsn":"0/3000060","replayed_lsn":null,"lag_bytes":0,"#,
            r#""lag_time_ms":null,"replica":false,"unfit":"accepts writes","sessions":7,"trouble":null}]}],"#,
            r#""pools":[{"node":"a","database":"app","user":"app","size":20,"open":4,"idle":2,"#,
            r#""in_use":2,"waiting":0,"transactions":1234,"pinned":{"listen":1}}],"clients":16,"#,
            r#""routing":{"events":{"to_primary":3},"reasons":{"reads":2}},"panics":0}"#
        );
        assert_eq!(serde_json::to_string(&status).unwrap(), expected);
    }

    #[test]
    fn an_address_is_a_port_or_a_socket() {
        assert_eq!("127.0.0.1:6433".parse::<HttpAddress>().unwrap().to_string(), "127.0.0.1:6433");
        assert_eq!("unix:/run/api.sock".parse::<HttpAddress>().unwrap(), HttpAddress::Unix("/run/api.sock".into()));
        for wrong in ["", "6433", "host:", "unix:relative", "host:99999"] {
            assert!(wrong.parse::<HttpAddress>().is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_socket_file_is_replaced_only_if_nobody_listens_on_it() {
        let directory = tempfile::tempdir().unwrap();
        let address = HttpAddress::Unix(directory.path().join("api.sock"));
        let first = HttpListener::bind(address.clone()).await.unwrap();
        assert!(matches!(HttpListener::bind(address.clone()).await, Err(HttpError::InUse(_))));
        drop(first); // leaves the file behind, as a killed process does
        HttpListener::bind(address).await.unwrap();

        let file = directory.path().join("file");
        fs::write(&file, "precious").unwrap();
        assert!(matches!(HttpListener::bind(HttpAddress::Unix(file.clone())).await, Err(HttpError::NotASocket(_))));
        assert_eq!(fs::read_to_string(file).unwrap(), "precious");
    }
}
