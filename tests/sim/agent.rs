//! A model of the agent: promises epochs before it acts, journals each step before it begins, undoes or goes forward after a crash.
//!
//! It keeps to `agent::step`'s order of calls: before → journal → apply → journal; `undo` in reverse unless a point of no return has
//! begun. What the steps do to PostgreSQL is in [`super::acts`].

use std::collections::BTreeMap;

use howdah::cluster::decide::Input;
use howdah::directive::{AgentStatus, Code, Failure, Job, JobState, Order, Outcome, Step};
use howdah::topology::Epoch;

use super::acts::{self, Act, Applied, Image};
use super::shell;
use super::world::{MS, SECOND, Wire, World};
use crate::say;

/// The agent of a node.
#[derive(Clone, Debug, Default)]
pub struct Agent {
    pub alive: bool,
    pub life: u64,
    /// On disk.
    pub promised: Epoch,
    /// On disk: whose epoch it is.
    pub coordinator: String,
    /// On disk: finished jobs, newest last.
    pub done: Vec<Job>,
    /// On disk: the job that runs.
    pub current: Option<Running>,
    /// It is about to look at its PostgreSQL.
    looking: bool,
    /// When the last message of its stream arrives: one connection keeps its order.
    arrives: u64,
}

/// A job that runs, as journalled.
#[derive(Clone, Debug)]
pub struct Running {
    pub job: Job,
    pub acts: Vec<Act>,
    pub at: usize,
    pub begun: bool,
    pub before: Image,
    /// It goes back: so many acts are still to be undone.
    pub undoing: Option<usize>,
    since: u64,
}

/// An order arrives.
pub fn take(w: &mut World, n: usize, order: &Order) -> Result<Job, Failure> {
    let refuse = |code, text: &str| Err(Failure::new(code, text));
    let forgets = w.control.agents_forget;
    let node = &w.nodes[n];
    let agent = &node.agent;
    if order.cluster != "main" || order.node != node.name {
        return refuse(Code::WrongNode, "another node is meant");
    }
    if let Some(running) = agent.current.as_ref().filter(|running| running.job.order.id == order.id) {
        return Ok(running.job.clone());
    }
    if let Some(job) = agent.done.iter().find(|job| job.order.id == order.id) {
        return Ok(job.clone());
    }
    if order.epoch < agent.promised {
        return refuse(Code::StaleEpoch, "an older epoch than one that this agent has seen");
    }
    if order.epoch == agent.promised && !agent.coordinator.is_empty() && agent.coordinator != order.coordinator {
        return refuse(Code::OtherCoordinator, "another coordinator gave this epoch");
    }
    if agent.current.is_some() {
        return refuse(Code::Busy, "another job runs");
    }
    if node.disk_full {
        return refuse(Code::DiskFull, "no room for the journal");
    }
    if order.epoch < w.ledger.promised[n] {
        let what = format!(
            "I5 {} takes {} of epoch {}, after one of epoch {}",
            node.name, order.id, order.epoch.0, w.ledger.promised[n].0
        );
        w.violated(what);
    }
    let acts = acts::of(w, n, order)?;
    w.ledger.promised[n] = order.epoch;
    let agent = &mut w.nodes[n].agent;
    if !forgets || order.epoch > agent.promised {
        agent.promised = order.epoch;
        agent.coordinator.clone_from(&order.coordinator);
    }
    let job = Job {
        order: order.clone(),
        state: JobState::Pending,
        steps: Vec::new(),
        metadata: BTreeMap::new(),
        failure: None,
        progress: None,
        began_ms: w.wall_ms,
        ended_ms: None,
    };
    let before = Image::of(&w.nodes[n].postgres);
    let since = w.now;
    w.nodes[n].agent.current =
        Some(Running { job: job.clone(), acts, at: 0, begun: false, before, undoing: None, since });
    say!(w, "{}: takes {} (epoch {}): {:?}", w.nodes[n].name, order.id, order.epoch.0, order.directive);
    w.count("jobs");
    go_on(w, n, 0);
    Ok(job)
}

/// Goes on with the job a little later, in this life.
fn go_on(w: &mut World, n: usize, delay: u64) {
    let life = w.nodes[n].agent.life;
    w.after(delay, move |w| {
        let agent = &w.nodes[n].agent;
        if agent.alive && agent.life == life && w.nodes[n].powered {
            match agent.current.as_ref().map(|running| running.undoing) {
                Some(None) => begin(w, n),
                Some(Some(left)) => undo(w, n, left),
                None => {}
            }
        }
    });
}

