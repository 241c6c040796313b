//! SIGHUP applies all of a change or nothing, and drops nobody.

use std::process::Stdio;
use std::time::Duration;

use crate::support::wire;
use crate::support::{Howdah, SOON, Tenant, connection_count, eventually, free_port, shared};

fn reloads(howdah: &Howdah) -> usize {
    howdah.log().matches(" reloaded ").count()
}

/// Replaces the file, and waits until it is in force.
#[track_caller]
fn reload(howdah: &Howdah, toml: &str) {
    let before = reloads(howdah);
    howdah.reload(toml);
    eventually("reloaded", SOON, || reloads(howdah) > before);
}

fn file(howdah: &Howdah) -> String {
    std::fs::read_to_string(howdah.config()).unwrap()
}

#[test]
fn a_pools_size_grows_and_shrinks_under_its_clients() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[pool]\nsize = 1\n");
    let mut clients: Vec<_> = (0..4).map(|_| howdah.login(&tenant)).collect();
    clients[0].query("BEGIN");
    for client in &mut clients[1..] {
        client.send(&wire::query("BEGIN"));
    }
    eventually("they wait", SOON, || howdah.status()["pools"][0]["waiting"] == 3);
    reload(&howdah, &file(&howdah).replace("size = 1", "size = 4"));
    for client in &mut clients[1..] {
        assert_eq!(wire::short(&client.read_until_ready()), ["C:BEGIN", "Z:T"]);
    }
    assert_eq!(connection_count(shared().primary(), &tenant.name), 4);
    clients.iter_mut().for_each(|client| drop(client.query("COMMIT")));
    reload(&howdah, &file(&howdah).replace("size = 4", "size = 2"));
    eventually("two are closed", SOON, || connection_count(shared().primary(), &tenant.name) == 2);
    clients.iter_mut().for_each(|client| assert_eq!(client.value("SELECT 1"), "1"));
    eventually("the books are right", SOON, || howdah.status()["pools"][0]["open"] == 2);
}

#[test]
fn timeouts_and_databases_change_for_clients_that_are_there() {
    let tenant = Tenant::shared();
    let other = Tenant::shared();
    let name = &tenant.name;
    let howdah = Howdah::shared("");
    let only = file(&howdah).replace("[databases.\"*\"]", &format!("[databases.{name}]"));
    reload(&howdah, &only);
    let mut client = howdah.login(&tenant);
    let connect_new =
        |howdah: &Howdah| howdah.wire().try_login(&[("user", name), ("database", "new")], &tenant.password).unwrap();
    assert_eq!(wire::error(&connect_new(&howdah)).code, "3D000");
    let more =
        format!("{only}\n[timeouts]\nquery = \"300ms\"\n\n[databases.new]\ncluster = \"main\"\ndbname = \"{name}\"\n");
    reload(&howdah, &more);
    assert_eq!(wire::short(&client.query("SELECT pg_sleep(600)")), ["T", "E:57014", "Z:I"]);
    let mut new = howdah.wire();
    new.login(name, &tenant.password, "new");
    assert_eq!(new.value("SELECT current_database()"), *name);
    // the name may come to mean another database: nobody is left in the old one
    reload(&howdah, &more.replace(&format!("dbname = \"{name}\""), &format!("dbname = \"{}\"", other.name)));
    assert_eq!(new.value("SELECT current_database()"), other.name);
    // and may go away
    reload(&howdah, &only);
    let _ = new.try_send(&wire::query("SELECT 1"));
    assert_eq!(wire::error(&new.read_until_closed()).code, "3D000");
    eventually("its servers are closed", SOON, || connection_count(shared().primary(), &other.name) == 0);
}

#[test]
fn a_file_with_mistakes_changes_nothing_and_every_mistake_is_in_the_log() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[timeouts]\nquery = \"1h\"\n");
    let mut client = howdah.login(&tenant);
    let good = file(&howdah);
    let bad =
        good.replace("query = \"1h\"", "query = \"100ms\"\nquerry_wait = \"1s\"\nread = 5") + "\n[pool]\nsize = 0\n";
    howdah.reload(&bad);
    eventually("refused", SOON, || howdah.log().contains("reload refused"));
    let log = howdah.log();
    for mistake in ["querry_wait", "query_wait", "read", "size"] {
        assert!(log.contains(mistake), "{mistake} is not in the log:\n{log}");
    }
    assert_eq!(client.value("SELECT 'x' FROM pg_sleep(0.4)"), "x");
    assert_eq!(howdah.login(&tenant).value("SELECT 'x' FROM pg_sleep(0.4)"), "x");
    reload(&howdah, &good.replace("1h", "100ms"));
    assert_eq!(wire::short(&client.query("SELECT pg_sleep(600)")), ["T", "E:57014", "Z:I"]);
}

#[test]
fn nobody_is_dropped_by_ten_reloads() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[limits]\nworkers = 2\n\n[pool]\nsize = 4\n");
    let mut block = howdah.login(&tenant);
    block.query("BEGIN");
    let pid = block.value("SELECT pg_backend_pid()");
    block.query("CREATE TABLE kept (i int)");
    let (port, first) = (howdah.port().to_string(), file(&howdah));
    let pgbench = |arguments: &[&str]| {
        let mut command = shared().primary().command("pgbench");
        command.args(arguments).args(["-h", "127.0.0.1", "-p", &port, "-U", &tenant.name, &tenant.name]);
        command.env("PGPASSWORD", &tenant.password).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let made = pgbench(&["-i", "-q"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // one thread each: it prepares in blocking calls, and a thread's clients would wait for each other
    let bench = pgbench(&["-c", "8", "-j", "8", "-T", "4", "-M", "prepared", "-n"]).spawn().unwrap();
    for round in 0..10 {
        std::thread::sleep(Duration::from_millis(250)); // spread over the run
        let size = if round % 2 == 0 { "size = 2" } else { "size = 4" };
        reload(&howdah, &first.replace("size = 4", size));
    }
    let done = bench.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("number of failed transactions: 0"), "{said}");
    assert_eq!(block.value("SELECT pg_backend_pid()"), pid);
    assert_eq!(block.query_short("COMMIT"), ["C:COMMIT", "Z:I"]);
    assert_eq!(block.value("SELECT count(*) FROM kept"), "0");
}

#[test]
fn what_needs_a_restart_is_said_each_time_and_stays_as_it_was() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[limits]\nworkers = 1\n");
    let other = free_port().unwrap();
    let (port, first) = (howdah.port(), file(&howdah));
    let changed = first
        .replace("workers = 1", "workers = 2")
        .replace(&format!("address = \"127.0.0.1:{port}\""), &format!("address = \"127.0.0.1:{other}\""));
    for times in 1..=2 {
        reload(&howdah, &changed);
        for key in ["limits.workers", "listeners"] {
            let said = howdah.log().lines().filter(|line| line.contains("next start") && line.contains(key)).count();
            assert_eq!(said, times, "{}", howdah.log());
        }
    }
    assert_eq!(howdah.login(&tenant).value("SELECT 1"), "1");
    assert!(std::net::TcpStream::connect(("127.0.0.1", other)).is_err());
    reload(&howdah, &first);
    assert_eq!(howdah.log().matches("next start").count(), 4);
}
