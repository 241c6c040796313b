//! The shell around the fold: starts and stops probes, publishes what changed, and writes the operator's diary.
//!
//! Not here: asking (`probe`), deciding who is primary (`fold`).
//!
//! Invariant: only this task publishes on its board, so the board never goes back to an older view.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch as wanted};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{error, info, warn};

use super::fold::Fold;
use super::observation::{Miss, Observation};
use super::probe::{Probe, ProbeId, Report};
use crate::catalog::{Monitor, WatchedCluster, WatchedNode};
use crate::topology::{Board, ClusterName, ClusterView, NodeName, NodeView, Role, Topology};

/// Reports under way at most; a probe that finds it full waits.
const REPORTS_MAX: usize = 256;
/// Before a probe that panicked asks again, so that a lasting defect does not spin.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// Why a node of a cluster without a monitor is not used.
const UNWATCHED: &str = "not asked: a cluster with several nodes needs [clusters.NAME.monitor]";

/// The nodes are watched for as long as this lives. Its methods may be called from any thread.
#[derive(Debug)]
pub struct Watch {
    wanted: wanted::Sender<Option<Vec<WatchedCluster>>>,
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
    tokio::spawn(watcher.run(reports, changes));
    Watch { wanted }
}

impl Watch {
    /// Watches these clusters from now on. Nodes that stay as they are keep their connection and what is known of them;
    /// the others' probes are stopped. Takes effect soon after it returns.
    pub fn replace(&self, clusters: Vec<WatchedCluster>) {
        self.wanted.send_replace(Some(clusters));
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
    /// Which node a running probe asks.
    probes: HashMap<ProbeId, (ClusterName, NodeName)>,
    next_probe: u64,
    /// Aborts what still runs when the watcher goes.
    tasks: JoinSet<()>,
}

/// One cluster and its running probes.
struct Watched {
    fold: Fold,
    monitor: Option<Monitor>,
    nodes: Vec<Running>,
}

/// One node and the probe that asks it; none in a cluster without a monitor.
struct Running {
    node: WatchedNode,
    probe: Option<(ProbeId, AbortHandle)>,
}

impl Watcher {
    fn new(board: Arc<Board>, reports_in: mpsc::Sender<Report>) -> Self {
        Self {
            board,
            reports_in,
            clusters: BTreeMap::new(),
            probes: HashMap::new(),
            next_probe: 0,
            tasks: JoinSet::new(),
        }
    }

