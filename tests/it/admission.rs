//! Who gets a server when there are not enough: the reserve, the bound on waiters, the notice, and users who share a
//! budget.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::wire::{self, Client, Message};
use crate::support::{Howdah, SOON, Signal, Tenant, connection_count, eventually, shared};

const QUEUED: &str = "No server connection available in postgres backend, client being queued";

fn pool(howdah: &Howdah, key: &str) -> u64 {
    howdah.status()["pools"].as_array().unwrap().iter().map(|pool| pool[key].as_u64().unwrap()).sum()
}

/// Clients that keep a server each.
fn holders(howdah: &Howdah, tenant: &Tenant, count: usize) -> Vec<Client> {
    let hold = |_| {
        let mut client = howdah.login(tenant);
        assert_eq!(client.query_short("BEGIN"), ["C:BEGIN", "Z:T"]);
        client
    };
    (0..count).map(hold).collect()
}

#[test]
fn the_reserve_is_opened_for_whoever_has_waited_long_enough_and_closed_when_nobody_waits() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[pool]\nsize = 1\nreserve_size = 1\nreserve_timeout = \"400ms\"\n");
    let mut holding = holders(&howdah, &tenant, 1);
    let begun = Instant::now();
    let mut reserve = holders(&howdah, &tenant, 1);
    assert!(begun.elapsed() >= Duration::from_millis(390), "{:?}", begun.elapsed());
    assert_eq!((connection_count(shared().primary(), &tenant.name), pool(&howdah, "open")), (2, 2));
    // there is no more of it
    let mut third = howdah.login(&tenant);
    third.send(&wire::query("SELECT 'third'"));
    third.expect_silence(Duration::from_millis(900));
    assert_eq!(pool(&howdah, "open"), 2);
    // whoever waits goes on with it; then it goes
    reserve[0].query("COMMIT");
    assert_eq!(wire::first_column(&third.read_until_ready()), ["third"]);
    eventually("the reserve is closed", SOON, || connection_count(shared().primary(), &tenant.name) == 1);
    assert_eq!(pool(&howdah, "open"), 1);
    holding[0].query("COMMIT");
    assert_eq!(third.value("SELECT 'size'"), "size");
    assert_eq!(pool(&howdah, "open"), 1);
}

#[test]
fn a_reserve_without_a_timeout_is_none() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared(
        "[pool]\nsize = 1\nreserve_size = 5\nreserve_timeout = \"0\"\n\n[timeouts]\nquery_wait = \"300ms\"\n",
    );
    let _holding = holders(&howdah, &tenant, 1);
    let error = wire::error(&howdah.login(&tenant).query("SELECT 1"));
    assert_eq!((error.code.as_str(), error.message.as_str()), ("53300", "query_wait_timeout"));
}

#[test]
fn the_smallest_size_is_kept_open_while_the_user_has_clients() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[pool]\nsize = 5\nmin_size = 3\n\n[timeouts]\nserver_idle = \"100ms\"\n");
    let mut client = howdah.login(&tenant);
    eventually("three are open", SOON, || pool(&howdah, "idle") == 3);
    // more than that are closed when they idle
    holders(&howdah, &tenant, 5).iter_mut().for_each(|holder| drop(holder.query("COMMIT")));
    assert_eq!(pool(&howdah, "open"), 5);
    eventually("three are left", SOON, || pool(&howdah, "open") == 3);
    // one that is killed is replaced
    let sql = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}' AND backend_type = 'client backend'",
        tenant.name
    );
    shared().primary().sql(&sql).unwrap();
    eventually("three again", SOON, || {
        pool(&howdah, "idle") == 3 && connection_count(shared().primary(), &tenant.name) == 3
    });
    assert_eq!(client.value("SELECT 1"), "1");
    drop(client);
    eventually("nobody needs them", SOON, || connection_count(shared().primary(), &tenant.name) == 0);
}

