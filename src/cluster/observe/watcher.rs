//! The shell around the fold: starts and stops probes, publishes what changed, and writes the operator's diary.
//!
//! Not here: asking (`probe`), deciding who is primary and who may be read from (`fold`), the sentences (`diary`).
//!
//! Invariants: only this task publishes on its board, so the board never goes back to an older view; an era begins before the
//! view is published that needs it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch as wanted};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::error;

use super::diary::Diary;
use super::fold::Fold;
use super::observation::{Miss, Observation};
use super::probe::{Probe, ProbeId, Report};
use crate::catalog::{Monitor, WatchedCluster, WatchedNode};
use crate::topology::{Appointment, Board, ClusterBoard, ClusterName, ClusterView, NodeName, Topology};

/// Reports under way at most; a probe that finds it full waits.
const REPORTS_MAX: usize = 256;
/// Before a probe that panicked asks again, so that a lasting defect does not spin.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// More connections than one cluster will see: a cluster that is taken out of the configuration and put back does not repeat
/// the numbers of its nodes' lives.
const LIVES: u64 = 1 << 32;
/// Why a node of a cluster without a monitor is not used.
const UNWATCHED: &str = "not asked: a cluster with several nodes needs [clusters.NAME.monitor]";

/// The nodes are watched for as long as this lives. Its methods may be called from any thread.
#[derive(Debug)]
pub struct Watch {
    wanted: wanted::Sender<Option<Vec<WatchedCluster>>>,
    appointed: mpsc::UnboundedSender<(ClusterName, Option<Appointment>)>,
}

/// Starts watching. What needs no asking is on the board when this returns.
///
/// Must be called inside the tokio runtime that is to carry the work: a handful of small tasks.
#[must_use]
pub fn watch(clusters: Vec<WatchedCluster>, board: Arc<Board>) -> Watch {
    let (reports_in, reports) = mpsc::channel(REPORTS_MAX);
    let mut watcher = Watcher::new(board, reports_in);
    watcher.replace(clusters.clone());
    let (wanted, changes) = wanted::channel(Some(clusters));
    // unbounded: a coordinator says something a few times per change of the primary
    let (appointed, appointments) = mpsc::unbounded_channel();
    tokio::spawn(watcher.run(reports, changes, appointments));
    Watch { wanted, appointed }
}

impl Watch {
    /// Watches these clusters from now on. Nodes that stay as they are keep their connection and what is known of them;
    /// the others' probes are stopped. Takes effect soon after it returns.
    pub fn replace(&self, clusters: Vec<WatchedCluster>) {
        self.wanted.send_replace(Some(clusters));
    }

    /// From now on only this node is the cluster's primary, and it is looked at at once; without an appointment nodes' own words
    /// count. What is said of a cluster that is not watched yet holds as soon as it is.
    pub fn appoint(&self, cluster: &ClusterName, appointment: Option<Appointment>) {
        let _ = self.appointed.send((cluster.clone(), appointment)); // fails once the watcher has stopped
    }

    /// Where a node listens, as people write it: `10.0.0.1:5432`.
    #[must_use]
    pub fn address(&self, cluster: &str, node: &str) -> Option<String> {
        let wanted = self.wanted.borrow();
        let cluster = wanted.as_ref()?.iter().find(|c| *c.name == *cluster)?;
        cluster.nodes.iter().find(|n| *n.name == *node).map(WatchedNode::address)
    }

    /// Stops asking and waits until the watcher is gone. The board keeps what was published last.
    pub async fn stop(&self) {
        self.wanted.send_replace(None);
        self.wanted.closed().await;
    }
}

/// Everything the task owns.
struct Watcher {
    board: Arc<Board>,
    reports_in: mpsc::Sender<Report>,
    clusters: BTreeMap<ClusterName, Watched>,
    /// What coordinators have said last.
    appointments: BTreeMap<ClusterName, Appointment>,
    /// Which node a running probe asks.
    probes: HashMap<ProbeId, (ClusterName, NodeName)>,
    next_probe: u64,
    /// Where the lives of the last new cluster began.
    first_life: u64,
    /// What moments are counted from.
    started: Instant,
    /// Aborts what still runs when the watcher goes.
    tasks: JoinSet<()>,
}

/// One cluster and its running probes.
struct Watched {
    fold: Fold,
    /// What is on the board.
    view: Arc<ClusterView>,
    board: Arc<ClusterBoard>,
    diary: Diary,
    monitor: Option<Monitor>,
    nodes: Vec<Running>,
    /// Passes suspicions on to the probes.
    listener: Option<AbortHandle>,
}

impl Watched {
    fn new(name: ClusterName, board: Arc<ClusterBoard>, threshold: u32, first_life: u64) -> Self {
        Self {
            fold: Fold::new(threshold, first_life),
            view: Arc::default(),
            board,
            diary: Diary::new(name),
            monitor: None,
            nodes: Vec::new(),
            listener: None,
        }
    }

