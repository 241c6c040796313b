//! The unplanned change of the primary, and the restart where it was: both gates, then one promotion.
//!
//! Invariant: an order to promote goes out only under a stored [`Intent::Promote`], and that is stored only when
//! - gate (a): the node that was last told or allowed to accept writes is proven to have no server process, under the epoch of this
//!   operation (a job of `fence`), or has promised under it to stay a standby (a freeze, only for a node whose promotion
//!   has failed and was undone), or an operator vouches for it; and
//! - gate (b): every standby that can be asked has stopped to receive under this epoch, and the one that has most is taken.

use std::time::Duration;

use crate::directive::{Code, Directive, Failure, Job};
use crate::pg::{Lsn, Timeline};
use crate::topology::{Epoch, NodeName};

use super::candidate::{Standing, best, judge};
use super::errand::Progress;
use super::evidence::Condition;
use super::flapping::Leave;
use super::machine::Decider;
use super::names::{order_id, slot_name};
use super::operation::Report;
use super::stage::Stage;
use super::{Intent, Member, Mode, Reason, Refused};

/// So long a standby whose agent is heard may take to answer a freeze once gate (a) is open.
const ANSWERS: Duration = Duration::from_secs(3);
/// So long one that may have more than all others is waited for; and so long it takes until the old primary is started again for
/// want of a candidate.
const PATIENCE: Duration = Duration::from_secs(10);
/// A promotion that takes longer has failed.
const PROMOTION: Duration = Duration::from_secs(90);
/// A primary that is well for so long, and whose agent the fence never reached, is not failed over.
const WITHDRAWN: Duration = Duration::from_secs(5);
/// So many promotions of one node are tried in a row.
const PROMOTIONS: usize = 2;
/// So many when it has more than the others.
const PROMOTIONS_MAX: usize = 5;

impl Decider {
    pub(super) fn operation_id(&self, verb: &str, node: &NodeName, epoch: Epoch) -> String {
        let generation = self.record.generation.saturating_add(1).to_string();
        order_id(&self.settings.cluster, epoch, verb, node, &generation)
    }

    /// Records a failover; what follows from it follows when that is stored.
    pub(super) fn begin_failover(
        &mut self,
        from: &NodeName,
        cause: &str,
        to: Option<NodeName>,
        vouched: bool,
        allow_data_loss: bool,
    ) {
        let id = self.operation_id("failover", from, self.next_epoch());
        self.op.begin();
        self.op.failing_since.get_or_insert(self.now);
        self.op.origin = Some(from.clone());
        self.op.allow_data_loss = allow_data_loss;
        let from = from.clone();
        self.tell(Some(&from), true, format!("{cause}; failing over"));
        self.record.intent = Some(Intent::Failover { id, from, cause: cause.to_owned(), vouched, to, allow_data_loss });
        self.store(Stage::Fencing);
    }

    // --- restart in place

    pub(super) fn restarting(&mut self) {
        let Some(Intent::RestartInPlace { id, node, cause }) = self.record.intent.clone() else { return self.adrift() };
        if self.is_overtaken(&node, None) {
            return self.forget("nodes follow another primary");
        }
        if self.op.as_standby {
            return self.promote_where_it_is(&node, cause);
        }
        let tries = self.op.trials.get(&(node.clone(), "restart")).map_or(0, |trial| trial.count);
        // another number in each life: what was tried in the last one has failed already, and is no try of this one
        let order = if tries == 0 { id } else { format!("{id}.{}.{tries}", self.life) };
        let failure = match self.progress(&node, &order) {
            Progress::None => {
                self.restarts.push(self.now);
                self.order(&node, self.record.epoch, order, Directive::Restart { primary: true });
                return;
            }
            Progress::Done(job) => {
                self.record.intent = None;
                self.trust_after(&node, &job);
                self.appoint(Some(node.clone()), false);
                self.tell(Some(&node), false, format!("accepts writes again after a restart in place ({cause})"));
                self.op = super::operation::Operation { stage_since: self.now, ..Default::default() };
                self.store(Stage::Steady);
                return;
            }
            Progress::Running if self.in_stage() < self.restart_bound() => None,
            Progress::Running => Some("it takes too long".to_owned()),
            Progress::Failed(failure) if self.is_old_story(&failure) => return self.forget(&failure.text),
            Progress::Failed(failure) => Some(failure.to_string()),
        };
        let Some(why) = failure else { return };
        if matches!(self.progress(&node, &order), Progress::Failed(Failure { code: Code::WrongRole, .. })) {
            self.op.as_standby = true;
            return self.promote_where_it_is(&node, cause);
        }
        let text = format!("\"{node}\" could not be started again where it was: {why}");
        let may_fail_over = self.settings.mode == Mode::Automatic && !self.record.paused;
        if may_fail_over && !self.candidates(None, false).0.is_empty() && self.leave_to_fail_over() == Leave::Now {
            self.begin_failover(&node, &text, None, false, false);
            return;
        }
        self.ask_around(&node, self.settings.interval.max(Duration::from_millis(100)));
        let reason = if self.word(&node).is_none() { Reason::NoProof } else { Reason::NoCandidate };
        self.block(reason, format!("{text}; and nobody else may be promoted"));
        if matches!(self.progress(&node, &order), Progress::Failed(_)) && self.may_restart_again() {
            let failure = Failure::new(Code::Program, why);
            let trial = super::operation::Trial { count: tries.saturating_add(1), again_at: self.now, failure };
            self.op.trials.insert((node, "restart"), trial);
        }
    }

