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
use crate::topology::{ClusterView, NodeName, NodeView};

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

#[derive(Debug)]
struct Replica {
    name: NodeName,
    weight: u32,
    /// Sessions that are at home there.
    sessions: Arc<AtomicU64>,
    pool: Arc<Pool>,
}

impl Replicas {
    fn index_of(&self, node: &NodeView) -> Option<usize> {
        self.nodes.iter().position(|replica| *replica.name == *node.name)
    }

    const fn is_avoided(&self, index: usize) -> bool {
        index < 64 && self.avoided & 1 << index != 0
    }

    /// Standbys that may be read from: its home, and those with all the session has seen.
    fn candidates(&self, view: &ClusterView, bound: Bound, now_ms: u64) -> Vec<Candidate> {
        let home = self.token.home(self.consistency, view);
        let is_home = |node: &NodeView| home.is_some_and(|home| home.name == node.name);
        let able = |(index, replica): (usize, &Replica)| {
            let node = view.node(&replica.name)?;
            let able = is_fit(node, view) && (is_home(node) || has(node, bound)) && !self.is_avoided(index);
            let sessions = replica.sessions.load(Ordering::Relaxed);
            (able && !replica.pool.has_failed_lately(now_ms)).then_some(Candidate {
                index,
                weight: replica.weight,
                sessions,
            })
        };
        self.nodes.iter().enumerate().filter_map(able).collect()
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
    fn choose(&mut self, now_ms: u64) -> Option<(Visited, bool)> {
        let standbys = Arc::clone(&self.standbys);
        let view = standbys.board.view();
        if let Some(home) = self.token.home(self.consistency, &view)
            && let Some(index) = self.index_of(home)
            && !self.is_avoided(index)
            && self.reads < READS_AT_HOME
        {
            self.reads += 1;
            return Some((Visited { index, life: home.life }, false));
        }
        let is_home = |replica: &Replica| view.node(&replica.name).is_some_and(|node| self.token.is_at_home(node));
        self.reads = 0;
        let candidates = self.candidates(&view, self.token.bound(&view), now_ms);
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
        let shared = Arc::clone(&self.worker.shared);
        let (version, generation) = (shared.board.version(), shared.generation());
        if self.member.version == version && self.member.generation == generation {
            return Ok(());
        }
        let member = &mut self.member;
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
        let now_ms = self.worker.shared.now_ms();
        match self.member.replicas.as_mut()?.choose(now_ms) {
            Some((visited, moved)) => {
                if moved {
                    self.count(Event::Moved);
                }
                Some(visited)
            }
            // rare, and its own memory: the session's future is as large as the largest it may wait for
            None => Box::pin(self.freshened_replica()).await,
        }
    }

    /// Waits for a replica, if that is worth while.
    async fn freshened_replica(&mut self) -> Option<Visited> {
        let shared = Arc::clone(&self.worker.shared);
        let replicas = self.member.replicas.as_mut()?;
        let standbys = Arc::clone(&replicas.standbys);
        let (era, furthest, beyond) = {
            let view = standbys.board.view();
            let fit = view.nodes.iter().filter(|node| is_fit(node, &view));
            let Some(furthest) = fit.map(|node| node.replayed_lsn.unwrap_or_default()).max() else {
                self.count(Event::NoReplica);
                return None;
            };
            let beyond = match replicas.token.bound(&view) {
                Bound::Unknown(number) => number,
                Bound::Reached(_) => 0,
            };
            (view.samples.era(), furthest, beyond)
        };
        let patience = replicas.fresh_wait.filter(|_| standbys.is_worth_waiting(era, furthest, shared.now_ms()));
        let mut found = None;
        if let Some(patience) = patience {
            let _wish = standbys.board.wait_beyond(beyond);
            let deadline = tokio::time::Instant::now() + patience;
            loop {
                let published = standbys.board.published();
                found = replicas.choose(shared.now_ms());
                if found.is_some() || tokio::time::timeout_at(deadline, published).await.is_err() {
                    break;
                }
            }
            if found.is_none() {
                let view = standbys.board.view();
                let now_ms = shared.now_ms();
                match replicas.token.bound(&view) {
                    Bound::Reached(lsn) => standbys.was_in_vain(view.samples.era(), lsn, now_ms + NOT_REACHED_MS),
                    Bound::Unknown(_) => standbys.was_in_vain(era, Lsn(u64::MAX), now_ms + NO_SAMPLE_MS),
                }
            }
            self.count(Event::Waited);
        }
        self.count(if found.is_some() { Event::WaitHelped } else { Event::NotFresh });
        found.map(|(visited, _)| visited)
    }
}
