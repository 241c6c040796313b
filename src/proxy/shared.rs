//! What all workers share: the running configuration, the pools, who is connected, and what cancels look up.
//!
//! A worker that is busy with its own clients touches of this only the pool it borrows from; everything else is for
//! logins, cancels and reloads.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::cancel::Cancels;
use super::census::Census;
use super::door::Door;
use super::entrance::Entrance;
use super::incidents::Incidents;
use super::newcomers::Newcomers;
use super::orders::Orders;
use super::pool::budget::{Budget, Budgets};
use super::pool::gate::Hold;
use super::pool::{Pool, PoolKey, PoolSettings};
use super::roster::Roster;
use super::route::counters::Counters;
use super::route::lens::Lists;
use super::route::standbys::Standbys;
use super::route::token::is_fit;
use super::secrets::{FileUsers, Secrets};
use super::server::Endpoint;
use super::session::settings::{Interner, Reported, Settings};
use super::statements::Registry;
use super::tally::Tallies;
use crate::catalog::{HiddenCatalog, Verifiers};
use crate::config::{Config, NodeTls, Problems, Profile, RoutingRole, TlsMode, TlsNegotiation, toml_key};
use crate::net::dial::{Dialer, Target};
use crate::net::tls::client_config;
use crate::net::way::Way;
use crate::stats::Totals;
use crate::topology::{Board, ClusterView, Epoch, NodeName, Role};

/// The configuration in force, and what was made of it once.
#[derive(Debug)]
pub struct Running {
    /// The file.
    pub config: Config,
    /// By cluster and node.
    pub endpoints: HashMap<(Arc<str>, Arc<str>), Arc<Endpoint>>,
    /// What each listener means, in the file's order.
    pub entrances: Vec<Arc<Entrance>>,
    /// Users whose secret is in a file.
    pub file_users: FileUsers,
    /// What logs in to servers where a database has one user for all its clients.
    pub forced_users: FileUsers,
    /// Functions the operator has put on a list.
    pub lists: Arc<Lists>,
}

impl Running {
    /// Makes what the configuration needs made: certificates are read here.
    ///
    /// # Errors
    /// Every certificate that cannot be used.
    pub fn new(config: Config, dialer: &Arc<Dialer>) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let mut endpoints = HashMap::new();
        for (cluster, entry) in &config.clusters {
            for node in &entry.nodes {
                let tls = match &node.tls {
                    Some(tls) => {
                        let NodeTls { mode, negotiation, ca, cert, key, channel_binding: _ } = tls;
                        client_config(*mode, *negotiation, ca.as_deref(), cert.as_deref(), key.as_deref())
                    }
                    None => client_config(TlsMode::Prefer, TlsNegotiation::Postgres, None, None, None),
                };
                let tls = tls.unwrap_or_else(|error| {
                    let key = format!("clusters.{}.nodes[{}].tls", toml_key(cluster), node.name);
                    problems.push(config.written.problem(&key, error.to_string(), ""));
                    None
                });
                let target = Target { host: node.host.clone(), port: node.port };
                let channel_binding = node.tls.as_ref().map(|tls| tls.channel_binding).unwrap_or_default();
                let way = Arc::new(Way { target, tls, channel_binding, dialer: Arc::clone(dialer) });
                let endpoint = Endpoint::new(node.name.as_str().into(), way);
                endpoints.insert((cluster.as_str().into(), node.name.as_str().into()), Arc::new(endpoint));
            }
        }
        let mut entrances = Vec::new();
        for listener in &config.listeners {
            match Entrance::new(listener) {
                Ok(entrance) => entrances.push(Arc::new(entrance)),
                Err(error) => {
                    let key = format!("listeners[{}].tls", listener.address);
                    problems.push(config.written.problem(&key, error.to_string(), ""));
                }
            }
        }
        Problems::none_or_all(problems)?;
        Ok(Self {
            file_users: FileUsers::of(&config),
            forced_users: FileUsers::forced(&config),
            lists: Arc::new(Lists::of(&config.routing)),
            endpoints,
            entrances,
            config,
        })
    }

    /// How a node is reached.
    #[must_use]
    pub fn way(&self, cluster: &str, node: &str) -> Option<Arc<Way>> {
        self.endpoints.get(&(cluster.into(), node.into())).map(|endpoint| Arc::clone(&endpoint.way))
    }
}

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    running: ArcSwap<Running>,
    generation: AtomicU64,
    /// Who is primary.
    pub board: Arc<Board>,
    /// What the clusters say of passwords.
    pub catalog: Arc<Verifiers>,
    /// What hides in their databases.
    pub hidden: Arc<HiddenCatalog>,
    /// All pools.
    pub pools: Pools,
    /// What the operator has ordered.
    pub orders: Orders,
    /// By cluster: what its sessions share about its standbys.
    standbys: Mutex<BTreeMap<Arc<str>, Arc<Standbys>>>,
    /// How many requests went where: by worker.
    pub counters: Vec<Counters>,
    /// What is counted beside the pools.
    pub tallies: Tallies,
    /// Who is connected, counted.
    pub census: Census,
    /// The same by name, and all server connections.
    pub roster: Roster,
    /// Who is logging in.
    pub newcomers: Newcomers,
    /// What happens seldom.
    pub incidents: Incidents,
    /// What cancels look up.
    pub cancels: Cancels,
    /// All statements.
    pub statements: Registry,
    /// All clients' settings.
    pub settings: Interner<Settings>,
    /// All that servers report.
    pub reported: Interner<Reported>,
    /// Nothing set.
    pub neutral: Arc<Settings>,
    /// Who has proven what.
    pub secrets: Secrets,
    /// What is beside the data path.
    pub door: OnceLock<Arc<dyn Door>>,
    started: Instant,
    last_client: AtomicU64,
    panics: AtomicU64,
    /// How many workers there are.
    pub workers: usize,
}

