//! What the nodes' own catalogs say: sizes, activity, locks, replication, and an operator's own questions.
//!
//! Asked by the monitor's user over connections of its own, only while somebody reads `/metrics`, and never on a client's path. A scrape waits
//! [`WAIT`] at most for answers that are on their way, and not at all for nodes that are known not to answer: a dead node delays
//! nobody. Answers are kept for [`FRESH`], so that several collectors cost the nodes what one does.
//!
//! - `questions`: what is asked of every node
//! - `node`: the task that asks one node
//!
//! Not here: what is known without asking (`topology`), how it is written (`metrics`).

mod node;
mod questions;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::catalog::{Monitor, WatchedCluster, WatchedNode};
use crate::config::queries::Query;
use crate::topology::{Board, ClusterName, NodeName};

pub(super) use node::{Answers, Sample};

/// Answers that are no older are not asked for again.
const FRESH: Duration = Duration::from_secs(3);
/// So long a scrape waits for answers.
const WAIT: Duration = Duration::from_millis(500);
/// Older answers are not shown.
const SHOWN: Duration = Duration::from_secs(120);

/// Whom to ask, and what beyond the usual; see [`Survey::new`].
pub type Wanted = (Vec<WatchedCluster>, Arc<Vec<Query>>);

/// Who asks the nodes.
pub struct Survey {
    board: Arc<Board>,
    generation: Box<dyn Fn() -> u64 + Send + Sync>,
    wanted: Box<dyn Fn() -> Wanted + Send + Sync>,
    seats: Mutex<Seats>,
}

#[derive(Default)]
struct Seats {
    /// Of which generation what follows is.
    generation: Option<u64>,
    clusters: Vec<WatchedCluster>,
    queries: Arc<Vec<Query>>,
    by_node: BTreeMap<(ClusterName, NodeName), Seat>,
}

/// One node's task, from the first scrape on.
struct Seat {
    node: WatchedNode,
    monitor: Monitor,
    queries: Arc<Vec<Query>>,
    wanted: Arc<Notify>,
    answers: watch::Receiver<Arc<Answers>>,
    task: AbortHandle,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Survey").finish_non_exhaustive()
    }
}

impl Survey {
    /// Asks nobody yet. Whom to ask is looked up whenever `generation` says another number: a reload needs to tell nobody here.
    #[must_use]
    pub fn new(
        board: Arc<Board>,
        generation: impl Fn() -> u64 + Send + Sync + 'static,
        wanted: impl Fn() -> Wanted + Send + Sync + 'static,
    ) -> Self {
        Self { board, generation: Box::new(generation), wanted: Box::new(wanted), seats: Mutex::default() }
    }

    /// Takes over another configuration: nodes that stay as they are keep their connection and their answers.
    fn follow(&self, seats: &mut Seats) {
        let generation = (self.generation)();
        if seats.generation == Some(generation) {
            return;
        }
        let (clusters, queries) = (self.wanted)();
        let same = *seats.queries == *queries;
        *seats = Seats {
            generation: Some(generation),
            clusters,
            // what is the same keeps its identity, by which seats know whether they are current
            queries: if same { Arc::clone(&seats.queries) } else { queries },
            by_node: std::mem::take(&mut seats.by_node),
        };
        let Seats { clusters, queries, by_node, .. } = seats;
        by_node.retain(|(cluster, _), seat| {
            let known = clusters.iter().find(|known| known.name == *cluster);
            known.is_some_and(|known| {
                known.monitor.as_ref() == Some(&seat.monitor)
                    && known.nodes.contains(&seat.node)
                    && Arc::ptr_eq(queries, &seat.queries)
            })
        });
    }

    /// What the nodes say, after a short wait for those that are asked now.
    ///
    /// Must be called inside a tokio runtime, which carries the connections from then on.
    pub(super) async fn look(&self) -> Vec<(ClusterName, NodeName, Arc<Answers>)> {
        let asked = self.ask();
        let deadline = tokio::time::Instant::now() + WAIT;
        let topology = self.board.read();
        let mut told = Vec::new();
        for (cluster, node, mut answers) in asked {
            let answers_now =
                topology.clusters.get(&cluster).and_then(|view| view.node(&node)).is_some_and(|n| n.healthy);
            if answers_now {
                let since = Instant::now();
                let recent = |answers: &Arc<Answers>| answers.is_from(since, FRESH);
                // late, or its task has ended: what there was before is shown
                let _ = tokio::time::timeout_at(deadline, answers.wait_for(recent)).await;
            }
            let last = Arc::clone(&answers.borrow());
            if answers_now && last.is_from(Instant::now(), SHOWN) {
                told.push((cluster, node, last));
            }
        }
        told
    }

    /// Wakes everybody who has to ask.
    fn ask(&self) -> Vec<(ClusterName, NodeName, watch::Receiver<Arc<Answers>>)> {
        let mut seats = self.seats.lock();
        self.follow(&mut seats);
        let Seats { clusters, queries, by_node, .. } = &mut *seats;
        let mut asked = Vec::new();
        for cluster in clusters.iter() {
            let Some(monitor) = &cluster.monitor else { continue };
            for node in &cluster.nodes {
                let key = (cluster.name.clone(), node.name.clone());
                let seat = by_node.entry(key).or_insert_with(|| Seat::new(&cluster.name, node, monitor, queries));
                seat.wanted.notify_one();
                asked.push((cluster.name.clone(), node.name.clone(), seat.answers.clone()));
            }
        }
        asked
    }
}

impl Seat {
    fn new(cluster: &ClusterName, node: &WatchedNode, monitor: &Monitor, queries: &Arc<Vec<Query>>) -> Self {
        let wanted = Arc::new(Notify::new());
        let (publish, answers) = watch::channel(Arc::default());
        let asker = node::Asker::new(cluster, node.clone(), monitor.clone(), Arc::clone(queries));
        let task = tokio::spawn(asker.run(Arc::clone(&wanted), publish)).abort_handle();
        Self { node: node.clone(), monitor: monitor.clone(), queries: Arc::clone(queries), wanted, answers, task }
    }
}
