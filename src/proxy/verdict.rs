//! ◇ What became of a COMMIT whose server went away before it answered: when to ask, whom, and what may be believed.
//!
//! Pure: reigns and answers in, what to do out. The rule is the one of ARCHITECTURE.md, "What became of a COMMIT": an id that the
//! next primary could assign to somebody else says nothing, so `pg_xact_status()` alone is never believed. Whatever is not
//! proven is [`Outcome::Unknown`]. Not here: learning the id (`session/outcome.rs`), the asking (`session/doubt.rs`).

use crate::topology::{ClusterView, Reign};

/// A COMMIT in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// Its transaction.
    pub xid: u64,
    /// The reign in which its server connection was dialled; 0 when there was none.
    pub reign: u64,
    /// The number of the last question when that connection was ready: who has answered a later one was there before and after.
    pub ready: u64,
    /// The same when it was lost.
    pub lost: u64,
    /// What the same incarnation of the same primary has answered, and the number of the last question then.
    pub found: Option<(Outcome, u64)>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is committed at the primary of now.
    Committed,
    /// It is not, and never will be.
    Lost,
    /// Nobody knows.
    Unknown,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until there is another view.
    Wait,
    /// Ask the primary for the status of the transaction.
    Ask(Asked),
    /// Tell the client.
    Tell(Outcome),
}

/// Who is asked, seen from the primary that the COMMIT was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The very same: only the connection has broken.
    Same,
    /// A later one.
    Later {
        /// Below this id nobody but the earlier primary can have committed.
        before: Option<u64>,
        /// It is the same node, restarted: what waited for synchronous standbys is committed there all the same.
        restarted: bool,
    },
}

/// What a server says of the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// `committed`.
    Committed,
    /// `aborted`.
    Aborted,
    /// `in progress`: it waits for standbys, is prepared, or its server process has not noticed yet.
    InProgress,
    /// Nothing, or an error.
    Untold,
}

impl Status {
    /// Of what `txid_status()` returns.
    #[must_use]
    pub fn of(text: Option<&[u8]>) -> Self {
        match text {
            Some(b"committed") => Self::Committed,
            Some(b"aborted") => Self::Aborted,
            Some(b"in progress") => Self::InProgress,
            _ => Self::Untold,
        }
    }
}

impl Doubt {
    /// What to do, as things stand.
    #[must_use]
    pub fn next(&self, view: &ClusterView) -> Step {
        let Some((its, later)) = view.reigns.since(self.reign) else { return Step::Tell(Outcome::Unknown) };
        let mut bounds = None;
        for reign in later {
            let (before, first, restarted) = bounds.unwrap_or((Some(u64::MAX), u64::MAX, true));
            // of a reign without a bound nobody knows what it has assigned again
            let Some(its_first) = reign.first else { return Step::Tell(Outcome::Unknown) };
            let before = before.zip(reign.before).map(|(one, other)| one.min(other));
            bounds = Some((before, first.min(its_first), restarted && reign.node == its.node));
        }
        let Some((before, first, restarted)) = bounds else { return self.while_it_lasts(its, view) };
        if its.answered <= self.ready {
            return Step::Tell(Outcome::Unknown); // the connection may have been to another incarnation already
        }
        if self.xid >= first {
            return Step::Tell(Outcome::Lost);
        }
        match view.primary {
            Some(_) => Step::Ask(Asked::Later { before, restarted }),
            None => Step::Wait,
        }
    }

    /// The same reign: nobody knows yet whether it is over.
    fn while_it_lasts(&self, reign: &Reign, view: &ClusterView) -> Step {
        match self.found {
            _ if view.primary.as_ref() != Some(&reign.node) => Step::Wait,
            // it was still the same when it said so
            Some((outcome, asked)) if reign.answered > asked => Step::Tell(outcome),
            Some(_) => Step::Wait,
            None if reign.answered > self.lost => Step::Ask(Asked::Same),
            None => Step::Wait,
        }
    }

    /// Takes in what a server has said, `asked` being the number of the last question by then. `None`: not yet, look again.
    pub fn hear(&mut self, whom: Asked, status: Status, awaits_standbys: bool, asked: u64) -> Option<Outcome> {
        let outcome = match (whom, status) {
            (Asked::Same, Status::InProgress) => return None, // its server process will notice, or end its wait
            (_, Status::InProgress | Status::Untold) => Outcome::Unknown,
            (_, Status::Aborted) => Outcome::Lost,
            // committed there, and perhaps on no standby
            (Asked::Same | Asked::Later { restarted: true, .. }, Status::Committed) if awaits_standbys => {
                Outcome::Unknown
            }
            (Asked::Same, Status::Committed) => Outcome::Committed,
            (Asked::Later { before, .. }, Status::Committed) => match before {
                Some(before) if self.xid < before => Outcome::Committed,
                _ => Outcome::Unknown, // somebody else's, perhaps
            },
        };
        if whom == Asked::Same && outcome != Outcome::Unknown {
            self.found = Some((outcome, asked)); // unless it has restarted just before it was asked
            return None;
        }
        Some(outcome)
    }
}

#[cfg(test)]
mod tests;
