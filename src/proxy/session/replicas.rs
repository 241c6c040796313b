//! What a session has seen, and which of the replicas it reads from: its home, or where it goes when it has none.
//!
//! Not here: the rules of freshness (`route/token.rs`), what is balanced (`route/choice.rs`), waiting for a fresher sample
//! (`destination.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::catalog::HiddenView;
use crate::config::{Balance, Consistency};
use crate::proxy::pool::Pool;
use crate::proxy::route::choice::{self, Candidate};
use crate::proxy::route::lens::Lists;
use crate::proxy::route::standbys::{Residence, Standbys};
use crate::proxy::route::token::{Bound, Done, Token, has, is_fit};
use crate::topology::{ClusterView, Era, NodeName, NodeView};

/// After so many reads a session looks whether others have fewer sessions than its home.
const READS_AT_HOME: u32 = 64;
/// A replica, as it was when it was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visited {
    /// Its place in [`Replicas`].
    pub(super) index: usize,
    /// Its life.
    life: u64,
}

/// What a session has seen, and where it may read.
#[derive(Debug)]
pub struct Replicas {
    pub(super) standbys: Arc<Standbys>,
    pub(super) consistency: Consistency,
    pub(super) balance: Balance,
    pub(super) fresh_wait: Option<Duration>,
    /// Whether comments decide.
    pub(super) hints: bool,
    /// The operator's lists of functions.
    pub(super) lists: Arc<Lists>,
    /// What is known of the database.
    pub(super) hidden: Arc<HiddenView>,
    pub(super) token: Token,
    pub(super) residence: Option<Residence>,
    /// Reads since it last looked around.
    pub(super) reads: u32,
    pub(super) nodes: Vec<Replica>,
    /// Nodes that have failed this request, by bits.
    pub(super) avoided: u64,
}

/// A read finds no replica that is fresh enough.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    /// The era in which that was so.
    pub(super) era: Era,
    /// Beyond which number a sample is wanted.
    pub(super) beyond: u64,
    /// How long it waits; `None` when it does not.
    pub(super) patience: Option<Duration>,
}

/// One node, as a replica.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) name: NodeName,
    pub(super) weight: u32,
    /// Sessions that are at home there.
    pub(super) sessions: Arc<AtomicU64>,
    pub(super) pool: Arc<Pool>,
}

impl Replica {
    fn as_candidate(&self, index: usize) -> Candidate {
        Candidate { index, weight: self.weight, sessions: self.sessions.load(Ordering::Relaxed) }
    }
}

impl Replicas {
    fn index_of(&self, node: &NodeView) -> Option<usize> {
        self.nodes.iter().position(|replica| *replica.name == *node.name)
    }

    const fn is_avoided(&self, index: usize) -> bool {
        index < 64 && self.avoided & 1 << index != 0
    }

    /// A standby, if it may be read from: the session's home, or one with all it has seen.
    fn candidate(&self, index: usize, view: &ClusterView, now_ms: u64) -> Option<Candidate> {
        let replica = self.nodes.get(index)?;
        let node = view.node(&replica.name)?;
        let is_home = || self.token.home(self.consistency, view).is_some_and(|home| home.name == node.name);
        let able = is_fit(node, view) && !self.is_avoided(index) && (has(node, self.token.bound(view)) || is_home());
        (able && !replica.pool.has_failed_lately(now_ms)).then(|| replica.as_candidate(index))
    }

    /// All of them.
    fn candidates(&self, view: &ClusterView, now_ms: u64) -> Vec<Candidate> {
        (0..self.nodes.len()).filter_map(|index| self.candidate(index, view, now_ms)).collect()
    }

    /// Its home, if it need not look around.
    fn home(&mut self) -> Option<Visited> {
        if self.reads >= READS_AT_HOME {
            return None;
        }
        let view = self.standbys.board.view();
        let home = self.token.home(self.consistency, &view)?;
        let index = self.index_of(home).filter(|index| !self.is_avoided(*index))?;
        self.reads += 1;
        Some(Visited { index, life: home.life })
    }

    /// Its home, if no other replica has clearly fewer sessions, however far it is.
    fn best_home(&self, view: &ClusterView, now_ms: u64) -> Option<Visited> {
        let home = self.token.home(self.consistency, view)?;
        let index = self.index_of(home)?;
        let stays = self.candidate(index, view, now_ms)?;
        let is_better = |(other, replica): (usize, &Replica)| {
            other != index
                && choice::is_worth_moving(stays, replica.as_candidate(other))
                && view.node(&replica.name).is_some_and(|node| is_fit(node, view))
        };
        let better = self.nodes.iter().enumerate().any(is_better);
        (!better).then_some(Visited { index, life: home.life })
    }