impl Shared {
    /// Everything empty.
    #[must_use]
    pub fn new(
        running: Running,
        board: Arc<Board>,
        catalog: Arc<Verifiers>,
        hidden: Arc<HiddenCatalog>,
        workers: usize,
    ) -> Self {
        let settings = Interner::default();
        Self {
            running: ArcSwap::from_pointee(running),
            generation: AtomicU64::new(1),
            board,
            catalog,
            hidden,
            pools: Pools::new(workers),
            orders: Orders::default(),
            standbys: Mutex::default(),
            counters: (0..workers).map(|_| Counters::default()).collect(),
            tallies: Tallies::new(workers),
            census: Census::default(),
            roster: Roster::default(),
            newcomers: Newcomers::default(),
            incidents: Incidents::default(),
            cancels: Cancels::default(),
            statements: Registry::default(),
            neutral: settings.intern(Settings::default()),
            settings,
            reported: Interner::default(),
            secrets: Secrets::default(),
            door: OnceLock::new(),
            started: Instant::now(),
            last_client: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            workers,
        }
    }

    /// The configuration in force.
    #[must_use]
    pub fn running(&self) -> Arc<Running> {
        self.running.load_full()
    }

    /// Grows with every reload.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Puts another configuration in force: pools follow at once, sessions at their next request.
    pub fn reload(&self, running: Running) {
        self.running.store(Arc::new(running));
        let running = self.running.load();
        self.pools.reload(&running, &self.hidden);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Microseconds since the start.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Milliseconds since the start.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_us() / 1_000
    }

