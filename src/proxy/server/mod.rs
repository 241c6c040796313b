//! A server connection: what howdah knows about it. Knows no pool.
//!
//! - [`connect`]: dialling and logging in.
//! - [`drain`]: bringing it to rest when its client has gone.
//! - [`kept`]: requests that may have to be sent once more.
//! - [`prefix`]: bringing it to a client's settings.
//! - [`statements`]: what it has prepared.

pub mod connect;
pub mod drain;
pub mod kept;
pub mod prefix;
pub mod statements;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::sync::Notify;

use self::kept::Kept;
use self::statements::Prepared;
use super::pool::gate::Round;
use super::roster::ServerEntry;
use super::session::settings::{Reported, Settings};
use super::tally::runs::Runs;
use crate::net::buffer::Growing;
use crate::net::dial::Place;
use crate::net::stream::Stream;
use crate::net::way::Way;
use crate::protocol::pipeline::Pipeline;
use crate::topology::{ClusterBoard, Epoch, NodeName};

/// Cancels of one server that may be on their way at the same time; more add nothing.
const CANCELS_MAX: u32 = 2;

/// Where a node is reached.
#[derive(Debug)]
pub struct Endpoint {
    /// Its name.
    pub node: NodeName,
    /// How one gets there.
    pub way: Arc<Way>,
    /// It has refused protocol 3.2 and taken 3.0: it is not asked again until the next reload.
    pub old_protocol: AtomicBool,
}

impl Endpoint {
    /// Of a node nobody has spoken to.
    #[must_use]
    pub const fn new(node: NodeName, way: Arc<Way>) -> Self {
        Self { node, way, old_protocol: AtomicBool::new(false) }
    }

    /// For people: `host:port` or the socket's directory and port.
    #[must_use]
    pub fn address(&self) -> String {
        self.way.target.to_string()
    }

    /// Whether a connection to `other` is as good as one to this. Certificates read again count as the same.
    #[must_use]
    pub fn same_place(&self, other: &Self) -> bool {
        let mode = |endpoint: &Self| endpoint.way.tls.as_ref().map(|tls| tls.mode);
        self.node == other.node && self.way.target == other.way.target && mode(self) == mode(other)
    }
}

/// What a cancel needs to know of a server connection, and what the connection needs to know of cancels.
#[derive(Debug)]
pub struct Identity {
    /// Whose it is.
    pub endpoint: Arc<Endpoint>,
    /// Where it has ended up, of all the addresses its node may have.
    pub place: Place,
    /// Its process id.
    pub pid: i32,
    /// Its secret: 4 bytes, or up to 256 in protocol 3.2.
    pub secret: Box<[u8]>,
    /// Whether the connection is encrypted, and so must be its cancels.
    pub tls: bool,
    cancels: AtomicU32,
    /// A cancel may still arrive although nobody waits for it any more.
    tainted: AtomicBool,
    over: Notify,
}

impl Identity {
    /// Of a connection nobody has cancelled.
    #[must_use]
    pub fn new(endpoint: Arc<Endpoint>, place: Place, pid: i32, secret: &[u8], tls: bool) -> Self {
        Self {
            endpoint,
            place,
            pid,
            secret: secret.into(),
            tls,
            cancels: AtomicU32::new(0),
            tainted: AtomicBool::new(false),
            over: Notify::new(),
        }
    }

