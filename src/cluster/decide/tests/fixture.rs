//! Three nodes that are played: agents that do what they are told at once, and a diary of what was ordered and appointed.
//!
//! Not a model of PostgreSQL with its failures (that is `tests/sim`): just enough that a transcript reads like what happens.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::cluster::decide::{
    Accepted, Command, Decider, Input, Intent, Member, Mode, OnOpen, Output, Reason, Record, Refused, Settings, Sight,
    slot_name,
};
use crate::directive::{
    Accepting, AgentStatus, Code, Control, Directive, Failure, History, Job, JobState, Order, PostgresStatus, Slot,
};
use crate::pg::{Lsn, SystemIdentifier, Timeline};
use crate::topology::{Appointment, Epoch, NodeName, Role};

/// How often time passes, and how often agents speak up by themselves.
const TICK: Duration = Duration::from_millis(50);
const HEARTBEAT: Duration = Duration::from_millis(500);
const SYSTEM: SystemIdentifier = SystemIdentifier(42);
/// The most that one step may put out: bounded, whatever comes in.
const OUTPUTS_MAX: usize = 60;

pub fn name(text: &str) -> NodeName {
    text.into()
}

/// A node and its agent.
#[derive(Clone, Debug)]
pub struct Node {
    pub agent: bool,
    /// The monitor reaches it.
    pub reachable: bool,
    pub running: bool,
    pub hung: bool,
    /// It lives, and says that it recovers.
    pub recovering: bool,
    pub primary: bool,
    pub latched: bool,
    pub frozen: bool,
    pub follows: Option<String>,
    pub history: History,
    pub lsn: Lsn,
    pub replayed: Lsn,
    pub slots: BTreeSet<String>,
    pub lost: BTreeSet<String>,
    /// What bounds the log that slots keep.
    pub slot_bound: Option<String>,
    pub recovery_bytes: Option<u64>,
    pub system: SystemIdentifier,
    pub epoch: Epoch,
    pub coordinator: String,
    pub jobs: BTreeMap<String, Job>,
    pub last_job: Option<String>,
    /// Jobs of this verb fail so, one after the other.
    pub fails: Vec<(&'static str, Code)>,
    /// Jobs of this verb begin and do not end.
    pub hangs: Option<&'static str>,
    pub wrong: Option<&'static str>,
}

pub struct World {
    pub decider: Decider,
    pub settings: Settings,
    pub now: Duration,
    pub wall_ms: u64,
    pub nodes: BTreeMap<NodeName, Node>,
    pub diary: Vec<String>,
    pub stored: Option<Record>,
    pub store_fails: bool,
    pub replies: BTreeMap<u64, Result<Accepted, Refused>>,
    pub appointed: Option<Appointment>,
    pub open: u64,
    /// The daemon dies as soon as a record with this in it is stored.
    pub dies_at: Option<&'static str>,
    asked: u64,
    pub outputs: usize,
}

pub fn settings(names: &[&str]) -> Settings {
    Settings {
        cluster: "main".into(),
        mode: Mode::Automatic,
        nodes: (0..)
            .zip(names)
            .map(|(place, node)| Member {
                name: name(node),
                priority: 100,
                has_agent: true,
                host: (*node).to_owned(),
                port: 5432 + place,
            })
            .collect(),
        declared: None,
        max_lag: 1000,
        restart_if: Duration::ZERO,
        slot_wal_max: 16 << 30,
        flap_window: Duration::from_secs(600),
        interval: Duration::from_secs(1),
        failure_threshold: 3,
        hold_timeout: Duration::from_secs(5),
        drain_timeout: Duration::from_secs(2),
        on_open: OnOpen::Abort,
    }
}

impl World {
    /// Nodes with these names, the first one the primary, the others follow it; the coordinator has just started.
    pub fn new(names: &[&str]) -> Self {
        Self::with(settings(names))
    }

