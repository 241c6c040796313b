//! A replication connection: one client's from its dial to its close, whatever the pool's mode.
//!
//! Nothing in it is howdah's to answer and nothing of it is ever lent again, so bytes pass as they are, both ways at
//! once; only where messages begin is followed, so that the last word (a shutdown, a server that went away) never stands
//! inside another message. Each direction holds one buffer at most, and a side that does not take what it is sent stops
//! the other from being read. No timeout on queries or idling runs: a stream may be silent for as long as it likes
//! (PostgreSQL: PROTOCOL-REPLICATION).
//!
//! Not here: the login on both sides (`handshake/replication.rs`), the place it takes in the limits (`pool/claim.rs`).

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::client::{ClientHandle, Signal};
use super::error::ClientError;
use super::handshake::Presence;
use super::pool::claim::Place;
use super::pool::hang_up;
use super::server::Server;
use super::sounding::{Level, Levels};
use super::worker::Worker;
use crate::net::buffer::{self, Lent};
use crate::net::stream::{Socket, Stream};
use crate::protocol::frame::Boundary;
use crate::protocol::pipeline::{Owed, Reply};

/// Reads of each side before others of the same worker have their turn.
const TURN: usize = 16;

/// Why it ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The client said goodbye or vanished.
    Gone,
    /// The server went away.
    ServerLost,
    /// The client is told why.
    Fault(ClientError),
}

/// One direction: what has been read and not been taken yet, and where in its messages it stands.
#[derive(Debug, Default)]
struct Lane {
    lent: Option<Lent>,
    start: usize,
    end: usize,
    /// TLS may still hold something.
    flushing: bool,
    boundary: Boundary,
}

/// A replication connection.
#[derive(Debug)]
pub struct Replication {
    /// The client.
    pub stream: Stream,
    server: Box<Server>,
    place: Place,
    handle: Arc<ClientHandle>,
    worker: Rc<Worker>,
    _presence: Presence,
    to_server: Lane,
    to_client: Lane,
    /// Commands that are not answered yet.
    owed: usize,
    /// Data flows both ways until one side ends it.
    streams: bool,
    /// The client's last message was Terminate.
    leaving: bool,
    /// The server's last message was an error: nothing need be added when it hangs up.
    explained: bool,
}

impl Replication {
    /// A connection that is logged in on both sides; its stream is still the handshake's. `sent` is what the client has
    /// sent behind its login.
    #[must_use]
    pub fn new(
        worker: &Rc<Worker>,
        handle: &Arc<ClientHandle>,
        place: Place,
        server: Box<Server>,
        presence: Presence,
        sent: &[u8],
    ) -> Self {
        let mut new = Self {
            stream: Stream::Plain(Socket::Closed),
            server,
            place,
            handle: Arc::clone(handle),
            worker: Rc::clone(worker),
            _presence: presence,
            to_server: Lane::default(),
            to_client: Lane::default(),
            owed: 0,
            streams: false,
            leaving: false,
            explained: false,
        };
        let mut lent = buffer::lend();
        if let Some(room) = lent.get_mut(..sent.len()).filter(|room| !room.is_empty()) {
            room.copy_from_slice(sent);
            (new.to_server.lent, new.to_server.end) = (Some(lent), sent.len());
        }
        new
    }

