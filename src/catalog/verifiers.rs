//! Password verifiers of login roles, read from `pg_authid` (PostgreSQL: `CATALOG-PG-AUTHID`).
//!
//! Workers look a role up in a snapshot and never wait for it; one task per cluster on the control thread reads the
//! snapshot every 30 s and when a worker asks for it. Not here: checking a proof (`proxy/handshake`), roles whose password
//! stands in the configuration (`[users.NAME]`).
//!
//! Invariant: a [`Verifiers::refresh`] is answered by a read that began after it was asked for.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{self, Instant};
use tokio_postgres::SimpleQueryRow;
use tracing::{info, warn};

use super::connection::{ConnectionError, ControlConnection, Monitor, WatchedCluster, WatchedNode};
use crate::pg::SqlState;
use crate::topology::{Board, ClusterName, NodeName};

/// Shown in the nodes' `pg_stat_activity`.
const APPLICATION_NAME: &str = "howdah verifiers";
/// Between two reads nobody asked for.
const PERIOD: Duration = Duration::from_secs(30);
/// The first wait after a read that failed; doubles up to [`PERIOD`].
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Between two looks at the board for a healthy node while no snapshot has been read.
const LOOK: Duration = Duration::from_millis(100);
/// At least so long between the beginnings of two reads, however many ask.
const SPACING: Duration = Duration::from_millis(200);
/// The longest a worker waits for a refresh.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(5);
/// Workers that can wait for a cluster's next read at a time; more are told to come back.
const REQUESTS_MAX: usize = 4096;

/// The last column is how many seconds a password stays valid, by the server's clock; null for ever.
const QUESTION: &str = "\
    SELECT rolname, rolpassword, CASE \
        WHEN rolvaliduntil IS NULL OR rolvaliduntil = 'infinity' THEN NULL \
        WHEN rolvaliduntil = '-infinity' THEN 0 \
        ELSE pg_catalog.date_part('epoch', rolvaliduntil - pg_catalog.now()) END \
    FROM pg_catalog.pg_authid WHERE rolcanlogin";

/// What a login role's password is known by.
#[derive(Clone, PartialEq, Eq)]
pub enum RoleSecret {
    /// The text of a SCRAM verifier: `SCRAM-SHA-256$4096:…`.
    Scram(Arc<str>),
    /// `md5` and 32 hexadecimal digits.
    Md5(Arc<str>),
    /// No password, one that has expired, or one in a form nobody uses any more: no proof can be right.
    None,
}

impl RoleSecret {
    fn from_catalog(rolpassword: Option<&str>) -> Self {
        match rolpassword {
            Some(text) if text.starts_with("SCRAM-SHA-256$") => Self::Scram(text.into()),
            Some(text) if text.starts_with("md5") && text.len() == 35 => Self::Md5(text.into()),
            Some(_) | None => Self::None,
        }
    }
}

impl fmt::Debug for RoleSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scram(_) => "Scram(…)",
            Self::Md5(_) => "Md5(…)",
            Self::None => "None",
        })
    }
}

/// Why the verifiers of a cluster could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// No cluster of that name.
    #[error("there is no cluster \"{0}\"")]
    UnknownCluster(String),
    /// Nobody to ask as.
    #[error(
        "passwords of cluster \"{0}\" cannot be read without [clusters.{0}.monitor]; add it, or put them under [users.NAME]"
    )]
    NoMonitor(ClusterName),
    /// Nobody to ask.
    #[error("no node of cluster \"{0}\" is healthy")]
    NoNode(ClusterName),
    /// The monitor's user is not allowed to (42501).
    #[error(
        "user \"{user}\" may not read pg_authid on node \"{node}\": run GRANT SELECT ON pg_catalog.pg_authid TO \"{user}\" \
         in database \"{dbname}\", let a superuser be the monitor, or put the passwords under [users.NAME]"
    )]
    NoPermission {
        /// The monitor's user.
        user: String,
        /// The database it connects to; each has its own rights on the shared catalogs.
        dbname: String,
        /// The node that refused.
        node: NodeName,
    },
    /// The node did not answer.
    #[error("node \"{node}\": {error}")]
    NoAnswer {
        /// The node that was asked.
        node: NodeName,
        /// What came instead.
        error: ConnectionError,
    },
    /// Too many wait for the next read.
    #[error("too many logins wait for the passwords of cluster \"{0}\"")]
    Busy(String),
    /// The control thread did not answer in time.
    #[error("passwords of cluster \"{0}\" were not read in time")]
    Timeout(String),
    /// The cluster was removed, or the daemon is going down.
    #[error("passwords of cluster \"{0}\" are no longer read")]
    Stopped(String),
}

