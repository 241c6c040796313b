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
/// For so long the other agents are waited for when the recorded primary is well, or something is recorded as under way.
const OTHERS: Duration = Duration::from_secs(1);
/// Why nobody is named.
const NOBODY: &str = "no agent says that its PostgreSQL accepts writes: start the one that is to be the primary";

impl Decider {
    pub(super) fn start(&mut self) {
        self.appoint(None, false);
        let since = self.now.saturating_sub(self.began.unwrap_or(self.now));
        if !self.is_alive_record() && self.record.generation > 0 {
            self.store(Stage::Starting); // this life has a generation of its own
            return;
        }
        let agents = self.settings.nodes.iter().filter(|member| member.has_agent);
        let everybody = agents.clone().all(|member| self.word(&member.name).is_some());
        if self.record.intent.is_some() {
            // whoever answers at once may know that it is an old story
            if everybody || since >= OTHERS {
                self.go_on();
            } else {
                self.block(Reason::Busy, "what the record says is under way waits for a word of each agent");
            }
            return;
        }
        let Some(primary) = self.record.primary.clone() else {
            self.adopt(everybody || since >= EVERYBODY, everybody);
            return;
        };
        if self.is_outdated() {
            self.adopt(everybody || since >= EVERYBODY, everybody);
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
    fn adopt(&mut self, enough: bool, everybody: bool) {
        let names = self.settings.nodes.iter().map(|member| member.name.clone());
        let heard: Vec<NodeName> = names.filter(|name| self.word(name).is_some()).collect();
        if !enough {
            self.block(Reason::NoPrimary, "not every agent has been heard yet");
            return;
        }
        let is_writable = |name: &NodeName| self.nodes.get(name).is_some_and(|known| known.is_writable(self.now));
        let mut writable: Vec<NodeName> = heard.iter().filter(|name| is_writable(name)).cloned().collect();
        let in_use: Vec<NodeName> = heard.iter().filter_map(|name| self.followed_by(name)).collect();
        if writable.is_empty() && in_use.is_empty() && everybody {
            self.adopt_what_is_down(&heard);
            return;
        }
        // A primary that starts, or hangs: it may accept writes the next moment.
        let unclear = heard.iter().find(|name| !is_writable(name) && self.may_write(name));
        if let Some(unclear) = unclear.filter(|_| in_use.is_empty()) {
            self.block(Reason::NoPrimary, format!("\"{unclear}\" runs as a primary and does not answer"));
            return;
        }
        // The one in use stays in use. Of several that nobody follows: a promotion that was ordered has raised the epoch, so under
        // the same one the later timeline was begun by hand; where no epoch ever was, the later one is somebody's will.
        if !in_use.is_empty() {
            writable.retain(|name| in_use.contains(name));
        }
        let managed = self.highest_epoch() > Epoch(0);
        let rank = |name: &NodeName| {
            let status = self.word(name)?;
            let timeline = i64::from(status.postgres.timeline.map_or(0, |timeline| timeline.0));
            Some((status.epoch, if managed { timeline.saturating_neg() } else { timeline }))
        };
        let best = writable.iter().map(rank).max().flatten();
        writable.retain(|name| rank(name) == best);
        let [primary] = writable.as_slice() else {
            let text = match (writable.as_slice(), in_use.first()) {
                ([], Some(used)) => {
                    format!("standbys follow \"{used}\", whose agent is not heard or says that it accepts no writes")
                }
                ([], None) => NOBODY.to_owned(),
                (several, _) => {
                    format!("these nodes accept writes, and nothing tells which is the primary: {}", several.join(", "))
                }
            };
            self.block(Reason::NoPrimary, text);
            return;
        };
        let primary = primary.clone();
        if self.name_primary(&primary) {
            self.tell(Some(&primary), false, format!("is the primary; epoch {} begins", self.record.epoch));
            self.store(Stage::Steady);
        }
    }

    /// It accepts writes, or runs without a latch: it may the next moment.
    pub(super) fn may_write(&self, node: &NodeName) -> bool {
        self.word(node).is_some_and(|status| {
            let postgres = &status.postgres;
            let unclear = postgres.in_recovery.is_none() && postgres.processes > 0 && !postgres.latched;
            postgres.in_recovery == Some(false) || unclear
        })
    }

    /// The node that this one streams from, by its own word.
    pub(super) fn followed_by(&self, node: &NodeName) -> Option<NodeName> {
        let from = self.word(node)?.postgres.streaming_from.as_ref()?;
        let mut members = self.settings.nodes.iter();
        members.find(|member| *from == format!("{}:{}", member.host, member.port)).map(|member| member.name.clone())
    }

    /// Takes this node for the primary of a new epoch, in the record; `false`: it is another cluster's.
    fn name_primary(&mut self, primary: &NodeName) -> bool {
        let Some(status) = self.word(primary) else { return false };
        let (system, timeline) = (status.postgres.system_identifier, status.postgres.timeline);
        let history = status.postgres.history.clone();
        if let Some(known) = self.record.system_identifier.filter(|known| Some(*known) != system) {
            let text = format!("\"{primary}\" is not of this cluster: its system identifier is not {}", known.0);
            self.block(Reason::OtherHistory, text);
            return false;
        }
        self.record.epoch = Epoch(self.highest_epoch().max(self.record.epoch).0.saturating_add(1));
        self.record.primary = Some(primary.clone());
        self.record.system_identifier = system;
        self.record.timeline = timeline;
        self.history = (timeline == Some(history.timeline)).then_some(history);
        self.position = None;
        self.found = true;
        true
    }

    /// Everybody is heard, nobody accepts writes and nobody follows anybody. A directory that is no standby's belongs to the primary.
    /// When there is none and this was managed before, all have stopped in the middle of something: a failover from
    /// the one that has most. A cluster that was never managed may follow somebody else's primary: it is left alone.
    fn adopt_what_is_down(&mut self, heard: &[NodeName]) {
        let busy = heard.iter().any(|name| self.nodes.get(name).is_some_and(|it| it.running_job(self.now).is_some()));
        let is_down_primary = |name: &&NodeName| {
            let postgres = self.word(name).map(|status| &status.postgres);
            postgres.is_some_and(|it| !it.latched && it.postmaster.is_none() && it.processes == 0)
        };
        let primaries: Vec<NodeName> = heard.iter().filter(is_down_primary).cloned().collect();
        let reach = |name: &&NodeName| {
            let control = self.word(name)?.postgres.control.as_ref();
            let control = control.map(|it| (it.timeline, it.checkpoint.max(it.min_recovery)));
            self.nodes.get(*name)?.reach().max(control)
        };
        let chosen = match primaries.as_slice() {
            [one] => Some(one.clone()),
            [] if self.highest_epoch() > Epoch(0) => {
                let free = heard.iter().filter(|name| self.is_aside(name).is_none() && reach(name).is_some());
                free.max_by_key(reach).cloned()
            }
            _ => None,
        };
        let Some(chosen) = chosen.filter(|_| !busy) else {
            self.block(Reason::NoPrimary, NOBODY);
            return;
        };
        if !self.name_primary(&chosen) {
            return;
        }
        let cause = "nobody accepts writes, and everybody is heard";
        if primaries.is_empty() {
            self.begin_failover(&chosen, cause, None, false, false);
        } else {
            self.begin_restart(&chosen, cause);
        }
    }

    /// Agents know more than the record: what it says is under way is an old story. Who is the primary is found out anew.
    pub(super) fn forget(&mut self, why: &str) {
        self.tell(None, true, format!("{why}: what the record says is under way is an old story, and left"));
        self.record.intent = None;
        self.record.primary = None;
        // an order that has not arrived must not be given once more; a job that runs is in its agent's word
        self.errands.clear();
        self.repairs.clear();
        self.op = super::operation::Operation { stage_since: self.now, ..Default::default() };
        self.began = Some(self.now);
        self.store(Stage::Starting);
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
        let why = format!("an agent has seen epoch {highest} from another, the record says {}", self.record.epoch);
        let elsewhere = self.nodes.values().any(|known| {
            known.is_writable(self.now) && known.word(self.now).is_some_and(|status| status.epoch > limit)
        });
        match self.stage {
            Stage::Fencing | Stage::Choosing if self.op.own && !elsewhere => {
                self.tell(None, true, why);
                self.record.epoch = highest;
                self.op.again();
                self.store(Stage::Fencing);
            }
            Stage::Steady
                if !elsewhere && self.record.primary.as_ref().is_some_and(|primary| self.is_well(primary)) =>
            {
                self.tell(None, true, why);
                self.record.epoch = Epoch(highest.0.saturating_add(1));
                self.store(self.stage);
            }
            _ => {
                self.record.epoch = highest;
                self.forget(&why);
            }
        }
        true
    }
}
