//! Failovers and switchovers under load, one after the other, and what clients saw of each: for the benchmark, and a few of each
//! for the tests.
//!
//! Each is counted, not judged: bounds are the callers'.

use std::fmt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use howdah::demo::checker::{self, Checker, Verdict, Window};
use rustix::process::Signal;

use super::managed::{A_WHILE, Managed};
use super::orphans::Orphans;
use super::{Node, poll};

/// What happens to the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL of the postmaster.
    Kill,
    /// Likewise, while a pipelining client and a committing procedure run there, beside howdah.
    KillWithOrphans,
    /// SIGSTOP of the postmaster: it accepts connections and says nothing.
    Stop,
    /// SIGKILL of the postmaster and of its agent, which its supervisor starts again.
    KillWithAgent,
    /// A switchover.
    Switchover,
}

impl Blow {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Kill, Self::KillWithOrphans, Self::Stop, Self::KillWithAgent, Self::Switchover];

    /// For tables and the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillWithOrphans => "kill-with-orphans",
            Self::Stop => "stop",
            Self::KillWithAgent => "kill-with-agent",
            Self::Switchover => "switchover",
        }
    }
}

/// What came of one.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// From the blow to the first row that the new primary acknowledged.
    pub first: Duration,
    /// The longest any client was without an acknowledged row, or pgbench with a transaction.
    pub longest: Duration,
    /// From the blow until every other node, the old primary too, streams from the new one.
    pub settled: Duration,
    /// What clients were told, and what is true.
    pub verdict: Verdict,
    /// Acknowledged rows of the pipelining client, and how many of them are missing.
    pub orphans: Option<(u64, u64)>,
    /// The old primary acknowledged nothing after the new one had begun to.
    pub one_after_the_other: bool,
    /// The old primary's log, by its system's own words: it was rewound, or copied.
    pub rewound: bool,
    /// What pgbench says: transactions, failed ones, rows in its history, the longest transaction.
    pub pgbench: Option<Pgbench>,
}

/// What pgbench says of a run.
#[derive(Clone, Debug)]
pub struct Pgbench {
    /// Committed.
    pub transactions: u64,
    /// Clients that gave up, and failed transactions.
    pub errors: u64,
    /// Rows of its history.
    pub rows: u64,
    /// The longest transaction that ended after the blow.
    pub longest: Duration,
}

impl Outcome {
    /// What should not have happened, whatever the bounds are; empty when all is as it should be.
    pub fn faults(&self, blow: Blow) -> Vec<&'static str> {
        let (verdict, pgbench) = (&self.verdict, self.pgbench.as_ref());
        let planned = blow == Blow::Switchover;
        let faults = [
            (!self.one_after_the_other, "two primaries took turns"),
            (verdict.duplicates > 0, "rows are there twice"),
            (verdict.refused_present > 0, "rows are there that were refused"),
            (verdict.reconnected > 0, "connections were lost"),
            (planned && verdict.error_count() > 0, "clients saw errors"),
            (planned && verdict.missing > 0, "rows are missing"),
            (planned && self.rewound, "the old primary was rewound or copied"),
            (pgbench.is_some_and(|pgbench| pgbench.errors > 0), "pgbench saw errors"),
            (
                pgbench.is_some_and(|pgbench| pgbench.rows != pgbench.transactions),
                "pgbench's history is not what it did",
            ),
        ];
        faults.into_iter().filter_map(|(is_so, fault)| is_so.then_some(fault)).collect()
    }
}

