//! Freeze: a standby receives and restores no more, and has replayed what it has. And back.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time;

use super::{from_journal, to_journal};
use crate::agent::config::AgentConfig;
use crate::agent::postgres::auto_conf::{self, Change};
use crate::agent::postgres::files::Image;
use crate::agent::postgres::frozen;
use crate::agent::postgres::local::{Local, LocalError};
use crate::agent::postgres::standing::Standing;
use crate::agent::step::{Act, Step, Work};
use crate::directive::{Code, Failure};

/// Between two looks at the replay.
const PAUSE: Duration = Duration::from_millis(3);
/// So many looks in a row must find it at its end: one may fall between two of its steps.
const LOOKS: u32 = 2;

/// The files that freeze and unfreeze change, as they were.
#[derive(Serialize, Deserialize)]
struct Before {
    auto_conf: Image,
    frozen: Image,
}

impl Before {
    fn look(config: &AgentConfig) -> Result<Value, Failure> {
        to_journal(&Self {
            auto_conf: Image::of(&auto_conf::path(&config.data_directory))?,
            frozen: Image::of(&frozen::path(&config.state_directory))?,
        })
    }

    async fn restore(value: &Value, config: &AgentConfig) -> Result<(), Failure> {
        let before: Self = from_journal(value)?;
        auto_conf::revert(&config.data_directory, &before.auto_conf, &frozen::SETTINGS)?;
        before.frozen.restore(&frozen::path(&config.state_directory))?;
        reload_if_running(config).await
    }
}

/// What it has in its files holds in the server, if there is one: one that starts reads them anyway.
pub(super) async fn reload_if_running(config: &AgentConfig) -> Result<(), Failure> {
    match Local::open(config).await {
        Ok(local) => Ok(local.reload().await?),
        Err(LocalError::Nobody(_) | LocalError::NotYet(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Takes away from where it receives and restores, and puts that away.
pub struct StopReceiving;

impl Step for StopReceiving {
    fn name(&self) -> &'static str {
        "stop receiving and restoring"
    }

    fn before<'a>(&'a self, work: &'a Work) -> Act<'a, Value> {
        Box::pin(async move { Before::look(&work.config) })
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            let config = &work.config;
            frozen::keep(&config.state_directory, &config.data_directory)?;
            auto_conf::set(&config.data_directory, &frozen::changes())?;
            Ok(Local::open(config).await?.reload().await?)
        })
    }

    fn undo<'a>(&'a self, work: &'a Work, before: &'a Value) -> Act<'a, ()> {
        Box::pin(Before::restore(before, &work.config))
    }
}

/// Waits until nothing is received any more and everything that was is replayed. A replay that a person has paused, or made late,
/// is not waited for: metadata `replay` says so, and what it has received counts.
pub struct FinishReplay;

impl Step for FinishReplay {
    fn name(&self) -> &'static str {
        "replay what it has"
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            let local = Local::open(&work.config).await?;
            let mut looks = 0;
            let standing = loop {
                let standing = Standing::ask(&local, &work.config.data_directory).await?;
                if !standing.in_recovery {
                    return Err(Failure::new(Code::WrongRole, "it has become a primary"));
                }
                let finished = standing.replayed >= standing.received || standing.is_at_end();
                match standing.held_back() {
                    _ if standing.receiving => looks = 0,
                    Some(why) => {
                        work.notes.find("replay", why.to_owned());
                        break standing;
                    }
                    None if finished => looks += 1,
                    None => looks = 0,
                }
                if looks >= LOOKS {
                    break standing;
                }
                time::sleep(PAUSE).await;
            };
            work.notes.find("timeline", standing.timeline.to_string());
            work.notes.find("received_lsn", standing.received.to_string());
            work.notes.find("replayed_lsn", standing.replayed.to_string());
            Ok(())
        })
    }
}

/// Puts back from where it receives and restores. Nothing when no freeze is in force.
pub struct ReceiveAgain;

impl Step for ReceiveAgain {
    fn name(&self) -> &'static str {
        "receive and restore again"
    }

    fn before<'a>(&'a self, work: &'a Work) -> Act<'a, Value> {
        Box::pin(async move { Before::look(&work.config) })
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            let config = &work.config;
            if let Some(kept) = frozen::load(&config.state_directory)? {
                let changes: Vec<Change> = kept.into_iter().collect();
                auto_conf::set(&config.data_directory, &changes)?;
            }
            // also when a former try has come that far: this may be what it lacked
            reload_if_running(config).await?;
            frozen::clear(&config.state_directory)
        })
    }

    fn undo<'a>(&'a self, work: &'a Work, before: &'a Value) -> Act<'a, ()> {
        Box::pin(Before::restore(before, &work.config))
    }
}

/// The changes that end a freeze for a server that will not receive from where it did: what it restores from comes back.
///
/// # Errors
/// When `frozen.json` does not read.
pub(super) fn restoring_again(state_directory: &Path) -> Result<Vec<Change>, Failure> {
    let kept = frozen::load(state_directory)?.unwrap_or_default();
    Ok(kept.into_iter().filter(|(name, _)| name == "restore_command").collect())
}
