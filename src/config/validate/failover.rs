//! What contradicts itself about failover: modes without agents, agents without certificates, names that nobody has, and what is
//! not built yet.

use std::collections::BTreeMap;

use super::super::agents::AgentAddress;
use super::super::cluster::Cluster;
use super::super::document::{At, key_path};
use super::super::failover::{Durability, FailoverMode};
use super::super::file::Config;
use super::super::store::StoreKind;
use super::Rules;

impl Rules<'_, '_> {
    pub(super) fn failover(&mut self, name: &str, cluster: &Cluster) {
        let section = |key| key_path!["clusters", name, "failover", key].to_vec();
        if let Some(mode @ (FailoverMode::Automatic | FailoverMode::Manual)) = cluster.failover.mode {
            let without = cluster.nodes.iter().filter(|node| node.agent.is_none());
            let without: Vec<String> = without.map(|node| format!("\"{}\"", node.name)).collect();
            if !without.is_empty() {
                let nodes = if without.len() == 1 { "node" } else { "nodes" };
                let message = format!(
                    "mode \"{}\" needs an agent beside every node: none at {nodes} {}",
                    mode.as_str(),
                    without.join(", ")
                );
                self.report(&section("mode"), At::Value, message, "write \"agent\" there, or mode = \"observe\"");
            }
        }
        if cluster.failover.durability == Durability::Sync {
            let message = "durability \"sync\" is not built yet";
            self.report(&section("durability"), At::Value, message, "write \"async\"");
        }
        if cluster.switchover.drain_timeout >= cluster.switchover.hold_timeout {
            let message = format!(
                "{} leave nothing of the hold_timeout of {}",
                cluster.switchover.drain_timeout, cluster.switchover.hold_timeout
            );
            let path = key_path!["clusters", name, "switchover", "drain_timeout"];
            // written or not: one of the two is
            self.report(path, At::Value, message, "write less, or a longer hold_timeout");
        }
        self.declared(name, cluster);
        self.agents(name, cluster);
    }

    fn declared(&mut self, name: &str, cluster: &Cluster) {
        let Some(primary) = &cluster.primary else { return };
        let path = key_path!["clusters", name, "primary"];
        match cluster.nodes.iter().find(|node| node.name == *primary) {
            None => {
                let known = cluster.nodes.iter().map(|node| node.name.as_str());
                let advice = format!("the nodes are: {}", known.collect::<Vec<_>>().join(", "));
                self.report(path, At::Value, format!("there is no node \"{primary}\""), &advice);
            }
            Some(node) if node.priority == 0 => {
                let message = format!("node \"{primary}\" has priority 0: it is never promoted");
                self.report(path, At::Value, message, "write another node, or another priority there");
            }
            // who declares a primary believes that somebody sees to it
            Some(_) if cluster.failover_mode() == FailoverMode::Observe => {
                let message = "the failover mode is \"observe\": howdah changes no primary";
                self.report(path, At::Key, message, "remove the key, or write \"agent\" at every node");
            }
            Some(_) => {}
        }
    }

    fn agents(&mut self, name: &str, cluster: &Cluster) {
        let mut taken: BTreeMap<String, &str> = BTreeMap::new();
        let mut https = None;
        for (i, node) in cluster.nodes.iter().enumerate() {
            let Some(address) = &node.agent else { continue };
            if let Some(other) = taken.insert(address.to_string(), &node.name) {
                let message = format!("\"{address}\" is the agent of node \"{other}\": each node has its own");
                let path = key_path!["clusters", name, "nodes", i, "agent"];
                self.report(path, At::Value, message, "write another address");
            }
            if matches!(address, AgentAddress::Https { .. }) {
                https = https.or(Some((i, address)));
            }
        }
        let agents = &cluster.agents;
        let given = [("ca", &agents.ca), ("cert", &agents.cert), ("key", &agents.key)];
        let missing: Vec<&str> = given.iter().filter(|(_, file)| file.is_none()).map(|(key, _)| *key).collect();
        if let Some((i, address)) = https
            && !missing.is_empty()
        {
            let message =
                format!("\"{address}\" needs mutual TLS: [clusters.{name}.agents] lacks {}", missing.join(", "));
            let path = key_path!["clusters", name, "nodes", i, "agent"];
            self.report(path, At::Value, message, "write ca, cert and key there");
        } else {
            self.pair(key_path!["clusters", name, "agents"], agents.cert.is_some(), agents.key.is_some());
        }
    }

    pub(super) fn store(&mut self, config: &Config) {
        if config.store.kind != StoreKind::Local {
            let message = format!("a store of kind \"{}\" is not built yet", config.store.kind.as_str());
            self.report(key_path!["store", "kind"], At::Value, message, "write \"local\"");
        }
        let http = &config.http;
        if http.read_token_file.is_some() && http.admin_token_file.is_none() {
            let message = "a token to look needs one to change things: without it who may not look might change";
            self.report(key_path!["http", "read_token_file"], At::Key, message, "write \"admin_token_file\" too");
        }
        if let (Some(admin), Some(read)) = (&http.admin_token, &http.read_token)
            && admin == read
        {
            let message = "it holds the same token as admin_token_file: who may look could change everything";
            self.report(key_path!["http", "read_token_file"], At::Value, message, "make another token");
        }
    }
}
