//! ◇ Folds observations into one cluster's view: who is primary, who is healthy, who may be read from, and how far the primary's
//! log is.
//!
//! Pure: no I/O, no clock; what time it is comes in. Not here: asking (`probe`), publishing and logging (`watcher`).
//!
//! Invariants: at most one primary; the epoch grows exactly when the primary becomes another node; nobody is named primary
//! before every node has answered or failed to once, so that an old primary cannot win by answering first.
//!
//! # Eras
//!
//! A session asks: which position of the log has everything that I had seen at my stamp (era, asked)? The answer has to be a
//! sample of the same incarnation of the primary, asked for after the stamp, or, if that incarnation is over, any sample of the
//! next. The *line* is what makes samples comparable: the primary's name, its timeline, and the life of the monitor's
//! connection to it. When there is another line the watcher begins an era ([`Fold::begin_era`]) before it publishes the view in
//! which the line is that; while the old one is only broken, its samples go on to bound what was seen before, so that sessions
//! which have written read on while the primary is away. A sample enters only if it came over the line, from the primary, and its question was
//! numbered in the present era. Why every bound is one:
//!
//! 1. *Same era, sample asked later.* Both are of one line, hence of one life of the connection, hence of one incarnation of
//!    the server: when PostgreSQL crashes or stops every connection dies, and no new one is served before. So the
//!    session's reply came from the incarnation that the sample came from, if it came from this node at all, and
//!    was read before the question was sent; the insert position of one incarnation never goes back.
//! 2. *The session was quicker than the monitor.* The primary restarts, a session reads a reply of the new incarnation and stamps it
//!    with the old era, because the monitor has not noticed. Samples of the old era that are numbered higher than the stamp would
//!    have been asked after that reply over a connection that was dead by then: there are none. Questions over the next
//!    connection come behind its [`Observation::Connected`], in the order of one channel, and so behind the new era; one
//!    that was numbered before the watcher began the era is of the old one, and is dropped.
//! 3. *Another primary.* Sessions are sent there only by a view that was published after the era began, so their stamps are of
//!    the new era or a later one. Samples of the new primary's that answer questions of the old era are dropped.
//! 4. *An older era's stamp, any sample of this one.* The sample was asked after the era began, the stamp was taken before. If
//!    it is the same node and incarnation (only the monitor's connection broke), this is case 1. If the incarnation is another, the sample
//!    covers all that has survived; what has not, nobody will ever see again.
//! 5. *A later era's stamp* is bounded by no sample of a view of an older one ([`Samples::bound`]).
//!
//! Not covered: a session that is sent to a node as to a standby in the moment between its promotion and the view
//! that shows it, and reads there what somebody else has written already. That reply is stamped with the era of the old
//! primary, until the next view makes it one of an older era. Nor a node that was the primary, and is again after a promotion that
//! no view has shown: a session that was sent there before sees more than a sample of the primary in between bounds.

use std::time::Duration;

use super::history::History;
use super::observation::{Answer, Miss, Observation, Receiver, Xids};
use super::standing::Standing;
use super::succession::{Present, Recovering, Succession};
use crate::pg::{Lsn, SystemIdentifier, Timeline};
use crate::topology::{Appointment, ClusterView, Epoch, Era, NodeName, NodeView, Role, Sample, Samples, Stamp, Unfit};

/// Said of a standby whose WAL receiver cannot be looked at.
const HIDDEN: &str = "it cannot be seen whether it streams: GRANT pg_monitor to the monitor's user";

/// What is known of one cluster.
#[derive(Debug)]
pub(super) struct Fold {
    failure_threshold: u32,
    /// Bytes; 0 = no bound.
    max_lag: u64,
    /// When anything was observed last.
    now: Duration,
    slots: Vec<Slot>,
    /// The last life that began. One count for all nodes, so that one that is taken out of the configuration and put back does
    /// not begin with a number that sessions know.
    lives: u64,
    /// What makes nodes a cluster.
    system_identifier: Option<SystemIdentifier>,
    epoch: Epoch,
    /// A coordinator's word: then nodes' own words name nobody.
    appointment: Option<Appointment>,
    primary: Option<NodeName>,
    /// The last node that was primary, also while there is none.
    last_primary: Option<NodeName>,
    /// The last primary's timeline: another node on an older one is yesterday's primary come back.
    newest_timeline: Option<Timeline>,
    /// Where the last primary's log ended last; lag is measured against it also while there is no primary.
    insert_lsn: Option<Lsn>,
    history: History,
    /// Of the present era.
    samples: Samples,
    /// Which transactions could be seen at its last sample, and where the log ended when that was first so.
    shown: Option<(Box<str>, Lsn)>,
    /// What the present era began with.
    era_line: Option<Line>,
    succession: Succession,
}

