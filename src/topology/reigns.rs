//! Who was the primary when, and which transaction ids tell one time from the next.
//!
//! A [`Reign`] is one incarnation of one node as the primary: from when it has said that it accepts writes until it restarts or
//! another node takes its place. Ids that an earlier primary has assigned and that never arrived are assigned again in the next
//! reign, to others: what `pg_xact_status()` says of one is true of an earlier reign's transaction only within the bounds that are
//! written down here. Not here: how they are found (`cluster/observe`), what a client is told (`proxy/verdict.rs`).

use std::collections::VecDeque;

use super::NodeName;

/// Reigns that are remembered; whose COMMIT is older is told that nobody knows.
const REMEMBERED: usize = 32;

/// One incarnation of one node as the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reign {
    /// Grows by one with each; never 0.
    pub number: u64,
    /// Whose.
    pub node: NodeName,
    /// The number of the last question ([`Stamp::asked`](super::Stamp)) that it has answered.
    pub answered: u64,
    /// Every id below this one was assigned before the reign began. `None`: not known.
    pub before: Option<u64>,
    /// No transaction of an earlier reign is committed in this one that has this id or a later one. `None`: not known.
    pub first: Option<u64>,
}

/// The latest reigns of a cluster, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reigns(VecDeque<Reign>);

impl Reigns {
    /// The last that has begun; its node need not be there any more.
    #[must_use]
    pub fn last(&self) -> Option<&Reign> {
        self.0.back()
    }

    /// Another begins. `answered`: the question whose answer showed it.
    pub fn begin(&mut self, node: NodeName, answered: u64, before: Option<u64>, first: Option<u64>) {
        let number = self.0.back().map_or(1, |last| last.number.saturating_add(1));
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(Reign { number, node, answered, before, first });
    }

    /// The last has answered this question.
    pub fn answered(&mut self, number: u64) {
        if let Some(last) = self.0.back_mut() {
            last.answered = last.answered.max(number);
        }
    }

    /// One by its number, and those that came after it. `None` when it is not remembered.
    #[must_use]
    pub fn since(&self, number: u64) -> Option<(&Reign, impl Iterator<Item = &Reign>)> {
        let at = self.0.iter().position(|reign| reign.number == number)?;
        let mut reigns = self.0.iter().skip(at);
        Some((reigns.next()?, reigns))
    }
}
