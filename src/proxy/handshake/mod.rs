//! From an accepted socket to a session, or to a refusal.
//!
//! - this file: who may come in at all (PostgreSQL: PROTOCOL-FLOW-START-UP)
//! - [`encryption`]: TLS or not, up to the first packet that is no question about it
//! - [`intake`]: what a stranger has sent, in as few reads as it came
//! - [`admission`]: whether it may come in, and what it must show
//! - [`login`]: proving who the client is by its password
//! - [`greeting`]: what a client is told before its first ReadyForQuery
//! - [`replication`]: the same for a replication connection, which has a server of its own
//!
//! Nothing a stranger sends sizes an allocation before its length has been checked, and all of it together takes
//! `client_login` at most. The whole handshake lives in one boxed future that is gone before the session begins.

pub mod admission;
pub mod encryption;
pub mod greeting;
pub mod intake;
pub mod login;
pub mod replication;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use self::intake::Intake;
use self::replication::Proven;
use super::cancel::{self, CancelKey};
use super::census::{Census, ClientLimits, Place};
use super::client::{ClientHandle, Signal};
use super::door::{self, Caller, Door};
use super::entrance::Entrance;
use super::error::ClientError;
use super::newcomers::{Claimed, Newcomer, Newcomers};
use super::replication::Replication;
use super::roster::{Arrival, ClientEntry, Ends, Roster};
use super::session::Session;
use super::session::settings::Settings;
use super::sounding::Levels;
use super::worker::{Accepted, Guest, Worker};
use crate::net::stream::{Socket, Stream};
use crate::protocol::startup::{self, Startup, StartupError};

/// Why a handshake came to nothing.
#[derive(Debug)]
pub enum Refusal {
    /// The client is told, and the connection closed.
    Told(ClientError),
    /// TLS did not come about: the client has been sent an alert, or has gone.
    NoTls(String),
    /// There is nobody to tell.
    Gone,
}

impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl From<ClientError> for Refusal {
    fn from(error: ClientError) -> Self {
        Self::Told(error)
    }
}

/// What a stranger turned out to be.
enum Visitor {
    /// Somebody with a cancel key, or nobody at all: there is nothing to say.
    Silent,
    /// A client, logged in.
    Client(Box<Session>),
    /// A replication connection, logged in on both sides.
    Replication(Box<Replication>),
    /// Somebody who goes through the door.
    Caller(Arc<dyn Door>, Box<Caller>),
}

/// Who a client says it is, in the configuration's eyes.
#[derive(Debug)]
pub struct Claim {
    /// The database it asked for.
    pub database: Arc<str>,
    /// The user.
    pub user: Arc<str>,
    /// What it set in its startup packet.
    pub settings: Settings,
    /// Whether it speaks protocol 3.2.
    pub long_keys: bool,
    /// What kind of replication it is for, if any.
    pub replication: Option<startup::Replication>,
}

/// Everything that must end when the client does.
#[derive(Debug)]
pub struct Presence {
    /// Its place in the census.
    pub place: Place,
    /// Its line on the roster.
    pub entry: ClientEntry,
    /// Its cancel key.
    pub key: Option<CancelKey>,
    /// Its worker.
    pub worker: Rc<Worker>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.worker.shared.cancels.forget(key);
        }
    }
}

/// A client's whole life.
pub async fn serve(worker: Rc<Worker>, handle: Arc<ClientHandle>, accepted: Accepted, guest: Guest) {
    let shared = Arc::clone(&worker.shared);
    let running = shared.running();
    let login_max = running.config.timeouts.client_login.limit().unwrap_or(Duration::from_secs(3600));
    let log = running.config.log.connections;
    drop(running);
    let peer = accepted.peer.clone();
    let mut stream = Stream::Plain(accepted.socket);
    let newcomer = Newcomers::enter(&shared, &handle, Ends::of(&stream, unix_port(&peer)));
    let handshake = Box::pin(welcome(&worker, &newcomer.facts, &mut stream, &accepted.entrance, &peer));
    let told_to_go = std::future::poll_fn(|cx| {
        handle.listen(cx);
        if handle.has(Signal::Suspend) {
            handle.be_still(); // nothing is on its way for it
        }
        handle.tell(Levels::default);
        match handle.ends_now() {
            Some(reason) => Poll::Ready(reason),
            // a stranger who takes its time would hold up the shutdown
            None if handle.has(Signal::Goodbye) => Poll::Ready(ClientError::ShuttingDown),
            None => Poll::Pending,
        }
    });
    let outcome = tokio::select! {
        biased;
        outcome = tokio::time::timeout(login_max, handshake) => outcome.unwrap_or(Err(ClientError::LoginTimeout.into())),
        reason = told_to_go => Err(reason.into()),
    };
    drop(newcomer);
    match outcome {
        // libpq takes the end of a TLS connection without goodbye for a cancel that failed
        Ok(Visitor::Silent) => stream.close().await,
        Err(Refusal::Gone) => {}
        Ok(Visitor::Client(mut session)) => {
            session.stream = stream;
            session.count_login();
            if log {
                let (client, user, database, client_addr) = (handle.id, session.user(), session.database(), &*peer);
                tracing::info!(client, client_addr, user, database, "client logged in");
            }
            let ended = session.run().await;
            if log {
                tracing::info!(client = handle.id, client_addr = &*peer, ended, "client left");
            }
        }
        Ok(Visitor::Replication(mut replication)) => {
            replication.stream = stream;
            let (client, user, database) = (handle.id, replication.user(), replication.database());
            tracing::info!(client, client_addr = &*peer, user, database, "replication begins");
            let ended = replication.run().await;
            tracing::info!(client = handle.id, client_addr = &*peer, ended, "replication client left");
        }
        Ok(Visitor::Caller(door, mut caller)) => {
            caller.stream = stream;
            let (client, user, database) = (handle.id, &*caller.claim.user, &*caller.claim.database);
            tracing::info!(client, client_addr = &*peer, user, database, "console opened");
            let ended = door.enter(*caller).await;
            tracing::info!(client = handle.id, client_addr = &*peer, ended, "console closed");
        }
        Err(Refusal::NoTls(error)) => {
            if log {
                tracing::info!(client = handle.id, client_addr = &*peer, error, "TLS handshake failed");
            }
        }
        Err(Refusal::Told(error)) => {
            if log {
                let (client_addr, sqlstate) = (&*peer, error.code());
                tracing::info!(client = handle.id, client_addr, %sqlstate, %error, "client refused");
            }
            if let Some(beside) = shared.tallies.beside(worker.id) {
                beside.count_error(&Arc::from(""), Some(error.code())); // of no database: strangers may name any
            }
            let mut last = Vec::new();
            error.write_fatal(&mut last);
            // a stranger who does not read it has lost it
            let told = async {
                if stream.write_all(&last).await.is_ok() {
                    stream.close().await;
                }
            };
            let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
        }
    }
    drop(guest);
}

