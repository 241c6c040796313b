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
mod tests {
    use super::*;
    use Reply::{Forward, Swallow};
    use proptest::prelude::*;

    fn ready(pipeline: &mut Pipeline, status: u8) -> Result<Receipt, Desync> {
        pipeline.receive(b'Z', Some(status))
    }

    fn with(owed: impl IntoIterator<Item = Owed>) -> Pipeline {
        let mut pipeline = Pipeline::new();
        for one in owed {
            pipeline.push(one).unwrap();
        }
        pipeline
    }

    #[test]
    fn a_message_nobody_is_owed_is_a_desync() {
        for tag in *b"123CDGHIKRTVWZcdnstv" {
            assert_eq!(Pipeline::new().receive(tag, Some(b'I')), Err(Desync { tag }));
        }
        assert_eq!(with([Owed::Bind(Forward)]).receive(b'1', None), Err(Desync { tag: b'1' }));
        assert_eq!(with([Owed::Sync(Forward)]).receive(b'D', None), Err(Desync { tag: b'D' }));
        assert_eq!(ready(&mut with([Owed::Execute(Forward), Owed::Sync(Forward)]), b'I'), Err(Desync { tag: b'Z' }));
        assert_eq!(ready(&mut with([Owed::Sync(Forward)]), b'X'), Err(Desync { tag: b'Z' }));
    }

    #[test]
    fn it_is_not_settled_at_the_first_of_two_readies() {
        let mut pipeline = with([Owed::Query(Forward), Owed::Query(Forward)]);
        assert_eq!(ready(&mut pipeline, b'I'), Ok(Receipt::Ready));
        assert_eq!(pipeline.status(), b'I');
        assert!(!pipeline.settled());
        assert_eq!(ready(&mut pipeline, b'I'), Ok(Receipt::Ready));
        assert!(pipeline.settled());
    }

    #[test]
    fn answers_without_a_sync_do_not_settle_a_batch() {
        let mut pipeline = with([Owed::Execute(Forward)]);
        pipeline.receive(b'C', None).unwrap();
        assert!(pipeline.quiet() && !pipeline.settled(), "its work is not committed");
        pipeline.push(Owed::Sync(Forward)).unwrap();
        ready(&mut pipeline, b'I').unwrap();
        assert!(pipeline.settled());
    }

    #[test]
    fn an_error_skips_to_the_sync_even_over_a_simple_query() {
        let mut pipeline = with([
            Owed::Parse { id: 7, serial: 4, reply: Forward },
            Owed::Bind(Forward),
            Owed::Query(Forward),
            Owed::Sync(Forward),
            Owed::Query(Forward),
        ]);
        assert_eq!(pipeline.receive(b'E', None), Ok(Receipt::Forward));
        assert_eq!(pipeline.take_events().collect::<Vec<_>>(), [Event::NotParsed(7), Event::Failed(4)]);
        assert_eq!(ready(&mut pipeline, b'I'), Ok(Receipt::Ready));
        assert_eq!(pipeline.readies(), 1);
    }

    #[test]
    fn an_error_before_the_sync_was_sent_skips_what_is_sent_until_then() {
        let mut pipeline = with([Owed::Execute(Forward)]);
        pipeline.receive(b'E', None).unwrap();
        assert!(!pipeline.settled());
        pipeline.push(Owed::Query(Forward)).unwrap();
        pipeline.push(Owed::Close { id: 3, reply: Swallow }).unwrap();
        assert_eq!(pipeline.take_events().collect::<Vec<_>>(), [Event::NotClosed(3)]);
        assert_eq!(pipeline.readies(), 0);
        pipeline.push(Owed::Sync(Forward)).unwrap();
        assert_eq!(ready(&mut pipeline, b'E'), Ok(Receipt::Ready));
        assert!(pipeline.settled());
    }

    #[test]
    fn a_local_answer_waits_for_its_turn_and_an_error_takes_it_away() {
        let mut pipeline = with([Owed::Execute(Forward), Owed::Local(Local::ParseComplete, 0), Owed::Sync(Forward)]);
        assert_eq!(pipeline.due(), None);
        let mut failed = pipeline.clone();
        pipeline.receive(b'C', None).unwrap();
        assert_eq!(pipeline.due(), Some(Local::ParseComplete));
        assert!(!pipeline.has_edits());
        failed.receive(b'E', None).unwrap();
        assert_eq!(failed.due(), None);
        assert!(!failed.has_edits());
    }

