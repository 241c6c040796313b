//! Finds out what there is to know of this PostgreSQL, again and again, and publishes it.
//!
//! Two ways to ask: one connection that is kept tells roles and positions; a fresh one each time tells whether the postmaster still
//! takes any, for backends that live say nothing about it. Every wait is bounded, so that a status is never old because PostgreSQL
//! hangs. Not here: what follows from it (a coordinator's to say).

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio::time::timeout;

use super::ask::Answers;
use super::config::AgentConfig;
use super::events::Events;
use super::job::Engine;
use super::postgres::control::{ControlFile, State};
use super::postgres::local::{Local, LocalError};
use super::postgres::program::Programs;
use super::postgres::{directory, frozen, history, latch};
use super::sweep::{Home, server_processes};
use crate::directive::{Accepting, AgentStatus, History, PostgresStatus};
use crate::pg::{Lsn, Timeline};

/// Between two looks when nobody asks for one.
const EVERY: Duration = Duration::from_millis(250);
/// Between two fresh connections.
const CONNECT_EVERY: Duration = Duration::from_millis(500);
/// While PostgreSQL says that it is about to take connections.
const CONNECT_SOON: Duration = Duration::from_millis(100);
/// After [`SILENT_MANY`]: each one that is not answered may hold a backend.
const CONNECT_SELDOM: Duration = Duration::from_secs(5);
const SILENT_MANY: u32 = 20;
/// For an answer of PostgreSQL's.
const ANSWER_BOUND: Duration = Duration::from_secs(1);
/// While the postmaster lives, its children are counted so often.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// For `pg_controldata`.
const CONTROL_BOUND: Duration = Duration::from_secs(3);

/// Asks with fresh connections whether PostgreSQL takes any, for ever.
pub async fn knock(
    config: Arc<AgentConfig>,
    mut postmaster: watch::Receiver<Option<u32>>,
    events: Arc<Events>,
    accepting: watch::Sender<Accepting>,
) {
    loop {
        let there = postmaster.borrow_and_update().is_some();
        let last = accepting.borrow().clone();
        let found = if there { knock_once(&config, last).await } else { Accepting::No };
        let wait = match &found {
            Accepting::NotYet { .. } => CONNECT_SOON,
            Accepting::No if there => CONNECT_SOON,
            Accepting::Silent { times } if *times > SILENT_MANY => CONNECT_SELDOM,
            Accepting::Yes | Accepting::Silent { .. } | Accepting::No => CONNECT_EVERY,
        };
        let changed = accepting.send_if_modified(|last| {
            let changed = *last != found;
            *last = found;
            changed
        });
        if changed {
            events.want_status();
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            gone = postmaster.changed() => if gone.is_err() { return },
        }
    }
}

async fn knock_once(config: &AgentConfig, last: Accepting) -> Accepting {
    let silent = || match last {
        Accepting::Silent { times } => Accepting::Silent { times: times.saturating_add(1) },
        Accepting::Yes | Accepting::NotYet { .. } | Accepting::No => Accepting::Silent { times: 1 },
    };
    match timeout(ANSWER_BOUND, Local::open(config)).await {
        Err(_) | Ok(Err(LocalError::Silent(_))) => silent(),
        Ok(Ok(_) | Err(LocalError::Full(_) | LocalError::Failed { sqlstate: Some(_), .. })) => Accepting::Yes,
        Ok(Err(LocalError::NotYet(said) | LocalError::Failed { sqlstate: None, text: said })) => {
            Accepting::NotYet { said }
        }
        Ok(Err(LocalError::Nobody(_))) => Accepting::No,
    }
}

/// Looks at everything, for ever.
pub struct Collector {
    /// The configuration.
    pub config: Arc<AgentConfig>,
    /// Whose job and epoch are told.
    pub engine: Arc<Engine>,
    /// Where it goes.
    pub events: Arc<Events>,
    /// The postmaster, from its watcher.
    pub postmaster: watch::Receiver<Option<u32>>,
    /// What [`knock`] has found.
    pub accepting: watch::Receiver<Accepting>,
    /// This life.
    pub incarnation: String,
}

