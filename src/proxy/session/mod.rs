//! A client's session: what it owns, and the loop of its life.
//!
//! - [`run`]: the loop: read a request, borrow a server, relay, give it back
//! - [`destination`]: which node a request goes to; [`replicas`]: what it has seen, and which of them it reads from
//! - [`borrow`]: getting a server, with a bound; [`ending`]: when either side goes away
//! - [`inbox`], [`outbox`]: bytes on their way
//! - [`turn`]: what a request is, for routing; [`visit`]: a replica's server, and what is asked again when it fails
//! - [`request`]: a client's messages on their way to a server, [`naming`]: those that name a prepared statement,
//!   [`again`]: those that are sent twice
//! - [`deadlines`]: when its patience ends
//! - [`settings`], [`statements`]: what a client has set and prepared, wherever it is served next
//! - [`notice`], [`trail`], [`settle`]: what its statements may leave on a server, and what becomes of that
//! - [`count`]: what it counts for statistics
//! - [`outcome`], [`doubt`]: what becomes of a COMMIT that stays without an answer
//! - [`begin`]: a transaction's beginning, [`lost`]: what a client is told in one whose server went away or never came

pub mod again;
pub mod begin;
pub mod borrow;
pub mod count;
pub mod deadlines;
pub mod destination;
pub mod doubt;
pub mod ending;
pub mod inbox;
pub mod lost;
pub mod naming;
pub mod notice;
pub mod outbox;
pub mod outcome;
pub mod replicas;
pub mod request;
pub mod run;
pub mod settings;
pub mod settle;
pub mod statements;
pub mod trail;
pub mod turn;
pub mod visit;

use std::rc::Rc;
use std::sync::Arc;

use self::again::Again;
use self::count::Tally;
use self::deadlines::Deadlines;
use self::destination::Need;
use self::inbox::Inbox;
use self::lost::LostBlock;
use self::outbox::Outbox;
use self::replicas::Replicas;
use self::settings::{Reported, Settings};
use self::statements::ClientStatements;
use self::trail::Trail;
use self::turn::Mood;
use self::visit::Visit;
use super::client::ClientHandle;
use super::error::ClientError;
use super::handshake::Presence;
use super::pool::Pool;
use super::server::Server;
use super::shared::Shared;
use super::sounding::{Level, Levels};
use super::worker::Worker;
use crate::config::{Profile, RoutingRole};
use crate::net::stream::{Socket, Stream};
use crate::sql::effects::Effects;
use crate::topology::Epoch;

/// Which pool a session belongs to, and by which configuration and topology that was decided.
#[derive(Debug)]
pub struct Membership {
    /// The database it asked for.
    pub database: Arc<str>,
    /// Its user.
    pub user: Arc<str>,
    /// What holds for the two.
    pub profile: Profile,
    /// Where its listener sends statements.
    listener_role: RoutingRole,
    /// Where it borrows servers of the primary; `None` while there is none.
    pool: Option<Arc<Pool>>,
    /// Where it reads; `None` where everything goes to the primary.
    replicas: Option<Box<Replicas>>,
    /// The cluster's epoch.
    epoch: Epoch,
    /// The topology's version.
    version: u64,
    /// The configuration's.
    generation: u64,
}

impl Membership {
    /// Of a client that has just logged in. Where it reads is looked up with its first request; that it may use the
    /// primary's pool keeps that pool in being.
    #[must_use]
    pub fn new(
        database: Arc<str>,
        user: Arc<str>,
        profile: Profile,
        listener_role: RoutingRole,
        shared: &Shared,
    ) -> Self {
        let generation = shared.generation();
        let pool = shared.route(&profile, &database, &user).ok();
        Self {
            database,
            user,
            profile,
            listener_role,
            pool,
            replicas: None,
            epoch: Epoch(0),
            version: u64::MAX,
            generation,
        }
    }

    /// Its pool is not the one to use any more.
    fn leave_pool(&mut self) {
        self.pool = None;
    }
}

