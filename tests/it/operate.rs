//! An operator asks the running daemon, by the commands and by the API: what may be asked is done, everything else is refused with a
//! reason and an exit code that is always the same.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::managed::{Managed, lent};
use crate::support::{Howdah, SOON, binary, config, eventually, free_port, shared};

/// The end of a command: its exit code, what it wrote, what it said was wrong.
fn end(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// A command that must be done; what it wrote.
#[track_caller]
fn done(managed: &Managed, arguments: &[&str]) -> String {
    let (code, out, err) = end(&managed.operate(arguments));
    assert_eq!(code, 0, "{arguments:?}: {out}{err}\n{}", managed.report());
    out
}

/// A command that must be refused; why it was.
#[track_caller]
fn refused(managed: &Managed, arguments: &[&str]) -> String {
    let (code, out, err) = end(&managed.operate(arguments));
    assert_eq!(code, 3, "{arguments:?}: {out}{err}");
    assert!(err.starts_with("howdah: refused: "), "{err}");
    err
}

/// What a counter of `GET /metrics` says, over all label sets that contain `labels`.
fn counted(managed: &Managed, metric: &str, labels: &str) -> f64 {
    let (_, text) = managed.howdah().get("/metrics").unwrap();
    let lines = text.lines().filter(|line| line.starts_with(metric) && line.contains(labels));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

#[test]
fn the_primary_is_moved_from_the_command_line_and_the_books_are_right() {
    let mut lent = lent();
    let managed = lent.as_ref().unwrap();
    let old = managed.settled();
    let new = managed.cluster().nodes().iter().map(|node| node.name()).find(|name| *name != old).unwrap().to_owned();

    let status = done(managed, &["status"]);
    assert!(status.starts_with("cluster main: steady, automatic, epoch "), "{status}");
    assert!(status.contains(&format!("primary    {old}\n")), "{status}");
    let nodes = done(managed, &["nodes"]);
    assert!(nodes.lines().any(|line| line.starts_with(&new) && line.contains("heard")), "{nodes}");
    let explain = done(managed, &["explain"]);
    assert!(explain.contains("starts it again or fails over, by itself"), "{explain}");

    let epoch = managed.epoch();
    let before = counted(managed, "howdah_switchovers_total", "outcome=\"done\"");
    let switchover = done(managed, &["switchover", "--to", &new]);
    assert!(switchover.contains("promote") && switchover.contains("  done after "), "steps are shown: {switchover}");
    managed.until("it is seen", || managed.primary().as_deref() == Some(&*new));
    assert_eq!(counted(managed, "howdah_switchovers_total", "outcome=\"done\"") - before, 1.0);
    assert_eq!(counted(managed, "howdah_failover_seconds_count", "kind=\"switchover\"") - before, 1.0);
    assert_eq!(counted(managed, "howdah_rollbacks_total", "kind=\"switchover\""), 0.0);
    assert!(refused(managed, &["switchover", "--to", &new]).contains("wrong-role"));

    let change = |managed: &Managed| {
        let history: Value = serde_json::from_str(&done(managed, &["history", "--json"])).unwrap();
        let last = history.as_array().unwrap().last().cloned().unwrap();
        (last["from"].clone(), last["to"].clone(), last["planned"].clone())
    };
    assert_eq!(change(managed), (old.as_str().into(), new.as_str().into(), true.into()));
    assert_eq!(managed.settled(), new);
    assert_eq!(managed.epoch(), epoch + 1, "one switchover is one change: nothing follows it\n{}", managed.report());
    let managed = lent.as_mut().unwrap();
    managed.start_daemon();
    assert_eq!(change(managed), (old.as_str().into(), new.as_str().into(), true.into()), "after a restart, too");
    assert!(done(managed, &["history"]).contains("switchover"));
}

#[test]
fn maintenance_and_single_nodes_are_operated_from_the_command_line() {
    let lent = lent();
    let managed = lent.as_ref().unwrap();
    let primary = managed.settled();
    let standby = managed.cluster().nodes().iter().map(|node| node.name()).find(|name| *name != primary).unwrap();

    done(managed, &["pause"]);
    assert!(done(managed, &["status"]).contains("paused     no failovers"));
    done(managed, &["resume"]);
    managed.until("not paused", || managed.main()["paused"] == false);

    done(managed, &["detach", standby]);
    managed.until("detached", || done(managed, &["explain"]).contains(&format!("{standby}: detached")));
    done(managed, &["attach", standby]);

    let restarted =
        |kind: &str| counted(managed, "howdah_jobs_total", &format!("directive=\"{kind}\",outcome=\"done\""));
    let before = restarted("restart");
    done(managed, &["restart", standby]);
    assert_eq!(restarted("restart") - before, 1.0);
    managed.settled();
    let out = done(managed, &["rebuild", standby]);
    assert!(out.contains(&format!("{standby}: rebuild: ")), "the agent's steps are shown: {out}");
    managed.settled();

    done(managed, &["fence", standby, "--wait"]);
    assert!(managed.node(standby).sql("SELECT 1").is_err(), "a fenced node has no server process");
    done(managed, &["unfence", standby]);
    managed.settled();
}

#[test]
fn what_cannot_be_done_is_refused_with_a_reason_and_changes_nothing() {
    let lent = lent();
    let managed = lent.as_ref().unwrap();
    let primary = managed.settled();
    let epoch = managed.epoch();
    for arguments in [["fence", "nobody"], ["rebuild", "nobody"], ["detach", "nobody"], ["attach", "nobody"]] {
        assert!(refused(managed, &arguments).contains("unknown-node"), "{arguments:?}");
    }
    assert!(refused(managed, &["switchover", "--to", "nobody"]).contains("unknown-node"));
    assert!(refused(managed, &["rebuild", &primary]).contains("wrong-role"));
    assert!(refused(managed, &["pause", "--cluster", "nobody"]).contains("unknown-cluster"));
    for (arguments, code) in [(["fence", "--to"], 2), (["switchover", "b"], 2), (["status", "--nonsense"], 2)] {
        assert_eq!(end(&managed.operate(&arguments)).0, code, "{arguments:?}");
    }
    let long = format!("{{\"to\":\"{}\"}}", "x".repeat(1 << 20));
    for (command, body, status, reason) in [
        ("switchover", long.as_str(), 413, "too-large"),
        ("switchover", "{", 400, "malformed"),
        ("switchover", r#"{"to":7}"#, 400, "malformed"),
        ("switchover", r#"{"to":"b","force":true}"#, 400, "malformed"),
        ("fence", "", 400, "malformed"),
        ("promote", "{}", 404, "unknown-command"),
        ("fence", r#"{"node":"nobody"}"#, 404, "unknown-node"),
    ] {
        let (code, answer) = managed.ask(command, body);
        assert_eq!((code, answer["reason"].as_str()), (status, Some(reason)), "{command}: {answer}");
        assert!(answer["error"].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
    }
    assert_eq!((managed.primary().as_deref(), managed.epoch()), (Some(&*primary), epoch));
    assert!(managed.is_settled(), "{}", managed.report());
}

#[test]
fn a_correlation_id_goes_from_the_request_into_the_log() {
    let lent = lent();
    let managed = lent.as_ref().unwrap();
    let request = |port: u16, correlation: &str| {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let head = format!("POST /clusters/main/resume HTTP/1.1\r\nHost: x\r\nX-Correlation-Id: {correlation}\r\n");
        write!(socket, "{head}Content-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    };
    let port = http_port(managed.howdah());
    let answer = request(port, "ticket-4711");
    assert!(answer.contains("x-correlation-id: ticket-4711\r\n"), "{answer}");
    assert!(managed.howdah().log().contains("ticket-4711"));
    assert!(request(port, "a b").starts_with("HTTP/1.1 400 "));
}

/// The port of its API, from its configuration.
fn http_port(howdah: &Howdah) -> u16 {
    let toml = std::fs::read_to_string(howdah.config()).unwrap();
    let (_, http) = toml.split_once("[http]\naddress = \"127.0.0.1:").unwrap();
    http.split('"').next().unwrap().parse().unwrap()
}

/// Runs a command against any daemon, or none.
fn operate(config: &Path, arguments: &[&str]) -> (i32, String, String) {
    end(&Command::new(binary()).args(arguments).arg("-c").arg(config).output().unwrap())
}

fn token_file(directory: &Path, name: &str, token: &str, mode: u32) -> String {
    let path = directory.join(name);
    std::fs::write(&path, format!("{token}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path.to_str().unwrap().to_owned()
}

const ADMIN: &str = "0123456789abcdef-admin";
const READ: &str = "0123456789abcdef-read";

#[test]
fn tokens_say_who_may_look_and_who_may_change() {
    let directory = tempfile::tempdir().unwrap();
    let admin = token_file(directory.path(), "admin", ADMIN, 0o600);
    let read = token_file(directory.path(), "read", READ, 0o640);
    let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
    let tokens = format!("[http]\nadmin_token_file = \"{admin}\"\nread_token_file = \"{read}\"\n");
    let toml = config(shared().nodes(), port, http_port, "").replacen("[http]\n", &tokens, 1);
    let howdah = Howdah::start(&toml, port, http_port);
    // its tokens cannot be found by this one
    let bare = directory.path().join("bare.toml");
    std::fs::write(&bare, format!("[http]\naddress = \"127.0.0.1:{http_port}\"\n")).unwrap();
    let wrong = token_file(directory.path(), "wrong", "0123456789abcdef-wrong", 0o600);

    for (arguments, code, words) in [
        (vec!["pause"], 3, "no-token"),
        (vec!["status"], 3, "no-token"),
        (vec!["pause", "--cluster", "main", "--token-file", &wrong], 3, "wrong-token"),
        (vec!["pause", "--token-file", &read], 3, "read-only-token"),
        (vec!["pause", "--token-file", &admin], 3, "not-managed"),
        (vec!["status", "--token-file", &read], 0, "cluster main: observing"),
        (vec!["status", "--token-file", &admin], 0, "cluster main: observing"),
        (vec!["status", "--token-file", "/nonexistent"], 1, "cannot read the token"),
    ] {
        let (got, out, err) = operate(&bare, &arguments);
        assert!(got == code && format!("{out}{err}").contains(words), "{arguments:?}: {got} {out}{err}");
    }
    assert_eq!(howdah.get("/healthz").unwrap().0, 200);
    assert_eq!(howdah.get("/status").unwrap().0, 401);
    let (code, _, err) = operate(&howdah.config(), &["pause"]);
    assert!(code == 3 && err.contains("not-managed"), "the daemon's own file says where its token is: {err}");
    assert!(!howdah.log().contains(ADMIN) && !howdah.log().contains("abcdef-wrong"), "no token is ever logged");

    // another token with the next reload; a file that everybody reads is none, and changes nothing
    token_file(directory.path(), "admin", "fedcba9876543210-other", 0o600);
    howdah.reload(&toml);
    let other = token_file(directory.path(), "other", "fedcba9876543210-other", 0o600);
    eventually("the new token", SOON, || operate(&bare, &["status", "--token-file", &other]).0 == 0);
    let old = token_file(directory.path(), "old", ADMIN, 0o600);
    assert!(operate(&bare, &["status", "--token-file", &old]).2.contains("wrong-token"));
    token_file(directory.path(), "admin", ADMIN, 0o644);
    howdah.reload(&toml);
    eventually("a refusal", SOON, || howdah.log().contains("others can read or change it"));
    assert_eq!(operate(&bare, &["status", "--token-file", &other]).0, 0);
}

#[test]
fn without_a_daemon_and_with_several_clusters_the_exit_codes_say_so() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("howdah.toml");
    std::fs::write(&config, format!("[http]\naddress = \"127.0.0.1:{}\"\n", free_port().unwrap())).unwrap();
    for command in ["status", "nodes", "history", "explain", "pause", "switchover"] {
        let (code, out, err) = operate(&config, &[command]);
        assert!(code == 4 && err.contains("is it running?") && out.is_empty(), "{command}: {code} {out}{err}");
    }
    let missing = operate(&directory.path().join("none.toml"), &["status"]);
    assert!(missing.0 == 1 && missing.2.contains("--api"), "{missing:?}");

    let other =
        "[clusters.other]\nmonitor = { user = \"x\" }\nnodes = [{ name = \"x\", host = \"127.0.0.1\", port = 1 }]\n";
    let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
    let toml = crate::support::config(shared().nodes(), port, http_port, other);
    let howdah = Howdah::start_unready(&toml, port, http_port);
    eventually("it answers", SOON, || operate(&howdah.config(), &["status"]).0 == 0);
    let (code, _, err) = operate(&howdah.config(), &["pause"]);
    assert!(code == 2 && err.contains("main, other"), "{code} {err}");
    let (code, _, err) = operate(&howdah.config(), &["pause", "--cluster", "other"]);
    assert!(code == 3 && err.contains("not-managed"), "{code} {err}");
    let (code, out, _) = operate(&howdah.config(), &["status"]);
    assert!(code == 0 && out.contains("cluster other: observing") && out.contains("missing: "), "{out}");
}
