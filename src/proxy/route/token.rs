//! ◇ What a session has seen, and which standby may show it more: the consistency token.
//!
//! Rules (measured: ARCHITECTURE.md, "Nobody reads the past"):
//! - When a reply has been read, the session is stamped with the number of the last question asked of any node. The first
//!   sample of the primary with a greater number was asked for later, so it bounds everything the session has done or seen.
//! - A standby that has replayed that far may be read from. It becomes the session's *home*, where a session that only reads
//!   stays without looking again: what one standby shows never goes back while its life lasts.
//! - To change home, or to come back from the primary, the bound of everything seen must be reached.
//! - What only reads on the primary sees what has been committed there and nothing else: it asks for no more than the sample
//!   shows ([`Samples::shown`]), so that who waits for a late replica on the primary is not held there by what PostgreSQL and the
//!   monitor write meanwhile. Whoever writes, or reads on a standby (which may show a commit before the primary does), asks for
//!   all of the log.
//!
//! No clock, and nothing is asked on a client's way. Not here: which of several standbys (`choice.rs`), waiting for a fresher
//! sample (`session/destination.rs`).

use crate::config::Consistency;
use crate::pg::Lsn;
#[cfg(doc)]
use crate::topology::Samples;
use crate::topology::{ClusterView, Era, NodeName, NodeView, Stamp, Unfit};

/// The token of one session.
#[derive(Clone, Debug, Default)]
pub struct Token {
    /// What must be bounded before it reads from another standby than its home; `None` while it has seen nothing.
    stamp: Option<Stamp>,
    /// The bound of that, once it is known: samples are forgotten.
    floor: Option<(Era, Lsn)>,
    /// It has only read on the primary since.
    looked: Option<Stamp>,
    home: Option<Home>,
    /// Where it was at home last: its caches are warm there.
    last_home: Option<NodeName>,
}

/// The standby a session reads from, and in which of its lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// The node.
    pub node: NodeName,
    /// The life of it ([`NodeView::life`]).
    pub life: u64,
}

/// What was done on the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Only reads, as far as anybody can tell.
    Read,
    /// Anything else.
    Wrote,
}

/// How far a standby must be to show a session nothing that it has outgrown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// This far.
    Reached(Lsn),
    /// Nobody knows until a sample with a greater number than this has come.
    Unknown(u64),
}

impl Token {
    /// A reply from the primary has been read; `now` was taken after that.
    pub fn saw_primary(&mut self, consistency: Consistency, done: Done, now: Stamp) {
        match (consistency, done) {
            (Consistency::Session, Done::Read) => {
                self.looked = Some(now);
                self.leave_home();
            }
            (Consistency::Session | Consistency::OwnWrites, Done::Wrote) => {
                self.stamp_all(now);
                self.leave_home();
            }
            (Consistency::OwnWrites, Done::Read) | (Consistency::Eventual | Consistency::Strict, _) => {}
        }
    }

    /// A reply from a standby has been read; `now` was taken after that.
    pub fn saw_standby(&mut self, consistency: Consistency, now: Stamp) {
        if consistency == Consistency::Session {
            self.stamp_all(now);
        }
    }

    const fn stamp_all(&mut self, now: Stamp) {
        (self.stamp, self.floor, self.looked) = (Some(now), None, None);
    }

    /// Takes down what is known by now of how far a standby has to be.
    pub fn learn(&mut self, view: &ClusterView) {
        let era = view.samples.era();
        if let Some(stamp) = self.stamp.filter(|_| self.floor.is_none_or(|(of, _)| of != era)) {
            self.floor = bound_of(view, stamp).map(|lsn| (era, lsn));
        }
    }

    /// What a standby other than its home has to have reached.
    #[must_use]
    pub fn bound(&self, view: &ClusterView) -> Bound {
        let of = |stamp: Option<Stamp>, known: &dyn Fn(Stamp) -> Option<Lsn>| match stamp {
            None => Bound::Reached(Lsn(0)),
            Some(stamp) => known(stamp).map_or(Bound::Unknown(stamp.asked), Bound::Reached),
        };
        let floor = self.floor.filter(|(era, _)| *era == view.samples.era()).map(|(_, lsn)| lsn);
        let all = of(self.stamp, &|stamp| floor.or_else(|| bound_of(view, stamp)));
        let looked = of(self.looked, &|stamp| view.samples.shown(stamp));
        match (all, looked) {
            (Bound::Reached(all), Bound::Reached(looked)) => Bound::Reached(all.max(looked)),
            (Bound::Unknown(all), Bound::Unknown(looked)) => Bound::Unknown(all.max(looked)),
            (unknown @ Bound::Unknown(_), _) | (_, unknown) => unknown,
        }
    }

