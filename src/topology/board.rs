//! Where the two paths meet: what is known goes down to the data path, wishes and suspicions come up from it.
//!
//! Readers never wait. Each cluster has a [`ClusterBoard`], which lives as long as the process: a session keeps a hold of its
//! own. Not here: who looks at the nodes (`cluster/observe`), who decides where a statement goes (`proxy/route`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::samples::{Era, Stamp};
use super::{ClusterName, ClusterView, NodeName, Topology};

/// Holds the newest [`Topology`]. A version number tells cheaply that nothing has changed.
#[derive(Debug, Default)]
pub struct Board {
    newest: ArcSwap<Topology>,
    version: AtomicU64,
    rerouted: Notify,
    clusters: Mutex<BTreeMap<ClusterName, Arc<ClusterBoard>>>,
}

impl Board {
    /// An empty board: no cluster has been looked at.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The newest snapshot.
    #[must_use]
    pub fn read(&self) -> Arc<Topology> {
        self.newest.load_full()
    }

    /// Grows with every [`Board::publish`] that changed something that the choice of a pool depends on.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// One cluster's board, also before anything is known of it.
    #[must_use]
    pub fn cluster(&self, name: &str) -> Arc<ClusterBoard> {
        let mut clusters = self.clusters.lock();
        if let Some(known) = clusters.get(name) {
            return Arc::clone(known);
        }
        let board = Arc::<ClusterBoard>::default();
        clusters.insert(name.into(), Arc::clone(&board));
        board
    }

    /// Replaces the snapshot. The version moves only when the primary, the epoch or the nodes of some cluster did, so that
    /// LSN samples do not make every session look again.
    pub fn publish(&self, topology: Topology) {
        let before = self.newest.load_full();
        let changed = !topology.clusters.iter().map(routes).eq(before.clusters.iter().map(routes));
        let appoints = |topology: &Topology| -> Vec<_> {
            topology.clusters.values().map(|view| view.appointment.clone()).collect()
        };
        let appointed = appoints(&topology) != appoints(&before);
        for (name, view) in &topology.clusters {
            self.cluster(name).publish(view);
        }
        self.newest.store(Arc::new(topology));
        if changed {
            self.version.fetch_add(1, Ordering::Release);
        }
        if changed || appointed {
            self.rerouted.notify_waiters();
        }
    }

    /// Ends once a published topology has another primary, epoch, node or appointment in it. Create it before looking at the
    /// present one; [`Self::version`] has moved by then.
    pub fn rerouted(&self) -> impl Future<Output = ()> {
        self.rerouted.notified()
    }
}

/// What the choice of a pool depends on.
fn routes<'a>((name, view): (&'a ClusterName, &'a Arc<ClusterView>)) -> impl PartialEq + use<'a> {
    let nodes: Vec<&NodeName> = view.nodes.iter().map(|node| &node.name).collect();
    (name, view.epoch, &view.primary, view.appointment.as_ref().is_some_and(|appointment| appointment.held), nodes)
}

/// One cluster, as sessions see it.
#[derive(Debug, Default)]
pub struct ClusterBoard {
    view: ArcSwap<ClusterView>,
    /// A packed [`Stamp`].
    now: AtomicU64,
    /// Sessions that wait for a fresher view.
    waiting: AtomicUsize,
    /// The number that some session waits for a sample of the primary beyond.
    wanted: AtomicU64,
    demand: Notify,
    published: Notify,
    suspects: Mutex<Vec<NodeName>>,
    suspicion: Notify,
    /// What is open at the held primary.
    open: watch::Sender<Option<u64>>,
}

impl ClusterBoard {
    /// What is known now.
    #[must_use]
    pub fn view(&self) -> Guard<Arc<ClusterView>> {
        self.view.load()
    }

    fn publish(&self, view: &Arc<ClusterView>) {
        if !Arc::ptr_eq(&self.view.load(), view) {
            self.view.store(Arc::clone(view));
            self.published.notify_waiters();
        }
    }

