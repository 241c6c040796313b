//! Takes orders and runs them, one job at a time: what comes next is [`course`](super::course)'s to say, this does it.
//!
//! Taken means: the epoch is on the disk, then the journal. Each act runs in a task of its own, so that a panic is a failure and a
//! time limit an end; when a task is given up it is waited for, so that no act overlaps with its undo. What a step has handed to a
//! thread or a program must end with its future.
//!
//! A fence supersedes whatever runs: that is given up and undone, for [`SUPERSEDED_BOUND`] at most, then the fence begins.

use std::any::Any;
use std::collections::VecDeque;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::Instrument;

use super::config::AgentConfig;
use super::course::{Next, Record, TRIES_MAX, supersedes};
use super::epochs::{Epochs, Promise};
use super::events::Events;
use super::journal::{self, Journal, KEPT};
use super::step::{Notes, Step, Work};
use crate::directive::{Code, Directive, Failure, Job, JobState, Order};

/// A superseded job is undone for so long at most; what is left then is left, and said.
const SUPERSEDED_BOUND: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 10_000 });
/// Before an act is tried again: twice as long each time.
const AGAIN_AFTER: Duration = Duration::from_millis(if cfg!(test) { 2 } else { 200 });
/// Before a job's end is written again to a disk that has refused it.
const WRITE_AGAIN_AFTER: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1_000 });
/// Lines of a step's log, the last ones.
const LINES_MAX: usize = 200;
/// Characters of a line.
const LINE_CHARS_MAX: usize = 2_000;
/// Progress is told at most so often.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// Makes the steps of an order.
pub type Planner = dyn Fn(&Order, &AgentConfig) -> Result<Vec<Box<dyn Step>>, Failure> + Send + Sync;
type Plan = Vec<Arc<dyn Step>>;

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A new job.
    New(Box<Job>),
    /// The job it has made before.
    Known(Box<Job>),
}

/// Runs jobs.
pub struct Engine {
    config: Arc<AgentConfig>,
    planner: Box<Planner>,
    journal: Journal,
    events: Arc<Events>,
    /// Held while an order is taken: one after the other.
    epochs: tokio::sync::Mutex<Epochs>,
    promise: watch::Sender<Promise>,
    jobs: Mutex<Jobs>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Jobs {
    /// Newest last.
    known: VecDeque<Arc<Mutex<Live>>>,
    running: Option<Running>,
    /// A fence that waits for the undoing of what it has superseded.
    waiting: Option<(Arc<Mutex<Live>>, Plan)>,
}

struct Running {
    order: Order,
    /// Says who supersedes it.
    superseded: watch::Sender<Option<String>>,
}

/// A job in memory.
struct Live {
    record: Record,
    /// The step whose act or undo runs.
    current: usize,
}

impl Jobs {
    fn find(&self, id: &str) -> Option<Arc<Mutex<Live>>> {
        self.known.iter().find(|live| live.lock().record.job.order.id == id).cloned()
    }

    /// This one runs now.
    fn begin(&mut self, order: Order) -> watch::Receiver<Option<String>> {
        let (superseded, watch) = watch::channel(None);
        self.running = Some(Running { order, superseded });
        watch
    }
}

impl Engine {
    /// Takes up what former lives have left: a job in the middle goes on at once, on the present runtime.
    pub fn start(
        config: Arc<AgentConfig>,
        planner: Box<Planner>,
        (journal, records): (Journal, Vec<Record>),
        epochs: Epochs,
        events: Arc<Events>,
    ) -> Arc<Self> {
        let promise = watch::channel(epochs.promise().clone()).0;
        let mut jobs = Jobs::default();
        let mut unended = Vec::new();
        for record in records {
            let ended = record.job.state.is_terminal();
            let live = Arc::new(Mutex::new(Live { record, current: 0 }));
            if !ended {
                unended.push(Arc::clone(&live));
            }
            jobs.known.push_back(live);
        }
        let engine = Arc::new(Self {
            config,
            planner,
            journal,
            events,
            epochs: tokio::sync::Mutex::new(epochs),
            promise,
            jobs: Mutex::new(jobs),
        });
        engine.take_up(unended);
        engine
    }

