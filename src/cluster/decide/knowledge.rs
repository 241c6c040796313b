//! What is known of each node, by whom and since when. Facts only: what follows from them is in `evidence`.

use std::time::Duration;

use crate::directive::{AgentStatus, Job};
use crate::pg::{Lsn, Timeline};
use crate::topology::Role;

use super::{Member, Sight};

/// An agent that has said nothing for so long is not heard, whatever its connection says.
const HEARD: Duration = Duration::from_secs(5);

/// One node.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// As configured.
    pub(super) member: Member,
    /// The agent's last word.
    pub(super) status: Option<AgentStatus>,
    /// When it came.
    pub(super) status_at: Duration,
    /// The agent cannot be heard, since when and why.
    pub(super) silent: Option<(Duration, String)>,
    /// Its postmaster has died since the last status.
    pub(super) died: bool,
    /// What the monitor saw last, and when.
    pub(super) sight: Option<(Sight, Duration)>,
    /// Since when PostgreSQL lives but takes no connections.
    pub(super) unready_since: Option<Duration>,
    /// Since when it is no streaming standby.
    pub(super) idle_since: Option<Duration>,
    /// When what it has received last grew.
    pub(super) grew_at: Option<Duration>,
    /// How far it was when it was last looked at.
    seen_at: Option<(Timeline, Lsn)>,
}

impl Known {
    pub(super) fn new(member: Member) -> Self {
        Self {
            member,
            status: None,
            status_at: Duration::ZERO,
            silent: None,
            died: false,
            sight: None,
            unready_since: None,
            idle_since: None,
            grew_at: None,
            seen_at: None,
        }
    }

    /// What its agent says, while it is heard.
    pub(super) fn word(&self, now: Duration) -> Option<&AgentStatus> {
        let fresh = self.silent.is_none() && now.saturating_sub(self.status_at) <= HEARD;
        self.status.as_ref().filter(|_| fresh)
    }

    /// What the monitor sees, while it is well.
    pub(super) fn healthy(&self) -> Option<&Sight> {
        self.sight.as_ref().map(|(sight, _)| sight).filter(|sight| sight.healthy)
    }

    /// It accepts writes, by anybody's word that is fresh.
    pub(super) fn is_writable(&self, now: Duration) -> bool {
        match self.word(now) {
            Some(status) => !self.died && status.postgres.in_recovery == Some(false),
            None => self.healthy().is_some_and(|sight| sight.role == Some(Role::Primary)),
        }
    }

    /// The job its agent runs.
    pub(super) fn running_job(&self, now: Duration) -> Option<&Job> {
        self.word(now)?.job.as_ref().filter(|job| !job.state.is_terminal())
    }

    /// How far it is, by its own word: where a primary's log ends, what a standby has received or replayed.
    pub(super) fn reach(&self) -> Option<(Timeline, Lsn)> {
        let by_agent = self.status.as_ref().and_then(|status| {
            let postgres = &status.postgres;
            Some((postgres.timeline?, postgres.received_lsn.max(postgres.replayed_lsn)?))
        });
        let by_sight =
            self.healthy().and_then(|sight| Some((sight.timeline?, sight.received_lsn.max(sight.replayed_lsn)?)));
        by_agent.max(by_sight)
    }

    /// Takes a status in.
    pub(super) fn hear(&mut self, now: Duration, status: AgentStatus) {
        use crate::directive::Accepting;
        let lives = status.postgres.postmaster.is_some();
        let ready = matches!(status.postgres.accepting, Accepting::Yes);
        self.unready_since = if lives && !ready { self.unready_since.or(Some(now)) } else { None };
        let streams = status.postgres.streaming_from.is_some();
        self.idle_since = if streams { None } else { self.idle_since.or(Some(now)) };
        self.status = Some(status);
        self.status_at = now;
        self.silent = None;
        self.died = false;
        self.note_reach(now);
    }

    /// Takes a look at it in.
    pub(super) fn see(&mut self, now: Duration, sight: Sight) {
        self.sight = Some((sight, now));
        self.note_reach(now);
    }

    fn note_reach(&mut self, now: Duration) {
        let Some(reach) = self.reach() else { return };
        if self.seen_at.is_some_and(|before| before < reach) {
            self.grew_at = Some(now);
        }
        self.seen_at = Some(reach);
    }
}
