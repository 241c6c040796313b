//! Averages over the last whole `stats.period`, and the line in the log that each period ends with.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use crate::proxy::shared::Shared;
use crate::stats::{Averages, Totals};

/// The longest pause between two looks at the configuration, which may have changed the period.
const LOOK: Duration = Duration::from_secs(1);

/// The last whole period, and the beginning of the one that runs.
#[derive(Debug, Default)]
pub struct Last {
    began_us: u64,
    at_beginning: BTreeMap<Arc<str>, Totals>,
    averages: BTreeMap<Arc<str>, Averages>,
}

impl Last {
    /// A database's averages; zeros before the first period has ended.
    #[must_use]
    pub fn averages(&self, database: &str) -> Averages {
        self.averages.get(database).copied().unwrap_or_default()
    }

    /// A period ends at `now_us`, with these totals. The answer is how long it was.
    fn end(&mut self, now_us: u64, totals: BTreeMap<Arc<str>, Totals>) -> Duration {
        let length = Duration::from_micros(now_us.saturating_sub(self.began_us));
        self.averages.clear();
        for (name, now) in &totals {
            let before = self.at_beginning.get(name).copied().unwrap_or_default();
            self.averages.insert(Arc::clone(name), Averages::of(*now - before, length));
        }
        (self.began_us, self.at_beginning) = (now_us, totals);
        length
    }
}

/// Ends periods, for ever.
pub async fn watch(shared: Arc<Shared>) {
    loop {
        let stats = shared.running().config.stats.clone();
        let began_us = shared.tallies.last.lock().began_us;
        let ran = Duration::from_micros(shared.now_us().saturating_sub(began_us));
        if let Some(left) = stats.period.get().checked_sub(ran).filter(|left| !left.is_zero()) {
            tokio::time::sleep(left.min(LOOK)).await;
            continue;
        }
        let happened = end_period(&shared);
        if stats.log {
            tracing::info!("{}", line(&happened, &standing(&shared)));
        }
    }
}

/// Ends a period; what happened in it, over all databases.
fn end_period(shared: &Shared) -> Averages {
    let totals: BTreeMap<_, _> =
        shared.statistics().databases.into_iter().map(|(name, database)| (name, database.totals)).collect();
    let all = |totals: &BTreeMap<Arc<str>, Totals>| totals.values().fold(Totals::default(), |sum, one| sum + *one);
    let mut last = shared.tallies.last.lock();
    let happened = all(&totals) - all(&last.at_beginning);
    let length = last.end(shared.now_us(), totals);
    Averages::of(happened, length)
}

/// PgBouncer's words, and a few about each cluster.
fn line(happened: &Averages, standing: &str) -> String {
    let Totals { xacts, queries, received, sent, xact_us, query_us, wait_us, errors, .. } = happened.of;
    format!(
        "stats: {xacts} xacts/s, {queries} queries/s, {errors} errors/s, in {received} B/s, out {sent} B/s, \
         xact {xact_us} us, query {query_us} us, wait {wait_us} us{standing}"
    )
}

/// How the clusters stand: their primary, and how many of their nodes answer.
fn standing(shared: &Shared) -> String {
    let (topology, running) = (shared.board.read(), shared.running());
    let mut words = String::new();
    for (name, cluster) in &running.config.clusters {
        let view = topology.clusters.get(name.as_str());
        let fit = view.map_or(0, |view| view.nodes.iter().filter(|node| node.healthy).count());
        let primary = view.and_then(|view| view.primary.as_deref()).unwrap_or("none");
        let _ = write!(words, "; cluster {name}: primary {primary}, {fit}/{} nodes fit", cluster.nodes.len());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(xacts: u64, xact_us: u64, wait_us: u64) -> BTreeMap<Arc<str>, Totals> {
        BTreeMap::from([("app".into(), Totals { xacts, xact_us, wait_us, ..Totals::default() })])
    }

    #[test]
    fn averages_are_of_the_last_whole_period_and_of_nothing_before_it() {
        let mut last = Last::default();
        assert_eq!(last.averages("app"), Averages::default());
        last.end(1_000_000, totals(100, 5_000, 2_000_000));
        assert_eq!((last.averages("app").of.xacts, last.averages("app").of.xact_us), (100, 50));
        last.end(3_000_000, totals(150, 5_500, 3_000_000));
        let of = last.averages("app").of;
        assert_eq!((of.xacts, of.xact_us, of.wait_us), (25, 10, 500_000));
        last.end(4_000_000, totals(150, 5_500, 3_000_000));
        assert_eq!(last.averages("app"), Averages::default());
    }

    #[test]
    fn the_line_reads_like_pgbouncers() {
        let of = Totals {
            xacts: 1,
            queries: 2,
            received: 3,
            sent: 4,
            xact_us: 5,
            query_us: 6,
            wait_us: 7,
            ..Totals::default()
        };
        let line = line(&Averages { of }, "; cluster main: primary a, 2/3 nodes fit");
        assert_eq!(
            line,
            "stats: 1 xacts/s, 2 queries/s, 0 errors/s, in 3 B/s, out 4 B/s, xact 5 us, query 6 us, wait 7 us; \
             cluster main: primary a, 2/3 nodes fit"
        );
    }
}
