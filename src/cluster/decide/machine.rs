//! The machine itself: takes an input in, goes on as far as it can, hands the outputs over.
//!
//! It looks at what is (level), not at what has just happened (edge): an input only changes what is known, and [`Decider::advance`]
//! does what follows from all that is known. So an input that is lost, late or repeated changes when something is done, not what.
//!
//! Not here: what is done in each stage: `start`, `steady`, `failover`, `switchover`.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::directive::{AgentStatus, Code, Directive, Failure, History, Job, Order};
use crate::pg::{Lsn, Timeline};
use crate::topology::{Appointment, Epoch, NodeName};

use super::errand::{Errand, Progress};
use super::knowledge::Known;
use super::operation::Operation;
use super::rejoin::Repair;
use super::stage::{self, Stage};
use super::{Accepted, Aside, Command, Event, Input, Intent, Mode, Output, Reason, Record, Refused, Settings};

/// Commands that wait for a record to be stored; more are refused.
const WAITING_MAX: usize = 64;
/// No word of an agent's is on its way for longer.
const STALE_WORDS: Duration = Duration::from_millis(1500);
/// Stages that one input can lead through.
const STAGES_PER_STEP: usize = 8;

/// The coordinator of one cluster.
#[derive(Clone, Debug)]
pub struct Decider {
    pub(super) settings: Settings,
    /// As decided; nothing follows from it while [`Self::pending`] is.
    pub(super) record: Record,
    /// As stored.
    stored: Record,
    pub(super) pending: Option<Pending>,
    /// The store has failed: why, and when it is tried again.
    pub(super) store_failed: Option<(String, Duration)>,
    pub(super) stage: Stage,
    pub(super) op: Operation,
    pub(super) nodes: BTreeMap<NodeName, Known>,
    pub(super) errands: BTreeMap<NodeName, Errand>,
    pub(super) repairs: BTreeMap<NodeName, Repair>,
    pub(super) appointed: Option<Appointment>,
    /// The primary was found, not made: another that accepts writes is fenced before routing hears of either.
    pub(super) found: bool,
    /// Where the primary's log ended when it was last seen.
    pub(super) position: Option<(Timeline, Lsn)>,
    /// How the primary came to its timeline.
    pub(super) history: Option<History>,
    /// What stands in the way; made anew by each step.
    pub(super) blocked: Vec<Refused>,
    /// Why the change of `primary` in the configuration is not carried out.
    pub(super) declared_refused: Option<Refused>,
    pub(super) declared_due: bool,
    /// When restarts in place were tried.
    pub(super) restarts: Vec<Duration>,
    pub(super) upkeep: super::upkeep::Upkeep,
    /// What this node's agent says counts when it knows of this job, or from then on: an older word of its may still be on its way.
    trusted: Option<(NodeName, String, Duration)>,
    /// Another number for each life of the daemon, and a count in it: for orders that belong to no operation.
    pub(super) life: u64,
    serial: u64,
    pub(super) wall_ms: u64,
    pub(super) now: Duration,
    pub(super) began: Option<Duration>,
    waiting: VecDeque<(u64, Command)>,
    out: Vec<Output>,
}

/// A record on its way to the store.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    generation: u64,
    /// The stage that begins with it.
    to: Stage,
    again_at: Duration,
    replies: Vec<(u64, Accepted)>,
    /// What is told then: nobody reads of something that does not happen.
    told: Vec<Output>,
    /// What is ordered then.
    order: Option<(NodeName, String, Directive)>,
}

impl Decider {
    /// A coordinator with what the store has. `coordinator`: who this is for the agents.
    #[must_use]
    pub fn new(settings: Settings, coordinator: String, record: Option<Record>) -> Self {
        let is_new = record.is_none();
        let stored = record.unwrap_or_default();
        let mut record = stored.clone();
        record.coordinator = coordinator;
        if is_new {
            record.declared.clone_from(&settings.declared);
        }
        let nodes = settings.nodes.iter().map(|member| (member.name.clone(), Known::new(member.clone()))).collect();
        Self {
            stage: Stage::Starting,
            declared_due: !is_new && record.declared != settings.declared,
            settings,
            record,
            stored,
            pending: None,
            store_failed: None,
            op: Operation::default(),
            nodes,
            errands: BTreeMap::new(),
            repairs: BTreeMap::new(),
            appointed: None,
            found: false,
            position: None,
            history: None,
            blocked: Vec::new(),
            declared_refused: None,
            restarts: Vec::new(),
            upkeep: super::upkeep::Upkeep::default(),
            trusted: None,
            life: 0,
            serial: 0,
            wall_ms: 0,
            now: Duration::ZERO,
            began: None,
            waiting: VecDeque::new(),
            out: Vec::new(),
        }
    }