    /// Takes over what the fold says now. Whether that is anything new.
    fn settle(&mut self, server_version: Option<u32>) -> bool {
        if self.fold.needs_era() {
            self.fold.begin_era(self.board.begin_era());
        }
        let after = self.fold.view();
        if *self.view == after {
            return false;
        }
        let before = std::mem::replace(&mut self.view, Arc::new(after));
        self.diary.tell(&before, &self.view, server_version);
        true
    }
}

/// One node and the probe that asks it; none in a cluster without a monitor.
struct Running {
    node: WatchedNode,
    probe: Option<(ProbeId, AbortHandle)>,
    suspected: Arc<Notify>,
}

impl Watcher {
    fn new(board: Arc<Board>, reports_in: mpsc::Sender<Report>) -> Self {
        Self {
            board,
            reports_in,
            clusters: BTreeMap::new(),
            appointments: BTreeMap::new(),
            probes: HashMap::new(),
            next_probe: 0,
            first_life: 0,
            started: Instant::now(),
            tasks: JoinSet::new(),
        }
    }

    async fn run(
        mut self,
        mut reports: mpsc::Receiver<Report>,
        mut changes: wanted::Receiver<Option<Vec<WatchedCluster>>>,
        mut appointments: mpsc::UnboundedReceiver<(ClusterName, Option<Appointment>)>,
    ) {
        loop {
            tokio::select! {
                changed = changes.changed() => {
                    let clusters = changes.borrow_and_update().clone();
                    match (changed, clusters) {
                        (Ok(()), Some(clusters)) => self.replace(clusters),
                        // stopped, or the handle is gone
                        (Ok(()), None) | (Err(_), _) => return,
                    }
                }
                Some((cluster, appointment)) = appointments.recv() => self.appoint(cluster, appointment),
                Some(report) = reports.recv() => self.take_in(report),
                Some(ended) = self.tasks.join_next() => match ended {
                    Err(error) if error.is_panic() => self.restart_fallen(error.id()),
                    // stopped on purpose
                    Ok(()) | Err(_) => {}
                },
            }
        }
    }

    fn appoint(&mut self, cluster: ClusterName, appointment: Option<Appointment>) {
        let named = appointment.as_ref().and_then(|appointment| appointment.primary.clone());
        if let Some(watched) = self.clusters.get_mut(&cluster) {
            watched.fold.appoint(appointment.clone());
            let changed = watched.settle(None);
            if let Some(running) = watched.nodes.iter().find(|running| Some(&running.node.name) == named.as_ref()) {
                running.suspected.notify_one();
            }
            if changed {
                self.publish();
            }
        }
        match appointment {
            Some(appointment) => self.appointments.insert(cluster, appointment),
            None => self.appointments.remove(&cluster),
        };
    }

    fn take_in(&mut self, report: Report) {
        let Some((cluster, node)) = self.probes.get(&report.probe).cloned() else { return };
        let Some(watched) = self.clusters.get_mut(&cluster) else { return };
        let version = match &report.observation {
            Observation::Answered(_, answer) => answer.server_version,
            Observation::Connected | Observation::Disconnected | Observation::Missed(_) => None,
        };
        watched.fold.observe(self.started.elapsed(), &node, report.observation);
        if watched.settle(version) {
            self.publish();
        }
    }

    /// A probe that fell to a defect must not leave its node looking healthy for ever.
    fn restart_fallen(&mut self, task: tokio::task::Id) {
        let fallen = self.clusters.values().flat_map(|watched| &watched.nodes).find_map(|running| {
            let (probe, _) = running.probe.as_ref().filter(|(_, handle)| handle.id() == task)?;
            Some((*probe, running.node.clone()))
        });
        let Some((probe, node)) = fallen else { return };
        let Some((cluster, _)) = self.probes.get(&probe).cloned() else { return };
        error!(%cluster, node = %node.name, "internal error: the probe panicked, it is started again");
        let text = "internal error: its probe panicked".to_owned();
        self.take_in(Report { probe, observation: Observation::Disconnected });
        self.take_in(Report { probe, observation: Observation::Missed(Miss::Silent(text)) });
        self.probes.remove(&probe);
        let Some(watched) = self.clusters.get(&cluster) else { return };
        let Some(position) = watched.nodes.iter().position(|running| running.node == node) else { return };
        let Some(monitor) = watched.monitor.clone() else { return };
        let samples = watched.nodes.len() > 1;
        let restarted = self.start_probe(&cluster, node, monitor, samples, RESTART_DELAY);
        if let Some(watched) = self.clusters.get_mut(&cluster) {
            if let Some(running) = watched.nodes.get_mut(position) {
                *running = restarted;
            }
            let listener = listen(&mut self.tasks, watched);
            watched.listener = Some(listener);
        }
    }

