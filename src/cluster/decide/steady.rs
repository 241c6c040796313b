//! The ordinary: the primary is well and everybody follows it; or it is not, and it is decided what to do about it.
//!
//! Not here: how it is done (`failover`), how standbys are kept (`rejoin`, `upkeep`).

use std::time::Duration;

use crate::topology::NodeName;

use super::candidate::{Expected, Standing, best, judge};
use super::evidence::Condition;
use super::flapping::Leave;
use super::machine::Decider;
use super::stage::Stage;
use super::{Aside, Intent, Member, Mode, Reason, Refused};

/// Restarts in place count for so long.
const RESTARTS_WINDOW: Duration = Duration::from_secs(60);
/// So many of them are preferred to a failover.
const RESTARTS_PREFERRED: usize = 2;
/// So many are tried when there is nobody else.
const RESTARTS_MAX: usize = 3;

impl Decider {
    pub(super) fn steady(&mut self) {
        let Some(primary) = self.record.primary.clone() else {
            self.began = Some(self.now);
            self.go(Stage::Starting);
            return;
        };
        let condition = self.condition(&primary);
        if condition == Condition::Fine {
            self.op.failing_since = None;
            self.go(Stage::Steady);
            if self.note_timeline(&primary) {
                return;
            }
            let second =
                self.others(&primary).into_iter().find(|node| self.may_write(node) && self.is_aside(node).is_none());
            match second.filter(|_| self.found) {
                None => {
                    self.found = false;
                    self.appoint(Some(primary.clone()), false);
                }
                Some(second) => {
                    self.block(Reason::NoProof, format!("\"{second}\" accepts writes too: it is fenced first"))
                }
            }
            if self.record.paused {
                self.block(Reason::Paused, "paused: no failover, no repairs");
                return;
            }
            self.follow_declaration(&primary);
            if self.pending.is_none() {
                self.tend(&primary);
            }
            return;
        }
        self.suspect(&primary);
        if self.record.paused {
            self.block(Reason::Paused, format!("\"{primary}\" fails, and nothing is done about it: paused"));
            return;
        }
        match condition {
            Condition::Fine => {}
            Condition::Unready(since) => {
                let lasts = self.now.saturating_sub(since);
                let text = format!("\"{primary}\" lives, and has taken no connections for {} ms", lasts.as_millis());
                if lasts >= self.restart_bound() && !self.candidates(None, false).0.is_empty() {
                    self.fails(&primary, &text, false, false);
                } else {
                    self.block(Reason::PrimaryLives, text);
                }
            }
            Condition::Dead { cause, restartable } => self.fails(&primary, &cause, restartable, true),
            Condition::Hung { cause } => self.fails(&primary, &cause, false, false),
            Condition::Unheard => self.cannot_tell(&primary),
        }
    }

    /// The monitor does not reach it and its agent is not heard: nothing is proven, nothing is done.
    fn cannot_tell(&mut self, primary: &NodeName) {
        match self.witness(primary) {
            Some(witness) => {
                self.block(Reason::PrimaryLives, format!("the agent of \"{primary}\" is not heard, but {witness}"))
            }
            None => {
                let text = self.missing_proof(primary);
                self.block(Reason::NoProof, text);
            }
        }
    }

    /// What would help.
    pub(super) fn missing_proof(&self, node: &NodeName) -> String {
        let why = self.nodes.get(node).and_then(|known| known.silent.as_ref()).map(|(_, why)| format!(" ({why})"));
        format!(
            "the agent of \"{node}\" is not heard{}: nothing proves that no server process is left there. Start the agent; or, if the \
             machine is off and stays off, say so with \"howdah failover --vouch {node}\"",
            why.unwrap_or_default()
        )
    }

    /// Something is wrong with the primary: ask around, at a bounded rate.
    fn suspect(&mut self, primary: &NodeName) {
        self.op.failing_since.get_or_insert(self.now);
        self.go(Stage::Suspecting);
        self.ask_around(primary, self.settings.interval.max(Duration::from_millis(100)));
    }

    /// Asks a node's agent and looks at it, at most once in `pause`.
    pub(super) fn ask_around(&mut self, node: &NodeName, pause: Duration) {
        if self.op.asked_at.is_none_or(|at| self.now.saturating_sub(at) >= pause) {
            self.op.asked_at = Some(self.now);
            self.ask(node);
            self.look(node);
        }
    }

    /// Its agent says that the primary has failed: restart or fail over, or why neither.
    fn fails(&mut self, primary: &NodeName, cause: &str, restartable: bool, stopped: bool) {
        let fenced = self.is_aside(primary).is_some_and(|aside| *aside == Aside::Fenced);
        let tries = self.recent_restarts();
        let quick = self.expected_recovery(primary).is_some_and(|expected| expected < self.settings.restart_if);
        let may_restart = stopped && !fenced && tries < RESTARTS_MAX;
        if self.settings.mode == Mode::Manual {
            if may_restart {
                self.begin_restart(primary, cause);
            } else {
                self.block(
                    Reason::Manual,
                    format!("\"{primary}\" has failed: {cause}. mode is \"manual\": \"howdah failover\" fails over"),
                );
            }
            return;
        }
        if may_restart && restartable && quick && tries < RESTARTS_PREFERRED {
            self.begin_restart(primary, cause);
            return;
        }
        let (candidates, refusals) = self.candidates(None, false);
        if candidates.is_empty() {
            if may_restart {
                self.begin_restart(primary, cause);
            } else {
                self.block(
                    Reason::NoCandidate,
                    format!("\"{primary}\" has failed: {cause}. No standby may be promoted"),
                );
                self.blocked.extend(refusals);
            }
            return;
        }
        match self.leave_to_fail_over() {
            Leave::Now => self.begin_failover(primary, cause, None, false, false),
            Leave::After(rest) => {
                let text = format!(
                    "the second failover within ten minutes: \"{primary}\" has to fail for {} ms more",
                    rest.as_millis()
                );
                self.block(Reason::Flapping, text);
            }
            Leave::Never if may_restart => self.begin_restart(primary, cause),
            Leave::Never => {
                let text = format!(
                    "\"{primary}\" has failed: {cause}. It would be the third failover within ten minutes: \"howdah failover\" does it"
                );
                self.block(Reason::Flapping, text);
            }
        }
    }

