//! What applications make of a failover: drivers with their default settings, whose primary dies under everything they may
//! be doing, and one strike for all of them.
//!
//! No application believes in a commit that did not happen, none repeats a write, all keep their connections, loops that look
//! for 40001 succeed, and settings and prepared statements are there on the new primary. What the cases are: `tests/drivers`.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use super::{node, python};
use crate::support::{Howdah, Node, SOON, Tenant, builder, eventually};

/// A script of cases, which says a line where it has come to a point.
struct Script {
    name: &'static str,
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    errors: thread::JoinHandle<String>,
}

impl Script {
    fn start(name: &'static str, mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let errors = child.stderr.take().unwrap();
        let errors = thread::spawn(move || std::io::read_to_string(errors).unwrap_or_default());
        let (say, lines) = mpsc::channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
        Self { name, child, input, lines, errors }
    }

    fn tell(&mut self, word: &str) {
        writeln!(self.input, "{word}").unwrap();
    }

    /// Waits until it says this; what it has said before is what it has done.
    fn until(mut self, word: &str) -> Self {
        let mut said = Vec::new();
        loop {
            match self.lines.recv_timeout(Duration::from_secs(60)) {
                Ok(line) if line == word => return self,
                Ok(line) => said.push(line),
                Err(_) => {
                    let _ = self.child.kill();
                    let errors = self.errors.join().unwrap();
                    panic!("{} did not say {word:?}, but {said:?}:\n{errors}", self.name);
                }
            }
        }
    }
}

fn tell_all(scripts: Vec<Script>, word: &str, answer: &str) -> Vec<Script> {
    let mut scripts = scripts;
    scripts.iter_mut().for_each(|script| script.tell(word));
    scripts.into_iter().map(|script| script.until(answer)).collect()
}

/// Strikes a primary with everything in flight.
fn struck(how: &str, strike: impl Fn(&Node)) {
    let cluster = builder().standby("b").start().unwrap();
    let (a, b) = (cluster.primary(), cluster.find("b").unwrap());
    let tenant = Tenant::on(a);
    a.sql_in(&tenant.name, &format!("CREATE TABLE t (who text); ALTER TABLE t OWNER TO {}", tenant.name)).unwrap();
    a.set("synchronous_standby_names", "*").unwrap();
    cluster.wait_streaming(SOON).unwrap();
    eventually("b is synchronous", SOON, || {
        a.sql("SELECT sync_state FROM pg_stat_replication").unwrap().cell() == Some("sync")
    });
    let howdah = Howdah::before(cluster.nodes(), "[pool]\nsize = 60\n");
    let commands = [
        ("psycopg", python("failover_psycopg.py", "psycopg")),
        ("asyncpg", python("failover_asyncpg.py", "asyncpg")),
        ("node-postgres", node("failover_pg.js")),
    ];
    let scripts = commands.into_iter().map(|(name, mut command)| {
        // each its own database: names of cases are the same
        let tenant = Tenant::on(a);
        a.sql_in(&tenant.name, &format!("CREATE TABLE t (who text); ALTER TABLE t OWNER TO {}", tenant.name)).unwrap();
        command.arg(tenant.url(howdah.port())).arg(how);
        Script::start(name, command)
    });
    let scripts: Vec<_> = scripts.collect();
    let scripts = scripts.into_iter().map(|script| script.until("ready")).collect();
    b.sql("SELECT pg_wal_replay_pause()").unwrap();
    let scripts = tell_all(scripts, "apply", "sent");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    eventually("six commits wait for the standby", SOON, || a.sql(waiting).unwrap().cell() == Some("6"));
    a.freeze();
    let scripts = tell_all(scripts, "frozen", "sent");
    strike(a);
    b.promote().unwrap();
    let scripts = tell_all(scripts, "struck", "sent");
    for script in scripts {
        let mut script = script.until("done");
        assert!(script.child.wait().unwrap().success(), "{}", script.name);
    }
}

#[test]
fn drivers_survive_the_loss_of_a_whole_primary() {
    struck("all", |primary| primary.kill_all().unwrap());
}

#[test]
fn drivers_survive_the_loss_of_a_postmaster_alone() {
    struck("postmaster", |primary| {
        primary.kill().unwrap();
        primary.thaw();
        eventually("its server processes have gone", SOON, || primary.processes().is_empty());
    });
}