    fn publish(&self) {
        let view = |(name, watched): (&ClusterName, &Watched)| (name.clone(), Arc::clone(&watched.view));
        self.board.publish(Topology { clusters: self.clusters.iter().map(view).collect() });
    }

    fn replace(&mut self, clusters: Vec<WatchedCluster>) {
        let mut before = std::mem::take(&mut self.clusters);
        for cluster in clusters {
            let known = before.remove(&cluster.name);
            let name = cluster.name.clone();
            let watched = self.rearrange(cluster, known);
            self.clusters.insert(name, watched);
        }
        for gone in before.into_values() {
            gone.listener.iter().for_each(AbortHandle::abort);
            gone.nodes.into_iter().for_each(|running| self.stop_probe(running));
        }
        self.publish();
    }

    fn rearrange(&mut self, cluster: WatchedCluster, known: Option<Watched>) -> Watched {
        let threshold = cluster.monitor.as_ref().map_or(1, |monitor| monitor.failure_threshold);
        let board = self.board.cluster(&cluster.name);
        let mut watched = known.unwrap_or_else(|| {
            self.first_life = self.first_life.wrapping_add(LIVES);
            Watched::new(cluster.name.clone(), board, threshold, self.first_life)
        });
        let mut nodes_before = std::mem::take(&mut watched.nodes);
        let fold = &mut watched.fold;
        fold.appoint(self.appointments.get(&cluster.name).cloned());
        fold.set_failure_threshold(threshold);
        fold.set_max_lag(cluster.max_lag);
        let names: Vec<NodeName> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
        fold.arrange(&names);
        if watched.monitor.is_none() && cluster.monitor.is_some() && nodes_before.len() > 1 {
            // nobody has asked them, so that nothing is known of them
            names.iter().for_each(|name| fold.forget(name));
        }

        let samples = cluster.nodes.len() > 1;
        let same_way = watched.monitor == cluster.monitor && samples == (nodes_before.len() > 1);
        for node in cluster.nodes {
            let position = nodes_before.iter().position(|running| running.node.name == node.name);
            let running = position.map(|index| nodes_before.swap_remove(index));
            let running = match running {
                Some(running) if running.node == node && same_way => running,
                running => {
                    if let Some(running) = running {
                        watched.fold.observe(self.started.elapsed(), &node.name, Observation::Disconnected);
                        if !running.node.same_place(&node) {
                            watched.fold.forget(&node.name);
                        }
                        self.stop_probe(running);
                    }
                    match cluster.monitor.clone() {
                        Some(monitor) => self.start_probe(&cluster.name, node, monitor, samples, Duration::ZERO),
                        None => Running { node, probe: None, suspected: Arc::default() },
                    }
                }
            };
            watched.nodes.push(running);
        }
        for running in nodes_before {
            self.stop_probe(running);
        }
        let fold = &mut watched.fold;
        match (cluster.monitor.is_some(), names.as_slice()) {
            (true, _) => {}
            (false, [only]) => fold.declare_primary(only),
            (false, several) => several.iter().for_each(|name| fold.set_unwatched(name, UNWATCHED)),
        }
        watched.monitor = cluster.monitor;
        watched.listener.iter().for_each(AbortHandle::abort);
        watched.listener = Some(listen(&mut self.tasks, &watched));
        watched.settle(None);
        watched
    }

    fn start_probe(
        &mut self,
        cluster: &ClusterName,
        node: WatchedNode,
        monitor: Monitor,
        samples: bool,
        delay: Duration,
    ) -> Running {
        let id = ProbeId(self.next_probe);
        self.next_probe = self.next_probe.wrapping_add(1);
        self.probes.insert(id, (cluster.clone(), node.name.clone()));
        let suspected = Arc::<Notify>::default();
        let probe = Probe {
            id,
            node: node.clone(),
            monitor,
            board: self.board.cluster(cluster),
            samples,
            suspected: Arc::clone(&suspected),
            reports: self.reports_in.clone(),
            delay,
        };
        Running { node, probe: Some((id, self.tasks.spawn(probe.run()))), suspected }
    }

    fn stop_probe(&mut self, running: Running) {
        if let Some((id, task)) = running.probe {
            task.abort();
            self.probes.remove(&id);
        }
    }
}

/// Passes on what the data path suspects, for as long as these probes run.
fn listen(tasks: &mut JoinSet<()>, watched: &Watched) -> AbortHandle {
    let board = Arc::clone(&watched.board);
    let probes: HashMap<NodeName, Arc<Notify>> =
        watched.nodes.iter().map(|running| (running.node.name.clone(), Arc::clone(&running.suspected))).collect();
    tasks.spawn(async move {
        loop {
            for node in board.suspicions().await {
                if let Some(suspected) = probes.get(&node) {
                    suspected.notify_one();
                }
            }
        }
    })
}
