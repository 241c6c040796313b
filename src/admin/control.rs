//! What the API needs of the coordinators: commands down, explanations up.
//!
//! The daemon's implementation is the coordinators' handle; a daemon without any cluster to look after has none.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::cluster::Coordinators;
use crate::cluster::decide::{Accepted, Command, Explanation, Refused};
use crate::cluster::ledger::Ledger;
use crate::directive::Job;

/// What the functions of [`Control`] return.
pub type Asked<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The coordinators of all clusters. Nothing of it waits for anything but a coordinator's answer or an agent's.
pub trait Control: Send + Sync {
    /// Asks a cluster's coordinator for something; answered as soon as it is accepted or refused. The correlation id goes into logs and
    /// orders.
    fn ask(&self, cluster: &str, command: Command, correlation: &str) -> Asked<Result<Accepted, Refused>>;

    /// What its coordinator makes of a cluster; `None` when it has none, because it is only observed.
    fn explanation(&self, cluster: &str) -> Option<Explanation>;

    /// The last jobs of a node's agent, newest first; or why they cannot be had, in words.
    fn jobs(&self, cluster: &str, node: &str) -> Asked<Result<Vec<Job>, String>>;

    /// What has been done so far.
    fn ledger(&self) -> &Ledger;
}

impl Control for Arc<Coordinators> {
    fn ask(&self, cluster: &str, command: Command, correlation: &str) -> Asked<Result<Accepted, Refused>> {
        let (all, cluster, correlation) = (Self::clone(self), cluster.to_owned(), correlation.to_owned());
        Box::pin(async move { Coordinators::ask(&all, &cluster, command, &correlation).await })
    }

    fn explanation(&self, cluster: &str) -> Option<Explanation> {
        Coordinators::explanation(self, cluster)
    }

    fn jobs(&self, cluster: &str, node: &str) -> Asked<Result<Vec<Job>, String>> {
        let (all, cluster, node) = (Self::clone(self), cluster.to_owned(), node.to_owned());
        Box::pin(async move { Coordinators::jobs(&all, &cluster, &node).await })
    }

    fn ledger(&self) -> &Ledger {
        Coordinators::ledger(self)
    }
}