/// What is not found out anew each time.
#[derive(Default)]
struct Memory {
    kept: Option<Local>,
    counted: Option<(Instant, Option<u32>, u32)>,
    control: Option<(SystemTime, Option<(ControlFile, Option<u64>)>)>,
    history: Option<(Timeline, History)>,
}

impl Collector {
    /// Runs for ever.
    pub async fn run(self) {
        let mut memory = Memory::default();
        loop {
            let status = self.collect(&mut memory).await;
            self.events.status(status);
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = self.events.status_wanted() => {}
            }
        }
    }

    async fn collect(&self, memory: &mut Memory) -> AgentStatus {
        let promise = self.engine.promise();
        // before PostgreSQL is looked at: who reads that a job has ended reads what is since then
        let job = self.engine.present();
        let (postgres, mut warnings) = self.postgres(memory).await;
        let (data, state) = (&self.config.data_directory, &self.config.state_directory);
        let disk_free = match (directory::free_bytes(data).ok(), directory::free_bytes(state).ok()) {
            (Some(data), Some(state)) => data.min(state),
            (found, None) | (None, found) => found.unwrap_or_default(),
        };
        if postgres.postmaster.is_none() && postgres.accepting == Accepting::Yes {
            warnings.push("PostgreSQL answers, and its postmaster is not to be seen".to_owned());
        }
        AgentStatus {
            cluster: self.config.cluster.clone(),
            node: self.config.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: self.incarnation.clone(),
            epoch: promise.epoch,
            coordinator: promise.coordinator,
            postgres,
            disk_free,
            job,
            warnings,
        }
    }

    async fn postgres(&self, memory: &mut Memory) -> (PostgresStatus, Vec<String>) {
        let data_directory = &self.config.data_directory;
        let postmaster = *self.postmaster.borrow();
        let accepting = self.accepting.borrow().clone();
        let mut status = PostgresStatus {
            processes: self.count(memory, postmaster).await,
            postmaster,
            accepting,
            latched: latch::is_set(data_directory),
            frozen: frozen::is_frozen(&self.config.state_directory),
            ..PostgresStatus::default()
        };
        let mut warnings = Vec::new();
        if postmaster.is_none() {
            memory.kept = None;
            if let Some((control, recovery_bytes)) = self.control(memory).await {
                status.system_identifier = Some(control.system_identifier);
                status.timeline = Some(control.timeline);
                status.recovery_bytes = recovery_bytes;
                status.control = Some(control.summary());
            }
        } else {
            memory.control = None;
            if let Some(answers) = self.ask(memory, &status.accepting).await {
                warnings = answers.warnings();
                answers.fill(&mut status);
            }
        }
        if let Some(timeline) = status.timeline {
            if memory.history.as_ref().is_none_or(|(of, _)| *of != timeline) {
                memory.history = history::of(data_directory, timeline).ok().map(|history| (timeline, history));
            }
            status.history = memory.history.as_ref().map(|(_, history)| history.clone()).unwrap_or_default();
        }
        (status, warnings)
    }

    async fn count(&self, memory: &mut Memory, postmaster: Option<u32>) -> u32 {
        if let Some((at, of, counted)) = memory.counted
            && of == postmaster
            && postmaster.is_some()
            && at.elapsed() < COUNT_EVERY
        {
            return counted;
        }
        let home = Home::of(&self.config.data_directory);
        let counted = tokio::task::spawn_blocking(move || server_processes(&home)).await;
        let counted = match counted {
            Ok(Ok(found)) => u32::try_from(found.len()).unwrap_or(u32::MAX),
            // not to be seen is not the same as not there
            Ok(Err(_)) | Err(_) => u32::MAX,
        };
        memory.counted = Some((Instant::now(), postmaster, counted));
        counted
    }

    async fn ask(&self, memory: &mut Memory, accepting: &Accepting) -> Option<Answers> {
        if memory.kept.is_none() && *accepting == Accepting::Yes {
            memory.kept = timeout(ANSWER_BOUND, Local::open(&self.config)).await.ok()?.ok();
        }
        let kept = memory.kept.as_ref()?;
        match timeout(ANSWER_BOUND, Answers::of(kept)).await {
            Ok(Ok(answers)) => Some(answers),
            Ok(Err(error)) => {
                tracing::debug!(%error, "PostgreSQL has not told");
                memory.kept = None;
                None
            }
            Err(_) => {
                memory.kept = None;
                None
            }
        }
    }

    /// The control file and how much there is to recover, again only when it has been written.
    async fn control(&self, memory: &mut Memory) -> Option<(ControlFile, Option<u64>)> {
        let path = self.config.data_directory.join("global/pg_control");
        let written = fs::metadata(path).ok()?.modified().ok()?;
        if memory.control.as_ref().is_none_or(|(at, _)| *at != written) {
            let control = read_control(&self.config).await;
            let bytes = control.as_ref().and_then(|control| recovery_bytes(&self.config.data_directory, control));
            memory.control = Some((written, control.map(|control| (control, bytes))));
        }
        memory.control.as_ref().and_then(|(_, control)| control.clone())
    }
}

