//! `howdah check` says all that is wrong with a configuration, to people and to scripts, without a daemon.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::managed::lent;
use crate::support::{Howdah, SOON, Tenant, binary, config, eventually, free_port, poll, private, shared};

fn check(directory: &Path, arguments: &[&str]) -> Output {
    let file = directory.join("howdah.toml");
    Command::new(binary()).arg("check").arg("-c").arg(file).args(arguments).output().unwrap()
}

fn put(directory: &Path, name: &str, text: &str, mode: u32) {
    std::fs::write(directory.join(name), text).unwrap();
    std::fs::set_permissions(directory.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A certificate that is over, one that is not, and the key of the second.
fn certificates(directory: &Path) {
    let made = |year: i32| {
        let mut parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2001, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        (parameters.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let (over, (good, key)) = (made(2002), made(2100));
    put(directory, "over.crt", &over.0, 0o644);
    put(directory, "over.key", &over.1, 0o600);
    put(directory, "good.crt", &good, 0o644);
    put(directory, "good.key", &key, 0o600);
}

#[test]
fn certificates_that_are_over_or_not_their_keys_are_told_all_at_once() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let text = "[[listeners]]\naddress = \"127.0.0.1:6432\"\ntls = { cert = \"over.crt\", key = \"over.key\" }\n\
                [[listeners]]\naddress = \"127.0.0.1:6434\"\ntls = { cert = \"over.crt\", key = \"good.key\" }\n";
    put(directory.path(), "howdah.toml", text, 0o600);
    let done = check(directory.path(), &["--json"]);
    assert_eq!(done.status.code(), Some(1));
    let said: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let rows = said["problems"].as_array().unwrap();
    let has = |line: u64, text: &str| {
        rows.iter().any(|row| row["line"] == line && row["message"].as_str().unwrap().contains(text))
    };
    assert!(has(3, "has expired") && has(6, "has expired") && has(6, "does not match"), "{said:#}");
}

#[test]
fn a_file_that_is_right_ends_with_0_one_that_is_not_with_1_and_a_wrong_command_line_with_2() {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "howdah.toml", "version = 1\n[users.app]\npassword = \"x\"\n", 0o640);
    let done = check(directory.path(), &[]);
    let (said, warned) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(said.ends_with("howdah.toml: ok\n") && warned.is_empty(), "{said}{warned}");
    assert_eq!(done.status.code(), Some(0));
    put(directory.path(), "howdah.toml", "version = 7\n", 0o600);
    let done = check(directory.path(), &[]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(1));
    assert!(said.contains("howdah.toml:1:11: version: the file is of version 7"), "{said}");
    assert_eq!(check(directory.path(), &["--nonsense"]).status.code(), Some(2));
}

#[test]
fn a_pipe_in_place_of_a_file_is_refused_and_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let made = Command::new("mkfifo").arg(directory.path().join("pipe")).status().unwrap();
    assert!(made.success());
    put(directory.path(), "howdah.toml", "[auth]\nusers_file = \"pipe\"\n", 0o600);
    let done = check(directory.path(), &[]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.code() == Some(1) && said.contains("pipe\" is a pipe, a socket or a device"), "{said}");
}

/// One line for each kind of secret: the key that names the file, the file, and where in the configuration it stands.
fn secrets() -> String {
    "[users.one]\npassword = \"x\"\n[users.two]\npassword_file = \"user\"\n[users.postgres]\n\
     [databases.app]\ncluster = \"main\"\nuser = \"two\"\npassword_file = \"database\"\n\
     [auth]\nusers_file = \"users\"\n[http]\naddress = \"HTTP\"\nadmin_token_file = \"admin\"\nread_token_file = \"read\"\n\
     [[listeners]]\naddress = \"LISTENER\"\ntls = { cert = \"good.crt\", key = \"listener.key\" }\n\
     [clusters.main]\nagents = { ca = \"good.crt\", cert = \"good.crt\", key = \"agents.key\" }\n\
     monitor = { user = \"postgres\", password_file = \"monitor\" }\n\
     [[clusters.main.nodes]]\nname = \"a\"\nhost = \"127.0.0.1\"\nport = 1\n\
     tls = { cert = \"good.crt\", key = \"node.key\" }\n"
        .to_owned()
}

/// The files of [`secrets`], and the keys that name them; howdah.toml is named by its first password.
const SECRETS: [(&str, &str); 10] = [
    ("howdah.toml", "users.one.password"),
    ("user", "users.two.password_file"),
    ("database", "databases.app.password_file"),
    ("users", "auth.users_file"),
    ("admin", "http.admin_token_file"),
    ("read", "http.read_token_file"),
    ("listener.key", "listeners[0].tls.key"),
    ("agents.key", "clusters.main.agents.key"),
    ("monitor", "clusters.main.monitor.password_file"),
    ("node.key", "clusters.main.nodes[0].tls.key"),
];

#[test]
fn every_kind_of_secret_that_others_can_see_is_refused_by_check_at_the_start_and_by_a_reload_that_changes_nothing() {
    let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
    let toml =
        secrets().replace("LISTENER", &format!("127.0.0.1:{port}")).replace("HTTP", &format!("127.0.0.1:{http_port}"));
    let howdah = Howdah::start_in(
        |directory| {
            certificates(directory);
            let key = std::fs::read_to_string(directory.join("good.key")).unwrap();
            for (file, text) in [
                ("user", "a password"),
                ("database", "a password"),
                ("monitor", "a password"),
                ("users", "\"three\" \"a password\"\n"),
                ("admin", "0123456789abcdef-admin"),
                ("read", "0123456789abcdef-read"),
                ("listener.key", &key),
                ("agents.key", &key),
                ("node.key", &key),
            ] {
                private(&directory.join(file), text);
            }
            toml.clone()
        },
        port,
        http_port,
    );
    eventually("it listens", SOON, || howdah.get("/healthz").is_some_and(|(status, _)| status == 200));
    let directory = howdah.config().parent().unwrap().to_owned();
    let mode = |file: &str, mode: u32| {
        std::fs::set_permissions(directory.join(file), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for (file, key) in SECRETS {
        for wrong in [0o644, 0o660] {
            mode(file, wrong);
            let done = check(&directory, &[]);
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            let words = format!(
                " {key}: \"{}\" holds a secret, and others can read or change it (mode {wrong:04o}); chmod 0640",
                directory.join(file).display()
            );
            assert!(done.status.code() == Some(1) && said.contains(&words), "{file}: {said}");
            assert!(!said.contains("a password") && !said.contains("0123456789"), "{said}");
        }
        let refused = || howdah.log().matches("reload refused").count();
        let before = refused();
        howdah.signal(crate::support::Signal::HUP);
        eventually("the reload is refused", SOON, || refused() > before);
        let said = howdah.log();
        assert!(said.rsplit("reload refused").next().unwrap().contains(&format!(" {key}: ")), "{file}: {said}");
        mode(file, 0o640);
        assert_eq!(check(&directory, &[]).status.code(), Some(0), "{file}");
    }
    // the daemon does not start with one of them either: the same words
    mode("monitor", 0o604);
    let serve = Command::new(binary()).arg("serve").arg("-c").arg(howdah.config()).output().unwrap();
    let said = String::from_utf8_lossy(&serve.stderr).into_owned();
    assert!(serve.status.code() == Some(1) && said.contains("monitor\" holds a secret"), "{said}");
    mode("monitor", 0o600);
    let reloads = || howdah.log().matches(" reloaded").count();
    let before = reloads();
    howdah.signal(crate::support::Signal::HUP);
    eventually("it reloads again", SOON, || reloads() > before);
}

#[test]
fn the_file_of_an_agent_is_checked_and_its_secrets_are_held_to_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    certificates(directory.path());
    private(&directory.path().join("one"), "a password");
    private(&directory.path().join("two"), "a password");
    let toml = format!(
        "cluster = \"main\"\nnode = \"a\"\ndata_directory = \"/data\"\nstate_directory = \"/state\"\n\
         [listen]\naddress = \"127.0.0.1:1\"\ncert = \"{0}\"\nca = \"{0}\"\nkey = \"{1}\"\nallow = [\"howdah\"]\n\
         [replication]\nuser = \"r\"\npassword_file = \"{2}\"\n[rewind]\nuser = \"r\"\npassword_file = \"{3}\"\n",
        path("good.crt"),
        path("good.key"),
        path("one"),
        path("two"),
    );
    put(directory.path(), "agent.toml", &toml, 0o644);
    let check = || {
        let done = Command::new(binary()).args(["check", "--agent", "-c", &path("agent.toml")]).output().unwrap();
        (done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
    };
    assert_eq!(check(), (Some(0), format!("{}: ok\n", path("agent.toml"))));
    for (file, key) in
        [("good.key", "listen.key"), ("one", "replication.password_file"), ("two", "rewind.password_file")]
    {
        let mode = |mode| std::fs::set_permissions(path(file), std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o640);
        assert_eq!(check().0, Some(0), "{file}");
        mode(0o644);
        let (code, said) = check();
        assert!(code == Some(1) && said.contains(&format!(" {key}: \"{}\" holds a secret", path(file))), "{said}");
        mode(0o600);
    }
}

/// What `--connect` finds with this file: its exit code, the lines, and what is said besides.
fn connect(directory: &Path, toml: &str) -> (i32, Vec<String>, String) {
    private(&directory.join("howdah.toml"), toml);
    let done = check(directory, &["--connect"]);
    let lines = String::from_utf8_lossy(&done.stdout).lines().map(str::to_owned).collect();
    (done.status.code().unwrap(), lines, String::from_utf8_lossy(&done.stderr).into_owned())
}

#[track_caller]
fn says(lines: &[String], words: &[&str]) {
    let has = |line: &&String| words.iter().all(|word| line.contains(word));
    assert!(lines.iter().any(|line| has(&line)), "{words:?} in no line of\n{}", lines.join("\n"));
}

#[test]
fn with_connect_check_says_of_nodes_rights_agents_and_ports_whether_they_are_as_they_must_be() {
    let lent = lent();
    let managed = lent.as_ref().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let right = managed.toml(None);
    let primary = managed.primary().unwrap();
    // an agent has two seconds to answer, which a busy machine may take
    let mut said = (1, Vec::new(), String::new());
    let found = poll(SOON, || {
        said = connect(directory.path(), &right);
        (said.0 == 0).then_some(())
    });
    let lines = said.1;
    assert!(found.is_some(), "{lines:#?}\n{}", said.2);
    for node in managed.cluster().nodes() {
        let role = if node.name() == primary { "the primary" } else { "a standby" };
        says(
            &lines,
            &[&format!("ok: node {} of main: PostgreSQL ", node.name()), &format!(":{}, {role}", node.port())],
        );
        says(&lines, &[&format!("ok: agent of {} of main: howdah {}", node.name(), env!("CARGO_PKG_VERSION"))]);
    }
    says(&lines, &[&format!("ok: cluster main: {primary} is the primary")]);
    says(&lines, &["ok: passwords of main: read by pg_authid"]);
    says(&lines, &["ok: listener 127.0.0.1:", "in use, and a howdah runs here"]);
    assert!(lines.last().unwrap().ends_with("howdah.toml: ok"), "{lines:?}");

    // b is down, c is of another cluster, the agents of a and b are each other's, and c's is away
    let node = |name: &str| managed.node(name);
    let agent = |name: &str| managed.agent(name).address();
    let (nowhere, elsewhere) = (free_port().unwrap(), shared().primary().port());
    let wrong = right
        .replace(&format!("port = {}\n", node("b").port()), &format!("port = {nowhere}\n"))
        .replace(&format!("port = {}\n", node("c").port()), &format!("port = {elsewhere}\n"))
        .replace(&agent("a"), "AGENT")
        .replace(&agent("b"), &agent("a"))
        .replace("AGENT", &agent("b"))
        .replace(&agent("c"), "unix:/nonexistent/agent.sock")
        .replace(&format!("user = \"{}\"", node("a").superuser()), "user = \"howdah_check\"")
        .replace(&format!("password = \"{}\"", node("a").password()), "password = \"of check\"");
    let role = "CREATE ROLE howdah_check LOGIN PASSWORD 'of check'";
    shared().primary().sql(&format!("{role} SUPERUSER")).unwrap();
    node(&primary).sql(role).unwrap();
    if primary != "a" {
        managed.until("the role is everywhere", || node("a").sql("SELECT 'howdah_check'::regrole").is_ok());
    }
    let (code, lines, said) = connect(directory.path(), &wrong);
    assert_eq!(code, 5, "{lines:#?}\n{said}");
    assert!(said.contains("things that it points at are not"), "{said}");
    says(
        &lines,
        &["error: node b of main: not reached at ", &format!(":{nowhere}: "), "refused; see that PostgreSQL runs"],
    );
    says(
        &lines,
        &["error: node a of main: \"howdah_check\" is no member of pg_monitor", "GRANT pg_monitor TO \"howdah_check\""],
    );
    says(&lines, &[" of main: its system identifier is ", "it is no copy of it; correct its host and port"]);
    says(&lines, &["error: agent of a of main: the agent there is that of b of main"]);
    says(&lines, &["error: agent of b of main: the agent there is that of a of main"]);
    says(&lines, &["error: agent of c of main: no answer at unix:/nonexistent/agent.sock", "see that it runs there"]);
    node(&primary).sql("DROP ROLE howdah_check").unwrap();
    shared().primary().sql("DROP ROLE howdah_check").unwrap();

    // without it nobody is asked
    private(&directory.path().join("howdah.toml"), &wrong);
    assert_eq!(check(directory.path(), &[]).status.code(), Some(0));
}

#[test]
fn with_connect_check_says_why_the_monitor_is_not_let_in_what_it_may_not_read_and_which_port_is_taken() {
    let tenant = Tenant::shared();
    let name = &tenant.name;
    let node = shared().primary();
    node.sql(&format!("GRANT pg_monitor TO {name}")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, http_port) = (taken.local_addr().unwrap().port(), free_port().unwrap());
    let toml = |user: &str, password: &str, extra: &str| {
        config(shared().nodes(), port, http_port, extra)
            .replace(&format!("user = \"{}\"", node.superuser()), &format!("user = \"{user}\""))
            .replace(&format!("password = \"{}\"", node.password()), &format!("password = \"{password}\""))
    };
    let (code, lines, _) = connect(directory.path(), &toml(name, "wrong", ""));
    assert_eq!(code, 5, "{lines:#?}");
    says(
        &lines,
        &[
            &format!("\"{name}\" is not let in at "),
            "password authentication failed",
            "in [clusters.main.monitor]; or CREATE ROLE",
        ],
    );
    says(&lines, &[&format!("error: listener 127.0.0.1:{port}: in use; another program listens there")]);
    says(&lines, &[&format!("ok: http 127.0.0.1:{http_port}: free")]);

    let (_, lines, _) = connect(directory.path(), &toml(name, &tenant.password, ""));
    says(&lines, &["ok: node ", "the primary"]);
    says(
        &lines,
        &[
            &format!("error: passwords of main: user \"{name}\" may not read pg_authid"),
            "GRANT SELECT ON pg_catalog.pg_authid",
        ],
    );
    let users = "[users.somebody]\npassword = \"x\"\n";
    let (_, lines, _) = connect(directory.path(), &toml(name, &tenant.password, users));
    says(&lines, &["warning: passwords of main: ", "only those that the file knows can log in"]);
    let query = "[auth]\nquery = \"SELECT nobody.knows($1)\"\n";
    let (_, lines, _) = connect(directory.path(), &toml(name, &tenant.password, query));
    says(&lines, &["error: passwords of main: auth.query on node ", "\"nobody\" does not exist", "correct auth.query"]);
    drop(taken);
    let query = "[auth]\nquery = \"SELECT $1::text, 'x'::text\"\n";
    private(&directory.path().join("howdah.toml"), &toml(name, &tenant.password, query));
    let done = check(directory.path(), &["--connect", "--json"]);
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stdout));
    let said: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let found = said["findings"].as_array().unwrap();
    assert!(said["ok"] == true && found.iter().all(|finding| finding["level"] == "ok"), "{said:#}");
    assert!(found.iter().any(|finding| finding["text"].as_str().unwrap().contains("read by auth.query")), "{said:#}");

    let (_, lines, _) = connect(
        directory.path(),
        &toml(name, &tenant.password, "")
            .replace("[clusters.main.monitor]", "[clusters.main.monitor]\ndbname = \"no such\""),
    );
    says(
        &lines,
        &["is not let in at ", "\"no such\" does not exist", "write a dbname that is there in [clusters.main.monitor]"],
    );
}

/// `howdah --help` and that of every command.
#[test]
fn every_command_explains_itself_and_a_wrong_command_line_ends_with_2_and_its_usage() {
    let run = |arguments: &[&str]| {
        let done = Command::new(binary()).args(arguments).env_remove("COLUMNS").output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (done.status.code().unwrap(), text(&done.stdout), text(&done.stderr))
    };
    let (code, help, _) = run(&["--help"]);
    assert_eq!(code, 0);
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let commands: Vec<&str> = list
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.len() >= 20, "{commands:?}");
    let mut golden = format!("$ howdah --help\n{help}");
    for command in &commands {
        let (code, help, said) = run(&[command, "--help"]);
        assert!(code == 0 && said.is_empty(), "{command}: {said}");
        assert!(help.contains(&format!("Usage: howdah {command}")), "{help}");
        golden += &format!("\n$ howdah {command} --help\n{help}");
        let (code, out, said) = run(&[command, "--no-such-option"]);
        assert!(code == 2 && out.is_empty(), "{command}");
        assert!(
            said.contains("unexpected argument '--no-such-option'")
                && said.contains(&format!("Usage: howdah {command}")),
            "{said}"
        );
        assert_eq!(run(&["help", command]).1, help);
    }
    for (arguments, words) in [
        (&[][..], "Usage: howdah <COMMAND>"),
        (&["nonsense"], "unrecognized subcommand 'nonsense'"),
        (&["swichover"], "'switchover'"),
        (&["serve", "extra"], "unexpected argument 'extra'"),
        (&["check", "--config"], "a value is required for '--config <FILE>'"),
        (&["check", "--agent", "--connect"], "cannot be used with '--connect'"),
        (&["switchover", "--too", "b"], "a similar argument exists: '--to'"),
        (&["switchover", "--wait", "--no-wait"], "cannot be used with '--no-wait'"),
        (&["rebuild"], "<NODE>"),
        (&["import"], "<PGBOUNCER.INI>"),
        (&["route"], "<SQL>"),
        (&["failover", "--to"], "a value is required for '--to <NODE>'"),
        (&["status", "--api", "6433"], "invalid value '6433' for '--api <ADDRESS>'"),
        (&["demo", "--for", "never"], "write a time with its unit"),
    ] {
        let (code, out, said) = run(arguments);
        assert!(code == 2 && out.is_empty() && said.contains(words), "{arguments:?}: {code} {out} {said}");
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/usage.txt");
    if std::env::var_os("HOWDAH_WRITE_DOCS").is_some() {
        std::fs::write(&file, &golden).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == golden,
        "tests/usage.txt differs: read it as a user, then HOWDAH_WRITE_DOCS=1 writes it\n{golden}"
    );
}
