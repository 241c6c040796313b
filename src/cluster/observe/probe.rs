//! One node, one connection, one question at an interval, and whenever a session waits for the answer.
//!
//! The number of a question is taken before it is sent, and its answer is reported with it. Never more than one question is
//! under way, and none sooner than 2 ms after the one before. No node waits for another.
//!
//! A connection that breaks is not yet a node that is gone (somebody may have terminated the monitor's backend): the probe
//! dials again at once, and what that brings is what counts. Not here: what follows from an observation (`fold`).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{self, Instant};
use tracing::debug;

use super::observation::{Answer, Miss, Observation};
use super::question::Questions;
use super::tail::{Help, Tail};
use crate::catalog::connection::{ConnectionError, ControlConnection};
use crate::catalog::{Monitor, WatchedNode};
use crate::topology::{ClusterBoard, Role, Stamp};

/// Shown in the nodes' `pg_stat_activity`.
const APPLICATION_NAME: &str = "howdah monitor";
/// The first pause before dialling again; doubles up to the interval.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// The longest pause, however long the interval.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// An interval of zero would spin.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// From one question to the next while a session waits.
const DEMAND_GAP: Duration = Duration::from_millis(2);
/// Takes the log before it along to the disk, and so to the standbys: 96 bytes. `local`, or it would wait for a synchronous
/// standby.
const FIRM: &str = "\
    SET synchronous_commit = local; \
    SELECT pg_catalog.pg_logical_emit_message(true, 'howdah', '')";
/// The same without a transaction id, and so without the record of a commit: for the WAL writer to flush.
const GENTLE: &str = "SELECT pg_catalog.pg_logical_emit_message(false, 'howdah', '')";
/// Flushed before it returns.
const GENTLE_SINCE_17: &str = "SELECT pg_catalog.pg_logical_emit_message(false, 'howdah', '', true)";

/// What a probe reports, and which probe it was.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) probe: ProbeId,
    pub(super) observation: Observation,
}

/// Tells probes apart; never used twice, so that a late report of a stopped probe is known as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ProbeId(pub(super) u64);

/// Asks one node for as long as it runs.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) id: ProbeId,
    pub(super) node: WatchedNode,
    pub(super) monitor: Monitor,
    /// Where questions are numbered, and sessions say that they wait.
    pub(super) board: Arc<ClusterBoard>,
    /// Whether there are standbys, for which it matters how far the log is.
    pub(super) samples: bool,
    /// Somebody has reason to believe that it is gone.
    pub(super) suspected: Arc<Notify>,
    pub(super) reports: mpsc::Sender<Report>,
    /// Before it asks for the first time.
    pub(super) delay: Duration,
}

/// How the asking over one connection ended.
struct Ended {
    answered: bool,
    error: ConnectionError,
}

impl Probe {
    /// Runs until nobody listens to its reports.
    pub(super) async fn run(self) {
        let pause_max = self.monitor.interval.clamp(PAUSE_FIRST, PAUSE_MAX);
        let mut pause = PAUSE_FIRST;
        let mut just_broken = false;
        time::sleep(self.delay).await;
        loop {
            let error = match ControlConnection::open(&self.node, &self.monitor, APPLICATION_NAME).await {
                Err(error) => error,
                Ok(connection) => {
                    let Some(ended) = self.ask_until_it_ends(connection).await else { return };
                    if ended.answered {
                        pause = PAUSE_FIRST;
                        just_broken = matches!(ended.error, ConnectionError::Gone(_));
                        if just_broken {
                            continue;
                        }
                    }
                    ended.error
                }
            };
            let miss = match Miss::from(error) {
                // it broke and does not answer any more: a machine that goes down looks like that
                Miss::Silent(text) if just_broken => Miss::Gone(text),
                miss => miss,
            };
            just_broken = false;
            if !self.report(Observation::Missed(miss)).await {
                return;
            }
            time::sleep(INTERVAL_MIN).await;
            // who says that something has happened there knows more than a pause
            let _ = time::timeout(pause, self.suspected.notified()).await;
            pause = (pause * 2).min(pause_max);
        }
    }

