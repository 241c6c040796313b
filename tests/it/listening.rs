//! Clients come in by Unix sockets and by sockets that systemd has opened; the kernel is told when to give a connection up.

use std::fs::{File, Permissions};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::wire::Client;
use crate::support::{Howdah, SOON, Tenant, binary, config, eventually, free_port, poll, private, shared};

const SOCKET: &str = ".s.PGSQL.6432";

/// The configuration of the shared primary with these listeners.
fn listening(listeners: &str, http_port: u16, extra: &str) -> String {
    let toml = config(shared().nodes(), 1, http_port, extra);
    toml.replacen("[[listeners]]\naddress = \"127.0.0.1:1\"\n", listeners, 1)
}

fn unix_listener(directory: &Path, more: &str) -> String {
    format!("[[listeners]]\naddress = \"unix:{}\"\n{more}\n", directory.display())
}

#[track_caller]
fn works(mut client: Client, tenant: &Tenant) {
    client.login(&tenant.name, &tenant.password, &tenant.name);
    assert_eq!(client.value("SELECT 'served'"), "served");
}

#[test]
fn a_unix_socket_has_its_mode_its_group_and_its_lock_and_goes_with_the_daemon() {
    let tenant = Tenant::shared();
    let directory = tempfile::tempdir().unwrap();
    let (socket, lock) = (directory.path().join(SOCKET), directory.path().join(format!("{SOCKET}.lock")));
    let group = std::fs::metadata(directory.path()).unwrap().gid();
    let more = format!("socket_mode = \"0750\"\nsocket_group = \"{group}\"\n");
    let http_port = free_port().unwrap();
    let toml = listening(&unix_listener(directory.path(), &more), http_port, "");
    let howdah = Howdah::start(&toml, 0, http_port);
    works(Client::connect_unix(&socket).unwrap(), &tenant);
    let metadata = std::fs::metadata(&socket).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.gid()), (0o750, group));
    assert_eq!(std::fs::read_to_string(&lock).unwrap().trim(), howdah.pid().to_string());

    // whoever comes second is told who was first, and takes nothing away
    let second = Howdah::start_unready(
        &listening(&unix_listener(directory.path(), ""), 0, "").replace("127.0.0.1:0", "off"),
        0,
        0,
    );
    assert!(!second.exit_status(SOON).success());
    assert!(second.log().contains(&format!("process {} holds the lock", howdah.pid())), "{}", second.log());
    works(Client::connect_unix(&socket).unwrap(), &tenant);

    // what a crash leaves is taken over
    howdah.kill();
    assert!(socket.exists() && lock.exists());
    let howdah = Howdah::start(&toml, 0, http_port);
    works(Client::connect_unix(&socket).unwrap(), &tenant);
    howdah.stop(SOON);
    assert!(!socket.exists() && !lock.exists());
}

/// A howdah as systemd starts it, killed when dropped.
struct Activated {
    child: Child,
    log: std::path::PathBuf,
}

impl Activated {
    /// With `first` as descriptor 3 and `second` as 4.
    fn start(directory: &Path, toml: &str, names: &str, first: OwnedFd, second: OwnedFd) -> Self {
        let (path, log) = (directory.join("howdah.toml"), directory.join("log"));
        private(&path, toml);
        // the shell hands over what systemd would: it knows its process id before it becomes howdah
        let script = "exec env LISTEN_PID=$$ LISTEN_FDS=2 \"LISTEN_FDNAMES=$2\" \"NOTIFY_SOCKET=$3\" \
                      \"$0\" serve -c \"$1\" 3<&0 4<&1 0</dev/null 1>&2";
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(binary()).arg(&path).arg(names).arg(directory.join("notify"));
        command.stdin(first).stdout(second).stderr(File::create(&log).unwrap());
        Self { child: command.spawn().unwrap(), log }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

#[test]
fn sockets_from_systemd_are_taken_by_address_or_by_name_and_systemd_is_told_what_happens() {
    let tenant = Tenant::shared();
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let notified = UnixDatagram::bind(directory.path().join("notify")).unwrap();
    notified.set_read_timeout(Some(SOON)).unwrap();
    let told = || {
        let mut buffer = [0; 256];
        let read = notified.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..read]).into_owned()
    };
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let path = directory.path().join("socket");
    let unix = UnixListener::bind(&path).unwrap();
    // clients that come before there is a howdah wait
    let early = Client::connect(("127.0.0.1", port)).unwrap();
    let listeners =
        format!("[[listeners]]\naddress = \"127.0.0.1:{port}\"\n[[listeners]]\naddress = \"systemd:local.socket\"\n\n");
    let user = format!("[users.{}]\npassword = \"{}\"\n", tenant.name, tenant.password);
    let toml = listening(&listeners, free_port().unwrap(), &user);
    let kept = tcp.try_clone().unwrap();
    let mut howdah = Activated::start(directory.path(), &toml, "howdah.socket:local.socket", tcp.into(), unix.into());
    assert_eq!(told().trim(), "READY=1");
    works(early, &tenant);
    works(Client::connect(("127.0.0.1", port)).unwrap(), &tenant);
    works(Client::connect_unix(&path).unwrap(), &tenant);

