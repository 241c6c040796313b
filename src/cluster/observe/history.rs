//! ◇ When the primary's log was first seen to reach a place: from that follows for how long a standby has been behind.
//!
//! By howdah's clock alone. Exact to the interval of the samples, or 100 ms; what is longer ago than some minutes is at least
//! so long.

use std::collections::VecDeque;
use std::time::Duration;

use crate::pg::Lsn;

/// Points nearer to each other than this are one.
const SPACING: Duration = Duration::from_millis(100);
/// Enough for seven minutes.
const POINTS_MAX: usize = 4096;

/// The way the primary's log has gone, oldest first; both numbers only grow.
#[derive(Debug, Default)]
pub(super) struct History {
    points: VecDeque<(Lsn, Duration)>,
}

impl History {
    pub(super) fn clear(&mut self) {
        self.points.clear();
    }

    /// The log ended at `end` when it was seen at `now`.
    pub(super) fn add(&mut self, end: Lsn, now: Duration) {
        match self.points.back_mut() {
            Some((last, _)) if end <= *last => return,
            Some((last, since)) if now.saturating_sub(*since) < SPACING => {
                *last = end;
                return;
            }
            Some(_) | None => {}
        }
        if self.points.len() == POINTS_MAX {
            self.points.pop_front();
        }
        self.points.push_back((end, now));
    }

    /// When the log was first seen to be further than `replayed`; `None` when it is not known to be.
    pub(super) fn first_beyond(&self, replayed: Lsn) -> Option<Duration> {
        let at = self.points.partition_point(|(lsn, _)| *lsn <= replayed);
        self.points.get(at).map(|(_, since)| *since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn who_has_replayed_less_is_behind_since_the_log_went_further() {
        let mut history = History::default();
        for (end, now) in [(10, 0), (10, 500), (20, 1_000), (21, 1_010), (30, 2_000)] {
            history.add(Lsn(end), ms(now));
        }
        for (replayed, since) in [(5, Some(0)), (10, Some(1_000)), (20, Some(1_000)), (25, Some(2_000)), (30, None)] {
            assert_eq!(history.first_beyond(Lsn(replayed)), since.map(ms), "{replayed}");
        }
    }

    #[test]
    fn it_forgets_the_oldest() {
        let mut history = History::default();
        (0..5_000).for_each(|step| history.add(Lsn(step), ms(step * 100)));
        assert_eq!(history.points.len(), POINTS_MAX);
        assert_eq!(history.first_beyond(Lsn(0)), Some(ms((5_000 - 4_096) * 100)));
    }
}
