//! The copy takes the data directory's place, by two renames; the old one stays beside it, and old ones of before are thinned out.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::copy::new_directory;
use super::{from_journal, to_journal};
use crate::agent::config::AgentConfig;
use crate::agent::postgres::files::{self, trouble};
use crate::agent::postgres::{own_files, processes, rewinding, server};
use crate::agent::step::{Act, Step, Work};
use crate::directive::{Code, Failure};

/// What the names of replaced data directories have behind that of the data directory: then epoch, a dash, seconds since 1970.
const OLD: &str = ".old-";

/// The old directory aside, the new one in its place. Undone: the other way round.
pub struct Swap;

impl Step for Swap {
    fn name(&self) -> &'static str {
        "put the copy in the place of the old directory"
    }

    /// Where the old one goes, and whether it was half rewound.
    fn before<'a>(&'a self, work: &'a Work) -> Act<'a, Value> {
        Box::pin(async move {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let old = files::beside(&work.config.data_directory, &format!("{OLD}{}-{now}", work.order.epoch));
            work.notes.find("old_directory", old.display().to_string());
            to_journal(&(old, rewinding::is_set(&work.config.state_directory)))
        })
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            let data_directory = &work.config.data_directory;
            let new = new_directory(&work.config);
            // somebody may have started it while the copy was made
            server::stop_immediate(&work.config).await?;
            if new.is_dir() {
                if data_directory.is_dir() {
                    let name = work.notes.found("old_directory").ok_or_else(unnamed)?;
                    rename(data_directory, Path::new(&name))?;
                }
                rename(&new, data_directory)?;
            }
            rewinding::clear(&work.config.state_directory)
        })
    }

    fn undo<'a>(&'a self, work: &'a Work, before: &'a Value) -> Act<'a, ()> {
        Box::pin(async move {
            let (old, was_rewinding): (PathBuf, bool) = from_journal(before)?;
            let data_directory = &work.config.data_directory;
            if old.is_dir() {
                server::stop_immediate(&work.config).await?;
                if data_directory.is_dir() {
                    rename(data_directory, &new_directory(&work.config))?;
                }
                rename(&old, data_directory)?;
            }
            if was_rewinding { rewinding::set(&work.config.state_directory) } else { Ok(()) }
        })
    }
}

fn unnamed() -> Failure {
    Failure::new(Code::Internal, "nobody has named the place of the old directory")
}

fn rename(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::rename(from, to).map_err(trouble("rename", from))?;
    files::sync_directory(to).map_err(trouble("flush", to))
}

/// Removes replaced data directories beyond `[backups] keep` and `keep_days`. The node streams by now.
pub struct Thin;

impl Step for Thin {
    fn name(&self) -> &'static str {
        "remove old directories"
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            for old in superfluous(&work.config, SystemTime::now()) {
                // never one that something runs in
                match processes::all(&old) {
                    Ok(running) if running.is_empty() => {
                        work.notes.say(format!("removing {}", old.display()));
                        own_files::discard(&old)?;
                    }
                    _ => work.notes.say(format!("{} is in use, and stays", old.display())),
                }
            }
            Ok(())
        })
    }

    fn is_point_of_no_return(&self) -> bool {
        true
    }

    fn bound(&self) -> Option<Duration> {
        Some(Duration::from_secs(3_600))
    }
}

/// Those that go: all but the newest ones that are young enough.
fn superfluous(config: &AgentConfig, now: SystemTime) -> Vec<PathBuf> {
    let data_directory = &config.data_directory;
    let name = data_directory.file_name().unwrap_or_default().to_string_lossy().into_owned() + OLD;
    let parent = data_directory.parent().unwrap_or(Path::new("/"));
    let entries = fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok);
    let mut old: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let file_name = entry.file_name();
            let (epoch, made) = file_name.to_str()?.strip_prefix(&name)?.split_once('-')?;
            epoch.parse::<u64>().ok()?;
            Some((made.parse().ok()?, entry.path()))
        })
        .collect();
    old.sort();
    let today = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let oldest = today.saturating_sub(u64::from(config.backups.keep_days) * 24 * 3_600);
    let keep = usize::try_from(config.backups.keep).unwrap_or(usize::MAX);
    let beyond = old.len().saturating_sub(keep);
    old.into_iter()
        .enumerate()
        .filter(|(index, (made, _))| *index < beyond || *made < oldest)
        .map(|(_, (_, path))| path)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_old_directories_stay_and_only_howdahs_are_looked_at() {
        let parent = tempfile::tempdir().unwrap();
        let data = parent.path().join("data");
        let now = UNIX_EPOCH + Duration::from_secs(100 * 86_400);
        let day = |days: u64| days * 86_400;
        for name in ["data", "data.old", "data.old-mine", "data.old-x-1", "other.old-1-1", "data.howdah-new"] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        for (epoch, made) in [(9, day(90)), (1, day(97)), (2, day(98)), (10, day(99))] {
            fs::create_dir(parent.path().join(format!("data.old-{epoch}-{made}"))).unwrap();
        }
        let text = format!(
            "cluster = 'main'\nnode = 'b'\ndata_directory = '{}'\nstate_directory = '/s'\n\
             [listen]\n[replication]\nuser = 'r'\n[backups]\nkeep = KEEP\nkeep_days = 7",
            data.display()
        );
        let gone = |keep: &str| {
            let config: AgentConfig = toml::from_str(&text.replace("KEEP", keep)).unwrap();
            let names = superfluous(&config, now).into_iter().map(|path| path.file_name().unwrap().to_owned());
            names.map(|name| name.into_string().unwrap()).collect::<Vec<_>>()
        };
        let old = |epoch: u64, made: u64| format!("data.old-{epoch}-{made}");
        assert_eq!(gone("2"), [old(9, day(90)), old(1, day(97))]);
        assert_eq!(gone("9"), [old(9, day(90))], "too old");
        assert_eq!(gone("0").len(), 4);
    }
}
