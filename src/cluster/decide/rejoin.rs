//! How a node becomes a standby again: follow → rewind → rebuild → quarantine. Each rung is tried a bounded number of times, with pauses
//! that grow; there is no way back down the ladder, and nothing goes on for ever.
//!
//! Also here: a second node that accepts writes is fenced, whoever promoted it; the appointed primary stays.

use std::time::Duration;

use crate::directive::{Code, Directive, Failure, History, Upstream};
use crate::topology::NodeName;

use super::errand::Progress;
use super::machine::Decider;
use super::names::slot_name;
use super::stage::Stage;
use super::{Aside, Reason};

/// A standby that has just stopped to stream gets time to come back by itself.
const GRACE: Duration = Duration::from_secs(3);
/// So long a node may take to stream after it was told to, successfully.
const STREAMS_WITHIN: Duration = Duration::from_secs(10);
/// The pauses between tries.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Tries of each rung; a node that cannot reach the other one does not count.
const FOLLOWS: u32 = 3;
const SILENT_FOLLOWS: u32 = 2;
const REWINDS: u32 = 2;
const REBUILDS: u32 = 2;
/// Rebuilds that could not reach the primary, or were cut off.
const CUT_OFF: u32 = 5;

/// A rung.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rung {
    #[default]
    Follow,
    Rewind,
    Rebuild,
}

/// One node on the ladder.
#[derive(Clone, Debug, Default)]
pub(super) struct Repair {
    pub(super) rung: Rung,
    /// Failures on this rung.
    failures: u32,
    cut_off: u32,
    pause: Duration,
    pub(super) again_at: Duration,
    /// What the node was told, and on which rung.
    errand: Option<(What, String)>,
    /// The last order ended well: it has to stream soon.
    done_at: Option<Duration>,
    well_since: Option<Duration>,
    /// The last thing that went wrong.
    pub(super) note: Option<String>,
}

/// What a node on the ladder was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Climb(Rung),
    Fence,
    Unfreeze,
}

/// What is next after a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    Again,
    Up(Rung),
    GiveUp,
}

impl Repair {
    /// Begins on this rung, now.
    pub(super) fn on(rung: Rung) -> Self {
        Self { rung, ..Self::default() }
    }

    /// It was told to, already.
    pub(super) fn was_told(&mut self, id: &str) {
        self.errand = Some((What::Climb(self.rung), id.to_owned()));
    }

    /// What follows from a failure.
    fn fails(&mut self, now: Duration, failure: &Failure) -> Next {
        self.note = Some(failure.to_string());
        self.done_at = None;
        self.pause = self.pause.saturating_mul(2).clamp(PAUSE, PAUSE_MAX);
        self.again_at = now.saturating_add(self.pause);
        let out_of_reach = matches!(
            failure.code,
            Code::Unreachable
                | Code::Interrupted
                | Code::Busy
                | Code::StaleEpoch
                | Code::OtherCoordinator
                | Code::WrongRole
        );
        if out_of_reach {
            self.cut_off = self.cut_off.saturating_add(1);
            return if self.rung == Rung::Rebuild && self.cut_off >= CUT_OFF { Next::GiveUp } else { Next::Again };
        }
        self.failures = self.failures.saturating_add(1);
        match (self.rung, failure.code) {
            (_, Code::OtherSystem | Code::NotUndone | Code::WrongNode) => Next::GiveUp,
            (Rung::Follow, Code::Diverged) => Next::Up(Rung::Rewind),
            (Rung::Follow | Rung::Rewind, Code::DiskFull | Code::Permission) if self.failures >= FOLLOWS => {
                Next::GiveUp
            }
            (Rung::Follow | Rung::Rewind, Code::DiskFull | Code::Permission) => Next::Again,
            (Rung::Follow, _) if self.failures >= FOLLOWS => Next::Up(Rung::Rebuild),
            (Rung::Rewind, Code::RewindImpossible) => Next::Up(Rung::Rebuild),
            (Rung::Rewind, _) if self.failures >= REWINDS => Next::Up(Rung::Rebuild),
            (Rung::Rebuild, _) if self.failures >= REBUILDS => Next::GiveUp,
            (Rung::Follow | Rung::Rewind | Rung::Rebuild, _) => Next::Again,
        }
    }

    /// It was told, it said it was done, and it does not stream.
    fn does_not_stream(&mut self, now: Duration) -> Next {
        let failure = Failure::new(Code::TimedOut, "it does not stream after it was told to");
        if self.rung == Rung::Follow && self.failures.saturating_add(1) >= SILENT_FOLLOWS {
            self.failures = FOLLOWS;
        }
        self.fails(now, &failure)
    }

    fn climb(&mut self, now: Duration, rung: Rung) {
        self.rung = rung;
        self.failures = 0;
        self.cut_off = 0;
        self.pause = Duration::ZERO;
        self.again_at = now;
    }
}

