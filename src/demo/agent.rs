//! `howdah agent` beside a node on this machine, with the agent.toml that a person would write, and a supervisor that starts
//! it again when it dies, as systemd would.
//!
//! It runs as whoever PostgreSQL runs as. What it starts is not this process's child; the drop of the node and of the scratch find
//! that by where it sits. Not here: what the agent does, and who talks to it.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal};

use super::postgres::{Binaries, LocalError, Node};
use super::process::{Process, log_tail};

/// What systemd waits before it starts a service again, unless told otherwise.
const RESTART_DELAY: Duration = Duration::from_millis(100);
/// How often the supervisor looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);
/// For its first answer.
const READY_BOUND: Duration = Duration::from_secs(30);

/// What the supervisor and the handle share.
struct Shared {
    binaries: Binaries,
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    /// Where it runs: below the scratch, so that nothing of it outlives that.
    directory: PathBuf,
    environment: BTreeMap<String, String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    process: Option<Arc<Process>>,
    /// It is to run.
    wanted: bool,
    /// The supervisor is to end.
    over: bool,
    starts: u32,
    trouble: Option<String>,
}

/// What is special about an agent.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// The end of its agent.toml; begins with a table header.
    pub toml: String,
    /// Variables in its environment.
    pub environment: BTreeMap<String, String>,
    /// Where it finds PostgreSQL's programs, if not where they are.
    pub programs: Option<PathBuf>,
    /// The unit of systemd's that runs PostgreSQL, if any.
    pub unit: Option<String>,
}

/// The agent of one node. Dropping it kills it, and leaves PostgreSQL alone.
pub struct Agent {
    node: String,
    socket: PathBuf,
    shared: Arc<Shared>,
    supervisor: Option<JoinHandle<()>>,
}

