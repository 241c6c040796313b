//! PostgreSQL's programs: where they are, as whom they run, and one run of one.
//!
//! A run that is dropped is killed, with everything it has started: a step that was given up leaves nothing behind. What an
//! agent that dies leaves running is found by its environment ([`Programs::end_strays`]). Secrets are never in arguments.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::sync::mpsc;
use tokio::time;

use super::files::trouble;
use crate::agent::config::AgentConfig;
use crate::directive::{Code, Failure};

/// Lines of output that are kept for the report of a failure.
const TAIL_LINES: usize = 20;
/// How often the end of a program is looked for once it has closed its outputs.
const PAUSE: Duration = Duration::from_millis(2);
/// What marks a program that must not outlive its step, with the data directory as its value. Not set for `pg_ctl`: the server
/// that it starts would have it.
const MARK: &str = "HOWDAH_AGENT_STEP";
/// What marks a server on its way from `pg_ctl` into its data directory, where it is found like every other.
const START_MARK: &str = "HOWDAH_AGENT_START";

/// The programs of the data directory's version.
#[derive(Clone, Debug)]
pub struct Programs {
    directory: PathBuf,
    data_directory: PathBuf,
    run_as: Option<(u32, u32)>,
}

/// What a program has said.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// All of its standard output.
    pub stdout: String,
    /// The last lines of both.
    pub tail: Vec<String>,
}

/// A program that did not end well.
#[derive(Clone, Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// The last lines of its outputs.
    pub tail: Vec<String>,
}

impl Programs {
    /// Those that the configuration names, or those of the version of the data directory.
    ///
    /// # Errors
    /// [`Code::Program`] when there are none, with the places that were looked at.
    pub fn find(config: &AgentConfig) -> Result<Self, Failure> {
        let data_directory = &config.data_directory;
        // the agent has looked when it started
        let places = if !config.found.programs.as_os_str().is_empty() {
            vec![config.found.programs.clone()]
        } else if config.bin_directory == "auto" {
            places(data_directory)
        } else {
            vec![PathBuf::from(&config.bin_directory)]
        };
        let Some(directory) = places.iter().find(|place| place.join("pg_ctl").is_file()) else {
            let looked: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
            let text = format!("no pg_ctl in {}: set bin_directory in agent.toml", looked.join(", "));
            return Err(Failure::new(Code::Program, text));
        };
        let owner = fs::metadata(data_directory).or_else(|_| fs::metadata(parent(data_directory)));
        // PostgreSQL's programs refuse root, so an agent that is root runs them as the owner of the data directory
        let run_as = match owner {
            Ok(owner) if rustix::process::geteuid().is_root() => Some((owner.uid(), owner.gid())),
            _ => None,
        };
        Ok(Self { directory: directory.clone(), data_directory: data_directory.clone(), run_as })
    }

    /// Where they are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// One program, in the C locale, without the agent's `PG…` environment.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.directory.join(program));
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("PG") || name.starts_with("LC_")) {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").env_remove(MARK).env_remove(START_MARK).env_remove("NOTIFY_SOCKET").current_dir("/");
        if let Some((uid, gid)) = self.run_as {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// [`Self::command`], for a program that must not outlive its step.
    #[must_use]
    pub fn bound_command(&self, program: &str) -> Command {
        let mut command = self.command(program);
        command.env(MARK, &self.data_directory);
        command
    }

    /// `pg_ctl`, for a start.
    #[must_use]
    pub fn start_command(&self) -> Command {
        let mut command = self.command("pg_ctl");
        command.env(START_MARK, &self.data_directory);
        command
    }

    /// Runs it to its end, at most `bound`; each line of its outputs is told as it comes.
    ///
    /// # Errors
    /// [`Code::Program`] when it cannot be run or does not end well, with its last words; [`Code::TimedOut`].
    ///
    /// # Cancel safety
    /// Dropping the future kills the program and what it has started.
    pub async fn run(
        &self,
        command: Command,
        bound: Option<Duration>,
        tell: impl FnMut(&str),
    ) -> Result<Output, Failure> {
        let name = name(&command);
        match self.run_to_end(command, bound, tell).await? {
            Ok(output) => Ok(output),
            Err(ended) => {
                let text = format!("{name} ended with {}: {}", ended.status, ended.tail.join("; "));
                Err(Failure::new(code_of(&ended.tail), text))
            }
        }
    }

    /// [`Self::run`], for a caller that tells bad ends apart.
    ///
    /// # Errors
    /// As [`Self::run`]; a bad end is no error.
    ///
    /// # Cancel safety
    /// As [`Self::run`].
    pub async fn run_to_end(
        &self,
        mut command: Command,
        bound: Option<Duration>,
        tell: impl FnMut(&str),
    ) -> Result<Result<Output, Ended>, Failure> {
        let name = name(&command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let child = command.spawn().map_err(trouble("run", Path::new(command.get_program())))?;
        let running = follow(Running(child), tell);
        match bound {
            None => Ok(running.await),
            Some(bound) => match time::timeout(bound, running).await {
                Ok(ended) => Ok(ended),
                Err(_) => Err(Failure::new(Code::TimedOut, format!("{name} has not ended within {bound:?}"))),
            },
        }
    }

    /// Ends what an agent that died in a step has left running: nothing else may write to what the step is undone in.
    pub fn end_strays(&self) {
        self.end_marked(MARK, |_| true);
    }

    /// Ends a server that was being started when its step was given up, and has not come into its data directory yet: a sweep does
    /// not see it, and it would come up behind the undo.
    pub fn end_starts(&self) {
        let arrived = |pid: Pid| super::processes::all(&self.data_directory).is_ok_and(|all| all.contains(&pid));
        self.end_marked(START_MARK, |pid| !arrived(pid));
    }

    fn end_marked(&self, mark: &str, which: impl Fn(Pid) -> bool) {
        let mark = format!("{mark}={}", self.data_directory.display());
        let marked = |pid: Pid| {
            let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_pid())).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        };
        // again, because what is found may just have started another
        for _ in 0..100 {
            let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
            let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
            let strays: Vec<Pid> = pids.filter(|pid| marked(*pid) && which(*pid)).collect();
            if strays.is_empty() {
                return;
            }
            for stray in strays {
                let _ = kill_process(stray, Signal::KILL);
            }
            thread::sleep(PAUSE);
        }
    }
}

