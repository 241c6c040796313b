//! `promote`: a standby becomes the primary; slots for the others first, so that no log they need is gone before they come.

use super::Steps;
use crate::agent::steps::check::Check;
use crate::agent::steps::promote::{ForgetFreeze, Promote};
use crate::agent::steps::slots::{MakeSlots, check_name};
use crate::directive::Failure;

pub(super) fn steps(slots: &[String]) -> Result<Steps, Failure> {
    slots.iter().try_for_each(|slot| check_name(slot))?;
    Ok(vec![Box::new(Check::Candidate), Box::new(MakeSlots(slots.to_vec())), Box::new(Promote), Box::new(ForgetFreeze)])
}
