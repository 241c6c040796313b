//! Asks this node's PostgreSQL over its Unix socket, as a superuser: what a status needs, and nothing that changes anything.
//!
//! Relies on an outer time limit around every wait.

use std::fs;
use std::io;
use std::path::PathBuf;

use tokio::task::JoinSet;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow};

use super::config::AgentConfig;
use crate::directive::{PostgresStatus, Slot};
use crate::pg::{Lsn, SystemIdentifier, Timeline};

/// One row; what a standby or a primary does not have is null.
const QUESTION: &str = "\
SELECT s.standby,
       CASE WHEN s.standby THEN NULL ELSE pg_current_wal_insert_lsn() END AS insert_lsn,
       CASE WHEN s.standby THEN NULL ELSE pg_walfile_name(pg_current_wal_insert_lsn()) END AS segment,
       GREATEST(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) AS received_lsn,
       pg_last_wal_replay_lsn() AS replayed_lsn,
       GREATEST(c.timeline_id, r.min_recovery_end_timeline, w.received_tli) AS standby_timeline,
       i.system_identifier,
       w.sender,
       current_setting('server_version_num') AS version,
       current_setting('data_checksums') = 'on' OR current_setting('wal_log_hints') = 'on' AS can_rewind,
       current_setting('wal_level') AS wal_level,
       current_setting('full_page_writes') = 'on' AS full_page_writes
FROM (SELECT pg_is_in_recovery() AS standby) s, pg_control_system() i, pg_control_checkpoint() c, pg_control_recovery() r
LEFT JOIN (SELECT received_tli, CASE WHEN status = 'streaming' THEN sender_host || ':' || sender_port END AS sender
           FROM pg_stat_wal_receiver) w ON true";

const SLOTS: &str = "\
SELECT slot_name, active, COALESCE(wal_status = 'lost', false) AS lost
FROM pg_replication_slots WHERE slot_type = 'physical' ORDER BY slot_name";

/// Why nobody has answered.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// Nobody listens.
    #[error("nobody listens")]
    Nobody,
    /// It starts, recovers or stops (57P03).
    #[error("{0}")]
    NotYet(String),
    /// All connections are taken (53300).
    #[error("all connections are taken")]
    Full,
    /// Its queue of connections is full.
    #[error("its queue is full")]
    Stuck,
    /// It has answered, with an error.
    #[error("{0}")]
    Refused(String),
    /// The connection has broken.
    #[error("{0}")]
    Broken(String),
}

impl From<tokio_postgres::Error> for NoAnswer {
    fn from(error: tokio_postgres::Error) -> Self {
        use std::error::Error as _;
        if let Some(said) = error.as_db_error() {
            return match said.code().code() {
                "57P03" => Self::NotYet(said.message().to_owned()),
                "53300" => Self::Full,
                _ => Self::Refused(said.message().to_owned()),
            };
        }
        let io = error.source().and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind);
        match io {
            Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Self::Nobody,
            Some(io::ErrorKind::WouldBlock) => Self::Stuck,
            Some(_) | None => Self::Broken(error.to_string()),
        }
    }
}

/// A connection; dropping it closes it.
#[derive(Debug)]
pub struct Kept {
    client: Client,
    _driver: JoinSet<()>,
}

/// Connects to the PostgreSQL that `postmaster.pid` speaks of.
///
/// # Errors
/// [`NoAnswer`].
pub async fn connect(config: &AgentConfig) -> Result<Kept, NoAnswer> {
    let lock = fs::read_to_string(config.data_directory.join("postmaster.pid")).map_err(|_| NoAnswer::Nobody)?;
    let line = |index| lock.lines().nth(index).map(str::trim).filter(|line| !line.is_empty());
    let port: u16 = line(3).and_then(|port| port.parse().ok()).ok_or(NoAnswer::Nobody)?;
    let socket = config.superuser.socket.clone().or_else(|| line(4).map(PathBuf::from)).ok_or(NoAnswer::Nobody)?;
    let mut options = Config::new();
    options.host_path(socket).port(port).user(&config.superuser.user).dbname("postgres");
    options.application_name("howdah agent").options("-c search_path=pg_catalog -c statement_timeout=5s");
    let (client, connection) = options.connect(NoTls).await?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        let _ = connection.await;
    });
    Ok(Kept { client, _driver: driver })
}

/// What it has told.
#[derive(Debug)]
pub struct Answers {
    row: SimpleQueryRow,
    slots: Vec<Slot>,
}

impl Kept {
    /// Asks for everything.
    ///
    /// # Errors
    /// [`NoAnswer`]; a promotion in the middle of the question is one.
    pub async fn ask(&self) -> Result<Answers, NoAnswer> {
        let row = self.rows(QUESTION).await?.into_iter().next();
        let row = row.ok_or_else(|| NoAnswer::Broken("no row".to_owned()))?;
        let slot = |row: SimpleQueryRow| {
            let is = |column| row.get(column) == Some("t");
            Some(Slot { name: row.get("slot_name")?.to_owned(), active: is("active"), lost: is("lost") })
        };
        Ok(Answers { row, slots: self.rows(SLOTS).await?.into_iter().filter_map(slot).collect() })
    }

    async fn rows(&self, sql: &str) -> Result<Vec<SimpleQueryRow>, NoAnswer> {
        let messages = self.client.simple_query(sql).await?;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }
}

impl Answers {
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
        status.received_lsn = self.lsn(if standby { "received_lsn" } else { "insert_lsn" });
        status.replayed_lsn = if standby { self.lsn("replayed_lsn") } else { None };
        status.streaming_from = self.text("sender").map(str::to_owned);
        status.slots = self.slots;
    }
}
