//! `rebuild`: a copy of the upstream beside the old directory, then in its place, then it follows. The old directory is kept.
//!
//! The server is stopped before the copy begins, because the copy holds its log by the slot that a running standby would use.

use super::Steps;
use super::follow::as_standby;
use crate::agent::steps::check::Check;
use crate::agent::steps::copy::{Copy, Room};
use crate::agent::steps::identity::SameSystem;
use crate::agent::steps::running::Stop;
use crate::agent::steps::swap::{Swap, Thin};
use crate::directive::Upstream;

pub(super) fn steps(upstream: &Upstream) -> Steps {
    let mut steps: Steps = vec![
        Box::new(Check::NoPrimary),
        Box::new(SameSystem(upstream.clone())),
        Box::new(Room(upstream.clone())),
        Box::new(Stop),
        Box::new(Copy(upstream.clone())),
        Box::new(Swap),
    ];
    steps.extend(as_standby(upstream));
    steps.push(Box::new(Thin));
    steps
}
