//! Stop and start, each with the other as its undo.

use std::time::Duration;

use serde_json::Value;
use tokio::time;

use super::fence::find_end;
use super::{from_journal, to_journal};
use crate::agent::config::AgentConfig;
use crate::agent::postgres::control::{ControlFile, State};
use crate::agent::postgres::files::Image;
use crate::agent::postgres::local::Local;
use crate::agent::postgres::program::Programs;
use crate::agent::postgres::standing::Standing;
use crate::agent::postgres::{latch, processes, rewinding, server};
use crate::agent::step::{Act, Step, Work};
use crate::directive::{Code, Failure};

/// How long an undo lets a stop that is under way go on before it ends it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether there is a postmaster, for a pre-image.
fn is_running(config: &AgentConfig) -> Result<bool, Failure> {
    Ok(processes::postmaster(&config.data_directory)?.is_some())
}

/// Down, in an orderly way if that is quick.
async fn down(config: &AgentConfig) -> Result<(), Failure> {
    Programs::find(config)?.end_starts();
    match time::timeout(PATIENCE, server::stop_fast(config)).await {
        Ok(Ok(())) => Ok(()),
        _ => server::stop_immediate(config).await,
    }
}

/// A clean stop of a primary, and the latch. Undone: a primary again.
///
/// One step, because its parts are undone in another order than that of their doing: the latch comes before the stop, so that
/// nobody starts a primary in between, and must go before the start.
pub struct Demote;

impl Step for Demote {
    fn name(&self) -> &'static str {
        "stop the primary cleanly, and latch"
    }

    fn before<'a>(&'a self, work: &'a Work) -> Act<'a, Value> {
        Box::pin(async move { to_journal(&Image::of(&latch::path(&work.config.data_directory))?) })
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            let config = &work.config;
            latch::set(&config.data_directory)?;
            server::stop_fast(config).await?;
            let control = ControlFile::read(&Programs::find(config)?, &config.data_directory).await?;
            if control.state != State::ShutDown {
                let text = format!("it is down, and not stopped cleanly: \"{}\"", control.state.as_str());
                return Err(Failure::new(Code::Program, text));
            }
            find_end(work).await
        })
    }

    fn undo<'a>(&'a self, work: &'a Work, before: &'a Value) -> Act<'a, ()> {
        Box::pin(async move {
            let config = &work.config;
            let image: Image = from_journal(before)?;
            // one that has not been told to stop yet, or was started again by an undo before this one, goes on
            if is_running(config)? && is_writable(config).await {
                return image.restore(&latch::path(&config.data_directory));
            }
            down(config).await?;
            image.restore(&latch::path(&config.data_directory))?;
            server::start(config).await
        })
    }
}

/// Whether it takes writes and does not stop.
async fn is_writable(config: &AgentConfig) -> bool {
    match Local::open(config).await {
        Ok(local) => Standing::ask(&local, &config.data_directory).await.is_ok_and(|standing| !standing.in_recovery),
        Err(_) => false,
    }
}

/// Stops it, if it runs. Undone: it runs again, if it did.
///
/// A standby that has not obeyed in half of a step's time (its startup process hangs) is ended: it has no commits of its own, and
/// replays again what it had. A primary's stop is waited for.
pub struct Stop;

impl Step for Stop {
    fn name(&self) -> &'static str {
        "stop PostgreSQL"
    }

    fn before<'a>(&'a self, work: &'a Work) -> Act<'a, Value> {
        Box::pin(async move { to_journal(&is_running(&work.config)?) })
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            let config = &work.config;
            if !is_standby(config).await? {
                return server::stop_fast(config).await;
            }
            let patience = config.jobs.step_timeout.get() / 2;
            match time::timeout(patience, server::stop_fast(config)).await {
                Ok(stopped) => stopped,
                Err(_) => {
                    work.notes.say(format!("it has not stopped within {patience:?}: its processes are ended"));
                    work.notes.find("stop", "immediate".to_owned());
                    server::stop_immediate(config).await
                }
            }
        })
    }

    fn undo<'a>(&'a self, work: &'a Work, before: &'a Value) -> Act<'a, ()> {
        Box::pin(async move {
            let ran: bool = from_journal(before)?;
            if ran && rewinding::is_set(&work.config.state_directory) {
                work.notes.say(rewinding::TEXT.to_owned());
                return Ok(());
            }
            match (ran, Local::open(&work.config).await) {
                (false, _) | (true, Ok(_)) => Ok(()),
                (true, Err(_)) => {
                    down(&work.config).await?;
                    server::start(&work.config).await
                }
            }
        })
    }
}

/// Whether what runs cannot be a primary: it is latched, and was before it started.
async fn is_standby(config: &AgentConfig) -> Result<bool, Failure> {
    if !latch::is_set(&config.data_directory) {
        return Ok(false);
    }
    let control = ControlFile::read(&Programs::find(config)?, &config.data_directory).await?;
    Ok(matches!(control.state, State::InArchiveRecovery | State::ShutDownInRecovery))
}

/// Starts it, if it does not run. Undone: it does not, if it did not.
pub struct Start;

impl Step for Start {
    fn name(&self) -> &'static str {
        "start PostgreSQL"
    }

    fn before<'a>(&'a self, work: &'a Work) -> Act<'a, Value> {
        Box::pin(async move { to_journal(&is_running(&work.config)?) })
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move { server::start(&work.config).await })
    }

    fn undo<'a>(&'a self, work: &'a Work, before: &'a Value) -> Act<'a, ()> {
        Box::pin(async move {
            let ran: bool = from_journal(before)?;
            if ran { Ok(()) } else { down(&work.config).await }
        })
    }
}

/// Takes the latch away: what is started next may open for writes. Undone: back, before anything starts.
pub struct Unlatch;

impl Step for Unlatch {
    fn name(&self) -> &'static str {
        "take the latch away"
    }

    fn before<'a>(&'a self, work: &'a Work) -> Act<'a, Value> {
        Box::pin(async move { to_journal(&Image::of(&latch::path(&work.config.data_directory))?) })
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move { latch::clear(&work.config.data_directory) })
    }

    fn undo<'a>(&'a self, work: &'a Work, before: &'a Value) -> Act<'a, ()> {
        Box::pin(async move { from_journal::<Image>(before)?.restore(&latch::path(&work.config.data_directory)) })
    }
}

/// Verifies that it takes writes.
pub struct TakesWrites;

impl Step for TakesWrites {
    fn name(&self) -> &'static str {
        "check that it takes writes"
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            let local = Local::open(&work.config).await?;
            let standing = Standing::ask(&local, &work.config.data_directory).await?;
            if standing.in_recovery {
                return Err(Failure::new(Code::WrongRole, "it has started as a standby"));
            }
            work.notes.find("timeline", standing.timeline.to_string());
            work.notes.find("lsn", standing.received.to_string());
            Ok(())
        })
    }
}
