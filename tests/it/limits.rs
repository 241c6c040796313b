//! Limits hold exactly, over all workers and under churn; nobody starves under them, and nothing is lost.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::wire::{self, Client};
use crate::support::{Howdah, SOON, Tenant, connection_count, eventually, poll, shared};

/// How long clients come and go.
const CHURN: Duration = Duration::from_secs(3);

/// Two workers, and no SCRAM: logins are as many as can be.
const CHURNING: &str = "[limits]\nworkers = 2\n\n[auth]\nmethod = \"trust\"\n\n";

/// Who connects to what.
#[derive(Clone)]
struct Seat {
    user: String,
    database: String,
}

/// Another role with the tenant's password, which may connect to its database.
fn second_user(tenant: &Tenant, suffix: &str) -> String {
    let name = format!("{}_{suffix}", tenant.name);
    shared().primary().sql(&format!("CREATE ROLE {name} LOGIN PASSWORD '{}'", tenant.password)).unwrap();
    name
}

/// `[users]` entries, so that howdah can log in to servers without having seen a proof.
fn passwords<'a>(tenant: &Tenant, users: impl IntoIterator<Item = &'a String>) -> String {
    users.into_iter().fold(String::new(), |mut toml, user| {
        write!(toml, "[users.{user}]\npassword = \"{}\"\n\n", tenant.password).unwrap();
        toml
    })
}

/// The most connections that `filter` ever found, while `during` ran.
fn most_connections(filter: &str, during: impl FnOnce()) -> u64 {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE {filter} AND backend_type = 'client backend'
         AND application_name NOT IN ('howdah local', 'howdah hidden')"
    );
    let (done, most) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let now: u64 = shared().primary().sql(&sql).unwrap().cell().unwrap().parse().unwrap();
                most.fetch_max(now, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
        });
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(during));
        done.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    most.into_inner()
}

/// Clients on these seats connect, query and leave in every way there is; the answer is how many queries each seat had
/// answered, and the longest any of them waited.
fn churn(howdah: &Howdah, seats: &[Seat]) -> (Vec<u64>, Duration) {
    let until = Instant::now() + CHURN;
    let port = howdah.port();
    thread::scope(|scope| {
        let run = |(at, seat): (usize, &Seat)| {
            let seat = seat.clone();
            scope.spawn(move || {
                let (mut answered, mut longest, mut round) = (0, Duration::ZERO, at % 3);
                while Instant::now() < until {
                    round += 1;
                    let begun = Instant::now();
                    let mut client = Client::connect(("127.0.0.1", port)).unwrap();
                    client.login(&seat.user, "", &seat.database);
                    for _ in 0..=round % 4 {
                        client.value("SELECT pg_sleep(0.003)");
                        answered += 1;
                    }
                    longest = longest.max(begun.elapsed());
                    match round % 5 {
                        0 => client.send(&wire::terminate()),
                        1 => client.send(&wire::query("SELECT pg_sleep(0.01)")), // and gone
                        2 => client.send(&wire::query("BEGIN; SELECT 1")),
                        3 => client.send(&wire::query("SELECT 1")[..7]),
                        _ => {}
                    }
                }
                (answered, longest)
            })
        };
        let threads: Vec<_> = seats.iter().enumerate().map(run).collect();
        let ends: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        (ends.iter().map(|end| end.0).collect(), ends.iter().map(|end| end.1).max().unwrap())
    })
}

/// After everybody has left: no client, no waiter, nothing lent.
fn at_rest(howdah: &Howdah) {
    let rest = poll(SOON, || {
        let status = howdah.status();
        let pools = status["pools"].as_array().unwrap();
        let idle = pools.iter().all(|pool| pool["open"] == pool["idle"] && pool["waiting"] == 0);
        (idle && status["clients"] == 0).then_some(())
    });
    assert!(rest.is_some(), "{:#}", howdah.status());
}

