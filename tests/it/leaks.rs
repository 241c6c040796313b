//! What one client sets, no other ever sees, and the client itself sees it on every server: all there is to set, in every
//! way to set it, in transactions that end in every way.
//!
//! What PostgreSQL itself does with the same messages is the measure: the client that set something is compared with a
//! direct connection that did the same, the next client on the server with a fresh direct connection. One difference is
//! accepted: a custom setting that was never set reads as NULL and one that was reset as `''`; nothing can make it
//! unknown again.
//!
//! `make test` plays a part, chosen by a seed (`HOWDAH_LEAKS_SEED`), for `HOWDAH_LEAKS_SECONDS`; `make leaks` plays all of
//! it. The negative control plays against a build that does not reset its servers, and insists that it is caught.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use self::lane::{Finding, Kind, Lane, connect};
use self::space::{Case, ENDINGS, PROTOCOLS, Setting, WAYS, objects, settings};
use crate::support::random::Random;
use crate::support::{Cluster, Howdah, Tenant, binary, builder, config, free_port};

mod lane;
mod space;

/// Settings that are not tried in a startup packet: the libraries they name are loaded at login.
const NOT_AT_LOGIN: [&str; 2] = ["local_preload_libraries", "session_preload_libraries"];

/// PostgreSQL, howdah, and a superuser and an ordinary user with a database each.
struct Stage {
    cluster: Cluster,
    howdah: Howdah,
    superuser: Tenant,
    ordinary: Tenant,
}

impl Stage {
    fn set(howdah: Command) -> Self {
        let cluster =
            builder().hba("host all all 127.0.0.1/32 trust").start().unwrap_or_else(|error| panic!("{error}"));
        let node = cluster.primary();
        let (superuser, ordinary) = (Tenant::on(node), Tenant::on(node));
        let mut extra = "[limits]\nworkers = 2\n\n[auth]\nmethod = \"trust\"\n\n[pool]\nsize = 2\n\n".to_owned();
        node.sql(&format!("ALTER ROLE {} SUPERUSER", superuser.name)).unwrap();
        for Tenant { name, password } in [&superuser, &ordinary] {
            node.sql(&format!("CREATE ROLE {name}_other IN ROLE pg_read_all_settings; GRANT {name}_other TO {name}"))
                .unwrap();
            extra += &format!("[users.{name}]\npassword = \"{password}\"\n\n");
        }
        let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
        let toml = config(cluster.nodes(), port, http_port, &extra);
        let howdah = Howdah::start_command(howdah, &toml, port, http_port);
        howdah.wait_ready();
        Self { cluster, howdah, superuser, ordinary }
    }
}

/// What was tried and found.
#[derive(Default)]
struct Tally {
    cases: u64,
    pinned: u64,
    findings: Vec<Finding>,
    /// Settings, and rows of pg_settings that have no second value.
    settings: Vec<(usize, Vec<String>)>,
}

impl Tally {
    fn count(&self, kind: Kind) -> usize {
        self.findings.iter().filter(|finding| finding.kind == kind).count()
    }

    fn print(&self) {
        for (count, without) in &self.settings {
            println!(
                "{count} settings x {} ways x {} endings x {} protocols; no second value for {}",
                WAYS.len(),
                ENDINGS.len(),
                PROTOCOLS.len(),
                without.join(", ")
            );
        }
        let (leaks, losses, answers) = (self.count(Kind::Leak), self.count(Kind::Loss), self.count(Kind::Answer));
        println!(
            "{} cases, {} with a server that stayed with its client: {leaks} leaks, {losses} losses, {answers} other answers",
            self.cases, self.pinned
        );
    }

    /// Fails if there is a finding: with the first of each kind and way, and a file that has all of them.
    #[track_caller]
    fn assert_nothing_found(&self, hint: &str) {
        let mut seen = BTreeMap::<String, (usize, String)>::new();
        for finding in &self.findings {
            let way = finding.label.split(' ').next().unwrap_or_default();
            seen.entry(format!("{:?} {way}", finding.kind)).or_insert_with(|| (0, finding.to_string())).0 += 1;
        }
        let short = |text: &str| text.lines().map(|line| line.chars().take(300).collect()).collect::<Vec<String>>();
        let summary: String =
            seen.values().map(|(count, first)| format!("{count} x {}\n", short(first).join("\n"))).collect();
        let all: Vec<_> = self.findings.iter().map(Finding::to_string).collect();
        let file = binary().with_file_name("leaks.txt");
        std::fs::write(&file, format!("{summary}\n{}\n", all.join("\n"))).unwrap();
        assert!(self.findings.is_empty(), "{hint}\n{summary}all of them: {}", file.display());
    }
}

/// Which cases of one login.
type Choice = dyn Fn(&[Setting], &mut Random) -> Vec<Case> + Sync;