    /// Oldest first; there are two when a fence was taken while what it superseded was undone.
    fn take_up(self: &Arc<Self>, mut unended: Vec<Arc<Mutex<Live>>>) {
        let Some(first) = (!unended.is_empty()).then(|| unended.remove(0)) else { return };
        let order = {
            let mut live = first.lock();
            live.record.found_in_the_middle(&journal::now());
            live.record.job.order.clone()
        };
        tracing::warn!(job = order.id, directive = order.directive.name(), "found a job in the middle");
        let plan = self.plan(&order);
        let superseded = self.jobs.lock().begin(order.clone());
        self.launch(Launch { live: first, order, superseded }, plan, unended);
    }

    fn plan(&self, order: &Order) -> Result<Plan, Failure> {
        let made = std::panic::catch_unwind(AssertUnwindSafe(|| (self.planner)(order, &self.config)));
        let plan = made.unwrap_or_else(|panic| Err(panicked(&*panic)))?;
        Ok(plan.into_iter().map(Arc::from).collect())
    }

    /// The highest epoch and whose it is.
    #[must_use]
    pub fn promise(&self) -> Promise {
        self.promise.borrow().clone()
    }

    /// The job that runs, or the last one.
    #[must_use]
    pub fn present(&self) -> Option<Job> {
        let jobs = self.jobs.lock();
        let id = jobs.running.as_ref().map(|running| running.order.id.as_str());
        let live = id.and_then(|id| jobs.find(id)).or_else(|| jobs.known.back().cloned())?;
        let job = live.lock().record.job.clone();
        Some(job)
    }

    /// A job by its id.
    #[must_use]
    pub fn job(&self, id: &str) -> Option<Job> {
        let live = self.jobs.lock().find(id)?;
        let job = live.lock().record.job.clone();
        Some(job)
    }

    /// The last jobs, newest first.
    #[must_use]
    pub fn jobs(&self) -> Vec<Job> {
        self.jobs.lock().known.iter().rev().map(|live| live.lock().record.job.clone()).collect()
    }

    /// Whether the job that runs may stop PostgreSQL: then a postmaster's end is its doing.
    #[must_use]
    pub fn may_stop_postgres(&self) -> bool {
        use Directive::{
            Checkpoint, Configure, Demote, Fence, Follow, Freeze, Promote, Rebuild, Restart, Rewind, Unfreeze,
        };
        match self.jobs.lock().running.as_ref().map(|running| &running.order.directive) {
            Some(Fence | Demote | Follow { .. } | Rewind { .. } | Rebuild { .. } | Restart { .. }) => true,
            Some(Freeze | Unfreeze | Promote { .. } | Configure { .. } | Checkpoint) | None => false,
        }
    }

    /// Takes an order: checks it, persists its epoch and the job, and begins.
    ///
    /// # Errors
    /// The reason of the refusal; nothing has been done then.
    pub async fn take(self: &Arc<Self>, order: Order) -> Result<Taken, Failure> {
        // to its end, whatever becomes of the connection that has brought it
        let engine = Arc::clone(self);
        let taken = tokio::spawn(async move { engine.take_whole(order).await });
        taken.await.unwrap_or_else(|ended| Err(ended_badly(ended)))
    }

