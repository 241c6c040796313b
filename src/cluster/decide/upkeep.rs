//! What a primary owes its standbys: a slot for each member, also for those that are away, and none that nobody needs any more.
//!
//! Only slots whose names begin with `howdah_` are ever dropped; the rest are somebody else's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::directive::Directive;
use crate::topology::NodeName;

use super::errand::Progress;
use super::machine::Decider;
use super::names::slot_name;

/// How often slots are looked after.
const EVERY: Duration = Duration::from_secs(10);
/// A slot of a node that is no longer configured is kept for so long.
const ORPHANS: Duration = Duration::from_secs(3600);
/// How soon a node that would not drop its slots is told again.
const STANDBYS: Duration = Duration::from_secs(600);
/// What howdah's own slots begin with.
const OURS: &str = "howdah_";
/// After a promotion standbys are told at once; later they get time to come back by themselves.
const AFTER_PROMOTION: Duration = Duration::from_secs(30);

/// What this life of the daemon knows of the primary's slots.
#[derive(Clone, Debug, Default)]
pub(super) struct Upkeep {
    /// Made in this epoch; the agent's next status will show them.
    made: BTreeSet<String>,
    /// What the primary is being told, and which slots that makes.
    errand: Option<(String, BTreeSet<String>)>,
    /// When slots are next looked after.
    next_at: Duration,
    /// The primary has refused: not before then, whoever waits for a slot.
    refused_until: Duration,
    /// The checkpoint after the promotion: due, ordered, done.
    checkpoint: Checkpoint,
    checkpoint_at: Duration,
    promoted_at: Option<Duration>,
    /// Slots of nobody, since when.
    orphans: BTreeMap<String, Duration>,
    /// When a standby was last told to drop what it kept as a primary.
    standbys: BTreeMap<NodeName, Duration>,
}

/// `pg_rewind` reads the source's control file: before the first checkpoint of a new timeline it would find nothing to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Checkpoint {
    #[default]
    Due,
    Ordered(String),
    Done,
}

impl Upkeep {
    /// There is a new primary, with these slots.
    pub(super) fn promoted(&mut self, now: Duration, slots: BTreeSet<String>) {
        *self = Self { made: slots, promoted_at: Some(now), next_at: now.saturating_add(EVERY), ..Self::default() };
    }

    /// Standbys are not waited for.
    pub(super) fn is_after_promotion(&self, now: Duration) -> bool {
        self.promoted_at.is_some_and(|at| now.saturating_sub(at) <= AFTER_PROMOTION)
    }
}

impl Decider {
    /// The slot is there.
    pub(super) fn has_slot(&self, primary: &NodeName, slot: &str) -> bool {
        self.upkeep.made.contains(slot)
            || self.word(primary).is_some_and(|status| status.postgres.slots.iter().any(|s| s.name == slot && !s.lost))
    }

    /// The slot has lost what it was to keep.
    pub(super) fn has_lost_slot(&self, primary: &NodeName, slot: &str) -> bool {
        self.word(primary).is_some_and(|status| status.postgres.slots.iter().any(|s| s.name == slot && s.lost))
    }

    /// The checkpoint after the promotion is done; ordered when it is not.
    pub(super) fn is_checkpointed(&mut self, primary: &NodeName) -> bool {
        match self.upkeep.checkpoint.clone() {
            Checkpoint::Done => true,
            Checkpoint::Ordered(id) => {
                match self.progress(primary, &id) {
                    Progress::Done(_) => self.upkeep.checkpoint = Checkpoint::Done,
                    Progress::Running => {}
                    Progress::None | Progress::Failed(_) => self.upkeep.checkpoint = Checkpoint::Due,
                }
                self.upkeep.checkpoint == Checkpoint::Done
            }
            Checkpoint::Due => {
                if self.now >= self.upkeep.checkpoint_at && !self.is_busy(primary) && self.word(primary).is_some() {
                    let id = self.fresh_id("checkpoint", primary);
                    self.upkeep.checkpoint = Checkpoint::Ordered(id.clone());
                    self.upkeep.checkpoint_at = self.now.saturating_add(Duration::from_secs(2));
                    self.order(primary, self.record.epoch, id, Directive::Checkpoint);
                }
                false
            }
        }
    }

    /// A checkpoint from before says nothing.
    pub(super) fn needs_checkpoint(&mut self) {
        if self.upkeep.checkpoint == Checkpoint::Done {
            self.upkeep.checkpoint = Checkpoint::Due;
        }
    }

