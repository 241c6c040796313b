//! The shell around [`decide`](super::decide): observe, decide, record, act, publish. Thin; no decision lives here.
//!
//! One task per managed cluster. What it hears (agents, the monitor's views, the store, people, the clock) goes into the
//! [`Decider`] one by one; what comes out is carried out in that order. Nothing here waits: sending, storing and asking go on in the
//! background and come back as inputs.
//!
//! Not here: who is asked how (`act`, `observe`), where records are kept (`store`), what routing makes of an appointment
//! (`observe`, `topology`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::act::{AgentWay, Agents};
use super::decide::{
    Accepted, Command, Decider, Event, Explanation, Input, Output, Reason, Record, Refused, Settings, Sight,
};
use super::ledger::Ledger;
use super::observe::Watch;
use super::store::{Store, StoreError};
use crate::directive::Job;
use crate::topology::{Appointment, Board, ClusterBoard, ClusterName, NodeName, NodeView};

/// How often the machine is told that time has passed.
const TICK: Duration = Duration::from_millis(25);
/// Views that differ only in positions are told at most so often.
const POSITIONS: Duration = Duration::from_millis(50);

/// A cluster that has a coordinator.
#[derive(Clone, Debug)]
pub struct ManagedCluster {
    /// For the machine.
    pub settings: Settings,
    /// Where the agents are.
    pub agents: Vec<(NodeName, AgentWay)>,
}

/// All coordinators of this daemon. Its methods may be called from any thread.
#[derive(Debug)]
pub struct Coordinators {
    store: StoreHandle,
    board: Arc<Board>,
    watch: Arc<Watch>,
    running: Mutex<BTreeMap<ClusterName, Running>>,
    turn: tokio::sync::Mutex<()>,
    ledger: Arc<Ledger>,
}

/// Only for its `Debug`.
struct StoreHandle(Arc<dyn Store>);

impl std::fmt::Debug for StoreHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

/// One coordinator, from outside.
#[derive(Debug)]
struct Running {
    asks: mpsc::UnboundedSender<Ask>,
    configured: watch::Sender<ManagedCluster>,
    shown: Arc<ArcSwap<Explanation>>,
    task: AbortHandle,
}

enum Ask {
    Command { command: Command, answer: oneshot::Sender<Result<Accepted, Refused>> },
    Jobs { node: String, answer: oneshot::Sender<Result<Vec<Job>, String>> },
}

impl Coordinators {
    /// Reads each cluster's record and takes it over.
    ///
    /// Must be called inside the tokio runtime that is to carry the work.
    ///
    /// # Errors
    /// When a record cannot be read: a coordinator that has forgotten what it has begun must not begin anew.
    pub async fn start(
        store: Arc<dyn Store>,
        clusters: Vec<ManagedCluster>,
        board: Arc<Board>,
        watch: Arc<Watch>,
    ) -> Result<Arc<Self>, StoreError> {
        let ledger = Arc::new(Ledger::new());
        let all = Self {
            store: StoreHandle(store),
            board,
            watch,
            running: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            ledger,
        };
        all.replace(clusters).await?;
        Ok(Arc::new(all))
    }

    /// These clusters are managed from now on; coordinators of others end, and routing there follows what nodes say of themselves.
    ///
    /// # Errors
    /// As [`Coordinators::start`], for clusters that are new.
    pub async fn replace(&self, clusters: Vec<ManagedCluster>) -> Result<(), StoreError> {
        let _turn = self.turn.lock().await; // two reloads after each other must not launch one cluster twice
        let names: Vec<ClusterName> = clusters.iter().map(|cluster| cluster.settings.cluster.as_str().into()).collect();
        let mut failed = None;
        for (name, cluster) in names.iter().zip(clusters) {
            let known = self.running.lock().get(name).map(|running| running.configured.clone());
            if let Some(configured) = known {
                configured.send_replace(cluster);
                continue;
            }
            match self.launch(name, cluster).await {
                Ok(running) => drop(self.running.lock().insert(name.clone(), running)),
                Err(error) => failed = Some(error),
            }
        }
        self.running.lock().retain(|name, running| {
            let stays = names.contains(name);
            if !stays {
                running.task.abort();
                self.watch.appoint(name, None);
            }
            stays
        });
        failed.map_or(Ok(()), Err)
    }

    /// Whether a coordinator could begin where the last one ended; for a cluster that has one, it has.
    ///
    /// # Errors
    /// Why its record cannot be read.
    pub async fn try_record(&self, cluster: &str) -> Result<(), StoreError> {
        if self.running.lock().contains_key(cluster) {
            return Ok(());
        }
        self.store.0.load(cluster).await.map(drop)
    }

