//! PostgreSQL 18 and its protocol 3.2 through howdah.
//!
//! What the other modules ask of the wire protocol is asked of PostgreSQL 18 too: `scripts/test` runs them a second time
//! with `HOWDAH_TEST_POSTGRES=18`. Here is what only 18 and its libpq can show.

use std::process::Command;
use std::time::Duration;

use crate::drivers::python;
use crate::support::script::{play, simple, turn};
use crate::support::tls::Authority;
use crate::support::wire::{self, Client, Message, bind, describe, execute, parse, sync};
use crate::support::{Cluster, Howdah, SOON, Tenant, config, eighteen, eventually, free_port};
use crate::tls::{serve, tls_cluster_of, tls_config};

fn served() -> (Cluster, Tenant, Howdah) {
    let cluster = eighteen().start().unwrap_or_else(|error| panic!("{error}"));
    let tenant = Tenant::on(cluster.primary());
    let howdah = Howdah::before(cluster.nodes(), "[pool]\nsize = 1\n");
    (cluster, tenant, howdah)
}

#[test]
fn tls_from_the_first_byte_takes_statements_cancels_and_the_monitor_to_a_node_of_18() {
    let (authority, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let cluster = tls_cluster_of(eighteen(), &authority, "127.0.0.1");
    let node = cluster.primary();
    let tenant = Tenant::on(node);
    let direct = |ca: &Authority| {
        let ca = ca.path("ca.crt").display().to_string();
        format!("tls = {{ mode = \"verify-full\", negotiation = \"direct\", ca = \"{ca}\" }}\n")
    };
    let howdah = serve(&cluster, "", &direct(&authority));
    let mut client = howdah.login(&tenant);
    assert_eq!(client.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"), "t");
    client.send(&wire::query("SELECT pg_sleep(600)"));
    client.expect_silence(Duration::from_millis(100));
    howdah.wire().send(&wire::cancel_request(&client.key));
    assert_eq!(wire::error(&client.read_until_ready()).code, "57014");
    let monitor =
        "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'howdah monitor'";
    assert_eq!(node.sql(monitor).unwrap().cell(), Some("t"));
    let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
    let toml = tls_config(&config(cluster.nodes(), port, http_port, ""), "", &direct(&theirs));
    let stranger = Howdah::start_unready(&toml, port, http_port);
    eventually("it says why", SOON, || {
        stranger.get("/readyz").is_some_and(|(status, missing)| status == 503 && missing.contains("certificate"))
    });
}

/// Logs in with protocol 3.2; everything that came.
fn login(port: u16, tenant: &Tenant) -> (Client, Vec<Message>) {
    let mut client = Client::connect(("127.0.0.1", port)).unwrap();
    client.send(&wire::startup(wire::PROTOCOL_3_2, &[("user", &tenant.name), ("database", &tenant.name)]));
    let came = client.authenticate(&tenant.name, &tenant.password).unwrap();
    (client, came)
}

#[test]
fn protocol_3_2_is_postgresqls_and_its_long_keys_cancel() {
    let (cluster, tenant, howdah) = served();
    let primary = cluster.primary();
    assert!(primary.sql("SHOW server_version").unwrap().cell().unwrap().starts_with("18."));
    let script = [
        simple("SELECT 1; SELECT 1/0"),
        simple("SET search_path = pg_catalog"), // reported since 18
        simple("RESET search_path"),
        turn([
            parse("n", "SELECT $1::int + 1", &[]),
            bind("", "n", &[Some("1")]),
            describe(b'P', ""),
            execute("", 0),
            sync(),
        ]),
        simple("BEGIN; SELECT 1/0"),
        simple("ROLLBACK"),
    ];
    let mut saw = Vec::new();
    for port in [primary.port(), howdah.port()] {
        let (mut client, came) = login(port, &tenant);
        let mut told: Vec<_> = came.iter().filter(|m| m.tag != b'R').map(Message::short).collect();
        told.sort(); // what is reported comes in no order
        assert!(client.key.1.len() > 4, "a key of {} bytes", client.key.1.len());
        told.extend(wire::short(&play(&mut client, &script, || ())));
        saw.push(told);

        let pid = client.value("SELECT pg_backend_pid()");
        client.send(&wire::query("SELECT pg_sleep(600)"));
        let active = format!("SELECT state = 'active' FROM pg_stat_activity WHERE pid = {pid}");
        eventually("it runs", SOON, || primary.sql(&active).unwrap().cell() == Some("t"));
        // the beginning of a key is not the key
        for key in [(client.key.0, client.key.1[..4].to_vec()), client.key.clone()] {
            assert_eq!(primary.sql(&active).unwrap().cell(), Some("t"), "cancelled by a part of its key");
            let mut messenger = Client::connect(("127.0.0.1", port)).unwrap();
            messenger.send(&wire::cancel_request(&key));
            messenger.read_until_closed();
        }
        assert_eq!(wire::short(&client.read_until_ready()), ["T", "E:57014", "Z:I"]);
    }
    assert_eq!(saw[1], saw[0]);
}

#[test]
fn libpq_18_insists_on_protocol_3_2_and_gets_it() {
    const SCRIPT: &str = "
import sys, psycopg
with psycopg.connect(sys.argv[1], min_protocol_version='3.2', max_protocol_version='3.2', autocommit=True) as c:
    print(psycopg.pq.version() // 10000, c.execute('SELECT %s::int + 1', [41]).fetchone(), len(c.info.parameter_status('server_version')) > 0)
    c.cancel_safe(timeout=10)
    print(c.execute('SELECT 1').fetchone())
";
    let (cluster, tenant, howdah) = served();
    let saw = [cluster.primary().port(), howdah.port()].map(|port| {
        let mut command = Command::new(python("", "psycopg").get_program());
        let output = command.args(["-B", "-c", SCRIPT, &tenant.url(port)]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    });
    assert_eq!(saw[1], saw[0]);
    assert!(saw[0].starts_with("18 (42,)"), "{}", saw[0]);
}