/// Journals the next act, then does it.
fn begin(w: &mut World, n: usize) {
    if w.rng.per_mille(w.knobs.agent_crash_in_step) {
        return crash(w, n, true);
    }
    let (wall_ms, full) = (w.wall_ms, w.nodes[n].disk_full);
    let Some(running) = &mut w.nodes[n].agent.current else { return };
    let Some(act) = running.acts.get(running.at).cloned() else { return finish(w, n, None) };
    if full && !running.begun {
        return fail(w, n, Failure::new(Code::DiskFull, "the journal cannot be written"));
    }
    running.begun = true;
    running.job.state = JobState::InProgress;
    let step =
        Step { name: act.name().into(), outcome: Outcome::Begun, began_ms: wall_ms, ended_ms: None, log: vec![] };
    if running.job.steps.len() == running.at {
        running.job.steps.push(step);
    }
    moved(w, n);
    let mut takes = acts::takes(w, &act);
    let step_hangs = w.knobs.step_hangs;
    if w.rng.per_mille(step_hangs) {
        takes += w.rng.range(2 * SECOND, 12 * SECOND);
    }
    let life = w.nodes[n].agent.life;
    w.after(takes, move |w| {
        let agent = &w.nodes[n].agent;
        if agent.alive && agent.life == life && agent.current.is_some() && w.nodes[n].powered {
            apply(w, n, &act);
        }
    });
}

fn apply(w: &mut World, n: usize, act: &Act) {
    let since = w.nodes[n].agent.current.as_ref().map_or(0, |running| running.since);
    let broken = w.rng.per_mille(w.knobs.step_fails);
    let applied = if broken && act.can_fail() {
        Applied::Failed(Failure::new(Code::Program, "the program failed"))
    } else {
        acts::apply(w, n, act)
    };
    if w.nodes[n].agent.current.is_none() {
        return;
    }
    if w.rng.per_mille(w.knobs.agent_crash_in_step) {
        return crash(w, n, true);
    }
    match applied {
        Applied::Done => {
            let wall_ms = w.wall_ms;
            if let Some(running) = &mut w.nodes[n].agent.current {
                running.at += 1;
                running.begun = false;
                if let Some(step) = running.job.steps.last_mut() {
                    (step.outcome, step.ended_ms) = (Outcome::Done, Some(wall_ms));
                }
            }
            go_on(w, n, 100);
        }
        Applied::Again if w.now - since < acts::BOUND => {
            let (life, act) = (w.nodes[n].agent.life, act.clone());
            w.after(20 * MS, move |w| {
                let agent = &w.nodes[n].agent;
                if agent.alive && agent.life == life && agent.current.is_some() && w.nodes[n].powered {
                    apply(w, n, &act);
                }
            });
        }
        Applied::Again => fail(w, n, Failure::new(Code::TimedOut, format!("\"{}\" took too long", act.name()))),
        Applied::Failed(failure) => fail(w, n, failure),
    }
}

/// Back, or when that cannot be, an end.
fn fail(w: &mut World, n: usize, failure: Failure) {
    let Some(running) = &mut w.nodes[n].agent.current else { return };
    if let Some(step) = running.job.steps.last_mut() {
        step.outcome = Outcome::Failed;
    }
    running.job.failure = Some(failure.clone());
    let reached = running.at + usize::from(running.begun);
    if running.acts.iter().take(reached).any(Act::is_point_of_no_return) {
        return finish(w, n, Some(failure));
    }
    running.undoing = Some(reached);
    go_on(w, n, MS);
}

fn undo(w: &mut World, n: usize, left: usize) {
    let Some(running) = &mut w.nodes[n].agent.current else { return };
    let failure = running.job.failure.clone();
    let Some(next) = left.checked_sub(1) else {
        let before = running.before.clone();
        acts::undone(w, n, &before);
        return finish(w, n, failure);
    };
    running.undoing = Some(next);
    let (act, before) = (running.acts[next].clone(), running.before.clone());
    if let Some(step) = running.job.steps.get_mut(next) {
        step.outcome = Outcome::Undone;
    }
    acts::undo(w, n, &act, &before);
    if w.rng.per_mille(w.knobs.agent_crash_in_step) {
        return crash(w, n, true);
    }
    go_on(w, n, 2 * MS);
}

fn finish(w: &mut World, n: usize, failure: Option<Failure>) {
    let wall_ms = w.wall_ms;
    let Some(mut running) = w.nodes[n].agent.current.take() else { return };
    running.job.state = if failure.is_some() { JobState::Failed } else { JobState::Completed };
    running.job.failure = failure;
    running.job.ended_ms = Some(wall_ms);
    say!(
        w,
        "{}: {} {:?} {} {:?}",
        w.nodes[n].name,
        running.job.order.id,
        running.job.state,
        running.job.failure.as_ref().map_or(String::new(), ToString::to_string),
        running.job.metadata
    );
    let agent = &mut w.nodes[n].agent;
    agent.done.push(running.job.clone());
    if agent.done.len() > 30 {
        agent.done.remove(0);
    }
    emit(w, n, Input::Moved(w.nodes[n].name.into(), Box::new(running.job)));
    report(w, n);
}

