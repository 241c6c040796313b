//! The harness itself, against PostgreSQL directly: what it says of howdah later can only be as true as this.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use howdah::demo::agent::Agent;
use howdah::demo::checker::{self, Checker};
use rustix::process::test_kill_process;

use crate::support::managed::managed;
use crate::support::orphans::Orphans;
use crate::support::wire::{self, Client};
use crate::support::{Cluster, SOON, StopMode, Tenant, builder, connection_count, eventually, shared};

fn direct(tenant: &Tenant) -> Client {
    let mut client = Client::connect(("127.0.0.1", shared().primary().port())).unwrap();
    client.login(&tenant.name, &tenant.password, &tenant.name);
    client
}

#[test]
fn the_wire_client_logs_in_with_scram_and_is_refused_with_a_wrong_password() {
    let tenant = Tenant::shared();
    let mut client = Client::connect(("127.0.0.1", shared().primary().port())).unwrap();
    let user = [("user", tenant.name.as_str())];
    let login = client.login_with(&user, &tenant.password);
    let short = wire::short(&login);
    assert_eq!(short[..4], ["R:10", "R:11", "R:12", "R:0"]);
    assert_eq!(short.last().unwrap(), "Z:I");
    assert!(client.parameter("server_version").is_some());
    assert!(client.key.0 > 0 && client.key.1.len() == 4);

    let mut other = Client::connect(("127.0.0.1", shared().primary().port())).unwrap();
    let refused = other.try_login(&user, "wrong").unwrap();
    assert_eq!(wire::error(&refused).code, "28P01");
    other.read_until_closed();
}

#[test]
fn the_wire_client_logs_in_with_md5_and_with_trust() {
    let tenant = Tenant::shared();
    let primary = shared().primary();
    let (name, password) = (&tenant.name, &tenant.password);
    primary
        .sql("SET password_encryption = 'md5'; CREATE ROLE old LOGIN PASSWORD 'old secret' IN ROLE md5_users")
        .unwrap();
    let mut md5 = Client::connect(("127.0.0.1", primary.port())).unwrap();
    let login = md5.login_with(&[("user", "old"), ("database", name)], "old secret");
    assert_eq!(wire::short(&login)[..2], ["R:5", "R:0"]);

    let socket = primary.sockets().join(format!(".s.PGSQL.{}", primary.port()));
    let mut trusted = Client::connect_unix(&socket).unwrap();
    let login = trusted.login_with(&[("user", name)], password);
    assert_eq!(wire::short(&login)[0], "R:0");
    assert_eq!(trusted.value("SELECT current_user"), *name);
}

#[test]
fn simple_queries_read_as_short_forms() {
    let mut client = direct(&Tenant::shared());
    assert_eq!(client.query_short("SELECT 1"), ["T", "D", "C:SELECT 1", "Z:I"]);
    assert_eq!(client.query_short(""), ["I", "Z:I"]);
    assert_eq!(
        client.query_short("BEGIN; SELECT 1; SELECT 2"),
        ["C:BEGIN", "T", "D", "C:SELECT 1", "T", "D", "C:SELECT 1", "Z:T"]
    );
    let messages = client.query("SELEC 1");
    assert_eq!(wire::short(&messages), ["E:42601", "Z:E"]);
    let error = wire::error(&messages);
    assert_eq!((error.severity.as_str(), error.routine.is_empty()), ("ERROR", false));
    assert_eq!(client.query_short("ROLLBACK"), ["C:ROLLBACK", "Z:I"]);
    assert_eq!(client.query_short("SET timezone = 'UTC'"), ["C:SET", "Z:I"]);
    assert_eq!(client.query_short("SET timezone = 'Asia/Kolkata'")[..2], ["C:SET", "S:TimeZone=Asia/Kolkata"]);
    assert_eq!(client.parameter("TimeZone"), Some("Asia/Kolkata"));
    let rows = client.query("SELECT 'x' AS a, NULL AS b");
    assert_eq!(rows[0].column_names(), ["a", "b"]);
    assert_eq!(rows[1].columns(), [Some("x".to_owned()), None]);
}

