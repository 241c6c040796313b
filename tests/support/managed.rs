//! A cluster that howdah takes care of: nodes, an agent with its supervisor beside each, and the daemon in front.
//!
//! Not here: what is done to it ([`checker`](howdah::demo::checker::Checker) watches what clients make of that).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use howdah::demo::agent::{Agent, Extras, enterable};
use howdah::demo::checker::{self, Checker, Verdict};
use howdah::demo::scratch::Scratch;
use howdah::directive::{AgentStatus, Job};
use parking_lot::{Mutex, MutexGuard};

use super::{Builder, Cluster, Howdah, Node, Tenant, binary, builder, eventually, free_port, poll};

/// For a failover, a rejoin, a copy of a small data directory, on a machine that has other things to do.
pub const A_WHILE: Duration = Duration::from_secs(60);

/// What a managed cluster shall be like; see [`managed`].
pub struct Plan {
    standbys: usize,
    cluster: Builder,
    failover: String,
    more: String,
    agents: String,
    monitor: String,
    environment: BTreeMap<String, String>,
    programs: Option<PathBuf>,
    binary: PathBuf,
}

/// The beginning of a cluster of a primary `a` and standbys `b` and `c`.
pub fn managed() -> Plan {
    Plan {
        standbys: 2,
        cluster: builder().prefix("howdah-ha").slots("howdah_").setting("max_connections", "120"),
        failover: String::new(),
        more: String::new(),
        agents: String::new(),
        monitor: String::new(),
        environment: BTreeMap::new(),
        programs: None,
        binary: binary().to_owned(),
    }
}

impl Plan {
    /// So many standbys.
    pub fn standbys(mut self, count: usize) -> Self {
        self.standbys = count;
        self
    }

    /// A line of postgresql.conf.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.cluster = self.cluster.setting(name, value);
        self
    }

    /// A line below `[clusters.main.failover]`.
    pub fn failover(mut self, line: &str) -> Self {
        self.failover = format!("{}{line}\n", self.failover);
        self
    }

    /// A line below `[clusters.main.monitor]`.
    pub fn monitor(mut self, line: &str) -> Self {
        self.monitor = format!("{}{line}\n", self.monitor);
        self
    }

    /// The end of howdah.toml; begins with a table header.
    pub fn extra(mut self, toml: &str) -> Self {
        self.more = format!("{}{toml}\n", self.more);
        self
    }

    /// The end of each agent.toml; begins with a table header.
    pub fn agents(mut self, toml: &str) -> Self {
        self.agents = format!("{}{toml}\n", self.agents);
        self
    }

    /// Where the agents find PostgreSQL's programs; see [`Programs`].
    pub fn programs(mut self, programs: &Programs) -> Self {
        self.programs = Some(programs.path().to_owned());
        self
    }

    /// Another build of howdah, for the daemon and the agents.
    pub fn binary(mut self, binary: &Path) -> Self {
        binary.clone_into(&mut self.binary);
        self
    }

    /// A variable in the environment of the daemon and the agents.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Starts all of it, and waits until the daemon routes and every standby streams.
    #[track_caller]
    pub fn start(self) -> Managed {
        let mut cluster = self.cluster;
        for name in ('b'..='z').take(self.standbys) {
            cluster = cluster.standby(&name.to_string());
        }
        let cluster = cluster.start().unwrap_or_else(|error| panic!("{error}"));
        let program = program(&self.binary, cluster.primary());
        let agents: Vec<Agent> = cluster
            .nodes()
            .iter()
            .map(|node| {
                let extras = Extras {
                    toml: self.agents.clone(),
                    environment: self.environment.clone(),
                    programs: self.programs.clone(),
                    unit: None,
                };
                Agent::start_with(node, "main", &program, extras).unwrap_or_else(|error| panic!("{error}"))
            })
            .collect();
        for agent in &agents {
            agent.wait_ready().unwrap_or_else(|error| panic!("{error}"));
        }
        let tenant = Tenant::on(cluster.primary());
        let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
        let mut managed = Managed {
            howdah: None,
            agents,
            tenant,
            port,
            http_port,
            failover: self.failover,
            monitor: self.monitor,
            more: self.more,
            environment: self.environment,
            binary: self.binary,
            cluster,
        };
        managed.start_daemon();
        managed.settled();
        managed
    }
}

