//! One PostgreSQL instance on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

use super::query::{self, Rows};
use super::{Binaries, LocalError, TAIL_LINES, Watch, io_error};
use crate::demo::ports::free_port;
use crate::demo::process::{Process, is_zombie, log_tail, parse_pid, processes_in};

/// For a start, a stop, a promotion.
pub(super) const BOUND: Duration = Duration::from_secs(60);
/// For an immediate stop, before SIGKILL.
const IMMEDIATE_BOUND: Duration = Duration::from_secs(5);
/// What every node's `postgresql.conf` ends with: the file beside the data directory, which neither `pg_basebackup` nor
/// `pg_rewind` copies from node to node.
const INCLUDE: &str = "include_if_exists '../node.conf'";

/// How a node is asked to stop, as in `pg_ctl stop -m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Waits for clients to leave.
    Smart,
    /// Closes sessions and writes a shutdown checkpoint.
    Fast,
    /// Without a checkpoint; the next start recovers.
    Immediate,
}

/// What all nodes of a cluster share.
#[derive(Clone)]
pub(super) struct Common {
    pub binaries: Binaries,
    pub root: PathBuf,
    pub superuser: String,
    pub password: String,
    pub slots: String,
    pub watch: Watch,
}

/// One PostgreSQL instance: a directory, a port, perhaps a running postmaster. All calls take `&self`, so that a node can
/// be shared between tests. Dropping it stops it immediately.
pub struct Node {
    name: String,
    port: u16,
    pub(super) directory: PathBuf,
    pub(super) common: Common,
    postmaster: Mutex<Option<Process>>,
}

impl Node {
    /// An empty directory and a port; there is no data directory yet.
    pub(super) fn new(name: &str, common: &Common) -> Result<Self, LocalError> {
        let directory = common.root.join(name);
        fs::create_dir(&directory).map_err(io_error(&format!("create {}", directory.display())))?;
        common.binaries.own(&directory).map_err(io_error(&format!("chown {}", directory.display())))?;
        let port = free_port().map_err(io_error("find a free port"))?;
        let node =
            Self { name: name.to_owned(), port, directory, common: common.clone(), postmaster: Mutex::new(None) };
        let sockets = common.root.join("s");
        node.write("node.conf", &format!("port = {port}\nunix_socket_directories = '{}'\n", sockets.display()))?;
        Ok(node)
    }

    /// `initdb`, with the given lines in `postgresql.conf` and `pg_hba.conf`.
    pub(super) fn initdb(&self, settings: &[(String, String)], hba: &[String]) -> Result<(), LocalError> {
        let password_file = self.write("password", &self.common.password)?;
        let mut initdb = self.command("initdb");
        initdb.arg("-D").arg(self.data_directory()).arg("--pwfile").arg(&password_file);
        initdb.args(["-U", &self.common.superuser, "--auth-local=trust", "--auth-host=scram-sha-256"]);
        initdb.args(["-E", "UTF8", "--locale=C", "--no-sync", "--data-checksums"]);
        let log = self.directory.join("initdb.log");
        let done = self.common.watch.run(&format!("initdb of node \"{}\"", self.name), initdb, log, BOUND);
        let _ = fs::remove_file(&password_file);
        done?;
        let mut conf = fs::read_to_string(self.data_directory().join("postgresql.conf"))
            .map_err(io_error("read postgresql.conf"))?;
        for (name, value) in settings {
            conf.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        conf.push_str(INCLUDE);
        conf.push('\n');
        self.write("data/postgresql.conf", &conf)?;
        let mut rules = hba.join("\n");
        rules.push_str(
            "\nlocal all,replication all trust\n\
             host all,replication all all scram-sha-256\n",
        );
        self.write("data/pg_hba.conf", &rules)?;
        Ok(())
    }

    /// `pg_basebackup -R` from `source`, through a slot made for this node.
    pub(super) fn basebackup(&self, source: &Node) -> Result<(), LocalError> {
        let mut backup = self.command("pg_basebackup");
        backup.arg("-D").arg(self.data_directory()).arg("-d").arg(source.replication_conninfo(&self.name));
        backup.args(["-R", "-X", "stream", "--checkpoint=fast", "--no-sync", "-C", "-S", &self.slot()]);
        backup.env("PGPASSWORD", &self.common.password);
        let log = self.directory.join("basebackup.log");
        let what = format!("pg_basebackup of node \"{}\" from \"{}\"", self.name, source.name);
        self.common.watch.run(&what, backup, log, 4 * BOUND)
    }

    /// Its name, which is also the `application_name` of its replication connection.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address it listens on.
    #[must_use]
    pub fn host(&self) -> &'static str {
        "127.0.0.1"
    }

    /// The port, of TCP and of the socket.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its Unix socket, the same for all nodes of a cluster.
    #[must_use]
    pub fn sockets(&self) -> PathBuf {
        self.common.root.join("s")
    }

    /// Its data directory.
    #[must_use]
    pub fn data_directory(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// What holds its data directory and what goes with it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// PostgreSQL's programs, and as whom they run.
    #[must_use]
    pub fn binaries(&self) -> &Binaries {
        &self.common.binaries
    }

    /// What the server has written, over all its starts.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// The last lines of [`Node::log`].
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        log_tail(&self.log(), lines)
    }