#[test]
fn a_pool_never_has_more_servers_than_its_size() {
    let tenant = Tenant::shared();
    let toml = format!("{CHURNING}[pool]\nsize = 3\n\n{}", passwords(&tenant, [&tenant.name]));
    let howdah = Howdah::shared(&toml);
    let seats = vec![Seat { user: tenant.name.clone(), database: tenant.name.clone() }; 24];
    let most = most_connections(&format!("datname = '{}'", tenant.name), || {
        let (answered, longest) = churn(&howdah, &seats);
        assert!(answered.iter().all(|answered| *answered > 0), "{answered:?}");
        assert!(longest < Duration::from_secs(10), "{longest:?}");
    });
    assert!((1..=3).contains(&most), "{most} server connections");
    at_rest(&howdah);
    let open = howdah.status()["pools"][0]["open"].as_u64().unwrap();
    eventually("the books say what is there", SOON, || {
        connection_count(shared().primary(), &tenant.name) == howdah.status()["pools"][0]["open"].as_u64().unwrap()
    });
    assert!(open <= 3);
}

#[test]
fn a_database_never_has_more_servers_than_its_maximum_over_all_its_users() {
    let tenant = Tenant::shared();
    let users = [tenant.name.clone(), second_user(&tenant, "b"), second_user(&tenant, "c")];
    let toml = format!(
        "{CHURNING}[databases.{}]\ncluster = \"main\"\npool = {{ size = 4, max_server_connections = 4 }}\n\n{}",
        tenant.name,
        passwords(&tenant, &users)
    );
    let howdah = Howdah::shared(&toml);
    let seats: Vec<_> = (0..18).map(|n| Seat { user: users[n % 3].clone(), database: tenant.name.clone() }).collect();
    let most = most_connections(&format!("datname = '{}'", tenant.name), || {
        let (answered, longest) = churn(&howdah, &seats);
        assert!(answered.iter().all(|answered| *answered > 0), "{answered:?}");
        assert!(longest < Duration::from_secs(10), "{longest:?}");
    });
    assert!((1..=4).contains(&most), "{most} server connections");
    at_rest(&howdah);
    // whoever has the connections now, everybody gets one
    for user in &users {
        let mut clients: Vec<_> = (0..4).map(|_| howdah.wire()).collect();
        for client in &mut clients {
            client.login(user, "", &tenant.name);
            assert_eq!(client.query_short("BEGIN"), ["C:BEGIN", "Z:T"]);
        }
        assert_eq!(connection_count(shared().primary(), &tenant.name), 4);
    }
    at_rest(&howdah);
}

#[test]
fn a_user_never_has_more_servers_than_its_maximum_over_all_databases() {
    let tenant = Tenant::shared();
    let databases: Vec<_> = ["", "_x", "_y"].iter().map(|suffix| format!("{}{suffix}", tenant.name)).collect();
    for database in &databases[1..] {
        shared().primary().sql(&format!("CREATE DATABASE {database} OWNER {}", tenant.name)).unwrap();
    }
    let toml = format!(
        "{CHURNING}[users.{}]\npassword = \"{}\"\npool = {{ max_server_connections = 2 }}\n",
        tenant.name, tenant.password
    );
    let howdah = Howdah::shared(&toml);
    let seats: Vec<_> =
        (0..18).map(|n| Seat { user: tenant.name.clone(), database: databases[n % 3].clone() }).collect();
    let most = most_connections(&format!("usename = '{}'", tenant.name), || {
        let (answered, longest) = churn(&howdah, &seats);
        assert!(answered.iter().all(|answered| *answered > 0), "{answered:?}");
        assert!(longest < Duration::from_secs(10), "{longest:?}");
    });
    assert!((1..=2).contains(&most), "{most} server connections");
    at_rest(&howdah);
}