    pub fn with(settings: Settings) -> Self {
        let mut nodes = BTreeMap::new();
        let first = settings.nodes[0].clone();
        for member in &settings.nodes {
            let primary = member.name == first.name;
            let others = settings.nodes.iter().filter(|_| primary);
            nodes.insert(
                member.name.clone(),
                Node {
                    agent: true,
                    reachable: true,
                    running: true,
                    hung: false,
                    recovering: false,
                    primary,
                    latched: !primary,
                    frozen: false,
                    follows: (!primary).then(|| format!("{}:{}", first.host, first.port)),
                    history: History { timeline: Timeline(1), forks: Vec::new() },
                    lsn: Lsn(10_000),
                    replayed: Lsn(10_000),
                    slots: others.filter(|m| m.name != member.name).map(|m| slot_name(&m.name)).collect(),
                    lost: BTreeSet::new(),
                    slot_bound: Some("1GB".to_owned()),
                    recovery_bytes: Some(0),
                    system: SYSTEM,
                    epoch: Epoch(0),
                    coordinator: String::new(),
                    jobs: BTreeMap::new(),
                    last_job: None,
                    fails: Vec::new(),
                    hangs: None,
                    wrong: None,
                },
            );
        }
        Self {
            decider: Decider::new(settings.clone(), "us".into(), None),
            settings,
            now: Duration::from_secs(1),
            wall_ms: 1_700_000_000_000,
            nodes,
            diary: Vec::new(),
            stored: None,
            store_fails: false,
            replies: BTreeMap::new(),
            appointed: None,
            open: 0,
            dies_at: None,
            asked: 0,
            outputs: 0,
        }
    }

    /// As [`World::new`], and the first node is the primary of epoch 1.
    pub fn steady(names: &[&str]) -> Self {
        Self::new(names).settled()
    }

    pub fn settled(mut self) -> Self {
        self.run(500);
        assert_eq!(self.state(), "steady", "{:?}", self.decider.explain());
        self.run(1500);
        self.diary.clear();
        self
    }

    pub fn node(&mut self, node: &str) -> &mut Node {
        self.nodes.get_mut(node).unwrap()
    }

    pub fn state(&self) -> String {
        self.decider.explain().state
    }

    pub fn blocked(&self) -> Vec<Reason> {
        self.decider.explain().blocked.into_iter().map(|refused| refused.reason).collect()
    }

    /// Time passes, in milliseconds.
    pub fn run(&mut self, millis: u64) {
        let until = self.now + Duration::from_millis(millis);
        while self.now < until {
            self.now += TICK;
            self.wall_ms += 50;
            let beat = self.now.as_millis().is_multiple_of(HEARTBEAT.as_millis());
            for node in self.nodes.keys().cloned().collect::<Vec<_>>() {
                if beat && self.nodes[&node].agent {
                    self.report(&node);
                }
                if self.now.as_millis().is_multiple_of(1000) {
                    self.seen(&node);
                }
            }
            if self.appointed.as_ref().is_some_and(|appointed| appointed.held) {
                self.input(Input::Open(self.open));
            }
            self.stream();
            self.input(Input::Tick { wall_ms: self.wall_ms });
        }
    }

    /// Time passes until the coordinator is in this state.
    pub fn until(&mut self, state: &str) {
        for _ in 0..2000 {
            if self.state() == state {
                return;
            }
            self.run(50);
        }
        panic!("never {state}: {:#?}\n{}", self.decider.explain(), self.diary.join("\n"));
    }

    /// What standbys receive.
    fn stream(&mut self) {
        for node in self.nodes.keys().cloned().collect::<Vec<_>>() {
            let Some(upstream) = self.upstream_of(&node) else { continue };
            let (lsn, history) = (upstream.lsn, upstream.history.clone());
            let standby = self.nodes.get_mut(&node).unwrap();
            (standby.lsn, standby.replayed, standby.history) = (lsn, lsn, history);
        }
    }