    /// Its home, if it may go on reading there.
    #[must_use]
    pub fn home<'v>(&self, consistency: Consistency, view: &'v ClusterView) -> Option<&'v NodeView> {
        let home = self.home.as_ref()?;
        let node = view.node(&home.node).filter(|node| node.life == home.life && is_fit(node, view))?;
        let stays = match consistency {
            Consistency::Session => true, // it was far enough when it became the home, and does not go back
            Consistency::OwnWrites | Consistency::Eventual | Consistency::Strict => has(node, self.bound(view)),
        };
        stays.then_some(node)
    }

    /// It reads from `node` from now on, which has [`Token::bound`].
    pub fn settle_at(&mut self, node: &NodeView) {
        self.last_home = Some(NodeName::clone(&node.name));
        self.home = Some(Home { node: NodeName::clone(&node.name), life: node.life });
    }

    /// It has no home any more.
    pub fn leave_home(&mut self) {
        self.home = None;
    }

    /// Where it is at home, or was.
    #[must_use]
    pub fn last_home(&self) -> Option<&NodeName> {
        self.last_home.as_ref()
    }

    /// Whether `node` is still in the life in which it became the home.
    #[must_use]
    pub fn is_at_home(&self, node: &NodeView) -> bool {
        self.home.as_ref().is_some_and(|home| *home.node == *node.name && home.life == node.life)
    }
}

/// How far a standby must be to have all that had been seen at `stamp`.
fn bound_of(view: &ClusterView, stamp: Stamp) -> Option<Lsn> {
    #[cfg(feature = "negative-control")]
    if crate::proxy::defect::has(crate::proxy::defect::Defect::EarlyStamp) {
        return view.samples.early_bound(stamp); // the defect: what was seen is not in it
    }
    view.samples.bound(stamp)
}

/// Whether a standby has replayed everything up to a bound.
#[must_use]
pub fn has(node: &NodeView, bound: Bound) -> bool {
    match bound {
        Bound::Reached(lsn) => node.replayed_lsn.is_some_and(|replayed| replayed >= lsn),
        Bound::Unknown(_) => false,
    }
}

