//! What goes wrong, and who asks for what: drawn from the seed. Each seed tries a mixture of its own of few kinds of faults, because all at
//! once hide each other.

use howdah::cluster::decide::{Aside, Command};
use howdah::topology::NodeName;

use super::agent;
use super::check;
use super::client;
use super::control::Control;
use super::postgres::{Logs, Postgres, Server};
use super::rng::Rng;
use super::server;
use super::shell::{self, Daemon};
use super::world::{Knobs, MS, Node, SECOND, Wire, World};
use crate::say;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillPrimary,
    KillAny,
    PowerOff,
    Stop,
    Agent,
    AgentForGood,
    AgentAndPostmaster,
    Daemon,
    Cut,
    Isolate,
    FullDisk,
    Clock,
    StartByHand,
    PromoteByHand,
    LoseSlot,
    Stuck,
    CrashRestart,
    KillTwice,
    OldStore,
}

const FAULTS: [Fault; 19] = [
    Fault::KillPrimary,
    Fault::KillAny,
    Fault::PowerOff,
    Fault::Stop,
    Fault::Agent,
    Fault::AgentForGood,
    Fault::AgentAndPostmaster,
    Fault::Daemon,
    Fault::Cut,
    Fault::Isolate,
    Fault::FullDisk,
    Fault::Clock,
    Fault::StartByHand,
    Fault::PromoteByHand,
    Fault::LoseSlot,
    Fault::Stuck,
    Fault::CrashRestart,
    Fault::KillTwice,
    Fault::OldStore,
];

fn knobs(rng: &mut Rng) -> Knobs {
    let tick = rng.range(80, 200) * MS;
    if rng.per_mille(100) {
        return Knobs {
            name: "calm",
            heal_at: 30 * SECOND,
            end_at: 50 * SECOND,
            commands: rng.range(1, 3),
            tick,
            max_lag: 1_000_000,
            ..Knobs::default()
        };
    }
    // each is there in some seeds and not in others
    let mut some = |often: u64, most: u64| if rng.per_mille(often) { rng.below(most + 1) } else { 0 };
    Knobs {
        name: "faults",
        faults: 1 + some(900, 8),
        heal_at: 30 * SECOND,
        end_at: 95 * SECOND,
        loss: some(300, 200),
        duplicates: some(300, 200),
        slow_message: some(400, 100),
        step_fails: some(300, 100),
        step_hangs: some(200, 50),
        agent_crash_in_step: some(300, 60),
        daemon_crash_at_output: some(300, 300),
        store_fails: some(200, 300),
        store_slow: some(300, 300),
        rewind_impossible: some(200, 1) == 1,
        opens_standbys: some(1_000, 1) == 1,
        autostart: some(500, 1) == 1,
        commands: some(500, 5),
        tick,
        long_blocks: some(200, 50),
        breaks_at_stop: some(250, 500),
        manual: some(150, 1) == 1,
        max_lag: 2_000 + some(500, 1) * 1_000_000,
    }
}

/// A world before anything has happened: a primary, its standbys, nobody who coordinates yet.
pub fn world(seed: u64, control: Control, tracing: bool) -> World {
    let mut rng = Rng::new(seed);
    let knobs = knobs(&mut rng);
    let count = [3, 3, 3, 2, 4][rng.index(5)];
    let primary = rng.index(count);
    let logs = Logs::new(primary);
    let end = logs.end(0);
    let nodes = (0..count)
        .map(|n| {
            let mut postgres = Postgres::new(7_000, end);
            postgres.recovery = rng.range(50 * MS, 4 * SECOND);
            postgres.latched = n != primary;
            postgres.was_primary = n == primary;
            if n != primary {
                postgres.upstream = Some((primary, String::new()));
            }
            Node {
                name: NAMES[n],
                powered: true,
                postgres,
                agent: agent::Agent::default(),
                disk_full: false,
                reachable_since: None,
                vouched: false,
            }
        })
        .collect();
    let clients = vec![client::Client::default(); 3];
    let mut w = World::new(seed, rng, knobs, nodes, logs, Daemon::default(), clients, control, tracing);
    w.ledger = check::Ledger::new(count, primary);
    say!(w, "seed {seed}: {:?}", w.knobs);
    for n in 0..count {
        server::start(&mut w, n, None);
        agent::revive(&mut w, n);
        w.after(w.rng.clone().range(MS, 400 * MS), move |w| agent::heartbeat(w, n));
        server::stream(&mut w, n);
    }
    shell::boot(&mut w);
    for index in 0..w.clients.len() {
        client::begin(&mut w, index);
    }
    client::pipeline(&mut w);
    check::watch(&mut w);
    plan(&mut w);
    w
}

