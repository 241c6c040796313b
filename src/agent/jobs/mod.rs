//! Directives as lists of steps, one in each file. What may be done under which conditions is in the steps' own checks.

mod checkpoint;
mod configure;
mod demote;
mod fence;
mod follow;
mod freeze;
mod promote;
mod rebuild;
mod restart;
mod rewind;

use super::config::AgentConfig;
use super::step::Step;
use crate::directive::{Directive, Failure, Order};

/// The steps of a job, in their order.
type Steps = Vec<Box<dyn Step>>;

/// What an order's job consists of: the same for the same order, always, because a journal is read with it.
///
/// # Errors
/// [`Code::Malformed`](crate::directive::Code::Malformed) when the order asks for what cannot be.
pub fn plan(order: &Order, config: &AgentConfig) -> Result<Steps, Failure> {
    let _ = config;
    match &order.directive {
        Directive::Fence => Ok(fence::steps()),
        Directive::Demote => Ok(demote::steps()),
        Directive::Freeze => Ok(freeze::freeze()),
        Directive::Unfreeze => Ok(freeze::unfreeze()),
        Directive::Promote { slots } => promote::steps(slots),
        Directive::Follow { upstream } => Ok(follow::steps(upstream)),
        Directive::Restart { primary } => Ok(restart::steps(*primary)),
        Directive::Configure { settings, slots, drop_slots } => configure::steps(settings, slots, drop_slots),
        Directive::Checkpoint => Ok(checkpoint::steps()),
        Directive::Rewind { upstream } => Ok(rewind::steps(upstream)),
        Directive::Rebuild { upstream } => Ok(rebuild::steps(upstream)),
    }
}
