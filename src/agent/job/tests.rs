//! The runner with steps that do nothing but go wrong, and real files: every step, every moment, every fault.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use super::*;
use crate::agent::step::{Act, Work};
use crate::config::Period;
use crate::directive::JobState;
use crate::topology::Epoch;

const NAMES: [&str; 4] = ["first", "second", "third", "fourth"];

/// Where in a step something goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    Before,
    ApplyBefore,
    ApplyAfter,
    Undo,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Fails,
    Panics,
    /// For longer than its bound, or until the process dies.
    Hangs,
}

/// What the steps change, and what goes wrong with them.
#[derive(Default)]
struct World {
    /// The effect of each step, with the pre-image it was done over.
    effects: Mutex<BTreeMap<usize, u64>>,
    faults: Mutex<Vec<(usize, Moment, Fault)>>,
    no_return: Option<usize>,
    hangs: Notify,
    counted: Mutex<BTreeMap<(usize, Moment2), u32>>,
    /// The last step makes the journal of this job unwritable.
    breaks: Mutex<Option<std::path::PathBuf>>,
}

type Moment2 = &'static str;

impl World {
    fn with(faults: &[(usize, Moment, Fault)], no_return: Option<usize>) -> Arc<Self> {
        Arc::new(Self { faults: Mutex::new(faults.to_vec()), no_return, ..Self::default() })
    }

    async fn meet(&self, index: usize, moment: Moment) -> Result<(), Failure> {
        let fault =
            self.faults.lock().iter().find(|(at, when, _)| (*at, *when) == (index, moment)).map(|(_, _, what)| *what);
        match fault {
            None => Ok(()),
            Some(Fault::Fails) => Err(Failure::new(Code::Program, "it was to fail")),
            Some(Fault::Panics) => panic!("it was to panic"),
            Some(Fault::Hangs) => {
                self.hangs.notify_one();
                std::future::pending().await
            }
        }
    }
}

struct Fake(usize, Arc<World>);

impl Step for Fake {
    fn name(&self) -> &'static str {
        NAMES[self.0]
    }

    fn before<'a>(&'a self, _: &'a Work) -> Act<'a, Value> {
        Box::pin(async move {
            self.1.meet(self.0, Moment::Before).await?;
            Ok(serde_json::json!({ "was": self.1.effects.lock().get(&self.0) }))
        })
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            work.notes.say(format!("{} begins", self.name()));
            self.1.meet(self.0, Moment::ApplyBefore).await?;
            *self.1.counted.lock().entry((self.0, "apply")).or_default() += 1;
            self.1.effects.lock().insert(self.0, 1);
            work.notes.find(self.name(), "found".to_owned());
            if let Some(path) = self.1.breaks.lock().take() {
                std::fs::create_dir(path).unwrap();
            }
            self.1.meet(self.0, Moment::ApplyAfter).await
        })
    }

    fn undo<'a>(&'a self, _: &'a Work, before: &'a Value) -> Act<'a, ()> {
        Box::pin(async move {
            assert!(before["was"].is_null(), "the pre-image of the step, whichever life has taken it");
            self.1.meet(self.0, Moment::Undo).await?;
            *self.1.counted.lock().entry((self.0, "undo")).or_default() += 1;
            let effects = &mut *self.1.effects.lock();
            assert!(effects.range(self.0 + 1..).next().is_none(), "the last one first");
            effects.remove(&self.0);
            Ok(())
        })
    }

    fn is_point_of_no_return(&self) -> bool {
        self.1.no_return == Some(self.0)
    }
}

