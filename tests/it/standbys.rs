//! What howdah knows of a primary and its standbys, and how soon: the watcher alone, without the daemon.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use howdah::catalog::{Monitor, WatchedCluster, WatchedNode};
use howdah::cluster::{Watch, watch};
use howdah::config::{ChannelBinding, Network, Secret};
use howdah::net::dial::{Dialer, Target};
use howdah::net::way::Way;
use howdah::pg::Lsn;
use howdah::topology::{Board, ClusterBoard, ClusterView, NodeView, Role, Stamp, Unfit};
use rustix::process::{Pid, kill_process};
use tokio::sync::oneshot;

use crate::support::wire::Client;
use crate::support::{Cluster, Howdah, Node, SOON, Signal, StopMode, builder, eventually, poll, shared};

/// What a role change may take once it can be seen, and what losing a dead standby may take.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Some nodes and who watches them, on a thread of its own.
struct Watched {
    board: Arc<Board>,
    main: Arc<ClusterBoard>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watched {
    fn new(nodes: &[&Node]) -> Self {
        Self::with(nodes, Duration::from_millis(100), 0)
    }

    fn with(nodes: &[&Node], lag_interval: Duration, max_lag: u64) -> Self {
        Self::start(watched(nodes, lag_interval, max_lag))
    }

    fn start(cluster: WatchedCluster) -> Self {
        let board = Arc::new(Board::new());
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&board);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let watch: Watch = watch(vec![cluster], shared);
                let _ = stopped.await;
                watch.stop().await;
            });
        });
        let main = board.cluster("main");
        Self { board, main, stop: Some(stop), thread: Some(thread) }
    }

    fn view(&self) -> ClusterView {
        ClusterView::clone(&self.main.view())
    }

    fn node(&self, name: &str) -> NodeView {
        self.view().node(name).cloned().unwrap_or_else(|| NodeView::unknown(name.into()))
    }

    /// Waits for a view that fulfils `condition`, and says how long that took.
    #[track_caller]
    fn until(&self, what: &str, condition: impl Fn(&ClusterView) -> bool) -> Duration {
        let since = Instant::now();
        let met = poll(2 * SOON, || condition(&self.main.view()).then_some(()));
        assert!(met.is_some(), "not within {:?}: {what}: {:#?}", 2 * SOON, self.view());
        since.elapsed()
    }

    #[track_caller]
    fn until_unfit(&self, node: &str, unfit: Option<Unfit>) -> Duration {
        let what = format!("{node} is {unfit:?}");
        self.until(&what, |view| view.node(node).is_some_and(|node| node.unfit == unfit))
    }

    /// Waits until this is the primary and these are its replicas.
    #[track_caller]
    fn until_steady(&self, primary: &str, replicas: &[&str]) -> Duration {
        self.until(&format!("{primary} with {replicas:?}"), |view| {
            let fit = |name: &&str| view.node(name).is_some_and(|node| node.unfit.is_none());
            view.primary.as_deref() == Some(primary) && replicas.iter().all(fit) && view.samples.newest().is_some()
        })
    }

    /// Waits, as a session does, until this standby has everything that had happened at `stamp`.
    fn fresh(&self, standby: &str, stamp: Stamp) -> Option<Lsn> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _waiting = self.main.wait_beyond(stamp.asked);
        let found = async {
            loop {
                let published = self.main.published();
                let view = self.main.view();
                let replayed = view.node(standby).and_then(|node| node.replayed_lsn);
                if let Some(bound) = view.samples.bound(stamp).filter(|bound| replayed >= Some(*bound)) {
                    return bound;
                }
                drop(view);
                published.await;
            }
        };
        runtime.block_on(async { tokio::time::timeout(SOON, found).await.ok() })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}

pub(crate) fn watched(nodes: &[&Node], lag_interval: Duration, max_lag: u64) -> WatchedCluster {
    let one = |node: &&Node| {
        let target = Target { host: node.host().parse().unwrap(), port: node.port() };
        let channel_binding = ChannelBinding::Prefer;
        let way = Way { target, tls: None, channel_binding, dialer: Dialer::new(&Network::default()) };
        WatchedNode { name: node.name().into(), way: Arc::new(way) }
    };
    let monitor = Monitor {
        user: nodes[0].superuser().to_owned(),
        password: Some(Secret::new(nodes[0].password().to_owned())),
        dbname: "postgres".to_owned(),
        interval: Duration::from_millis(500).max(lag_interval),
        lag_interval,
        timeout: AT_ONCE,
        failure_threshold: 3,
    };
    WatchedCluster { name: "main".into(), nodes: nodes.iter().map(one).collect(), monitor: Some(monitor), max_lag }
}

