//! Every key that PgBouncer knows, of any version up to 1.26, and what becomes of it.
//!
//! The tests walk these tables: a key that is carried over changes the file that is written, one that has no counterpart is named there
//! with its reason.

/// One key of PgBouncer's.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What PgBouncer takes where it is not written; empty for none.
    pub default: &'static str,
    /// What becomes of it.
    pub fate: Fate,
}

/// What becomes of a key.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    /// The keys of howdah.toml that say the same.
    To(&'static str),
    /// Nothing does, because of this.
    Nowhere(&'static str),
}

const fn to(name: &'static str, default: &'static str, key: &'static str) -> Key {
    Key { name, default, fate: Fate::To(key) }
}

const fn none(name: &'static str, default: &'static str, because: &'static str) -> Key {
    Key { name, default, fate: Fate::Nowhere(because) }
}

/// The key of this name.
#[must_use]
pub fn find(table: &'static [Key], name: &str) -> Option<&'static Key> {
    table.iter().find(|key| key.name == name)
}

const TLS: &str = "TLS 1.2 and 1.3 with the ciphers that rustls holds for safe are all there is";
const STDERR: &str = "howdah writes to standard error, which systemd keeps in the journal";
const BUFFERS: &str = "buffers take the size that is needed";

/// `[pgbouncer]`
pub const PGBOUNCER: &[Key] = &[
    to("admin_users", "", "admin.users"),
    none(
        "application_name_add_host",
        "0",
        "application_name is the client's own; where it comes from is in howdah's log and in SHOW CLIENTS",
    ),
    to("auth_dbname", "", "auth.dbname"),
    to("auth_file", "", "auth.users_file"),
    to("auth_hba_file", "", "auth.hba_file"),
    to("auth_ident_file", "", "auth.ident_file"),
    none("auth_ldap_options", "", "there is no LDAP"),
    to("auth_query", "", "auth.query"),
    to("auth_type", "md5", "auth.method"),
    to("auth_user", "", "clusters.NAME.monitor.user"),
    none("autodb_idle_timeout", "3600", "a pool that is empty is forgotten by itself"),
    to("cancel_wait_timeout", "10", "timeouts.cancel_wait"),
    to("client_idle_timeout", "0", "timeouts.client_idle"),
    to("client_login_timeout", "60", "timeouts.client_login"),
    none("client_tls13_ciphers", "", TLS),
    to("client_tls_ca_file", "", "listeners.tls.ca"),
    to("client_tls_cert_file", "", "listeners.tls.cert"),
    none("client_tls_ciphers", "default", TLS),
    none("client_tls_dheparams", "auto", TLS),
    none("client_tls_ecdhcurve", "auto", TLS),
    to("client_tls_key_file", "", "listeners.tls.key"),
    none("client_tls_protocols", "secure", TLS),
    to("client_tls_sslmode", "disable", "listeners.tls.mode"),
    none("conffile", "", "a reload reads the file that howdah was started with"),
    to("default_pool_size", "20", "pool.size"),
    none("disable_pqexec", "0", "simple queries of several statements are always served"),
    to("dns_max_ttl", "15", "network.dns_ttl"),
    to("dns_nxdomain_ttl", "15", "network.dns_negative_ttl"),
    none("dns_zone_check_period", "0", "names are looked up again when dns_ttl is over, whatever their zone says"),
    to("idle_transaction_timeout", "0", "timeouts.idle_in_transaction"),
    none(
        "ignore_startup_parameters",
        "",
        "no startup parameter is refused: each is set for its client, and reaches nobody else",
    ),
    none("job_name", "pgbouncer", "the name of the systemd unit tells processes apart"),
    to("listen_addr", "", "listeners.address"),
    none("listen_backlog", "128", "the queue is as long as the system allows"),
    to("listen_port", "6432", "listeners.address"),
    to("log_connections", "1", "log.connections"),
    to("log_disconnections", "1", "log.connections"),
    none("log_pooler_errors", "1", "what a client is refused with is always written while log.connections is on"),
    to("log_stats", "1", "stats.log"),
    none("logfile", "", STDERR),
    none("login_notify_message", "", "there is no notice at login"),
    to("max_client_conn", "100", "limits.max_client_connections"),
    to("max_db_client_connections", "0", "pool.max_client_connections"),
    to("max_db_connections", "0", "pool.max_server_connections"),
    none("max_packet_size", "2147483647", "packets are streamed, not collected"),
    to("max_prepared_statements", "200", "pool.prepared_statements"),
    to("max_user_client_connections", "0", "limits.max_user_client_connections"),
    to("max_user_connections", "0", "limits.max_user_server_connections"),
    to("min_pool_size", "0", "pool.min_size"),
    none("peer_id", "0", "one process uses as many cores as limits.workers says, and finds every cancel key itself"),
    none("pidfile", "", "systemd, or whoever starts howdah, knows its process"),
    none("pkt_buf", "4096", BUFFERS),
    none("pool_idle_timeout", "0", "a pool that is empty is forgotten by itself"),
    to("pool_mode", "session", "pool.mode"),
    to("query_timeout", "0", "timeouts.query"),
    to("query_wait_notify", "5", "timeouts.query_wait_notify"),
    to("query_wait_timeout", "120", "timeouts.query_wait"),
    to("reserve_pool_size", "0", "pool.reserve_size"),
    to("reserve_pool_timeout", "5", "pool.reserve_timeout"),
    none("resolv_conf", "", "names are looked up as the rest of the machine does"),
    none("sbuf_loopcnt", "5", BUFFERS),
    none(
        "scram_iterations",
        "4096",
        "a password from a file is checked with as many iterations as most of the cluster's users have",
    ),
    to("server_check_delay", "30", "timeouts.server_check_delay"),
    to("server_check_query", "<empty>", "timeouts.server_check_delay"),
    to("server_connect_timeout", "15", "timeouts.server_connect"),
    none("server_fast_close", "0", "a server in session mode is closed when its client leaves"),
    to("server_idle_timeout", "600", "timeouts.server_idle"),
    to("server_lifetime", "3600", "timeouts.server_lifetime"),
    none(
        "server_login_retry",
        "15",
        "howdah chooses itself when it dials again, and tells clients at once why a login fails",
    ),
    none(
        "server_reset_query",
        "DISCARD ALL",
        "howdah knows what a session has changed, and undoes that before the next one",
    ),
    none(
        "server_reset_query_always",
        "0",
        "settings follow their client in every mode, and what cannot keeps its server",
    ),
    none("server_round_robin", "0", "the connection that was used last is used first"),
    none("server_tls13_ciphers", "", TLS),
    to("server_tls_ca_file", "", "clusters.NAME.nodes.tls.ca"),
    to("server_tls_cert_file", "", "clusters.NAME.nodes.tls.cert"),
    none("server_tls_ciphers", "default", TLS),
    to("server_tls_key_file", "", "clusters.NAME.nodes.tls.key"),
    none("server_tls_protocols", "secure", TLS),
    to("server_tls_sslmode", "prefer", "clusters.NAME.nodes.tls.mode"),
    none("service_name", "pgbouncer", "the name of the systemd unit tells processes apart"),
    none("so_reuseport", "0", "one process uses as many cores as limits.workers says"),
    to("stats_period", "60", "stats.period"),
    to("stats_users", "", "admin.stats_users"),
    to("suspend_timeout", "10", "timeouts.suspend"),
    none("syslog", "0", STDERR),
    none("syslog_facility", "daemon", STDERR),
    none("syslog_ident", "pgbouncer", STDERR),
    none("tcp_defer_accept", "1", "a client that says nothing costs a place until timeouts.client_login is over"),
    to("tcp_keepalive", "1", "network.keepalive_idle"),
    to("tcp_keepcnt", "0", "network.keepalive_count"),
    to("tcp_keepidle", "0", "network.keepalive_idle"),
    to("tcp_keepintvl", "0", "network.keepalive_interval"),
    none("tcp_socket_buffer", "0", "the kernel sizes the buffers of sockets"),
    to("tcp_user_timeout", "0", "network.tcp_user_timeout"),
    none("track_extra_parameters", "IntervalStyle", "every setting follows its client"),
    to("transaction_timeout", "0", "timeouts.transaction"),
    to("unix_socket_dir", "/tmp", "listeners.address"),
    to("unix_socket_group", "", "listeners.socket_group"),
    to("unix_socket_mode", "0777", "listeners.socket_mode"),
    none("user", "", "the systemd unit says as whom howdah runs (User=)"),
    to("verbose", "0", "log.level"),
];

/// `[databases]`
pub const DATABASE: &[Key] = &[
    to("dbname", "", "databases.NAME.dbname"),
    to("host", "", "clusters.NAME.nodes.host"),
    to("port", "5432", "clusters.NAME.nodes.port"),
    to("user", "", "databases.NAME.user"),
    to("password", "", "databases.NAME.password"),
    to("auth_user", "", "clusters.NAME.monitor.user"),
    to("auth_dbname", "", "auth.dbname"),
    to("auth_query", "", "auth.query"),
    none("client_encoding", "", "clients say their own; ALTER DATABASE … SET says it for those that do not"),
    none("datestyle", "", "clients say their own; ALTER DATABASE … SET says it for those that do not"),
    none("timezone", "", "clients say their own; ALTER DATABASE … SET says it for those that do not"),
    none("application_name", "", "clients say their own; ALTER DATABASE … SET says it for those that do not"),
    to("pool_size", "", "databases.NAME.pool.size"),
    to("min_pool_size", "", "databases.NAME.pool.min_size"),
    to("reserve_pool_size", "", "databases.NAME.pool.reserve_size"),
    to("reserve_pool", "", "databases.NAME.pool.reserve_size"),
    to("query_wait_timeout", "", "databases.NAME.timeouts.query_wait"),
    to("max_db_connections", "", "databases.NAME.pool.max_server_connections"),
    to("max_db_client_connections", "", "databases.NAME.pool.max_client_connections"),
    to("server_lifetime", "", "databases.NAME.timeouts.server_lifetime"),
    none(
        "load_balance_hosts",
        "round-robin",
        "writes go to the primary and reads to the standbys (clusters.NAME.balance)",
    ),
    to("pool_mode", "", "databases.NAME.pool.mode"),
    none("connect_query", "", "ALTER DATABASE … SET or ALTER ROLE … SET does it for every connection"),
];

/// `[users]`
pub const USER: &[Key] = &[
    to("pool_mode", "", "users.NAME.pool.mode"),
    to("pool_size", "", "users.NAME.pool.size"),
    to("reserve_pool_size", "", "users.NAME.pool.reserve_size"),
    to("max_user_connections", "", "users.NAME.pool.max_server_connections"),
    to("max_user_client_connections", "", "users.NAME.pool.max_client_connections"),
    to("query_timeout", "", "users.NAME.timeouts.query"),
    to("query_wait_timeout", "", "users.NAME.timeouts.query_wait"),
    to("idle_transaction_timeout", "", "users.NAME.timeouts.idle_in_transaction"),
    to("transaction_timeout", "", "users.NAME.timeouts.transaction"),
    to("client_idle_timeout", "", "users.NAME.timeouts.client_idle"),
];

/// `[peers]`
pub const PEER: &[Key] = &[none("host", "", NO_PEERS), none("port", "6432", NO_PEERS), none("pool_size", "", NO_PEERS)];

/// Why there are no peers.
pub const NO_PEERS: &str = "one process uses as many cores as limits.workers says, and finds every cancel key itself";
