//! `rewind`: what the node has written on its own is taken back, then it follows.

use super::Steps;
use super::follow::as_standby;
use crate::agent::steps::check::Check;
use crate::agent::steps::identity::SameSystem;
use crate::agent::steps::rewind::{Recover, Rewind, Rewindable};
use crate::agent::steps::running::Stop;
use crate::directive::Upstream;

pub(super) fn steps(upstream: &Upstream) -> Steps {
    let mut steps: Steps = vec![
        Box::new(Check::NoPrimary),
        Box::new(Rewindable),
        Box::new(SameSystem(upstream.clone())),
        Box::new(Stop),
        Box::new(Recover),
        Box::new(Rewind(upstream.clone())),
    ];
    steps.extend(as_standby(upstream));
    steps
}
