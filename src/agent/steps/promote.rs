//! Promotion. Once PostgreSQL has been asked there is no way back: a promoted node is never made a standby again by an undo.

use std::time::Duration;

use tokio::time;

use super::freeze::{reload_if_running, restoring_again};
use crate::agent::postgres::local::Local;
use crate::agent::postgres::standing::Standing;
use crate::agent::postgres::{auto_conf, frozen, history, latch};
use crate::agent::step::{Act, Step, Work};
use crate::directive::{Code, Failure};

/// Between two looks whether it is done: it takes some 50 ms, and clients wait.
const PAUSE: Duration = Duration::from_millis(2);

/// `pg_promote()`. PostgreSQL takes the latch away itself, on its way out of recovery.
pub struct Promote;

impl Step for Promote {
    fn name(&self) -> &'static str {
        "promote"
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            let local = Local::open(&work.config).await?;
            // a replay that is paused or late goes on at once when it is to be promoted
            if is_standby(&local).await? && local.value("SELECT pg_promote(false)").await?.as_deref() != Some("t") {
                return Err(Failure::new(Code::Program, "pg_promote() says no"));
            }
            while is_standby(&local).await? {
                time::sleep(PAUSE).await;
            }
            let standing = Standing::ask(&local, &work.config.data_directory).await?;
            let forks = history::of(&work.config.data_directory, standing.timeline)?.forks;
            let begins = forks.last().map_or(standing.received, |(_, left)| *left);
            work.notes.find("timeline", standing.timeline.to_string());
            work.notes.find("lsn", begins.to_string());
            Ok(())
        })
    }

    fn is_point_of_no_return(&self) -> bool {
        true
    }
}

async fn is_standby(local: &Local) -> Result<bool, Failure> {
    Ok(local.value("SELECT pg_is_in_recovery()").await?.as_deref() == Some("t"))
}

/// Ends a freeze. It has no upstream any more, so `primary_conninfo` stays empty: should it ever start as a standby, it follows
/// nobody until it is told.
pub struct ForgetFreeze;

impl Step for ForgetFreeze {
    fn name(&self) -> &'static str {
        "end the freeze"
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            let config = &work.config;
            if latch::is_set(&config.data_directory) {
                return Err(Failure::new(Code::WrongState, "it is a primary, and somebody has latched it"));
            }
            if frozen::is_frozen(&config.state_directory) {
                auto_conf::set(&config.data_directory, &restoring_again(&config.state_directory)?)?;
                reload_if_running(config).await?;
                frozen::clear(&config.state_directory)?;
            }
            Ok(())
        })
    }

    fn is_point_of_no_return(&self) -> bool {
        true
    }
}