    /// The primary that a standby really streams from.
    fn upstream_of(&self, node: &str) -> Option<&Node> {
        let standby = &self.nodes[node];
        let address = standby.follows.as_ref().filter(|_| standby.running && !standby.primary && !standby.frozen)?;
        let member = self.settings.nodes.iter().find(|m| format!("{}:{}", m.host, m.port) == *address)?;
        let upstream = &self.nodes[&member.name];
        let fits = upstream.history.has(standby.history.timeline, standby.lsn);
        (upstream.running && !upstream.hung && upstream.primary && fits).then_some(upstream)
    }

    // --- what happens to the nodes

    pub fn kill(&mut self, node: &str) {
        self.node(node).running = false;
        self.input(Input::PostmasterDied(name(node)));
    }

    pub fn agent_dies(&mut self, node: &str) {
        self.node(node).agent = false;
        self.input(Input::Silent(name(node), "connection refused".into()));
    }

    pub fn agent_returns(&mut self, node: &str) {
        self.node(node).agent = true;
        self.report(node);
    }

    /// The machine is gone.
    pub fn machine_dies(&mut self, node: &str) {
        self.node(node).running = false;
        self.node(node).reachable = false;
        self.agent_dies(node);
        self.seen(node);
    }

    /// The daemon dies and is started again.
    pub fn restart_daemon(&mut self) {
        self.diary.push("daemon restarts".into());
        self.appointed = None;
        self.decider = Decider::new(self.settings.clone(), "us".into(), self.stored.clone());
        for node in self.nodes.keys().cloned().collect::<Vec<_>>() {
            if self.nodes[&node].agent {
                self.report(&node);
            } else {
                self.input(Input::Silent(node, "connection refused".into()));
            }
        }
    }

    pub fn ask(&mut self, command: Command) -> Result<Accepted, Reason> {
        self.asked += 1;
        let asked = self.asked;
        self.input(Input::Asked(asked, command));
        let reply = self.replies.get(&asked).cloned().expect("an answer at once");
        reply.map_err(|refused| refused.reason)
    }

    pub fn switchover(&mut self, to: &str) -> Result<Accepted, Reason> {
        self.ask(Command::Switchover { to: Some(name(to)) })
    }

    /// As [`World::switchover`], by somebody who does not live to read the answer.
    pub fn switchover_without_answer(&mut self, to: &str) {
        self.input(Input::Asked(999, Command::Switchover { to: Some(name(to)) }));
    }

    pub fn failover(&mut self, vouch: Option<&str>) -> Result<Accepted, Reason> {
        self.ask(Command::Failover { to: None, vouch: vouch.map(name), allow_data_loss: false })
    }

    // --- inputs and outputs

    pub fn report(&mut self, node: &str) {
        let status = self.status(node);
        self.input(Input::Reported(name(node), Box::new(status)));
    }

    fn seen(&mut self, node: &str) {
        let it = &self.nodes[node];
        let healthy = it.running && it.reachable && !it.hung;
        let sight = Sight {
            healthy,
            role: healthy.then_some(if it.primary { Role::Primary } else { Role::Standby }),
            timeline: healthy.then_some(it.history.timeline),
            received_lsn: healthy.then_some(it.lsn),
            replayed_lsn: (healthy && !it.primary).then_some(it.replayed),
            system_identifier: healthy.then_some(it.system),
            trouble: None,
        };
        self.input(Input::Seen(name(node), sight));
    }

