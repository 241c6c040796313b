//! ◇ Which of several standbys a session reads from.
//!
//! A session keeps its home; what is balanced is who has whom for a home. Not here: which standbys may be read from at all
//! (`token.rs`).

use crate::config::Balance;

/// A standby that may be read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in the configuration.
    pub index: usize,
    /// Its share; 0 only when nobody else can.
    pub weight: u32,
    /// Sessions that read from it.
    pub sessions: u64,
}

/// Picks one; `turn` is how often one has been picked in this cluster.
#[must_use]
pub fn pick(balance: Balance, candidates: &[Candidate], turn: u64) -> Option<Candidate> {
    let weighed = candidates.iter().any(|candidate| candidate.weight > 0);
    let of = |candidate: &Candidate| if weighed { u64::from(candidate.weight) } else { 1 };
    let mut able = candidates.iter().filter(|candidate| of(candidate) > 0);
    match balance {
        Balance::LeastConnections => {
            // sessions per weight, with one more there; equal ones take turns
            let count = able.clone().count().max(1);
            let start = usize::try_from(turn).unwrap_or(0) % count;
            let share = |candidate: &&Candidate| (candidate.sessions + 1).saturating_mul(1 << 20) / of(candidate);
            able.clone().skip(start).chain(able.take(start)).min_by_key(share).copied()
        }
        Balance::RoundRobin => {
            let total: u64 = able.clone().map(of).sum();
            let mut at = turn.checked_rem(total)?;
            able.find(|candidate| {
                let here = at < of(candidate);
                at = at.saturating_sub(of(candidate));
                here
            })
            .copied()
        }
    }
}

/// Whether a session should move from `home` to `other`: only for a clear difference, as it leaves warm caches behind.
#[must_use]
pub const fn is_worth_moving(home: Candidate, other: Candidate) -> bool {
    if home.weight == 0 || other.weight == 0 {
        return home.weight < other.weight;
    }
    // with the session moved the other must still have clearly fewer
    let (here, there) = (home.sessions * other.weight as u64, (other.sessions + 1) * home.weight as u64);
    here > there && here - there > here / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(of: &[(u32, u64)]) -> Vec<Candidate> {
        of.iter()
            .enumerate()
            .map(|(index, (weight, sessions))| Candidate { index, weight: *weight, sessions: *sessions })
            .collect()
    }

    fn picked(balance: Balance, of: &[(u32, u64)], turns: u64) -> Vec<u64> {
        let mut all = candidates(of);
        let mut counts = vec![0; of.len()];
        for turn in 0..turns {
            let chosen = pick(balance, &all, turn).unwrap();
            counts[chosen.index] += 1;
            all[chosen.index].sessions += 1;
        }
        counts
    }

    #[test]
    fn sessions_spread_by_weight_either_way() {
        for balance in [Balance::LeastConnections, Balance::RoundRobin] {
            assert_eq!(picked(balance, &[(1, 0), (1, 0)], 100), [50, 50], "{balance:?}");
            assert_eq!(picked(balance, &[(1, 0), (3, 0)], 100), [25, 75], "{balance:?}");
            assert_eq!(picked(balance, &[(0, 0), (1, 9)], 10), [0, 10], "{balance:?}");
            assert_eq!(picked(balance, &[(0, 0), (0, 0)], 10), [5, 5], "{balance:?}");
            assert_eq!(pick(balance, &[], 3), None);
        }
    }

    #[test]
    fn one_that_comes_back_is_filled_up_first() {
        assert_eq!(picked(Balance::LeastConnections, &[(1, 50), (1, 0)], 50), [0, 50]);
    }

    #[test]
    fn a_session_moves_for_a_clear_difference_only_and_never_back_and_forth() {
        let all = |of: &[(u32, u64)]| candidates(of);
        let worth = |of: &[(u32, u64)]| is_worth_moving(all(of)[0], all(of)[1]);
        assert!(worth(&[(1, 50), (1, 0)]) && worth(&[(1, 2), (1, 0)]));
        assert!(!worth(&[(1, 1), (1, 0)]) && !worth(&[(1, 10), (1, 9)]) && !worth(&[(1, 0), (1, 50)]));
        assert!(worth(&[(0, 1), (1, 90)]) && !worth(&[(1, 90), (0, 0)]));
        let (mut a, mut b) = (100_u64, 0_u64);
        for _ in 0..1_000 {
            if worth(&[(1, a), (1, b)]) {
                (a, b) = (a - 1, b + 1);
            }
            if worth(&[(1, b), (1, a)]) {
                (a, b) = (a + 1, b - 1);
            }
        }
        assert!(a.abs_diff(b) <= 14, "{a} {b}");
    }
}
