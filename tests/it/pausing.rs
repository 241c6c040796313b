//! Nothing begins at a held primary, and everything goes on where the next one is: the data path alone, under a board that the
//! test publishes.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use howdah::catalog::verifiers::Lookup;
use howdah::catalog::{HiddenCatalog, Verifiers};
use howdah::net::dial::Dialer;
use howdah::net::listen::Beside;
use howdah::net::listen::handed::Handed;
use howdah::pg::Lsn;
use howdah::proxy::accept::Door;
use howdah::proxy::pause;
use howdah::proxy::shared::{Running, Shared};
use howdah::proxy::worker::Worker;
use howdah::topology::{Appointment, Board, ClusterView, Epoch, NodeView, Role, Topology};
use tokio::sync::oneshot;

use crate::standbys::watched;
use crate::support::wire::{self, Client};
use crate::support::{Node, SOON, Tenant, builder, config, eventually, free_port, poll, shared};

/// howdah's data path on threads of this process.
struct Inside {
    board: Arc<Board>,
    shared: Arc<Shared>,
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Inside {
    fn before(nodes: &[Node], extra: &str) -> Self {
        let port = free_port().unwrap();
        let toml = config(nodes, port, free_port().unwrap(), extra);
        let config = howdah::config::parse(std::path::Path::new("howdah.toml"), &toml).unwrap();
        let cluster = watched(&nodes.iter().collect::<Vec<_>>(), Duration::from_millis(100), 0);
        let board = Arc::new(Board::new());
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let inner = Arc::clone(&board);
        let thread = thread::spawn(move || {
            let options = tokio::runtime::LocalOptions::default();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(options).unwrap();
            runtime.block_on(async {
                let dialer = Dialer::new(&config.network);
                let listener = config.listeners[0].clone();
                let running = Running::new(config, &dialer).unwrap();
                let catalog = Verifiers::start(vec![cluster.clone()], Lookup::default(), Arc::clone(&inner));
                let hidden = HiddenCatalog::start(vec![cluster], Arc::clone(&inner));
                let shared = Arc::new(Shared::new(running, inner, catalog, hidden, 2));
                tokio::task::spawn_local(pause::watch(Arc::clone(&shared)));
                let workers = (0..2).map(|id| Worker::spawn(id, Arc::clone(&shared)).unwrap());
                let (gates, threads): (Vec<_>, Vec<_>) = workers.unzip();
                let gates = Rc::new(gates);
                let door = Door::open(&listener, Arc::default(), &mut Handed::at_start().unwrap(), Beside::Nobody)
                    .await
                    .unwrap();
                tokio::task::spawn_local(door.serve(Arc::clone(&shared), Rc::clone(&gates)));
                tell.send(shared).unwrap();
                let _ = stopped.await;
                gates.iter().for_each(howdah::proxy::worker::WorkerGate::stop);
                for thread in threads {
                    while !thread.is_finished() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            });
        });
        Self { board, shared: told.recv().unwrap(), port, stop: Some(stop), thread: Some(thread) }
    }

    /// Says who is what. The standbys are as fresh as can be.
    fn publish(&self, nodes: &[Node], primary: Option<&str>, epoch: u64, held: Option<bool>) {
        let appointment = held.map(|held| Appointment { epoch: Epoch(epoch), primary: primary.map(Into::into), held });
        let view = |node: &Node| {
            let role = if primary == Some(node.name()) { Role::Primary } else { Role::Standby };
            let mut view = NodeView::unknown(node.name().into());
            (view.role, view.healthy, view.trouble) = (Some(role), true, None);
            view.unfit = (role == Role::Primary).then_some(howdah::topology::Unfit::Primary);
            (view.replayed_lsn, view.sampled) = (Some(Lsn(u64::MAX)), u64::MAX);
            view
        };
        let view = ClusterView {
            epoch: Epoch(epoch),
            primary: primary.map(Into::into),
            nodes: nodes.iter().map(view).collect(),
            appointment,
            ..Default::default()
        };
        self.board.publish(Topology { clusters: BTreeMap::from([("main".into(), Arc::new(view))]) });
    }

    fn open(&self) -> Option<u64> {
        *self.board.cluster("main").open().borrow()
    }

    #[track_caller]
    fn until_open(&self, open: Option<u64>) {
        let what = format!("{open:?} are open");
        eventually(&what, SOON, || self.open() == open);
    }

    fn login(&self, tenant: &Tenant) -> Client {
        let mut client = Client::connect(("127.0.0.1", self.port)).unwrap();
        client.login(&tenant.name, &tenant.password, &tenant.name);
        client
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}

/// The shared primary alone, and somebody who has a database there.
fn alone(extra: &str) -> (Inside, Tenant) {
    let tenant = Tenant::shared();
    let inside = Inside::before(shared().nodes(), extra);
    inside.publish(shared().nodes(), Some("a"), 1, Some(false));
    (inside, tenant)
}

/// How many rows there are, asked of the node itself.
fn rows(node: &Node, tenant: &Tenant) -> u64 {
    node.sql_in(&tenant.name, "SELECT count(*) FROM t").unwrap().cell().unwrap().parse().unwrap()
}

/// Writers that go on until they are told to stop; the answer is how many of their writes were confirmed.
struct Writers {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    fn start(inside: &Inside, tenant: &Tenant, count: usize) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..count).map(|which| {
            let mut client = inside.login(tenant);
            client.query(&format!("SET application_name = 'writer {which}'"));
            client.send(&[wire::parse("plus", "SELECT 1 + $1::int", &[]), wire::sync()].concat());
            client.read_until_ready();
            let (stop, written) = (Arc::clone(&stop), Arc::clone(&written));
            thread::spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    if which % 2 == 0 {
                        assert_eq!(client.query_short("INSERT INTO t VALUES (1)"), ["C:INSERT 0 1", "Z:I"]);
                    } else {
                        assert_eq!(client.query_short("BEGIN"), ["C:BEGIN", "Z:T"]);
                        assert_eq!(client.query_short("INSERT INTO t VALUES (1)"), ["C:INSERT 0 1", "Z:T"]);
                        client
                            .send(&[wire::bind("", "plus", &[Some("1")]), wire::execute("", 0), wire::sync()].concat());
                        assert_eq!(wire::short(&client.read_until_ready()), ["2", "D", "C:SELECT 1", "Z:T"]);
                        assert_eq!(client.value("SHOW application_name"), format!("writer {which}"));
                        assert_eq!(client.query_short("COMMIT"), ["C:COMMIT", "Z:I"]);
                    }
                    written.fetch_add(1, Ordering::AcqRel);
                }
            })
        });
        let threads = threads.collect();
        Self { stop, written, threads }
    }

    fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    #[track_caller]
    fn until_more(&self) {
        let before = self.written();
        eventually("writers write", SOON, || self.written() > before + 50);
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Release);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.written.load(Ordering::Acquire)
    }
}

