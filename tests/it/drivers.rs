//! Applications do not notice that howdah is there: drivers with their default settings, in transaction mode, on fewer
//! servers than they have connections.
//!
//! Each driver's checks run against PostgreSQL directly and, twice at the same time, through howdah; what they saw must
//! be the same. The scripts are in `tests/drivers`, their libraries where `scripts/drivers` puts them.

use std::io::{Cursor, Read, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use futures_util::future::{self, try_join_all};
use futures_util::{SinkExt, StreamExt, TryStreamExt};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::support::{Howdah, SOON, Tenant, connection_count, driver, eventually, poll, shared};

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
    let tenant = Tenant::shared();
    let howdah = Howdah::shared(POOL);
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
            assert_eq!(saw.join().expect("the script's checks hold through howdah"), direct);
        }
    });
    assert_shared(&tenant);
}

/// Waits for a command's end, bounded; its standard output, or everything it said.
fn finish(mut command: Command, input: &str) -> Result<String, String> {
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

#[test]
fn node_postgres_works_by_default() {
    for package in ["pg", "pg-cursor", "pg-query-stream"] {
        driver(&format!("node/node_modules/{package}"), &format!("the npm package {package}"));
    }
    same_through_howdah(|| {
        let mut command = Command::new("node");
        command.env("NODE_PATH", driver("node/node_modules", "Node's packages"));
        command.arg(script("node/pg_checks.js"));
        command
    });
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

/// A tokio-postgres client and the task that drives it.
async fn connect(tenant: &Tenant, port: u16) -> Client {
    let (client, connection) = tenant.config(port).connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// What the checks saw, which must not depend on the port.
async fn tokio_postgres_checks(tenant: &Tenant, port: u16, schema: &str) -> Vec<String> {
    let mut saw = Vec::new();
    let (mut one, two) = (connect(tenant, port).await, connect(tenant, port).await);
    one.batch_execute(&format!("CREATE SCHEMA {schema}; CREATE TABLE {schema}.t (i int PRIMARY KEY, t text)"))
        .await
        .unwrap();

    // Pipelined: every future is on its way before the first answer, prepared statements of both called s0, s1, ….
    let queries =
        (0..100_i32).map(|i| {
            let client = if i % 2 == 0 { &one } else { &two };
            async move {
                client.query_one(&format!("SELECT $1::int + {}", i % 7), &[&i]).await.map(|row| row.get::<_, i32>(0))
            }
        });
    let answers = try_join_all(queries).await.unwrap();
    assert!(answers.iter().zip(0_i32..).all(|(answer, i)| *answer == i + i % 7), "{answers:?}");

    let (plus, bang) =
        (one.prepare("SELECT $1::int + 1").await.unwrap(), two.prepare("SELECT $1::text || '!'").await.unwrap());
    for i in 0..50 {
        let text = i.to_string();
        let parameters: (&[&(dyn ToSql + Sync)], &[&(dyn ToSql + Sync)]) = (&[&i], &[&text]);
        let both = tokio::try_join!(one.query_one(&plus, parameters.0), two.query_one(&bang, parameters.1)).unwrap();
        assert_eq!((both.0.get::<_, i32>(0), both.1.get::<_, String>(0)), (i + 1, format!("{i}!")));
    }
    let (good, bad, after) =
        tokio::join!(one.query("SELECT 1", &[]), one.query("SELECT 1/0", &[]), one.query("SELECT 2", &[]));
    saw.push(format!("pipelined error: {:?}", (good.is_ok(), bad.unwrap_err().code().cloned(), after.is_ok())));
    drop((plus, bang)); // Close and Sync, nobody waits for the answers
    let simple = one.simple_query("SELECT 1; SELECT 2, 'x'").await.unwrap();
    let rows = simple.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect::<Vec<_>>()),
        _ => None,
    });
    saw.push(format!("simple: {:?}", rows.collect::<Vec<_>>()));

    let mut transaction = one.transaction().await.unwrap();
    transaction.execute(&format!("INSERT INTO {schema}.t VALUES (1, 'one')"), &[]).await.unwrap();
    let savepoint = transaction.transaction().await.unwrap();
    let twice = savepoint.execute(&format!("INSERT INTO {schema}.t VALUES (1, 'two')"), &[]).await.unwrap_err();
    savepoint.rollback().await.unwrap();
    let portal = transaction.bind("SELECT generate_series(1, 10)", &[]).await.unwrap();
    let first: Vec<i32> = transaction.query_portal(&portal, 4).await.unwrap().iter().map(|row| row.get(0)).collect();
    let rest = transaction.query_portal(&portal, 0).await.unwrap().len();
    transaction.commit().await.unwrap();
    let dropped = one.transaction().await.unwrap();
    dropped.execute(&format!("INSERT INTO {schema}.t VALUES (2, 'never')"), &[]).await.unwrap();
    drop(dropped); // sends ROLLBACK
    let count: i64 = one.query_one(&format!("SELECT count(*) FROM {schema}.t"), &[]).await.unwrap().get(0);
    saw.push(format!("transaction: {:?} {first:?} {rest} {count}", twice.code()));

    let sink = one.copy_in(&format!("COPY {schema}.t FROM STDIN")).await.unwrap();
    let mut sink = Box::pin(sink);
    for i in 10..5000 {
        sink.send(Cursor::new(format!("{i}\trow {i}\n"))).await.unwrap();
    }
    let copied = sink.as_mut().finish().await.unwrap();
    let mut abandoned = Box::pin(one.copy_in(&format!("COPY {schema}.t FROM STDIN")).await.unwrap());
    abandoned.send(Cursor::new("7777\tnever\n")).await.unwrap();
    drop(abandoned); // CopyFail
    let out = one.copy_out(&format!("COPY {schema}.t TO STDOUT")).await.unwrap();
    let bytes = out.try_fold(0, |sum, chunk| future::ready(Ok(sum + chunk.len()))).await.unwrap();
    let mut left = Box::pin(one.query_raw("SELECT generate_series(1, 100000)", &[] as &[&str]).await.unwrap());
    left.next().await.unwrap().unwrap();
    drop(left); // the rest of the rows is thrown away by the driver
    saw.push(format!("copy: {copied} in, {bytes} bytes out"));

    let token = one.cancel_token();
    let mut sleeping = Box::pin(one.batch_execute("SELECT pg_sleep(30)"));
    let cancelled = loop {
        tokio::select! {
            ended = &mut sleeping => break ended.unwrap_err(),
            () = tokio::time::sleep(Duration::from_millis(20)) => token.cancel_query(NoTls).await.unwrap(),
        }
    };
    drop(sleeping);
    assert_eq!(cancelled.code(), Some(&SqlState::QUERY_CANCELED));
    saw.push(format!("after the cancel: {}", two.query_one("SELECT 'fine'", &[]).await.unwrap().get::<_, &str>(0)));
    saw
}

#[tokio::test]
async fn tokio_postgres_works_by_default() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared(POOL);
    let direct = tokio_postgres_checks(&tenant, shared().primary().port(), "schema_0").await;
    let checks = ["schema_1", "schema_2"].map(|schema| tokio_postgres_checks(&tenant, howdah.port(), schema));
    let both = tokio::time::timeout(SCRIPT_MAX, future::join_all(checks)).await.expect("the checks end");
    assert!(both.iter().all(|saw| *saw == direct), "{both:?}, directly {direct:?}");
    assert_shared(&tenant);
}