/// A primary and two standbys for one test after the other: each leaves it as it was.
pub(crate) fn shared_three() -> MutexGuard<'static, Cluster> {
    static SHARED: OnceLock<Mutex<Cluster>> = OnceLock::new();
    SHARED.get_or_init(|| Mutex::new(three())).lock().unwrap_or_else(PoisonError::into_inner)
}

fn three() -> Cluster {
    let cluster = builder().prefix("howdah-standbys").primary("a").standby("b").standby("c");
    // the shared primary has that role as well
    let cluster = cluster.superuser("howdah", "howdah-secret");
    cluster.setting("wal_retrieve_retry_interval", "200ms").start().unwrap_or_else(|error| panic!("{error}"))
}

fn nodes(cluster: &Cluster) -> [&Node; 3] {
    ["a", "b", "c"].map(|name| cluster.find(name).unwrap())
}

#[test]
fn a_session_that_waits_gets_a_sample_asked_after_it_and_the_standbys_are_looked_at_until_they_have_it() {
    let cluster = shared_three();
    let [a, b, c] = nodes(&cluster);
    // so long that only on demand anything is asked at all
    let seldom = Duration::from_secs(3_600);
    let watched = Watched::with(&[a, b, c], seldom, 0);
    watched.until_steady("a", &["b", "c"]);
    a.sql("CREATE TABLE IF NOT EXISTS t (v int)").unwrap();
    let mut took = Vec::new();
    for _ in 0..20 {
        a.sql("INSERT INTO t VALUES (1)").unwrap();
        let (stamp, since) = (watched.main.stamp(), Instant::now());
        assert_eq!(watched.view().samples.bound(stamp), None, "nobody has asked since");
        let bound = watched.fresh("b", stamp).expect("b has it");
        took.push(since.elapsed());
        let inserted: Lsn = a.sql("SELECT pg_current_wal_flush_lsn()").unwrap().cell().unwrap().parse().unwrap();
        assert!(bound <= inserted);
    }
    took.sort();
    eprintln!("on demand: median {:?}, longest {:?}", took[10], took[19]);

    // the last record fills its page, so that the next would begin behind a header that nobody has written
    let behind_header = stop_behind_a_page_header(a);
    let bound = watched.fresh("b", watched.main.stamp()).expect("b has it, although nothing follows");
    assert!(bound < behind_header && bound.0.is_multiple_of(8192), "{bound} {behind_header}");

    // a standby that does not come is looked at every 2 ms and no oftener, and not at all when nobody waits
    b.sql("SELECT pg_wal_replay_pause()").unwrap();
    a.sql("INSERT INTO t VALUES (2)").unwrap();
    let (before, since) = (watched.main.stamp(), Instant::now());
    let waiting = watched.main.wait_beyond(before.asked);
    thread::sleep(Duration::from_millis(500));
    drop(waiting);
    let asked = watched.main.stamp().asked - before.asked;
    let most = since.elapsed().as_millis() as u64 / 2 * 2 + 10; // two standbys; the primary once
    assert!((20..=most).contains(&asked), "{asked} questions in {:?}", since.elapsed());
    let behind = watched.node("b");
    assert!(behind.replayed_lsn < watched.node("c").replayed_lsn && behind.lag_bytes > Some(0), "{behind:?}");
    thread::sleep(Duration::from_millis(20));
    let idle = watched.main.stamp();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(watched.main.stamp(), idle, "somebody was asked although nobody waits");

    // a connection of the data path's was refused
    watched.main.suspect(&"c".into());
    watched.until("c is asked at once", |view| view.node("c").unwrap().sampled > idle.asked);
    b.sql("SELECT pg_wal_replay_resume()").unwrap();
}

