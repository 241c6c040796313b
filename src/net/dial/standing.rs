//! Which addresses have not answered lately, and the order in which they are tried.
//!
//! Pure: no socket, no clock; times are milliseconds on any clock that does not go back. Nothing is ever given up: an
//! address with a bad name is only tried after the others.

use std::collections::HashMap;
use std::net::SocketAddr;

/// How long an address comes last after a first failure; doubles with each further one.
const REST_MIN_MS: u64 = 1_000;
/// The longest that an address comes last.
const REST_MAX_MS: u64 = 30_000;
/// After so long a failure is forgotten altogether.
const MEMORY_MS: u64 = 600_000;

/// All addresses that have failed and not worked since.
#[derive(Debug, Default)]
pub struct Standing {
    failures: HashMap<SocketAddr, Failure>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    count: u32,
    rests_until_ms: u64,
}

/// How to go about a dial.
#[derive(Debug, PartialEq, Eq)]
pub struct Order {
    /// All addresses, the promising ones first.
    pub tries: Vec<SocketAddr>,
    /// Whether not one of them is promising.
    pub hopeless: bool,
}

impl Standing {
    /// The order for now: as given, and behind those the ones that rest, the longest rested first.
    #[must_use]
    pub fn order(&self, addresses: &[SocketAddr], now_ms: u64) -> Order {
        let rests_until = |address: &SocketAddr| {
            self.failures.get(address).map(|failure| failure.rests_until_ms).filter(|until| *until > now_ms)
        };
        let mut tries = addresses.to_vec();
        tries.sort_by_key(rests_until); // stable, and `None` comes first
        Order { hopeless: !tries.is_empty() && tries.iter().all(|address| rests_until(address).is_some()), tries }
    }

    /// An address did not answer, or said no.
    pub fn failed(&mut self, address: SocketAddr, now_ms: u64) {
        self.failures.retain(|_, failure| failure.rests_until_ms.saturating_add(MEMORY_MS) > now_ms);
        let failure = self.failures.entry(address).or_insert(Failure { count: 0, rests_until_ms: 0 });
        let rest_ms = REST_MIN_MS.saturating_mul(1 << failure.count.min(10)).min(REST_MAX_MS);
        *failure = Failure { count: failure.count.saturating_add(1), rests_until_ms: now_ms.saturating_add(rest_ms) };
    }

    /// An address works.
    pub fn worked(&mut self, address: SocketAddr) {
        self.failures.remove(&address);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn addresses(count: u8) -> Vec<SocketAddr> {
        (1..=count).map(|last| SocketAddr::from(([10, 0, 0, last], 5432))).collect()
    }

    #[test]
    fn what_has_not_failed_keeps_its_order() {
        let (standing, all) = (Standing::default(), addresses(3));
        assert_eq!(standing.order(&all, 0), Order { tries: all, hopeless: false });
        assert!(!standing.order(&[], 0).hopeless);
    }

    #[test]
    fn what_has_failed_comes_last_until_it_has_rested() {
        let (mut standing, all) = (Standing::default(), addresses(3));
        let [a, b, c] = [all[0], all[1], all[2]];
        standing.failed(a, 0);
        assert_eq!(standing.order(&all, 999), Order { tries: vec![b, c, a], hopeless: false });
        standing.failed(b, 500);
        assert_eq!(standing.order(&all, 999).tries, [c, a, b]);
        assert_eq!(standing.order(&all, 1_000).tries, [a, c, b]);
        assert_eq!(standing.order(&all, 1_500).tries, all);
    }

    #[test]
    fn rests_grow_to_a_bound_and_success_forgets() {
        let (mut standing, all) = (Standing::default(), addresses(1));
        let mut now = 0;
        let mut rests = Vec::new();
        for _ in 0..8 {
            standing.failed(all[0], now);
            let begun = now;
            while standing.order(&all, now).hopeless {
                now += 500;
            }
            rests.push(now - begun);
        }
        assert_eq!(rests, [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        standing.failed(all[0], now);
        standing.worked(all[0]);
        assert!(!standing.order(&all, now).hopeless);
        standing.failed(all[0], now);
        assert!(!standing.order(&all, now + 1_000).hopeless, "it begins anew");
    }

    #[test]
    fn when_all_have_failed_the_longest_rested_is_first() {
        let (mut standing, all) = (Standing::default(), addresses(3));
        for (at, address) in [(300, all[0]), (100, all[1]), (200, all[2])] {
            standing.failed(address, at);
        }
        assert_eq!(standing.order(&all, 400), Order { tries: vec![all[1], all[2], all[0]], hopeless: true });
    }

    #[test]
    fn old_failures_take_no_room() {
        let mut standing = Standing::default();
        addresses(200).into_iter().for_each(|address| standing.failed(address, 0));
        standing.failed(SocketAddr::from(([10, 1, 0, 1], 5432)), 2 * MEMORY_MS);
        assert_eq!(standing.failures.len(), 1);
    }
}
