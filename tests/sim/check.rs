//! What must hold, whatever happens: ha.md's invariants as far as they concern one daemon and asynchronous replication.
//!
//! Seen from outside of everything, where no message is late. `I1` one node acknowledges · `I2` one node per epoch · `I4` no promotion
//! without a fence, and with all the log that could be had · `I5` promises of agents (`agent`) · `I8` jobs end and undo (`acts`) · `I9` the
//! last copy stays · `I10` no write under an old epoch · `I11` it comes right when faults end · `I12` nothing is stuck in silence.

use std::collections::BTreeMap;

use howdah::cluster::decide::{Intent, Record};
use howdah::directive::{Directive, Job, Order};
use howdah::topology::{Appointment, Epoch};

use super::postgres::{Server, lsn};
use super::shell;
use super::world::{Node, SECOND, World};
use crate::say;

/// What has happened, as far as invariants ask.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The highest epoch that each agent has acted in.
    pub promised: Vec<Epoch>,
    /// Somebody has promoted it by hand.
    pub by_hand: Vec<bool>,
    pub steps: u64,
    pub told: u64,
    pub client_errors: u64,
    pub longest_wait: u64,
    /// Who was made the primary of each epoch.
    owners: BTreeMap<Epoch, usize>,
    published: Epoch,
    /// The highest epoch in which somebody committed, and who.
    acknowledging: Option<(Epoch, usize)>,
    acknowledged: Vec<(usize, u64, Epoch)>,
    planned: BTreeMap<Epoch, bool>,
    /// Who could be asked when the choice for an epoch was made, and how far each was.
    rivals: BTreeMap<Epoch, Vec<(usize, usize, u64)>>,
    /// Somebody has accepted a loss.
    pub allowed_loss: bool,
    pub lost: u64,
    /// The store was put back: what is published may be of an epoch that nobody writes in any more.
    pub restored: bool,
    /// There are two timelines with one number: by what PostgreSQL says nobody can tell them apart.
    pub one_number: bool,
    sent: Vec<u64>,
    no_primary_since: Option<u64>,
    unexplained_since: Option<u64>,
}

impl Ledger {
    pub fn new(nodes: usize, primary: usize) -> Self {
        Self {
            promised: vec![Epoch(0); nodes],
            by_hand: vec![false; nodes],
            owners: BTreeMap::from([(Epoch(0), primary)]),
            ..Self::default()
        }
    }

    /// Whose the newest epoch is.
    pub fn owner(&self) -> (Epoch, usize) {
        self.owners.last_key_value().map_or((Epoch(0), 0), |(epoch, node)| (*epoch, *node))
    }
}

fn name(w: &World, n: usize) -> &'static str {
    w.nodes[n].name
}

/// A server has made a commit durable and acknowledges it.
pub fn committed(w: &mut World, n: usize, epoch: Epoch, routed: bool) {
    // who is beside howdah knows no epochs; whom it writes to is what counts
    let epoch = match w.ledger.acknowledging {
        Some((top, node)) if !routed && node == n => top.max(epoch),
        _ => epoch,
    };
    // whoever has lost the record may speak of the newest primary under an older number, where nobody who knows better is heard
    let same_primary = w.ledger.restored && w.ledger.owner().1 == n;
    if routed && epoch < w.ledger.published && !same_primary {
        let what = format!("I10 a write under epoch {epoch} after {} was published", w.ledger.published);
        w.violated(what);
    }
    match w.ledger.acknowledging {
        Some((top, node)) if epoch < top && node == n && same_primary => w.ledger.acknowledging = Some((top, node)),
        Some((top, node)) if epoch < top => {
            let what = format!("I1 {} commits under epoch {epoch} after {} has under {top}", name(w, n), name(w, node));
            w.violated(what);
        }
        Some((top, node)) if epoch == top && node != n => {
            let what = format!("I2 {} and {} commit under epoch {epoch}", name(w, n), name(w, node));
            w.violated(what);
        }
        _ => w.ledger.acknowledging = Some((epoch, n)),
    }
}

/// A routed client has its answer.
pub fn acknowledged(w: &mut World, _n: usize, epoch: Epoch, at: (usize, u64)) {
    w.ledger.acknowledged.push((at.0, at.1, epoch));
}

