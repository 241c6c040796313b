//! Never a foreign answer: hundreds of clients on a few servers, every literal unique, every answer compared.
//!
//! Each client plays a random script (seeded: `HOWDAH_STRESS_SEED`) and knows, message by message, what PostgreSQL
//! would answer to it alone: rows with its own tags, errors its own requests cause, nothing else. Anything different
//! is a mismatch, and one that carries another client's tag is a foreign answer.
//!
//! `HOWDAH_STRESS_SECONDS` is how long it goes on. The negative control builds howdah with a known defect and insists
//! that the same script catches it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use self::script::{Client, Kind};
use self::tally::Tally;
use crate::support::{Howdah, SOON, Tenant, binary, config, eventually, free_port, shared};

mod script;
mod stream;
mod tally;

/// Clients that do everything, and clients whose queries may not take long.
const CLIENTS: u64 = 300;
const BRIEF_CLIENTS: u64 = 12;
const SERVERS: u64 = 8;
const BRIEF_SERVERS: u64 = 2;

/// One run: how long, with how many clients, against which build.
struct Plan {
    binary: PathBuf,
    seconds: u64,
    seed: u64,
    /// The run ends early once this is so: nothing more is to be learned.
    enough: fn(&Tally) -> bool,
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: not a number: {text}")))
}

fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    from_env("HOWDAH_STRESS_SEED", now.subsec_nanos().into())
}

/// A howdah before the shared primary, and how many connections each of the two users ever had at once.
struct Stage {
    howdah: Howdah,
    tenant: Tenant,
    brief: String,
}

impl Stage {
    fn set(binary: &Path) -> Self {
        let tenant = Tenant::shared();
        let brief = format!("{}_brief", tenant.name);
        let primary = shared().primary();
        let (name, password) = (&tenant.name, &tenant.password);
        primary.sql(&format!("CREATE ROLE {brief} LOGIN PASSWORD '{password}'")).unwrap();
        primary.sql_in(name, &format!("CREATE TABLE copied (n int, tag text); GRANT ALL ON copied TO {name}")).unwrap();
        let extra = format!(
            "[limits]\nworkers = 2\n\n[auth]\nmethod = \"trust\"\n\n[pool]\nsize = {SERVERS}\n\n\
             [users.{name}]\npassword = \"{password}\"\n\n[users.{brief}]\npassword = \"{password}\"\n\n\
             [users.{brief}.pool]\nsize = {BRIEF_SERVERS}\n\n[users.{brief}.timeouts]\nquery = \"40ms\"\n"
        );
        let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
        let toml = config(shared().nodes(), port, http_port, &extra);
        let howdah = Howdah::start_binary(binary, &toml, port, http_port);
        howdah.wait_ready();
        Self { howdah, tenant, brief }
    }

    /// Server connections of a user, as PostgreSQL counts them.
    fn servers(&self, user: &str) -> u64 {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = '{user}' AND backend_type = 'client backend'"
        );
        shared().primary().sql(&sql).unwrap().cell().unwrap().parse().unwrap()
    }

    /// Every pool rests, and nobody is connected.
    fn is_at_rest(&self) -> bool {
        let status = self.howdah.status();
        let pools = status["pools"].as_array().unwrap();
        let rests =
            |pool: &serde_json::Value| pool["open"] == pool["idle"] && pool["waiting"] == 0 && pool["in_use"] == 0;
        status["clients"] == 0 && !pools.is_empty() && pools.iter().all(rests)
    }
}

/// Plays the plan. The answer counts everything; nothing is asserted but what no defect may break.
fn play(plan: &Plan, stage: &Stage) -> (Tally, (u64, u64)) {
    println!("stress: {} s, HOWDAH_STRESS_SEED={}", plan.seconds, plan.seed);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut most = (0, 0);
            while !over.load(Ordering::Acquire) {
                most.0 = most.0.max(stage.servers(&stage.tenant.name));
                most.1 = most.1.max(stage.servers(&stage.brief));
                std::thread::sleep(Duration::from_millis(100));
            }
            most
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let tally = tokio::task::LocalSet::new().block_on(&runtime, clients(plan, stage));
        over.store(true, Ordering::Release);
        (tally, sampler.join().unwrap())
    })
}

