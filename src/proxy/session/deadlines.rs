//! When a session's patience ends: one time for each timeout that runs, and the nearest of them for the worker.
//!
//! All are milliseconds on [`crate::proxy::shared::Shared::now_ms`]; 0 is "does not run". A configuration without
//! timeouts never reads a clock here.

use std::sync::Arc;
use std::time::Duration;

use super::run::End;
use super::{Loan, Session};
use crate::proxy::cancel;
use crate::proxy::error::ClientError;
use crate::proxy::server::Server;

/// The times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadlines {
    /// `timeouts.client_idle`.
    pub client_idle: u64,
    /// `timeouts.query_wait`.
    pub query_wait: u64,
    /// `timeouts.query_wait_notify`.
    pub wait_notify: u64,
    /// `pool.reserve_timeout`.
    pub reserve: u64,
    /// A wait for a server has begun.
    pub waits: bool,
    /// `timeouts.query_wait` for what became of a COMMIT, however many servers that takes.
    pub resolve: u64,
    /// `timeouts.query`, then `timeouts.cancel_wait` for its cancel.
    pub query: u64,
    /// `timeouts.transaction`.
    pub transaction: u64,
    /// `timeouts.idle_in_transaction`.
    pub idle_in_transaction: u64,
    /// `timeouts.read`: the rest of a message that streams.
    pub read: u64,
    /// `timeouts.write`: the client does not take its results.
    pub write: u64,
}

impl Deadlines {
    /// The nearest, 0 when none runs.
    #[must_use]
    pub fn nearest(&self) -> u64 {
        let all = [
            self.client_idle,
            self.query_wait,
            self.wait_notify,
            self.reserve,
            self.query,
            self.transaction,
            self.idle_in_transaction,
            self.read,
            self.write,
        ];
        all.into_iter().filter(|at| *at != 0).min().unwrap_or(0)
    }

    /// The wait for a server is over, or has not begun.
    pub fn end_wait(&mut self) {
        (self.query_wait, self.wait_notify, self.reserve, self.waits) = (0, 0, 0, false);
    }
}

/// Whether the time has come.
#[must_use]
pub const fn is_over(at: u64, now: u64) -> bool {
    at != 0 && at <= now
}

/// `within` from `now`; 0 when the timeout is off.
#[must_use]
pub fn after(now: u64, within: Option<Duration>) -> u64 {
    within.map_or(0, |within| now.saturating_add(u64::try_from(within.as_millis()).unwrap_or(u64::MAX)).max(1))
}

impl Session {
    /// Tells the worker when the nearest timeout ends.
    pub(in crate::proxy) fn arm(&self) {
        self.worker.set_deadline_ms(&self.handle, self.deadlines.nearest());
    }

    pub(super) fn arm_if_any(&self) {
        if self.handle.deadline_ms() != 0 {
            self.arm();
        }
    }

    /// What follows from a ReadyForQuery for the timeouts.
    pub(in crate::proxy) fn arm_deadline(&mut self, _: &Loan, server: &Server) {
        let timeouts = &self.member.profile.timeouts;
        if timeouts.query.is_none() && timeouts.transaction.is_none() && timeouts.idle_in_transaction.is_none() {
            return;
        }
        let now = self.worker.shared.now_ms();
        let in_block = server.pipeline.status() != b'I';
        self.deadlines.query = if server.pipeline.quiet() { 0 } else { after(now, timeouts.query) };
        self.deadlines.idle_in_transaction =
            if in_block && server.pipeline.quiet() { after(now, timeouts.idle_in_transaction) } else { 0 };
        if !in_block {
            self.deadlines.transaction = 0;
        } else if self.deadlines.transaction == 0 {
            self.deadlines.transaction = after(now, timeouts.transaction);
        }
        self.arm();
    }

    /// Something was sent to the server: its timeouts begin.
    pub(in crate::proxy) fn arm_sent(&mut self, server: &Server, taken: bool) {
        let timeouts = &self.member.profile.timeouts;
        let streams = self.message_left > 0;
        if timeouts.query.is_none()
            && timeouts.idle_in_transaction.is_none()
            && timeouts.transaction.is_none()
            && !streams
            && self.deadlines.read == 0
        {
            return;
        }
        let now = self.worker.shared.now_ms();
        if taken {
            self.deadlines.idle_in_transaction = 0; // part of a message that is held back is nothing yet
        }
        self.deadlines.read = if streams { after(now, timeouts.read) } else { 0 };
        if self.deadlines.query == 0 && !server.pipeline.quiet() {
            self.deadlines.query = after(now, timeouts.query);
        }
        if self.deadlines.transaction == 0 {
            self.deadlines.transaction = after(now, timeouts.transaction);
        }
        self.arm();
    }

    /// The client does, or does not, take what it is sent.
    pub(in crate::proxy) fn arm_write(&mut self, stuck: bool) {
        if stuck == (self.deadlines.write == 0) && self.member.profile.timeouts.write.is_some() {
            let now = self.worker.shared.now_ms();
            self.deadlines.write = if stuck { after(now, self.member.profile.timeouts.write) } else { 0 };
            self.arm();
        }
    }

    pub(super) fn quiet_deadlines(&mut self) {
        if self.deadlines.nearest() != 0 {
            let write = self.deadlines.write;
            self.deadlines = Deadlines { write, ..Default::default() };
            self.arm();
        }
    }

    /// A timeout has run out while a server is lent.
    pub(in crate::proxy) fn heed_deadline(&mut self, loan: &mut Loan, server: &Server) -> Result<(), End> {
        let now = self.worker.shared.now_ms();
        let at = self.deadlines;
        if is_over(at.read, now) {
            if server.out.is_none() {
                return Err(ClientError::Stalled.into());
            }
            // it is the server that does not take what the client has sent
            self.deadlines.read = after(now, self.member.profile.timeouts.read);
        }
        if is_over(at.write, now) {
            return Err(ClientError::SlowReader.into());
        }
        if is_over(at.idle_in_transaction, now) {
            return Err(ClientError::IdleInTransaction.into());
        }
        if is_over(at.transaction, now) {
            return Err(ClientError::TransactionTimeout.into());
        }
        if is_over(at.query, now) {
            if loan.query_expired {
                return Err(ClientError::QueryTimeout.into()); // its cancel has not helped
            }
            (loan.query_expired, loan.expiry_underway) = (true, true);
            if server.identity.cancel_begins() {
                let within = self.member.profile.timeouts.cancel_wait;
                tokio::task::spawn_local(cancel::deliver(Arc::clone(&server.identity), within));
            }
            self.deadlines.query = after(now, Some(loan.pool.cancel_wait()));
        }
        self.arm();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_the_smallest_that_runs() {
        assert_eq!(Deadlines::default().nearest(), 0);
        assert_eq!(Deadlines { query: 9, write: 7, ..Deadlines::default() }.nearest(), 7);
        assert!(!is_over(0, 100) && is_over(100, 100) && !is_over(101, 100));
    }
}