    async fn take_whole(self: Arc<Self>, order: Order) -> Result<Taken, Failure> {
        check(&order, &self.config)?;
        let mut epochs = self.epochs.lock().await;
        if let Some(known) = self.job(&order.id) {
            // told again by another life of its coordinator it has another correlation
            if (Order { correlation: known.order.correlation.clone(), ..order.clone() }) == known.order {
                return Ok(Taken::Known(Box::new(known)));
            }
            let text = format!("job \"{}\" is known, and is another order: {}", order.id, known.order.directive.name());
            return Err(Failure::new(Code::Malformed, text));
        }
        epochs.promise().after(order.epoch, &order.coordinator)?;
        self.free_for(&order)?;
        let plan = self.plan(&order)?;
        match epochs.take(order.epoch, &order.coordinator).await {
            Err(full)
                if full.code == Code::DiskFull
                    && order.directive == Directive::Fence
                    && self.journal.give_up_reserve() =>
            {
                epochs.take(order.epoch, &order.coordinator).await?;
            }
            taken => taken?,
        }
        self.promise.send_replace(epochs.promise().clone());
        let record = Record::new(order.clone(), now_ms());
        self.journal.write(&record).await?;
        let job = record.job.clone();
        tracing::info!(
            job = order.id,
            directive = order.directive.name(),
            epoch = order.epoch.0,
            coordinator = order.coordinator,
            correlation = order.correlation,
            "took an order"
        );
        self.events.job(&job);
        self.events.want_status();
        let live = Arc::new(Mutex::new(Live { record, current: 0 }));
        let mut jobs = self.jobs.lock();
        jobs.known.push_back(Arc::clone(&live));
        if let Some(running) = &jobs.running {
            running.superseded.send_replace(Some(order.id));
            jobs.waiting = Some((live, plan));
        } else {
            let superseded = jobs.begin(order.clone());
            drop(jobs);
            self.launch(Launch { live, order, superseded }, Ok(plan), Vec::new());
        }
        Ok(Taken::New(Box::new(job)))
    }

