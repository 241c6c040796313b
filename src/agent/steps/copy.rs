//! A base backup into a directory beside the data directory, which is not touched until the copy is whole.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::identity::ask;
use super::point::changes_for;
use crate::agent::config::AgentConfig;
use crate::agent::postgres::directory::{free_bytes, size, tablespaces};
use crate::agent::postgres::files::{self, trouble};
use crate::agent::postgres::program::Programs;
use crate::agent::postgres::{auto_conf, conninfo, latch, own_files};
use crate::agent::step::{Act, Step, Work};
use crate::directive::{Code, Failure, Upstream};

/// A copy takes as long as it takes; the job's own bound holds.
const BOUND: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Where the copy is made.
#[must_use]
pub fn new_directory(config: &AgentConfig) -> PathBuf {
    files::beside(&config.data_directory, ".howdah-new")
}

/// Checks that there is room for a second copy, and that everything is in one directory.
pub struct Room(pub Upstream);

impl Step for Room {
    fn name(&self) -> &'static str {
        "check that there is room for a copy"
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            let config = &work.config;
            if let Some(elsewhere) = tablespaces(&config.data_directory).first() {
                let text = format!("it has a tablespace at {}: rebuild it by hand", elsewhere.display());
                return Err(Failure::new(Code::WrongState, text));
            }
            let parent = config.data_directory.parent().unwrap_or(Path::new("/"));
            if let Err(error) = rustix::fs::access(parent, rustix::fs::Access::WRITE_OK) {
                return Err(trouble("make a copy in", parent)(error.into()));
            }
            let needed = source_bytes(work, &self.0).await;
            // what is left of a former try goes first
            let free = free_bytes(parent)?.saturating_add(size(&new_directory(config)));
            let (min_free, mb) = (config.backups.min_free.bytes(), |bytes: u64| bytes >> 20);
            if free < needed.saturating_add(min_free) {
                let text = format!(
                    "the copy takes {} MB, and of the {} MB that are free at {}, {} MB are to stay free (min_free)",
                    mb(needed),
                    mb(free),
                    parent.display(),
                    mb(min_free)
                );
                return Err(Failure::new(Code::DiskFull, text));
            }
            Ok(())
        })
    }
}

/// What the upstream's databases are together; where it may not be asked, what the directory here has.
async fn source_bytes(work: &Work, upstream: &Upstream) -> u64 {
    let config = &work.config;
    let login = config.rewind.as_ref().unwrap_or(&config.replication);
    let question = "SELECT sum(pg_database_size(oid)) FROM pg_database";
    let asked = match Programs::find(config) {
        Ok(programs) => ask(config, &programs, upstream, login, "dbname=postgres", question).await.ok(),
        Err(_) => None,
    };
    asked.and_then(|said| said.trim().parse().ok()).unwrap_or_else(|| size(&config.data_directory.join("base")))
}

/// `pg_basebackup` through the slot, then the node's own files and whom to follow: a whole standby, in another directory. Undone:
/// the directory goes.
pub struct Copy(pub Upstream);

impl Step for Copy {
    fn name(&self) -> &'static str {
        "copy the other node's data"
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            let (config, upstream) = (&work.config, &self.0);
            let programs = Programs::find(config)?;
            let new = new_directory(config);
            programs.end_strays();
            own_files::discard(&new)?;
            let mut backup = programs.bound_command("pg_basebackup");
            backup.arg("-D").arg(&new);
            backup.arg("-d").arg(conninfo::program(config, upstream, &config.replication, None)?);
            backup.args(["-X", "stream", "--checkpoint=fast", "--progress", "--no-password"]);
            if !upstream.slot.is_empty() {
                backup.args(["-S", &upstream.slot]);
            }
            programs.run(backup, None, |line| tell(work, line)).await.map_err(|failure| refine(failure, upstream))?;
            // its own configuration, and nothing of the other node's
            let kept = config.state_directory.join("rebuild-own-files");
            own_files::keep(&config.data_directory, &kept)?;
            own_files::put_back(&kept, &new)?;
            own_files::discard(&kept)?;
            auto_conf::set(&new, &changes_for(work, upstream)?)?;
            latch::set(&new)?;
            files::sync_directory(&new).map_err(trouble("flush", &new))
        })
    }

    fn undo<'a>(&'a self, work: &'a Work, _: &'a Value) -> Act<'a, ()> {
        Box::pin(async move {
            Programs::find(&work.config)?.end_strays();
            own_files::discard(&new_directory(&work.config))
        })
    }

    fn bound(&self) -> Option<Duration> {
        Some(BOUND)
    }
}

fn refine(failure: Failure, upstream: &Upstream) -> Failure {
    let text = format!("from \"{}\" at {}:{}: {}", upstream.node, upstream.host, upstream.port, failure.text);
    Failure::new(failure.code, text)
}

/// `1234/5678 kB (21%), 0/1 tablespace`, or a word for the log.
fn tell(work: &Work, line: &str) {
    match progress(line) {
        Some((done, all)) => work.notes.progress(done, all),
        None => work.notes.say(line.to_owned()),
    }
}

fn progress(line: &str) -> Option<(u64, u64)> {
    let (counts, rest) = line.trim().split_once(" kB (")?;
    rest.contains("tablespace").then_some(())?;
    let (done, all) = counts.split_once('/')?;
    let kilobytes = |text: &str| text.trim().parse::<u64>().ok().map(|number| number << 10);
    Some((kilobytes(done)?, kilobytes(all)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_a_copy_is_is_read_from_its_words() {
        assert_eq!(progress("   23/30 kB (76%), 0/1 tablespace"), Some((23 << 10, 30 << 10)));
        assert_eq!(progress("30123/30123 kB (100%), 1/1 tablespace"), Some((30123 << 10, 30123 << 10)));
        assert_eq!(progress("waiting for checkpoint"), None);
    }
}
