//! All of it, and what docs/consistency.md shows: `make routing`.

use std::thread;
use std::time::{Duration, Instant};

use super::play::{Play, Protocol, Tally};
use super::{Stage, back_on_replicas, insert_and_read, read_a_counter};

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: not a number: {text}")))
}

#[test]
#[ignore = "takes minutes: make routing"]
fn ten_thousand_times_at_every_delay_nobody_reads_the_past() {
    let times = u32::try_from(from_env("HOWDAH_ROUTING_TIMES", 10_000)).unwrap();
    let seconds = from_env("HOWDAH_ROUTING_SECONDS", 60);
    let stage = Stage::new("");
    for ms in [0, 200, 1_000] {
        stage.delay(&["b", "c"], ms);
        let mut sum = Tally::default();
        // a tight loop, and pauses around the sampling interval
        for (part, pauses) in [(times * 9 / 10, &[0][..]), (times / 10, &[10, 90, 110])] {
            let tally = insert_and_read(&stage.howdah, &stage.tenant, part, pauses);
            println!("replay delay {ms} ms, pauses of {pauses:?} ms: {tally}");
            sum.stale += tally.stale;
        }
        assert_eq!(sum.stale, 0, "replay delay {ms} ms");
        // PostgreSQL's own ANALYZE commits as well, and a late standby holds back every commit
        stage.node("a").set("autovacuum", "off").unwrap();
        let mut took: Vec<_> = (0..21).map(|_| back_on_replicas(&stage)).collect();
        stage.node("a").set("autovacuum", "on").unwrap();
        took.sort();
        let promised = Duration::from_millis(u64::from(ms) + 200);
        println!("replay delay {ms} ms: back on replicas after median {:?}, longest {:?}", took[10], took[20]);
        let late = took.iter().filter(|took| **took > promised).count();
        assert!(late <= 1, "replay delay and two intervals are {promised:?}: {took:?}");
    }
    stage.delay(&["b", "c"], 0);
    curve(&stage);
    drop(stage);
    let stage = Stage::new("[clusters.main]\nmax_lag = \"200kB\"\n");
    stage.delay(&["c"], 40);
    let tally = read_a_counter(&stage, seconds);
    println!("a counter, for {seconds} s: {tally}");
    assert_eq!(tally.backward, 0, "{tally}");
}

/// The share of reads on replicas against what a session writes.
fn curve(stage: &Stage) {
    const SESSIONS: u32 = 6;
    println!("share of reads on replicas, {SESSIONS} sessions that read every 10 ms:");
    println!("| writes per second and session | no delay | 5 ms | 200 ms |");
    println!("|---|---|---|---|");
    for rate in [0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0] {
        let cells = [0, 5, 200].map(|ms| {
            stage.delay(&["b", "c"], ms);
            let before = stage.howdah.status()["routing"].clone();
            let until = Instant::now() + Duration::from_secs(6);
            let tally = Play::new(&stage.howdah, &stage.tenant).all(SESSIONS as usize, |at, session| {
                let period = if rate > 0.0 { Duration::from_secs_f64(1.0 / rate) } else { Duration::from_secs(3_600) };
                let mut due = Instant::now() + period.mul_f64((at + 1) as f64 / f64::from(SESSIONS));
                while Instant::now() < until {
                    if Instant::now() >= due {
                        due += period;
                        session.run("INSERT INTO filler VALUES ('x')");
                    }
                    session.read_counter(Protocol::Extended, "");
                    thread::sleep(Duration::from_millis(10));
                }
            });
            assert_eq!(tally.backward, 0, "{tally}");
            if rate == 0.0 && tally.on_replicas < tally.reads {
                println!("why not all of {tally}: {before} and then {}", stage.howdah.status()["routing"]);
            }
            format!("{:.0} %", tally.share())
        });
        println!("| {rate} | {} |", cells.join(" | "));
    }
    stage.delay(&["b", "c"], 0);
}
