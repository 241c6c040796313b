//! `--chaos`: kills the primary with SIGKILL every so often, and says what clients saw of it: counted, never assumed.
//!
//! The story goes on as the cluster does: a primary is only killed while every other node follows it, and the next waits until the
//! killed one has become a standby. Not here: what the clients do ([`checker`](super::checker)).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio_postgres::Config;

use super::DemoError;
use super::checker::{Checker, PRESENT, SCHEMA, Verdict, by_class};
use super::postgres::{LocalCluster, Node};
use super::screen::{grouped, milliseconds};
use super::status::Status;

/// Clients that are asked what they saw.
const CLIENTS: u16 = 8;
/// Between two rows of one: a few hundred rows a second in all leave the machine to the cluster.
const PAUSE: Duration = Duration::from_millis(10);
/// Whoever has had no row acknowledged by then is said to wait still.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the story is.
enum Scene {
    /// All is well, until then.
    Calm(Instant),
    /// The primary is dead.
    Killed { victim: String, mark: Instant, errors: BTreeMap<String, u64> },
    /// There is another, and the old one is to come back.
    Promoted { victim: String, mark: Instant },
}

/// The one who kills, and the clients who are asked.
pub struct Chaos {
    every: Duration,
    checker: Checker,
    database: String,
    scene: Scene,
    gaps: Vec<Duration>,
    failovers: u32,
    returns: u32,
    missing: u64,
    last: Verdict,
}

impl Chaos {
    /// Makes the table, as the owner of the database, and starts the clients.
    ///
    /// # Errors
    /// When the table or the thread of the clients cannot be had.
    pub fn start(primary: &Node, target: &Config, every: Duration) -> Result<Self, DemoError> {
        let database = target.get_dbname().unwrap_or_default().to_owned();
        let owner = target.get_user().unwrap_or_default();
        primary.sql_in(&database, &format!("SET ROLE {owner}; {SCHEMA}"))?;
        let checker = Checker::start(target, CLIENTS, PAUSE)
            .map_err(|source| DemoError::Io { what: "start the clients that insert", source })?;
        let scene = Scene::Calm(Instant::now() + every);
        Ok(Self {
            every,
            checker,
            database,
            scene,
            gaps: Vec::new(),
            failovers: 0,
            returns: 0,
            missing: 0,
            last: Verdict::default(),
        })
    }

    /// The next part of the story, if it has come to one: a line to be shown.
    pub fn go_on(&mut self, status: &Status, cluster: &LocalCluster) -> Option<String> {
        let (scene, line) = match std::mem::replace(&mut self.scene, Scene::Calm(Instant::now())) {
            Scene::Calm(until) if Instant::now() >= until && all_is_well(status) => self.kill(status, cluster),
            Scene::Killed { victim, mark, errors } => self.look(victim, mark, errors, status, cluster),
            Scene::Promoted { victim, mark } => self.wait(victim, mark, status),
            calm @ Scene::Calm(_) => (calm, None),
        };
        self.scene = scene;
        line
    }

    fn kill(&self, status: &Status, cluster: &LocalCluster) -> (Scene, Option<String>) {
        let later = Scene::Calm(Instant::now() + Duration::from_secs(1));
        let Some(victim) = primary(status).and_then(|name| cluster.find(name)) else { return (later, None) };
        let Some(pid) = victim.postmaster_pid() else { return (later, None) };
        let errors = self.checker.errors();
        let mark = self.checker.mark();
        victim.signal(Signal::KILL);
        let line =
            format!("kill -9 {}: the postmaster of \"{}\", which is the primary", pid.as_raw_pid(), victim.name());
        (Scene::Killed { victim: victim.name().to_owned(), mark, errors }, Some(line))
    }

