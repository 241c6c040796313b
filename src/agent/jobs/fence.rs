//! `fence`: no server process, proof, latch. Works on whatever there is: a frozen postmaster, orphans of a dead one, nothing.

use super::Steps;
use crate::agent::steps::fence::{EndAll, FindEnd, LatchAndProve};

pub(super) fn steps() -> Steps {
    vec![Box::new(EndAll), Box::new(LatchAndProve), Box::new(FindEnd)]
}