/// Commits a transaction whose record ends where its page does. The insert position then, which stands behind the header of the
/// next page.
fn stop_behind_a_page_header(node: &Node) -> Lsn {
    let mut session = session(node);
    let mut commit = |size: u64| {
        session.query(&format!("SELECT pg_logical_emit_message(true, '', repeat('x', {size}))"));
        session.value("SELECT pg_current_wal_insert_lsn()").parse::<Lsn>().unwrap()
    };
    let page = 8192;
    let stopped = poll(SOON, || {
        let before = commit(1_000);
        let after = commit(1_000);
        let (length, left) = (after.0 - before.0, page - after.0 % page);
        // not when there was a header among them, or something else was written meanwhile
        let sized = left >= length && after.0 / page == before.0 / page;
        let end = if sized { commit(1_000 + left - length) } else { after };
        (end.0 % page == 24).then_some(end)
    });
    stopped.expect("a record that ends with its page")
}

/// Writes about so much log.
fn write_log(node: &Node, megabytes: u32) {
    for _ in 0..megabytes {
        node.sql("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1048576))").unwrap();
    }
    node.sql("SELECT txid_current()").unwrap(); // a commit sends it
}

/// A connection of somebody else's.
fn session(node: &Node) -> Client {
    let mut client = Client::connect((node.host(), node.port())).unwrap();
    client.login(node.superuser(), node.password(), "postgres");
    client
}

/// Ends the monitor's connections to a node.
fn end_the_monitors_connections(node: &Node) {
    let ended =
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE application_name = 'howdah monitor'";
    assert_ne!(node.sql(ended).unwrap().cell(), Some("0"));
}

#[test]
fn standbys_come_and_go_by_lag_by_crashes_and_by_death_and_a_broken_monitor_connection_is_no_outage() {
    let cluster = shared_three();
    let [a, b, c] = nodes(&cluster);
    a.sql("CREATE TABLE IF NOT EXISTS t (v int)").unwrap();
    a.sql("CREATE ROLE watcher LOGIN PASSWORD 'watch'").unwrap();
    let watcher = || {
        let mut cluster = watched(&[a, b, c], Duration::from_millis(50), 1 << 20);
        let monitor = cluster.monitor.as_mut().unwrap();
        (monitor.user, monitor.password) = ("watcher".to_owned(), Some(Secret::new("watch".to_owned())));
        Watched::start(cluster)
    };
    let blind = watcher();
    blind.until("it is told what to grant", |view| {
        let b = view.node("b").filter(|b| b.healthy && b.unfit == Some(Unfit::NotStreaming));
        b.and_then(|b| b.trouble.as_deref()).is_some_and(|trouble| trouble.contains("GRANT pg_monitor"))
    });
    drop(blind);
    a.sql("GRANT pg_monitor TO watcher").unwrap(); // which is enough for all of this
    let watched = watcher();
    watched.until_steady("a", &["b", "c"]);
    let steady = watched.view();
    for name in ["b", "c"] {
        let node = steady.node(name).unwrap();
        assert_eq!((node.role, node.timeline.map(|t| t.0)), (Some(Role::Standby), Some(1)));
        assert!(node.life > 0 && node.sampled > 0 && node.lag_time.is_some(), "{node:?}");
    }
    assert_eq!(watched.node("a").unfit, Some(Unfit::Primary));

    // lag
    b.sql("SELECT pg_wal_replay_pause()").unwrap();
    write_log(a, 3);
    watched.until_unfit("b", Some(Unfit::Lagging));
    watched.until("lag shows in bytes and time", |view| {
        let b = view.node("b").unwrap();
        b.lag_bytes > Some(2 << 20) && b.lag_time > Some(Duration::from_millis(300))
    });
    watched.until_unfit("c", None); // it may have been too far behind for a moment
    b.sql("SELECT pg_wal_replay_resume()").unwrap();
    watched.until_unfit("b", None);
    watched.until("it has caught up", |view| view.node("b").unwrap().lag_time == Some(Duration::ZERO));

    // an open transaction has written, and nobody would flush that for up to 15 s
    let mut writer = session(a);
    for _ in 0..3 {
        let since = Instant::now();
        writer.query("BEGIN; INSERT INTO t VALUES (1)");
        let bound = watched.fresh("b", watched.main.stamp());
        assert!(bound.is_some() && since.elapsed() < AT_ONCE, "the log's end came to b after {:?}", since.elapsed());
        writer.query("COMMIT");
    }

    // somebody ends the monitor's connections
    let (version, before) = (watched.board.version(), watched.view());
    for node in [a, b] {
        end_the_monitors_connections(node);
    }
    watched.until("other lives, another era", |view| {
        let lives = |name: &str| view.node(name).unwrap().life > before.node(name).unwrap().life;
        lives("a") && lives("b") && view.samples.era() > before.samples.era()
    });
    watched.until_steady("a", &["b", "c"]);
    assert_eq!(watched.board.version(), version, "it looked like an outage");

    // one backend of a standby is killed: all of it crashes and replays again
    let mut victim = session(b);
    let pid: i32 = victim.value("SELECT pg_backend_pid()").parse().unwrap();
    let before = watched.node("b").life;
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    watched.until("another life", |view| view.node("b").unwrap().life > before);
    watched.until_unfit("b", None);

    // a standby is dead, and comes back
    b.kill_all().unwrap();
    let took = watched.until_unfit("b", Some(Unfit::Unhealthy));
    assert!(took < AT_ONCE, "it took {took:?} to see that b is dead");
    watched.until("why", |view| view.node("b").unwrap().trouble.as_deref() == Some("connection refused"));
    assert_eq!((watched.view().primary.as_deref(), watched.node("c").unfit), (Some("a"), None));
    b.start().unwrap();
    let took = watched.until_unfit("b", None);
    eprintln!("b is used again {took:?} after its start");
}