#[test]
fn a_starved_pool_takes_idle_servers_only_from_pools_under_the_limit_that_is_full() {
    let tenant = Tenant::shared();
    let (user, other) = (tenant.name.clone(), second_user(&tenant, "b"));
    let elsewhere = format!("{user}_x");
    shared().primary().sql(&format!("CREATE DATABASE {elsewhere} OWNER {user}")).unwrap();
    let toml = format!(
        "{CHURNING}[databases.{user}]\ncluster = \"main\"\npool = {{ max_server_connections = 2 }}\n\n{}",
        passwords(&tenant, [&user, &other])
    );
    let howdah = Howdah::shared(&toml);
    let login = |user: &str, database: &str| {
        let mut client = howdah.wire();
        client.login(user, "", database);
        client
    };
    // idle servers of the same user in a database without a limit
    let mut idle = [login(&user, &elsewhere), login(&user, &elsewhere)];
    idle.iter_mut().for_each(|client| drop(client.query("BEGIN")));
    let kept = idle.iter_mut().map(|client| client.value("SELECT pg_backend_pid()")).collect::<Vec<_>>();
    idle.iter_mut().for_each(|client| drop(client.query("COMMIT")));
    // the limited database is full of the other user's idle ones
    let mut full = [login(&other, &user), login(&other, &user)];
    full.iter_mut().for_each(|client| drop(client.query("BEGIN")));
    full.iter_mut().for_each(|client| drop(client.query("COMMIT")));
    let mut starved = login(&user, &user);
    assert_eq!(starved.value("SELECT 1"), "1");
    let pids = kept.join(",");
    let alive =
        shared().primary().sql(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid IN ({pids})")).unwrap();
    assert_eq!(alive.cell(), Some("2"), "an idle server was closed that could not help");
}

#[test]
fn one_client_too_many_is_refused_in_pgbouncers_words() {
    let tenant = Tenant::shared();
    let other = second_user(&tenant, "b");
    let name = &tenant.name;
    let toml = format!(
        "[limits]\nmax_client_connections = 5\n\n[databases.{name}]\ncluster = \"main\"\npool = {{ max_client_connections = 3 }}\n\n\
         [users.{other}]\npool = {{ max_client_connections = 2 }}\n"
    );
    let howdah = Howdah::shared(&toml);
    let refused = |user: &str, database: &str| {
        let mut client = howdah.wire();
        let messages = client.try_login(&[("user", user), ("database", database)], &tenant.password).unwrap();
        let error = wire::error(&messages);
        assert_eq!((error.severity.as_str(), error.code.as_str(), error.routine.as_str()), ("FATAL", "53300", ""));
        assert!(error.hint.contains("max_client_connections"), "{error:?}");
        assert!(client.read_until_closed().is_empty());
        error.message
    };
    let login = |user: &str, database: &str| {
        let mut client = howdah.wire();
        client.login(user, &tenant.password, database);
        client
    };
    let mut clients = vec![login(&other, name), login(&other, "postgres")];
    assert_eq!(refused(&other, name), "client connections exceeded (max_user_client_connections)");
    clients.extend([login(name, name), login(name, name)]);
    assert_eq!(refused(name, name), "client connections exceeded (max_db_client_connections)");
    clients.push(login(name, "postgres"));
    assert_eq!(refused(name, "postgres"), "no more connections allowed (max_client_conn)");
    assert_eq!(howdah.status()["clients"], 5);

    // places are free again after every kind of end
    drop(clients);
    eventually("all have left", SOON, || howdah.status()["clients"] == 0);
    for _ in 0..7 {
        let mut client = howdah.wire();
        let messages = client.try_login(&[("user", &other), ("database", name)], "wrong").unwrap();
        assert_eq!(wire::error(&messages).code, "28P01");
        let mut half = howdah.wire();
        half.send(&wire::startup(wire::PROTOCOL_3_0, &[("user", &other), ("database", name)]));
        assert_eq!(half.expect().short(), "R:10");
        drop(half);
        eventually("they have left", SOON, || howdah.status()["clients"] == 0);
    }
    let _clients = [login(&other, name), login(&other, name)];
}
