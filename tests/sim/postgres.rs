//! A model of PostgreSQL: logs as branches of a tree, a server that is down, starts or runs, orphans that go on after their postmaster.
//!
//! A record is a commit or a checkpoint of [`RECORD`] bytes. Who promotes begins a branch; only the node that began a branch, or
//! its continuation after a restart, writes on it. So two logs with equal timelines and positions may differ, as in life.

use std::collections::BTreeMap;

use howdah::directive::{Accepting, Control, History, PostgresStatus, Slot};
use howdah::pg::{Lsn, SystemIdentifier, Timeline};
use howdah::topology::Epoch;

/// Bytes of a record.
pub const RECORD: u64 = 1_000;
const BEGINNING: u64 = 0x0300_0000;

/// Where the record of this number begins.
pub fn lsn(record: u64) -> Lsn {
    Lsn(BEGINNING + record * RECORD)
}

/// A stretch of log that one node has written.
#[derive(Clone, Debug)]
pub struct Branch {
    pub timeline: u32,
    pub parent: Option<(usize, u64)>,
    /// The number of its first record.
    pub start: u64,
    pub len: u64,
    pub writer: usize,
}

/// All logs there are.
#[derive(Clone, Debug)]
pub struct Logs(pub Vec<Branch>);

impl Logs {
    pub fn new(writer: usize) -> Self {
        Self(vec![Branch { timeline: 1, parent: None, start: 0, len: 10, writer }])
    }

    /// Whether the log that ends at `whole` begins with the one that ends at `part`.
    pub fn contains(&self, whole: (usize, u64), part: (usize, u64)) -> bool {
        let (mut branch, mut end) = whole;
        loop {
            if branch == part.0 {
                return part.1 <= end;
            }
            let Some((parent, fork)) = self.0[branch].parent else { return false };
            (branch, end) = (parent, end.min(fork));
        }
    }

    pub fn end(&self, branch: usize) -> u64 {
        self.0[branch].start + self.0[branch].len
    }

    pub fn fork(&mut self, from: (usize, u64), timeline: u32, writer: usize) -> usize {
        self.0.push(Branch { timeline, parent: Some(from), start: from.1, len: 0, writer });
        self.0.len() - 1
    }

    pub fn timeline(&self, branch: usize) -> u32 {
        self.0[branch].timeline
    }

    pub fn history(&self, branch: usize) -> History {
        let mut forks = Vec::new();
        let mut at = branch;
        while let Some((parent, fork)) = self.0[at].parent {
            // what was forked with the same number is, for PostgreSQL, the same timeline
            if self.0[parent].timeline != self.0[at].timeline {
                forks.push((Timeline(self.0[parent].timeline), lsn(fork)));
            }
            at = parent;
        }
        forks.reverse();
        History { timeline: Timeline(self.0[branch].timeline), forks }
    }
}

/// What a data directory's server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    Down,
    /// Starts or recovers.
    Starting,
    Primary,
    Standby,
}

/// One PostgreSQL and its data directory.
#[derive(Clone, Debug)]
pub struct Postgres {
    pub system: u64,
    pub branch: usize,
    /// The number of the record that its log ends before.
    pub end: u64,
    pub replayed: u64,
    pub server: Server,
    /// Another number for each postmaster.
    pub life: u64,
    /// Server processes that have outlived their postmaster.
    pub orphans: u32,
    /// Every process is stopped (SIGSTOP): nothing answers, nothing is acknowledged.
    pub stopped: bool,
    /// `standby.signal`.
    pub latched: bool,
    /// The control file's state is a primary's.
    pub was_primary: bool,
    pub clean: bool,
    pub frozen: bool,
    pub upstream: Option<(usize, String)>,
    /// The upstream it streams from now.
    pub streaming: Option<usize>,
    pub slots: BTreeMap<String, bool>,
    /// An interrupted rewind: it may not be started.
    pub torn: bool,
    /// Replay stands still.
    pub stuck: bool,
    /// Under which epoch it was made a primary; `None`: by hand.
    pub grant: Option<Epoch>,
    /// How long it recovers after a crash, in µs.
    pub recovery: u64,
    /// How often in a row the agent's probe was not answered.
    pub silent: u32,
    /// When it last opened.
    pub opened_at: u64,
}

impl Postgres {
    pub fn new(system: u64, end: u64) -> Self {
        Self {
            system,
            branch: 0,
            end,
            replayed: end,
            server: Server::Down,
            life: 1,
            orphans: 0,
            stopped: false,
            latched: false,
            was_primary: false,
            clean: true,
            frozen: false,
            upstream: None,
            streaming: None,
            slots: BTreeMap::new(),
            torn: false,
            stuck: false,
            grant: None,
            recovery: 300_000,
            silent: 0,
            opened_at: 0,
        }
    }

    /// There is a postmaster.
    pub fn alive(&self) -> bool {
        self.server != Server::Down
    }

    pub fn processes(&self) -> u32 {
        self.orphans + if self.alive() { 6 } else { 0 }
    }

    /// Some process of it could acknowledge a write, now or when it goes on.
    pub fn may_acknowledge(&self) -> bool {
        self.server == Server::Primary
            || (self.orphans > 0 && self.was_primary)
            || (self.server == Server::Starting && !self.latched)
    }

    pub fn running(&self) -> bool {
        matches!(self.server, Server::Primary | Server::Standby)
    }

    /// As its agent sees it.
    pub fn status(&self, logs: &Logs, port: impl Fn(usize) -> String) -> PostgresStatus {
        let answers = self.running() && !self.stopped;
        let accepting = match self.server {
            Server::Down => Accepting::No,
            _ if self.stopped => Accepting::Silent { times: self.silent },
            Server::Starting => Accepting::NotYet { said: "the database system is starting up".into() },
            _ => Accepting::Yes,
        };
        let primary = self.server == Server::Primary;
        let state = match (self.was_primary, self.clean) {
            (true, true) => "shut down",
            (true, false) => "in production",
            (false, true) => "shut down in recovery",
            (false, false) => "in archive recovery",
        };
        PostgresStatus {
            processes: self.processes(),
            postmaster: self.alive().then(|| u32::try_from(1000 + self.life).unwrap()),
            accepting,
            latched: self.latched,
            frozen: self.frozen,
            in_recovery: answers.then_some(!primary),
            system_identifier: Some(SystemIdentifier(self.system)),
            timeline: Some(Timeline(logs.timeline(self.branch))),
            history: logs.history(self.branch),
            received_lsn: answers.then(|| lsn(self.end)),
            replayed_lsn: (answers && !primary).then(|| lsn(self.replayed)),
            streaming_from: self.streaming.filter(|_| answers).map(port),
            slots: self
                .slots
                .iter()
                .map(|(name, lost)| Slot { name: name.clone(), active: false, lost: *lost })
                .collect(),
            slots_unbounded: false,
            version: Some(150_018),
            control: (!self.alive()).then(|| Control {
                state: state.into(),
                timeline: Timeline(logs.timeline(self.branch)),
                checkpoint: lsn(self.end.saturating_sub(1)),
                redo: lsn(self.end.saturating_sub(1)),
                min_recovery: if self.was_primary { Lsn(0) } else { lsn(self.replayed) },
            }),
            recovery_bytes: (!self.alive() && self.was_primary && !self.clean).then_some(self.recovery * 100),
        }
    }
}
