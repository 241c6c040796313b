//! The control path against a real PostgreSQL: it is watched, stopped, started and read from.
//!
//! Needs PostgreSQL's programs (`HOWDAH_TEST_PG_BIN`, else the newest under /usr/lib/postgresql). Run as root, it runs them
//! as the user postgres.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use howdah::admin::{HttpAddress, HttpListener, Sources};
use howdah::catalog::connection::ControlConnection;
use howdah::catalog::{CatalogError, RoleSecret, Verifiers};
use howdah::cluster::{Monitor, Watch, WatchedCluster, WatchedNode, watch};
use howdah::topology::{Board, ClusterView, Epoch, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

/// Longer than anything here takes on a busy machine.
const BOUND: Duration = Duration::from_secs(15);

/// One PostgreSQL in a temporary directory, stopped when dropped.
struct Postgres {
    directory: tempfile::TempDir,
    port: u16,
}

impl Postgres {
    fn directory() -> tempfile::TempDir {
        let directory = tempfile::Builder::new().prefix("howdah-control-").tempdir().unwrap();
        if rustix::process::geteuid().is_root() {
            let owned = Command::new("chown").arg("postgres").arg(directory.path()).status().unwrap();
            assert!(owned.success());
        }
        directory
    }

    fn primary() -> Self {
        let this = Self { directory: Self::directory(), port: free_port() };
        this.run("initdb", &["-D", &this.data(), "-U", "postgres", "-A", "trust", "-N"]);
        this.configure();
        this.start();
        this
    }

    fn standby_of(primary: &Self) -> Self {
        let this = Self { directory: Self::directory(), port: free_port() };
        let port = primary.port.to_string();
        let from = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres"];
        this.run("pg_basebackup", &[&from[..], &["-D", &this.data(), "-R", "-c", "fast"]].concat());
        this.configure();
        this.start();
        this
    }

    fn configure(&self) {
        let settings = format!(
            "\nport = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nfsync = off\n",
            self.port
        );
        let path = PathBuf::from(self.data()).join("postgresql.conf");
        let before = fs::read_to_string(&path).unwrap();
        fs::write(path, before + &settings).unwrap();
    }

    fn data(&self) -> String {
        self.directory.path().join("data").to_str().unwrap().to_owned()
    }

    fn start(&self) {
        let log = self.directory.path().join("log");
        self.run("pg_ctl", &["-D", &self.data(), "-l", log.to_str().unwrap(), "-w", "start"]);
    }

    fn stop_immediately(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]);
    }

    fn promote(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-w", "promote"]);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let output = self.outcome(program, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program} {arguments:?}: {said}");
    }

    fn outcome(&self, program: &str, arguments: &[&str]) -> Output {
        let program = bin_directory().join(program);
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.args(arguments).current_dir(self.directory.path()).output().unwrap()
    }

    fn node(&self, name: &str) -> WatchedNode {
        WatchedNode { name: name.into(), host: "127.0.0.1".to_owned(), port: self.port, tls: None, tls_required: false }
    }

    async fn execute(&self, statement: &str) {
        let connection = ControlConnection::open(&self.node("a"), &monitor("postgres"), "test").await.unwrap();
        connection.rows(statement).await.unwrap();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.outcome("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]);
    }
}