/// Places at the door beyond `limits.max_client_connections`.
const CALLERS_BEYOND: u32 = 20;

async fn welcome(
    worker: &Rc<Worker>,
    newcomer: &Arc<Newcomer>,
    stream: &mut Stream,
    entrance: &Entrance,
    peer: &str,
) -> Result<Visitor, Refusal> {
    let (shared, handle) = (&worker.shared, &newcomer.handle);
    let running = shared.running();
    let mut intake = Intake::default();
    let is_local = matches!(stream.socket(), Socket::Unix(_) | Socket::UnixDetached(_));
    // a Unix socket has no TLS, as in PostgreSQL; one from systemd may stand for a listener that has
    let tls = entrance.tls.as_ref().filter(|_| !is_local);
    let packet = match encryption::first_packet(stream, &mut intake, tls).await? {
        Some(packet) => packet,
        None => return Ok(Visitor::Silent),
    };
    let message = match startup::parse(&packet).map_err(ClientError::from)? {
        Startup::Cancel { pid, secret } => {
            let identity = shared.cancels.owner(pid, secret).and_then(|owner| owner.cancel());
            shared.incidents.cancel(identity.is_some());
            if let Some(identity) = identity {
                let within = running.config.timeouts.cancel_wait.limit();
                tokio::task::spawn_local(cancel::deliver(identity, within));
            }
            return Ok(Visitor::Silent);
        }
        Startup::Session(message) => message,
        Startup::Ssl | Startup::Gss => return Err(ClientError::from(StartupError::Layout).into()),
    };
    let claim = read_claim(&message)?;
    let door = shared.door.get().filter(|_| claim.replication.is_none());
    let door = door.filter(|door| door.leads_to(&running, &claim.database));
    // an operator must come in just when nobody else can; who has only named the console is no operator yet
    let beyond = if door.is_some() { CALLERS_BEYOND } else { 0 };
    let clients_max = running.config.limits.max_client_connections.saturating_add(beyond);
    let mut place = Census::enter(shared, clients_max)?;
    let (database, user) = (Arc::clone(&claim.database), Arc::clone(&claim.user));
    newcomer.claims(Claimed { database, user, is_caller: door.is_some() });
    let ends_soon = || handle.has(Signal::Goodbye) || worker.is_draining();
    // whoever comes behind this look is known to the order that it is about
    if ends_soon() || door.is_none() && shared.orders.is_shutting_down() {
        return Err(ClientError::ShuttingDown.into());
    }
    if tls.is_some_and(|tls| tls.mode.needs_tls()) && !stream.is_tls() {
        return Err(ClientError::TlsRequired.into());
    }
    if let Some(negotiation) = message.negotiation() {
        stream.write_all(&negotiation).await?;
    }
    drop(packet);
    let listener_role = entrance.role;
    let profile = running.config.profile(&claim.database, &claim.user).filter(|_| door.is_none());
    let server_user = running.config.server_user(&claim.database, &claim.user);
    // limits before the proof: a flood of wrong passwords must not crowd out anybody, and costs nothing
    if let Some(profile) = &profile {
        let limits = ClientLimits {
            all: running.config.limits.max_client_connections,
            database: profile.database_client_max,
            user: profile.user_client_max,
        };
        place.name(&claim.database, &claim.user, &server_user, limits)?;
    }
    // whoever asks for a database that is not there proves who it is all the same, or the answer would tell strangers
    let first = || running.config.clusters.keys().next().map(|name| Arc::from(name.as_str()));
    // behind the door there is no cluster: whichever knows the user
    let names = || running.config.clusters.keys().map(|name| Arc::<str>::from(name.as_str()));
    let knows = |cluster: &Arc<str>| shared.catalog.known(cluster, &claim.user).is_some();
    let of_user = || door.and_then(|_| names().find(knows));
    let cluster = profile.as_ref().map(|profile| Arc::clone(&profile.cluster)).or_else(of_user).or_else(first);
    // what the proof is answered with travels with the greeting
    let is_own = door.is_some_and(|door| door.knows_own(&claim.user)) && door::is_own(stream);
    let visit = admission::Visit {
        shared,
        running: &running,
        end_point: tls.filter(|_| stream.is_tls()).and_then(|tls| tls.tls.end_point_hash.as_deref()),
        stream,
        intake: &mut intake,
        peer,
        cluster: cluster.as_ref(),
        claim: &claim,
        physical_replication: claim.replication == Some(startup::Replication::Physical),
    };
    let proven = if is_own { Vec::new() } else { admission::admit(visit).await? };
    if let Some(door) = door {
        if !is_own && !door.admits(&running, &claim.user) {
            return Err(ClientError::NotAllowed.into());
        }
        let presence = presence(worker, newcomer, place, &claim, stream);
        let caller = Caller {
            stream: Stream::Plain(Socket::Closed),
            last: proven,
            sent: intake.into_rest(),
            claim,
            is_own,
            handle: Arc::clone(handle),
            presence,
        };
        return Ok(Visitor::Caller(Arc::clone(door), Box::new(caller)));
    }
    let Some(profile) = profile else {
        return Err(ClientError::NoSuchDatabase(claim.database.to_string()).into());
    };
    if shared.orders.is_disabled(&claim.database) {
        return Err(ClientError::Disabled(claim.database.to_string()).into());
    }
    if shared.orders.is_shutting_down() {
        return Err(ClientError::ShuttingDown.into());
    }
    let presence = presence(worker, newcomer, place, &claim, stream);
    shared.orders.comes(&presence.entry.facts);
    // from here on it is whoever its database says
    let (profile, claim) = if server_user == claim.user {
        (profile, claim)
    } else {
        let profile = running.config.profile(&claim.database, &server_user).unwrap_or(profile);
        (profile, Claim { user: server_user, ..claim })
    };
    drop(running);
    if claim.replication.is_some() {
        let client = Proven { stream, last: proven, sent: intake.into_rest() };
        return replication::greet(worker, handle, client, &profile, &claim, presence).await.map(Visitor::Replication);
    }
    let guest = greeting::Welcomed { profile, claim, listener_role };
    let mut session = greeting::greet(worker, handle, stream, proven, guest, presence).await?;
    session.has_sent(intake.into_rest());
    Ok(Visitor::Client(session))
}

