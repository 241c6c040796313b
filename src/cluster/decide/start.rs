//! The beginning: whose cluster this is, which epoch the agents know, who is the primary; and whatever the last life of the daemon
//! was doing.
//!
//! Invariant: nothing is ordered under an epoch that is not above what every agent that is heard has seen from somebody else.

use std::time::Duration;

use crate::topology::{Epoch, NodeName};

use super::machine::Decider;
use super::stage::Stage;
use super::{Intent, Reason};

/// For so long every agent is waited for.
const EVERYBODY: Duration = Duration::from_secs(5);
/// For so long the other agents are waited for when the recorded primary is well.
const OTHERS: Duration = Duration::from_secs(1);

impl Decider {
    pub(super) fn start(&mut self) {
        self.appoint(None, false);
        let since = self.now.saturating_sub(self.began.unwrap_or(self.now));
        if !self.is_alive_record() && self.record.generation > 0 {
            self.store(Stage::Starting); // this life has a generation of its own
            return;
        }
        if self.record.intent.is_some() {
            self.go_on();
            return;
        }
        let agents = self.settings.nodes.iter().filter(|member| member.has_agent);
        let everybody = agents.clone().all(|member| self.word(&member.name).is_some());
        let Some(primary) = self.record.primary.clone() else {
            self.adopt(everybody || since >= EVERYBODY);
            return;
        };
        if self.is_outdated() {
            self.adopt(everybody || since >= EVERYBODY);
            return;
        }
        let seen = self.nodes.get(&primary).is_some_and(|known| known.is_writable(self.now));
        let heard = self.word(&primary).is_some();
        if (heard && everybody) || (since >= OTHERS && (heard || seen)) || since >= EVERYBODY {
            self.go(Stage::Steady);
        } else {
            self.block(
                Reason::NoPrimary,
                format!(
                    "the agent of the primary of epoch {}, \"{primary}\", has not been heard yet",
                    self.record.epoch
                ),
            );
        }
    }

    /// Some agent has seen a higher epoch than the record: the record is an old one.
    fn is_outdated(&self) -> bool {
        self.highest_epoch() > self.record.epoch
    }

    fn highest_epoch(&self) -> Epoch {
        let words = self.nodes.values().filter_map(|known| known.word(self.now));
        words.map(|status| status.epoch).max().unwrap_or_default()
    }

    /// Names the one primary there is, under an epoch above all.
    fn adopt(&mut self, enough: bool) {
        let mut writable: Vec<NodeName> = Vec::new();
        for member in &self.settings.nodes {
            let Some(known) = self.nodes.get(&member.name) else { continue };
            if known.word(self.now).is_some() && known.is_writable(self.now) {
                writable.push(member.name.clone());
            }
        }
        if !enough {
            self.block(Reason::NoPrimary, "not every agent has been heard yet");
            return;
        }
        let rank = |name: &NodeName| self.word(name).map(|status| (status.epoch, status.postgres.timeline));
        let best = writable.iter().map(rank).max().flatten();
        writable.retain(|name| rank(name) == best);
        let [primary] = writable.as_slice() else {
            let text = match writable.as_slice() {
                [] => "no agent says that its PostgreSQL accepts writes: start the one that is to be the primary"
                    .to_owned(),
                several => {
                    format!("these nodes accept writes, and nothing tells which is the primary: {}", several.join(", "))
                }
            };
            self.block(Reason::NoPrimary, text);
            return;
        };
        let primary = primary.clone();
        let Some(status) = self.word(&primary) else { return };
        let (system, timeline) = (status.postgres.system_identifier, status.postgres.timeline);
        let history = status.postgres.history.clone();
        if let Some(known) = self.record.system_identifier.filter(|known| Some(*known) != system) {
            self.block(
                Reason::OtherHistory,
                format!("\"{primary}\" accepts writes, but is not of this cluster's system identifier {}", known.0),
            );
            return;
        }
        let epoch = Epoch(self.highest_epoch().max(self.record.epoch).0.saturating_add(1));
        self.record.epoch = epoch;
        self.record.primary = Some(primary.clone());
        self.record.system_identifier = system;
        self.record.timeline = timeline;
        self.history = (timeline == Some(history.timeline)).then_some(history);
        self.tell(Some(&primary), false, format!("is the primary; epoch {epoch} begins"));
        self.store(Stage::Steady);
    }

    /// Goes on with what the record says is under way.
    fn go_on(&mut self) {
        let Some(intent) = self.record.intent.clone() else { return };
        self.op.begin();
        self.op.own = false;
        match intent {
            Intent::Failover { .. } => self.go(Stage::Fencing),
            Intent::RestartInPlace { .. } => self.go(Stage::Restarting),
            Intent::Promote { .. } => self.go(Stage::Promoting),
            Intent::Switchover { stopping: true, .. } => self.go(Stage::Stopping),
            Intent::Switchover { stopping: false, .. } => {
                self.tell(
                    None,
                    false,
                    "the switchover is undone: the daemon was restarted before the old primary was stopped",
                );
                self.record.intent = None;
                self.store(Stage::Starting);
            }
        }
    }

    /// Raises the record's epoch above what the agents know; `true`: the record has changed.
    pub(super) fn raise_epoch(&mut self) -> bool {
        if self.pending.is_some() || !self.is_alive_record() || matches!(self.stage, Stage::Starting | Stage::Observing)
        {
            return false;
        }
        let limit = match self.record.intent {
            Some(Intent::Failover { .. } | Intent::Promote { .. } | Intent::Switchover { stopping: true, .. }) => {
                self.next_epoch()
            }
            _ => self.record.epoch,
        };
        let ours = self.record.coordinator.as_str();
        let foreign = |status: &&crate::directive::AgentStatus| {
            status.epoch > limit
                || (status.epoch == limit && status.coordinator != ours && !status.coordinator.is_empty())
        };
        let words = self.nodes.values().filter_map(|known| known.word(self.now));
        let Some(highest) = words.filter(foreign).map(|status| status.epoch).max() else { return false };
        self.tell(
            None,
            true,
            format!(
                "an agent has seen epoch {highest} from another coordinator, the record says {}",
                self.record.epoch
            ),
        );
        match self.stage {
            Stage::Fencing | Stage::Choosing if self.op.own => {
                self.record.epoch = highest;
                self.op.again();
                self.store(Stage::Fencing);
            }
            Stage::Steady | Stage::Suspecting => {
                self.record.epoch = Epoch(highest.0.saturating_add(1));
                self.store(self.stage);
            }
            // An operation of a record that is older than what has happened since: who is the primary is found out anew.
            _ => {
                self.record.epoch = highest;
                self.record.intent = None;
                self.record.primary = None;
                self.began = Some(self.now);
                self.store(Stage::Starting);
            }
        }
        true
    }
}
