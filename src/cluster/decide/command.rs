//! What people ask for: checked first, answered once, refused with a reason and what would help.
//!
//! Commands work under `pause`: a person has said so. `fence` of the primary is the exception that needs it: unpaused, it would be a
//! failover by another name.

use crate::directive::Directive;
use crate::topology::NodeName;

use super::evidence::Condition;
use super::machine::Decider;
use super::rejoin::{Repair, Rung};
use super::stage::Stage;
use super::{Accepted, Aside, Command, Intent, Reason, Refused};

type Answer = Result<Accepted, Refused>;

fn no<T>(reason: Reason, text: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { reason, text: text.into() })
}

fn done(text: impl Into<String>) -> Accepted {
    Accepted { id: String::new(), text: text.into() }
}

impl Decider {
    /// Carries a command out, or begins to, and answers: when something has to be stored for it, when that is.
    pub(super) fn obey(&mut self, id: u64, command: Command) {
        let answer = self.checked(command);
        match answer {
            Ok(accepted) => self.accept_when_stored(id, accepted),
            refused @ Err(_) => self.reply(id, refused),
        }
    }

    fn checked(&mut self, command: Command) -> Answer {
        if self.stage == Stage::Starting
            && !matches!(command, Command::Pause | Command::Resume | Command::Failover { .. })
        {
            return no(Reason::NoPrimary, "the coordinator has just started and does not know the primary yet");
        }
        match command {
            Command::Switchover { to } => self.command_switchover(to),
            Command::Failover { to, vouch, allow_data_loss } => self.command_failover(to, vouch, allow_data_loss),
            Command::Pause => self.command_pause(true),
            Command::Resume => self.command_pause(false),
            Command::Attach { node } => self.command_attach(&node),
            Command::Detach { node } => self.command_detach(&node),
            Command::Fence { node } => self.command_fence(&node),
            Command::Unfence { node } => self.command_unfence(&node),
            Command::Rebuild { node } => self.command_rebuild(&node),
            Command::Restart { node } => self.command_restart(&node),
        }
    }

    fn known(&self, node: &NodeName) -> Result<(), Refused> {
        match self.nodes.get(node) {
            None => no(Reason::UnknownNode, format!("there is no node \"{node}\"")),
            Some(known) if !known.member.has_agent => no(Reason::NotManaged, format!("\"{node}\" has no agent")),
            Some(_) => Ok(()),
        }
    }

    fn idle(&self) -> Result<NodeName, Refused> {
        if self.stage.is_operation() {
            let what = self.record.intent.as_ref().map_or("an operation", Intent::id);
            return no(Reason::Busy, format!("{what} is under way ({})", self.stage.name()));
        }
        match &self.record.primary {
            Some(primary) => Ok(primary.clone()),
            None => no(Reason::NoPrimary, "there is no primary"),
        }
    }

    fn heard(&self, node: &NodeName) -> Result<(), Refused> {
        match self.word(node) {
            Some(_) => Ok(()),
            None => no(Reason::Unreachable, format!("the agent of \"{node}\" is not heard")),
        }
    }

    fn command_switchover(&mut self, to: Option<NodeName>) -> Answer {
        let primary = self.idle()?;
        if let Some(to) = &to {
            self.known(to)?;
        }
        if *to.as_ref().unwrap_or(&primary) == primary && to.is_some() {
            return no(Reason::WrongRole, format!("\"{primary}\" is the primary already"));
        }
        if self.condition(&primary) != Condition::Fine || self.word(&primary).is_none() {
            return no(
                Reason::Unreachable,
                format!(
                    "the primary \"{primary}\" is not well, or its agent is not heard: \"howdah failover\" is the other way"
                ),
            );
        }
        if self.is_busy(&primary) {
            return no(Reason::Busy, format!("\"{primary}\" is busy with another job"));
        }
        let to = match to {
            Some(to) => {
                self.may_take_over(&primary, &to, true)?;
                to
            }
            None => {
                let (candidates, refusals) = self.candidates(None, false);
                let fit = |(name, _): &&(NodeName, _)| self.may_take_over(&primary, name, false).is_ok();
                match candidates.iter().find(fit) {
                    Some((name, _)) => name.clone(),
                    None => {
                        let why: Vec<String> = refusals.into_iter().map(|refused| refused.text).collect();
                        let why =
                            if why.is_empty() { "none streams closely enough".to_owned() } else { why.join("; ") };
                        return no(Reason::NoCandidate, format!("no standby can take over: {why}"));
                    }
                }
            }
        };
        let id = self.begin_switchover(&primary, &to, "switchover, by command");
        Ok(Accepted { id, text: format!("switchover from \"{primary}\" to \"{to}\" begins") })
    }