    /// Whether this order need not wait for another.
    fn free_for(&self, order: &Order) -> Result<(), Failure> {
        let jobs = self.jobs.lock();
        let busy = |id: &str, name: &str| Failure::new(Code::Busy, format!("job \"{id}\" runs ({name})"));
        if let Some((waiting, _)) = &jobs.waiting {
            let waiting = waiting.lock();
            let waiting = &waiting.record.job.order;
            return Err(busy(&waiting.id, waiting.directive.name()));
        }
        match &jobs.running {
            Some(running) if !supersedes(order, &running.order) => {
                Err(busy(&running.order.id, running.order.directive.name()))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn launch(self: &Arc<Self>, launch: Launch, plan: Result<Plan, Failure>, then: Vec<Arc<Mutex<Live>>>) {
        let Launch { live, order, superseded } = launch;
        let (id, correlation, directive) = (order.id.clone(), order.correlation.clone(), order.directive.name());
        let span = tracing::info_span!("job", job = id, directive, correlation);
        let drive = Drive { engine: Arc::clone(self), live, order, superseded, began: Instant::now(), until: None };
        tokio::spawn(async move { drive.run(plan, then).await }.instrument(span));
    }

    /// The job that ran has ended: what waited begins.
    fn go_on(self: &Arc<Self>, then: Vec<Arc<Mutex<Live>>>) {
        let mut forgotten = Vec::new();
        let waiting = {
            let mut jobs = self.jobs.lock();
            jobs.running = None;
            while jobs.known.len() > KEPT {
                let Some(oldest) = jobs.known.pop_front() else { break };
                forgotten.push(oldest.lock().record.job.order.id.clone());
            }
            // under this lock: no other order may come in between
            jobs.waiting.take().map(|(live, plan)| {
                let order = live.lock().record.job.order.clone();
                let superseded = jobs.begin(order.clone());
                (Launch { live, order, superseded }, plan)
            })
        };
        match waiting {
            Some((launch, plan)) => self.launch(launch, Ok(plan), then),
            None => self.take_up(then),
        }
        let (journal, events) = (self.journal.clone(), Arc::clone(&self.events));
        tokio::spawn(async move {
            if let Err(failure) = journal.forget(forgotten).await {
                tracing::warn!(error = %failure, "old jobs could not be removed from the journal");
            }
        });
        events.want_status();
    }
}

/// A job that is about to run.
struct Launch {
    live: Arc<Mutex<Live>>,
    order: Order,
    superseded: watch::Receiver<Option<String>>,
}

/// What every order must be.
fn check(order: &Order, config: &AgentConfig) -> Result<(), Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if order.id.is_empty() || order.id.len() > 64 || !order.id.chars().all(plain) {
        let text = "id must be 1 to 64 letters, digits, \"-\", \"_\" and \".\"";
        return Err(Failure::new(Code::Malformed, text));
    }
    if order.cluster != config.cluster || order.node != config.node {
        let text = format!(
            "the order is for node \"{}\" of cluster \"{}\", and this is node \"{}\" of cluster \"{}\"",
            order.node, order.cluster, config.node, config.cluster
        );
        return Err(Failure::new(Code::WrongNode, text));
    }
    Ok(())
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    Failure::new(Code::Internal, format!("howdah panicked: {text}"))
}

fn ended_badly(ended: tokio::task::JoinError) -> Failure {
    match ended.try_into_panic() {
        Ok(panic) => panicked(&*panic),
        Err(ended) => Failure::new(Code::Internal, ended.to_string()),
    }
}

/// One job's way to its end.
struct Drive {
    engine: Arc<Engine>,
    live: Arc<Mutex<Live>>,
    order: Order,
    superseded: watch::Receiver<Option<String>>,
    began: Instant,
    /// Undoing ends here.
    until: Option<Instant>,
}

impl Drive {
    async fn run(mut self, plan: Result<Plan, Failure>, then: Vec<Arc<Mutex<Live>>>) {
        let notes = Arc::new(Voice {
            live: Arc::clone(&self.live),
            events: Arc::clone(&self.engine.events),
            told: Mutex::new(None),
        });
        let work = Arc::new(Work { config: Arc::clone(&self.engine.config), order: self.order.clone(), notes });
        let plan = self.fitting(plan);
        loop {
            self.look_superseded();
            let next = self.live.lock().record.next(plan.len());
            match next {
                Next::Begin(index) => self.begin(&plan, &work, index).await,
                Next::Again(index) => self.again(&plan, &work, index).await,
                Next::Undo(index) => self.undo(&plan, &work, index).await,
                Next::End(state) => {
                    self.end(state).await;
                    break;
                }
                Next::Nothing => break,
            }
        }
        self.engine.go_on(then);
    }

    /// A plan that is not the one which was begun (another version of howdah) can neither be undone nor gone on with.
    fn fitting(&self, plan: Result<Plan, Failure>) -> Plan {
        let mut live = self.live.lock();
        let begun: Vec<&str> = live.record.job.steps.iter().map(|step| step.name.as_str()).collect();
        let said = match plan {
            Ok(plan)
                if begun
                    .iter()
                    .enumerate()
                    .all(|(index, name)| plan.get(index).is_some_and(|step| step.name() == *name)) =>
            {
                return plan;
            }
            Ok(_) => "its steps are not those that this version of howdah would take".to_owned(),
            Err(failure) => failure.text,
        };
        let none = begun.is_empty();
        let text = format!("the job was begun and cannot be undone: {said}");
        live.record.turned = Some(Failure::new(if none { Code::Interrupted } else { Code::NotUndone }, text));
        live.record.tries = TRIES_MAX;
        Vec::new()
    }

    fn look_superseded(&mut self) {
        let by = self.superseded.borrow_and_update().clone();
        if let Some(by) = by
            && self.until.is_none()
        {
            self.until = Some(Instant::now() + SUPERSEDED_BOUND);
            let mut live = self.live.lock();
            if live.record.turned.is_none() {
                tracing::warn!(by, "superseded");
                live.record.turn(Failure::new(Code::Interrupted, format!("superseded by job \"{by}\"")));
            }
        }
    }

    /// How long a step may take now: its own bound, and within the job's as long as it could still be undone.
    fn bound(&self, step: &dyn Step) -> Duration {
        let jobs = &self.engine.config.jobs;
        let own = step.bound().unwrap_or(jobs.step_timeout.get());
        if self.live.lock().record.passed {
            return own;
        }
        own.min(jobs.job_timeout.get().saturating_sub(self.began.elapsed()))
    }

    async fn begin(&mut self, plan: &Plan, work: &Arc<Work>, index: usize) {
        let Some(step) = plan.get(index).cloned() else { return self.defect("a step that is not in the plan") };
        self.live.lock().current = index;
        tracing::info!(step = step.name(), "begins");
        let (acting, working) = (Arc::clone(&step), Arc::clone(work));
        let before = self.act(self.bound(&*step), Duration::ZERO, async move { acting.before(&working).await }).await;
        let mut next = self.live.lock().record.clone();
        match before {
            Ok(before) => next.begin(step.name(), before, step.is_point_of_no_return(), now_ms()),
            Err(failure) => {
                tracing::warn!(step = step.name(), error = %failure, "cannot begin");
                next.unfit(step.name(), named(&*step, failure), now_ms());
                return self.store(next).await;
            }
        }
        if let Err(failure) = self.engine.journal.write(&next).await {
            tracing::warn!(step = step.name(), error = %failure, "cannot be journalled, and is not begun");
            let mut next = self.live.lock().record.clone();
            next.unfit(step.name(), named(&*step, failure), now_ms());
            return self.store(next).await;
        }
        self.set(next);
        self.apply(step, work, index).await;
    }

    async fn again(&mut self, plan: &Plan, work: &Arc<Work>, index: usize) {
        let Some(step) = plan.get(index).cloned() else { return self.defect("a step that is not in the plan") };
        let tries = {
            let mut live = self.live.lock();
            live.current = index;
            live.record.tries
        };
        tracing::warn!(step = step.name(), tries, "behind the point of no return: once more");
        self.pause(tries).await;
        self.apply(step, work, index).await;
    }

    async fn apply(&mut self, step: Arc<dyn Step>, work: &Arc<Work>, index: usize) {
        let started = Instant::now();
        let (acting, working) = (Arc::clone(&step), Arc::clone(work));
        let applied = self.act(self.bound(&*step), Duration::ZERO, async move { acting.apply(&working).await }).await;
        let mut next = self.live.lock().record.clone();
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match applied {
            Ok(()) => {
                // on the disk together with what comes next: a life that knows it as begun undoes it, or does it again
                next.done(index, now_ms());
                tracing::info!(step = step.name(), took_ms, "done");
                return self.set(next);
            }
            Err(failure) => {
                tracing::warn!(step = step.name(), took_ms, error = %failure, "failed");
                next.failed(index, named(&*step, failure), now_ms());
            }
        }
        self.store(next).await;
    }

    async fn undo(&mut self, plan: &Plan, work: &Arc<Work>, index: usize) {
        let Some(step) = plan.get(index).cloned() else { return self.defect("a step that is not in the plan") };
        let (before, tries) = {
            let mut live = self.live.lock();
            live.current = index;
            (live.record.before.get(index).cloned().flatten().unwrap_or(Value::Null), live.record.tries)
        };
        let own = step.bound().unwrap_or(self.engine.config.jobs.step_timeout.get());
        self.pause(tries).await;
        self.look_superseded();
        let bound = match self.until {
            Some(until) => own.min(until.saturating_duration_since(Instant::now())),
            None => own,
        };
        let (acting, working) = (Arc::clone(&step), Arc::clone(work));
        let undone = self.act(bound, SUPERSEDED_BOUND, async move { acting.undo(&working, &before).await }).await;
        let mut next = self.live.lock().record.clone();
        match undone {
            Ok(()) => {
                tracing::info!(step = step.name(), "undone");
                next.undone(index, now_ms());
            }
            Err(failure) => {
                tracing::warn!(step = step.name(), tries, error = %failure, "could not be undone");
                let last = self.until.is_some_and(|until| Instant::now() >= until);
                next.not_undone(index, &failure, last);
            }
        }
        self.store(next).await;
    }

    async fn pause(&mut self, tries: u32) {
        if tries > 0 {
            let wait = AGAIN_AFTER.saturating_mul(1_u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX));
            let wait = wait.min(Duration::from_secs(5));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = self.superseded.changed() => {}
            }
        }
    }