/// What makes samples of the log comparable: the primary, its timeline, and the life of the connection to it.
type Line = (NodeName, Option<Timeline>, u64);

/// What is known of one node.
#[derive(Debug)]
struct Slot {
    name: NodeName,
    /// Whether it has answered or failed to, at least once.
    asked: bool,
    misses: u32,
    healthy: bool,
    answer: Option<Answer>,
    trouble: Option<String>,
    /// Why it is not the primary although it accepts writes.
    conflict: Option<String>,
    /// Another number for each connection to it.
    life: u64,
    connected: bool,
    /// The number of the last answered question of this life; 0 when none.
    sampled: u64,
    /// Whether it has ever been.
    was_healthy: bool,
    standing: Standing,
    /// What it said of transaction ids when it was last a standby.
    recovering: Option<Recovering>,
}

impl Slot {
    fn new(name: NodeName) -> Self {
        let trouble = NodeView::unknown(name.clone()).trouble;
        Self {
            name,
            asked: false,
            misses: 0,
            healthy: false,
            answer: None,
            trouble,
            conflict: None,
            life: 0,
            connected: false,
            sampled: 0,
            was_healthy: false,
            standing: Standing::default(),
            recovering: None,
        }
    }

    fn timeline(&self) -> Option<Timeline> {
        self.answer.as_ref().and_then(|answer| answer.timeline)
    }

    fn system_identifier(&self) -> Option<SystemIdentifier> {
        self.answer.as_ref().and_then(|answer| answer.system_identifier)
    }

    /// The next answer will be of another connection.
    fn begin_life(&mut self, life: u64, connected: bool) {
        self.life = life;
        self.connected = connected;
        self.sampled = 0;
        self.standing.forget_samples();
    }

    fn missed(&mut self, miss: Miss, failure_threshold: u32) {
        match miss {
            Miss::Gone(text) => {
                self.healthy = false;
                self.misses = failure_threshold;
                self.trouble = Some(text);
            }
            Miss::Silent(text) => {
                self.misses = self.misses.saturating_add(1);
                if self.misses >= failure_threshold {
                    self.healthy = false;
                }
                if !self.healthy {
                    self.trouble = Some(text);
                }
            }
            Miss::Saturated(text) => self.trouble = Some(text),
        }
    }
}

impl Fold {
    /// A cluster nobody has looked at. `failure_threshold` misses in a row make a node unhealthy; 0 is taken as 1. Lives are
    /// counted from `first_life`.
    pub(super) fn new(failure_threshold: u32, first_life: u64) -> Self {
        Self {
            failure_threshold: failure_threshold.max(1),
            max_lag: 0,
            now: Duration::ZERO,
            slots: Vec::new(),
            lives: first_life,
            system_identifier: None,
            epoch: Epoch(0),
            appointment: None,
            primary: None,
            last_primary: None,
            newest_timeline: None,
            insert_lsn: None,
            history: History::default(),
            samples: Samples::default(),
            shown: None,
            era_line: None,
            succession: Succession::default(),
        }
    }

    pub(super) fn set_failure_threshold(&mut self, failure_threshold: u32) {
        self.failure_threshold = failure_threshold.max(1);
    }

    /// A standby that is further behind is no replica; 0 = no bound. Holds from its next answer on.
    pub(super) fn set_max_lag(&mut self, bytes: u64) {
        self.max_lag = bytes;
    }

    /// What a coordinator has decided; `None` where there is none.
    pub(super) fn appoint(&mut self, appointment: Option<Appointment>) {
        self.appointment = appointment;
        self.settle();
    }

