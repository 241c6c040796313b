//! Which node a request goes to, and getting there.
//!
//! A read goes to the session's home, or to another replica that has everything the session has seen; where there is none
//! it waits a moment for a sample that says otherwise, which all sessions share, and then goes to the primary. Nothing is asked
//! of any node on the way.
//!
//! Not here: what a request is (`turn.rs`), the rules of freshness (`route/token.rs`), who looks at the nodes
//! (`cluster/observe`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Session;
use super::run::End;
use crate::catalog::HiddenView;
use crate::config::{Balance, Consistency};
use crate::pg::Lsn;
use crate::proxy::error::ClientError;
use crate::proxy::pool::Pool;
use crate::proxy::route::choice::{self, Candidate};
use crate::proxy::route::counters::Event;
use crate::proxy::route::lens::Lists;
use crate::proxy::route::standbys::{Residence, Standbys};
use crate::proxy::route::token::{Bound, Done, Token, has, is_fit};
use crate::topology::{ClusterView, Era, NodeName, NodeView};

/// After so many reads a session looks whether others have fewer sessions than its home.
const READS_AT_HOME: u32 = 64;
/// How long nobody waits again after a wait that no sample has ended.
const NO_SAMPLE_MS: u64 = 100;
/// The same after one in which no standby came far enough, however far they come.
const NOT_REACHED_MS: u64 = 1_000;

/// Where a request may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The primary.
    Primary,
    /// A replica that is fresh enough, or else the primary.
    Read,
    /// A replica, and nowhere else.
    Replica,
    /// The primary, or while there is none any replica: it touches nothing but the session.
    Anywhere,
}

/// Where a request goes.
#[derive(Debug)]
pub struct Destination {
    /// The pool there.
    pub pool: Arc<Pool>,
    /// The replica, when it is one.
    pub replica: Option<Visited>,
}

/// A replica, as it was when it was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visited {
    /// Its place in [`Replicas`].
    index: usize,
    /// Its life.
    life: u64,
}

/// What a session has seen, and where it may read.
#[derive(Debug)]
pub struct Replicas {
    standbys: Arc<Standbys>,
    consistency: Consistency,
    balance: Balance,
    fresh_wait: Option<Duration>,
    /// Whether comments decide.
    pub(super) hints: bool,
    /// The operator's lists of functions.
    pub(super) lists: Arc<Lists>,
    /// What is known of the database.
    pub(super) hidden: Arc<HiddenView>,
    token: Token,
    residence: Option<Residence>,
    /// Reads since it last looked around.
    reads: u32,
    nodes: Vec<Replica>,
    /// Nodes that have failed this request, by bits.
    avoided: u64,
}

/// A read finds no replica that is fresh enough.
#[derive(Clone, Copy, Debug)]
struct Wait {
    /// The era in which that was so.
    era: Era,
    /// Beyond which number a sample is wanted.
    beyond: u64,
    /// How long it waits; `None` when it does not.
    patience: Option<Duration>,
}