    /// Something has made the primary a standby, of its own log, and nobody else was allowed to write: it is promoted.
    fn promote_where_it_is(&mut self, node: &NodeName, cause: String) {
        let postgres = self.word(node).map(|status| &status.postgres);
        let timeline = postgres.and_then(|postgres| postgres.timeline);
        if postgres.is_some_and(|postgres| postgres.in_recovery == Some(true)) {
            if timeline != self.record.timeline {
                return self.forget("it follows another timeline than the primary's");
            }
            let epoch = self.next_epoch();
            let id = self.operation_id("promote", node, epoch);
            let (from, to) = (node.clone(), node.clone());
            self.record.intent = Some(Intent::Promote { id, from, to, epoch, planned: false, cause });
            self.store(Stage::Promoting);
            return;
        }
        self.block(Reason::NoPrimary, format!("\"{node}\" is started as a standby, to be promoted"));
        self.pursue(node, "start", self.record.epoch, Directive::Restart { primary: false });
    }

    /// What the store says is under way is an old story: since then somebody has been promoted. Only asked about what this life
    /// has not begun.
    pub(super) fn is_overtaken(&self, from: &NodeName, to: Option<&NodeName>) -> bool {
        let expected = |node: &NodeName| node == from || Some(node) == to;
        let timeline = self.word(from).and_then(|status| status.postgres.timeline);
        if self.op.own {
            return false;
        }
        let is_later = self.record.timeline.is_some() && timeline > self.record.timeline;
        if is_later || self.has_gone_on() {
            return true;
        }
        self.nodes.values().any(|known| {
            let name = &known.member.name;
            let promoted = !expected(name)
                && known.is_writable(self.now)
                && known.word(self.now).is_some_and(|status| status.epoch > self.record.epoch);
            promoted || self.followed_by(name).is_some_and(|upstream| !expected(&upstream))
        })
    }

    /// Some agent was ordered what is only ordered once its epoch is recorded, and that epoch is above the record's.
    fn has_gone_on(&self) -> bool {
        let words = self.nodes.values().filter_map(|known| known.word(self.now));
        words.filter_map(|status| status.job.as_ref()).any(|job| {
            let towards = matches!(
                job.order.directive,
                Directive::Fence | Directive::Freeze | Directive::Demote | Directive::Promote { .. }
            );
            job.order.epoch > self.record.epoch && !towards
        })
    }

    // --- gate (a)