    fn look(
        &mut self,
        victim: String,
        mark: Instant,
        errors: BTreeMap<String, u64>,
        status: &Status,
        cluster: &LocalCluster,
    ) -> (Scene, Option<String>) {
        let window = self.checker.window(mark);
        let old = cluster.find(&victim).map(|node| i32::from(node.port()));
        let heir = primary(status).and_then(|name| cluster.find(name));
        let moved = heir.is_some_and(|heir| heir.name() != victim);
        let served = moved && window.everybody && window.servers.last().copied() != old;
        let Some(heir) = heir.filter(|_| served || mark.elapsed() > PATIENCE) else {
            return (Scene::Killed { victim, mark, errors }, None);
        };
        self.failovers += 1;
        self.gaps.extend(&window.gaps);
        let lost = match self.checker.verify(|| heir.sql_in(&self.database, PRESENT)) {
            Ok(verdict) => {
                let lost = verdict.missing.saturating_sub(self.missing);
                self.missing = verdict.missing;
                let text = format!("{} rows acknowledged so far, {lost} more missing", grouped(verdict.acknowledged));
                self.last = verdict;
                text
            }
            Err(error) => format!("rows not counted: {error}"),
        };
        let mut now = self.checker.errors();
        now.retain(|class, count| {
            *count -= errors.get(class).copied().unwrap_or_default();
            *count > 0
        });
        let (least, middle, most) = window.spread();
        let epoch = status.clusters.first().map_or(0, |cluster| cluster.epoch);
        let line = format!(
            "\"{}\" is the primary, epoch {epoch}: {CLIENTS} clients waited {} / {} / {} (min/median/max); errors: {}; {lost}",
            heir.name(),
            milliseconds(least),
            milliseconds(middle),
            milliseconds(most),
            by_class(&now),
        );
        (Scene::Promoted { victim, mark }, Some(line))
    }

    fn wait(&mut self, victim: String, mark: Instant, status: &Status) -> (Scene, Option<String>) {
        let back =
            status.clusters.iter().flat_map(|cluster| &cluster.nodes).any(|node| {
                node.name == victim && node.healthy && node.replica && node.role.as_deref() == Some("standby")
            });
        if !back {
            return (Scene::Promoted { victim, mark }, None);
        }
        self.returns += 1;
        let line = format!("\"{victim}\" is back as a standby, {:.1} s after its death", mark.elapsed().as_secs_f64());
        (Scene::Calm((mark + self.every).max(Instant::now() + Duration::from_secs(1))), Some(line))
    }

    /// Ends the clients, counts once more, and says how it all was.
    pub fn finish(mut self, cluster: &LocalCluster, status: Option<&Status>) -> String {
        self.checker.finish();
        let primary = status.and_then(primary).and_then(|name| cluster.find(name));
        if let Some(primary) = primary
            && let Ok(verdict) = self.checker.verify(|| primary.sql_in(&self.database, PRESENT))
        {
            self.last = verdict;
        }
        self.gaps.sort_unstable();
        let at = |index: usize| milliseconds(self.gaps.get(index).copied().unwrap_or_default());
        let waited = match self.gaps.len() {
            0 => String::new(),
            count => format!("clients waited {} / {} / {} (min/median/max), ", at(0), at(count / 2), at(count - 1)),
        };
        let Verdict { acknowledged, missing, doubtful_present, doubtful_absent, duplicates, .. } = &self.last;
        format!(
            "{} failovers, {} nodes back as standbys; {waited}errors: {}\n\
             {} rows acknowledged: {missing} missing, {duplicates} there twice; of {} in doubt {doubtful_present} are there; \
             {} connections were lost",
            self.failovers,
            self.returns,
            self.last.errors_by_class(),
            grouped(*acknowledged),
            doubtful_present + doubtful_absent,
            self.last.reconnected,
        )
    }
}

/// Whom the endpoint takes for the primary.
fn primary(status: &Status) -> Option<&str> {
    status.clusters.first()?.primary.as_deref()
}

/// Whether there is a primary, and every other node is a standby that may be read from.
fn all_is_well(status: &Status) -> bool {
    let Some(primary) = primary(status) else { return false };
    status.clusters.iter().flat_map(|cluster| &cluster.nodes).all(|node| {
        node.healthy && if node.name == primary { node.role.as_deref() == Some("primary") } else { node.replica }
    })
}