async fn clients(plan: &Plan, stage: &Stage) -> Tally {
    let tally = Rc::new(Tally::default());
    let until = Instant::now() + Duration::from_secs(plan.seconds);
    let tasks: Vec<_> = (0..CLIENTS + BRIEF_CLIENTS)
        .map(|id| {
            let (user, kind) = match id {
                0..CLIENTS => (&stage.tenant.name, Kind::Main),
                _ => (&stage.brief, Kind::Brief),
            };
            let client = Client::new(id, kind, plan.seed, stage.howdah.port(), user, &stage.tenant.name, &tally);
            tokio::task::spawn_local(client.play(until))
        })
        .collect();
    while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if (plan.enough)(&tally) {
            tasks.iter().for_each(tokio::task::JoinHandle::abort);
        }
    }
    for task in tasks {
        match task.await {
            Err(error) if error.is_panic() => tally.mismatch(format!("a client's own task failed: {error}"), false),
            Ok(()) | Err(_) => {}
        }
    }
    Rc::into_inner(tally).unwrap()
}

#[test]
#[ignore = "takes the whole machine: make test runs it last, make stress for long"]
fn hundreds_of_clients_on_eight_servers_read_only_their_own_answers() {
    let seconds = from_env("HOWDAH_STRESS_SECONDS", 30);
    let plan =
        Plan { binary: binary().to_owned(), seconds, seed: seed(), enough: |tally| tally.mismatches().len() >= 20 };
    let stage = Stage::set(&plan.binary);
    let (tally, most) = play(&plan, &stage);
    println!("{tally}\nserver connections at most: {most:?}");
    assert!(tally.mismatches().is_empty(), "seed {}: {}", plan.seed, tally.mismatches().join("\n"));
    assert!(most.0 <= SERVERS && most.1 <= BRIEF_SERVERS, "more servers than allowed: {most:?}");
    assert_eq!(most.0, SERVERS, "the pool was never full");
    eventually("every pool rests", SOON, || stage.is_at_rest());
    let log = stage.howdah.log();
    for word in ["panicked", "lost step", "internal error", "cancel may arrive late", "server login failed"] {
        let line = log.lines().find(|line| line.contains(word));
        assert!(line.is_none(), "{word}: {}", line.unwrap_or_default());
    }
    // the long run's promise; a debug build on a busy machine owes a tenth of it
    let share = if seconds >= 300 { 1.0 } else { 0.1 };
    for (what, count, per_second) in [
        ("answers", tally.answers(), 3_400.0),
        ("cancels", tally.cancels(), 34.0),
        ("disconnects", tally.disconnects(), 3.4),
    ] {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let least = (seconds.min(300) as f64 * per_second * share) as u64;
        assert!(count >= least, "only {count} {what} of {least}: this run shows too little");
    }
    stage.howdah.stop(SOON);
}

/// Builds howdah with its known defects, apart from everything else; `HOWDAH_DEFECT` chooses one.
pub fn defective() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/negative-control");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--features", "negative-control", "--bin", "howdah", "--target-dir"]).arg(&target);
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
    assert!(status.success(), "the build with the known defect failed");
    target.join("debug/howdah")
}

/// Without this, zero mismatches would prove nothing.
#[test]
#[ignore = "builds howdah a second time: make test runs it last, as does make negative-control"]
fn a_build_that_releases_a_server_before_its_pipeline_is_settled_is_caught() {
    let seconds = from_env("HOWDAH_STRESS_SECONDS", 30);
    let plan = Plan { binary: defective(), seconds, seed: seed(), enough: |tally| tally.foreign() >= 5 };
    let stage = Stage::set(&plan.binary);
    let (tally, _) = play(&plan, &stage);
    println!("{tally}");
    assert!(tally.foreign() > 0, "seed {}: the defect was not caught", plan.seed);
}
