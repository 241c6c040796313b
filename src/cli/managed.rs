//! Which clusters this daemon manages, from its configuration: those with agents and a mode other than `observe`.
//!
//! Not here: what is decided (`cluster/decide`), what keys there are (`config`).

use std::sync::Arc;

use crate::cluster::act::AgentWay;
use crate::cluster::coordinator::ManagedCluster;
use crate::cluster::decide::{Member, Mode, OnOpen, Settings};
use crate::config::{self, AgentAddress, Cluster, Config, FailoverMode, Problems, TlsMode, TlsNegotiation, toml_key};
use crate::net::tls::{self, TlsError};

/// The clusters that get a coordinator.
///
/// # Errors
/// When a certificate for the agents cannot be used.
pub fn managed(config: &Config) -> Result<Vec<ManagedCluster>, Problems> {
    let managed = config.clusters.iter().filter(|(_, cluster)| cluster.failover_mode() != FailoverMode::Observe);
    let (mut clusters, mut problems) = (Vec::new(), Vec::new());
    for (name, cluster) in managed {
        match agents(cluster) {
            Ok(agents) => clusters.push(ManagedCluster { settings: settings(name, cluster), agents }),
            Err(error) => {
                let key = format!("clusters.{}.agents.cert", toml_key(name));
                problems.push(config.written.problem(&key, error.to_string(), ""));
            }
        }
    }
    Problems::none_or_all(problems)?;
    Ok(clusters)
}

fn settings(name: &str, cluster: &Cluster) -> Settings {
    let nodes = cluster.nodes.iter().map(|node| {
        let (host, port) = node.replication_place();
        Member { name: node.name.as_str().into(), priority: node.priority, has_agent: node.agent.is_some(), host, port }
    });
    Settings {
        cluster: name.to_owned(),
        mode: match cluster.failover_mode() {
            FailoverMode::Automatic => Mode::Automatic,
            FailoverMode::Manual => Mode::Manual,
            FailoverMode::Observe => Mode::Observe,
        },
        nodes: nodes.collect(),
        declared: cluster.primary.as_deref().map(Into::into),
        max_lag: cluster.failover.max_lag_on_failover.bytes(),
        restart_if: cluster.failover.restart_if.limit().unwrap_or_default(),
        slot_wal_max: cluster.failover.slot_wal_max.bytes(),
        flap_window: cluster.failover.flap_window.limit().unwrap_or_default(),
        // a managed cluster has one
        interval: cluster.monitor.as_ref().map(|monitor| monitor.interval.get()).unwrap_or_default(),
        failure_threshold: cluster.monitor.as_ref().map_or(1, |monitor| monitor.failure_threshold),
        hold_timeout: cluster.switchover.hold_timeout.get(),
        drain_timeout: cluster.switchover.drain_timeout.get(),
        on_open: match cluster.switchover.on_open {
            config::OnOpen::Abort => OnOpen::Abort,
            config::OnOpen::Kill => OnOpen::Kill,
        },
    }
}

/// How the agents of a cluster are spoken to.
pub(super) fn agents(cluster: &Cluster) -> Result<Vec<(crate::topology::NodeName, AgentWay)>, TlsError> {
    let (ca, cert, key) = (cluster.agents.ca.as_deref(), cluster.agents.cert.as_deref(), cluster.agents.key.as_deref());
    let needs_tls = cluster.nodes.iter().any(|node| matches!(node.agent, Some(AgentAddress::Https { .. })));
    let tls = match needs_tls {
        true => tls::client_config(TlsMode::VerifyFull, TlsNegotiation::Direct, ca, cert, key)?,
        false => None,
    };
    let https = tls.map(|tls| {
        let mut config = (*tls.config).clone();
        config.alpn_protocols.clear(); // this is no PostgreSQL
        Arc::new(config)
    });
    let ways = cluster.nodes.iter().filter_map(|node| {
        let way = match node.agent.as_ref()? {
            AgentAddress::Unix(path) => AgentWay::Unix(path.clone()),
            address @ AgentAddress::Https { host, .. } => AgentWay::Tls {
                address: address.to_string().trim_start_matches("https://").to_owned(),
                host: host.to_string(),
                config: Arc::clone(https.as_ref()?),
            },
        };
        Some((node.name.as_str().into(), way))
    });
    Ok(ways.collect())
}
