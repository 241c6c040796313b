//! `commit_outcome = "resolve"`: learning the id of a block's transaction, and what became of a COMMIT without an answer.
//!
//! The question travels alone, behind the ReadyForQuery of the block's first write, and while it is on its way nothing of the client's is sent: the server
//! works while the client thinks, and what the client reads is what PostgreSQL says without it. A client whose COMMIT has lost its
//! server is not read until it has its answer. Not here: what may be believed (`proxy/verdict.rs`), what is noted (`outcome.rs`).

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use super::destination::Need;
use super::lost::Ending;
use super::outcome;
use super::run::End;
use super::{Loan, Session};
use crate::config::{CommitOutcome, PoolMode};
use crate::net::buffer;
use crate::protocol::error_response::Severity;
use crate::protocol::frame::{HEADER_LEN, split_cstr};
use crate::protocol::messages;
use crate::protocol::pipeline::{Event, Local, Owed, Reply, Serial};
use crate::proxy::error::ClientError;
use crate::proxy::server::Server;
use crate::proxy::session::naming::{close_statements, parse_statement};
use crate::proxy::session::request::local_message;
use crate::proxy::verdict::{Asked, Doubt, Outcome, Status, Step};
use crate::topology::ClusterBoard;

/// The question, as a Parse message defines it: since PostgreSQL 10, and of 64 bits.
const QUESTION: &[u8] = b"SELECT pg_catalog.txid_current_if_assigned()\0\0\0";
/// A portal of its own: the unnamed one may be suspended, and the client's.
const PORTAL: &[u8] = b"howdah_xid";
/// The largest row that answers it.
pub(in crate::proxy) const ROW_MAX: usize = 64;
/// How often it is looked whether there is something new to know.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A COMMIT without an answer.
#[derive(Debug)]
pub struct InDoubt {
    /// What decides; `None` where there is nothing to commit.
    doubt: Option<Doubt>,
    /// What the client reads if it is done.
    done: Vec<u8>,
    /// The changes of names that are undone if it is not.
    undone: Vec<Serial>,
    board: Arc<ClusterBoard>,
}

impl Session {
    /// Whether its COMMITs are not to stay in doubt.
    pub(in crate::proxy) fn resolves(&self) -> bool {
        let profile = &self.member.profile;
        profile.commit_outcome == CommitOutcome::Resolve && profile.mode == PoolMode::Transaction
    }

    /// Notes what a message does for the open block.
    pub(super) fn note_sent(&self, tag: u8, body: &[u8], total: usize, loan: &mut Loan, server: &Server) {
        let runs = match tag {
            _ if HEADER_LEN + body.len() != total => None,
            b'Q' => Some(Ending::of(split_cstr(body).map_or(body, |(sql, _)| sql))),
            b'B' if self.renames() => split_cstr(body)
                .and_then(|(_, rest)| Some(split_cstr(rest)?.0))
                .and_then(|name| self.known_text(name, Ending::of)),
            _ => None,
        };
        loan.block.sends(tag, server.pipeline.settled(), runs);
    }

    /// ReadyForQuery has come: asks for the transaction's id, if that is wanted and nothing else is on its way.
    pub(in crate::proxy) fn ask_xid(&mut self, loan: &mut Loan, server: &mut Server) -> Result<(), End> {
        let status = server.pipeline.status();
        loan.block.is_ready(status);
        let may = loan.block.wants_to_ask()
            && status == b'T'
            && server.pipeline.settled()
            && server.out.is_none()
            && !server.deaf
            && loan.visit.as_ref().is_none_or(|visit| visit.at.is_none())
            && !server.identity.is_being_cancelled() // it would end the block
            && !self.depends_on(loan);
        if !may {
            return Ok(());
        }
        let internal = |_| End::Fault(ClientError::Internal("the id of a transaction cannot be asked for"));
        let statement = self.worker.statements.statement(&self.worker.shared.statements, QUESTION);
        let need = server.prepared.use_statement(statement.id, self.member.profile.prepared_statements, false);
        let mut out = buffer::lend_growing();
        if need.parse {
            close_statements(server, &mut out, &need.close).map_err(internal)?;
            parse_statement(&mut out, &statement);
            server
                .pipeline
                .push(Owed::Parse { id: statement.id, serial: 0, reply: Reply::Swallow })
                .map_err(internal)?;
        }
        write_question(&mut out, &statement.name);
        let owed = [
            Owed::Bind(Reply::Swallow),
            Owed::Execute(Reply::Swallow),
            Owed::Close { id: 0, reply: Reply::Swallow },
            Owed::Sync(Reply::Swallow),
        ];
        for owed in owed {
            server.pipeline.push(owed).map_err(internal)?;
        }
        server.prepared.next_batch();
        (server.out, server.out_sent) = (Some(out), 0);
        loan.block.asks = true;
        server.asked_in = server.board.as_ref().map_or(0, |board| reign_of(board, &loan.pool.key.node));
        self.handle.not_working(); // a cancel from here on is of nothing that the client has asked
        Ok(())
    }

