//! What a node is asked, and how its answer reads.
//!
//! What cannot change while a connection lasts is asked once; the rest is one prepared statement, cheap enough to be asked ten
//! times a second and, while a session waits for the answer, every other millisecond. A standby that is promoted keeps its
//! connections, a primary that becomes a standby does not: so a connection goes from the one question to the other, once.

use tokio_postgres::types::PgLsn;
use tokio_postgres::{Row, SimpleQueryRow, Statement};

use super::observation::{Answer, Incarnation, Receiver, Xids};
use crate::catalog::connection::{ConnectionError, ControlConnection};
use crate::pg::{LogLayout, Lsn, SystemIdentifier, Timeline};
use crate::topology::Role;

const ONCE: &str = "\
    SELECT (SELECT c.system_identifier FROM pg_catalog.pg_control_system() c), \
        pg_catalog.current_setting('server_version_num'), \
        pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')), \
        pg_catalog.current_setting('wal_block_size'), \
        (SELECT CASE WHEN c.redo_lsn OPERATOR(pg_catalog.=) c.checkpoint_lsn THEN c.next_xid END \
         FROM pg_catalog.pg_control_checkpoint() c \
         WHERE pg_catalog.current_setting('wal_level') OPERATOR(pg_catalog.<>) 'minimal'), \
        (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) OPERATOR(pg_catalog.*) 1000000)::bigint, \
        (SELECT (extract(epoch FROM pg_catalog.min(a.backend_start)) OPERATOR(pg_catalog.*) 1000000)::bigint \
         FROM pg_catalog.pg_stat_activity a WHERE a.backend_type OPERATOR(pg_catalog.=) 'checkpointer')";

/// Also works just after a promotion. Not `pg_control_checkpoint()` for the timeline: after a promotion it names the old one until
/// the next checkpoint. Not the view `pg_stat_wal_receiver`, which takes half as much again to start.
const STANDBY: &str = "\
    SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn(), \
        w.received_tli, w.pid IS NOT NULL, w.status, \
        pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot()) \
    FROM pg_catalog.pg_stat_get_wal_receiver() w";

/// In recovery it is an error. The snapshot is the statement's own, taken before anything in it is computed: so every commit that
/// it shows has its record in front of the end of the log that comes with it. Under its old name, which all versions have.
const PRIMARY: &str = "\
    SELECT pg_catalog.pg_current_wal_insert_lsn(), pg_catalog.pg_current_wal_flush_lsn(), \
        pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8), \
        pg_catalog.txid_current_snapshot()::pg_catalog.text, \
        pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot()), \
        (extract(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000000)::bigint";

/// The questions that can be asked over one connection.
#[derive(Debug)]
pub(super) struct Questions {
    system_identifier: Option<SystemIdentifier>,
    server_version: Option<u32>,
    layout: LogLayout,
    /// What does not change while a connection lasts.
    xids: Xids,
    standby: Statement,
    primary: Statement,
    /// Whether it has said that it is not in recovery.
    is_primary: bool,
}

