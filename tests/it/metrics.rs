//! What Prometheus reads and load balancers ask for: a daemon's metrics say what is so, in the format to the letter, and the list in
//! the documentation is the one a daemon gives.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use howdah::admin::metrics::families::{FAMILIES, Family};
use howdah::demo::scratch::Scratch;

use crate::support::managed::lent;
use crate::support::{Howdah, SOON, Tenant, binary, builder, config, eventually, free_port, poll, shared};

mod shown;
mod text;

use text::Scrape;

/// A scrape that must come out well.
#[track_caller]
fn scrape(howdah: &Howdah) -> Scrape {
    let (status, text) = howdah.get("/metrics").expect("an answer to GET /metrics");
    assert_eq!(status, 200, "{text}");
    Scrape::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn families() -> impl Iterator<Item = &'static Family> {
    FAMILIES.iter().flat_map(|(_, families)| families.iter())
}

/// Everything that is there is in the list, with this type, these labels, this meaning.
#[track_caller]
fn is_as_listed(scrape: &Scrape) {
    let listed: BTreeMap<&str, &Family> = families().map(|family| (family.name, family)).collect();
    for (name, found) in &scrape.families {
        let family = listed.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in the list"));
        assert_eq!((found.kind.as_str(), found.help.as_str()), (family.kind.as_str(), family.help), "{name}");
        for series in &found.series {
            let labels: BTreeSet<&str> = series.labels.keys().map(String::as_str).filter(|key| *key != "le").collect();
            assert_eq!(labels, family.labels.iter().copied().collect(), "{name}");
        }
    }
}

#[test]
fn a_scrape_is_in_the_format_to_the_letter_and_holds_nothing_that_is_not_documented() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("");
    let mut client = howdah.login(&tenant);
    client.query("SELECT 1");
    let scrape = scrape(&howdah);
    is_as_listed(&scrape);
    assert_eq!(scrape.sum("howdah_node_up", &[]), 1.0);
    assert_eq!(scrape.sum("howdah_clients", &[]), 1.0);
    assert!(scrape.sum("process_resident_memory_bytes", &[]) > 1e6);
    assert!(scrape.sum("process_open_fds", &[]) >= 5.0);
    let age = scrape.sum("howdah_uptime_seconds", &[]);
    assert!(age > 0.0 && age < 600.0, "{age}");
}

#[test]
fn probes_say_yes_and_no_to_load_balancers() {
    let howdah = Howdah::shared("");
    let says = |path: &str| howdah.get(path).expect("an answer").0;
    for (path, status) in [
        ("/primary", 200),
        ("/leader", 200),
        ("/read-write?cluster=main", 200),
        ("/replica", 503),
        ("/replica?lag=16MB", 503),
        ("/read-only", 200),
        ("/health", 200),
        ("/liveness", 200),
        ("/readiness", 200),
        ("/primary?cluster=nobody", 404),
        ("/primary?node=nobody", 404),
        ("/replica?lag=much", 400),
        ("/replica?tag_x=y", 400),
    ] {
        assert_eq!(says(path), status, "{path}");
    }
}

#[test]
fn what_clients_do_moves_the_counters_by_as_much() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("");
    let mut client = howdah.login(&tenant);
    for _ in 0..50 {
        client.query("SELECT 1");
    }
    client.query("SELECT 1/0");
    for statement in ["BEGIN", "SELECT generate_series(1, 10)", "COMMIT"] {
        client.query(statement);
    }
    let of = [("database", tenant.name.as_str())];
    eventually("everything is counted", SOON, || scrape(&howdah).sum("howdah_queries_total", &of) >= 54.0);
    let first = scrape(&howdah);
    for (metric, expected) in [
        ("howdah_queries_total", 54.0),
        ("howdah_transactions_total", 52.0),
        ("howdah_rows_total", 60.0),
        ("howdah_client_logins_total", 1.0),
        ("howdah_pool_queries_total", 54.0),
        ("howdah_pool_transactions_total", 52.0),
        ("howdah_pool_request_seconds_count", 54.0),
        ("howdah_pool_server_seconds_count", 54.0),
        ("howdah_pool_open", 1.0),
        ("howdah_pool_waiting", 0.0),
    ] {
        assert_eq!(first.sum(metric, &of), expected, "{metric}");
    }
    let divisions = [of[0], ("sqlstate", "22012")];
    assert_eq!(first.sum("howdah_errors_total", &divisions), 1.0);
    let time = first.sum("howdah_pool_request_seconds_sum", &of);
    assert!(time > 0.0 && time < 60.0, "{time}");
    assert!(first.sum("howdah_received_bytes_total", &of) > 50.0 * 14.0);

    client.query("SELECT pg_advisory_lock(1)");
    let pinned = [of[0], ("reason", "advisory lock")];
    eventually("the pin is shown", SOON, || {
        let scrape = scrape(&howdah);
        scrape.sum("howdah_pool_pinned", &pinned) == 1.0
    });
}