#[test]
fn once_nothing_is_open_at_a_held_primary_nothing_begins_there_until_the_hold_is_over() {
    let (inside, tenant) = alone("[pool]\nsize = 4");
    inside.login(&tenant).query("CREATE TABLE t (i int)");
    let writers = Writers::start(&inside, &tenant, 12);
    let mut another = inside.login(&tenant);
    for _ in 0..5 {
        writers.until_more();
        inside.publish(shared().nodes(), Some("a"), 1, Some(true));
        inside.until_open(Some(0));
        let before = rows(shared().primary(), &tenant);
        another.send(&wire::query("SELECT 1"));
        another.expect_silence(Duration::from_millis(150));
        assert_eq!((rows(shared().primary(), &tenant), inside.open()), (before, Some(0)));
        inside.publish(shared().nodes(), Some("a"), 1, Some(false));
        another.read_until_ready();
        inside.until_open(None);
    }
    // the control: with its gates open, this test would see something begin
    writers.until_more();
    inside.publish(shared().nodes(), Some("a"), 1, Some(true));
    inside.until_open(Some(0));
    let before = rows(shared().primary(), &tenant);
    inside.shared.pools.go_on(&"main".into());
    eventually("something begins", SOON, || rows(shared().primary(), &tenant) > before);
    inside.publish(shared().nodes(), Some("a"), 1, Some(false));
    assert_eq!(writers.end(), rows(shared().primary(), &tenant));
}