impl Questions {
    pub(super) async fn prepare(connection: &ControlConnection) -> Result<Self, ConnectionError> {
        let rows = connection.rows(ONCE).await?;
        let row = rows.first().ok_or_else(|| nonsense("returned no row"))?;
        let microseconds = |index| column(row, index).and_then(|text| text.parse().ok());
        let number = |index| column(row, index).and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Self {
            // shown as a signed number, kept as an unsigned one
            system_identifier: column(row, 0)
                .and_then(|text| text.parse::<i64>().ok())
                .map(|id| SystemIdentifier(id.cast_unsigned())),
            server_version: column(row, 1).and_then(|text| text.parse().ok()),
            layout: LogLayout { segment_size: number(2), block_size: number(3) },
            xids: Xids {
                recovered: column(row, 4).and_then(full_xid),
                incarnation: microseconds(5)
                    .zip(microseconds(6))
                    .map(|(postmaster_us, checkpointer_us)| Incarnation { postmaster_us, checkpointer_us }),
                ..Xids::default()
            },
            standby: connection.prepare(STANDBY).await?,
            primary: connection.prepare(PRIMARY).await?,
            is_primary: false,
        })
    }

    pub(super) async fn ask(&mut self, connection: &ControlConnection) -> Result<Answer, ConnectionError> {
        if !self.is_primary {
            let rows = connection.query(&self.standby, &[]).await?;
            let row = rows.first().ok_or_else(|| nonsense("returned no row"))?;
            if let Some(answer) = self.read_standby(row).map_err(|error| nonsense(&error.to_string()))? {
                return Ok(answer);
            }
            self.is_primary = true;
        }
        let rows = connection.query(&self.primary, &[]).await?;
        let row = rows.first().ok_or_else(|| nonsense("returned no row"))?;
        self.read_primary(row).map_err(|error| nonsense(&error.to_string()))
    }

    /// `None` when it is not in recovery.
    fn read_standby(&self, row: &Row) -> Result<Option<Answer>, tokio_postgres::Error> {
        if !row.try_get(0)? {
            return Ok(None);
        }
        let receiver = match (row.try_get(4)?, row.try_get::<_, Option<&str>>(5)?) {
            (false, _) => Receiver::Absent,
            (true, None) => Receiver::Hidden,
            (true, Some("streaming")) => Receiver::Streaming,
            (true, Some(_)) => Receiver::Idle,
        };
        let timeline: Option<i32> = row.try_get(3)?;
        Ok(Some(Answer {
            timeline: timeline.map(|timeline| Timeline(timeline.cast_unsigned())),
            received_lsn: lsn(row, 1)?,
            replayed_lsn: lsn(row, 2)?,
            receiver,
            xids: Xids { next: xid(row, 6)?, ..self.xids },
            ..self.answer(Role::Standby)
        }))
    }

    fn read_primary(&self, row: &Row) -> Result<Answer, tokio_postgres::Error> {
        // in the names of WAL files the timeline is hexadecimal
        let timeline = row.try_get::<_, Option<&str>>(2)?.and_then(|text| u32::from_str_radix(text, 16).ok());
        Ok(Answer {
            timeline: timeline.map(Timeline),
            received_lsn: lsn(row, 0)?.map(|insert| self.layout.end_before(insert)),
            flushed_lsn: lsn(row, 1)?,
            snapshot: row.try_get::<_, Option<&str>>(3)?.map(Box::from),
            xids: Xids { next: xid(row, 4)?, clock_us: row.try_get(5)?, ..self.xids },
            ..self.answer(Role::Primary)
        })
    }

    /// What one connection always answers.
    fn answer(&self, role: Role) -> Answer {
        Answer {
            role,
            system_identifier: self.system_identifier,
            timeline: None,
            received_lsn: None,
            replayed_lsn: None,
            flushed_lsn: None,
            snapshot: None,
            receiver: Receiver::Absent,
            server_version: self.server_version,
            xids: self.xids,
        }
    }
}

fn lsn(row: &Row, index: usize) -> Result<Option<Lsn>, tokio_postgres::Error> {
    let lsn: Option<PgLsn> = row.try_get(index)?;
    Ok(lsn.map(|lsn| Lsn(lsn.into())))
}

fn xid(row: &Row, index: usize) -> Result<Option<u64>, tokio_postgres::Error> {
    Ok(row.try_get::<_, Option<i64>>(index)?.and_then(|xid| xid.try_into().ok()))
}

/// `epoch:xid`, as `pg_control_checkpoint()` writes it, in 64 bits.
fn full_xid(text: &str) -> Option<u64> {
    let (epoch, xid) = text.split_once(':')?;
    Some(u64::from(epoch.parse::<u32>().ok()?) << 32 | u64::from(xid.parse::<u32>().ok()?))
}

fn column(row: &SimpleQueryRow, index: usize) -> Option<&str> {
    row.try_get(index).ok().flatten()
}

fn nonsense(what: &str) -> ConnectionError {
    ConnectionError::Failed(format!("the health check went wrong: {what}"))
}
