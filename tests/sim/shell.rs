//! The shell around the machine under test: carries its outputs out, late, twice or never, and dies between any two of them.
//!
//! What `cluster/coordinator.rs`, `cluster/act`, `cluster/store` and `cluster/observe` do, as far as it can go wrong.

use std::collections::VecDeque;
use std::time::Duration;

use howdah::cluster::decide::{Command, Explanation, Input, Member, Mode, OnOpen, Output, Record, Settings, Sight};
use howdah::directive::{Failure, Order};
use howdah::pg::{SystemIdentifier, Timeline};
use howdah::topology::{Appointment, NodeName, Role};

use super::agent;
use super::check;
use super::client;
use super::control;
use super::postgres::{Server, lsn};
use super::world::{MS, SECOND, Wire, World};
use crate::say;

/// What is tried: the coordinator, or one that is known to be wrong.
pub trait Machine {
    fn step(&mut self, now: Duration, input: Input) -> Vec<Output>;
    fn explain(&self, now: Duration) -> Explanation;
}

/// The daemon: its memory, its disk and what routing knows.
#[derive(Default)]
pub struct Daemon {
    pub up: bool,
    pub life: u64,
    pub machine: Option<Box<dyn Machine>>,
    /// On disk.
    pub stored: Option<Record>,
    /// The last record that this life, or the start of it, knows to be there.
    pub confirmed: Option<Record>,
    /// Backups of it.
    backups: Vec<Record>,
    /// Drawn for the store, and again for an empty one.
    drawn: u64,
    storing: VecDeque<Record>,
    busy_storing: bool,
    /// What routing goes by; dies with the daemon.
    pub appointment: Option<Appointment>,
    /// What health checks have shown of each node's role.
    pub roles: Vec<Option<Role>>,
    pub heard: Vec<u64>,
    silent: Vec<bool>,
    pub born: u64,
    pub open_told: Option<u64>,
    asked: u64,
    /// `primary = "b"` in the configuration.
    declared: Option<NodeName>,
    /// Numbers of commands that this life has not answered, and when they were asked.
    pub unanswered: Vec<(u64, u64)>,
}

pub fn port(name: &str) -> u16 {
    5_400 + u16::from(name.as_bytes()[0] - b'a')
}

/// The configuration.
pub fn settings(w: &World) -> Settings {
    Settings {
        cluster: "main".into(),
        mode: if w.knobs.manual { Mode::Manual } else { Mode::Automatic },
        nodes: w
            .nodes
            .iter()
            .map(|node| Member {
                name: node.name.into(),
                priority: 1 + u32::from(node.name.as_bytes()[0]) * u32::try_from(w.seed % 7).unwrap() % 3,
                has_agent: true,
                host: "127.0.0.1".into(),
                port: port(node.name),
            })
            .collect(),
        declared: w.daemon.declared.clone(),
        max_lag: w.knobs.max_lag,
        restart_if: Duration::from_secs(2),
        slot_wal_max: 0,
        flap_window: Duration::from_secs(600),
        interval: Duration::from_secs(1),
        failure_threshold: 3,
        hold_timeout: Duration::from_secs(5),
        drain_timeout: Duration::from_secs(2),
        on_open: if w.seed.is_multiple_of(3) { OnOpen::Kill } else { OnOpen::Abort },
    }
}

