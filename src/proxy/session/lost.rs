//! A transaction whose server went away, or never came: what the client is told until it ends it.
//!
//! The rules were chosen by playing them to eleven drivers (ARCHITECTURE.md, "When a server goes away"): the
//! application must never believe in a commit that did not happen. So COMMIT is an error and ends the block, a savepoint
//! may be rolled back to (frameworks that swallow an inner error would otherwise lose the outer work in silence), and
//! everything else is 40001, which retry loops look for.
//!
//! A block that began with nobody to serve it ([`LostBlock::unserved`]) repeats why. While nothing has been refused in it, it
//! is empty, and its COMMIT is what COMMIT of an empty block is.

use super::Session;
use super::run::End;
use crate::protocol::frame::{HEADER_LEN, Scan, scan_client, split_cstr};
use crate::protocol::messages;
use crate::proxy::error::ClientError;
use crate::sql::deallocate::Deallocate;
use crate::sql::opening::Opening;

/// A block without a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostBlock {
    /// What its statements are told.
    error: ClientError,
    /// Nothing has been asked in it: there is nothing to lose.
    empty: bool,
    /// The application's own error had failed it before: PostgreSQL would have said the same.
    failed_before: bool,
    /// The last statement rolled back to a savepoint: its RELEASE may follow.
    at_savepoint: bool,
    /// What the status is: `E`, or `T` at a savepoint; `I` when the block is over.
    pub status: u8,
    /// What the portal that is bound would run.
    bound: Ending,
}

/// How a statement opens, and whether another block follows the one that it ends (`AND CHAIN`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    opening: Opening,
    chains: bool,
    /// Nothing follows that runs as well.
    alone: bool,
}

impl Ending {
    /// Of a statement's text.
    #[must_use]
    pub fn of(sql: &[u8]) -> Self {
        let opening = Opening::of(sql);
        let ends = matches!(opening, Opening::Commit | Opening::Rollback);
        let mut words = sql.split(|byte| !byte.is_ascii_alphabetic()).filter(|word| !word.is_empty()).rev();
        let chain = ends && words.next().is_some_and(|word| word.eq_ignore_ascii_case(b"chain"));
        let chains = chain && words.next().is_some_and(|word| word.eq_ignore_ascii_case(b"and"));
        Self { opening, chains, alone: ends && !super::request::is_several(sql) }
    }

    /// Whether it is a COMMIT, and nothing but that.
    #[must_use]
    pub fn commits_alone(self) -> bool {
        self.opening == Opening::Commit && self.alone && !self.chains
    }
}

impl From<Opening> for Ending {
    fn from(opening: Opening) -> Self {
        Self { opening, chains: false, alone: false }
    }
}

/// The answer to one statement of such a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// CommandComplete with this tag.
    Done(&'static str),
    /// An error.
    Refused(ClientError),
}

impl LostBlock {
    /// A block that had this status when its server went.
    #[must_use]
    pub const fn new(status: u8) -> Self {
        Self {
            error: ClientError::BlockLost,
            empty: false,
            failed_before: status == b'E',
            at_savepoint: false,
            status: b'E',
            bound: Ending { opening: Opening::Other, chains: false, alone: false },
        }
    }

    /// One that has just begun, and has no server because of this.
    #[must_use]
    pub fn unserved(error: ClientError) -> Self {
        Self { error, empty: true, status: b'T', ..Self::new(b'T') }
    }

    /// The block is over, or another one like it begins.
    fn ends(&mut self, tag: &'static str, chains: bool) -> Answer {
        if chains {
            *self = Self::unserved(self.error.clone());
        } else {
            self.status = b'I';
        }
        Answer::Done(tag)
    }

    /// Answers a statement that opens like this.
    pub fn answer(&mut self, statement: impl Into<Ending>) -> Answer {
        let Ending { opening, chains, alone: _ } = statement.into();
        let was_at_savepoint = std::mem::take(&mut self.at_savepoint);
        let was_empty = std::mem::take(&mut self.empty);
        match opening {
            Opening::Rollback => self.ends("ROLLBACK", chains),
            Opening::Commit if was_empty => self.ends("COMMIT", chains),
            Opening::Commit if self.failed_before => self.ends("ROLLBACK", chains),
            Opening::PrepareTransaction if self.failed_before => self.ends("ROLLBACK", false),
            Opening::Commit | Opening::PrepareTransaction => {
                self.status = b'I';
                Answer::Refused(self.error.clone())
            }
            // one that a server has never seen has no savepoint
            Opening::RollbackTo if self.error == ClientError::BlockLost && !was_empty => {
                self.failed_before = false;
                self.at_savepoint = true;
                self.status = b'T';
                Answer::Done("ROLLBACK")
            }
            Opening::Release if was_at_savepoint => {
                self.status = b'T';
                Answer::Done("RELEASE")
            }
            _ => {
                self.status = b'E';
                let error = if self.failed_before { ClientError::BlockFailed } else { self.error.clone() };
                Answer::Refused(error)
            }
        }
    }

