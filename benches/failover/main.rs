//! `make failover-bench`: how long clients wait, and what they lose, when the primary dies or moves under load.
//!
//! A primary and two standbys with an agent each and howdah in front; pgbench, and clients that insert rows and know what they were
//! told of each. `cargo bench --bench failover -- [--runs N] [KIND …]`; a failover fails over here (`restart_if = "0"`), or the
//! primary would often be there again before.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../../tests/support/mod.rs"]
mod support;

use crate::support::drill::{Blow, HEAD, Series, prepare};
use crate::support::managed::managed;

fn main() {
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
    let mut table = String::new();
    for blow in wanted {
        let mut managed = managed().failover("restart_if = \"0\"").start();
        prepare(&managed);
        let runs = runs.unwrap_or(if blow == Blow::Switchover { 20 } else { 50 });
        let series = Series::play(&mut managed, blow, runs, |outcome| {
            println!(
                "{}: first {:?}, longest {:?}, settled {:?}, {} of {} missing, {} errors{}",
                blow.name(),
                outcome.first,
                outcome.longest,
                outcome.settled,
                outcome.verdict.missing,
                outcome.verdict.acknowledged,
                outcome.verdict.error_count(),
                outcome.pgbench.as_ref().map_or_else(String::new, |pgbench| format!(", {pgbench:?}")),
            );
        });
        table.push_str(&format!("{series}\n"));
    }
    println!("\n{HEAD}\n{table}");
}
