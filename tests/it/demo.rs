//! `howdah demo` shows a working cluster, and nothing is left of it however it ends.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use howdah::demo::process::{Process, processes_in};
use rustix::process::Signal;

use crate::support::{self, SOON, binary, eventually, shared};

/// A demo whose temporary files are where the test can look for leftovers.
struct Demo {
    process: Process,
    directory: tempfile::TempDir,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        // short, and open to the user that PostgreSQL runs as
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        std::fs::create_dir(directory.path().join("t")).unwrap();
        for path in [directory.path(), &directory.path().join("t")] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut command = Command::new(binary());
        command.arg("demo").args(arguments).env("TMPDIR", directory.path().join("t")).env_remove("RUST_BACKTRACE");
        let process = Process::spawn(command, &directory.path().join("output")).unwrap();
        Self { process, directory }
    }

    fn scratch(&self) -> std::path::PathBuf {
        self.directory.path().join("t")
    }

    fn output(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("output")).unwrap()
    }

    /// Waits until the output has this.
    #[track_caller]
    fn says(&self, text: &str) {
        eventually(text, 4 * SOON, || self.output().contains(text) || self.process.ended().is_some());
        assert!(self.output().contains(text), "{}", self.output());
    }

    #[track_caller]
    fn code(&self) -> Option<i32> {
        self.process.wait(3 * SOON).unwrap_or_else(|| panic!("still running: {}", self.output())).code()
    }

    #[track_caller]
    fn assert_nothing_is_left(&self) {
        let left: Vec<_> = std::fs::read_dir(self.scratch()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(processes_in(&self.scratch()), []);
    }
}

#[test]
fn the_demo_ends_by_itself_with_a_summary() {
    let demo = Demo::start(&["--direct", "--for", "2s", "--standbys", "1", "--clients", "4"]);
    assert_eq!(demo.code(), Some(0), "{}", demo.output());
    let output = demo.output();
    for part in
        ["initdb of \"a\"", "standby \"b\"", "psql postgres://app:", "   1 s ", " transactions in 2.", ", 0 errors"]
    {
        assert!(output.contains(part), "no {part:?} in:\n{output}");
    }
    demo.assert_nothing_is_left();
}

#[test]
fn the_demo_shows_where_reads_and_writes_go_and_finds_what_it_has_written() {
    let demo = Demo::start(&["--standbys", "2", "--clients", "8", "--replay-delay", "200ms"]);
    let shown = |line: &str| {
        line.contains(" on standbys)") && !line.contains("=standby 0/s") && !line.contains("stale 0 of 0 ")
    };
    let line = || demo.output().lines().rfind(|line| shown(line)).map(ToOwned::to_owned);
    eventually("reads on both standbys", 4 * SOON, || line().is_some() || demo.process.ended().is_some());
    demo.process.signal(Signal::INT).unwrap();
    assert_eq!(demo.code(), Some(0), "{}", demo.output());
    let (output, line) = (demo.output(), line().unwrap_or_else(|| demo.output()));
    for part in [" reads ", " writes ", "  stale 0 of ", "  a=primary ", "  b=standby ", "  c=standby "] {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
    assert!(output.contains(" rows looked for right after they were written: 0 stale"), "{output}");
    assert!(output.contains("standby \"c\" is told to stay 200 ms behind"), "{output}");
    demo.assert_nothing_is_left();
}

#[test]
fn the_demo_takes_everything_away_when_it_is_told_to_stop() {
    for (moment, signal) in [("initdb of", Signal::INT), ("base backup", Signal::TERM), ("   1 s ", Signal::INT)] {
        let demo = Demo::start(&["--direct", "--standbys", "1"]);
        demo.says(moment);
        demo.process.signal(signal).unwrap();
        assert_eq!(demo.code(), Some(0), "{}", demo.output());
        demo.assert_nothing_is_left();
    }
}

#[test]
fn a_killed_demo_leaves_nothing_either() {
    let demo = Demo::start(&["--direct", "--standbys", "1"]);
    demo.says("   1 s ");
    demo.process.kill().unwrap();
    eventually("the watcher has cleaned up", SOON, || std::fs::read_dir(demo.scratch()).unwrap().next().is_none());
    demo.assert_nothing_is_left();
}

#[test]
fn the_demo_fails_with_the_log_of_an_endpoint_that_dies() {
    let demo = Demo::start(&["--standbys", "0"]);
    let is_endpoint = |pid: &rustix::process::Pid| {
        let words = std::fs::read(Path::new("/proc").join(pid.as_raw_pid().to_string()).join("cmdline"));
        words.unwrap_or_default().split(|b| *b == 0).any(|word| word == b"serve")
    };
    eventually("the endpoint is there and dies", 2 * SOON, || {
        let endpoint = processes_in(&demo.scratch()).into_iter().find(is_endpoint);
        if let Some(pid) = endpoint {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        endpoint.is_some() || demo.process.ended().is_some()
    });
    assert_eq!(demo.code(), Some(1), "{}", demo.output());
    assert!(demo.output().contains("the endpoint (howdah serve) has ended ("), "{}", demo.output());
    demo.assert_nothing_is_left();
}

#[test]
fn a_machine_without_postgresql_is_told_what_to_install() {
    let mut command = Command::new(binary());
    let output = command.arg("demo").env("HOWDAH_PG_BIN", "/nonexistent").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("/nonexistent/initdb") && told.contains("apt-get install postgresql-15"), "{told}");
}

#[test]
fn the_configurations_that_demo_and_harness_write_are_valid() {
    let (listener, http) = (([127, 0, 0, 1], 6432).into(), ([127, 0, 0, 1], 6433).into());
    let nodes = shared().nodes();
    let demo = howdah::demo::endpoint::configuration(listener, http, nodes, &[], "howdah", "secret");
    for toml in [demo, support::config(nodes, 6432, 6433, "[pool]\nsize = 3\n")] {
        if let Err(problems) = howdah::config::parse(Path::new("howdah.toml"), &toml) {
            panic!("{problems}\n{toml}");
        }
    }
}
