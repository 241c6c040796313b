//! What the operator and the application say of where to go: hints, lists, roles, weights.

use std::process::Command;

use super::{PATIENT, PORT, WHERE, patiently, reader, serve, served, shared, tenant_of};
use crate::support::wire::{self, Client};
use crate::support::{Howdah, SOON, binary, config, eventually, free_port};

#[test]
fn hints_decide_and_a_write_that_is_sent_to_a_standby_by_one_is_asked_of_the_primary_again() {
    let (howdah, tenant) = served(PATIENT);
    let mut client = reader(&howdah, &tenant);
    client.query("CREATE TABLE t (i int)");
    for (sql, expected) in [
        ("/* howdah: primary */ SELECT pg_is_in_recovery()", "f"),
        ("/*howdah:PRIMARY*/SELECT pg_is_in_recovery()", "f"),
        ("/* howdah: replica */ SELECT pg_is_in_recovery() FROM (SELECT txid_current_snapshot()) x", "t"),
        ("SELECT /* howdah: primary */ pg_is_in_recovery()", "t"),
        ("/* howdah: elsewhere */ SELECT pg_is_in_recovery()", "t"),
    ] {
        eventually(sql, SOON, || client.value(sql) == expected);
        eventually(sql, SOON, || wire::first_column(&client.extended(sql, &[])) == [expected]);
    }
    for round in 0..5 {
        let sql = format!("/* howdah: replica */ INSERT INTO t VALUES ({round})");
        assert_eq!(client.query_short(&sql), ["C:INSERT 0 1", "Z:I"]);
        assert_eq!(wire::short(&client.extended(&sql, &[])), ["1", "2", "n", "C:INSERT 0 1", "Z:I"]);
        assert_eq!(client.value("SELECT count(*) FROM t"), (2 * (round + 1)).to_string());
    }
    let named = [
        wire::parse("w", "/* howdah: replica */ INSERT INTO t VALUES ($1) RETURNING 'x'", &[23]),
        wire::bind("", "w", &[Some("9")]),
        wire::execute("", 0),
        wire::sync(),
    ];
    client.send(&named.concat());
    assert_eq!(wire::short(&client.read_until_ready()), ["1", "2", "D", "C:INSERT 0 1", "Z:I"]);
    client.send(&named[1..].concat());
    assert_eq!(wire::short(&client.read_until_ready()), ["2", "D", "C:INSERT 0 1", "Z:I"]);
    // with others behind it, which see it
    let (write, count) = ("/* howdah: replica */ INSERT INTO t VALUES (7)", "SELECT count(*) FROM t WHERE i = 7");
    for round in 1..=3 {
        eventually("reads go to a standby", SOON, || client.value(WHERE) == "t");
        client.send(&[count, write, count, "SELECT 'x'", count].map(wire::query).concat());
        let answers: Vec<_> = (0..5).map(|_| client.read_until_ready()).collect();
        assert_eq!(wire::short(&answers[1]), ["C:INSERT 0 1", "Z:I"]);
        let seen: Vec<_> = answers.iter().flat_map(|answer| wire::first_column(answer)).collect();
        assert_eq!(seen, [&(round - 1).to_string(), &round.to_string(), "x", &round.to_string()]);
    }
    let (deaf, tenant) = served(&format!("{PATIENT}hints = false\n"));
    let mut client = reader(&deaf, &tenant);
    assert_eq!(client.value("/* howdah: primary */ SELECT pg_is_in_recovery()"), "t");
}

#[test]
fn the_operators_lists_of_functions_go_before_what_the_catalogue_says() {
    let extra = format!("{PATIENT}read_functions = [\"looks\"]\nwrite_functions = [\"steady\"]\n");
    let (howdah, tenant) = served(&extra);
    let mut client = reader(&howdah, &tenant);
    let functions = "CREATE FUNCTION looks() RETURNS bool LANGUAGE sql AS 'SELECT pg_is_in_recovery()';
        CREATE FUNCTION steady() RETURNS bool STABLE LANGUAGE sql AS 'SELECT pg_is_in_recovery()';
        CREATE FUNCTION neither() RETURNS bool LANGUAGE sql AS 'SELECT pg_is_in_recovery()'";
    client.query(functions);
    eventually("what is listed reads", SOON, || client.value("SELECT looks()") == "t");
    assert_eq!(client.value("SELECT steady()"), "f");
    assert_eq!(client.value("SELECT neither()"), "f");
}

