//! Who owes which reply: the one account of everything that was asked of a server connection and not yet answered.
//!
//! The session [`push`](Pipeline::push)es an entry for each message it sends (or answers itself, in its turn) and asks
//! [`receive`](Pipeline::receive) what to do with each message that comes back. A message nobody is owed is a
//! [`Desync`]: the connection's state is no longer known and it must be closed. Only a [`settled`](Pipeline::settled)
//! pipeline at ReadyForQuery `I` makes a connection fit for another client.
//!
//! The rules are PostgreSQL's (PROTOCOL-FLOW-EXT-QUERY, PROTOCOL-FLOW-PIPELINING, PROTOCOL-COPY): after an error in the
//! extended protocol everything up to a Sync is skipped, simple queries included; while the server reads COPY data it
//! ignores Sync and Flush; CopyData, CopyDone and CopyFail outside of a COPY are ignored.
//!
//! Not here: bytes, buffers, which statement is prepared where (`proxy/server/statements.rs` learns that from
//! [`Event`]s).

use std::collections::VecDeque;

use super::messages;

/// Who gets a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The client asked for it.
    Forward,
    /// howdah asked for it and keeps it.
    Swallow,
    /// As [`Reply::Swallow`], and it completes the state prefix in front of a client's first message.
    PrefixEnd,
}

/// An answer howdah gives itself when its turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// The statement is prepared on this server already.
    ParseComplete,
    /// The statement stays on this server, for others.
    CloseComplete,
}

/// Which change of the client's own statement names rides on a reply; 0 for none.
pub type Serial = u32;

/// One thing that is owed, in the order it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owed {
    /// ParseComplete for the statement howdah knows as `id` (0: one it does not track).
    Parse {
        /// Which statement.
        id: u64,
        /// Which change of a name depends on it.
        serial: Serial,
        /// For whom.
        reply: Reply,
    },
    /// BindComplete.
    Bind(Reply),
    /// ParameterDescription, then RowDescription or NoData.
    DescribeStatement,
    /// RowDescription or NoData.
    DescribePortal,
    /// Rows, COPY, and CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute(Reply),
    /// CloseComplete for the statement `id` (0: a portal, or a statement howdah does not track).
    Close {
        /// Which statement.
        id: u64,
        /// For whom.
        reply: Reply,
    },
    /// ReadyForQuery.
    Sync(Reply),
    /// Anything, and ReadyForQuery.
    Query(Reply),
    /// CommandComplete, whose tag becomes this one, and ReadyForQuery: another query was sent in the place of the client's.
    QueryAs {
        /// What the client reads.
        tag: &'static str,
        /// Which change of a name depends on it.
        serial: Serial,
    },
    /// FunctionCallResponse, and ReadyForQuery.
    Function,
    /// Nothing; marks where data for a COPY ends, or would have ended.
    CopyEnd,
    /// Nothing from the server; howdah answers. The second is the change of a name that depends on it.
    Local(Local, Serial),
    /// An error, to be replaced by this whole message: the request was sent in a form that cannot succeed, so that the
    /// server's transaction fails as it would have in PostgreSQL.
    FailAs(Box<[u8]>),
}

impl Owed {
    const fn ends_in_ready(&self) -> bool {
        matches!(self, Self::Sync(_) | Self::Query(_) | Self::QueryAs { .. } | Self::Function)
    }
}

/// What to do with a message from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// The client's.
    Forward,
    /// Nobody's but howdah's.
    Swallow,
    /// The client gets this whole message instead.
    Replace(Box<[u8]>),
    /// ReadyForQuery for the client.
    Ready,
    /// ReadyForQuery for howdah.
    ReadySwallowed,
    /// The state prefix is committed; the client's own messages run from here.
    PrefixDone,
    /// The state prefix failed; the server skips the client's messages.
    PrefixFailed,
    /// An error that answers nothing: the server is about to close the connection.
    Unsolicited,
}

/// Something the connection's map of prepared statements must learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The server has it.
    Parsed(u64),
    /// The server does not have it.
    NotParsed(u64),
    /// A Close of it has been answered.
    Closed(u64),
    /// A Close of it was skipped: the server still has it.
    NotClosed(u64),
    /// The message this change of a name came with was skipped: it did not happen.
    Undone(Serial),
    /// The Parse this change of a name came with failed: the name stands for nothing.
    Failed(Serial),
}

/// The server said something nobody is owed. Its connection must not be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("server message {:?} answers nothing that was asked", char::from(*.tag))]
pub struct Desync {
    /// The message's tag.
    pub tag: u8,
}

/// A message that may not be sent now; PostgreSQL would end the session over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("only COPY data may be sent while the server reads it")]
pub struct InCopy;

