//! Orders on their way: each is sent until its job has ended, and never under another id than its first.
//!
//! One errand per node, because an agent runs one job at a time. An order that nobody answers is sent again, with growing
//! pauses; its id makes that harmless. Not here: which orders there are.

use std::time::Duration;

use crate::directive::{Code, Failure, Job, JobState, Order};

/// The longest pause before an order is sent again.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How soon one is sent again to an agent that was busy.
const BUSY_PAUSE: Duration = Duration::from_millis(250);

/// An order and what has become of it.
#[derive(Clone, Debug)]
pub(super) struct Errand {
    pub(super) order: Order,
    /// When it is sent again, should nothing be heard.
    pub(super) again_at: Duration,
    pause: Duration,
    /// The agent has taken it.
    pub(super) taken: bool,
    /// When it ended: what its agent has said before says nothing of it.
    pub(super) ended_at: Option<Duration>,
    /// How it ended.
    pub(super) end: Option<Result<Box<Job>, Failure>>,
    /// The last time it could not be delivered or was put off, and why.
    pub(super) trouble: Option<String>,
}

impl Errand {
    pub(super) fn new(order: Order, now: Duration, pause: Duration) -> Self {
        let again_at = now.saturating_add(pause);
        Self { order, again_at, pause, taken: false, ended_at: None, end: None, trouble: None }
    }

    /// Whether it is time to send it again.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.end.is_none() && now >= self.again_at
    }

    /// It was sent again.
    pub(super) fn sent(&mut self, now: Duration) {
        self.pause = self.pause.saturating_mul(2).min(PAUSE_MAX);
        self.again_at = now.saturating_add(self.pause);
    }

    /// Its job has moved.
    pub(super) fn moved(&mut self, now: Duration, job: &Job) {
        if self.end.is_some() {
            return;
        }
        self.taken = true;
        self.trouble = None;
        self.again_at = now.saturating_add(PAUSE_MAX);
        match job.state {
            JobState::Pending | JobState::InProgress => {}
            JobState::Completed => {
                self.ended_at = Some(now);
                self.end = Some(Ok(Box::new(job.clone())));
            }
            JobState::Failed => {
                self.ended_at = Some(now);
                let unknown = || Failure::new(Code::Internal, "the job failed and says not why");
                self.end = Some(Err(job.failure.clone().unwrap_or_else(unknown)));
            }
        }
    }

    /// The agent has refused it. Busy is no answer: it is asked again.
    pub(super) fn refused(&mut self, now: Duration, failure: Failure) {
        if self.end.is_some() {
            return;
        }
        if failure.code == Code::Busy {
            self.trouble = Some(failure.text);
            self.again_at = now.saturating_add(BUSY_PAUSE);
        } else {
            self.end = Some(Err(failure));
        }
    }

    /// Nobody knows whether it came there.
    pub(super) fn undelivered(&mut self, why: String) {
        self.trouble = Some(why);
    }
}

/// How an order stands, for whoever waits for it.
#[derive(Clone, Debug)]
pub(super) enum Progress {
    /// Not given.
    None,
    /// Not ended.
    Running,
    /// Ended well.
    Done(Box<Job>),
    /// Ended otherwise; the agent has undone it, or said that it could not.
    Failed(Failure),
}