/// A client.
#[derive(Debug)]
pub struct Session {
    /// Its connection.
    pub stream: Stream,
    pub(super) handle: Arc<ClientHandle>,
    pub(super) worker: Rc<Worker>,
    member: Membership,
    /// What it has set.
    pub(super) wants: Arc<Settings>,
    /// What its startup packet has set: what `RESET` goes back to.
    pub(super) startup: Arc<Settings>,
    /// The process id of the server on which it last moved a sequence.
    sequence_on: Option<i32>,
    /// What it has been told of its server.
    pub(super) told: Arc<Reported>,
    pub(super) names: ClientStatements,
    pub(super) inbox: Inbox,
    /// How much of the inbox is known to be whole messages that end no turn.
    scanned: usize,
    pub(super) outbox: Outbox,
    /// Answers of howdah's own that go out with what the server says next.
    pub(super) pending: Vec<u8>,
    /// Bytes of a client's message that stream to the server.
    pub(super) message_left: usize,
    /// Bytes of a client's message that go nowhere.
    pub(super) discard_left: usize,
    /// A request was refused: everything up to its Sync is dropped.
    pub(super) skip_to_sync: bool,
    lost: Option<LostBlock>,
    /// Its COMMIT is without an answer: nothing more is read before it has one.
    doubt: Option<Box<doubt::InDoubt>>,
    /// What of its settings matters for routing.
    mood: Option<Mood>,
    /// Where the next request has to go because another node has refused it.
    rerun: Option<Need>,
    /// How often the present request has lost its server.
    asked_again: u8,
    /// The server this session depended on is gone: its next request ends it with this.
    session_lost: Option<ClientError>,
    deadlines: Deadlines,
    presence: Presence,
    tally: Tally,
}

impl Session {
    /// A session that has just been greeted; its stream is still the handshake's.
    #[must_use]
    pub fn new(
        worker: &Rc<Worker>,
        handle: &Arc<ClientHandle>,
        member: Membership,
        wants: Arc<Settings>,
        told: Arc<Reported>,
        presence: Presence,
    ) -> Self {
        Self {
            stream: Stream::Plain(Socket::Closed),
            handle: Arc::clone(handle),
            worker: Rc::clone(worker),
            member,
            startup: Arc::clone(&wants),
            wants,
            sequence_on: None,
            told,
            names: ClientStatements::default(),
            inbox: Inbox::default(),
            scanned: 0,
            outbox: Outbox::default(),
            pending: Vec::new(),
            message_left: 0,
            discard_left: 0,
            skip_to_sync: false,
            lost: None,
            doubt: None,
            mood: None,
            rerun: None,
            asked_again: 0,
            session_lost: None,
            deadlines: Deadlines::default(),
            presence,
            tally: Tally::default(),
        }
    }

    /// Takes over what the client sent behind its login.
    pub fn has_sent(&mut self, bytes: Vec<u8>) {
        self.came_early(bytes.len() as u64);
        self.inbox = Inbox::holding(bytes);
    }

    /// How far buffers are filled, its own and those of the server that works for it.
    pub(super) fn levels(&self, server: Option<&Server>) -> Levels {
        let ((received, seen), (answers, taken)) = (self.inbox.level(), self.outbox.level());
        let (going, gone) =
            server.map_or((0, 0), |server| (server.out.as_ref().map_or(0, |out| out.len()), server.out_sent));
        let carried = server.map_or(0, |server| server.carry.len());
        Levels {
            client: Level {
                received,
                seen,
                message_left: self.message_left,
                sent: if going > 0 { gone } else { 0 },
                unsent: going.saturating_sub(gone),
            },
            server: Level {
                received: answers + carried,
                seen: answers,
                message_left: server.map_or(0, |server| server.body_left),
                sent: taken,
                unsent: answers.saturating_sub(taken),
            },
        }
    }

    /// Its user.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.member.user
    }

    /// The database it asked for.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.member.database
    }
}

/// How far the client has been told that its commit may yet be lost: the server has ended its wait for standbys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alone {
    /// It is no such commit.
    No,
    /// The server has warned, and will report success.
    Warned,
    /// The client has got an error instead: nothing more up to ReadyForQuery.
    Told,
}

