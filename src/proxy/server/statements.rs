//! Which shared statements a server connection has prepared, as far as its answers have said so.
//!
//! A Parse that is on its way counts for the batch it was sent in: if it fails, that batch is skipped anyway. A later
//! batch must not build on it. After an error nobody knows which of a Close and the Parse behind it were skipped: such a
//! statement is closed again before it is parsed again, as closing one that is not there is no error. Eviction is least
//! recently used and never takes a statement the open batch has used, or one whose Parse is not answered.

use std::collections::HashMap;

/// The statements of one server connection.
#[derive(Debug, Default)]
pub struct Prepared {
    held: HashMap<u64, Held, foldhash::fast::RandomState>,
    /// Statements with so many Closes that are not answered.
    closing: HashMap<u64, u32, foldhash::fast::RandomState>,
    /// Grows with every Sync sent.
    batch: u64,
    clock: u64,
}

#[derive(Debug)]
struct Held {
    /// How many Parses of it are not answered.
    asked: u32,
    /// The batch the last of them was sent in.
    asked_in: u64,
    /// It may or may not be there.
    doubtful: bool,
    used_in_batch: u64,
    used: u64,
}

/// What must be sent in front of the use of a statement.
#[derive(Debug, PartialEq, Eq)]
pub struct Need {
    /// Statements to close first.
    pub close: Vec<u64>,
    /// Whether a Parse is needed.
    pub parse: bool,
}

impl Prepared {
    /// Notes the use of statement `id` in the open batch and says what it takes; `anew`: that the server parses it in any
    /// case. `max` bounds how many are held, the open batch's own excepted.
    pub fn use_statement(&mut self, id: u64, max: u32, anew: bool) -> Need {
        self.clock += 1;
        let (batch, used) = (self.batch, self.clock);
        let mut close = Vec::new();
        if let Some(held) = self.held.get_mut(&id) {
            (held.used, held.used_in_batch) = (used, batch);
            let is_there = !held.doubtful && (held.asked == 0 || held.asked_in == batch);
            if is_there && !anew {
                return Need { close, parse: false };
            }
            (held.asked, held.asked_in, held.doubtful) = (held.asked + 1, batch, false);
            close.push(id);
        } else {
            let max = usize::try_from(max.max(1)).unwrap_or(usize::MAX);
            while self.held.len() >= max {
                let idle = self.held.iter().filter(|(_, held)| held.used_in_batch != batch && held.asked == 0);
                let Some(oldest) = idle.min_by_key(|(_, held)| held.used).map(|(id, _)| *id) else { break };
                self.held.remove(&oldest);
                close.push(oldest);
            }
            if self.closing.contains_key(&id) {
                close.push(id); // the Close that took it away may yet be skipped
            }
            self.held.insert(id, Held { asked: 1, asked_in: batch, doubtful: false, used_in_batch: batch, used });
        }
        for id in &close {
            *self.closing.entry(*id).or_default() += 1;
        }
        Need { close, parse: true }
    }

    /// A Sync has been sent: what comes next is another batch.
    pub fn next_batch(&mut self) {
        self.batch += 1;
    }

    /// The open batch.
    #[must_use]
    pub const fn batch(&self) -> u64 {
        self.batch
    }

    /// A Parse of it has succeeded.
    pub fn parsed(&mut self, id: u64) {
        if let Some(held) = self.held.get_mut(&id) {
            held.asked = held.asked.saturating_sub(1);
        }
    }

    /// A Parse of it has failed or been skipped.
    pub fn not_parsed(&mut self, id: u64) {
        if let Some(held) = self.held.get_mut(&id) {
            held.asked = held.asked.saturating_sub(1);
            if held.asked == 0 {
                (held.doubtful, held.used) = (true, 0);
            }
        }
    }

    /// A Close of it has been answered.
    pub fn closed(&mut self, id: u64) {
        if let Some(closes) = self.closing.get_mut(&id) {
            *closes -= 1;
            if *closes == 0 {
                self.closing.remove(&id);
            }
        }
    }

