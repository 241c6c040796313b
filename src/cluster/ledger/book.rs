//! One cluster's events, operations and counts, as a fold over what the coordinator's shell has seen. No clock, no I/O.
//!
//! An operation begins with the record that names it as its intent, and ends with the one that does not any more: what the
//! intent was last says how it ended. A job that belongs to none is an operation of its own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::counts::Counts;
use super::{Operation, OperationState, Told};
use crate::cluster::decide::{Change, Intent, Record};
use crate::directive::{Code, Failure, Job, JobState, Order};
use crate::topology::NodeName;

/// Events that are kept.
const EVENTS: usize = 1000;
/// Operations that are kept.
const OPERATIONS: usize = 100;
/// Steps of an operation that are kept.
const STEPS: usize = 500;

#[derive(Debug, Default)]
pub(super) struct Book {
    events: VecDeque<Arc<Told>>,
    operations: VecDeque<Operation>,
    intent: Option<Intent>,
    history: Vec<Change>,
    counts: Counts,
}

impl Book {
    pub(super) fn events(&self) -> Vec<Arc<Told>> {
        self.events.iter().cloned().collect()
    }

    pub(super) fn history(&self) -> &[Change] {
        &self.history
    }

    pub(super) fn operations(&self) -> Vec<Operation> {
        self.operations.iter().cloned().collect()
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(super) fn operation(&self, id: &str) -> Option<&Operation> {
        let named = |operation: &&Operation| operation.id == id;
        let working = |operation: &&Operation| operation.jobs.iter().any(|job| job.order.id == id);
        self.operations.iter().find(named).or_else(|| self.operations.iter().rev().find(working))
    }

    pub(super) fn tell(&mut self, told: Arc<Told>) {
        let about = told.event.operation.as_deref();
        if let Some(operation) = self.operations.iter_mut().find(|operation| Some(&*operation.id) == about) {
            if operation.steps.len() < STEPS {
                operation.steps.push((*told).clone());
            }
            operation.text = told.in_words();
        }
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(told);
    }

    pub(super) fn stored(&mut self, wall_ms: u64, record: &Record) {
        let before = self.intent.as_ref().map(id_of);
        let now = record.intent.as_ref().map(id_of);
        if before != now {
            self.end(wall_ms, record);
        }
        self.intent.clone_from(&record.intent);
        self.history.clone_from(&record.history);
        if let Some(intent) = &record.intent {
            self.begin(wall_ms, &intent.clone());
        }
    }

    /// An intent is the beginning of an operation, or another stage of it.
    fn begin(&mut self, wall_ms: u64, intent: &Intent) {
        let (id, kind, about) = match intent {
            Intent::Failover { id, from, .. } => (id, "failover", format!("from {from}")),
            Intent::RestartInPlace { id, node, .. } => (id, "restart", node.to_string()),
            Intent::Switchover { id, from, to, .. } => (id, "switchover", format!("{from} to {to}")),
            Intent::Promote { id, from, to, planned, .. } => {
                (id, if *planned { "switchover" } else { "failover" }, format!("{from} to {to}"))
            }
        };
        if let Some(operation) = self.operations.iter_mut().find(|operation| operation.id == *id) {
            operation.about = about;
            return;
        }
        // what was told of it while its record was on the way to the store
        let of_it = self.events.iter().filter(|told| told.event.operation.as_ref() == Some(id));
        let steps: Vec<Told> = of_it.map(|told| (**told).clone()).collect();
        self.add(Operation {
            id: id.clone(),
            kind: kind.to_owned(),
            about,
            state: OperationState::Running,
            text: steps.last().map(Told::in_words).unwrap_or_default(),
            began_ms: steps.first().map_or(wall_ms, |told| told.wall_ms),
            ended_ms: None,
            steps,
            jobs: Vec::new(),
        });
    }

    /// The operation of the intent so far has ended with this record.
    fn end(&mut self, wall_ms: u64, record: &Record) {
        let Some(intent) = self.intent.take() else { return };
        let Some(operation) = self.operations.iter_mut().find(|operation| operation.id == id_of(&intent)) else {
            return;
        };
        let state = match (&intent, operation.kind.as_str()) {
            (Intent::Promote { to, .. }, _) if record.primary.as_ref() == Some(to) => OperationState::Done,
            (Intent::RestartInPlace { .. }, _) if record.intent.is_some() => OperationState::Undone,
            (Intent::RestartInPlace { .. }, "restart") => OperationState::Done,
            (Intent::RestartInPlace { .. }, "failover") => OperationState::Restarted,
            _ => OperationState::Undone,
        };
        operation.state = state;
        operation.ended_ms = Some(wall_ms);
        let class = match state {
            OperationState::Undone | OperationState::Failed => class(operation.jobs.iter().rev().find_map(failure)),
            OperationState::Done | OperationState::Restarted | OperationState::Running => String::new(),
        };
        let kind = operation.kind.clone();
        if state == OperationState::Undone {
            *self.counts.rollbacks.entry((kind.clone(), class.clone())).or_default() += 1;
        }
        let latest =
            record.history.last().filter(|change| self.history.last().is_none_or(|known| known.epoch < change.epoch));
        if let (OperationState::Done, Some(change)) = (state, latest) {
            self.counts.seconds.entry(kind.clone()).or_default().add(change.took_ms);
        }
        *self.counts.operations.entry((kind, state, class)).or_default() += 1;
    }

    /// An order that goes to an agent: a job that nobody has taken yet. What was to go to that node before, and was not taken, is
    /// not done any more.
    pub(super) fn sent(&mut self, wall_ms: u64, order: &Order) {
        if self.jobs().any(|job| job.order.id == order.id) {
            return;
        }
        let left = self.jobs().find(|job| job.order.node == order.node && job.state == JobState::Pending);
        if let Some(left) = left.map(|job| job.order.id.clone()) {
            let failure = Failure::new(Code::Interrupted, format!("\"{}\" went to the node in its place", order.id));
            self.refused(wall_ms, &left, &failure);
        }
        let node = order.node.as_str().into();
        self.moved(
            &node,
            &Job {
                order: order.clone(),
                state: JobState::Pending,
                steps: Vec::new(),
                metadata: BTreeMap::new(),
                failure: None,
                progress: None,
                began_ms: wall_ms,
                ended_ms: None,
            },
        );
    }

    /// An order that an agent does not take. Busy is no answer: it is asked again.
    pub(super) fn refused(&mut self, wall_ms: u64, order: &str, failure: &Failure) {
        let job = self.jobs().find(|job| job.order.id == order && !job.state.is_terminal()).cloned();
        let Some(mut job) = job.filter(|_| failure.code != Code::Busy) else { return };
        job.state = JobState::Failed;
        job.failure = Some(failure.clone());
        job.ended_ms = Some(wall_ms);
        self.moved(&job.order.node.as_str().into(), &job);
    }

    fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.operations.iter().flat_map(|operation| &operation.jobs)
    }

