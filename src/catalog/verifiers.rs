//! What the clusters say of users: secrets and groups, asked for at each login (PostgreSQL: `CATALOG-PG-AUTHID`).
//!
//! One task per cluster on the control thread asks ([`super::reader`]); all who ask at the same time share an answer. The
//! last answers are remembered for as long as the cluster cannot be asked. Not here: checking a proof
//! (`proxy/handshake`), users whose secret stands in a file (`config`).
//!
//! Invariant: [`Verifiers::ask`] is answered by a question that was put after it was called. A user who exists, one who
//! does not and one whose password has just been changed take the same time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time;
use tracing::{info, warn};

use super::connection::{ConnectionError, WatchedCluster};
use super::reader::Reader;
use super::role::{Ordinary, Role};
use crate::topology::{Board, ClusterName, NodeName};

/// The longest a worker waits for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);
/// Workers that can wait for a cluster's answers at a time; more are told to come back.
const REQUESTS_MAX: usize = 4096;

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lookup {
    /// `auth.query`; without it `pg_authid`.
    pub query: Option<String>,
    /// `auth.dbname`; without it the monitor's.
    pub dbname: Option<String>,
    /// Whether groups are wanted.
    pub groups: bool,
}

/// Why a cluster could not be asked.
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
         in database \"{dbname}\", let a superuser be the monitor, write auth.query, or put the passwords under [users.NAME]"
    )]
    NoPermission {
        /// The monitor's user.
        user: String,
        /// The database it connects to; each has its own rights on the shared catalogs.
        dbname: String,
        /// The node that refused.
        node: NodeName,
    },
    /// `auth.query` does not work.
    #[error("auth.query on node \"{node}\": {message}")]
    BadQuery {
        /// The node's, or ours.
        message: String,
        /// The node that was asked.
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
    /// Too many wait for an answer.
    #[error("too many logins wait for the passwords of cluster \"{0}\"")]
    Busy(String),
    /// The control thread did not answer in time.
    #[error("passwords of cluster \"{0}\" were not read in time")]
    Timeout(String),
    /// The cluster was removed, or the daemon is going down.
    #[error("passwords of cluster \"{0}\" are no longer read")]
    Stopped(String),
}

impl CatalogError {
    /// Whether only a person can end it. Everything else passes, or the monitor says it.
    #[must_use]
    pub const fn needs_a_person(&self) -> bool {
        match self {
            Self::NoPermission { .. } | Self::BadQuery { .. } | Self::NoMonitor(_) | Self::UnknownCluster(_) => true,
            Self::NoNode(_) | Self::NoAnswer { .. } | Self::Busy(_) | Self::Timeout(_) | Self::Stopped(_) => false,
        }
    }
}

/// What all clusters say of users. Shared by all threads; the asking is done where it was started.
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
    lookup: Arc<Lookup>,
    state: Arc<State>,
    requests: mpsc::Sender<Request>,
}

/// Somebody wants to know of a user.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) user: Arc<str>,
    pub(super) answer: oneshot::Sender<Result<Arc<Role>, CatalogError>>,
}

/// What a reader publishes. Outlives a change of the cluster's configuration.
#[derive(Debug, Default)]
pub(super) struct State {
    roles: Mutex<HashMap<Arc<str>, Arc<Role>>>,
    ordinary: ArcSwap<Ordinary>,
    trouble: ArcSwap<Option<CatalogError>>,
}

impl State {
    /// Remembers an answer; one about a user of whom there is nothing to remember is what makes it forget.
    pub(super) fn remember(&self, user: &Arc<str>, role: &Arc<Role>) {
        let mut roles = self.roles.lock();
        if role.is_unknown() {
            roles.remove(user);
        } else {
            roles.insert(Arc::clone(user), Arc::clone(role));
        }
    }

    pub(super) fn set_ordinary(&self, ordinary: Ordinary) {
        self.ordinary.store(Arc::new(ordinary));
    }

    /// What most of the remembered users have.
    pub(super) fn commonest(&self) -> Option<Ordinary> {
        let mut counts: HashMap<Ordinary, usize> = HashMap::new();
        for role in self.roles.lock().values() {
            if let Some(kind) = role.kind() {
                *counts.entry(kind).or_default() += 1;
            }
        }
        counts.into_iter().max_by_key(|(kind, count)| (*count, kind.iterations())).map(|(kind, _)| kind)
    }

    pub(super) fn trouble(&self) -> Option<CatalogError> {
        self.trouble.load().as_ref().clone()
    }

    /// Keeps the trouble for `/status` and writes it down when it changes.
    pub(super) fn note(&self, cluster: &ClusterName, error: Option<&CatalogError>) {
        // the monitor has said already that nobody is there
        if matches!(error, Some(CatalogError::NoNode(_) | CatalogError::NoMonitor(_))) {
            return;
        }
        let before = self.trouble.swap(Arc::new(error.cloned()));
        match (before.as_ref().as_ref(), error) {
            (before, Some(error)) if before != Some(error) => warn!(%cluster, %error, "passwords cannot be read"),
            (Some(_), None) => info!(%cluster, "passwords can be read again"),
            (_, _) => {}
        }
    }
}