async fn read_control(config: &AgentConfig) -> Option<ControlFile> {
    let programs = Programs::find(config).ok()?;
    timeout(CONTROL_BOUND, ControlFile::read(&programs, &config.data_directory)).await.ok()?.ok()
}

/// How much log there is behind the last checkpoint's redo, about: up to the end of the segment that was written last. Segments that
/// were made in advance have later names, but were not written since.
fn recovery_bytes(data_directory: &Path, control: &ControlFile) -> Option<u64> {
    if matches!(control.state, State::ShutDown | State::ShutDownInRecovery) {
        return Some(0);
    }
    let entries = fs::read_dir(data_directory.join("pg_wal")).ok()?;
    let written = entries.filter_map(Result::ok).filter_map(|entry| {
        let start = segment_start(entry.file_name().to_str()?, control.layout.segment_size)?;
        Some((entry.metadata().ok()?.modified().ok()?, start))
    });
    let (_, start) = written.max()?;
    Some(Lsn(start.0.saturating_add(control.layout.segment_size)).bytes_since(control.redo))
}

/// Where a segment begins, by its name: timeline, then number.
fn segment_start(name: &str, segment_size: u64) -> Option<Lsn> {
    if name.len() != 24 || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let high = u64::from_str_radix(name.get(8..16)?, 16).ok()?;
    let low = u64::from_str_radix(name.get(16..24)?, 16).ok()?;
    Some(Lsn((high << 32).checked_add(low.checked_mul(segment_size)?)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::pg::{LogLayout, SystemIdentifier};

    #[test]
    fn what_a_crash_leaves_to_recover_is_counted_from_redo_to_the_segment_written_last() {
        let directory = tempfile::tempdir().unwrap();
        let wal = directory.path().join("pg_wal");
        fs::create_dir(&wal).unwrap();
        for name in ["000000010000000000000005", "000000010000000000000006", "00000001.history"] {
            fs::write(wal.join(name), "").unwrap();
        }
        let old = SystemTime::now() - Duration::from_secs(100);
        let advance = fs::File::create(wal.join("000000010000000000000009")).unwrap();
        advance.set_modified(old).unwrap();
        let mut control = ControlFile {
            system_identifier: SystemIdentifier(7),
            state: State::InProduction,
            checkpoint: Lsn(0x500_0060),
            redo: Lsn(0x500_0028),
            timeline: Timeline(1),
            min_recovery: Lsn(0),
            min_recovery_timeline: Timeline(0),
            layout: LogLayout { segment_size: 16 << 20, block_size: 8192 },
            checksums: true,
            wal_log_hints: false,
        };
        fs::File::options().write(true).open(wal.join("000000010000000000000005")).unwrap().set_modified(old).unwrap();
        assert_eq!(recovery_bytes(directory.path(), &control), Some(0x700_0000 - 0x500_0028));
        control.state = State::ShutDown;
        assert_eq!(recovery_bytes(directory.path(), &control), Some(0));
    }
}
