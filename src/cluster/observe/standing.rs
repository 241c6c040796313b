//! ◇ What one node has to show as a replica: how it has followed the primary, how far behind it is, how often it has left.
//!
//! Not here: which node is the primary, and with that whether this one is fit (`fold`).

use std::collections::VecDeque;
use std::time::Duration;

use super::history::History;
use crate::pg::{Lsn, Timeline};
use crate::topology::NodeName;

/// For so long a standby that was streaming may be without its WAL receiver and is still fit: a receiver whose primary has
/// been restarted tries again after `wal_retrieve_retry_interval`, 5 s, and a primary that dies takes all of them along, before
/// anybody knows of its death. What it misses meanwhile is bounded by `max_lag` all the same, and by what each session has seen.
const STREAM_GRACE: Duration = Duration::from_secs(10);
/// Returns are counted over so long.
const RETURNS_WITHIN: Duration = Duration::from_secs(60);
/// So many are forgiven.
const RETURNS_FORGIVEN: usize = 3;
/// For each one more the time to stay doubles, from this
const STAY_FIRST: Duration = Duration::from_secs(2);
/// to at most this.
const STAY_MAX: Duration = Duration::from_secs(60);

/// What is remembered of a node as a replica.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// The last primary that it was seen to stream from, by name and timeline. A timeline that is streamed is the one that is
    /// replayed: a standby beyond the fork is refused by the sender.
    followed: Option<(NodeName, Timeline)>,
    /// When that was seen last, over the present connection.
    streamed_at: Option<Duration>,
    lagging: bool,
    /// When the log went beyond what it has replayed.
    behind_since: Option<(Lsn, Duration)>,
    lag_time: Option<Duration>,
    /// When it came back, lately.
    returns: VecDeque<Duration>,
    /// When it will have stayed for long enough.
    stays_until: Duration,
}

impl Standing {
    /// Its life has ended: what was sampled says nothing about the next.
    pub(super) fn forget_samples(&mut self) {
        self.streamed_at = None;
        self.behind_since = None;
        self.lag_time = None;
    }

    /// It is healthy again, and was before.
    pub(super) fn came_back(&mut self, now: Duration) {
        while self.returns.front().is_some_and(|then| now.saturating_sub(*then) > RETURNS_WITHIN) {
            self.returns.pop_front();
        }
        self.returns.push_back(now);
        let too_many = u32::try_from(self.returns.len().saturating_sub(RETURNS_FORGIVEN)).unwrap_or(u32::MAX);
        if let Some(doublings) = too_many.checked_sub(1) {
            let stay = STAY_FIRST.saturating_mul(2_u32.saturating_pow(doublings)).min(STAY_MAX);
            self.stays_until = now.saturating_add(stay);
        }
    }

    pub(super) fn is_flapping(&self, now: Duration) -> bool {
        now < self.stays_until
    }

    /// It streams from this primary.
    pub(super) fn streams(&mut self, primary: &NodeName, timeline: Timeline, now: Duration) {
        if self.followed.as_ref().is_none_or(|(name, on)| name != primary || *on != timeline) {
            self.followed = Some((NodeName::clone(primary), timeline));
        }
        self.streamed_at = Some(now);
    }

    /// There is no primary to stream from.
    pub(super) fn would_stream(&mut self, now: Duration) {
        self.streamed_at = self.streamed_at.map(|_| now);
    }

    /// Whether the last primary it was seen to stream from is this one.
    pub(super) fn has_followed(&self, primary: &NodeName, timeline: Timeline) -> bool {
        self.followed.as_ref().is_some_and(|(name, on)| name == primary && *on == timeline)
    }

    /// Whether it streamed from it a moment ago, in this life.
    pub(super) fn has_just_followed(&self, primary: &NodeName, timeline: Timeline, now: Duration) -> bool {
        let lately = self.streamed_at.is_some_and(|then| now.saturating_sub(then) <= STREAM_GRACE);
        lately && self.has_followed(primary, timeline)
    }

