//! What happens to the model's servers: start, stop, die, stream, commit, promote.

use howdah::topology::Epoch;

use super::agent;
use super::check;
use super::postgres::{Server, lsn};
use super::world::{MS, SECOND, Wire, World};
use crate::say;

/// Starts the server; false when it cannot be.
pub fn start(w: &mut World, n: usize, grant: Option<Epoch>) -> bool {
    let full = w.nodes[n].disk_full;
    let node = &mut w.nodes[n];
    let pg = &mut node.postgres;
    // PostgreSQL refuses while processes of an earlier postmaster are attached to its shared memory
    if !node.powered || pg.alive() || pg.orphans > 0 || pg.torn || full {
        return false;
    }
    pg.server = Server::Starting;
    pg.life += 1;
    pg.stopped = false;
    let life = pg.life;
    let recovery = if pg.was_primary && !pg.clean { pg.recovery } else { 0 };
    let takes = w.rng.range(30 * MS, 200 * MS) + recovery;
    say!(w, "{}: PostgreSQL starts (latched: {})", w.nodes[n].name, w.nodes[n].postgres.latched);
    w.after(takes, move |w| {
        if w.nodes[n].postgres.life == life && w.nodes[n].postgres.server == Server::Starting {
            opened(w, n, grant);
        }
    });
    changed(w, n);
    true
}

fn opened(w: &mut World, n: usize, grant: Option<Epoch>) {
    let now = w.now;
    let pg = &mut w.nodes[n].postgres;
    pg.clean = false;
    pg.opened_at = now;
    if pg.latched {
        pg.server = Server::Standby;
        pg.was_primary = false;
        pg.replayed = pg.replayed.min(pg.end);
        say!(
            w,
            "{}: PostgreSQL is a standby at {} of timeline {}",
            w.nodes[n].name,
            lsn(w.nodes[n].postgres.end),
            w.logs.timeline(w.nodes[n].postgres.branch)
        );
    } else {
        let (branch, end) = (pg.branch, pg.end);
        if w.logs.0[branch].writer != n || w.logs.end(branch) != end {
            // a standby's directory without the signal file: writes on the same timeline as somebody else
            let timeline = w.logs.timeline(branch);
            w.nodes[n].postgres.branch = w.logs.fork((branch, end), timeline, n);
        }
        let pg = &mut w.nodes[n].postgres;
        pg.server = Server::Primary;
        pg.was_primary = true;
        pg.replayed = pg.end;
        if grant.is_some() {
            pg.grant = grant;
        }
        say!(w, "{}: PostgreSQL accepts writes", w.nodes[n].name);
        check::opened_for_writes(w, n);
    }
    changed(w, n);
}

/// Appends a record to the log of a primary.
pub fn append(w: &mut World, n: usize) -> (usize, u64) {
    let pg = &mut w.nodes[n].postgres;
    let at = (pg.branch, pg.end);
    pg.end += 1;
    pg.replayed = pg.end;
    w.logs.0[at.0].len += 1;
    at
}

/// The postmaster dies; some processes may live on.
pub fn postmaster_dies(w: &mut World, n: usize, orphans: u32) {
    if !w.nodes[n].postgres.alive() {
        return;
    }
    let busy = u32::from(w.direct.attached(w.nodes[n].name, w.nodes[n].postgres.life));
    let pg = &mut w.nodes[n].postgres;
    let primary = pg.server == Server::Primary;
    pg.server = Server::Down;
    pg.clean = false;
    pg.streaming = None;
    pg.orphans = if primary { orphans + busy } else { 0 };
    say!(w, "{}: the postmaster is dead, {} orphans live", w.nodes[n].name, w.nodes[n].postgres.orphans);
    let life = w.nodes[n].postgres.life;
    if w.nodes[n].postgres.orphans > 0 {
        // most end when they look up; a committing procedure does not
        let lasts = if w.rng.per_mille(500) { w.rng.range(SECOND, 8 * SECOND) } else { 600 * SECOND };
        w.after(lasts, move |w| {
            let pg = &mut w.nodes[n].postgres;
            if pg.life == life && !pg.alive() && pg.orphans > 0 {
                pg.orphans = 0;
                say!(w, "{}: the last orphan has ended", w.nodes[n].name);
            }
        });
    }
    agent::saw_postmaster_die(w, n);
    changed(w, n);
}

/// No process is left.
pub fn kill_all(w: &mut World, n: usize) {
    let pg = &mut w.nodes[n].postgres;
    if pg.alive() {
        pg.clean = false;
    }
    pg.server = Server::Down;
    pg.orphans = 0;
    pg.stopped = false;
    pg.streaming = None;
    pg.life += 1;
    changed(w, n);
}

