//! `freeze` and `unfreeze`: a standby stands still while a primary is chosen.

use super::Steps;
use crate::agent::steps::check::Check;
use crate::agent::steps::freeze::{FinishReplay, ReceiveAgain, StopReceiving};

pub(super) fn freeze() -> Steps {
    vec![Box::new(Check::Standby), Box::new(StopReceiving), Box::new(FinishReplay)]
}

pub(super) fn unfreeze() -> Steps {
    vec![Box::new(Check::Directory), Box::new(ReceiveAgain)]
}