fn plan(w: &mut World) {
    let old_store = w.control.old_store;
    let possible = FAULTS.iter().copied().filter(|kind| old_store || *kind != Fault::OldStore);
    let possible: Vec<Fault> = possible.collect();
    let mut kinds = possible.clone();
    kinds.retain(|_| w.rng.per_mille(250));
    if kinds.is_empty() {
        kinds.push(possible[w.rng.index(possible.len())]);
    }
    // nobody can tell what people have done by hand once the record of what howdah did is gone as well
    let by_hand = |kind: &Fault| matches!(kind, Fault::StartByHand | Fault::PromoteByHand);
    if kinds.contains(&Fault::OldStore) {
        kinds.retain(|kind| !by_hand(kind));
    }
    for _ in 0..w.knobs.faults {
        let kind = kinds[w.rng.index(kinds.len())];
        let at = w.rng.range(4 * SECOND, w.knobs.heal_at - SECOND);
        w.after(at, move |w| happens(w, kind));
    }
    for _ in 0..w.knobs.commands {
        let at = w.rng.range(4 * SECOND, w.knobs.heal_at - SECOND);
        w.after(at, ask);
    }
    let (heal_at, end_at) = (w.knobs.heal_at, w.knobs.end_at);
    w.after(heal_at, heal);
    w.after(end_at - MS, check::finale);
}

fn happens(w: &mut World, kind: Fault) {
    let any = w.rng.index(w.nodes.len());
    let primary = (0..w.nodes.len()).find(|n| w.nodes[*n].postgres.server == Server::Primary);
    let target = if w.rng.per_mille(500) { primary.unwrap_or(any) } else { any };
    say!(w, "*** {kind:?} {}", w.nodes[target].name);
    w.count("faults");
    let short = w.rng.range(200 * MS, 15 * SECOND);
    match kind {
        Fault::KillPrimary => kill(w, primary.unwrap_or(any)),
        Fault::KillAny => kill(w, any),
        Fault::PowerOff => power_off(w, target, short),
        Fault::Stop => {
            if w.nodes[target].postgres.alive() {
                w.nodes[target].postgres.stopped = true;
                w.after(short, move |w| w.nodes[target].postgres.stopped = false);
            }
        }
        Fault::Agent => agent::crash(w, target, true),
        Fault::AgentForGood => agent::crash(w, target, false),
        Fault::AgentAndPostmaster => {
            let supervised = w.rng.per_mille(700);
            agent::crash(w, target, supervised);
            kill(w, target);
        }
        Fault::Daemon => shell::crash(w),
        Fault::OldStore => {
            shell::crash(w);
            shell::restore(w);
        }
        Fault::Cut => cut(w, target, short),
        Fault::Isolate => {
            for host in 0..=w.nodes.len() {
                for wire in [Wire::Agent, Wire::Postgres] {
                    cut_one(w, wire, host, target, short);
                    cut_one(w, wire, target, host, short);
                }
            }
        }
        Fault::FullDisk => {
            w.nodes[target].disk_full = true;
            w.note_reachable();
            w.after(short, move |w| {
                w.nodes[target].disk_full = false;
                w.note_reachable();
            });
        }
        Fault::Clock => {
            let jump = w.rng.below(7_200_000);
            w.wall_ms = if w.rng.per_mille(500) { w.wall_ms + jump } else { w.wall_ms - jump };
        }
        Fault::StartByHand => {
            // who finds a server dead at the wrong moment
            let down = (0..w.nodes.len()).find(|n| !w.nodes[*n].postgres.alive() && w.nodes[*n].powered);
            if let Some(n) = down {
                w.ledger.by_hand[n] |= w.nodes[n].agent.current.is_some();
                server::start(w, n, None);
            }
        }
        Fault::PromoteByHand => {
            if w.nodes[any].postgres.server == Server::Standby && !w.nodes[any].postgres.stopped {
                w.ledger.by_hand[any] = true;
                server::promote(w, any, None);
            }
        }
        Fault::LoseSlot => {
            for lost in w.nodes[target].postgres.slots.values_mut() {
                *lost = true;
            }
        }
        Fault::Stuck => {
            w.nodes[any].postgres.stuck = true;
            w.after(short, move |w| w.nodes[any].postgres.stuck = false);
        }
        Fault::CrashRestart => crash_restart(w, target),
        Fault::KillTwice => {
            kill(w, primary.unwrap_or(any));
            let soon = w.rng.range(100 * MS, 3 * SECOND);
            w.after(soon, |w| {
                if let Some(n) = (0..w.nodes.len()).find(|n| w.nodes[*n].postgres.server == Server::Primary) {
                    kill(w, n);
                }
            });
        }
    }
}

