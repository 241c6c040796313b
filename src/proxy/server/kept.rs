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
    turns: VecDeque<Turn>,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
struct Turn {
    bytes: usize,
    /// The last change of its client's names that came with it.
    serial: u32,
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

    /// Keeps a turn that is being sent; `serial` is the last change of its client's names up to its end.
    pub fn push(&mut self, bytes: &[u8], serial: u32) {
        self.bytes.extend_from_slice(bytes);
        self.turns.push_back(Turn { bytes: bytes.len(), serial });
    }

    /// The oldest has been answered; says up to which change of names.
    pub fn answered(&mut self) -> Option<u32> {
        let turn = self.turns.pop_front()?;
        self.start += turn.bytes;
        if self.turns.is_empty() {
            self.clear();
        }
        Some(turn.serial)
    }

    /// All that is not answered; nothing is kept any more.
    pub fn take(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.drain(..self.start.min(bytes.len()));
        self.clear();
        bytes
    }

    /// The oldest turn, if any.
    #[must_use]
    pub fn oldest(&self) -> &[u8] {
        let bytes = self.turns.front().map_or(0, |turn| turn.bytes);
        self.bytes.get(self.start..self.start + bytes).unwrap_or_default()
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
            kept.push(turn.as_bytes(), 7);
        }
        assert_eq!(kept.oldest(), b"one");
        assert_eq!(kept.answered(), Some(7));
        assert_eq!((kept.turns(), kept.bytes()), (2, 8));
        assert_eq!(kept.take(), b"twothree");
        assert_eq!((kept.turns(), kept.bytes(), kept.take()), (0, 0, vec![]));
        kept.push(b"four", 8);
        assert_eq!((kept.answered(), kept.answered()), (Some(8), None));
        assert_eq!((kept.turns(), kept.bytes()), (0, 0));
    }
}
