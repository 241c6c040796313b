//! Nodes with an agent's configuration each, and a runner of jobs that keeps everything in memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use howdah::agent::config::AgentConfig;
use howdah::agent::jobs::plan;
use howdah::agent::postgres::{auto_conf, history};
use howdah::agent::step::{Notes, Work};
use howdah::config::Secret;
use howdah::directive::{Directive, Failure, Order, Upstream};
use howdah::pg::Timeline;
use howdah::topology::Epoch;

use crate::support::{Cluster, Node};

/// A cluster, and what an agent beside each node would have.
pub struct Bench {
    pub cluster: Cluster,
    overrides: Mutex<BTreeMap<String, fn(&mut AgentConfig)>>,
}

/// What a job has found out.
pub type Found = BTreeMap<String, String>;

#[derive(Default)]
pub struct Memory {
    pub found: Mutex<Found>,
    pub said: Mutex<Vec<String>>,
}

impl Notes for Memory {
    fn say(&self, line: String) {
        self.said.lock().unwrap().push(line);
    }
    fn find(&self, key: &str, value: String) {
        self.found.lock().unwrap().insert(key.to_owned(), value);
    }
    fn found(&self, key: &str) -> Option<String> {
        self.found.lock().unwrap().get(key).cloned()
    }
    fn progress(&self, done: u64, all: u64) {
        self.find("progress", format!("{done}/{all}"));
    }
}

impl Bench {
    pub fn new(cluster: Cluster) -> Self {
        for node in cluster.nodes() {
            let state = state(node);
            fs::create_dir_all(&state).unwrap();
            node.binaries().own(&state).unwrap();
        }
        Self { cluster, overrides: Mutex::default() }
    }

    pub fn node(&self, name: &str) -> &Node {
        self.cluster.find(name).unwrap()
    }

    pub fn state(&self, name: &str) -> PathBuf {
        state(self.node(name))
    }

    pub fn auto_conf(&self, node: &str, name: &str) -> Option<String> {
        auto_conf::get(&self.node(node).data_directory(), name).unwrap()
    }

    /// From now on this node's agent has another configuration.
    pub fn configure(&self, name: &str, change: fn(&mut AgentConfig)) {
        self.overrides.lock().unwrap().insert(name.to_owned(), change);
    }

    pub fn config(&self, name: &str) -> AgentConfig {
        let mut config = agent_config(&self.config_text(name), self.node(name).password());
        if let Some(change) = self.overrides.lock().unwrap().get(name) {
            change(&mut config);
        }
        config
    }

    /// Its agent.toml.
    pub fn config_text(&self, name: &str) -> String {
        let node = self.node(name);
        format!(
            "cluster = 'main'\nnode = '{name}'\ndata_directory = '{}'\nstate_directory = '{}'\nbin_directory = '{}'\n\
             service = 'none'\n[listen]\n[superuser]\nuser = '{user}'\n[replication]\nuser = '{user}'\n\
             [backups]\nmin_free = '16MB'\n[jobs]\nstep_timeout = '60s'\n",
            node.data_directory().display(),
            state(node).display(),
            node.binaries().directory().display(),
            user = node.superuser(),
        )
    }

    /// A primary as `follower` is told to follow it, with its slot.
    pub fn upstream(&self, name: &str, follower: &str) -> Upstream {
        let node = self.node(name);
        let slot = format!("howdah_{follower}");
        node.sql(&format!(
            "SELECT pg_create_physical_replication_slot('{slot}', true)
             WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{slot}')"
        ))
        .unwrap();
        // of a standby what it has restarted from is good enough
        let ask = "SELECT CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
                   ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END";
        let timeline = Timeline(node.sql(ask).unwrap().cell().unwrap().parse().unwrap());
        Upstream {
            node: name.to_owned(),
            host: node.host().to_owned(),
            port: node.port(),
            slot,
            history: history::of(&node.data_directory(), timeline).unwrap(),
        }
    }

    pub fn work(&self, node: &str, directive: Directive) -> (Work, Arc<Memory>) {
        let notes = Arc::new(Memory::default());
        let order = order(node, &format!("test-{}", directive.name()), directive);
        (Work { config: Arc::new(self.config(node)), order, notes: notes.clone() }, notes)
    }

    /// Runs a job as the agent does: each step in order; after a failure those that may have begun are undone, last first.
    pub fn run(&self, node: &str, directive: Directive) -> Result<Found, Failure> {
        let (work, notes) = self.work(node, directive);
        let steps = plan(&work.order, &work.config)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut begun = Vec::new();
            for step in &steps {
                let before = step.before(&work).await;
                let applied = match before {
                    Ok(before) => {
                        begun.push((step, before));
                        let bound = step.bound().unwrap_or(Duration::from_secs(60));
                        tokio::time::timeout(bound, step.apply(&work)).await.unwrap_or_else(|_| {
                            panic!("step \"{}\" of {node} has not ended:\n{}", step.name(), self.cluster.log_tails(20))
                        })
                    }
                    Err(failure) => Err(failure),
                };
                if let Err(failure) = applied {
                    if !begun.iter().any(|(step, _)| step.is_point_of_no_return()) {
                        for (step, before) in begun.iter().rev() {
                            step.undo(&work, before).await.unwrap_or_else(|e| panic!("undo of {}: {e}", step.name()));
                        }
                    }
                    return Err(failure);
                }
            }
            Ok(notes.found.lock().unwrap().clone())
        })
    }
}

fn state(node: &Node) -> PathBuf {
    node.directory().join("agent")
}

/// As the agent has it when it has read its files.
pub fn agent_config(text: &str, password: &str) -> AgentConfig {
    let mut config: AgentConfig = toml::from_str(text).unwrap();
    config.replication.password = Some(Secret::new(password.to_owned()));
    config
}

pub fn order(node: &str, id: &str, directive: Directive) -> Order {
    Order {
        id: id.to_owned(),
        cluster: "main".into(),
        node: node.to_owned(),
        epoch: Epoch(7),
        coordinator: "test".into(),
        correlation: String::new(),
        directive,
    }
}