#[test]
fn the_extended_protocol_goes_message_by_message() {
    let mut client = direct(&Tenant::shared());
    assert_eq!(
        wire::short(&client.extended("SELECT $1::text", &[Some("x")])),
        ["1", "2", "T", "D", "C:SELECT 1", "Z:I"]
    );

    client.send(
        &[wire::parse("s", "SELECT generate_series(1, $1::int)", &[23]), wire::describe(b'S', "s"), wire::flush()]
            .concat(),
    );
    assert_eq!(wire::short(&[client.expect(), client.expect(), client.expect()]), ["1", "t", "T"]);
    client.expect_silence(Duration::from_millis(50));
    client.send(
        &[wire::bind("p", "s", &[Some("3")]), wire::execute("p", 2), wire::execute("p", 2), wire::sync()].concat(),
    );
    let messages = client.read_until_ready();
    assert_eq!(wire::short(&messages), ["2", "D", "D", "s", "D", "C:SELECT 1", "Z:I"]);
    assert_eq!(wire::first_column(&messages), ["1", "2", "3"]);

    client.send(&[wire::close(b'S', "s"), wire::bind("", "s", &[None]), wire::sync()].concat());
    assert_eq!(wire::short(&client.read_until_ready()), ["3", "E:26000", "Z:I"]);
    let binary = 7_i32.to_be_bytes();
    client.send(
        &[
            wire::parse("", "SELECT $1::int", &[]),
            wire::bind_formats("", "", &[1], &[Some(&binary)], &[0]),
            wire::execute("", 0),
            wire::sync(),
        ]
        .concat(),
    );
    assert_eq!(wire::first_column(&client.read_until_ready()), ["7"]);
    client.send(&wire::function_call(1396, &[Some(&(-5_i32).to_be_bytes())])); // abs(bigint) wants 8 bytes
    assert_eq!(wire::short(&client.read_until_ready()), ["E:08P01", "Z:I"]);
    client.send(&wire::function_call(1397, &[Some(&(-5_i32).to_be_bytes())])); // abs(integer)
    assert_eq!(wire::short(&client.read_until_ready()), ["V", "Z:I"]);
}

#[test]
fn copy_goes_both_ways_and_can_fail() {
    let mut client = direct(&Tenant::shared());
    client.query("CREATE TABLE t (i int)");
    client.send(&wire::query("COPY t FROM STDIN"));
    assert_eq!(client.expect().short(), "G");
    client.send(&[wire::copy_data(b"1\n2"), wire::copy_data(b"\n3\n"), wire::copy_done()].concat());
    assert_eq!(wire::short(&client.read_until_ready()), ["C:COPY 3", "Z:I"]);
    client.send(&[wire::query("COPY t FROM STDIN"), wire::copy_fail("no more")].concat());
    assert_eq!(wire::short(&client.read_until_ready()), ["G", "E:57014", "Z:I"]);
    assert_eq!(client.query_short("COPY t TO STDOUT"), ["H", "d", "d", "d", "c", "C:COPY 3", "Z:I"]);
}

#[test]
fn a_cancel_request_ends_a_running_statement() {
    let mut client = direct(&Tenant::shared());
    client.send(&wire::query("SELECT pg_sleep(600)"));
    client.expect_silence(Duration::from_millis(50));
    let mut canceller = Client::connect(("127.0.0.1", shared().primary().port())).unwrap();
    canceller.send(&wire::cancel_request(&client.key));
    assert!(canceller.read_until_closed().is_empty());
    assert_eq!(wire::error(&client.read_until_ready()).code, "57014");
}

#[test]
fn an_ssl_request_is_answered_with_a_byte() {
    let mut client = Client::connect(("127.0.0.1", shared().primary().port())).unwrap();
    client.send(&wire::ssl_request());
    assert_eq!(client.read_byte(), b'N');
}

