//! Making a node follow another one, by hand: what a test needs to put a cluster into a shape. Not the agent's ladder.

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use rustix::process::Signal;

use super::node::BOUND;
use super::{LocalError, Node, StopMode, io_error};

impl Node {
    /// Points this node at `primary`, through a slot that is made there if need be. A running standby reloads; a stopped
    /// node becomes a standby at its next start. What it wrote on its own must be undone first: see [`Node::rejoin`].
    ///
    /// # Errors
    /// When `primary` does not answer, or a file cannot be written.
    pub fn follow(&self, primary: &Node) -> Result<(), LocalError> {
        let slot = self.slot();
        primary.sql(&format!(
            "SELECT pg_create_physical_replication_slot('{slot}', true)
             WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{slot}')"
        ))?;
        let conninfo = format!("{} password={}", primary.replication_conninfo(self.name()), self.password());
        // here and not in node.conf, because this file is read last and pg_basebackup -R wrote there
        let path = self.data_directory().join("postgresql.auto.conf");
        OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut file| write!(file, "primary_conninfo = '{conninfo}'\nprimary_slot_name = '{slot}'\n"))
            .map_err(io_error(&format!("write {}", path.display())))?;
        self.write("data/standby.signal", "")?;
        self.signal(Signal::HUP);
        Ok(())
    }

    /// Stops this node, rewinds it to where it left `primary`'s history, and starts it as a standby of `primary`.
    ///
    /// # Errors
    /// When a step of that fails; `pg_rewind`'s words are in the text.
    pub fn rejoin(&self, primary: &Node) -> Result<(), LocalError> {
        self.stop(StopMode::Immediate)?;
        // its own settings stay; the rest of what pg_rewind copies is the same on all nodes
        primary.sql("CHECKPOINT")?; // or the new timeline is not in its control file yet
        let source = format!(
            "host={} port={} user={} dbname=postgres",
            primary.sockets().display(),
            primary.port(),
            primary.superuser()
        );
        let mut rewind = self.command("pg_rewind");
        rewind.arg("-D").arg(self.data_directory()).args(["--no-sync", "--source-server", &source]);
        let log = self.directory.join("rewind.log");
        let _ = fs::remove_file(&log);
        let what = format!("pg_rewind of node \"{}\" to \"{}\"", self.name(), primary.name());
        self.common.watch.run(&what, rewind, log, 4 * BOUND)?;
        self.follow(primary)?;
        self.start()
    }
}
