//! An operation as it goes along: its steps and those of its jobs, live, until it ends.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use super::daemon::{Daemon, encoded, read};
use super::exit::Exit;
use super::operate::print;
use super::table::{clock, took};
use crate::cluster::decide::Explanation;
use crate::cluster::ledger::{Operation, OperationState};
use crate::directive::{Job, Outcome};
use crate::pg::size_pretty;

/// How often it is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The daemon may be restarted in the middle: it goes on from its record.
const DAEMON_AWAY_MAX: Duration = Duration::from_secs(60);
/// An operation that is accepted, and of which nothing is seen.
const UNSEEN_MAX: Duration = Duration::from_secs(15);
/// A step that took longer is worth a second line.
const LONG_STEP_MS: u64 = 1_000;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// Steps, as they come.
    Text,
    /// The operation, once, at its end.
    Json,
}

/// Follows an operation.
///
/// # Errors
/// When it ends undone, or cannot be followed any more.
pub(super) fn to_the_end(daemon: &Daemon, cluster: &str, id: &str, show: Show) -> anyhow::Result<()> {
    let path = format!("/clusters/{}/operations/{}", encoded(cluster), encoded(id));
    let mut seen = Seen::default();
    let (mut heard, mut known) = (Instant::now(), Instant::now());
    loop {
        match daemon.ask(&path, None) {
            Ok(body) => {
                (heard, known) = (Instant::now(), Instant::now());
                let operation: Operation = read(&body)?;
                if show == Show::Text {
                    print(&seen.news(&operation))?;
                }
                if operation.state != OperationState::Running {
                    if show == Show::Json {
                        print(&(body + "\n"))?;
                    }
                    return end(&operation);
                }
            }
            Err(error) => match error.downcast_ref::<Exit>() {
                Some(Exit::NoDaemon(_)) if heard.elapsed() < DAEMON_AWAY_MAX => known = Instant::now(),
                Some(Exit::Refused(text)) if text.starts_with("unknown-operation") => {
                    heard = Instant::now();
                    if is_under_way(daemon, cluster, id) {
                        known = Instant::now();
                    } else if known.elapsed() > UNSEEN_MAX {
                        anyhow::bail!("\"{id}\" was accepted, and the daemon knows nothing more of it: howdah status");
                    }
                }
                _ => return Err(error),
            },
        }
        thread::sleep(LOOK_AGAIN);
    }
}

fn is_under_way(daemon: &Daemon, cluster: &str, id: &str) -> bool {
    let explanation = daemon.get::<Explanation>(&format!("/clusters/{}", encoded(cluster)));
    explanation.is_ok_and(|explanation| explanation.operation.is_some_and(|operation| operation.contains(id)))
}

fn end(operation: &Operation) -> anyhow::Result<()> {
    let Operation { kind, text, state, .. } = operation;
    let why = if text.is_empty() { "the daemon's log says why" } else { text };
    match state {
        OperationState::Done | OperationState::Running => Ok(()),
        OperationState::Restarted => anyhow::bail!("no other node could take over: the old primary was started again"),
        OperationState::Undone => anyhow::bail!("the {kind} was not done: {why}"),
        OperationState::Failed => anyhow::bail!("the {kind} has failed, and somebody should look: {why}"),
    }
}

/// What has been shown already.
#[derive(Debug, Default)]
struct Seen {
    steps: usize,
    job_steps: BTreeSet<(String, usize, bool)>,
    tenths: BTreeSet<(String, u64)>,
    ended: bool,
}

impl Seen {
    /// What is new, as lines in the order of their time.
    fn news(&mut self, operation: &Operation) -> String {
        let mut lines = Vec::new();
        for step in operation.steps.iter().skip(self.steps) {
            let grave = if step.event.grave { "! " } else { "" };
            lines.push((step.wall_ms, format!("{grave}{}", step.in_words())));
        }
        self.steps = operation.steps.len();
        for job in &operation.jobs {
            self.job(job, &mut lines);
        }
        lines.sort_by_key(|(at, _)| *at);
        if let (Some(ended_ms), false) = (operation.ended_ms, self.ended) {
            self.ended = true;
            let all = took(ended_ms.saturating_sub(operation.began_ms));
            lines.push((ended_ms, format!("{} after {all}", operation.state.as_str())));
        }
        lines.into_iter().map(|(at, line)| format!("{}  {line}\n", clock(at))).collect()
    }