#[derive(Debug)]
struct Replica {
    name: NodeName,
    weight: u32,
    /// Sessions that are at home there.
    sessions: Arc<AtomicU64>,
    pool: Arc<Pool>,
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
    fn choose(&mut self, now_ms: impl FnOnce() -> u64) -> Option<(Visited, bool)> {
        if let Some(visited) = self.home() {
            return Some((visited, false)); // nearly always: no clock, no memory, nothing that others write
        }
        let (standbys, now_ms) = (Arc::clone(&self.standbys), now_ms());
        let view = standbys.board.view();
        self.reads = 0;
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

    /// Whether to wait for one that is fresh enough; `None` when none may be read from at all.
    fn wait(&self, now_ms: u64) -> Option<Wait> {
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
    fn any(&self) -> Option<Visited> {
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

impl Session {
    /// Looks up where the session belongs, if the configuration or the topology has changed since it last did.
    pub(super) fn find_pools(&mut self) -> Result<(), End> {
        let shared = &self.worker.shared;
        let (version, generation) = (shared.board.version(), shared.generation());
        if self.member.version == version && self.member.generation == generation {
            return Ok(());
        }
        let (shared, member) = (Arc::clone(shared), &mut self.member);
        let running = shared.running();
        if member.generation != generation {
            let Some(profile) = running.config.profile(&member.database, &member.user) else {
                return Err(ClientError::NoSuchDatabase(member.database.to_string()).into());
            };
            member.profile = profile;
            member.profile.role = member.profile.role.or(member.listener_role);
            member.generation = generation;
        }
        member.version = version;
        member.pool = shared.route(&member.profile, &member.database, &member.user).ok();
        let profile = &member.profile;
        let routes = profile.undivided().is_none();
        let before = member.replicas.take();
        let Some(cluster) = running.config.clusters.get(&*profile.cluster).filter(|_| routes) else { return Ok(()) };
        let standbys = shared.standbys(&profile.cluster);
        let known = before.filter(|before| Arc::ptr_eq(&before.standbys, &standbys));
        let (token, residence) = known.map(|known| (known.token, known.residence)).unwrap_or_default();
        let replica = |node: &crate::config::Node| {
            let name: NodeName = node.name.as_str().into();
            let pool = shared.pool_at(&name, profile, &member.database, &member.user)?;
            Some(Replica { sessions: standbys.sessions(&name), weight: node.weight, name, pool })
        };
        member.replicas = Some(Box::new(Replicas {
            consistency: cluster.consistency,
            balance: cluster.balance,
            fresh_wait: running.config.routing.fresh_wait.limit(),
            hints: running.config.routing.hints,
            lists: Arc::clone(&running.lists),
            hidden: shared.hidden.view(&profile.cluster, &profile.dbname),
            token,
            residence,
            reads: 0,
            nodes: cluster.nodes.iter().filter_map(replica).collect(),
            avoided: 0,
            standbys,
        }));
        Ok(())
    }

    /// The pool of the primary.
    fn primary_pool(&mut self) -> Result<Arc<Pool>, End> {
        if let Some(pool) = &self.member.pool {
            return Ok(Arc::clone(pool));
        }
        let member = &mut self.member;
        match self.worker.shared.route(&member.profile, &member.database, &member.user) {
            Ok(pool) => Ok(Arc::clone(member.pool.insert(pool))),
            Err(missing) => Err(ClientError::NoPrimary(missing).into()),
        }
    }

    /// Where a request goes now.
    ///
    /// # Errors
    /// [`ClientError::NoPrimary`] and [`ClientError::NoReplica`] while it can go nowhere: that may pass.
    pub(super) async fn destination(&mut self, need: Need) -> Result<Destination, End> {
        self.find_pools()?;
        let replica = match need {
            Need::Primary => None,
            Need::Read | Need::Replica => self.fresh_replica().await,
            Need::Anywhere => match self.primary_pool() {
                Ok(_) => None,
                Err(_) => self.member.replicas.as_ref().and_then(|replicas| replicas.any()),
            },
        };
        let pool = replica.and_then(|visited| self.member.replicas.as_ref()?.nodes.get(visited.index));
        if let Some(pool) = pool.map(|replica| Arc::clone(&replica.pool)) {
            return Ok(Destination { pool, replica });
        }
        if need == Need::Replica {
            if let Some(replicas) = &mut self.member.replicas {
                replicas.forgive(); // there is nobody but those
            }
            let missing = format!("cluster \"{}\" has no replica that is fresh enough", self.member.profile.cluster);
            return Err(ClientError::NoReplica(missing).into());
        }
        Ok(Destination { pool: self.primary_pool()?, replica: None })
    }

    /// A replica with all that the session has seen; waits for one where that may help.
    async fn fresh_replica(&mut self) -> Option<Visited> {
        let worker = &self.worker;
        if let Some((visited, moved)) = self.member.replicas.as_mut()?.choose(|| worker.shared.now_ms()) {
            if moved {
                self.count(Event::Moved);
            }
            return Some(visited);
        }
        let wait = match self.member.replicas.as_ref()?.wait(self.worker.shared.now_ms()) {
            Some(wait) => wait,
            None => {
                self.count(Event::NoReplica);
                return None;
            }
        };
        let found = match wait.patience {
            // rare, and its own memory: the session's future is as large as the largest it may wait for
            Some(patience) => Box::pin(self.freshened_replica(patience, wait)).await,
            None => None,
        };
        self.count(if found.is_some() { Event::WaitHelped } else { Event::NotFresh });
        found
    }

    /// Waits for a replica.
    async fn freshened_replica(&mut self, patience: Duration, wait: Wait) -> Option<Visited> {
        let shared = Arc::clone(&self.worker.shared);
        let replicas = self.member.replicas.as_mut()?;
        let standbys = Arc::clone(&replicas.standbys);
        let _wish = standbys.board.wait_beyond(wait.beyond);
        let deadline = tokio::time::Instant::now() + patience;
        let found = loop {
            let published = standbys.board.published();
            let found = replicas.choose(|| shared.now_ms());
            if found.is_some() || tokio::time::timeout_at(deadline, published).await.is_err() {
                break found;
            }
        };
        if found.is_none() {
            let view = standbys.board.view();
            let now_ms = shared.now_ms();
            match replicas.token.bound(&view) {
                Bound::Reached(lsn) => standbys.was_in_vain(view.samples.era(), lsn, now_ms + NOT_REACHED_MS),
                Bound::Unknown(_) => standbys.was_in_vain(wait.era, Lsn(u64::MAX), now_ms + NO_SAMPLE_MS),
            }
        }
        self.count(Event::Waited);
        found.map(|(visited, _)| visited)
    }
}