#[test]
fn questions_of_ones_own_become_metrics_and_a_wrong_file_changes_nothing() {
    let tenant = Tenant::shared();
    let made = "CREATE TABLE orders AS SELECT CASE WHEN n < 4 THEN 'open' ELSE 'do\"ne\\' END AS state
         FROM generate_series(1, 10) n";
    shared().primary().sql_in(&tenant.name, made).unwrap();
    let scratch = Scratch::new("howdah-queries").unwrap();
    let file = scratch.path().join("queries.toml");
    let good = format!(
        "[[queries]]\nname = \"orders\"\ninterval = \"1s\"\ndatabases = [\"{0}\"]\n\
         query = \"SELECT state, count(*) AS rows, count(*) AS seen_total, now() AS asked FROM public.orders GROUP BY state\"\n\
         columns.state = {{ usage = \"label\" }}\ncolumns.rows = {{ usage = \"gauge\", help = \"Orders.\" }}\n\
         columns.seen_total = {{ usage = \"counter\" }}\ncolumns.asked = {{ usage = \"discard\" }}\n\
         [[queries]]\nname = \"broken\"\nquery = \"SELECT 1/0 AS one\"\ncolumns.one = {{ usage = \"gauge\" }}\n\
         [[queries]]\nname = \"writes\"\nquery = \"CREATE TABLE public.never (a int)\"\ncolumns.a = {{ usage = \"gauge\" }}\n\
         [[queries]]\nname = \"elsewhere\"\nroles = [\"standby\"]\nquery = \"SELECT 1 AS one\"\ncolumns.one = {{ usage = \"gauge\" }}\n",
        tenant.name
    );
    std::fs::write(&file, &good).unwrap();
    let (port, http) = (free_port().unwrap(), free_port().unwrap());
    let extra = format!("[stats]\nqueries_file = \"{}\"\n", file.display());
    let toml = config(shared().nodes(), port, http, &extra);
    let howdah = Howdah::start(&toml, port, http);
    let done = [("database", tenant.name.as_str()), ("state", "do\"ne\\"), ("cluster", "main")];
    eventually("the answer is there", SOON, || scrape(&howdah).sum("orders_rows", &done) == 7.0);
    let first = scrape(&howdah);
    assert_eq!(first.sum("orders_rows", &[("state", "open")]), 3.0);
    assert_eq!(first.families["orders_seen_total"].kind, "counter");
    assert_eq!(first.families["orders_rows"].help, "Orders.");
    let up = |query: &str| {
        first.each("howdah_own_query_up", &[("query", query)]).iter().map(|(_, up)| *up).collect::<Vec<_>>()
    };
    assert_eq!((up("orders"), up("broken"), up("writes"), up("elsewhere")), (vec![1.0], vec![0.0], vec![0.0], vec![]));
    assert!(howdah.log().contains("division by zero"), "why is in the log");
    assert!(howdah.log().contains("read-only transaction"), "nothing is written");

    std::fs::write(&file, good.replace("usage = \"label\"", "usage = \"lable\"")).unwrap();
    let check = Command::new(binary()).arg("check").arg("-c").arg(howdah.config()).output().unwrap();
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(
        !check.status.success()
            && said.contains("queries.toml:6:27: queries[0].columns.state.usage: \"lable\" is no usage"),
        "{said}"
    );
    howdah.reload(&toml);
    eventually("the reload is refused", SOON, || howdah.log().contains("\"lable\" is no usage"));
    assert_eq!(scrape(&howdah).sum("orders_rows", &done), 7.0, "the old questions stay");

    std::fs::write(&file, good.replace("name = \"orders\"", "name = \"sales\"")).unwrap();
    howdah.reload(&toml);
    eventually("the new name is in force", SOON, || scrape(&howdah).sum("sales_rows", &done) == 7.0);
    assert!(!scrape(&howdah).families.contains_key("orders_rows"), "and the old one is gone");
}