    async fn launch(&self, name: &ClusterName, cluster: ManagedCluster) -> Result<Running, StoreError> {
        let record = self.store.0.load(name).await?;
        if let Some(record) = &record {
            self.ledger.stored(name, wall_ms(), record); // its history, and what an earlier life had begun
        }
        // until it has decided nobody takes writes: a node's own word does not count in a managed cluster
        let epoch = record.as_ref().map(|record| record.epoch).unwrap_or_default();
        self.watch.appoint(name, Some(Appointment { epoch, primary: None, held: false }));
        let coordinator = match &record {
            Some(record) => record.coordinator.clone(),
            None => format!("{:016x}", rand::rng().random::<u64>()),
        };
        let (inputs_in, inputs) = mpsc::unbounded_channel();
        let (asks_in, asks) = mpsc::unbounded_channel();
        let (configured, changes) = watch::channel(cluster.clone());
        let mut agents = Agents::new(inputs_in.clone());
        agents.replace(cluster.agents);
        let (to_store, records) = mpsc::unbounded_channel();
        let keeper =
            Keeper { store: Arc::clone(&self.store.0), ledger: Arc::clone(&self.ledger), cluster: name.clone() };
        let last = record.as_ref().map_or(0, |record| record.generation);
        tokio::spawn(keeper.run(last, records, inputs_in));
        let shown = Arc::<ArcSwap<Explanation>>::default();
        let coordinator = Coordinator {
            cluster: name.clone(),
            decider: Decider::new(cluster.settings, coordinator, record),
            started: Instant::now(),
            agents,
            to_store,
            watch: Arc::clone(&self.watch),
            board: self.board.cluster(name),
            ledger: Arc::clone(&self.ledger),
            shown: Arc::clone(&shown),
            seen: HashMap::new(),
            positions_told: Instant::now(),
            waiting: HashMap::new(),
            next_ask: 0,
        };
        let task = tokio::spawn(coordinator.run(inputs, asks, changes)).abort_handle();
        Ok(Running { asks: asks_in, configured, shown, task })
    }

    /// Asks a cluster's coordinator for something.
    ///
    /// # Errors
    /// [`Refused`], and then nothing has changed.
    pub async fn ask(&self, cluster: &str, command: Command, correlation: &str) -> Result<Accepted, Refused> {
        let (answer, answered) = oneshot::channel();
        let sent = self.running.lock().get(cluster).map(|running| running.asks.send(Ask::Command { command, answer }));
        let gone =
            || Refused { reason: Reason::NotManaged, text: format!("the coordinator of \"{cluster}\" has ended") };
        match sent {
            None => Err(Refused {
                reason: Reason::NotManaged,
                text: format!(
                    "cluster \"{cluster}\" has no coordinator here: failover.mode is \"observe\", or some node has no agent"
                ),
            }),
            Some(Err(_)) => Err(gone()),
            Some(Ok(())) => {
                let answer = answered.await.unwrap_or_else(|_| Err(gone()));
                match &answer {
                    Ok(accepted) => info!(cluster, correlation, operation = accepted.id, "{}", accepted.text),
                    Err(refused) => info!(cluster, correlation, reason = ?refused.reason, "refused: {refused}"),
                }
                answer
            }
        }
    }

    /// What a cluster's coordinator makes of it all; `None` where there is none.
    #[must_use]
    pub fn explanation(&self, cluster: &str) -> Option<Explanation> {
        let running = self.running.lock();
        Some(Explanation::clone(&running.get(cluster)?.shown.load()))
    }

    /// What has been done so far.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// A node's last jobs, by its agent.
    ///
    /// # Errors
    /// Why they cannot be had, in words.
    pub async fn jobs(&self, cluster: &str, node: &str) -> Result<Vec<Job>, String> {
        let (answer, answered) = oneshot::channel();
        let ask = Ask::Jobs { node: node.to_owned(), answer };
        let sent = self.running.lock().get(cluster).map(|running| running.asks.send(ask));
        match sent {
            Some(Ok(())) => answered.await.unwrap_or_else(|_| Err("the coordinator has ended".to_owned())),
            Some(Err(_)) | None => Err(format!("cluster \"{cluster}\" has no coordinator here")),
        }
    }
}

/// Stores one record after the other.
struct Keeper {
    store: Arc<dyn Store>,
    ledger: Arc<Ledger>,
    cluster: ClusterName,
}

impl Keeper {
    /// `last`: the generation that is stored.
    async fn run(
        self,
        mut last: u64,
        mut records: mpsc::UnboundedReceiver<Record>,
        inputs: mpsc::UnboundedSender<Input>,
    ) {
        while let Some(record) = records.recv().await {
            let input = match self.store.save(&self.cluster, last, &record).await {
                Ok(()) => {
                    last = record.generation;
                    self.ledger.stored(&self.cluster, wall_ms(), &record);
                    Input::Stored(record.generation)
                }
                Err(error) => {
                    error!(cluster = %self.cluster, %error, "the coordinator's record could not be stored");
                    Input::NotStored(record.generation, error.to_string())
                }
            };
            if inputs.send(input).is_err() {
                return;
            }
        }
    }
}

