//! The planned change of the primary: check, checkpoint, hold, drain, stop, verify, promote. Whatever fails before the promotion ends on
//! the old primary.
//!
//! Invariant: the candidate is promoted only when the old primary was stopped cleanly under this operation's epoch and the
//! candidate has replayed its shutdown checkpoint: nothing that was acknowledged is missing.

use std::time::Duration;

use crate::directive::Directive;
use crate::pg::Lsn;
use crate::topology::{Epoch, NodeName};

use super::candidate::judge;
use super::errand::Progress;
use super::machine::Decider;
use super::stage::Stage;
use super::{Intent, OnOpen, Reason, Refused};

/// A candidate that is further behind is no candidate for a planned change.
const LAG_MAX: u64 = 16 * 1024 * 1024;
/// Checkpoints that take longer are not waited for.
const CHECKPOINTS: Duration = Duration::from_secs(120);
/// How often a candidate that catches up is asked.
const POLL: Duration = Duration::from_millis(20);
/// The least that a candidate gets to catch up, however long the stop took.
const CATCH_UP: Duration = Duration::from_secs(1);

impl Decider {
    /// Whether this node can take over in a planned way, and why not.
    pub(super) fn may_take_over(&self, primary: &NodeName, to: &NodeName, named: bool) -> Result<Lsn, Refused> {
        let no = |reason, text: String| Err(Refused { reason, text });
        if to == primary {
            return no(Reason::WrongRole, format!("\"{to}\" is the primary already"));
        }
        let Some(member) = self.settings.nodes.iter().find(|member| member.name == *to) else {
            return no(Reason::UnknownNode, format!("there is no node \"{to}\""));
        };
        let mut expected = self.expected(false);
        expected.max_lag = LAG_MAX;
        let lsn = judge(&self.standing(member, named)?, &expected)?;
        let streams =
            self.word(to).is_some_and(|status| status.postgres.streaming_from.is_some() && !status.postgres.frozen);
        if !streams {
            return no(Reason::Lagging, format!("\"{to}\" does not stream from the primary"));
        }
        if self.is_busy(to) {
            return no(Reason::Busy, format!("\"{to}\" is busy with another job"));
        }
        Ok(lsn)
    }

    /// Records a switchover.
    pub(super) fn begin_switchover(&mut self, from: &NodeName, to: &NodeName, why: &str) -> String {
        let id = self.operation_id("switchover", to, self.next_epoch());
        self.op.begin();
        self.record.intent =
            Some(Intent::Switchover { id: id.clone(), from: from.clone(), to: to.clone(), stopping: false });
        self.tell(Some(to), false, format!("is to become the primary in place of \"{from}\" ({why})"));
        self.store(Stage::Preparing);
        id
    }

    /// A changed `primary = "b"` is a switchover, tried once.
    pub(super) fn follow_declaration(&mut self, primary: &NodeName) {
        if !self.declared_due {
            if let Some(refused) = self.declared_refused.clone() {
                self.blocked.push(refused);
            }
            return;
        }
        self.declared_due = false;
        self.declared_refused = None;
        self.record.declared.clone_from(&self.settings.declared);
        let Some(to) = self.settings.declared.clone().filter(|to| to != primary) else {
            self.store(Stage::Steady);
            return;
        };
        match self.may_take_over(primary, &to, true) {
            Ok(_) => drop(self.begin_switchover(primary, &to, "the configuration names it")),
            Err(refused) => {
                self.tell(
                    Some(&to),
                    true,
                    format!("the configuration names it as the primary, and it does not become that: {}", refused.text),
                );
                self.declared_refused = Some(refused);
                self.store(Stage::Steady);
            }
        }
    }

    // --- before the stop: nothing to undo but a hold

    pub(super) fn preparing(&mut self) {
        let Some((from, to)) = self.pair() else { return self.adrift() };
        if self.falls_through(&from, &to) {
            return;
        }
        let mut ready = true;
        for node in [&from, &to] {
            let progress = match self.op.checkpoints.get(node).cloned() {
                Some(id) => self.progress(node, &id),
                None => {
                    let id = self.fresh_id("checkpoint", node);
                    self.op.checkpoints.insert(node.clone(), id.clone());
                    self.order(node, self.record.epoch, id, Directive::Checkpoint);
                    Progress::Running
                }
            };
            match progress {
                Progress::Failed(failure) if *node == from => {
                    return self.undo_hold(&format!("the checkpoint of \"{from}\" failed: {failure}"));
                }
                Progress::Running | Progress::None => ready = false,
                Progress::Done(_) | Progress::Failed(_) => {}
            }
        }
        if ready {
            self.op.open = None;
            self.go(Stage::Draining);
        } else if self.in_stage() >= CHECKPOINTS {
            self.undo_hold("the checkpoints take too long");
        }
    }

    pub(super) fn draining(&mut self) {
        let Some((from, to)) = self.pair() else { return self.adrift() };
        if self.falls_through(&from, &to) {
            return;
        }
        if self.op.held_since.is_none() {
            self.op.held_since = Some(self.now);
            self.appoint(Some(from), true);
            return;
        }
        let waited = self.in_stage();
        let bound = self.settings.drain_timeout;
        match self.op.open {
            Some(0) => self.stop_old(),
            _ if waited < bound => {}
            open => match (self.settings.on_open, open) {
                (OnOpen::Kill, _) => self.stop_old(),
                (OnOpen::Abort, Some(open)) => {
                    self.undo_hold(&format!(
                        "{open} transactions or sessions were still open after {} ms",
                        bound.as_millis()
                    ));
                }
                (OnOpen::Abort, None) => self.undo_hold("nobody said what is open at the primary"),
            },
        }
    }

