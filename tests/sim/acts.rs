//! What the steps of an agent's jobs do to the model's PostgreSQL, and how each is undone.

use howdah::directive::{Code, Directive, Failure, Order, Upstream};
use howdah::pg::Timeline;
use howdah::topology::Epoch;

use super::check;
use super::postgres::{Postgres, Server, lsn};
use super::server;
use super::world::{MS, SECOND, World};
use crate::say;

/// How long a job may take in all, in µs.
pub const BOUND: u64 = 15 * SECOND;

/// One step.
#[derive(Clone, Debug)]
pub enum Act {
    Check,
    Kill,
    Latch,
    Prove,
    StopClean,
    StopReceiving,
    FinishReplay,
    StartReceiving,
    MakeSlots(Vec<String>),
    DropSlots(Vec<String>),
    Promote(Epoch),
    PointAt(Upstream),
    Stop,
    StartStandby,
    AwaitStreaming(Upstream),
    Rewind(Upstream),
    Reach(Upstream),
    Copy,
    Swap(Upstream),
    Unlatch,
    Start(Option<Epoch>),
    AwaitRunning,
}

/// How applying went.
pub enum Applied {
    Done,
    /// Not yet.
    Again,
    Failed(Failure),
}

/// What a job must give back when it is undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    latched: bool,
    frozen: bool,
    upstream: Option<(usize, String)>,
    slots: Vec<String>,
    running: bool,
    grant: Option<Epoch>,
}

impl Image {
    pub fn of(pg: &Postgres) -> Self {
        Self {
            latched: pg.latched,
            frozen: pg.frozen,
            upstream: pg.upstream.clone(),
            slots: pg.slots.keys().cloned().collect(),
            running: pg.alive(),
            grant: pg.grant,
        }
    }
}

impl Act {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Kill => "leave no server process",
            Self::Latch => "latch",
            Self::Prove => "prove that no server process is left",
            Self::StopClean => "stop cleanly",
            Self::StopReceiving => "stop receiving",
            Self::FinishReplay => "finish replay",
            Self::StartReceiving => "start receiving",
            Self::MakeSlots(_) => "make slots",
            Self::DropSlots(_) => "drop slots",
            Self::Promote(_) => "promote",
            Self::PointAt(_) => "point at the upstream",
            Self::Stop => "stop",
            Self::StartStandby => "start as a standby",
            Self::AwaitStreaming(_) => "wait until it streams",
            Self::Rewind(_) => "rewind",
            Self::Reach(_) => "reach the upstream",
            Self::Copy => "copy",
            Self::Swap(_) => "swap the directories",
            Self::Unlatch => "unlatch",
            Self::Start(_) => "start",
            Self::AwaitRunning => "wait until it runs",
        }
    }

    pub fn is_point_of_no_return(&self) -> bool {
        matches!(self, Self::Kill | Self::Promote(_) | Self::Rewind(_) | Self::Swap(_))
    }

    pub fn can_fail(&self) -> bool {
        !matches!(self, Self::Kill | Self::Prove | Self::Promote(_) | Self::AwaitRunning)
    }
}

