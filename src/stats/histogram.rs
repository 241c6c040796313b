//! How often something took how long. Buckets double from [`FIRST_US`]; each knows its sum, so that means are exact.

/// The upper bound of the first bucket, in microseconds.
pub const FIRST_US: u64 = 16;
/// Buckets with a bound; one more has none. The last bound is some 67 s.
pub const BOUNDS: usize = 23;

/// A histogram of microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Count and sum of each.
    pub buckets: [(u64, u64); BOUNDS + 1],
}

impl Histogram {
    /// Which bucket a time belongs to.
    #[must_use]
    pub const fn bucket(us: u64) -> usize {
        let above = (us.saturating_sub(1) / FIRST_US).checked_ilog2();
        match above {
            None => 0,
            Some(doublings) if (doublings as usize) < BOUNDS - 1 => doublings as usize + 1,
            Some(_) => BOUNDS,
        }
    }

    /// The upper bound of a bucket, in microseconds; `None` for the last.
    #[must_use]
    pub const fn bound_us(bucket: usize) -> Option<u64> {
        if bucket < BOUNDS { Some(FIRST_US << bucket) } else { None }
    }

    /// Takes in one time.
    pub fn add(&mut self, us: u64) {
        if let Some((count, sum)) = self.buckets.get_mut(Self::bucket(us)) {
            *count += 1;
            *sum += us;
        }
    }

    /// Takes in all of another.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            mine.0 += theirs.0;
            mine.1 += theirs.1;
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(count, _)| count).sum()
    }

    /// The sum of all, in microseconds.
    #[must_use]
    pub fn sum_us(&self) -> u64 {
        self.buckets.iter().map(|(_, sum)| sum).sum()
    }

    /// The time that so many in a thousand have not exceeded: the mean of the bucket it falls into. 0 while it is empty.
    #[must_use]
    pub fn per_mille_us(&self, per_mille: u64) -> u64 {
        let rank = (self.count() * per_mille).div_ceil(1_000).max(1);
        let mut below = 0;
        for (count, sum) in self.buckets {
            below += count;
            if below >= rank {
                return sum.checked_div(count).unwrap_or(0);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_the_bucket_whose_bound_it_does_not_exceed() {
        for us in (0..2_000).chain([1 << 20, (1 << 20) + 1, 67_108_864, 67_108_865, u64::MAX]) {
            let bucket = Histogram::bucket(us);
            assert!(Histogram::bound_us(bucket).is_none_or(|bound| us <= bound), "{us}");
            assert!(bucket == 0 || Histogram::bound_us(bucket - 1).is_some_and(|below| us > below), "{us}");
        }
    }

    #[test]
    fn percentiles_are_the_means_of_their_buckets() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.per_mille_us(500), 0);
        (0..99).for_each(|_| histogram.add(10));
        histogram.add(1_000);
        assert_eq!(
            (histogram.per_mille_us(500), histogram.per_mille_us(990), histogram.per_mille_us(999)),
            (10, 10, 1_000)
        );
        assert_eq!((histogram.count(), histogram.sum_us()), (100, 1_990));
    }
}
