//! The control path against a real PostgreSQL: it is watched, stopped, started and read from.
//!
//! Needs PostgreSQL's programs (`HOWDAH_TEST_PG_BIN`, else the newest under /usr/lib/postgresql). Run as root, it runs them
//! as the user postgres.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use howdah::admin::{HttpAddress, HttpListener, Sources};
use howdah::catalog::connection::ControlConnection;
use howdah::catalog::{CatalogError, Lookup, Ordinary, RoleSecret, Verifiers};
use howdah::cluster::{Monitor, Watch, WatchedCluster, WatchedNode, watch};
use howdah::config::{ChannelBinding, Network, TlsMode, TlsNegotiation};
use howdah::net::dial::{Dialer, Target};
use howdah::net::tls::{ClientTls, client_config};
use howdah::net::way::Way;
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
        give_to_postgres(directory.path());
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

    /// Sends a signal to the postmaster and all its children, as far as they run.
    fn signal_all(&self, signal: &str) {
        let pid_file = fs::read_to_string(PathBuf::from(self.data()).join("postmaster.pid")).unwrap_or_default();
        let Some(postmaster) = pid_file.lines().next() else { return };
        let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap_or_default();
        let children: Vec<&str> = children.split_whitespace().collect();
        self.outcome("/bin/kill", &[&["-s", signal, postmaster][..], &children].concat());
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
        self.node_with(name, None)
    }

    fn node_with(&self, name: &str, tls: Option<ClientTls>) -> WatchedNode {
        let target = Target { host: "127.0.0.1".parse().unwrap(), port: self.port };
        let channel_binding = ChannelBinding::Prefer;
        let way = Way { target, tls, channel_binding, dialer: Dialer::new(&Network::default()) };
        WatchedNode { name: name.into(), way: Arc::new(way) }
    }

    async fn value(&self, statement: &str) -> String {
        let connection = ControlConnection::open(&self.node("a"), &monitor("postgres"), "test").await.unwrap();
        connection.rows(statement).await.unwrap()[0].get(0).unwrap().to_owned()
    }

    async fn execute(&self, statement: &str) {
        let connection = ControlConnection::open(&self.node("a"), &monitor("postgres"), "test").await.unwrap();
        connection.rows(statement).await.unwrap();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.signal_all("CONT"); // a frozen one does not stop
        self.outcome("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]);
    }
}

/// PostgreSQL does not run as root, and wants its files to be its own.
fn give_to_postgres(path: &Path) {
    if rustix::process::geteuid().is_root() {
        assert!(Command::new("chown").arg("postgres").arg(path).status().unwrap().success());
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
        lag_interval: Duration::from_millis(100),
        timeout: Duration::from_secs(2),
        failure_threshold: 3,
    }
}

fn cluster(nodes: Vec<WatchedNode>) -> WatchedCluster {
    WatchedCluster { name: "main".into(), nodes, monitor: Some(monitor("postgres")), max_lag: 0 }
}

fn view(board: &Board) -> ClusterView {
    ClusterView::clone(board.read().clusters.get("main").unwrap())
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

/// Ends the monitor's connection from the server's side, and returns when it has asked again over a new one.
async fn terminate_the_monitor(postgres: &Postgres, board: &Board) {
    let terminate =
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'howdah monitor'";
    postgres.execute(terminate).await;
    let before = view(board).nodes[0].received_lsn;
    postgres.execute("create table t (); drop table t").await;
    eventually(board, "it is asked again", |view| view.nodes[0].received_lsn > before).await;
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
        extra_missing: Arc::new(move || verifiers.missing()),
        address: Arc::new(move |cluster, node| watch.address(cluster, node)),
        ..Sources::of(board.clone())
    }
}

#[tokio::test]
async fn a_primary_is_found_and_lost_and_found_again_and_readiness_says_so() {
    let postgres = Postgres::primary();
    let board = Arc::new(Board::new());
    let watch = Arc::new(watch(vec![cluster(vec![postgres.node("a")])], board.clone()));
    let verifiers = Verifiers::start(vec![cluster(vec![postgres.node("a")])], Lookup::default(), board.clone());
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
        terminate_the_monitor(&postgres, &board).await;
    }
    assert_eq!(board.version(), version);
    watch.stop().await;
}

#[tokio::test]
async fn a_frozen_primary_is_lost_after_as_many_timeouts_as_the_threshold_and_comes_back() {
    let postgres = Postgres::primary();
    let board = Arc::new(Board::new());
    let patience = Duration::from_millis(400);
    let monitor = Monitor { timeout: patience, ..monitor("postgres") };
    let watch =
        watch(vec![WatchedCluster { monitor: Some(monitor), ..cluster(vec![postgres.node("a")]) }], board.clone());
    eventually(&board, "primary is found", |view| view.primary.is_some()).await;
    // a connection that broke long ago must not make the next timeout count more
    terminate_the_monitor(&postgres, &board).await;

    let frozen = Instant::now();
    postgres.signal_all("STOP");
    let lost = eventually(&board, "primary is lost", |view| view.primary.is_none()).await;
    assert!(frozen.elapsed() >= patience * 2, "took only {:?}", frozen.elapsed());
    assert_eq!(lost.nodes[0].trouble.as_deref(), Some("no answer within 400ms"));

    postgres.signal_all("CONT");
    let back = eventually(&board, "primary is back", |view| view.primary.is_some()).await;
    assert_eq!(back.epoch, Epoch(1));
    watch.stop().await;
}

