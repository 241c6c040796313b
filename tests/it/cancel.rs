//! A cancel hits its owner's statement or nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::wire::{self, Client};
use crate::support::{Howdah, SOON, Tenant, eventually, rss_bytes, shared};

fn served(extra: &str) -> (Howdah, Tenant) {
    let tenant = Tenant::shared();
    (Howdah::shared(&format!("[limits]\nworkers = 2\n\n[pool]\nsize = 2\n\n{extra}")), tenant)
}

fn cancel(port: u16, key: &(u32, Vec<u8>)) {
    let mut messenger = Client::connect(("127.0.0.1", port)).unwrap();
    messenger.send(&wire::cancel_request(key));
    assert!(messenger.read_until_closed().is_empty());
}

fn is_active(pid: &str) -> bool {
    let sql = format!("SELECT state = 'active' FROM pg_stat_activity WHERE pid = {pid}");
    shared().primary().sql(&sql).unwrap().cell() == Some("t")
}

#[test]
fn a_running_statement_is_cancelled_by_its_clients_own_key() {
    let tenant = Tenant::shared();
    // one server, or the next statement would take another while the cancel is not over yet
    let howdah = Howdah::shared("[pool]\nsize = 1\n");
    let mut client = howdah.login(&tenant);
    let pid = client.value("SELECT pg_backend_pid()");
    for _ in 0..3 {
        client.send(&wire::query("SELECT 1 FROM pg_sleep(600)"));
        eventually("it runs", SOON, || is_active(&pid));
        cancel(howdah.port(), &client.key);
        let messages = client.read_until_ready();
        assert_eq!(wire::short(&messages), ["T", "E:57014", "Z:I"]);
        assert!(!wire::error(&messages).routine.is_empty(), "PostgreSQL's own");
        assert_eq!(client.value("SELECT pg_backend_pid()"), pid);
    }
}

#[test]
fn a_wait_is_cancelled_and_an_idle_client_is_not() {
    let (howdah, tenant) = served("");
    let mut holders = [howdah.login(&tenant), howdah.login(&tenant)];
    holders.iter_mut().for_each(|client| drop(client.query("BEGIN")));
    let mut waiter = howdah.login(&tenant);
    waiter.send(&wire::query("SELECT 1"));
    eventually("it waits", SOON, || howdah.status()["pools"][0]["waiting"] == 1);
    cancel(howdah.port(), &waiter.key);
    assert_eq!(wire::short(&waiter.read_until_ready()), ["E:57014", "Z:I"]);
    assert_eq!(howdah.status()["pools"][0]["waiting"], 0);
    waiter.send(&wire::parse("", "SELECT 1", &[]));
    waiter.send(&[wire::bind("", "", &[]), wire::execute("", 0), wire::sync()].concat());
    eventually("it waits", SOON, || howdah.status()["pools"][0]["waiting"] == 1);
    cancel(howdah.port(), &waiter.key);
    assert_eq!(wire::short(&waiter.read_until_ready()), ["E:57014", "Z:I"]);
    // idle, in a block and outside
    cancel(howdah.port(), &waiter.key);
    cancel(howdah.port(), &holders[0].key);
    holders.iter_mut().for_each(|client| assert_eq!(client.value("SELECT 1"), "1"));
    holders.iter_mut().for_each(|client| drop(client.query("COMMIT")));
    assert_eq!(waiter.value("SELECT 1"), "1");
}

#[test]
fn a_wrong_key_does_nothing() {
    let (howdah, tenant) = served("");
    let mut client = howdah.login(&tenant);
    client.send(&wire::query("SELECT 'done' FROM pg_sleep(0.5)"));
    let (pid, mut secret) = client.key.clone();
    secret[3] ^= 1;
    cancel(howdah.port(), &(pid, secret.clone()));
    for malformed in [&secret[..3], &[]] {
        let mut messenger = howdah.wire();
        messenger.send(&wire::cancel_request(&(pid, malformed.to_vec())));
        messenger.read_until_closed();
    }
    cancel(howdah.port(), &(pid ^ 1, client.key.1.clone()));
    assert_eq!(wire::first_column(&client.read_until_ready()), ["done"]);
}

