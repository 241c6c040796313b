//! Who is connected, who works with whom, who rests and who waits: put together from the roster, the clients' handles and the
//! pools' books. Each of these is asked for its own moment, so a line may be a little older than the next.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::Look;
use crate::proxy::client::Standing;
use crate::proxy::pool::Pool;
use crate::proxy::pool::look::PoolLook;
use crate::proxy::roster::{ClientFacts, ServerFacts};
use crate::proxy::server::Identity;

/// The data path at about one moment.
pub struct Scene {
    /// Every client, and what it does.
    pub clients: Vec<(Arc<ClientFacts>, Standing)>,
    /// Every server connection.
    pub servers: Vec<Arc<ServerFacts>>,
    /// Every pool.
    pub pools: Vec<(Arc<Pool>, PoolLook)>,
    /// By server: the client it works for.
    working: HashMap<usize, u64>,
    /// By server: whether it has rested for long.
    resting: HashMap<usize, bool>,
    /// By client: for how long it has waited, in microseconds.
    waiting: HashMap<u64, u64>,
    /// Now, by the data path's clock and by the wall's.
    now: (u64, SystemTime),
}

/// What PgBouncer calls what a server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// A client has it.
    Active,
    /// It rests.
    Idle,
    /// It has rested for so long that it is asked before it is used.
    Used,
    /// It is being brought to rest, checked, or closed.
    Tested,
    /// A cancel is on its way to it.
    BeingCanceled,
}

impl ServerState {
    /// PgBouncer's word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Idle => "idle",
            Self::Used => "used",
            Self::Tested => "tested",
            Self::BeingCanceled => "being_canceled",
        }
    }
}

fn key(identity: &Arc<Identity>) -> usize {
    Arc::as_ptr(identity).addr()
}

impl Scene {
    /// Now.
    #[must_use]
    pub fn now(look: &Look) -> Self {
        let shared = &look.shared;
        let facts = shared.roster.clients().into_iter();
        let clients: Vec<_> = facts.map(|facts| (Arc::clone(&facts), facts.standing())).collect();
        let working = clients.iter().filter_map(|(facts, standing)| match standing {
            Standing::Working(identity) => Some((key(identity), facts.id)),
            Standing::Idle | Standing::Waiting => None,
        });
        let working = working.collect();
        let pools: Vec<_> = shared.pools.all().into_iter().map(|pool| (Arc::clone(&pool), pool.look())).collect();
        let now_us = shared.now_us();
        let (mut resting, mut waiting) = (HashMap::new(), HashMap::new());
        for (pool, look) in &pools {
            let check_delay = pool.check_delay().unwrap_or(Duration::MAX);
            resting.extend(look.resting.iter().map(|(server, since)| (key(server), since.elapsed() >= check_delay)));
            waiting.extend(look.waiting.iter().map(|(client, since_us)| (*client, now_us.saturating_sub(*since_us))));
        }
        // who waits for a node is in no queue
        for (client, _) in clients.iter().filter(|(_, standing)| matches!(standing, Standing::Waiting)) {
            match client.handle.waits_since_us.load(Ordering::Relaxed) {
                0 => {}
                since_us => {
                    waiting.insert(client.id, now_us.saturating_sub(since_us));
                }
            }
        }
        let (servers, now) = (shared.roster.servers(), (now_us, SystemTime::now()));
        Self { clients, servers, pools, working, resting, waiting, now }
    }

    /// What a server does.
    #[must_use]
    pub fn state(&self, server: &ServerFacts) -> ServerState {
        let at = key(&server.identity);
        match self.resting.get(&at) {
            _ if self.working.contains_key(&at) => ServerState::Active,
            _ if server.identity.is_being_cancelled() => ServerState::BeingCanceled,
            Some(true) => ServerState::Used,
            Some(false) => ServerState::Idle,
            None => ServerState::Tested,
        }
    }

    /// The client a server works for.
    #[must_use]
    pub fn client_of(&self, server: &ServerFacts) -> Option<u64> {
        self.working.get(&key(&server.identity)).copied()
    }

    /// The server that works for a client.
    #[must_use]
    pub fn server_of(&self, standing: &Standing) -> Option<&Arc<ServerFacts>> {
        let Standing::Working(identity) = standing else { return None };
        self.servers.iter().find(|server| Arc::ptr_eq(&server.identity, identity))
    }

    /// For how long a client has waited for a server, in microseconds.
    #[must_use]
    pub fn wait_us(&self, client: u64) -> u64 {
        self.waiting.get(&client).copied().unwrap_or_default()
    }

    /// When a client's last request was here; when it came, before the first.
    #[must_use]
    pub fn requested(&self, client: &ClientFacts) -> SystemTime {
        let (now_us, now) = self.now;
        match client.handle.asked_us.load(Ordering::Relaxed) {
            0 => client.connected,
            asked_us => now.checked_sub(Duration::from_micros(now_us.saturating_sub(asked_us))).unwrap_or(now),
        }
    }

    /// By database and user, over all nodes.
    #[must_use]
    pub fn sums(&self) -> BTreeMap<(Arc<str>, Arc<str>), Sums> {
        let mut sums = BTreeMap::<_, Sums>::new();
        for (pool, look) in &self.pools {
            let sum = sums.entry((Arc::clone(&pool.key.database), Arc::clone(&pool.key.user))).or_default();
            sum.login += look.counts.connecting;
        }
        for server in &self.servers {
            let key = (Arc::clone(&server.pool.database), Arc::clone(&server.pool.user));
            let sum = sums.entry(key).or_default();
            sum.cancels += server.identity.cancels();
            *match self.state(server) {
                ServerState::Active => &mut sum.active,
                ServerState::Idle => &mut sum.idle,
                ServerState::Used => &mut sum.used,
                ServerState::Tested => &mut sum.tested,
                ServerState::BeingCanceled => &mut sum.being_canceled,
            } += 1;
        }
        for (client, standing) in self.clients.iter().filter(|(client, _)| !client.is_caller) {
            let sum = sums.entry((Arc::clone(&client.database), Arc::clone(&client.user))).or_default();
            if matches!(standing, Standing::Waiting) {
                sum.waiting += 1;
                sum.maxwait_us = sum.maxwait_us.max(self.wait_us(client.id));
            } else {
                sum.clients += 1;
            }
        }
        sums
    }

    /// How many consoles are open.
    #[must_use]
    pub fn consoles(&self) -> usize {
        self.clients.iter().filter(|(client, _)| client.is_caller).count()
    }
}

/// A line of `SHOW POOLS`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    /// Clients that do not wait.
    pub clients: u32,
    /// Clients that wait.
    pub waiting: u32,
    /// Cancels on their way.
    pub cancels: u32,
    /// Servers, by what they do.
    pub active: u32,
    /// See [`ServerState`].
    pub being_canceled: u32,
    /// See [`ServerState`].
    pub idle: u32,
    /// See [`ServerState`].
    pub used: u32,
    /// See [`ServerState`].
    pub tested: u32,
    /// Being dialled.
    pub login: u32,
    /// How long the oldest has waited.
    pub maxwait_us: u64,
}