/// A clean stop: the shutdown checkpoint is the log's last record, and who streams gets it.
pub fn stop_clean(w: &mut World, n: usize) {
    if w.nodes[n].postgres.server == Server::Primary {
        let wrote = append(w, n);
        say!(w, "{}: shutdown checkpoint at {}", w.nodes[n].name, lsn(wrote.1));
        for standby in 0..w.nodes.len() {
            let breaks = w.rng.per_mille(w.knobs.breaks_at_stop);
            let streams = w.nodes[standby].postgres.streaming == Some(n);
            if streams && !breaks && w.open_both(Wire::Postgres, n, standby) {
                let end = w.nodes[n].postgres.end;
                receive(w, standby, n, end);
            }
        }
    }
    let pg = &mut w.nodes[n].postgres;
    pg.server = Server::Down;
    pg.clean = true;
    pg.streaming = None;
    pg.life += 1;
    changed(w, n);
}

/// A standby begins to be a primary.
pub fn promote(w: &mut World, n: usize, grant: Option<Epoch>) {
    let pg = &w.nodes[n].postgres;
    // the next number that is in no history this node has
    let timeline = w.logs.timeline(pg.branch) + 1;
    // without an archive that all share nobody knows that a number is taken
    if w.logs.0.iter().any(|branch| branch.timeline == timeline) {
        w.ledger.one_number = true;
        w.count("timelines with one number");
    }
    let pg = &w.nodes[n].postgres;
    let branch = w.logs.fork((pg.branch, pg.end), timeline, n);
    let pg = &mut w.nodes[n].postgres;
    pg.branch = branch;
    pg.server = Server::Primary;
    pg.latched = false;
    pg.was_primary = true;
    pg.streaming = None;
    pg.upstream = None;
    pg.frozen = false;
    pg.grant = grant;
    append(w, n);
    say!(w, "{}: is promoted, timeline {timeline} (epoch {:?})", w.nodes[n].name, grant.map(|epoch| epoch.0));
    check::opened_for_writes(w, n);
    changed(w, n);
}

fn receive(w: &mut World, standby: usize, upstream: usize, end: u64) {
    let branch = w.nodes[upstream].postgres.branch;
    let pg = &mut w.nodes[standby].postgres;
    pg.branch = branch;
    pg.end = pg.end.max(end);
}

/// A standby takes what there is, and replays; again and again.
pub fn stream(w: &mut World, n: usize) {
    let again = w.rng.range(20 * MS, 100 * MS);
    w.after(again, move |w| stream(w, n));
    let pg = &w.nodes[n].postgres;
    if pg.server != Server::Standby || pg.stopped || !w.nodes[n].powered {
        w.nodes[n].postgres.streaming = None;
        return;
    }
    let before = pg.streaming;
    let now = source(w, n);
    w.nodes[n].postgres.streaming = now;
    if let Some(upstream) = now {
        let (have, there) = (w.nodes[n].postgres.end, w.nodes[upstream].postgres.end);
        // now and then not all of it at once
        let most = if w.rng.per_mille(200) { w.rng.below(4) } else { 10_000 };
        // what the other writes on a later branch is only reached over the fork
        let upto = there.min(have + most);
        if upto >= fork_floor(w, n, upstream) {
            receive(w, n, upstream, upto);
        }
    }
    let pg = &mut w.nodes[n].postgres;
    if !pg.stuck {
        pg.replayed = pg.end;
    }
    if before != now {
        say!(w, "{}: streams from {:?}", w.nodes[n].name, now.map(|index| w.nodes[index].name));
        changed(w, n);
    }
}

/// Where the upstream's branch begins: a standby is on it only once it is there.
fn fork_floor(w: &World, n: usize, upstream: usize) -> u64 {
    let (mine, theirs) = (w.nodes[n].postgres.branch, w.nodes[upstream].postgres.branch);
    if mine == theirs { 0 } else { w.logs.0[theirs].start }
}

fn source(w: &World, n: usize) -> Option<usize> {
    let pg = &w.nodes[n].postgres;
    if pg.frozen {
        return None;
    }
    let (upstream, slot) = pg.upstream.clone()?;
    let other = &w.nodes[upstream].postgres;
    let fine = upstream != n
        && other.running()
        && !other.stopped
        && other.system == pg.system
        && w.open_both(Wire::Postgres, upstream, n)
        && (slot.is_empty() || other.slots.get(&slot) == Some(&false))
        && w.logs.contains((other.branch, other.end), (pg.branch, pg.end));
    fine.then_some(upstream)
}

/// Something has changed that the agent sees soon.
pub fn changed(w: &mut World, n: usize) {
    agent::looks(w, n);
}