    /// Restarts in place that were tried lately.
    pub(super) fn recent_restarts(&mut self) -> usize {
        let now = self.now;
        self.restarts.retain(|at| now.saturating_sub(*at) <= RESTARTS_WINDOW);
        self.restarts.len()
    }

    pub(super) fn may_restart_again(&mut self) -> bool {
        self.recent_restarts() < RESTARTS_MAX
    }

    /// Starts the primary again where it is; epoch and timeline stay.
    pub(super) fn begin_restart(&mut self, node: &NodeName, cause: &str) {
        let id = self.operation_id("restart", node, self.record.epoch);
        self.op.begin();
        self.record.intent = Some(Intent::RestartInPlace { id, node: node.clone(), cause: cause.to_owned() });
        self.tell(Some(node), true, format!("{cause}; it is started again where it is"));
        self.store(Stage::Restarting);
    }

    /// What a candidate is compared with, by what is known now.
    pub(super) fn expected(&self, allow_data_loss: bool) -> Expected {
        let timeline = self.record.timeline.unwrap_or_default();
        let history = self.history.clone().filter(|history| history.timeline == timeline);
        let history = history.unwrap_or_else(|| crate::directive::History { timeline, forks: Vec::new() });
        let of_primary = self.position.filter(|(at, _)| *at == timeline).map(|(_, lsn)| lsn);
        let furthest = of_primary.max(self.op.end_lsn).unwrap_or_default();
        let max_lag = self.settings.max_lag;
        Expected { system: self.record.system_identifier, history, furthest, max_lag, allow_data_loss }
    }

    /// The standbys that could be promoted by what is known now, the best first to be taken, and why each of the others could not.
    pub(super) fn candidates(
        &self,
        named: Option<&NodeName>,
        allow_data_loss: bool,
    ) -> (Vec<(NodeName, crate::pg::Lsn)>, Vec<Refused>) {
        let expected = self.expected(allow_data_loss);
        let (mut good, mut refusals): (Vec<(&Member, _)>, _) = (Vec::new(), Vec::new());
        for member in self.settings.nodes.iter().filter(|member| Some(&member.name) != self.record.primary.as_ref()) {
            if named.is_some_and(|named| *named != member.name) {
                continue;
            }
            match self.standing(member, named.is_some()).map_or_else(Err, |standing| judge(&standing, &expected)) {
                Ok(lsn) => good.push((member, lsn)),
                Err(refused) => refusals.push(refused),
            }
        }
        let mut names: Vec<_> = good.iter().map(|(member, lsn)| (member.name.clone(), *lsn)).collect();
        if let Some((first, _)) = best(&good) {
            names.sort_by_key(|(name, _)| name != first);
        }
        (names, refusals)
    }

    /// How a member stands by what is known now.
    pub(super) fn standing<'a>(&'a self, member: &'a Member, named: bool) -> Result<Standing<'a>, Refused> {
        let name = &member.name;
        let unknown = || Refused { reason: Reason::UnknownNode, text: format!("there is no node \"{name}\"") };
        let known = self.nodes.get(name).ok_or_else(unknown)?;
        let word = known.word(self.now);
        let absent = match word {
            None => Some("is not heard: its agent does not answer".to_owned()),
            Some(_) if known.died => Some("does not run: its postmaster has died".to_owned()),
            Some(status) => match status.postgres.in_recovery {
                Some(true) => None,
                Some(false) => Some("is no standby: it accepts writes".to_owned()),
                None => Some("does not run, or takes no connections".to_owned()),
            },
        };
        let system = word.and_then(|status| status.postgres.system_identifier);
        Ok(Standing {
            member,
            aside: self.is_aside(name),
            absent,
            system,
            reach: known.reach(),
            named,
            forked: self.record.forked.contains(name),
        })
    }

    /// Keeps the record's timeline what the primary says; `true`: it is being stored.
    fn note_timeline(&mut self, primary: &NodeName) -> bool {
        let Some(status) = self.word(primary) else { return false };
        let (timeline, system) = (status.postgres.timeline, status.postgres.system_identifier);
        if status.postgres.in_recovery != Some(false) || !self.is_trusted(primary) {
            return false;
        }
        let newer = timeline.is_some() && timeline > self.record.timeline;
        let named = self.record.system_identifier.is_none() && system.is_some();
        if newer {
            self.record.timeline = timeline;
        }
        if named {
            self.record.system_identifier = system;
        }
        if newer || named {
            self.store(Stage::Steady);
        }
        newer || named
    }
}