    /// The superuser's name.
    #[must_use]
    pub fn superuser(&self) -> &str {
        &self.common.superuser
    }

    /// The superuser's password.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.common.password
    }

    /// The replication slot that holds log for it on the node it follows.
    #[must_use]
    pub fn slot(&self) -> String {
        format!(
            "{}{}",
            self.common.slots,
            self.name.replace(|c: char| !c.is_ascii_alphanumeric(), "_").to_ascii_lowercase()
        )
    }

    /// A `primary_conninfo` to follow this node, without the password.
    #[must_use]
    pub fn replication_conninfo(&self, application_name: &str) -> String {
        let (host, port, user) = (self.host(), self.port, &self.common.superuser);
        format!("host={host} port={port} user={user} application_name={application_name}")
    }

    /// A command of PostgreSQL's, ready to run as the owner of the data directory.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.common.binaries.command(program);
        command.current_dir(&self.common.root);
        command
    }

    /// Starts `postgres` and waits until it accepts connections (a standby: read-only ones). Orphans of a killed
    /// postmaster are waited for first, because they would keep a new one from starting.
    ///
    /// # Errors
    /// With the end of the log, when it does not come up.
    pub fn start(&self) -> Result<(), LocalError> {
        self.start_unready()?;
        self.wait_ready(BOUND)
    }

    /// Starts `postgres` and does not wait.
    ///
    /// # Errors
    /// When it runs already, when an old process does not leave, or when the program cannot be run.
    pub fn start_unready(&self) -> Result<(), LocalError> {
        let mut postmaster = self.postmaster.lock();
        if self.postmaster_pid().is_some() {
            return Err(LocalError::State { node: self.name.clone(), state: "is running already" });
        }
        let what = format!("the end of the former processes of node \"{}\"", self.name);
        self.common.watch.until(&what, BOUND, &self.log(), || Ok(self.is_quiet().then_some(())))?;
        let mut postgres = self.command("postgres");
        postgres.arg("-D").arg(self.data_directory());
        let started = Process::spawn(postgres, &self.log());
        *postmaster = Some(started.map_err(io_error(&format!("start node \"{}\"", self.name)))?);
        Ok(())
    }

    /// Waits until it accepts connections.
    ///
    /// # Errors
    /// When it dies first, or at the bound.
    pub fn wait_ready(&self, bound: Duration) -> Result<(), LocalError> {
        let what = format!("start of node \"{}\"", self.name);
        self.common.watch.until(&what, bound, &self.log(), || {
            if self.sql("SELECT 1").is_ok() {
                return Ok(Some(()));
            }
            let ended = self.postmaster.lock().as_ref().and_then(Process::ended);
            match ended {
                Some(status) => Err(LocalError::Failed { what: what.clone(), status, log: self.log_tail(TAIL_LINES) }),
                None => Ok(None),
            }
        })
    }

    /// Stops it and waits until no process of it is left.
    ///
    /// # Errors
    /// When processes are left after a minute (five seconds and then SIGKILL for an immediate stop). A node that does
    /// not run is no error.
    pub fn stop(&self, mode: StopMode) -> Result<(), LocalError> {
        let (signal, bound) = match mode {
            StopMode::Smart => (Signal::TERM, BOUND),
            StopMode::Fast => (Signal::INT, BOUND),
            StopMode::Immediate => (Signal::QUIT, IMMEDIATE_BOUND),
        };
        self.signal(signal);
        let what = format!("{mode:?} stop of node \"{}\"", self.name);
        let gone = || Ok(self.processes().is_empty().then_some(()));
        // an interrupted demo still stops its nodes in order
        match (mode, Watch::default().until(&what, bound, &self.log(), gone)) {
            (StopMode::Immediate, Err(_)) => self.kill_all(),
            (_, result) => result,
        }
    }

    /// Stops it and starts it again.
    ///
    /// # Errors
    /// As [`Node::stop`] and [`Node::start`].
    pub fn restart(&self, mode: StopMode) -> Result<(), LocalError> {
        self.stop(mode)?;
        self.start()
    }

    /// `kill -9` of the postmaster alone, as the OOM killer does it. Its server processes live on for a moment, and those
    /// in the middle of a statement may finish it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self) -> Result<(), LocalError> {
        if !self.signal(Signal::KILL) {
            return Err(LocalError::State { node: self.name.clone(), state: "is not running" });
        }
        let what = format!("death of node \"{}\"", self.name);
        self.common.watch.until(&what, IMMEDIATE_BOUND, &self.log(), || {
            let reaped = self.postmaster.lock().as_ref().is_none_or(|own| own.ended().is_some());
            Ok((reaped && self.postmaster_pid().is_none()).then_some(()))
        })
    }

    /// `kill -9` of every process of the node, as a lost machine looks from outside.
    ///
    /// # Errors
    /// When processes are left after that.
    pub fn kill_all(&self) -> Result<(), LocalError> {
        let what = format!("death of all processes of node \"{}\"", self.name);
        Watch::default().until(&what, IMMEDIATE_BOUND, &self.log(), || {
            self.signal(Signal::KILL); // the postmaster first, or it starts new ones
            let left = self.processes();
            for pid in &left {
                let _ = kill_process(*pid, Signal::KILL);
            }
            Ok(left.is_empty().then_some(()))
        })
    }

    /// SIGSTOP to every process: alive, with open sockets, and silent.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        for pid in self.processes() {
            let _ = kill_process(pid, Signal::STOP);
        }
    }

    /// Undoes [`Node::freeze`].
    pub fn thaw(&self) {
        for pid in self.processes() {
            let _ = kill_process(pid, Signal::CONT);
        }
    }

    /// The postmaster's pid, whoever started it: from `postmaster.pid`, and only if that process still lives in this data
    /// directory.
    #[must_use]
    pub fn postmaster_pid(&self) -> Option<Pid> {
        self.lock_holder().filter(|pid| self.processes().contains(pid))
    }

    /// The pid in `postmaster.pid`, whatever has become of it.
    fn lock_holder(&self) -> Option<Pid> {
        let file = fs::read_to_string(self.data_directory().join("postmaster.pid")).ok()?;
        parse_pid(file.lines().next()?)
    }

    /// Whether nothing of a former run would keep a new one from starting: no orphans, and no dead postmaster that its
    /// parent has not reaped (somebody else's `pg_ctl` leaves it to process 1, and PostgreSQL takes a zombie for alive).
    fn is_quiet(&self) -> bool {
        self.processes().is_empty() && !self.lock_holder().is_some_and(is_zombie)
    }

    /// All processes that work in its data directory, orphans included.
    #[must_use]
    pub fn processes(&self) -> Vec<Pid> {
        processes_in(&self.data_directory())
    }

    /// Runs statements as the superuser in the database `postgres`, over the Unix socket.
    ///
    /// # Errors
    /// [`LocalError::Sql`], with PostgreSQL's SQLSTATE if it gave one.
    pub fn sql(&self, sql: &str) -> Result<Rows, LocalError> {
        self.sql_in("postgres", sql)
    }

    /// [`Node::sql`] in another database.
    ///
    /// # Errors
    /// As [`Node::sql`].
    pub fn sql_in(&self, database: &str, sql: &str) -> Result<Rows, LocalError> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.sockets()).port(self.port).user(&self.common.superuser).dbname(database);
        config.application_name("howdah local").connect_timeout(Duration::from_secs(10));
        query::run(&config, sql).map_err(|(code, message)| LocalError::Sql { node: self.name.clone(), code, message })
    }

    /// Writes a setting into this node's own file and reloads. What needs a restart waits for one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set(&self, name: &str, value: &str) -> Result<(), LocalError> {
        let path = self.directory.join("node.conf");
        let old = fs::read_to_string(&path).map_err(io_error("read node.conf"))?;
        self.write("node.conf", &format!("{old}{name} = '{}'\n", value.replace('\'', "''")))?;
        self.signal(Signal::HUP);
        Ok(())
    }

    /// `pg_promote()`, and waits for its end.
    ///
    /// # Errors
    /// As [`Node::sql`]; also when the node does not leave recovery.
    pub fn promote(&self) -> Result<(), LocalError> {
        match self.sql("SELECT pg_promote(true, 60)")?.cell() {
            Some("t") => Ok(()),
            _ => Err(LocalError::State { node: self.name.clone(), state: "did not leave recovery" }),
        }
    }

    /// Whether it is a standby now (`pg_is_in_recovery()`).
    ///
    /// # Errors
    /// As [`Node::sql`].
    pub fn in_recovery(&self) -> Result<bool, LocalError> {
        Ok(self.sql("SELECT pg_is_in_recovery()")?.cell() == Some("t"))
    }

    /// Signals the postmaster, whoever started it. Says whether there was one.
    pub fn signal(&self, signal: Signal) -> bool {
        if let Some(process) = self.postmaster.lock().as_ref()
            && process.ended().is_none()
        {
            return process.signal(signal).is_ok();
        }
        self.postmaster_pid().is_some_and(|pid| kill_process(pid, signal).is_ok())
    }

    /// Writes a file below the node's directory and gives it to its owner.
    pub(in crate::demo) fn write(&self, name: &str, text: &str) -> Result<PathBuf, LocalError> {
        let path = self.directory.join(name);
        fs::write(&path, text)
            .and_then(|()| self.common.binaries.own(&path))
            .map_err(io_error(&format!("write {}", path.display())))?;
        Ok(path)
    }

    /// A killed postmaster leaves a few bytes of System V memory behind, which the next start would have removed.
    fn remove_shared_memory(&self) {
        let Ok(file) = fs::read_to_string(self.data_directory().join("postmaster.pid")) else {
            return;
        };
        if let Some(id) = file.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
            let _ = Command::new("ipcrm").args(["-m", id]).stderr(std::process::Stdio::null()).status();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.thaw();
        let _ = self.stop(StopMode::Immediate);
        self.remove_shared_memory();
    }
}
