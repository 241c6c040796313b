//! `make bench`: howdah and PgBouncer side by side on the same PostgreSQL, interleaved in one run.
//!
//! The figure to steer by is the pooler's CPU time per transaction; throughput and latency are the whole machine's and
//! move with its neighbours. Each cell visits the poolers in turn, round by round, and quotes the median of the rounds'
//! ratios. `cargo bench --bench compare -- [--rounds N] [--seconds N] [CELL …]`; `PGBOUNCER=path` takes another PgBouncer,
//! `HOWDAH=path` another howdah than the one built along, and `BEFORE=path` one more, to see what a change has cost: only what was
//! measured in one run can be compared.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod cells;
mod measure;
mod peers;
mod report;
mod routed;

use std::time::Duration;

use howdah::demo::postgres::LocalCluster;

use crate::cells::{Cell, Load};
use crate::peers::Bed;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (mut rounds, mut seconds, mut wanted) = (4_usize, 3_u64, Vec::new());
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|n| n.parse::<u64>().ok()).expect("a number");
        match argument.as_str() {
            "--rounds" => rounds = usize::try_from(number()).unwrap(),
            "--seconds" => seconds = number(),
            cell => wanted.push(cell.to_owned()),
        }
    }
    let cells: Vec<_> =
        Cell::all().into_iter().filter(|cell| wanted.is_empty() || wanted.contains(&cell.name)).collect();
    assert!(
        !cells.is_empty(),
        "no such cell; there are: {}",
        Cell::all().iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(" ")
    );

    let mut cluster = LocalCluster::builder().primary("a");
    if cells.iter().any(|cell| matches!(cell.load, Load::Routed { .. })) {
        cluster = cluster.standby(routed::STANDBY);
    }
    let cluster = cluster
        .setting("max_connections", "100")
        .setting("shared_buffers", "256MB")
        .setting("ssl", "off")
        .start()
        .unwrap_or_else(|error| panic!("{error}"));
    let bed = Bed::prepare(&cluster);
    println!("{}", bed.describe());
    println!("{} rounds of {} s a cell\n", rounds, seconds);
    for cell in cells {
        let rows = cells::run(&bed, &cell, rounds, Duration::from_secs(seconds));
        report::print(&cell, &rows);
    }
}
