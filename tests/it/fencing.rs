//! A fence, again and again, while orphans of the postmaster go on committing: what it proves, and what it leaves behind.
//!
//! `HOWDAH_FENCE_RUNS` says how often (`make fence`). That it could fail shows `faults::a_build_that_takes_a_dead_postmaster_for_a_fence_is_caught`.

use std::time::Instant;

use howdah::directive::Directive;
use rustix::process::Signal;

use crate::agent::{BOUND, Pair};
use crate::support::orphans::Orphans;
use crate::support::{builder, eventually};

/// How often in `make test`.
const RUNS: u64 = 5;

#[test]
fn after_the_proof_nothing_is_left_nothing_is_committed_and_whoever_starts_it_starts_it_read_only() {
    let runs = std::env::var("HOWDAH_FENCE_RUNS").map_or(RUNS, |runs| runs.parse().unwrap());
    let cluster = builder().prefix("howdah-fence").setting("track_commit_timestamp", "on").start().unwrap();
    let pair = Pair::beside(cluster, "a");
    let node = pair.node();
    let (mut acknowledged, mut slowest) = (0, 0);
    for run in 1..=runs {
        let orphans = Orphans::start(node);
        eventually("both write", BOUND, || orphans.acknowledged() > 200 && orphans.procedure_commits());
        let asked = Instant::now();
        assert!(node.signal(Signal::KILL));
        let job = pair.completed(&pair.order(&format!("fence-{run}"), 2 * run, Directive::Fence));
        assert_eq!(job.metadata.get("proof").map(String::as_str), Some("no-process"), "{job:#?}");
        assert!(node.processes().is_empty(), "run {run}: {:?}", node.processes());
        slowest = slowest.max(asked.elapsed().as_millis());
        eventually("they have ended", BOUND, || orphans.are_over());
        acknowledged += orphans.acknowledged();
        drop(orphans);

        // a person
        node.start().unwrap();
        assert!(node.in_recovery().unwrap(), "run {run}: it came up as a primary");
        assert!(node.sql("CREATE TABLE IF NOT EXISTS by_hand ()").is_err());
        let last = node
            .sql("SELECT floor(extract(epoch FROM timestamp) * 1000)::bigint FROM pg_last_committed_xact()")
            .unwrap();
        let last: u64 = last.cell().unwrap().parse().unwrap();
        let proven = job.ended_ms.unwrap();
        assert!(last <= proven, "run {run}: a commit {} ms after the proof", last - proven);

        let order = pair.order(&format!("promote-{run}"), 2 * run + 1, Directive::Promote { slots: Vec::new() });
        pair.completed(&order);
    }
    println!(
        "{runs} fences, the slowest {slowest} ms after the kill: 0 processes left, 0 commits after the proof, read-only each time; \
         {acknowledged} commits were acknowledged to the pipelining client before"
    );
}