/// A server connection lent to a client. Dropping it closes the connection: giving it back takes proof that it is
/// settled.
#[derive(Debug)]
pub struct Loan {
    server: Option<Box<Server>>,
    /// The relay has the server. Where that panics the connection is closed by the unwinding, and only its place is left
    /// to free.
    relayed: bool,
    pub(super) pool: Arc<Pool>,
    worker: Rc<Worker>,
    /// What the server reported when it was lent.
    pub(super) reported: Arc<Reported>,
    /// A state prefix that waits for the client's first turn, to travel with it.
    prefix: Option<crate::net::buffer::Growing>,
    /// The client's turn behind a state prefix has been sent: nothing more until the prefix is answered.
    pub(super) turn_sent: bool,
    /// The state prefix failed with this: the server is being put right, the client has been told.
    pub(super) prefix_failed: bool,
    /// The server ended in front of that turn: nothing of it has run, and its replies are still owed to the client.
    pub(super) untaken: bool,
    /// What puts it right has not been sent yet.
    pub(super) repair_due: bool,
    /// A COPY has been bound in the open batch: its Execute decides what the server does with the Sync behind it.
    copy_bound: bool,
    /// Such an Execute has been sent: nothing more until it is answered.
    copy_asked: bool,
    /// A ReadyForQuery `I` has been passed on: others may want the server.
    pub(super) rested: bool,
    /// Something that may commit is on its way.
    pub(super) commits: bool,
    /// Something that may have an effect is on its way: more than names and descriptions of statements.
    pub(super) acts: bool,
    /// The first request begins a block.
    pub(super) begins: bool,
    /// What is known of a commit that no standby has confirmed.
    pub(super) alone: Alone,
    /// The open transaction may have changed what a prepared statement returns.
    pub(super) redefines: bool,
    /// Anything at all has been sent for the client.
    pub(super) used: bool,
    /// The fields of the error with which the server ended the session.
    pub(super) fatal: Option<Box<[u8]>>,
    /// `timeouts.query` has run out: the cancel is on its way.
    pub(super) query_expired: bool,
    /// Such a cancel may yet meet the turn behind the one it was meant for.
    pub(super) expiry_underway: bool,
    /// The client's next message ends the session; what it has asked before is answered first.
    pub(super) ending: Option<run::End>,
    /// What the client's statements may have left since the server last was looked after.
    pub(super) trail: Trail,
    /// State that keeps the server with the client.
    pins: Effects,
    /// Whether the first batch may be sent once more.
    pub(super) again: Again,
    /// What matters because it is for reads.
    pub(super) visit: Option<Visit>,
    /// Turns that have been sent to their end.
    pub(super) turns: u32,
    /// What is known of the open block's transaction, where its COMMIT is not to stay in doubt.
    pub(super) block: outcome::Block,
}

impl Loan {
    fn new(server: Box<Server>, pool: Arc<Pool>, worker: Rc<Worker>) -> Self {
        let reported = Arc::clone(&server.reported);
        Self::around(Some(server), reported, pool, worker)
    }

    fn around(server: Option<Box<Server>>, reported: Arc<Reported>, pool: Arc<Pool>, worker: Rc<Worker>) -> Self {
        Self {
            reported,
            server,
            relayed: false,
            pool,
            worker,
            prefix: None,
            turn_sent: false,
            prefix_failed: false,
            untaken: false,
            repair_due: false,
            copy_bound: false,
            copy_asked: false,
            rested: false,
            commits: false,
            acts: false,
            begins: false,
            alone: Alone::No,
            redefines: false,
            used: false,
            fatal: None,
            query_expired: false,
            expiry_underway: false,
            ending: None,
            trail: Trail::default(),
            pins: Effects::NONE,
            again: Again::default(),
            visit: None,
            turns: 0,
            block: outcome::Block::default(),
        }
    }

    /// State that keeps the server with the client.
    pub(super) const fn pins(&self) -> Effects {
        self.pins
    }

