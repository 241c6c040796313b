//! Names of prepared statements, the client's on one side and the shared ones on the other.
//!
//! Parse, Bind, Describe and Close of a statement say the client's name; what goes to the server says the name under which
//! all servers know the statement (`proxy/statements.rs`), with a Parse in front where this one does not have it yet. A
//! Parse of what the server has is answered from memory, in its turn.
//!
//! Where howdah has to refuse one message of a batch, the server is made to fail at that place (a Bind of a statement
//! that cannot exist) and its error replaced: its transaction then fails as PostgreSQL's would have.

use std::sync::Arc;

use super::inbox::HOLD_MAX;
use super::request::{Outgoing, Way, may_commit};
use super::run::End;
use super::statements::Unnamed;
use super::{Loan, Session};
use crate::net::buffer::Growing;
use crate::protocol::frame::{HEADER_LEN, split_cstr};
use crate::protocol::messages;
use crate::protocol::pipeline::{InCopy, Local, Owed, Reply};
use crate::proxy::error::ClientError;
use crate::proxy::server::Server;
use crate::proxy::statements::Statement;
use crate::sql::deallocate::Deallocate;
use crate::sql::effects::Effects;
use crate::sql::opening::Opening;

/// A name no statement can have on a server: howdah makes the names there.
pub(in crate::proxy) const NO_STATEMENT: &[u8] = b"howdah_none";

impl Session {
    pub(super) fn parse(
        &mut self,
        body: &[u8],
        total: usize,
        loan: &mut Loan,
        server: &mut Server,
        out: &mut Outgoing<'_>,
        at: usize,
    ) -> Result<Way, InCopy> {
        let Some((name, definition)) = split_cstr(body) else {
            server.pipeline.push(Owed::Parse { id: 0, serial: 0, reply: Reply::Forward })?;
            return Ok(Way::AsIs); // broken: PostgreSQL says how
        };
        let whole = HEADER_LEN + body.len() == total;
        if !whole {
            if name.is_empty() {
                // too large to keep: it lives on this server, as long as nobody replaces it
                loan.trail.note(Effects::HIDES, b"", b"");
                let serial = self.names.change_unnamed(Unnamed::OnServer);
                server.pipeline.push(Owed::Parse { id: 0, serial, reply: Reply::Forward })?;
                server.unnamed = None;
                return Ok(Way::AsIs);
            }
            let name = String::from_utf8_lossy(name).into_owned();
            return fail(server, out, at, ClientError::StatementTooLarge { name, bytes: total, max: HOLD_MAX }, total);
        }
        let statement = self.worker.statements.statement(&self.worker.shared.statements, definition);
        if name.is_empty() {
            // seen for the first time it is not worth a name; empty texts never are
            if !statement.seen_again() || statement.opening == Opening::Empty {
                let id = statement.id;
                let serial = self.names.change_unnamed(Unnamed::Once(statement));
                server.pipeline.push(Owed::Parse { id: 0, serial, reply: Reply::Forward })?;
                server.parses_unnamed(id);
                return Ok(Way::AsIs);
            }
            let serial = self.names.change_unnamed(Unnamed::Shared(Arc::clone(&statement)));
            return self.parse_shared(&statement, serial, server, out, at, total);
        }
        if self.names.named(name).is_some() {
            let name = String::from_utf8_lossy(name).into_owned();
            return fail(server, out, at, ClientError::StatementExists(name), total);
        }
        let serial = self.names.add(name, Arc::clone(&statement));
        self.parse_shared(&statement, serial, server, out, at, total)
    }

    /// The client parses a statement that servers hold under a shared name.
    fn parse_shared(
        &mut self,
        statement: &Arc<Statement>,
        serial: u32,
        server: &mut Server,
        out: &mut Outgoing<'_>,
        at: usize,
        total: usize,
    ) -> Result<Way, InCopy> {
        // Whether a block has failed is only known when nothing is on its way. In a failed one PostgreSQL refuses to
        // parse what would not end it, and so must an answer from memory.
        let known = server.pipeline.readies() == 0;
        if known && server.pipeline.status() == b'E' && !statement.opening.exits_block() {
            self.names.fail(serial);
            return fail(server, out, at, ClientError::BlockFailed, total);
        }
        let max = self.member.profile.prepared_statements;
        let need = server.prepared.use_statement(statement.id, max, !known);
        let made = out.at(at);
        if need.parse {
            close_statements(server, made, &need.close)?;
            parse_statement(made, statement);
            server.runs.parses += 1;
            server.pipeline.push(Owed::Parse { id: statement.id, serial, reply: Reply::Forward })?;
        } else {
            server.pipeline.push(Owed::Local(Local::ParseComplete, serial))?;
        }
        Ok(Way::Replaced(total))
    }

    /// Sees to it that the server has `statement`, in front of a message that uses it.
    fn ensure(&self, statement: &Arc<Statement>, server: &mut Server, made: &mut Growing) -> Result<(), InCopy> {
        let need = server.prepared.use_statement(statement.id, self.member.profile.prepared_statements, false);
        if need.parse {
            close_statements(server, made, &need.close)?;
            parse_statement(made, statement);
            server.runs.parses += 1;
            server.pipeline.push(Owed::Parse { id: statement.id, serial: 0, reply: Reply::Swallow })?;
        }
        Ok(())
    }

