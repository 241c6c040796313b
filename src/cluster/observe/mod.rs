//! Asks every node at an interval what it is, and keeps the board up to date.
//!
//! - `probe`: one task and one connection per node; turns answers and failures into observations.
//! - `observation`: what a probe can learn. Facts, no verdicts.
//! - `fold` ◇: observations in, a [`ClusterView`](crate::topology::ClusterView) out. Who is primary is decided there only.
//! - `watcher`: starts and stops probes, feeds the fold, publishes, writes the operator's diary.

mod fold;
mod observation;
mod probe;
mod watcher;

pub use watcher::{Watch, watch};
