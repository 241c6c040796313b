//! ◇ Which reign the primary is in, and which transaction ids tell it from those before ([`crate::topology::reigns`]).
//!
//! Pure. A reign goes on while the same incarnation answers, however often the connection to it breaks. What is not certain is
//! left out, and then a COMMIT in doubt stays in doubt:
//!
//! - [`Reign::first`](crate::topology::Reign) is the first snapshot of the new primary: whatever it has of its predecessor has ended by then, or
//!   never will. Of the same node it takes proof that it is another incarnation, as a transaction may yet commit in the same.
//! - `before` is the last snapshot in recovery, when nobody can have written but the predecessor; or after a restart the next id
//!   as recovery has left it. Only if no reign was missed in between: a promotion by the timeline, a restart by the time it took.

use super::observation::{Incarnation, Xids};
use crate::pg::Timeline;
use crate::topology::{NodeName, Reigns};

/// From the last answer of a primary to its next start: nobody starts, serves, crashes and starts again in so short a time.
const RESTARTED_WITHIN_US: i64 = 1_000_000;

/// A standby's last word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recovering {
    /// Over which connection.
    pub(super) life: u64,
    pub(super) incarnation: Option<Incarnation>,
    pub(super) next: u64,
}

/// The primary, as it has answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Present<'a> {
    pub(super) node: &'a NodeName,
    pub(super) timeline: Option<Timeline>,
    /// Which connection to it.
    pub(super) life: u64,
    /// The number of the question.
    pub(super) sampled: u64,
    pub(super) xids: Xids,
    /// What it said last as a standby, if it ever was one.
    pub(super) recovering: Option<Recovering>,
}

/// The reigns, and what the last one is known by.
#[derive(Debug, Default)]
pub(super) struct Succession {
    reigns: Reigns,
    last: Option<Known>,
}

#[derive(Debug)]
struct Known {
    node: NodeName,
    timeline: Option<Timeline>,
    life: u64,
    incarnation: Option<Incarnation>,
    clock_us: Option<i64>,
}

impl Succession {
    pub(super) const fn reigns(&self) -> &Reigns {
        &self.reigns
    }

    /// The primary has answered, or is named by what it has answered before.
    pub(super) fn reigns_now(&mut self, now: Present<'_>) {
        let goes_on = self.last.as_ref().is_some_and(|last| {
            last.node == *now.node && is_same(last.incarnation, last.life, now.xids.incarnation, now.life)
        });
        if goes_on {
            self.reigns.answered(now.sampled);
        } else {
            let (before, first) = self.bounds(&now);
            self.reigns.begin(now.node.clone(), now.sampled, before, first);
        }
        self.last = Some(Known {
            node: now.node.clone(),
            timeline: now.timeline,
            life: now.life,
            incarnation: now.xids.incarnation,
            clock_us: now.xids.clock_us,
        });
    }

    /// `before` and `first` of a reign that begins.
    fn bounds(&self, now: &Present<'_>) -> (Option<u64>, Option<u64>) {
        let Some(last) = &self.last else { return (None, now.xids.next) };
        let promoted = now.recovering.filter(|was| is_same(was.incarnation, was.life, now.xids.incarnation, now.life));
        let steps = now.timeline.zip(last.timeline).map(|(now, last)| now.0.checked_sub(last.0));
        match (promoted, steps) {
            (Some(was), Some(Some(1))) => (Some(was.next), now.xids.next),
            // another was promoted in between; or on nobody knows which timeline
            (_, Some(Some(1..))) => (None, now.xids.next),
            (None, Some(Some(0))) if last.node == *now.node => match (last.incarnation, now.xids.incarnation) {
                (Some(_), Some(its)) => {
                    let soon = last
                        .clock_us
                        .is_some_and(|last| its.checkpointer_us.saturating_sub(last) <= RESTARTED_WITHIN_US);
                    (now.xids.recovered.filter(|_| soon), now.xids.next)
                }
                _ => (None, None),
            },
            _ => (None, None),
        }
    }
}

