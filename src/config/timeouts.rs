//! `[timeouts]`, and the same keys under a database and a user.

use super::duration::ConfigDuration;
use super::overlay::settings_with_overlay;

settings_with_overlay! {
    /// How long things may take. `"0"` switches a limit off. Units: us, ms, s, min, h, d, as in `postgresql.conf`.
    struct Timeouts;
    /// What differs from `[timeouts]` here.
    #[schemars(extend("x-overlay-of" = "timeouts"))]
    struct TimeoutsOverlay;

    everywhere {
        /// How long a client waits for a server connection. PgBouncer: `query_wait_timeout`.
        #[schemars(extend("x-reload" = "live"))]
        query_wait: ConfigDuration = ConfigDuration::from_secs(120),

        /// How long a client waits for a server connection before it is told so with a NOTICE, once per wait. PgBouncer:
        /// `query_wait_notify`.
        #[schemars(extend("x-reload" = "live"))]
        query_wait_notify: ConfigDuration = ConfigDuration::from_secs(5),

        /// How long a query may run; then it is cancelled. PostgreSQL's `statement_timeout` is
        /// better where it can be set; this one also ends a query whose server does not answer any more.
        /// PgBouncer: `query_timeout`.
        #[schemars(extend("x-reload" = "live"))]
        query: ConfigDuration = ConfigDuration::OFF,

        /// How long a client may stall in the middle of a message that is too large to be held back, and so keeps a
        /// server connection busy.
        #[schemars(extend("x-reload" = "live"))]
        read: ConfigDuration = ConfigDuration::from_secs(60),

        /// How long a client may leave its results untaken while a server connection waits to send them.
        #[schemars(extend("x-reload" = "live"))]
        write: ConfigDuration = ConfigDuration::OFF,

        /// How long a transaction may last from its first statement to its end. PostgreSQL 17: `transaction_timeout`;
        /// PgBouncer: `transaction_timeout`.
        #[schemars(extend("x-reload" = "live"))]
        transaction: ConfigDuration = ConfigDuration::OFF,

        /// How long a client may do nothing inside a transaction. PostgreSQL: `idle_in_transaction_session_timeout`;
        /// PgBouncer: `idle_transaction_timeout`.
        #[schemars(extend("x-reload" = "live"))]
        idle_in_transaction: ConfigDuration = ConfigDuration::OFF,

        /// How long a client may do nothing outside a transaction. PostgreSQL: `idle_session_timeout`; PgBouncer:
        /// `client_idle_timeout`.
        #[schemars(extend("x-reload" = "live"))]
        client_idle: ConfigDuration = ConfigDuration::OFF,

        /// How long connecting and logging in to a server may take. PgBouncer: `server_connect_timeout`.
        #[schemars(extend("x-reload" = "live"))]
        server_connect: ConfigDuration = ConfigDuration::from_secs(15),

        /// The age at which an idle server connection is closed instead of lent again. PgBouncer: `server_lifetime`.
        #[schemars(extend("x-reload" = "live"))]
        server_lifetime: ConfigDuration = ConfigDuration::from_secs(3600),

        /// How long a server connection may stay unused in its pool. PgBouncer: `server_idle_timeout`.
        #[schemars(extend("x-reload" = "live"))]
        server_idle: ConfigDuration = ConfigDuration::from_secs(600),

        /// A server connection that was unused for longer than this is asked for a sign of life before it is lent.
        /// "0" = never asked. PgBouncer: `server_check_delay`.
        #[schemars(extend("x-reload" = "live"))]
        server_check_delay: ConfigDuration = ConfigDuration::from_secs(30),

        /// How long a cancel request may wait for a connection to its server. PgBouncer: `cancel_wait_timeout`.
        #[schemars(extend("x-reload" = "live"))]
        cancel_wait: ConfigDuration = ConfigDuration::from_secs(10),
    }
    global {
        /// How long a client may take from connecting to being logged in. Only here: who the client is, and for which
        /// database, is not known before. PgBouncer: `client_login_timeout`.
        #[schemars(extend("x-reload" = "live"))]
        client_login: ConfigDuration = ConfigDuration::from_secs(60),

        /// How long running transactions may go on after a request to stop; then their clients are disconnected.
        /// "0" = as long as they like. Only here: the daemon stops as a whole.
        #[schemars(extend("x-reload" = "live"))]
        shutdown: ConfigDuration = ConfigDuration::from_secs(30),

        /// How long `SUSPEND` waits for a client that is in the middle of a message; then it is disconnected. "0" = as long
        /// as it takes. PgBouncer: `suspend_timeout`.
        #[schemars(extend("x-reload" = "live"))]
        suspend: ConfigDuration = ConfigDuration::from_secs(10),
    }
}
