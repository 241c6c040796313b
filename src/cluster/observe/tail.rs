//! ◇ Notices that the end of the primary's log stands still and has not been flushed.
//!
//! An open transaction that has written leaves its records in memory until something flushes them, which was seen to take
//! 20 s on an idle server. No standby gets them before, so that none reaches the end of the log, and every session that has seen
//! something stays on the primary. A record that is flushed takes all before it with it.
//!
//! Not here: the writing of it (`probe`).

use std::time::Duration;

use crate::pg::Lsn;

/// What was seen of one primary's end of the log, over one connection.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Where it stands, and since when that is known.
    standing: Option<(Lsn, Duration)>,
    /// Where it stood when it was last helped.
    nudged: Option<Lsn>,
}

impl Tail {
    /// Takes in an answer that came at `now`. Whether the log has stood at the same place, not flushed, for `patience`; said once
    /// of each place.
    pub(super) fn is_stuck(&mut self, now: Duration, end: Lsn, flushed: Lsn, patience: Duration) -> bool {
        if flushed >= end {
            self.standing = None;
            return false;
        }
        let since = match self.standing {
            Some((place, since)) if place == end => since,
            Some(_) | None => now,
        };
        self.standing = Some((end, since));
        let stuck = now.saturating_sub(since) >= patience && self.nudged != Some(end);
        if stuck {
            self.nudged = Some(end);
        }
        stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(100);

    fn stuck(tail: &mut Tail, now: u64, end: u64, flushed: u64) -> bool {
        tail.is_stuck(Duration::from_millis(now), Lsn(end), Lsn(flushed), PATIENCE)
    }

    #[test]
    fn a_tail_that_stands_still_is_stuck_once_per_place() {
        let mut tail = Tail::default();
        assert!(!stuck(&mut tail, 0, 50, 40) && !stuck(&mut tail, 2, 50, 40));
        assert!(stuck(&mut tail, 100, 50, 40));
        assert!(!stuck(&mut tail, 200, 50, 40));
        assert!(!stuck(&mut tail, 300, 60, 40));
        assert!(stuck(&mut tail, 400, 60, 40));
    }

    #[test]
    fn a_tail_that_moves_or_is_flushed_is_not_stuck() {
        let mut tail = Tail::default();
        for step in 0..20 {
            assert!(!stuck(&mut tail, step * 100, 50 + step, 40));
        }
        assert!(!stuck(&mut tail, 2_000, 80, 70));
        assert!(!stuck(&mut tail, 2_050, 80, 80));
        assert!(!stuck(&mut tail, 2_100, 80, 70));
    }
}