impl Decider {
    /// Looks after every node but the primary, and after the primary's slots.
    pub(super) fn tend(&mut self, primary: &NodeName) {
        let mut wants_slot = false;
        for node in self.others(primary) {
            if self.pending.is_some() {
                return;
            }
            wants_slot |= self.tend_one(primary, &node);
        }
        self.keep_slots(primary, wants_slot);
        if !wants_slot {
            self.is_checkpointed(primary);
        }
    }

    /// `true`: it waits for a slot on the primary.
    fn tend_one(&mut self, primary: &NodeName, node: &NodeName) -> bool {
        let Some(status) = self.word(node) else { return false };
        let postgres = status.postgres.clone();
        if self.errands.get(node).and_then(|errand| errand.ended_at).is_some_and(|ended| self.heard_at(node) <= ended) {
            self.collect(node);
            return false; // its word is older than what it has just done
        }
        let fenced = match self.is_aside(node) {
            Some(Aside::Fenced) => true,
            Some(Aside::Detached | Aside::Quarantined { .. }) => return false,
            None => false,
        };
        if fenced && postgres.processes > 0 && !self.is_busy(node) {
            self.tell_node(node, What::Fence, Directive::Fence);
        }
        if fenced {
            return false;
        }
        if postgres.system_identifier.is_some() && postgres.system_identifier != self.record.system_identifier {
            self.block(
                Reason::OtherHistory,
                format!("\"{node}\" is of another cluster: its system identifier differs; it is left alone"),
            );
            return false;
        }
        self.collect(node);
        if self.pending.is_some() {
            return false;
        }
        if self.may_write(node) {
            self.second_writable(primary, node);
            return false;
        }
        let now = self.now;
        if self.is_standby_of(primary, node) && !self.record.forked.contains(node) {
            let over = self.repairs.get_mut(node).is_some_and(|repair| {
                repair.done_at = None;
                now.saturating_sub(*repair.well_since.get_or_insert(now)) >= STREAMS_WITHIN
            });
            if over {
                self.repairs.remove(node);
            }
            self.drop_slots_of_standby(node);
            return false;
        }
        self.climb(primary, node, &postgres)
    }

    /// It does not stream from the primary: the next rung.
    fn climb(&mut self, primary: &NodeName, node: &NodeName, postgres: &crate::directive::PostgresStatus) -> bool {
        let now = self.now;
        if self.is_busy(node) {
            return false;
        }
        let at_once = self.upkeep.is_after_promotion(now) || self.repairs.contains_key(node);
        let idle = self
            .nodes
            .get(node)
            .and_then(|known| known.idle_since)
            .map_or(Duration::ZERO, |since| now.saturating_sub(since));
        if !at_once && !postgres.frozen && idle < GRACE && postgres.streaming_from.is_none() {
            return false;
        }
        let slot = slot_name(node);
        let lost = self.has_lost_slot(primary, &slot);
        let forked = self.record.forked.contains(node);
        let repair = self.repairs.entry(node.clone()).or_default();
        repair.well_since = None;
        if let Some(done_at) = repair.done_at {
            if now.saturating_sub(done_at) < STREAMS_WITHIN {
                if postgres.frozen && now.saturating_sub(done_at) >= PAUSE {
                    self.tell_node(node, What::Unfreeze, Directive::Unfreeze);
                }
                return false;
            }
            let next = repair.does_not_stream(now);
            self.take(node, next, "it does not stream after it was told to");
            return false;
        }
        if now < repair.again_at {
            return false;
        }
        if lost && repair.rung < Rung::Rebuild {
            repair.climb(now, Rung::Rebuild); // the log it needs is gone
            repair.note = Some("its slot on the primary has lost the log it needs".to_owned());
        }
        if forked && repair.rung < Rung::Rebuild {
            repair.climb(now, Rung::Rebuild);
            repair.note = Some("it was promoted in vain while another was".to_owned());
        }
        let rung = repair.rung;
        if !self.has_slot(primary, &slot) {
            return true;
        }
        if rung == Rung::Rewind && !self.is_checkpointed(primary) {
            return false;
        }
        let Some(upstream) = self.upstream(primary, node) else { return false };
        let directive = match rung {
            Rung::Follow => Directive::Follow { upstream },
            Rung::Rewind => Directive::Rewind { upstream },
            Rung::Rebuild => Directive::Rebuild { upstream },
        };
        self.tell_node(node, What::Climb(rung), directive);
        false
    }

    /// For `howdah rebuild`.
    pub(super) fn rebuild_directive(&self, primary: &NodeName, node: &NodeName) -> Option<Directive> {
        self.upstream(primary, node).map(|upstream| Directive::Rebuild { upstream })
    }

