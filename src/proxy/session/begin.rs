//! A transaction's beginning, where it takes more than passing it on; and an end where nothing had begun.
//!
//! A BEGIN changes nothing: one whose server goes away is asked again elsewhere, as is what only prepares statements, and a ROLLBACK
//! or COMMIT outside a block: pools send one with whatever they are given back, and part with a connection where that fails. A BEGIN
//! that has waited for a server in vain is accepted, so that it is the first statement of the block that is refused: there every driver copes, where a BEGIN that fails
//! leaves some in step with nothing (ARCHITECTURE.md, "When a server goes away").
//!
//! Not here: what such a block is told from then on (`lost.rs`).

use super::Session;
use super::lost::LostBlock;
use super::request::is_several;
use crate::protocol::frame::{split_client, split_cstr};
use crate::protocol::messages;
use crate::proxy::error::ClientError;
use crate::sql::opening::Opening;

impl Session {
    /// The text with which the request in the inbox begins, if that is here.
    fn first_text(&self) -> Option<&[u8]> {
        let (tag, body, _) = split_client(self.inbox.bytes())?;
        match tag {
            b'Q' => Some(split_cstr(body).map_or(body, |(sql, _)| sql)),
            b'P' => split_cstr(split_cstr(body)?.1).map(|(sql, _)| sql),
            b'B' => {
                let (name, _) = split_cstr(split_cstr(body)?.1)?;
                Some(self.names.named(name)?.sql())
            }
            _ => None,
        }
    }

    /// What the request opens with, whatever else it does.
    pub(super) fn opening(&self) -> Opening {
        self.first_text().map_or(Opening::Other, Opening::of)
    }

    /// How long the request is if it begins a block and does nothing else; `answer` gets what that is answered with.
    fn lone_begin(&self, mut answer: impl FnMut(&[u8])) -> Option<usize> {
        let length = (self.opening() == Opening::Begin).then(|| self.lone(&mut answer)).flatten()?;
        answer(&messages::BEGUN);
        Some(length)
    }

    /// How long the request is if it is one statement without rows, from its Parse or Bind to its Sync; `answer` gets what comes in
    /// front of its CommandComplete.
    fn lone(&self, mut answer: impl FnMut(&[u8])) -> Option<usize> {
        if is_several(self.first_text()?) {
            return None;
        }
        let data = self.inbox.bytes();
        let (mut rest, mut bound) = (data, false);
        loop {
            let (tag, body, behind) = split_client(rest)?;
            let first = rest.len() == data.len();
            rest = behind;
            match tag {
                b'Q' if first => break,
                // a name that is given here would have to be known from now on
                b'P' if first && body.first() == Some(&0) => answer(&messages::PARSE_COMPLETE),
                b'B' if !bound => {
                    bound = true;
                    answer(&messages::BIND_COMPLETE);
                }
                b'D' if bound && body.first() == Some(&b'P') => answer(&messages::NO_DATA),
                b'E' if bound => {
                    let (b'S', _, behind) = split_client(rest)? else { return None };
                    rest = behind;
                    break;
                }
                _ => return None,
            }
        }
        Some(data.len() - rest.len())
    }

    /// Whether the request, which opens like this outside a block, does nothing that could not be done twice: it begins a block, ends
    /// none, or prepares statements.
    pub(super) fn is_harmless(&self, opening: Opening) -> bool {
        if matches!(opening, Opening::Begin | Opening::Commit | Opening::Rollback) {
            return self.lone(|_| {}).is_some();
        }
        let mut rest = self.inbox.bytes();
        while let Some((tag @ (b'P' | b'D' | b'C' | b'S'), _, behind)) = split_client(rest) {
            if tag == b'S' {
                return true;
            }
            rest = behind;
        }
        false
    }

    /// Begins a block that has no server because of `error`; `false` when the request is something else.
    pub(super) fn begin_unserved(&mut self, error: &ClientError) -> bool {
        if !error.is_of_waiting() || self.lost.is_some() {
            return false;
        }
        let mut answer = Vec::new();
        let Some(length) = self.lone_begin(|part| answer.extend_from_slice(part)) else { return false };
        self.inbox.consume(length);
        self.scanned = 0;
        self.outbox.append(|out| out.extend_from_slice(&answer));
        self.count_own_ready(b'T');
        self.lost = Some(LostBlock::unserved(error.clone()));
        true
    }
}