    pub fn status(&self, node: &str) -> AgentStatus {
        let it = &self.nodes[node];
        let streams = self.upstream_of(node).is_some();
        let control = Control {
            state: "in production".into(),
            timeline: it.history.timeline,
            checkpoint: it.lsn,
            redo: it.lsn,
            min_recovery: it.lsn,
        };
        let postgres = PostgresStatus {
            processes: if it.running { 9 } else { 0 },
            postmaster: it.running.then_some(77),
            accepting: match (it.running, it.hung) {
                (true, false) if it.recovering => Accepting::NotYet { said: "it is in recovery mode".into() },
                (true, false) => Accepting::Yes,
                (true, true) => Accepting::Silent { times: 3 },
                (false, _) => Accepting::No,
            },
            latched: it.latched,
            frozen: it.frozen,
            in_recovery: (it.running && !it.hung && !it.recovering).then_some(!it.primary),
            system_identifier: Some(it.system),
            timeline: Some(it.history.timeline),
            history: it.history.clone(),
            received_lsn: it.running.then_some(it.lsn),
            replayed_lsn: (it.running && !it.primary).then_some(it.replayed),
            streaming_from: it.follows.clone().filter(|_| streams),
            slots: it
                .slots
                .iter()
                .map(|slot| Slot { name: slot.clone(), active: false, lost: it.lost.contains(slot) })
                .collect(),
            slots_unbounded: it.slot_bound.is_none(),
            version: Some(150_000),
            control: (!it.running).then_some(control),
            recovery_bytes: it.recovery_bytes,
        };
        AgentStatus {
            cluster: "main".into(),
            node: node.into(),
            version: "1".into(),
            incarnation: "1".into(),
            epoch: it.epoch,
            coordinator: it.coordinator.clone(),
            postgres,
            disk_free: 1 << 40,
            job: it.last_job.as_ref().and_then(|id| it.jobs.get(id)).cloned(),
            warnings: Vec::new(),
        }
    }

    /// Gives an input, and everything that comes of it.
    pub fn input(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        let mut steps = 0;
        while let Some(input) = inputs.pop_front() {
            steps += 1;
            assert!(steps < 200, "it never comes to rest:\n{}", self.diary.join("\n"));
            let outputs = self.decider.step(self.now, input);
            assert!(outputs.len() <= OUTPUTS_MAX, "{outputs:#?}");
            self.outputs += outputs.len();
            let life = self.decider.record().coordinator.clone();
            for output in outputs {
                inputs.extend(self.carry_out(output));
                if life.is_empty() {
                    return;
                }
            }
        }
    }

    fn carry_out(&mut self, output: Output) -> Vec<Input> {
        match output {
            Output::Store(record) => self.store(*record),
            Output::Send(node, order) => {
                let known = self.nodes[&node].jobs.contains_key(&order.id);
                if !self.nodes[&node].agent {
                    return vec![Input::Undelivered(node, order.id.clone(), "connection refused".into())];
                }
                if !known {
                    self.diary.push(format!("{} {node} @{}", order.directive.name(), order.epoch));
                }
                self.take(&node, *order)
            }
            Output::Ask(node) if self.nodes[&node].agent => {
                let status = self.status(&node);
                vec![Input::Reported(node, Box::new(status))]
            }
            Output::Ask(node) => vec![Input::Silent(node, "connection refused".into())],
            Output::Look(_) => Vec::new(),
            Output::Appoint(appointment) => {
                let who = appointment.primary.as_deref().unwrap_or("nobody");
                let held = if appointment.held { ", held" } else { "" };
                self.diary.push(format!("appoint {who} @{}{held}", appointment.epoch));
                self.appointed = Some(appointment);
                Vec::new()
            }
            Output::Reply(id, answer) => {
                assert!(self.replies.insert(id, answer).is_none() || id == 999, "answered twice");
                Vec::new()
            }
            Output::Tell(_) => Vec::new(),
        }
    }

    fn store(&mut self, record: Record) -> Vec<Input> {
        let generation = record.generation;
        if self.store_fails {
            return vec![Input::NotStored(generation, "No space left on device".into())];
        }
        assert!(self.stored.as_ref().is_none_or(|stored| stored.generation < generation), "generations grow");
        let text = match &record.intent {
            None => "nothing".to_owned(),
            Some(intent) => serde_json::to_value(intent).unwrap()["intent"].as_str().unwrap().to_owned(),
        };
        self.diary.push(format!("store {text}"));
        let stopping = matches!(record.intent, Some(Intent::Switchover { stopping: true, .. }));
        let dies = self.dies_at.take_if(|at| text.contains(*at) || (*at == "stopping" && stopping)).is_some();
        self.stored = Some(record);
        if dies {
            self.restart_daemon();
            return Vec::new();
        }
        vec![Input::Stored(generation)]
    }

