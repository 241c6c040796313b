//! ◇ Folds observations into one cluster's view: who is primary, who is healthy, how far each standby lags.
//!
//! Pure: no I/O, no clock. Not here: asking (`probe`), publishing and logging (`watcher`).
//!
//! Invariants: at most one primary; the epoch grows exactly when the primary becomes another node; nobody is named primary
//! before every node has answered or failed to once, so that an old primary cannot win by answering first.

use super::observation::{Answer, Miss, Observation};
use crate::pg::{Lsn, SystemIdentifier, Timeline};
use crate::topology::{ClusterView, Epoch, NodeName, NodeView, Role};

/// What is known of one cluster.
#[derive(Debug)]
pub(super) struct Fold {
    failure_threshold: u32,
    slots: Vec<Slot>,
    /// The first one a node told: what makes nodes a cluster.
    system_identifier: Option<SystemIdentifier>,
    epoch: Epoch,
    primary: Option<NodeName>,
    /// The last node that was primary, also while there is none.
    last_primary: Option<NodeName>,
    /// The last primary's timeline: another node on an older one is yesterday's primary come back.
    newest_timeline: Option<Timeline>,
    /// Where the last primary inserted last; lag is measured against it also while there is no primary.
    insert_lsn: Option<Lsn>,
}

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
}

impl Slot {
    fn new(name: NodeName) -> Self {
        let trouble = NodeView::unknown(name.clone()).trouble;
        Self { name, asked: false, misses: 0, healthy: false, answer: None, trouble, conflict: None }
    }

    fn timeline(&self) -> Option<Timeline> {
        self.answer.as_ref().and_then(|answer| answer.timeline)
    }

