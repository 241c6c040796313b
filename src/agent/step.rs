//! One reversible act of a job, and what it works with. A job is a list of steps (`jobs`); the runner (`job`) journals each with
//! fsync before it begins, and undoes them in reverse.
//!
//! The order of calls: `before` → journal → `apply` → journal. After a failure, a timeout or a crash of the agent: `undo` of every step
//! that may have begun, last first, with what `before` returned; unless a step that is a point of no return may have begun: then
//! `apply` again, and the rest. So `apply` and `undo` may be called twice, and after half of the other.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::config::AgentConfig;
use crate::directive::{Failure, Order};

/// What a step's functions return.
pub type Act<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

/// One reversible act.
pub trait Step: Send + Sync {
    /// What it does, in a few words; the same for the same step of the same directive, always.
    fn name(&self) -> &'static str;

    /// What has to be known to undo it: the pre-image. Changes nothing.
    fn before<'a>(&'a self, work: &'a Work) -> Act<'a, Value> {
        let _ = work;
        Box::pin(async { Ok(Value::Null) })
    }

    /// Does it; doing it twice is doing it once.
    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()>;

    /// Takes it back, whole or half done. Nothing for what only looks.
    fn undo<'a>(&'a self, work: &'a Work, before: &'a Value) -> Act<'a, ()> {
        let _ = (work, before);
        Box::pin(async { Ok(()) })
    }

    /// From here on the job goes forward only.
    fn is_point_of_no_return(&self) -> bool {
        false
    }

    /// How long it may take; `[jobs] step_timeout` when it does not say.
    fn bound(&self) -> Option<Duration> {
        None
    }
}

/// What steps work with.
pub struct Work {
    /// The agent's configuration.
    pub config: Arc<AgentConfig>,
    /// The order.
    pub order: Order,
    /// Takes what the job finds out and says.
    pub notes: Arc<dyn Notes>,
}

/// Where a job's words go: its journal, its log, whoever watches.
pub trait Notes: Send + Sync {
    /// A line for the step that runs.
    fn say(&self, line: String);
    /// A finding for the job's metadata.
    fn find(&self, key: &str, value: String);
    /// A finding of an earlier step.
    fn found(&self, key: &str) -> Option<String>;
    /// Bytes done, and in all, of a long copy.
    fn progress(&self, done: u64, all: u64);
}
