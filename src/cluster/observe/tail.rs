//! ◇ Notices that the end of the primary's log stands still and has not been flushed.
//!
//! An open transaction that has written leaves its records in memory until something flushes them, which was seen to take
//! 20 s on an idle server. No standby gets them before, so that none reaches the end of the log, and every session that has seen
//! something stays on the primary. A record that is flushed takes all before it with it.
//!
//! Gently first, by a record that is no commit: a standby with `recovery_min_apply_delay` holds every commit back for so long, and
//! all that is behind it. PostgreSQL 17 flushes such a record at once, earlier ones within `wal_writer_delay`. Where that does not
//! help in time, firmly, by a commit.
//!
//! Not here: the writing of it (`probe`).

use std::time::Duration;

use crate::pg::Lsn;

/// For so long the gentle way may take. `wal_writer_delay` is 200 ms, unless somebody has changed it.
const GENTLE: Duration = Duration::from_secs(1);

/// How to help the end of the log to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Help {
    /// By a record that belongs to no transaction.
    Gentle,
    /// By the record of a commit.
    Firm,
}

/// What was seen of one primary's end of the log, over one connection.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Where it stands, and since when that is known.
    standing: Option<(Lsn, Duration)>,
    /// How and where it was helped last, and when, as long as it has not been flushed so far.
    helped: Option<(Help, Lsn, Duration)>,
}

impl Tail {
    /// Takes in an answer that came at `now`. What helps a log that has stood at the same place, not flushed, for `patience`; each
    /// is said once of a place.
    pub(super) fn help(&mut self, now: Duration, end: Lsn, flushed: Lsn, patience: Duration) -> Option<Help> {
        self.helped = self.helped.filter(|(_, place, _)| flushed < *place);
        if flushed >= end {
            self.standing = None;
            return None;
        }
        let since = match self.standing {
            Some((place, since)) if place == end => since,
            Some(_) | None => now,
        };
        self.standing = Some((end, since));
        if now.saturating_sub(since) < patience {
            return None;
        }
        let help = match self.helped {
            None => Help::Gentle,
            Some((Help::Gentle, _, at)) if now.saturating_sub(at) >= GENTLE => Help::Firm,
            // it has grown since, and stands again
            Some((Help::Firm, place, _)) if place != end => Help::Gentle,
            Some(_) => return None,
        };
        self.helped = Some((help, end, now));
        Some(help)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(100);

    fn help(tail: &mut Tail, now: u64, end: u64, flushed: u64) -> Option<Help> {
        tail.help(Duration::from_millis(now), Lsn(end), Lsn(flushed), PATIENCE)
    }

    #[test]
    fn a_tail_that_stands_still_is_helped_gently_once_per_place() {
        let mut tail = Tail::default();
        assert_eq!((help(&mut tail, 0, 50, 40), help(&mut tail, 2, 50, 40)), (None, None));
        assert_eq!(help(&mut tail, 100, 50, 40), Some(Help::Gentle));
        // its own record stands behind it
        assert_eq!((help(&mut tail, 200, 55, 40), help(&mut tail, 300, 55, 40)), (None, None));
        assert_eq!((help(&mut tail, 400, 55, 55), help(&mut tail, 500, 60, 55)), (None, None));
        assert_eq!(help(&mut tail, 600, 60, 55), Some(Help::Gentle));
    }

    #[test]
    fn what_a_gentle_help_does_not_bring_to_the_disk_a_firm_one_does() {
        let mut tail = Tail::default();
        assert_eq!(help(&mut tail, 0, 50, 40), None);
        assert_eq!(help(&mut tail, 100, 50, 40), Some(Help::Gentle));
        let helps: Vec<_> = (2..12).filter_map(|step| help(&mut tail, step * 100, 55, 40)).collect();
        assert_eq!(helps, [Help::Firm]);
        // that has not helped either: once is enough, until something else stands there
        assert!((12..100).all(|step| help(&mut tail, step * 100, 55, 40).is_none()));
        assert_eq!((help(&mut tail, 10_000, 60, 40), help(&mut tail, 10_100, 60, 40)), (None, Some(Help::Gentle)));
    }

    #[test]
    fn a_tail_that_moves_or_is_flushed_needs_no_help() {
        let mut tail = Tail::default();
        for step in 0..20 {
            assert_eq!(help(&mut tail, step * 100, 50 + step, 40), None);
        }
        assert_eq!(help(&mut tail, 2_000, 80, 70), None);
        assert_eq!(help(&mut tail, 2_050, 80, 80), None);
        assert_eq!(help(&mut tail, 2_100, 80, 70), None);
    }
}