    /// Where a standby finds the primary.
    fn upstream(&self, primary: &NodeName, node: &NodeName) -> Option<Upstream> {
        let member = self.settings.nodes.iter().find(|member| member.name == *primary)?;
        let timeline = self.record.timeline?;
        let history = self.history.clone().filter(|history| history.timeline == timeline);
        Some(Upstream {
            node: primary.to_string(),
            host: member.host.clone(),
            port: member.port,
            slot: slot_name(node),
            history: history.unwrap_or(History { timeline, forks: Vec::new() }),
        })
    }

    /// It streams from the primary, on the primary's timeline.
    pub(super) fn is_standby_of(&self, primary: &NodeName, node: &NodeName) -> bool {
        let Some(status) = self.word(node) else { return false };
        let Some(from) = &status.postgres.streaming_from else { return false };
        let Some(member) = self.settings.nodes.iter().find(|member| member.name == *primary) else { return false };
        let told = self.repairs.get(node).is_some_and(|repair| repair.done_at.is_some() || repair.well_since.is_some());
        let there = *from == format!("{}:{}", member.host, member.port);
        !status.postgres.frozen && (there || told) && status.postgres.timeline == self.record.timeline
    }

    /// Another node accepts writes. It is not used, and it does not go on.
    fn second_writable(&mut self, primary: &NodeName, node: &NodeName) {
        if self.now < self.repairs.get(node).map_or(Duration::ZERO, |repair| repair.again_at) {
            return;
        }
        self.block(
            Reason::OtherHistory,
            format!("\"{node}\" accepts writes beside the primary \"{primary}\": it is fenced, and rejoins"),
        );
        if self.tell_node(node, What::Fence, Directive::Fence) {
            self.tell(Some(node), true, format!("accepts writes beside the primary \"{primary}\": it is fenced"));
        }
    }

    /// Gives an order of the ladder, unless the node has one.
    fn tell_node(&mut self, node: &NodeName, what: What, directive: Directive) -> bool {
        if self.is_busy(node) && what != What::Fence
            || self.repairs.get(node).is_some_and(|repair| repair.errand.is_some())
        {
            self.collect(node);
            return false;
        }
        let id = self.fresh_id(directive.name(), node);
        self.repairs.entry(node.clone()).or_default().errand = Some((what, id.clone()));
        self.order(node, self.record.epoch, id, directive);
        true
    }

    /// How the last order ended.
    fn collect(&mut self, node: &NodeName) {
        let Some((what, id)) = self.repairs.get(node).and_then(|repair| repair.errand.clone()) else { return };
        let progress = self.progress(node, &id);
        let now = self.now;
        let Some(repair) = self.repairs.get_mut(node) else { return };
        match progress {
            Progress::Running => {}
            Progress::None => repair.errand = None, // something more important came between
            Progress::Done(_) => {
                repair.errand = None;
                match what {
                    What::Climb(rung) => {
                        repair.done_at = Some(now);
                        if rung == Rung::Rebuild && self.record.forked.remove(node) {
                            self.store(Stage::Steady);
                        }
                    }
                    // It may take a moment until its agent's status says so.
                    What::Fence => repair.again_at = now.saturating_add(PAUSE),
                    What::Unfreeze => {}
                }
            }
            Progress::Failed(failure) => {
                repair.errand = None;
                match what {
                    What::Climb(_) => {
                        let next = repair.fails(now, &failure);
                        let again = failure.code == Code::Diverged;
                        self.take(node, next, &failure.to_string());
                        if again {
                            self.needs_checkpoint_after_divergence();
                        }
                    }
                    What::Fence | What::Unfreeze => {
                        repair.note = Some(failure.to_string());
                        repair.pause = repair.pause.saturating_mul(2).clamp(PAUSE, PAUSE_MAX);
                        repair.again_at = now.saturating_add(repair.pause);
                    }
                }
            }
        }
    }

    fn needs_checkpoint_after_divergence(&mut self) {
        if !self.upkeep.is_after_promotion(self.now) {
            self.needs_checkpoint();
        }
    }

    fn take(&mut self, node: &NodeName, next: Next, why: &str) {
        let now = self.now;
        match next {
            Next::Again => {}
            Next::Up(rung) => {
                if let Some(repair) = self.repairs.get_mut(node) {
                    repair.climb(now, rung);
                }
                self.tell(Some(node), false, format!("{why}; next: {}", rung.name()));
            }
            Next::GiveUp => {
                self.repairs.remove(node);
                self.record.aside.insert(node.clone(), Aside::Quarantined { why: why.to_owned() });
                self.tell(Some(node), true, format!("is quarantined, no way to make it a standby is left: {why}. \"howdah attach {node}\" tries again"));
                self.store(Stage::Steady);
            }
        }
    }
}

impl Rung {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Follow => "follow",
            Self::Rewind => "rewind",
            Self::Rebuild => "rebuild",
        }
    }
}
