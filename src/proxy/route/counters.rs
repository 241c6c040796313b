//! How many requests went where, and why: one set of numbers per worker, which only that worker writes.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted beside the reasons of classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Event {
    /// A request was sent to the primary.
    ToPrimary,
    /// A request was sent to a replica.
    ToReplica,
    /// A read had no replica fresh enough, and went to the primary.
    NotFresh,
    /// A read had no replica at all, and went to the primary.
    NoReplica,
    /// A read waited for a fresher sample.
    Waited,
    /// … and a replica had everything in time.
    WaitHelped,
    /// A session has moved to another replica.
    Moved,
    /// A read was asked again elsewhere because its replica went away.
    Lost,
    /// A read was asked again of the primary because the replica refused it: taken for a read, and none.
    Refused,
    /// A read was asked again of the primary because it conflicted with what the replica replays.
    Conflict,
    /// A read could not be asked again: part of its answer had been passed on.
    Broken,
    /// A statement was refused because on a replica it would silently do something else.
    Silent,
}

impl Event {
    /// All of them with the names they are shown by.
    pub const ALL: [(Self, &'static str); 12] = [
        (Self::ToPrimary, "to_primary"),
        (Self::ToReplica, "to_replica"),
        (Self::NotFresh, "not_fresh"),
        (Self::NoReplica, "no_replica"),
        (Self::Waited, "waited"),
        (Self::WaitHelped, "wait_helped"),
        (Self::Moved, "moved"),
        (Self::Lost, "rerun_lost"),
        (Self::Refused, "rerun_refused"),
        (Self::Conflict, "rerun_conflict"),
        (Self::Broken, "broken"),
        (Self::Silent, "silent"),
    ];
}

/// Reasons there may be.
const REASONS_MAX: usize = 128;

/// One worker's numbers.
#[derive(Debug)]
pub struct Counters {
    events: [AtomicU64; Event::ALL.len()],
    reasons: [AtomicU64; REASONS_MAX],
}

impl Default for Counters {
    fn default() -> Self {
        Self { events: Default::default(), reasons: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

/// Only one thread writes: no locked instruction is needed.
fn raise(count: &AtomicU64) {
    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl Counters {
    /// Counts one. Only by the worker whose numbers these are.
    pub fn count(&self, event: Event) {
        if let Some(count) = self.events.get(event as usize) {
            raise(count);
        }
    }

    /// Counts a request of this class, by the index of its reason. Only by the worker whose numbers these are.
    pub fn count_reason(&self, index: usize) {
        if let Some(count) = self.reasons.get(index) {
            raise(count);
        }
    }

    /// How often it was counted.
    #[must_use]
    pub fn events(&self, event: Event) -> u64 {
        self.events.get(event as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// How often a reason was, by its index.
    #[must_use]
    pub fn reasons(&self, index: usize) -> u64 {
        self.reasons.get(index).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_its_place() {
        let counters = Counters::default();
        for (at, (event, name)) in Event::ALL.iter().enumerate() {
            assert_eq!((*event as usize, counters.events(*event)), (at, 0), "{name}");
            counters.count(*event);
            assert_eq!(counters.events(*event), 1);
        }
    }
}