    /// What an agent does with an order.
    fn take(&mut self, node: &str, order: Order) -> Vec<Input> {
        let who = name(node);
        let id = order.id.clone();
        if let Some(job) = self.nodes[node].jobs.get(&id) {
            return vec![Input::Moved(who, Box::new(job.clone()))];
        }
        let it = self.nodes.get_mut(node).unwrap();
        let refuse = |code| vec![Input::Refused(name(node), id.clone(), Failure::new(code, format!("{code:?}")))];
        if order.epoch < it.epoch {
            return refuse(Code::StaleEpoch);
        }
        if order.epoch == it.epoch && !it.coordinator.is_empty() && it.coordinator != order.coordinator {
            return refuse(Code::OtherCoordinator);
        }
        if it.jobs.values().any(|job| !job.state.is_terminal()) && order.directive != Directive::Fence {
            return refuse(Code::Busy);
        }
        it.epoch = order.epoch;
        it.coordinator.clone_from(&order.coordinator);
        let verb = order.directive.name();
        let mut job = Job {
            order,
            state: JobState::InProgress,
            steps: Vec::new(),
            metadata: BTreeMap::new(),
            failure: None,
            progress: None,
            began_ms: 0,
            ended_ms: None,
        };
        it.last_job = Some(id.clone());
        it.jobs.insert(id.clone(), job.clone());
        let mut moves = vec![Input::Moved(who.clone(), Box::new(job.clone()))];
        if it.hangs == Some(verb) {
            return moves;
        }
        let planned = it.fails.iter().position(|(of, _)| *of == verb).map(|at| it.fails.remove(at).1);
        let result = match planned {
            Some(code) => Err(Failure::new(code, format!("{verb}: {code:?}"))),
            None => self.perform(node, &job.order.directive),
        };
        match result {
            Ok(metadata) => {
                job.state = JobState::Completed;
                job.metadata = metadata;
            }
            Err(failure) => {
                job.state = JobState::Failed;
                job.failure = Some(failure);
            }
        }
        self.node(node).jobs.insert(id, job.clone());
        moves.push(Input::Moved(who.clone(), Box::new(job)));
        let status = self.status(node);
        moves.push(Input::Reported(who, Box::new(status)));
        moves
    }

