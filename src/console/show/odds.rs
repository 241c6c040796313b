//! What is small: VERSION, STATE, LISTS, MEM, DNS_HOSTS, and what howdah has nothing of: peers, DNS zones, descriptors to hand over.

use std::net::SocketAddr;

use super::super::answer::Kind::{Bytea, Int4, Int8, Text};
use super::super::answer::Row;
use super::super::seat::PGBOUNCER_VERSION;
use super::pools::{database_names, user_names};
use super::scene::Scene;
use super::{Look, View};
use crate::net::dial::names::KnownName;
use crate::proxy::orders::Mode;
use crate::proxy::server::Server;
use crate::proxy::session::Session;

/// SHOW VERSION: the release whose console this is, where monitors look for it, and then what it really is.
pub const VERSION: View = View { name: "version", columns: &[("version", Text)], rows: version };

fn version(_: &Look) -> Vec<Row> {
    vec![vec![format!("PgBouncer {PGBOUNCER_VERSION} (howdah {})", env!("CARGO_PKG_VERSION")).into()]]
}

/// SHOW STATE.
pub const STATE: View = View { name: "state", columns: &[("key", Text), ("value", Text)], rows: state };

fn state(look: &Look) -> Vec<Row> {
    let line = |key: &str, yes: bool| vec![key.into(), if yes { "yes" } else { "no" }.into()];
    let all = look.shared.orders.standing().all;
    let is = |mode: Mode| all == Some(mode);
    vec![line("active", all.is_none()), line("paused", is(Mode::Paused)), line("suspended", is(Mode::Suspended))]
}

fn nothing(_: &Look) -> Vec<Row> {
    Vec::new()
}

/// SHOW PEERS: howdah's daemons find the owner of a cancel key otherwise.
pub const PEERS: View = View {
    name: "peers",
    columns: &[("peer_id", Int4), ("host", Text), ("port", Int4), ("pool_size", Int4)],
    rows: nothing,
};

/// SHOW PEER_POOLS.
pub const PEER_POOLS: View = View {
    name: "peer_pools",
    columns: &[
        ("peer_id", Int4),
        ("cl_active_cancel_req", Int4),
        ("cl_waiting_cancel_req", Int4),
        ("sv_active_cancel", Int4),
        ("sv_login", Int4),
    ],
    rows: nothing,
};

/// SHOW FDS: howdah does not hand its sockets to a successor, so there are none to show.
pub const FDS: View = View {
    name: "fds",
    columns: &[
        ("fd", Int4),
        ("task", Text),
        ("user", Text),
        ("database", Text),
        ("addr", Text),
        ("port", Int4),
        ("cancel", Int8),
        ("link", Int4),
        ("client_encoding", Text),
        ("std_strings", Text),
        ("datestyle", Text),
        ("timezone", Text),
        ("password", Text),
        ("scram_client_key", Bytea),
        ("scram_server_key", Bytea),
    ],
    rows: nothing,
};

/// SHOW LISTS.
pub const LISTS: View = View { name: "lists", columns: &[("list", Text), ("items", Int4)], rows: lists };

fn lists(look: &Look) -> Vec<Row> {
    let (scene, config) = (Scene::now(look), &look.running.config);
    let used = scene.clients.len();
    let all = usize::try_from(look.shared.census.clients()).unwrap_or(usize::MAX);
    let most = usize::try_from(config.limits.max_client_connections).unwrap_or(usize::MAX);
    let names = names(look);
    let asked = names.iter().filter(|name| name.is_asked).count();
    let lists = [
        ("databases", database_names(config, &scene).len() + 1),
        ("users", user_names(config, &scene).len()),
        ("peers", 0),
        ("pools", scene.sums().len() + 1),
        ("peer_pools", 0),
        ("free_clients", most.saturating_sub(all)),
        ("used_clients", used),
        ("login_clients", all.saturating_sub(used)),
        ("free_servers", 0),
        ("used_servers", scene.servers.len()),
        ("dns_names", names.len()),
        ("dns_zones", 0),
        ("dns_queries", asked),
        ("dns_pending", 0),
    ];
    lists.into_iter().map(|(list, items)| vec![list.into(), items.into()]).collect()
}

/// SHOW MEM: what there is one of per client and server; memory that belongs to threads is not told apart.
pub const MEM: View = View {
    name: "mem",
    columns: &[("name", Text), ("size", Int4), ("used", Int4), ("free", Int4), ("memtotal", Int4)],
    rows: mem,
};

fn mem(look: &Look) -> Vec<Row> {
    let scene = Scene::now(look);
    let caches = [
        ("server_cache", size_of::<Server>(), scene.servers.len()),
        ("client_cache", size_of::<Session>(), scene.clients.len()),
        ("pool_cache", size_of::<crate::proxy::pool::Pool>(), scene.pools.len()),
    ];
    let line = |(name, size, used): (&str, usize, usize)| {
        vec![name.into(), size.into(), used.into(), 0_u32.into(), (size * used).into()]
    };
    caches.into_iter().map(line).collect()
}

/// SHOW DNS_HOSTS: the names of nodes that have been looked up.
pub const DNS_HOSTS: View =
    View { name: "dns_hosts", columns: &[("hostname", Text), ("ttl", Int8), ("addrs", Text)], rows: dns_hosts };

/// All nodes are reached by one dialer.
fn names(look: &Look) -> Vec<KnownName> {
    look.running.endpoints.values().next().map(|endpoint| endpoint.way.dialer.names()).unwrap_or_default()
}

fn dns_hosts(look: &Look) -> Vec<Row> {
    let line = |known: KnownName| {
        // PgBouncer prints the port too, which it does not ask for
        let addresses = known.addresses.iter().map(|ip| SocketAddr::new(*ip, 0).to_string());
        vec![known.name.into(), known.fresh_s.into(), addresses.collect::<Vec<_>>().join(",").into()]
    };
    names(look).into_iter().map(line).collect()
}

/// SHOW DNS_ZONES: howdah looks at no zones.
pub const DNS_ZONES: View =
    View { name: "dns_zones", columns: &[("zonename", Text), ("serial", Int8), ("count", Int4)], rows: nothing };