/// A server has opened for writes.
pub fn opened_for_writes(w: &mut World, n: usize) {
    let (epoch, owner) = w.ledger.owner();
    if owner != n && !w.ledger.by_hand[n] && !w.nodes[n].vouched {
        let what = format!("I4 {} opens for writes in epoch {epoch}, which is {}'s", name(w, n), name(w, owner));
        w.violated(what);
    }
}

fn owns(w: &mut World, n: usize, epoch: Epoch) {
    let (top, owner) = w.ledger.owner();
    let same_primary = w.ledger.restored && owner == n;
    if (epoch < top && !same_primary) || (epoch == top && owner != n) {
        let what = format!("I2 {} is made the primary of epoch {epoch}, after {} of {top}", name(w, n), name(w, owner));
        w.violated(what);
    }
    w.ledger.owners.insert(epoch, n);
    w.ledger.by_hand[n] = false;
    w.nodes[n].vouched = false;
}

/// A primary is started again, by order.
pub fn restarted(w: &mut World, n: usize, epoch: Epoch) {
    let (_, owner) = w.ledger.owner();
    if owner != n {
        fenced(w, n, owner);
        most_advanced(w, n, owner, epoch);
        account(w, n);
    }
    owns(w, n, epoch);
}

fn fenced(w: &mut World, n: usize, old: usize) {
    let node = &w.nodes[old];
    if node.vouched || w.ledger.by_hand[old] {
        return;
    }
    if node.postgres.may_acknowledge() || !node.postgres.latched {
        let what = format!(
            "I4 {} becomes the primary while {} is not fenced: {:?}, {} orphans, latched: {}",
            name(w, n),
            node.name,
            node.postgres.server,
            node.postgres.orphans,
            node.postgres.latched
        );
        w.violated(what);
    }
}

/// A promotion passes its point of no return.
pub fn promoted(w: &mut World, n: usize, epoch: Epoch) {
    let (_, old) = w.ledger.owner();
    w.count("promotions");
    if old != n {
        fenced(w, n, old);
        most_advanced(w, n, old, epoch);
        let planned = w.ledger.planned.get(&epoch).copied().unwrap_or(false);
        let (from, to) = (&w.nodes[old].postgres, &w.nodes[n].postgres);
        let (log, to_end, from_end) = ((to.branch, to.end), lsn(to.end), lsn(from.end));
        let has_all = w.logs.contains(log, (from.branch, from.end));
        if planned && !has_all && !w.ledger.by_hand[old] {
            let what = format!("a switchover to {} loses {} to {} of the log", name(w, n), to_end, from_end);
            w.violated(what);
        }
        if planned {
            w.count("switchovers");
        } else {
            w.count("failovers");
        }
        account(w, n);
    }
    owns(w, n, epoch);
}

/// What was acknowledged and is not in this log is lost from now on.
fn account(w: &mut World, n: usize) {
    let log = (w.nodes[n].postgres.branch, w.nodes[n].postgres.end);
    let all = std::mem::take(&mut w.ledger.acknowledged);
    let before = all.len();
    w.ledger.acknowledged = all.into_iter().filter(|it| w.logs.contains(log, (it.0, it.1 + 1))).collect();
    let lost = before - w.ledger.acknowledged.len();
    w.ledger.lost += lost as u64;
    say!(w, "{lost} acknowledged commits are lost");
    w.ledger.allowed_loss = false;
}

/// No other standby that could be asked has more of the old primary's log.
fn most_advanced(w: &mut World, n: usize, old: usize, epoch: Epoch) {
    let whole = (w.nodes[old].postgres.branch, w.nodes[old].postgres.end);
    let mine = &w.nodes[n].postgres;
    // who was made the primary and has never served anybody: what it has is not what is to be kept
    let served = w.ledger.acknowledging.is_some_and(|(top, _)| top >= w.ledger.owner().0);
    if !served || w.ledger.allowed_loss || w.ledger.by_hand[old] || w.nodes[old].vouched {
        return;
    }
    if !w.ledger.one_number && !w.logs.contains(whole, (mine.branch, mine.end)) {
        let what = format!("I4 {} is promoted, and its log is not a part of {}'s", name(w, n), name(w, old));
        return w.violated(what);
    }
    let (end, rivals) = (mine.end, w.ledger.rivals.get(&epoch).cloned().unwrap_or_else(|| rivals(w)));
    for (other, branch, theirs) in rivals {
        if other != n && other != old && theirs > end && w.logs.contains(whole, (branch, theirs)) {
            let what = format!(
                "I4 {} is promoted with the log up to {}, and {} had it up to {}",
                name(w, n),
                lsn(end),
                name(w, other),
                lsn(theirs)
            );
            return w.violated(what);
        }
    }
}