    fn command_failover(&mut self, to: Option<NodeName>, vouch: Option<NodeName>, allow_data_loss: bool) -> Answer {
        for node in [&to, &vouch].into_iter().flatten() {
            self.known(node)?;
        }
        match self.record.intent.clone() {
            Some(Intent::Failover { from, .. }) => self.amend_failover(&from, to, vouch, allow_data_loss),
            Some(Intent::Promote { to: told, .. }) => match vouch {
                Some(vouch) if vouch == told => {
                    self.vouchable(&vouch)?;
                    self.next_candidate(&told, &format!("an operator vouches that \"{told}\" is off"), false, false);
                    if let Some(Intent::Failover { vouched, .. }) = &mut self.record.intent {
                        *vouched = true;
                    }
                    self.restore();
                    Ok(done(format!("\"{told}\" counts as off; the next candidate is looked for")))
                }
                _ => no(Reason::Busy, format!("\"{told}\" is being promoted")),
            },
            Some(Intent::Switchover { .. }) => no(Reason::Busy, "a switchover is under way; it ends by itself"),
            Some(Intent::RestartInPlace { .. }) | None => self.begin_by_command(to, vouch, allow_data_loss),
        }
    }

    fn begin_by_command(&mut self, to: Option<NodeName>, vouch: Option<NodeName>, allow_data_loss: bool) -> Answer {
        let Some(primary) = self.record.primary.clone() else {
            return no(
                Reason::NoPrimary,
                "there is no primary to fail over from: start the node that is to be the primary",
            );
        };
        if !self.is_alive_record() {
            return no(Reason::NoPrimary, "the coordinator has just started");
        }
        if to.as_ref() == Some(&primary) {
            return no(Reason::WrongRole, format!("\"{primary}\" is the primary already"));
        }
        if let Some(vouch) = vouch.as_ref().filter(|vouch| **vouch != primary) {
            return no(Reason::WrongRole, format!("the old primary is \"{primary}\", not \"{vouch}\""));
        }
        let heard = self.word(&primary).is_some();
        if !heard && vouch.is_none() {
            return no(Reason::NoProof, self.missing_proof(&primary));
        }
        if !heard {
            self.vouchable(&primary)?;
        }
        let (candidates, refusals) = self.candidates(to.as_ref(), allow_data_loss);
        if candidates.is_empty() {
            let why: Vec<String> = refusals.into_iter().map(|refused| refused.text).collect();
            return no(Reason::NoCandidate, format!("no standby may be promoted: {}", why.join("; ")));
        }
        // An agent that is heard gives the proof itself: nobody's word is needed.
        let vouched = vouch.is_some() && !heard;
        self.begin_failover(&primary, "failover, by command", to, vouched, allow_data_loss);
        let id = self.record.intent.as_ref().map(|intent| intent.id().to_owned()).unwrap_or_default();
        Ok(Accepted { id, text: format!("failover from \"{primary}\" begins") })
    }

    fn amend_failover(
        &mut self,
        old: &NodeName,
        node: Option<NodeName>,
        vouch: Option<NodeName>,
        loss: bool,
    ) -> Answer {
        if let Some(vouch) = &vouch {
            if vouch != old {
                return no(
                    Reason::WrongRole,
                    format!("the node that has to be proven off is \"{old}\", not \"{vouch}\""),
                );
            }
            self.vouchable(vouch)?;
        }
        let Some(Intent::Failover { id, vouched, to, allow_data_loss, .. }) = &mut self.record.intent else {
            return no(Reason::Busy, "another operation is under way");
        };
        *vouched |= vouch.is_some();
        *allow_data_loss |= loss;
        *to = node; // the latest word counts
        let accepted =
            Accepted { id: id.clone(), text: "the failover that is under way takes it into account".to_owned() };
        self.op.allow_data_loss |= loss;
        self.store(self.stage);
        Ok(accepted)
    }

    /// Nobody may vouch for a node that somebody can see alive.
    fn vouchable(&self, node: &NodeName) -> Result<(), Refused> {
        match self.witness(node) {
            Some(witness) => no(Reason::PrimaryLives, format!("\"{node}\" is not off: {witness}")),
            None => Ok(()),
        }
    }

    fn command_pause(&mut self, paused: bool) -> Answer {
        let text = if paused { "paused: no failovers and no repairs until \"howdah resume\"" } else { "not paused" };
        if self.record.paused != paused {
            self.record.paused = paused;
            self.tell(None, false, text);
            self.store(self.stage);
        }
        Ok(done(text))
    }

