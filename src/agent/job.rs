//! Takes orders and has them run, one job at a time.
//!
//! Taken means: the epoch is on the disk, then the journal. A fence supersedes whatever runs: that is given up and undone, for a
//! bounded time, then the fence begins. Not here: how a job runs (`drive`).

mod drive;

use std::any::Any;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::Instrument;

use self::drive::Drive;
use super::config::AgentConfig;
use super::course::{Record, supersedes};
use super::epochs::{Epochs, Promise};
use super::events::Events;
use super::journal::{self, Journal, KEPT};
use super::step::Step;
use crate::directive::{Code, Directive, Failure, Job, Order};

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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
mod tests;
