//! A transaction whose server went away: what the client is told until it ends it.
//!
//! The rules were chosen by playing them to eleven drivers (ARCHITECTURE.md, "When a server goes away"): the
//! application must never believe in a commit that did not happen. So COMMIT is an error and ends the block, a savepoint
//! may be rolled back to (frameworks that swallow an inner error would otherwise lose the outer work in silence), and
//! everything else is 40001, which retry loops look for.

use super::Session;
use super::run::End;
use crate::protocol::frame::{HEADER_LEN, Scan, scan_client, split_cstr};
use crate::protocol::messages;
use crate::proxy::error::ClientError;
use crate::sql::opening::Opening;

/// A block whose server is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostBlock {
    /// The application's own error had failed it before: PostgreSQL would have said the same.
    failed_before: bool,
    /// The last statement rolled back to a savepoint: its RELEASE may follow.
    at_savepoint: bool,
    /// What the status is: `E`, or `T` at a savepoint; `I` when the block is over.
    pub status: u8,
    /// What the portal that is bound would run.
    bound: Opening,
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
        Self { failed_before: status == b'E', at_savepoint: false, status: b'E', bound: Opening::Other }
    }

    /// Answers a statement that opens like this.
    pub fn answer(&mut self, opening: Opening) -> Answer {
        let was_at_savepoint = std::mem::take(&mut self.at_savepoint);
        match opening {
            Opening::Rollback => {
                self.status = b'I';
                Answer::Done("ROLLBACK")
            }
            Opening::Commit | Opening::PrepareTransaction => {
                self.status = b'I';
                if self.failed_before { Answer::Done("ROLLBACK") } else { Answer::Refused(ClientError::BlockLost) }
            }
            Opening::RollbackTo => {
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
                let error = if self.failed_before { ClientError::BlockFailed } else { ClientError::BlockLost };
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

    fn answer_one(&mut self, lost: &mut LostBlock, tag: u8, body: &[u8]) {
        let opening_of = |session: &Self, name: &[u8]| match session.names.named(name) {
            Some(statement) => statement.opening,
            None => Opening::Other,
        };
        let answer = match tag {
            b'Q' => Some(lost.answer(Opening::of(body))),
            b'E' => Some(lost.answer(lost.bound)),
            b'F' => Some(lost.answer(Opening::Other)),
            b'P' => {
                let sql = split_cstr(body).map_or(&b""[..], |(_, sql)| sql);
                lost.bound = Opening::of(sql);
                if lost.parses(lost.bound) {
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
                if lost.parses(lost.bound) {
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
                self.outbox.append(|out| out.extend_from_slice(&messages::CLOSE_COMPLETE));
                None
            }
            b'S' => {
                self.skip_to_sync = false;
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
                self.outbox.append(|out| error.write(out));
                self.skip_to_sync = !matches!(tag, b'Q' | b'F');
            }
            None => return,
        }
        if matches!(tag, b'Q' | b'F') {
            self.outbox.append(|out| out.extend_from_slice(&messages::ready_for_query(lost.status)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: Answer = Answer::Refused(ClientError::BlockLost);

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
