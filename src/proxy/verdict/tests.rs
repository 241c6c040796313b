//! The rule against every history that a model of primaries and standbys can have; and what is believed without it.

use proptest::prelude::*;

use super::*;
use crate::topology::Reigns;

/// One record of a primary's log. What arrives at a standby is a beginning of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Record {
    /// A transaction has written.
    Wrote {
        xid: u64,
        who: usize,
    },
    Committed {
        xid: u64,
        who: usize,
    },
}

/// What happens.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// A transaction of ours or somebody else's writes, and commits or not.
    Transaction { commits: bool },
    /// The primary dies with its last records unread, a standby that was looked at so many records ago takes over, and others write
    /// there before it is looked at again.
    Promotion { lost: usize, unseen: usize, foreign: u8 },
    /// It dies, loses what was not flushed, and comes back.
    Restart { lost: usize },
}

/// A cluster; a transaction is known by who it is, an id may be several's.
struct World {
    log: Vec<Record>,
    reigns: Reigns,
    /// In which reign each transaction has run, with which id.
    ran: Vec<(u64, u64)>,
    asked: u64,
}

impl World {
    fn new() -> Self {
        let mut reigns = Reigns::default();
        reigns.begin("n1".into(), 1, None, Some(1));
        Self { log: Vec::new(), reigns, ran: Vec::new(), asked: 1 }
    }

    /// The first id that no record of these has.
    fn next_after(records: &[Record]) -> u64 {
        let ids = records.iter().map(|record| match record {
            Record::Wrote { xid, .. } | Record::Committed { xid, .. } => *xid,
        });
        ids.max().unwrap_or(99) + 1
    }

    fn reign(&self) -> u64 {
        self.reigns.last().unwrap().number
    }

    fn transaction(&mut self, commits: bool) {
        let (xid, who) = (Self::next_after(&self.log), self.ran.len());
        self.ran.push((self.reign(), xid));
        self.log.push(Record::Wrote { xid, who });
        self.log.extend(commits.then_some(Record::Committed { xid, who }));
    }

    fn act(&mut self, act: Act) {
        self.asked += 10;
        self.reigns.answered(self.asked - 5);
        match act {
            Act::Transaction { commits } => self.transaction(commits),
            Act::Promotion { lost, unseen, foreign } => {
                self.log.truncate(self.log.len().saturating_sub(lost));
                let seen = self.log.get(..self.log.len().saturating_sub(unseen)).unwrap();
                let before = Self::next_after(seen);
                for at in 0..foreign {
                    self.transaction(at % 2 == 0);
                }
                let (first, node) = (Self::next_after(&self.log), format!("n{}", self.reign() + 1));
                self.reigns.begin(node.as_str().into(), self.asked, Some(before), Some(first));
            }
            Act::Restart { lost } => {
                self.log.truncate(self.log.len().saturating_sub(lost));
                let (next, node) = (Self::next_after(&self.log), self.reigns.last().unwrap().node.clone());
                self.reigns.begin(node, self.asked, Some(next), Some(next));
            }
        }
    }

    /// As `txid_status()`: of whoever has the id now.
    fn status(&self, xid: u64) -> Status {
        let committed = |record: &Record| matches!(record, Record::Committed { xid: its, .. } if *its == xid);
        match self.log.iter().any(committed) {
            true => Status::Committed,
            false if xid < Self::next_after(&self.log) => Status::Aborted,
            false => Status::Untold,
        }
    }

    fn is_committed(&self, who: usize) -> bool {
        self.log.iter().any(|record| matches!(record, Record::Committed { who: its, .. } if *its == who))
    }

    fn view(&self) -> ClusterView {
        let primary = self.reigns.last().map(|reign| reign.node.clone());
        ClusterView { primary, reigns: self.reigns.clone(), ..ClusterView::default() }
    }