#[test]
fn a_storm_of_cancels_never_hits_a_client_that_did_not_ask() {
    let (howdah, tenant) = served("");
    let started = Instant::now();
    let (answers, cancelled, asked, stop) =
        (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let clients: Vec<_> = (0..16).map(|_| howdah.login(&tenant)).collect();
    let keys: Vec<_> = clients.iter().take(8).map(|client| client.key.clone()).collect();
    let port = howdah.port();
    thread::scope(|scope| {
        let mut running = Vec::new();
        for (at, mut client) in clients.into_iter().enumerate() {
            let (answers, cancelled, asked) = (&answers, &cancelled, &asked);
            // a busy machine takes longer to make a storm of it
            let goes_on = move || {
                let few = |count: &AtomicU64, enough| count.load(Ordering::Relaxed) <= enough;
                let calm = few(answers, 500) || few(asked, 500) || few(cancelled, 5);
                started.elapsed() < Duration::from_secs(5) || calm && started.elapsed() < Duration::from_secs(60)
            };
            running.push(scope.spawn(move || {
                let mut n = 0;
                while goes_on() {
                    n += 1;
                    let tag = format!("{at}-{n}");
                    let messages = client.query(&format!("SELECT '{tag}' FROM pg_sleep(0.00{})", n % 4));
                    match messages.iter().find(|message| message.tag == b'E') {
                        None => assert_eq!(wire::first_column(&messages), [tag.as_str()]),
                        Some(error) => {
                            assert_eq!(error.fields().code, "57014");
                            assert!(at < 8, "client {at} never asked for it");
                            cancelled.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        for chunk in keys.chunks(4) {
            let (stop, asked) = (&stop, &asked);
            scope.spawn(move || {
                for key in chunk.iter().cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
                    cancel(port, key);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let ends: Vec<_> = running.into_iter().map(thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Relaxed);
        ends.into_iter().for_each(|end| end.unwrap());
    });
    let (answers, cancelled, asked) = (answers.into_inner(), cancelled.into_inner(), asked.into_inner());
    println!("{answers} answers, {asked} cancels, {cancelled} cancelled");
    assert!(answers > 500 && asked > 500 && cancelled > 5, "{answers} answers, {asked} cancels, {cancelled} cancelled");
}

#[test]
fn a_flood_of_cancels_costs_neither_memory_nor_those_who_work() {
    let (howdah, tenant) = served("");
    let (port, before) = (howdah.port(), rss_bytes(howdah.pid()));
    let mut worker = howdah.login(&tenant);
    let owners: Vec<_> = (0..40).map(|_| howdah.login(&tenant)).collect();
    let flooding = AtomicU64::new(40);
    thread::scope(|scope| {
        for key in owners.iter().map(|owner| owner.key.clone()) {
            let flooding = &flooding;
            scope.spawn(move || {
                let (wrong, nobody) = ((key.0, vec![0; 4]), (key.0 ^ 1, key.1.clone()));
                for n in 0..150 {
                    // the flood does not wait for an end, and hangs up at any stage
                    let Ok(mut messenger) = Client::connect(("127.0.0.1", port)) else { continue };
                    let request = wire::cancel_request([&key, &wrong, &nobody][n % 3]);
                    let _ = messenger.try_send(&request[..request.len() - n % 2]);
                }
                flooding.fetch_sub(1, Ordering::Relaxed);
            });
        }
        let mut answers = 0;
        while flooding.load(Ordering::Relaxed) > 0 {
            let asked = Instant::now();
            assert_eq!(worker.value("SELECT 'mine'"), "mine");
            assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
            answers += 1;
        }
        assert!(answers > 10, "{answers}");
    });
    eventually("nobody else is left", SOON, || howdah.status()["clients"] == 41);
    assert!(rss_bytes(howdah.pid()) < before + 16_000_000);
    for mut owner in owners {
        assert_eq!(owner.value("SELECT 1"), "1");
    }
}

#[test]
fn what_a_vanished_client_left_running_is_cancelled_and_its_server_kept() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[pool]\nsize = 1\n");
    let requests: [Vec<u8>; 4] = [
        wire::query("SELECT pg_sleep(600)"),
        wire::query("BEGIN; SELECT pg_sleep(600)"),
        [wire::parse("", "SELECT pg_sleep(600)", &[]), wire::bind("", "", &[]), wire::execute("", 0), wire::sync()]
            .concat(),
        [wire::parse("", "SELECT pg_sleep(600)", &[]), wire::bind("", "", &[]), wire::execute("", 0), wire::flush()]
            .concat(),
    ];
    for request in requests {
        let mut client = howdah.login(&tenant);
        let pid = client.value("SELECT pg_backend_pid()");
        client.send(&request);
        eventually("it runs", SOON, || is_active(&pid));
        client.cut();
        eventually("it is cancelled", SOON, || !is_active(&pid));
        assert_eq!(howdah.login(&tenant).value("SELECT pg_backend_pid()"), pid);
    }
}

#[test]
fn a_server_whose_pipelined_statements_outlive_their_client_is_not_left_to_run_them() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[pool]\nsize = 1\n\n[timeouts]\ncancel_wait = \"2s\"\n");
    let mut client = howdah.login(&tenant);
    let pid = client.value("SELECT pg_backend_pid()");
    client.send(&wire::query("SELECT pg_sleep(600)").repeat(6));
    eventually("they run", SOON, || is_active(&pid));
    client.cut();
    eventually("none is left", SOON, || !is_active(&pid));
    assert_eq!(howdah.login(&tenant).value("SELECT 1"), "1");
}