    fn perform(&mut self, node: &str, directive: &Directive) -> Result<BTreeMap<String, String>, Failure> {
        let mut found = BTreeMap::new();
        let mut find = |key: &str, value: String| found.insert(key.to_owned(), value);
        match directive {
            Directive::Fence => {
                let it = self.node(node);
                (it.running, it.primary, it.latched, it.hung) = (false, false, true, false);
                find("proof", if it.wrong == Some("fence") { "none" } else { "no-process" }.to_owned());
            }
            Directive::Demote => {
                let it = self.node(node);
                if !it.running || !it.primary {
                    return Err(Failure::new(Code::WrongState, "no primary"));
                }
                find("shutdown_lsn", it.lsn.to_string());
                it.lsn.0 += 100;
                find("end_lsn", it.lsn.to_string());
                let (lsn, behind) = (it.lsn, it.wrong == Some("demote"));
                // walsenders send the shutdown checkpoint before they end
                for other in self.nodes.keys().cloned().collect::<Vec<_>>() {
                    if self.upstream_of(&other).is_some() && other.as_ref() != node && !behind {
                        self.node(&other).lsn = lsn;
                        self.node(&other).replayed = lsn;
                    }
                }
                let it = self.node(node);
                (it.running, it.primary, it.latched) = (false, false, true);
            }
            Directive::Freeze => {
                let it = self.node(node);
                if !it.running || it.primary {
                    return Err(Failure::new(Code::WrongState, "no running standby"));
                }
                it.frozen = true;
                find("timeline", it.history.timeline.to_string());
                find("received_lsn", it.lsn.to_string());
                find("replayed_lsn", it.replayed.to_string());
            }
            Directive::Unfreeze => self.node(node).frozen = false,
            Directive::Promote { slots } => {
                let it = self.node(node);
                if !it.running || it.primary {
                    return Err(Failure::new(Code::WrongState, "no running standby"));
                }
                it.history.forks.push((it.history.timeline, it.lsn));
                it.history.timeline.0 += 1;
                (it.primary, it.frozen, it.latched, it.follows) = (true, false, false, None);
                it.slots.extend(slots.iter().cloned());
                find("timeline", it.history.timeline.to_string());
                find("lsn", it.lsn.to_string());
            }
            Directive::Follow { upstream } => {
                let it = self.node(node);
                if !it.running && !upstream.history.has(it.history.timeline, it.lsn) {
                    return Err(Failure::new(Code::Diverged, "its log is no part of the other's"));
                }
                (it.running, it.latched, it.frozen) = (true, true, false);
                it.follows = Some(format!("{}:{}", upstream.host, upstream.port));
                self.stream();
            }
            Directive::Rewind { upstream } | Directive::Rebuild { upstream } => {
                let source = self.nodes[upstream.node.as_str()].clone();
                let it = self.node(node);
                (it.running, it.primary, it.latched, it.frozen) = (true, false, true, false);
                (it.lsn, it.history, it.system) = (source.lsn, source.history, source.system);
                it.follows = Some(format!("{}:{}", upstream.host, upstream.port));
            }
            Directive::Restart { primary } => {
                let it = self.node(node);
                it.running = true;
                it.hung = false;
                if *primary {
                    (it.primary, it.latched) = (true, false);
                }
            }
            Directive::Configure { settings, slots, drop_slots } => {
                let it = self.node(node);
                if let Some(bound) = settings.get("max_slot_wal_keep_size") {
                    it.slot_bound.clone_from(bound);
                }
                it.slots.extend(slots.iter().cloned());
                it.slots.retain(|slot| !drop_slots.contains(slot));
                it.lost.retain(|slot| !drop_slots.contains(slot));
            }
            Directive::Checkpoint => {
                if !self.nodes[node].running {
                    return Err(Failure::new(Code::WrongState, "it does not run"));
                }
            }
        }
        Ok(found)
    }

    // --- what a transcript says

    /// These lines stand in the diary in this order; others may stand between them.
    pub fn shows(&self, lines: &[&str]) {
        let mut rest = self.diary.iter();
        for line in lines {
            assert!(rest.any(|it| it == line), "\"{line}\" is not where it should be in:\n{}", self.diary.join("\n"));
        }
    }

    /// No line of the diary begins so.
    pub fn never(&self, begin: &str) {
        let found = self.diary.iter().find(|line| line.starts_with(begin));
        assert!(found.is_none(), "{found:?} in:\n{}", self.diary.join("\n"));
    }

    pub fn count(&self, begin: &str) -> usize {
        self.diary.iter().filter(|line| line.starts_with(begin)).count()
    }

    /// One primary, everybody else streams from it, and routing knows.
    pub fn is_whole(&self, primary: &str) {
        let explanation = self.decider.explain();
        let whole = self.nodes.iter().all(|(node, it)| {
            if node.as_ref() == primary { it.running && it.primary } else { self.upstream_of(node).is_some() }
        });
        let appointed = self.appointed.as_ref().and_then(|appointed| appointed.primary.as_deref());
        let good = whole && appointed == Some(primary) && explanation.state == "steady";
        assert!(good, "{explanation:#?}\n{:?}\n{}", self.appointed, self.diary.join("\n"));
    }
}
