//! Everything there is in one run, and the one scheduler: events in the order of their moments, ties in the order they were made.
//!
//! No threads, no clock: a seed is a run. What happens is in the other files, as functions of a [`World`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::agent::Agent;
use super::check::Ledger;
use super::client::{Client, Direct};
use super::control::Control;
use super::postgres::{Logs, Postgres};
use super::rng::Rng;
use super::shell::Daemon;

/// Microseconds.
pub const MS: u64 = 1_000;
pub const SECOND: u64 = 1_000 * MS;

/// Something that happens.
pub type Event = Box<dyn FnOnce(&mut World)>;

struct Due(u64, u64, Event);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// Which connections a cut concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// To agents.
    Agent,
    /// To PostgreSQL: health checks, clients, streaming.
    Postgres,
}

/// What goes wrong how often, drawn once for a seed: different seeds try different mixtures.
#[derive(Clone, Debug, Default)]
pub struct Knobs {
    pub name: &'static str,
    /// Faults until [`Knobs::heal_at`].
    pub faults: u64,
    pub heal_at: u64,
    pub end_at: u64,
    pub loss: u64,
    pub duplicates: u64,
    pub slow_message: u64,
    pub step_fails: u64,
    pub step_hangs: u64,
    pub agent_crash_in_step: u64,
    pub daemon_crash_at_output: u64,
    pub store_fails: u64,
    pub store_slow: u64,
    pub rewind_impossible: bool,
    /// Agents that open a standby's directory for writes when they are told to start a primary.
    pub opens_standbys: bool,
    pub autostart: bool,
    pub commands: u64,
    pub tick: u64,
    pub long_blocks: u64,
    /// Standbys that lose their stream while the primary stops.
    pub breaks_at_stop: u64,
    pub manual: bool,
    pub max_lag: u64,
}

/// One node.
pub struct Node {
    pub name: &'static str,
    pub powered: bool,
    pub postgres: Postgres,
    pub agent: Agent,
    pub disk_full: bool,
    /// Since when its agent could be reached without a break.
    pub reachable_since: Option<u64>,
    /// Somebody has vouched for it: what it does when it comes back binds nobody.
    pub vouched: bool,
}

/// One run.
pub struct World {
    pub seed: u64,
    pub now: u64,
    made: u64,
    queue: BinaryHeap<Reverse<Due>>,
    pub rng: Rng,
    pub knobs: Knobs,
    pub logs: Logs,
    pub nodes: Vec<Node>,
    /// (wire, from, to); the daemon's number is that of no node.
    cuts: Vec<[bool; 2]>,
    pub daemon: Daemon,
    pub clients: Vec<Client>,
    pub direct: Direct,
    pub ledger: Ledger,
    pub control: Control,
    pub trace: Option<Vec<String>>,
    pub violation: Option<String>,
    pub wall_ms: u64,
    pub healed: bool,
    pub counts: BTreeMap<&'static str, u64>,
}

/// Says something in the trace, which is only written when somebody reads it.
#[macro_export]
macro_rules! say {
    ($w:expr, $($arg:tt)*) => {
        if $w.trace.is_some() { let line = format!($($arg)*); $w.say(line); }
    };
}

impl World {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        seed: u64,
        rng: Rng,
        knobs: Knobs,
        nodes: Vec<Node>,
        logs: Logs,
        daemon: Daemon,
        clients: Vec<Client>,
        control: Control,
        tracing: bool,
    ) -> Self {
        let hosts = nodes.len() + 1;
        Self {
            seed,
            now: 0,
            made: 0,
            queue: BinaryHeap::new(),
            rng,
            knobs,
            logs,
            nodes,
            cuts: vec![[false; 2]; hosts * hosts],
            daemon,
            clients,
            direct: Direct::default(),
            ledger: Ledger::default(),
            control,
            trace: tracing.then(Vec::new),
            violation: None,
            wall_ms: 1_790_000_000_000,
            healed: false,
            counts: BTreeMap::new(),
        }
    }

    pub fn say(&mut self, line: String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>4}.{:06} {line}", now / SECOND, now % SECOND));
        }
    }

    /// After so many µs this happens.
    pub fn after(&mut self, delay: u64, event: impl FnOnce(&mut Self) + 'static) {
        self.made += 1;
        self.queue.push(Reverse(Due(self.now + delay, self.made, Box::new(event))));
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// An invariant does not hold.
    pub fn violated(&mut self, what: String) {
        if self.violation.is_none() {
            say!(self, "VIOLATION {what}");
            self.violation = Some(format!("at {}.{:03}s: {what}", self.now / SECOND, self.now % SECOND / MS));
        }
    }

    pub fn run(&mut self) {
        while let Some(Reverse(Due(at, _, event))) = self.queue.pop() {
            if at > self.knobs.end_at || self.violation.is_some() {
                break;
            }
            self.now = at;
            event(self);
        }
    }

    /// The daemon's number among the hosts.
    pub fn daemon_host(&self) -> usize {
        self.nodes.len()
    }

    fn cut_at(&self, from: usize, to: usize) -> usize {
        from * (self.nodes.len() + 1) + to
    }

    pub fn cut(&mut self, wire: Wire, from: usize, to: usize, cut: bool) {
        let at = self.cut_at(from, to);
        self.cuts[at][wire as usize] = cut;
        self.note_reachable();
    }

    pub fn heal_links(&mut self) {
        self.cuts.fill([false; 2]);
        self.note_reachable();
    }

    /// Whether what is sent now comes there.
    pub fn open(&self, wire: Wire, from: usize, to: usize) -> bool {
        let up = |host: usize| self.nodes.get(host).is_none_or(|node| node.powered);
        up(from) && up(to) && !self.cuts[self.cut_at(from, to)][wire as usize]
    }

    pub fn open_both(&self, wire: Wire, a: usize, b: usize) -> bool {
        self.open(wire, a, b) && self.open(wire, b, a)
    }

    /// Whether one message comes there; some are lost.
    pub fn passes(&mut self, from: usize, to: usize) -> bool {
        self.open(Wire::Agent, from, to) && !self.rng.per_mille(self.knobs.loss)
    }

    /// How long a message takes.
    pub fn delay(&mut self) -> u64 {
        if self.rng.per_mille(self.knobs.slow_message) {
            self.rng.range(50 * MS, 1_500 * MS)
        } else {
            self.rng.range(50, 3_000)
        }
    }

    /// Brings up to date which agents can be reached.
    pub fn note_reachable(&mut self) {
        let daemon = self.daemon_host();
        for index in 0..self.nodes.len() {
            let fine = self.open_both(Wire::Agent, daemon, index)
                && self.nodes[index].agent.alive
                && !self.nodes[index].disk_full
                && self.daemon.up;
            let since = self.nodes[index].reachable_since;
            self.nodes[index].reachable_since = fine.then(|| since.unwrap_or(self.now));
        }
    }

    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }
}
