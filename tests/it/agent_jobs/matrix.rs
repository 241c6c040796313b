//! Every step of every job, and every fault: an act that fails when it is done, one that takes too long and is cut off in the middle,
//! `kill -9` of the agent before and after it. What must hold: the job is completed, or the files that say what PostgreSQL is and
//! whether it runs are what they were.
//!
//! The agent's own runner and journal do it; only the steps are wrapped. The agent that is killed is a process: this test binary again,
//! told by its environment what to do.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use howdah::agent::config::AgentConfig;
use howdah::agent::epochs::Epochs;
use howdah::agent::events::Events;
use howdah::agent::job::Engine;
use howdah::agent::jobs::plan;
use howdah::agent::journal::Journal;
use howdah::agent::postgres::program::Programs;
use howdah::agent::postgres::{frozen, processes, rewinding};
use howdah::agent::step::{Act, Step, Work};
use howdah::directive::{Code, Directive, Failure, Job, JobState, Order};
use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bench::{Bench, agent_config, order};
use super::{diverged, three};
use crate::support::{SOON, StopMode, eventually};

/// What goes wrong with a step, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Fault {
    /// Its act is done, and says that it has failed.
    Fails,
    /// It takes too long: it is cut off in the middle, or at its end.
    TimesOut,
    /// The agent dies when it was journalled and not begun.
    KilledBefore,
    /// The agent dies when it is done and not journalled.
    KilledAfter,
}

const FAULTS: [Fault; 4] = [Fault::Fails, Fault::TimesOut, Fault::KilledBefore, Fault::KilledAfter];

/// Being killed before a step differs from being killed after the one before it by a word in the journal.
const FAULTS_AFTER_COPY: [Fault; 2] = [Fault::Fails, Fault::KilledAfter];

/// A step that a fault is in store for.
struct Faulty {
    step: Box<dyn Step>,
    fault: Fault,
    armed: AtomicBool,
}

impl Step for Faulty {
    fn name(&self) -> &'static str {
        self.step.name()
    }

    fn before<'a>(&'a self, work: &'a Work) -> Act<'a, Value> {
        self.step.before(work)
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            let fault = self.armed.swap(false, Ordering::SeqCst).then_some(self.fault);
            if fault == Some(Fault::KilledBefore) {
                die();
            }
            let done = self.step.apply(work).await;
            match fault {
                None | Some(Fault::KilledBefore) => done,
                Some(Fault::Fails) => Err(Failure::new(Code::Program, "the fault of the test")),
                Some(Fault::TimesOut) => std::future::pending().await,
                Some(Fault::KilledAfter) => die(),
            }
        })
    }

    fn undo<'a>(&'a self, work: &'a Work, before: &'a Value) -> Act<'a, ()> {
        self.step.undo(work, before)
    }

    fn is_point_of_no_return(&self) -> bool {
        self.step.is_point_of_no_return()
    }

    fn bound(&self) -> Option<Duration> {
        let cut = self.fault == Fault::TimesOut && self.armed.load(Ordering::SeqCst);
        if cut { Some(Duration::from_millis(40)) } else { self.step.bound() }
    }
}

fn die() -> ! {
    kill_process(getpid(), Signal::KILL).unwrap();
    unreachable!("SIGKILL")
}

/// What the process that is killed is told.
#[derive(Serialize, Deserialize)]
struct Told {
    config: String,
    password: String,
    order: Order,
    step: usize,
    fault: Fault,
}

const TOLD: &str = "HOWDAH_TEST_MATRIX";

#[test]
fn a_process_that_is_killed() {
    // on its own it has nothing to do
    let Ok(told) = std::env::var(TOLD) else { return };
    let told: Told = serde_json::from_str(&told).unwrap();
    let job = drive(agent_config(&told.config, &told.password), Some(&told.order), Some((told.step, told.fault)));
    panic!("it was to be killed, and has ended its job: {job:?}");
}

/// Runs the agent's engine until an order's job, or the one it finds in the middle, has ended.
fn drive(config: AgentConfig, order: Option<&Order>, fault: Option<(usize, Fault)>) -> Option<Job> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        Programs::find(&config).unwrap().end_strays();
        let journal = Journal::open(&config.state_directory).unwrap();
        let epochs = Epochs::open(&config.state_directory).unwrap();
        let planner = move |order: &Order, config: &AgentConfig| {
            let mut steps = plan(order, config)?;
            if let Some((index, fault)) = fault {
                let step = steps.remove(index);
                steps.insert(index, Box::new(Faulty { step, fault, armed: AtomicBool::new(true) }));
            }
            Ok(steps)
        };
        let engine = Engine::start(Arc::new(config), Box::new(planner), journal, epochs, Arc::new(Events::default()));
        let id = match order {
            Some(order) => {
                engine.take(order.clone()).await.unwrap();
                order.id.clone()
            }
            None => engine.present()?.order.id,
        };
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let job = engine.job(&id).unwrap();
            if job.state.is_terminal() {
                return Some(job);
            }
            assert!(Instant::now() < deadline, "{job:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
}