    /// Runs an act to its end, its bound, or so long after the job is superseded. When this returns the act does not run any more.
    async fn act<T: Send + 'static>(
        &mut self,
        bound: Duration,
        when_superseded: Duration,
        act: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        let mut task: JoinHandle<Result<T, Failure>> = tokio::spawn(act.in_current_span());
        let mut superseded = self.superseded.clone();
        let given_up = tokio::select! {
            ended = &mut task => return ended.unwrap_or_else(|ended| Err(ended_badly(ended))),
            () = tokio::time::sleep(bound) => {
                Failure::new(Code::TimedOut, format!("not done within {:.1} s", bound.as_secs_f64()))
            }
            () = after(&mut superseded, when_superseded) => {
                let by = self.superseded.borrow().clone().unwrap_or_default();
                Failure::new(Code::Interrupted, format!("superseded by job \"{by}\""))
            }
        };
        task.abort();
        match task.await {
            // it has ended in the very moment
            Ok(ended) => ended,
            Err(ended) if ended.is_panic() => Err(ended_badly(ended)),
            Err(_) => Err(given_up),
        }
    }

    /// Writes a record that says how something went. It is true whether or not it can be written: without it a later life would
    /// undo, or do behind the point of no return, what is undone or done, which is the same.
    async fn store(&self, next: Record) {
        if let Err(failure) = self.engine.journal.write(&next).await {
            tracing::error!(error = %failure, "the journal cannot be written");
        }
        self.set(next);
    }

