//! What holds for one user in one database, with all overlays applied.

use std::sync::Arc;
use std::time::Duration;

use super::database::ANY_DATABASE;
use super::file::Config;
use super::pool::{CommitOutcome, Pins, PoolMode};
use super::routing::{Consistency, RoutingRole};
use super::timeouts::Timeouts;

/// The settings of one user in one database: the user's go before the database's, those before the file's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The cluster the database is in.
    pub cluster: Arc<str>,
    /// The database's name there.
    pub dbname: String,
    /// When a server connection goes back.
    pub mode: PoolMode,
    /// Server connections per node for this user in this database; at least 1.
    pub size: u32,
    /// Server connections that are kept open.
    pub min_size: u32,
    /// Server connections beyond `size` for clients that have waited for long; 0 = none.
    pub reserve_size: u32,
    /// How long that is.
    pub reserve_timeout: Duration,
    /// Clients that may wait; 0 = any number.
    pub waiting_max: u32,
    /// Prepared statements per server connection; 0 = off.
    pub prepared_statements: u32,
    /// Whether a server may be kept for one client.
    pub pins: Pins,
    /// What the client of a COMMIT in doubt is told.
    pub commit_outcome: CommitOutcome,
    /// Bytes of requests that are kept to be asked again of another node.
    pub replay_max: usize,
    /// Where statements go, if the database says so.
    pub role: RoutingRole,
    /// What a session may be shown of the past.
    pub consistency: Consistency,
    /// Whether there is anything to route: more than one node.
    pub has_standbys: bool,
    /// How long things may take.
    pub timeouts: ProfileTimeouts,
    /// Server connections to this database over all users; `None` = no limit.
    pub database_server_max: Option<u32>,
    /// Server connections of this user over all databases; `None` = no limit.
    pub user_server_max: Option<u32>,
    /// Clients of this database over all users; `None` = no limit.
    pub database_client_max: Option<u32>,
    /// Clients of this user over all databases; `None` = no limit.
    pub user_client_max: Option<u32>,
}

/// Why nothing goes to a standby, whatever a statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undivided {
    /// `role = "primary"`.
    Role,
    /// There is nothing to route.
    OneNode,
    /// A session keeps its server.
    SessionMode,
    /// `consistency = "strict"`.
    Strict,
}

impl Undivided {
    /// For people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Role => "role = \"primary\": everything goes to the primary",
            Self::OneNode => "the cluster has one node only",
            Self::SessionMode => "pool mode \"session\": a session keeps one server, at the primary",
            Self::Strict => "consistency = \"strict\": everything goes to the primary",
        }
    }
}

impl Profile {
    /// Why nothing goes to a standby; `None` where reads do.
    #[must_use]
    pub fn undivided(&self) -> Option<Undivided> {
        match self.role {
            RoutingRole::Primary => Some(Undivided::Role),
            RoutingRole::Replica => None,
            RoutingRole::Auto if !self.has_standbys => Some(Undivided::OneNode),
            RoutingRole::Auto if self.mode == PoolMode::Session => Some(Undivided::SessionMode),
            RoutingRole::Auto if self.consistency == Consistency::Strict => Some(Undivided::Strict),
            RoutingRole::Auto => None,
        }
    }
}

/// [`Timeouts`] for one user in one database; `None` = off. Without the two that hold for the daemon as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is described where it is configured, in Timeouts")]
pub struct ProfileTimeouts {
    pub query_wait: Option<Duration>,
    pub query_wait_notify: Option<Duration>,
    pub query: Option<Duration>,
    pub read: Option<Duration>,
    pub write: Option<Duration>,
    pub transaction: Option<Duration>,
    pub idle_in_transaction: Option<Duration>,
    pub client_idle: Option<Duration>,
    pub server_connect: Option<Duration>,
    pub server_lifetime: Option<Duration>,
    pub server_idle: Option<Duration>,
    pub server_check_delay: Option<Duration>,
    pub cancel_wait: Option<Duration>,
}

impl From<&Timeouts> for ProfileTimeouts {
    fn from(timeouts: &Timeouts) -> Self {
        Self {
            query_wait: timeouts.query_wait.limit(),
            query_wait_notify: timeouts.query_wait_notify.limit(),
            query: timeouts.query.limit(),
            read: timeouts.read.limit(),
            write: timeouts.write.limit(),
            transaction: timeouts.transaction.limit(),
            idle_in_transaction: timeouts.idle_in_transaction.limit(),
            client_idle: timeouts.client_idle.limit(),
            server_connect: timeouts.server_connect.limit(),
            server_lifetime: timeouts.server_lifetime.limit(),
            server_idle: timeouts.server_idle.limit(),
            server_check_delay: timeouts.server_check_delay.limit(),
            cancel_wait: timeouts.cancel_wait.limit(),
        }
    }
}

impl Config {
    /// As whom a user's statements run on the servers of a database: the user, unless the database says another.
    #[must_use]
    pub fn server_user(&self, database: &str, user: &Arc<str>) -> Arc<str> {
        let entry = self.databases.get(database).or_else(|| self.databases.get(ANY_DATABASE));
        entry.and_then(|entry| entry.user.as_deref()).map_or_else(|| Arc::clone(user), Arc::from)
    }

    /// What holds for a user in a database; `None` when the file knows neither the database nor `"*"`.
    #[must_use]
    pub fn profile(&self, database: &str, user: &str) -> Option<Profile> {
        let entry = self.databases.get(database).or_else(|| self.databases.get(ANY_DATABASE))?;
        let user = self.users.get(user);
        let mut pool = self.pool.overlaid(&entry.pool);
        let mut timeouts = self.timeouts.overlaid(&entry.timeouts);
        let (database_server_max, database_client_max) = (pool.max_server_connections, pool.max_client_connections);
        if let Some(user) = user {
            pool = pool.overlaid(&user.pool);
            timeouts = timeouts.overlaid(&user.timeouts);
        }
        // A maximum counts over the table it is written in, so a user's stands beside the database's, not before it.
        let limit = |max: u32| (max > 0).then_some(max);
        let reserve_timeout = pool.reserve_timeout.limit();
        let cluster = self.clusters.get(&entry.cluster);
        Some(Profile {
            cluster: entry.cluster.as_str().into(),
            dbname: entry.dbname.clone().unwrap_or_else(|| database.to_owned()),
            mode: pool.mode,
            size: pool.size,
            min_size: pool.min_size,
            reserve_size: if reserve_timeout.is_some() { pool.reserve_size } else { 0 },
            reserve_timeout: reserve_timeout.unwrap_or_default(),
            waiting_max: pool.max_waiting,
            prepared_statements: pool.prepared_statements,
            pins: pool.pins,
            commit_outcome: pool.commit_outcome,
            replay_max: usize::try_from(pool.replay_buffer.bytes()).unwrap_or(usize::MAX),
            role: entry.role,
            consistency: cluster.map(|cluster| cluster.consistency).unwrap_or_default(),
            has_standbys: cluster.is_some_and(|cluster| cluster.nodes.len() > 1),
            timeouts: ProfileTimeouts::from(&timeouts),
            database_server_max: limit(database_server_max),
            user_server_max: limit(
                user.and_then(|user| user.pool.max_server_connections)
                    .unwrap_or(self.limits.max_user_server_connections),
            ),
            database_client_max: limit(database_client_max),
            user_client_max: limit(
                user.and_then(|user| user.pool.max_client_connections)
                    .unwrap_or(self.limits.max_user_client_connections),
            ),
        })
    }
}
