//! Applications do not notice that howdah is there: drivers with their default settings, in transaction mode, on fewer
//! servers than they have connections.
//!
//! Each driver's checks run against PostgreSQL directly and, twice at the same time, through howdah; what they saw must
//! be the same. The scripts are in `tests/drivers`, their libraries where `scripts/drivers` puts them.

use std::io::{Read, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::{Howdah, SOON, Tenant, connection_count, driver, eventually, poll, shared};

mod failover;
mod tokio_postgres;

/// Fewer servers than any of the drivers' pools has connections.
const POOL: &str = "[pool]\nsize = 3\n";
/// A script ends itself before this.
const SCRIPT_MAX: Duration = Duration::from_secs(90);

/// The bound of `max` that makes the sharing real: both instances of a script have had the same few servers.
fn assert_shared(tenant: &Tenant) {
    let open = connection_count(shared().primary(), &tenant.name);
    assert!((1..=3).contains(&open), "{open} server connections");
}

/// Runs a script's checks directly, then twice at once through howdah, and compares what they saw.
fn same_through_howdah(command: impl Fn() -> Command + Sync) {
    same_with(POOL, command);
}

/// [`same_through_howdah`], with a pool of this size.
fn same_with(pool: &str, command: impl Fn() -> Command + Sync) {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared(pool);
    let run = |port: u16, schema: &str| {
        let mut command = command();
        command.arg(tenant.url(port)).arg(schema);
        finish(command, "").unwrap_or_else(|failed| panic!("port {port}: {failed}")).replace(schema, "SCHEMA")
    };
    let direct = run(shared().primary().port(), "schema_0");
    assert!(direct.lines().count() > 3, "{direct}");
    // PostgreSQL finishes what the script left running when it hung up; that is not howdah's to answer for
    eventually("the direct sessions are gone", SOON, || connection_count(shared().primary(), &tenant.name) == 0);
    thread::scope(|scope| {
        let (run, port) = (&run, howdah.port());
        let both = ["schema_1", "schema_2"].map(|schema| scope.spawn(move || run(port, schema)));
        for saw in both {
            similar(&saw.join().expect("the script's checks hold through howdah"), &direct);
        }
    });
    if pool == POOL {
        assert_shared(&tenant);
    }
}

/// Waits for a command's end, bounded; its standard output, or everything it said.
pub fn finish(mut command: Command, input: &str) -> Result<String, String> {
    let name = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{name}: {error}"))?;
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()));
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = |stream: &mut dyn Read| {
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    };
    let errors = thread::spawn(move || read(&mut err));
    let output = thread::spawn(move || read(&mut out));
    let status = poll(SCRIPT_MAX, || child.try_wait().unwrap());
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let _ = writer.join();
    let (output, errors) = (output.join().unwrap(), errors.join().unwrap());
    match status {
        Some(status) if status.success() => Ok(output),
        Some(status) => Err(format!("{name} ended with {status}:\n{output}{errors}")),
        None => Err(format!("{name} did not end within {SCRIPT_MAX:?}:\n{output}{errors}")),
    }
}

/// A script under tests/drivers.
fn script(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers").join(path)
}

pub fn python(checks: &str, package: &str) -> Command {
    let made = driver("python", &format!("the Python package {package}"));
    let mut packages = std::fs::read_dir(made.join("lib")).unwrap();
    let packages = packages.next().unwrap().unwrap().path().join("site-packages").join(package);
    assert!(packages.exists(), "the Python package {package} is missing ({}): run scripts/drivers", packages.display());
    let mut command = Command::new(made.join("bin/python"));
    command.arg("-B").arg(script("python").join(checks));
    command
}

#[test]
fn psycopg_works_by_default() {
    same_through_howdah(|| python("psycopg_checks.py", "psycopg"));
}

#[test]
fn asyncpg_works_by_default() {
    same_through_howdah(|| python("asyncpg_checks.py", "asyncpg"));
}

fn node(checks: &str) -> Command {
    for package in ["pg", "pg-cursor", "pg-query-stream"] {
        driver(&format!("node/node_modules/{package}"), &format!("the npm package {package}"));
    }
    let mut command = Command::new("node");
    command.env("NODE_PATH", driver("node/node_modules", "Node's packages"));
    command.arg(script("node").join(checks));
    command
}

#[test]
fn node_postgres_works_by_default() {
    same_through_howdah(|| node("pg_checks.js"));
}

/// Enough for every client that keeps a server for a while: a listener, a holder of locks and temporary tables, those
/// who look at them, each twice.
const SESSIONS: &str = "[pool]\nsize = 10\n";

#[test]

fn what_belongs_to_a_session_belongs_to_it_through_psycopg() {
    same_with(SESSIONS, || python("psycopg_session.py", "psycopg"));
}

#[test]

fn what_belongs_to_a_session_belongs_to_it_through_asyncpg() {
    same_with(SESSIONS, || python("asyncpg_session.py", "asyncpg"));
}

#[test]

fn what_belongs_to_a_session_belongs_to_it_through_node_postgres() {
    same_with(SESSIONS, || node("pg_session.js"));
}

/// psql or pgbench against a port.
fn client_program(name: &str, tenant: &Tenant, port: u16) -> Command {
    let mut command = shared().primary().command(name);
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", &tenant.name]);
    command.env("PGPASSWORD", &tenant.password).env("PGDATABASE", &tenant.name).env("LC_ALL", "C.UTF-8");
    command
}

