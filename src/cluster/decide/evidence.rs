//! Whether the primary has failed, and who says so.
//!
//! Only its own agent's word lets anything be done at once; a monitor that cannot reach the primary may be the one that is cut off, and
//! a primary that refuses connections may only be full. Standbys that still receive are witnesses against its death.

use std::time::Duration;

use crate::directive::Accepting;
use crate::topology::NodeName;

use super::machine::Decider;

/// Bytes of log that a starting server replays in a second, at least.
const REPLAY_PER_SECOND: u64 = 32 * 1024 * 1024;
/// What a start takes beside the replay.
const START: Duration = Duration::from_millis(300);
/// A standby whose log has grown within this time has a primary that lives.
const WITNESS: Duration = Duration::from_secs(2);

/// What is to be made of the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// It accepts writes.
    Fine,
    /// It lives, and takes no connections since then.
    Unready(Duration),
    /// No postmaster: it can be started again. Or it is a standby now.
    Dead {
        /// In words.
        cause: String,
        /// A restart in place could help.
        restartable: bool,
    },
    /// It lives and does not answer.
    Hung {
        /// In words.
        cause: String,
    },
    /// Its agent is not heard, and the monitor does not reach it either.
    Unheard,
}

impl Decider {
    /// What its agent, or else the monitor, says of the primary.
    pub(super) fn condition(&self, node: &NodeName) -> Condition {
        let Some(known) = self.nodes.get(node) else { return Condition::Unheard };
        let Some(status) = known.word(self.now) else {
            return if known.is_writable(self.now) { Condition::Fine } else { Condition::Unheard };
        };
        let postgres = &status.postgres;
        if known.died {
            return Condition::Dead { cause: "its postmaster has died".to_owned(), restartable: true };
        }
        if !self.is_trusted(node) && (postgres.in_recovery != Some(false) || postgres.processes == 0) {
            return Condition::Fine; // a word from before it became the primary
        }
        if postgres.postmaster.is_none() || postgres.processes == 0 {
            let by_hand = postgres.control.as_ref().is_some_and(|control| control.state == "shut down");
            let cause = if by_hand {
                "it was stopped by hand (for maintenance there is \"howdah pause\")"
            } else {
                "it has no postmaster"
            };
            return Condition::Dead { cause: cause.to_owned(), restartable: true };
        }
        if postgres.in_recovery == Some(true) {
            return Condition::Dead { cause: "it has come up as a standby".to_owned(), restartable: false };
        }
        match &postgres.accepting {
            Accepting::Yes => Condition::Fine,
            Accepting::Silent { times } if *times >= self.settings.failure_threshold.max(1) => {
                Condition::Hung { cause: format!("it has not answered {times} times in a row") }
            }
            Accepting::Silent { .. } | Accepting::NotYet { .. } | Accepting::No => {
                Condition::Unready(known.unready_since.unwrap_or(self.now))
            }
        }
    }

    /// How long a crashed primary would take to accept writes again; `None` when nobody knows.
    pub(super) fn expected_recovery(&self, node: &NodeName) -> Option<Duration> {
        let bytes = self.nodes.get(node)?.status.as_ref()?.postgres.recovery_bytes?;
        let millis = bytes.saturating_mul(1000).checked_div(REPLAY_PER_SECOND).unwrap_or(0);
        Some(START.saturating_add(Duration::from_millis(millis)))
    }

    /// How long a restart in place may take before it counts as failed.
    pub(super) fn restart_bound(&self) -> Duration {
        self.settings.restart_if.saturating_mul(2).max(Duration::from_secs(5))
    }

    /// Somebody who says that the primary lives, though its agent is not heard.
    pub(super) fn witness(&self, primary: &NodeName) -> Option<String> {
        if let Some(known) = self.nodes.get(primary) {
            let running = known.word(self.now).filter(|_| !known.died).map_or(0, |status| status.postgres.processes);
            if running > 0 {
                return Some(format!("its agent says that {running} server processes of \"{primary}\" run"));
            }
            if known.healthy().is_some() {
                return Some(format!("the monitor reaches \"{primary}\""));
            }
        }
        let grew = |at: Option<Duration>| at.is_some_and(|at| self.now.saturating_sub(at) <= WITNESS);
        let others = self.nodes.values().filter(|known| known.member.name != *primary);
        let mut others = others.filter(|known| known.word(self.now).is_some() && grew(known.grew_at));
        let witness =
            others.find(|known| known.status.as_ref().is_some_and(|s| s.postgres.streaming_from.is_some()))?;
        Some(format!("\"{}\" still receives log from \"{primary}\"", witness.member.name))
    }
}
