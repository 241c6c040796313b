//! Keeps one database's view true: when it is read, where, and what becomes of failures.
//!
//! Not here: what is asked and what the answer means (`question`). Only the primary is asked: a standby may not have what
//! was doubted yet.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, Semaphore};
use tokio::task;
use tokio::time::{self, Instant};
use tracing::{debug, info, warn};

use super::names::Names;
use super::own::Shelf;
use super::question::{PREPARATION, prepared, question};
use super::reading::Facts;
use super::{HiddenView, answer};
use crate::catalog::connection::{ConnectionError, ControlConnection, Monitor, WatchedCluster, WatchedNode};
use crate::pg::SqlState;
use crate::topology::{Board, ClusterName, NodeName};

/// Shown in the nodes' `pg_stat_activity`.
const APPLICATION_NAME: &str = "howdah hidden";
/// Between two reads nobody asked for: how long a change behind howdah's back may go unnoticed.
const PERIOD: Duration = Duration::from_secs(30);
/// The first wait after a read that failed; doubles up to [`PERIOD`].
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Between two looks at the board for a primary.
const LOOK: Duration = Duration::from_millis(100);
/// Between two looks at it for another primary, which may have lost what the last one said.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// At least so long between the beginnings of two reads, however many doubts there are.
const SPACING_MIN: Duration = Duration::from_millis(50);
/// In a storm of doubts the spacing doubles up to this.
const SPACING_MAX: Duration = Duration::from_secs(2);
/// A doubt within so many spacings of the last read is a storm.
const STORM: u32 = 4;
/// How long a question may take at least: a large catalogue takes longer than a health check.
const TIMEOUT_MIN: Duration = Duration::from_secs(10);
/// Databases of a cluster that are read at a time.
const READS_MAX: usize = 2;

/// Why a database's view is [`Hidden::Unknown`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HiddenError {
    /// No cluster of that name, or nobody to ask as.
    #[error("there is no cluster \"{0}\" with a monitor")]
    NoMonitor(ClusterName),
    /// Nobody to ask.
    #[error("cluster \"{0}\" has no primary")]
    NoPrimary(ClusterName),
    /// The node did not answer, or refused.
    #[error(
        "user \"{user}\" cannot look for hidden settings in database \"{dbname}\" on node \"{node}\", so every transaction \
         there is followed by a reset and nothing is read on replicas: {error}; let the monitor's user connect to it"
    )]
    NoAnswer {
        /// The monitor's user.
        user: String,
        /// The database, as the server calls it.
        dbname: Box<str>,
        /// The node that was asked.
        node: NodeName,
        /// What came instead.
        error: ConnectionError,
    },
}

impl HiddenError {
    /// Whether nobody is there to ask, or nobody who would listen: then little changes, and reads that a standby could answer
    /// are best answered there.
    const fn is_absence(&self) -> bool {
        use ConnectionError::{Full, Gone, TimedOut};
        matches!(self, Self::NoPrimary(_) | Self::NoAnswer { error: Gone(_) | TimedOut(_) | Full(_), .. })
    }

    /// Whether only a person can end it; everything else passes, or the monitor or the client is told.
    pub(super) fn needs_a_person(&self) -> bool {
        match self {
            Self::NoMonitor(_) | Self::NoPrimary(_) => false,
            // it may not connect (42501), or cannot log in there (class 28)
            Self::NoAnswer { error: ConnectionError::Reported { sqlstate: Some(sqlstate), .. }, .. } => {
                *sqlstate == SqlState::INSUFFICIENT_PRIVILEGE || sqlstate.class() == *b"28"
            }
            Self::NoAnswer { .. } => false,
        }
    }
}

/// What all readers look at: the clusters and their primaries.
#[derive(Debug)]
pub(super) struct Surroundings {
    clusters: ArcSwap<HashMap<ClusterName, Entry>>,
    board: Arc<Board>,
    shelf: Shelf,
}

