//! `restart`: stop, if it runs, and start; as a primary with the latch taken away, under the order's epoch.

use super::Steps;
use crate::agent::steps::check::Check;
use crate::agent::steps::running::{Start, Stop, TakesWrites, Unlatch};

pub(super) fn steps(primary: bool) -> Steps {
    let mut steps: Steps = vec![Box::new(Check::Startable)];
    if primary {
        steps.push(Box::new(Check::OfPrimary));
    }
    steps.push(Box::new(Stop));
    if primary {
        steps.push(Box::new(Unlatch));
    }
    steps.push(Box::new(Start));
    if primary {
        steps.push(Box::new(TakesWrites));
    }
    steps
}