fn kill(w: &mut World, n: usize) {
    let orphans = if w.rng.per_mille(400) { 1 } else { 0 };
    server::postmaster_dies(w, n, orphans);
}

/// A server process crashes: all sessions end, the postmaster recovers by itself.
fn crash_restart(w: &mut World, n: usize) {
    let pg = &mut w.nodes[n].postgres;
    if !pg.running() || pg.stopped {
        return;
    }
    let before = pg.server;
    pg.server = Server::Starting;
    pg.life += 1;
    let life = pg.life;
    let takes = w.rng.range(50 * MS, 2 * SECOND);
    w.after(takes, move |w| {
        let pg = &mut w.nodes[n].postgres;
        if pg.life == life && pg.server == Server::Starting {
            pg.server = before;
            pg.opened_at = w.now;
            server::changed(w, n);
        }
    });
    server::changed(w, n);
}

fn power_off(w: &mut World, n: usize, lasts: u64) {
    if !w.nodes[n].powered {
        return;
    }
    server::kill_all(w, n);
    w.nodes[n].powered = false;
    agent::crash(w, n, false);
    w.note_reachable();
    let lasts = if w.rng.per_mille(250) { w.knobs.heal_at.saturating_sub(w.now) } else { lasts };
    w.after(lasts, move |w| {
        // who is vouched for stays off
        if !w.nodes[n].vouched {
            power_on(w, n);
        }
    });
}

fn power_on(w: &mut World, n: usize) {
    if w.nodes[n].powered {
        return;
    }
    w.nodes[n].powered = true;
    say!(w, "{}: is on again", w.nodes[n].name);
    let delay = w.rng.range(100 * MS, 2 * SECOND);
    w.after(delay, move |w| agent::revive(w, n));
    if w.knobs.autostart {
        let delay = w.rng.range(100 * MS, 2 * SECOND);
        w.after(delay, move |w| {
            server::start(w, n, None);
        });
    }
}

fn cut(w: &mut World, target: usize, lasts: u64) {
    let other = w.rng.index(w.nodes.len() + 1);
    let both = w.rng.per_mille(500);
    for wire in [Wire::Agent, Wire::Postgres] {
        if w.rng.per_mille(700) {
            cut_one(w, wire, target, other, lasts);
            if both {
                cut_one(w, wire, other, target, lasts);
            }
        }
    }
}

fn cut_one(w: &mut World, wire: Wire, from: usize, to: usize, lasts: u64) {
    if from == to {
        return;
    }
    w.cut(wire, from, to, true);
    w.after(lasts, move |w| w.cut(wire, from, to, false));
}