/// Whether reads may go to a node at all. While there is no primary nothing streams and nothing new can be missed: standbys
/// that answer go on as they are.
#[must_use]
pub fn is_fit(node: &NodeView, view: &ClusterView) -> bool {
    match node.unfit {
        None => true,
        Some(Unfit::NoPrimary | Unfit::NotStreaming | Unfit::Lagging) => {
            view.primary.is_none()
                && node.healthy
                && node.sampled > 0
                && node.role == Some(crate::topology::Role::Standby)
        }
        Some(Unfit::Unhealthy | Unfit::Primary | Unfit::OtherTimeline | Unfit::Flapping | Unfit::Unsampled) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Era, Role, Sample, Samples};

    const SESSION: Consistency = Consistency::Session;

    fn standby(name: &str, replayed: u64) -> NodeView {
        let mut node = NodeView::unknown(name.into());
        (node.role, node.healthy, node.unfit) = (Some(Role::Standby), true, None);
        (node.life, node.sampled, node.replayed_lsn) = (1, 1, Some(Lsn(replayed)));
        node
    }

    fn view(samples: &[(u64, u64)], nodes: Vec<NodeView>) -> ClusterView {
        let mut taken = Samples::of(Era(1));
        // what is shown is always half a dozen behind
        samples.iter().for_each(|(number, lsn)| {
            taken.add(Sample { number: *number, lsn: Lsn(*lsn), shown: Lsn(*lsn - 6) });
        });
        ClusterView { primary: Some("a".into()), nodes, samples: taken, ..ClusterView::default() }
    }

    fn stamp(asked: u64) -> Stamp {
        Stamp { era: Era(1), asked }
    }

    #[test]
    fn a_new_session_may_read_anywhere() {
        assert_eq!(Token::default().bound(&view(&[], vec![])), Bound::Reached(Lsn(0)));
    }

    #[test]
    fn after_the_primary_the_first_later_sample_decides() {
        let mut token = Token::default();
        token.settle_at(&standby("b", 0));
        token.saw_primary(SESSION, Done::Wrote, stamp(5));
        let before = view(&[(5, 50)], vec![standby("b", 99)]);
        assert_eq!((token.home(SESSION, &before), token.bound(&before)), (None, Bound::Unknown(5)));
        let after = view(&[(5, 50), (6, 60), (9, 90)], vec![]);
        assert_eq!(token.bound(&after), Bound::Reached(Lsn(60)));
        assert!(has(&standby("b", 60), token.bound(&after)) && !has(&standby("b", 59), token.bound(&after)));
    }

    #[test]
    fn a_home_is_kept_for_its_life_however_far_others_are() {
        let mut token = Token::default();
        let home = standby("b", 10);
        token.settle_at(&home);
        token.saw_standby(SESSION, stamp(7));
        let behind = view(&[(8, 80)], vec![home.clone(), standby("c", 80)]);
        assert_eq!(token.home(SESSION, &behind).map(|node| &*node.name), Some("b"));
        assert!(!has(&behind.nodes[0], token.bound(&behind)), "but nobody else so far behind will do");
        let restarted = view(&[(8, 80)], vec![NodeView { life: 2, ..home.clone() }]);
        assert_eq!(token.home(SESSION, &restarted), None);
        let lagging = view(&[(8, 80)], vec![NodeView { unfit: Some(Unfit::Lagging), ..home }]);
        assert_eq!(token.home(SESSION, &lagging), None);
    }

    #[test]
    fn who_only_reads_on_the_primary_needs_what_it_was_shown_and_all_that_it_did_before() {
        let mut token = Token::default();
        token.saw_primary(SESSION, Done::Read, stamp(5));
        assert_eq!(token.bound(&view(&[(5, 50)], vec![])), Bound::Unknown(5));
        assert_eq!(token.bound(&view(&[(6, 60)], vec![])), Bound::Reached(Lsn(54)));
        token.saw_primary(SESSION, Done::Wrote, stamp(6));
        token.saw_primary(SESSION, Done::Read, stamp(8));
        assert_eq!(token.bound(&view(&[(7, 70)], vec![])), Bound::Unknown(8));
        assert_eq!(token.bound(&view(&[(7, 70), (9, 73)], vec![])), Bound::Reached(Lsn(70)));
        assert_eq!(token.bound(&view(&[(7, 70), (9, 90)], vec![])), Bound::Reached(Lsn(84)));
        // what the write needs is remembered for longer than its sample
        token.learn(&view(&[(7, 70)], vec![]));
        assert_eq!(token.bound(&view(&[(9, 76)], vec![])), Bound::Reached(Lsn(70)));
        // in this era: another's positions are not to be compared with it
        let mut later = view(&[], vec![]);
        later.samples = Samples::of(Era(2));
        assert_eq!(token.bound(&later), Bound::Unknown(8));
        later.samples.add(Sample { number: 20, lsn: Lsn(40), shown: Lsn(40) });
        token.learn(&later);
        assert_eq!(token.bound(&later), Bound::Reached(Lsn(40)));
        // a standby may have shown what the primary does not show yet
        token.saw_standby(SESSION, stamp(10));
        assert_eq!(token.bound(&view(&[(11, 110)], vec![])), Bound::Reached(Lsn(110)));
        token.saw_primary(SESSION, Done::Read, stamp(11));
        assert_eq!(token.bound(&view(&[(11, 110), (12, 112)], vec![])), Bound::Reached(Lsn(110)));
    }

    #[test]
    fn own_writes_counts_writes_only_and_asks_for_them_everywhere() {
        let (mut token, consistency) = (Token::default(), Consistency::OwnWrites);
        token.settle_at(&standby("b", 10));
        token.saw_primary(consistency, Done::Read, stamp(3));
        token.saw_standby(consistency, stamp(4));
        let view = view(&[(9, 20)], vec![standby("b", 10)]);
        assert!(token.home(consistency, &view).is_some());
        token.saw_primary(consistency, Done::Wrote, stamp(8));
        token.settle_at(&standby("b", 10));
        assert!(token.home(consistency, &view).is_none());
    }

    #[test]
    fn reads_go_on_while_there_is_no_primary() {
        let cut_off = NodeView { unfit: Some(Unfit::NotStreaming), ..standby("b", 10) };
        let mut view = view(&[], vec![cut_off.clone()]);
        assert!(!is_fit(&cut_off, &view));
        view.primary = None;
        assert!(is_fit(&cut_off, &view));
        assert!(!is_fit(&NodeView { unfit: Some(Unfit::OtherTimeline), ..cut_off }, &view));
    }
}
