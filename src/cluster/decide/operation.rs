//! How far this life of the daemon is with what is under way. Never stored: what must outlive the daemon is in the
//! [`Intent`](super::Intent), and what is lost here is found out again by asking the agents, whose jobs have the same identifiers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::directive::{Directive, Failure};
use crate::pg::{Lsn, Timeline};
use crate::topology::{Epoch, NodeName};

use super::errand::Progress;
use super::machine::Decider;
use super::names::order_id;

/// What is known of the operation that is under way, and of the suspicion that may lead to one.
#[derive(Clone, Debug, Default)]
pub(super) struct Operation {
    /// Since when the stage lasts.
    pub(super) stage_since: Duration,
    /// The first sign that the primary fails.
    pub(super) failing_since: Option<Duration>,
    /// When agents and nodes were last asked out of turn.
    pub(super) asked_at: Option<Duration>,
    /// Begun in this life, not found in the store.
    pub(super) own: bool,
    /// Gate (a) is open since then.
    pub(super) proof_at: Option<Duration>,
    /// What frozen standbys have.
    pub(super) reports: BTreeMap<NodeName, Report>,
    /// Orders of this operation that have failed, by node and verb.
    pub(super) trials: BTreeMap<(NodeName, &'static str), Trial>,
    /// The operator accepts a loss.
    pub(super) allow_data_loss: bool,
    /// Where the fenced primary's log ends, by its control file.
    pub(super) end_lsn: Option<Lsn>,
    /// Bytes that the chosen one lacks.
    pub(super) lost_bytes: Option<u64>,
    /// The primary when the first of a row of failovers began.
    pub(super) origin: Option<NodeName>,
    /// `from` was told to become the primary and said that it has undone it: a freeze proves as much as a fence.
    pub(super) loser: bool,
    /// A restart was refused because its directory is a standby's.
    pub(super) as_standby: bool,
    /// The epochs in which a node's promotion failed, in a row of failovers.
    pub(super) lost: BTreeMap<NodeName, BTreeSet<Epoch>>,
    /// A switchover that failed after the old primary's stop: back to it.
    pub(super) undo: Option<String>,
    /// What a held primary has open.
    pub(super) open: Option<u64>,
    /// New transactions wait since then.
    pub(super) held_since: Option<Duration>,
    /// Identifiers of the checkpoints of a switchover.
    pub(super) checkpoints: BTreeMap<NodeName, String>,
}

/// What a frozen standby has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) timeline: Timeline,
    /// The greater of what it has received and what it has replayed.
    pub(super) lsn: Lsn,
}

impl Operation {
    /// What a new operation begins with: the suspicion that led to it stays.
    pub(super) fn begin(&mut self) {
        let failing_since = self.failing_since;
        let stage_since = self.stage_since;
        *self = Self { failing_since, stage_since, own: true, ..Self::default() };
    }

    /// The same failover under a new epoch: what was proven under the old one is asked for again.
    pub(super) fn again(&mut self) {
        self.proof_at = None;
        self.reports.clear();
        self.trials.clear();
        self.loser = false;
        self.own = true;
    }
}

/// An order that has failed, and is given again under another number.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    pub(super) count: u32,
    pub(super) again_at: Duration,
    pub(super) failure: Failure,
}

impl Decider {
    /// Gives the order of this verb to a node, and again under the next number when it fails, with pauses that grow.
    pub(super) fn pursue(
        &mut self,
        node: &NodeName,
        verb: &'static str,
        epoch: Epoch,
        directive: Directive,
    ) -> Progress {
        let trial = self.op.trials.get(&(node.clone(), verb)).cloned();
        let count = trial.as_ref().map_or(0, |trial| trial.count);
        let id = order_id(&self.settings.cluster, epoch, verb, node, &count.saturating_add(1).to_string());
        match (self.progress(node, &id), trial) {
            (Progress::None, Some(trial)) if self.now < trial.again_at => Progress::Failed(trial.failure),
            (Progress::None, _) => {
                self.order(node, epoch, id, directive);
                Progress::Running
            }
            (Progress::Failed(failure), _) => {
                let pause = Duration::from_millis(100_u64.saturating_mul(1 << count.min(6)));
                let again_at = self.now.saturating_add(pause.min(Duration::from_secs(5)));
                let trial = Trial { count: count.saturating_add(1), again_at, failure: failure.clone() };
                self.op.trials.insert((node.clone(), verb), trial);
                Progress::Failed(failure)
            }
            (progress, _) => progress,
        }
    }
}