/// PostgreSQL's programs, some of them replaced by scripts that fail, hang or tell.
pub struct Programs(Scratch);

impl Programs {
    /// Links to all of them.
    pub fn links() -> Self {
        let scratch = Scratch::new("howdah-programs").unwrap();
        for entry in std::fs::read_dir(super::shared().primary().binaries().directory()).unwrap() {
            let program = entry.unwrap().path();
            std::os::unix::fs::symlink(&program, scratch.path().join(program.file_name().unwrap())).unwrap();
        }
        Self(scratch)
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A shell script in place of a program; `$REAL` is the program itself.
    pub fn replace(&self, program: &str, script: &str) {
        let path = self.0.path().join(program);
        let real = super::shared().primary().binaries().directory().join(program);
        let _ = std::fs::remove_file(&path);
        std::fs::write(
            &path,
            format!("#!/bin/sh\nREAL={}\nHERE={}\n{script}\n", real.display(), self.path().display()),
        )
        .unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
}

/// Where the agents of this process have their program: one link or copy for all of them.
fn program(binary: &Path, node: &Node) -> PathBuf {
    static PLACE: OnceLock<Scratch> = OnceLock::new(); // its watcher removes it
    let place = PLACE.get_or_init(|| Scratch::new("howdah-agents").unwrap());
    let name = binary.to_string_lossy().replace('/', "_");
    let directory = place.path().join(name);
    std::fs::create_dir_all(&directory).unwrap();
    enterable(binary, &directory, node.binaries()).unwrap()
}

/// A running cluster with agents and daemon. Dropping it leaves nothing.
pub struct Managed {
    howdah: Option<Howdah>, // the one who decides goes first, those who act next, those who are acted on last
    agents: Vec<Agent>,
    tenant: Tenant,
    port: u16,
    http_port: u16,
    failover: String,
    monitor: String,
    more: String,
    environment: BTreeMap<String, String>,
    binary: PathBuf,
    cluster: Cluster,
}

impl Managed {
    /// Its howdah.toml, with `primary = "…"` where one is declared.
    pub fn toml(&self, declared: Option<&str>) -> String {
        let first = self.cluster.primary();
        let mut toml = format!(
            "[[listeners]]\naddress = \"127.0.0.1:{}\"\n\n[http]\naddress = \"127.0.0.1:{}\"\n\n\
             [databases.\"*\"]\ncluster = \"main\"\n\n[store]\npath = \"{}\"\n\n[admin]\nusers = [\"{}\"]\n\n",
            self.port,
            self.http_port,
            self.store().display(),
            first.superuser(),
        );
        if let Some(declared) = declared {
            write!(toml, "[clusters.main]\nprimary = \"{declared}\"\n\n").unwrap();
        }
        write!(
            toml,
            "[clusters.main.monitor]\nuser = \"{}\"\npassword = \"{}\"\n{}\n[clusters.main.failover]\n{}\n",
            first.superuser(),
            first.password(),
            self.monitor,
            self.failover,
        )
        .unwrap();
        for (node, agent) in self.cluster.nodes().iter().zip(&self.agents) {
            let (name, host, port, agent) = (node.name(), node.host(), node.port(), agent.address());
            write!(
                toml,
                "[[clusters.main.nodes]]\nname = \"{name}\"\nhost = \"{host}\"\nport = {port}\nagent = \"{agent}\"\n\n"
            )
            .unwrap();
        }
        toml + &self.more
    }

    /// Where the daemon keeps its record.
    pub fn store(&self) -> PathBuf {
        self.cluster.directory().join("store")
    }

    /// Starts the daemon, where it was; does not wait.
    #[track_caller]
    pub fn start_daemon_unready(&mut self) {
        self.start_daemon_with(&[]);
    }

    /// [`Self::start_daemon_unready`], with variables in the environment of this one life.
    #[track_caller]
    pub fn start_daemon_with(&mut self, environment: &[(&str, &Path)]) {
        self.howdah = None; // the ports are free then
        let mut command = std::process::Command::new(&self.binary);
        command.envs(&self.environment).envs(environment.iter().copied());
        self.howdah = Some(Howdah::start_command(command, &self.toml(None), self.port, self.http_port));
    }

    /// Starts the daemon, where it was, and waits until it is ready.
    #[track_caller]
    pub fn start_daemon(&mut self) {
        self.start_daemon_unready();
        self.howdah().wait_ready();
    }

    /// The daemon.
    #[track_caller]
    pub fn howdah(&self) -> &Howdah {
        self.howdah.as_ref().expect("a daemon that runs")
    }

    /// `kill -9` of the daemon.
    pub fn kill_daemon(&mut self) {
        self.howdah = None;
    }

    /// The daemon forgets its record, as with a new disk: it learns from the agents who is the primary, and of no failover before.
    #[track_caller]
    pub fn forget(&mut self) {
        self.forget_with(&[]);
    }

    /// [`Self::forget`], with variables in the environment of the life that begins.
    #[track_caller]
    pub fn forget_with(&mut self, environment: &[(&str, &Path)]) {
        self.kill_daemon();
        let _ = std::fs::remove_dir_all(self.store());
        self.start_daemon_with(environment);
        self.howdah().wait_ready();
        self.settled();
    }

    /// Runs a command of the operator's against the daemon.
    pub fn operate(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = std::process::Command::new(&self.binary);
        command.args(arguments).arg("-c").arg(self.howdah().config());
        command.output().unwrap()
    }

    /// Asks the API for something: `POST /clusters/main/COMMAND`.
    #[track_caller]
    pub fn ask(&self, command: &str, body: &str) -> (u16, serde_json::Value) {
        let path = format!("/clusters/main/{command}");
        let (status, body) = http_post(self.http_port, &path, body).expect("an answer of the API");
        (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{status}: {body}")))
    }

    /// [`Self::ask`] of a daemon that may be gone before it answers.
    pub fn try_ask(&self, command: &str, body: &str) -> Option<u16> {
        Some(http_post(self.http_port, &format!("/clusters/main/{command}"), body)?.0)
    }

    /// Looks at something: `GET /clusters/main/PATH`.
    #[track_caller]
    pub fn look(&self, path: &str) -> serde_json::Value {
        let answer = self.howdah().get(&format!("/clusters/main/{path}")).expect("an answer of the API");
        assert_eq!(answer.0, 200, "{}", answer.1);
        serde_json::from_str(&answer.1).unwrap()
    }

    /// Asks for something that must be taken, waits for its end, and returns the operation.
    #[track_caller]
    pub fn done(&self, command: &str, body: &str) -> serde_json::Value {
        let (status, taken) = self.ask(command, body);
        assert!(status == 202 || status == 200, "{command} {body}: {status} {taken}\n{}", self.report());
        let id = taken["id"].as_str().unwrap_or_default().to_owned();
        if id.is_empty() {
            return serde_json::Value::Null;
        }
        let mut last = serde_json::Value::Null;
        self.until(&format!("the end of {id}"), || {
            last = self.look(&format!("operations/{id}"));
            !last["ended_ms"].is_null()
        });
        last
    }

    /// A switchover, which must be done.
    #[track_caller]
    pub fn switchover(&self, to: Option<&str>) {
        let body = to.map_or_else(|| "{}".to_owned(), |to| format!("{{\"to\": \"{to}\"}}"));
        let ended = self.done("switchover", &body);
        assert_eq!(ended["state"], "done", "{ended:#}\n{}", self.report());
    }

    /// PostgreSQL's nodes.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// A database and a role that are there.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// How the tenant connects through howdah.
    pub fn target(&self) -> tokio_postgres::Config {
        let mut config = self.tenant.config(self.port);
        config.connect_timeout(Duration::from_secs(10));
        config
    }

    /// A node.
    #[track_caller]
    pub fn node(&self, name: &str) -> &Node {
        self.cluster.find(name).expect("a node of this name")
    }

    /// Its agent.
    #[track_caller]
    pub fn agent(&self, name: &str) -> &Agent {
        self.agents.iter().find(|agent| agent.node() == name).expect("an agent of this name")
    }

    /// What an agent says of its last jobs, the newest first.
    #[track_caller]
    pub fn jobs(&self, node: &str) -> Vec<Job> {
        let jobs = agent_get(self.agent(node), "/v1/jobs").expect("an answer of the agent");
        serde_json::from_value(jobs).unwrap()
    }

    /// Gives an order to an agent, beside the daemon.
    #[track_caller]
    pub fn order(&self, node: &str, order: &str) -> (u16, serde_json::Value) {
        let socket = std::os::unix::net::UnixStream::connect(self.agent(node).socket()).unwrap();
        socket.set_read_timeout(Some(super::SOON)).unwrap();
        let (status, body) = post(socket, "/v1/jobs", order).expect("an answer of the agent");
        (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{status}: {body}")))
    }

    /// What an agent says of itself; `None` when it does not answer.
    pub fn agent_status(&self, node: &str) -> Option<AgentStatus> {
        serde_json::from_value(agent_get(self.agent(node), "/v1/status")?).ok()
    }

    /// Everything the daemon says of itself, as text.
    pub fn words(&self) -> String {
        self.howdah.as_ref().and_then(|howdah| howdah.get("/status")).map_or_else(String::new, |(_, body)| body)
    }

    /// Clients that insert, after everybody has had a row acknowledged.
    #[track_caller]
    pub fn load(&self) -> Checker {
        let tenant = self.tenant();
        self.primary_node().sql_in(&tenant.name, "TRUNCATE ledger").unwrap();
        let checker = Checker::start(&self.target(), 6, Duration::from_millis(2)).unwrap();
        self.until("a load", || checker.acknowledged() > 200);
        checker
    }

    /// Waits until every client of `checker` has had a row acknowledged since `mark` by the present primary.
    #[track_caller]
    pub fn served_again(&self, checker: &Checker, mark: Instant) {
        self.until("everybody is served by the primary", || {
            let port = self.primary().and_then(|name| self.cluster.find(&name).map(|node| i32::from(node.port())));
            let window = checker.window(mark);
            window.everybody && port.is_some() && window.servers.last().copied() == port
        });
    }

    /// Ends the clients and compares.
    #[track_caller]
    pub fn judged(&self, mut checker: Checker) -> Verdict {
        checker.finish();
        let (primary, tenant) = (self.primary_node(), self.tenant());
        checker.verify(|| primary.sql_in(&tenant.name, checker::PRESENT)).unwrap()
    }

    /// All agents.
    pub fn agents(&self) -> &[Agent] {
        &self.agents
    }

    /// What `GET /status` says of the cluster; `Null` when it does not answer.
    pub fn main(&self) -> serde_json::Value {
        let answer = self.howdah.as_ref().and_then(|howdah| howdah.get("/status"));
        let Some((200, body)) = answer else { return serde_json::Value::Null };
        serde_json::from_str::<serde_json::Value>(&body)
            .map_or(serde_json::Value::Null, |all| all["clusters"][0].clone())
    }

    /// Whom the daemon takes for the primary.
    pub fn primary(&self) -> Option<String> {
        self.main()["primary"].as_str().map(ToOwned::to_owned)
    }

    /// The node that the daemon takes for the primary.
    #[track_caller]
    pub fn primary_node(&self) -> &Node {
        let name = poll(A_WHILE, || self.primary());
        self.node(&name.expect("a primary"))
    }

    /// The count of promotions.
    pub fn epoch(&self) -> u64 {
        self.main()["epoch"].as_u64().unwrap_or_default()
    }

    /// The nodes that accept writes, whatever anybody thinks.
    pub fn writable(&self) -> Vec<&str> {
        let writes = |node: &&Node| node.in_recovery().is_ok_and(|recovery| !recovery);
        self.cluster.nodes().iter().filter(writes).map(Node::name).collect()
    }

    /// Whether there is one primary, known to the daemon, from which every other node streams.
    pub fn is_settled(&self) -> bool {
        let Some(primary) = self.primary() else { return false };
        let Some(node) = self.cluster.find(&primary) else { return false };
        let Ok(streaming) = node.sql(
            "SELECT count(DISTINCT application_name) FROM pg_stat_replication
             WHERE state = 'streaming' AND NOT pg_is_in_recovery()",
        ) else {
            return false;
        };
        let others = self.cluster.nodes().len() - 1;
        streaming.cell().and_then(|cell| cell.parse().ok()) == Some(others)
            && self.writable() == [primary.as_str()]
            && self.cluster.nodes().iter().filter(|other| other.name() != primary).all(|other| follows(other, node))
    }

    /// Waits until all is well, and says who the primary is.
    #[track_caller]
    pub fn settled(&self) -> String {
        let settled = poll(2 * A_WHILE, || self.is_settled().then(|| self.primary()).flatten());
        settled.unwrap_or_else(|| panic!("not settled within {:?}:\n{}", 2 * A_WHILE, self.report()))
    }

    /// Waits until the primary is another one than `old`, and says which.
    #[track_caller]
    pub fn other_primary(&self, old: &str) -> String {
        let other = poll(A_WHILE, || self.primary().filter(|primary| primary != old));
        other.unwrap_or_else(|| panic!("no failover from {old} within {A_WHILE:?}:\n{}", self.report()))
    }

    /// [`eventually`], with all that is known when it does not.
    #[track_caller]
    pub fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let met = poll(A_WHILE, || condition().then_some(()));
        assert!(met.is_some(), "not within {A_WHILE:?}: {what}\n{}", self.report());
    }

    /// All there is to know, for a test that fails.
    pub fn report(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "status: {:#}", self.main());
        for agent in &self.agents {
            let _ = writeln!(text, "--- agent of {} ({} starts)\n{}", agent.node(), agent.starts(), agent.log_tail(25));
        }
        text + &self.cluster.log_tails(12)
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.report());
        }
    }
}

