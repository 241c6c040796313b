//! `SHOW POOLS`, `SHOW DATABASES` and `SHOW USERS`, as PgBouncer has them: a pool is a database and a user, over all nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::super::answer::Kind::{Int4, Text};
use super::super::answer::{Cell, Row};
use super::super::seat::PGBOUNCER;
use super::scene::Scene;
use super::{Look, View};
use crate::config::{ANY_DATABASE, Address, Config, PoolMode, SOCKET_PORT};

/// SHOW POOLS.
pub const POOLS: View = View {
    name: "pools",
    columns: &[
        ("database", Text),
        ("user", Text),
        ("cl_active", Int4),
        ("cl_waiting", Int4),
        ("cl_active_cancel_req", Int4),
        ("cl_waiting_cancel_req", Int4),
        ("sv_active", Int4),
        ("sv_active_cancel", Int4),
        ("sv_being_canceled", Int4),
        ("sv_idle", Int4),
        ("sv_used", Int4),
        ("sv_tested", Int4),
        ("sv_login", Int4),
        ("maxwait", Int4),
        ("maxwait_us", Int4),
        ("pool_mode", Text),
        ("load_balance_hosts", Text),
    ],
    rows: pools,
};

fn pools(look: &Look) -> Vec<Row> {
    let scene = Scene::now(look);
    let line = |database: &str, user: &str, numbers: [u32; 11], maxwait_us: u64, mode: Cell| -> Row {
        let mut row: Row = vec![database.into(), user.into()];
        row.extend(numbers.map(Cell::from));
        row.extend([Cell::from(maxwait_us / 1_000_000), Cell::from(maxwait_us % 1_000_000), mode, Cell::Null]);
        row
    };
    let mut rows: Vec<Row> = Vec::new();
    for ((database, user), sums) in scene.sums() {
        let mode = look.running.config.profile(&database, &user).map(|profile| mode_word(profile.mode));
        let numbers = [
            sums.clients,
            sums.waiting,
            sums.cancels,
            0,
            sums.active,
            sums.cancels,
            sums.being_canceled,
            sums.idle,
            sums.used,
            sums.tested,
            sums.login,
        ];
        rows.push(line(&database, &user, numbers, sums.maxwait_us, mode.into()));
    }
    let consoles = u32::try_from(scene.consoles()).unwrap_or(u32::MAX);
    rows.push(line(PGBOUNCER, PGBOUNCER, [consoles, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0, "statement".into()));
    rows
}

/// As it is written in the file, which is PgBouncer's word too.
pub(super) const fn mode_word(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
        PoolMode::Statement => "statement",
    }
}

/// SHOW DATABASES.
pub const DATABASES: View = View {
    name: "databases",
    columns: &[
        ("name", Text),
        ("host", Text),
        ("port", Int4),
        ("database", Text),
        ("force_user", Text),
        ("pool_size", Int4),
        ("min_pool_size", Int4),
        ("reserve_pool_size", Int4),
        ("server_lifetime", Int4),
        ("pool_mode", Text),
        ("load_balance_hosts", Text),
        ("max_connections", Int4),
        ("current_connections", Int4),
        ("max_client_connections", Int4),
        ("current_client_connections", Int4),
        ("paused", Int4),
        ("disabled", Int4),
    ],
    rows: databases,
};

/// The databases of the file, but for `*`, and those that somebody uses by it.
pub(super) fn database_names(config: &Config, scene: &Scene) -> BTreeSet<Arc<str>> {
    let named = config.databases.keys().filter(|name| *name != ANY_DATABASE).map(|name| Arc::from(name.as_str()));
    let used = scene.pools.iter().map(|(pool, _)| Arc::clone(&pool.key.database));
    let wanted = scene.clients.iter().filter(|(client, _)| !client.is_caller);
    named.chain(used).chain(wanted.map(|(client, _)| Arc::clone(&client.database))).collect()
}

/// The port that clients connect to: the first listener's that has one.
pub(super) fn listen_port(config: &Config) -> u16 {
    let port = config.listeners.iter().find_map(|listener| match &listener.address {
        Address::Tcp { port, .. } => Some(*port),
        Address::Unix { .. } | Address::Systemd(_) => None,
    });
    port.unwrap_or(SOCKET_PORT)
}