fn bin_directory() -> PathBuf {
    if let Ok(directory) = std::env::var("HOWDAH_TEST_PG_BIN") {
        return directory.into();
    }
    let installed = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is missing: install the package postgresql");
    let versions = installed.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    format!("/usr/lib/postgresql/{}/bin", versions.max().unwrap()).into()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn monitor(user: &str) -> Monitor {
    Monitor {
        user: user.to_owned(),
        password: None,
        dbname: "postgres".to_owned(),
        interval: Duration::from_millis(100),
        timeout: Duration::from_secs(2),
        failure_threshold: 3,
    }
}

fn cluster(nodes: Vec<WatchedNode>) -> WatchedCluster {
    WatchedCluster { name: "main".into(), nodes, monitor: Some(monitor("postgres")) }
}

fn view(board: &Board) -> ClusterView {
    board.read().clusters.get("main").unwrap().clone()
}

/// Waits for `view` to fulfil `condition`; panics with the last view when it does not in time.
async fn eventually(board: &Board, what: &str, condition: impl Fn(&ClusterView) -> bool) -> ClusterView {
    let deadline = Instant::now() + BOUND;
    loop {
        let now = view(board);
        if condition(&now) {
            return now;
        }
        assert!(Instant::now() < deadline, "{what}: {now:#?}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn http_get(address: &HttpAddress, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(address.to_string()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: howdah\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn sources(board: &Arc<Board>, watch: &Arc<Watch>, verifiers: &Arc<Verifiers>) -> Sources {
    let (watch, verifiers) = (watch.clone(), verifiers.clone());
    Sources {
        board: board.clone(),
        pools: Arc::new(Vec::new),
        clients: Arc::new(|| 0),
        shutting_down: Arc::new(AtomicBool::new(false)),
        extra_missing: Arc::new(move || verifiers.missing()),
        address: Arc::new(move |cluster, node| watch.address(cluster, node)),
    }
}

#[tokio::test]
async fn a_primary_is_found_and_lost_and_found_again_and_readiness_says_so() {
    let postgres = Postgres::primary();
    let board = Arc::new(Board::new());
    let watch = Arc::new(watch(vec![cluster(vec![postgres.node("a")])], board.clone()));
    let verifiers = Verifiers::start(vec![cluster(vec![postgres.node("a")])], board.clone());
    let listener = HttpListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.address().clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(listener.serve(sources(&board, &watch, &verifiers), async { drop(stopped.await) }));

    let found = eventually(&board, "primary is found", |view| view.primary.is_some()).await;
    assert_eq!((found.epoch, found.nodes[0].role), (Epoch(1), Some(Role::Primary)));
    assert_eq!(found.nodes[0].timeline.map(|t| t.0), Some(1));
    assert!(found.nodes[0].received_lsn.is_some() && found.nodes[0].system_identifier.is_some());
    assert_eq!(http_get(&address, "/healthz").await, (200, "ok".to_owned()));
    assert_eq!(http_get(&address, "/readyz").await, (200, "ready".to_owned()));

    let stopping = Instant::now();
    postgres.stop_immediately();
    eventually(&board, "primary is lost", |view| view.primary.is_none()).await;
    assert!(stopping.elapsed() < Duration::from_secs(2), "took {:?}", stopping.elapsed());
    eventually(&board, "the refusal is seen", |view| view.nodes[0].trouble.as_deref() == Some("connection refused"))
        .await;
    let place = format!("127.0.0.1:{}", postgres.port);
    let line = format!("cluster \"main\": no primary: node \"a\" ({place}): connection refused\n");
    assert_eq!(http_get(&address, "/readyz").await, (503, line));

    postgres.start();
    let back = eventually(&board, "primary is back", |view| view.primary.is_some()).await;
    assert_eq!(back.epoch, Epoch(1));
    let (code, body) = http_get(&address, "/status").await;
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, status["ready"].as_bool()), (200, Some(true)));
    assert_eq!(status["clusters"][0]["nodes"][0]["role"], "primary");

    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
    watch.stop().await;
}

#[tokio::test]
async fn a_terminated_monitor_connection_does_not_take_the_primary_away() {
    let postgres = Postgres::primary();
    let board = Arc::new(Board::new());
    let watch = watch(vec![cluster(vec![postgres.node("a")])], board.clone());
    eventually(&board, "primary is found", |view| view.primary.is_some()).await;
    let version = board.version();
    for _ in 0..5 {
        postgres
            .execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'howdah monitor'")
            .await;
        let before = view(&board).nodes[0].received_lsn;
        postgres.execute("select pg_switch_wal()").await;
        postgres.execute("create table if not exists t (); drop table t").await;
        eventually(&board, "it is asked again", |view| view.nodes[0].received_lsn > before).await;
    }
    assert_eq!(board.version(), version);
    watch.stop().await;
}

#[tokio::test]
async fn a_promoted_standby_becomes_the_primary_and_the_old_one_is_not_taken_for_it() {
    let a = Postgres::primary();
    let b = Postgres::standby_of(&a);
    let board = Arc::new(Board::new());
    let watch = watch(vec![cluster(vec![a.node("a"), b.node("b")])], board.clone());
    let steady = eventually(&board, "b follows a", |view| {
        view.primary.as_deref() == Some("a") && view.nodes[1].lag_bytes == Some(0) && view.nodes[1].timeline.is_some()
    })
    .await;
    assert_eq!(steady.nodes[1].role, Some(Role::Standby));

    b.promote(); // and nobody has fenced a
    let after = eventually(&board, "b is the primary", |view| view.primary.as_deref() == Some("b")).await;
    assert_eq!(after.epoch, Epoch(2));
    let after = eventually(&board, "a is in trouble", |view| view.nodes[0].trouble.is_some()).await;
    assert_eq!(
        after.nodes[0].trouble.as_deref(),
        Some("accepts writes on timeline 1, but the cluster is on timeline 2")
    );
    b.stop_immediately();
    eventually(&board, "no primary", |view| view.primary.is_none() && view.nodes[0].healthy).await;

    // an operator takes the dead node out of the configuration: the one that is left goes on
    watch.replace(vec![cluster(vec![a.node("a")])]);
    let alone = eventually(&board, "a is the primary", |view| view.primary.as_deref() == Some("a")).await;
    assert_eq!((alone.epoch, alone.nodes.len()), (Epoch(3), 1));
    watch.stop().await;
}

#[tokio::test]
async fn verifiers_are_read_from_the_catalog_and_again_on_demand() {
    let postgres = Postgres::primary();
    postgres.execute("create role app login password 'secret'").await;
    postgres.execute("create role past login password 'secret' valid until '2001-01-01'").await;
    postgres.execute("create role ever login password 'secret' valid until 'infinity'").await;
    postgres.execute("set password_encryption = 'md5'; create role old login password 'secret'").await;
    postgres.execute("create role bare login; create role group_only password 'secret'").await;
    let board = Arc::new(Board::new());
    let watch = watch(vec![cluster(vec![postgres.node("a")])], board.clone());
    let verifiers = Verifiers::start(vec![cluster(vec![postgres.node("a")])], board.clone());
    eventually(&board, "primary is found", |view| view.primary.is_some()).await;

    verifiers.refresh("main").await.unwrap();
    let look = |user: &str| verifiers.lookup("main", user);
    assert!(matches!(look("app"), Some(RoleSecret::Scram(text)) if text.starts_with("SCRAM-SHA-256$4096:")));
    assert!(matches!(look("ever"), Some(RoleSecret::Scram(_))));
    assert!(matches!(look("old"), Some(RoleSecret::Md5(text)) if text.len() == 35));
    assert_eq!((look("past"), look("bare")), (Some(RoleSecret::None), Some(RoleSecret::None)));
    assert_eq!((look("group_only"), look("late")), (None, None));

    postgres.execute("create role late login password 'secret'").await;
    // as from a worker: another thread with its own runtime; many at once share one read
    let shared = verifiers.clone();
    let worker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut asking = tokio::task::JoinSet::new();
            for _ in 0..200 {
                let shared = shared.clone();
                asking.spawn(async move { shared.refresh("main").await });
            }
            asking.join_all().await
        })
    });
    let outcomes = tokio::task::spawn_blocking(move || worker.join().unwrap()).await.unwrap();
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert!(matches!(look("late"), Some(RoleSecret::Scram(_))));
    assert!(verifiers.missing().is_empty());
    watch.stop().await;
}

#[tokio::test]
async fn a_monitor_that_may_not_read_passwords_is_told_what_to_grant() {
    let postgres = Postgres::primary();
    postgres.execute("create role howdah login").await;
    let cluster = || WatchedCluster { monitor: Some(monitor("howdah")), ..cluster(vec![postgres.node("a")]) };
    let board = Arc::new(Board::new());
    let watch = watch(vec![cluster()], board.clone());
    let verifiers = Verifiers::start(vec![cluster()], board.clone());
    eventually(&board, "primary is found", |view| view.primary.is_some()).await;

    let error = verifiers.refresh("main").await.unwrap_err();
    assert!(matches!(error, CatalogError::NoPermission { .. }), "{error}");
    assert!(error.to_string().contains("GRANT SELECT ON pg_catalog.pg_authid TO \"howdah\""), "{error}");
    assert_eq!(verifiers.missing().len(), 1);

    postgres.execute("grant select on pg_catalog.pg_authid to howdah").await;
    verifiers.refresh("main").await.unwrap();
    assert_eq!(verifiers.lookup("main", "howdah"), Some(RoleSecret::None));
    assert!(verifiers.missing().is_empty());
    watch.stop().await;
}