    /// `None` when nobody listens any more.
    async fn ask_until_it_ends(&self, mut connection: ControlConnection) -> Option<Ended> {
        let mut questions = match Questions::prepare(&connection).await {
            Ok(questions) => questions,
            Err(error) => return Some(Ended { answered: false, error }),
        };
        if !self.report(Observation::Connected).await {
            return None;
        }
        let mut pace = Pace { asked: self.board.stamp(), asked_at: None, role: None, suspected: false };
        let mut nudger = Nudger::default();
        let ended = loop {
            // before looking whether somebody waits, or a wish that comes in between would be missed
            let demanded = self.board.demanded();
            tokio::select! {
                () = time::sleep_until(self.due(&pace)) => {}
                () = demanded => continue,
                () = self.suspected.notified() => {
                    pace.suspected = true;
                    continue;
                }
                error = connection.ended() => break Ended { answered: pace.role.is_some(), error },
            }
            pace.suspected = false;
            pace.asked_at = Some(Instant::now());
            pace.asked = self.board.ask();
            let observation = match questions.ask(&connection).await {
                Ok(answer) => {
                    pace.role = Some(answer.role);
                    if self.is_primary() {
                        nudger.look(self, &answer);
                    }
                    Observation::Answered(pace.asked, answer)
                }
                Err(error @ (ConnectionError::Gone(_) | ConnectionError::TimedOut(_))) => {
                    break Ended { answered: pace.role.is_some(), error };
                }
                // the server reported an error and the connection goes on
                Err(error) => Observation::Missed(error.into()),
            };
            if !self.report(observation).await {
                connection.close().await;
                return None;
            }
        };
        self.report(Observation::Disconnected).await.then_some(ended)
    }

    /// When the next question is to be asked.
    fn due(&self, pace: &Pace) -> Instant {
        let Some(asked_at) = pace.asked_at else { return Instant::now() };
        let now = self.board.stamp();
        let has_no_sample = pace.asked.era != now.era;
        let waited_for = self.board.is_waited_for();
        let wanted = match pace.role {
            _ if pace.suspected => true,
            _ if self.is_primary() => has_no_sample || waited_for && pace.asked.asked <= self.board.wanted_beyond(),
            Some(Role::Standby) => waited_for,
            Some(Role::Primary) | None => false,
        };
        let period = match self.samples {
            true => self.monitor.interval.min(self.monitor.lag_interval),
            false => self.monitor.interval,
        };
        asked_at + if wanted { DEMAND_GAP } else { period.max(INTERVAL_MIN) }
    }

    /// Whether it is the one that is in use.
    fn is_primary(&self) -> bool {
        self.board.view().primary.as_ref() == Some(&self.node.name)
    }

    async fn report(&self, observation: Observation) -> bool {
        self.reports.send(Report { probe: self.id, observation }).await.is_ok()
    }
}

/// When the node of one connection was asked, and what for.
struct Pace {
    /// The number of the last question.
    asked: Stamp,
    asked_at: Option<Instant>,
    /// What it answered to be.
    role: Option<Role>,
    suspected: bool,
}

/// Writes to the primary when its log stands still unflushed, over a connection of its own: a slow disk must not look like a
/// silent node.
#[derive(Default)]
struct Nudger {
    tail: Tail,
    since: Option<Instant>,
    running: JoinSet<()>,
}

impl Nudger {
    fn look(&mut self, probe: &Probe, answer: &Answer) {
        let (Some(end), Some(flushed)) = (answer.received_lsn, answer.flushed_lsn) else { return };
        let now = self.since.get_or_insert_with(Instant::now).elapsed();
        while self.running.try_join_next().is_some() {}
        if !self.running.is_empty() {
            return;
        }
        if let Some(help) = self.tail.help(now, end, flushed, probe.monitor.lag_interval) {
            let (node, monitor) = (probe.node.clone(), probe.monitor.clone());
            let nudge = match help {
                Help::Firm => FIRM,
                Help::Gentle if answer.server_version.is_some_and(|version| version >= 170_000) => GENTLE_SINCE_17,
                Help::Gentle => GENTLE,
            };
            self.running.spawn(async move {
                let nudged = async {
                    let connection = ControlConnection::open(&node, &monitor, APPLICATION_NAME).await?;
                    connection.rows(nudge).await?;
                    connection.close().await;
                    Ok::<(), ConnectionError>(())
                };
                match nudged.await {
                    Ok(()) => debug!(node = %node.name, lsn = %end, ?help, "unflushed log was helped to the standbys"),
                    Err(error) => {
                        debug!(node = %node.name, %error, "unflushed log could not be helped to the standbys")
                    }
                }
            });
        }
    }
}