    /// Whether the line of samples is broken, so that an era has to begin before the next view is published.
    ///
    /// Not while there is no primary, or while it is not connected: nothing comes over a line that is broken, and what came
    /// over it before bounds what was seen before.
    #[must_use]
    pub(super) fn needs_era(&self) -> bool {
        let Some(slot) = self.primary_slot() else { return false };
        let is_same = self.era_line.as_ref().is_some_and(|(name, ..)| *name == slot.name);
        (slot.connected || !is_same) && self.line() != self.era_line
    }

    /// This era has begun; only what is asked for in it enters from now on.
    pub(super) fn begin_era(&mut self, era: Era) {
        self.samples = Samples::of(era);
        self.shown = None;
        self.era_line = self.line();
        // a primary that has crashed may be further back
        self.history.clear();
    }

    fn line(&self) -> Option<Line> {
        let slot = self.primary_slot()?;
        Some((slot.name.clone(), slot.timeline(), slot.life))
    }

    fn primary_slot(&self) -> Option<&Slot> {
        let primary = self.primary.as_ref()?;
        self.slots.iter().find(|slot| slot.name == *primary)
    }

    /// Sets which nodes there are, in this order. What is known of those that stay is kept.
    pub(super) fn arrange(&mut self, names: &[NodeName]) {
        let mut before = std::mem::take(&mut self.slots);
        for name in names {
            let known = before.iter().position(|slot| slot.name == *name);
            self.slots.push(match known {
                Some(index) => before.swap_remove(index),
                None => Slot::new(name.clone()),
            });
        }
        self.forget_what_left_with(&before);
        self.settle();
    }