/// The daemon starts, with what its disk says.
pub fn boot(w: &mut World) {
    if w.daemon.up {
        return;
    }
    let nodes = w.nodes.len();
    let settings = settings(w);
    let daemon = &mut w.daemon;
    daemon.up = true;
    daemon.life += 1;
    daemon.born = w.now;
    daemon.heard = vec![w.now; nodes];
    daemon.silent = vec![false; nodes];
    daemon.roles = vec![None; nodes];
    daemon.appointment = None;
    daemon.open_told = None;
    daemon.storing.clear();
    daemon.busy_storing = false;
    daemon.unanswered.clear();
    daemon.confirmed.clone_from(&daemon.stored);
    let coordinator = format!("c{}", daemon.drawn);
    daemon.machine = Some(control::machine(w.control, settings, coordinator, daemon.stored.clone()));
    say!(
        w,
        "the daemon starts, record {:?}",
        w.daemon.stored.as_ref().map(|record| (record.generation, &record.intent))
    );
    w.note_reachable();
    tick(w, w.daemon.life);
    for n in 0..nodes {
        let at = w.rng.range(MS, 200 * MS);
        let life = w.daemon.life;
        w.after(at, move |w| look_again(w, n, life));
        agent::report(w, n);
    }
}

/// It dies; somebody starts it again.
pub fn crash(w: &mut World) {
    if !w.daemon.up {
        return;
    }
    say!(w, "the daemon dies");
    w.count("daemon crashes");
    // what was on its way to the disk came there, or not
    if let Some(record) = w.daemon.storing.pop_front()
        && w.rng.per_mille(500)
    {
        say!(w, "record {} is stored all the same", record.generation);
        w.daemon.stored = Some(record);
    }
    w.daemon.up = false;
    w.daemon.life += 1;
    w.daemon.machine = None;
    w.daemon.appointment = None;
    client::routing_died(w);
    w.note_reachable();
    let back = w.rng.range(100 * MS, 3 * SECOND);
    w.after(back, boot);
}

/// Somebody puts an old backup of the store in its place, or loses it, while the daemon is down.
pub fn restore(w: &mut World) {
    w.ledger.restored = true;
    let lost = w.rng.per_mille(300) || w.daemon.backups.is_empty();
    let old = w.rng.index(w.daemon.backups.len().max(1));
    w.daemon.stored = if lost { None } else { w.daemon.backups.get(old).cloned() };
    w.daemon.drawn += u64::from(lost);
    say!(w, "the store is an old one: {:?}", w.daemon.stored.as_ref().map(|record| (record.generation, record.epoch)));
}

fn tick(w: &mut World, life: u64) {
    if w.daemon.life != life || !w.daemon.up {
        return;
    }
    let every = w.knobs.tick;
    w.after(every, move |w| tick(w, life));
    for n in 0..w.nodes.len() {
        let quiet = w.now.saturating_sub(w.daemon.heard[n]) > 1_500 * MS;
        if quiet && (!w.daemon.silent[n] || w.rng.per_mille(100)) {
            w.daemon.silent[n] = true;
            let name = w.nodes[n].name;
            input(w, Input::Silent(name.into(), "nothing heard for 1.5 s".into()));
        } else if !quiet {
            w.daemon.silent[n] = false;
        }
        if w.daemon.life != life {
            return;
        }
    }
    let wall_ms = w.wall_ms + w.now / MS;
    input(w, Input::Tick { wall_ms });
}

/// Gives something to the machine and carries out what it says.
pub fn input(w: &mut World, input: Input) {
    if !w.daemon.up {
        return;
    }
    if w.trace.is_some() && !matches!(input, Input::Tick { .. } | Input::Reported(..) | Input::Seen(..)) {
        let text = brief(&input);
        say!(w, "  -> {text}");
    }
    let now = Duration::from_micros(w.now - w.daemon.born + 1_000_000);
    let Some(machine) = &mut w.daemon.machine else { return };
    w.ledger.steps += 1;
    let outputs = machine.step(now, input);
    let life = w.daemon.life;
    for output in outputs {
        if w.daemon.life != life {
            return;
        }
        if w.rng.per_mille(w.knobs.daemon_crash_at_output) && w.rng.per_mille(100) {
            return crash(w);
        }
        carry(w, output);
    }
}

fn brief(input: &Input) -> String {
    match input {
        Input::Moved(node, job) => format!(
            "Moved({node}, {} {:?} {})",
            job.order.id,
            job.state,
            job.failure.as_ref().map_or(String::new(), ToString::to_string)
        ),
        other => format!("{other:?}"),
    }
}