    /// A Close of it was skipped.
    pub fn not_closed(&mut self, id: u64) {
        self.closed(id);
        self.held.entry(id).or_insert(Held { asked: 0, asked_in: 0, doubtful: true, used_in_batch: 0, used: 0 });
    }

    /// Nobody knows what is left (`DISCARD ALL`): everything is parsed anew, after a Close.
    pub fn distrust(&mut self) {
        self.held.values_mut().for_each(|held| held.doubtful = true);
    }

    /// How many it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARSE: Need = Need { close: Vec::new(), parse: true };
    const NOTHING: Need = Need { close: Vec::new(), parse: false };

    #[test]
    fn a_parse_on_its_way_counts_for_its_own_batch_only() {
        let mut prepared = Prepared::default();
        assert_eq!(prepared.use_statement(1, 10, false), PARSE);
        assert_eq!(prepared.use_statement(1, 10, false), NOTHING);
        prepared.next_batch();
        assert_eq!(prepared.use_statement(1, 10, false), Need { close: vec![1], parse: true });
        prepared.parsed(1);
        prepared.parsed(1);
        prepared.next_batch();
        assert_eq!(prepared.use_statement(1, 10, false), NOTHING);
    }

    #[test]
    fn the_least_recently_used_goes_and_never_one_of_the_open_batch() {
        let mut prepared = Prepared::default();
        for id in [1, 2, 1] {
            prepared.use_statement(id, 2, false);
            prepared.parsed(id);
        }
        assert_eq!(prepared.use_statement(3, 2, false), PARSE, "1 and 2 are used by the open batch");
        prepared.parsed(3);
        prepared.next_batch();
        assert_eq!(prepared.use_statement(4, 2, false), Need { close: vec![2, 1], parse: true });
    }

    #[test]
    fn a_skipped_close_leaves_it_held() {
        let mut prepared = Prepared::default();
        prepared.use_statement(1, 1, false);
        prepared.parsed(1);
        prepared.next_batch();
        assert_eq!(prepared.use_statement(2, 1, false).close, [1]);
        prepared.not_closed(1);
        prepared.not_parsed(2);
        prepared.next_batch();
        assert_eq!(prepared.use_statement(1, 2, false), Need { close: vec![1], parse: true });
    }

    #[test]
    fn a_close_and_the_parse_behind_it_may_both_be_skipped() {
        let mut prepared = Prepared::default();
        prepared.use_statement(1, 10, false);
        prepared.next_batch();
        assert_eq!(prepared.use_statement(1, 10, false).close, [1]);
        prepared.parsed(1);
        prepared.not_closed(1);
        prepared.not_parsed(1);
        prepared.next_batch();
        assert_eq!(prepared.use_statement(1, 10, false), Need { close: vec![1], parse: true });
    }

    #[test]
    fn an_earlier_parse_does_not_vouch_for_a_later_one() {
        let mut prepared = Prepared::default();
        prepared.use_statement(1, 10, false);
        prepared.next_batch();
        prepared.use_statement(1, 10, false);
        prepared.parsed(1);
        prepared.next_batch();
        assert_eq!(prepared.use_statement(1, 10, false).close, [1], "the second is not answered");
        for _ in 0..2 {
            prepared.closed(1);
            prepared.parsed(1);
        }
        prepared.next_batch();
        assert_eq!(prepared.use_statement(1, 10, false), NOTHING);
    }

    #[test]
    fn what_is_being_evicted_is_closed_again_before_it_is_parsed_again() {
        let mut prepared = Prepared::default();
        prepared.use_statement(1, 1, false);
        prepared.parsed(1);
        prepared.next_batch();
        assert_eq!(prepared.use_statement(2, 1, false).close, [1]);
        prepared.next_batch();
        assert_eq!(prepared.use_statement(1, 1, false), Need { close: vec![1], parse: true }, "2 is on its way");
        prepared.not_closed(1);
        prepared.closed(1);
        prepared.parsed(1);
        prepared.next_batch();
        assert_eq!(prepared.use_statement(1, 1, false), NOTHING);
    }
}
