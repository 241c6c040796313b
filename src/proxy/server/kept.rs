//! ◇ Requests that have been sent and may have to be sent once more: whole turns, oldest first, as their client sent them.
//!
//! The memory stays with its server connection, so that keeping a request costs a copy and no allocation.

use std::collections::VecDeque;

/// Turns that are not answered.
#[derive(Debug, Default)]
pub struct Kept {
    bytes: Vec<u8>,
    /// Of `bytes`, what has been answered.
    start: usize,
    turns: VecDeque<usize>,
}

/// Memory that is not given back once nothing is kept.
const HELD_MAX: usize = 16 * 1024;

impl Kept {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(HELD_MAX);
        self.turns.clear();
        self.start = 0;
    }

    /// Keeps a turn that is being sent.
    pub fn push(&mut self, turn: &[u8]) {
        self.bytes.extend_from_slice(turn);
        self.turns.push_back(turn.len());
    }

    /// The oldest has been answered.
    pub fn answered(&mut self) {
        self.start += self.turns.pop_front().unwrap_or(0);
        if self.turns.is_empty() {
            self.clear();
        }
    }

    /// All that is not answered; nothing is kept any more.
    pub fn take(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.drain(..self.start.min(bytes.len()));
        self.clear();
        bytes
    }

    /// How many turns.
    #[must_use]
    pub fn turns(&self) -> usize {
        self.turns.len()
    }

    /// How many bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len().saturating_sub(self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_answered_is_not_sent_again() {
        let mut kept = Kept::default();
        for turn in ["one", "two", "three"] {
            kept.push(turn.as_bytes());
        }
        kept.answered();
        assert_eq!((kept.turns(), kept.bytes()), (2, 8));
        assert_eq!(kept.take(), b"twothree");
        assert_eq!((kept.turns(), kept.bytes(), kept.take()), (0, 0, vec![]));
        kept.push(b"four");
        kept.answered();
        kept.answered();
        assert_eq!((kept.turns(), kept.bytes()), (0, 0));
    }
}