fn databases(look: &Look) -> Vec<Row> {
    let (scene, config) = (Scene::now(look), &look.running.config);
    let mut clients = BTreeMap::<&str, u32>::new();
    for (client, _) in scene.clients.iter().filter(|(client, _)| !client.is_caller) {
        *clients.entry(&client.database).or_default() += 1;
    }
    let mut servers = BTreeMap::<&str, u32>::new();
    for (pool, look) in &scene.pools {
        *servers.entry(&pool.key.database).or_default() += look.counts.open;
    }
    let topology = look.shared.board.read();
    let ordered = look.shared.orders.standing();
    let mut rows: Vec<Row> = Vec::new();
    for name in database_names(config, &scene) {
        // of no user in particular: there is none whose name is empty
        let Some(profile) = config.profile(&name, "") else { continue };
        let cluster = config.clusters.get(&*profile.cluster);
        let primary = topology.clusters.get(&profile.cluster).and_then(|view| view.primary.clone());
        let node = cluster.and_then(|cluster| {
            let primary = cluster.nodes.iter().find(|node| Some(node.name.as_str()) == primary.as_deref());
            primary.or_else(|| cluster.nodes.first())
        });
        let entry = config.databases.get(&*name).or_else(|| config.databases.get(ANY_DATABASE));
        let mode = entry.and_then(|entry| entry.pool.mode).map(mode_word);
        let count = |counts: &BTreeMap<&str, u32>| Cell::from(counts.get(&*name).copied().unwrap_or_default());
        rows.push(vec![
            (&*name).into(),
            node.map(|node| node.host.to_string()).into(),
            Cell::from(node.map_or(0, |node| u32::from(node.port))),
            profile.dbname.as_str().into(),
            Cell::Null,
            profile.size.into(),
            profile.min_size.into(),
            profile.reserve_size.into(),
            seconds(profile.timeouts.server_lifetime),
            mode.into(),
            Cell::Null,
            profile.database_server_max.unwrap_or_default().into(),
            count(&servers),
            profile.database_client_max.unwrap_or_default().into(),
            count(&clients),
            ordered.paused.contains(&name).into(),
            ordered.disabled.contains(&name).into(),
        ]);
    }
    rows.push(vec![
        PGBOUNCER.into(),
        Cell::Null,
        u32::from(listen_port(config)).into(),
        PGBOUNCER.into(),
        PGBOUNCER.into(),
        2_u32.into(),
        0_u32.into(),
        0_u32.into(),
        seconds(config.timeouts.server_lifetime.limit()),
        "statement".into(),
        Cell::Null,
        0_u32.into(),
        0_u32.into(),
        0_u32.into(),
        scene.consoles().into(),
        false.into(),
        false.into(),
    ]);
    rows
}

pub(super) fn seconds(limit: Option<Duration>) -> Cell {
    Cell::from(limit.map_or(0, |limit| limit.as_secs()))
}

/// SHOW USERS.
pub const USERS: View = View {
    name: "users",
    columns: &[
        ("name", Text),
        ("pool_size", Text),
        ("reserve_pool_size", Text),
        ("pool_mode", Text),
        ("max_user_connections", Int4),
        ("current_connections", Int4),
        ("max_user_client_connections", Int4),
        ("current_client_connections", Int4),
    ],
    rows: users,
};

/// The users of the file, and those that are connected or have pools.
pub(super) fn user_names(config: &Config, scene: &Scene) -> BTreeSet<Arc<str>> {
    let configured = config.users.keys().map(|name| Arc::from(name.as_str()));
    let connected = scene.clients.iter().map(|(client, _)| Arc::clone(&client.user));
    configured.chain(connected).chain(scene.pools.iter().map(|(pool, _)| Arc::clone(&pool.key.user))).collect()
}

fn users(look: &Look) -> Vec<Row> {
    let (scene, config) = (Scene::now(look), &look.running.config);
    let mut clients = BTreeMap::<&str, u32>::new();
    for (client, _) in &scene.clients {
        *clients.entry(&client.user).or_default() += 1;
    }
    let mut servers = BTreeMap::<&str, u32>::new();
    for (pool, look) in &scene.pools {
        *servers.entry(&pool.key.user).or_default() += look.counts.open;
    }
    let line = |name: &str| -> Row {
        let pool = config.users.get(name).map(|user| &user.pool);
        let size = |size: Option<u32>| Cell::from(size.map_or_else(String::new, |size| format!("{size:>9}")));
        let count = |counts: &BTreeMap<&str, u32>| Cell::from(counts.get(name).copied().unwrap_or_default());
        vec![
            name.into(),
            size(pool.and_then(|pool| pool.size)),
            size(pool.and_then(|pool| pool.reserve_size)),
            pool.and_then(|pool| pool.mode).map(mode_word).into(),
            pool.and_then(|pool| pool.max_server_connections).unwrap_or_default().into(),
            count(&servers),
            pool.and_then(|pool| pool.max_client_connections).unwrap_or_default().into(),
            count(&clients),
        ]
    };
    let mut names = user_names(config, &scene);
    names.insert(PGBOUNCER.into());
    names.iter().map(|name| line(name)).collect()
}
