//! The poolers, set up alike: transaction mode, plain TCP to the server, one thread, the same users.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use howdah::demo::ports::free_port;
use howdah::demo::postgres::{LocalCluster, Node};

pub const USER: &str = "bench";
pub const PASSWORD: &str = "bench-secret";
pub const DATABASE: &str = "bench";

/// How clients log in and whether they encrypt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Scram,
    Trust,
    Tls,
}

/// The database under test and what the poolers need beside it.
pub struct Bed<'a> {
    pub node: &'a Node,
    /// It and its standbys.
    pub nodes: &'a [Node],
    pub directory: PathBuf,
    pub pgbouncer: PathBuf,
}

impl<'a> Bed<'a> {
    pub fn prepare(cluster: &'a LocalCluster) -> Self {
        let node = cluster.primary();
        node.sql(&format!("create role {USER} login password '{PASSWORD}'")).unwrap();
        node.sql(&format!("create database {DATABASE} owner {USER}")).unwrap();
        let status = client("pgbench", node, node.port())
            .args(["-i", "-q", "-s", "10", DATABASE])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "pgbench -i failed");
        let directory = cluster.directory().join("bench");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let signed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(directory.join("server.crt"), signed.cert.pem()).unwrap();
        let key = directory.join("server.key");
        std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        cluster.primary().binaries().own(&key).unwrap(); // PgBouncer runs as this user
        let large = "select repeat('x', 100) from generate_series(1, 10000);\n";
        std::fs::write(directory.join("large.sql"), large).unwrap();
        for (name, script) in [
            ("ping.sql", "select 1;\n"),
            ("set.sql", "set work_mem = '5MB';\nselect 1;\n"),
            ("set-local.sql", "begin;\nset local work_mem = '5MB';\nselect 1;\ncommit;\n"),
            ("set-block.sql", "begin;\nset work_mem = '5MB';\nselect 1;\ncommit;\n"),
            ("mixed.sql", crate::routed::MIXED),
            ("do.sql", "do $$ begin end $$;\nselect 1;\n"),
        ] {
            std::fs::write(directory.join(name), script).unwrap();
        }
        let pgbouncer = std::env::var_os("PGBOUNCER").map_or_else(|| "/usr/sbin/pgbouncer".into(), PathBuf::from);
        assert!(pgbouncer.exists(), "{} is missing: apt-get install pgbouncer, or set PGBOUNCER", pgbouncer.display());
        Self { node, nodes: cluster.nodes(), directory, pgbouncer }
    }

    pub fn describe(&self) -> String {
        let version = |program: &Path| {
            let out = Command::new(program).arg("--version").output().unwrap();
            String::from_utf8_lossy(&out.stdout).lines().next().unwrap_or_default().to_owned()
        };
        let server = self.node.sql("select version()").unwrap().cell().unwrap_or_default().to_owned();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        format!("{}\n{}\n{server}\n{cores} cores", version(&howdah()), version(&self.pgbouncer))
    }
}

/// The one that was built along, or `HOWDAH=path`.
pub fn howdah() -> PathBuf {
    std::env::var_os("HOWDAH").map_or_else(|| env!("CARGO_BIN_EXE_howdah").into(), PathBuf::from)
}

/// Another howdah to compare it with in the same run: `BEFORE=path`.
fn before() -> Option<PathBuf> {
    std::env::var_os("BEFORE").map(PathBuf::from)
}

/// A client program of PostgreSQL, pointed at a port.
pub fn client(program: &str, node: &Node, port: u16) -> Command {
    let mut command = node.command(program);
    command
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", port.to_string())
        .env("PGUSER", USER)
        .env("PGPASSWORD", PASSWORD)
        // as root it would look for certificates where PostgreSQL's user may not
        .env("HOME", "/nonexistent")
        .env("PGSSLMODE", "disable");
    command
}

/// A pooler that is running.
pub struct Peer {
    pub name: String,
    pub port: u16,
    process: Rc<Process>,
}

/// Ends with the last of its peers.
struct Process(Child);

impl Peer {
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// The same process by another of its ports.
    pub fn beside(&self, name: &str, port: u16) -> Self {
        Self { name: name.to_owned(), port, process: Rc::clone(&self.process) }
    }

    /// howdah with so many workers.
    pub fn howdah(bed: &Bed<'_>, door: Door, servers: u32, workers: u32) -> Self {
        let name = if workers == 1 { "howdah".to_owned() } else { format!("howdah, {workers} workers") };
        Self::howdah_to(bed, &howdah(), door, servers, workers, bed.node.host(), name)
    }

    /// howdah as it was before a change, if there is one to compare with.
    pub fn howdah_before(bed: &Bed<'_>, door: Door, servers: u32) -> Option<Self> {
        let name = "howdah, before".to_owned();
        before().map(|program| Self::howdah_to(bed, &program, door, servers, 1, bed.node.host(), name))
    }

