//! How far the primary's log was, and when that was asked: what tells a session which standby has all it has seen.
//!
//! A [`Stamp`] is taken when a reply has been read; a sample that was *asked for* after it bounds everything that reply can
//! have shown. Numbers, not clocks: [`Stamp::asked`] is raised before a node is asked, so a sample with a greater number than
//! a stamp was sent after it. Samples of different [`Era`]s say nothing about each other.
//!
//! Not here: what a session remembers of it (`proxy/route`), the asking (`cluster/observe`).

use std::collections::VecDeque;

use crate::pg::Lsn;

/// How often the line of samples from the primary has been broken: by another primary, another timeline, or another
/// connection to the same one, which may have crashed meanwhile and lost what was never flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Era(pub u32);

/// A moment between two questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The era it belongs to.
    pub era: Era,
    /// The number of the last question that had been asked of any node of the cluster.
    pub asked: u64,
}

/// Bits of a packed stamp that hold the number: 2^40 questions are 34 years at a thousand a second.
const ASKED_BITS: u32 = 40;

impl Stamp {
    /// Both in one word; the number is cut to 40 bits, the era to 24.
    #[must_use]
    pub const fn pack(self) -> u64 {
        (self.era.0 as u64) << ASKED_BITS | self.asked & ((1 << ASKED_BITS) - 1)
    }

    /// What [`Self::pack`] has packed.
    #[must_use]
    pub const fn unpack(packed: u64) -> Self {
        Self { era: Era((packed >> ASKED_BITS) as u32), asked: packed & ((1 << ASKED_BITS) - 1) }
    }
}

/// One answer of the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The number under which it was asked.
    pub number: u64,
    /// Where the next record would begin, less the page header in front of it: a standby can come as far as that.
    pub lsn: Lsn,
    /// No later than that, and behind the record of every commit that a statement on the primary could see when it was asked.
    pub shown: Lsn,
}

/// Samples that are remembered. Who has not looked for so long is given a later one, which bounds as well, only less closely.
const REMEMBERED: usize = 256;

/// The latest samples of one era, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Samples {
    era: Era,
    recent: VecDeque<Sample>,
}

impl Samples {
    /// None yet, of this era.
    #[must_use]
    pub const fn of(era: Era) -> Self {
        Self { era, recent: VecDeque::new() }
    }

    /// The era.
    #[must_use]
    pub const fn era(&self) -> Era {
        self.era
    }

    /// Adds an answer. One that comes late, behind a later question's, is dropped.
    pub fn add(&mut self, sample: Sample) {
        if self.recent.back().is_some_and(|last| sample.number <= last.number) {
            return;
        }
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(sample);
    }

    /// The newest.
    #[must_use]
    pub fn newest(&self) -> Option<Sample> {
        self.recent.back().copied()
    }

    /// How far a standby must be to have everything that had been seen at `stamp`; `None` while no sample says. A stamp of an
    /// earlier era is bounded by any sample of this one, one of a later era by none.
    #[must_use]
    pub fn bound(&self, stamp: Stamp) -> Option<Lsn> {
        self.first_after(stamp).map(|sample| sample.lsn)
    }

    /// The same for who has done nothing but read on the primary: what others have begun since, and what PostgreSQL writes for
    /// itself, was not to be seen.
    #[must_use]
    pub fn shown(&self, stamp: Stamp) -> Option<Lsn> {
        self.first_after(stamp).map(|sample| sample.shown)
    }

    fn first_after(&self, stamp: Stamp) -> Option<&Sample> {
        let after = match stamp.era.cmp(&self.era) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => stamp.asked,
            std::cmp::Ordering::Greater => return None,
        };
        let at = self.recent.partition_point(|sample| sample.number <= after);
        self.recent.get(at)
    }

    /// The defect of a build with known ones: the sample before the one that bounds.
    #[cfg(feature = "negative-control")]
    #[must_use]
    pub fn early_bound(&self, stamp: Stamp) -> Option<Lsn> {
        let at = self.recent.partition_point(|sample| sample.number <= stamp.asked);
        self.recent.get(at.saturating_sub(1)).map(|sample| sample.lsn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn samples(era: u32, taken: &[(u64, u64)]) -> Samples {
        let mut samples = Samples::of(Era(era));
        for (number, lsn) in taken {
            samples.add(Sample { number: *number, lsn: Lsn(*lsn), shown: Lsn(lsn - 1) });
        }
        samples
    }

    fn stamp(era: u32, asked: u64) -> Stamp {
        Stamp { era: Era(era), asked }
    }

    #[test]
    fn the_first_sample_asked_after_a_stamp_bounds_it() {
        let samples = samples(3, &[(2, 20), (5, 50), (9, 90)]);
        for (stamp, bound) in [
            (stamp(3, 0), Some(20)),
            (stamp(3, 2), Some(50)),
            (stamp(3, 4), Some(50)),
            (stamp(3, 9), None),
            (stamp(2, 1_000), Some(20)),
            (stamp(4, 0), None),
        ] {
            assert_eq!(samples.bound(stamp), bound.map(Lsn), "{stamp:?}");
            assert_eq!(samples.shown(stamp), bound.map(|lsn| Lsn(lsn - 1)), "{stamp:?}");
        }
    }

    #[test]
    fn a_late_answer_is_dropped_and_a_forgotten_one_replaced_by_a_later() {
        let mut taken = samples(1, &[(4, 40), (3, 30)]);
        assert_eq!(taken.newest(), Some(Sample { number: 4, lsn: Lsn(40), shown: Lsn(39) }));
        (5..600).for_each(|number| taken.add(Sample { number, lsn: Lsn(number * 10), shown: Lsn(number) }));
        let oldest = taken.bound(stamp(1, 0)).unwrap();
        assert_eq!(oldest, Lsn((600 - 256) * 10));
    }

    proptest! {
        #[test]
        fn a_packed_stamp_comes_back_and_keeps_its_order(a in any::<u32>(), x in any::<u64>(), y in any::<u64>()) {
            let cut = |asked: u64| stamp(a & 0xFF_FFFF, asked & ((1 << ASKED_BITS) - 1));
            let (x, y) = (cut(x), cut(y));
            prop_assert_eq!(Stamp::unpack(x.pack()), x);
            prop_assert_eq!(x.cmp(&y), x.pack().cmp(&y.pack()));
        }
    }
}