#[test]
fn the_daemon_says_who_gets_reads_and_why_not_and_is_ready_without_replicas() {
    let cluster = shared_three();
    let [a, b, c] = nodes(&cluster);
    let howdah = Howdah::before(cluster.nodes(), "[clusters.main]\nmax_lag = \"1MB\"\n");
    let row = |name: &str| {
        let status = howdah.status();
        let rows = status["clusters"][0]["nodes"].as_array().unwrap().clone();
        rows.into_iter().find(|row| row["name"] == name).unwrap()
    };
    eventually("both get reads", SOON, || row("b")["replica"] == true && row("c")["replica"] == true);
    assert_eq!((&row("a")["replica"], &row("a")["unfit"]), (&false.into(), &"accepts writes".into()));

    b.sql("SELECT pg_wal_replay_pause()").unwrap();
    write_log(a, 3);
    eventually("b gets none", SOON, || {
        let b = row("b");
        b["unfit"] == "further behind than max_lag" && b["replica"] == false && b["lag_time_ms"].as_u64() > Some(100)
    });
    b.sql("SELECT pg_wal_replay_resume()").unwrap();
    eventually("b gets reads", SOON, || row("b")["unfit"].is_null() && row("b")["replica"] == true);
    let log = howdah.log();
    let lines = |what: &str| log.lines().filter(|line| line.contains(what) && line.contains("node=b")).count();
    assert_eq!(lines("standby gets no reads any more"), 1, "{log}");
    assert_eq!(lines("standby gets reads"), 2, "{log}");

    for standby in [b, c] {
        standby.kill_all().unwrap();
    }
    eventually("both are gone", SOON, || row("b")["healthy"] == false && row("c")["healthy"] == false);
    assert_eq!(howdah.get("/readyz").unwrap().0, 200);
    for standby in [b, c] {
        standby.start().unwrap();
    }
    eventually("both get reads again", SOON, || row("b")["replica"] == true && row("c")["replica"] == true);
}

