//! `follow`: a standby that runs changes its upstream without a restart; a node that does not run is started as a standby.

use super::Steps;
use crate::agent::steps::check::Check;
use crate::agent::steps::identity::SameSystem;
use crate::agent::steps::point::{PointAt, Streams};
use crate::agent::steps::running::Start;
use crate::directive::Upstream;

pub(super) fn steps(upstream: &Upstream) -> Steps {
    let mut steps: Steps = vec![
        Box::new(Check::NoPrimary),
        Box::new(SameSystem(upstream.clone())),
        Box::new(Check::History(upstream.clone())),
    ];
    steps.extend(as_standby(upstream));
    steps
}

/// The end of `follow`, `rewind` and `rebuild`.
pub(super) fn as_standby(upstream: &Upstream) -> Steps {
    vec![Box::new(PointAt(upstream.clone())), Box::new(Start), Box::new(Streams(upstream.clone()))]
}
