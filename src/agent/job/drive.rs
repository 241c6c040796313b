//! One job's way to its end: what comes next is [`course`](crate::agent::course)'s to say, this does it.
//!
//! Each act runs in a task of its own, so that a panic is a failure and a time limit an end; when a task is given up it is waited
//! for, so that no act overlaps with its undo. What a step has handed to a thread or a program must end with its future.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::Instrument;

use super::{Engine, Live, Plan, ended_badly, now_ms};
use crate::agent::course::{Next, Record, TRIES_MAX};
use crate::agent::events::Events;
use crate::agent::step::{Notes, Step, Work};
use crate::directive::{Code, Failure, JobState, Order};

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

/// One job's way to its end.
pub(super) struct Drive {
    pub(super) engine: Arc<Engine>,
    pub(super) live: Arc<Mutex<Live>>,
    pub(super) order: Order,
    pub(super) superseded: watch::Receiver<Option<String>>,
    pub(super) began: Instant,
    /// Undoing ends here.
    pub(super) until: Option<Instant>,
}

impl Drive {
    pub(super) async fn run(mut self, plan: Result<Plan, Failure>, then: Vec<Arc<Mutex<Live>>>) {
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

    /// The end must be on the disk before another job begins: see [`Journal`](crate::agent::journal::Journal).
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