fn carry(w: &mut World, output: Output) {
    match output {
        Output::Store(record) => {
            say!(
                w,
                "  <- Store({}: epoch {}, primary {:?}, {:?})",
                record.generation,
                record.epoch.0,
                record.primary,
                record.intent
            );
            check::stores(w, &record);
            w.daemon.storing.push_back(*record);
            store_next(w);
        }
        Output::Send(node, order) => {
            say!(w, "  <- Send({node}, {} epoch {} {:?})", order.id, order.epoch.0, order.directive);
            send(w, &node, *order);
        }
        Output::Ask(node) => {
            let Some(n) = w.index_of(&node) else { return };
            ask(w, n);
        }
        Output::Look(node) => {
            let Some(n) = w.index_of(&node) else { return };
            look(w, n);
        }
        Output::Appoint(appointment) => {
            say!(w, "  <- {appointment:?}");
            check::appoints(w, &appointment);
            client::appointed(w, appointment);
        }
        Output::Reply(number, answer) => {
            say!(w, "  <- Reply({number}, {answer:?})");
            let before = w.daemon.unanswered.len();
            w.daemon.unanswered.retain(|(asked, _)| *asked != number);
            if w.daemon.unanswered.len() == before {
                w.violated(format!("command {number} is answered twice, or was never asked"));
            }
        }
        Output::Tell(event) => {
            say!(w, "  <- Tell({:?} {})", event.node, event.text);
            w.ledger.told += 1;
        }
    }
}

fn store_next(w: &mut World) {
    if w.daemon.busy_storing || w.daemon.storing.is_empty() {
        return;
    }
    w.daemon.busy_storing = true;
    let takes =
        if w.rng.per_mille(w.knobs.store_slow) { w.rng.range(50 * MS, 3 * SECOND) } else { w.rng.range(300, 5 * MS) };
    let life = w.daemon.life;
    w.after(takes, move |w| {
        if w.daemon.life != life || !w.daemon.up {
            return;
        }
        let Some(record) = w.daemon.storing.pop_front() else { return };
        w.daemon.busy_storing = false;
        let generation = record.generation;
        if w.rng.per_mille(w.knobs.store_fails) {
            // a rename may be there although its fsync failed
            if w.rng.per_mille(300) {
                w.daemon.stored = Some(record);
            }
            input(w, Input::NotStored(generation, "no space left on device".into()));
        } else {
            w.daemon.confirmed = Some(record.clone());
            w.daemon.backups.push(record.clone());
            w.daemon.stored = Some(record);
            input(w, Input::Stored(generation));
        }
        store_next(w);
    });
}

fn send(w: &mut World, node: &str, order: Order) {
    check::sends(w, node, &order);
    let Some(n) = w.index_of(node) else { return };
    let times = if w.rng.per_mille(w.knobs.duplicates) { 2 } else { 1 };
    for _ in 0..times {
        send_once(w, n, order.clone());
    }
}

fn send_once(w: &mut World, n: usize, order: Order) {
    let (life, daemon, id) = (w.daemon.life, w.daemon_host(), order.id.clone());
    let name = w.nodes[n].name;
    let undelivered = move |w: &mut World, after: u64, id: String, why: &'static str| {
        w.after(after, move |w| {
            if w.daemon.life == life {
                input(w, Input::Undelivered(name.into(), id, why.into()));
            }
        });
    };
    if !w.passes(daemon, n) {
        return undelivered(w, 1_000 * MS, id, "timed out");
    }
    let delay = w.delay();
    w.after(delay, move |w| {
        if !w.nodes[n].agent.alive || !w.nodes[n].powered {
            return undelivered(w, MS, id, "connection refused");
        }
        let answer = agent::take(w, n, &order);
        if let Err(failure) = &answer {
            say!(w, "{}: refuses {}: {failure}", w.nodes[n].name, order.id);
        }
        if !w.passes(n, daemon) {
            return undelivered(w, 1_000 * MS, id, "no answer");
        }
        let delay = w.delay();
        w.after(delay, move |w| {
            if w.daemon.life == life {
                answered(w, n, id, answer);
            }
        });
    });
}

