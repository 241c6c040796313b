//! A primary and its standbys in one temporary directory.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::node::Common;
use super::{Binaries, LocalError, Node, Watch, io_error};
use crate::demo::process::log_tail;
use crate::demo::scratch::Scratch;

/// What makes a throw-away cluster quick, and fit for `pg_rewind` and slots.
const SETTINGS: [(&str, &str); 11] = [
    ("listen_addresses", "127.0.0.1"),
    ("fsync", "off"),
    ("shared_buffers", "32MB"),
    ("dynamic_shared_memory_type", "mmap"), // in the data directory, so that nothing outlives it
    ("wal_log_hints", "on"),
    ("wal_keep_size", "128MB"),
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    ("hot_standby_feedback", "on"),
    ("wal_retrieve_retry_interval", "500ms"),
    ("log_line_prefix", "%m [%p] %q%u@%d "),
];

type Progress = Box<dyn FnMut(&str) + Send>;

/// What a cluster shall be like. See [`LocalCluster::builder`].
pub struct Builder {
    primary: String,
    standbys: Vec<String>,
    settings: Vec<(String, String)>,
    hba: Vec<String>,
    superuser: String,
    password: String,
    prefix: String,
    slots: String,
    server: Option<PathBuf>,
    watch: Watch,
    progress: Progress,
}

impl Builder {
    /// The primary's name; `a` unless said otherwise.
    #[must_use]
    pub fn primary(mut self, name: &str) -> Self {
        name.clone_into(&mut self.primary);
        self
    }

    /// One more standby, streaming from the primary through a slot.
    #[must_use]
    pub fn standby(mut self, name: &str) -> Self {
        self.standbys.push(name.to_owned());
        self
    }

    /// A line of `postgresql.conf`, for all nodes.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With fsync, for tests of durability.
    #[must_use]
    pub fn durable(self) -> Self {
        self.setting("fsync", "on")
    }

    /// A line of `pg_hba.conf` before the usual ones (sockets trust, TCP asks for SCRAM).
    #[must_use]
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.to_owned());
        self
    }

    /// The superuser; `postgres` and a password of its own unless said otherwise.
    #[must_use]
    pub fn superuser(mut self, name: &str, password: &str) -> Self {
        name.clone_into(&mut self.superuser);
        password.clone_into(&mut self.password);
        self
    }

    /// What the directory's name begins with.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// What the names of replication slots begin with; `slot_` unless said otherwise. Those of agents begin with `howdah_`.
    #[must_use]
    pub fn slots(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.slots);
        self
    }

    /// Another PostgreSQL than the installed one: the directory that holds its `bin`, `lib` and `share`.
    #[must_use]
    pub fn server(mut self, directory: &Path) -> Self {
        self.server = Some(directory.to_owned());
        self
    }

    /// Called with each step as it begins.
    #[must_use]
    pub fn progress(mut self, tell: impl FnMut(&str) + Send + 'static) -> Self {
        self.progress = Box::new(tell);
        self
    }

    /// A flag that ends the making of the cluster, and later waits, with [`LocalError::Interrupted`].
    #[must_use]
    pub fn interrupt(mut self, flag: Arc<AtomicBool>) -> Self {
        self.watch.interrupt = Some(flag);
        self
    }

    /// Makes the cluster and waits until every standby streams.
    ///
    /// # Errors
    /// Whatever went wrong, with the end of the log that explains it. Nothing is left behind.
    pub fn start(mut self) -> Result<LocalCluster, LocalError> {
        let scratch = Scratch::new(&self.prefix).map_err(io_error("make a temporary directory"))?;
        let root = scratch.path().to_owned();
        let binaries = match &self.server {
            Some(directory) => Binaries::copied(directory, &root.join("pg"))?,
            None => Binaries::find()?,
        };
        let sockets = root.join("s");
        fs::DirBuilder::new()
            .mode(0o700) // whoever reaches a socket is trusted
            .create(&sockets)
            .and_then(|()| binaries.own(&sockets))
            .map_err(io_error(&format!("make {}", sockets.display())))?;
        let (superuser, password, watch) = (self.superuser.clone(), self.password.clone(), self.watch.clone());
        let common = Common { binaries, root, superuser, password, slots: self.slots.clone(), watch };

        let mut settings: Vec<_> = SETTINGS.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        settings.append(&mut self.settings); // the last one wins
        (self.progress)(&format!("initdb of \"{}\"", self.primary));
        let primary = Node::new(&self.primary, &common)?;
        primary.initdb(&settings, &self.hba)?;
        (self.progress)(&format!("start of primary \"{}\" on port {}", self.primary, primary.port()));
        primary.start()?;

        // the scratch stays behind the nodes, also while an error drops them
        let mut cluster = LocalCluster { nodes: vec![primary], watch: self.watch, scratch };
        for name in &self.standbys {
            let standby = Node::new(name, &common)?;
            (self.progress)(&format!("base backup and start of standby \"{name}\" on port {}", standby.port()));
            standby.basebackup(cluster.primary())?;
            standby.start()?;
            cluster.nodes.push(standby);
        }
        cluster.wait_streaming(Duration::from_secs(30))?;
        Ok(cluster)
    }
}

/// A running cluster. Dropping it leaves nothing: no process, no directory.
pub struct LocalCluster {
    nodes: Vec<Node>, // before the scratch: dropped first
    watch: Watch,
    scratch: Scratch,
}

impl LocalCluster {
    /// One primary named `a`, no standby, no fsync.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            primary: "a".to_owned(),
            standbys: Vec::new(),
            settings: Vec::new(),
            hba: Vec::new(),
            superuser: "postgres".to_owned(),
            password: "postgres-secret".to_owned(),
            prefix: "howdah".to_owned(),
            slots: "slot_".to_owned(),
            server: None,
            watch: Watch::default(),
            progress: Box::new(|_| {}),
        }
    }

    /// The temporary directory that holds all of it. Files put there go away with it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// All nodes; the one that was made as the primary is the first.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node by its name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name() == name)
    }

    /// The node that was made as the primary, whatever it is now.
    #[must_use]
    #[allow(clippy::indexing_slicing)] // `start` puts it there, and nothing takes nodes away
    pub fn primary(&self) -> &Node {
        &self.nodes[0]
    }

    /// Waits until every other node streams from the first one and has replayed what it had when asked.
    ///
    /// # Errors
    /// At the bound, with the end of the primary's log.
    pub fn wait_streaming(&self, bound: Duration) -> Result<(), LocalError> {
        let primary = self.primary();
        let goal = primary.sql("SELECT pg_current_wal_flush_lsn()")?.cell().unwrap_or("0/0").to_owned();
        // not replay_lsn of pg_stat_replication: an idle standby reports it only every ten seconds
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{goal}'");
        self.watch.until("streaming of all standbys", bound, &primary.log(), || {
            let rows = primary.sql("SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'")?;
            let streaming = rows.column();
            for standby in self.nodes.iter().skip(1) {
                if !streaming.contains(&standby.name()) || standby.sql(&replayed)?.cell() != Some("t") {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
    }

    /// The last lines of every node's log, for the report of a failure.
    #[must_use]
    pub fn log_tails(&self, lines: usize) -> String {
        let tail = |node: &Node| format!("--- log of node \"{}\"\n{}\n", node.name(), log_tail(&node.log(), lines));
        self.nodes.iter().map(tail).collect()
    }
}