    /// Which of them; the one where the session is at home, or was, unless another has clearly fewer sessions.
    fn pick(&self, candidates: &[Candidate]) -> Option<Candidate> {
        let last = self.token.last_home();
        let is_last = |candidate: &&Candidate| self.nodes.get(candidate.index).is_some_and(|r| Some(&r.name) == last);
        let before = candidates.iter().find(is_last).copied();
        let picked = || choice::pick(self.balance, candidates, self.standbys.next_turn());
        match before {
            None => picked(),
            Some(before) => match choice::pick(Balance::LeastConnections, candidates, 0) {
                Some(other) if choice::is_worth_moving(before, other) => Some(other),
                _ => Some(before),
            },
        }
    }

    /// Where to read now, if there is a replica that is fresh enough.
    pub(super) fn choose(&mut self, now_ms: impl FnOnce() -> u64) -> Option<(Visited, bool)> {
        if let Some(visited) = self.home() {
            return Some((visited, false)); // nearly always: no clock, no memory, nothing that others write
        }
        let (standbys, now_ms) = (Arc::clone(&self.standbys), now_ms());
        let view = standbys.board.view();
        self.reads = 0;
        self.token.learn(&view);
        if let Some(visited) = self.best_home(&view, now_ms) {
            return Some((visited, false));
        }
        let is_home = |replica: &Replica| view.node(&replica.name).is_some_and(|node| self.token.is_at_home(node));
        let candidates = self.candidates(&view, now_ms);
        let Some(picked) = self.pick(&candidates) else {
            // nobody else has all it has seen; its home is as good as before
            let home = self.token.home(self.consistency, &view)?;
            let index = self.index_of(home).filter(|index| !self.is_avoided(*index))?;
            return Some((Visited { index, life: home.life }, false));
        };
        let replica = self.nodes.get(picked.index)?;
        let node = view.node(&replica.name)?;
        let moved = !is_home(replica);
        if moved {
            if self.token.last_home() != Some(&replica.name) {
                self.residence = Some(Residence::taken(&replica.sessions));
            }
            self.token.settle_at(node);
            replica.pool.set_retired(false); // it may have been unfit until now
        }
        Some((Visited { index: picked.index, life: node.life }, moved))
    }

    /// Where it was at home last, once that is fresh enough; another only when it is no replica any more, or was none.
    pub(super) fn choose_last_home(&mut self, now_ms: impl FnOnce() -> u64) -> Option<(Visited, bool)> {
        let standbys = Arc::clone(&self.standbys);
        let view = standbys.board.view();
        let last = self.token.last_home().and_then(|name| view.node(name)).filter(|node| is_fit(node, &view));
        let longs = last.is_some_and(|node| {
            self.index_of(node).is_some_and(|index| !self.is_avoided(index)) && !has(node, self.token.bound(&view))
        });
        if longs { None } else { self.choose(now_ms) }
    }

    /// Whether to wait for one that is fresh enough; `None` when none may be read from at all.
    pub(super) fn wait(&self, now_ms: u64) -> Option<Wait> {
        let view = self.standbys.board.view();
        let fit = view.nodes.iter().filter(|node| is_fit(node, &view));
        let furthest = fit.map(|node| node.replayed_lsn.unwrap_or_default()).max()?;
        let era = view.samples.era();
        let patience = self.fresh_wait.filter(|_| self.standbys.is_worth_waiting(era, furthest, now_ms));
        let beyond = match self.token.bound(&view) {
            Bound::Unknown(number) => number,
            Bound::Reached(_) => 0,
        };
        Some(Wait { era, beyond, patience })
    }

    /// The first replica that answers at all, whatever the session has seen.
    pub(super) fn any(&self) -> Option<Visited> {
        let view = self.standbys.board.view();
        let able = |(index, replica): (usize, &Replica)| {
            let node = view.node(&replica.name).filter(|node| is_fit(node, &view))?;
            (!self.is_avoided(index)).then_some(Visited { index, life: node.life })
        };
        self.nodes.iter().enumerate().find_map(able)
    }

    /// Whether it is still the life in which a node was chosen.
    pub(super) fn is_same_life(&self, visited: Visited) -> bool {
        let name = self.nodes.get(visited.index).map(|replica| &replica.name);
        let view = self.standbys.board.view();
        name.and_then(|name| view.node(name)).is_some_and(|node| node.life == visited.life)
    }

    /// This request does not go there again. Says so to who looks at the nodes.
    pub(super) fn avoid(&mut self, visited: Visited) {
        if visited.index < 64 {
            self.avoided |= 1 << visited.index;
        }
        if let Some(replica) = self.nodes.get(visited.index) {
            self.standbys.board.suspect(&replica.name);
        }
    }

    /// A request has come to its end: what failed it says nothing about the next.
    pub(super) const fn forgive(&mut self) {
        self.avoided = 0;
    }

    /// A reply has been read from the primary.
    pub(super) fn saw_primary(&mut self, done: Done) {
        let now = self.standbys.board.stamp();
        self.token.saw_primary(self.consistency, done, now);
    }

    /// A reply has been read from a standby.
    pub(super) fn saw_standby(&mut self) {
        let now = self.standbys.board.stamp();
        self.token.saw_standby(self.consistency, now);
    }
}
