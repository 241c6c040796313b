//! Bringing a server connection to rest when no client listens: after one has vanished, before a doubtful one is lent.
//!
//! Everything the server still owes is read and dropped, except where the caller looks at it on its way; every step is
//! the pipeline's to allow. The caller bounds the time, and closes the connection when this fails.

use std::sync::Arc;
use std::time::Duration;

use super::{Identity, Server, connect};
use crate::net::buffer;
use crate::protocol::frame::{HEADER_LEN, Scan, ready_status, scan_header, split_cstr};
use crate::protocol::messages;
use crate::protocol::pipeline::{Event, Owed, Receipt, Reply};
use crate::proxy::session::naming::NO_STATEMENT;
use crate::proxy::session::settings::{IN_HOT_STANDBY, Interner, Reported};

/// The server cannot be brought to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Restless {
    /// It hung up, or says something nobody has asked for.
    #[error("the server hung up or lost step")]
    Lost,
}

/// Is shown messages on their way out.
pub type Seen<'a> = &'a mut dyn FnMut(u8, &[u8]);

/// Messages whose content matters are waited for up to this size.
const LOOKED_INTO_MAX: usize = 60_000;

/// How long an abandoned request may go on before it is cancelled once more.
const CANCEL_AGAIN: Duration = Duration::from_millis(200);

async fn cancel(identity: &Identity) {
    if identity.cancel_begins() {
        let sent = connect::cancel(identity, None).await;
        identity.cancel_over(sent.is_ok());
    }
}

impl Server {
    /// Asks whether the server is still there, with a Sync of howdah's own. PgBouncer: `server_check_query`.
    ///
    /// # Errors
    /// [`Restless`].
    pub async fn check(&mut self, reported: &Interner<Reported>) -> Result<(), Restless> {
        self.pipeline.push(Owed::Sync(Reply::Swallow)).map_err(|_| Restless::Lost)?;
        self.stream.write_all(&messages::SYNC).await.map_err(|_| Restless::Lost)?;
        self.until_settled(reported, &mut |_, _| {}).await
    }

    /// Ends whatever a client that has gone left behind: its query is cancelled, its COPY ended, its transaction rolled
    /// back. With `discard`, its session too (`DISCARD ALL`).
    ///
    /// # Errors
    /// [`Restless`].
    pub async fn recover(&mut self, discard: bool, reported: &Interner<Reported>) -> Result<(), Restless> {
        self.finish_sending().await?;
        let mut last = Vec::new();
        let busy = !self.pipeline.quiet() && !self.pipeline.reads_copy();
        if busy {
            cancel(&self.identity).await;
        }
        if self.pipeline.reads_copy() {
            messages::message(&mut last, b'f', |body| messages::cstr(body, b"client has gone"));
            self.pipeline.push(Owed::CopyEnd).map_err(|_| Restless::Lost)?;
        }
        self.pipeline.swallow_readies();
        if self.pipeline.has_open_batch() || self.pipeline.skipping() {
            // a Sync alone would commit what the client has not asked to be committed
            messages::bind(&mut last, NO_STATEMENT, &[]);
            self.pipeline.push(Owed::Bind(Reply::Swallow)).map_err(|_| Restless::Lost)?;
            last.extend(messages::SYNC);
            self.pipeline.push(Owed::Sync(Reply::Swallow)).map_err(|_| Restless::Lost)?;
        }
        self.stream.write_all(&last).await.map_err(|_| Restless::Lost)?;
        {
            let identity = Arc::clone(&self.identity);
            let mut ignore = |_: u8, _: &[u8]| {};
            let mut quiet = std::pin::pin!(self.until_quiet_or_copy(reported, &mut ignore));
            // a cancel ends one statement, or comes between two; a pipeline may hold many
            loop {
                match tokio::time::timeout(CANCEL_AGAIN, quiet.as_mut()).await {
                    Ok(done) => break done?,
                    Err(_) if busy => cancel(&identity).await,
                    Err(_) => {}
                }
            }
        }
        if self.pipeline.reads_copy() {
            // a COPY that had been asked for and was only now begun
            return Err(Restless::Lost);
        }
        if self.pipeline.status() != b'I' {
            self.ask(b"ROLLBACK", reported, &mut |_, _| {}).await?;
        }
        if discard {
            self.ask(b"DISCARD ALL", reported, &mut |_, _| {}).await?;
            self.prepared = super::Prepared::default();
            self.unnamed = None;
            self.dirty = None;
        }
        if self.is_settled() && self.pipeline.status() == b'I' { Ok(()) } else { Err(Restless::Lost) }
    }

    /// Runs a query of howdah's own. `seen` is shown the tag and the body of every message that comes meanwhile, as far
    /// as the body is in one piece: of messages up to [`LOOKED_INTO_MAX`] always, unless they are COPY data.
    ///
    /// # Errors
    /// [`Restless`]; an error of the query's is none, and is `seen`.
    pub async fn ask(&mut self, sql: &[u8], reported: &Interner<Reported>, seen: Seen<'_>) -> Result<(), Restless> {
        let mut out = Vec::new();
        messages::query(&mut out, sql);
        self.pipeline.push(Owed::Query(Reply::Swallow)).map_err(|_| Restless::Lost)?;
        self.unnamed = None;
        self.stream.write_all(&out).await.map_err(|_| Restless::Lost)?;
        self.until_settled(reported, seen).await
    }

