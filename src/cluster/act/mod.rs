//! Carries directives to agents and brings back what they say. Decides nothing.
//!
//! - `line`: HTTP to one agent, over its socket or mutual TLS
//! - `agents`: one listener per agent, and the sending of orders

mod agents;
mod line;

pub use agents::Agents;
pub use line::AgentWay;