/// An operator wants something.
fn ask(w: &mut World) {
    let n = w.rng.index(w.nodes.len());
    let node: NodeName = w.nodes[n].name.into();
    let to = w.rng.per_mille(500).then(|| node.clone());
    if w.knobs.name == "calm" {
        return shell::command(w, Command::Switchover { to });
    }
    let command = match w.rng.below(12) {
        0..=3 => Command::Switchover { to },
        4 => {
            let (_, primary) = w.ledger.owner();
            // a person says so only when it is true, and then keeps it so
            let vouch = (!w.nodes[primary].powered).then(|| {
                w.nodes[primary].vouched = true;
                w.nodes[primary].name.into()
            });
            let allow_data_loss = w.rng.per_mille(200);
            w.ledger.allowed_loss |= allow_data_loss;
            Command::Failover { to, vouch, allow_data_loss }
        }
        5 if w.rng.per_mille(500) => return shell::declare(w, node),
        5 => Command::Pause,
        6 => Command::Resume,
        7 => Command::Attach { node },
        8 => Command::Detach { node },
        9 => Command::Rebuild { node },
        10 => Command::Restart { node },
        _ => Command::Fence { node },
    };
    say!(w, "*** an operator: {command:?}");
    shell::command(w, command);
}

/// Faults end.
fn heal(w: &mut World) {
    say!(w, "*** faults end");
    w.healed = true;
    w.heal_links();
    let name = w.knobs.name;
    w.knobs = Knobs {
        name,
        end_at: w.knobs.end_at,
        heal_at: w.knobs.heal_at,
        tick: w.knobs.tick,
        autostart: w.knobs.autostart,
        manual: w.knobs.manual,
        max_lag: w.knobs.max_lag,
        rewind_impossible: w.knobs.rewind_impossible,
        opens_standbys: w.knobs.opens_standbys,
        ..Knobs::default()
    };
    for n in 0..w.nodes.len() {
        w.nodes[n].disk_full = false;
        w.nodes[n].postgres.stopped = false;
        w.nodes[n].postgres.stuck = false;
        power_on(w, n);
        let delay = w.rng.range(100 * MS, 2 * SECOND);
        w.after(delay, move |w| agent::revive(w, n));
    }
    w.note_reachable();
    w.after(2 * SECOND, attend);
}

/// An operator who does what the coordinator asks people for.
fn attend(w: &mut World) {
    if w.knobs.name == "calm" {
        return;
    }
    w.after(5 * SECOND, attend);
    if !w.daemon.up {
        return;
    }
    let record = w.daemon.stored.clone().unwrap_or_default();
    if record.paused {
        return shell::command(w, Command::Resume);
    }
    for (node, aside) in &record.aside {
        match aside {
            Aside::Detached => shell::command(w, Command::Attach { node: node.clone() }),
            Aside::Fenced => shell::command(w, Command::Unfence { node: node.clone() }),
            Aside::Quarantined { .. } if w.rng.per_mille(300) => {
                shell::command(w, Command::Attach { node: node.clone() });
            }
            Aside::Quarantined { .. } => {}
        }
    }
    // nobody knows who the primary was, but a person does
    let lost = shell::explain(w).is_some_and(|it| it.state == "starting" && !it.blocked.is_empty());
    let (_, owner) = w.ledger.owner();
    for n in 0..w.nodes.len() {
        // of two that accept writes he keeps the one that is right
        if lost && n != owner && w.nodes[n].postgres.server == Server::Primary {
            say!(w, "*** an operator stops {}", w.nodes[n].name);
            server::kill_all(w, n);
            w.nodes[n].postgres.latched = true;
            w.ledger.by_hand[n] = true;
        }
    }
    let opens = matches!(w.nodes[owner].postgres.server, Server::Primary | Server::Starting);
    if lost && !opens && w.now > w.knobs.heal_at + 15 * SECOND && w.nodes[owner].agent.current.is_none() {
        say!(w, "*** an operator starts {} as the primary", w.nodes[owner].name);
        server::kill_all(w, owner);
        w.nodes[owner].postgres.latched = false;
        w.ledger.by_hand[owner] = true;
        server::start(w, owner, None);
    }
    let blocked = shell::explain(w).is_some_and(|it| !it.blocked.is_empty());
    if blocked && check::writable(w).is_none() && w.now > w.knobs.heal_at + 10 * SECOND {
        // who has waited for long takes what there is
        let allow_data_loss = w.now > w.knobs.heal_at + 25 * SECOND;
        w.ledger.allowed_loss |= allow_data_loss;
        shell::command(w, Command::Failover { to: None, vouch: None, allow_data_loss });
        if let Some(node) = record.primary {
            shell::command(w, Command::Restart { node });
        }
    }
}