/// The verifiers of all clusters. Shared by all threads; the reading is done where it was started.
#[derive(Debug)]
pub struct Verifiers {
    clusters: ArcSwap<HashMap<ClusterName, Entry>>,
    board: Arc<Board>,
    control: Handle,
}

/// One cluster: what workers use of its reader. The reader ends when the last entry with its channel is gone.
#[derive(Clone, Debug)]
struct Entry {
    cluster: Arc<WatchedCluster>,
    state: Arc<State>,
    requests: mpsc::Sender<Request>,
}

type Request = oneshot::Sender<Result<(), CatalogError>>;

/// What a reader publishes. Outlives a change of the cluster's configuration.
#[derive(Debug, Default)]
struct State {
    roles: ArcSwap<HashMap<Box<str>, Role>>,
    trouble: ArcSwap<Option<CatalogError>>,
}

#[derive(Debug)]
struct Role {
    secret: RoleSecret,
    expires: Option<Instant>,
}

impl Verifiers {
    /// Starts reading. Must be called inside the tokio runtime that is to do it.
    #[must_use]
    pub fn start(clusters: Vec<WatchedCluster>, board: Arc<Board>) -> Arc<Self> {
        let this = Self { clusters: ArcSwap::default(), board, control: Handle::current() };
        this.replace(clusters);
        Arc::new(this)
    }

    /// Reads these clusters from now on. Snapshots of clusters that stay are kept.
    pub fn replace(&self, clusters: Vec<WatchedCluster>) {
        let before = self.clusters.load();
        let mut entries = HashMap::with_capacity(clusters.len());
        for cluster in clusters {
            let known = before.get(&cluster.name);
            let entry = match known {
                Some(entry) if *entry.cluster == cluster => entry.clone(),
                _ => self.start_reader(cluster, known.map(|entry| entry.state.clone()).unwrap_or_default()),
            };
            entries.insert(entry.cluster.name.clone(), entry);
        }
        self.clusters.store(Arc::new(entries));
    }

    /// The role's secret, from the snapshot; never waits. `None` when there is no such login role, or none was read yet:
    /// [`Verifiers::refresh`] and look again.
    #[must_use]
    pub fn lookup(&self, cluster: &str, user: &str) -> Option<RoleSecret> {
        let clusters = self.clusters.load();
        let roles = clusters.get(cluster)?.state.roles.load();
        let role = roles.get(user)?;
        match role.expires {
            Some(expires) if expires <= Instant::now() => Some(RoleSecret::None),
            Some(_) | None => Some(role.secret.clone()),
        }
    }