#[test]
fn connections_of_a_database_are_counted_without_our_own() {
    let tenant = Tenant::shared();
    let node = shared().primary();
    assert_eq!(connection_count(node, &tenant.name), 0);
    let (mut one, two) = (direct(&tenant), direct(&tenant));
    assert_eq!(connection_count(node, &tenant.name), 2);
    one.send(&wire::terminate());
    drop((one, two));
    eventually("both gone", SOON, || connection_count(node, &tenant.name) == 0);
}

#[test]
fn a_cluster_replicates_survives_a_real_kill_and_leaves_nothing() {
    let cluster =
        Cluster::builder().standby("b").setting("max_connections", "50").start().unwrap_or_else(|e| panic!("{e}"));
    let (a, b) = (cluster.primary(), cluster.find("b").unwrap());
    assert_eq!(a.sql("SHOW max_connections").unwrap().cell(), Some("50"));
    assert!(b.in_recovery().unwrap() && !a.in_recovery().unwrap());
    assert_eq!(a.sql("SELECT slot_name FROM pg_replication_slots WHERE active").unwrap().column(), ["slot_b"]);

    a.sql("CREATE TABLE t AS SELECT 1").unwrap();
    cluster.wait_streaming(SOON).unwrap();
    assert_eq!(b.sql("SELECT count(*) FROM t").unwrap().cell(), Some("1"));

    let first = a.postmaster_pid().unwrap();
    a.kill().unwrap();
    assert!(test_kill_process(first).is_err(), "dead and reaped");
    assert!(a.sql("SELECT 1").is_err());
    a.start().unwrap();
    assert_ne!(a.postmaster_pid().unwrap(), first);
    cluster.wait_streaming(SOON).unwrap();

    a.restart(StopMode::Fast).unwrap();
    a.stop(StopMode::Immediate).unwrap();
    assert_eq!((a.postmaster_pid(), a.processes()), (None, vec![]));
    b.promote().unwrap();
    assert!(!b.in_recovery().unwrap());
    b.freeze();
    let (directory, pid) = (cluster.directory().to_owned(), b.postmaster_pid().unwrap());
    drop(cluster);
    assert!(!directory.exists());
    assert!(test_kill_process(pid).is_err());
}

#[test]
fn a_node_started_by_someone_else_is_stopped_like_ours() {
    let cluster = Cluster::builder().start().unwrap();
    let a = cluster.primary();
    a.stop(StopMode::Fast).unwrap();
    let mut pg_ctl = a.command("pg_ctl");
    let status = pg_ctl.arg("-D").arg(a.data_directory()).arg("-l").arg(cluster.directory().join("a/other.log"));
    assert!(status.args(["-w", "-s", "start"]).status().unwrap().success());
    assert_eq!(a.sql("SELECT 1").unwrap().cell(), Some("1"));
    assert!(a.start().is_err(), "one postmaster is enough");
    a.kill().unwrap();
    // what the dead postmaster left behind keeps its shared memory for a moment
    eventually("it starts again", SOON, || a.start().is_ok());
    a.set("work_mem", "5MB").unwrap();
    eventually("the reload is seen", SOON, || a.sql("SHOW work_mem").unwrap().cell() == Some("5MB"));
}

#[test]
fn a_former_primary_rejoins_under_the_new_one() {
    let cluster = Cluster::builder().standby("b").standby("c").start().unwrap();
    let [a, b, c] = cluster.nodes() else { panic!("three nodes") };
    a.kill_all().unwrap();
    b.promote().unwrap();
    c.follow(b).unwrap();
    a.start().unwrap();
    a.sql("CREATE TABLE only_on_a ()").unwrap();
    b.sql("CREATE TABLE t ()").unwrap();
    a.rejoin(b).unwrap();
    assert!(a.in_recovery().unwrap());
    assert_eq!(a.sql("SHOW port").unwrap().cell(), Some(a.port().to_string().as_str()));
    let streaming = "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming' ORDER BY 1";
    eventually("both stream", SOON, || b.sql(streaming).unwrap().column() == ["a", "c"]);
    eventually("a has b's table", SOON, || a.sql("SELECT FROM t").is_ok());
    assert!(a.sql("SELECT FROM only_on_a").is_err());
}