/// What says what a node is: the bytes of its signal and configuration files, whether it runs, and what lies beside it.
#[derive(Debug, PartialEq, Eq)]
struct Looks {
    files: BTreeMap<String, Option<String>>,
    running: bool,
    standby: Option<bool>,
    beside: Vec<String>,
}

fn looks(bench: &Bench, name: &str) -> Looks {
    let node = bench.node(name);
    let (data, state) = (node.data_directory(), bench.state(name));
    let names = ["standby.signal", "recovery.signal", "postgresql.auto.conf", "postgresql.conf", "pg_hba.conf"];
    let mut files: BTreeMap<String, Option<String>> =
        names.iter().map(|name| ((*name).to_owned(), fs::read_to_string(data.join(name)).ok())).collect();
    for path in [frozen::path(&state), rewinding::path(&state)] {
        files.insert(path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(path).ok());
    }
    let running = processes::postmaster(&data).unwrap().is_some();
    let beside = fs::read_dir(node.directory()).unwrap().map(|entry| entry.unwrap().file_name());
    let beside = beside.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.starts_with("data"));
    let mut beside: Vec<String> = beside.collect();
    beside.sort();
    Looks { files, running, standby: running.then(|| node.in_recovery().unwrap()), beside }
}

/// All steps of a directive on a node, with all faults. `again` brings the node back to where the job begins, after one that was
/// completed.
fn play(
    bench: &Bench,
    name: &str,
    directive: &Directive,
    faults: impl Fn(&str) -> &'static [Fault],
    again: &dyn Fn(&Bench),
) -> usize {
    let began = Instant::now();
    let (mut triples, mut completed) = (0, 0);
    let config = || bench.config(name);
    let steps: Vec<&str> =
        plan(&order(name, "plan", directive.clone()), &config()).unwrap().iter().map(|step| step.name()).collect();
    for (index, step) in steps.iter().enumerate() {
        for fault in faults(step) {
            let before = looks(bench, name);
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let count = COUNT.fetch_add(1, Ordering::SeqCst);
            let order = order(name, &format!("{}-{count}", directive.name()), directive.clone());
            let what = format!("{} of {name}, \"{step}\" {fault:?}", directive.name());
            let job = match fault {
                Fault::Fails | Fault::TimesOut => drive(config(), Some(&order), Some((index, *fault))),
                Fault::KilledBefore | Fault::KilledAfter => {
                    kill_in(
                        bench,
                        name,
                        &Told {
                            config: bench.config_text(name),
                            password: bench.node(name).password().to_owned(),
                            order: order.clone(),
                            step: index,
                            fault: *fault,
                        },
                    );
                    drive(config(), None, None)
                }
            };
            let job = job.unwrap_or_else(|| panic!("{what}: the journal knows no job"));
            assert_eq!(job.order.id, order.id, "{what}");
            triples += 1;
            if job.state == JobState::Completed {
                completed += 1;
                again(bench);
                continue;
            }
            let failure = job.failure.clone().unwrap();
            assert_ne!(failure.code, Code::NotUndone, "{what}: {failure}\n{}", bench.cluster.log_tails(30));
            let after = looks(bench, name);
            assert!(after == before, "{what}: {failure}\nbefore {before:#?}\nafter {after:#?}\n{job:#?}");
        }
    }
    println!(
        "{}: {} steps, {triples} (job, step, fault) triples, {completed} completed, the others undone; {:?}",
        directive.name(),
        steps.len(),
        began.elapsed()
    );
    triples
}

fn kill_in(bench: &Bench, name: &str, told: &Told) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "agent_jobs::matrix::a_process_that_is_killed", "--nocapture"]);
    command.env(TOLD, serde_json::to_string(told).unwrap()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = command.output().unwrap();
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(signal, Some(9), "{name} {:?} {}: {said}\n{}", told.fault, told.step, bench.cluster.log_tails(20));
}

fn primary_again(bench: &Bench) {
    bench.run("a", Directive::Restart { primary: true }).unwrap();
}