    /// A message that answers the question.
    ///
    /// # Errors
    /// [`End::ServerLost`] when it was refused: the block has failed, and its client has been told otherwise.
    pub(in crate::proxy) fn hear_xid(
        &self,
        loan: &mut Loan,
        server: &mut Server,
        tag: u8,
        body: &[u8],
    ) -> Result<(), End> {
        match tag {
            b'D' => {
                let Some(xid) = outcome::read_row(body) else { return Err(End::ServerLost) };
                loan.block.learn(xid);
                let asked = server.board.as_ref().map_or(0, |board| board.stamp().asked);
                if server.reign.0 != server.asked_in {
                    server.reign = (server.asked_in, asked);
                }
            }
            b'Z' => {
                loan.block.asks = false;
                self.handle.working_on(&server.identity);
            }
            b'E' => return Err(End::ServerLost), // or its answer is that it ends
            _ => {}
        }
        Ok(())
    }

    /// Whether the server was lost with a COMMIT on its way about which more can be found out. It is answered then, later.
    pub(super) fn is_in_doubt(&mut self, loan: &Loan, server: &Server, readies: usize, open: bool) -> bool {
        let Some(xid) = loan.block.in_doubt().filter(|_| readies == 1 && !open && self.resolves()) else {
            return false;
        };
        let Some(board) = &server.board else { return false };
        let (reign, ready) = server.reign;
        let doubt = xid.map(|xid| Doubt { xid, reign, ready, lost: board.stamp().asked, found: None });
        let mut done = std::mem::take(&mut self.pending); // answers of howdah's own that nothing has taken along yet
        for owed in server.pipeline.owed() {
            answer_as_done(owed, &mut done);
        }
        self.doubt = Some(Box::new(InDoubt { doubt, done, undone: Vec::new(), board: Arc::clone(board) }));
        true
    }

    /// What the pipeline has learned of names by giving up holds only if the COMMIT is not done.
    pub(super) fn hold_events(&mut self, server: &mut Server) {
        let Some(in_doubt) = &mut self.doubt else { return };
        in_doubt.undone.extend(server.pipeline.take_events().filter_map(|event| match event {
            Event::Undone(serial) => Some(serial),
            _ => None,
        }));
    }

    /// Finds out what became of a COMMIT, and tells the client.
    pub(super) async fn resolve(&mut self, mut in_doubt: InDoubt) -> Result<(), End> {
        let now = self.worker.shared.now_ms();
        self.deadlines.end_wait();
        self.deadlines.resolve = super::deadlines::after(now, self.member.profile.timeouts.query_wait);
        let found = Box::pin(self.find_out(&mut in_doubt)).await;
        self.deadlines.resolve = 0;
        self.deadlines.end_wait();
        self.handle.not_working();
        self.arm_if_any();
        let (outcome, end) = match found {
            Ok(outcome) => (outcome, None),
            Err(End::Gone) => return Err(End::Gone),
            // the end of its wait, not of its session
            Err(End::Fault(error)) if error.severity() == Severity::Error => (Outcome::Unknown, None),
            Err(end) => (Outcome::Unknown, Some(end)),
        };
        {
            let (client, user, database) = (self.handle.id, self.user(), self.database());
            let xid = in_doubt.doubt.map(|doubt| doubt.xid);
            tracing::info!(client, user, database, xid, ?outcome, "commit in doubt");
        }
        if outcome != Outcome::Committed {
            in_doubt.undone.iter().for_each(|serial| self.names.undo(*serial));
        }
        match outcome {
            Outcome::Committed => {
                self.names.settled();
                self.count_own_ready(b'I');
                self.outbox.append(|out| out.extend_from_slice(&in_doubt.done));
            }
            Outcome::Lost => self.tell_lost(&ClientError::BlockLost, 1, false, b'I'),
            Outcome::Unknown => self.tell_lost(&ClientError::OutcomeUnknown, 1, false, b'I'),
        }
        end.map_or(Ok(()), Err)
    }

    async fn find_out(&mut self, in_doubt: &mut InDoubt) -> Result<Outcome, End> {
        let Some(doubt) = &mut in_doubt.doubt else { return Ok(Outcome::Committed) };
        let board = Arc::clone(&in_doubt.board);
        loop {
            // nodes are asked at once: standbys for what they have before they are promoted, the primary whether it still is
            let _wish = board.wait_beyond(doubt.found.map_or(doubt.lost, |(_, asked)| asked));
            let step = doubt.next(&board.view());
            match step {
                Step::Tell(outcome) => return Ok(outcome),
                Step::Wait => self.wait_a_moment().await?,
                Step::Ask(whom) => {
                    let Some((status, awaits_standbys)) = self.ask_status(doubt.xid).await? else {
                        self.wait_a_moment().await?;
                        continue;
                    };
                    if let Some(outcome) = doubt.hear(whom, status, awaits_standbys, board.stamp().asked) {
                        return Ok(outcome);
                    }
                    if matches!((whom, status), (Asked::Same, Status::InProgress)) {
                        self.wait_a_moment().await?;
                    }
                }
            }
        }
    }