/// Whether data of a COPY flows, and which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copy {
    No,
    /// The server reads.
    In,
    /// The server writes.
    Out,
    /// Both: replication.
    Both,
}

/// The account of one server connection.
#[derive(Clone, Debug)]
pub struct Pipeline {
    owed: VecDeque<Owed>,
    /// Entries in `owed` that end in ReadyForQuery.
    readies: usize,
    /// Entries in `owed` that make the client's bytes differ from the server's.
    edits: usize,
    /// The server skips everything up to a Sync that has not been sent yet.
    skipping: bool,
    /// Messages of the extended protocol have been sent and their Sync has not: what they did is not committed.
    open_batch: bool,
    copy: Copy,
    /// The status of the last ReadyForQuery.
    status: u8,
    /// The head's ParameterDescription has come, its row description has not.
    described: bool,
    /// A state prefix has been pushed and neither ended nor failed.
    prefix: bool,
    events: Vec<Event>,
}

impl Default for Pipeline {
    fn default() -> Self {
        Self {
            owed: VecDeque::new(),
            readies: 0,
            edits: 0,
            skipping: false,
            open_batch: false,
            copy: Copy::No,
            status: b'I',
            described: false,
            prefix: false,
            events: Vec::new(),
        }
    }
}

impl Pipeline {
    /// Nothing asked, nothing owed, outside a block: as after login.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The status of the last ReadyForQuery: `I` outside a block, `T` in one, `E` in a failed one.
    #[must_use]
    pub const fn status(&self) -> u8 {
        self.status
    }

