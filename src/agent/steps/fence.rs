//! Fence: no server process is left, proven, and the latch. Never smart, never fast, no checkpoint; never undone.
//!
//! The latch is written before the kill as well as checked after it: whoever starts PostgreSQL in between (systemd does at once)
//! starts a standby, which the sweep then ends. A disk that does not take the latch does not keep the kill from happening.

use crate::agent::postgres::control::{ControlFile, State};
use crate::agent::postgres::program::Programs;
use crate::agent::postgres::{latch, server, wal};
use crate::agent::step::{Act, Step, Work};
use crate::agent::sweep::sweep;
use crate::directive::Failure;

/// Ends every server process.
pub struct EndAll;

impl Step for EndAll {
    fn name(&self) -> &'static str {
        "end every server process"
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            if let Err(failure) = latch::set(&work.config.data_directory) {
                work.notes.say(format!("not latched yet: {failure}"));
            }
            server::stop_immediate(&work.config).await
        })
    }

    fn is_point_of_no_return(&self) -> bool {
        true
    }
}

/// Latches, and proves that nothing runs that was started before the latch.
pub struct LatchAndProve;

impl Step for LatchAndProve {
    fn name(&self) -> &'static str {
        "latch, and prove that no server process is left"
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            let data_directory = &work.config.data_directory;
            latch::set(data_directory)?;
            let killed = sweep(data_directory, server::SWEEP).await?;
            if killed > 0 {
                work.notes.say(format!("{killed} processes had been started meanwhile, and are gone"));
            }
            work.notes.find("proof", "no-process".to_owned());
            Ok(())
        })
    }

    fn is_point_of_no_return(&self) -> bool {
        true
    }
}

/// Says where the log of a server that does not run ends, where that is known. For a fence that is an extra: it does not fail.
pub struct FindEnd;

impl Step for FindEnd {
    fn name(&self) -> &'static str {
        "look where its log ends"
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            if let Err(failure) = find_end(work).await {
                work.notes.say(failure.text);
            }
            Ok(())
        })
    }

    fn is_point_of_no_return(&self) -> bool {
        true
    }
}

/// Notes `end_lsn` and `timeline`, and `shutdown_lsn` of a primary, of a server that was stopped cleanly.
///
/// # Errors
/// When the control file or the log do not read.
pub async fn find_end(work: &Work) -> Result<(), Failure> {
    let data_directory = &work.config.data_directory;
    let control = ControlFile::read(&Programs::find(&work.config)?, data_directory).await?;
    work.notes.find("state", control.state.as_str().to_owned());
    if let Some((timeline, end)) = wal::end(data_directory, &control)? {
        work.notes.find("timeline", timeline.to_string());
        work.notes.find("end_lsn", end.to_string());
    }
    if control.state == State::ShutDown {
        work.notes.find("shutdown_lsn", control.checkpoint.to_string());
    }
    Ok(())
}