/// Plays what `choose` says with both logins at once, until it is all done, the time is over or `enough` has been found.
fn play(stage: &Stage, choose: &Choice, random: Option<u64>, until: Instant, enough: usize) -> Tally {
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for (tenant, superuser) in [(&stage.superuser, true), (&stage.ordinary, false)] {
            let tally = &tally;
            scope.spawn(move || {
                let node = stage.cluster.primary();
                let direct = || connect(node.port(), tenant, &[]).unwrap();
                let (all, without) = settings(&direct, &format!("{}_other", tenant.name), superuser);
                node.sql_in(&tenant.name, &objects(&all)).unwrap();
                tally.lock().unwrap().settings.push((all.len(), without));
                let hidden: Vec<_> = all.iter().map(|s| s.name.as_str()).filter(|n| n.contains('.')).collect();
                let mut lane = Lane::new(tenant, node, stage.howdah.port(), &[&hidden[..], &["role"]].concat());
                let mut numbers = Random::new(random.unwrap_or_default() ^ u64::from(superuser));
                let mut cases = choose(&all, &mut numbers).into_iter();
                while Instant::now() < until {
                    let anything = random.is_some() && (numbers.one_in(2) || cases.len() == 0);
                    let case = match anything {
                        true => Case::random(&all, &mut numbers),
                        false => match cases.next() {
                            Some(case) => case,
                            None => break,
                        },
                    };
                    let found = lane.play(&case);
                    let mut tally = tally.lock().unwrap();
                    tally.cases += 1;
                    tally.findings.extend(found);
                    if tally.findings.len() >= enough {
                        break;
                    }
                }
                tally.lock().unwrap().pinned += lane.pinned;
            });
        }
    });
    tally.into_inner().unwrap()
}

/// Everything, `group` settings to a transaction.
fn walk(settings: &[Setting], group: usize) -> Vec<Case> {
    let at: Vec<(usize, &Setting)> = settings.iter().enumerate().collect();
    let alone = |setting: &Setting| matches!(setting.name.as_str(), "role" | "session_authorization" | "exit_on_error");
    let (single, many): (Vec<_>, Vec<_>) = at.into_iter().partition(|(_, setting)| alone(setting));
    let groups: Vec<_> = many.chunks(group).chain(single.chunks(1)).collect();
    let mut cases = Vec::new();
    for way in WAYS {
        for ending in ENDINGS {
            for protocol in PROTOCOLS {
                cases.extend(groups.iter().map(|group| Case::walk(group, way, ending, protocol)));
            }
        }
    }
    cases.extend(logins(settings));
    cases
}

/// Everything that can be said at login.
fn logins(settings: &[Setting]) -> Vec<Case> {
    let mut cases = Vec::new();
    for setting in settings.iter().filter(|setting| !NOT_AT_LOGIN.contains(&setting.name.as_str())) {
        for options in [false, true] {
            for then in [&[][..], &["SELECT 1"], &["RESET ALL"], &["SET work_mem TO '7MB'", "RESET ALL"]] {
                cases.push(Case::startup(setting, options, then));
            }
        }
    }
    cases
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: not a number: {text}")))
}

fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    from_env("HOWDAH_LEAKS_SEED").unwrap_or_else(|| now.subsec_nanos().into())
}

#[test]
fn what_one_client_sets_no_other_sees_and_it_keeps_itself() {
    let seconds = from_env("HOWDAH_LEAKS_SECONDS").unwrap_or(15);
    let seed = seed();
    println!("leaks: {seconds} s, HOWDAH_LEAKS_SEED={seed}");
    let stage = Stage::set(Command::new(binary()));
    // a part of everything, and then what nobody has thought of
    let choose = |settings: &[Setting], random: &mut Random| {
        let (mut all, mut chosen) = (walk(settings, 12), Vec::new());
        for _ in 0..all.len() / 8 {
            chosen.push(all.swap_remove(random.index(all.len())));
        }
        chosen
    };
    let until = Instant::now() + Duration::from_secs(seconds);
    let tally = play(&stage, &choose, Some(seed), until, 100);
    tally.print();
    tally.assert_nothing_found(&format!("HOWDAH_LEAKS_SEED={seed}"));
}

#[test]
#[ignore = "takes minutes: make leaks"]
fn everything_there_is_to_set_in_every_way_leaks_nothing_and_is_not_lost() {
    let stage = Stage::set(Command::new(binary()));
    let group = from_env("HOWDAH_LEAKS_GROUP").map_or(10, |group| usize::try_from(group).unwrap());
    let enough = from_env("HOWDAH_LEAKS_ENOUGH").map_or(1_000, |enough| usize::try_from(enough).unwrap());
    let begun = Instant::now();
    let until = begun + Duration::from_secs(from_env("HOWDAH_LEAKS_SECONDS").unwrap_or(7_200));
    let choose = move |settings: &[Setting], random: &mut Random| {
        let mut all = walk(settings, group);
        for at in (1..all.len()).rev() {
            all.swap(at, random.index(at + 1)); // what comes first is as good as the rest
        }
        all
    };
    let tally = play(&stage, &choose, None, until, enough);
    println!("all of it took {:?}", begun.elapsed());
    tally.print();
    tally.assert_nothing_found("");
}

/// Without this, zero leaks would prove nothing.
#[test]
#[ignore = "builds howdah a second time: make test runs it last, as does make negative-control"]
fn a_build_that_does_not_reset_its_servers_is_caught() {
    let mut howdah = Command::new(crate::foreign::defective());
    howdah.env("HOWDAH_DEFECT", "no-reset");
    let stage = Stage::set(howdah);
    let choose = |settings: &[Setting], _: &mut Random| walk(settings, 12);
    let tally = play(&stage, &choose, Some(seed()), Instant::now() + Duration::from_secs(60), 10);
    tally.print();
    assert!(tally.count(Kind::Leak) > 0, "the defect was not caught");
}
