//! Which node a statement would go to now, and why not to each of the others.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Question;
use crate::config::{Balance, Cluster, Consistency, Profile, RoutingRole};
use crate::pg::{Lsn, size_pretty};
use crate::proxy::pool::PoolKey;
use crate::proxy::route::choice::{self, Candidate};
use crate::proxy::route::standbys::Standbys;
use crate::proxy::route::token::{Bound, has, is_fit};
use crate::proxy::session::destination::Need;
use crate::proxy::shared::{Running, Shared};
use crate::topology::{ClusterView, NodeView, Role, Unfit};

/// However long a session would wait.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Where a statement would go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Routing {
    /// The database, as clients name it.
    pub database: String,
    /// The user.
    pub user: String,
    /// The cluster.
    pub cluster: String,
    /// Which nodes will do.
    pub wants: Wants,
    /// Why everything goes to the primary here, whatever it is.
    pub undivided: Option<String>,
    /// The node it would get now; `None` while there is none: it waits for one.
    pub node: Option<String>,
    /// All nodes, in the order of the configuration.
    pub nodes: Vec<NodeAnswer>,
    /// What would be different for a session that has just written; `None` where nothing would.
    pub after_write: Option<AfterWrite>,
    /// Listeners whose clients are served otherwise.
    pub notes: Vec<String>,
}

/// Which nodes will do for a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wants {
    /// The primary.
    Primary,
    /// A replica that is fresh enough, or else the primary.
    ReplicaOrPrimary,
    /// A replica, and nothing else.
    Replica,
    /// The primary, or while there is none any replica.
    PrimaryOrAny,
}

impl From<Need> for Wants {
    fn from(need: Need) -> Self {
        match need {
            Need::Primary => Self::Primary,
            Need::Read => Self::ReplicaOrPrimary,
            Need::Replica => Self::Replica,
            Need::Anywhere => Self::PrimaryOrAny,
        }
    }
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAnswer {
    /// Its name.
    pub name: String,
    /// `primary` or `standby`; `None` while nobody knows.
    pub role: Option<String>,
    /// Whether the statement would go there.
    pub chosen: bool,
    /// Why not, or what speaks for it.
    pub why: String,
    /// Its share.
    pub weight: u32,
    /// Sessions that are at home there.
    pub sessions: u64,
    /// How far a standby is behind.
    pub lag_bytes: Option<u64>,
    /// For how long it has been.
    pub lag_time_ms: Option<u64>,
}

/// A session that has written at the moment of the question, and asks now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AfterWrite {
    /// The node it would get.
    pub node: Option<String>,
    /// How far a standby must have replayed for it; `None` when no sample has told in time.
    pub needs_lsn: Option<String>,
    /// How long it would have waited.
    pub waited_ms: f64,
    /// Why it would not have waited at all.
    pub not_waiting: Option<String>,
    /// Why not the standbys.
    pub nodes: Vec<AfterWriteNode>,
}

/// A standby, for a session that has just written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AfterWriteNode {
    /// Its name.
    pub name: String,
    /// Whether the session would read there.
    pub chosen: bool,
    /// Why not, or what speaks for it.
    pub why: String,
}

/// What a choice looks at.
struct Scene<'a> {
    shared: &'a Shared,
    profile: &'a Profile,
    cluster: &'a Cluster,
    question: &'a Question,
    standbys: &'a Standbys,
}

/// Where a statement that needs `need` would go.
pub async fn routing(
    shared: &Arc<Shared>,
    running: &Running,
    profile: &Profile,
    question: &Question,
    need: Need,
) -> Routing {
    let mut routing = Routing {
        database: question.database.clone(),
        user: question.user.clone(),
        cluster: profile.cluster.to_string(),
        wants: need.into(),
        undivided: profile.undivided().map(|why| why.text().to_owned()),
        node: None,
        nodes: Vec::new(),
        after_write: None,
        notes: notes(running, profile),
    };
    // validated: every database's cluster is there
    let Some(cluster) = running.config.clusters.get(&*profile.cluster) else { return routing };
    let standbys = shared.standbys(&profile.cluster);
    let scene = Scene { shared, profile, cluster, question, standbys: &standbys };
    {
        let view = standbys.board.view();
        let (node, nodes) = scene.now(&view, need);
        (routing.node, routing.nodes) = (node, nodes);
    }
    let stamps = matches!(profile.consistency, Consistency::Session | Consistency::OwnWrites);
    if need == Need::Read && stamps {
        routing.after_write =
            Some(scene.after_write(running.config.routing.fresh_wait.limit().map(|wait| wait.min(WAIT_MAX))).await);
    }
    routing
}