    #[test]
    fn a_request_made_to_fail_is_answered_with_our_error_unless_an_earlier_one_failed() {
        let ours = || Owed::FailAs(b"ours".to_vec().into());
        let mut pipeline = with([ours(), Owed::Sync(Forward)]);
        assert_eq!(pipeline.receive(b'E', None), Ok(Receipt::Replace(b"ours".to_vec().into())));
        let mut pipeline = with([Owed::Bind(Forward), ours(), Owed::Sync(Forward)]);
        assert_eq!(pipeline.receive(b'E', None), Ok(Receipt::Forward));
        assert_eq!(with([ours()]).receive(b'2', None), Err(Desync { tag: b'2' }));
    }

    #[test]
    fn copy_data_sent_ahead_ends_its_copy_and_a_late_copy_done_is_nothing() {
        let mut ahead = with([Owed::Query(Forward), Owed::CopyEnd, Owed::Query(Forward)]);
        ahead.receive(b'G', None).unwrap();
        assert!(!ahead.reads_copy());
        ahead.receive(b'C', None).unwrap();
        ready(&mut ahead, b'I').unwrap();
        assert_eq!(ahead.len(), 1);

        let mut refused = with([Owed::Query(Forward), Owed::CopyEnd]);
        refused.receive(b'E', None).unwrap();
        ready(&mut refused, b'I').unwrap();
        assert!(refused.settled());
        refused.push(Owed::CopyEnd).unwrap();
        assert!(refused.settled());
    }

    #[test]
    fn while_the_server_reads_copy_data_a_sync_is_ignored_and_a_query_is_refused() {
        let mut pipeline = with([Owed::Execute(Forward)]);
        pipeline.receive(b'G', None).unwrap();
        pipeline.push(Owed::Sync(Forward)).unwrap();
        assert_eq!(pipeline.readies(), 0);
        assert_eq!(pipeline.push(Owed::Query(Forward)), Err(InCopy));
        pipeline.push(Owed::CopyEnd).unwrap();
        pipeline.push(Owed::Sync(Forward)).unwrap();
        pipeline.receive(b'C', None).unwrap();
        ready(&mut pipeline, b'I').unwrap();
        assert!(pipeline.settled());
    }

    #[test]
    fn a_failed_prefix_takes_the_clients_query_with_it() {
        let mut pipeline = Pipeline::new();
        pipeline.begin_prefix();
        for owed in [Owed::Bind(Swallow), Owed::Execute(Reply::PrefixEnd), Owed::Query(Forward)] {
            pipeline.push(owed).unwrap();
        }
        assert_eq!(pipeline.receive(b'E', None), Ok(Receipt::PrefixFailed));
        assert!(pipeline.skipping());
        assert_eq!(pipeline.readies(), 0);
        assert!(!pipeline.has_edits());
    }