    /// Waits until it is worth to look again; as any wait it ends with the client, its cancel, or `timeouts.query_wait`.
    async fn wait_a_moment(&mut self) -> Result<(), End> {
        self.begin_wait();
        self.handle.begin_hold();
        let waited = tokio::time::timeout(LOOK_AGAIN, poll_fn(|cx| self.poll_wait_ends(cx))).await;
        self.handle.not_working();
        waited.unwrap_or(Ok(()))
    }

    /// What the primary says of a transaction, and whether its commits wait for standbys. `None` when it was lost meanwhile.
    async fn ask_status(&mut self, xid: u64) -> Result<Option<(Status, bool)>, End> {
        let (pool, _, mut server) = self.obtain(Need::Primary).await?;
        let sql = format!(
            "SELECT pg_catalog.txid_status({xid}), \
             pg_catalog.length(pg_catalog.current_setting('synchronous_standby_names'))"
        );
        let (mut status, mut awaits) = (Status::Untold, true);
        let shared = Arc::clone(&self.worker.shared);
        let mut seen = |tag: u8, body: &[u8]| {
            if tag == b'D'
                && let Some((text, names)) = two_columns(body)
            {
                (status, awaits) = (Status::of(text), names != Some(b"0"));
            }
        };
        let asked =
            tokio::time::timeout(pool.cancel_wait(), server.ask(sql.as_bytes(), &shared.reported, &mut seen)).await;
        if matches!(asked, Ok(Ok(()))) {
            pool.give_back(&self.worker, server);
            Ok(Some((status, awaits)))
        } else {
            pool.discard(&self.worker, server);
            Ok(None)
        }
    }
}

/// The reign of this node, if it is the primary as far as is known; 0 if not.
fn reign_of(board: &ClusterBoard, node: &str) -> u64 {
    board.view().reigns.last().filter(|reign| *reign.node == *node).map_or(0, |reign| reign.number)
}

/// Bind, Execute, Close and Sync of a portal of its own.
fn write_question(out: &mut Vec<u8>, statement: &[u8]) {
    messages::message(out, b'B', |body| {
        messages::cstr(body, PORTAL);
        messages::cstr(body, statement);
        body.extend_from_slice(&[0; 6]);
    });
    messages::message(out, b'E', |body| {
        messages::cstr(body, PORTAL);
        body.extend_from_slice(&[0; 4]);
    });
    messages::message(out, b'C', |body| {
        body.push(b'P');
        messages::cstr(body, PORTAL);
    });
    out.extend_from_slice(&messages::SYNC);
}

/// What the server would have said of a COMMIT that is done.
fn answer_as_done(owed: &Owed, out: &mut Vec<u8>) {
    let complete = |out: &mut Vec<u8>| messages::message(out, b'C', |body| messages::cstr(body, b"COMMIT"));
    match owed {
        Owed::Parse { reply: Reply::Forward, .. } => out.extend_from_slice(&messages::PARSE_COMPLETE),
        Owed::Bind(Reply::Forward) => out.extend_from_slice(&messages::BIND_COMPLETE),
        Owed::DescribeStatement => {
            messages::message(out, b't', |body| body.extend([0, 0]));
            out.extend_from_slice(&messages::NO_DATA);
        }
        Owed::DescribePortal => out.extend_from_slice(&messages::NO_DATA),
        Owed::Execute(Reply::Forward) => complete(out),
        Owed::Close { reply: Reply::Forward, .. } => out.extend_from_slice(&messages::CLOSE_COMPLETE),
        Owed::Local(local @ (Local::ParseComplete | Local::CloseComplete), _) => {
            out.extend_from_slice(local_message(*local))
        }
        Owed::Sync(Reply::Forward) => out.extend_from_slice(&messages::ready_for_query(b'I')),
        Owed::Query(Reply::Forward) => {
            complete(out);
            out.extend_from_slice(&messages::ready_for_query(b'I'));
        }
        _ => {}
    }
}

/// The two values of a row.
fn two_columns(body: &[u8]) -> Option<(Option<&[u8]>, Option<&[u8]>)> {
    let mut rest = body.get(2..)?;
    let mut column = || -> Option<Option<&[u8]>> {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            rest = after;
            return Some(None);
        };
        let (value, after) = after.split_at_checked(length)?;
        rest = after;
        Some(Some(value))
    };
    Some((column()?, column()?))
}