    /// Whether parsing such a statement is accepted: only what ends or rewinds the block.
    const fn parses(&self, opening: Opening) -> bool {
        opening.exits_block() || matches!(opening, Opening::Release) && self.at_savepoint
    }
}

impl Session {
    /// Answers what the client has sent, as far as it is whole, in the place of the server that is gone. `true` when the
    /// block is over.
    pub(super) fn answer_lost(&mut self, lost: &mut LostBlock) -> Result<bool, End> {
        loop {
            let rest = self.inbox.bytes();
            let Scan::Header { tag, body_len } = scan_client(rest).map_err(ClientError::from)? else {
                return Ok(false);
            };
            let total = HEADER_LEN + usize::try_from(body_len).unwrap_or(usize::MAX - HEADER_LEN);
            let here = total.min(rest.len());
            if total > rest.len() && here < super::inbox::HOLD_MAX {
                return Ok(false);
            }
            let body = rest.get(HEADER_LEN..here).unwrap_or_default().to_vec();
            self.inbox.consume(here);
            self.scanned = 0;
            self.discard_left = total - here;
            if tag == b'X' {
                return Err(End::Gone);
            }
            if self.skip_to_sync && tag != b'S' {
                if self.discard_left > 0 {
                    return Ok(false);
                }
                continue;
            }
            self.answer_one(lost, tag, &body);
            if lost.status == b'I' && matches!(tag, b'Q' | b'S' | b'F') {
                return Ok(true);
            }
            if self.discard_left > 0 {
                return Ok(false);
            }
        }
    }

    /// Whether it is a `DEALLOCATE` that needs no server, and answered: a driver may send one as soon as a savepoint is rolled back to.
    fn deallocates(&mut self, lost: &LostBlock, body: &[u8]) -> bool {
        if lost.status != b'T' {
            return false;
        }
        let tag = match Deallocate::of(split_cstr(body).map_or(body, |(sql, _)| sql)) {
            Some(Deallocate::All) => {
                self.names.clear();
                "DEALLOCATE ALL"
            }
            Some(Deallocate::Name(name)) if self.names.named(&name).is_some() => {
                self.names.remove(&name);
                self.names.settled();
                "DEALLOCATE"
            }
            _ => return false,
        };
        self.count_own_ready(b'T');
        self.outbox.append(|out| {
            messages::message(out, b'C', |body| messages::cstr(body, tag.as_bytes()));
            out.extend_from_slice(&messages::ready_for_query(b'T'));
        });
        true
    }