#[test]
fn what_is_open_at_a_held_primary_is_counted_until_it_ends() {
    let (inside, tenant) = alone("");
    let (mut block, mut pinned) = (inside.login(&tenant), inside.login(&tenant));
    block.query("BEGIN");
    pinned.query("CREATE TEMPORARY TABLE x (i int)");
    let mut pipelined = inside.login(&tenant);
    pipelined.send(&wire::query("SELECT pg_sleep(0.4)"));
    pipelined.expect_silence(Duration::from_millis(100));
    pipelined.send(&wire::query("SELECT 2"));
    // what only has prepared something is not at work, although its batch stands open
    let mut prepares = inside.login(&tenant);
    prepares.send(&[wire::parse("s", "SELECT 5", &[]), wire::describe(b'S', "s"), wire::flush()].concat());
    assert_eq!(wire::short(&prepares.read_until(b'T')), ["1", "t", "T"]);
    inside.publish(shared().nodes(), Some("a"), 1, Some(true));
    inside.until_open(Some(3));
    // what has begun goes on, and what is asked behind it may come along
    assert_eq!(block.query_short("SELECT 1"), ["T", "D", "C:SELECT 1", "Z:T"]);
    pipelined.read_until_ready();
    inside.until_open(Some(2));
    assert_eq!(block.query_short("COMMIT"), ["C:COMMIT", "Z:I"]);
    inside.until_open(Some(1));
    // a first login of somebody else waits as well
    let (port, other) = (inside.port, Tenant::shared());
    let waiting = thread::spawn(move || {
        let mut client = Client::connect(("127.0.0.1", port)).unwrap();
        client.login(&other.name, &other.password, &other.name);
        client.value("SELECT 1")
    });
    assert_eq!(pinned.query_short("DROP TABLE x"), ["C:DROP TABLE", "Z:I"]);
    inside.until_open(Some(0));
    block.send(&wire::query("SELECT 1"));
    block.expect_silence(Duration::from_millis(100));
    assert!(!waiting.is_finished());
    inside.publish(shared().nodes(), Some("a"), 1, Some(false));
    assert_eq!(wire::short(&block.read_until_ready()), ["T", "D", "C:SELECT 1", "Z:I"]);
    assert_eq!(waiting.join().unwrap(), "1");
    prepares.send(&[wire::bind("", "s", &[]), wire::execute("", 0), wire::sync()].concat());
    assert_eq!(wire::short(&prepares.read_until_ready()), ["2", "D", "C:SELECT 1", "Z:I"]);
}

#[test]
fn a_block_that_outlasts_a_hold_ends_where_it_began() {
    let (inside, tenant) = alone("");
    let mut block = inside.login(&tenant);
    block.query("CREATE TABLE t (i int)");
    block.query("BEGIN; INSERT INTO t VALUES (1)");
    let mut waits = inside.login(&tenant);
    inside.publish(shared().nodes(), Some("a"), 1, Some(true));
    inside.until_open(Some(1));
    waits.send(&wire::query("INSERT INTO t VALUES (2)"));
    waits.expect_silence(Duration::from_millis(100));
    inside.publish(shared().nodes(), Some("a"), 1, Some(false));
    assert_eq!(wire::short(&waits.read_until_ready()), ["C:INSERT 0 1", "Z:I"]);
    assert_eq!(block.query_short("COMMIT"), ["C:COMMIT", "Z:I"]);
    assert_eq!(rows(shared().primary(), &tenant), 2);
}

#[test]
fn a_held_session_is_served_by_nobody_else_and_can_be_cancelled_or_told_no() {
    let (inside, tenant) = alone("[timeouts]\nquery_wait = \"1s\"");
    let mut client = inside.login(&tenant);
    client.query("SELECT 1");
    inside.publish(shared().nodes(), Some("a"), 1, Some(true));
    inside.until_open(Some(0));
    client.send(&wire::query("SELECT 1"));
    client.expect_silence(Duration::from_millis(100));
    let key = client.key.clone();
    let mut canceller = Client::connect(("127.0.0.1", inside.port)).unwrap();
    canceller.send(&wire::cancel_request(&key));
    assert_eq!(wire::short(&client.read_until_ready()), ["E:57014", "Z:I"]);
    assert_eq!(client.query_short("SELECT 1"), ["E:57P03", "Z:I"]);
    inside.publish(shared().nodes(), Some("a"), 1, Some(false));
    assert_eq!(client.value("SELECT 1"), "1");
}

