//! `pg_rewind`: takes back what this node has written on its own, by copying what has changed from the upstream.
//!
//! It is tried without writing first (`--dry-run`): most of what can fail fails there, and has changed nothing. Once it writes, the
//! data directory is nobody's until it is done; the sentinel says so, and nothing starts on it. A second try may complete it.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::point::changes_for;
use super::{from_journal, to_journal};
use crate::agent::postgres::auto_conf::{self, Change};
use crate::agent::postgres::conninfo;
use crate::agent::postgres::control::{ControlFile, State};
use crate::agent::postgres::files::Image;
use crate::agent::postgres::program::{Ended, Programs};
use crate::agent::postgres::{frozen, latch, own_files, rewinding, server};
use crate::agent::step::{Act, Step, Work};
use crate::directive::{Code, Failure, Upstream};

/// It reads the log since the fork, and copies what has changed.
const BOUND: Duration = Duration::from_secs(4 * 3_600);
/// A crash recovery, in the worst case.
const RECOVERY: Duration = Duration::from_secs(3_600);

/// `pg_rewind` needs to know each page that was touched: `wal_log_hints` or checksums, from before.
pub struct Rewindable;

impl Step for Rewindable {
    fn name(&self) -> &'static str {
        "check that it can be rewound"
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            let control = ControlFile::read(&Programs::find(&work.config)?, &work.config.data_directory).await?;
            if control.can_rewind() {
                return Ok(());
            }
            let text = "it has no checksums, and wal_log_hints was off: pg_rewind cannot work on it";
            Err(Failure::new(Code::RewindImpossible, text))
        })
    }
}

/// Lets a server that was not stopped cleanly replay its log to the end, as a standby that follows nobody, and stops it.
///
/// Not by `pg_rewind`'s own single-user server: that one refuses to start with the latch, and without the latch a person could start
/// a primary in the meantime.
pub struct Recover;

impl Step for Recover {
    fn name(&self) -> &'static str {
        "replay its own log to the end"
    }

    fn before<'a>(&'a self, work: &'a Work) -> Act<'a, Value> {
        Box::pin(async move {
            let data_directory = &work.config.data_directory;
            to_journal(&(Image::of(&auto_conf::path(data_directory))?, Image::of(&latch::path(data_directory))?))
        })
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            let config = &work.config;
            let programs = Programs::find(config)?;
            let control = ControlFile::read(&programs, &config.data_directory).await?;
            let clean = matches!(control.state, State::ShutDown | State::ShutDownInRecovery);
            // half of a rewound directory does not replay: another pg_rewind is all that can help it
            if clean || rewinding::is_set(&config.state_directory) {
                return Ok(());
            }
            work.notes.say(format!("it was not stopped cleanly (\"{}\")", control.state.as_str()));
            let follows = Image::of(&auto_conf::path(&config.data_directory))?;
            latch::set(&config.data_directory)?;
            auto_conf::set(&config.data_directory, &frozen::changes())?;
            server::start(config).await?;
            server::stop_fast(config).await?;
            auto_conf::revert(&config.data_directory, &follows, &frozen::SETTINGS)
        })
    }

    fn undo<'a>(&'a self, work: &'a Work, before: &'a Value) -> Act<'a, ()> {
        Box::pin(async move {
            let config = &work.config;
            let (auto_conf, latch): (Image, Image) = from_journal(before)?;
            // it runs as a standby of nobody, if at all: a step before this one has stopped it
            server::stop_immediate(config).await?;
            auto_conf::revert(&config.data_directory, &auto_conf, &frozen::SETTINGS)?;
            latch.restore(&latch::path(&config.data_directory))
        })
    }

    fn bound(&self) -> Option<Duration> {
        Some(RECOVERY)
    }
}

/// Rewinds. Undone: the node's own files as they were; what `pg_rewind` has copied stays.
pub struct Rewind(pub Upstream);

impl Rewind {
    fn kept(work: &Work) -> PathBuf {
        work.config.state_directory.join("rewind-own-files")
    }