/// The standbys that can be asked now, and how far each is.
fn rivals(w: &World) -> Vec<(usize, usize, u64)> {
    let long = |since: u64| since + 6 * SECOND <= w.now;
    let told = |job: &Job| matches!(job.order.directive, Directive::Promote { .. });
    let could = |node: &&(usize, &Node)| {
        let (pg, agent) = (&node.1.postgres, &node.1.agent);
        let asked = node.1.reachable_since.is_some_and(long) && pg.server == Server::Standby && long(pg.opened_at);
        // busy, or with a job that has failed: it has said no
        let excused = agent.current.is_some()
            || pg.stopped
            || pg.stuck
            || agent.done.last().is_some_and(|job| job.failure.is_some())
            || agent.done.iter().any(|job| told(job) && job.failure.is_some())
            || w.daemon.stored.as_ref().is_some_and(|record| record.aside.contains_key(node.1.name));
        asked && !excused
    };
    let nodes: Vec<(usize, &Node)> = w.nodes.iter().enumerate().collect();
    nodes.iter().filter(could).map(|(index, node)| (*index, node.postgres.branch, node.postgres.end)).collect()
}

/// A data directory is about to become a copy of another.
pub fn data_replaced(w: &mut World, n: usize, source: usize) {
    let (epoch, owner) = w.ledger.owner();
    let (theirs, from) = (&w.nodes[owner].postgres, &w.nodes[source].postgres);
    let sound = w.logs.contains((theirs.branch, theirs.end), (from.branch, from.end)) || w.nodes[owner].vouched;
    if n == owner || (!sound && !w.ledger.by_hand[owner]) {
        let what = format!(
            "I9 the data of {} is replaced by {}'s; epoch {epoch} is {}'s",
            name(w, n),
            name(w, source),
            name(w, owner)
        );
        w.violated(what);
    }
    w.ledger.by_hand[n] = false;
    w.nodes[n].vouched = false;
}

/// Routing is told who is the primary.
pub fn appoints(w: &mut World, appointment: &Appointment) {
    let epoch = appointment.epoch;
    // a daemon that has just started may say of an epoch it has yet to learn of that nobody writes
    if epoch < w.ledger.published && appointment.primary.is_some() && !w.ledger.restored {
        let what = format!("I2 epoch {epoch} is published after {}", w.ledger.published);
        w.violated(what);
    }
    w.ledger.published = epoch.max(w.ledger.published);
    let Some(n) = appointment.primary.as_ref().and_then(|name| w.index_of(name)) else { return };
    match w.ledger.owners.get(&epoch) {
        Some(owner) if *owner != n && !w.ledger.restored => {
            let what = format!("I2 {} is appointed for epoch {epoch}, which is {}'s", name(w, n), name(w, *owner));
            w.violated(what);
        }
        Some(_) => {}
        None => {
            // nobody was promoted for it: what is there is taken as it is
            let (_, owner) = w.ledger.owner();
            if owner != n && !w.ledger.by_hand[n] {
                let what = format!("I2 {} is appointed for epoch {epoch} and was never promoted", name(w, n));
                w.violated(what);
            }
            if owner != n {
                account(w, n);
            }
            w.ledger.owners.insert(epoch, n);
            w.ledger.by_hand[n] = false;
        }
    }
}

/// A record is on its way to the disk.
pub fn stores(w: &mut World, record: &Record) {
    if let Some(stored) = &w.daemon.confirmed
        && (record.generation < stored.generation || record.epoch < stored.epoch)
    {
        let what = format!("the record goes back: {} of epoch {}", record.generation, record.epoch);
        w.violated(what);
    }
    if let Some(Intent::Promote { epoch, planned, .. }) = &record.intent {
        w.ledger.planned.insert(*epoch, *planned);
        let found = rivals(w);
        w.ledger.rivals.insert(*epoch, found);
    }
}