#[derive(Clone, Debug)]
struct Entry {
    cluster: Arc<WatchedCluster>,
    /// A cluster that does not answer holds up nobody else.
    reads: Arc<Semaphore>,
}

impl Surroundings {
    pub(super) fn new(clusters: Vec<WatchedCluster>, board: Arc<Board>) -> Self {
        let this = Self { clusters: ArcSwap::default(), board, shelf: Shelf::default() };
        this.replace(clusters);
        this
    }

    /// Says which clusters are spoken to differently from now on.
    pub(super) fn replace(&self, clusters: Vec<WatchedCluster>) -> Vec<ClusterName> {
        let before = self.clusters.load();
        let mut entries = HashMap::with_capacity(clusters.len());
        let mut changed = Vec::new();
        for cluster in clusters {
            let name = cluster.name.clone();
            let entry = match before.get(&name) {
                Some(entry) if *entry.cluster == cluster => entry.clone(),
                _ => {
                    changed.push(name.clone());
                    Entry { cluster: Arc::new(cluster), reads: Arc::new(Semaphore::new(READS_MAX)) }
                }
            };
            entries.insert(name, entry);
        }
        self.clusters.store(Arc::new(entries));
        changed
    }

    /// Where to ask now, as whom, and in which queue.
    fn target(&self, cluster: &ClusterName) -> Result<(WatchedNode, Monitor, Arc<Semaphore>), HiddenError> {
        let clusters = self.clusters.load();
        let no_monitor = || HiddenError::NoMonitor(Arc::clone(cluster));
        let entry = clusters.get(cluster).ok_or_else(no_monitor)?;
        let monitor = entry.cluster.monitor.clone().ok_or_else(no_monitor)?;
        let primary = self.primary(cluster);
        let node = primary.and_then(|name| entry.cluster.nodes.iter().find(|node| node.name == name));
        let node = node.ok_or_else(|| HiddenError::NoPrimary(Arc::clone(cluster)))?;
        Ok((node.clone(), monitor, Arc::clone(&entry.reads)))
    }

    fn primary(&self, cluster: &ClusterName) -> Option<NodeName> {
        self.board.read().clusters.get(cluster).and_then(|view| view.primary.clone())
    }
}

/// Reads one database until nobody holds its view.
pub(super) struct Reader {
    view: Weak<HiddenView>,
    wake: Arc<Notify>,
    surroundings: Arc<Surroundings>,
}

impl Reader {
    pub(super) fn of(view: &Arc<HiddenView>, surroundings: &Arc<Surroundings>) -> Self {
        Self { view: Arc::downgrade(view), wake: Arc::clone(&view.wake), surroundings: Arc::clone(surroundings) }
    }

    pub(super) async fn run(self) {
        let mut retry = RETRY_FIRST;
        let mut spacing = SPACING_MIN;
        while let Some(view) = self.view.upgrade() {
            let began = Instant::now();
            let primary = self.surroundings.primary(&view.cluster);
            let (asked_after, outcome) = self.read(&view).await;
            let rest = match &outcome {
                Ok(_) => {
                    retry = RETRY_FIRST;
                    PERIOD
                }
                Err(HiddenError::NoPrimary(_)) => LOOK,
                Err(_) => {
                    let wait = retry;
                    retry = (retry * 2).min(PERIOD);
                    wait
                }
            };
            note(&view, outcome.as_ref().err());
            match outcome {
                Ok((names, facts)) => view.publish(names, facts, asked_after),
                // without a primary nothing changes; what was known holds until there is one
                Err(error) if error.is_absence() => {}
                Err(_) => view.forget(),
            }
            drop(view);
            if !self.rest(Instant::now() + rest, asked_after, primary.as_ref()).await {
                continue; // nobody doubts, or nobody is left
            }
            spacing = next_spacing(spacing, began.elapsed());
            time::sleep_until(began + spacing).await;
        }
    }