    /// Whether every reply has come. Together with status `I` this is what makes the connection fit for others.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.owed.is_empty() && !self.skipping && !self.open_batch && matches!(self.copy, Copy::No)
    }

    /// Whether a batch of the extended protocol waits for its Sync.
    #[must_use]
    pub const fn has_open_batch(&self) -> bool {
        self.open_batch
    }

    /// Whether nothing is owed right now, although the batch may still be open (its Sync not sent).
    #[must_use]
    pub fn quiet(&self) -> bool {
        self.owed.is_empty()
    }

    /// How many ReadyForQuery are owed.
    #[must_use]
    pub const fn readies(&self) -> usize {
        self.readies
    }

    /// How many replies are owed, of any kind.
    #[must_use]
    pub fn len(&self) -> usize {
        self.owed.len()
    }

    /// What is owed, in the order it was asked.
    pub fn owed(&self) -> impl Iterator<Item = &Owed> {
        self.owed.iter()
    }

    /// Whether nothing is owed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Whether what the client reads may differ from what the server sends next.
    #[must_use]
    pub const fn has_edits(&self) -> bool {
        self.edits > 0
    }

    /// Whether the server waits for COPY data.
    #[must_use]
    pub const fn reads_copy(&self) -> bool {
        matches!(self.copy, Copy::In | Copy::Both)
    }

    /// Whether the server skips whatever it gets until a Sync.
    #[must_use]
    pub const fn skipping(&self) -> bool {
        self.skipping
    }

    /// Whether a state prefix is on its way: nothing beyond the client's first turn may be sent.
    #[must_use]
    pub const fn prefix_open(&self) -> bool {
        self.prefix
    }

    /// What the statement map must learn, oldest first.
    pub fn take_events(&mut self) -> impl Iterator<Item = Event> {
        self.events.drain(..)
    }

    /// Whether [`Self::take_events`] has something.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// A state prefix follows, up to an entry with [`Reply::PrefixEnd`].
    pub fn begin_prefix(&mut self) {
        self.prefix = true;
    }

    /// Accounts for a message that is about to be sent (or answered locally).
    ///
    /// # Errors
    /// [`InCopy`] when the server reads COPY data and this is no part of it.
    pub fn push(&mut self, owed: Owed) -> Result<(), InCopy> {
        if !self.reads_copy() {
            self.open_batch = match owed {
                // skipped with the rest of the batch
                Owed::Query(_) | Owed::QueryAs { .. } | Owed::Function if self.skipping => true,
                Owed::Sync(_) | Owed::Query(_) | Owed::QueryAs { .. } | Owed::Function => false,
                Owed::CopyEnd => self.open_batch,
                _ => true,
            };
        }
        if self.skipping {
            if !matches!(owed, Owed::Sync(_)) {
                self.note_dropped(&owed);
                return Ok(());
            }
            self.skipping = false;
        }
        if self.reads_copy() {
            return match owed {
                Owed::Sync(_) => Ok(()), // ignored by the server
                Owed::CopyEnd => {
                    self.copy = if self.copy == Copy::Both { Copy::Out } else { Copy::No };
                    Ok(())
                }
                _ => Err(InCopy),
            };
        }
        if matches!(owed, Owed::CopyEnd) && self.owed.is_empty() {
            return Ok(()); // ignored by the server: its COPY is over
        }
        self.readies += usize::from(owed.ends_in_ready());
        self.edits += usize::from(edits(&owed));
        self.owed.push_back(owed);
        Ok(())
    }

    /// The local answer whose turn it is, if it is one's turn.
    pub fn due(&mut self) -> Option<Local> {
        let Some(Owed::Local(local, _)) = self.owed.front() else { return None };
        let local = *local;
        self.pop();
        Some(local)
    }

    /// Makes every ReadyForQuery that is still owed howdah's own.
    pub fn swallow_readies(&mut self) {
        for owed in &mut self.owed {
            if let Owed::QueryAs { serial, .. } = owed {
                self.events.push(Event::Undone(*serial)); // it counts as an edit already
                *owed = Owed::Query(Reply::Swallow);
                continue;
            }
            match owed {
                Owed::Sync(reply) if *reply == Reply::Forward => *reply = Reply::Swallow,
                Owed::Query(reply) if *reply == Reply::Forward => *reply = Reply::Swallow,
                _ => continue,
            }
            self.edits += 1;
        }
    }

    /// The server has gone: whatever is still owed has not happened, as far as anybody's names are concerned.
    pub fn abandon(&mut self) {
        while let Some(owed) = self.owed.pop_front() {
            self.note_dropped(&owed);
        }
        (self.readies, self.edits, self.open_batch) = (0, 0, false);
    }

    /// Accounts for a message from the server. `first` is the first byte of its body, which only ReadyForQuery needs.
    ///
    /// # Errors
    /// [`Desync`] when nobody is owed this message now.
    pub fn receive(&mut self, tag: u8, first: Option<u8>) -> Result<Receipt, Desync> {
        let desync = Err(Desync { tag });
        // may come at any time (PROTOCOL-ASYNC)
        if matches!(tag, b'N' | b'S' | b'A') {
            return Ok(Receipt::Forward);
        }
        let Some(head) = self.owed.front() else {
            return if tag == b'E' { Ok(Receipt::Unsolicited) } else { desync };
        };
        match (tag, head) {
            (b'D', Owed::Execute(reply) | Owed::Query(reply)) => Ok(receipt(*reply)),
            (b'd' | b'c', Owed::Execute(reply) | Owed::Query(reply)) if matches!(self.copy, Copy::Out | Copy::Both) => {
                let receipt = receipt(*reply);
                if tag == b'c' {
                    self.copy = if self.copy == Copy::Both { Copy::In } else { Copy::No };
                }
                Ok(receipt)
            }
            (b'C' | b'I' | b's', Owed::Execute(reply)) => {
                let reply = *reply;
                self.copy = Copy::No;
                self.pop();
                if reply == Reply::PrefixEnd {
                    self.prefix = false;
                    return Ok(Receipt::PrefixDone);
                }
                Ok(receipt(reply))
            }
            (b'C' | b'I', Owed::Query(reply)) => {
                self.copy = Copy::No;
                Ok(receipt(*reply))
            }
            (b'T', Owed::Query(reply)) => Ok(receipt(*reply)),
            (b'G' | b'H' | b'W', Owed::Execute(reply) | Owed::Query(reply)) => {
                let receipt = receipt(*reply);
                self.begin_copy(tag).map(|()| receipt)
            }
            (b'Z', Owed::Sync(reply) | Owed::Query(reply)) => {
                let reply = *reply;
                self.ready(first)?;
                Ok(if reply == Reply::Forward { Receipt::Ready } else { Receipt::ReadySwallowed })
            }
            (b'Z', Owed::Function) => {
                self.ready(first)?;
                Ok(Receipt::Ready)
            }
            (b'C', Owed::QueryAs { tag, .. }) => {
                let mut message = Vec::new();
                messages::message(&mut message, b'C', |body| messages::cstr(body, tag.as_bytes()));
                Ok(Receipt::Replace(message.into()))
            }
            (b'E', Owed::QueryAs { serial, .. }) => {
                self.events.push(Event::Undone(*serial));
                Ok(Receipt::Forward)
            }
            (b'Z', Owed::QueryAs { .. }) => {
                self.ready(first)?;
                Ok(Receipt::Ready)
            }
            (b'V', Owed::Function) => Ok(Receipt::Forward),
            (b'1', Owed::Parse { id, reply, .. }) => {
                let (id, reply) = (*id, *reply);
                self.pop();
                if id != 0 {
                    self.events.push(Event::Parsed(id));
                }
                Ok(receipt(reply))
            }
            (b'2', Owed::Bind(reply)) => {
                let reply = *reply;
                self.pop();
                Ok(receipt(reply))
            }
            (b'3', Owed::Close { id, reply }) => {
                let (id, reply) = (*id, *reply);
                self.pop();
                if id != 0 {
                    self.events.push(Event::Closed(id));
                }
                Ok(receipt(reply))
            }
            (b't', Owed::DescribeStatement) if !self.described => {
                self.described = true;
                Ok(Receipt::Forward)
            }
            (b'T' | b'n', Owed::DescribeStatement) if self.described => {
                self.described = false;
                self.pop();
                Ok(Receipt::Forward)
            }
            (b'T' | b'n', Owed::DescribePortal) => {
                self.pop();
                Ok(Receipt::Forward)
            }
            // at a Sync: the implicit transaction failed to commit
            (b'E', Owed::Sync(_) | Owed::Query(_) | Owed::Function) => {
                self.copy = Copy::No;
                Ok(Receipt::Forward)
            }
            (b'E', _) => Ok(self.fail()),
            _ => desync,
        }
    }

    /// The head failed in the extended protocol: everything up to a Sync is skipped.
    fn fail(&mut self) -> Receipt {
        self.copy = Copy::No;
        self.described = false;
        let failed = self.pop();
        match &failed {
            Some(Owed::Parse { id, serial, .. }) => {
                self.events.extend((*id != 0).then_some(Event::NotParsed(*id)));
                self.events.extend((*serial != 0).then_some(Event::Failed(*serial)));
            }
            Some(failed) => self.note_dropped(failed),
            None => {}
        }
        while !matches!(self.owed.front(), None | Some(Owed::Sync(_))) {
            if let Some(dropped) = self.pop() {
                self.note_dropped(&dropped);
            }
        }
        self.skipping = self.owed.is_empty();
        self.open_batch |= self.skipping;
        if std::mem::take(&mut self.prefix) {
            return Receipt::PrefixFailed;
        }
        match failed {
            Some(Owed::FailAs(error)) => Receipt::Replace(error),
            _ => Receipt::Forward,
        }
    }

    fn begin_copy(&mut self, tag: u8) -> Result<(), Desync> {
        self.copy = match tag {
            b'G' => Copy::In,
            b'H' => Copy::Out,
            _ => Copy::Both,
        };
        if tag != b'G' {
            return Ok(());
        }
        // What was sent ahead is read by the COPY: Syncs are ignored, the end of the data ends it, and anything else
        // makes PostgreSQL give up the connection.
        while let Some(ahead) = self.owed.get(1) {
            match ahead {
                Owed::Sync(_) => {
                    self.readies -= 1;
                    self.open_batch |= matches!(self.owed.front(), Some(Owed::Execute(_)));
                }
                Owed::CopyEnd => self.copy = Copy::No,
                _ => return Err(Desync { tag }),
            }
            self.edits -= usize::from(edits(ahead));
            self.owed.remove(1);
            if self.copy == Copy::No {
                break;
            }
        }
        Ok(())
    }

    fn ready(&mut self, status: Option<u8>) -> Result<(), Desync> {
        let Some(status @ (b'I' | b'T' | b'E')) = status else { return Err(Desync { tag: b'Z' }) };
        self.status = status;
        self.copy = Copy::No;
        self.pop();
        Ok(())
    }

    fn pop(&mut self) -> Option<Owed> {
        let popped = self.owed.pop_front();
        if let Some(popped) = &popped {
            self.readies -= usize::from(popped.ends_in_ready());
            self.edits -= usize::from(edits(popped));
        }
        while matches!(self.owed.front(), Some(Owed::CopyEnd)) {
            self.owed.pop_front(); // its COPY never began
        }
        popped
    }

    fn note_dropped(&mut self, owed: &Owed) {
        let (event, serial) = match owed {
            Owed::Parse { id, serial, .. } => ((*id != 0).then_some(Event::NotParsed(*id)), *serial),
            Owed::Close { id, .. } => ((*id != 0).then_some(Event::NotClosed(*id)), 0),
            Owed::Local(_, serial) | Owed::QueryAs { serial, .. } => (None, *serial),
            _ => return,
        };
        self.events.extend(event);
        if serial != 0 {
            self.events.push(Event::Undone(serial));
        }
    }
}

const fn receipt(reply: Reply) -> Receipt {
    match reply {
        Reply::Forward => Receipt::Forward,
        Reply::Swallow | Reply::PrefixEnd => Receipt::Swallow,
    }
}

const fn edits(owed: &Owed) -> bool {
    match owed {
        Owed::Local(..) | Owed::FailAs(_) | Owed::QueryAs { .. } => true,
        Owed::Parse { reply, .. }
        | Owed::Bind(reply)
        | Owed::Execute(reply)
        | Owed::Close { reply, .. }
        | Owed::Sync(reply)
        | Owed::Query(reply) => !matches!(reply, Reply::Forward),
        Owed::DescribeStatement | Owed::DescribePortal | Owed::Function | Owed::CopyEnd => false,
    }
}

#[cfg(test)]
mod tests;
