//! `howdah agent` beside a real PostgreSQL: what it tells, whom it obeys, and what a fence leaves.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use howdah::demo::agent::{Agent, Extras, configuration, enterable};
use howdah::demo::process::Process;
use howdah::directive::{
    Accepting, AgentEvent, AgentStatus, Code, Directive, Failure, Job, JobState, ORDER_BYTES_MAX, Order,
};
use howdah::topology::Epoch;
use rustix::process::{Pid, kill_process};

use super::support::orphans::Orphans;
use super::support::tls::Authority;
use super::support::{Cluster, Node, Signal, binary, builder, eventually, free_port, poll, private, shared};

/// For anything that should happen soon, on a machine that has other things to do.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// A node with its agent.
pub(crate) struct Pair {
    agent: Agent,
    cluster: Cluster,
}

impl Pair {
    #[track_caller]
    pub(crate) fn beside(cluster: Cluster, node: &str) -> Self {
        Self::beside_with(cluster, node, Extras::default())
    }

    #[track_caller]
    pub(crate) fn beside_with(cluster: Cluster, node: &str, extras: Extras) -> Self {
        let agent = Agent::start_with(cluster.find(node).unwrap(), "main", binary(), extras).unwrap();
        agent.wait_ready().unwrap();
        Self { agent, cluster }
    }

    fn primary() -> Self {
        Self::beside(builder().prefix("howdah-agent").start().unwrap(), "a")
    }

    pub(crate) fn node(&self) -> &Node {
        self.cluster.find(self.agent.node()).unwrap()
    }

    fn get(&self, path: &str) -> (u16, String) {
        http(self.agent.socket(), "GET", path, "")
    }

    #[track_caller]
    fn status(&self) -> AgentStatus {
        let (status, body) = self.get("/v1/status");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    pub(crate) fn order(&self, id: &str, epoch: u64, directive: Directive) -> Order {
        Order {
            id: id.into(),
            cluster: "main".into(),
            node: self.agent.node().into(),
            epoch: Epoch(epoch),
            coordinator: "c1".into(),
            correlation: format!("correlation-of-{id}"),
            directive,
        }
    }

    fn post(&self, order: &Order) -> (u16, String) {
        http(self.agent.socket(), "POST", "/v1/jobs", &serde_json::to_string(order).unwrap())
    }

    #[track_caller]
    fn take(&self, order: &Order) {
        let (status, body) = self.post(order);
        assert_eq!(status, 202, "{body}\n{}", self.agent.log_tail(20));
    }

    #[track_caller]
    fn refused(&self, order: &Order) -> (u16, Failure) {
        let (status, body) = self.post(order);
        (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{status} {body}")))
    }

    #[track_caller]
    pub(crate) fn failed(&self, order: &Order) -> Job {
        self.take(order);
        let job = self.ended(&order.id);
        assert_eq!(job.state, JobState::Failed, "{job:#?}\n{}", self.agent.log_tail(30));
        job
    }

    #[track_caller]
    fn ended(&self, id: &str) -> Job {
        let job = poll(BOUND, || {
            let (status, body) = self.get(&format!("/v1/jobs/{id}"));
            assert_eq!(status, 200, "{body}");
            Some(serde_json::from_str::<Job>(&body).unwrap()).filter(|job| job.state.is_terminal())
        });
        job.unwrap_or_else(|| panic!("{id} does not end: {:?}\n{}", self.get("/v1/jobs"), self.agent.log_tail(30)))
    }

    #[track_caller]
    pub(crate) fn completed(&self, order: &Order) -> Job {
        self.take(order);
        let job = self.ended(&order.id);
        assert_eq!(job.state, JobState::Completed, "{job:#?}\n{}", self.agent.log_tail(30));
        job
    }

    /// Reads events as they come, with their moment.
    fn events(&self) -> mpsc::Receiver<(Instant, AgentEvent)> {
        let mut socket = UnixStream::connect(self.agent.socket()).unwrap();
        write!(socket, "GET /v1/events HTTP/1.1\r\nHost: agent\r\n\r\n").unwrap();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            // a chunk holds a line; what is between them does not begin with a brace
            for line in BufReader::new(socket).lines().map_while(Result::ok).filter(|line| line.starts_with('{')) {
                if tell.send((Instant::now(), serde_json::from_str(&line).unwrap())).is_err() {
                    return;
                }
            }
        });
        told
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- agent\n{}\n--- postgres\n{}", self.agent.log_tail(40), self.node().log_tail(20));
        }
    }
}