/// Makes what the drills need.
#[track_caller]
pub fn prepare(managed: &Managed) {
    let (node, tenant) = (managed.primary_node(), managed.tenant());
    node.sql_in(&tenant.name, &format!("SET ROLE {}; {}", tenant.name, checker::SCHEMA)).unwrap();
    let made = pgbench(node, managed, node.port()).args(["-i", "-q", "-s", "2"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn pgbench(node: &Node, managed: &Managed, port: u16) -> Command {
    let tenant = managed.tenant();
    let mut command = node.command("pgbench");
    command.args(["-n", "-h", "127.0.0.1", "-p"]).arg(port.to_string()).args(["-U", &tenant.name]);
    command.env("PGPASSWORD", &tenant.password).env("PGDATABASE", &tenant.name);
    command
}

/// Deals one blow under load, and waits until all is well again.
#[track_caller]
pub fn strike(managed: &mut Managed, blow: Blow) -> Outcome {
    let old = managed.settled();
    let tenant = managed.tenant().clone();
    let node = managed.node(&old);
    node.sql_in(&tenant.name, "TRUNCATE ledger, pgbench_history").unwrap();
    let rewinds = rewinds(managed, &old);
    let load = match blow {
        // a build without optimization spends the time of 64 logins on their passwords
        Blow::Switchover => {
            let slow = cfg!(debug_assertions) && std::env::var_os("HOWDAH_BIN").is_none();
            Load::start(managed, if slow { 12 } else { 64 }, 6)
        }
        _ => Load::start(managed, 4, 600),
    };
    let mut checker = Checker::start(&managed.target(), 8, Duration::from_millis(1)).unwrap();
    let orphans = (blow == Blow::KillWithOrphans).then(|| Orphans::start(node));
    let running = || {
        let everybody = checker.window(Instant::now() - Duration::from_millis(500)).gaps.len() == 8;
        everybody && checker.acknowledged() > 400 && orphans.as_ref().is_none_or(|two| two.acknowledged() > 200)
    };
    if poll(A_WHILE, || running().then_some(())).is_none() {
        panic!("{blow:?}: no load: {} rows, {:?} {:?}", checker.acknowledged(), checker.errors(), checker.last_error());
    }

    let (mark, began) = (checker.mark(), SystemTime::now());
    match blow {
        Blow::Kill | Blow::KillWithOrphans => assert!(node.signal(Signal::KILL)),
        Blow::Stop => assert!(node.signal(Signal::STOP)),
        Blow::KillWithAgent => {
            managed.agent(&old).signal(Signal::KILL);
            assert!(node.signal(Signal::KILL));
        }
        Blow::Switchover => managed.switchover(None),
    }
    let old_port = i32::from(node.port());
    let served = |window: &Window| window.everybody && window.servers.last() != Some(&old_port);
    let window = poll(A_WHILE, || Some(checker.window(mark)).filter(served));
    let window = window.unwrap_or_else(|| {
        panic!(
            "{blow:?}: not all are served again: {:?}\n{:?}\n{}",
            checker.window(mark),
            checker.errors(),
            managed.report()
        )
    });
    let primary = managed.other_primary(&old);
    let told = orphans.as_ref().map(Orphans::acknowledged);
    let pgbench = load.end(managed, (blow == Blow::Switchover).then_some(began));
    managed.settled();
    let settled = mark.elapsed();
    checker.finish();
    let window = Window { servers: checker.window(mark).servers, ..window };
    let primary = managed.node(&primary);
    let verdict = checker.verify(|| primary.sql_in(&tenant.name, checker::PRESENT)).unwrap();
    Outcome {
        first: window.first_elsewhere.unwrap_or_default(),
        longest: window.spread().2.max(pgbench.as_ref().map_or(Duration::ZERO, |pgbench| pgbench.longest)),
        settled,
        verdict,
        orphans: orphans.as_ref().map(|orphans| (told.unwrap_or_default(), orphans.missing_on(primary))),
        one_after_the_other: window.servers.len() <= 2,
        rewound: self::rewinds(managed, &old) > rewinds,
        pgbench,
    }
}

/// How often a node has been rewound or copied, as far as its agent's log says.
fn rewinds(managed: &Managed, node: &str) -> usize {
    let log = managed.agent(node).log();
    log.matches("pg_rewind").count() + log.matches("pg_basebackup").count()
}

/// A pgbench that runs.
struct Load {
    child: Child,
    directory: tempfile::TempDir,
}

impl Load {
    #[track_caller]
    fn start(managed: &Managed, clients: u32, seconds: u32) -> Self {
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        let node = managed.cluster().primary();
        node.binaries().own(directory.path()).unwrap();
        let mut command = pgbench(node, managed, managed.howdah().port());
        let clients = clients.to_string();
        // a thread each: pgbench waits for the answer to a Parse, and the other clients of that thread keep their servers meanwhile
        command.args(["-N", "-M", "prepared", "-l", "-j", &clients, "-c", &clients]);
        command.arg("-T").arg(seconds.to_string()).current_dir(directory.path());
        let output = std::fs::File::create(directory.path().join("said")).unwrap();
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        Self { child: command.spawn().unwrap(), directory }
    }

    /// Waits for its end, and reads what it says, of transactions that ended after this moment; or ends it.
    #[track_caller]
    fn end(mut self, managed: &Managed, judged_since: Option<SystemTime>) -> Option<Pgbench> {
        let Some(since) = judged_since else {
            let _ = self.child.kill();
            let _ = self.child.wait();
            return None;
        };
        let ended = poll(2 * A_WHILE, || self.child.try_wait().unwrap());
        let said = std::fs::read_to_string(self.directory.path().join("said")).unwrap();
        assert!(ended.is_some(), "pgbench does not end: {said}\n{}", managed.report());
        let number = |label: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(label));
            line.and_then(|rest| rest.trim().split([' ', '/']).next()?.parse::<u64>().ok())
        };
        let aborted = said.lines().filter(|line| line.contains("aborted")).count() as u64;
        let failed = number("number of failed transactions:").unwrap_or_default();
        let tenant = &managed.tenant().name;
        let rows = managed.primary_node().sql_in(tenant, "SELECT count(*) FROM pgbench_history").unwrap();
        let result = Pgbench {
            transactions: number("number of transactions actually processed:").unwrap_or_default(),
            errors: aborted + failed,
            rows: rows.cell().unwrap().parse().unwrap(),
            longest: self.longest(since),
        };
        if result.errors > 0 || result.transactions == 0 {
            eprintln!("pgbench said:\n{said}");
        }
        Some(result)
    }

    /// Of its log: client, number, microseconds, script, and the seconds of its end.
    fn longest(&self, since: SystemTime) -> Duration {
        let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let logs = std::fs::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap().path());
        let logs = logs.filter(|path| path.to_string_lossy().contains("pgbench_log"));
        let longest = logs
            .flat_map(|path| {
                let text = std::fs::read_to_string(path).unwrap();
                let times = text.lines().filter_map(|line| {
                    let mut words = line.split(' ').skip(2);
                    let (time, end) = (words.next()?.parse::<u64>().ok()?, words.nth(1)?.parse::<u64>().ok()?);
                    (end >= since).then_some(time)
                });
                times.max()
            })
            .max();
        Duration::from_micros(longest.unwrap_or_default())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Several of one kind.
pub struct Series {
    /// Of which.
    pub blow: Blow,
    /// Each.
    pub outcomes: Vec<Outcome>,
}

impl Series {
    /// Plays `runs` of them on a cluster, which forgets the former ones in between: howdah would wait for an operator.
    #[track_caller]
    pub fn play(managed: &mut Managed, blow: Blow, runs: usize, mut tell: impl FnMut(&Outcome)) -> Self {
        let mut outcomes = Vec::new();
        for _ in 0..runs {
            managed.forget();
            let outcome = strike(managed, blow);
            tell(&outcome);
            outcomes.push(outcome);
        }
        Self { blow, outcomes }
    }

    /// The `percent`th of something.
    pub fn percentile(&self, percent: usize, of: impl Fn(&Outcome) -> Duration) -> Duration {
        let mut all: Vec<_> = self.outcomes.iter().map(of).collect();
        all.sort_unstable();
        let at = (all.len() * percent).div_ceil(100).clamp(1, all.len());
        all[at - 1]
    }

    /// The sum of something.
    pub fn sum(&self, of: impl Fn(&Outcome) -> u64) -> u64 {
        self.outcomes.iter().map(of).sum()
    }
}

impl fmt::Display for Series {
    /// A row of the table in docs/performance.md; see [`HEAD`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = |duration: Duration| format!("{:.2} s", duration.as_secs_f64());
        let mut classes = std::collections::BTreeMap::new();
        for (class, count) in self.outcomes.iter().flat_map(|outcome| &outcome.verdict.errors) {
            *classes.entry(class.clone()).or_insert(0) += count;
        }
        let orphans = match self.sum(|outcome| outcome.orphans.map_or(0, |(told, _)| told)) {
            0 => "–".to_owned(),
            told => format!("{} of {told}", self.sum(|outcome| outcome.orphans.map_or(0, |(_, missing)| missing))),
        };
        write!(
            f,
            "| {} | {} | {} | {} | {} | {} of {} | {orphans} | {} | {} | {} of {} after {} |",
            self.blow.name(),
            self.outcomes.len(),
            s(self.percentile(50, |outcome| outcome.first)),
            s(self.percentile(99, |outcome| outcome.first)),
            s(self.percentile(99, |outcome| outcome.longest)),
            self.sum(|outcome| outcome.verdict.missing),
            self.sum(|outcome| outcome.verdict.acknowledged),
            self.sum(|outcome| outcome.verdict.duplicates + outcome.verdict.refused_present),
            checker::by_class(&classes),
            self.outcomes.len(),
            self.outcomes.len(),
            s(self.percentile(50, |outcome| outcome.settled)),
        )
    }
}

/// What the columns of a [`Series`] are.
pub const HEAD: &str = "| what | runs | first write elsewhere, p50 | p99 | longest silence for a client, p99 \
| acknowledged rows missing | of the pipelining client | repeated, or there though refused | errors | old primary a standby again (median) |
|---|---|---|---|---|---|---|---|---|---|";