#[test]
fn no_more_clients_wait_than_may_and_the_next_is_refused_at_once() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[pool]\nsize = 2\nmax_waiting = 2\n");
    let mut holding = holders(&howdah, &tenant, 2);
    let mut waiting: Vec<_> = (0..2).map(|_| howdah.login(&tenant)).collect();
    waiting.iter_mut().for_each(|client| client.send(&wire::query("SELECT 'served'")));
    eventually("two wait", SOON, || pool(&howdah, "waiting") == 2);
    let mut refused = howdah.login(&tenant);
    for _ in 0..3 {
        let begun = Instant::now();
        let answer = refused.query("SELECT 1");
        let error = wire::error(&answer);
        let said = (error.severity.as_str(), error.code.as_str(), error.message.as_str());
        assert_eq!(said, ("ERROR", "53300", "too many clients wait for a server connection"));
        assert!(error.hint.contains("\"max_waiting\""), "{}", error.hint);
        assert_eq!(answer.last().unwrap().short(), "Z:I");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    // the extended protocol: everything up to the Sync is skipped
    let batch = [wire::parse("", "SELECT 1", &[]), wire::bind("", "", &[]), wire::execute("", 0), wire::sync()];
    refused.send(&batch.concat());
    assert_eq!(wire::short(&refused.read_until_ready()), ["E:53300", "Z:I"]);
    holding.iter_mut().for_each(|client| drop(client.query("COMMIT")));
    for client in &mut waiting {
        assert_eq!(wire::first_column(&client.read_until_ready()), ["served"]);
    }
    assert_eq!(refused.value("SELECT 'later'"), "later");
}

fn notices(messages: &[Message]) -> Vec<String> {
    messages.iter().filter(|message| message.tag == b'N').map(|message| message.fields().message).collect()
}

#[test]
fn a_client_that_waits_is_told_so_once_and_its_answer_follows() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[pool]\nsize = 1\n\n[timeouts]\nquery_wait_notify = \"200ms\"\n");
    let mut holding = holders(&howdah, &tenant, 1);
    let mut waiting = howdah.login(&tenant);
    for _ in 0..2 {
        waiting.send(&wire::query("SELECT 'served'"));
        let notice = waiting.expect();
        let fields = notice.fields();
        assert_eq!((notice.tag, fields.severity.as_str(), fields.code.as_str()), (b'N', "NOTICE", "00000"));
        assert_eq!(fields.message, QUEUED);
        waiting.expect_silence(Duration::from_millis(700));
        holding[0].query("COMMIT");
        assert_eq!(wire::short(&waiting.read_until_ready()), ["T", "D", "C:SELECT 1", "Z:I"]);
        holding[0].query("BEGIN");
    }
    // a batch, and one who is cancelled meanwhile
    let batch = [wire::parse("", "SELECT 1", &[]), wire::bind("", "", &[]), wire::execute("", 0), wire::sync()];
    waiting.send(&batch.concat());
    assert_eq!(waiting.expect().tag, b'N');
    howdah.wire().send(&wire::cancel_request(&waiting.key));
    assert_eq!(wire::short(&waiting.read_until_ready()), ["E:57014", "Z:I"]);
    // nobody who does not wait that long is told
    holding[0].query("COMMIT");
    assert_eq!(notices(&waiting.query("SELECT 1")), Vec::<String>::new());
}

#[test]
fn a_client_that_has_not_read_its_last_answer_reads_the_notice_behind_it() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[pool]\nsize = 1\n\n[timeouts]\nquery_wait_notify = \"100ms\"\n");
    let mut slow = howdah.login(&tenant);
    slow.send(&wire::query("SELECT repeat('x', 1000) FROM generate_series(1, 20000)"));
    // the answer does not fit into the sockets; what is left of it at its end may be in howdah
    let mut read = 0;
    let mut thief = howdah.login(&tenant);
    thief.send(&wire::query("BEGIN"));
    let mut took = false;
    slow.send(&wire::query("SELECT 'next'"));
    let mut tags = Vec::new();
    loop {
        let message = slow.expect();
        match message.tag {
            b'D' if message.body.len() > 900 => read += 1,
            b'D' => {
                assert_eq!(message.columns(), [Some("next".to_owned())]);
                break;
            }
            tag => tags.push(char::from(tag)),
        }
        if tags.last() == Some(&'N') && !took {
            took = true;
            assert_eq!(message.fields().message, QUEUED);
            thief.read_until_ready();
            thief.query("COMMIT");
        }
    }
    assert_eq!(read, 20_000);
    let expected = if took { "TCZNT" } else { "TCZT" };
    assert_eq!(tags.iter().collect::<String>(), expected);
}