    /// A number no other client has.
    #[must_use]
    pub fn next_client(&self) -> u64 {
        self.last_client.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Sessions that have panicked.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Counts one; see [`Self::panics`].
    pub fn count_panic(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// The pool of the primary, or why there is none.
    ///
    /// # Errors
    /// For people: which cluster has no primary.
    pub fn route(&self, profile: &Profile, database: &Arc<str>, user: &Arc<str>) -> Result<Arc<Pool>, String> {
        let board = self.standbys(&profile.cluster);
        let primary = board.board.view().primary.clone();
        primary
            .and_then(|node| self.pool_at(&node, profile, database, user))
            .ok_or_else(|| format!("cluster \"{}\" has no primary", profile.cluster))
    }

    /// The pool whose servers tell what a client is greeted with: the primary's, but a standby's for who reads from those
    /// alone, or while there is no primary.
    ///
    /// # Errors
    /// For people: what is missing.
    pub fn greeter(&self, profile: &Profile, database: &Arc<str>, user: &Arc<str>) -> Result<Arc<Pool>, String> {
        let primary = self.route(profile, database, user);
        if !profile.has_standbys || primary.is_ok() && profile.role != RoutingRole::Replica {
            return primary;
        }
        let standbys = self.standbys(&profile.cluster);
        let view = standbys.board.view();
        let fit = || view.nodes.iter().filter(|node| is_fit(node, &view));
        let turn = usize::try_from(standbys.next_turn()).unwrap_or(0).checked_rem(fit().count()).unwrap_or(0);
        let standby = fit().nth(turn).and_then(|node| self.pool_at(&node.name, profile, database, user));
        match standby {
            Some(pool) => Ok(pool),
            None if profile.role == RoutingRole::Replica => {
                Err(format!("cluster \"{}\" has no replica", profile.cluster))
            }
            None => primary,
        }
    }

    /// The pool at a node; `None` when the configuration does not know it.
    #[must_use]
    pub fn pool_at(
        &self,
        node: &NodeName,
        profile: &Profile,
        database: &Arc<str>,
        user: &Arc<str>,
    ) -> Option<Arc<Pool>> {
        let running = self.running.load();
        let endpoint = running.endpoints.get(&(Arc::clone(&profile.cluster), Arc::clone(node)))?;
        let key = PoolKey {
            cluster: Arc::clone(&profile.cluster),
            node: Arc::clone(node),
            database: Arc::clone(database),
            user: Arc::clone(user),
        };
        Some(self.pools.pool(key, profile, endpoint))
    }

    /// What the sessions of a cluster share about its standbys.
    #[must_use]
    pub fn standbys(&self, cluster: &Arc<str>) -> Arc<Standbys> {
        let mut all = self.standbys.lock();
        let known = all.entry(Arc::clone(cluster));
        Arc::clone(known.or_insert_with(|| Arc::new(Standbys::new(self.board.cluster(cluster)))))
    }

    /// Takes pools out of use that no session would be sent to now, and forgets those that are empty.
    pub fn tidy_pools(&self) {
        let (topology, running) = (self.board.read(), self.running.load());
        self.pools.tidy(|key| {
            topology.clusters.get(&key.cluster).is_some_and(|view| is_used(view, &key.node))
                && running.endpoints.contains_key(&(Arc::clone(&key.cluster), Arc::clone(&key.node)))
                && running
                    .config
                    .profile(&key.database, &key.user)
                    .is_some_and(|profile| profile.cluster == key.cluster)
        });
    }
}

/// Whether sessions may be sent to a node: it is the primary, or a standby that answers.
fn is_used(view: &ClusterView, node: &NodeName) -> bool {
    let answers = || view.node(node).is_some_and(|node| node.healthy && node.role == Some(Role::Standby));
    view.primary.as_ref() == Some(node) || answers()
}

/// The pools at a node.
fn at<'a>(
    by_key: &'a HashMap<PoolKey, Arc<Pool>>,
    cluster: &'a Arc<str>,
    node: &'a NodeName,
) -> impl Iterator<Item = &'a Arc<Pool>> {
    by_key.iter().filter(|(key, _)| key.cluster == *cluster && key.node == *node).map(|(_, pool)| pool)
}

/// What the operator has paused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paused {
    /// Everything.
    pub all: bool,
    /// These databases.
    pub databases: BTreeSet<Arc<str>>,
}

impl Paused {
    fn has(&self, database: &Arc<str>) -> bool {
        self.all || self.databases.contains(database)
    }
}

/// All pools, and the limits above them.
#[derive(Debug)]
pub struct Pools {
    workers: AtomicUsize,
    by_key: Mutex<HashMap<PoolKey, Arc<Pool>>>,
    /// By cluster: the node where nothing begins now. Changed under the lock of `by_key`, so that no pool comes into being
    /// beside it.
    held: Mutex<BTreeMap<Arc<str>, NodeName>>,
    /// What pools have counted that are gone, by database. Changed under the lock of `by_key`, so that nothing counts twice.
    departed: Mutex<BTreeMap<Arc<str>, Totals>>,
    /// What the operator has paused; likewise.
    paused: Mutex<Paused>,
    databases: Mutex<BTreeMap<Arc<str>, Arc<Budget>>>,
    users: Mutex<BTreeMap<Arc<str>, Arc<Budget>>>,
}

impl Pools {
    fn new(workers: usize) -> Self {
        Self {
            workers: AtomicUsize::new(workers),
            by_key: Mutex::default(),
            held: Mutex::default(),
            departed: Mutex::default(),
            paused: Mutex::default(),
            databases: Mutex::default(),
            users: Mutex::default(),
        }
    }