    async fn run(
        mut self,
        mut reports: mpsc::Receiver<Report>,
        mut changes: wanted::Receiver<Option<Vec<WatchedCluster>>>,
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
                Some(report) = reports.recv() => self.take_in(report),
                Some(ended) = self.tasks.join_next() => match ended {
                    Err(error) if error.is_panic() => self.restart_fallen(error.id()),
                    // stopped on purpose
                    Ok(()) | Err(_) => {}
                },
            }
        }
    }

    fn take_in(&mut self, report: Report) {
        let Some((cluster, node)) = self.probes.get(&report.probe).cloned() else { return };
        let Some(watched) = self.clusters.get_mut(&cluster) else { return };
        let before = watched.fold.view();
        let version = match &report.observation {
            Observation::Answered(answer) => answer.server_version,
            Observation::Missed(_) => None,
        };
        watched.fold.observe(&node, report.observation);
        let after = watched.fold.view();
        if before != after {
            tell(&cluster, &before, &after, version);
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
        self.take_in(Report { probe, observation: Observation::Missed(Miss::Silent(text)) });
        self.probes.remove(&probe);
        let Some(monitor) = self.clusters.get(&cluster).and_then(|watched| watched.monitor.clone()) else { return };
        let restarted = self.start_probe(&cluster, node.clone(), monitor, RESTART_DELAY);
        let nodes = self.clusters.get_mut(&cluster).map(|watched| &mut watched.nodes);
        if let Some(running) = nodes.into_iter().flatten().find(|running| running.node == node) {
            running.probe = Some(restarted);
        }
    }

    fn publish(&self) {
        let clusters =
            self.clusters.iter().map(|(name, watched)| (name.clone(), Arc::new(watched.fold.view()))).collect();
        self.board.publish(Topology { clusters });
    }

    fn replace(&mut self, clusters: Vec<WatchedCluster>) {
        let mut before = std::mem::take(&mut self.clusters);
        for cluster in clusters {
            let known = before.remove(&cluster.name);
            let name = cluster.name.clone();
            let watched = self.rearrange(cluster, known);
            self.clusters.insert(name, watched);
        }
        for running in before.into_values().flat_map(|watched| watched.nodes) {
            self.stop_probe(running);
        }
        self.publish();
    }

    fn rearrange(&mut self, cluster: WatchedCluster, known: Option<Watched>) -> Watched {
        let threshold = cluster.monitor.as_ref().map_or(1, |monitor| monitor.failure_threshold);
        let known = known.unwrap_or_else(|| Watched { fold: Fold::new(threshold), monitor: None, nodes: Vec::new() });
        let Watched { mut fold, monitor: monitor_before, nodes: mut nodes_before } = known;
        let before = fold.view();
        fold.set_failure_threshold(threshold);
        let names: Vec<NodeName> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
        fold.arrange(&names);
        if monitor_before.is_none() && cluster.monitor.is_some() && nodes_before.len() > 1 {
            // nobody has asked them, so that nothing is known of them
            names.iter().for_each(|name| fold.forget(name));
        }

        let mut nodes = Vec::with_capacity(cluster.nodes.len());
        for node in cluster.nodes {
            let position = nodes_before.iter().position(|running| running.node.name == node.name);
            let running = position.map(|index| nodes_before.swap_remove(index));
            match running {
                Some(running) if running.node == node && monitor_before == cluster.monitor => nodes.push(running),
                running => {
                    if let Some(running) = running {
                        if !running.node.same_place(&node) {
                            fold.forget(&node.name);
                        }
                        self.stop_probe(running);
                    }
                    let probe = cluster
                        .monitor
                        .as_ref()
                        .map(|monitor| self.start_probe(&cluster.name, node.clone(), monitor.clone(), Duration::ZERO));
                    nodes.push(Running { node, probe });
                }
            }
        }
        for running in nodes_before {
            self.stop_probe(running);
        }
        match (cluster.monitor.is_some(), names.as_slice()) {
            (true, _) => {}
            (false, [only]) => fold.declare_primary(only),
            (false, several) => several.iter().for_each(|name| fold.set_unwatched(name, UNWATCHED)),
        }
        tell(&cluster.name, &before, &fold.view(), None);
        Watched { fold, monitor: cluster.monitor, nodes }
    }

    fn start_probe(
        &mut self,
        cluster: &ClusterName,
        node: WatchedNode,
        monitor: Monitor,
        delay: Duration,
    ) -> (ProbeId, AbortHandle) {
        let id = ProbeId(self.next_probe);
        self.next_probe = self.next_probe.wrapping_add(1);
        self.probes.insert(id, (cluster.clone(), node.name.clone()));
        let probe = Probe { id, node, monitor, reports: self.reports_in.clone(), delay };
        (id, self.tasks.spawn(probe.run()))
    }

    fn stop_probe(&mut self, running: Running) {
        if let Some((id, task)) = running.probe {
            task.abort();
            self.probes.remove(&id);
        }
    }
}

/// Writes down what changed for people, once.
fn tell(cluster: &ClusterName, before: &ClusterView, after: &ClusterView, server_version: Option<u32>) {
    for node in &after.nodes {
        match before.nodes.iter().find(|known| known.name == node.name) {
            Some(known) => tell_node(cluster, known, node, server_version),
            None => tell_node(cluster, &NodeView::unknown(node.name.clone()), node, server_version),
        }
    }
    let epoch = after.epoch.0;
    match (&before.primary, &after.primary) {
        (was, Some(primary)) if was.as_ref() != Some(primary) => {
            let timeline = after.nodes.iter().find(|node| node.name == *primary).and_then(|node| node.timeline);
            info!(%cluster, node = %primary, epoch, timeline = timeline.map(|t| t.0), "node is the primary");
        }
        (Some(was), None) => warn!(%cluster, node = %was, epoch, "no primary"),
        (_, _) => {}
    }
}

fn role_word(node: &NodeView) -> Option<&'static str> {
    node.role.map(|role| match role {
        Role::Primary => "primary",
        Role::Standby => "standby",
    })
}

fn tell_node(cluster: &ClusterName, before: &NodeView, after: &NodeView, server_version: Option<u32>) {
    let node = &after.name;
    let error = after.trouble.as_deref();
    let worse = error.is_some() && before.trouble != after.trouble;
    match (before.healthy, after.healthy) {
        (false, true) => {
            let timeline = after.timeline.map(|t| t.0);
            info!(%cluster, %node, role = role_word(after), timeline, server_version, error, "node is healthy");
        }
        (true, false) => warn!(%cluster, %node, error, "node left"),
        (false, false) if worse && before.trouble == NodeView::unknown(node.clone()).trouble => {
            warn!(%cluster, %node, error, "node cannot be used");
        }
        (false, false) if worse => info!(%cluster, %node, error, "node still cannot be used"),
        (true, true) if worse => warn!(%cluster, %node, error, "node is in trouble"),
        (true, true) | (false, false) => {}
    }
    if before.healthy && after.healthy && before.role != after.role {
        info!(%cluster, %node, role = role_word(after), "node changed its role");
    }
}