    pub(super) fn set_pins(&mut self, pins: Effects) {
        if pins != self.pins {
            self.pool.count_pins(self.pins, pins);
            self.pins = pins;
        }
    }

    /// Says to all who rely on the database's catalogue that statements of this loan may have changed it.
    pub(super) fn doubt_catalogue(&self) {
        if self.trail.redefines() {
            self.pool.hidden().doubt();
        } else if self.trail.effects().any(Effects::OUTDATES) {
            self.pool.hidden().outdate();
        }
    }

    /// Whether notifications may be the client's.
    pub(super) const fn listens(&self) -> bool {
        self.pins.or(self.trail.effects()).any(Effects::LISTENS.or(Effects::HIDES))
    }

    /// Whether the server may hold statements that the client has prepared in SQL.
    pub(super) const fn may_have_prepared(&self) -> bool {
        self.pins.or(self.trail.effects()).any(Effects::PREPARES.or(Effects::HIDES))
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.doubt_catalogue(); // nobody knows what became of it
        self.set_pins(Effects::NONE);
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        match self.server.take() {
            Some(server) => self.pool.discard(&self.worker, server),
            None if self.relayed => self.pool.closed(&self.worker),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::hidden::HiddenCatalog;
    use crate::catalog::verifiers::{Lookup, Verifiers};
    use crate::config::parse;
    use crate::net::dial::Dialer;
    use crate::proxy::pool::accounting::Counts;
    use crate::proxy::pool::budget::{Budget, Budgets};
    use crate::proxy::pool::{PoolKey, PoolSettings};
    use crate::proxy::shared::{Running, Shared};

    fn worker() -> Rc<Worker> {
        let toml = "[clusters.main.monitor]\nuser = \"m\"\n[[clusters.main.nodes]]\nname = \"a\"\nhost = \"127.0.0.1\"\n[databases.\"*\"]\ncluster = \"main\"\n";
        let config = parse(std::path::Path::new("howdah.toml"), toml).unwrap();
        let (verifiers, hidden) =
            (Verifiers::start(vec![], Lookup::default(), Arc::default()), HiddenCatalog::start(vec![], Arc::default()));
        let dialer = Dialer::new(&config.network);
        let shared = Shared::new(Running::new(config, &dialer).unwrap(), Arc::default(), verifiers, hidden, 1);
        Rc::new(Worker::new(0, Arc::new(shared), Arc::default()))
    }

    fn pool(worker: &Worker) -> Arc<Pool> {
        let name = || Arc::<str>::from("a");
        let key = PoolKey { cluster: name(), node: name(), database: name(), user: name() };
        let profile = worker.shared.running().config.profile("a", "a").unwrap();
        let endpoint = Arc::clone(&worker.shared.running().endpoints[&("main".into(), "a".into())]);
        let budgets = Budgets { database: Arc::new(Budget::new(Some(1))), user: Arc::new(Budget::new(None)) };
        Arc::new(Pool::new(key, PoolSettings::from(&profile), endpoint, budgets, 1))
    }

    #[tokio::test]
    async fn a_relay_that_panics_frees_the_place_of_its_server() {
        tokio::task::LocalSet::new().run_until(relay_panics()).await;
    }

    async fn relay_panics() {
        let (worker, client) = (worker(), Arc::new(ClientHandle::new(1, 0)));
        let pool = pool(&worker);
        let place = pool.claim(&worker, &client).await.unwrap();
        std::mem::forget(place); // the loan has it
        let taken = Counts { open: 1, ..Counts::default() };
        assert_eq!((pool.counts(), pool.budgets().take()), (taken, false));
        let panicking = {
            let (pool, worker) = (Arc::clone(&pool), Rc::clone(&worker));
            tokio::task::spawn_local(async move {
                let mut loan = Loan::around(None, Arc::default(), pool, worker);
                loan.relayed = true;
                panic!("as a defect in the relay would");
            })
        };
        assert!(panicking.await.unwrap_err().is_panic());
        assert_eq!((pool.counts(), pool.budgets().take()), (Counts::default(), true));
    }
}
