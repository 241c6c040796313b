//! One node, one connection, one question at an interval.
//!
//! A connection that breaks is not yet a node that is gone (somebody may have terminated the monitor's backend): the probe
//! dials again at once, and what that brings is what counts. Not here: what follows from an observation (`fold`).

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{self, MissedTickBehavior};
use tokio_postgres::SimpleQueryRow;

use super::observation::{Answer, Miss, Observation};
use crate::catalog::connection::{ConnectionError, ControlConnection};
use crate::catalog::{Monitor, WatchedNode};
use crate::pg::{SystemIdentifier, Timeline};
use crate::topology::Role;

/// Shown in the nodes' `pg_stat_activity`.
const APPLICATION_NAME: &str = "howdah monitor";
/// The first pause before dialling again; doubles up to the interval.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// The longest pause, however long the interval.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// An interval of zero would spin.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// `standby` is computed once (the OFFSET keeps it from being inlined), so that a promotion in the middle of the statement
/// cannot mix two roles. Everything asked of a standby also works just after its promotion.
const QUESTION: &str = "\
    SELECT r.standby, \
        CASE WHEN r.standby THEN pg_catalog.pg_last_wal_receive_lsn() ELSE pg_catalog.pg_current_wal_insert_lsn() END, \
        CASE WHEN r.standby THEN pg_catalog.pg_last_wal_replay_lsn() END, \
        (SELECT c.system_identifier FROM pg_catalog.pg_control_system() c), \
        CASE WHEN r.standby THEN (SELECT w.received_tli::pg_catalog.text FROM pg_catalog.pg_stat_wal_receiver w) \
            ELSE pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8) END, \
        pg_catalog.current_setting('server_version_num') \
    FROM (SELECT pg_catalog.pg_is_in_recovery() AS standby OFFSET 0) r";

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
            time::sleep(pause).await;
            pause = (pause * 2).min(pause_max);
        }
    }

    /// `None` when nobody listens any more.
    async fn ask_until_it_ends(&self, mut connection: ControlConnection) -> Option<Ended> {
        let mut ticks = time::interval(self.monitor.interval.max(INTERVAL_MIN));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut answered = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                error = connection.ended() => return Some(Ended { answered, error }),
            }
            let observation = match ask(&connection).await {
                Ok(answer) => {
                    answered = true;
                    Observation::Answered(answer)
                }
                Err(error @ (ConnectionError::Gone(_) | ConnectionError::TimedOut(_))) => {
                    return Some(Ended { answered, error });
                }
                // the server reported an error and the connection goes on
                Err(error) => Observation::Missed(error.into()),
            };
            if !self.report(observation).await {
                connection.close().await;
                return None;
            }
        }
    }

    async fn report(&self, observation: Observation) -> bool {
        self.reports.send(Report { probe: self.id, observation }).await.is_ok()
    }
}

async fn ask(connection: &ControlConnection) -> Result<Answer, ConnectionError> {
    let rows = connection.rows(QUESTION).await?;
    let row = rows.first().ok_or_else(|| ConnectionError::Failed("the health check returned no row".to_owned()))?;
    read_answer(row)
}

fn read_answer(row: &SimpleQueryRow) -> Result<Answer, ConnectionError> {
    let column = |index: usize| row.try_get(index).ok().flatten();
    let role = match column(0) {
        Some("t") => Role::Standby,
        Some("f") => Role::Primary,
        _ => return Err(ConnectionError::Failed("the health check did not say whether it is in recovery".to_owned())),
    };
    // in the names of WAL files the timeline is hexadecimal
    let radix = if role == Role::Primary { 16 } else { 10 };
    Ok(Answer {
        role,
        received_lsn: column(1).and_then(|text| text.parse().ok()),
        replayed_lsn: column(2).and_then(|text| text.parse().ok()),
        // shown as a signed number, kept as an unsigned one
        system_identifier: column(3)
            .and_then(|text| text.parse::<i64>().ok())
            .map(|id| SystemIdentifier(id.cast_unsigned())),
        timeline: column(4).and_then(|text| u32::from_str_radix(text, radix).ok()).map(Timeline),
        server_version: column(5).and_then(|text| text.parse().ok()),
    })
}