    /// Sees to it that the server's unnamed statement is `statement`.
    fn ensure_unnamed(
        &self,
        statement: &Arc<Statement>,
        server: &mut Server,
        out: &mut Outgoing<'_>,
        at: usize,
    ) -> Result<(), InCopy> {
        if !server.holds_unnamed(statement.id) {
            let made = out.at(at);
            messages::message(made, b'P', |body| {
                body.push(0);
                body.extend_from_slice(&statement.definition);
            });
            server.runs.parses += 1;
            server.pipeline.push(Owed::Parse { id: 0, serial: 0, reply: Reply::Swallow })?;
            server.parses_unnamed(statement.id);
        }
        Ok(())
    }

    pub(super) fn bind(
        &mut self,
        body: &[u8],
        total: usize,
        loan: &mut Loan,
        server: &mut Server,
        out: &mut Outgoing<'_>,
        at: usize,
    ) -> Result<Way, End> {
        let in_copy = |_: InCopy| End::Fault(ClientError::InCopy(b'B'));
        let names = split_cstr(body).and_then(|(portal, rest)| Some((portal, split_cstr(rest)?.0)));
        let Some((portal, name)) = names else {
            server.pipeline.push(Owed::Bind(Reply::Forward)).map_err(in_copy)?;
            return Ok(Way::AsIs); // broken: PostgreSQL says how
        };
        let old_names = HEADER_LEN + portal.len() + 1 + name.len() + 1;
        let statement = match self.statement(name) {
            Use::Shared(statement) => statement,
            Use::Unnamed(statement) => {
                loan.copy_bound |= statement.opening == Opening::Copy;
                loan.commits |= may_commit(statement.opening, &statement.definition);
                if let Err(error) = self.notice(statement.effects, statement.sql(), body, loan, server) {
                    return fail(server, out, at, error, total).map_err(in_copy);
                }
                self.ensure_unnamed(&statement, server, out, at).map_err(in_copy)?;
                server.pipeline.push(Owed::Bind(Reply::Forward)).map_err(in_copy)?;
                return Ok(Way::AsIs);
            }
            Use::OnServer => {
                loan.commits = true;
                server.pipeline.push(Owed::Bind(Reply::Forward)).map_err(in_copy)?;
                return Ok(Way::AsIs);
            }
            Use::Missing if loan.may_have_prepared() => {
                loan.commits = true;
                if let Err(error) = self.notice(Effects::HIDES, b"", body, loan, server) {
                    return fail(server, out, at, error, total).map_err(in_copy);
                }
                server.pipeline.push(Owed::Bind(Reply::Forward)).map_err(in_copy)?;
                return Ok(Way::AsIs);
            }
            Use::Missing => return fail(server, out, at, missing(name), total).map_err(in_copy),
        };
        if let Err(error) = self.notice(statement.effects, statement.sql(), body, loan, server) {
            return fail(server, out, at, error, total).map_err(in_copy);
        }
        loan.copy_bound |= statement.opening == Opening::Copy;
        loan.commits |= may_commit(statement.opening, &statement.definition);
        let made = out.at(at);
        self.ensure(&statement, server, made).map_err(in_copy)?;
        let body_len = total - HEADER_LEN - name.len() + statement.name.len();
        messages::header(made, b'B', u32::try_from(body_len).unwrap_or(u32::MAX));
        messages::cstr(made, portal);
        messages::cstr(made, &statement.name);
        server.pipeline.push(Owed::Bind(Reply::Forward)).map_err(in_copy)?;
        Ok(Way::Replaced(old_names))
    }

    pub(super) fn describe(
        &mut self,
        body: &[u8],
        loan: &Loan,
        server: &mut Server,
        out: &mut Outgoing<'_>,
        at: usize,
    ) -> Result<Way, End> {
        let in_copy = |_: InCopy| End::Fault(ClientError::InCopy(b'D'));
        let Some((name, _)) = body.get(1..).and_then(split_cstr) else {
            server.pipeline.push(Owed::DescribeStatement).map_err(in_copy)?;
            return Ok(Way::AsIs); // broken: PostgreSQL says how
        };
        let total = HEADER_LEN + body.len();
        match self.statement(name) {
            Use::Shared(statement) => {
                let made = out.at(at);
                self.ensure(&statement, server, made).map_err(in_copy)?;
                messages::message(made, b'D', |body| {
                    body.push(b'S');
                    messages::cstr(body, &statement.name);
                });
                server.pipeline.push(Owed::DescribeStatement).map_err(in_copy)?;
                Ok(Way::Replaced(total))
            }
            Use::Unnamed(statement) => {
                self.ensure_unnamed(&statement, server, out, at).map_err(in_copy)?;
                server.pipeline.push(Owed::DescribeStatement).map_err(in_copy)?;
                Ok(Way::AsIs)
            }
            Use::OnServer => {
                server.pipeline.push(Owed::DescribeStatement).map_err(in_copy)?;
                Ok(Way::AsIs)
            }
            Use::Missing if loan.may_have_prepared() => {
                server.pipeline.push(Owed::DescribeStatement).map_err(in_copy)?;
                Ok(Way::AsIs)
            }
            Use::Missing => fail(server, out, at, missing(name), total).map_err(in_copy),
        }
    }

