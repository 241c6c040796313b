//! `howdah serve` as a child process, with the howdah.toml that a person would write.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::DemoError;
use super::agent::Agent;
use super::ports::free_port;
use super::postgres::{LocalCluster, Node};
use super::process::{Process, log_tail};

/// After SIGTERM.
const SHUTDOWN_BOUND: Duration = Duration::from_secs(10);

/// A running endpoint. Dropping it asks it to stop, and kills it when it does not.
pub struct Endpoint {
    process: Process,
    listener: SocketAddr,
    http: SocketAddr,
}

impl Endpoint {
    /// Writes howdah.toml into the cluster's directory and starts this very program as `serve -c` on it.
    ///
    /// # Errors
    /// When the file cannot be written or the program not started.
    pub fn start(
        cluster: &LocalCluster,
        agents: &[Agent],
        monitor: &str,
        password: &str,
        chaos: bool,
    ) -> Result<Self, DemoError> {
        let io = |what: &'static str| move |source| DemoError::Io { what, source };
        let (listener, http) = (free_address().map_err(io("find a port"))?, free_address().map_err(io("find a port"))?);
        let path = cluster.directory().join("howdah.toml");
        let mut toml = configuration(listener, http, cluster.nodes(), agents, monitor, password);
        let _ = write!(toml, "\n[store]\npath = \"{}\"\n", cluster.directory().join("store").display());
        if chaos {
            toml.push_str(
                "\n[clusters.main.failover]\nrestart_if = \"0\" # the primary would be there again at once\nflap_window = \"0\" # this is no flapping\n",
            );
        }
        fs::write(&path, toml)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o600)))
            .map_err(io("write howdah.toml"))?;
        let program = std::env::current_exe().map_err(io("find the howdah program"))?;
        let process = spawn(&program, &path, cluster.directory()).map_err(io("start howdah serve"))?;
        Ok(Self { process, listener, http })
    }

    /// Where clients connect.
    #[must_use]
    pub fn listener(&self) -> SocketAddr {
        self.listener
    }

    /// Where its HTTP API is.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid().as_raw_pid()
    }

    /// An error when it has ended, with the last lines it wrote.
    ///
    /// # Errors
    /// [`DemoError::Endpoint`].
    pub fn check(&self) -> Result<(), DemoError> {
        match self.process.ended() {
            Some(status) => Err(self.error(&format!("has ended ({status})"))),
            None => Ok(()),
        }
    }

    /// What is wrong with it, and the last lines it wrote.
    #[must_use]
    pub fn error(&self, what: &str) -> DemoError {
        DemoError::Endpoint { what: what.to_owned(), log: log_tail(self.process.log(), 20) }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let _ = self.process.signal(Signal::TERM);
        let _ = self.process.wait(SHUTDOWN_BOUND); // the process's own drop kills what is left
    }
}

fn free_address() -> io::Result<SocketAddr> {
    Ok((Ipv4Addr::LOCALHOST, free_port()?).into())
}

fn spawn(program: &Path, config: &PathBuf, directory: &Path) -> io::Result<Process> {
    let mut command = Command::new(program);
    // its working directory is how the scratch's watcher finds it
    command.arg("serve").arg("-c").arg(config).current_dir(directory).env_remove("NOTIFY_SOCKET");
    Process::spawn(command, &directory.join("howdah.log"))
}

/// The howdah.toml.
#[must_use]
pub fn configuration(
    listener: SocketAddr,
    http: SocketAddr,
    nodes: &[Node],
    agents: &[Agent],
    monitor: &str,
    password: &str,
) -> String {
    let mut toml = format!(
        "# written by howdah demo; it goes away with the demo

[[listeners]]
address = \"{listener}\"

[auth]
method = \"scram-sha-256\"

[clusters.main.monitor]
user = \"{monitor}\"
password = \"{password}\"
"
    );
    for node in nodes {
        let (name, host, port) = (node.name(), node.host(), node.port());
        let _ = write!(toml, "\n[[clusters.main.nodes]]\nname = \"{name}\"\nhost = \"{host}\"\nport = {port}\n");
        if let Some(agent) = agents.iter().find(|agent| agent.node() == name) {
            let _ = writeln!(toml, "agent = \"{}\"", agent.address());
        }
    }
    let _ = write!(toml, "\n[databases.\"*\"]\ncluster = \"main\"\n\n[http]\naddress = \"{http}\"\n");
    toml
}
