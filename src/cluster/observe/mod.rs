//! Asks every node at an interval what it is, and keeps the board up to date.
//!
//! - `probe`: one task and one connection per node; turns answers and failures into observations.
//! - `question`: what is asked, and how the answer reads.
//! - `tail` ◇: notices that the end of the primary's log stands still unflushed, where no standby gets it.
//! - `observation`: what a probe can learn. Facts, no verdicts.
//! - `fold` ◇: observations in, a [`ClusterView`](crate::topology::ClusterView) out. Who is primary, and who may be read from, is
//!   decided there only.
//! - `succession` ◇: which reign a primary is in, and which transaction ids tell it from the one before.
//! - `standing`, `history` ◇: what a standby has to show: whom it followed, how far behind it is, how often it left.
//! - `watcher`: starts and stops probes, feeds the fold, begins eras, publishes; `diary` tells the operator.

mod diary;
mod fold;
mod history;
mod observation;
mod probe;
mod question;
mod standing;
mod succession;
mod tail;
mod watcher;

pub use watcher::{Watch, watch};