    fn verdict(&self, who: usize) -> Outcome {
        let (reign, xid) = self.ran[who];
        let mut doubt = Doubt { xid, reign, ready: 0, lost: 0, found: None };
        match doubt.next(&self.view()) {
            Step::Tell(outcome) => outcome,
            Step::Ask(whom) => doubt.hear(whom, self.status(xid), false, self.asked).unwrap(),
            Step::Wait => panic!("there is a primary"),
        }
    }
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let transaction = any::<bool>().prop_map(|commits| Act::Transaction { commits });
    let promotion =
        (0..6_usize, 0..4_usize, 0..4_u8).prop_map(|(lost, unseen, foreign)| Act::Promotion { lost, unseen, foreign });
    let restart = (0..6_usize).prop_map(|lost| Act::Restart { lost });
    prop::collection::vec(prop_oneof![6 => transaction, 1 => promotion, 1 => restart], 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_outcome_that_is_told_is_wrong(acts in acts()) {
        let mut world = World::new();
        for act in acts {
            world.act(act);
            for who in 0..world.ran.len() {
                let its = world.ran[who].0;
                if its == world.reign() {
                    continue; // it has not lost its server
                }
                match world.verdict(who) {
                    Outcome::Committed => prop_assert!(world.is_committed(who), "{who} is not there: {:?}", world.log),
                    Outcome::Lost => prop_assert!(!world.is_committed(who), "{who} is there: {:?}", world.log),
                    Outcome::Unknown => {}
                }
            }
        }
    }

    #[test]
    fn where_nobody_wrote_before_it_was_looked_at_every_outcome_is_told(acts in acts()) {
        let mut world = World::new();
        for act in acts {
            world.act(match act {
                Act::Promotion { lost, .. } => Act::Promotion { lost, unseen: 0, foreign: 0 },
                other => other,
            });
            for who in 0..world.ran.len() {
                if world.ran[who].0 != world.reign() {
                    prop_assert_ne!(world.verdict(who), Outcome::Unknown);
                }
            }
        }
    }
}

#[test]
fn without_the_rule_a_commit_that_was_lost_is_taken_for_done() {
    let mut world = World::new();
    world.act(Act::Transaction { commits: true });
    world.act(Act::Promotion { lost: 2, unseen: 0, foreign: 0 });
    world.act(Act::Transaction { commits: true });
    let (_, xid) = world.ran[0];
    assert_eq!((world.status(xid), world.is_committed(0)), (Status::Committed, false), "the id is somebody else's now");
    assert_eq!(world.verdict(0), Outcome::Lost);
}

#[test]
fn what_others_may_have_written_before_the_new_primary_was_looked_at_is_not_believed() {
    let mut world = World::new();
    world.act(Act::Transaction { commits: true });
    world.act(Act::Promotion { lost: 2, unseen: 0, foreign: 1 });
    assert_eq!((world.status(100), world.is_committed(0)), (Status::Committed, false));
    assert_eq!(world.verdict(0), Outcome::Unknown);
}

const DOUBT: Doubt = Doubt { xid: 100, reign: 1, ready: 10, lost: 20, found: None };

fn view(primary: Option<&str>, answered: u64, later: &[(&str, Option<u64>, Option<u64>)]) -> ClusterView {
    let mut reigns = Reigns::default();
    reigns.begin("a".into(), answered, None, Some(1));
    for (node, before, first) in later {
        reigns.begin((*node).into(), 1_000, *before, *first);
    }
    ClusterView { primary: primary.map(Into::into), reigns, ..ClusterView::default() }
}

#[test]
fn a_primary_that_lives_on_is_asked_until_it_is_certain_that_it_did() {
    let mut doubt = DOUBT;
    assert_eq!(doubt.next(&view(Some("a"), 20, &[])), Step::Wait, "it may be gone");
    assert_eq!(doubt.next(&view(None, 21, &[])), Step::Wait);
    assert_eq!(doubt.next(&view(Some("a"), 21, &[])), Step::Ask(Asked::Same));
    assert_eq!(doubt.hear(Asked::Same, Status::InProgress, false, 22), None);
    assert_eq!(doubt.next(&view(Some("a"), 23, &[])), Step::Ask(Asked::Same));
    assert_eq!(doubt.hear(Asked::Same, Status::Committed, false, 24), None);
    assert_eq!(doubt.next(&view(Some("a"), 24, &[])), Step::Wait, "it may have been another incarnation's word");
    assert_eq!(doubt.next(&view(Some("a"), 25, &[])), Step::Tell(Outcome::Committed));
    let restarted = view(Some("a"), 24, &[("a", Some(100), Some(100))]);
    assert_eq!(doubt.next(&restarted), Step::Tell(Outcome::Lost), "and it was");
    assert_eq!(
        DOUBT.clone().hear(Asked::Same, Status::Committed, true, 30),
        Some(Outcome::Unknown),
        "perhaps on no standby"
    );
}

#[test]
fn what_is_not_proven_is_not_told() {
    let later = |before, first| view(Some("b"), 21, &[("b", before, first)]);
    assert_eq!(DOUBT.next(&later(Some(90), None)), Step::Tell(Outcome::Unknown), "no bound");
    assert_eq!(
        DOUBT.next(&view(Some("b"), 10, &[("b", Some(1), Some(1))])),
        Step::Tell(Outcome::Unknown),
        "whose reign?"
    );
    assert_eq!(Doubt { reign: 0, ..DOUBT }.next(&later(Some(90), Some(91))), Step::Tell(Outcome::Unknown));
    assert_eq!(DOUBT.next(&later(None, Some(100))), Step::Tell(Outcome::Lost));
    let whom = Asked::Later { before: None, restarted: false };
    assert_eq!(DOUBT.next(&later(None, Some(101))), Step::Ask(whom));
    for (status, outcome) in [
        (Status::Committed, Outcome::Unknown),
        (Status::Aborted, Outcome::Lost),
        (Status::InProgress, Outcome::Unknown),
        (Status::Untold, Outcome::Unknown),
    ] {
        assert_eq!(DOUBT.clone().hear(whom, status, false, 30), Some(outcome));
    }
    let twice = view(Some("c"), 21, &[("b", Some(150), Some(150)), ("c", Some(90), Some(200))]);
    assert_eq!(DOUBT.next(&twice), Step::Ask(Asked::Later { before: Some(90), restarted: false }), "the least of all");
    let waiting = view(None, 21, &[("b", Some(150), Some(150))]);
    assert_eq!(DOUBT.next(&waiting), Step::Wait);
}

#[test]
fn a_restarted_primary_is_not_believed_while_its_commits_wait_for_standbys() {
    let restarted = Asked::Later { before: Some(200), restarted: true };
    assert_eq!(DOUBT.clone().hear(restarted, Status::Committed, true, 30), Some(Outcome::Unknown));
    assert_eq!(DOUBT.clone().hear(restarted, Status::Committed, false, 30), Some(Outcome::Committed));
    let promoted = Asked::Later { before: Some(200), restarted: false };
    assert_eq!(DOUBT.clone().hear(promoted, Status::Committed, true, 30), Some(Outcome::Committed));
}