    /// Its user.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.place.pool().key.user
    }

    /// The database it asked for.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.place.pool().key.database
    }

    /// Passes bytes until either side is gone. The answer says how it ended, for the log.
    pub async fn run(mut self) -> &'static str {
        self.handle.working_on(&self.server.identity);
        let end = self.pass().await;
        self.handle.not_working();
        let (reason, last) = match end {
            End::Gone => ("client left", None),
            End::ServerLost => ("server lost", (!self.explained && !self.leaving).then_some(ClientError::SessionLost)),
            End::Fault(error) => ("refused", Some(error)),
        };
        let Self { mut stream, mut server, place, worker, to_server, to_client, owed, .. } = self;
        if owed > 0 {
            // it is at work: a cancel lets it hear that we hang up
            let _ = server.pipeline.push(Owed::Query(Reply::Swallow));
        }
        if !to_server.boundary.is_between() || to_server.lent.is_some() {
            server.out = Some(buffer::lend_growing()); // half a message has been sent, or is not sent yet
        }
        worker.see_through(async move {
            hang_up(server).await;
            drop(place);
        });
        if let Some(error) = last {
            let (client, sqlstate) = (self.handle.id, error.code());
            tracing::info!(client, %sqlstate, %error, "replication ended");
            let goodbye = async {
                // nothing can follow half a message, not even an error
                if to_client.boundary.is_between() && to_client.lent.is_none() && !to_client.flushing {
                    let mut out = Vec::new();
                    error.write_fatal(&mut out);
                    let _ = stream.write_all(&out).await;
                }
                stream.close().await;
            };
            let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
        }
        reason
    }

    async fn pass(&mut self) -> End {
        let sent = self.to_server.lent.take();
        if let Some(sent) = &sent
            && let Err(end) = self.read_client(sent.get(..self.to_server.end).unwrap_or_default())
        {
            return end;
        }
        self.to_server.lent = sent;
        poll_fn(|cx| {
            self.handle.listen(cx);
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| self.poll_pass(cx)).await
    }

    fn poll_pass(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..TURN {
            if self.handle.has_any() && self.handle.has(Signal::Suspend) && self.is_between() {
                self.handle.be_still();
                return self.heed_signals().map_or_else(Poll::Ready, |()| Poll::Pending);
            }
            let moved = match self.poll_server(cx).and_then(|moved| Ok(self.poll_client(cx)? | moved)) {
                Ok(moved) => moved,
                Err(end) => return Poll::Ready(end),
            };
            if let Err(end) = self.heed_signals() {
                return Poll::Ready(end);
            }
            if !moved {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether nothing is held back, in either direction.
    fn is_between(&self) -> bool {
        let empty = |lane: &Lane| lane.lent.is_none() && !lane.flushing && lane.boundary.is_between();
        empty(&self.to_client) && empty(&self.to_server)
    }

    /// How much may be read now, in a direction: while suspended what ends the message that has begun, for a stream hardly ever
    /// pauses between two.
    fn room(&self, lane: &Lane) -> usize {
        match self.handle.has_any() && self.handle.has(Signal::Suspend) {
            true => lane.boundary.left().min(buffer::SIZE),
            false => buffer::SIZE,
        }
    }

    /// From the server to the client; `true` when anything moved.
    fn poll_server(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = false;
        if self.to_client.lent.is_none() && !self.to_client.flushing {
            let room = self.room(&self.to_client);
            if room == 0 {
                return Ok(false);
            }
            let mut lent = buffer::lend();
            let read = match self.server.stream.poll_read(cx, lent.get_mut(..room).unwrap_or_default()) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(read)) if read > 0 => read,
                Poll::Ready(_) => return Err(End::ServerLost),
            };
            self.read_server(lent.get(..read).unwrap_or_default())?;
            self.to_client.hold(lent, read);
            moved = true;
        }
        match self.to_client.poll_send(&mut self.stream, cx) {
            Ok(sent) => Ok(moved | sent),
            Err(_) => Err(End::Gone),
        }
    }

    /// From the client to the server; `true` when anything moved.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = false;
        if self.to_server.lent.is_none() && !self.to_server.flushing {
            let room = self.room(&self.to_server);
            if room == 0 {
                return Ok(false);
            }
            let mut lent = buffer::lend();
            let read = match self.stream.poll_read(cx, lent.get_mut(..room).unwrap_or_default()) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(read)) if read > 0 => read,
                Poll::Ready(_) => return Err(End::Gone),
            };
            self.read_client(lent.get(..read).unwrap_or_default())?;
            if self.server.deaf {
                return Ok(true);
            }
            self.to_server.hold(lent, read);
            moved = true;
        }
        match self.to_server.poll_send(&mut self.server.stream, cx) {
            Ok(sent) => Ok(moved | sent),
            Err(_) => {
                // what it still has to say is read
                self.server.deaf = true;
                self.to_server.give_up();
                Ok(true)
            }
        }
    }

    fn read_server(&mut self, bytes: &[u8]) -> Result<(), End> {
        let read = self.to_client.boundary.advance(bytes, |tag| {
            self.explained = tag == b'E';
            match tag {
                b'W' => self.streams = true,
                b'Z' => (self.streams, self.owed) = (false, self.owed.saturating_sub(1)),
                _ => {}
            }
        });
        read.map_err(|_| End::ServerLost)
    }

    fn read_client(&mut self, bytes: &[u8]) -> Result<(), End> {
        let read = self.to_server.boundary.advance(bytes, |tag| match tag {
            b'Q' | b'S' | b'F' => self.owed += 1,
            b'X' => self.leaving = true,
            _ => {}
        });
        read.map_err(|error| End::Fault(error.into()))
    }

    /// A stream never ends by itself: a shutdown ends it between two messages. A command that is being answered, such as a
    /// base backup, may finish, as a running query may.
    fn heed_signals(&self) -> Result<(), End> {
        if !self.handle.has_any() {
            return Ok(());
        }
        self.handle.clear(Signal::Cancel);
        self.handle.clear(Signal::Expired);
        self.handle.tell(|| Levels { client: self.to_server.level(), server: self.to_client.level() });
        let between = self.to_client.boundary.is_between() && self.to_client.lent.is_none();
        let idle = (self.owed == 0 || self.streams) && between;
        if let Some(error) = self.handle.ends_now() {
            return Err(End::Fault(error));
        }
        if self.handle.has(Signal::Goodbye) && idle {
            return Err(End::Fault(ClientError::ShuttingDown));
        }
        Ok(())
    }
}

impl Lane {
    fn level(&self) -> Level {
        let (received, sent) = if self.lent.is_some() { (self.end, self.start) } else { (0, 0) };
        let unsent = received.saturating_sub(sent);
        Level { received, seen: received, message_left: self.boundary.left(), sent, unsent }
    }

    fn hold(&mut self, lent: Lent, end: usize) {
        (self.lent, self.start, self.end) = (Some(lent), 0, end);
    }

    /// Drops what is held: nobody takes it.
    fn give_up(&mut self) {
        (self.lent, self.flushing) = (None, false);
    }

    /// Sends what is held; `true` when any of it went.
    fn poll_send(&mut self, to: &mut Stream, cx: &mut Context<'_>) -> std::io::Result<bool> {
        let mut moved = false;
        while let Some(lent) = &self.lent {
            let rest = lent.get(self.start..self.end).unwrap_or_default();
            if rest.is_empty() {
                (self.lent, self.flushing) = (None, to.is_tls());
                break;
            }
            match to.poll_write(cx, rest)? {
                Poll::Pending => return Ok(moved),
                Poll::Ready(0) => return Err(std::io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => (self.start, moved) = (self.start + written, true),
            }
        }
        if self.flushing && to.poll_flush(cx)?.is_ready() {
            (self.flushing, moved) = (false, true);
        }
        Ok(moved)
    }
}