    fn answer_one(&mut self, lost: &mut LostBlock, tag: u8, body: &[u8]) {
        let opening_of = |session: &Self, name: &[u8]| match session.names.named(name) {
            Some(statement) => Ending::of(statement.sql()),
            None => Opening::Other.into(),
        };
        let answer = match tag {
            b'Q' if self.deallocates(lost, body) => None,
            b'Q' => Some(lost.answer(Ending::of(split_cstr(body).map_or(body, |(sql, _)| sql)))),
            b'E' => Some(lost.answer(lost.bound)),
            b'F' => Some(lost.answer(Opening::Other)),
            b'P' => {
                let sql = split_cstr(body).map_or(&b""[..], |(_, sql)| sql);
                lost.bound = Ending::of(sql);
                if lost.parses(lost.bound.opening) {
                    self.outbox.append(|out| out.extend_from_slice(&messages::PARSE_COMPLETE));
                    None
                } else {
                    Some(lost.answer(Opening::Other))
                }
            }
            b'B' => {
                let name = split_cstr(body).and_then(|(_, rest)| Some(split_cstr(rest)?.0)).unwrap_or_default();
                if !name.is_empty() {
                    lost.bound = opening_of(self, name);
                }
                if lost.parses(lost.bound.opening) {
                    self.outbox.append(|out| messages::message(out, b'2', |_| {}));
                    None
                } else {
                    Some(lost.answer(Opening::Other))
                }
            }
            b'D' => {
                if body.first() == Some(&b'S') {
                    self.outbox.append(|out| messages::message(out, b't', |body| body.extend([0, 0])));
                }
                self.outbox.append(|out| messages::message(out, b'n', |_| {}));
                None
            }
            b'C' => {
                if let Some((name, _)) = body.get(1..).and_then(split_cstr).filter(|_| body.first() == Some(&b'S')) {
                    self.names.remove(name);
                    self.names.settled();
                }
                self.outbox.append(|out| out.extend_from_slice(&messages::CLOSE_COMPLETE));
                None
            }
            b'S' => {
                self.skip_to_sync = false;
                self.count_own_ready(lost.status);
                self.outbox.append(|out| out.extend_from_slice(&messages::ready_for_query(lost.status)));
                None
            }
            _ => None,
        };
        match answer {
            Some(Answer::Done(tag)) => {
                self.outbox.append(|out| messages::message(out, b'C', |body| messages::cstr(body, tag.as_bytes())));
            }
            Some(Answer::Refused(error)) => {
                self.count_own_error(&error);
                self.outbox.append(|out| error.write(out));
                self.skip_to_sync = !matches!(tag, b'Q' | b'F');
            }
            None => return,
        }
        if matches!(tag, b'Q' | b'F') {
            self.count_own_ready(lost.status);
            self.outbox.append(|out| out.extend_from_slice(&messages::ready_for_query(lost.status)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: Answer = Answer::Refused(ClientError::BlockLost);

    #[test]
    fn an_unserved_block_is_empty_until_something_is_refused_in_it() {
        let full = || Answer::Refused(ClientError::QueryWait);
        let mut block = LostBlock::unserved(ClientError::QueryWait);
        assert_eq!((block.status, block.answer(Opening::Commit), block.status), (b'T', Answer::Done("COMMIT"), b'I'));
        for end in [Opening::Commit, Opening::PrepareTransaction] {
            let mut block = LostBlock::unserved(ClientError::QueryWait);
            for statement in [Opening::Other, Opening::Savepoint, Opening::RollbackTo, Opening::Release] {
                assert_eq!((block.answer(statement), block.status), (full(), b'E'));
            }
            assert_eq!((block.answer(end), block.status), (full(), b'I'));
        }
        let mut block = LostBlock::unserved(ClientError::QueryWait);
        assert_eq!((block.answer(Opening::PrepareTransaction), block.status), (full(), b'I'));
    }

    #[test]
    fn what_is_chained_to_a_lost_block_is_a_block_that_is_lost_as_well() {
        let chains = |sql: &str| Ending::of(sql.as_bytes());
        for (sql, is) in
            [("rollback and chain", true), ("ABORT WORK AND CHAIN ;", true), ("commit and no chain", false)]
        {
            assert_eq!(chains(sql).chains, is, "{sql}");
        }
        let mut block = LostBlock::new(b'T');
        assert_eq!((block.answer(chains("commit and chain")), block.status), (LOST, b'I'));
        let mut block = LostBlock::new(b'T');
        assert_eq!((block.answer(chains("rollback and chain")), block.status), (Answer::Done("ROLLBACK"), b'T'));
        assert_eq!((block.answer(Opening::RollbackTo), block.status), (LOST, b'E'));
        assert_eq!((block.answer(Opening::Commit), block.status), (LOST, b'I'));
    }

    #[test]
    fn a_commit_of_a_lost_block_is_an_error_and_ends_it() {
        let mut block = LostBlock::new(b'T');
        assert_eq!(block.answer(Opening::Other), LOST);
        assert_eq!(block.status, b'E');
        assert_eq!(block.answer(Opening::Commit), LOST);
        assert_eq!(block.status, b'I');
    }

    #[test]
    fn a_savepoint_may_be_rolled_back_to_and_released_once_and_the_block_stays_lost() {
        let mut block = LostBlock::new(b'T');
        assert_eq!((block.answer(Opening::RollbackTo), block.status), (Answer::Done("ROLLBACK"), b'T'));
        assert_eq!((block.answer(Opening::Release), block.status), (Answer::Done("RELEASE"), b'T'));
        assert_eq!((block.answer(Opening::Release), block.status), (LOST, b'E'));
        assert_eq!((block.answer(Opening::Commit), block.status), (LOST, b'I'));
    }

    #[test]
    fn a_block_that_had_failed_by_itself_ends_as_in_postgresql() {
        let mut block = LostBlock::new(b'E');
        assert_eq!(block.answer(Opening::Other), Answer::Refused(ClientError::BlockFailed));
        assert_eq!((block.answer(Opening::Commit), block.status), (Answer::Done("ROLLBACK"), b'I'));
        let mut block = LostBlock::new(b'E');
        block.answer(Opening::RollbackTo);
        assert_eq!(block.answer(Opening::Commit), LOST);
    }
}