    /// What was begun has to be sent to its end: a message cut short would swallow the next.
    async fn finish_sending(&mut self) -> Result<(), Restless> {
        if let Some(out) = self.out.take() {
            let rest = out.get(self.out_sent..).unwrap_or_default();
            self.stream.write_all(rest).await.map_err(|_| Restless::Lost)?;
            self.out_sent = 0;
        }
        if self.deaf { Err(Restless::Lost) } else { Ok(()) }
    }

    async fn until_settled(&mut self, reported: &Interner<Reported>, seen: Seen<'_>) -> Result<(), Restless> {
        self.until_quiet_or_copy(reported, seen).await?;
        if self.pipeline.settled() { Ok(()) } else { Err(Restless::Lost) }
    }

    /// Reads and drops until nothing is owed, or the server waits for COPY data.
    async fn until_quiet_or_copy(&mut self, reported: &Interner<Reported>, seen: Seen<'_>) -> Result<(), Restless> {
        let mut lent = buffer::lend();
        let mut filled = self.carry.len();
        lent.get_mut(..filled).ok_or(Restless::Lost)?.copy_from_slice(&self.carry);
        self.carry.clear();
        loop {
            let taken = self.drop_messages(lent.get(..filled).unwrap_or_default(), reported, seen)?;
            lent.copy_within(taken..filled, 0);
            filled -= taken;
            if filled == 0 && self.body_left == 0 && (self.pipeline.quiet() || self.pipeline.reads_copy()) {
                return Ok(());
            }
            let room = lent.get_mut(filled..).filter(|room| !room.is_empty()).ok_or(Restless::Lost)?;
            match self.stream.read(room).await {
                Ok(0) | Err(_) => return Err(Restless::Lost),
                Ok(read) => filled += read,
            }
        }
    }

    /// Accounts for the messages in `bytes`; the answer is how many bytes they took.
    fn drop_messages(
        &mut self,
        bytes: &[u8],
        reported: &Interner<Reported>,
        seen: Seen<'_>,
    ) -> Result<usize, Restless> {
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            if self.body_left > 0 {
                let gone = self.body_left.min(rest.len());
                self.body_left -= gone;
                at += gone;
                if self.body_left > 0 {
                    return Ok(at);
                }
                continue;
            }
            let Ok(scan) = scan_header(rest) else { return Err(Restless::Lost) };
            let Scan::Header { tag, body_len } = scan else { return Ok(at) };
            let total = HEADER_LEN + usize::try_from(body_len).map_err(|_| Restless::Lost)?;
            if total > rest.len() && tag != b'd' {
                match tag {
                    _ if total <= LOOKED_INTO_MAX => return Ok(at),
                    b'Z' | b'S' => return Err(Restless::Lost),
                    _ => {}
                }
            }
            let here = total.min(rest.len());
            let body = rest.get(HEADER_LEN..here).unwrap_or_default();
            match self.pipeline.receive(tag, ready_status(tag, total, rest)) {
                Err(_) | Ok(Receipt::Unsolicited | Receipt::PrefixFailed) => return Err(Restless::Lost),
                // what was to take the unnamed statement's place may have been skipped
                Ok(_) if tag == b'E' => self.unnamed = None,
                Ok(_) if tag == b'S' => self.note_parameter(body, reported).ok_or(Restless::Lost)?,
                Ok(_) => {}
            }
            seen(tag, body);
            while self.pipeline.due().is_some() {}
            self.note_events();
            self.body_left = total - here;
            at += here;
        }
    }

    /// Takes in a ParameterStatus; `None` when it is malformed or one too many.
    pub fn note_parameter(&mut self, body: &[u8], interner: &Interner<Reported>) -> Option<()> {
        let (name, rest) = split_cstr(body)?;
        let (value, _) = split_cstr(rest)?;
        if self.reported.value(name) != Some(value) && name != IN_HOT_STANDBY {
            let mut reported = Reported::clone(&self.reported);
            reported.set(name, value);
            if !reported.is_bounded() {
                return None;
            }
            self.reported = interner.intern(reported);
        }
        Some(())
    }

    /// Tells the statement map what the pipeline has learned. Names are nobody's here.
    fn note_events(&mut self) {
        for event in self.pipeline.take_events() {
            match event {
                Event::Parsed(id) => self.prepared.parsed(id),
                Event::NotParsed(id) => self.prepared.not_parsed(id),
                Event::Closed(id) => self.prepared.closed(id),
                Event::NotClosed(id) => self.prepared.not_closed(id),
                Event::Undone(_) | Event::Failed(_) => {}
            }
        }
    }

    /// Its settings are the login's again.
    pub fn forget_settings(&mut self) {
        self.applied = Arc::clone(&self.startup);
    }
}