impl Verifiers {
    /// Starts asking. Must be called inside the tokio runtime that is to do it.
    #[must_use]
    pub fn start(clusters: Vec<WatchedCluster>, lookup: Lookup, board: Arc<Board>) -> Arc<Self> {
        let this = Self { clusters: ArcSwap::default(), board, control: Handle::current() };
        this.replace(clusters, lookup);
        Arc::new(this)
    }

    /// Asks these clusters from now on, and this. Answers of clusters that stay are kept, unless something else is asked.
    pub fn replace(&self, clusters: Vec<WatchedCluster>, lookup: Lookup) {
        let before = self.clusters.load();
        let lookup = Arc::new(lookup);
        let mut entries = HashMap::with_capacity(clusters.len());
        for cluster in clusters {
            let known = before.get(&cluster.name);
            let entry = match known {
                Some(entry) if *entry.cluster == cluster && entry.lookup == lookup => entry.clone(),
                Some(entry) if entry.lookup == lookup => self.start_reader(cluster, &lookup, entry.state.clone()),
                Some(_) | None => self.start_reader(cluster, &lookup, Arc::default()),
            };
            entries.insert(entry.cluster.name.clone(), entry);
        }
        self.clusters.store(Arc::new(entries));
    }

    /// What the cluster says of a user now. May be called from any runtime; returns within 6 s.
    ///
    /// # Errors
    /// [`CatalogError`]; [`Self::known`] is then the last that was heard.
    ///
    /// # Cancel safety
    /// Safe: the question is put all the same.
    pub async fn ask(&self, cluster: &str, user: &Arc<str>) -> Result<Arc<Role>, CatalogError> {
        let requests = match self.clusters.load().get(cluster) {
            Some(entry) => entry.requests.clone(),
            None => return Err(CatalogError::UnknownCluster(cluster.to_owned())),
        };
        let (answer, answered) = oneshot::channel();
        let request = Request { user: Arc::clone(user), answer };
        requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CatalogError::Busy(cluster.to_owned()),
            mpsc::error::TrySendError::Closed(_) => CatalogError::Stopped(cluster.to_owned()),
        })?;
        drop(requests); // a replaced reader must be able to end
        match time::timeout(ANSWER_TIMEOUT, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(CatalogError::Stopped(cluster.to_owned())),
            Err(_) => Err(CatalogError::Timeout(cluster.to_owned())),
        }
    }

    /// The last that was heard of a user; never waits.
    #[must_use]
    pub fn known(&self, cluster: &str, user: &str) -> Option<Arc<Role>> {
        let clusters = self.clusters.load();
        let roles = clusters.get(cluster)?.state.roles.lock();
        roles.get(user).cloned()
    }

    /// What most users of a cluster have.
    #[must_use]
    pub fn ordinary(&self, cluster: &str) -> Ordinary {
        self.clusters.load().get(cluster).map(|entry| **entry.state.ordinary.load()).unwrap_or_default()
    }

    /// One line for each cluster whose passwords a person must make readable, for `/status`.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let clusters = self.clusters.load();
        let mut lines: Vec<String> = clusters
            .values()
            .filter_map(|entry| {
                let error = entry.state.trouble().filter(CatalogError::needs_a_person)?;
                Some(format!("cluster \"{}\": {error}", entry.cluster.name))
            })
            .collect();
        lines.sort();
        lines
    }

    fn start_reader(&self, cluster: WatchedCluster, lookup: &Arc<Lookup>, state: Arc<State>) -> Entry {
        let cluster = Arc::new(cluster);
        let (requests, queue) = mpsc::channel(REQUESTS_MAX);
        let reader = Reader::new(Arc::clone(&cluster), Arc::clone(lookup), Arc::clone(&self.board), Arc::clone(&state));
        self.control.spawn(reader.run(queue));
        Entry { cluster, lookup: Arc::clone(lookup), state, requests }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cluster_without_a_monitor_says_what_to_do() {
        let cluster = WatchedCluster { name: "main".into(), nodes: Vec::new(), monitor: None, max_lag: 0 };
        let verifiers = Verifiers::start(vec![cluster], Lookup::default(), Arc::new(Board::new()));
        let app: Arc<str> = "app".into();
        let error = verifiers.ask("main", &app).await.map_err(|error| error.to_string());
        assert!(error.is_err_and(|text| text.contains("[clusters.main.monitor]")));
        assert_eq!(verifiers.known("main", "app"), None);
        assert_eq!(verifiers.ordinary("main"), Ordinary::Scram(4096));
        assert_eq!(verifiers.ask("other", &app).await, Err(CatalogError::UnknownCluster("other".to_owned())));
    }
}
