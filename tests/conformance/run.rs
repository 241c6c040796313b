//! One suite in one mode, on a PostgreSQL of its own: nothing of one run can reach another.
//!
//! `pg_regress` runs as the user that owns the data directory (its tests let the server write beside their own results)
//! and finds everything in the cluster's temporary directory. What it leaves goes to `target/conformance/SUITE-MODE`.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use howdah::demo::postgres::Binaries;
use howdah::demo::process::Process;

use super::outcome::{Outcome, scheduled};
use super::support::{Cluster, Howdah};

/// After this a whole suite counts as stuck.
const SUITE_BOUND: Duration = Duration::from_secs(40 * 60);
/// After this one test does: in seconds, for `timeout(1)`.
const TEST_BOUND: &str = "120";

/// Which of PostgreSQL's suites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// `src/test/regress`: SQL, through psql.
    Regress,
    /// `src/test/isolation`: several sessions that get in each other's way.
    Isolation,
}

/// How the suite reaches PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Without howdah.
    Direct,
    /// Through howdah in session mode.
    Session,
    /// Through howdah in transaction mode.
    Transaction,
}

impl Suite {
    /// In the order in which they run.
    pub const ALL: [Self; 2] = [Self::Regress, Self::Isolation];

    /// The program, from the directory of PostgreSQL's programs.
    fn program(self) -> &'static str {
        match self {
            Self::Regress => "../lib/pgxs/src/test/regress/pg_regress",
            Self::Isolation => "../lib/pgxs/src/test/isolation/pg_isolation_regress",
        }
    }

    fn schedule(self) -> &'static str {
        match self {
            Self::Regress => "parallel_schedule",
            Self::Isolation => "isolation_schedule",
        }
    }

    /// The name of the database, which some results print.
    fn database(self) -> &'static str {
        match self {
            Self::Regress => "regression",
            Self::Isolation => "isolation_regression",
        }
    }

    /// What other tests build upon.
    fn foundation(self) -> &'static [&'static str] {
        match self {
            Self::Regress => &["test_setup"],
            Self::Isolation => &[],
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Regress => "regress",
            Self::Isolation => "isolation",
        })
    }
}

impl Mode {
    /// In the order in which they run; the first is what the others are compared with.
    pub const ALL: [Self; 3] = [Self::Direct, Self::Session, Self::Transaction];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Session => "session",
            Self::Transaction => "transaction",
        })
    }
}

/// The tests of a suite, or those of them that are named in `only` and what they build upon.
pub fn tests(suite: Suite, only: &[&str], directory: &Path) -> Vec<String> {
    let schedule = directory.join("inputs").join(suite.to_string()).join(suite.schedule());
    let mut tests = scheduled(&fs::read_to_string(schedule).unwrap());
    let named = |test: &String| only.contains(&test.as_str());
    match (only, tests.iter().any(named)) {
        ([], _) => {}
        (_, true) => tests.retain(|test| named(test) || suite.foundation().contains(&test.as_str())),
        (_, false) => tests.clear(),
    }
    tests
}