fn config(state: &Path) -> Arc<AgentConfig> {
    let text = format!(
        "cluster = 'main'\nnode = 'a'\ndata_directory = '/data'\nstate_directory = '{}'\n[listen]\n[replication]\nuser = 'r'",
        state.display()
    );
    let mut config: AgentConfig = toml::from_str(&text).unwrap();
    config.jobs.step_timeout = Period::from_millis(60);
    Arc::new(config)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// An agent's life, with three steps for a checkpoint and one for a fence.
fn live(state: &Path, world: &Arc<World>) -> Arc<Engine> {
    let world = Arc::clone(world);
    let planner = move |order: &Order, _: &AgentConfig| -> Result<Vec<Box<dyn Step>>, Failure> {
        let steps = match order.directive {
            Directive::Fence => 3..4,
            Directive::Checkpoint => 0..3,
            Directive::Demote => return Err(Failure::new(Code::WrongRole, "it is a standby")),
            _ => panic!("the planner panics"),
        };
        Ok(steps.map(|index| Box::new(Fake(index, Arc::clone(&world))) as Box<dyn Step>).collect())
    };
    let (journal, epochs) = (Journal::open(state).unwrap(), Epochs::open(state).unwrap());
    Engine::start(config(state), Box::new(planner), journal, epochs, Arc::new(Events::default()))
}

fn order(id: &str, epoch: u64, directive: Directive) -> Order {
    Order {
        id: id.into(),
        cluster: "main".into(),
        node: "a".into(),
        epoch: Epoch(epoch),
        coordinator: "c1".into(),
        correlation: "x".into(),
        directive,
    }
}

async fn ended(engine: &Engine, id: &str) -> Job {
    for _ in 0..3_000 {
        if let Some(job) = engine.job(id).filter(|job| job.state.is_terminal()) {
            return job;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("it does not end: {:?}", engine.job(id));
}

async fn idle(engine: &Engine) {
    for _ in 0..3_000 {
        if engine.jobs.lock().running.is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("it stays busy");
}

fn refused(taken: Result<Taken, Failure>) -> Code {
    taken.expect_err("refused").code
}

/// One job with one fault. With `dies`, the process dies where the fault is met.
fn play(fault: (usize, Moment, Fault), no_return: Option<usize>, dies: bool) -> (Job, BTreeMap<usize, u64>) {
    let state = tempfile::tempdir().unwrap();
    // an undo comes after something has failed
    let mut faults = vec![fault];
    if fault.1 == Moment::Undo {
        faults.push((2, Moment::ApplyAfter, Fault::Fails));
    }
    let world = World::with(&faults, no_return);
    let first_life = runtime();
    let job = first_life.block_on(async {
        let engine = live(state.path(), &world);
        engine.take(order("j", 1, Directive::Checkpoint)).await.unwrap();
        if dies {
            world.hangs.notified().await;
            return None;
        }
        Some(ended(&engine, "j").await)
    });
    drop(first_life); // everything that ran is gone, as with kill -9
    let job = job.unwrap_or_else(|| {
        world.faults.lock().clear();
        runtime().block_on(async { ended(&live(state.path(), &world), "j").await })
    });
    let journalled = Journal::open(state.path()).unwrap().1;
    assert_eq!(journalled[0].job, job, "the journal says what everybody sees");
    let effects = world.effects.lock().clone();
    (job, effects)
}

#[test]
fn whatever_goes_wrong_in_whichever_step_the_job_is_undone_or_done() {
    let mut triples = 0;
    for step in 0..3 {
        for moment in [Moment::Before, Moment::ApplyBefore, Moment::ApplyAfter, Moment::Undo] {
            for (fault, dies) in
                [(Fault::Fails, false), (Fault::Panics, false), (Fault::Hangs, false), (Fault::Hangs, true)]
            {
                let what = format!("{step} {moment:?} {fault:?} {dies}");
                let (job, effects) = play((step, moment, fault), None, dies);
                assert_eq!(job.state, JobState::Failed, "{what}");
                let code = job.failure.clone().unwrap().code;
                if moment == Moment::Undo && !dies {
                    assert_eq!(code, Code::NotUndone, "{what}");
                    assert_eq!(effects.len(), step + 1, "what comes before a step that is not undone stays: {what}");
                } else {
                    assert!(effects.is_empty(), "{what}: {effects:?}");
                    let expected = match fault {
                        // the failure that was undone when the process died is forgotten with the process, if it was not on the disk
                        _ if dies && moment == Moment::Undo => code,
                        _ if dies => Code::Interrupted,
                        Fault::Fails => Code::Program,
                        Fault::Panics => Code::Internal,
                        Fault::Hangs => Code::TimedOut,
                    };
                    assert_eq!(code, expected, "{what}");
                    let outcomes: Vec<_> = job.steps.iter().map(|step| step.outcome).collect();
                    use crate::directive::Outcome::{Failed, Undone};
                    assert!(outcomes.iter().all(|outcome| matches!(outcome, Undone | Failed)), "{what}: {outcomes:?}");
                }
                triples += 1;
            }
        }
    }
    println!("{triples} (step, moment, fault) triples");
}

#[test]
fn behind_its_point_of_no_return_a_job_goes_on_after_a_crash_and_is_never_undone() {
    for (step, moment) in
        [(1, Moment::ApplyBefore), (1, Moment::ApplyAfter), (2, Moment::ApplyBefore), (2, Moment::ApplyAfter)]
    {
        let (job, effects) = play((step, moment, Fault::Hangs), Some(1), true);
        assert_eq!((job.state, job.failure), (JobState::Completed, None), "{step} {moment:?}");
        assert_eq!(effects.len(), 3);
        assert_eq!(job.metadata.len(), 3);
        for fault in [Fault::Fails, Fault::Panics, Fault::Hangs] {
            let (job, effects) = play((step, moment, fault), Some(1), false);
            assert_eq!(job.state, JobState::Failed, "{step} {moment:?} {fault:?}");
            assert!(effects.contains_key(&0), "what is behind it stays");
        }
    }
    // in front of it everything is as without it
    let (job, effects) = play((1, Moment::Before, Fault::Hangs), Some(1), true);
    assert_eq!((job.state, effects.len()), (JobState::Failed, 0));
}

#[test]
fn a_job_has_its_steps_their_words_and_what_it_found() {
    let state = tempfile::tempdir().unwrap();
    let world = World::with(&[], None);
    runtime().block_on(async {
        let engine = live(state.path(), &world);
        let taken = engine.take(order("j", 1, Directive::Checkpoint)).await.unwrap();
        let Taken::New(job) = taken else { panic!("{taken:?}") };
        assert_eq!(job.state, JobState::Pending);
        let job = ended(&engine, "j").await;
        assert_eq!((job.state, job.steps.len()), (JobState::Completed, 3));
        assert_eq!(job.steps[1].log, ["second begins"]);
        assert!(job.ended_ms >= Some(job.began_ms) && job.steps.iter().all(|step| step.ended_ms.is_some()));
        assert_eq!(job.metadata["third"], "found");
        // the same order again: the same job, and nothing is done
        let mut again = order("j", 1, Directive::Checkpoint);
        again.correlation = "another".into();
        let again = engine.take(again).await.unwrap();
        assert_eq!(again, Taken::Known(Box::new(job)));
        assert_eq!(world.counted.lock()[&(0, "apply")], 1);
        assert_eq!(refused(engine.take(order("j", 2, Directive::Checkpoint)).await), Code::Malformed);
    });
}

#[test]
fn what_cannot_be_is_refused_and_has_changed_nothing() {
    let state = tempfile::tempdir().unwrap();
    let world = World::with(&[(0, Moment::ApplyBefore, Fault::Hangs)], None);
    runtime().block_on(async {
        let engine = live(state.path(), &world);
        for id in ["", "../x", "a/b", &"x".repeat(65)] {
            assert_eq!(refused(engine.take(order(id, 1, Directive::Checkpoint)).await), Code::Malformed, "{id}");
        }
        let mut other = order("j", 1, Directive::Checkpoint);
        other.node = "b".into();
        assert_eq!(refused(engine.take(other).await), Code::WrongNode);
        assert_eq!(refused(engine.take(order("j", 1, Directive::Demote)).await), Code::WrongRole);
        assert_eq!(
            refused(engine.take(order("j", 1, Directive::Freeze)).await),
            Code::Internal,
            "a panic of the planner"
        );
        assert_eq!(engine.promise(), Promise::default(), "no epoch was taken");
        assert!(engine.jobs().is_empty());

        engine.take(order("j", 5, Directive::Checkpoint)).await.unwrap();
        world.hangs.notified().await;
        let failure = engine.take(order("k", 6, Directive::Checkpoint)).await.unwrap_err();
        assert_eq!(failure.code, Code::Busy);
        assert!(failure.text.contains("\"j\""), "it names the job that runs: {failure}");
        assert_eq!(engine.promise().epoch, Epoch(5));
        assert_eq!(refused(engine.take(order("k", 4, Directive::Fence)).await), Code::StaleEpoch);
        let mut other = order("k", 5, Directive::Fence);
        other.coordinator = "c2".into();
        assert_eq!(refused(engine.take(other).await), Code::OtherCoordinator);
        assert_eq!(ended(&engine, "j").await.failure.unwrap().code, Code::TimedOut);
    });
    // in another life as well
    runtime().block_on(async {
        let engine = live(state.path(), &World::with(&[], None));
        assert_eq!(refused(engine.take(order("k", 4, Directive::Checkpoint)).await), Code::StaleEpoch);
        let mut other = order("k", 5, Directive::Checkpoint);
        other.coordinator = "c2".into();
        assert_eq!(refused(engine.take(other).await), Code::OtherCoordinator);
        assert_eq!(
            engine.take(order("j", 5, Directive::Checkpoint)).await.map(|taken| matches!(taken, Taken::Known(_))),
            Ok(true)
        );
    });
}

#[test]
fn a_fence_ends_what_runs_and_begins_when_that_is_undone() {
    let state = tempfile::tempdir().unwrap();
    let world = World::with(&[(1, Moment::ApplyAfter, Fault::Hangs)], None);
    runtime().block_on(async {
        let engine = live(state.path(), &world);
        engine.take(order("long", 1, Directive::Checkpoint)).await.unwrap();
        world.hangs.notified().await;
        engine.take(order("fence", 2, Directive::Fence)).await.unwrap();
        let fence = ended(&engine, "fence").await;
        assert_eq!(fence.state, JobState::Completed);
        let long = engine.job("long").unwrap();
        assert_eq!(long.failure.as_ref().unwrap().code, Code::Interrupted);
        assert!(long.failure.unwrap().text.contains("superseded by job \"fence\""));
        assert!(long.ended_ms.unwrap() <= fence.steps[0].began_ms);
        assert_eq!(
            world.effects.lock().keys().copied().collect::<Vec<_>>(),
            [3],
            "the fence's, and nothing of what it ended"
        );
        idle(&engine).await;
        engine.take(order("next", 3, Directive::Checkpoint)).await.unwrap();
    });
}

#[test]
fn a_fence_does_not_wait_for_an_undo_that_hangs_nor_behind_a_point_of_no_return() {
    for (faults, no_return) in [
        (vec![(1, Moment::ApplyAfter, Fault::Hangs), (1, Moment::Undo, Fault::Hangs)], None),
        (vec![(2, Moment::ApplyBefore, Fault::Hangs)], Some(1)),
    ] {
        let state = tempfile::tempdir().unwrap();
        let world = World::with(&faults, no_return);
        runtime().block_on(async {
            let engine = live(state.path(), &world);
            engine.take(order("long", 1, Directive::Checkpoint)).await.unwrap();
            world.hangs.notified().await;
            engine.take(order("fence", 2, Directive::Fence)).await.unwrap();
            if no_return.is_none() {
                let more = refused(engine.take(order("more", 3, Directive::Fence)).await);
                assert_eq!(more, Code::Busy, "one waits already, for as long as the undo hangs");
            }
            assert_eq!(ended(&engine, "fence").await.state, JobState::Completed);
            let code = engine.job("long").unwrap().failure.unwrap().code;
            assert_eq!(code, if no_return.is_some() { Code::Interrupted } else { Code::NotUndone });
        });
    }
}

#[test]
fn an_end_that_cannot_be_journalled_keeps_the_node_busy_until_it_can() {
    let state = tempfile::tempdir().unwrap();
    let world = World::with(&[], None);
    let blocked = state.path().join("jobs/j.json.howdah-tmp");
    *world.breaks.lock() = Some(blocked.clone());
    runtime().block_on(async {
        let engine = live(state.path(), &world);
        engine.take(order("j", 1, Directive::Checkpoint)).await.unwrap();
        let job = ended(&engine, "j").await;
        assert_eq!((job.state, job.steps.len()), (JobState::Failed, 2), "the second step was never begun: {job:?}");
        assert!(world.effects.lock().is_empty() && !world.counted.lock().contains_key(&(1, "apply")));
        assert_eq!(refused(engine.take(order("k", 1, Directive::Checkpoint)).await), Code::Busy);
        std::fs::remove_dir(&blocked).unwrap();
        idle(&engine).await;
        engine.take(order("k", 1, Directive::Checkpoint)).await.unwrap();
        assert_eq!(ended(&engine, "k").await.state, JobState::Completed);
    });
}

#[test]
fn an_order_that_cannot_be_journalled_is_refused() {
    let state = tempfile::tempdir().unwrap();
    let world = World::with(&[], None);
    runtime().block_on(async {
        let engine = live(state.path(), &world);
        std::fs::create_dir(state.path().join("jobs/j.json.howdah-tmp")).unwrap();
        assert_eq!(refused(engine.take(order("j", 1, Directive::Checkpoint)).await), Code::Program);
        assert!(engine.jobs().is_empty() && world.counted.lock().is_empty());
        engine.take(order("k", 1, Directive::Checkpoint)).await.unwrap();
    });
}

#[test]
fn the_last_hundred_jobs_are_kept() {
    let state = tempfile::tempdir().unwrap();
    let world = World::with(&[], None);
    runtime().block_on(async {
        let engine = live(state.path(), &world);
        for count in 0..KEPT + 3 {
            engine.take(order(&format!("j{count}"), 1, Directive::Fence)).await.unwrap();
            ended(&engine, &format!("j{count}")).await;
            idle(&engine).await;
        }
        assert_eq!(engine.jobs().len(), KEPT);
        assert_eq!(engine.jobs()[0].order.id, format!("j{}", KEPT + 2), "newest first");
        assert!(engine.job("j2").is_none() && engine.job("j3").is_some());
        for _ in 0..1_000 {
            if std::fs::read_dir(state.path().join("jobs")).unwrap().count() == KEPT {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("files of old jobs stay");
    });
}

#[test]
fn a_journal_of_other_steps_is_not_undone_with_the_wrong_ones() {
    let state = tempfile::tempdir().unwrap();
    let world = World::with(&[], None);
    let mut record = Record::new(order("j", 1, Directive::Checkpoint), 0);
    record.begin("a step of another version", Value::Null, false, 0);
    runtime().block_on(async {
        let (journal, _) = Journal::open(state.path()).unwrap();
        journal.write(&record).await.unwrap();
        let engine = live(state.path(), &world);
        assert_eq!(ended(&engine, "j").await.failure.unwrap().code, Code::NotUndone);
        assert!(world.counted.lock().is_empty());
    });
}

#[test]
fn a_connection_that_goes_away_takes_no_order_with_it() {
    let state = tempfile::tempdir().unwrap();
    let world = World::with(&[], None);
    let begun = Arc::new(AtomicBool::new(false));
    runtime().block_on(async {
        let engine = live(state.path(), &world);
        let (taking, seen) = (Arc::clone(&engine), Arc::clone(&begun));
        let task = tokio::spawn(async move {
            seen.store(true, Ordering::Relaxed);
            taking.take(order("j", 1, Directive::Checkpoint)).await
        });
        while !begun.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
        task.abort();
        assert_eq!(ended(&engine, "j").await.state, JobState::Completed);
    });
}