fn http(socket: &Path, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut socket = poll(BOUND, || UnixStream::connect(socket).ok()).expect("the agent listens");
    socket.set_read_timeout(Some(BOUND)).unwrap();
    exchange(&mut socket, method, path, body)
}

fn exchange(socket: &mut (impl Read + Write), method: &str, path: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    socket.write_all(head.as_bytes()).unwrap();
    let _ = socket.write_all(body.as_bytes()); // it may be refused before it is read
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn a_postmasters_death_is_told_at_once_and_nothing_of_it_is_left() {
    let pair = Pair::primary();
    let node = pair.node();
    let status = pair.status();
    assert_eq!((status.node.as_str(), status.epoch, status.coordinator.as_str()), ("a", Epoch(0), ""));
    let events = pair.events();
    let (_, first) = events.recv_timeout(BOUND).unwrap();
    assert!(matches!(first, AgentEvent::Status(_)), "{first:?}");
    eventually("the agent sees a primary that takes connections", BOUND, || {
        let postgres = pair.status().postgres;
        postgres.accepting == Accepting::Yes && postgres.in_recovery == Some(false) && postgres.received_lsn.is_some()
    });
    let status = pair.status();
    assert!(status.postgres.processes > 3 && !status.postgres.latched && status.disk_free > 0, "{status:?}");
    assert_eq!(status.postgres.postmaster, node.postmaster_pid().map(|pid| pid.as_raw_pid().unsigned_abs()));
    assert!(status.postgres.timeline.is_some() && status.postgres.system_identifier.is_some());

    let orphans = Orphans::start(node);
    eventually("both write", BOUND, || orphans.acknowledged() > 500 && orphans.procedure_commits());
    let killed = Instant::now();
    assert!(node.signal(Signal::KILL));
    let told = poll(BOUND, || match events.recv_timeout(BOUND).unwrap() {
        (at, AgentEvent::PostmasterDied) => Some(at),
        _ => None,
    });
    let told = told.expect("the event").saturating_duration_since(killed);
    eventually("nothing of it is left", BOUND, || node.processes().is_empty());
    let gone = killed.elapsed();
    eventually("they have ended", BOUND, || orphans.are_over());
    let last = orphans.last().unwrap().saturating_duration_since(killed);
    println!("told after {told:?}, last commit acknowledged after {last:?}, gone after {gone:?}");
    assert!(told < Duration::from_secs(1), "{told:?}");
    let status = poll(BOUND, || match events.recv_timeout(BOUND).unwrap() {
        (_, AgentEvent::Status(status)) if status.postgres.processes == 0 => Some(status.postgres),
        _ => None,
    });
    let status = status.unwrap();
    assert_eq!((status.postmaster, status.accepting), (None, Accepting::No));
    assert_eq!(status.control.unwrap().state, "in production");
    assert!(status.recovery_bytes.is_some_and(|bytes| bytes > 0));

    // a new one is found, also one that nobody has announced
    node.start().unwrap();
    eventually("the new postmaster is seen", BOUND, || pair.status().postgres.accepting == Accepting::Yes);
}

#[test]
fn a_stopped_postmaster_is_silent_and_a_full_one_is_not() {
    let cluster = builder().prefix("howdah-agent").setting("max_connections", "10").start().unwrap();
    let pair = Pair::beside(cluster, "a");
    let node = pair.node();
    let accepting = |wanted: fn(&Accepting) -> bool| {
        eventually("it takes connections as expected", BOUND, || wanted(&pair.status().postgres.accepting));
    };
    accepting(|found| *found == Accepting::Yes);
    let before = pair.status();
    kill_process(node.postmaster_pid().unwrap(), Signal::STOP).unwrap();
    accepting(|found| matches!(found, Accepting::Silent { times } if *times >= 2));
    let status = pair.status().postgres;
    assert!(status.postmaster.is_some() && status.processes > 3, "it is there: {status:?}");
    kill_process(node.postmaster_pid().unwrap(), Signal::CONT).unwrap();
    accepting(|found| *found == Accepting::Yes);
    assert_eq!(pair.status().incarnation, before.incarnation);

    // all connections are taken, the superuser's too
    let taken: Vec<UnixStream> = (0..12).map_while(|_| login(node)).collect();
    assert!(taken.len() >= 5, "{}", taken.len());
    let events = pair.events();
    let until = Instant::now() + Duration::from_secs(3);
    let mut told = 0;
    while Instant::now() < until {
        if let Ok((_, AgentEvent::Status(status))) = events.recv_timeout(BOUND) {
            assert_eq!(status.postgres.accepting, Accepting::Yes);
            told += 1;
        }
    }
    assert!(told >= 3, "a line each half a second: {told}");
}

/// A session that stays, or none because the server is full.
fn login(node: &Node) -> Option<UnixStream> {
    let mut socket = UnixStream::connect(node.sockets().join(format!(".s.PGSQL.{}", node.port()))).unwrap();
    let mut packet = vec![0, 3, 0, 0];
    for text in ["user", node.superuser(), "database", "postgres", ""] {
        packet.extend(text.bytes().chain([0]));
    }
    socket.write_all(&u32::try_from(packet.len() + 4).unwrap().to_be_bytes()).unwrap();
    socket.write_all(&packet).unwrap();
    let mut tag = [0];
    socket.read_exact(&mut tag).ok()?;
    (tag == *b"R").then_some(socket)
}

#[test]
fn a_fenced_node_has_no_process_and_whoever_starts_it_starts_it_read_only() {
    let pair = Pair::primary();
    let node = pair.node();
    let orphans = Orphans::start(node);
    eventually("both write", BOUND, || orphans.acknowledged() > 500 && orphans.procedure_commits());
    let events = pair.events();
    let fence = pair.order("fence-1", 7, Directive::Fence);
    let asked = Instant::now();
    let job = pair.completed(&fence);
    let took: Vec<u64> =
        job.steps.iter().map(|step| step.ended_ms.unwrap_or_default().saturating_sub(step.began_ms)).collect();
    println!("fenced within {:?}, its steps took {took:?} ms", asked.elapsed());
    assert_eq!(job.metadata.get("proof").map(String::as_str), Some("no-process"), "{job:#?}");
    assert!(node.processes().is_empty() && orphans.last().unwrap() < Instant::now());
    eventually("they have ended", BOUND, || orphans.are_over());
    let status = pair.status();
    assert!(status.postgres.latched && status.postgres.processes == 0, "{status:?}");
    assert_eq!((status.epoch, status.coordinator.as_str()), (Epoch(7), "c1"));
    let mut states = Vec::new();
    while let Ok((_, event)) = events.recv_timeout(Duration::from_millis(700)) {
        match event {
            AgentEvent::Job(job) => states.push(job.state),
            AgentEvent::PostmasterDied => panic!("the agent's own doing is no death"),
            AgentEvent::Status(_) if states.contains(&JobState::Completed) => break,
            AgentEvent::Status(_) => {}
        }
    }
    assert!(states.is_sorted() && states.first() == Some(&JobState::Pending), "{states:?}");
    assert!(pair.agent.log().contains("correlation-of-fence-1"));

    // a person
    node.start().unwrap();
    assert_eq!(node.in_recovery().ok(), Some(true));
    assert!(node.sql("CREATE TABLE t ()").is_err());
    // the past
    let (status, failure) = pair.refused(&pair.order("old", 6, Directive::Restart { primary: true }));
    assert_eq!((status, failure.code), (409, Code::StaleEpoch), "{failure}");
    assert_eq!(node.in_recovery().ok(), Some(true));
    // it is a standby's directory now: opened as it is it would go on with a timeline that may be another's
    pair.take(&pair.order("restart", 7, Directive::Restart { primary: true }));
    let job = pair.ended("restart");
    assert_eq!(job.failure.map(|failure| failure.code), Some(Code::WrongRole));
    // the coordinator, under its epoch
    pair.completed(&pair.order("promote", 7, Directive::Promote { slots: Vec::new() }));
    eventually("it accepts writes", BOUND, || node.sql("CREATE TABLE IF NOT EXISTS t ()").is_ok());
    assert!(!pair.status().postgres.latched);
}

#[test]
fn what_an_agent_has_seen_it_obeys_in_every_later_life() {
    let pair = Pair::primary();
    let seen = pair.order("j", 5, Directive::Checkpoint);
    let done = pair.completed(&seen);
    for life in 0..2 {
        let (status, failure) = pair.refused(&pair.order("old", 4, Directive::Checkpoint));
        assert_eq!((status, failure.code), (409, Code::StaleEpoch), "life {life}");
        let mut other = pair.order("other", 5, Directive::Checkpoint);
        other.coordinator = "c2".into();
        let (status, failure) = pair.refused(&other);
        assert_eq!((status, failure.code), (409, Code::OtherCoordinator), "life {life}");
        let (status, body) = pair.post(&seen);
        assert_eq!((status, serde_json::from_str::<Job>(&body).unwrap()), (200, done.clone()), "life {life}");
        let (starts, incarnation) = (pair.agent.starts(), pair.status().incarnation);
        pair.agent.kill();
        eventually("the agent is back", BOUND, || pair.agent.starts() > starts);
        pair.agent.wait_ready().unwrap();
        assert_ne!(pair.status().incarnation, incarnation);
        assert!(pair.node().sql("SELECT 1").is_ok(), "PostgreSQL stays as it is");
    }
}

/// The standby's WAL receiver, which does not end while it is stopped: so a freeze stays in the middle.
fn stop_receiver(node: &Node) -> Pid {
    let pid = poll(BOUND, || node.sql("SELECT pid FROM pg_stat_wal_receiver").ok()?.cell()?.parse().ok());
    let pid = Pid::from_raw(pid.unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    pid
}

#[test]
fn a_job_in_the_middle_of_which_the_agent_dies_is_undone_by_the_next() {
    let cluster = builder().prefix("howdah-agent").standby("b").start().unwrap();
    let pair = Pair::beside(cluster, "b");
    let node = pair.node();
    let auto_conf = node.data_directory().join("postgresql.auto.conf");
    let before = std::fs::read_to_string(&auto_conf).unwrap();
    let receiver = stop_receiver(node);
    pair.take(&pair.order("freeze", 1, Directive::Freeze));
    eventually("it is in the middle", BOUND, || std::fs::read_to_string(&auto_conf).unwrap() != before);
    eventually("its status shows it", BOUND, || {
        pair.status().job.is_some_and(|job| job.state == JobState::InProgress && job.steps.len() > 1)
    });
    let (status, failure) = pair.refused(&pair.order("second", 1, Directive::Checkpoint));
    assert_eq!((status, failure.code), (409, Code::Busy));
    assert!(failure.text.contains("\"freeze\""), "{failure}");

    pair.agent.kill();
    let job = pair.ended("freeze");
    assert_eq!((job.state, job.failure.map(|failure| failure.code)), (JobState::Failed, Some(Code::Interrupted)));
    assert_eq!(std::fs::read_to_string(&auto_conf).unwrap(), before);
    assert!(!pair.status().postgres.frozen);
    let (status, body) = pair.get("/v1/jobs");
    assert_eq!((status, serde_json::from_str::<Vec<Job>>(&body).unwrap().len()), (200, 1));
    let _ = kill_process(receiver, Signal::CONT);
    eventually("it streams", BOUND, || pair.status().postgres.streaming_from.is_some());
}

#[test]
fn a_fence_waits_for_no_job() {
    let cluster = builder().prefix("howdah-agent").standby("b").start().unwrap();
    let pair = Pair::beside(cluster, "b");
    let node = pair.node();
    let auto_conf = node.data_directory().join("postgresql.auto.conf");
    let before = std::fs::read_to_string(&auto_conf).unwrap();
    stop_receiver(node);
    pair.take(&pair.order("freeze", 1, Directive::Freeze));
    eventually("it is in the middle", BOUND, || std::fs::read_to_string(&auto_conf).unwrap() != before);
    // anything else is refused while a job runs
    let (status, failure) = pair.refused(&pair.order("second", 1, Directive::Checkpoint));
    assert_eq!((status, failure.code), (409, Code::Busy), "{failure}");
    pair.completed(&pair.order("fence", 2, Directive::Fence));
    assert!(node.processes().is_empty());
    let freeze = pair.ended("freeze");
    assert!(freeze.failure.is_some_and(|failure| failure.text.contains("superseded by job \"fence\"")));
    assert_eq!(std::fs::read_to_string(&auto_conf).unwrap(), before);
}

/// An agent that a test starts by itself, beside the shared primary, which it leaves alone.
struct Own {
    process: Process,
    directory: PathBuf,
    socket: PathBuf,
}

impl Own {
    /// In a directory of its own where everybody comes, with its agent.toml changed.
    #[track_caller]
    fn start(change: impl Fn(String) -> String) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let directory = shared().directory().join(format!("own-agent-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        Self::start_in(directory, change)
    }

    #[track_caller]
    fn start_in(directory: PathBuf, change: impl Fn(String) -> String) -> Self {
        let (cluster, node) = (shared(), shared().primary());
        std::fs::create_dir_all(&directory).unwrap();
        node.binaries().own(&directory).unwrap();
        let socket = directory.join("agent.sock");
        let password = directory.join("password");
        private(&password, "secret");
        node.binaries().own(&password).unwrap();
        let mut toml = configuration(node, "main", &Default::default());
        for (key, path) in
            [("unix", &socket), ("state_directory", &directory.join("state")), ("password_file", &password)]
        {
            toml = with(&toml, key, &path.display().to_string());
        }
        std::fs::write(directory.join("agent.toml"), change(toml)).unwrap();
        let program = enterable(binary(), cluster.directory(), node.binaries()).unwrap();
        let mut command = node.binaries().owned(&program);
        command.arg("agent").arg("-c").arg(directory.join("agent.toml")).current_dir(cluster.directory());
        Self { process: Process::spawn(command, &directory.join("log")).unwrap(), directory, socket }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.process.log()).unwrap()
    }

    #[track_caller]
    fn ready(self) -> Self {
        let ready = poll(BOUND, || self.log().contains("the agent is ready").then_some(()));
        assert!(ready.is_some(), "{}", self.log());
        self
    }

    /// It has not begun, and says why.
    #[track_caller]
    fn refuses(&self, why: &str) {
        let status = self.process.wait(BOUND).expect("it ends");
        assert!(!status.success() && self.log().contains(why), "{why}\n--\n{}", self.log());
    }
}

/// An agent.toml with another value for a key that it has.
fn with(toml: &str, key: &str, value: &str) -> String {
    let line = toml.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap();
    toml.replace(line, &format!("{key} = \"{value}\""))
}

#[test]
fn bad_requests_are_refused_with_their_reason_and_the_agent_goes_on() {
    let own = Own::start(|toml| toml).ready();
    let ask = |method, path: &str, body: &str| http(&own.socket, method, path, body);
    let code = |body: &str| serde_json::from_str::<Failure>(body).unwrap_or_else(|_| panic!("{body}")).code;
    let order = |change: fn(&mut Order)| {
        let mut order = Order {
            id: "j".into(),
            cluster: "main".into(),
            node: "a".into(),
            epoch: Epoch(1),
            coordinator: "c1".into(),
            correlation: String::new(),
            directive: Directive::Checkpoint,
        };
        change(&mut order);
        serde_json::to_string(&order).unwrap()
    };
    for (status, expected, body) in [
        (400, Code::Malformed, "{".to_owned()),
        (400, Code::Malformed, order(|_| ()).replace("checkpoint", "format_disk")),
        (400, Code::Malformed, order(|order| order.id = "../../etc/passwd".into())),
        (400, Code::Malformed, order(|order| order.coordinator = String::new())),
        (422, Code::WrongNode, order(|order| order.node = "b".into())),
        (422, Code::WrongNode, order(|order| order.cluster = "other".into())),
        (413, Code::Malformed, "x".repeat(ORDER_BYTES_MAX + 1)),
    ] {
        let (found, answer) = ask("POST", "/v1/jobs", &body);
        assert_eq!((found, code(&answer)), (status, expected), "{answer}");
    }
    for path in ["/v1/jobs/none", "/", "/v1/status/x"] {
        let (status, body) = ask("GET", path, "");
        assert_eq!((status, code(&body)), (404, Code::Unknown), "{path}");
    }
    assert_eq!(ask("DELETE", "/v1/status", "").0, 405);
    assert_eq!(ask("GET", "/v1/jobs", ""), (200, "[]".to_owned()));
    assert_eq!(ask("POST", "/v1/jobs", &order(|_| ())).0, 202, "{}", own.log());

    // SIGTERM: the agent ends, PostgreSQL stays
    let postmaster = shared().primary().postmaster_pid();
    own.process.signal(Signal::TERM).unwrap();
    assert!(own.process.wait(BOUND).expect("it ends").success(), "{}", own.log());
    assert_eq!(shared().primary().postmaster_pid(), postmaster);
    assert!(!own.socket.exists());
}

/// `GET /v1/status` as another user; only root can be another user.
fn as_user(socket: &Path, uid: u32, gid: u32) -> u16 {
    const SCRIPT: &str = r#"use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "$!";
        print $s "GET /v1/status HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"; print <$s>;"#;
    let output = Command::new("perl").args(["-e", SCRIPT]).arg(socket).uid(uid).gid(gid).output().unwrap();
    let answer = String::from_utf8_lossy(&output.stdout);
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

#[test]
fn only_the_agents_user_root_and_members_of_its_group_may_ask() {
    let Some((uid, gid)) = shared().primary().binaries().run_as() else {
        eprintln!("not root: nobody else can be played");
        return;
    };
    let own = Own::start(|toml| toml.replace("[listen]", &format!("[listen]\ngroup = \"{gid}\""))).ready();
    assert_eq!(std::fs::metadata(&own.socket).unwrap().permissions().mode() & 0o777, 0o660);
    let stranger = uid + 1_000;
    assert_eq!(as_user(&own.socket, stranger, stranger), 0, "the socket's mode keeps strangers out");
    // and who comes in all the same is told by the kernel
    std::fs::set_permissions(&own.socket, PermissionsExt::from_mode(0o666)).unwrap();
    assert_eq!(as_user(&own.socket, stranger, stranger), 403);
    assert_eq!(as_user(&own.socket, stranger, gid), 200);
    assert_eq!(as_user(&own.socket, uid, stranger), 200);
    assert_eq!(http(&own.socket, "GET", "/v1/status", "").0, 200);
    assert!(own.log().contains("refused"), "{}", own.log());
}

#[test]
fn over_tcp_both_sides_show_certificates_and_only_names_of_the_list_are_let_in() {
    let port = free_port().unwrap();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    ours.sign("agent", "127.0.0.1");
    for name in ["howdah", "stranger"] {
        ours.sign_client(name, name);
    }
    theirs.sign_client("howdah", "howdah");
    shared().primary().binaries().own(&ours.path("agent.key")).unwrap();
    let file = |name: &str| ours.path(name).display().to_string();
    let listen = format!(
        "[listen]\naddress = \"127.0.0.1:{port}\"\ncert = \"{}\"\nkey = \"{}\"\nca = \"{}\"\nallow = [\"howdah\"]",
        file("agent.crt"),
        file("agent.key"),
        file("ca.crt")
    );
    let own = Own::start(|toml| toml.replace("[listen]", &listen)).ready();
    let ask = |config: rustls::ClientConfig| -> std::io::Result<u16> {
        let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let session = rustls::ClientConnection::new(config.into(), name).map_err(std::io::Error::other)?;
        let socket = std::net::TcpStream::connect(("127.0.0.1", port))?;
        socket.set_read_timeout(Some(BOUND))?;
        let mut stream = rustls::StreamOwned::new(session, socket);
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(String::from_utf8_lossy(&head[9..]).parse().unwrap_or_default())
    };
    assert_eq!(ask(ours.offering(&[], Some((&ours, "howdah")))).unwrap(), 200, "{}", own.log());
    assert_eq!(ask(ours.offering(&[b"http/1.1"], Some((&ours, "howdah")))).unwrap(), 200);
    assert_eq!(ask(ours.offering(&[], Some((&ours, "stranger")))).unwrap(), 403);
    assert!(ask(ours.offering(&[], Some((&theirs, "howdah")))).is_err(), "another authority's");
    assert!(ask(ours.offering(&[], None)).is_err(), "none");
    let mut plain = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    plain.set_read_timeout(Some(BOUND)).unwrap();
    plain.write_all(b"GET /v1/status HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[test]
fn an_agent_refuses_to_begin_where_it_could_not_do_its_work() {
    let wrong = |key: &'static str, value: &'static str| Own::start(|toml| with(&toml, key, value));
    wrong("data_directory", "/proc/1").refuses("run the agent as");
    wrong("data_directory", "/nowhere").refuses("data_directory \"/nowhere\"");
    wrong("state_directory", "/proc/howdah").refuses("state_directory \"/proc/howdah\"");
    wrong("bin_directory", "/bin").refuses("no programs of PostgreSQL");
    wrong("service", "no-such-unit").refuses("no-such-unit");
    let one = Own::start(|toml| toml).ready();
    Own::start(|toml| with(&toml, "state_directory", &one.directory.join("state").display().to_string()))
        .refuses("another agent holds this lock");
    assert_eq!(http(&one.socket, "GET", "/v1/status", "").0, 200, "the first goes on");

    // root is not PostgreSQL's user
    if shared().primary().binaries().run_as().is_some() {
        let output =
            Command::new(binary()).args(["agent", "-c"]).arg(one.directory.join("agent.toml")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("run the agent as"), "{said}");
    }
}