    fn set(&self, next: Record) {
        let job = {
            let mut live = self.live.lock();
            live.record = next;
            live.record.job.clone()
        };
        self.engine.events.job(&job);
    }

    /// The end must be on the disk before another job begins: see [`Journal`].
    async fn end(&mut self, state: JobState) {
        let mut next = self.live.lock().record.clone();
        next.finish(state, now_ms());
        let mut told = false;
        while let Err(failure) = self.engine.journal.write(&next).await {
            if !told {
                tracing::error!(error = %failure, "the end of the job cannot be journalled: no other job can begin");
                self.set(next.clone());
                told = true;
            }
            tokio::time::sleep(WRITE_AGAIN_AFTER).await;
        }
        let failure = next.job.failure.clone();
        let took_ms = next.job.ended_ms.unwrap_or_default().saturating_sub(next.job.began_ms);
        self.set(next);
        match failure {
            None => tracing::info!(took_ms, "job ended"),
            Some(failure) if failure.code == Code::NotUndone => {
                tracing::error!(took_ms, error = %failure, "job failed")
            }
            Some(failure) => tracing::warn!(took_ms, error = %failure, "job failed and is undone"),
        }
    }

    fn defect(&self, what: &str) {
        tracing::error!("{what}: a defect of howdah's");
        let mut live = self.live.lock();
        live.record.turned = Some(Failure::new(Code::Internal, what));
        live.record.tries = TRIES_MAX;
    }
}

/// So long after the job is superseded, or never.
async fn after(superseded: &mut watch::Receiver<Option<String>>, wait: Duration) {
    if superseded.wait_for(Option::is_some).await.is_err() {
        return std::future::pending().await;
    }
    tokio::time::sleep(wait).await;
}

fn named(step: &dyn Step, failure: Failure) -> Failure {
    Failure::new(failure.code, format!("{}: {}", step.name(), failure.text))
}

/// What a job says, into its record, the log and the events.
struct Voice {
    live: Arc<Mutex<Live>>,
    events: Arc<Events>,
    told: Mutex<Option<Instant>>,
}

impl Notes for Voice {
    fn say(&self, line: String) {
        let line: String = line.chars().take(LINE_CHARS_MAX).collect();
        let mut live = self.live.lock();
        let current = live.current;
        let Some(step) = live.record.job.steps.get_mut(current) else {
            tracing::info!(line, "said");
            return;
        };
        tracing::info!(step = step.name, line, "said");
        if step.log.len() >= LINES_MAX {
            step.log.remove(0);
        }
        step.log.push(line);
    }

    fn find(&self, key: &str, value: String) {
        self.live.lock().record.job.metadata.insert(key.to_owned(), value);
    }

    fn found(&self, key: &str) -> Option<String> {
        self.live.lock().record.job.metadata.get(key).cloned()
    }

    fn progress(&self, done: u64, all: u64) {
        let job = {
            let mut live = self.live.lock();
            live.record.job.progress = Some((done, all));
            let mut told = self.told.lock();
            if told.is_some_and(|at| at.elapsed() < PROGRESS_EVERY) {
                return;
            }
            *told = Some(Instant::now());
            live.record.job.clone()
        };
        self.events.job(&job);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
mod tests;
