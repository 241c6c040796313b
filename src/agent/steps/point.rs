//! Follow: the files say from where to receive, the server does, and streams.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time;

use super::freeze::{reload_if_running, restoring_again};
use super::{from_journal, to_journal};
use crate::agent::postgres::auto_conf::{self, Change};
use crate::agent::postgres::files::Image;
use crate::agent::postgres::local::Local;
use crate::agent::postgres::standing::Standing;
use crate::agent::postgres::{conninfo, frozen, latch, processes};
use crate::agent::step::{Act, Step, Work};
use crate::directive::{Code, Failure, Upstream};

/// Between two looks whether it streams.
const PAUSE: Duration = Duration::from_millis(20);
/// What following sets.
const SETTINGS: [&str; 4] = ["primary_conninfo", "primary_slot_name", "recovery_target_timeline", "restore_command"];

#[derive(Serialize, Deserialize)]
struct Before {
    auto_conf: Image,
    latch: Image,
    frozen: Image,
}

/// Writes where to follow, and the latch; a server that runs reads it. Undone: the files as they were.
pub struct PointAt(pub Upstream);

impl Step for PointAt {
    fn name(&self) -> &'static str {
        "write whom to follow"
    }

    fn before<'a>(&'a self, work: &'a Work) -> Act<'a, Value> {
        Box::pin(async move {
            to_journal(&Before {
                auto_conf: Image::of(&auto_conf::path(&work.config.data_directory))?,
                latch: Image::of(&latch::path(&work.config.data_directory))?,
                frozen: Image::of(&frozen::path(&work.config.state_directory))?,
            })
        })
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            let config = &work.config;
            let mut changes = restoring_again(&config.state_directory)?;
            changes.extend(changes_for(work, &self.0)?);
            latch::set(&config.data_directory)?;
            auto_conf::set(&config.data_directory, &changes)?;
            reload_if_running(config).await?;
            frozen::clear(&config.state_directory)
        })
    }

    fn undo<'a>(&'a self, work: &'a Work, before: &'a Value) -> Act<'a, ()> {
        Box::pin(async move {
            let config = &work.config;
            let before: Before = from_journal(before)?;
            auto_conf::revert(&config.data_directory, &before.auto_conf, &SETTINGS)?;
            before.frozen.restore(&frozen::path(&config.state_directory))?;
            before.latch.restore(&latch::path(&config.data_directory))?;
            reload_if_running(config).await
        })
    }
}

/// The settings of a standby of this upstream.
///
/// # Errors
/// When the passfile cannot be written.
pub(super) fn changes_for(work: &Work, upstream: &Upstream) -> Result<Vec<Change>, Failure> {
    let conninfo = conninfo::primary(&work.config, upstream)?;
    let slot = (!upstream.slot.is_empty()).then(|| upstream.slot.clone());
    Ok(vec![
        ("primary_conninfo".to_owned(), Some(conninfo)),
        ("primary_slot_name".to_owned(), slot),
        ("recovery_target_timeline".to_owned(), Some("latest".to_owned())),
    ])
}

/// Verifies that it streams from the upstream, on its timeline.
pub struct Streams(pub Upstream);

impl Step for Streams {
    fn name(&self) -> &'static str {
        "check that it streams"
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            let upstream = &self.0;
            let place = (upstream.host.clone(), upstream.port);
            let mut local = None;
            loop {
                let asked = match local.take() {
                    Some(local) => local,
                    None => match Local::open(&work.config).await {
                        Ok(local) => local,
                        Err(_) if processes::postmaster(&work.config.data_directory)?.is_some() => {
                            time::sleep(PAUSE).await;
                            continue;
                        }
                        Err(error) => return Err(error.into()),
                    },
                };
                let standing = Standing::ask(&asked, &work.config.data_directory).await?;
                if !standing.in_recovery {
                    return Err(Failure::new(Code::WrongRole, "it has become a primary"));
                }
                let on_timeline = standing.timeline >= upstream.history.timeline;
                if standing.streaming_from.as_ref() == Some(&place) && on_timeline {
                    work.notes.find("timeline", standing.timeline.to_string());
                    work.notes.find("received_lsn", standing.received.to_string());
                    work.notes.find("replayed_lsn", standing.replayed.to_string());
                    return Ok(());
                }
                local = Some(asked);
                time::sleep(PAUSE).await;
            }
        })
    }
}
