//! Which node a request goes to, and getting there.
//!
//! A read goes to the session's home, or to another replica that has everything the session has seen; where there is none
//! it waits a moment for a sample that says otherwise, which all sessions share, and then goes to the primary. Nothing is asked
//! of any node on the way.
//!
//! Not here: what a request is (`turn.rs`), which replica (`replicas.rs`), the rules of freshness (`route/token.rs`), who looks at the nodes
//! (`cluster/observe`).

use std::sync::Arc;
use std::time::Duration;

use super::Session;
use super::replicas::{Replica, Replicas, Visited, Wait};
use super::run::End;
use crate::config::Profile;
use crate::pg::Lsn;
use crate::proxy::error::ClientError;
use crate::proxy::pool::Pool;
use crate::proxy::route::counters::Event;
use crate::proxy::route::token::Bound;
use crate::proxy::server::Server;
use crate::topology::NodeName;

/// How long nobody waits again after a wait that no sample has ended.
const NO_SAMPLE_MS: u64 = 100;
/// The same after one in which no standby came far enough, however far they come.
const NOT_REACHED_MS: u64 = 1_000;

/// For so long a wait is for the replica where the session was at home: whichever is asked first would get all those that
/// write.
const HOMESICK: Duration = Duration::from_millis(3);

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

/// What a client is served by after a reload. How its state is followed stays as it was when it came: what it has set and
/// prepared under one rule would be lost, or leak, under another.
fn kept(mut profile: Profile, before: &Profile) -> Profile {
    profile.mode = before.mode;
    if (profile.prepared_statements == 0) != (before.prepared_statements == 0) {
        profile.prepared_statements = before.prepared_statements;
    }
    profile
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
            member.profile = kept(profile, &member.profile);
            member.profile.role = member.profile.role.or(member.listener_role);
            member.generation = generation;
        }
        member.version = version;
        member.epoch = shared.board.cluster(&member.profile.cluster).view().epoch;
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

    /// Whether a server of the primary, which has just been lent, may be used for it: the node may have ceased to be the
    /// primary while the request waited, and a connection of an earlier epoch is of one that was not yet.
    pub(super) fn is_of_primary(&mut self, pool: &Arc<Pool>, server: &Server) -> Result<bool, End> {
        self.find_pools()?;
        let is_primarys = self.member.pool.as_ref().is_some_and(|primary| Arc::ptr_eq(primary, pool));
        Ok(is_primarys && server.epoch >= self.member.epoch)
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
                Ok(pool) if !pool.is_held() => None,
                _ => self.member.replicas.as_ref().and_then(|replicas| replicas.any()),
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
        let began = tokio::time::Instant::now();
        let (deadline, homesick) = (began + patience, began + HOMESICK.min(patience));
        let found = loop {
            let published = standbys.board.published();
            let longs = tokio::time::Instant::now() < homesick;
            let found =
                if longs { replicas.choose_last_home(|| shared.now_ms()) } else { replicas.choose(|| shared.now_ms()) };
            let until = if longs { homesick } else { deadline };
            if found.is_some() || tokio::time::timeout_at(until, published).await.is_err() && !longs {
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