    fn accepts_writes(&self) -> bool {
        self.healthy && self.answer.as_ref().is_some_and(|answer| answer.role == Role::Primary)
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
    /// A cluster nobody has looked at. `failure_threshold` misses in a row make a node unhealthy; 0 is taken as 1.
    pub(super) fn new(failure_threshold: u32) -> Self {
        Self {
            failure_threshold: failure_threshold.max(1),
            slots: Vec::new(),
            system_identifier: None,
            epoch: Epoch(0),
            primary: None,
            last_primary: None,
            newest_timeline: None,
            insert_lsn: None,
        }
    }

    pub(super) fn set_failure_threshold(&mut self, failure_threshold: u32) {
        self.failure_threshold = failure_threshold.max(1);
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
                server_version: None,
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

    /// Takes in what asking `node` brought. A node that is not in the cluster is ignored.
    pub(super) fn observe(&mut self, node: &str, observation: Observation) {
        let Some(slot) = self.slots.iter_mut().find(|slot| *slot.name == *node) else { return };
        slot.asked = true;
        match observation {
            Observation::Missed(miss) => slot.missed(miss, self.failure_threshold),
            Observation::Answered(answer) => {
                slot.misses = 0;
                slot.healthy = true;
                slot.trouble = None;
                match (self.system_identifier, answer.system_identifier) {
                    (Some(ours), Some(its)) if ours != its => {
                        slot.healthy = false;
                        slot.trouble =
                            Some(format!("belongs to another cluster: its system identifier is {its}, not {ours}"));
                    }
                    (ours, its) => self.system_identifier = ours.or(its),
                }
                slot.answer = Some(answer);
            }
        }
        self.settle();
    }

    /// The cluster as it is now.
    pub(super) fn view(&self) -> ClusterView {
        ClusterView {
            epoch: self.epoch,
            primary: self.primary.clone(),
            nodes: self.slots.iter().map(|slot| self.node_view(slot)).collect(),
            samples: Default::default(),
        }
    }

    fn node_view(&self, slot: &Slot) -> NodeView {
        let mut view = NodeView::unknown(slot.name.clone());
        view.healthy = slot.healthy;
        view.trouble = slot.conflict.clone().or_else(|| slot.trouble.clone());
        if let Some(answer) = &slot.answer {
            view.role = Some(answer.role);
            view.timeline = answer.timeline;
            view.system_identifier = answer.system_identifier;
            view.received_lsn = answer.received_lsn;
            view.replayed_lsn = answer.replayed_lsn;
        }
        let foreign =
            matches!((self.system_identifier, view.system_identifier), (Some(ours), Some(its)) if ours != its);
        view.lag_bytes = match view.role {
            Some(Role::Primary) if self.primary.as_ref() == Some(&slot.name) => Some(0),
            Some(Role::Standby) if !foreign => match (self.insert_lsn, view.replayed_lsn) {
                (Some(insert), Some(replayed)) => Some(insert.bytes_since(replayed)),
                (None, _) | (_, None) => None,
            },
            Some(Role::Primary | Role::Standby) | None => None,
        };
        view
    }

    /// Nodes have left; what was known through them alone goes too, or nobody could take their place.
    fn forget_what_left_with(&mut self, left: &[Slot]) {
        if left.iter().any(|slot| self.last_primary.as_ref() == Some(&slot.name)) {
            self.newest_timeline = None;
        }
        let told = |slot: &Slot| slot.answer.as_ref().and_then(|answer| answer.system_identifier);
        if self.system_identifier.is_some() && !self.slots.iter().any(|slot| told(slot) == self.system_identifier) {
            self.system_identifier = None;
        }
    }

    /// Decides anew who is primary, after anything changed.
    fn settle(&mut self) {
        let in_use = self.primary.take();
        let candidates: Vec<&Slot> =
            self.slots.iter().filter(|slot| slot.accepts_writes() && !self.is_outdated(slot)).collect();
        let newest = candidates.iter().map(|slot| slot.timeline()).max().flatten();
        let finalists: Vec<&NodeName> =
            candidates.iter().filter(|slot| slot.timeline() == newest).map(|slot| &slot.name).collect();
        let among = |name: &Option<NodeName>| name.clone().filter(|name| finalists.contains(&name));
        let everybody_asked = self.slots.iter().all(|slot| slot.asked);
        self.primary = among(&in_use).or_else(|| match finalists.as_slice() {
            _ if in_use.is_none() && !everybody_asked => None,
            // two that accept writes on one timeline: only the one that was in use before may go on, nothing is guessed
            [only] => Some(NodeName::clone(only)),
            _ => among(&self.last_primary),
        });
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
        self.note_conflicts(newest);
    }

    /// Whether it is on an older timeline than the last primary, and is not that node itself.
    fn is_outdated(&self, slot: &Slot) -> bool {
        self.last_primary.as_ref().is_some_and(|last| *last != slot.name) && slot.timeline() < self.newest_timeline
    }

    fn note_conflicts(&mut self, newest: Option<Timeline>) {
        let newest = newest.max(self.newest_timeline);
        let writable = self.slots.iter().filter(|slot| slot.accepts_writes()).count();
        for slot in &mut self.slots {
            let loses = slot.accepts_writes() && self.primary.as_ref() != Some(&slot.name);
            slot.conflict = match (loses, slot.timeline(), newest) {
                (true, Some(its), Some(newest)) if its < newest => {
                    Some(format!("accepts writes on timeline {its}, but the cluster is on timeline {newest}"))
                }
                (true, _, _) if writable > 1 => match &self.primary {
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
mod tests {
    use super::*;

    const THRESHOLD: u32 = 3;

    fn cluster(names: &[&str]) -> Fold {
        let mut fold = Fold::new(THRESHOLD);
        fold.arrange(&names.iter().map(|name| NodeName::from(*name)).collect::<Vec<_>>());
        fold
    }

    fn primary_on(timeline: u32, lsn: u64) -> Observation {
        Observation::Answered(Answer {
            role: Role::Primary,
            system_identifier: Some(SystemIdentifier(7)),
            timeline: Some(Timeline(timeline)),
            received_lsn: Some(Lsn(lsn)),
            replayed_lsn: None,
            server_version: Some(150_004),
        })
    }

    fn standby_at(lsn: u64) -> Observation {
        Observation::Answered(Answer {
            role: Role::Standby,
            system_identifier: Some(SystemIdentifier(7)),
            timeline: Some(Timeline(1)),
            received_lsn: Some(Lsn(lsn)),
            replayed_lsn: Some(Lsn(lsn)),
            server_version: Some(150_004),
        })
    }

    fn from_another_cluster(observation: Observation) -> Observation {
        match observation {
            Observation::Answered(answer) => {
                Observation::Answered(Answer { system_identifier: Some(SystemIdentifier(8)), ..answer })
            }
            missed @ Observation::Missed(_) => missed,
        }
    }

    fn refused() -> Observation {
        Observation::Missed(Miss::Gone("connection refused".to_owned()))
    }

    fn silent() -> Observation {
        Observation::Missed(Miss::Silent("no answer within 1s".to_owned()))
    }

    fn primary(fold: &Fold) -> Option<String> {
        fold.view().primary.map(|name| name.to_string())
    }

    fn node(fold: &Fold, name: &str) -> NodeView {
        fold.view().nodes.into_iter().find(|node| *node.name == *name).unwrap()
    }

    #[test]
    fn the_node_that_is_not_in_recovery_is_the_primary() {
        let mut fold = cluster(&["a", "b"]);
        fold.observe("a", standby_at(10));
        fold.observe("b", primary_on(1, 10));
        assert_eq!(primary(&fold).as_deref(), Some("b"));
        assert_eq!(fold.view().epoch, Epoch(1));
        assert!(node(&fold, "a").trouble.is_none() && node(&fold, "b").trouble.is_none());
    }

    #[test]
    fn nobody_is_primary_before_every_node_has_been_asked() {
        let mut fold = cluster(&["a", "b"]);
        fold.observe("a", primary_on(1, 10));
        assert_eq!(primary(&fold), None);
        assert!(node(&fold, "a").healthy && node(&fold, "a").trouble.is_none());
        fold.observe("b", primary_on(2, 10));
        assert_eq!(primary(&fold).as_deref(), Some("b"));
        assert_eq!(fold.view().epoch, Epoch(1));
    }

    #[test]
    fn a_node_that_fails_to_answer_at_the_start_does_not_hold_up_the_others() {
        let mut fold = cluster(&["a", "b"]);
        fold.observe("a", primary_on(1, 10));
        fold.observe("b", silent());
        assert_eq!(primary(&fold).as_deref(), Some("a"));
        assert!(!node(&fold, "b").healthy);
    }

    #[test]
    fn lag_is_the_distance_from_the_primarys_insert_position_to_the_replayed_one_and_never_negative() {
        let mut fold = cluster(&["a", "b"]);
        fold.observe("b", standby_at(60));
        assert_eq!(node(&fold, "b").lag_bytes, None);
        fold.observe("a", primary_on(1, 100));
        assert_eq!(node(&fold, "b").lag_bytes, Some(40));
        assert_eq!(node(&fold, "a").lag_bytes, Some(0));
        fold.observe("b", standby_at(130));
        assert_eq!(node(&fold, "b").lag_bytes, Some(0));
    }

    #[test]
    fn lag_is_measured_against_the_lost_primarys_last_position() {
        let mut fold = cluster(&["a", "b"]);
        fold.observe("b", standby_at(60));
        fold.observe("a", primary_on(1, 100));
        fold.observe("a", refused());
        fold.observe("b", standby_at(70));
        assert_eq!(node(&fold, "b").lag_bytes, Some(30));
    }

    #[test]
    fn timeouts_leave_the_primary_in_place_until_the_threshold() {
        let mut fold = cluster(&["a"]);
        fold.observe("a", primary_on(1, 10));
        for _ in 1..THRESHOLD {
            fold.observe("a", silent());
            assert_eq!(primary(&fold).as_deref(), Some("a"));
        }
        fold.observe("a", silent());
        assert_eq!(primary(&fold), None);
        assert_eq!(node(&fold, "a").trouble.as_deref(), Some("no answer within 1s"));
    }

    #[test]
    fn an_answer_starts_the_count_of_timeouts_anew() {
        let mut fold = cluster(&["a"]);
        for _ in 0..4 {
            fold.observe("a", primary_on(1, 10));
            fold.observe("a", silent());
            fold.observe("a", silent());
        }
        assert_eq!(primary(&fold).as_deref(), Some("a"));
    }

    #[test]
    fn a_refused_connection_takes_the_primary_away_at_once_and_its_return_keeps_the_epoch() {
        let mut fold = cluster(&["a"]);
        fold.observe("a", primary_on(1, 10));
        fold.observe("a", refused());
        assert_eq!(primary(&fold), None);
        assert_eq!(node(&fold, "a").trouble.as_deref(), Some("connection refused"));
        fold.observe("a", primary_on(1, 20));
        assert_eq!(primary(&fold).as_deref(), Some("a"));
        assert_eq!(fold.view().epoch, Epoch(1));
    }

    #[test]
    fn a_primary_whose_connections_are_all_taken_stays_the_primary() {
        let mut fold = cluster(&["a"]);
        fold.observe("a", primary_on(1, 10));
        for _ in 0..10 {
            fold.observe("a", Observation::Missed(Miss::Saturated("sorry, too many clients already".to_owned())));
        }
        assert_eq!(primary(&fold).as_deref(), Some("a"));
        assert_eq!(node(&fold, "a").trouble.as_deref(), Some("sorry, too many clients already"));
    }

    #[test]
    fn of_two_primaries_the_higher_timeline_wins_and_the_epoch_counts_up() {
        let mut fold = cluster(&["a", "b"]);
        fold.observe("b", standby_at(10));
        fold.observe("a", primary_on(1, 10));
        fold.observe("b", primary_on(2, 10));
        assert_eq!(primary(&fold).as_deref(), Some("b"));
        assert_eq!(fold.view().epoch, Epoch(2));
        let trouble = node(&fold, "a").trouble.unwrap();
        assert_eq!(trouble, "accepts writes on timeline 1, but the cluster is on timeline 2");
    }

    #[test]
    fn on_the_same_timeline_the_primary_in_use_stays_in_use() {
        let mut fold = cluster(&["a", "b"]);
        fold.observe("a", standby_at(10));
        fold.observe("b", primary_on(1, 10));
        fold.observe("a", primary_on(1, 99));
        assert_eq!(primary(&fold).as_deref(), Some("b"));
        assert_eq!(fold.view().epoch, Epoch(1));
        assert_eq!(node(&fold, "a").trouble.as_deref(), Some("accepts writes, but the primary is \"b\""));
        fold.observe("a", standby_at(99));
        assert_eq!(node(&fold, "a").trouble, None);
    }

    #[test]
    fn of_two_primaries_on_one_timeline_that_were_never_in_use_none_is_chosen() {
        let mut fold = cluster(&["a", "b"]);
        fold.observe("a", primary_on(1, 10));
        fold.observe("b", primary_on(1, 10));
        assert_eq!(primary(&fold), None);
        assert!(node(&fold, "a").trouble.is_some() && node(&fold, "b").trouble.is_some());
        fold.observe("b", refused());
        assert_eq!(primary(&fold).as_deref(), Some("a"));
    }

    #[test]
    fn an_old_primary_that_comes_back_while_the_new_one_is_away_is_not_the_primary() {
        let mut fold = cluster(&["a", "b"]);
        fold.observe("b", standby_at(10));
        fold.observe("a", primary_on(1, 10));
        fold.observe("a", refused());
        fold.observe("b", primary_on(2, 10));
        fold.observe("b", refused());
        fold.observe("a", primary_on(1, 10));
        assert_eq!(primary(&fold), None);
        assert!(node(&fold, "a").trouble.unwrap().contains("timeline 2"));
        fold.observe("b", primary_on(2, 10));
        assert_eq!(primary(&fold).as_deref(), Some("b"));
        assert_eq!(fold.view().epoch, Epoch(2));
    }

    #[test]
    fn a_primary_that_was_demoted_is_no_longer_the_primary() {
        let mut fold = cluster(&["a", "b"]);
        fold.observe("b", standby_at(10));
        fold.observe("a", primary_on(1, 10));
        fold.observe("a", standby_at(10));
        assert_eq!(primary(&fold), None);
    }

    #[test]
    fn a_node_with_another_system_identifier_is_refused() {
        let mut fold = cluster(&["a", "b"]);
        fold.observe("a", standby_at(10));
        fold.observe("b", from_another_cluster(primary_on(1, 10)));
        assert_eq!(primary(&fold), None);
        let b = node(&fold, "b");
        assert!(!b.healthy);
        assert_eq!(b.trouble.as_deref(), Some("belongs to another cluster: its system identifier is 8, not 7"));
    }

    #[test]
    fn a_node_nobody_asks_is_the_primary_when_it_is_declared() {
        let mut fold = cluster(&["a"]);
        fold.declare_primary("a");
        assert_eq!(primary(&fold).as_deref(), Some("a"));
        assert_eq!(fold.view().epoch, Epoch(1));
        assert!(node(&fold, "a").healthy && node(&fold, "a").role == Some(Role::Primary));
    }

    #[test]
    fn a_new_node_in_the_configuration_changes_nothing_for_the_others() {
        let mut fold = cluster(&["a"]);
        fold.observe("a", primary_on(1, 10));
        fold.arrange(&["b".into(), "a".into()]);
        assert_eq!(primary(&fold).as_deref(), Some("a"));
        assert_eq!(node(&fold, "b").trouble.as_deref(), Some("not asked yet"));
        assert_eq!(*fold.view().nodes[0].name, *"b");
    }

    #[test]
    fn after_all_nodes_are_replaced_another_cluster_is_accepted() {
        let mut fold = cluster(&["a"]);
        fold.observe("a", primary_on(5, 10));
        fold.arrange(&["c".into()]);
        assert_eq!(primary(&fold), None);
        fold.observe("c", from_another_cluster(primary_on(1, 10)));
        assert_eq!(primary(&fold).as_deref(), Some("c"));
        assert_eq!(fold.view().epoch, Epoch(2));
    }
}
