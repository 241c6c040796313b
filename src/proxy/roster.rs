//! Who is connected, by name: each client from its login to its end, each server connection from its dial to its close.
//!
//! Entries are made and dropped with what they describe; in between nothing is written here per request. Whether a client
//! works, and on which server, its [`ClientHandle`] knows already; what rests in a pool, the pool's books.
//!
//! Not here: how many there may be (`census`), who shows them (`console`, `admin`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;

use super::client::{ClientHandle, Standing};
use super::pool::PoolKey;
use super::pool::gate::Round;
use super::server::Identity;
use super::session::settings::Settings;
use super::shared::Shared;
use crate::net::stream::Stream;
use crate::protocol::startup::Replication;

/// The longest application name that is kept, in bytes. PostgreSQL: `NAMEDATALEN - 1`.
const APPLICATION_NAME_MAX: usize = 63;

/// Everybody.
#[derive(Debug, Default)]
pub struct Roster {
    clients: Mutex<BTreeMap<u64, Arc<ClientFacts>>>,
    servers: Mutex<BTreeMap<u64, Arc<ServerFacts>>>,
    last_server: AtomicU64,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A Unix socket; the port is the one in its name, 0 where it is not known.
    Unix(u16),
}

impl End {
    /// The address without its port; `unix` as PgBouncer has it.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().to_string(),
            Self::Unix(_) => "unix".to_owned(),
        }
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        match self {
            Self::Tcp(address) => address.port(),
            Self::Unix(port) => *port,
        }
    }
}

/// Both ends of a connection, as the kernel has them.
#[derive(Clone, Debug)]
pub struct Ends {
    /// The other side's.
    pub remote: End,
    /// Ours.
    pub local: End,
    /// Protocol and cipher; `None` without TLS.
    pub tls: Option<String>,
}

impl Ends {
    /// Of this connection; `unix_port` is for a Unix socket, which does not tell.
    #[must_use]
    pub fn of(stream: &Stream, unix_port: u16) -> Self {
        let options = stream.socket().options();
        let end = |address: Option<socket2::SockAddr>| match address.and_then(|address| address.as_socket()) {
            Some(address) => End::Tcp(address),
            None => End::Unix(unix_port),
        };
        Self {
            remote: end(options.as_ref().and_then(|socket| socket.peer_addr().ok())),
            local: end(options.as_ref().and_then(|socket| socket.local_addr().ok())),
            tls: stream.tls_words(),
        }
    }
}

/// A client that has logged in.
#[derive(Debug)]
pub struct ClientFacts {
    /// Distinct among all clients of this process.
    pub id: u64,
    /// The database it asked for.
    pub database: Arc<str>,
    /// Its user.
    pub user: Arc<str>,
    /// Where it is, and where it came in.
    pub ends: Ends,
    /// When it logged in.
    pub connected: SystemTime,
    /// What kind of replication it is for, if any.
    pub replication: Option<Replication>,
    /// Whether it went through the door, and has no servers.
    pub is_caller: bool,
    application_name: Mutex<Arc<str>>,
    prepared: AtomicU32,
    /// What others may do to it.
    pub handle: Arc<ClientHandle>,
}

impl ClientFacts {
    /// Its `application_name`, as it was last set.
    #[must_use]
    pub fn application_name(&self) -> Arc<str> {
        Arc::clone(&self.application_name.lock())
    }

    /// How many statements it has prepared under names.
    #[must_use]
    pub fn prepared(&self) -> u32 {
        self.prepared.load(Ordering::Relaxed)
    }

    /// See [`Self::prepared`].
    pub fn set_prepared(&self, names: usize) {
        self.prepared.store(u32::try_from(names).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Its settings have changed.
    pub fn set_settings(&self, settings: &Settings) {
        let name = application_name(settings);
        let mut known = self.application_name.lock();
        if **known != *name {
            *known = name;
        }
    }

    /// What it does now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.handle.standing()
    }
}

/// A server connection.
#[derive(Debug)]
pub struct ServerFacts {
    /// Distinct among all server connections of this process.
    pub id: u64,
    /// The pool it belongs to.
    pub pool: PoolKey,
    /// The database's name on the server.
    pub dbname: Box<str>,
    /// Process id, node and cancels; the same allocation that [`Standing::Working`] holds while a client works on it.
    pub identity: Arc<Identity>,
    /// Where it is, and where we are.
    pub ends: Ends,
    /// When it logged in.
    pub connected: SystemTime,
    /// What its login has set as `application_name`.
    pub application_name: Arc<str>,
    round: Arc<Round>,
    prepared: AtomicU32,
}

impl ServerFacts {
    /// How many statements are prepared on it.
    #[must_use]
    pub fn prepared(&self) -> u32 {
        self.prepared.load(Ordering::Relaxed)
    }