    /// Has the snapshot read anew. All who ask before a read begins share it, and a cluster is read at most once per 200 ms.
    /// May be called from any runtime; returns within 5 s.
    ///
    /// # Errors
    /// [`CatalogError`]; the snapshot is then as it was.
    ///
    /// # Cancel safety
    /// Safe: the read still happens.
    pub async fn refresh(&self, cluster: &str) -> Result<(), CatalogError> {
        let requests = match self.clusters.load().get(cluster) {
            Some(entry) => entry.requests.clone(),
            None => return Err(CatalogError::UnknownCluster(cluster.to_owned())),
        };
        let (request, answer) = oneshot::channel();
        requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CatalogError::Busy(cluster.to_owned()),
            mpsc::error::TrySendError::Closed(_) => CatalogError::Stopped(cluster.to_owned()),
        })?;
        drop(requests); // a replaced reader must be able to end
        match time::timeout(REFRESH_TIMEOUT, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(CatalogError::Stopped(cluster.to_owned())),
            Err(_) => Err(CatalogError::Timeout(cluster.to_owned())),
        }
    }

    /// One line for each cluster whose verifiers a person must make readable, for `/status`.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let clusters = self.clusters.load();
        let mut lines: Vec<String> = clusters
            .values()
            .filter_map(|entry| {
                let trouble = entry.state.trouble.load();
                let error = trouble.as_ref().as_ref().filter(|error| needs_a_person(error))?;
                Some(format!("cluster \"{}\": {error}", entry.cluster.name))
            })
            .collect();
        lines.sort();
        lines
    }

    fn start_reader(&self, cluster: WatchedCluster, state: Arc<State>) -> Entry {
        let cluster = Arc::new(cluster);
        let (requests, queue) = mpsc::channel(REQUESTS_MAX);
        let reader = Reader { cluster: cluster.clone(), board: self.board.clone(), state: state.clone() };
        self.control.spawn(reader.run(queue));
        Entry { cluster, state, requests }
    }
}

/// Whether only a person can end it; everything else passes, or the monitor says it.
fn needs_a_person(error: &CatalogError) -> bool {
    matches!(error, CatalogError::NoPermission { .. })
}

/// Reads one cluster.
struct Reader {
    cluster: Arc<WatchedCluster>,
    board: Arc<Board>,
    state: Arc<State>,
}

impl Reader {
    /// Runs until nobody can ask any more.
    async fn run(self, mut queue: mpsc::Receiver<Request>) {
        let mut due = Instant::now();
        let mut earliest = due;
        let mut retry = RETRY_FIRST;
        loop {
            let mut waiting = Vec::new();
            tokio::select! {
                request = queue.recv() => match request {
                    Some(request) => waiting.push(request),
                    None => return,
                },
                () = time::sleep_until(due) => {}
            }
            time::sleep_until(earliest).await;
            while let Ok(request) = queue.try_recv() {
                waiting.push(request);
            }
            earliest = Instant::now() + SPACING;
            let outcome = self.read().await;
            due = Instant::now()
                + match &outcome {
                    Ok(()) => {
                        retry = RETRY_FIRST;
                        PERIOD
                    }
                    Err(CatalogError::NoNode(_)) => LOOK,
                    Err(_) => {
                        let wait = retry;
                        retry = (retry * 2).min(PERIOD);
                        wait
                    }
                };
            self.note(outcome.as_ref().err());
            for request in waiting {
                // a worker that has stopped waiting needs no answer
                let _ = request.send(outcome.clone());
            }
        }
    }

    async fn read(&self) -> Result<(), CatalogError> {
        let monitor =
            self.cluster.monitor.as_ref().ok_or_else(|| CatalogError::NoMonitor(self.cluster.name.clone()))?;
        let node = self.node_to_ask().ok_or_else(|| CatalogError::NoNode(self.cluster.name.clone()))?;
        match read_roles(node, monitor).await {
            Ok(roles) => {
                self.state.roles.store(Arc::new(roles));
                Ok(())
            }
            Err(ConnectionError::Reported { sqlstate: Some(SqlState::INSUFFICIENT_PRIVILEGE), .. }) => {
                Err(CatalogError::NoPermission {
                    user: monitor.user.clone(),
                    dbname: monitor.dbname.clone(),
                    node: node.name.clone(),
                })
            }
            Err(error) => Err(CatalogError::NoAnswer { node: node.name.clone(), error }),
        }
    }