/// Everything a cluster's task owns.
struct Coordinator {
    cluster: ClusterName,
    decider: Decider,
    started: Instant,
    agents: Agents,
    to_store: mpsc::UnboundedSender<Record>,
    watch: Arc<Watch>,
    board: Arc<ClusterBoard>,
    ledger: Arc<Ledger>,
    shown: Arc<ArcSwap<Explanation>>,
    /// What the machine has been told of each node.
    seen: HashMap<NodeName, Sight>,
    positions_told: Instant,
    waiting: HashMap<u64, oneshot::Sender<Result<Accepted, Refused>>>,
    next_ask: u64,
}

impl Coordinator {
    async fn run(
        mut self,
        mut inputs: mpsc::UnboundedReceiver<Input>,
        mut asks: mpsc::UnboundedReceiver<Ask>,
        mut configured: watch::Receiver<ManagedCluster>,
    ) {
        let board = Arc::clone(&self.board);
        let mut open = board.open();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let published = board.published();
            tokio::select! {
                Some(input) = inputs.recv() => self.step(input),
                Some(ask) = asks.recv() => self.asked(ask),
                changed = configured.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let cluster = configured.borrow_and_update().clone();
                    self.agents.replace(cluster.agents);
                    self.step(Input::Settings(cluster.settings));
                }
                Ok(()) = open.changed() => {
                    let count = *open.borrow_and_update();
                    if let Some(count) = count {
                        self.step(Input::Open(count));
                    }
                }
                () = published => self.look(),
                _ = tick.tick() => {
                    self.look();
                    self.step(Input::Tick { wall_ms: wall_ms() });
                }
            }
        }
    }

    /// Tells the machine what is new on the board.
    fn look(&mut self) {
        let view = Arc::clone(&self.board.view());
        let positions = self.positions_told.elapsed() >= POSITIONS;
        if positions {
            self.positions_told = Instant::now();
        }
        for node in &view.nodes {
            let sight = sight(node);
            let known = self.seen.get(&node.name);
            let is_news = known.is_none_or(|known| match positions {
                true => *known != sight,
                false => (known.healthy, known.role, known.timeline) != (sight.healthy, sight.role, sight.timeline),
            });
            if is_news {
                self.seen.insert(node.name.clone(), sight.clone());
                self.step(Input::Seen(node.name.clone(), sight));
            }
        }
    }

    fn asked(&mut self, ask: Ask) {
        match ask {
            Ask::Command { command, answer } => {
                self.next_ask = self.next_ask.wrapping_add(1);
                self.waiting.insert(self.next_ask, answer);
                self.step(Input::Asked(self.next_ask, command));
            }
            Ask::Jobs { node, answer } => {
                let jobs = self.agents.jobs(&node);
                tokio::spawn(async move {
                    let _ = answer.send(jobs.await); // whoever asked may have gone
                });
            }
        }
    }

    fn step(&mut self, input: Input) {
        match &input {
            Input::Moved(node, job) => self.ledger.moved(&self.cluster, node, job),
            Input::Refused(_, order, failure) => self.ledger.refused(&self.cluster, wall_ms(), order, failure),
            _ => {}
        }
        for output in self.decider.step(self.started.elapsed(), input) {
            self.carry_out(output);
        }
        let explanation = self.decider.explain();
        if **self.shown.load() != explanation {
            self.shown.store(Arc::new(explanation));
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Store(record) => {
                let _ = self.to_store.send(*record); // fails once the runtime ends
            }
            Output::Send(node, order) => {
                let (cluster, epoch, id, correlation) = (&self.cluster, order.epoch.0, &order.id, &order.correlation);
                info!(%cluster, %node, epoch, job = id, correlation, directive = order.directive.name(), "order");
                self.ledger.sent(&self.cluster, wall_ms(), &order);
                self.agents.send(&node, *order);
            }
            Output::Ask(node) => self.agents.ask(&node),
            Output::Look(node) => self.board.suspect(&node),
            Output::Appoint(appointment) => self.watch.appoint(&self.cluster, Some(appointment)),
            Output::Reply(number, answer) => {
                if let Some(waiting) = self.waiting.remove(&number) {
                    let _ = waiting.send(answer); // whoever asked may have gone
                }
            }
            Output::Tell(event) => self.tell(event),
        }
    }
}

impl Coordinator {
    /// The operator's diary: the log, and the API.
    fn tell(&self, event: Event) {
        let (cluster, node, operation) = (&self.cluster, event.node.as_deref(), event.operation.as_deref());
        match event.grave {
            true => warn!(%cluster, node, operation, "{}", event.text),
            false => info!(%cluster, node, operation, "{}", event.text),
        }
        self.ledger.tell(cluster, wall_ms(), event);
    }
}

fn sight(node: &NodeView) -> Sight {
    Sight {
        healthy: node.healthy,
        role: node.role,
        timeline: node.timeline,
        received_lsn: node.received_lsn,
        replayed_lsn: node.replayed_lsn,
        system_identifier: node.system_identifier,
        trouble: node.trouble.clone(),
    }
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