/// How many statements the clients of each user had answered, who all share a database's budget. `clients` is how many each
/// user has.
fn shares(budget: u32, clients: &[usize], turn: &str, how_long: Duration) -> Vec<u64> {
    let tenant = Tenant::shared();
    let mut toml = format!(
        "[auth]\nmethod = \"trust\"\n\n[pool]\nsize = {budget}\nmax_server_connections = {budget}\n\n\
         [timeouts]\nquery_wait = \"20s\"\n\n"
    );
    let users: Vec<_> = (0..clients.len()).map(|n| format!("{}_{n}", tenant.name)).collect();
    for user in &users {
        let sql = format!("CREATE ROLE {user} LOGIN PASSWORD '{}'", tenant.password);
        shared().primary().sql(&sql).unwrap();
        write!(toml, "[users.{user}]\npassword = \"{}\"\n\n", tenant.password).unwrap();
    }
    let howdah = Howdah::shared(&toml);
    let begin = Instant::now() + Duration::from_secs(1);
    thread::scope(|scope| {
        let mut counting = Vec::new();
        for (user, count) in users.iter().zip(clients) {
            let of_user: Vec<_> = (0..*count)
                .map(|_| {
                    let (howdah, tenant) = (&howdah, &tenant);
                    scope.spawn(move || {
                        let mut client = howdah.wire();
                        client.login(user, "", &tenant.name);
                        client.read_timeout(SOON);
                        let mut turns = 0;
                        while begin.elapsed() < how_long {
                            client.value(turn);
                            turns += u64::from(Instant::now() > begin);
                        }
                        turns
                    })
                })
                .collect();
            counting.push(of_user);
        }
        counting.into_iter().map(|of_user| of_user.into_iter().map(|one| one.join().unwrap()).sum()).collect()
    })
}

#[test]
fn users_with_equal_load_who_share_a_budget_get_equal_shares_and_use_all_of_it() {
    let turn = "SELECT 1 FROM pg_sleep(0.003)";
    let three = shares(4, &[8, 8, 8], turn, Duration::from_secs(4));
    let one = shares(4, &[24], turn, Duration::from_secs(1));
    println!("three users under a budget of 4 servers: {three:?} statements in 4 s; one user alone: {one:?} in 1 s");
    let (most, least) = (three.iter().max().unwrap(), three.iter().min().unwrap());
    assert!(*most * 2 <= *least * 3, "{three:?}");
    // passing the servers around takes a small part of the time; without turns it takes most of it
    assert!(three.iter().sum::<u64>() * 5 > one[0] * 4, "{three:?} in 4 s, {one:?} in 1 s");
}

#[test]
fn a_user_with_one_client_gets_a_server_beside_one_with_many() {
    let shares = shares(4, &[1, 24], "SELECT 1 FROM pg_sleep(0.003)", Duration::from_secs(2));
    println!("1 client and 24 clients under a budget of 4 servers: {shares:?} statements");
    assert!(shares[0] * 10 > shares[1], "{shares:?}");
}

/// A frozen process goes on when this is dropped.
struct Frozen(rustix::process::Pid);

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, Signal::CONT);
    }
}

#[test]
fn the_place_of_a_server_that_does_not_even_hang_up_is_given_on_after_a_while() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[pool]\nsize = 1\n\n[timeouts]\ncancel_wait = \"300ms\"\n");
    let mut client = howdah.login(&tenant);
    client.query("BEGIN");
    let pid = client.value("SELECT pg_backend_pid()").parse().unwrap();
    let frozen = Frozen(rustix::process::Pid::from_raw(pid).unwrap());
    rustix::process::kill_process(frozen.0, Signal::STOP).unwrap();
    let mut next = howdah.login(&tenant);
    next.send(&wire::query("SELECT 'served'"));
    client.cut();
    // its place is kept for as long as it may yet hang up: the limit is PostgreSQL's too
    next.expect_silence(Duration::from_secs(3));
    assert_eq!(pool(&howdah, "open"), 1);
    next.read_timeout(SOON);
    assert_eq!(wire::first_column(&next.read_until_ready()), ["served"]);
    drop(frozen);
    eventually("it has gone", SOON, || connection_count(shared().primary(), &tenant.name) == 1);
}
