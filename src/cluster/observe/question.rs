//! What a node is asked, and how its answer reads.
//!
//! What cannot change while a connection lasts is asked once; the rest is one prepared statement, cheap enough to be asked ten
//! times a second and, while a session waits for the answer, every other millisecond.

use tokio_postgres::types::PgLsn;
use tokio_postgres::{Row, SimpleQueryRow, Statement};

use super::observation::{Answer, Receiver};
use crate::catalog::connection::{ConnectionError, ControlConnection};
use crate::pg::{LogLayout, Lsn, SystemIdentifier, Timeline};
use crate::topology::Role;

const ONCE: &str = "\
    SELECT (SELECT c.system_identifier FROM pg_catalog.pg_control_system() c), \
        pg_catalog.current_setting('server_version_num'), \
        pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')), \
        pg_catalog.current_setting('wal_block_size')";

/// `standby` is computed once (the OFFSET keeps it from being inlined), so that a promotion in the middle of the statement
/// cannot mix two roles. Everything asked of a standby also works just after its promotion.
///
/// Not `pg_control_checkpoint()` for the timeline: after a promotion it names the old one until the next checkpoint.
const QUESTION: &str = "\
    SELECT r.standby, \
        CASE WHEN r.standby THEN pg_catalog.pg_last_wal_receive_lsn() ELSE pg_catalog.pg_current_wal_insert_lsn() END, \
        CASE WHEN r.standby THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_flush_lsn() END, \
        CASE WHEN r.standby THEN w.received_tli::pg_catalog.text \
            ELSE pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8) END, \
        w.pid IS NOT NULL, w.status \
    FROM (SELECT pg_catalog.pg_is_in_recovery() AS standby OFFSET 0) r \
        LEFT JOIN pg_catalog.pg_stat_wal_receiver w ON r.standby";

/// The questions that can be asked over one connection.
#[derive(Debug)]
pub(super) struct Questions {
    system_identifier: Option<SystemIdentifier>,
    server_version: Option<u32>,
    layout: LogLayout,
    question: Statement,
}

impl Questions {
    pub(super) async fn prepare(connection: &ControlConnection) -> Result<Self, ConnectionError> {
        let rows = connection.rows(ONCE).await?;
        let row = rows.first().ok_or_else(|| nonsense("returned no row"))?;
        let number = |index| column(row, index).and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Self {
            // shown as a signed number, kept as an unsigned one
            system_identifier: column(row, 0)
                .and_then(|text| text.parse::<i64>().ok())
                .map(|id| SystemIdentifier(id.cast_unsigned())),
            server_version: column(row, 1).and_then(|text| text.parse().ok()),
            layout: LogLayout { segment_size: number(2), block_size: number(3) },
            question: connection.prepare(QUESTION).await?,
        })
    }

    pub(super) async fn ask(&self, connection: &ControlConnection) -> Result<Answer, ConnectionError> {
        let rows = connection.query(&self.question, &[]).await?;
        let row = rows.first().ok_or_else(|| nonsense("returned no row"))?;
        self.read(row).map_err(|error| nonsense(&error.to_string()))
    }

    fn read(&self, row: &Row) -> Result<Answer, tokio_postgres::Error> {
        let lsn = |index: usize| row.try_get::<_, Option<PgLsn>>(index).map(|lsn| lsn.map(|lsn| Lsn(lsn.into())));
        let role = if row.try_get(0)? { Role::Standby } else { Role::Primary };
        // in the names of WAL files the timeline is hexadecimal
        let (end, radix) = match role {
            Role::Primary => (lsn(1)?.map(|insert| self.layout.end_before(insert)), 16),
            Role::Standby => (lsn(1)?, 10),
        };
        let timeline = row.try_get::<_, Option<&str>>(3)?.and_then(|text| u32::from_str_radix(text, radix).ok());
        let (replayed_lsn, flushed_lsn) = match role {
            Role::Primary => (None, lsn(2)?),
            Role::Standby => (lsn(2)?, None),
        };
        let receiver = match (row.try_get(4)?, row.try_get::<_, Option<&str>>(5)?) {
            (false, _) => Receiver::Absent,
            (true, None) => Receiver::Hidden,
            (true, Some("streaming")) => Receiver::Streaming,
            (true, Some(_)) => Receiver::Idle,
        };
        Ok(Answer {
            role,
            system_identifier: self.system_identifier,
            timeline: timeline.map(Timeline),
            received_lsn: end,
            replayed_lsn,
            flushed_lsn,
            receiver,
            server_version: self.server_version,
        })
    }
}

fn column(row: &SimpleQueryRow, index: usize) -> Option<&str> {
    row.try_get(index).ok().flatten()
}

fn nonsense(what: &str) -> ConnectionError {
    ConnectionError::Failed(format!("the health check went wrong: {what}"))
}