fn answered(w: &mut World, n: usize, id: String, answer: Result<howdah::directive::Job, Failure>) {
    let name = w.nodes[n].name.into();
    match answer {
        Ok(job) => input(w, Input::Moved(name, Box::new(job))),
        Err(failure) => input(w, Input::Refused(name, id, failure)),
    }
}

fn ask(w: &mut World, n: usize) {
    let (life, daemon) = (w.daemon.life, w.daemon_host());
    if !w.passes(daemon, n) || !w.nodes[n].agent.alive {
        let name = w.nodes[n].name;
        let refused = w.nodes[n].powered && !w.nodes[n].agent.alive;
        return w.after(if refused { MS } else { 1_000 * MS }, move |w| {
            if w.daemon.life == life {
                input(w, Input::Silent(name.into(), "it does not answer".into()));
            }
        });
    }
    let delay = w.delay();
    w.after(delay, move |w| {
        if !w.nodes[n].agent.alive || !w.passes(n, daemon) {
            return;
        }
        let status = agent::status(w, n);
        let delay = w.delay();
        w.after(delay, move |w| {
            if w.daemon.life == life {
                input(w, Input::Reported(w.nodes[n].name.into(), Box::new(status)));
            }
        });
    });
}

fn look_again(w: &mut World, n: usize, life: u64) {
    if w.daemon.life == life && w.daemon.up {
        w.after(1_000 * MS, move |w| look_again(w, n, life));
        look(w, n);
    }
}

/// A health check.
pub fn look(w: &mut World, n: usize) {
    let (life, daemon) = (w.daemon.life, w.daemon_host());
    let there = w.open_both(Wire::Postgres, daemon, n);
    let pg = &w.nodes[n].postgres;
    let sight = if there && pg.running() && !pg.stopped {
        let primary = pg.server == Server::Primary;
        Sight {
            healthy: true,
            role: Some(if primary { Role::Primary } else { Role::Standby }),
            timeline: Some(Timeline(w.logs.timeline(pg.branch))),
            received_lsn: Some(lsn(pg.end)),
            replayed_lsn: (!primary).then(|| lsn(pg.replayed)),
            system_identifier: Some(SystemIdentifier(pg.system)),
            trouble: None,
        }
    } else {
        Sight { healthy: false, trouble: Some("it does not answer".into()), ..Sight::default() }
    };
    let refused = there && !pg.stopped;
    let delay = if sight.healthy || refused { w.delay() } else { 1_000 * MS };
    w.after(delay, move |w| {
        if w.daemon.life == life && w.daemon.up {
            w.daemon.roles[n] = sight.role;
            input(w, Input::Seen(w.nodes[n].name.into(), sight));
        }
    });
}

/// Somebody wants something.
pub fn command(w: &mut World, command: Command) {
    if !w.daemon.up {
        return;
    }
    w.daemon.asked += 1;
    let number = w.daemon.asked;
    w.daemon.unanswered.push((number, w.now));
    w.count("commands");
    input(w, Input::Asked(number, command));
}

/// Another `primary = …` in the configuration, and a reload.
pub fn declare(w: &mut World, node: NodeName) {
    say!(w, "*** the configuration names {node}");
    w.daemon.declared = Some(node);
    let settings = settings(w);
    input(w, Input::Settings(settings));
}

/// What the machine makes of it all.
pub fn explain(w: &World) -> Option<Explanation> {
    let now = Duration::from_micros(w.now - w.daemon.born + 1_000_000);
    w.daemon.machine.as_ref().map(|machine| machine.explain(now))
}
