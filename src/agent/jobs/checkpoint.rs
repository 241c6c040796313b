//! `checkpoint`.

use super::Steps;
use crate::agent::steps::check::Check;
use crate::agent::steps::checkpoint::Checkpoint;

pub(super) fn steps() -> Steps {
    vec![Box::new(Check::Running), Box::new(Checkpoint)]
}