#[test]
fn a_listener_or_database_has_a_role_and_says_so_to_whoever_asks_for_one() {
    let tenant = tenant_of(shared());
    let (writes, reads) = (free_port().unwrap(), free_port().unwrap());
    let extra = format!(
        "[[listeners]]\naddress = \"127.0.0.1:{writes}\"\nrole = \"primary\"\n\n\
         [[listeners]]\naddress = \"127.0.0.1:{reads}\"\nrole = \"replica\"\n\n\
         [databases.reads]\ncluster = \"main\"\ndbname = \"{0}\"\nrole = \"replica\"\n\n\
         [databases.writes]\ncluster = \"main\"\ndbname = \"{0}\"\nrole = \"primary\"\n\n{PATIENT}",
        tenant.name
    );
    let howdah = serve(Command::new(binary()), shared(), &extra);
    drop(reader(&howdah, &tenant));
    let at = |port: u16, database: &str| {
        let mut client = Client::connect(("127.0.0.1", port)).unwrap();
        client.login(&tenant.name, &tenant.password, database);
        client
    };
    for (port, database, standby, told) in [
        (howdah.port(), tenant.name.as_str(), "t", "off"),
        (writes, &tenant.name, "f", "off"),
        (reads, &tenant.name, "t", "on"),
        (howdah.port(), "reads", "t", "on"),
        (howdah.port(), "writes", "f", "off"),
    ] {
        let mut client = at(port, database);
        assert_eq!(client.parameter("in_hot_standby"), Some(told), "{database} at {port}");
        for _ in 0..10 {
            assert_eq!(client.value(WHERE), standby, "{database} at {port}");
        }
        let refused = client.query_short("CREATE TABLE IF NOT EXISTS t (i int)");
        if told == "on" {
            assert_eq!(refused, ["E:25006", "Z:I"], "{database} at {port}");
            client.query("BEGIN");
            assert_eq!(client.value(WHERE), "t");
            client.query("COMMIT");
        } else {
            assert_eq!(refused.last().unwrap(), "Z:I");
            assert!(!refused[0].starts_with('E'), "{refused:?}");
        }
        assert_eq!(client.parameter("in_hot_standby"), Some(told), "it does not flicker");
    }
    // libpq chooses by it
    let psql = |first: u16, second: u16, wanted: &str| {
        let bin = std::env::var("HOWDAH_PG_BIN").unwrap_or_else(|_| "/usr/lib/postgresql/15/bin".to_owned());
        let target = format!(
            "host=127.0.0.1,127.0.0.1 port={first},{second} dbname={0} user={0} password={1} target_session_attrs={wanted}",
            tenant.name, tenant.password
        );
        let answer = Command::new(format!("{bin}/psql")).args(["-XAt", &target, "-c", WHERE]).output().unwrap();
        assert!(answer.status.success(), "{wanted}: {}", String::from_utf8_lossy(&answer.stderr));
        String::from_utf8_lossy(&answer.stdout).trim().to_owned()
    };
    for (wanted, standby) in
        [("read-write", "f"), ("primary", "f"), ("standby", "t"), ("prefer-standby", "t"), ("read-only", "t")]
    {
        assert_eq!(psql(reads, writes, wanted), standby, "{wanted}");
        assert_eq!(psql(writes, reads, wanted), standby, "{wanted}");
    }
}

#[test]
fn sessions_spread_over_the_standbys_by_weight() {
    let tenant = tenant_of(shared());
    let [_, b, c] = [0, 1, 2].map(|at| shared().nodes()[at].port().to_string());
    for (balance, weight, share) in
        [("least_connections", 1, 20), ("round_robin", 1, 20), ("least_connections", 3, 10), ("round_robin", 3, 10)]
    {
        let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
        let toml = config(
            shared().nodes(),
            port,
            http_port,
            &format!("[clusters.main]\nbalance = \"{balance}\"\n\n{PATIENT}"),
        );
        let last = format!("port = {c}\n");
        let toml = toml.replace(&last, &format!("{last}weight = {weight}\n"));
        let howdah = Howdah::start(&patiently(&toml), port, http_port);
        let mut first = reader(&howdah, &tenant);
        eventually("both are replicas", SOON, || {
            let status = howdah.status();
            let nodes = status["clusters"][0]["nodes"].as_array().unwrap();
            nodes.iter().filter(|node| node["replica"] == true).count() == 2
        });
        first.query("SELECT 1");
        let mut clients: Vec<_> = (0..40).map(|_| howdah.login(&tenant)).collect();
        let ports: Vec<_> = clients.iter_mut().map(|client| client.value(PORT)).collect();
        let at_b = ports.iter().filter(|port| **port == b).count();
        let at_c = ports.iter().filter(|port| **port == c).count();
        assert_eq!(at_b + at_c, 40, "{ports:?}");
        assert!(at_b.abs_diff(share) * 5 <= share, "{balance}, weight {weight}: {at_b} at b, {at_c} at c");
        // a session stays where it is
        for (client, port) in clients.iter_mut().zip(&ports) {
            assert_eq!(client.value(PORT), *port);
        }
    }
}