/// Runs tests of a suite; all of them as they are scheduled, `some` one after the other.
pub fn run(suite: Suite, mode: Mode, tests: &[String], some: bool, directory: &Path) -> Outcome {
    let cluster = start(suite);
    let howdah = match mode {
        Mode::Direct => None,
        Mode::Session | Mode::Transaction => Some(howdah(&cluster, mode)),
    };
    let port = howdah.as_ref().map_or(cluster.primary().port(), Howdah::port);
    let work = cluster.directory().join("work");
    fs::create_dir_all(work.join("results")).unwrap();
    for part in ["lib", &suite.to_string()] {
        copy(&directory.join("inputs").join(part), &work.join(part));
    }
    if some {
        let lines: String = tests.iter().map(|test| format!("test: {test}\n")).collect();
        fs::write(work.join(suite.to_string()).join(suite.schedule()), lines).unwrap();
    }
    give(&cluster, &work);

    println!("{suite} {mode}: {} tests", tests.len());
    let process = Process::spawn(program(suite, &cluster, port, &work), &work.join("results/printed")).unwrap();
    if process.wait(SUITE_BOUND).is_none() {
        println!("{suite} {mode}: stopped after {SUITE_BOUND:?}");
        process.kill().unwrap();
    }

    let kept = directory.join(format!("{suite}-{mode}"));
    let _ = fs::remove_dir_all(&kept);
    copy(&work.join("results"), &kept);
    fs::copy(cluster.primary().log(), kept.join("postgresql.log")).unwrap();
    if let Some(howdah) = &howdah {
        fs::write(kept.join("howdah.log"), howdah.log()).unwrap();
        assert!(howdah.get("/healthz").is_some(), "howdah does not answer any more: {}", kept.display());
    }
    let read = |name: &str| {
        let bytes = fs::read(kept.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Outcome::new(tests, &read("printed"), &read("regression.diffs"))
}

/// `pg_regress` against a database that is there, at a port.
fn program(suite: Suite, cluster: &Cluster, port: u16, work: &Path) -> Command {
    let inputs = work.join(suite.to_string());
    let mut program = cluster.primary().command(suite.program());
    program.args(["--use-existing", "--host=127.0.0.1"]).arg(format!("--port={port}"));
    program.arg(format!("--user={}", cluster.primary().superuser()));
    program.arg(format!("--dbname={}", suite.database()));
    program.arg(format!("--bindir={}", Binaries::find().unwrap().directory().display()));
    program.arg(format!("--dlpath={}", work.join("lib").display()));
    program.arg(format!("--inputdir={}", inputs.display()));
    program.arg(format!("--outputdir={}", work.join("results").display()));
    program.arg(format!("--schedule={}", inputs.join(suite.schedule()).display()));
    program.arg(format!("--launcher=timeout -k 5 {TEST_BOUND}"));
    program.current_dir(work);
    program
}

/// A cluster that lets in everybody, with the settings and the database that `pg_regress` would have made.
fn start(suite: Suite) -> Cluster {
    let cluster = Cluster::builder()
        .prefix("howdah-conformance")
        .setting("max_connections", "200")
        .setting("max_prepared_transactions", "2")
        .setting("wal_level", "replica")
        .setting("log_lock_waits", "on")
        .hba("host all all 127.0.0.1/32 trust")
        .start()
        .unwrap_or_else(|error| panic!("{error}"));
    let node = cluster.primary();
    let database = suite.database();
    node.sql(&format!("CREATE DATABASE {database} TEMPLATE template0")).unwrap();
    for setting in [
        "lc_messages TO 'C'",
        "lc_monetary TO 'C'",
        "lc_numeric TO 'C'",
        "lc_time TO 'C'",
        "bytea_output TO 'hex'",
        "timezone_abbreviations TO 'Default'",
    ] {
        node.sql(&format!("ALTER DATABASE {database} SET {setting}")).unwrap();
    }
    cluster
}

/// howdah in front of it, with room for the twenty tests that run at once and their many users. In session mode no server
/// is lent twice: two tests see whether theirs has been used before (docs/conformance.md).
fn howdah(cluster: &Cluster, mode: Mode) -> Howdah {
    let lifetime = if mode == Mode::Session { "1ms" } else { "1h" };
    let extra = format!(
        "[auth]\nmethod = \"trust\"\n\
         [pool]\nmode = \"{mode}\"\nsize = 60\n\
         [timeouts]\nserver_idle = \"2s\"\nserver_lifetime = \"{lifetime}\"\n\
         [log]\nconnections = false\n"
    );
    Howdah::before(cluster.nodes(), &extra)
}

/// Copies a directory.
fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(status.success(), "cp -r {} {}", from.display(), to.display());
}

/// Gives a directory and all in it to the user that PostgreSQL runs as.
fn give(cluster: &Cluster, directory: &Path) {
    let owner = fs::metadata(cluster.primary().data_directory()).unwrap();
    let status =
        Command::new("chown").arg("-R").arg(format!("{}:{}", owner.uid(), owner.gid())).arg(directory).status();
    assert!(status.unwrap().success(), "chown {}", directory.display());
}