    /// It has replayed so much, and the primary's log ended at `end` when it was asked last. Judged when the standby answers, not
    /// when the primary does: the older of the two answers should be the primary's, or a log that grows fast would look like lag.
    pub(super) fn replayed(&mut self, replayed: Lsn, end: Lsn, history: &History, max_lag: u64, now: Duration) {
        let lag = end.bytes_since(replayed);
        let bound = if self.lagging { max_lag / 2 } else { max_lag };
        self.lagging = max_lag > 0 && lag > bound;
        self.behind_since = match (self.behind_since, history.first_beyond(replayed)) {
            (_, _) if lag == 0 => None,
            // the log's history forgets; who has stood still since knows better
            (Some((place, since)), _) if place == replayed => Some((place, since)),
            (_, since) => Some((replayed, since.unwrap_or(now))),
        };
        self.lag_time = Some(self.behind_since.map_or(Duration::ZERO, |(_, since)| now.saturating_sub(since)));
    }

    pub(super) fn is_lagging(&self) -> bool {
        self.lagging
    }

    /// For how long it had not had all of the primary's log when it was asked last.
    pub(super) fn lag_time(&self) -> Option<Duration> {
        self.lag_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_lags_comes_back_at_half_the_bound() {
        let mut standing = Standing::default();
        let history = History::default();
        let mut lags = |lag: u64, max_lag: u64| {
            standing.replayed(Lsn(1_000), Lsn(1_000 + lag), &history, max_lag, SECOND);
            standing.is_lagging()
        };
        let steps = [(100, false), (101, true), (100, true), (51, true), (50, false), (100, false), (500, true)];
        steps.iter().for_each(|(lag, lagging)| assert_eq!(lags(*lag, 100), *lagging, "{lag}"));
        assert!(!lags(u64::MAX - 1_000, 0), "0 is no bound");
    }

    #[test]
    fn who_stands_still_is_behind_for_ever_longer() {
        let (mut standing, mut history) = (Standing::default(), History::default());
        for step in 0..10_000_u32 {
            history.add(Lsn(step.into()), SECOND * step);
            standing.replayed(Lsn(0), Lsn(step.into()), &history, 0, SECOND * step);
            // at step 1 it went beyond 0
            assert_eq!(standing.lag_time(), Some(SECOND * step.saturating_sub(1)));
        }
        standing.replayed(Lsn(9_990), Lsn(9_999), &history, 0, SECOND * 9_999);
        assert_eq!(standing.lag_time(), Some(SECOND * 8));
        standing.replayed(Lsn(9_999), Lsn(9_999), &history, 0, SECOND * 9_999);
        assert_eq!(standing.lag_time(), Some(Duration::ZERO));
    }

    #[test]
    fn who_comes_and_goes_has_to_stay_for_longer_each_time_and_is_forgiven_after_a_minute() {
        let mut standing = Standing::default();
        let mut now = Duration::ZERO;
        let mut stays = Vec::new();
        for _ in 0..12 {
            now += SECOND;
            standing.came_back(now);
            stays.push((0..100).find(|seconds| !standing.is_flapping(now + SECOND * *seconds)).unwrap());
        }
        assert_eq!(stays, [0, 0, 0, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
        now += SECOND * 61;
        standing.came_back(now);
        assert!(!standing.is_flapping(now));
    }

    #[test]
    fn a_receiver_that_pauses_is_forgiven_for_a_moment_and_not_across_lives() {
        let mut standing = Standing::default();
        let (a, one) = (NodeName::from("a"), Timeline(1));
        standing.streams(&a, one, SECOND);
        assert!(standing.has_just_followed(&a, one, SECOND * 11));
        assert!(!standing.has_just_followed(&a, one, SECOND * 12));
        assert!(!standing.has_just_followed(&a, Timeline(2), SECOND));
        assert!(!standing.has_just_followed(&"b".into(), one, SECOND));
        standing.forget_samples();
        assert!(!standing.has_just_followed(&a, one, SECOND) && standing.has_followed(&a, one));
    }
}