    fn job(&mut self, job: &Job, lines: &mut Vec<(u64, String)>) {
        let order = &job.order;
        let whose = format!("{}: {}", order.node, order.directive.name());
        for (number, step) in job.steps.iter().enumerate() {
            if self.job_steps.insert((order.id.clone(), number, false)) {
                lines.push((step.began_ms, format!("{whose}: {}", step.name)));
            }
            let lasted = step.ended_ms.map(|ended_ms| ended_ms.saturating_sub(step.began_ms));
            let said = match (step.outcome, lasted) {
                (Outcome::Begun, _) | (Outcome::Done, None | Some(0..LONG_STEP_MS)) => continue,
                (Outcome::Done, Some(lasted)) => format!("done after {}", took(lasted)),
                (Outcome::Undone, _) => "undone".to_owned(),
                (Outcome::Failed, _) => match step.log.last() {
                    Some(last) => format!("failed: {last}"),
                    None => "failed".to_owned(),
                },
            };
            if self.job_steps.insert((order.id.clone(), number, true)) {
                let at = step.ended_ms.unwrap_or(step.began_ms);
                lines.push((at, format!("{whose}: {}: {said}", step.name)));
            }
        }
        let Some((done, all @ 1..)) = job.progress else { return };
        let tenth = done.saturating_mul(10) / all;
        if !job.state.is_terminal() && tenth > 0 && self.tenths.insert((order.id.clone(), tenth)) {
            let at = job.steps.last().map_or(job.began_ms, |step| step.began_ms);
            lines.push((at, format!("{whose}: {} of {}", size_pretty(done), size_pretty(all))));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cluster::decide::Event;
    use crate::cluster::ledger::Told;
    use crate::directive::{Directive, JobState, Order, Step};
    use crate::topology::Epoch;

    fn step(name: &str, outcome: Outcome, began_ms: u64, ended_ms: Option<u64>, log: &[&str]) -> Step {
        let log = log.iter().map(|line| (*line).to_owned()).collect();
        Step { name: name.to_owned(), outcome, began_ms, ended_ms, log }
    }

    fn operation(steps: Vec<Step>, progress: Option<(u64, u64)>) -> Operation {
        let event = Event { node: None, grave: true, operation: None, text: "a has failed".to_owned() };
        let order = Order {
            id: "f1-fence-a".to_owned(),
            cluster: "main".to_owned(),
            node: "a".to_owned(),
            epoch: Epoch(2),
            coordinator: "c".to_owned(),
            correlation: String::new(),
            directive: Directive::Fence,
        };
        Operation {
            id: "f1".to_owned(),
            kind: "failover".to_owned(),
            about: "a to b".to_owned(),
            state: OperationState::Running,
            text: String::new(),
            began_ms: 0,
            ended_ms: None,
            steps: vec![Told { seq: 1, wall_ms: 5, cluster: "main".into(), event }],
            jobs: vec![Job {
                order,
                state: JobState::InProgress,
                steps,
                metadata: BTreeMap::new(),
                failure: None,
                progress,
                began_ms: 0,
                ended_ms: None,
            }],
        }
    }

    #[test]
    fn each_step_is_shown_once_as_it_comes() {
        let mut seen = Seen::default();
        let kill = |outcome, ended_ms| step("kill", outcome, 10, ended_ms, &[]);
        let latch = step("latch", Outcome::Failed, 3_000, Some(3_100), &["x", "no space left"]);
        let shown = [
            seen.news(&operation(vec![kill(Outcome::Begun, None)], None)),
            seen.news(&operation(vec![kill(Outcome::Begun, None)], Some((300 << 20, 1000 << 20)))),
            seen.news(&operation(vec![kill(Outcome::Begun, None)], Some((310 << 20, 1000 << 20)))),
            seen.news(&operation(vec![kill(Outcome::Done, Some(2_510)), latch.clone()], None)),
            seen.news(&Operation {
                state: OperationState::Undone,
                ended_ms: Some(3_200),
                ..operation(vec![kill(Outcome::Done, Some(2_510)), latch], None)
            }),
        ];
        let golden = [
            "00:00:00.005  ! a has failed\n00:00:00.010  a: fence: kill\n",
            "00:00:00.010  a: fence: 300 MB of 1000 MB\n",
            "",
            "00:00:03.200  undone after 3.200 s\n",
        ];
        assert_eq!([shown[0].as_str(), &shown[1], &shown[2]], golden[..3]);
        let fourth = "00:00:02.510  a: fence: kill: done after 2.500 s\n00:00:03.000  a: fence: latch\n\
                      00:00:03.100  a: fence: latch: failed: no space left\n";
        assert_eq!(shown[3], fourth);
        assert_eq!(shown[4], golden[3]);
    }

    #[test]
    fn only_what_was_done_is_no_error() {
        let ended = |state| end(&Operation { state, text: "why".to_owned(), ..operation(Vec::new(), None) });
        assert!(ended(OperationState::Done).is_ok());
        assert_eq!(ended(OperationState::Undone).unwrap_err().to_string(), "the failover was not done: why");
        assert!(ended(OperationState::Failed).is_err() && ended(OperationState::Restarted).is_err());
    }
}
