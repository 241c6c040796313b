//! What is counted, and what follows from it: totals, averages over a period, histograms, the statements that weigh most. ◇ No clock, no lock, no I/O.
//!
//! The columns are PgBouncer's (`SHOW STATS`), so that its users' graphs go on; times are microseconds, volumes bytes.
//!
//! Not here: the counters that workers raise (`proxy/tally`), who shows what (`console`, `admin`).

pub mod histogram;
pub mod top;

use std::collections::BTreeMap;
use std::ops::{Add, AddAssign, Sub};
use std::sync::Arc;
use std::time::Duration;

pub use histogram::Histogram;

/// Counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Times a server was lent to a client.
    pub server_assignments: u64,
    /// Transactions that have ended: a statement outside a block is one.
    pub xacts: u64,
    /// Requests that were answered: simple queries, and Syncs.
    pub queries: u64,
    /// Bytes that clients have sent.
    pub received: u64,
    /// Bytes that clients were sent.
    pub sent: u64,
    /// Time in transactions.
    pub xact_us: u64,
    /// Time from a request to the end of its answer, without the wait for a server.
    pub query_us: u64,
    /// Time that clients have waited for a server.
    pub wait_us: u64,
    /// Parse messages from clients.
    pub client_parses: u64,
    /// Parse messages to servers.
    pub server_parses: u64,
    /// Bind messages from clients.
    pub binds: u64,
    /// Logins of clients.
    pub client_logins: u64,
    /// Requests that were answered with an error, PostgreSQL's or howdah's.
    pub errors: u64,
    /// Rows sent to clients.
    pub rows: u64,
}

/// Per second, or per transaction, query and wait, over the last whole `stats.period`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Averages {
    /// Counts and volumes per second; of times, the mean of one.
    pub of: Totals,
}

impl Averages {
    /// What happened in `within`, as PgBouncer's `avg_` columns have it: rounded down.
    #[must_use]
    pub fn of(happened: Totals, within: Duration) -> Self {
        let us = u64::try_from(within.as_micros()).unwrap_or(u64::MAX).max(1);
        let second = |count: u64| u64::try_from(u128::from(count) * 1_000_000 / u128::from(us)).unwrap_or(u64::MAX);
        let mean = |sum: u64, count: u64| sum.checked_div(count).unwrap_or(0);
        Self {
            of: Totals {
                server_assignments: second(happened.server_assignments),
                xacts: second(happened.xacts),
                queries: second(happened.queries),
                received: second(happened.received),
                sent: second(happened.sent),
                xact_us: mean(happened.xact_us, happened.xacts),
                query_us: mean(happened.query_us, happened.queries),
                // PgBouncer: wait time per second, in microseconds
                wait_us: second(happened.wait_us),
                client_parses: second(happened.client_parses),
                server_parses: second(happened.server_parses),
                binds: second(happened.binds),
                client_logins: second(happened.client_logins),
                errors: second(happened.errors),
                rows: second(happened.rows),
            },
        }
    }
}

macro_rules! each_field {
    ($combine:expr, $left:expr, $right:expr; $($field:ident)*) => {
        Totals { $($field: $combine($left.$field, $right.$field)),* }
    };
    ($combine:expr, $left:expr, $right:expr) => {
        each_field!($combine, $left, $right; server_assignments xacts queries received sent xact_us query_us wait_us
            client_parses server_parses binds client_logins errors rows)
    };
}

impl Add for Totals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        each_field!(u64::wrapping_add, self, other)
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Totals {
    type Output = Self;

    /// What has been counted since `other`.
    fn sub(self, other: Self) -> Self {
        each_field!(u64::saturating_sub, self, other)
    }
}

/// One pool's share: a node, a database, a user.
#[derive(Clone, Debug)]
pub struct PoolStatistics {
    /// The cluster.
    pub cluster: Arc<str>,
    /// The node its connections go to.
    pub node: Arc<str>,
    /// The database, as clients name it.
    pub database: Arc<str>,
    /// The user.
    pub user: Arc<str>,
    /// What it has served.
    pub totals: Totals,
    /// How long requests have waited for a server.
    pub wait: Histogram,
    /// How long servers have taken for requests.
    pub server: Histogram,
    /// How long requests have taken in all.
    pub total: Histogram,
}

/// One database's.
#[derive(Clone, Copy, Debug, Default)]
pub struct DatabaseStatistics {
    /// Since the start.
    pub totals: Totals,
    /// Over the last period.
    pub averages: Averages,
}

/// One statement's, over everybody who runs it: texts that differ in literals only are one.
#[derive(Clone, Debug)]
pub struct StatementStatistics {
    /// The fingerprint, as `howdah route` prints it.
    pub fingerprint: u64,
    /// The text with its literals left out, cut where it is long.
    pub text: Arc<str>,
    /// The database it runs in.
    pub database: Arc<str>,
    /// The user who runs it.
    pub user: Arc<str>,
    /// The node it ran on.
    pub node: Arc<str>,
    /// How often.
    pub calls: u64,
    /// How often it was answered with an error.
    pub errors: u64,
    /// Rows it has sent.
    pub rows: u64,
    /// How long it has taken, each time.
    pub total: Histogram,
}

/// Everything, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// By pool; pools that are gone have left their share with their database.
    pub pools: Vec<PoolStatistics>,
    /// By database, as clients name it.
    pub databases: BTreeMap<Arc<str>, DatabaseStatistics>,
    /// Errors that clients were told, by database and SQLSTATE.
    pub errors: BTreeMap<(Arc<str>, String), u64>,
}

impl Statistics {
    /// Over all databases.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.databases.values().fold(Totals::default(), |sum, database| sum + database.totals)
    }
}
