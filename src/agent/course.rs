//! ◇ The course of a job: given what the journal says, what comes next; and what each thing that happens makes of it.
//!
//! Forward through the steps; at the first failure back through those that may have begun, last first; once a point of no return may
//! have begun, forward only. The record alone decides, so a process that reads it after a crash goes on where the last one was.
//!
//! Not here: files (`journal`), doing any of it (`job`), the clock.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::directive::{Code, Failure, Job, JobState, Order, Outcome, Step};

/// A step's act is tried again so often after the point of no return, and its undo before it.
pub const TRIES_MAX: u32 = 5;
/// A job that makes a primary is gone on with by a later life for so long: a supervisor is quicker.
const FRESH_S: u64 = 60;

/// All that is known of a job: what the journal holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What everybody may see.
    pub job: Job,
    /// The pre-image of each step that is in `job.steps`; `None` where it could not be had, and so the step never began.
    #[serde(with = "pre_images")]
    pub before: Vec<Option<Value>>,
    /// A step that is a point of no return may have begun.
    pub passed: bool,
    /// Why the job goes backwards.
    pub turned: Option<Failure>,
    /// How often the present act has failed in a row.
    pub tries: u32,
    /// When this was written.
    #[serde(default)]
    pub written: Moment,
}

/// A moment that a later life can measure from: the machine's life, and its seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Another text for each boot.
    pub boot: String,
    /// Seconds since then.
    pub uptime_s: u64,
}

impl Moment {
    /// Whether it was on this boot, and not long before `now`.
    #[must_use]
    pub fn is_fresh(&self, now: &Self) -> bool {
        !self.boot.is_empty() && self.boot == now.boot && now.uptime_s.saturating_sub(self.uptime_s) <= FRESH_S
    }
}

/// A pre-image that is `null` is one: JSON would make it none, and its step would not be undone after a crash. So each is a list of
/// none or one.
mod pre_images {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::Value;

    pub(super) fn serialize<S: Serializer>(images: &[Option<Value>], to: S) -> Result<S::Ok, S::Error> {
        images.iter().map(Option::as_slice).collect::<Vec<_>>().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Option<Value>>, D::Error> {
        let lists: Vec<Vec<Value>> = Vec::deserialize(from)?;
        Ok(lists.into_iter().map(|list| list.into_iter().next()).collect())
    }
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This step is to be begun: its pre-image, the journal, the act.
    Begin(usize),
    /// The act of a step that has begun, once more.
    Again(usize),
    /// A step that may have begun is to be undone.
    Undo(usize),
    /// The job ends.
    End(JobState),
    /// It has ended.
    Nothing,
}

impl Record {
    /// A job that has been taken.
    #[must_use]
    pub fn new(order: Order, now_ms: u64) -> Self {
        let job = Job {
            order,
            state: JobState::Pending,
            steps: Vec::new(),
            metadata: std::collections::BTreeMap::new(),
            failure: None,
            progress: None,
            began_ms: now_ms,
            ended_ms: None,
        };
        Self { job, before: Vec::new(), passed: false, turned: None, tries: 0, written: Moment::default() }
    }

    /// What comes next in a plan of so many steps.
    #[must_use]
    pub fn next(&self, plan: usize) -> Next {
        if self.job.state.is_terminal() {
            return Next::Nothing;
        }
        if self.turned.is_some() {
            let undo = self.job.steps.iter().zip(&self.before).rposition(|(step, before)| {
                before.is_some() && matches!(step.outcome, Outcome::Begun | Outcome::Done | Outcome::Failed)
            });
            return match undo {
                Some(index) if !self.passed && self.tries < TRIES_MAX => Next::Undo(index),
                Some(_) | None => Next::End(JobState::Failed),
            };
        }
        match self.job.steps.iter().position(|step| step.outcome != Outcome::Done) {
            Some(index) => Next::Again(index),
            None if self.job.steps.len() < plan => Next::Begin(self.job.steps.len()),
            None => Next::End(JobState::Completed),
        }
    }

    /// A step begins: its pre-image is known. To be journalled before the act.
    pub fn begin(&mut self, name: &str, before: Value, point_of_no_return: bool, now_ms: u64) {
        self.push(name, Some(before), now_ms);
        self.passed |= point_of_no_return;
    }