impl Agent {
    /// Writes agent.toml beside the node's data directory (`extra` comes last and begins with a table header) and starts `program` as
    /// its agent. Does not wait for it.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn start(node: &Node, cluster: &str, program: &Path, extra: &str) -> Result<Self, LocalError> {
        Self::start_with(node, cluster, program, Extras { toml: extra.to_owned(), ..Extras::default() })
    }

    /// [`Agent::start`], with more that is special.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_with(node: &Node, cluster: &str, program: &Path, extras: Extras) -> Result<Self, LocalError> {
        let failed = |source| LocalError::Io { what: format!("make the agent of node \"{}\"", node.name()), source };
        let directory = node.sockets().parent().map(Path::to_owned).unwrap_or_default();
        let program = enterable(program, &directory, node.binaries()).map_err(failed)?;
        let config = write(node, cluster, &extras)?;
        let shared = Arc::new(Shared {
            binaries: node.binaries().clone(),
            program,
            config,
            log: node.directory().join("agent.log"),
            directory,
            environment: extras.environment,
            state: Mutex::new(State { wanted: true, ..State::default() }),
        });
        let supervisor = thread::Builder::new().name("supervisor".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.supervise()
        });
        let supervisor = Some(supervisor.map_err(failed)?);
        Ok(Self { node: node.name().to_owned(), socket: socket(node), shared, supervisor })
    }

    /// The node it is beside.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// What `agent = "…"` in howdah.toml says.
    #[must_use]
    pub fn address(&self) -> String {
        format!("unix:{}", self.socket.display())
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its agent.toml.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.shared.config
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        self.running().map(|process| process.pid())
    }

    /// How often it was started.
    #[must_use]
    pub fn starts(&self) -> u32 {
        self.shared.state.lock().starts
    }

    /// The last lines it wrote, over all its lives.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        log_tail(&self.shared.log, lines)
    }

    /// Everything it wrote, over all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.shared.log).unwrap_or_default()
    }

    /// Waits until it takes connections.
    ///
    /// # Errors
    /// At the bound, with the end of its log.
    pub fn wait_ready(&self) -> Result<(), LocalError> {
        let deadline = Instant::now() + READY_BOUND;
        while UnixStream::connect(&self.socket).is_err() {
            if Instant::now() > deadline {
                let trouble = self.shared.state.lock().trouble.take().unwrap_or_default();
                return Err(LocalError::TooSlow {
                    what: format!("start of the agent of node \"{}\"", self.node),
                    bound: READY_BOUND,
                    log: format!("{trouble}{}", self.log_tail(15)),
                });
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// `kill -9`; the supervisor starts it again.
    pub fn kill(&self) {
        if let Some(process) = self.running() {
            let _ = process.kill();
        }
    }

    /// `kill -9`, and nobody starts it again until [`Agent::back`].
    pub fn kill_for_good(&self) {
        let process = {
            let mut state = self.shared.state.lock();
            state.wanted = false;
            state.process.take()
        };
        if let Some(process) = process {
            let _ = process.kill();
        }
    }

    /// The supervisor is there again.
    pub fn back(&self) {
        self.shared.state.lock().wanted = true;
    }

    /// Sends it a signal, if it runs.
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = self.running() {
            let _ = process.signal(signal);
        }
    }

    fn running(&self) -> Option<Arc<Process>> {
        self.shared.state.lock().process.clone().filter(|process| process.ended().is_none())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.shared.state.lock().over = true;
        self.kill_for_good();
        if let Some(supervisor) = self.supervisor.take() {
            let _ = supervisor.join();
        }
    }
}

impl Shared {
    fn supervise(&self) {
        loop {
            let process = {
                let mut state = self.state.lock();
                if state.over {
                    return;
                }
                if state.wanted && state.process.is_none() {
                    state.starts += 1;
                    match Process::spawn(self.command(), &self.log) {
                        Ok(process) => state.process = Some(Arc::new(process)),
                        Err(error) => state.trouble = Some(format!("{}: {error}\n", self.program.display())),
                    }
                }
                state.process.clone()
            };
            match process {
                Some(process) if process.wait(LOOK).is_none() => {}
                Some(process) => {
                    thread::sleep(RESTART_DELAY);
                    let mut state = self.state.lock();
                    if state.process.as_ref().is_some_and(|now| now.pid() == process.pid()) {
                        state.process = None;
                    }
                }
                None => thread::sleep(LOOK),
            }
        }
    }

    fn command(&self) -> std::process::Command {
        let mut command = self.binaries.owned(&self.program);
        command.arg("agent").arg("-c").arg(&self.config).current_dir(&self.directory).envs(&self.environment);
        command.env("RUST_BACKTRACE", "1").env_remove("NOTIFY_SOCKET");
        command
    }
}

/// In the directory of PostgreSQL's sockets: only its owner and root come in there.
fn socket(node: &Node) -> PathBuf {
    node.sockets().join(format!("agent-{}", node.name()))
}

/// The agent.toml, and what it names.
fn write(node: &Node, cluster: &str, extras: &Extras) -> Result<PathBuf, LocalError> {
    let password = node.write("replication-password", node.password())?;
    let state = node.directory().join("agent");
    fs::create_dir_all(&state)
        .and_then(|()| node.binaries().own(&state))
        .and_then(|()| fs::set_permissions(&state, Permissions::from_mode(0o700)))
        .and_then(|()| fs::set_permissions(&password, Permissions::from_mode(0o600)))
        .map_err(|source| LocalError::Io { what: format!("make {}", state.display()), source })?;
    node.write("agent.toml", &configuration(node, cluster, extras))
}

/// The agent.toml.
#[must_use]
pub fn configuration(node: &Node, cluster: &str, extras: &Extras) -> String {
    let (name, data, state) = (node.name(), node.data_directory(), node.directory().join("agent"));
    let (extra, user) = (&extras.toml, node.superuser());
    let programs = extras.programs.as_deref().unwrap_or(node.binaries().directory());
    let unit = extras.unit.as_deref().unwrap_or("none");
    format!(
        "# written by howdah; it goes away with the cluster
cluster = \"{cluster}\"
node = \"{name}\"
data_directory = \"{}\"
state_directory = \"{}\"
bin_directory = \"{}\"
service = \"{unit}\"

[listen]
unix = \"{}\"

[superuser]
user = \"{user}\"
socket = \"{}\"

[replication]
user = \"{user}\"
password_file = \"{}\"

[backups]
min_free = \"64MB\"

{extra}",
        data.display(),
        state.display(),
        programs.display(),
        socket(node).display(),
        node.sockets().display(),
        node.directory().join("replication-password").display(),
    )
}

/// The program, where whoever PostgreSQL runs as can start it: where it is, or else as a link or a copy in `directory`.
///
/// # Errors
/// When it can neither be linked nor copied.
pub fn enterable(program: &Path, directory: &Path, binaries: &Binaries) -> io::Result<PathBuf> {
    let open = |path: &Path| fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o001 != 0);
    if binaries.run_as().is_none() || program.ancestors().filter(|path| *path != Path::new("")).all(open) {
        return Ok(program.to_owned());
    }
    let here = directory.join("howdah");
    if here.exists() {
        return Ok(here);
    }
    if !open(program) || fs::hard_link(program, &here).is_err() {
        fs::copy(program, &here)?;
        fs::set_permissions(&here, Permissions::from_mode(0o755))?;
    }
    Ok(here)
}