#[test]
fn an_agent_that_dies_is_started_again_unless_nobody_looks_after_it() {
    let node = shared().primary();
    let directory = howdah::demo::scratch::Scratch::new("howdah-fake").unwrap();
    let program = directory.path().join("agent");
    std::fs::write(&program, "#!/bin/sh\nexec sleep 600\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let agent = Agent::start(node, "main", &program, "").unwrap();
    eventually("a first start", SOON, || agent.pid().is_some());
    let first = agent.pid().unwrap();
    agent.kill();
    eventually("another start", SOON, || agent.pid().is_some_and(|pid| pid != first));
    agent.kill_for_good();
    std::thread::sleep(Duration::from_millis(400)); // several times what a start takes
    assert_eq!((agent.pid(), agent.starts()), (None, 2));
    agent.back();
    eventually("a third start", SOON, || agent.pid().is_some());
    let last = agent.pid().unwrap();
    drop(agent);
    assert!(rustix::process::test_kill_process(last).is_err());
}

#[test]
fn the_checker_counts_what_is_lost_and_what_is_in_doubt() {
    let cluster = builder().start().unwrap();
    let (node, tenant) = (cluster.primary(), Tenant::on(cluster.primary()));
    node.sql_in(&tenant.name, &format!("SET ROLE {}; {}", tenant.name, checker::SCHEMA)).unwrap();
    let mut checker = Checker::start(&tenant.config(node.port()), 6, Duration::ZERO).unwrap();
    eventually("some rows", SOON, || checker.acknowledged() > 500);
    let mark = checker.mark();
    node.restart(StopMode::Immediate).unwrap();
    let gap = checker.window(mark).spread().0;
    assert!(gap > Duration::from_millis(10), "{gap:?}");
    let mark = checker.mark();
    eventually("rows of all again", SOON, || checker.window(mark).everybody);
    checker.finish();
    node.sql_in(&tenant.name, "DELETE FROM ledger WHERE seq = 7").unwrap();
    node.sql_in(&tenant.name, "INSERT INTO ledger SELECT client, seq, node FROM ledger WHERE seq = 8").unwrap();
    let verdict = checker.verify(|| node.sql_in(&tenant.name, checker::PRESENT)).unwrap();
    assert_eq!((verdict.missing, verdict.duplicates, verdict.refused_present), (6, 6, 0), "{verdict:?}");
    assert_eq!(verdict.reconnected, 6, "{verdict:?}");
}

#[test]
fn servers_of_a_killed_postmaster_go_on_committing() {
    let cluster = builder().start().unwrap();
    let node = cluster.primary();
    let orphans = Orphans::start(node);
    eventually("both commit", SOON, || orphans.acknowledged() > 100 && orphans.procedure_commits());
    node.kill().unwrap();
    // one that has to wait for its client notices; the procedure waits for nobody
    assert!(!node.processes().is_empty() && orphans.procedure_commits());
    node.kill_all().unwrap();
    eventually("the end of both", SOON, || orphans.are_over());
}

#[test]
fn a_managed_cluster_has_an_agent_beside_each_node_and_nothing_of_it_is_left() {
    let managed = managed().start();
    assert_eq!(managed.settled(), "a");
    for node in managed.cluster().nodes() {
        let status = managed.agent_status(node.name()).expect("an answer");
        assert_eq!((status.cluster.as_str(), status.node.as_str()), ("main", node.name()));
        let postmaster = node.postmaster_pid().map(|pid| pid.as_raw_pid().unsigned_abs());
        assert_eq!(status.postgres.postmaster, postmaster);
    }
    let first = managed.agent_status("b").unwrap().incarnation;
    managed.agent("b").kill();
    managed.until("another life of the agent", || {
        managed.agent_status("b").is_some_and(|status| status.incarnation != first)
    });
    let directory = managed.cluster().directory().to_owned();
    drop(managed);
    assert!(!directory.exists());
    assert_eq!(howdah::demo::process::processes_in(&directory), []);
}