    pub(super) fn fencing(&mut self) {
        let Some(Intent::Failover { from, vouched, .. }) = self.record.intent.clone() else { return self.adrift() };
        if self.is_overtaken(&from, None) {
            return self.forget("nodes follow another primary");
        }
        self.appoint(None, false);
        let epoch = self.next_epoch();
        let proof = if self.op.loser {
            self.pursue(&from, "freeze", epoch, Directive::Freeze)
        } else {
            self.pursue(&from, "fence", epoch, Directive::Fence)
        };
        self.freeze_others(&from);
        match proof {
            Progress::Done(job) if self.op.loser => {
                self.note_report(&from, &job);
                self.open_gate(&from, "has promised to stay a standby");
            }
            Progress::Done(job) if proves(&job, epoch) => {
                self.op.end_lsn = self.op.end_lsn.max(job.metadata.get("end_lsn").and_then(|text| text.parse().ok()));
                self.open_gate(&from, "is fenced: no server process is left");
            }
            Progress::Done(_) => {
                // An agent that says it is done and shows no proof: asked again under another number.
                self.block(Reason::NoProof, format!("the fence of \"{from}\" ended without a proof"));
                self.distrust(&from, "fence");
            }
            _ if vouched => self.open_gate(&from, "is off, an operator vouches for it"),
            Progress::Failed(_) if self.op.loser => self.op.loser = false, // not even a standby that answers: fenced after all
            Progress::Failed(failure) => {
                self.block(Reason::NoProof, format!("\"{from}\" could not be fenced: {failure}; it is tried again"));
            }
            Progress::Running | Progress::None => {
                if self.word(&from).is_some() {
                    self.block(Reason::NoProof, format!("\"{from}\" is being fenced"));
                } else {
                    let text = self.missing_proof(&from);
                    self.block(Reason::NoProof, text);
                    self.ask_around(&from, self.settings.interval.max(Duration::from_millis(100)));
                    self.withdraw(&from);
                }
            }
        }
    }

    fn open_gate(&mut self, from: &NodeName, how: &str) {
        self.op.proof_at = Some(self.now);
        self.tell(Some(from), false, how);
        self.go(Stage::Choosing);
    }

    /// A job that ended well without what it is for.
    fn distrust(&mut self, node: &NodeName, verb: &'static str) {
        let count = self.op.trials.get(&(node.clone(), verb)).map_or(0, |trial| trial.count).saturating_add(1);
        let failure = Failure::new(Code::Internal, "the job ended without a proof");
        let again_at = self.now.saturating_add(Duration::from_secs(1));
        self.op.trials.insert((node.clone(), verb), super::operation::Trial { count, again_at, failure });
    }

    /// The fence has never been taken, its agent is not heard, and the primary is well: it stays, under an epoch that no order of this
    /// operation can spoil.
    fn withdraw(&mut self, from: &NodeName) {
        let taken = self.errands.get(from).is_some_and(|errand| errand.taken);
        let well = self.nodes.get(from).is_some_and(|known| known.is_writable(self.now));
        if taken || !well || self.in_stage() < WITHDRAWN || self.record.primary.as_ref() != Some(from) {
            return;
        }
        self.tell(Some(from), true, "the failover is withdrawn: the primary is well, and its agent was never reached");
        self.record.epoch = self.next_epoch();
        self.record.intent = None;
        self.op.failing_since = None;
        self.errands.remove(from);
        self.store(Stage::Steady);
    }

    // --- gate (b)

    /// Standbys stop to receive, all at the same time. What they answer is noted.
    fn freeze_others(&mut self, from: &NodeName) -> Vec<(NodeName, Progress)> {
        let epoch = self.next_epoch();
        let mut answers = Vec::new();
        for node in self.others(from) {
            if self.is_aside(&node).is_some() {
                continue;
            }
            if self.may_write(&node) {
                // Promoted or started by hand, perhaps after its freeze: not used, and not left alone.
                self.op.reports.remove(&node);
                self.pursue(&node, "fence", epoch, Directive::Fence);
                let failure = Failure::new(Code::WrongRole, "it accepts writes");
                answers.push((node, Progress::Failed(failure)));
                continue;
            }
            let progress = self.pursue(&node, "freeze", epoch, Directive::Freeze);
            if let Progress::Done(job) = &progress {
                self.note_report(&node, job);
            }
            answers.push((node, progress));
        }
        answers
    }

    fn note_report(&mut self, node: &NodeName, job: &Job) {
        if self.op.reports.contains_key(node) {
            return;
        }
        let lsn = |key: &str| job.metadata.get(key).and_then(|text| text.parse::<Lsn>().ok());
        let timeline = job.metadata.get("timeline").and_then(|text| text.parse().ok()).map(Timeline);
        let (Some(timeline), Some(lsn)) = (timeline, lsn("received_lsn").max(lsn("replayed_lsn"))) else { return };
        self.op.reports.insert(node.clone(), Report { timeline, lsn });
    }

