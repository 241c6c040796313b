//! Which statements weigh most.

use super::StatementStatistics;

/// What is meant by most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// The sum of its times.
    #[default]
    Time,
    /// The time that 99 of 100 calls have not exceeded.
    P99,
    /// How often it was called.
    Calls,
}

impl By {
    /// All of them with the names they are asked for by.
    pub const ALL: [(Self, &'static str); 3] = [(Self::Time, "time"), (Self::P99, "p99"), (Self::Calls, "calls")];

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(by, _)| *by)
    }

    fn weight(self, statement: &StatementStatistics) -> u64 {
        match self {
            Self::Time => statement.total.sum_us(),
            Self::P99 => statement.total.per_mille_us(990),
            Self::Calls => statement.calls,
        }
    }
}

/// The so many statements that weigh most, heaviest first; where two weigh the same, by text.
#[must_use]
pub fn top(mut statements: Vec<StatementStatistics>, by: By, count: usize) -> Vec<StatementStatistics> {
    statements.sort_by_cached_key(|statement| {
        let place = [&statement.text, &statement.database, &statement.user, &statement.node].map(std::sync::Arc::clone);
        (std::cmp::Reverse(by.weight(statement)), place)
    });
    statements.truncate(count);
    statements
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Histogram;

    fn statement(text: &str, times: &[u64]) -> StatementStatistics {
        let mut total = Histogram::default();
        times.iter().for_each(|us| total.add(*us));
        let calls = times.len() as u64;
        let (a, text) = (|| std::sync::Arc::<str>::from("a"), text.into());
        StatementStatistics {
            fingerprint: 1,
            text,
            database: a(),
            user: a(),
            node: a(),
            calls,
            errors: 0,
            rows: 0,
            total,
        }
    }

    #[test]
    fn the_one_that_takes_most_in_all_is_not_the_one_that_is_slowest() {
        let all = || vec![statement("often", &[100; 1_000]), statement("slow", &[50_000]), statement("idle", &[1])];
        let texts = |by| top(all(), by, 2).iter().map(|one| one.text.to_string()).collect::<Vec<_>>();
        assert_eq!(texts(By::Time), ["often", "slow"]);
        assert_eq!(texts(By::P99), ["slow", "often"]);
        assert_eq!(texts(By::Calls), ["often", "idle"]);
        assert_eq!(By::ALL.map(|(by, name)| By::named(name) == Some(by)), [true; 3]);
    }
}
