//! What a status asks of this node's PostgreSQL, in one question, and nothing that changes anything.

use tokio_postgres::SimpleQueryRow;

use super::postgres::local::{Local, LocalError};
use crate::directive::{PostgresStatus, Slot};
use crate::pg::{Lsn, SystemIdentifier, Timeline};

/// One row; what a standby or a primary does not have is null.
const QUESTION: &str = "\
SELECT s.standby,
       CASE WHEN s.standby THEN NULL ELSE pg_current_wal_flush_lsn() END AS flush_lsn,
       CASE WHEN s.standby THEN NULL ELSE pg_walfile_name(pg_current_wal_lsn()) END AS segment,
       GREATEST(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) AS received_lsn,
       pg_last_wal_replay_lsn() AS replayed_lsn,
       GREATEST(c.timeline_id, r.min_recovery_end_timeline, w.received_tli) AS standby_timeline,
       i.system_identifier,
       w.sender,
       current_setting('server_version_num') AS version,
       current_setting('data_checksums') = 'on' OR current_setting('wal_log_hints') = 'on' AS can_rewind,
       current_setting('wal_level') AS wal_level,
       current_setting('full_page_writes') = 'on' AS full_page_writes,
       current_setting('max_slot_wal_keep_size', true) = '-1' AS slots_unbounded
FROM (SELECT pg_is_in_recovery() AS standby) s, pg_control_system() i, pg_control_checkpoint() c, pg_control_recovery() r
LEFT JOIN (SELECT received_tli, CASE WHEN status = 'streaming' THEN sender_host || ':' || sender_port END AS sender
           FROM pg_stat_wal_receiver) w ON true";

const SLOTS: &str = "\
SELECT slot_name, active, COALESCE(wal_status = 'lost', false) AS lost
FROM pg_replication_slots WHERE slot_type = 'physical' ORDER BY slot_name";

/// What it has told.
#[derive(Debug)]
pub struct Answers {
    row: SimpleQueryRow,
    slots: Vec<Slot>,
}

impl Answers {
    /// Asks for everything.
    ///
    /// # Errors
    /// [`LocalError`]; a promotion in the middle of the question is one.
    pub async fn of(local: &Local) -> Result<Self, LocalError> {
        let none = || LocalError::Failed { sqlstate: None, text: "no row".to_owned() };
        let row = local.rows(QUESTION).await?.into_iter().next().ok_or_else(none)?;
        let slot = |row: SimpleQueryRow| {
            let is = |column| row.get(column) == Some("t");
            Some(Slot { name: row.get("slot_name")?.to_owned(), active: is("active"), lost: is("lost") })
        };
        Ok(Self { row, slots: local.rows(SLOTS).await?.into_iter().filter_map(slot).collect() })
    }

    fn text(&self, column: &str) -> Option<&str> {
        self.row.try_get(column).ok().flatten()
    }

    fn lsn(&self, column: &str) -> Option<Lsn> {
        self.text(column)?.parse().ok()
    }

    fn is(&self, column: &str) -> bool {
        self.text(column) == Some("t")
    }

    /// What keeps the node from being a good member of a cluster.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.is("can_rewind") {
            let text = "neither data checksums nor wal_log_hints are on: pg_rewind cannot work here";
            warnings.push(text.to_owned());
        }
        if !self.is("full_page_writes") {
            warnings.push("full_page_writes is off: pg_rewind cannot work here".to_owned());
        }
        if self.text("wal_level") == Some("minimal") {
            warnings.push("wal_level is minimal: no standby can follow".to_owned());
        }
        warnings
    }

    /// Into a status.
    pub fn fill(self, status: &mut PostgresStatus) {
        let standby = self.is("standby");
        status.in_recovery = Some(standby);
        status.system_identifier =
            self.text("system_identifier").and_then(|text| text.parse().ok()).map(SystemIdentifier);
        status.version = self.text("version").and_then(|text| text.parse().ok());
        let timeline = if standby {
            self.text("standby_timeline").and_then(|text| text.parse().ok())
        } else {
            self.text("segment").and_then(|name| u32::from_str_radix(name.get(..8)?, 16).ok())
        };
        status.timeline = timeline.map(Timeline);
        status.received_lsn = self.lsn(if standby { "received_lsn" } else { "flush_lsn" });
        status.replayed_lsn = if standby { self.lsn("replayed_lsn") } else { None };
        status.streaming_from = self.text("sender").map(str::to_owned);
        status.slots_unbounded = self.is("slots_unbounded");
        status.slots = self.slots;
    }
}
