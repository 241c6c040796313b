//! Nobody who waits for a server is forgotten, whoever else comes, goes, or is refused meanwhile.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::wire::Client;
use crate::support::{Howdah, SOON, Tenant, eventually, shared};

/// Longer than any turn here, and much shorter than `query_wait`.
const FORGOTTEN: Duration = Duration::from_secs(10);

#[test]
fn pools_that_take_servers_from_each_other_forget_no_waiter() {
    let tenant = Tenant::shared();
    let name = &tenant.name;
    let others: Vec<_> = (0..3).map(|n| format!("{name}_{n}")).collect();
    for other in &others {
        let sql = format!("CREATE ROLE {other} LOGIN PASSWORD '{}'", tenant.password);
        shared().primary().sql(&sql).unwrap();
    }
    let howdah = Howdah::shared("[limits]\nworkers = 2\n\n[pool]\nsize = 3\nmax_server_connections = 3\n");
    let everybody = std::sync::Barrier::new(24);
    let turns: u64 = thread::scope(|scope| {
        let clients: Vec<_> = (0..24_u64)
            .map(|n| {
                let user = &others[usize::try_from(n % 3).unwrap()];
                let (howdah, tenant, everybody) = (&howdah, &tenant, &everybody);
                scope.spawn(move || {
                    let mut client = howdah.wire();
                    client.login(user, &tenant.password, &tenant.name);
                    client.read_timeout(FORGOTTEN);
                    everybody.wait(); // logins take their time on a busy machine
                    let until = Instant::now() + Duration::from_secs(4);
                    let mut turns = 0;
                    while Instant::now() < until {
                        assert_eq!(client.value(&format!("SELECT {n}")), n.to_string());
                        turns += 1;
                        // pools run empty and idle servers come to rest, over and over
                        thread::sleep(Duration::from_micros(n * n * 37 % 7_000));
                    }
                    turns
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert!(turns > 24, "only {turns}");
    eventually("everything is at rest", SOON, || {
        let status = howdah.status();
        let pools = status["pools"].as_array().unwrap();
        pools.iter().all(|pool| pool["open"] == pool["idle"] && pool["waiting"] == 0)
    });
}

#[test]
fn waiters_who_leave_as_they_are_served_take_no_server_with_them() {
    let howdah = Howdah::shared("[limits]\nworkers = 2\n\n[pool]\nsize = 2\n");
    let tenant = Tenant::shared();
    let until = Instant::now() + Duration::from_secs(3);
    thread::scope(|scope| {
        for n in 0..12_u64 {
            let (howdah, tenant) = (&howdah, &tenant);
            scope.spawn(move || {
                while Instant::now() < until {
                    let mut client: Client = howdah.login(tenant);
                    client.read_timeout(FORGOTTEN);
                    client.send(&crate::support::wire::query("SELECT pg_sleep(0.002)"));
                    thread::sleep(Duration::from_micros(n * 331 % 4_000));
                    client.cut();
                }
            });
        }
    });
    let mut last = howdah.login(&tenant);
    last.read_timeout(FORGOTTEN);
    assert_eq!(last.value("SELECT 1"), "1");
    drop(last);
    eventually("everything is at rest", SOON, || {
        let status = howdah.status();
        let pools = status["pools"].as_array().unwrap();
        status["clients"] == 0
            && pools.iter().all(|pool| pool["open"] == pool["idle"] && pool["open"].as_u64() <= Some(2))
    });
}