/// A client that has logged in is on the roster from now on.
fn presence(worker: &Rc<Worker>, newcomer: &Newcomer, place: Place, claim: &Claim, stream: &Stream) -> Presence {
    let Claim { database, user, settings, replication, .. } = claim;
    let ends = Ends { tls: stream.tls_words(), ..newcomer.ends.clone() };
    let is_caller = newcomer.claim().is_some_and(|claimed| claimed.is_caller);
    let arrival = Arrival { database, user, settings, replication: *replication, ends, is_caller };
    let entry = Roster::client(&worker.shared, &newcomer.handle, arrival);
    Presence { place, entry, key: None, worker: Rc::clone(worker) }
}

/// The port in the name of a listener's socket file, `.s.PGSQL.6432`.
fn unix_port(path: &str) -> u16 {
    path.rsplit_once(".s.PGSQL.").and_then(|(_, port)| port.parse().ok()).unwrap_or_default()
}

/// Who the client says it is and what it has set.
fn read_claim(message: &startup::StartupMessage<'_>) -> Result<Claim, ClientError> {
    let text = |bytes: &[u8]| -> Result<Arc<str>, ClientError> {
        // names that are not UTF-8 exist in no configuration
        std::str::from_utf8(bytes).map(Arc::from).map_err(|_| ClientError::Startup(StartupError::Layout))
    };
    let replication = message.replication().map_err(ClientError::from)?;
    let mut settings = Settings::default();
    // wherever they stand: what has a parameter of its own goes before them
    for (_, options) in message.params.iter().filter(|(name, _)| *name == b"options") {
        for (name, value) in startup::parse_options(options)? {
            settings.set(&name, &value);
        }
    }
    for (name, value) in &message.params {
        match *name {
            b"options" => {}
            b"replication" if replication.is_none() => {}
            name => settings.set(name, value),
        }
    }
    // PostgreSQL passes over this one: the user's own name stands by then and cannot be overridden from here
    settings.remove(b"session_authorization");
    Ok(Claim {
        database: text(message.database)?,
        user: text(message.user)?,
        settings,
        long_keys: message.spoken_minor() >= 2,
        replication,
    })
}