/// A cluster of three that one test after the other may use; each finds it whole, or gets another.
pub fn lent() -> MutexGuard<'static, Option<Managed>> {
    static LENT: Mutex<Option<Managed>> = Mutex::new(None);
    let mut lent = LENT.lock();
    if let Some(managed) = lent.as_mut() {
        let whole = poll(A_WHILE / 2, || managed.is_settled().then_some(())).is_some();
        if whole {
            managed.forget();
            return lent;
        }
        eprintln!("the test before has left this behind:\n{}", managed.report());
    }
    *lent = None;
    let managed = managed().failover("restart_if = \"0\"").start();
    super::drill::prepare(&managed);
    *lent = Some(managed);
    lent
}

/// One POST of JSON.
fn http_post(port: u16, path: &str, body: &str) -> Option<(u16, String)> {
    let socket = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    socket.set_read_timeout(Some(super::SOON)).ok()?;
    post(socket, path, body)
}

fn post(mut socket: impl Read + Write, path: &str, body: &str) -> Option<(u16, String)> {
    write!(
        socket,
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
    .ok()?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// One request to an agent.
pub fn agent_get(agent: &Agent, path: &str) -> Option<serde_json::Value> {
    let mut socket = std::os::unix::net::UnixStream::connect(agent.socket()).ok()?;
    socket.set_read_timeout(Some(super::SOON)).ok()?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    if !head.starts_with("HTTP/1.1 200") {
        return None;
    }
    let from = body.find(['{', '['])?;
    let to = body.rfind(['}', ']'])?;
    serde_json::from_str(&body[from..=to]).ok()
}

/// Whether a node streams from another one.
fn follows(node: &Node, primary: &Node) -> bool {
    let sql = "SELECT sender_port FROM pg_stat_wal_receiver WHERE status = 'streaming'";
    node.sql(sql).is_ok_and(|rows| rows.cell().and_then(|port| port.parse().ok()) == Some(primary.port()))
}
