//! What a session counts, and when.
//!
//! PgBouncer's rules, where it has some: a request is counted by its ReadyForQuery, a transaction by one that says `I`; bytes are
//! those behind the login, Terminate included, as a relay in front of TLS would see them. Unlike PgBouncer's,
//! `query_us` and `xact_us` are what its documentation says: without the wait for a server.
//!
//! The clock is read once when a request begins and once for each read from the server that ends something.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use super::{Loan, Session};
use crate::pg::SqlState;
use crate::protocol::frame::split_cstr;
use crate::proxy::error::ClientError;
use crate::proxy::pool::Pool;
use crate::proxy::server::Server;
use crate::proxy::statements::Statement;
use crate::proxy::tally::block::Block;
use crate::proxy::tally::followed::{self, Followed};
use crate::sql::effects::Effects;
use crate::stats::Totals;

/// What of a session has not been counted to a pool yet.
#[derive(Debug, Default)]
pub struct Tally {
    /// Bytes that came.
    received: u64,
    /// Bytes that went.
    sent: u64,
    /// The time, as far as it was asked for; 0 is not yet.
    now_us: u64,
    /// When the present request was here.
    asked_us: u64,
    /// How long it has waited for its server, until its first turn is sent.
    waited_us: u64,
    /// Since when a transaction runs; 0 is none.
    xact_since_us: u64,
    /// The fingerprint of the simple query that is being accounted for.
    fingerprint: u64,
}