/// An order goes out.
pub fn sends(w: &mut World, node: &str, order: &Order) {
    let intent = w.daemon.stored.as_ref().and_then(|record| record.intent.as_ref());
    let recorded = match &order.directive {
        Directive::Promote { .. } => {
            matches!(intent, Some(Intent::Promote { to, epoch, .. }) if **to == *node && *epoch == order.epoch)
        }
        Directive::Demote => matches!(intent, Some(Intent::Switchover { from, stopping: true, .. }) if **from == *node),
        _ => true,
    };
    if !recorded {
        let what = format!("{} goes to {node}, and what is recorded is {intent:?}", order.id);
        w.violated(what);
    }
    w.ledger.sent.push(w.now);
    let recent = w.ledger.sent.iter().rev().take_while(|at| **at + 10 * SECOND > w.now).count();
    if recent > 300 {
        w.violated(format!("{recent} orders within ten seconds"));
    }
}

/// Whether clients can write now.
pub fn writable(w: &World) -> Option<usize> {
    let appointment = w.daemon.appointment.as_ref().filter(|it| w.daemon.up && !it.held)?;
    let n = w.index_of(appointment.primary.as_ref()?)?;
    let node = &w.nodes[n];
    (node.powered && node.postgres.server == Server::Primary && !node.postgres.stopped).then_some(n)
}

/// Looks at everything, again and again.
pub fn watch(w: &mut World) {
    w.after(SECOND / 4, watch);
    let lacking = writable(w).is_none() && w.daemon.up && w.now - w.daemon.born > 5 * SECOND;
    if !lacking {
        (w.ledger.no_primary_since, w.ledger.unexplained_since) = (None, None);
    } else if w.now - *w.ledger.no_primary_since.get_or_insert(w.now) > 5 * SECOND {
        let explained = shell::explain(w);
        if explained.as_ref().is_some_and(|it| it.blocked.is_empty() && it.operation.is_none() && !it.paused) {
            let since = *w.ledger.unexplained_since.get_or_insert(w.now);
            if w.now - since > 4 * SECOND {
                w.violated(format!("I12 there is no primary, and nobody says why: {explained:?}"));
            }
        } else {
            w.ledger.unexplained_since = None;
        }
    }
    if let Some((number, _)) = w.daemon.unanswered.iter().find(|(_, at)| at + 60 * SECOND < w.now) {
        let what = format!("I12 command {number} is not answered");
        w.violated(what);
    }
}

/// The end: faults have ended long ago.
pub fn finale(w: &mut World) {
    let explained = shell::explain(w);
    let Some(primary) = writable(w) else {
        return w.violated(format!("I11 there is no primary: {explained:?}"));
    };
    let record = w.daemon.confirmed.clone().unwrap_or_default();
    if let Some(intent) = &record.intent {
        return w.violated(format!("I11 this does not end: {intent:?}; {explained:?}"));
    }
    for n in 0..w.nodes.len() {
        let node = &w.nodes[n];
        let follows = node.postgres.server == Server::Standby && node.postgres.streaming == Some(primary);
        if n != primary && !follows && !record.aside.contains_key(node.name) && node.agent.alive {
            let what =
                format!("I11 {} does not follow {}: {:?} {explained:?}", node.name, name(w, primary), node.postgres);
            return w.violated(what);
        }
        if node.agent.current.is_some() {
            let what = format!("I8 a job of {} does not end: {:?}", node.name, node.agent.current);
            return w.violated(what);
        }
    }
    let late = w.ledger.sent.iter().filter(|at| **at + 10 * SECOND > w.now).count();
    if late > 8 {
        return w.violated(format!("I11 {late} orders in the last ten seconds: it is never quiet; {explained:?}"));
    }
    let log = (w.nodes[primary].postgres.branch, w.nodes[primary].postgres.end);
    let missing = w.ledger.acknowledged.iter().filter(|it| !w.logs.contains(log, (it.0, it.1 + 1))).count();
    if missing > 0 {
        return w.violated(format!("{missing} acknowledged commits are missing, and no failover has lost them"));
    }
    if w.knobs.name == "calm" && (w.ledger.client_errors > 0 || w.ledger.lost > 0) {
        let what = format!("switchovers alone: {:?}, lost {}", w.counts, w.ledger.lost);
        w.violated(what);
    }
}