    /// A cancel is about to be sent; `false` when enough are on their way already.
    pub fn cancel_begins(&self) -> bool {
        let more = |cancels: u32| (cancels < CANCELS_MAX).then_some(cancels + 1);
        self.cancels.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// A cancel has been delivered, or cannot arrive any more; when neither is `certain`, the connection is not used
    /// for anybody else.
    pub fn cancel_over(&self, certain: bool) {
        if !certain {
            self.tainted.store(true, Ordering::Release);
        }
        self.cancels.fetch_sub(1, Ordering::AcqRel);
        self.over.notify_waiters();
    }

    /// Whether a cancel is on its way.
    #[must_use]
    pub fn is_being_cancelled(&self) -> bool {
        self.cancels.load(Ordering::Acquire) > 0
    }

    /// How many cancels are on their way.
    #[must_use]
    pub fn cancels(&self) -> u32 {
        self.cancels.load(Ordering::Acquire)
    }

    /// Whether a cancel might arrive at any time.
    #[must_use]
    pub fn is_tainted(&self) -> bool {
        self.tainted.load(Ordering::Acquire)
    }

    /// Waits until no cancel is on its way.
    pub async fn cancels_over(&self) {
        loop {
            let over = self.over.notified();
            tokio::pin!(over);
            over.as_mut().enable(); // before looking, or the last notice could be missed
            if !self.is_being_cancelled() {
                return;
            }
            over.await;
        }
    }
}

/// A server connection.
#[derive(Debug)]
pub struct Server {
    /// The connection.
    pub stream: Stream,
    /// Who it is, for cancels.
    pub identity: Arc<Identity>,
    /// What it owes.
    pub pipeline: Pipeline,
    /// What it has prepared under shared names.
    pub prepared: Prepared,
    /// Which statement it holds without a name, if that is known and somebody's, and the batch it was parsed in
    /// ([`Self::holds_unnamed`]).
    pub unnamed: Option<(u64, u64)>,
    /// What it reports.
    pub reported: Arc<Reported>,
    /// What it reported at login.
    pub login: Arc<Reported>,
    /// What its login has set: what `RESET` goes back to.
    pub startup: Arc<Settings>,
    /// Whose settings it has.
    pub applied: Arc<Settings>,
    /// The client that changed something the settings do not tell.
    pub dirty: Option<u64>,
    /// The client that was the last to move a sequence here.
    pub sequence_of: Option<u64>,
    /// The database it is connected to, by the server's name for it.
    pub database: Box<str>,
    /// The cluster's epoch when it was dialled.
    pub epoch: Epoch,
    /// The reign that its node was in before it last spoke, 0 for none, and the number of the last question when it first had:
    /// who has answered a later one in this reign is what this connection is to.
    pub reign: (u64, u64),
    /// The reign when the transaction's id was last asked for.
    pub asked_in: u64,
    /// Its cluster's.
    pub board: Option<Arc<ClusterBoard>>,
    /// What it was dialled in, for RECONNECT.
    pub round: Arc<Round>,
    /// When it logged in.
    pub born: Instant,
    /// When it was last given back.
    pub idle_since: Instant,
    /// The beginning of a message that was cut by the end of a read.
    pub carry: Vec<u8>,
    /// How much of the body of the message that is being passed on has not come yet.
    pub body_left: usize,
    /// Whether that body is nobody's.
    pub body_dropped: bool,
    /// What has been made for it and not been taken by its socket yet.
    pub out: Option<Growing>,
    /// How much of `out` has been taken.
    pub out_sent: usize,
    /// Requests that may have to be sent once more.
    pub kept: Kept,
    /// What it is asked now, for statistics.
    pub runs: Runs,
    /// Its socket does not take bytes any more; what it still says is read.
    pub deaf: bool,
    /// Its line on the roster, once it is some pool's.
    pub entry: Option<ServerEntry>,
}

impl Server {
    /// Whether nothing has come from it while nobody asked. Data that is only TLS's own is taken in.
    #[must_use]
    pub fn is_silent(&mut self) -> bool {
        if self.stream.socket().is_silent() {
            return true;
        }
        if !self.stream.is_tls() {
            return false;
        }
        let mut byte = [0];
        matches!(self.stream.poll_read(&mut Context::from_waker(Waker::noop()), &mut byte), Poll::Pending)
    }

    /// Whether its client has read the beginning of a message and not its end.
    #[must_use]
    pub const fn is_half_told(&self) -> bool {
        self.body_left > 0 && !self.body_dropped
    }

    /// Whether all that it has said so far are whole messages.
    #[must_use]
    pub const fn is_between_messages(&self) -> bool {
        self.body_left == 0 && self.carry.is_empty()
    }

    /// Whether its unnamed statement is this one for what is sent next: somebody else's must never run in its place. A
    /// Parse in the open batch will do, as the use is skipped with it; one of a turn that is not answered will not.
    #[must_use]
    pub fn holds_unnamed(&self, id: u64) -> bool {
        let surely = |batch: u64| batch == self.prepared.batch() || self.pipeline.readies() == 0;
        self.unnamed.is_some_and(|(held, batch)| held == id && surely(batch))
    }

    /// A Parse of its unnamed statement is being sent.
    pub fn parses_unnamed(&mut self, id: u64) {
        if !self.pipeline.skipping() {
            self.unnamed = Some((id, self.prepared.batch()));
        }
    }

    /// Whether everything that was asked is answered and nothing is half-sent: with status `I` it may serve another.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.pipeline.settled() && self.body_left == 0 && self.carry.is_empty() && self.out.is_none() && !self.deaf
    }
}