impl Session {
    /// Reads what the client has sent; see [`super::inbox::Inbox::poll_fill`].
    pub(in crate::proxy) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let read = self.inbox.poll_fill(&mut self.stream, cx);
        if let Poll::Ready(Ok(bytes)) = read {
            self.tally.received += bytes as u64;
        }
        read
    }

    /// Sends what the client is owed; see [`super::outbox::Outbox::poll_send`].
    pub(in crate::proxy) fn poll_outbox(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.outbox.poll_send(&mut self.stream, cx, &mut self.tally.sent)
    }

    /// Bytes that came with the login and were not part of it.
    pub(super) const fn came_early(&mut self, bytes: u64) {
        self.tally.received += bytes;
    }

    /// Something has come: whatever time was known is past.
    pub(in crate::proxy) const fn time_passes(&mut self) {
        self.tally.now_us = 0;
    }

    fn now_us(&mut self) -> u64 {
        if self.tally.now_us == 0 {
            self.tally.now_us = self.worker.shared.now_us();
        }
        self.tally.now_us
    }

    /// A request is here.
    pub(super) fn request_begins(&mut self) {
        self.time_passes();
        self.tally.asked_us = self.now_us();
        self.tally.waited_us = 0;
        self.handle.asked_us.store(self.tally.asked_us, Ordering::Relaxed);
    }

    /// It waits for a server.
    pub(super) fn waits_for_server(&self) {
        self.handle.waits_since_us.store(self.tally.asked_us, Ordering::Relaxed);
    }

    fn wait_ends(&mut self, waited: bool) -> u64 {
        if waited {
            self.time_passes();
            self.handle.waits_since_us.store(0, Ordering::Relaxed);
        }
        if waited { self.now_us().saturating_sub(self.tally.asked_us) } else { 0 }
    }

    /// A server is lent, after a wait or at once.
    pub(super) fn server_is_lent(&mut self, pool: &Pool, waited: bool) {
        self.tally.waited_us = self.wait_ends(waited);
        if let Some(block) = pool.blocks.of(self.worker.id) {
            block.server_assignments.raise(1);
            block.wait_us.raise(self.tally.waited_us);
            block.wait.add(self.tally.waited_us);
        }
    }

    /// Looks at the text of a simple query, if it is here as a whole: what it may leave behind is told, what to count it as is
    /// kept.
    pub(super) fn read_text(&mut self, body: Option<&[u8]>) -> Effects {
        let sql = body.map(|body| split_cstr(body).map_or(body, |(sql, _)| sql));
        let (effects, fingerprint) = sql.map_or((Effects::HIDES, 0), |sql| self.worker.classes.read(sql));
        self.tally.fingerprint = fingerprint;
        effects
    }

    /// A message has been accounted for and is being sent.
    pub(super) fn count_message(&mut self, tag: u8, body: &[u8], passes: bool, loan: &Loan, server: &mut Server) {
        let renames = self.renames();
        match tag {
            b'Q' => {
                let sql = split_cstr(body).map_or(body, |(sql, _)| sql);
                let statement = self.follow(sql, self.tally.fingerprint, &loan.pool);
                let (now, waited) = self.turn();
                server.runs.query(Some(statement), now, waited);
            }
            b'F' => {
                let (now, waited) = self.turn();
                server.runs.query(None, now, waited);
            }
            b'S' if passes => {
                let (now, waited) = self.turn();
                server.runs.sync(now, waited);
            }
            b'E' => {
                let now = self.now_us();
                let portal = split_cstr(body).map_or(body, |(portal, _)| portal);
                server.runs.execute(portal, now);
            }
            b'P' => {
                server.runs.client_parses += 1;
                server.runs.parses += u32::from(passes);
                if !renames && let Some((name, definition)) = split_cstr(body) {
                    let sql = split_cstr(definition).map_or(definition, |(sql, _)| sql);
                    let fingerprint = self.worker.classes.fingerprint(sql);
                    let statement = self.follow(sql, fingerprint, &loan.pool);
                    server.runs.prepare(name, statement);
                }
            }
            b'B' => {
                server.runs.binds += 1;
                let names = split_cstr(body).and_then(|(portal, rest)| Some((portal, split_cstr(rest)?.0)));
                if let Some((portal, name)) = names {
                    let statement = if renames { self.named(name, &loan.pool) } else { server.runs.prepared(name) };
                    server.runs.bind(portal, statement);
                }
            }
            _ => {}
        }
    }

    /// A turn is sent: when, and after how long a wait.
    fn turn(&mut self) -> (u64, u64) {
        let now = self.now_us();
        if self.tally.xact_since_us == 0 {
            self.tally.xact_since_us = now;
        }
        (now, std::mem::take(&mut self.tally.waited_us))
    }

    fn follow(&self, sql: &[u8], fingerprint: u64, pool: &Pool) -> Arc<Followed> {
        let (classes, key) = (&self.worker.classes, &pool.key);
        self.worker
            .followers
            .follow(fingerprint, pool.blocks.number, key, || followed::shown(classes, sql, fingerprint))
    }

    fn follow_statement(&self, statement: &Statement, pool: &Pool) -> Arc<Followed> {
        self.follow(statement.sql(), statement.fingerprint(&self.worker.classes), pool)
    }

    /// What a client's name stands for.
    fn named(&self, name: &[u8], pool: &Pool) -> Option<Arc<Followed>> {
        use super::statements::Unnamed;
        if !name.is_empty() {
            return self.names.named(name).map(|statement| self.follow_statement(statement, pool));
        }
        match self.names.unnamed() {
            Unnamed::Once(statement) | Unnamed::Shared(statement) => Some(self.follow_statement(&statement, pool)),
            Unnamed::None | Unnamed::OnServer => None,
        }
    }

    fn block<'a>(&self, loan: &'a Loan) -> Option<&'a Block> {
        loan.pool.blocks.of(self.worker.id)
    }

    /// A command has ended, or paused.
    pub(in crate::proxy) fn count_command(&mut self, tag: u8, server: &mut Server) {
        server.runs.completed(tag == b's', || self.now_us());
    }

    /// A request has been answered by its server.
    pub(in crate::proxy) fn count_ready(&mut self, loan: &Loan, server: &mut Server) {
        let now = self.now_us();
        let took = server.runs.answered(now, server.pipeline.quiet());
        let ends = server.pipeline.status() == b'I';
        let xact_us = if ends { self.xact_ends(now) } else { 0 };
        if let Some(block) = self.block(loan) {
            block.queries.raise(1);
            block.query_us.raise(took.server_us);
            block.server.add(took.server_us);
            block.total.add(took.total_us);
            if took.rows > 0 {
                block.rows.raise(took.rows);
            }
            if ends {
                block.xacts.raise(1);
                block.xact_us.raise(xact_us);
            }
        }
    }

    fn xact_ends(&mut self, now: u64) -> u64 {
        match std::mem::take(&mut self.tally.xact_since_us) {
            0 => 0,
            since => now.saturating_sub(since),
        }
    }

    /// The client is told of an error by its server, or in its place.
    pub(in crate::proxy) fn count_error(&mut self, loan: &Loan, server: &mut Server, code: Option<SqlState>) {
        server.runs.failed(|| self.now_us());
        if let Some(block) = self.block(loan) {
            block.errors.raise(1);
        }
        self.count_code(code);
    }

    fn count_code(&self, code: Option<SqlState>) {
        if let Some(beside) = self.worker.shared.tallies.beside(self.worker.id) {
            beside.count_error(&self.member.database, code);
        }
    }

    fn count_beside(&self, totals: Totals) {
        if let Some(beside) = self.worker.shared.tallies.beside(self.worker.id) {
            beside.count(&self.member.database, totals);
        }
    }

    /// The client is told of an error, and no server is lent to it.
    pub(in crate::proxy) fn count_own_error(&self, error: &ClientError) {
        self.count_beside(Totals { errors: 1, ..Totals::default() });
        self.count_code(Some(error.code()));
    }

    /// A request is answered with this status, and no server is lent.
    pub(in crate::proxy) fn count_own_ready(&mut self, status: u8) {
        let waited = self.handle.waits_since_us.load(Ordering::Relaxed) != 0;
        let wait_us = self.wait_ends(waited);
        let mut totals = Totals { queries: 1, wait_us, ..Totals::default() };
        if status == b'I' {
            self.time_passes();
            let now = self.now_us();
            (totals.xacts, totals.xact_us) = (1, self.xact_ends(now));
        }
        self.count_beside(totals);
    }

    /// Whatever has moved is the pool's.
    pub(in crate::proxy) fn count_volume(&mut self, loan: &Loan, server: &mut Server) {
        let Some(block) = self.block(loan) else { return };
        if self.tally.received > 0 {
            block.received.raise(std::mem::take(&mut self.tally.received));
        }
        if self.tally.sent > 0 {
            block.sent.raise(std::mem::take(&mut self.tally.sent));
        }
        let runs = &mut server.runs;
        if runs.client_parses | runs.parses | runs.binds > 0 {
            block.client_parses.raise(std::mem::take(&mut runs.client_parses).into());
            block.server_parses.raise(std::mem::take(&mut runs.parses).into());
            block.binds.raise(std::mem::take(&mut runs.binds).into());
        }
    }

    /// The session ends: what is left belongs to its database.
    pub(super) fn count_rest(&mut self) {
        let (received, sent) = (std::mem::take(&mut self.tally.received), std::mem::take(&mut self.tally.sent));
        self.count_beside(Totals { received, sent, ..Totals::default() });
    }

    /// A client has logged in.
    pub(in crate::proxy) fn count_login(&self) {
        self.count_beside(Totals { client_logins: 1, ..Totals::default() });
    }
}