    /// Closing a name closes nothing on the server: others may use the statement.
    pub(super) fn close(&mut self, body: &[u8], server: &mut Server) -> Result<Way, InCopy> {
        let Some((name, _)) = body.get(1..).and_then(split_cstr) else {
            server.pipeline.push(Owed::Close { id: 0, reply: Reply::Forward })?;
            return Ok(Way::AsIs); // broken: PostgreSQL says how
        };
        let serial = if name.is_empty() { self.names.change_unnamed(Unnamed::None) } else { self.names.remove(name) };
        server.pipeline.push(Owed::Local(Local::CloseComplete, serial))?;
        Ok(Way::Nowhere)
    }

    /// `DEALLOCATE` and `DISCARD` as a simple query. What was prepared by the protocol stays on the server, for others: the
    /// name is the client's alone.
    pub(super) fn deallocate(
        &mut self,
        sql: &[u8],
        total: usize,
        server: &mut Server,
        out: &mut Outgoing<'_>,
        at: usize,
    ) -> Result<Way, InCopy> {
        match Deallocate::of(sql) {
            Some(Deallocate::Name(name)) if self.names.named(&name).is_some() => {
                let serial = self.names.remove(&name);
                server.pipeline.push(Owed::QueryAs { tag: "DEALLOCATE", serial })?;
                messages::query(out.at(at), HARMLESS);
                return Ok(Way::Replaced(total));
            }
            Some(Deallocate::Name(_)) => {}
            _ => server.prepared.distrust(),
        }
        server.pipeline.push(Owed::Query(Reply::Forward))?;
        Ok(Way::AsIs)
    }

    /// What `look` finds in the text that a client's name stands for.
    pub(super) fn known_text<T>(&self, name: &[u8], look: impl FnOnce(&[u8]) -> T) -> Option<T> {
        match self.statement(name) {
            Use::Shared(statement) | Use::Unnamed(statement) => Some(look(statement.sql())),
            Use::OnServer | Use::Missing => None,
        }
    }

    fn statement(&self, name: &[u8]) -> Use {
        if !name.is_empty() {
            return self.names.named(name).map_or(Use::Missing, |statement| Use::Shared(Arc::clone(statement)));
        }
        match self.names.unnamed() {
            Unnamed::None => Use::Missing,
            Unnamed::Once(statement) => Use::Unnamed(statement),
            Unnamed::Shared(statement) => Use::Shared(statement),
            Unnamed::OnServer => Use::OnServer,
        }
    }
}

/// A statement that does nothing, and fails where any other would: in a failed block.
const HARMLESS: &[u8] = b"UNLISTEN howdah_none";

/// What a client's name means for the server.
enum Use {
    /// Held under its shared name.
    Shared(Arc<Statement>),
    /// Held without a name.
    Unnamed(Arc<Statement>),
    /// Held without a name, and nobody else knows it.
    OnServer,
    /// Nothing.
    Missing,
}

fn missing(name: &[u8]) -> ClientError {
    match name {
        [] => ClientError::NoUnnamedStatement,
        name => ClientError::NoSuchStatement(String::from_utf8_lossy(name).into_owned()),
    }
}

/// Makes the server fail here, so that what it has begun fails with it, and puts `error` in the place of its own.
pub(super) fn fail(
    server: &mut Server,
    out: &mut Outgoing<'_>,
    at: usize,
    error: ClientError,
    total: usize,
) -> Result<Way, InCopy> {
    server.pipeline.push(Owed::FailAs(error.message()))?;
    messages::bind(out.at(at), NO_STATEMENT, &[]);
    Ok(Way::Replaced(total))
}

/// The same in the place of a simple query.
pub(super) fn refuse_query(
    server: &mut Server,
    out: &mut Outgoing<'_>,
    at: usize,
    error: ClientError,
    total: usize,
) -> Result<Way, InCopy> {
    fail(server, out, at, error, total)?;
    server.pipeline.push(Owed::Sync(Reply::Forward))?;
    server.prepared.next_batch();
    out.at(at).extend_from_slice(&messages::SYNC);
    Ok(Way::Replaced(total))
}

pub(super) fn close_statements(server: &mut Server, made: &mut Growing, ids: &[u64]) -> Result<(), InCopy> {
    for &id in ids {
        messages::close_statement(made, &Statement::name_of(id));
        server.pipeline.push(Owed::Close { id, reply: Reply::Swallow })?;
    }
    Ok(())
}

pub(super) fn parse_statement(made: &mut Growing, statement: &Statement) {
    messages::message(made, b'P', |body| {
        messages::cstr(body, &statement.name);
        body.extend_from_slice(&statement.definition);
    });
}
