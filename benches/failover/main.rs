//! `make failover-bench`: how long clients wait, and what they lose, when the primary dies or moves under load.
//!
//! A primary and two standbys with an agent each and howdah in front; pgbench, and clients that insert rows and know what they were
//! told of each. `cargo bench --bench failover -- [--runs N] [KIND …]`; a failover fails over here (`restart_if = "0"`), or the
//! primary would often be there again before.
//!
//! It goes on by itself: each wait has a bound, a run that fails is told and counted, and the next one gets a new cluster; of a kind that
//! fails too often no more are played. The table comes last, and the exit code says whether all was as it should be.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../../tests/support/mod.rs"]
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use crate::support::drill::{Blow, HEAD, Outcome, Series, prepare};
use crate::support::managed::{Managed, managed};

/// A kind that has failed so often is left.
const FAILURES_MAX: usize = 3;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (mut runs, mut wanted) = (None, Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--runs" => runs = Some(arguments.next().and_then(|n| n.parse().ok()).expect("a number")),
            name => wanted.push(Blow::ALL.into_iter().find(|blow| blow.name() == name).unwrap_or_else(|| {
                panic!("no {name}; there are: {}", Blow::ALL.map(Blow::name).join(" "));
            })),
        }
    }
    if wanted.is_empty() {
        wanted = Blow::ALL.to_vec();
    }
    let (mut table, mut wrong) = (String::new(), String::new());
    for blow in wanted {
        let runs = runs.unwrap_or(if blow == Blow::Switchover { 20 } else { 50 });
        let began = Instant::now();
        let (outcomes, faults) = all(blow, runs);
        println!("{}: {} runs in {:.0} s", blow.name(), outcomes.len(), began.elapsed().as_secs_f64());
        if !outcomes.is_empty() {
            table.push_str(&format!("{}\n", Series { blow, outcomes }));
        }
        wrong.extend(faults.iter().map(|fault| format!("{}: {fault}\n", blow.name())));
    }
    println!("\n{HEAD}\n{table}");
    if wrong.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("not as it should be:\n{wrong}");
    ExitCode::FAILURE
}

/// So many of a kind; what came of those that came to an end, and what was wrong with any.
fn all(blow: Blow, runs: usize) -> (Vec<Outcome>, Vec<String>) {
    let (mut outcomes, mut faults, mut failures) = (Vec::new(), Vec::new(), 0);
    let mut cluster: Option<Managed> = None;
    for run in 1..=runs {
        let played = catch_unwind(AssertUnwindSafe(|| {
            let managed = cluster.get_or_insert_with(|| {
                let managed = managed().failover("restart_if = \"0\"").start();
                prepare(&managed);
                managed
            });
            Series::play(managed, blow, 1, |outcome| tell(blow, run, outcome)).outcomes
        }));
        match played {
            Ok(played) => {
                let seen = played.iter().flat_map(|outcome| outcome.faults(blow));
                faults.extend(seen.map(|fault| format!("run {run}: {fault}")));
                outcomes.extend(played);
            }
            Err(_) => {
                faults.push(format!("run {run} did not come to its end: what is known stands above"));
                cluster = None;
                failures += 1;
            }
        }
        if failures == FAILURES_MAX {
            faults.push(format!("after {failures} runs without an end the other {} were not played", runs - run));
            break;
        }
    }
    (outcomes, faults)
}

fn tell(blow: Blow, run: usize, outcome: &Outcome) {
    println!(
        "{} {run}: first {:?}, longest {:?}, settled {:?}, {} of {} missing, {} errors{}{}",
        blow.name(),
        outcome.first,
        outcome.longest,
        outcome.settled,
        outcome.verdict.missing,
        outcome.verdict.acknowledged,
        outcome.verdict.error_count(),
        outcome.pgbench.as_ref().map_or_else(String::new, |pgbench| format!(", {pgbench:?}")),
        outcome.faults(blow).iter().map(|fault| format!(" !! {fault}")).collect::<String>()
            + &outcome.verdict.last_loss.as_ref().map_or_else(String::new, |words| format!(" ({words})")),
    );
}