    pub(super) fn choosing(&mut self) {
        let Some(Intent::Failover { from, vouched, to, allow_data_loss, cause, .. }) = self.record.intent.clone()
        else {
            return self.adrift();
        };
        let Some(proof_at) = self.op.proof_at else { return self.adrift() };
        if self.op.undo.is_some() && self.back_to_the_old_primary(&from) {
            return;
        }
        let waited = self.now.saturating_sub(proof_at);
        let answers = self.freeze_others(&from);
        let second = self.others(&from).into_iter().find(|node| self.may_write(node) && self.is_aside(node).is_none());
        if let Some(second) = second {
            self.block(Reason::NoProof, format!("\"{second}\" accepts writes too: it is fenced first"));
            return;
        }
        let best_answer = self.op.reports.values().map(|report| (report.timeline, report.lsn)).max();
        let mut absent: Vec<(NodeName, String)> = Vec::new();
        let mut wait = false;
        for (node, progress) in answers {
            match progress {
                Progress::Done(_) if self.op.reports.contains_key(&node) => {}
                Progress::Done(_) => absent.push((node, "is frozen, and has not said how far it is".to_owned())),
                Progress::Failed(failure) => absent.push((node, format!("could not be frozen: {failure}"))),
                Progress::Running | Progress::None => {
                    let heard = self.word(&node).is_some();
                    let reach = self.nodes.get(&node).and_then(super::knowledge::Known::reach);
                    let ahead = reach.is_some() && reach > best_answer;
                    wait |= (heard && waited < ANSWERS) || (ahead && waited < PATIENCE);
                    if ahead {
                        self.block(
                            Reason::Unreachable,
                            format!("\"{node}\" may have more than the others, and has not answered"),
                        );
                    }
                    absent.push((node, "has not answered".to_owned()));
                }
            }
        }
        if wait {
            return;
        }
        let (candidates, refusals, furthest) = self.candidates_by_report(&from, to.as_ref(), allow_data_loss, &absent);
        let members: Vec<(&Member, Lsn)> = self
            .settings
            .nodes
            .iter()
            .filter_map(|member| {
                Some((member, *candidates.iter().find(|(name, _)| *name == member.name).map(|(_, lsn)| lsn)?))
            })
            .collect();
        if let Some((chosen, lsn)) = best(&members) {
            let chosen = chosen.clone();
            self.op.lost_bytes = (furthest > Lsn(0)).then(|| furthest.bytes_since(lsn));
            let epoch = self.next_epoch();
            let id = self.record.intent.as_ref().map(|intent| intent.id().to_owned()).unwrap_or_default();
            let from = self.op.origin.clone().unwrap_or(from);
            self.record.intent = Some(Intent::Promote { id, from, to: chosen.clone(), epoch, planned: false, cause });
            self.tell(Some(&chosen), false, format!("is chosen for epoch {epoch}: it has everything up to {lsn}"));
            self.store(Stage::Promoting);
            return;
        }
        self.block(Reason::NoCandidate, "no standby may be promoted");
        self.blocked.extend(refusals);
        if waited >= PATIENCE && !vouched {
            self.back_to_the_old_primary(&from);
        }
    }

    /// The frozen standbys that may be promoted, why the others may not, and the furthest position anybody has seen.
    fn candidates_by_report(
        &self,
        from: &NodeName,
        named: Option<&NodeName>,
        allow_data_loss: bool,
        absent: &[(NodeName, String)],
    ) -> (Vec<(NodeName, Lsn)>, Vec<Refused>, Lsn) {
        let mut expected = self.expected(allow_data_loss);
        let on_lineage = |report: &&Report| report.timeline == expected.history.timeline;
        let reported = self.op.reports.values().filter(on_lineage).map(|report| report.lsn).max();
        expected.furthest = expected.furthest.max(reported.unwrap_or_default());
        let (mut good, mut refusals) = (Vec::new(), Vec::new());
        for member in &self.settings.nodes {
            let name = &member.name;
            if (name == from && !self.op.loser) || named.is_some_and(|named| named != name) {
                continue;
            }
            let report = self.op.reports.get(name);
            let mut why = absent.iter().find(|(node, _)| node == name).map(|(_, why)| why.clone());
            if report.is_none() {
                why.get_or_insert_with(|| "was not frozen".to_owned());
            }
            let tries = self.op.lost.get(name).map_or(0, std::collections::BTreeSet::len);
            let others = self.op.reports.iter().filter(|(node, _)| !self.op.lost.contains_key(*node));
            let as_good = others.map(|(_, report)| report.lsn).max() >= report.map(|report| report.lsn);
            if tries >= PROMOTIONS && (as_good || tries >= PROMOTIONS_MAX) {
                why = Some("was told to become the primary and failed, too often".to_owned());
            }
            let system =
                self.nodes.get(name).and_then(|known| known.status.as_ref()).and_then(|s| s.postgres.system_identifier);
            let standing = Standing {
                member,
                aside: self.is_aside(name),
                absent: why,
                system,
                reach: report.map(|report| (report.timeline, report.lsn)),
                named: named.is_some(),
                forked: self.record.forked.contains(name),
            };
            match judge(&standing, &expected) {
                Ok(lsn) if named.is_some() && !allow_data_loss && Some(lsn) < reported => {
                    let text = format!(
                        "\"{name}\" is at {lsn}, another standby has more: it is promoted only with --allow-data-loss"
                    );
                    refusals.push(Refused { reason: Reason::Lagging, text });
                }
                Ok(lsn) => good.push((name.clone(), lsn)),
                Err(refused) => refusals.push(refused),
            }
        }
        (good, refusals, expected.furthest)
    }