    fn command_attach(&mut self, node: &NodeName) -> Answer {
        self.known(node)?;
        match self.is_aside(node) {
            Some(Aside::Fenced) => {
                return no(Reason::Detached, format!("\"{node}\" is fenced: \"howdah unfence {node}\" ends that"));
            }
            Some(Aside::Detached | Aside::Quarantined { .. }) => {
                self.record.aside.remove(node);
                self.repairs.remove(node);
                self.tell(Some(node), false, "belongs to the cluster again");
                self.store(self.stage);
            }
            None => {
                if let Some(repair) = self.repairs.get_mut(node) {
                    repair.again_at = self.now;
                }
            }
        }
        Ok(done(format!("\"{node}\" belongs to the cluster")))
    }

    fn command_detach(&mut self, node: &NodeName) -> Answer {
        self.known(node)?;
        let primary = self.idle()?;
        if primary == *node {
            return no(Reason::WrongRole, format!("\"{node}\" is the primary: \"howdah switchover\" first"));
        }
        self.record.aside.insert(node.clone(), Aside::Detached);
        self.repairs.remove(node);
        self.tell(Some(node), false, "is left alone from now on");
        self.store(self.stage);
        Ok(done(format!("\"{node}\" is left alone and no candidate until \"howdah attach {node}\"")))
    }

    fn command_fence(&mut self, node: &NodeName) -> Answer {
        self.known(node)?;
        let primary = self.idle()?;
        if primary == *node && !self.record.paused {
            let text = format!(
                "\"{node}\" is the primary: \"howdah failover\" or \"howdah switchover\" moves it; under \"howdah pause\" it can be fenced"
            );
            return no(Reason::WrongRole, text);
        }
        self.heard(node)?;
        self.record.aside.insert(node.clone(), Aside::Fenced);
        self.repairs.remove(node);
        let id = self.fresh_id("fence", node);
        self.order_when_stored(node, id.clone(), Directive::Fence);
        Ok(Accepted { id, text: format!("\"{node}\" is being fenced, until \"howdah unfence {node}\"") })
    }

    fn command_unfence(&mut self, node: &NodeName) -> Answer {
        self.known(node)?;
        if self.is_aside(node) != Some(&Aside::Fenced) {
            return no(Reason::WrongRole, format!("\"{node}\" is not fenced by an operator"));
        }
        self.record.aside.remove(node);
        self.repairs.insert(node.clone(), Repair::default());
        self.tell(Some(node), false, "may be started again");
        self.store(self.stage);
        Ok(done(format!("\"{node}\" may be started again, and joins as a standby")))
    }

    fn command_rebuild(&mut self, node: &NodeName) -> Answer {
        self.known(node)?;
        let primary = self.idle()?;
        if primary == *node {
            return no(Reason::WrongRole, format!("\"{node}\" is the primary: there is nothing to copy it from"));
        }
        self.heard(node)?;
        if self.is_busy(node) {
            return no(Reason::Busy, format!("\"{node}\" is busy with another job"));
        }
        match self.is_aside(node) {
            Some(Aside::Detached) => {
                return no(Reason::Detached, format!("\"{node}\" is detached: \"howdah attach {node}\" first"));
            }
            Some(Aside::Fenced) => {
                return no(Reason::Detached, format!("\"{node}\" is fenced: \"howdah unfence {node}\" first"));
            }
            Some(Aside::Quarantined { .. }) | None => {}
        }
        if self.condition(&primary) != Condition::Fine {
            return no(Reason::NoPrimary, format!("the primary \"{primary}\" is not well"));
        }
        let id = self.fresh_id("rebuild", node);
        let Some(directive) = self.rebuild_directive(&primary, node) else {
            return no(Reason::NoPrimary, "the primary's timeline is not known yet");
        };
        let mut repair = Repair::on(Rung::Rebuild);
        repair.was_told(&id);
        self.repairs.insert(node.clone(), repair);
        if self.record.aside.remove(node).is_some() {
            self.order_when_stored(node, id.clone(), directive);
        } else {
            self.order(node, self.record.epoch, id.clone(), directive);
        }
        Ok(Accepted { id, text: format!("\"{node}\" becomes a new copy of \"{primary}\"") })
    }

    fn command_restart(&mut self, node: &NodeName) -> Answer {
        self.known(node)?;
        let primary = self.idle()?;
        self.heard(node)?;
        if self.is_busy(node) {
            return no(Reason::Busy, format!("\"{node}\" is busy with another job"));
        }
        if self.is_aside(node) == Some(&Aside::Fenced) {
            return no(Reason::Detached, format!("\"{node}\" is fenced: \"howdah unfence {node}\" first"));
        }
        if primary == *node {
            self.begin_restart(node, "restart, by command");
            let id = self.record.intent.as_ref().map(|intent| intent.id().to_owned()).unwrap_or_default();
            return Ok(Accepted { id, text: format!("the primary \"{node}\" is being restarted") });
        }
        let id = self.fresh_id("restart", node);
        self.order(node, self.record.epoch, id.clone(), Directive::Restart { primary: false });
        Ok(Accepted { id, text: format!("\"{node}\" is being restarted") })
    }
}