/// The steps of an order; an error changes nothing.
pub fn of(w: &World, n: usize, order: &Order) -> Result<Vec<Act>, Failure> {
    let pg = &w.nodes[n].postgres;
    let role = |wanted: Server, text: &str| {
        if pg.server == wanted { Ok(()) } else { Err(Failure::new(Code::WrongRole, text)) }
    };
    Ok(match &order.directive {
        Directive::Fence => vec![Act::Kill, Act::Latch, Act::Kill, Act::Prove],
        Directive::Demote => {
            role(Server::Primary, "it is no primary that runs")?;
            vec![Act::Check, Act::StopClean, Act::Latch, Act::Prove]
        }
        Directive::Freeze => {
            role(Server::Standby, "it is no standby that runs")?;
            vec![Act::StopReceiving, Act::FinishReplay]
        }
        Directive::Unfreeze => vec![Act::StartReceiving],
        Directive::Promote { slots } => {
            role(Server::Standby, "it is no standby that runs")?;
            vec![Act::Check, Act::MakeSlots(slots.clone()), Act::Promote(order.epoch), Act::AwaitRunning]
        }
        Directive::Follow { upstream } => {
            not_primary(pg)?;
            history(w, n, upstream)?;
            let mut acts = vec![Act::Check, Act::PointAt(upstream.clone())];
            if !pg.alive() {
                acts.extend([Act::Latch, Act::StartStandby, Act::AwaitRunning]);
            }
            acts.push(Act::AwaitStreaming(upstream.clone()));
            acts
        }
        Directive::Rewind { upstream } => {
            not_primary(pg)?;
            if w.knobs.rewind_impossible {
                return Err(Failure::new(Code::RewindImpossible, "no checksums and no wal_log_hints"));
            }
            vec![
                Act::Reach(upstream.clone()),
                Act::Latch,
                Act::Stop,
                Act::Rewind(upstream.clone()),
                Act::PointAt(upstream.clone()),
                Act::StartStandby,
                Act::AwaitRunning,
                Act::AwaitStreaming(upstream.clone()),
            ]
        }
        Directive::Rebuild { upstream } => {
            not_primary(pg)?;
            vec![
                Act::Reach(upstream.clone()),
                Act::Copy,
                Act::Stop,
                Act::Swap(upstream.clone()),
                Act::StartStandby,
                Act::AwaitRunning,
                Act::AwaitStreaming(upstream.clone()),
            ]
        }
        Directive::Restart { primary: true } => {
            if !pg.was_primary && !w.knobs.opens_standbys {
                return Err(Failure::new(Code::WrongRole, "its directory is a standby's"));
            }
            vec![Act::Check, Act::Stop, Act::Unlatch, Act::Start(Some(order.epoch)), Act::AwaitRunning]
        }
        Directive::Restart { primary: false } => vec![Act::Check, Act::Stop, Act::Start(None), Act::AwaitRunning],
        Directive::Configure { slots, drop_slots, .. } => {
            if !pg.running() {
                return Err(Failure::new(Code::WrongState, "it does not run"));
            }
            vec![Act::MakeSlots(slots.clone()), Act::DropSlots(drop_slots.clone())]
        }
        Directive::Checkpoint => {
            if !pg.running() {
                return Err(Failure::new(Code::WrongState, "it does not run"));
            }
            vec![Act::Check]
        }
    })
}

fn not_primary(pg: &Postgres) -> Result<(), Failure> {
    let opens = pg.server == Server::Primary || (pg.server == Server::Starting && !pg.latched);
    if opens { Err(Failure::new(Code::WrongRole, "it is a primary that runs")) } else { Ok(()) }
}

/// By what both say of their timelines: what was forked twice with one number is told apart by where.
fn history(w: &World, n: usize, upstream: &Upstream) -> Result<(), Failure> {
    let pg = &w.nodes[n].postgres;
    let mine = w.logs.history(pg.branch);
    let theirs = &upstream.history;
    let forks = if mine.timeline == theirs.timeline {
        theirs.forks.clone()
    } else {
        theirs
            .forks
            .iter()
            .take_while(|(timeline, _)| *timeline != mine.timeline)
            .copied()
            .collect::<Vec<(Timeline, _)>>()
    };
    if pg.torn || !theirs.has(mine.timeline, lsn(pg.end)) || forks != mine.forks {
        return Err(Failure::new(Code::Diverged, "its log is not a part of the upstream's history"));
    }
    Ok(())
}

/// How long it takes, in µs.
pub fn takes(w: &mut World, act: &Act) -> u64 {
    let (least, most) = match act {
        Act::Kill => (10, 60),
        Act::StopClean => (60, 500),
        Act::Promote(_) => (20, 120),
        Act::Rewind(_) => (300, 3_000),
        Act::Copy => (500, 6_000),
        Act::Stop => (10, 200),
        _ => (1, 15),
    };
    w.rng.range(least * MS, most * MS)
}

