//! `demote`: a primary is stopped cleanly and latched, for a switchover.

use super::Steps;
use crate::agent::steps::check::Check;
use crate::agent::steps::running::Demote;

pub(super) fn steps() -> Steps {
    vec![Box::new(Check::Primary), Box::new(Demote)]
}