    pub(super) fn moved(&mut self, node: &NodeName, job: &Job) {
        let order = &job.order;
        let belongs = |operation: &Operation| {
            operation.jobs.iter().any(|known| known.order.id == order.id)
                || operation.id == order.correlation
                || order.id.strip_prefix(operation.id.as_str()).is_some_and(|rest| rest.starts_with(['-', '.']))
                || operation.id == order.id
        };
        let at = self.operations.iter().rposition(belongs).unwrap_or_else(|| {
            self.add(Operation {
                id: order.id.clone(),
                kind: order.directive.name().to_owned(),
                about: node.to_string(),
                state: OperationState::Running,
                text: String::new(),
                began_ms: job.began_ms,
                ended_ms: None,
                steps: Vec::new(),
                jobs: Vec::new(),
            });
            self.operations.len().saturating_sub(1)
        });
        let Some(operation) = self.operations.get_mut(at) else { return };
        match operation.jobs.iter_mut().find(|known| known.order.id == order.id) {
            Some(known) if known.state.is_terminal() => return, // an agent that repeats itself
            Some(known) => known.clone_from(job),
            None => operation.jobs.push(job.clone()),
        }
        if !job.state.is_terminal() {
            return;
        }
        let state = match (job.state, failure(job)) {
            (JobState::Completed, _) => OperationState::Done,
            (_, Some(Code::NotUndone | Code::Internal)) => OperationState::Failed,
            _ => OperationState::Undone,
        };
        if operation.id == order.id {
            operation.state = state;
            operation.ended_ms = job.ended_ms;
            operation.text = job.failure.as_ref().map(|failure| failure.text.clone()).unwrap_or_default();
        }
        let class = if state == OperationState::Done { String::new() } else { class(failure(job)) };
        let directive = order.directive.name().to_owned();
        if state == OperationState::Undone {
            *self.counts.rollbacks.entry((directive.clone(), class.clone())).or_default() += 1;
        }
        *self.counts.jobs.entry((node.to_string(), directive, state, class)).or_default() += 1;
    }

    fn add(&mut self, operation: Operation) {
        if self.operations.len() == OPERATIONS {
            self.operations.pop_front();
        }
        self.operations.push_back(operation);
    }
}

fn id_of(intent: &Intent) -> &str {
    match intent {
        Intent::Failover { id, .. }
        | Intent::RestartInPlace { id, .. }
        | Intent::Switchover { id, .. }
        | Intent::Promote { id, .. } => id,
    }
}

fn failure(job: &Job) -> Option<Code> {
    job.failure.as_ref().map(|failure| failure.code)
}

/// What kind of thing went wrong, for a metric's label; where no job has failed it was decided so.
fn class(code: Option<Code>) -> String {
    let Some(code) = code else { return "decision".to_owned() };
    match serde_json::to_value(code) {
        Ok(serde_json::Value::String(name)) => name,
        _ => "internal".to_owned(),
    }
}
