//! `[pool]`, and the same keys under a database and a user.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::ConfigDuration;
use super::overlay::settings_with_overlay;
use super::size::ByteSize;

/// When a server connection goes back to its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PoolMode {
    /// When the client disconnects.
    Session,
    /// When the transaction ends.
    Transaction,
    /// After every statement; transactions of several statements are refused.
    Statement,
}

/// Whether a server connection may be kept for one client because of state that cannot move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pins {
    /// Until the state is gone.
    Allow,
    /// Never: statements that would leave such state behind are refused.
    Forbid,
}

/// What the client of a COMMIT is told whose server went away before it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CommitOutcome {
    /// That nobody knows.
    Report,
    /// What became of it.
    Resolve,
}

settings_with_overlay! {
    /// How many server connections there are, and who may have one. A pool is one user in one database on one node.
    struct Pool;
    /// What differs from `[pool]` here.
    #[schemars(extend("x-overlay-of" = "pool"))]
    struct PoolOverlay;

    everywhere {
        /// When a server connection goes back to its pool: at the end of the session, of the transaction or of the
        /// statement. A client keeps the mode it came with. PgBouncer: `pool_mode`.
        #[schemars(extend("x-reload" = "live"))]
        mode: PoolMode = PoolMode::Transaction,

        /// Server connections howdah may open per node, database and user, counted over all workers. Clients beyond
        /// it wait for `timeouts.query_wait`. A replication connection takes one for as long as it lasts. It may be
        /// larger than `max_server_connections`, which then decides; all pools of a node together should stay below its
        /// `max_connections`. PgBouncer: `default_pool_size`.
        #[schemars(extend("x-reload" = "live", "x-unit" = "connections"), range(min = 1))]
        size: u32 = 20,

        /// Server connections that are opened ahead and kept, for as long as the user has clients in the database;
        /// `timeouts.server_idle` does not close them. More than `size` has no effect. PgBouncer: `min_pool_size`.
        #[schemars(extend("x-reload" = "live", "x-unit" = "connections"))]
        min_size: u32 = 0,

        /// Server connections beyond `size` while a client has waited for `reserve_timeout`. They are closed as soon as
        /// nobody waits. PgBouncer: `reserve_pool_size`.
        #[schemars(extend("x-reload" = "live", "x-unit" = "connections"))]
        reserve_size: u32 = 0,

        /// How long a client waits before the reserve is opened for it. "0" = there is no reserve. PgBouncer:
        /// `reserve_pool_timeout`.
        #[schemars(extend("x-reload" = "live"))]
        reserve_timeout: ConfigDuration = ConfigDuration::from_secs(5),

        /// Clients that may wait for a server connection of a pool at the same time; whom a connection that is being
        /// opened will serve is not counted. One more gets an error with SQLSTATE 53300 at once. 0 = any number may, for
        /// `timeouts.query_wait`. PgBouncer has no such limit.
        #[schemars(extend("x-reload" = "live", "x-unit" = "clients"))]
        max_waiting: u32 = 0,

        /// Server connections over all pools: under a database those of all its users, under a user those in
        /// all databases; in `[pool]` the default for every database (for every user: `limits.max_user_server_connections`). Both limits hold at once. Users, or databases, that want more
        /// than there is get equal shares and take turns with the rest. 0 = no limit.
        /// PgBouncer: `max_db_connections`, `max_user_connections`.
        #[schemars(extend("x-reload" = "live", "x-unit" = "connections"))]
        max_server_connections: u32 = 0,

        /// Client connections: under a database those of all its users, under a user those to all databases; in
        /// `[pool]` the default for every database (for every user: `limits.max_user_client_connections`). One more is refused
        /// with SQLSTATE 53300. 0 = no limit but `limits.max_client_connections`. PgBouncer: `max_db_client_connections`, `max_user_client_connections`.
        #[schemars(extend("x-reload" = "live", "x-unit" = "connections"))]
        max_client_connections: u32 = 0,

        /// Prepared statements kept per server connection, so that a client finds its own on whichever it gets; the
        /// least recently used goes first. 0 = off: in the modes transaction and statement a prepared statement is
        /// then lost with its connection. PgBouncer: `max_prepared_statements`.
        #[schemars(extend("x-reload" = "live", "x-unit" = "statements"))]
        prepared_statements: u32 = 200,

        /// Whether a server connection stays with its client, in the modes transaction and statement, while it holds
        /// state that cannot move to another: temporary tables, session advisory locks, `LISTEN`, cursors `WITH HOLD`,
        /// statements prepared in SQL, loaded libraries, and `currval` where it is used. With `"forbid"` statements that
        /// would leave such state behind are refused with SQLSTATE 0A000; what shows only once it has run, such as
        /// dynamic SQL in a function, still keeps its server.
        #[schemars(extend("x-reload" = "live"))]
        pins: Pins = Pins::Allow,

        /// How much of what a session has asked of a replica is kept until it is answered, so that it can be asked of another
        /// node when the replica goes away or refuses. A larger request is not asked again. "0" = none is.
        #[schemars(extend("x-reload" = "live"))]
        replay_buffer: ByteSize = ByteSize::from_kb(64),

        /// What the client of a COMMIT is told whose server goes away before it answers. `"report"`: that nobody knows, SQLSTATE
        /// 08007. `"resolve"`: what became of it. howdah asks the server for the transaction's id behind the first write of a block, 10 to
        /// 40 µs of its time, and the client waits, for `timeouts.query_wait` at most, until the next primary, or this one restarted,
        /// has told; what cannot be known is still 08007. For blocks in mode transaction; it takes a monitor, whose user should be a
        /// member of `pg_monitor`: docs/failover.md.
        #[schemars(extend("x-reload" = "live"))]
        commit_outcome: CommitOutcome = CommitOutcome::Report,
    }
    global {}
}