    /// The moment now: to be taken after a reply has been read. Every sample with a greater number is asked for later.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        Stamp::unpack(self.now.load(Ordering::SeqCst))
    }

    /// A node is about to be asked: the number of the question, greater than any before. To be taken before the question is
    /// sent.
    pub fn ask(&self) -> Stamp {
        Stamp::unpack(self.now.fetch_add(1, Ordering::SeqCst).wrapping_add(1))
    }

    /// The line of samples is broken: another era begins, and no sample of an earlier one counts any more. Numbers go on.
    ///
    /// To be called before the view is published that shows what broke it: nobody is sent to another primary, and so nobody
    /// stamps what it has seen there, before the era is another.
    pub fn begin_era(&self) -> Era {
        let next = |packed| {
            let Stamp { era, asked } = Stamp::unpack(packed);
            Stamp { era: Era(era.0.wrapping_add(1)), asked }.pack()
        };
        let mut before = self.now.load(Ordering::SeqCst);
        while let Err(now) = self.now.compare_exchange(before, next(before), Ordering::SeqCst, Ordering::SeqCst) {
            before = now;
        }
        // there is no sample of it yet
        self.demand.notify_waiters();
        // as it is packed, or after sixteen million eras stamps and samples would be told apart that are of one
        Stamp::unpack(next(before)).era
    }

    /// Says that somebody waits for a sample of the primary beyond `number`, and for where the standbys are, until the
    /// answer is dropped.
    #[must_use]
    pub fn wait_beyond(&self, number: u64) -> Waiting<'_> {
        self.wanted.fetch_max(number, Ordering::AcqRel);
        self.waiting.fetch_add(1, Ordering::AcqRel);
        self.demand.notify_waiters();
        Waiting(self)
    }

    /// Whether sessions wait for a fresher view.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Beyond which number a sample of the primary is waited for, or was.
    #[must_use]
    pub fn wanted_beyond(&self) -> u64 {
        self.wanted.load(Ordering::Acquire)
    }

    /// Ends when some session begins to wait for a fresher view, or an era begins. Create it before looking whether one does.
    pub fn demanded(&self) -> impl Future<Output = ()> {
        self.demand.notified()
    }

    /// Ends with the next published view. Create it before looking at the present one.
    pub fn published(&self) -> impl Future<Output = ()> {
        self.published.notified()
    }

    /// A connection to this node was refused, or broke: look at it now.
    pub fn suspect(&self, node: &NodeName) {
        let mut suspects = self.suspects.lock();
        if !suspects.contains(node) {
            suspects.push(Arc::clone(node));
            drop(suspects);
            self.suspicion.notify_one();
        }
    }

    /// The data path says what is still open at the primary that is held ([`Appointment::held`](super::Appointment)): transactions,
    /// pinned sessions, logins under way. `None` when nothing is held. Once it has said 0 nothing begins there until the hold is
    /// over.
    pub fn report_open(&self, open: Option<u64>) {
        self.open.send_if_modified(|last| std::mem::replace(last, open) != open);
    }

    /// What the data path says is open at the held primary, as it changes.
    #[must_use]
    pub fn open(&self) -> watch::Receiver<Option<u64>> {
        self.open.subscribe()
    }

    /// Waits for suspicions and takes them.
    pub async fn suspicions(&self) -> Vec<NodeName> {
        loop {
            let suspects = std::mem::take(&mut *self.suspects.lock());
            if !suspects.is_empty() {
                return suspects;
            }
            self.suspicion.notified().await;
        }
    }
}

/// Somebody waits for a fresher view, until this is dropped.
#[derive(Debug)]
pub struct Waiting<'a>(&'a ClusterBoard);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Epoch, NodeView};
    use super::*;

    fn with_primary(primary: Option<&str>, lag: u64) -> Topology {
        let mut node = NodeView::unknown("a".into());
        node.lag_bytes = Some(lag);
        let view =
            ClusterView { epoch: Epoch(1), primary: primary.map(Into::into), nodes: vec![node], ..Default::default() };
        Topology { clusters: BTreeMap::from([("main".into(), Arc::new(view))]) }
    }

    #[test]
    fn the_version_moves_with_the_primary_and_not_with_the_lag() {
        let board = Board::new();
        let cluster = board.cluster("main");
        board.publish(with_primary(Some("a"), 0));
        let first = board.version();
        board.publish(with_primary(Some("a"), 5));
        assert_eq!((board.version(), cluster.view().nodes[0].lag_bytes), (first, Some(5)));
        board.publish(with_primary(None, 5));
        assert!(board.version() > first);
    }

    #[test]
    fn a_question_has_a_greater_number_than_every_stamp_before_it_also_across_eras() {
        let cluster = ClusterBoard::default();
        let before = cluster.stamp();
        let asked = cluster.ask();
        assert!(asked.asked > before.asked && cluster.stamp() == asked);
        let era = cluster.begin_era();
        assert_eq!(cluster.stamp(), Stamp { era, asked: asked.asked });
        assert!(era > before.era);
    }

    #[test]
    fn a_wish_lasts_as_long_as_who_waits() {
        let cluster = ClusterBoard::default();
        let waiting = cluster.wait_beyond(7);
        assert!(cluster.is_waited_for() && cluster.wanted_beyond() == 7);
        drop(waiting);
        assert!(!cluster.is_waited_for());
    }
}
