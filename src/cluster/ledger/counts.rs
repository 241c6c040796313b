//! What only grows: how many operations ended how, and how long changes of the primary took.

use std::collections::BTreeMap;

use super::OperationState;

/// Upper bounds of the histogram's buckets, in milliseconds.
pub const BUCKETS_MS: [u64; 10] = [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000];

/// One cluster's. Each operation and each job moves exactly one of the first two by one, when it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Failovers, switchovers and restarts: by kind, outcome, and the class of what went wrong (empty when nothing did).
    pub operations: BTreeMap<(String, OperationState, String), u64>,
    /// Jobs of agents: by node, directive, outcome and class.
    pub jobs: BTreeMap<(String, String, OperationState, String), u64>,
    /// What was undone: by kind (of an operation, or a job's directive) and class.
    pub rollbacks: BTreeMap<(String, String), u64>,
    /// From the first sign to the promotion, by kind.
    pub seconds: BTreeMap<String, Histogram>,
}

/// How long something took, how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How many were no longer than each of [`BUCKETS_MS`] and longer than the one before.
    pub buckets: [u64; BUCKETS_MS.len()],
    /// All of them.
    pub count: u64,
    /// Milliseconds in all.
    pub sum_ms: u64,
}

impl Histogram {
    /// One more.
    pub fn add(&mut self, ms: u64) {
        let bucket = BUCKETS_MS.iter().position(|bound| ms <= *bound);
        if let Some(bucket) = bucket.and_then(|at| self.buckets.get_mut(at)) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum_ms = self.sum_ms.saturating_add(ms);
    }
}