    howdah.signal(Signal::HUP);
    let reloading = told();
    assert!(reloading.contains("RELOADING=1") && reloading.contains("MONOTONIC_USEC="), "{reloading}");
    assert_eq!(told().trim(), "READY=1");
    works(Client::connect(("127.0.0.1", port)).unwrap(), &tenant);
    howdah.signal(Signal::TERM);
    assert_eq!(told().trim(), "STOPPING=1");
    assert!(poll(SOON, || howdah.child.try_wait().unwrap()).is_some_and(|status| status.success()));
    assert!(path.exists(), "it is systemd's");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok(), "systemd holds on to it");
    drop(kept);
}

#[test]
fn a_name_that_systemd_does_not_know_and_a_socket_that_nobody_wants_are_said() {
    let directory = tempfile::tempdir().unwrap();
    let sockets = || [(); 2].map(|()| OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap()));
    let toml = listening("[[listeners]]\naddress = \"systemd:howdah\"\n\n", free_port().unwrap(), "");
    let [first, second] = sockets();
    let mut howdah = Activated::start(directory.path(), &toml, "one:other", first, second);
    assert!(poll(SOON, || howdah.child.try_wait().unwrap()).is_some_and(|status| !status.success()));
    let said = howdah.log();
    assert!(said.contains("systemd:howdah") && said.contains("but \"one\", \"other\""), "{said}");
    let [first, second] = sockets();
    let howdah = Activated::start(directory.path(), &toml, "other:howdah", first, second);
    eventually("it says so", SOON, || howdah.log().contains("belongs to no listener"));
}

/// The seconds until the kernel's next question on each connection between these ports, as `/proc/net/tcp` has them.
fn keepalives(local: Option<u16>, remote: Option<u16>) -> Vec<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let is = |address: &str, port: Option<u16>| port.is_none_or(|port| address.ends_with(&format!(":{port:04X}")));
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let of_connections = fields.filter(|fields| fields.get(3) == Some(&"01"));
    let ours = of_connections.filter(|fields| is(fields[1], local) && is(fields[2], remote));
    let timers = ours.filter_map(|fields| fields[5].strip_prefix("02:").map(str::to_owned));
    timers.map(|when| u64::from_str_radix(&when, 16).unwrap() / 100).collect()
}

#[test]
fn the_kernel_asks_after_quiet_clients_and_servers_as_configured() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[network]\nkeepalive_idle = \"1000s\"\n");
    let _client = howdah.login(&tenant);
    let about = |seconds: &u64, expected: u64| (expected - 60..=expected).contains(seconds);
    eventually("the client is asked after", SOON, || {
        keepalives(Some(howdah.port()), None).iter().any(|seconds| about(seconds, 1000))
    });
    eventually("the server is asked after", SOON, || {
        keepalives(None, Some(shared().primary().port())).iter().any(|seconds| about(seconds, 1000))
    });
    let toml = std::fs::read_to_string(howdah.config()).unwrap();
    howdah.reload(&toml.replace("1000s", "2000s"));
    let mut clients = Vec::new();
    eventually("new clients are asked after later", SOON, || {
        clients.push(howdah.login(&tenant));
        keepalives(Some(howdah.port()), None).iter().any(|seconds| about(seconds, 2000))
    });
    howdah.reload(&toml.replace("1000s", "0"));
    eventually("or never", SOON, || {
        let before = keepalives(Some(howdah.port()), None).len();
        clients.push(howdah.login(&tenant));
        std::thread::sleep(Duration::from_millis(20));
        keepalives(Some(howdah.port()), None).len() == before
    });
}