#[test]
fn psql_shows_the_same() {
    const INPUT: &str = r"
\set VERBOSITY verbose
CREATE SCHEMA :schema;
CREATE TABLE :schema.t (i int PRIMARY KEY, t text DEFAULT 'x');
INSERT INTO :schema.t SELECT generate_series(1, 1000);
\d :schema.t
\copy :schema.t (i, t) FROM PROGRAM 'seq 1001 1100 | sed s/$/,copied/' WITH (FORMAT csv)
\copy (SELECT * FROM :schema.t WHERE i > 1097 ORDER BY i) TO STDOUT
COPY :schema.t FROM STDIN;
5000	five
5001	thousand
\.
COPY :schema.t FROM STDIN;
5000	twice
\.
BEGIN;
SELECT count(*) FROM :schema.t;
SAVEPOINT s;
SELECT 1/0;
SELECT 1;
ROLLBACK TO s;
UPDATE :schema.t SET t = 'y' WHERE i = 1 RETURNING *;
COMMIT;
SELECT 1 AS a \; SELECT 2 AS b;
DO $$ BEGIN RAISE WARNING 'careful' USING HINT = 'a hint'; END $$;
\set FETCH_COUNT 7
SELECT i FROM :schema.t ORDER BY i LIMIT 30;
\unset FETCH_COUNT
SELECT 'SELECT ' || i FROM generate_series(1, 3) AS i \gexec
SELECT i, t FROM :schema.t \gdesc
\echo :ROW_COUNT :SQLSTATE
\encoding
\c
SELECT current_user = session_user, current_setting('application_name');
\set ON_ERROR_ROLLBACK on
BEGIN;
SELECT nope;
SELECT 'still here';
END;
\df :schema.*
\dn+ :schema
";
    let tenant = Tenant::shared();
    let howdah = Howdah::shared(POOL);
    let run = |port: u16, schema: &str| {
        let mut command = client_program("psql", &tenant, port);
        command.args(["-X", "-a"]);
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            shell.env(name, value.unwrap_or_default());
        }
        let saw = finish(shell, &INPUT.replace(":schema", schema)).unwrap_or_else(|failed| panic!("{failed}"));
        saw.replace(schema, "SCHEMA")
    };
    let direct = run(shared().primary().port(), "schema_0");
    for part in ["division by zero", "COPY 100", "COPY 2", "still here", "22012", "a hint", "(30 rows)"] {
        assert!(direct.contains(part), "no {part:?} in\n{direct}");
    }
    thread::scope(|scope| {
        let (run, port) = (&run, howdah.port());
        let both = ["schema_1", "schema_2"].map(|schema| scope.spawn(move || run(port, schema)));
        for saw in both {
            similar(&saw.join().expect("psql ran"), &direct);
        }
    });
    assert_shared(&tenant);
}

/// Fails with the first line that differs.
#[track_caller]
fn similar(saw: &str, direct: &str) {
    for (number, (saw, direct)) in saw.lines().zip(direct.lines()).enumerate() {
        assert_eq!(saw, direct, "line {}", number + 1);
    }
    assert_eq!(saw.lines().count(), direct.lines().count());
}

#[test]
fn pgbench_loses_no_transaction_in_any_protocol() {
    const PIPELINE: &str =
        "\\startpipeline\nBEGIN;\nSELECT 1;\nSELECT :client_id;\nCOMMIT;\nSELECT 2;\n\\endpipeline\n";
    let directory = tempfile::tempdir().unwrap();
    let pipeline = directory.path().join("pipeline.sql");
    std::fs::write(&pipeline, PIPELINE).unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap(); // pgbench is not root
    let pipeline = pipeline.to_str().unwrap();
    let howdah = Howdah::shared(POOL);
    for port in [shared().primary().port(), howdah.port()] {
        let tenant = Tenant::shared();
        let run = |arguments: &[&str]| {
            let mut command = client_program("pgbench", &tenant, port);
            command.args(arguments);
            finish(command, "").unwrap_or_else(|failed| panic!("port {port}: {failed}"))
        };
        run(&["-i", "-q", "--foreign-keys"]);
        let mut transactions = 0;
        for protocol in ["simple", "extended", "prepared"] {
            for (script, count) in [("tpcb-like", 60), ("select-only", 250)] {
                let t = count.to_string();
                let saw = run(&["-n", "-c", "8", "-j", "8", "-t", &t, "-M", protocol, "-b", script]);
                processed(&saw, 8 * count);
            }
            transactions += 8 * 60;
        }
        for protocol in ["extended", "prepared"] {
            processed(&run(&["-n", "-c", "8", "-j", "8", "-t", "100", "-M", protocol, "-f", pipeline]), 800);
        }
        processed(&run(&["-n", "-c", "4", "-j", "4", "-t", "10", "-C", "-S"]), 40); // a login each
        let books = "SELECT count(*)::text FROM pgbench_history
            UNION ALL SELECT ((SELECT sum(delta) FROM pgbench_history)
                = ALL (SELECT sum(abalance) FROM pgbench_accounts UNION SELECT sum(tbalance) FROM pgbench_tellers))::text";
        let books = shared().primary().sql_in(&tenant.name, books).unwrap();
        assert_eq!(books.column(), [transactions.to_string().as_str(), "true"]);
    }
}

#[track_caller]
fn processed(saw: &str, transactions: u32) {
    let expected = format!("number of transactions actually processed: {transactions}/{transactions}");
    assert!(saw.contains(&expected) && saw.contains("number of failed transactions: 0 "), "{saw}");
}