    /// A step's pre-image could not be had: it never begins.
    pub fn unfit(&mut self, name: &str, failure: Failure, now_ms: u64) {
        self.push(name, None, now_ms);
        if let Some(step) = self.job.steps.last_mut() {
            step.outcome = Outcome::Failed;
            step.ended_ms = Some(now_ms);
        }
        self.turn(failure);
    }

    fn push(&mut self, name: &str, before: Option<Value>, now_ms: u64) {
        self.job.state = JobState::InProgress;
        let step =
            Step { name: name.to_owned(), outcome: Outcome::Begun, began_ms: now_ms, ended_ms: None, log: Vec::new() };
        self.job.steps.push(step);
        self.before.push(before);
        self.tries = 0;
    }

    /// A step's act is done.
    pub fn done(&mut self, index: usize, now_ms: u64) {
        self.end(index, Outcome::Done, now_ms);
        self.tries = 0;
    }

    /// A step's act has failed, or nobody knows. Back, or after the point of no return once more, unless it was often enough.
    pub fn failed(&mut self, index: usize, failure: Failure, now_ms: u64) {
        self.end(index, Outcome::Failed, now_ms);
        if self.passed {
            self.tries = self.tries.saturating_add(1);
            if self.tries < TRIES_MAX {
                return;
            }
        }
        self.turn(failure);
    }

    /// Whatever is there is undone, or after the point of no return left as it is. Only the first reason counts.
    pub fn turn(&mut self, failure: Failure) {
        self.turned.get_or_insert(failure);
        self.tries = 0;
    }

    /// A step is undone.
    pub fn undone(&mut self, index: usize, now_ms: u64) {
        self.end(index, Outcome::Undone, now_ms);
        self.tries = 0;
    }

    /// A step could not be undone. The ones before it rely on its being undone, so the job ends there when it was often enough.
    pub fn not_undone(&mut self, index: usize, failure: &Failure, last: bool) {
        self.tries = if last { TRIES_MAX } else { self.tries.saturating_add(1) };
        if self.tries >= TRIES_MAX {
            let name = self.job.steps.get(index).map_or("", |step| step.name.as_str());
            let first = self.turned.as_ref().map_or("", |turned| turned.text.as_str());
            let text = format!("{first}; and \"{name}\" could not be undone: {}", failure.text);
            self.turned = Some(Failure::new(Code::NotUndone, text));
        }
    }

    /// A new life of the agent has found the job in the middle.
    ///
    /// Behind its point of no return it goes on, unless it makes a primary and the world may be another by now: a coordinator that
    /// still wants that says so again.
    pub fn found_in_the_middle(&mut self, now: &Moment) {
        use crate::directive::Directive::{Promote, Restart};
        let makes_primary = matches!(self.job.order.directive, Promote { .. } | Restart { primary: true });
        if !self.passed {
            self.turn(Failure::new(Code::Interrupted, "the agent ended in the middle of the job"));
        } else if makes_primary && !self.written.is_fresh(now) {
            let text = "the agent ended behind the point of no return, too long ago to go on: somebody else may be the primary";
            self.turn(Failure::new(Code::Interrupted, text));
        }
        self.tries = 0;
    }

    /// It ends.
    pub fn finish(&mut self, state: JobState, now_ms: u64) {
        self.job.state = state;
        self.job.ended_ms = Some(now_ms);
        if state == JobState::Failed {
            self.job.failure = self.turned.clone().map(|failure| self.as_it_stands(failure));
        }
    }

    /// A server that was told to become the primary may become it at any later moment. Whoever hears of such a failure must not
    /// take it for undone: it would let the server's promise to stay a standby count, which it cannot keep.
    fn as_it_stands(&self, failure: Failure) -> Failure {
        let promotes = matches!(self.job.order.directive, crate::directive::Directive::Promote { .. });
        match self.passed && promotes && failure.code != Code::NotUndone {
            true => Failure::new(Code::NotUndone, format!("{}; it may still become the primary", failure.text)),
            false => failure,
        }
    }