    /// howdah that reaches PostgreSQL by its socket.
    pub fn howdah_by_socket(bed: &Bed<'_>, door: Door, servers: u32) -> Self {
        let sockets = bed.node.sockets().display().to_string();
        Self::howdah_to(bed, &howdah(), door, servers, 1, &sockets, "howdah, servers by Unix socket".to_owned())
    }

    fn howdah_to(
        bed: &Bed<'_>,
        program: &Path,
        door: Door,
        servers: u32,
        workers: u32,
        host: &str,
        name: String,
    ) -> Self {
        let port = free_port().unwrap();
        let server_port = bed.node.port();
        let method = if door == Door::Trust { "trust" } else { "scram-sha-256" };
        let crt = bed.directory.join("server.crt");
        let key = bed.directory.join("server.key");
        let tls = match door {
            Door::Tls => format!("tls = {{ cert = {crt:?}, key = {key:?}, mode = \"require\" }}"),
            _ => String::new(),
        };
        // a Unix socket has none
        let server_tls = if host.starts_with('/') { "" } else { "tls = { mode = \"disable\" }" };
        let (monitor, monitor_password) = (bed.node.superuser(), bed.node.password());
        let config = format!(
            "[limits]\nworkers = {workers}\n[[listeners]]\naddress = \"127.0.0.1:{port}\"\n{tls}\n\
             [pool]\nsize = {servers}\n[auth]\nmethod = \"{method}\"\n[users.{USER}]\npassword = \"{PASSWORD}\"\n\
             [clusters.main.monitor]\nuser = \"{monitor}\"\npassword = \"{monitor_password}\"\ninterval = \"2s\"\n\
             [[clusters.main.nodes]]\nname = \"a\"\nhost = \"{host}\"\nport = {server_port}\n{server_tls}\n\
             [databases.\"*\"]\ncluster = \"main\"\n[http]\naddress = \"off\"\n[log]\nlevel = \"warn\"\n"
        );
        Self::serve_by(bed, program, name, port, &config)
    }

    /// howdah with this configuration, which listens on `port`.
    pub fn serve(bed: &Bed<'_>, name: String, port: u16, config: &str) -> Self {
        Self::serve_by(bed, &howdah(), name, port, config)
    }

    fn serve_by(bed: &Bed<'_>, program: &Path, name: String, port: u16, config: &str) -> Self {
        let path = bed.directory.join(format!("howdah-{port}.toml"));
        std::fs::write(&path, config).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap(); // a password is in it
        let child = Command::new(program).arg("serve").arg("-c").arg(&path).spawn().unwrap();
        Self::ready(name, port, child)
    }

    /// PgBouncer, with its own packet buffer or a larger one.
    pub fn pgbouncer(bed: &Bed<'_>, door: Door, servers: u32, pkt_buf: u32) -> Self {
        let port = free_port().unwrap();
        let (host, server_port, directory) = (bed.node.host(), bed.node.port(), bed.directory.display());
        let auth = if door == Door::Trust { "trust" } else { "scram-sha-256" };
        let tls = match door {
            Door::Tls => format!(
                "client_tls_sslmode = require\nclient_tls_cert_file = {directory}/server.crt\n\
                 client_tls_key_file = {directory}/server.key\n"
            ),
            _ => String::new(),
        };
        let config = format!(
            "[databases]\n* = host={host} port={server_port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = {auth}\nauth_file = {directory}/users-{port}.txt\npool_mode = transaction\n\
             default_pool_size = {servers}\nmax_client_conn = 10000\nserver_tls_sslmode = disable\npkt_buf = {pkt_buf}\n\
             log_connections = 0\nlog_disconnections = 0\nlog_stats = 0\nignore_startup_parameters = extra_float_digits\n{tls}"
        );
        let path = bed.directory.join(format!("pgbouncer-{port}.ini"));
        std::fs::write(&path, config).unwrap();
        let mut users = std::fs::File::create(bed.directory.join(format!("users-{port}.txt"))).unwrap();
        writeln!(users, "\"{USER}\" \"{PASSWORD}\"").unwrap();
        // it refuses to run as root: as whoever PostgreSQL runs
        let mut command = bed.node.command(bed.pgbouncer.to_str().unwrap());
        let child = command.arg("-q").arg(&path).stdin(Stdio::null()).spawn().unwrap();
        let name = if pkt_buf == 4096 { "pgbouncer".to_owned() } else { format!("pgbouncer, pkt_buf {pkt_buf}") };
        Self::ready(name, port, child)
    }

    fn ready(name: String, port: u16, child: Child) -> Self {
        let mut process = Process(child);
        let until = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(process.0.try_wait().unwrap().is_none(), "{name} ended at once");
            assert!(Instant::now() < until, "{name} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { name, port, process: Rc::new(process) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