/// Whether two answers of a node are of one incarnation. Where that is not told, of one connection.
fn is_same(one: Option<Incarnation>, one_life: u64, other: Option<Incarnation>, other_life: u64) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one == other,
        _ => one_life == other_life,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn incarnation(at: i64) -> Option<Incarnation> {
        Some(Incarnation { postmaster_us: 1, checkpointer_us: at })
    }

    fn xids(next: u64, incarnation: Option<Incarnation>, clock_us: i64) -> Xids {
        Xids { next: Some(next), recovered: Some(next - 1), incarnation, clock_us: Some(clock_us) }
    }

    struct Told(Succession, u64);

    impl Told {
        /// The bounds of the reign that is the last when it has answered so, and its number.
        fn by(
            &mut self,
            node: &str,
            timeline: u32,
            life: u64,
            xids: Xids,
            recovering: Option<Recovering>,
        ) -> (u64, Option<u64>, Option<u64>) {
            self.1 += 1;
            let (node, timeline) = (&node.into(), Some(Timeline(timeline)));
            self.0.reigns_now(Present { node, timeline, life, sampled: self.1, xids, recovering });
            let last = self.0.reigns().last().unwrap();
            assert_eq!(last.answered, self.1);
            (last.number, last.before, last.first)
        }
    }

    fn told() -> Told {
        let mut told = Told(Succession::default(), 0);
        assert_eq!(told.by("a", 1, 1, xids(100, incarnation(5), 10), None), (1, None, Some(100)));
        told
    }

    #[test]
    fn a_reign_goes_on_while_the_same_incarnation_answers() {
        let mut told = told();
        assert_eq!(told.by("a", 1, 1, xids(110, incarnation(5), 11), None).0, 1);
        assert_eq!(told.by("a", 1, 2, xids(120, incarnation(5), 12), None).0, 1, "over another connection");
    }

    #[test]
    fn a_promotion_is_bounded_by_the_last_word_in_recovery_and_the_first_out_of_it() {
        let was = |life, at| Some(Recovering { life, incarnation: incarnation(at), next: 105 });
        assert_eq!(told().by("b", 2, 7, xids(108, incarnation(6), 20), was(7, 6)), (2, Some(105), Some(108)));
        assert_eq!(told().by("b", 2, 8, xids(108, incarnation(6), 20), was(7, 6)), (2, Some(105), Some(108)));
        assert_eq!(told().by("b", 2, 8, xids(108, incarnation(9), 20), was(7, 6)).1, None, "it has restarted");
        assert_eq!(told().by("b", 2, 8, xids(108, incarnation(6), 20), None).1, None, "it was never seen as a standby");
        assert_eq!(told().by("b", 3, 7, xids(108, incarnation(6), 20), was(7, 6)).1, None, "a promotion was missed");
        assert_eq!(told().by("b", 1, 7, xids(108, incarnation(6), 20), was(7, 6)), (2, None, None), "no promotion");
    }

    #[test]
    fn a_restart_is_bounded_by_what_recovery_has_left_if_it_was_soon_and_is_certain() {
        assert_eq!(told().by("a", 1, 2, xids(90, incarnation(500_000), 600_000), None), (2, Some(89), Some(90)));
        assert_eq!(told().by("a", 1, 2, xids(90, incarnation(2_000_000), 2_100_000), None), (2, None, Some(90)));
        assert_eq!(told().by("a", 1, 2, xids(90, None, 600_000), None), (2, None, None), "it may be the same");
        let mut hidden = Told(Succession::default(), 0);
        hidden.by("a", 1, 1, xids(100, None, 10), None);
        assert_eq!(hidden.by("a", 1, 1, xids(101, None, 11), None).0, 1);
        assert_eq!(hidden.by("a", 1, 2, xids(102, None, 12), None), (2, None, None));
    }
}
