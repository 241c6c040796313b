//! What coordinators have done, for people: events, operations with their steps, and counts.
//!
//! Written by the coordinator's shell as it goes along, read by the API (`admin`). Nothing is decided by it, and nothing of it
//! outlives the daemon but what a [`Record`] says: its history.
//!
//! - `book`: one cluster, as a fold over what is told
//! - `counts`: what only grows, for metrics

mod book;
mod counts;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::decide::{Change, Event, Record};
use crate::directive::{Failure, Job, Order};
use crate::topology::{ClusterName, NodeName};

use book::Book;
pub use counts::{BUCKETS_MS, Counts, Histogram};

/// So many events wait for a reader that is slow; then it misses some.
const FOLLOWED: usize = 256;

/// An event, as it was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Grows by one with each event of this daemon's life.
    pub seq: u64,
    /// Milliseconds since 1970.
    pub wall_ms: u64,
    /// Which cluster.
    pub cluster: ClusterName,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

impl Told {
    /// For people: about which node, and what.
    #[must_use]
    pub fn in_words(&self) -> String {
        match &self.event.node {
            Some(node) => format!("{node}: {}", self.event.text),
            None => self.event.text.clone(),
        }
    }
}

/// Something with a beginning and an end: a change of the primary, or a job of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// As [`Accepted`](super::decide::Accepted) said.
    pub id: String,
    /// `failover`, `switchover`, `restart`, or the directive of a node's job.
    pub kind: String,
    /// About which nodes, in words: `a to b`.
    pub about: String,
    /// How far it is.
    pub state: OperationState,
    /// Why it ended as it did; what it does while it runs.
    pub text: String,
    /// Milliseconds since 1970.
    pub began_ms: u64,
    /// Likewise; `None` while it runs.
    pub ended_ms: Option<u64>,
    /// What has been told of it, in order.
    pub steps: Vec<Told>,
    /// What the agents do, or did, for it, in the order of their beginning.
    pub jobs: Vec<Job>,
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Under way.
    Running,
    /// Done.
    Done,
    /// A failover that has ended with the old primary, started again.
    Restarted,
    /// Not done, and nothing is as it should not be.
    Undone,
    /// Not done, and somebody should look.
    Failed,
}

impl OperationState {
    /// As it is written in JSON and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Restarted => "restarted",
            Self::Undone => "undone",
            Self::Failed => "failed",
        }
    }
}

/// All clusters' books.
#[derive(Debug)]
pub struct Ledger {
    inner: Mutex<Inner>,
    followers: broadcast::Sender<Arc<Told>>,
}

#[derive(Debug, Default)]
struct Inner {
    seq: u64,
    books: BTreeMap<ClusterName, Book>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { inner: Mutex::default(), followers: broadcast::Sender::new(FOLLOWED) }
    }
}

impl Ledger {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An [`Output::Tell`](super::decide::Output::Tell).
    pub fn tell(&self, cluster: &ClusterName, wall_ms: u64, event: Event) {
        let mut inner = self.inner.lock();
        inner.seq += 1;
        let told = Arc::new(Told { seq: inner.seq, wall_ms, cluster: cluster.clone(), event });
        inner.books.entry(cluster.clone()).or_default().tell(Arc::clone(&told));
        drop(inner);
        let _ = self.followers.send(told); // fails when nobody follows
    }

    /// A record was stored, or found at the start: from it follow operations and the history.
    pub fn stored(&self, cluster: &ClusterName, wall_ms: u64, record: &Record) {
        self.inner.lock().books.entry(cluster.clone()).or_default().stored(wall_ms, record);
    }

    /// An order goes to an agent, perhaps again ([`Output::Send`](super::decide::Output::Send)): its job is there, before the agent says so.
    pub fn sent(&self, cluster: &ClusterName, wall_ms: u64, order: &Order) {
        self.inner.lock().books.entry(cluster.clone()).or_default().sent(wall_ms, order);
    }

    /// An agent has refused an order ([`Input::Refused`](super::decide::Input::Refused)).
    pub fn refused(&self, cluster: &ClusterName, wall_ms: u64, order: &str, failure: &Failure) {
        self.inner.lock().books.entry(cluster.clone()).or_default().refused(wall_ms, order, failure);
    }

    /// An agent's job has moved ([`Input::Moved`](super::decide::Input::Moved)).
    pub fn moved(&self, cluster: &ClusterName, node: &NodeName, job: &Job) {
        self.inner.lock().books.entry(cluster.clone()).or_default().moved(node, job);
    }

    /// The last events of a cluster, newest last.
    #[must_use]
    pub fn events(&self, cluster: &str) -> Vec<Arc<Told>> {
        self.inner.lock().books.get(cluster).map(Book::events).unwrap_or_default()
    }

    /// Every event from now on, of all clusters.
    #[must_use]
    pub fn follow(&self) -> broadcast::Receiver<Arc<Told>> {
        self.followers.subscribe()
    }

    /// The last changes of the primary, newest last.
    #[must_use]
    pub fn history(&self, cluster: &str) -> Vec<Change> {
        self.inner.lock().books.get(cluster).map(|book| book.history().to_vec()).unwrap_or_default()
    }

    /// An operation, by its id or that of one of its jobs.
    #[must_use]
    pub fn operation(&self, cluster: &str, id: &str) -> Option<Operation> {
        self.inner.lock().books.get(cluster)?.operation(id).cloned()
    }

    /// The last operations, newest last.
    #[must_use]
    pub fn operations(&self, cluster: &str) -> Vec<Operation> {
        self.inner.lock().books.get(cluster).map(Book::operations).unwrap_or_default()
    }

    /// What only grows, by cluster.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<ClusterName, Counts> {
        self.inner.lock().books.iter().map(|(name, book)| (name.clone(), book.counts().clone())).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;