/// A node's data directory, stopped, as it is now; a function that brings it back.
fn saved(bench: &Bench, name: &'static str) -> impl Fn(&Bench) + use<> {
    let node = bench.node(name);
    node.stop(StopMode::Fast).unwrap();
    let copy = node.directory().join("saved");
    cp(&node.data_directory(), &copy);
    move |bench: &Bench| {
        let node = bench.node(name);
        node.kill_all().unwrap();
        for entry in fs::read_dir(node.directory()).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().starts_with("data") {
                fs::remove_dir_all(path).unwrap();
            }
        }
        cp(&node.directory().join("saved"), &node.data_directory());
    }
}

fn cp(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

#[test]
fn whatever_fails_in_a_job_on_a_primary_it_is_completed_or_as_it_was() {
    let bench = three();
    let mut triples = play(&bench, "a", &Directive::Fence, |_| &FAULTS, &primary_again);
    triples += play(&bench, "a", &Directive::Demote, |_| &FAULTS, &primary_again);
    triples += play(&bench, "a", &Directive::Restart { primary: false }, |_| &FAULTS, &|_| ());
    let settings = BTreeMap::from([("work_mem".to_owned(), Some("7MB".to_owned()))]);
    let configure =
        Directive::Configure { settings, slots: vec!["howdah_x".into()], drop_slots: vec!["howdah_y".into()] };
    triples += play(&bench, "a", &configure, |_| &FAULTS, &|_| ());
    triples += play(&bench, "a", &Directive::Checkpoint, |_| &FAULTS, &|_| ());
    bench.run("a", Directive::Fence).unwrap();
    triples += play(&bench, "a", &Directive::Restart { primary: true }, |_| &FAULTS, &|bench| {
        bench.run("a", Directive::Fence).unwrap();
    });
    println!("{triples} (job, step, fault) triples on a primary");
}

#[test]
fn whatever_fails_in_a_job_on_a_standby_it_is_completed_or_as_it_was() {
    let bench = three();
    let mut triples = play(&bench, "b", &Directive::Freeze, |_| &FAULTS, &|bench| {
        bench.run("b", Directive::Unfreeze).unwrap();
    });
    bench.run("b", Directive::Freeze).unwrap();
    triples += play(&bench, "b", &Directive::Unfreeze, |_| &FAULTS, &|bench| {
        bench.run("b", Directive::Freeze).unwrap();
    });
    bench.run("b", Directive::Unfreeze).unwrap();

    // c follows b, a standby as well
    let to_b = Directive::Follow { upstream: bench.upstream("b", "c") };
    let to_a = bench.upstream("a", "c");
    triples += play(&bench, "c", &to_b, |_| &FAULTS, &|bench| {
        bench.run("c", Directive::Follow { upstream: to_a.clone() }).unwrap();
    });
    // and when it does not run
    bench.node("c").stop(StopMode::Fast).unwrap();
    triples += play(&bench, "c", &to_b, |_| &FAULTS, &|bench| bench.node("c").stop(StopMode::Fast).unwrap());

    let back = saved(&bench, "b");
    bench.node("b").start().unwrap();
    let promote = Directive::Promote { slots: vec!["howdah_a".into(), "howdah_c".into()] };
    triples += play(&bench, "b", &promote, |_| &FAULTS, &|bench| {
        back(bench);
        bench.node("b").start().unwrap();
    });
    println!("{triples} (job, step, fault) triples on a standby");
}

#[test]
fn whatever_fails_in_a_rewind_or_a_rebuild_it_is_completed_or_as_it_was() {
    let bench = diverged();
    let back = saved(&bench, "a");
    back(&bench);
    let upstream = bench.upstream("b", "a");
    let mut triples =
        play(&bench, "a", &Directive::Rewind { upstream: upstream.clone() }, |_| &FAULTS, &|bench| back(bench));
    back(&bench);
    // a whole copy comes before each of the last steps, and takes its time
    let faults = |step: &str| match step {
        "write whom to follow" | "start PostgreSQL" | "remove old directories" => &FAULTS_AFTER_COPY[1..],
        "put the copy in the place of the old directory" | "check that it streams" => &FAULTS_AFTER_COPY[..],
        _ => &FAULTS[..],
    };
    triples += play(&bench, "a", &Directive::Rebuild { upstream }, faults, &|bench| back(bench));
    println!("{triples} (job, step, fault) triples of rewind and rebuild");
    eventually("nothing of the jobs is left", SOON, || bench.node("a").processes().is_empty());
}