#[test]
fn probes_and_metrics_follow_a_standby_that_lags_and_freezes() {
    let cluster = builder().prefix("howdah-metrics").standby("b").start().unwrap_or_else(|error| panic!("{error}"));
    let (primary, standby) = (cluster.primary(), cluster.find("b").unwrap());
    let howdah = Howdah::before(cluster.nodes(), "");
    let says = |path: &str| howdah.get(path).expect("an answer").0;
    eventually("the standby gets reads", 2 * SOON, || says("/replica?lag=16MB") == 200);
    for (path, status) in [
        ("/primary?node=a", 200),
        ("/primary?node=b", 503),
        ("/replica?node=b", 200),
        ("/replica?node=a", 503),
        ("/read-only?node=a", 200),
        ("/read-only?node=b", 200),
        ("/health?node=b", 200),
    ] {
        assert_eq!(says(path), status, "{path}");
    }
    let b = [("node", "b")];
    eventually("both nodes were asked", 2 * SOON, || scrape(&howdah).sum("howdah_postgres_up", &[]) == 2.0);
    let all = scrape(&howdah);
    is_as_listed(&all);
    assert_eq!(all.sum("howdah_postgres_in_recovery", &b), 1.0);
    assert_eq!(all.sum("howdah_node_primary", &b), 0.0);
    assert_eq!(all.each("howdah_postgres_replication_replay_lag_bytes", &[("node", "a")]).len(), 1);
    assert!(all.sum("howdah_postgres_database_size_bytes", &[("node", "a"), ("database", "postgres")]) > 1e6);
    assert!(all.sum("howdah_postgres_xact_commit_total", &[("node", "a")]) > 1.0);
    assert_eq!(
        all.sum("howdah_postgres_setting_value", &[("node", "a"), ("setting", "checkpoint_timeout")]) % 30.0,
        0.0
    );

    standby.sql("SELECT pg_wal_replay_pause()").unwrap();
    primary.sql("CREATE TABLE much AS SELECT repeat('x', 100) AS a FROM generate_series(1, 20000)").unwrap();
    eventually("the lag is seen", SOON, || says("/replica?lag=1MB") == 503);
    assert_eq!((says("/replica?lag=1GB"), says("/replica")), (200, 200), "as far as it is allowed, it gets reads");
    assert!(scrape(&howdah).sum("howdah_node_lag_bytes", &b) > 1e6);
    standby.sql("SELECT pg_wal_replay_resume()").unwrap();
    eventually("it has caught up", SOON, || says("/replica?lag=1MB") == 200);

    standby.freeze();
    let mut slowest = Duration::ZERO;
    eventually("the frozen standby is seen", 2 * SOON, || {
        let since = Instant::now();
        let scrape = scrape(&howdah);
        slowest = slowest.max(since.elapsed());
        assert_eq!(scrape.sum("howdah_postgres_up", &[("node", "a")]), 1.0, "who lives is asked");
        scrape.sum("howdah_node_up", &b) == 0.0
    });
    assert!(slowest < Duration::from_secs(4), "{slowest:?}: the bound of one question is 5 s");
    assert!(scrape(&howdah).each("howdah_node_lag_bytes", &b).is_empty(), "what was known once is no fact");
    assert_eq!((says("/replica"), says("/read-only"), says("/health?node=b")), (503, 200, 503));
    standby.thaw();
    eventually("it is asked again", 2 * SOON, || scrape(&howdah).sum("howdah_postgres_up", &b) == 1.0);

    primary.kill_all().unwrap();
    eventually("there is no primary", SOON, || says("/primary") == 503);
    let none = scrape(&howdah);
    assert_eq!((none.sum("howdah_cluster_has_primary", &[]), none.sum("howdah_ready", &[])), (0.0, 0.0));
}

/// Metrics that are only there once something has happened.
const EVENTS: [&str; 9] = [
    "howdah_cluster_blocked",
    "howdah_errors_total",
    "howdah_jobs_total",
    "howdah_own_query_up",
    "howdah_pool_pinned",
    "howdah_postgres_activity_waiting",
    "howdah_postgres_replication_flush_lag_seconds",
    "howdah_postgres_replication_replay_lag_seconds",
    "howdah_rollbacks_total",
];

#[test]
fn everything_that_is_documented_is_there() {
    let lent = lent();
    let managed = lent.as_ref().unwrap();
    managed.settled();
    let mut client = managed.howdah().login(managed.tenant());
    client.query("SELECT 1");
    let mut missing = Vec::new();
    let all = poll(2 * SOON, || {
        let scrape = scrape(managed.howdah());
        is_as_listed(&scrape);
        let is_there = |name: &str| scrape.families.contains_key(name) || EVENTS.contains(&name);
        missing = families().map(|family| family.name).filter(|name| !is_there(name)).collect();
        missing.is_empty().then_some(())
    });
    assert!(all.is_some(), "documented and not there: {missing:?}");
}