fn moved(w: &mut World, n: usize) {
    if let Some(running) = &w.nodes[n].agent.current {
        emit(w, n, Input::Moved(w.nodes[n].name.into(), Box::new(running.job.clone())));
    }
}

/// The agent dies; its supervisor starts it again, if it has one.
pub fn crash(w: &mut World, n: usize, supervised: bool) {
    let node = &mut w.nodes[n];
    if !node.agent.alive {
        return;
    }
    node.agent.alive = false;
    node.agent.life += 1;
    say!(w, "{}: the agent dies", w.nodes[n].name);
    w.count("agent crashes");
    w.note_reachable();
    if supervised {
        let back = w.rng.range(100 * MS, 4 * SECOND);
        w.after(back, move |w| revive(w, n));
    }
}

/// The agent starts: what its journal says goes on or back.
pub fn revive(w: &mut World, n: usize) {
    let forgets = w.control.agents_forget;
    let node = &mut w.nodes[n];
    if node.agent.alive || !node.powered {
        return;
    }
    let agent = &mut node.agent;
    agent.alive = true;
    agent.life += 1;
    agent.looking = false;
    if forgets {
        agent.promised = Epoch(0);
        agent.coordinator.clear();
    }
    if let Some(running) = &mut agent.current {
        let reached = running.at + usize::from(running.begun);
        let over = running.acts.iter().take(reached).any(Act::is_point_of_no_return);
        if running.undoing.is_none() && !over {
            running.undoing = Some(reached);
            running.job.failure = Some(Failure::new(Code::Interrupted, "the agent ended in the middle"));
        }
        running.since = w.now;
    }
    say!(w, "{}: the agent is back", w.nodes[n].name);
    w.note_reachable();
    if w.nodes[n].agent.current.is_some() {
        go_on(w, n, 5 * MS);
    }
    report(w, n);
}

/// Everything it knows.
pub fn status(w: &World, n: usize) -> AgentStatus {
    let node = &w.nodes[n];
    let last =
        node.agent.current.as_ref().map(|running| running.job.clone()).or_else(|| node.agent.done.last().cloned());
    AgentStatus {
        cluster: "main".into(),
        node: node.name.into(),
        version: "0".into(),
        incarnation: format!("{}-{}", node.name, node.agent.life),
        epoch: node.agent.promised,
        coordinator: node.agent.coordinator.clone(),
        postgres: node.postgres.status(&w.logs, |index| address(w, index)),
        disk_free: if node.disk_full { 0 } else { 10_000_000_000 },
        job: last,
        warnings: Vec::new(),
    }
}

fn address(w: &World, n: usize) -> String {
    format!("127.0.0.1:{}", shell::port(w.nodes[n].name))
}

/// Sends something over the agent's stream of events, in its order.
fn emit(w: &mut World, n: usize, input: Input) {
    let daemon = w.daemon_host();
    if !w.nodes[n].agent.alive || !w.open(Wire::Agent, n, daemon) || !w.daemon.up {
        return;
    }
    let delay = w.delay();
    let arrives = (w.now + delay).max(w.nodes[n].agent.arrives + 1);
    w.nodes[n].agent.arrives = arrives;
    let life = w.daemon.life;
    w.after(arrives - w.now, move |w| {
        if w.daemon.up && w.daemon.life == life {
            w.daemon.heard[n] = w.now;
            shell::input(w, input);
        }
    });
}

/// Says how it is.
pub fn report(w: &mut World, n: usize) {
    if w.nodes[n].agent.alive {
        let status = status(w, n);
        emit(w, n, Input::Reported(w.nodes[n].name.into(), Box::new(status)));
    }
}

/// Its pidfd has fired.
pub fn saw_postmaster_die(w: &mut World, n: usize) {
    emit(w, n, Input::PostmasterDied(w.nodes[n].name.into()));
}

/// Looks at its PostgreSQL soon, and says what has changed.
pub fn looks(w: &mut World, n: usize) {
    if w.nodes[n].agent.looking || !w.nodes[n].agent.alive {
        return;
    }
    w.nodes[n].agent.looking = true;
    let delay = w.rng.range(MS, 60 * MS);
    w.after(delay, move |w| {
        w.nodes[n].agent.looking = false;
        report(w, n);
    });
}

/// Twice a second, whatever happens.
pub fn heartbeat(w: &mut World, n: usize) {
    w.after(500 * MS, move |w| heartbeat(w, n));
    let pg = &mut w.nodes[n].postgres;
    pg.silent = if pg.stopped && pg.alive() { pg.silent + 1 } else { 0 };
    report(w, n);
}