    /// The primary or the candidate has failed before anything was stopped.
    fn falls_through(&mut self, from: &NodeName, to: &NodeName) -> bool {
        if !self.is_well(from) {
            self.tell(Some(from), true, "the switchover is undone: the primary fails");
            self.record.intent = None;
            self.store(Stage::Suspecting);
            return true;
        }
        let streams = self.word(to).is_some_and(|status| {
            status.postgres.in_recovery == Some(true) && status.postgres.streaming_from.is_some()
        });
        if !streams || self.is_aside(to).is_some() {
            self.undo_hold(&format!("\"{to}\" does not stream any more"));
            return true;
        }
        false
    }

    fn stop_old(&mut self) {
        if let Some(Intent::Switchover { stopping, .. }) = &mut self.record.intent {
            *stopping = true;
        }
        self.store(Stage::Stopping);
    }

    /// The hold is let go; nothing else has happened.
    fn undo_hold(&mut self, why: &str) {
        self.tell(None, true, format!("the switchover is undone: {why}"));
        if self.appointed.as_ref().is_some_and(|appointed| appointed.epoch == self.record.epoch) {
            self.appoint(self.record.primary.clone(), false); // a new epoch waits until it is stored
        }
        self.record.intent = None;
        self.op = super::operation::Operation { stage_since: self.now, ..Default::default() };
        self.store(Stage::Steady);
    }

    // --- from the stop on

    pub(super) fn stopping(&mut self) {
        let Some((from, _)) = self.pair() else { return self.adrift() };
        if self.is_overtaken(&from, None) {
            return self.forget("nodes follow another primary");
        }
        if self.op.own {
            self.appoint(Some(from.clone()), true);
        } else {
            self.appoint(None, false); // the last life may have published a later epoch
        }
        self.op.held_since.get_or_insert(self.now);
        let epoch = self.next_epoch();
        let id = super::names::order_id(&self.settings.cluster, epoch, "demote", &from, "1");
        match self.progress(&from, &id) {
            Progress::None => self.order(&from, epoch, id, Directive::Demote),
            Progress::Done(job) => {
                let lsn = |key: &str| job.metadata.get(key).and_then(|text| text.parse::<Lsn>().ok());
                // Behind the shutdown checkpoint; at least past where it begins, when that is all that is known.
                self.op.end_lsn =
                    lsn("end_lsn").or_else(|| lsn("shutdown_lsn").map(|begin| Lsn(begin.0.saturating_add(1))));
                self.go(Stage::CatchingUp);
            }
            Progress::Failed(failure) if self.is_old_story(&failure) => self.forget(&failure.text),
            Progress::Failed(failure) => {
                let why = format!("\"{from}\" could not be stopped: {failure}");
                if self.is_well(&from) {
                    self.record.epoch = Epoch(epoch.0.saturating_add(1));
                    self.needs_checkpoint(); // an order of the new epoch: a stop that is still on its way comes too late
                    self.undo_hold(&why);
                } else {
                    self.under_a_new_epoch(&from, &format!("the switchover is undone: {why}"));
                }
            }
            Progress::Running if self.word(&from).is_none() => {
                let text = self.missing_proof(&from);
                self.block(Reason::NoProof, text);
                self.ask_around(&from, self.settings.interval.max(Duration::from_millis(100)));
            }
            Progress::Running => {}
        }
    }

    pub(super) fn catching_up(&mut self) {
        let Some((from, to)) = self.pair() else { return self.adrift() };
        if self.is_overtaken(&from, None)
            || (!self.op.own && self.word(&from).is_some_and(|it| it.postgres.in_recovery == Some(true)))
        {
            return self.forget("the old primary was started again since it was stopped");
        }
        let Some(end) = self.op.end_lsn else {
            return self
                .under_a_new_epoch(&from, "the switchover is undone: nobody knows where the old primary's log ends");
        };
        let replayed = self.word(&to).and_then(|status| status.postgres.replayed_lsn);
        if replayed.is_some_and(|replayed| replayed >= end) {
            let Some(Intent::Switchover { id, .. }) = self.record.intent.clone() else { return self.adrift() };
            let cause = "switchover".to_owned();
            self.record.intent = Some(Intent::Promote { id, from, to, epoch: self.next_epoch(), planned: true, cause });
            self.store(Stage::Promoting);
            return;
        }
        let held = self.op.held_since.map_or(Duration::ZERO, |since| self.now.saturating_sub(since));
        if held >= self.settings.hold_timeout && self.in_stage() >= CATCH_UP {
            let at = replayed.map_or_else(|| "has not said how far it is".to_owned(), |lsn| format!("is at {lsn}"));
            self.under_a_new_epoch(
                &from,
                &format!("the switchover is undone: \"{to}\" {at}, the old primary's log ends at {end}"),
            );
            return;
        }
        if self.op.asked_at.is_none_or(|at| self.now.saturating_sub(at) >= POLL) {
            self.op.asked_at = Some(self.now);
            self.ask(&to);
        }
    }

    fn pair(&self) -> Option<(NodeName, NodeName)> {
        match &self.record.intent {
            Some(Intent::Switchover { from, to, .. }) => Some((from.clone(), to.clone())),
            _ => None,
        }
    }
}