    async fn run(&self, work: &Work, dry: bool) -> Result<String, Failure> {
        let config = &work.config;
        let programs = Programs::find(config)?;
        let login = config.rewind.as_ref().unwrap_or(&config.replication);
        let source = conninfo::program(config, &self.0, login, Some("postgres"))?;
        let mut restoring = false;
        loop {
            let mut rewind = programs.bound_command("pg_rewind");
            rewind.arg("--target-pgdata").arg(&config.data_directory).arg("--source-server").arg(&source);
            // the server is down, and stays latched
            rewind.args(["--no-ensure-shutdown", "--progress"]);
            if dry {
                rewind.arg("--dry-run");
            }
            if restoring {
                rewind.arg("--restore-target-wal");
            }
            let done = programs.run_to_end(rewind, None, |line| tell(work, line)).await?;
            match done {
                Ok(output) => return Ok(output.tail.join("; ")),
                // log that the fork needs may be in the archive alone
                Err(ended) if !restoring && lacks_log(&ended) && restores(config, &programs).await => restoring = true,
                Err(ended) => return Err(failure(&ended)),
            }
        }
    }
}

impl Step for Rewind {
    fn name(&self) -> &'static str {
        "rewind"
    }

    fn before<'a>(&'a self, work: &'a Work) -> Act<'a, Value> {
        Box::pin(async move {
            // after an interrupted try the files there are a mixture, and what was kept before it is right
            let kept = Self::kept(work);
            if !(rewinding::is_set(&work.config.state_directory) && kept.is_dir()) {
                own_files::keep(&work.config.data_directory, &kept)?;
            }
            to_journal(&Image::of(&latch::path(&work.config.data_directory))?)
        })
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            let config = &work.config;
            Programs::find(config)?.end_strays();
            let said = self.run(work, true).await?;
            let interrupted = rewinding::is_set(&config.state_directory);
            if said.contains("no rewind required") && !interrupted {
                work.notes.find("rewind", "not needed".to_owned());
                return latch::set(&config.data_directory);
            }
            rewinding::set(&config.state_directory)?;
            latch::set(&config.data_directory)?;
            self.run(work, false).await?;
            own_files::put_back(&Self::kept(work), &config.data_directory)?;
            // the upstream may be a standby itself, or have been one: whatever signal files came are no longer
            latch::set(&config.data_directory)?;
            let changes: Vec<Change> = changes_for(work, &self.0)?;
            auto_conf::set(&config.data_directory, &changes)?;
            rewinding::clear(&config.state_directory)?;
            work.notes.find("rewind", "done".to_owned());
            Ok(())
        })
    }

    fn undo<'a>(&'a self, work: &'a Work, before: &'a Value) -> Act<'a, ()> {
        Box::pin(async move {
            let config = &work.config;
            Programs::find(config)?.end_strays();
            own_files::put_back(&Self::kept(work), &config.data_directory)?;
            from_journal::<Image>(before)?.restore(&latch::path(&config.data_directory))
        })
    }

    fn bound(&self) -> Option<Duration> {
        Some(BOUND)
    }
}

/// `1234/5678 kB (21%) copied`, or a word for the log.
fn tell(work: &Work, line: &str) {
    let progress = || {
        let (counts, rest) = line.trim().split_once(" kB (")?;
        rest.ends_with("copied").then_some(())?;
        let (done, all) = counts.split_once('/')?;
        Some((done.trim().parse::<u64>().ok()?, all.trim().parse::<u64>().ok()?))
    };
    match progress() {
        Some((done, all)) => work.notes.progress(done << 10, all << 10),
        None => work.notes.say(line.to_owned()),
    }
}

fn lacks_log(ended: &Ended) -> bool {
    let about_log = |line: &String| {
        line.contains("could not find previous WAL record")
            || line.contains("could not open file") && line.contains("pg_wal")
            || line.contains("could not read WAL record")
    };
    ended.tail.iter().any(about_log)
}

/// Whether it has a command to restore log with.
async fn restores(config: &crate::agent::config::AgentConfig, programs: &Programs) -> bool {
    let mut postgres = programs.bound_command("postgres");
    postgres.arg("-D").arg(&config.data_directory).args(["-C", "restore_command"]);
    let said = programs.run(postgres, Some(Duration::from_secs(10)), |_| ()).await;
    said.is_ok_and(|output| !output.stdout.trim().is_empty())
}

fn failure(ended: &Ended) -> Failure {
    let words = ended.tail.join("; ");
    let said = |text: &str| words.contains(text);
    let code = if lacks_log(ended) || said("wal_log_hints") || said("could not find common ancestor") {
        Code::RewindImpossible
    } else if said("could not connect") || said("connection to server") || said("server closed the connection") {
        Code::Unreachable
    } else if said("different systems") {
        Code::OtherSystem
    } else if said("No space left on device") {
        Code::DiskFull
    } else if said("ermission denied") {
        Code::Permission
    } else {
        Code::Program
    };
    Failure::new(code, format!("pg_rewind ended with {}: {words}", ended.status))
}