    fn end(&mut self, index: usize, outcome: Outcome, now_ms: u64) {
        if let Some(step) = self.job.steps.get_mut(index) {
            step.outcome = outcome;
            step.ended_ms = Some(now_ms);
        }
    }
}

/// Whether an order may end the job that runs: a fence waits for nothing, but for a fence that is as new.
#[must_use]
pub fn supersedes(new: &Order, running: &Order) -> bool {
    use crate::directive::Directive::Fence;
    new.directive == Fence && (running.directive != Fence || new.epoch > running.epoch)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::directive::Directive;
    use crate::topology::Epoch;

    fn order(directive: Directive, epoch: u64) -> Order {
        Order {
            id: "j".into(),
            cluster: "main".into(),
            node: "a".into(),
            epoch: Epoch(epoch),
            coordinator: "c".into(),
            correlation: String::new(),
            directive,
        }
    }

    fn failure() -> Failure {
        Failure::new(Code::Program, "x")
    }

    /// What happens to one act.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Fate {
        Works,
        FailsWithout,
        FailsWith,
        CrashBefore,
        CrashHalf,
        CrashAfter,
    }

    fn fate() -> impl Strategy<Value = Fate> {
        prop_oneof![
            8 => Just(Fate::Works),
            1 => Just(Fate::FailsWithout),
            1 => Just(Fate::FailsWith),
            1 => Just(Fate::CrashBefore),
            1 => Just(Fate::CrashHalf),
            1 => Just(Fate::CrashAfter),
        ]
    }

    /// Plays a job: `world[i]` is whether step i's effect is there. A crash falls back to what was journalled.
    fn play(plan: usize, no_return: Option<usize>, fates: &[Fate]) -> Result<(Record, Vec<bool>), TestCaseError> {
        let mut world = vec![false; plan];
        let mut journal = Record::new(order(Directive::Checkpoint, 1), 0);
        let mut fates = fates.iter().copied().chain(std::iter::repeat(Fate::Works));
        let mut record = journal.clone();
        for _ in 0..10_000 {
            let (state, len) = (journal.job.state, journal.job.steps.len());
            let fate = fates.next().unwrap();
            let crash = matches!(fate, Fate::CrashBefore | Fate::CrashHalf | Fate::CrashAfter);
            match record.next(plan) {
                Next::Nothing => return Ok((record, world)),
                Next::End(end) => record.finish(end, 0),
                Next::Begin(index) => {
                    prop_assert!(world[..index].iter().all(|there| *there), "steps are done in their order");
                    let before = serde_json::json!(index);
                    record.begin("s", before, no_return == Some(index), 0);
                    if fate == Fate::CrashBefore {
                        record = journal.clone(); // before it was journalled
                        record.found_in_the_middle(&Moment::default());
                        continue;
                    }
                    journal = record.clone();
                    act(&mut world, index, true, fate);
                    match fate {
                        _ if crash => {}
                        Fate::Works => record.done(index, 0),
                        _ => record.failed(index, failure(), 0),
                    }
                }
                Next::Again(index) => {
                    prop_assert!(record.passed, "nothing is done twice that could be undone");
                    act(&mut world, index, true, fate);
                    match fate {
                        _ if crash => {}
                        Fate::Works => record.done(index, 0),
                        _ => record.failed(index, failure(), 0),
                    }
                }
                Next::Undo(index) => {
                    prop_assert!(!record.passed);
                    prop_assert_eq!(record.before[index].as_ref().unwrap(), &serde_json::json!(index));
                    prop_assert!(world[index + 1..].iter().all(|there| !there), "undone last first");
                    act(&mut world, index, false, fate);
                    match fate {
                        _ if crash => {}
                        Fate::Works => record.undone(index, 0),
                        _ => record.not_undone(index, &failure(), false),
                    }
                }
            }
            if crash {
                record = journal.clone();
                record.found_in_the_middle(&Moment::default());
            } else {
                journal = record.clone();
            }
            prop_assert!(journal.job.state >= state && journal.job.steps.len() >= len, "only forward");
        }
        Err(TestCaseError::fail("it never ends"))
    }

    fn act(world: &mut [bool], index: usize, there: bool, fate: Fate) {
        if matches!(fate, Fate::Works | Fate::FailsWith | Fate::CrashHalf | Fate::CrashAfter) {
            world[index] = there;
        }
    }

