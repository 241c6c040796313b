//! Prechecks: the first steps of a job. They change nothing, and a job that fails in one has changed nothing.

use crate::agent::postgres::control::{ControlFile, State};
use crate::agent::postgres::local::Local;
use crate::agent::postgres::program::Programs;
use crate::agent::postgres::standing::Standing;
use crate::agent::postgres::{directory, frozen, processes, rewinding, wal};
use crate::agent::step::{Act, Step, Work};
use crate::directive::{Code, Failure, Upstream};

/// A server that opens for writes needs room for a few segments of log, or it is down again at once.
const ROOM_TO_WRITE: u64 = 64 << 20;

/// What must be so before a job begins.
pub enum Check {
    /// A data directory that the agent may work on.
    Directory,
    /// A server that runs and takes connections.
    Running,
    /// A primary that runs.
    Primary,
    /// A standby that runs.
    Standby,
    /// A standby that runs and may be promoted: nobody has paused its replay, there is room to write. When a freeze is in force,
    /// a paused one may: the coordinator has seen what it has.
    Candidate,
    /// A standby, or a server that does not run.
    NoPrimary,
    /// A data directory that may be started: no rewind of it was interrupted.
    Startable,
    /// A primary's data directory: who opens a standby's for writes goes on with a timeline that is another's.
    OfPrimary,
    /// The log here is a part of the upstream's history.
    History(Upstream),
}

impl Step for Check {
    fn name(&self) -> &'static str {
        match self {
            Self::Directory => "check the data directory",
            Self::Running => "check that PostgreSQL runs",
            Self::Primary => "check that it is a running primary",
            Self::Standby => "check that it is a running standby",
            Self::Candidate => "check that it can be promoted",
            Self::NoPrimary => "check that it is no running primary",
            Self::Startable => "check that it may be started",
            Self::OfPrimary => "check that it was a primary's",
            Self::History(_) => "check that its log is a part of the other's history",
        }
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            directory::check(&work.config.data_directory)?;
            match self {
                Self::Directory => Ok(()),
                Self::Running => Local::open(&work.config).await.map(drop).map_err(Failure::from),
                Self::Primary => role(work, false).await.map(drop),
                Self::Standby => role(work, true).await.map(drop),
                Self::Candidate => candidate(work).await,
                Self::NoPrimary => no_primary(work).await,
                Self::Startable => rewinding::check(&work.config.state_directory),
                Self::OfPrimary => of_primary(work).await,
                Self::History(upstream) => history(work, upstream).await,
            }
        })
    }
}

async fn role(work: &Work, standby: bool) -> Result<Standing, Failure> {
    let local = Local::open(&work.config).await?;
    let standing = Standing::ask(&local, &work.config.data_directory).await?;
    match (standing.in_recovery, standby) {
        (true, false) => Err(Failure::new(Code::WrongRole, "it is a standby, and a primary is meant")),
        (false, true) => Err(Failure::new(Code::WrongRole, "it is a primary, and a standby is meant")),
        _ => Ok(standing),
    }
}

async fn candidate(work: &Work) -> Result<(), Failure> {
    let standing = role(work, true).await?;
    if standing.paused && !frozen::is_frozen(&work.config.state_directory) {
        let text = "its replay is paused: somebody wants it as it is; pg_wal_replay_resume() lets it be promoted";
        return Err(Failure::new(Code::WrongState, text));
    }
    let free = directory::free_bytes(&work.config.data_directory)?;
    if free < ROOM_TO_WRITE {
        let text =
            format!("{} MB are free where the data directory is, and {} are needed", free >> 20, ROOM_TO_WRITE >> 20);
        return Err(Failure::new(Code::DiskFull, text));
    }
    Ok(())
}

async fn no_primary(work: &Work) -> Result<(), Failure> {
    if processes::postmaster(&work.config.data_directory)?.is_none() {
        return Ok(());
    }
    match role(work, true).await {
        // one that cannot be asked is stopped or waited for by what comes
        Err(failure) if failure.code != Code::WrongRole => Ok(()),
        standing => standing.map(drop),
    }
}

async fn of_primary(work: &Work) -> Result<(), Failure> {
    let control = ControlFile::read(&Programs::find(&work.config)?, &work.config.data_directory).await?;
    match control.state {
        State::ShutDownInRecovery | State::InArchiveRecovery => {
            let text = format!(
                "it was a standby when it ran last (\"{}\"): opened for writes as it is, it would go on with another's timeline; \
                 it can be promoted",
                control.state.as_str()
            );
            Err(Failure::new(Code::WrongRole, text))
        }
        State::StartingUp
        | State::ShutDown
        | State::ShuttingDown
        | State::InCrashRecovery
        | State::InProduction
        | State::Other(_) => Ok(()),
    }
}

async fn history(work: &Work, upstream: &Upstream) -> Result<(), Failure> {
    let data_directory = &work.config.data_directory;
    if rewinding::is_set(&work.config.state_directory) {
        return Err(Failure::new(Code::Diverged, rewinding::TEXT));
    }
    let (timeline, end) = if processes::postmaster(data_directory)?.is_some() {
        let standing = role(work, true).await?;
        // the beginning of a record that never came whole is no divergence
        let whole = standing.is_at_end() && !standing.receiving;
        (standing.timeline, if whole { standing.replayed } else { standing.received })
    } else {
        let control = ControlFile::read(&Programs::find(&work.config)?, data_directory).await?;
        wal::end(data_directory, &control)?.ok_or_else(|| {
            let text = format!("it was a primary and was not stopped cleanly (\"{}\")", control.state.as_str());
            Failure::new(Code::Diverged, text)
        })?
    };
    if upstream.history.has(timeline, end) {
        return Ok(());
    }
    let text = format!(
        "its log goes to {end} on timeline {timeline}, which is no part of the history of \"{}\" on timeline {}",
        upstream.node, upstream.history.timeline
    );
    Err(Failure::new(Code::Diverged, text))
}