#[tokio::test]
async fn a_promoted_standby_becomes_the_primary_and_the_old_one_is_not_taken_for_it() {
    let a = Postgres::primary();
    let b = Postgres::standby_of(&a);
    let board = Arc::new(Board::new());
    let watch = watch(vec![cluster(vec![a.node("a"), b.node("b")])], board.clone());
    let steady = eventually(&board, "b follows a", |view| {
        view.primary.as_deref() == Some("a")
            && view.nodes[1].lag_bytes.is_some_and(|lag| lag < 8192)
            && view.nodes[1].timeline.is_some()
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
async fn secrets_and_groups_are_what_the_catalogue_says_when_it_is_asked() {
    let postgres = Postgres::primary();
    postgres.execute("create role app login password 'secret'").await;
    postgres.execute("create role past login password 'secret' valid until '2001-01-01'").await;
    postgres.execute("create role ever login password 'secret' valid until 'infinity'").await;
    postgres.execute("create role later login password 'secret' valid until '2999-01-01'").await;
    postgres.execute("set password_encryption = 'md5'; create role old login password 'secret'").await;
    postgres.execute("create role bare login; create role group_only password 'secret'").await;
    postgres.execute("grant group_only to bare; grant bare to app").await;
    let board = Arc::new(Board::new());
    let watch = watch(vec![cluster(vec![postgres.node("a")])], board.clone());
    let lookup = Lookup { groups: true, ..Lookup::default() };
    let verifiers = Verifiers::start(vec![cluster(vec![postgres.node("a")])], lookup, board.clone());
    eventually(&board, "primary is found", |view| view.primary.is_some()).await;

    let ask = async |user: &str| verifiers.ask("main", &user.into()).await.unwrap();
    assert!(matches!(ask("app").await.secret(), RoleSecret::Scram(verifier) if verifier.iterations == 4096));
    assert!(matches!(ask("ever").await.secret(), RoleSecret::Scram(_)));
    assert!(matches!(ask("later").await.secret(), RoleSecret::Scram(_)));
    assert!(matches!(ask("old").await.secret(), RoleSecret::Md5(hash) if hash.reveal().len() == 35));
    for nobody in ["past", "bare", "group_only", "late", "'; drop role app; --"] {
        assert_eq!(ask(nobody).await.secret(), RoleSecret::None, "{nobody}");
    }
    let app = ask("app").await;
    assert!(app.is_member_of("app") && app.is_member_of("bare") && app.is_member_of("group_only"));
    assert!(!app.is_member_of("old") && !ask("late").await.is_member_of("late"));
    assert_eq!(verifiers.ordinary("main"), Ordinary::Scram(4096));
    assert!(verifiers.known("main", "app").is_some() && verifiers.known("main", "late").is_none());

    // what changes is seen by whoever asks next
    postgres.execute("create role late login password 'secret'; alter role app password 'other'").await;
    assert_ne!(ask("app").await.secret(), app.secret());
    assert!(matches!(ask("late").await.secret(), RoleSecret::Scram(_)));
    postgres.execute("drop role late").await;
    assert_eq!(ask("late").await.secret(), RoleSecret::None);
    assert!(verifiers.missing().is_empty());
    watch.stop().await;
}

#[tokio::test]
async fn a_query_of_the_operators_is_shared_by_those_who_ask_at_once_and_its_until_is_honoured() {
    let postgres = Postgres::primary();
    postgres.execute("create role howdah login; create role app login password 'secret'").await;
    postgres.execute("create role past login password 'secret' valid until '2001-01-01'").await;
    postgres.execute("create schema admin; grant usage on schema admin to howdah; create sequence admin.calls").await;
    let function = |columns: &str, body: &str| {
        format!(
            "create function admin.{columns} language sql security definer set search_path = pg_catalog, pg_temp \
             as $$ select nextval('admin.calls'); {body} $$"
        )
    };
    let body = "select rolname, rolpassword, rolvaliduntil from pg_authid where rolname = $1 and rolcanlogin";
    let returns = "look_up(name, out u name, out p text, out v timestamptz) returns setof record";
    postgres.execute(&function(returns, body)).await;
    let cluster = || WatchedCluster { monitor: Some(monitor("howdah")), ..cluster(vec![postgres.node("a")]) };
    let board = Arc::new(Board::new());
    let watch = watch(vec![cluster()], board.clone());
    let query = |text: &str| Lookup { query: Some(text.to_owned()), ..Lookup::default() };
    let verifiers = Verifiers::start(vec![cluster()], query("select * from admin.look_up($1)"), board.clone());
    eventually(&board, "primary is found", |view| view.primary.is_some()).await;

    let ask = async |user: &str| verifiers.ask("main", &user.into()).await;
    assert!(matches!(ask("app").await.unwrap().secret(), RoleSecret::Scram(_)));
    assert_eq!(ask("past").await.unwrap().secret(), RoleSecret::None);
    assert_eq!(ask("nobody").await.unwrap().secret(), RoleSecret::None);
    // without its third column the query itself would have to look
    verifiers.replace(vec![cluster()], query("select u, p from admin.look_up($1)"));
    assert!(matches!(ask("past").await.unwrap().secret(), RoleSecret::Scram(_)));

    let calls = || async { postgres.value("select last_value from admin.calls").await.parse::<u64>().unwrap() };
    let before = calls().await;
    // as from a worker: another thread with its own runtime
    let shared = verifiers.clone();
    let worker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut asking = tokio::task::JoinSet::new();
            for _ in 0..200 {
                let shared = shared.clone();
                asking.spawn(async move { shared.ask("main", &"app".into()).await });
            }
            asking.join_all().await
        })
    });
    let outcomes = tokio::task::spawn_blocking(move || worker.join().unwrap()).await.unwrap();
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    let shared_by = calls().await - before;
    assert!((1..100).contains(&shared_by), "{shared_by} queries for 200 who asked");

    for (wrong, said) in [
        ("select u from admin.look_up($1)", "it must answer user, secret"),
        ("select 1, 2 where $1 = 'x'", "it must answer user, secret"),
        ("select u, p from admin.look_up($1) where u = $2", "the one parameter $1"),
        ("select u, p from admin.missing($1)", "function admin.missing(unknown) does not exist"),
        ("select 'other'::text, p from admin.look_up($1)", "not the user that was asked for"),
    ] {
        verifiers.replace(vec![cluster()], query(wrong));
        let error = ask("app").await.unwrap_err().to_string();
        assert!(error.contains("auth.query") && error.contains(said), "{wrong}: {error}");
        assert!(verifiers.missing()[0].contains(said), "{:?}", verifiers.missing());
    }
    watch.stop().await;
}

