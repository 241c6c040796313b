//! The machine under test, and machines with the defects that others have had: each must be caught.

use std::time::Duration;

use howdah::cluster::decide::{Decider, Explanation, Input, Output, Record, Settings};
use howdah::directive::{Directive, Job, JobState, Order};
use howdah::pg::Lsn;

use super::shell::Machine;

/// Which defect there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// A dead postmaster is taken for a fence (a `postmaster.pid` that is gone, a refused connection).
    pub proof_is_postmaster: bool,
    /// Agents keep the epochs they have seen in memory only.
    pub agents_forget: bool,
    /// No defect: old backups of the store come back as well.
    pub old_store: bool,
    pub wrong: Wrong,
}

/// Defects of a coordinator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wrong {
    #[default]
    Nothing,
    /// Nobody is frozen, and who has least is promoted.
    Worst,
    /// How far a standby is behind is what it has received and not replayed.
    ReceivedMinusReplayed,
    /// The promotion does not wait for the fence.
    DoesNotWait,
    /// It acts first and records later.
    ActsFirst,
    /// A switchover does not look whether the standby has the shutdown checkpoint.
    DoesNotLook,
}

/// All of them, by name, and what has to be said against each.
pub fn all() -> Vec<(&'static str, Control, &'static str)> {
    let wrong = |wrong| Control { wrong, ..Control::default() };
    let dead = Control { proof_is_postmaster: true, ..Control::default() };
    let forget = Control { agents_forget: true, old_store: true, ..Control::default() };
    vec![
        ("a dead postmaster is proof", dead, "is not fenced"),
        ("agents forget epochs", forget, "I5"),
        ("nobody is frozen, the worst is promoted", wrong(Wrong::Worst), "is promoted with the log up to"),
        ("lag is received minus replayed", wrong(Wrong::ReceivedMinusReplayed), "is promoted with the log up to"),
        ("the promotion does not wait for the fence", wrong(Wrong::DoesNotWait), "is not fenced"),
        ("it acts before it records", wrong(Wrong::ActsFirst), "what is recorded is"),
        ("a switchover does not verify the replay", wrong(Wrong::DoesNotLook), "a switchover to"),
    ]
}

/// The coordinator, with a defect or without.
pub fn machine(control: Control, settings: Settings, coordinator: String, record: Option<Record>) -> Box<dyn Machine> {
    let decider = Decider::new(settings, coordinator, record);
    match control.wrong {
        Wrong::Nothing => Box::new(decider),
        wrong => Box::new(Defective { decider, wrong }),
    }
}

impl Machine for Decider {
    fn step(&mut self, now: Duration, input: Input) -> Vec<Output> {
        Self::step(self, now, input)
    }

    fn explain(&self, _now: Duration) -> Explanation {
        Self::explain(self)
    }
}

struct Defective {
    decider: Decider,
    wrong: Wrong,
}

impl Defective {
    /// What it is made to believe, before anything has happened.
    fn believes(&self, output: &Output) -> Option<Input> {
        match (self.wrong, output) {
            (Wrong::ActsFirst, Output::Store(record)) => Some(Input::Stored(record.generation)),
            (Wrong::DoesNotWait, Output::Send(node, order)) if order.directive == Directive::Fence => {
                let mut job = done(order);
                job.metadata.insert("proof".into(), "no-process".into());
                Some(Input::Moved(node.clone(), Box::new(job)))
            }
            _ => None,
        }
    }

    /// What it makes of what it hears.
    fn hears(&self, input: Input) -> Input {
        let Input::Moved(node, mut job) = input else { return input };
        let position = |key: &str| job.metadata.get(key).and_then(|text| text.parse::<Lsn>().ok());
        match (self.wrong, &job.order.directive, position("received_lsn")) {
            (Wrong::Worst, Directive::Freeze, Some(received)) => {
                let turned = Lsn(0x1000_0000 - received.0.min(0x0F00_0000)).to_string();
                job.metadata.insert("received_lsn".into(), turned.clone());
                job.metadata.insert("replayed_lsn".into(), turned);
            }
            (Wrong::ReceivedMinusReplayed, Directive::Freeze, Some(_)) => {
                let same = Lsn(0x0300_1000).to_string();
                job.metadata.insert("received_lsn".into(), same.clone());
                job.metadata.insert("replayed_lsn".into(), same);
            }
            (Wrong::DoesNotLook, Directive::Demote, _) => {
                let early = Lsn(0x0300_0001).to_string();
                job.metadata.insert("shutdown_lsn".into(), early.clone());
                job.metadata.insert("end_lsn".into(), early);
            }
            _ => {}
        }
        Input::Moved(node, job)
    }
}

fn done(order: &Order) -> Job {
    Job {
        order: order.clone(),
        state: JobState::Completed,
        steps: Vec::new(),
        metadata: [("end_lsn".to_owned(), Lsn(0x0300_0001).to_string())].into(),
        failure: None,
        progress: None,
        began_ms: 0,
        ended_ms: Some(1),
    }
}

impl Machine for Defective {
    fn step(&mut self, now: Duration, input: Input) -> Vec<Output> {
        if self.wrong == Wrong::ActsFirst && matches!(input, Input::Stored(_) | Input::NotStored(..)) {
            return Vec::new();
        }
        let input = self.hears(input);
        let mut outputs = Vec::new();
        let mut todo = Machine::step(&mut self.decider, now, input);
        // bounded: a machine that never comes to an end shall not hang the test
        for _ in 0..100 {
            let Some(output) = (!todo.is_empty()).then(|| todo.remove(0)) else { break };
            let belief = self.believes(&output);
            outputs.push(output);
            if let Some(belief) = belief {
                todo.extend(Machine::step(&mut self.decider, now, belief));
            }
        }
        outputs.extend(todo);
        outputs
    }

    fn explain(&self, now: Duration) -> Explanation {
        Machine::explain(&self.decider, now)
    }
}
