//! Latencies in constant memory: counts in buckets that are at most 1/32 wide.

use std::time::Duration;

/// Buckets per power of two.
const STEPS: u64 = 32;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// How often which latency was seen, in microseconds.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    buckets: Vec<u64>,
    count: u64,
    max: Duration,
}

impl Latencies {
    /// One more.
    pub fn add(&mut self, latency: Duration) {
        let index = bucket(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        if self.buckets.len() <= index {
            self.buckets.resize(index + 1, 0);
        }
        if let Some(count) = self.buckets.get_mut(index) {
            *count += 1;
        }
        self.count += 1;
        self.max = self.max.max(latency);
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest, exactly.
    #[must_use]
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The latency that `percent` of all did not exceed, to within 1/32; zero when there is none.
    #[must_use]
    pub fn percentile(&self, percent: u64) -> Duration {
        let rank = (self.count * percent).div_ceil(100);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank && *count > 0 {
                return Duration::from_micros(upper_bound(index)).min(self.max);
            }
        }
        self.max
    }
}

fn bucket(micros: u64) -> usize {
    let octave = micros.max(STEPS).ilog2() - STEP_BITS; // below 2 * STEPS every number has a bucket of its own
    let index = u64::from(octave) * STEPS + (micros >> octave);
    usize::try_from(index).unwrap_or(usize::MAX)
}

/// The largest number of a bucket.
fn upper_bound(index: usize) -> u64 {
    let index = index as u64;
    let octave = (index / STEPS).saturating_sub(1);
    let within = index - octave * STEPS;
    ((within + 1) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_in_a_bucket_that_is_narrow() {
        for micros in (0..5_000).chain([9_999, 123_456, 1_000_000, 59_000_000, 1 << 40]) {
            let upper = upper_bound(bucket(micros));
            assert!(upper >= micros && upper - micros <= micros / 32, "{micros}: {upper}");
        }
    }

    #[test]
    fn percentiles_of_a_known_series() {
        let mut latencies = Latencies::default();
        (1..=100).for_each(|ms| latencies.add(Duration::from_millis(ms)));
        assert_eq!(latencies.count(), 100);
        assert_eq!(latencies.max(), Duration::from_millis(100));
        assert!((50..=52).contains(&latencies.percentile(50).as_millis()));
        assert!((99..=100).contains(&latencies.percentile(99).as_millis()));
        assert_eq!(Latencies::default().percentile(99), Duration::ZERO);
    }
}