/// Does it; doing it twice is doing it once.
pub fn apply(w: &mut World, n: usize, act: &Act) -> Applied {
    let full = w.nodes[n].disk_full;
    let no_room = || Applied::Failed(Failure::new(Code::DiskFull, "no space left on device"));
    let sloppy = w.control.proof_is_postmaster;
    match act {
        Act::Check => {}
        Act::Kill if sloppy => {
            if w.nodes[n].postgres.alive() {
                server::postmaster_dies(w, n, 1);
            }
        }
        Act::Kill => server::kill_all(w, n),
        Act::Latch => {
            if full {
                return no_room();
            }
            w.nodes[n].postgres.latched = true;
        }
        Act::Prove => {
            let pg = &w.nodes[n].postgres;
            if pg.alive() || (pg.orphans > 0 && !sloppy) {
                return Applied::Failed(Failure::new(Code::WrongState, "a server process is left"));
            }
            let (end, begins) = (lsn(pg.end), lsn(pg.end.saturating_sub(1)));
            find(w, n, "proof", "no-process".into());
            find(w, n, "end_lsn", end.to_string());
            find(w, n, "shutdown_lsn", begins.to_string());
        }
        Act::StopClean => {
            if w.nodes[n].postgres.orphans > 0 {
                return Applied::Failed(Failure::new(Code::WrongState, "a server process is left"));
            }
            if w.nodes[n].postgres.alive() {
                server::stop_clean(w, n);
            }
        }
        Act::StopReceiving => {
            if full {
                return no_room();
            }
            w.nodes[n].postgres.frozen = true;
            w.nodes[n].postgres.streaming = None;
        }
        Act::FinishReplay => {
            let pg = &w.nodes[n].postgres;
            if pg.server != Server::Standby {
                return Applied::Failed(Failure::new(Code::WrongState, "it does not run"));
            }
            if pg.replayed < pg.end {
                return Applied::Again;
            }
            let (timeline, end) = (w.logs.timeline(pg.branch), lsn(pg.end).to_string());
            find(w, n, "timeline", timeline.to_string());
            find(w, n, "received_lsn", end.clone());
            find(w, n, "replayed_lsn", end);
        }
        Act::StartReceiving => w.nodes[n].postgres.frozen = false,
        Act::MakeSlots(slots) => {
            if full && !slots.is_empty() {
                return no_room();
            }
            for slot in slots {
                w.nodes[n].postgres.slots.entry(slot.clone()).or_insert(false);
            }
        }
        Act::DropSlots(slots) => {
            for slot in slots {
                w.nodes[n].postgres.slots.remove(slot);
            }
        }
        Act::Promote(epoch) => {
            let pg = &w.nodes[n].postgres;
            match pg.server {
                Server::Standby => {
                    check::promoted(w, n, *epoch);
                    server::promote(w, n, Some(*epoch));
                }
                Server::Primary => {}
                _ => return Applied::Failed(Failure::new(Code::WrongState, "it does not run")),
            }
            let pg = &w.nodes[n].postgres;
            let (timeline, end) = (w.logs.timeline(pg.branch), lsn(pg.end));
            find(w, n, "timeline", timeline.to_string());
            find(w, n, "lsn", end.to_string());
        }
        Act::PointAt(upstream) => {
            if full {
                return no_room();
            }
            point(w, n, upstream);
        }
        Act::Stop => {
            if w.nodes[n].postgres.server == Server::Primary {
                server::stop_clean(w, n);
            } else if w.nodes[n].postgres.alive() {
                let clean = w.nodes[n].postgres.server == Server::Standby;
                server::kill_all(w, n);
                w.nodes[n].postgres.clean = clean;
            } else {
                server::kill_all(w, n);
            }
        }
        Act::StartStandby => {
            w.nodes[n].postgres.latched = true;
            if !w.nodes[n].postgres.alive() && !server::start(w, n, None) {
                return Applied::Failed(Failure::new(Code::Program, "it could not be started"));
            }
        }
        Act::Unlatch => w.nodes[n].postgres.latched = false,
        Act::Start(grant) => {
            if let Some(epoch) = grant {
                check::restarted(w, n, *epoch);
            }
            if !w.nodes[n].postgres.alive() && !server::start(w, n, *grant) {
                return Applied::Failed(Failure::new(Code::Program, "it could not be started"));
            }
        }
        Act::AwaitRunning => match w.nodes[n].postgres.server {
            Server::Primary | Server::Standby if !w.nodes[n].postgres.stopped => {}
            Server::Down => return Applied::Failed(Failure::new(Code::WrongState, "it died")),
            _ => return Applied::Again,
        },
        Act::AwaitStreaming(upstream) => {
            let pg = &w.nodes[n].postgres;
            let wanted = w.index_of(&upstream.node);
            match pg.server {
                Server::Standby if pg.streaming.is_some() && pg.streaming == wanted => {}
                Server::Standby | Server::Starting => {
                    let diverged = wanted.is_some_and(|other| {
                        let theirs = &w.nodes[other].postgres;
                        theirs.running() && !w.logs.contains((theirs.branch, theirs.end), (pg.branch, pg.end))
                    });
                    if diverged {
                        return Applied::Failed(Failure::new(
                            Code::Diverged,
                            "its log is not a part of the upstream's",
                        ));
                    }
                    return Applied::Again;
                }
                _ => return Applied::Failed(Failure::new(Code::WrongState, "it died")),
            }
        }
        Act::Reach(upstream) => {
            if reach(w, n, upstream).is_none() {
                return Applied::Failed(Failure::new(Code::Unreachable, "the upstream does not answer"));
            }
        }
        Act::Copy => {
            if full {
                return no_room();
            }
        }
        Act::Rewind(upstream) => {
            w.nodes[n].postgres.torn = true;
            let Some(source) = reach(w, n, upstream) else {
                return Applied::Failed(Failure::new(Code::Unreachable, "the upstream does not answer"));
            };
            if full {
                return no_room();
            }
            become_copy(w, n, source);
        }
        Act::Swap(upstream) => {
            let Some(source) = reach(w, n, upstream) else {
                return Applied::Failed(Failure::new(Code::Unreachable, "the upstream does not answer"));
            };
            become_copy(w, n, source);
            point(w, n, upstream);
        }
    }
    Applied::Done
}