    /// A client's message, and whether the model server fails it.
    #[derive(Clone, Debug)]
    enum Step {
        Parse(bool),
        Bind(bool),
        Describe(bool),
        Execute { rows: u8, fails: bool },
        Local,
        Query { rows: u8, fails: bool },
        Sync,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            any::<bool>().prop_map(Step::Parse),
            any::<bool>().prop_map(Step::Bind),
            any::<bool>().prop_map(Step::Describe),
            (0..3u8, any::<bool>()).prop_map(|(rows, fails)| Step::Execute { rows, fails }),
            Just(Step::Local),
            (0..3u8, any::<bool>()).prop_map(|(rows, fails)| Step::Query { rows, fails }),
            Just(Step::Sync),
        ]
    }

    fn succeeding(mut step: Step) -> Step {
        match &mut step {
            Step::Parse(fails) | Step::Bind(fails) | Step::Describe(fails) => *fails = false,
            Step::Execute { fails, .. } | Step::Query { fails, .. } => *fails = false,
            Step::Local | Step::Sync => {}
        }
        step
    }

    /// What PostgreSQL answers to `steps`, message by message, and what a direct client would have read: the same, with
    /// the answers to `Step::Local` in their places.
    fn model(steps: &[Step]) -> (Vec<u8>, Vec<u8>) {
        let (mut server, mut direct, mut skipping) = (Vec::new(), Vec::new(), false);
        for step in steps {
            let said: &[u8] = match step {
                Step::Sync => {
                    skipping = false;
                    b"Z"
                }
                _ if skipping => b"",
                Step::Parse(fails) | Step::Bind(fails) | Step::Describe(fails) | Step::Execute { fails, .. }
                    if *fails =>
                {
                    skipping = true;
                    b"E"
                }
                Step::Parse(_) => b"1",
                Step::Bind(_) => b"2",
                Step::Describe(_) => b"tT",
                Step::Execute { rows, .. } => [b"C" as &[u8], b"DC", b"DDC"][usize::from(*rows)],
                Step::Query { rows, fails: false } => [b"CZ" as &[u8], b"TDCZ", b"TDDCZ"][usize::from(*rows)],
                Step::Query { .. } => b"EZ",
                Step::Local => {
                    direct.push(b'l');
                    b""
                }
            };
            server.extend(said);
            direct.extend(said);
        }
        (server, direct)
    }

    fn owed_for(step: &Step) -> Owed {
        match step {
            Step::Parse(_) => Owed::Parse { id: 0, serial: 0, reply: Forward },
            Step::Bind(_) => Owed::Bind(Forward),
            Step::Describe(_) => Owed::DescribeStatement,
            Step::Execute { .. } => Owed::Execute(Forward),
            Step::Local => Owed::Local(Local::ParseComplete, 0),
            Step::Query { .. } => Owed::Query(Forward),
            Step::Sync => Owed::Sync(Forward),
        }
    }

    proptest! {
        #[test]
        fn the_client_reads_what_a_direct_client_would_however_sending_and_answering_interleave(
            mut steps in prop::collection::vec(step(), 1..40),
            schedule in prop::collection::vec(any::<bool>(), 400),
        ) {
            steps.push(Step::Sync);
            let (server, direct) = model(&steps);
            // how many answers exist once so many steps have been sent
            let available: Vec<usize> = (0..=steps.len()).map(|n| model(&steps[..n]).0.len()).collect();
            let (mut sent, mut answered, mut read) = (0, 0, Vec::new());
            let mut pipeline = Pipeline::new();
            let mut schedule = schedule.into_iter();
            while answered < server.len() || sent < steps.len() {
                let answer = schedule.next().unwrap_or(false) || sent == steps.len();
                if answer && answered < available[sent] {
                    let tag = server[answered];
                    answered += 1;
                    let receipt = pipeline.receive(tag, Some(b'I')).unwrap();
                    prop_assert!(matches!(receipt, Receipt::Forward | Receipt::Ready));
                    read.push(tag);
                } else if sent < steps.len() {
                    pipeline.push(owed_for(&steps[sent])).unwrap();
                    sent += 1;
                }
                while pipeline.due().is_some() {
                    read.push(b'l');
                }
            }
            prop_assert_eq!(String::from_utf8(read), String::from_utf8(direct));
            prop_assert!(pipeline.settled());
            prop_assert_eq!(pipeline.readies(), 0);
            prop_assert!(!pipeline.has_edits());
        }

        #[test]
        fn an_answer_left_out_is_never_taken_for_settled(
            mut steps in prop::collection::vec(step().prop_map(succeeding), 1..20),
            lost in any::<prop::sample::Index>(),
        ) {
            steps.push(Step::Sync);
            steps.push(Step::Query { rows: 1, fails: false });
            let (server, _) = model(&steps);
            let mut pipeline = with(steps.iter().map(owed_for));
            let lost = lost.index(server.len());
            // A lost row or tag inside a query, or a lost answer in front of an error, cannot be told by anybody.
            prop_assume!(matches!(server[lost], b'1' | b'2' | b't' | b'Z') && !server.contains(&b'E'));
            let mut clean = true;
            for (_, tag) in server.iter().enumerate().filter(|(at, _)| *at != lost) {
                while pipeline.due().is_some() {}
                if pipeline.receive(*tag, Some(b'I')).is_err() {
                    clean = false;
                    break;
                }
            }
            prop_assert!(!clean || !pipeline.settled());
        }

        #[test]
        fn no_server_can_make_it_panic(
            steps in prop::collection::vec(step(), 0..20),
            said in prop::collection::vec(any::<(u8, u8)>(), 0..60),
        ) {
            let mut pipeline = with(steps.iter().map(owed_for));
            for (tag, first) in said {
                let tag = b"123ACDEGHINSTVWZcdnst"[usize::from(tag) % 21];
                while pipeline.due().is_some() {}
                if pipeline.receive(tag, Some(first)).is_err() {
                    break;
                }
            }
        }
    }
}