#[tokio::test]
async fn a_node_with_tls_is_asked_over_tls_and_one_without_is_refused_where_tls_is_required() {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let postgres = Postgres::primary();
    let ca = postgres.directory.path().join("ca.crt");
    fs::write(&ca, certified.cert.pem()).unwrap();
    let tls = client_config(TlsMode::VerifyFull, TlsNegotiation::Postgres, Some(&ca), None, None).unwrap();
    let node = postgres.node_with("a", tls);
    let board = Arc::new(Board::new());
    let watch = watch(vec![cluster(vec![node.clone()])], board.clone());
    let without = eventually(&board, "it is asked", |view| {
        view.nodes[0].trouble.as_deref().is_some_and(|trouble| trouble != "not asked yet")
    })
    .await;
    assert_eq!(without.primary, None);
    let trouble = without.nodes[0].trouble.clone().unwrap();
    assert!(trouble.contains("the server does not support it"), "{trouble}");

    let data = PathBuf::from(postgres.data());
    for (name, pem) in [("server.crt", certified.cert.pem()), ("server.key", certified.signing_key.serialize_pem())] {
        fs::write(data.join(name), pem).unwrap();
        fs::set_permissions(data.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        give_to_postgres(&data.join(name));
    }
    postgres.execute("alter system set ssl = on").await;
    postgres.execute("select pg_reload_conf()").await;
    eventually(&board, "primary is found", |view| view.primary.is_some()).await;
    let connection = ControlConnection::open(&node, &monitor("postgres"), "test").await.unwrap();
    let rows = connection
        .rows("select s.ssl from pg_stat_ssl s join pg_stat_activity a using (pid) where a.application_name = 'howdah monitor'")
        .await
        .unwrap();
    assert_eq!(rows[0].get(0), Some("t"));
    watch.stop().await;
}

#[tokio::test]
async fn a_monitor_that_may_not_read_passwords_is_told_what_to_grant() {
    let postgres = Postgres::primary();
    postgres.execute("create role howdah login").await;
    let cluster = || WatchedCluster { monitor: Some(monitor("howdah")), ..cluster(vec![postgres.node("a")]) };
    let board = Arc::new(Board::new());
    let watch = watch(vec![cluster()], board.clone());
    let verifiers = Verifiers::start(vec![cluster()], Lookup::default(), board.clone());
    eventually(&board, "primary is found", |view| view.primary.is_some()).await;

    let howdah: Arc<str> = "howdah".into();
    let error = verifiers.ask("main", &howdah).await.unwrap_err();
    assert!(matches!(error, CatalogError::NoPermission { .. }), "{error}");
    assert!(error.to_string().contains("GRANT SELECT ON pg_catalog.pg_authid TO \"howdah\""), "{error}");
    assert_eq!(verifiers.missing().len(), 1);

    postgres.execute("grant select on pg_catalog.pg_authid to howdah").await;
    let deadline = Instant::now() + BOUND;
    while verifiers.ask("main", &howdah).await.is_err() {
        assert!(Instant::now() < deadline, "it does not notice");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(verifiers.missing().is_empty());
    watch.stop().await;
}
