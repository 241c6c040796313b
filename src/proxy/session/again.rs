//! A batch that failed because of what howdah prepared earlier is sent once more, and its client never knows.
//!
//! Two errors are howdah's rather than the client's: a shared statement that is not on the server any more (26000: somebody
//! deallocated it there), and a plan whose result has other columns than when it was made (0A000). PostgreSQL's own client
//! would see neither if it had just prepared the statement itself. A batch may be sent again only if it is whole, is the
//! first of its loan, was sent outside a block, and nothing of its answer has been passed on; after other columns only if
//! it asks for their description as well, or the client would read rows by an old one.
//!
//! Not here: reads that are asked of another node (`visit.rs`).

use super::inbox::Inbox;
use super::{Loan, Session};
use crate::net::buffer::Growing;
use crate::pg::SqlState;
use crate::protocol::error_response::ServerError;
use crate::proxy::server::Server;

/// How far a loan's first batch is from being sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Again {
    /// Nothing of it has been sent yet.
    #[default]
    Unsent,
    /// It may be sent again; the server keeps its bytes. Whether it asks for a description.
    Kept {
        /// Whether it does.
        described: bool,
    },
    /// It has failed, and is sent again as soon as the server has come to its Sync.
    Due,
    /// Not any more.
    Never,
}

/// What of a batch matters here, gathered while it is sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch {
    /// It uses a statement that servers hold under a shared name.
    pub shared: bool,
    /// It asks for a description.
    pub described: bool,
    /// It gives names: sent again it would find them taken.
    pub names: bool,
    /// Turns that ended in it.
    pub turns: u32,
    /// It ends with a Sync.
    pub ends_in_sync: bool,
}

impl Batch {
    /// Takes in one message that is being sent; `replaced`: under another name than the client's.
    pub fn note(&mut self, tag: u8, body: &[u8], replaced: bool) {
        self.shared |= tag == b'B' && replaced;
        self.described |= tag == b'D';
        self.names |= tag == b'P' && body.first() != Some(&0);
        self.turns += u32::from(matches!(tag, b'Q' | b'S' | b'F'));
        self.ends_in_sync = tag == b'S';
    }
}

impl Loan {
    /// The loan's first bytes are on their way: keeps them when they are a batch that could be sent again.
    pub(super) fn keep_batch(&mut self, batch: Batch, bytes: &[u8], server: &mut Server) {
        if self.again != Again::Unsent || bytes.is_empty() {
            return;
        }
        self.again = Again::Never;
        let whole = batch.ends_in_sync && batch.turns == 1;
        if batch.shared && whole && !batch.names && server.pipeline.status() == b'I' {
            if self.visit.is_none() {
                server.kept.clear();
                server.kept.push(bytes, 0); // what is sent to a replica is kept anyway
            }
            self.again = Again::Kept { described: batch.described };
        }
    }

    /// Something of the answer goes to the client.
    pub(in crate::proxy) const fn is_answered(&mut self) {
        if let Again::Kept { .. } = self.again {
            self.again = Again::Never;
        }
    }
}

impl Session {
    /// Whether this error is howdah's own, and the batch is sent again instead of telling the client.
    pub(in crate::proxy) fn takes_again(&mut self, loan: &mut Loan, server: &mut Server, error: &ServerError) -> bool {
        let Again::Kept { described } = loan.again else { return false };
        let vanished = error.code == Some(SqlState::INVALID_SQL_STATEMENT_NAME);
        // what has been sent behind it would overtake it
        let ours = vanished || error.stale_plan && described;
        if !ours || server.pipeline.len() != 1 {
            return false;
        }
        loan.again = Again::Due;
        server.prepared.distrust();
        server.pipeline.swallow_readies();
        self.pending.clear(); // answers of howdah's own to the same batch
        true
    }

    /// The failed batch has come to its end: it goes back to where it came from.
    pub(in crate::proxy) fn send_again(&mut self, loan: &mut Loan, server: &mut Server) {
        if loan.again == Again::Due {
            loan.again = Again::Never;
            server.runs.forget();
            let mut bytes = server.kept.take();
            bytes.extend_from_slice(self.inbox.bytes());
            self.inbox = Inbox::holding(bytes);
            // as before it was sent
            (loan.used, loan.turn_sent) = (false, false);
            loan.trail = super::Trail::default();
        }
    }
}

/// Whether nothing stands in front of `at` for the client.
#[must_use]
pub fn is_first(made: Option<&Growing>, run: usize, at: usize) -> bool {
    at == run && made.is_none_or(|made| made.is_empty())
}
