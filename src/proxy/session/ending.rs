//! A loan that ends otherwise than by giving a settled server back: the client has gone, or the server has.
//!
//! What the client of a lost server is told depends on what was on its way: nothing where nothing was, 40001 inside a block
//! whose COMMIT had not been sent (`lost.rs` goes on from there), 08007 where the outcome cannot be known, or is not found out
//! (`doubt.rs`).

use std::sync::Arc;

use super::lost::LostBlock;
use super::run::End;
use super::visit::Visit;
use super::{Loan, Session};
use crate::protocol::messages;
use crate::proxy::error::ClientError;
use crate::proxy::server::Server;
use crate::sql::effects::Effects;

impl Session {
    /// A loan has ended otherwise than by giving the server back.
    pub(super) async fn end_loan(&mut self, mut loan: Loan, end: End) -> Result<(), End> {
        let Some(server) = loan.server.take() else { return Err(end) };
        match end {
            End::ServerLost => self.server_lost(&loan, server),
            End::Gone | End::Fault(_) => {
                self.recover(&loan, server);
                Err(end)
            }
        }
    }

    /// The client is gone, its server is not: what it left is ended in the background, and the server kept.
    fn recover(&self, loan: &Loan, mut server: Box<Server>) {
        let (pool, worker) = (Arc::clone(&loan.pool), std::rc::Rc::clone(&self.worker));
        if self.message_left > 0 || loan.prefix.is_some() || server.deaf || server.round.is_over() {
            // half a message has been sent; or nothing can be; or it would be closed afterwards
            return pool.discard(&worker, server);
        }
        let effects = loan.pins() | loan.trail.effects();
        if effects.any(Effects::LASTING | Effects::SLOTS) {
            return pool.discard(&worker, server);
        }
        let discard =
            self.is_session_mode() || effects.any(Effects::PINNING.without(Effects::MOVES_SEQUENCE) | Effects::HIDES);
        if effects.any(Effects::SETS) {
            server.dirty = Some(self.handle.id);
        }
        std::rc::Rc::clone(&worker).see_through(async move {
            let shared = Arc::clone(&worker.shared);
            let recovered = tokio::time::timeout(pool.cancel_wait(), server.recover(discard, &shared.reported)).await;
            match recovered {
                Ok(Ok(())) => {
                    if discard {
                        server.forget_settings();
                    }
                    pool.give_back(&worker, server);
                }
                _ => pool.discard(&worker, server),
            }
        });
    }

    /// The server went away. What the client is told depends on what was on its way.
    fn server_lost(&mut self, loan: &Loan, server: Box<Server>) -> Result<(), End> {
        let pipeline = &server.pipeline;
        let status = pipeline.status();
        // the pipeline takes a turn behind a failed prefix for skipped, as it is by a server that lives
        let (readies, open) = if loan.untaken { (1, false) } else { (pipeline.readies(), pipeline.has_open_batch()) };
        // a state prefix that waits for the client's first turn is none of it; nor is a batch that stands open after a
        // statement was prepared (asyncpg's way), whose client expects nothing now
        // what is owed is howdah's own question
        let (readies, open) = if loan.block.asks { (0, false) } else { (readies, open) };
        let idle = loan.block.asks || pipeline.quiet() && !loan.untaken && !(open && loan.acts) || !loan.used;
        let half_told = server.is_half_told();
        // given up, as it has refused what others are waiting behind
        let refused = loan.visit.as_ref().is_some_and(|visit| visit.refused);
        if !refused {
            let (node, user, database) = (&*loan.pool.key.node, &*loan.pool.key.user, &*loan.pool.key.database);
            let server_pid = server.identity.pid;
            let said =
                loan.fatal.as_deref().map(|fields| crate::protocol::error_response::ServerError::read(fields).text());
            tracing::warn!(client = self.handle.id, node, user, database, server_pid, said, "server went away");
        }
        // at the primary something else may have followed
        let only_reads = |visit: &&Visit| visit.at.is_some() || !visit.unkept;
        let asks_again = status == b'I' && !half_told && !self.depends_on(loan);
        let visit = loan.visit.as_ref().filter(only_reads).filter(|_| asks_again);
        let mut server = server;
        let reads = visit.is_some_and(|_| !idle);
        if let Some(visit) = visit {
            self.pending.clear();
            self.reads_lost(visit, &mut server, readies, open);
        }
        let resolves = !idle
            && !half_told
            && !loan.untaken
            && status == b'T'
            && !self.depends_on(loan)
            && self.is_in_doubt(loan, &server, readies, open);
        // asked again they are not undone: `ask_again` has seen to them
        server.pipeline.abandon();
        if resolves {
            self.hold_events(&mut server);
        } else {
            self.note_events(&mut server);
        }
        loan.pool.discard(&self.worker, server);
        let rest_of_message = std::mem::take(&mut self.message_left);
        self.discard_left += rest_of_message;
        self.pending.clear();
        if half_told {
            return Err(End::Gone); // nothing can follow half a message
        }
        if reads || resolves {
            return Ok(());
        }
        if self.depends_on(loan) {
            let error = match &loan.fatal {
                Some(fields) => ClientError::ServerRefused(fields.clone()),
                None => ClientError::SessionLost,
            };
            if idle || status != b'I' && !loan.commits {
                return Err(error.into());
            }
            // that its outcome is in doubt must not be lost behind the end of the session
            self.tell_lost(&ClientError::OutcomeUnknown, readies, open, b'I');
            self.session_lost = Some(error);
            return Ok(());
        }
        // its beginning and what follows are on their way, its end is not
        let begun = status == b'I' && loan.begins && !loan.rested && !idle;
        if (status != b'I' || begun) && (!loan.commits || loan.untaken) {
            let mut lost = LostBlock::new(if begun { b'T' } else { status });
            if !idle {
                // the statement that was running learns it; what was pipelined behind it likewise
                self.tell_lost(&ClientError::BlockLost, readies, open, b'E');
                lost.status = b'E';
            }
            self.lost = Some(lost);
            return Ok(());
        }
        if !idle {
            // a block that only reads has nothing to commit
            let reads = loan.visit.as_ref().is_some_and(|visit| visit.block);
            let nothing = reads || !loan.acts || loan.untaken;
            let error = if nothing { ClientError::BlockLost } else { ClientError::OutcomeUnknown };
            self.tell_lost(&error, readies, open, b'I');
        }
        Ok(())
    }

    /// Answers every turn that was on its way with an error.
    pub(super) fn tell_lost(&mut self, error: &ClientError, readies: usize, open: bool, status: u8) {
        for _ in 0..readies {
            self.count_own_error(error);
            self.count_own_ready(status);
            self.outbox.append(|out| {
                error.write(out);
                out.extend_from_slice(&messages::ready_for_query(status));
            });
        }
        if open {
            self.count_own_error(error);
            self.outbox.append(|out| error.write(out));
            self.skip_to_sync = true;
            self.scanned = 0;
        }
    }
}