/// Listeners that send everything to one side.
fn notes(running: &Running, profile: &Profile) -> Vec<String> {
    if profile.role != RoutingRole::Auto {
        return vec![]; // the database's goes before the listener's
    }
    let note = |listener: &crate::config::Listener| {
        let (role, where_to) = match listener.role {
            RoutingRole::Auto => return None,
            RoutingRole::Primary => ("primary", "the primary"),
            RoutingRole::Replica => ("replica", "replicas"),
        };
        Some(format!("clients of listener \"{}\" (role = \"{role}\"): everything to {where_to}", listener.address))
    };
    running.config.listeners.iter().filter_map(note).collect()
}

impl Scene<'_> {
    fn sessions(&self, node: &NodeView) -> u64 {
        self.standbys.sessions(&node.name).load(Ordering::Relaxed)
    }

    fn weight(&self, node: &NodeView) -> u32 {
        self.cluster.nodes.iter().find(|entry| *entry.name == *node.name).map_or(0, |entry| entry.weight)
    }

    /// Whether the last attempt to open a connection there has failed a moment ago.
    fn is_left_alone(&self, node: &NodeView) -> bool {
        let key = PoolKey {
            cluster: Arc::clone(&self.profile.cluster),
            node: Arc::clone(&node.name),
            database: self.question.database.as_str().into(),
            user: self.question.user.as_str().into(),
        };
        let now_ms = self.shared.now_ms();
        self.shared.pools.all().iter().any(|pool| pool.key == key && pool.has_failed_lately(now_ms))
    }

    /// The replica that a session without a home would read from.
    fn pick<'v>(&self, view: &'v ClusterView, bound: Bound) -> Option<&'v NodeView> {
        let candidate = |(index, node): (usize, &NodeView)| {
            let able = is_fit(node, view) && has(node, bound) && !self.is_left_alone(node);
            able.then(|| Candidate { index, weight: self.weight(node), sessions: self.sessions(node) })
        };
        let candidates: Vec<Candidate> = view.nodes.iter().enumerate().filter_map(candidate).collect();
        let picked = choice::pick(self.cluster.balance, &candidates, self.standbys.turn())?;
        view.nodes.get(picked.index)
    }

    /// For a session that has seen nothing.
    fn now(&self, view: &ClusterView, need: Need) -> (Option<String>, Vec<NodeAnswer>) {
        let nothing_seen = Bound::Reached(Lsn(0));
        let primary = view.primary.as_ref().and_then(|name| view.node(name));
        let chosen = match need {
            Need::Primary => primary,
            Need::Read => self.pick(view, nothing_seen).or(primary),
            Need::Replica => self.pick(view, nothing_seen),
            Need::Anywhere => primary.or_else(|| view.nodes.iter().find(|node| is_fit(node, view))),
        };
        let answer = |node: &NodeView| {
            let is_chosen = chosen.is_some_and(|chosen| chosen.name == node.name);
            NodeAnswer {
                name: node.name.to_string(),
                role: node.role.map(|role| role_label(role).to_owned()),
                chosen: is_chosen,
                why: match need {
                    _ if is_chosen => self.why_chosen(view, node, need),
                    Need::Primary if node.role == Some(Role::Primary) => "is not the primary in use".to_owned(),
                    Need::Primary => "only the primary takes it".to_owned(),
                    Need::Anywhere if chosen == primary => "the primary does it as well".to_owned(),
                    Need::Anywhere | Need::Read | Need::Replica => self.why_not(view, node, nothing_seen, chosen),
                },
                weight: self.weight(node),
                sessions: self.sessions(node),
                lag_bytes: node.lag_bytes,
                lag_time_ms: node.lag_time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            }
        };
        (chosen.map(|node| node.name.to_string()), view.nodes.iter().map(answer).collect())
    }

    fn why_chosen(&self, view: &ClusterView, node: &NodeView, need: Need) -> String {
        let is_primary = view.primary.as_ref() == Some(&node.name);
        match need {
            Need::Read if is_primary => "there is no replica that could take it".to_owned(),
            _ if is_primary => "the primary".to_owned(),
            Need::Primary | Need::Anywhere => "there is no primary now".to_owned(),
            Need::Read | Need::Replica => match self.cluster.balance {
                Balance::LeastConnections => "fit, with the fewest sessions for its weight".to_owned(),
                Balance::RoundRobin => "fit, and it is its turn".to_owned(),
            },
        }
    }

    /// Why a read does not go to a node.
    fn why_not(&self, view: &ClusterView, node: &NodeView, bound: Bound, chosen: Option<&NodeView>) -> String {
        if view.primary.as_ref() == Some(&node.name) {
            return "the primary: reads go to replicas".to_owned();
        }
        if let Some(unfit) = node.unfit.filter(|_| !is_fit(node, view)) {
            return match (unfit, &node.trouble) {
                (Unfit::Primary, _) => "accepts writes, and is not the primary in use".to_owned(),
                (Unfit::Lagging, _) => format!("{unfit} ({})", self.cluster.max_lag),
                (_, Some(trouble)) => format!("{unfit}: {trouble}"),
                (_, None) => unfit.to_string(),
            };
        }
        if self.is_left_alone(node) {
            return "no connection could be opened there a moment ago".to_owned();
        }
        match bound {
            Bound::Unknown(_) => return "nobody knows yet whether it has what was written".to_owned(),
            Bound::Reached(lsn) if !has(node, bound) => {
                let replayed = node.replayed_lsn.unwrap_or_default();
                return format!(
                    "{} of the log short of what was written",
                    size_pretty(lsn.0.saturating_sub(replayed.0))
                );
            }
            Bound::Reached(_) => {}
        }
        let Some(chosen) = chosen else { return "fit".to_owned() };
        if self.weight(node) == 0 {
            return "fit, but its weight is 0 and others can".to_owned();
        }
        let other = &chosen.name;
        match self.cluster.balance {
            Balance::RoundRobin => format!("fit, but it is the turn of \"{other}\""),
            Balance::LeastConnections => {
                let share = |node: &NodeView| {
                    (self.sessions(node) + 1).saturating_mul(1_000) / u64::from(self.weight(node).max(1))
                };
                match share(node) > share(chosen) {
                    true => format!("fit, but \"{other}\" has fewer sessions for its weight"),
                    false => format!("fit, and as good as \"{other}\": they take turns"),
                }
            }
        }
    }

    /// For a session that writes now and then reads: it does what that would do.
    async fn after_write(&self, fresh_wait: Option<Duration>) -> AfterWrite {
        let board = &self.standbys.board;
        let stamp = board.stamp();
        let begun = tokio::time::Instant::now();
        let (era, furthest) = {
            let view = board.view();
            let fit = view.nodes.iter().filter(|node| is_fit(node, &view));
            (view.samples.era(), fit.filter_map(|node| node.replayed_lsn).max())
        };
        let now_ms = self.shared.now_ms();
        let not_waiting = match (furthest, fresh_wait) {
            (None, _) => Some("no replica to wait for"),
            (Some(_), None) => Some("routing.fresh_wait is \"0\""),
            (Some(furthest), Some(_)) if !self.standbys.is_worth_waiting(era, furthest, now_ms) => {
                Some("the last wait for a replica was in vain, and none has come further since")
            }
            (Some(_), Some(_)) => None,
        };
        if let Some(patience) = fresh_wait.filter(|_| not_waiting.is_none()) {
            let _wish = board.wait_beyond(stamp.asked);
            loop {
                let published = board.published();
                let found = {
                    let view = board.view();
                    self.pick(&view, bound_of(&view, stamp)).is_some()
                };
                if found || tokio::time::timeout_at(begun + patience, published).await.is_err() {
                    break;
                }
            }
        }
        let waited = begun.elapsed();
        let view = board.view();
        let bound = bound_of(&view, stamp);
        let chosen = self.pick(&view, bound);
        let standby = |node: &NodeView| {
            let is_chosen = chosen.is_some_and(|chosen| chosen.name == node.name);
            let why = match is_chosen {
                true => "has replayed it".to_owned(),
                false => self.why_not(&view, node, bound, chosen),
            };
            AfterWriteNode { name: node.name.to_string(), chosen: is_chosen, why }
        };
        let others = view.nodes.iter().filter(|node| view.primary.as_ref() != Some(&node.name));
        AfterWrite {
            node: chosen.map(|node| node.name.to_string()).or_else(|| view.primary.as_ref().map(ToString::to_string)),
            needs_lsn: match bound {
                Bound::Reached(lsn) => Some(lsn.to_string()),
                Bound::Unknown(_) => None,
            },
            not_waiting: not_waiting.map(ToOwned::to_owned),
            waited_ms: (waited.as_secs_f64() * 1e5).round() / 100.0,
            nodes: others.map(standby).collect(),
        }
    }
}

fn bound_of(view: &ClusterView, stamp: crate::topology::Stamp) -> Bound {
    view.samples.bound(stamp).map_or(Bound::Unknown(stamp.asked), Bound::Reached)
}

const fn role_label(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Standby => "standby",
    }
}
