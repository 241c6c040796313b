//! `[network]`: TCP and name resolution.

use schemars::JsonSchema;
use serde::Deserialize;

use super::duration::ConfigDuration;

/// TCP and names, towards clients and servers alike. Connections that are open keep what they were opened with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// How long a connection may be quiet before the kernel asks whether the other side is still there, in whole
    /// seconds. "0" = it never asks. PostgreSQL: `tcp_keepalives_idle`; PgBouncer: `tcp_keepalive`, `tcp_keepidle`.
    #[schemars(extend("x-reload" = "live"))]
    pub keepalive_idle: ConfigDuration,

    /// How long it waits for an answer before it asks again, in whole seconds. "0" = as the system does. PostgreSQL:
    /// `tcp_keepalives_interval`; PgBouncer: `tcp_keepintvl`.
    #[schemars(extend("x-reload" = "live"))]
    pub keepalive_interval: ConfigDuration,

    /// Questions without an answer after which the connection is taken for dead: with the defaults a machine that has
    /// vanished is noticed within a minute. PostgreSQL: `tcp_keepalives_count`; PgBouncer: `tcp_keepcnt`.
    #[schemars(extend("x-reload" = "live", "x-unit" = "questions"), range(min = 1, max = 127))]
    pub keepalive_count: u32,

    /// How long bytes that were sent may stay unacknowledged before the connection is taken for dead. "0" = as the
    /// system does, about 15 minutes. It also ends connections whose other side is alive and does not read for so long:
    /// make it longer than any pause of a slow reader, and of a COPY that waits for a lock. PostgreSQL and PgBouncer:
    /// `tcp_user_timeout`.
    #[schemars(extend("x-reload" = "live"))]
    pub tcp_user_timeout: ConfigDuration,

    /// How long the addresses of a node's host name are used before the name is looked up again. While that fails, or
    /// takes long, the old ones are. "0" = looked up for each connection. PgBouncer: `dns_max_ttl`.
    #[schemars(extend("x-reload" = "live"))]
    pub dns_ttl: ConfigDuration,

    /// How long a name that has no address is not looked up again. PgBouncer: `dns_nxdomain_ttl`.
    #[schemars(extend("x-reload" = "live"))]
    pub dns_negative_ttl: ConfigDuration,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            keepalive_idle: ConfigDuration::from_secs(30),
            keepalive_interval: ConfigDuration::from_secs(10),
            keepalive_count: 3,
            tcp_user_timeout: ConfigDuration::OFF,
            dns_ttl: ConfigDuration::from_secs(15),
            dns_negative_ttl: ConfigDuration::from_secs(5),
        }
    }
}
