//! When a session's patience ends: one time for each timeout that runs, and the nearest of them for the worker.
//!
//! All are milliseconds on [`crate::proxy::shared::Shared::now_ms`]; 0 is "does not run". A configuration without
//! timeouts never reads a clock here.

use std::time::Duration;

/// The times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadlines {
    /// `timeouts.client_idle`.
    pub client_idle: u64,
    /// `timeouts.query_wait`.
    pub query_wait: u64,
    /// `timeouts.query`, then `timeouts.cancel_wait` for its cancel.
    pub query: u64,
    /// `timeouts.transaction`.
    pub transaction: u64,
    /// `timeouts.idle_in_transaction`.
    pub idle_in_transaction: u64,
    /// `timeouts.read`: the rest of a message that streams.
    pub read: u64,
    /// `timeouts.write`: the client does not take its results.
    pub write: u64,
}

impl Deadlines {
    /// The nearest, 0 when none runs.
    #[must_use]
    pub fn nearest(&self) -> u64 {
        let all = [
            self.client_idle,
            self.query_wait,
            self.query,
            self.transaction,
            self.idle_in_transaction,
            self.read,
            self.write,
        ];
        all.into_iter().filter(|at| *at != 0).min().unwrap_or(0)
    }
}

/// Whether the time has come.
#[must_use]
pub const fn is_over(at: u64, now: u64) -> bool {
    at != 0 && at <= now
}

/// `within` from `now`; 0 when the timeout is off.
#[must_use]
pub fn after(now: u64, within: Option<Duration>) -> u64 {
    within.map_or(0, |within| now.saturating_add(u64::try_from(within.as_millis()).unwrap_or(u64::MAX)).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_the_smallest_that_runs() {
        assert_eq!(Deadlines::default().nearest(), 0);
        assert_eq!(Deadlines { query: 9, write: 7, ..Deadlines::default() }.nearest(), 7);
        assert!(!is_over(0, 100) && is_over(100, 100) && !is_over(101, 100));
    }
}