    /// The pool for `key`, made if it is the first time.
    fn pool(&self, key: PoolKey, profile: &Profile, endpoint: &Arc<Endpoint>) -> Arc<Pool> {
        let mut by_key = self.by_key.lock();
        if let Some(pool) = by_key.get(&key) {
            pool.set_retired(false);
            return Arc::clone(pool);
        }
        let budget = |all: &Mutex<BTreeMap<Arc<str>, Arc<Budget>>>, name: &Arc<str>, max| {
            let mut all = all.lock();
            Arc::clone(all.entry(Arc::clone(name)).or_insert_with(|| Arc::new(Budget::new(max))))
        };
        let budgets = Budgets {
            database: budget(&self.databases, &key.database, profile.database_server_max),
            user: budget(&self.users, &key.user, profile.user_server_max),
        };
        let workers = self.workers.load(Ordering::Relaxed);
        let pool = Pool::new(key.clone(), PoolSettings::from(profile), Arc::clone(endpoint), budgets, workers);
        if self.held.lock().get(&key.cluster) == Some(&key.node) {
            pool.hold(Hold::Switchover);
        }
        if self.paused.lock().has(&key.database) {
            pool.hold(Hold::Paused);
        }
        let pool = Arc::new(pool);
        by_key.insert(key, Arc::clone(&pool));
        pool
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Pool>> {
        self.by_key.lock().values().cloned().collect()
    }

    /// All of them, and what those have counted that are gone.
    #[must_use]
    pub fn all_and_departed(&self) -> (Vec<Arc<Pool>>, BTreeMap<Arc<str>, Totals>) {
        let by_key = self.by_key.lock();
        (by_key.values().cloned().collect(), self.departed.lock().clone())
    }

    /// The pools of a database, or all.
    #[must_use]
    pub fn of(&self, database: Option<&str>) -> Vec<Arc<Pool>> {
        let by_key = self.by_key.lock();
        let named = |key: &PoolKey| database.is_none_or(|name| *key.database == *name);
        by_key.iter().filter(|(key, _)| named(key)).map(|(_, pool)| Arc::clone(pool)).collect()
    }

    /// Changes what is paused, in all pools there are and will be.
    pub fn pause(&self, change: impl FnOnce(&mut Paused)) {
        let by_key = self.by_key.lock();
        let mut paused = self.paused.lock();
        change(&mut paused);
        for (key, pool) in by_key.iter() {
            if paused.has(&key.database) {
                pool.hold(Hold::Paused);
            } else {
                pool.go_on(Hold::Paused);
            }
        }
    }

    /// Nothing begins at a node from now on, in no pool there is or will be, until [`Self::go_on`].
    pub fn hold(&self, cluster: &Arc<str>, node: &NodeName) {
        let by_key = self.by_key.lock();
        self.held.lock().insert(Arc::clone(cluster), Arc::clone(node));
        at(&by_key, cluster, node).for_each(|pool| pool.hold(Hold::Switchover));
    }

    /// What a cluster's hold has stopped goes on, here or elsewhere.
    pub fn go_on(&self, cluster: &Arc<str>) {
        let by_key = self.by_key.lock();
        if let Some(node) = self.held.lock().remove(cluster) {
            at(&by_key, cluster, &node).for_each(|pool| pool.go_on(Hold::Switchover));
        }
    }

    /// How many connections to a node are at work, or may be.
    #[must_use]
    pub fn busy(&self, cluster: &Arc<str>, node: &NodeName) -> u64 {
        at(&self.by_key.lock(), cluster, node).map(|pool| u64::from(pool.busy())).sum()
    }

    /// Another node is the primary: those who wait at the others go there, where only connections of this epoch are used.
    pub fn moved(&self, cluster: &Arc<str>, primary: Option<&NodeName>, epoch: Epoch) {
        for (key, pool) in self.by_key.lock().iter().filter(|(key, _)| key.cluster == *cluster) {
            if primary == Some(&key.node) {
                pool.only_since(epoch);
            } else {
                pool.send_on();
            }
        }
    }

    fn reload(&self, running: &Running, hidden: &Arc<HiddenCatalog>) {
        for pool in self.all() {
            let key = &pool.key;
            let endpoint = running.endpoints.get(&(Arc::clone(&key.cluster), Arc::clone(&key.node)));
            let profile = running.config.profile(&key.database, &key.user);
            match (profile, endpoint) {
                (Some(profile), Some(endpoint)) if profile.cluster == key.cluster => {
                    pool.budgets().database.set_max(profile.database_server_max);
                    pool.budgets().user.set_max(profile.user_server_max);
                    pool.reload(PoolSettings::from(&profile), Arc::clone(endpoint), hidden);
                }
                _ => pool.set_retired(true),
            }
        }
    }

    fn tidy(&self, in_use: impl Fn(&PoolKey) -> bool) {
        let mut by_key = self.by_key.lock();
        by_key.retain(|key, pool| {
            pool.set_retired(!in_use(key));
            // sessions hold their pool: one that only this map holds is nobody's
            let stays = Arc::strong_count(pool) > 1 || !pool.is_empty();
            if !stays {
                *self.departed.lock().entry(Arc::clone(&key.database)).or_default() += pool.blocks.totals();
            }
            stays
        });
    }
}
