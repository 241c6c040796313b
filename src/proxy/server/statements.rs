//! Which shared statements a server connection has prepared, as far as its answers have said so.
//!
//! A Parse that is on its way counts for the batch it was sent in: if it fails, that batch is skipped anyway. A later
//! batch must not build on it. Eviction is least recently used and never takes a statement the open batch has used.

use std::collections::HashMap;

/// The statements of one server connection.
#[derive(Debug, Default)]
pub struct Prepared {
    held: HashMap<u64, Held, foldhash::fast::RandomState>,
    /// Grows with every Sync sent.
    batch: u64,
    clock: u64,
}

#[derive(Debug)]
struct Held {
    /// The batch its Parse was sent in, until the answer comes.
    unconfirmed: Option<u64>,
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
    /// Notes the use of statement `id` in the open batch and says what it takes. `max` bounds how many are held, the
    /// open batch's own excepted.
    pub fn use_statement(&mut self, id: u64, max: u32) -> Need {
        self.clock += 1;
        let (batch, used) = (self.batch, self.clock);
        let mut close = Vec::new();
        match self.held.get_mut(&id) {
            Some(held) if held.unconfirmed.is_none_or(|sent_in| sent_in == batch) => {
                (held.used, held.used_in_batch) = (used, batch);
                return Need { close, parse: false };
            }
            // it may or may not be there: closing one that is not is no error
            Some(_) => close.push(id),
            None => {
                let max = usize::try_from(max.max(1)).unwrap_or(usize::MAX);
                while self.held.len() >= max {
                    let idle = self.held.iter().filter(|(_, held)| held.used_in_batch != batch);
                    let Some(oldest) = idle.min_by_key(|(_, held)| held.used).map(|(id, _)| *id) else { break };
                    self.held.remove(&oldest);
                    close.push(oldest);
                }
            }
        }
        self.held.insert(id, Held { unconfirmed: Some(batch), used_in_batch: batch, used });
        Need { close, parse: true }
    }

    /// A Sync has been sent: what comes next is another batch.
    pub fn next_batch(&mut self) {
        self.batch += 1;
    }

    /// The server has it.
    pub fn parsed(&mut self, id: u64) {
        if let Some(held) = self.held.get_mut(&id) {
            held.unconfirmed = None;
        }
    }

    /// The server does not have it.
    pub fn not_parsed(&mut self, id: u64) {
        self.held.remove(&id);
    }

    /// A Close of it was skipped.
    pub fn not_closed(&mut self, id: u64) {
        let (used, used_in_batch) = (self.clock, self.batch);
        self.held.entry(id).or_insert(Held { unconfirmed: None, used_in_batch, used }).unconfirmed = None;
    }

    /// Nobody knows what is left (`DISCARD ALL`): everything is parsed anew, after a Close.
    pub fn distrust(&mut self) {
        self.held.values_mut().for_each(|held| held.unconfirmed = Some(u64::MAX));
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
        assert_eq!(prepared.use_statement(1, 10), PARSE);
        assert_eq!(prepared.use_statement(1, 10), NOTHING);
        prepared.next_batch();
        assert_eq!(prepared.use_statement(1, 10), Need { close: vec![1], parse: true });
        prepared.parsed(1);
        prepared.next_batch();
        assert_eq!(prepared.use_statement(1, 10), NOTHING);
    }

    #[test]
    fn the_least_recently_used_goes_and_never_one_of_the_open_batch() {
        let mut prepared = Prepared::default();
        for id in [1, 2, 1] {
            prepared.use_statement(id, 2);
            prepared.parsed(id);
        }
        assert_eq!(prepared.use_statement(3, 2), PARSE, "1 and 2 are used by the open batch");
        prepared.parsed(3);
        prepared.next_batch();
        assert_eq!(prepared.use_statement(4, 2), Need { close: vec![2, 1], parse: true });
    }

    #[test]
    fn a_skipped_close_leaves_it_held() {
        let mut prepared = Prepared::default();
        prepared.use_statement(1, 1);
        prepared.parsed(1);
        prepared.next_batch();
        assert_eq!(prepared.use_statement(2, 1).close, [1]);
        prepared.not_closed(1);
        prepared.not_parsed(2);
        assert_eq!(prepared.use_statement(1, 1), NOTHING);
    }
}