    /// Nobody may be promoted, and the old primary is proven stopped: it is started again, under a new epoch.
    fn back_to_the_old_primary(&mut self, from: &NodeName) -> bool {
        let old = self.op.origin.clone().unwrap_or_else(|| from.clone());
        let Some(node) =
            [old, from.clone()].into_iter().find(|node| self.word(node).is_some() && self.is_aside(node).is_none())
        else {
            return false;
        };
        if !self.may_restart_again() {
            return false;
        }
        let cause = self.op.undo.clone().unwrap_or_else(|| "no standby may be promoted".to_owned());
        self.under_a_new_epoch(&node, &cause);
        true
    }

    /// The old primary is to accept writes again; no order of the operation so far can be carried out any more.
    pub(super) fn under_a_new_epoch(&mut self, node: &NodeName, cause: &str) {
        self.record.epoch = Epoch(self.next_epoch().0.saturating_add(1));
        let id = self.operation_id("restart", node, self.record.epoch);
        self.record.primary = Some(node.clone());
        self.record.intent = Some(Intent::RestartInPlace { id, node: node.clone(), cause: cause.to_owned() });
        self.op.trials.clear();
        self.tell(Some(node), true, format!("becomes the primary again under epoch {}: {cause}", self.record.epoch));
        self.store(Stage::Restarting);
    }

    // --- the promotion

    pub(super) fn promoting(&mut self) {
        let Some(Intent::Promote { from, to, epoch, planned, cause, .. }) = self.record.intent.clone() else {
            return self.adrift();
        };
        if self.is_overtaken(&from, Some(&to)) {
            return self.forget("nodes follow another primary");
        }
        if planned && self.op.own {
            self.appoint(self.record.primary.clone(), true);
        } else {
            self.appoint(None, false);
        }
        let id = order_id(&self.settings.cluster, epoch, "promote", &to, "1");
        match self.progress(&to, &id) {
            Progress::None => {
                let members = self.settings.nodes.iter().filter(|member| member.name != to);
                let slots = members.map(|member| slot_name(&member.name)).collect();
                self.order(&to, epoch, id, Directive::Promote { slots });
            }
            Progress::Done(job) => self.promoted(&from, &to, epoch, planned, cause, &job),
            Progress::Failed(failure) if self.is_old_story(&failure) => self.forget(&failure.text),
            Progress::Failed(failure) => {
                // what took too long or was interrupted may go on by itself
                let open = [Code::NotUndone, Code::Internal, Code::TimedOut, Code::Interrupted];
                let undone = !open.contains(&failure.code);
                self.next_candidate(&to, &format!("\"{to}\" could not be promoted: {failure}"), undone, planned);
            }
            Progress::Running if self.word(&to).is_none() => {
                let text = self.missing_proof(&to);
                self.block(
                    Reason::NoProof,
                    format!("\"{to}\" was told to become the primary, and whether it has is not known; {text}"),
                );
                self.ask_around(&to, self.settings.interval.max(Duration::from_millis(100)));
            }
            Progress::Running if self.in_stage() >= PROMOTION => {
                self.next_candidate(&to, &format!("the promotion of \"{to}\" takes too long"), false, planned);
            }
            Progress::Running => {}
        }
    }