    /// Takes one input at a moment, which is never before the last one; says what is to be done, in this order.
    pub fn step(&mut self, now: Duration, input: Input) -> Vec<Output> {
        self.now = now.max(self.now);
        self.began.get_or_insert(self.now);
        self.absorb(input);
        self.blocked.clear();
        if self.settings.mode == Mode::Observe {
            self.observe();
        } else {
            if self.stage == Stage::Observing {
                self.go(Stage::Starting);
            }
            self.advance();
        }
        std::mem::take(&mut self.out)
    }

    /// What has been decided, stored or not.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// The stage.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        self.stage
    }

    fn absorb(&mut self, input: Input) {
        let now = self.now;
        match input {
            Input::Tick { wall_ms } => self.wall_ms = wall_ms,
            Input::Seen(node, sight) => {
                if let Some(known) = self.nodes.get_mut(&node) {
                    known.see(now, sight);
                }
            }
            Input::Reported(node, status) => self.hear(&node, *status),
            Input::PostmasterDied(node) => {
                if let Some(known) = self.nodes.get_mut(&node) {
                    known.died = true;
                }
            }
            Input::Silent(node, why) => {
                if let Some(known) = self.nodes.get_mut(&node) {
                    known.silent.get_or_insert((now, why));
                }
            }
            Input::Moved(node, job) => self.job_moved(&node, &job),
            Input::Refused(node, id, failure) => self.order_refused(&node, &id, failure),
            Input::Undelivered(node, id, why) => {
                if let Some(errand) = self.errands.get_mut(&node).filter(|errand| errand.order.id == id) {
                    errand.undelivered(why);
                }
            }
            Input::Stored(generation) => self.was_stored(generation),
            Input::NotStored(generation, why) => self.was_not_stored(generation, why),
            Input::Open(count) => self.op.open = Some(count),
            Input::Asked(id, command) => {
                if self.waiting.len() < WAITING_MAX {
                    self.waiting.push_back((id, command));
                } else {
                    self.refuse(id, Reason::Busy, "too many commands wait already");
                }
            }
            Input::Settings(settings) => self.configure(settings),
        }
    }

    fn hear(&mut self, node: &NodeName, status: AgentStatus) {
        let now = self.now;
        let Some(known) = self.nodes.get_mut(node) else { return };
        if status.cluster != self.settings.cluster || status.node != **node {
            let why = format!("the agent is that of node \"{}\" of cluster \"{}\"", status.node, status.cluster);
            known.silent.get_or_insert((now, why));
            return;
        }
        let was_silent = known.silent.is_some();
        let job = status.job.clone();
        known.hear(now, status);
        if let Some(errand) = self.errands.get_mut(node).filter(|_| was_silent) {
            errand.again_at = now;
        }
        if let Some(job) = job {
            self.job_moved(node, &job);
        }
        self.note_primary(node);
    }

    /// Where the primary's log ends, and how it came to its timeline.
    fn note_primary(&mut self, node: &NodeName) {
        if self.record.primary.as_ref() != Some(node) {
            return;
        }
        let Some(known) = self.nodes.get(node) else { return };
        let Some(postgres) = known.word(self.now).map(|status| &status.postgres) else { return };
        if postgres.in_recovery != Some(false) {
            return;
        }
        if let Some(position) = known.reach() {
            self.position = self.position.max(Some(position));
        }
        if postgres.timeline == Some(postgres.history.timeline) && self.record.timeline == postgres.timeline {
            self.history = Some(postgres.history.clone());
        }
    }

    fn job_moved(&mut self, node: &NodeName, job: &Job) {
        let now = self.now;
        if let Some(errand) = self.errands.get_mut(node).filter(|errand| errand.order.id == job.order.id) {
            errand.moved(now, job);
        }
    }

    fn order_refused(&mut self, node: &NodeName, id: &str, failure: Failure) {
        let now = self.now;
        let outdated = matches!(failure.code, Code::StaleEpoch | Code::OtherCoordinator);
        if let Some(errand) = self.errands.get_mut(node).filter(|errand| errand.order.id == id) {
            errand.refused(now, failure);
            if outdated {
                self.out.push(Output::Ask(node.clone()));
            }
        }
    }

    fn configure(&mut self, settings: Settings) {
        let mut nodes = BTreeMap::new();
        for member in &settings.nodes {
            let mut known = self.nodes.remove(&member.name).unwrap_or_else(|| Known::new(member.clone()));
            known.member = member.clone();
            nodes.insert(member.name.clone(), known);
        }
        self.nodes = nodes;
        self.errands.retain(|node, _| self.nodes.contains_key(node));
        self.repairs.retain(|node, _| self.nodes.contains_key(node));
        if settings.declared != self.settings.declared {
            self.declared_due = true;
        }
        self.settings = settings;
    }

    /// Somebody else decides: nothing goes out, and what was under way is left as the record says.
    fn observe(&mut self) {
        if self.stage != Stage::Observing {
            self.go(Stage::Observing);
            self.errands.clear();
            self.repairs.clear();
            self.pending = None;
            self.record = Record { generation: self.record.generation, ..self.stored.clone() };
            self.appointed = None;
            self.life = 0;
        }
        for (id, _) in std::mem::take(&mut self.waiting) {
            self.refuse(
                id,
                Reason::NotManaged,
                "howdah does not manage this cluster: [clusters.NAME.failover] mode is \"observe\", or not every node has an agent",
            );
        }
    }

    /// Does what follows from what is known, until nothing does.
    fn advance(&mut self) {
        for _ in 0..STAGES_PER_STEP {
            if self.store_again() || self.store_failed.as_ref().is_some_and(|(_, until)| self.now < *until) {
                break;
            }
            let (before, generation) = (self.stage, self.record.generation);
            if self.life == 0 && self.stage != Stage::Starting {
                self.go(Stage::Starting);
            }
            if self.raise_epoch() {
                continue;
            }
            self.obey_next();
            if self.pending.is_some() {
                continue;
            }
            match self.stage {
                Stage::Observing | Stage::Starting => self.start(),
                Stage::Steady | Stage::Suspecting => self.steady(),
                Stage::Restarting => self.restarting(),
                Stage::Fencing => self.fencing(),
                Stage::Choosing => self.choosing(),
                Stage::Promoting => self.promoting(),
                Stage::Preparing => self.preparing(),
                Stage::Draining => self.draining(),
                Stage::Stopping => self.stopping(),
                Stage::CatchingUp => self.catching_up(),
            }
            if self.stage == before && self.record.generation == generation && self.waiting.is_empty() {
                break;
            }
        }
        self.resend();
        self.refuse_waiting();
    }

    /// One command, when nothing is on its way to the store.
    fn obey_next(&mut self) {
        if self.life == 0
            && self.record.generation == 0
            && self.stage == Stage::Starting
            && self.record.primary.is_none()
        {
            return; // refused below, while the primary is not known
        }
        while self.pending.is_none() {
            let Some((id, command)) = self.waiting.pop_front() else { break };
            self.obey(id, command);
        }
    }

    /// While the store fails or nobody is known, commands are not kept waiting.
    fn refuse_waiting(&mut self) {
        if self.pending.is_some() || self.waiting.is_empty() {
            return;
        }
        let (reason, text) = match &self.store_failed {
            Some((why, _)) => (Reason::StoreFailed, format!("the record cannot be stored: {why}")),
            None => {
                (Reason::NoPrimary, "the coordinator has just started and does not know the primary yet".to_owned())
            }
        };
        for (id, _) in std::mem::take(&mut self.waiting) {
            self.refuse(id, reason, text.clone());
        }
    }

    // --- the record

    /// Stores the record; `to` begins when it is stored.
    pub(super) fn store(&mut self, to: Stage) {
        self.record.generation = self.record.generation.saturating_add(1);
        if self.record.history.len() > 100 {
            let surplus = self.record.history.len().saturating_sub(100);
            self.record.history.drain(..surplus);
        }
        let again_at = self.now.saturating_add(Duration::from_secs(5));
        let generation = self.record.generation;
        let (told, out) = std::mem::take(&mut self.out).into_iter().partition(|it| matches!(it, Output::Tell(_)));
        self.out = out;
        self.pending = Some(Pending { generation, to, again_at, replies: Vec::new(), told, order: None });
        self.out.push(Output::Store(Box::new(self.record.clone())));
    }

    /// Answers a command when the record is stored.
    pub(super) fn accept_when_stored(&mut self, id: u64, accepted: Accepted) {
        match &mut self.pending {
            Some(pending) => pending.replies.push((id, accepted)),
            None => self.out.push(Output::Reply(id, Ok(accepted))),
        }
    }

    fn was_stored(&mut self, generation: u64) {
        let Some(pending) = self.pending.take_if(|pending| pending.generation == generation) else { return };
        self.stored = self.record.clone();
        self.store_failed = None;
        if self.life == 0 {
            self.life = generation;
        }
        for (id, accepted) in pending.replies {
            self.out.push(Output::Reply(id, Ok(accepted)));
        }
        self.out.extend(pending.told);
        self.go(pending.to);
        if let Some((node, id, directive)) = pending.order {
            self.order(&node, self.record.epoch, id, directive);
        }
    }

    /// Back to what is stored: whatever led to the record is still so, or is not, when it is tried again.
    fn was_not_stored(&mut self, generation: u64, why: String) {
        let Some(pending) = self.pending.take_if(|pending| pending.generation == generation) else { return };
        let coordinator = std::mem::take(&mut self.record.coordinator);
        self.record = Record { generation, coordinator, ..self.stored.clone() };
        for (id, _) in pending.replies {
            self.refuse(id, Reason::StoreFailed, format!("the record cannot be stored: {why}"));
        }
        if self.store_failed.is_none() {
            self.tell(None, true, format!("the record cannot be stored, nothing is done: {why}"));
        }
        self.store_failed = Some((why, self.now.saturating_add(self.settings.interval)));
    }

    /// Whether a record is on its way; one that nobody has spoken of for long is given again.
    fn store_again(&mut self) -> bool {
        let now = self.now;
        let Some(pending) = &mut self.pending else { return false };
        if now >= pending.again_at {
            pending.again_at = now.saturating_add(Duration::from_secs(5));
            self.out.push(Output::Store(Box::new(self.record.clone())));
        }
        true
    }

    // --- stages and words

    /// Goes to a stage; the table has the way.
    pub(super) fn go(&mut self, to: Stage) {
        if self.stage != to {
            debug_assert!(stage::may_go(self.stage, to), "no way from {:?} to {to:?} in the table", self.stage);
            self.stage = to;
            self.op.stage_since = self.now;
        }
    }

    pub(super) fn refuse(&mut self, id: u64, reason: Reason, text: impl Into<String>) {
        self.out.push(Output::Reply(id, Err(Refused { reason, text: text.into() })));
    }

    pub(super) fn reply(&mut self, id: u64, answer: Result<Accepted, Refused>) {
        self.out.push(Output::Reply(id, answer));
    }

    pub(super) fn tell(&mut self, node: Option<&NodeName>, grave: bool, text: impl Into<String>) {
        let operation = self.record.intent.as_ref().map(|intent| intent.id().to_owned());
        self.out.push(Output::Tell(Event { node: node.cloned(), grave, operation, text: text.into() }));
    }

    pub(super) fn block(&mut self, reason: Reason, text: impl Into<String>) {
        self.blocked.push(Refused { reason, text: text.into() });
    }

    pub(super) fn appoint(&mut self, primary: Option<NodeName>, held: bool) {
        let appointment = Appointment { epoch: self.record.epoch, primary, held };
        if self.appointed.as_ref() != Some(&appointment) {
            self.appointed = Some(appointment.clone());
            self.out.push(Output::Appoint(appointment));
        }
    }

    pub(super) fn ask(&mut self, node: &NodeName) {
        self.out.push(Output::Ask(node.clone()));
    }

    pub(super) fn look(&mut self, node: &NodeName) {
        self.out.push(Output::Look(node.clone()));
    }

    // --- orders

    /// An identifier for an order outside of operations: no other life of the daemon gives the same one.
    pub(super) fn fresh_id(&mut self, verb: &str, node: &NodeName) -> String {
        self.serial = self.serial.saturating_add(1);
        super::names::order_id(
            &self.settings.cluster,
            self.record.epoch,
            verb,
            node,
            &format!("{}.{}", self.life, self.serial),
        )
    }

    /// Gives an order, in place of whatever this node was told before.
    pub(super) fn order(&mut self, node: &NodeName, epoch: Epoch, id: String, directive: Directive) {
        let correlation = self.record.intent.as_ref().map_or_else(|| id.clone(), |intent| intent.id().to_owned());
        let order = Order {
            id,
            cluster: self.settings.cluster.clone(),
            node: node.to_string(),
            epoch,
            coordinator: self.record.coordinator.clone(),
            correlation,
            directive,
        };
        self.out.push(Output::Send(node.clone(), Box::new(order.clone())));
        let pause = self.settings.interval.max(Duration::from_millis(200));
        self.errands.insert(node.clone(), Errand::new(order, self.now, pause));
    }

    /// How the order with this id stands.
    pub(super) fn progress(&self, node: &NodeName, id: &str) -> Progress {
        match self.errands.get(node).filter(|errand| errand.order.id == id) {
            None => Progress::None,
            Some(errand) => match &errand.end {
                None => Progress::Running,
                Some(Ok(job)) => Progress::Done(job.clone()),
                Some(Err(failure)) => Progress::Failed(failure.clone()),
            },
        }
    }

    /// The node has an order whose job has not ended.
    pub(super) fn is_busy(&self, node: &NodeName) -> bool {
        self.errands.get(node).is_some_and(|errand| errand.end.is_none())
            || self.nodes.get(node).is_some_and(|known| known.running_job(self.now).is_some())
    }

    /// Stores the record, and gives the order when that is done.
    pub(super) fn order_when_stored(&mut self, node: &NodeName, id: String, directive: Directive) {
        self.store(self.stage);
        if let Some(pending) = &mut self.pending {
            pending.order = Some((node.clone(), id, directive));
        }
    }

    /// The record on its way has changed once more in this step.
    pub(super) fn restore(&mut self) {
        let to = self.pending.as_ref().map_or(self.stage, |pending| pending.to);
        self.out.retain(|output| !matches!(output, Output::Store(_)));
        self.record.generation = self.record.generation.saturating_sub(1);
        self.store(to);
    }

    fn resend(&mut self) {
        if self.pending.is_some() && self.stage == Stage::Starting {
            return;
        }
        for (node, errand) in &mut self.errands {
            if errand.is_due(self.now) {
                errand.sent(self.now);
                self.out.push(Output::Send(node.clone(), Box::new(errand.order.clone())));
            }
        }
    }

    // --- short ways to what is known

    /// From now on only words that know of this job count.
    pub(super) fn trust_after(&mut self, node: &NodeName, job: &Job) {
        let until = self.now.saturating_add(STALE_WORDS);
        self.trusted = Some((node.clone(), job.order.id.clone(), until));
        if let Some(known) = self.nodes.get_mut(node) {
            known.died = false;
        }
    }

    /// The agent's last word is not one from before the job that made this node what it is.
    pub(super) fn is_trusted(&self, node: &NodeName) -> bool {
        let Some((doubted, id, until)) = &self.trusted else { return true };
        let job = self.word(node).and_then(|status| status.job.as_ref());
        let last = self.errands.get(node).map(|errand| &errand.order.id);
        let knows = |job: &Job| if job.order.id == *id { job.state.is_terminal() } else { Some(&job.order.id) == last };
        doubted != node || self.now >= *until || job.is_some_and(knows)
    }

    pub(super) fn word(&self, node: &NodeName) -> Option<&AgentStatus> {
        self.nodes.get(node)?.word(self.now)
    }

    pub(super) fn is_aside(&self, node: &NodeName) -> Option<&Aside> {
        self.record.aside.get(node)
    }

    /// When its agent last spoke.
    pub(super) fn heard_at(&self, node: &NodeName) -> Duration {
        self.nodes.get(node).map_or(Duration::ZERO, |known| known.status_at)
    }

    /// All nodes with an agent but these.
    pub(super) fn others(&self, than: &NodeName) -> Vec<NodeName> {
        let members = self.settings.nodes.iter();
        members.filter(|member| member.has_agent && member.name != *than).map(|member| member.name.clone()).collect()
    }

    /// Since when this stage lasts.
    pub(super) fn in_stage(&self) -> Duration {
        self.now.saturating_sub(self.op.stage_since)
    }

    /// The epoch of the operation that is under way: the next one.
    pub(super) fn next_epoch(&self) -> Epoch {
        Epoch(self.record.epoch.0.saturating_add(1))
    }

    pub(super) fn is_alive_record(&self) -> bool {
        self.life != 0
    }
}

impl Intent {
    /// Of the operation.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Failover { id, .. }
            | Self::RestartInPlace { id, .. }
            | Self::Switchover { id, .. }
            | Self::Promote { id, .. } => id,
        }
    }
}