fn find(w: &mut World, n: usize, key: &str, value: String) {
    if let Some(running) = &mut w.nodes[n].agent.current {
        running.job.metadata.insert(key.into(), value);
    }
}

fn point(w: &mut World, n: usize, upstream: &Upstream) {
    let index = w.index_of(&upstream.node);
    let pg = &mut w.nodes[n].postgres;
    pg.upstream = index.map(|index| (index, upstream.slot.clone()));
    pg.frozen = false;
}

fn reach(w: &World, n: usize, upstream: &Upstream) -> Option<usize> {
    let source = w.index_of(&upstream.node)?;
    let pg = &w.nodes[source].postgres;
    let fine = pg.running() && !pg.stopped && w.open_both(super::world::Wire::Postgres, source, n);
    fine.then_some(source)
}

/// Its directory becomes one of the other's past.
fn become_copy(w: &mut World, n: usize, source: usize) {
    check::data_replaced(w, n, source);
    let from = w.nodes[source].postgres.clone();
    let pg = &mut w.nodes[n].postgres;
    pg.system = from.system;
    (pg.branch, pg.end, pg.replayed) = (from.branch, from.end, from.end);
    pg.torn = false;
    pg.latched = true;
    pg.was_primary = false;
    pg.clean = false;
    pg.stuck = false;
    pg.grant = None;
    pg.slots.clear();
    say!(w, "{}: has the data of {}", w.nodes[n].name, w.nodes[source].name);
}

/// Takes one step back.
pub fn undo(w: &mut World, n: usize, act: &Act, before: &Image) {
    match act {
        Act::Latch | Act::Unlatch => w.nodes[n].postgres.latched = before.latched,
        Act::StopReceiving | Act::StartReceiving => w.nodes[n].postgres.frozen = before.frozen,
        Act::PointAt(_) => {
            w.nodes[n].postgres.upstream.clone_from(&before.upstream);
            w.nodes[n].postgres.frozen = before.frozen;
        }
        Act::MakeSlots(_) => w.nodes[n].postgres.slots.retain(|slot, _| before.slots.contains(slot)),
        Act::StartStandby | Act::Start(_) if !before.running => {
            server::kill_all(w, n);
            w.nodes[n].postgres.latched = before.latched;
        }
        Act::StopClean | Act::Stop if before.running && !w.nodes[n].postgres.alive() => {
            w.nodes[n].postgres.latched = before.latched;
            server::start(w, n, before.grant);
        }
        _ => {}
    }
}

/// Everything is taken back: the pre-image is there again.
pub fn undone(w: &mut World, n: usize, before: &Image) {
    let now = Image::of(&w.nodes[n].postgres);
    if w.ledger.by_hand[n] {
        return;
    }
    if (now.latched, now.frozen, &now.upstream) != (before.latched, before.frozen, &before.upstream) {
        w.violated(format!("I8 {}: an undone job leaves {now:?}, and found {before:?}", w.nodes[n].name));
    }
}
