//! Failures, by the ten thousand: the coordinator that runs in howdah, against a model of agents, PostgreSQL, routing, network and disks.
//!
//! `make sim SEEDS=1000000` runs more seeds than `make test`; `SEED=17 make sim` runs one again and tells everything that happens.
//! In the order of reading: `world` (the scheduler), `shell` (around the machine under test), `agent` and `acts`, `postgres` and `server`,
//! `client`, `faults` (what goes wrong), `check` (what must hold), `control` (machines that must be caught).

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

extern crate howdah_pure as howdah;

mod acts;
mod agent;
mod check;
mod client;
mod control;
mod faults;
mod postgres;
mod rng;
mod server;
mod shell;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use control::Control;

/// What became of a seed.
struct Run {
    violation: Option<String>,
    counts: BTreeMap<&'static str, u64>,
    steps: u64,
    lost: u64,
    trace: Vec<String>,
}

fn run(seed: u64, control: Control, tracing: bool) -> Run {
    let mut world = faults::world(seed, control, tracing);
    let panicked = catch_unwind(AssertUnwindSafe(|| world.run())).err().map(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        format!("panic: {}", text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
    });
    Run {
        violation: panicked.or(world.violation),
        steps: world.ledger.steps,
        lost: world.ledger.lost,
        counts: world.counts,
        trace: world.trace.unwrap_or_default(),
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.replace('_', "").parse().ok())
}

/// Runs seeds on every core; the failing ones, and what happened in all.
fn sweep(first: u64, count: u64, control: Control) -> (Vec<(u64, String)>, BTreeMap<&'static str, u64>) {
    let (next, failed, totals) = (AtomicU64::new(first), Mutex::new(Vec::new()), Mutex::new(BTreeMap::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    // enough is known by then
                    if seed >= first + count || failed.lock().unwrap().len() >= 20 {
                        break;
                    }
                    let run = run(seed, control, false);
                    if let Some(violation) = run.violation {
                        failed.lock().unwrap().push((seed, violation));
                    }
                    let mut totals = totals.lock().unwrap();
                    for (what, times) in run.counts {
                        *totals.entry(what).or_default() += times;
                    }
                    *totals.entry("seeds").or_default() += 1;
                    *totals.entry("steps of the machine").or_default() += run.steps;
                    *totals.entry("acknowledged and lost (asynchronous)").or_default() += run.lost;
                }
            });
        }
    });
    (failed.into_inner().unwrap(), totals.into_inner().unwrap())
}

/// One seed with everything that happens, or all of them, so many if nobody says how many; fails when one does.
fn seeds(control: Control, usually: u64) {
    if let Some(seed) = number("SEED") {
        let run = run(seed, control, true);
        for line in &run.trace {
            println!("{line}");
        }
        println!("{:?}", run.counts);
        assert_eq!(run.violation, None, "seed {seed}");
        return;
    }
    let (first, count) = (number("FIRST").unwrap_or(1), number("SEEDS").unwrap_or(usually));
    let began = Instant::now();
    let (mut failed, totals) = sweep(first, count, control);
    println!("{totals:#?} in {:.1} s", began.elapsed().as_secs_f64());
    failed.sort();
    for (seed, violation) in &failed {
        println!("SEED={seed} make sim   # {violation}");
    }
    assert!(failed.is_empty(), "{} seeds fail", failed.len());
}

#[test]
fn whatever_fails_the_invariants_hold() {
    seeds(Control::default(), 10_000);
}

#[test]
fn an_old_backup_of_the_store_makes_no_second_primary() {
    seeds(Control { old_store: true, ..Control::default() }, 1_000);
}

#[test]
fn a_seed_is_a_run() {
    for seed in [3, 4, 5] {
        assert_eq!(run(seed, Control::default(), true).trace, run(seed, Control::default(), true).trace);
    }
}

#[test]
fn each_known_defect_is_caught() {
    for (name, control, said) in control::all() {
        let caught = (1..=3_000).find_map(|seed| {
            run(seed, control, false)
                .violation
                .filter(|violation| violation.contains(said))
                .map(|violation| (seed, violation))
        });
        let (seeds, violation) = caught.unwrap_or_else(|| panic!("3,000 seeds do not catch: {name}"));
        println!("caught after {seeds} seeds: {name}: {violation}");
    }
}
