//! The defects of a build with the feature `negative-control`: tests that must catch them choose one with the environment
//! variable `HOWDAH_DEFECT`. No other build has this file.

use std::sync::LazyLock;

/// Which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A server is released before its pipeline is settled. The one there is when nothing is said.
    EarlyRelease,
    /// A server is not reset between two clients.
    NoReset,
    /// What a session has seen is bounded by the sample before the right one.
    EarlyStamp,
    /// One of the agent's (`agent/defect.rs`), none of the data path's.
    Elsewhere,
}

/// Whether this process has it.
pub fn has(defect: Defect) -> bool {
    static CHOSEN: LazyLock<Defect> = LazyLock::new(|| match std::env::var("HOWDAH_DEFECT").as_deref() {
        Ok("no-reset") => Defect::NoReset,
        Ok("early-stamp") => Defect::EarlyStamp,
        Ok("dead-postmaster") => Defect::Elsewhere,
        _ => Defect::EarlyRelease,
    });
    *CHOSEN == defect
}
