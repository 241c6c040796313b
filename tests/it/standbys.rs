//! What howdah knows of a primary and its standbys, and how soon: the watcher alone, without the daemon.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use howdah::catalog::{Monitor, WatchedCluster, WatchedNode};
use howdah::cluster::{Watch, watch};
use howdah::config::{ChannelBinding, Network, Secret};
use howdah::net::dial::{Dialer, Target};
use howdah::net::way::Way;
use howdah::pg::Lsn;
use howdah::topology::{Board, ClusterBoard, ClusterView, NodeView, Role, Stamp, Unfit};
use tokio::sync::oneshot;

use crate::support::{Cluster, Node, SOON, Signal, StopMode, builder, eventually, poll};

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
        let board = Arc::new(Board::new());
        let (stop, stopped) = oneshot::channel();
        let (cluster, shared) = (watched(nodes, lag_interval, max_lag), Arc::clone(&board));
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

fn watched(nodes: &[&Node], lag_interval: Duration, max_lag: u64) -> WatchedCluster {
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

fn three() -> Cluster {
    let cluster = builder().prefix("howdah-standbys").primary("a").standby("b").standby("c");
    cluster.setting("wal_retrieve_retry_interval", "200ms").start().unwrap_or_else(|error| panic!("{error}"))
}

fn nodes(cluster: &Cluster) -> [&Node; 3] {
    ["a", "b", "c"].map(|name| cluster.find(name).unwrap())
}

#[test]
fn a_session_that_waits_gets_a_sample_asked_after_it_and_the_standbys_are_looked_at_until_they_have_it() {
    let cluster = three();
    let [a, b, c] = nodes(&cluster);
    // so long that only on demand anything is asked at all
    let seldom = Duration::from_secs(3_600);
    let watched = Watched::with(&[a, b, c], seldom, 0);
    watched.until_steady("a", &["b", "c"]);
    a.sql("CREATE TABLE t (v int)").unwrap();
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
    b.sql("SELECT pg_wal_replay_resume()").unwrap();
}
