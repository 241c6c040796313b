//! The HTTP API: which request is answered by what, and `/healthz` and `/readyz` themselves.
//!
//! | requests | by |
//! |---|---|
//! | `GET /healthz`, `/readyz` | here |
//! | `GET /primary`, `/replica`, `/read-only`, `/health` and their other names | `probes` |
//! | `GET /status` | `status` |
//! | `GET /statistics`, `/statements` | `statistics` |
//! | `GET /metrics` | `metrics` |
//! | `GET /clusters/NAME` and what is below it | `look` |
//! | `POST /clusters/NAME/COMMAND` | `operate` |
//! | `POST /route` | [`route`](super::route) |
//! | `POST /reload` | [`reload`](super::reload) |
//!
//! Who may ask is decided before all of them (`access`). Everything shown is read from snapshots; nothing here waits for a node or a
//! lock that clients need.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{DefaultBodyLimit, RawQuery, State};
use axum::http::{Method, StatusCode, Uri};
use axum::routing::{get, post};
use axum::{Router, middleware};
use tokio::sync::watch;

use super::access::{self, Access, Gate, Reach};
use super::control::Control;
pub use super::listen::{Going, HttpAddress, HttpError, HttpListener};
pub use super::metrics::{ClientStates, DaemonFacts, Named};
use super::refusal::Refusal;
use super::route::{self, Explain};
pub use super::status::{PoolRow, RoutingRow};
pub use super::survey::Survey;
use super::{look, metrics, operate, probes, reload, statistics, status};
use crate::config::reload::order::Reloads;
use crate::proxy::route::explain::ExplainError;
use crate::stats::{StatementStatistics, Statistics};
use crate::topology::{Board, ClusterName, ClusterView, NodeName, Role, Topology};

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
    /// What the workers have counted.
    pub statistics: Arc<dyn Fn() -> Statistics + Send + Sync>,
    /// The statements that are followed.
    pub statements: Arc<dyn Fn() -> Vec<StatementStatistics> + Send + Sync>,
    /// What the daemon is.
    pub daemon: Arc<dyn Fn() -> DaemonFacts + Send + Sync>,
    /// Which names have series of their own.
    pub named: Arc<Named>,
    /// Who asks the nodes' catalogs; `None` when nobody does.
    pub survey: Option<Arc<Survey>>,
    /// Where a statement would go, and why.
    pub explain: Explain,
    /// The coordinators; `None` where every cluster is only observed.
    pub control: Option<Arc<dyn Control>>,
    /// Reads the configuration again; `None` where there is none.
    pub reloads: Option<Reloads>,
    /// The tokens in force, per request.
    pub access: Arc<dyn Fn() -> Access + Send + Sync>,
    /// True when whoever reads a stream has to go. [`HttpListener::serve`] sets its own.
    pub closing: watch::Receiver<bool>,
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
            statistics: Arc::new(Statistics::default),
            statements: Arc::new(Vec::new),
            daemon: Arc::new(DaemonFacts::default),
            named: Arc::default(),
            survey: None,
            explain: Arc::new(|question| {
                Box::pin(std::future::ready(Err(ExplainError::NoSuchDatabase(question.database))))
            }),
            control: None,
            reloads: None,
            access: Arc::new(Access::default),
            closing: watch::channel(false).1,
        }
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

pub(super) fn routes(sources: Sources, reach: Reach) -> Router {
    let gate = Gate { access: Arc::clone(&sources.access), reach };
    let mut router = Router::new();
    for (path, kind) in probes::PATHS {
        let ask = move |sources: State<Sources>, query: RawQuery| probes::probe(kind, sources, query);
        // HAProxy asks with OPTIONS unless it is told otherwise
        router = router.route(path, get(ask).options(ask));
    }
    router
        .route("/healthz", get(async || "ok"))
        .route("/liveness", get(async || "ok"))
        .route("/readyz", get(readyz))
        .route("/readiness", get(readyz))
        .route("/status", get(status::status))
        .route("/statistics", get(statistics::statistics))
        .route("/statements", get(statistics::statements))
        .route("/metrics", get(metrics::metrics))
        .route("/route", post(route::route).layer(DefaultBodyLimit::max(route::BODY_BYTES_MAX)))
        .route("/reload", post(reload::reload).layer(DefaultBodyLimit::max(reload::BODY_BYTES_MAX)))
        .route("/clusters/{cluster}", get(look::cluster))
        .route("/clusters/{cluster}/history", get(look::history))
        .route("/clusters/{cluster}/events", get(look::events))
        .route("/clusters/{cluster}/operations", get(look::operations))
        .route("/clusters/{cluster}/operations/{id}", get(look::operation))
        .route("/clusters/{cluster}/nodes/{node}/jobs", get(look::jobs))
        .route(
            "/clusters/{cluster}/{command}",
            post(operate::operate).layer(DefaultBodyLimit::max(operate::BODY_BYTES_MAX)),
        )
        .fallback(nothing)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(gate, access::gate))
        .with_state(sources)
}

async fn nothing(uri: Uri) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "unknown-path", format!("there is nothing at \"{}\"", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let error = format!("\"{}\" does not take {method}", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "wrong-method", error)
}

pub(super) async fn readyz(State(sources): State<Sources>) -> (StatusCode, String) {
    match not_ready(&sources).as_slice() {
        [] => (StatusCode::OK, "ready".to_owned()),
        missing => (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n"),
    }
}

/// What keeps howdah from serving, one line each; empty when it is ready.
pub(super) fn not_ready(sources: &Sources) -> Vec<String> {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use axum::Json;

    use super::*;
    use crate::pg::{Lsn, Timeline};
    use crate::topology::{Epoch, NodeView, Unfit};

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
            cluster: "main".to_owned(),
            node: "a".to_owned(),
            database: "app".to_owned(),
            user: "app".to_owned(),
            size: 20,
            open: 4,
            idle: 2,
            in_use: 2,
            waiting: 0,
            oldest_wait_us: 0,
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
        let Json(status) = status::status(State(sources(Some("a"), None))).await;
        let expected = concat!(
            r#"{"ready":true,"missing":[],"clusters":[{"name":"main","epoch":1,"primary":"a","era":0,"sample_lsn":null,"#,
            r#""nodes":[{"name":"a","#,
            r#""role":"primary","healthy":true,"timeline":1,"received_lsn":"0/3000060","replayed_lsn":null,"lag_bytes":0,"#,
            r#""lag_time_ms":null,"replica":false,"unfit":"accepts writes","sessions":7,"trouble":null,"agent":null,"#,
            r#""state":null,"refused":null,"note":null}],"mode":"observe","state":null,"appointed":null,"paused":false,"#,
            r#""operation":null,"blocked":[]}],"#,
            r#""pools":[{"cluster":"main","node":"a","database":"app","user":"app","size":20,"open":4,"idle":2,"#,
            r#""in_use":2,"waiting":0,"oldest_wait_us":0,"transactions":1234,"pinned":{"listen":1}}],"clients":16,"#,
            r#""routing":{"events":{"to_primary":3},"reasons":{"reads":2}},"panics":0}"#
        );
        assert_eq!(serde_json::to_string(&status).unwrap(), expected);
    }
}