    fn promoted(&mut self, from: &NodeName, to: &NodeName, epoch: Epoch, planned: bool, cause: String, job: &Job) {
        let lsn = job.metadata.get("lsn").and_then(|text| text.parse::<Lsn>().ok());
        let timeline = job.metadata.get("timeline").and_then(|text| text.parse().ok()).map(Timeline);
        // Where it left the old timeline; what it has written since may be in the job's word for it.
        let had = self.op.reports.get(to).map(|report| report.lsn).or(self.op.end_lsn.filter(|_| planned));
        let left = lsn.map(|lsn| had.map_or(lsn, |had| had.min(lsn)));
        let parent = self.op.reports.get(to).map(|report| report.timeline).or(self.record.timeline);
        let forked = self.history.take().zip(parent).zip(left);
        self.history = timeline.and_then(|timeline| {
            let ((mut history, parent), lsn) = forked?;
            history.forks.retain(|(timeline, _)| *timeline < parent);
            history.forks.push((parent, lsn));
            history.timeline = timeline;
            Some(history)
        });
        self.position = timeline.zip(lsn);
        let since = self.op.held_since.filter(|_| planned).or(self.op.failing_since);
        let took = since.map_or(Duration::ZERO, |since| self.now.saturating_sub(since));
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let lost_bytes = if planned { Some(0) } else { self.op.lost_bytes };
        let text = format!("is the primary since {took_ms} ms after the first sign; epoch {epoch} ({cause})");
        let change = super::Change {
            epoch,
            wall_ms: self.wall_ms,
            from: Some(from.clone()),
            to: to.clone(),
            planned,
            cause,
            took_ms,
            lost_bytes,
        };
        self.tell(Some(to), false, text);
        self.record.epoch = epoch;
        self.record.primary = Some(to.clone());
        let before = std::mem::replace(&mut self.record.timeline, timeline);
        self.record.history.push(change);
        self.record.intent = None;
        let told = std::mem::take(&mut self.record.told);
        self.record.forked.extend(told);
        if timeline.is_some() && timeline <= before {
            // it had not heard of the last primary's timeline, and has taken that number again: what is on the other one cannot be told
            // from what is on this one, not by pg_rewind either
            let own =
                |name: &&NodeName| self.op.reports.get(*name).is_none_or(|report| Some(report.timeline) >= timeline);
            let others: Vec<NodeName> = self.others(to);
            self.record.forked.extend(others.iter().filter(own).cloned());
        }
        self.record.forked.remove(to);
        self.trust_after(to, job);
        self.op = super::operation::Operation { stage_since: self.now, ..Default::default() };
        self.repairs.clear();
        let now = self.now;
        let slots =
            self.settings.nodes.iter().filter(|member| member.name != *to).map(|member| slot_name(&member.name));
        self.upkeep.promoted(now, slots.collect());
        self.appoint(Some(to.clone()), false);
        self.store(Stage::Steady);
    }

    /// The promotion has failed or is lost. Its epoch is spent: what comes next has a new one, and the loser must be proven to stay out.
    pub(super) fn next_candidate(&mut self, loser: &NodeName, why: &str, undone: bool, planned: bool) {
        let Some(Intent::Promote { id, from, epoch, .. }) = self.record.intent.clone() else { return };
        self.op.origin.get_or_insert(from);
        self.op.again();
        self.op.loser = undone;
        self.op.lost.entry(loser.clone()).or_default().insert(epoch);
        if !undone {
            self.record.told.insert(loser.clone());
        }
        if planned {
            self.op.undo = Some(format!("the switchover is undone: {why}"));
        }
        self.tell(Some(loser), true, why);
        self.record.epoch = epoch;
        self.record.primary = Some(loser.clone());
        let allow_data_loss = self.op.allow_data_loss;
        self.record.intent = Some(Intent::Failover {
            id,
            from: loser.clone(),
            cause: why.to_owned(),
            vouched: false,
            to: None,
            allow_data_loss,
        });
        self.store(Stage::Fencing);
    }

    /// The record does not fit the stage: what it says holds. Happens to nobody, and is no reason to guess.
    pub(super) fn adrift(&mut self) {
        self.began = Some(self.now);
        self.go(Stage::Starting);
    }

    /// An order of the last life's operation is refused because agents have gone on since.
    pub(super) fn is_old_story(&self, failure: &Failure) -> bool {
        !self.op.own && matches!(failure.code, Code::StaleEpoch | Code::OtherCoordinator)
    }

    /// Whether the node is well, for the primary of a switchover.
    pub(super) fn is_well(&self, node: &NodeName) -> bool {
        self.condition(node) == Condition::Fine
    }
}

/// The proof of gate (a).
fn proves(job: &Job, epoch: Epoch) -> bool {
    job.order.epoch == epoch
        && job.order.directive == Directive::Fence
        && job.metadata.get("proof").is_some_and(|proof| proof == "no-process")
}