    proptest! {
        #[test]
        fn a_job_ends_done_or_undone_or_behind_its_point_of_no_return_whatever_happens(
            plan in 0_usize..6,
            no_return in proptest::option::of(0_usize..6),
            fates in proptest::collection::vec(fate(), 0..60),
        ) {
            let (record, world) = play(plan, no_return, &fates)?;
            match record.job.state {
                JobState::Completed => prop_assert!(world.iter().all(|there| *there) && record.job.failure.is_none()),
                JobState::Failed if record.passed => prop_assert!(record.job.failure.is_some()),
                JobState::Failed => {
                    let code = record.job.failure.as_ref().unwrap().code;
                    prop_assert!(code == Code::NotUndone || world.iter().all(|there| !there), "{:?}", record);
                }
                JobState::Pending | JobState::InProgress => prop_assert!(false, "not an end"),
            }
        }

        #[test]
        fn what_the_journal_writes_it_reads(plan in 0_usize..5, fates in proptest::collection::vec(fate(), 0..30)) {
            let (record, _) = play(plan, None, &fates)?;
            let text = serde_json::to_string(&record).unwrap();
            prop_assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        }
    }

    #[test]
    fn a_pre_image_that_is_null_is_one_after_a_crash_as_well() {
        let mut record = Record::new(order(Directive::Checkpoint, 1), 0);
        record.begin("first", Value::Null, false, 0);
        let mut read: Record = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        assert_eq!(read, record);
        read.found_in_the_middle(&Moment::default());
        assert_eq!(read.next(1), Next::Undo(0));
    }

    #[test]
    fn a_step_without_a_pre_image_is_not_undone_and_the_ones_before_it_are() {
        let mut record = Record::new(order(Directive::Checkpoint, 1), 0);
        record.begin("first", Value::Null, false, 0);
        record.done(0, 0);
        record.unfit("second", failure(), 0);
        assert_eq!(record.next(3), Next::Undo(0));
        record.undone(0, 0);
        assert_eq!(record.next(3), Next::End(JobState::Failed));
    }

    #[test]
    fn a_promotion_of_long_ago_is_not_gone_on_with_and_anything_else_is() {
        let at = |boot: &str, uptime_s| Moment { boot: boot.into(), uptime_s };
        let found = |directive: Directive, now: Moment| {
            let mut record = Record::new(order(directive, 1), 0);
            record.begin("promote", Value::Null, true, 0);
            record.written = at("x", 1_000);
            record.found_in_the_middle(&now);
            record.next(1)
        };
        let promote = || Directive::Promote { slots: Vec::new() };
        assert_eq!(found(promote(), at("x", 1_010)), Next::Again(0));
        for now in [at("x", 1_100), at("y", 1_010), at("", 0)] {
            assert_eq!(found(promote(), now.clone()), Next::End(JobState::Failed), "{now:?}");
            assert_eq!(found(Directive::Restart { primary: true }, now.clone()), Next::End(JobState::Failed));
            assert_eq!(found(Directive::Fence, now), Next::Again(0));
        }
    }

    #[test]
    fn a_promotion_that_was_given_up_is_not_told_as_undone() {
        for (no_return, code) in [(true, Code::NotUndone), (false, Code::TimedOut)] {
            let mut record = Record::new(order(Directive::Promote { slots: Vec::new() }, 1), 0);
            record.begin("promote", Value::Null, no_return, 0);
            for _ in 0..TRIES_MAX {
                record.failed(0, Failure::new(Code::TimedOut, "too long"), 0);
            }
            if !no_return {
                record.undone(0, 0);
            }
            assert_eq!(record.next(1), Next::End(JobState::Failed));
            record.finish(JobState::Failed, 0);
            assert_eq!(record.job.failure.unwrap().code, code);
        }
    }

    #[test]
    fn a_fence_supersedes_everything_but_a_fence_as_new() {
        let fence = |epoch| order(Directive::Fence, epoch);
        let other = |epoch| order(Directive::Checkpoint, epoch);
        assert!(supersedes(&fence(2), &other(1)) && supersedes(&fence(2), &other(2)));
        assert!(supersedes(&fence(3), &fence(2)) && !supersedes(&fence(2), &fence(2)));
        assert!(!supersedes(&other(3), &other(2)) && !supersedes(&other(3), &fence(2)));
    }
}