/// The server processes of a tenant's clients, as the node shows them.
fn backends(node: &Node, tenant: &Tenant) -> Vec<String> {
    let sql = format!("SELECT pid FROM pg_stat_activity WHERE usename = '{}' ORDER BY 1", tenant.name);
    node.sql(&sql).unwrap().column().iter().map(ToString::to_string).collect()
}

#[test]
fn those_who_wait_go_on_at_the_next_primary_at_once_and_no_connection_of_before_is_used_there() {
    let cluster = builder().standby("b").start().unwrap();
    cluster.wait_streaming(SOON).unwrap();
    let (nodes, a, b) = (cluster.nodes(), cluster.primary(), cluster.find("b").unwrap());
    let tenant = Tenant::on(a);
    let inside = Inside::before(nodes, "[pool]\nsize = 4");
    inside.publish(nodes, Some("a"), 1, Some(false));
    inside.login(&tenant).query("CREATE TABLE t (i int)");
    eventually("b has the table", SOON, || b.sql_in(&tenant.name, "SELECT FROM t").is_ok());
    let mut readers: Vec<_> = (0..3).map(|_| inside.login(&tenant)).collect();
    for reader in &mut readers {
        reader.send(&wire::query("SELECT pg_sleep(0.2) /* read */"));
    }
    readers.iter_mut().for_each(|reader| drop(reader.read_until_ready()));
    let standbys = backends(b, &tenant);
    assert!(!standbys.is_empty(), "reads go to the standby");
    let writers = Writers::start(&inside, &tenant, 64);
    writers.until_more();

    inside.publish(nodes, Some("a"), 1, Some(true));
    inside.until_open(Some(0));
    for reader in &mut readers {
        assert_eq!(reader.value("SELECT 1"), "1"); // reads go on meanwhile
    }
    let before = rows(a, &tenant);
    eventually("b has everything", SOON, || rows(b, &tenant) == before);
    b.promote().unwrap();
    inside.publish(nodes, None, 1, None);
    eventually("the hold is over", SOON, || inside.open().is_none());
    let (written, moved) = (writers.written(), Instant::now());
    inside.publish(nodes, Some("b"), 2, Some(false));
    let more = poll(SOON, || (writers.written() > written).then(|| moved.elapsed()));
    println!("the first write at the next primary came after {more:?}");
    writers.until_more();
    assert!(backends(b, &tenant).iter().all(|pid| !standbys.contains(pid)), "none of before is used");
    let written = writers.end();
    // the old one is alive and would have taken writes: nobody has sent it any
    assert_eq!((rows(a, &tenant), rows(b, &tenant)), (before, written));
}

#[test]
fn a_pause_and_a_hold_do_not_open_each_others_gate() {
    let (inside, tenant) = alone("[pool]\nsize = 2\n");
    let orders = &inside.shared.orders;
    let mut client = inside.login(&tenant);
    client.query("SELECT 1");
    let publish = |held| inside.publish(shared().nodes(), Some("a"), 1, Some(held));
    let waits = |client: &mut Client| {
        client.send(&wire::query("SELECT 1"));
        client.expect_silence(Duration::from_millis(200));
    };
    // either may come first, and either may go first
    for pause_first in [true, false] {
        for pause_last in [true, false] {
            let pause = || orders.pause_now(&inside.shared).unwrap();
            if pause_first {
                pause();
            }
            publish(true);
            inside.until_open(Some(0));
            if !pause_first {
                pause();
            }
            waits(&mut client);
            let resume = || orders.resume(&inside.shared, None).unwrap();
            if pause_last {
                publish(false);
                inside.until_open(None);
            } else {
                resume();
            }
            client.expect_silence(Duration::from_millis(200));
            if pause_last {
                resume();
            } else {
                publish(false);
            }
            assert_eq!(wire::first_column(&client.read_until_ready()), ["1"], "{pause_first} {pause_last}");
            inside.until_open(None);
        }
    }
}