    /// Whether it is closed as soon as nobody uses it. PgBouncer: `close_needed`.
    #[must_use]
    pub fn close_needed(&self) -> bool {
        self.round.is_over()
    }
}

/// Keeps a client on the roster for as long as it exists.
#[derive(Debug)]
pub struct ClientEntry {
    shared: Arc<Shared>,
    /// What is known of it.
    pub facts: Arc<ClientFacts>,
}

impl Drop for ClientEntry {
    fn drop(&mut self) {
        self.shared.roster.clients.lock().remove(&self.facts.id);
    }
}

/// Keeps a server connection on the roster for as long as it exists.
#[derive(Debug)]
pub struct ServerEntry {
    shared: Arc<Shared>,
    facts: Arc<ServerFacts>,
}

impl ServerEntry {
    /// See [`ServerFacts::prepared`].
    pub fn set_prepared(&self, statements: usize) {
        self.facts.prepared.store(u32::try_from(statements).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}

impl Drop for ServerEntry {
    fn drop(&mut self) {
        self.shared.roster.servers.lock().remove(&self.facts.id);
    }
}

/// Who a client is, at its login.
#[derive(Debug)]
pub struct Arrival<'a> {
    /// The database it asked for.
    pub database: &'a Arc<str>,
    /// Its user.
    pub user: &'a Arc<str>,
    /// What it set in its startup packet.
    pub settings: &'a Settings,
    /// What kind of replication it is for, if any.
    pub replication: Option<Replication>,
    /// Its connection's ends.
    pub ends: Ends,
    /// Whether it goes through the door.
    pub is_caller: bool,
}

impl Roster {
    /// A client has logged in.
    #[must_use]
    pub fn client(shared: &Arc<Shared>, handle: &Arc<ClientHandle>, arrival: Arrival<'_>) -> ClientEntry {
        let facts = Arc::new(ClientFacts {
            id: handle.id,
            database: Arc::clone(arrival.database),
            user: Arc::clone(arrival.user),
            ends: arrival.ends,
            connected: SystemTime::now(),
            replication: arrival.replication,
            is_caller: arrival.is_caller,
            application_name: Mutex::new(application_name(arrival.settings)),
            prepared: AtomicU32::new(0),
            handle: Arc::clone(handle),
        });
        shared.roster.clients.lock().insert(facts.id, Arc::clone(&facts));
        ClientEntry { shared: Arc::clone(shared), facts }
    }

    /// A server connection has been dialled.
    #[must_use]
    pub fn server(
        shared: &Arc<Shared>,
        pool: &PoolKey,
        identity: &Arc<Identity>,
        stream: &Stream,
        (dbname, startup, round): (&str, &Settings, &Arc<Round>),
    ) -> ServerEntry {
        let roster = &shared.roster;
        let id = roster.last_server.fetch_add(1, Ordering::Relaxed) + 1;
        let facts = ServerFacts {
            id,
            pool: pool.clone(),
            dbname: dbname.into(),
            identity: Arc::clone(identity),
            ends: Ends::of(stream, identity.endpoint.way.target.port),
            connected: SystemTime::now(),
            application_name: application_name(startup),
            round: Arc::clone(round),
            prepared: AtomicU32::new(0),
        };
        let facts = Arc::new(facts);
        roster.servers.lock().insert(id, Arc::clone(&facts));
        ServerEntry { shared: Arc::clone(shared), facts }
    }

    /// All clients that have logged in, in the order in which they came.
    #[must_use]
    pub fn clients(&self) -> Vec<Arc<ClientFacts>> {
        self.clients.lock().values().cloned().collect()
    }

    /// A client by its number.
    #[must_use]
    pub fn find(&self, id: u64) -> Option<Arc<ClientFacts>> {
        self.clients.lock().get(&id).cloned()
    }

    /// All server connections, in the order in which they logged in.
    #[must_use]
    pub fn servers(&self) -> Vec<Arc<ServerFacts>> {
        self.servers.lock().values().cloned().collect()
    }
}

/// What is not printable ASCII becomes a question mark, as in PostgreSQL (`pg_clean_ascii()` of its time).
fn application_name(settings: &Settings) -> Arc<str> {
    let value = settings.value(b"application_name").unwrap_or_default();
    let printable = |byte: &u8| if (32..127).contains(byte) { char::from(*byte) } else { '?' };
    value.iter().take(APPLICATION_NAME_MAX).map(printable).collect::<String>().into()
}