#[test]
fn the_primary_is_followed_through_promotions_by_hand_and_a_stale_one_is_never_used() {
    let cluster = three();
    let [a, b, c] = nodes(&cluster);
    let watched = Watched::new(&[a, b, c]);
    watched.until_steady("a", &["b", "c"]);
    let before = watched.view();

    // promoted while the old one lives and is in use
    b.sql("SELECT pg_promote(false)").unwrap();
    let promoted = poll(SOON, || (b.sql("SELECT pg_is_in_recovery()").unwrap().cell() == Some("f")).then_some(()));
    assert!(promoted.is_some());
    let took = watched.until("b is the primary", |view| view.primary.as_deref() == Some("b"));
    assert!(took < Duration::from_secs(1), "the promotion was followed after {took:?}");
    let after = watched.view();
    assert_eq!(after.epoch.0, before.epoch.0 + 1);
    assert!(after.samples.era() > before.samples.era());
    watched.until("a is told to be outdated", |view| {
        let trouble = view.node("a").unwrap().trouble.as_deref();
        trouble == Some("accepts writes on timeline 1, but the cluster is on timeline 2")
    });
    // it streams, and it has all there is, but of another history
    watched.until_unfit("c", Some(Unfit::OtherTimeline));
    write_log(a, 1);
    watched.until_steady("b", &[]);
    assert_eq!(watched.node("c").unfit, Some(Unfit::OtherTimeline));

    // both away; the stale one comes back first
    a.stop(StopMode::Immediate).unwrap();
    b.stop(StopMode::Immediate).unwrap();
    watched.until("nobody is there", |view| view.primary.is_none() && !view.node("b").unwrap().healthy);
    a.start().unwrap();
    watched.until("a is back", |view| view.node("a").unwrap().healthy);
    assert_eq!(watched.view().primary, None, "the stale primary is used");
    b.start().unwrap();
    watched.until_steady("b", &[]);
    assert_eq!(watched.view().epoch, after.epoch);

    // the stale one is rewound; c was ahead of the fork with what a alone had written
    c.stop(StopMode::Fast).unwrap(); // pg_rewind takes a standby only after a clean stop
    c.rejoin(b).unwrap();
    a.rejoin(b).unwrap();
    watched.until_steady("b", &["a", "c"]);
    let (a_now, c_now) = (watched.node("a"), watched.node("c"));
    assert_eq!((a_now.timeline.map(|t| t.0), c_now.timeline.map(|t| t.0)), (Some(2), Some(2)));
    assert_eq!(a_now.role, Some(Role::Standby));

    // two are promoted to the same timeline, with nobody to say which is right: the one that was in use goes on
    b.stop(StopMode::Immediate).unwrap();
    a.promote().unwrap();
    watched.until("a is the primary", |view| view.primary.as_deref() == Some("a"));
    c.promote().unwrap();
    watched.until("c is told that there is one", |view| {
        view.node("c").unwrap().trouble.as_deref() == Some("accepts writes, but the primary is \"a\"")
    });
    assert_eq!(watched.view().primary.as_deref(), Some("a"));
    let newcomer = Watched::new(&[a, b, c]);
    newcomer.until("both are told", |view| {
        let told = |name: &str| view.node(name).and_then(|node| node.trouble.clone()).unwrap_or_default();
        let said = "accepts writes, and so does another node on the same timeline";
        told("a") == said && told("c") == said
    });
    assert_eq!(newcomer.view().primary, None, "something was guessed");
}

#[test]
fn whatever_order_nodes_start_in_they_are_found_and_one_of_another_cluster_is_refused() {
    let cluster = shared_three();
    let nodes = nodes(&cluster);
    let [a, b, c] = nodes;
    let other = shared().primary();
    let mut with_another = watched(&nodes, Duration::from_millis(100), 0);
    with_another.nodes.insert(0, WatchedNode { name: "d".into(), ..watched(&[other], AT_ONCE, 0).nodes.remove(0) });
    let foreign = Watched::start(with_another);
    foreign.until_steady("a", &["b", "c"]);
    let d = foreign.node("d");
    assert_eq!((d.role, d.healthy, d.unfit), (Some(Role::Primary), false, Some(Unfit::Unhealthy)));
    assert!(d.trouble.as_deref().unwrap().starts_with("belongs to another cluster"), "{d:?}");
    drop(foreign);

    let watched = Watched::new(&nodes);
    watched.until_steady("a", &["b", "c"]);
    let epoch = watched.view().epoch;
    for order in [[a, b, c], [b, a, c], [c, b, a]] {
        nodes.iter().for_each(|node| node.kill_all().unwrap());
        watched.until("all are dead", |view| view.nodes.iter().all(|node| !node.healthy));
        for (position, node) in order.iter().enumerate() {
            node.start().unwrap();
            watched.until("it is seen", |view| view.node(node.name()).unwrap().healthy);
            let started = &order[..=position];
            let primary = watched.view().primary.map(|name| name.to_string());
            let there = started.iter().any(|node| node.name() == "a");
            assert_eq!(primary.is_some(), there, "{}", node.name());
            if position == 0 && node.name() != "b" {
                // who comes to it only now, and has never seen a primary
                let late = Watched::new(&nodes);
                let (name, is_primary) = (node.name(), node.name() == "a");
                let unfit = Some(if is_primary { Unfit::Primary } else { Unfit::NoPrimary });
                late.until_unfit(name, unfit);
                late.until("the primary, if it is there", |view| view.primary.is_some() == is_primary);
            }
        }
        watched.until_steady("a", &["b", "c"]);
        assert_eq!(watched.view().epoch, epoch);
    }
}