    /// The primary; without one any healthy node, whose catalog is a little older.
    fn node_to_ask(&self) -> Option<&WatchedNode> {
        let topology = self.board.read();
        let view = topology.clusters.get(&self.cluster.name)?;
        let healthy = view.nodes.iter().filter(|node| node.healthy).map(|node| &node.name);
        let name = view.primary.iter().chain(healthy).next()?;
        self.cluster.nodes.iter().find(|node| node.name == *name)
    }

    /// Keeps the trouble for `/status` and writes it down when it changes.
    fn note(&self, error: Option<&CatalogError>) {
        // the monitor has said already that nobody is there
        if matches!(error, Some(CatalogError::NoNode(_) | CatalogError::NoMonitor(_))) {
            return;
        }
        let before = self.state.trouble.swap(Arc::new(error.cloned()));
        let cluster = &self.cluster.name;
        match (before.as_ref().as_ref(), error) {
            (before, Some(error)) if before != Some(error) => warn!(%cluster, %error, "passwords cannot be read"),
            (Some(_), None) => info!(%cluster, "passwords can be read again"),
            (_, _) => {}
        }
    }
}

async fn read_roles(node: &WatchedNode, monitor: &Monitor) -> Result<HashMap<Box<str>, Role>, ConnectionError> {
    let connection = ControlConnection::open(node, monitor, APPLICATION_NAME).await?;
    let rows = connection.rows(QUESTION).await?;
    connection.close().await;
    let now = Instant::now();
    Ok(rows.iter().filter_map(|row| read_role(row, now)).collect())
}

fn read_role(row: &SimpleQueryRow, now: Instant) -> Option<(Box<str>, Role)> {
    let column = |index: usize| row.try_get(index).ok().flatten();
    let name = column(0)?;
    let expires = column(2).and_then(|seconds| expiry(seconds, now));
    Some((name.into(), Role { secret: RoleSecret::from_catalog(column(1)), expires }))
}

/// `None` when it is too far away to matter.
fn expiry(seconds: &str, now: Instant) -> Option<Instant> {
    // what cannot be read counts as expired
    let seconds: f64 = seconds.parse().unwrap_or(0.0);
    Duration::try_from_secs_f64(seconds.max(0.0)).ok().and_then(|left| now.checked_add(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_shows_itself() {
        let secret = RoleSecret::from_catalog(Some("SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy"));
        assert_eq!(format!("{secret:?}"), "Scram(…)");
        assert!(matches!(secret, RoleSecret::Scram(_)));
    }

    #[test]
    fn a_password_of_unknown_form_is_no_password() {
        let md5 = format!("md5{}", "0".repeat(32));
        assert_eq!(RoleSecret::from_catalog(Some(&md5)), RoleSecret::Md5(md5.as_str().into()));
        assert_eq!(RoleSecret::from_catalog(Some("md5 is my favourite")), RoleSecret::None);
        assert_eq!(RoleSecret::from_catalog(Some("plain")), RoleSecret::None);
        assert_eq!(RoleSecret::from_catalog(None), RoleSecret::None);
    }

    #[test]
    fn a_password_expires_when_the_server_says_so_however_far_away() {
        let now = Instant::now();
        assert_eq!(expiry("12.5", now), Some(now + Duration::from_millis(12_500)));
        assert_eq!(expiry("-3", now), Some(now));
        assert_eq!(expiry("nonsense", now), Some(now));
        assert_eq!(expiry("1e300", now), None);
    }

    #[tokio::test]
    async fn a_cluster_without_a_monitor_says_what_to_do() {
        let cluster = WatchedCluster { name: "main".into(), nodes: Vec::new(), monitor: None };
        let verifiers = Verifiers::start(vec![cluster], Arc::new(Board::new()));
        let error = verifiers.refresh("main").await.map_err(|error| error.to_string());
        assert!(error.is_err_and(|text| text.contains("[clusters.main.monitor]")));
        assert_eq!(verifiers.lookup("main", "app"), None);
        assert_eq!(verifiers.refresh("other").await, Err(CatalogError::UnknownCluster("other".to_owned())));
    }
}