/// What the program's last words are about.
fn code_of(tail: &[String]) -> Code {
    let said = |words: &str| tail.iter().any(|line| line.contains(words));
    if said("No space left on device") {
        Code::DiskFull
    } else if said("Permission denied") || said("permission denied") || said("must be superuser") {
        Code::Permission
    } else if said("could not connect") || said("connection to server") || said("server closed the connection") {
        Code::Unreachable
    } else {
        Code::Program
    }
}

fn name(command: &Command) -> String {
    Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A child, with all that it starts; killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

async fn follow(mut running: Running, mut tell: impl FnMut(&str)) -> Result<Output, Ended> {
    let (sender, mut lines) = mpsc::unbounded_channel();
    read_lines(running.0.stdout.take(), true, sender.clone());
    read_lines(running.0.stderr.take(), false, sender);
    let mut output = Output::default();
    while let Some((is_output, line)) = lines.recv().await {
        tell(&line);
        if is_output {
            output.stdout.push_str(&line);
            output.stdout.push('\n');
        }
        if output.tail.len() == TAIL_LINES {
            output.tail.remove(0);
        }
        output.tail.push(line);
    }
    loop {
        match running.0.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(output),
            Ok(Some(status)) => return Err(Ended { status, tail: output.tail }),
            Ok(None) => time::sleep(PAUSE).await,
            Err(error) => {
                output.tail.push(format!("its end is not known: {error}"));
                return Err(Ended { status: ExitStatus::default(), tail: output.tail });
            }
        }
    }
}

fn read_lines(from: Option<impl Read + Send + 'static>, is_output: bool, to: mpsc::UnboundedSender<(bool, String)>) {
    let Some(from) = from else {
        return;
    };
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if to.send((is_output, line)).is_err() {
                break;
            }
        }
    });
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// Where distributions put them: with the version in the path, then without.
fn places(data_directory: &Path) -> Vec<PathBuf> {
    let version = fs::read_to_string(data_directory.join("PG_VERSION")).unwrap_or_default();
    let version = version.trim();
    let mut places = Vec::new();
    // what it runs with, or was last started with, is what it must be started with
    if let Ok(Some(postmaster)) = super::processes::postmaster(data_directory)
        && let Ok(program) = fs::read_link(format!("/proc/{}/exe", postmaster.as_raw_pid()))
    {
        places.push(parent(&program).to_owned());
    }
    if let Ok(options) = fs::read_to_string(data_directory.join("postmaster.opts"))
        && let Some(program) = options.split_whitespace().next()
        && program.starts_with('/')
    {
        places.push(parent(Path::new(program)).to_owned());
    }
    if !version.is_empty() {
        places.push(PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")));
        places.push(PathBuf::from(format!("/usr/pgsql-{version}/bin")));
        places.push(PathBuf::from(format!("/usr/lib/postgresql{version}/bin")));
        places.push(PathBuf::from(format!("/opt/postgresql/{version}/bin")));
    }
    places.extend(["/usr/local/pgsql/bin", "/usr/local/bin", "/usr/bin"].map(PathBuf::from));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(directory: &Path) -> Programs {
        Programs { directory: PathBuf::from("/bin"), data_directory: directory.to_owned(), run_as: None }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn a_program_is_run_to_its_end_and_its_words_are_told() {
        let programs = programs(Path::new("/"));
        let shell = |script: &str| {
            let mut command = programs.command("sh");
            command.args(["-c", script]);
            command
        };
        run(async {
            let mut told = Vec::new();
            let output = programs.run(shell("echo one; echo two"), None, |line| told.push(line.to_owned())).await;
            assert_eq!(output.unwrap().stdout, "one\ntwo\n");
            assert_eq!(told, ["one", "two"]);
            let failure = programs.run(shell("echo 'No space left on device' >&2; exit 3"), None, |_| ()).await;
            let failure = failure.unwrap_err();
            assert!(failure.code == Code::DiskFull && failure.text.contains("exit status: 3"), "{failure}");
            let bound = Some(Duration::from_millis(50));
            let failure = programs.run(shell("sleep 600 | cat"), bound, |_| ()).await.unwrap_err();
            assert_eq!(failure.code, Code::TimedOut);
        });
    }

    #[test]
    fn what_a_dead_agent_has_left_running_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let programs = programs(directory.path());
        let mut command = programs.bound_command("sleep");
        let mut child = command.arg("600").spawn().unwrap();
        let mut other = programs.command("sleep").arg("600").spawn().unwrap();
        // a thread reaps it, as process 1 would: a zombie's environment is gone, so it is not waited for
        programs.end_strays();
        assert!(!child.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none(), "what is not marked lives on");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