    /// Waits until it is time, there is another primary than `asked`, or somebody doubts what was asked after `asked_after`
    /// doubts; says whether that was it.
    async fn rest(&self, until: Instant, asked_after: u64, asked: Option<&NodeName>) -> bool {
        loop {
            let now = Instant::now();
            match self.view.upgrade() {
                Some(view) if view.doubts() != asked_after => return true,
                Some(view) => {
                    let primary = self.surroundings.primary(&view.cluster);
                    if now >= until || primary.is_some() && primary.as_ref() != asked {
                        return false;
                    }
                }
                None => return false,
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = time::sleep_until(until.min(now + LOOK_AGAIN)) => {}
            }
        }
    }

    /// Reads once, and says how many doubts there had been when it began.
    async fn read(&self, view: &HiddenView) -> (u64, Result<(Names, Facts), HiddenError>) {
        let (node, monitor, reads) = match self.surroundings.target(&view.cluster) {
            Ok(target) => target,
            Err(error) => return (view.doubts(), Err(error)),
        };
        let _turn = reads.acquire().await; // never closed
        let asked_after = view.doubts();
        let user = monitor.user.clone();
        let timeout = monitor.timeout.max(TIMEOUT_MIN);
        let monitor = Monitor { dbname: view.dbname.to_string(), timeout, ..monitor };
        let outcome = ask(&node, &monitor, &self.surroundings.shelf).await.map_err(|error| HiddenError::NoAnswer {
            user,
            dbname: view.dbname.clone(),
            node: node.name.clone(),
            error,
        });
        (asked_after, outcome)
    }
}

/// The spacing after a doubt that came `since` the beginning of the last read.
fn next_spacing(spacing: Duration, since: Duration) -> Duration {
    match since < spacing * STORM {
        true => (spacing * 2).min(SPACING_MAX),
        false => SPACING_MIN,
    }
}

async fn ask(node: &WatchedNode, monitor: &Monitor, shelf: &Shelf) -> Result<(Names, Facts), ConnectionError> {
    let connection = ControlConnection::open(node, monitor, APPLICATION_NAME).await?;
    let (version, own) = prepared(&connection.rows(PREPARATION).await?, shelf)
        .ok_or_else(|| ConnectionError::Failed("a catalogue that makes no sense".to_owned()))?;
    let rows = connection.rows(&question(version, &own)).await?;
    // a large catalogue takes its time, and this thread has others to serve
    let known = task::spawn_blocking(move || answer::read(&rows, own));
    task::spawn(connection.close()); // nobody has to wait for a goodbye
    known.await.map_err(|error| ConnectionError::Failed(error.to_string()))
}

/// Keeps the trouble for `/status` and writes it down when it changes.
fn note(view: &HiddenView, error: Option<&HiddenError>) {
    // the monitor has said already that nobody is there
    if matches!(error, Some(HiddenError::NoPrimary(_) | HiddenError::NoMonitor(_))) {
        return;
    }
    let before = view.trouble.swap(Arc::new(error.cloned()));
    let (cluster, database) = (&view.cluster, &view.dbname);
    match (before.as_ref().as_ref(), error) {
        (before, Some(error)) if before == Some(error) => {}
        (_, Some(error)) if error.needs_a_person() => {
            warn!(%cluster, %database, %error, "the catalogue of a database cannot be read");
        }
        (_, Some(error)) => debug!(%cluster, %database, %error, "the catalogue of a database was not read"),
        (Some(before), None) if before.needs_a_person() => {
            info!(%cluster, %database, "the catalogue of a database can be read again");
        }
        (_, None) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_doubts_is_read_ever_more_rarely_until_it_is_over() {
        let mut spacing = SPACING_MIN;
        for _ in 0..10 {
            spacing = next_spacing(spacing, spacing);
        }
        assert_eq!(spacing, SPACING_MAX);
        assert_eq!(next_spacing(spacing, SPACING_MAX * STORM), SPACING_MIN);
    }
}