    /// A node moved to another place: what was known of it says nothing about who is there now.
    pub(super) fn forget(&mut self, node: &str) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| *slot.name == *node) {
            let left = std::mem::replace(slot, Slot::new(slot.name.clone()));
            self.forget_what_left_with(&[left]);
        }
        self.settle();
    }

    /// The node is the primary because the configuration leaves no other choice; nobody asks it.
    pub(super) fn declare_primary(&mut self, node: &str) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| *slot.name == *node) {
            let answer = Answer {
                role: Role::Primary,
                system_identifier: None,
                timeline: None,
                received_lsn: None,
                replayed_lsn: None,
                flushed_lsn: None,
                snapshot: None,
                receiver: Receiver::Absent,
                server_version: None,
                xids: Xids::default(),
            };
            let name = slot.name.clone();
            *slot = Slot { asked: true, healthy: true, answer: Some(answer), trouble: None, ..Slot::new(name) };
        }
        self.settle();
    }

    /// Nobody will ask this node.
    pub(super) fn set_unwatched(&mut self, node: &str, why: &str) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| *slot.name == *node) {
            let name = slot.name.clone();
            *slot = Slot { asked: true, trouble: Some(why.to_owned()), ..Slot::new(name) };
        }
        self.settle();
    }

    /// Takes in what happened to `node`, at a moment that is not before the last one. A node that is not in the cluster is
    /// ignored.
    pub(super) fn observe(&mut self, now: Duration, node: &str, observation: Observation) {
        self.now = now;
        let Some(slot) = self.slots.iter_mut().find(|slot| *slot.name == *node) else { return };
        match observation {
            Observation::Disconnected if !slot.connected => {}
            connected @ (Observation::Connected | Observation::Disconnected) => {
                self.lives = self.lives.saturating_add(1);
                slot.begin_life(self.lives, connected == Observation::Connected);
            }
            Observation::Missed(miss) => {
                slot.asked = true;
                slot.missed(miss, self.failure_threshold);
            }
            Observation::Answered(stamp, answer) => {
                self.answered(node, stamp, answer);
                return;
            }
        }
        self.settle();
    }

    fn answered(&mut self, node: &str, stamp: Stamp, answer: Answer) {
        let now = self.now;
        let Some(slot) = self.slots.iter_mut().find(|slot| *slot.name == *node) else { return };
        if !slot.healthy && slot.was_healthy {
            slot.standing.came_back(now);
        }
        slot.asked = true;
        slot.misses = 0;
        (slot.healthy, slot.was_healthy) = (true, true);
        slot.trouble = (answer.receiver == Receiver::Hidden).then(|| HIDDEN.to_owned());
        slot.sampled = stamp.asked;
        if let (Role::Standby, Some(next)) = (answer.role, answer.xids.next) {
            slot.recovering = Some(Recovering { life: slot.life, incarnation: answer.xids.incarnation, next });
        }
        slot.answer = Some(answer);
        self.settle();
        if self.primary.as_deref() == Some(node) {
            self.sample(stamp);
        } else {
            self.judge(node);
        }
    }

    /// The primary has answered; what it said counts if it said so to a question of this era, over its line.
    fn sample(&mut self, stamp: Stamp) {
        let slot = self.primary_slot().filter(|slot| slot.connected);
        let Some(answer) = slot.and_then(|slot| slot.answer.as_ref()) else { return };
        let Some(lsn) = answer.received_lsn else { return };
        let snapshot = answer.snapshot.clone();
        self.history.add(lsn, self.now);
        if stamp.era == self.samples.era() && !self.needs_era() {
            let shown = self.shown(snapshot, lsn);
            self.samples.add(Sample { number: stamp.asked, lsn, shown });
        }
        // who answered before there was a primary has not been compared with it
        let waiting = self.slots.iter().filter(|slot| slot.sampled > 0 && slot.standing.lag_time().is_none());
        let names: Vec<NodeName> = waiting.map(|slot| slot.name.clone()).collect();
        names.iter().for_each(|name| self.judge(name));
    }

    /// Behind which position of the log there is no commit that could be seen when the primary said that it ends at `end`.
    ///
    /// While the snapshot is the same no transaction has ended: one that was running is named in it, and one that began later
    /// raises its end. And what is in a snapshot had its record in front of the end of the log that came with it.
    fn shown(&mut self, snapshot: Option<Box<str>>, end: Lsn) -> Lsn {
        match (&self.shown, snapshot) {
            (Some((before, lsn)), Some(now)) if *before == now => *lsn,
            (_, snapshot) => {
                self.shown = snapshot.map(|snapshot| (snapshot, end));
                end
            }
        }
    }

    /// How a standby that has answered stands to the primary.
    fn judge(&mut self, node: &str) {
        let followed = self.followed();
        if self.slots.iter().any(|slot| *slot.name == *node && self.foreign(slot).is_some()) {
            return;
        }
        let Some(slot) = self.slots.iter_mut().find(|slot| *slot.name == *node) else { return };
        let Some(answer) = slot.answer.as_ref().filter(|answer| answer.role == Role::Standby) else { return };
        match followed {
            // nobody can stream: this time does not count against it
            Some(_) if self.primary.is_none() => slot.standing.would_stream(self.now),
            Some((primary, timeline))
                if answer.receiver == Receiver::Streaming && answer.timeline == Some(timeline) =>
            {
                slot.standing.streams(&primary, timeline, self.now);
            }
            Some(_) | None => {}
        }
        if let (Some(replayed), Some(end)) = (answer.replayed_lsn, self.insert_lsn) {
            slot.standing.replayed(replayed, end, &self.history, self.max_lag, self.now);
        }
    }

    /// The primary, or the last one, and its timeline: what standbys have to follow.
    fn followed(&self) -> Option<(NodeName, Timeline)> {
        Some((self.last_primary.clone()?, self.newest_timeline?))
    }

    /// Why no reads go there.
    fn unfit(&self, slot: &Slot) -> Option<Unfit> {
        if !self.is_well(slot) {
            return Some(Unfit::Unhealthy);
        }
        let Some(answer) = slot.answer.as_ref().filter(|answer| answer.role == Role::Standby) else {
            return Some(Unfit::Primary);
        };
        if slot.sampled == 0 {
            return Some(Unfit::Unsampled);
        }
        let standing = &slot.standing;
        let Some((primary, timeline)) = self.followed() else { return Some(Unfit::NoPrimary) };
        if answer.timeline.is_some_and(|its| its != timeline) {
            return Some(Unfit::OtherTimeline);
        }
        match &self.primary {
            Some(_) if answer.timeline.is_some() && answer.receiver == Receiver::Streaming => {}
            Some(_) if standing.has_just_followed(&primary, timeline, self.now) => {}
            Some(_) => return Some(Unfit::NotStreaming),
            // its receiver has gone with the primary; what it has is as good as before
            None if standing.has_followed(&primary, timeline) => {}
            None => return Some(Unfit::NoPrimary),
        }
        if standing.lag_time().is_none() {
            return Some(Unfit::Unsampled);
        }
        if standing.is_lagging() {
            return Some(Unfit::Lagging);
        }
        standing.is_flapping(self.now).then_some(Unfit::Flapping)
    }

    /// The cluster as it is now.
    pub(super) fn view(&self) -> ClusterView {
        ClusterView {
            epoch: self.epoch,
            primary: self.primary.clone(),
            nodes: self.slots.iter().map(|slot| self.node_view(slot)).collect(),
            appointment: self.appointment.clone(),
            samples: self.samples.clone(),
            reigns: self.succession.reigns().clone(),
        }
    }

    fn node_view(&self, slot: &Slot) -> NodeView {
        let mut view = NodeView::unknown(slot.name.clone());
        let foreign = self.foreign(slot);
        view.healthy = self.is_well(slot);
        let known = slot.conflict.as_ref().or(slot.trouble.as_ref());
        (view.life, view.sampled) = (slot.life, slot.sampled);
        view.unfit = self.unfit(slot);
        view.trouble = known.cloned();
        if let Some(its) = foreign.filter(|_| slot.healthy) {
            let ours = self.system_identifier.unwrap_or(its);
            view.trouble = Some(format!("belongs to another cluster: its system identifier is {its}, not {ours}"));
        }
        let Some(answer) = &slot.answer else { return view };
        view.role = Some(answer.role);
        view.timeline = answer.timeline;
        view.system_identifier = answer.system_identifier;
        // of an earlier life they say nothing
        if slot.sampled > 0 {
            view.received_lsn = answer.received_lsn;
            view.replayed_lsn = answer.replayed_lsn;
        }
        match answer.role {
            Role::Primary if self.primary.as_ref() == Some(&slot.name) => view.lag_bytes = Some(0),
            Role::Standby if foreign.is_none() => {
                view.lag_bytes = match (self.insert_lsn, view.replayed_lsn) {
                    (Some(insert), Some(replayed)) => Some(insert.bytes_since(replayed)),
                    (None, _) | (_, None) => None,
                };
                view.lag_time = slot.standing.lag_time();
            }
            Role::Primary | Role::Standby => {}
        }
        view
    }

    /// Nodes have left; what was known through them alone goes too, or nobody could take their place.
    fn forget_what_left_with(&mut self, left: &[Slot]) {
        if left.iter().any(|slot| self.last_primary.as_ref() == Some(&slot.name)) {
            self.newest_timeline = None;
        }
        let known = self.system_identifier;
        if known.is_some() && !self.slots.iter().any(|slot| slot.system_identifier() == known) {
            self.system_identifier = None;
        }
    }

    /// Which cluster this is. Until there has been a primary it is the one that most nodes belong to, of equals the one that is
    /// configured first: who answers first must not decide. From then on it stays, while a node belongs to it.
    fn identify(&mut self) {
        if self.system_identifier.is_some() && self.last_primary.is_some() {
            return;
        }
        let told = || self.slots.iter().filter_map(Slot::system_identifier);
        let mut best = (0, None);
        for candidate in told() {
            let votes = told().filter(|other| *other == candidate).count();
            if votes > best.0 {
                best = (votes, Some(candidate));
            }
        }
        self.system_identifier = best.1;
    }

    /// What it calls its cluster, if that is not ours.
    fn foreign(&self, slot: &Slot) -> Option<SystemIdentifier> {
        slot.system_identifier().filter(|its| self.system_identifier.is_some_and(|ours| ours != *its))
    }

    /// Answers, and is of this cluster.
    fn is_well(&self, slot: &Slot) -> bool {
        slot.healthy && self.foreign(slot).is_none()
    }

    fn accepts_writes(&self, slot: &Slot) -> bool {
        self.is_well(slot) && slot.answer.as_ref().is_some_and(|answer| answer.role == Role::Primary)
    }

    /// Decides anew who is primary, after anything changed.
    fn settle(&mut self) {
        let in_use = self.primary.take();
        self.identify();
        self.primary = match &self.appointment {
            Some(appointment) => self.appointed(appointment),
            None => self.elected(in_use),
        };
        if let Some(primary) = &self.primary {
            if self.last_primary.as_ref() != Some(primary) {
                self.epoch = Epoch(self.epoch.0.saturating_add(1));
                self.last_primary = Some(primary.clone());
                self.insert_lsn = None;
            }
            if let Some(answer) =
                self.slots.iter().find(|slot| slot.name == *primary).and_then(|slot| slot.answer.as_ref())
            {
                self.newest_timeline = answer.timeline;
                self.insert_lsn = answer.received_lsn.or(self.insert_lsn);
            }
        }
        if let Some(appointment) = &self.appointment {
            self.epoch = appointment.epoch;
        }
        self.note_reign();
        self.note_conflicts();
    }

    /// Whether another reign has begun. What was answered over an earlier connection says nothing of this one.
    fn note_reign(&mut self) {
        let Some(slot) = self.primary_slot().filter(|slot| slot.sampled > 0) else { return };
        let Some(answer) = slot.answer.as_ref().filter(|answer| answer.xids.next.is_some()) else { return };
        let (node, xids, timeline) = (&slot.name.clone(), answer.xids, answer.timeline);
        let now = Present { node, timeline, life: slot.life, sampled: slot.sampled, xids, recovering: slot.recovering };
        self.succession.reigns_now(now);
    }

    /// The appointed node, if it says itself that it accepts writes.
    fn appointed(&self, appointment: &Appointment) -> Option<NodeName> {
        let appointed = appointment.primary.as_ref()?;
        let slot = self.slots.iter().find(|slot| slot.name == *appointed)?;
        self.accepts_writes(slot).then(|| slot.name.clone())
    }

    /// Without a coordinator: by what nodes say of themselves.
    fn elected(&self, in_use: Option<NodeName>) -> Option<NodeName> {
        let candidates: Vec<&Slot> =
            self.slots.iter().filter(|slot| self.accepts_writes(slot) && !self.is_outdated(slot)).collect();
        let newest = candidates.iter().map(|slot| slot.timeline()).max().flatten();
        let finalists: Vec<&NodeName> =
            candidates.iter().filter(|slot| slot.timeline() == newest).map(|slot| &slot.name).collect();
        let among = |name: &Option<NodeName>| name.clone().filter(|name| finalists.contains(&name));
        let everybody_asked = self.slots.iter().all(|slot| slot.asked);
        among(&in_use).or_else(|| match finalists.as_slice() {
            _ if in_use.is_none() && !everybody_asked => None,
            // two that accept writes on one timeline: only the one that was in use before may go on, nothing is guessed
            [only] => Some(NodeName::clone(only)),
            _ => among(&self.last_primary),
        })
    }

    /// Whether it is on an older timeline than the last primary, and is not that node itself.
    fn is_outdated(&self, slot: &Slot) -> bool {
        self.last_primary.as_ref().is_some_and(|last| *last != slot.name) && slot.timeline() < self.newest_timeline
    }

    fn note_conflicts(&mut self) {
        let writable: Vec<NodeName> =
            self.slots.iter().filter(|slot| self.accepts_writes(slot)).map(|slot| slot.name.clone()).collect();
        let timelines = self.slots.iter().filter(|slot| writable.contains(&slot.name)).map(Slot::timeline);
        let newest = timelines.max().flatten().max(self.newest_timeline);
        for slot in &mut self.slots {
            let loses = writable.contains(&slot.name) && self.primary.as_ref() != Some(&slot.name);
            slot.conflict = match (loses, slot.timeline(), newest) {
                (true, Some(its), Some(newest)) if its < newest => {
                    Some(format!("accepts writes on timeline {its}, but the cluster is on timeline {newest}"))
                }
                (true, _, _) if self.appointment.is_some() => Some("accepts writes, and is not appointed".to_owned()),
                (true, _, _) if writable.len() > 1 => match &self.primary {
                    Some(primary) => Some(format!("accepts writes, but the primary is \"{primary}\"")),
                    None => Some("accepts writes, and so does another node on the same timeline".to_owned()),
                },
                // waits for the other nodes to be asked
                (_, _, _) => None,
            };
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod model;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;
