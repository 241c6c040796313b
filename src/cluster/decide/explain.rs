//! What the coordinator makes of it all, for people and for programs. Reads, and decides nothing.

use crate::topology::NodeName;

use super::candidate::judge;
use super::machine::Decider;
use super::stage::Stage;
use super::{Aside, Explanation, Intent, Mode, NodeExplanation, Reason, Refused};

impl Decider {
    /// What is so, what is under way, and what stands in the way.
    #[must_use]
    pub fn explain(&self) -> Explanation {
        let mut blocked = self.blocked.clone();
        if let Some((why, _)) = &self.store_failed {
            blocked.push(Refused { reason: Reason::StoreFailed, text: format!("the record cannot be stored: {why}") });
        }
        Explanation {
            mode: match self.settings.mode {
                Mode::Automatic => "automatic",
                Mode::Manual => "manual",
                Mode::Observe => "observe",
            }
            .to_owned(),
            state: self.stage.name().to_owned(),
            epoch: self.record.epoch,
            primary: self.record.primary.clone(),
            paused: self.record.paused,
            operation: self.record.intent.as_ref().map(|intent| self.in_words(intent)),
            blocked,
            nodes: self.settings.nodes.iter().map(|member| self.explain_node(&member.name)).collect(),
        }
    }

    fn in_words(&self, intent: &Intent) -> String {
        match intent {
            Intent::Failover { id, from, cause, .. } => format!("{id}: failover from \"{from}\": {cause}"),
            Intent::RestartInPlace { id, node, cause } => format!("{id}: \"{node}\" is started again: {cause}"),
            Intent::Switchover { id, from, to, .. } => format!("{id}: switchover from \"{from}\" to \"{to}\""),
            Intent::Promote { id, to, epoch, .. } => format!("{id}: \"{to}\" becomes the primary of epoch {epoch}"),
        }
    }

    fn explain_node(&self, name: &NodeName) -> NodeExplanation {
        let agent = self.word(name).is_some();
        let is_primary = self.record.primary.as_ref() == Some(name);
        let follows = self.record.primary.as_ref().is_some_and(|primary| self.is_standby_of(primary, name));
        let state = match self.is_aside(name) {
            Some(Aside::Detached) => "detached",
            Some(Aside::Fenced) => "fenced",
            Some(Aside::Quarantined { .. }) => "quarantined",
            None if is_primary => "primary",
            None if follows => "standby",
            None if self.word(name).is_some_and(|status| status.postgres.in_recovery == Some(true)) => "joining",
            None if agent && self.repairs.contains_key(name) => "joining",
            None => "unknown",
        };
        let refused = (!is_primary && self.stage != Stage::Observing).then(|| {
            let member = self.settings.nodes.iter().find(|member| member.name == *name)?;
            self.standing(member, false).map_or_else(Err, |standing| judge(&standing, &self.expected(false))).err()
        });
        NodeExplanation {
            name: name.clone(),
            state: state.to_owned(),
            agent,
            refused: refused.flatten(),
            note: self.note(name),
        }
    }

    /// The last thing that went wrong there, or what it does.
    fn note(&self, name: &NodeName) -> Option<String> {
        if let Some(Aside::Quarantined { why }) = self.is_aside(name) {
            return Some(why.clone());
        }
        let known = self.nodes.get(name)?;
        if let Some((_, why)) = &known.silent {
            return Some(format!("its agent is not heard: {why}"));
        }
        let errand = self.errands.get(name).filter(|errand| errand.end.is_none());
        if let Some(errand) = errand {
            let trouble = errand.trouble.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
            return Some(format!("{} {}{trouble}", errand.order.directive.name(), errand.order.id));
        }
        if let Some(job) = known.running_job(self.now) {
            return Some(format!("{} {}", job.order.directive.name(), job.order.id));
        }
        if let Some(note) = self.repairs.get(name).and_then(|repair| repair.note.clone()) {
            return Some(note);
        }
        if known.word(self.now).is_some() && known.sight.as_ref().is_some_and(|(sight, _)| !sight.healthy) {
            return Some(
                "its agent says that it is there, the monitor does not reach it: too many connections, or the network"
                    .to_owned(),
            );
        }
        known.status.as_ref().and_then(|status| status.warnings.first().cloned())
    }
}