    /// Looks after slots; `urgent`: somebody waits for one.
    pub(super) fn keep_slots(&mut self, primary: &NodeName, urgent: bool) {
        if let Some((id, slots)) = self.upkeep.errand.clone() {
            match self.progress(primary, &id) {
                Progress::Running => return,
                Progress::Done(_) => {
                    self.upkeep.made.extend(slots);
                    self.upkeep.errand = None;
                }
                Progress::Failed(_) | Progress::None => {
                    self.upkeep.errand = None;
                    self.upkeep.refused_until = self.now.saturating_add(Duration::from_secs(2));
                }
            }
        }
        let Some(status) = self.word(primary) else { return };
        let early = self.now < self.upkeep.refused_until || (self.now < self.upkeep.next_at && !urgent);
        if early || self.is_busy(primary) {
            return;
        }
        let slots = status.postgres.slots.clone();
        let unbounded = status.postgres.slots_unbounded && self.settings.slot_wal_max > 0;
        let members = self.settings.nodes.iter().filter(|member| member.name != *primary);
        let wanted: BTreeSet<String> = members.map(|member| slot_name(&member.name)).collect();
        let there: BTreeSet<String> = slots.iter().map(|slot| slot.name.clone()).collect();
        let missing: BTreeSet<String> =
            wanted.iter().filter(|slot| !there.contains(*slot) && !self.upkeep.made.contains(*slot)).cloned().collect();
        let now = self.now;
        let nobodys = |name: &String| name.starts_with(OURS) && !wanted.contains(name);
        self.upkeep.orphans.retain(|name, _| there.contains(name) && nobodys(name));
        for slot in slots.iter().filter(|slot| nobodys(&slot.name)) {
            self.upkeep.orphans.entry(slot.name.clone()).or_insert(now);
        }
        let old =
            |name: &String| self.upkeep.orphans.get(name).is_some_and(|since| now.saturating_sub(*since) >= ORPHANS);
        let useless =
            slots.iter().filter(|slot| !slot.active && ((slot.lost && wanted.contains(&slot.name)) || old(&slot.name)));
        let drop_slots: Vec<String> = useless.map(|slot| slot.name.clone()).collect();
        self.upkeep.next_at = now.saturating_add(EVERY);
        // What this life has made and the agent does not show any more is made again next time.
        self.upkeep.made.retain(|slot| {
            !there.contains(slot)
                && !drop_slots.contains(slot)
                && self.upkeep.promoted_at.is_some_and(|at| now.saturating_sub(at) < EVERY)
        });
        if missing.is_empty() && drop_slots.is_empty() && !unbounded {
            return;
        }
        let megabytes = (self.settings.slot_wal_max >> 20).max(1);
        let bound = || ("max_slot_wal_keep_size".to_owned(), Some(format!("{megabytes}MB")));
        let settings = unbounded.then(bound).into_iter().collect();
        let id = self.fresh_id("configure", primary);
        // Dropped first, made the next time: which of both one order does first is nobody's promise.
        let make = if drop_slots.is_empty() { missing } else { BTreeSet::new() };
        if !drop_slots.is_empty() {
            self.upkeep.next_at = now;
        }
        self.upkeep.errand = Some((id.clone(), make.clone()));
        let directive = Directive::Configure { settings, slots: make.into_iter().collect(), drop_slots };
        self.order(primary, self.record.epoch, id, directive);
    }

    /// A standby that was the primary keeps log for slots that nobody will use there.
    pub(super) fn drop_slots_of_standby(&mut self, node: &NodeName) {
        let due = self.upkeep.standbys.get(node).is_none_or(|at| self.now.saturating_sub(*at) >= STANDBYS);
        let Some(status) = self.word(node).filter(|_| due) else { return };
        let unused = status.postgres.slots.iter().filter(|slot| !slot.active && slot.name.starts_with(OURS));
        let drop_slots: Vec<String> = unused.map(|slot| slot.name.clone()).collect();
        if drop_slots.is_empty() || self.is_busy(node) {
            return;
        }
        self.upkeep.standbys.insert(node.clone(), self.now);
        let id = self.fresh_id("configure", node);
        let directive = Directive::Configure { settings: BTreeMap::new(), slots: Vec::new(), drop_slots };
        self.order(node, self.record.epoch, id, directive);
    }
}
