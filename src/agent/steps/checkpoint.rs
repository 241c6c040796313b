//! CHECKPOINT: before a switchover, so that the stop is short; after a promotion, so that others can be rewound to it.

use std::time::Duration;

use crate::agent::postgres::local::Local;
use crate::agent::step::{Act, Step, Work};

/// How long a checkpoint may take; it writes everything that is dirty.
const BOUND: Duration = Duration::from_secs(1_800);

/// On a standby a restart point.
pub struct Checkpoint;

impl Step for Checkpoint {
    fn name(&self) -> &'static str {
        "checkpoint"
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            let local = Local::open(&work.config).await?;
            local.rows_unbounded("CHECKPOINT").await?;
            Ok(())
        })
    }

    fn bound(&self) -> Option<Duration> {
        Some(BOUND)
    }
}
