//! The task that asks one node, when somebody wants to know.
//!
//! Every wait has a bound of its own, here and in the sessions (`statement_timeout`); a question that fails says so in the log once,
//! and does not keep the others from being asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::time;
use tokio_postgres::SimpleQueryRow;

use super::FRESH;
use super::questions::{QUESTIONS, Question};
use crate::admin::metrics::families::Kind;
use crate::catalog::connection::{ConnectionError, ControlConnection};
use crate::catalog::{Monitor, WatchedNode};
use crate::config::queries::{Query, Usage};
use crate::topology::ClusterName;

/// Shown in the nodes' `pg_stat_activity`.
const APPLICATION_NAME: &str = "howdah metrics";
/// How long a round of questions may take.
const ROUND_MAX: Duration = Duration::from_secs(30);
/// The least patience with an answer; the monitor's may be shorter than counting files takes.
const PATIENCE_MIN: Duration = Duration::from_secs(5);
/// Nobody has wanted to know for so long: the connection is closed.
const IDLE: Duration = Duration::from_secs(300);
/// Rows of an answer that become series; the rest would be too many.
const ROWS_MAX: usize = 500;
/// Nothing is written, nothing waits for long, nothing of a user's is called.
const SESSION: &str = "SET default_transaction_read_only = on; SET statement_timeout = '4s'; SET lock_timeout = '1s'";
const OWN_PATH: &str = "SET search_path = pg_catalog, pg_temp";

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::admin) struct Sample {
    pub(in crate::admin) metric: Arc<str>,
    pub(in crate::admin) kind: Kind,
    pub(in crate::admin) help: Arc<str>,
    pub(in crate::admin) labels: Vec<(Arc<str>, String)>,
    pub(in crate::admin) value: f64,
}

/// What a node said last.
#[derive(Debug, Default)]
pub(in crate::admin) struct Answers {
    /// When the asking began; `None` while it was never asked.
    asked: Option<Instant>,
    /// How long it took.
    pub(in crate::admin) took: Duration,
    /// Whether the node could be asked at all.
    pub(in crate::admin) reached: bool,
    /// The server's version, as it writes it.
    pub(in crate::admin) version: Option<String>,
    /// What it said.
    pub(in crate::admin) samples: Vec<Sample>,
    /// The operator's questions, by name and database: whether they could be answered.
    pub(in crate::admin) own: BTreeMap<(String, String), bool>,
}

impl Answers {
    pub(super) fn is_from(&self, now: Instant, age_max: Duration) -> bool {
        self.asked.is_some_and(|asked| now.saturating_duration_since(asked) <= age_max)
    }
}

/// When a question was asked last, and what came of it.
struct Kept {
    asked: Instant,
    samples: Vec<Sample>,
    answered: bool,
}

pub(super) struct Asker {
    cluster: ClusterName,
    node: WatchedNode,
    monitor: Monitor,
    queries: Arc<Vec<Query>>,
    connection: Option<(ControlConnection, Server)>,
    kept: BTreeMap<(String, String), Kept>,
    complained: BTreeSet<String>,
}

/// What decides which questions make sense.
#[derive(Clone, Debug)]
struct Server {
    number: u32,
    version: String,
}

impl Asker {
    pub(super) fn new(cluster: &ClusterName, node: WatchedNode, monitor: Monitor, queries: Arc<Vec<Query>>) -> Self {
        let monitor = Monitor { timeout: monitor.timeout.max(PATIENCE_MIN), ..monitor };
        let (kept, complained) = (BTreeMap::new(), BTreeSet::new());
        Self { cluster: cluster.clone(), node, monitor, queries, connection: None, kept, complained }
    }

    /// Runs until it is aborted.
    pub(super) async fn run(mut self, wanted: Arc<Notify>, publish: watch::Sender<Arc<Answers>>) {
        loop {
            if time::timeout(IDLE, wanted.notified()).await.is_err() {
                if let Some((connection, _)) = self.connection.take() {
                    connection.close().await;
                }
                continue;
            }
            let asked = Instant::now();
            if publish.borrow().is_from(asked, FRESH) {
                continue;
            }
            let round = time::timeout(ROUND_MAX, self.round()).await;
            let outcome = round.unwrap_or(Err(ConnectionError::TimedOut(ROUND_MAX)));
            let mut answers = Answers { asked: Some(asked), took: asked.elapsed(), ..Answers::default() };
            match outcome {
                Ok(server) => {
                    answers.reached = true;
                    answers.version = Some(server.version);
                    answers.samples = self.kept.values().flat_map(|kept| kept.samples.clone()).collect();
                    let own = self.kept.iter().filter(|((name, _), _)| !name.is_empty() && !name.starts_with('.'));
                    answers.own = own.map(|(name, kept)| (name.clone(), kept.answered)).collect();
                    self.complained.remove("");
                }
                Err(error) => {
                    // half an answer may still be on its way
                    self.connection = None;
                    self.complain("", &error.to_string());
                }
            }
            publish.send_replace(Arc::new(answers));
        }
    }

    /// Asks what is due.
    async fn round(&mut self) -> Result<Server, ConnectionError> {
        let (connection, server) = match self.connection.take() {
            Some(open) => open,
            None => self.open().await?,
        };
        let is_standby = connection.rows("SELECT pg_is_in_recovery()").await?;
        let is_standby = is_standby.first().and_then(|row| row.get(0)) == Some("t");
        for question in QUESTIONS {
            let key = (format!(".{}", question.name), String::new());
            if !question.suits(server.number, is_standby) {
                self.kept.remove(&key);
                continue;
            }
            if !self.is_due(&key, question.every) {
                continue;
            }
            let rows = connection.rows(question.sql).await;
            let samples = rows.map(|rows| read(&rows, question));
            self.keep(key, question.name, samples)?;
        }
        self.own_questions(is_standby).await;
        self.connection = Some((connection, server.clone()));
        Ok(server)
    }

    async fn open(&self) -> Result<(ControlConnection, Server), ConnectionError> {
        let connection = self.session(&self.monitor.dbname).await?;
        connection.rows(OWN_PATH).await?;
        let told =
            connection.rows("SELECT current_setting('server_version_num'), current_setting('server_version')").await?;
        let text = |at: usize| told.first().and_then(|row| row.try_get(at).ok().flatten()).unwrap_or_default();
        let server = Server { number: text(0).parse().unwrap_or(0), version: text(1).to_owned() };
        Ok((connection, server))
    }

    async fn session(&self, dbname: &str) -> Result<ControlConnection, ConnectionError> {
        let monitor = Monitor { dbname: dbname.to_owned(), ..self.monitor.clone() };
        let connection = ControlConnection::open(&self.node, &monitor, APPLICATION_NAME).await?;
        connection.rows(SESSION).await?;
        Ok(connection)
    }

    /// The operator's. A session of its own for each database, closed again: what one leaves set the next does not find.
    async fn own_questions(&mut self, is_standby: bool) {
        let queries = Arc::clone(&self.queries);
        let suits = |query: &&Query| {
            (query.clusters.is_empty() || query.clusters.iter().any(|name| **name == *self.cluster))
                && if is_standby { query.standby } else { query.primary }
        };
        let mut by_database: BTreeMap<String, Vec<&Query>> = BTreeMap::new();
        let mut current = BTreeSet::new();
        for query in queries.iter().filter(suits) {
            let own = [self.monitor.dbname.clone()];
            let databases = if query.databases.is_empty() { &own[..] } else { &query.databases[..] };
            for database in databases {
                let key = (query.name.clone(), database.clone());
                if self.is_due(&key, query.interval) {
                    by_database.entry(database.clone()).or_default().push(query);
                }
                current.insert(key);
            }
        }
        self.kept.retain(|key, _| key.0.starts_with('.') || current.contains(key));
        for (database, queries) in by_database {
            let session = self.session(&database).await;
            for query in queries {
                let key = (query.name.clone(), database.clone());
                let samples = match &session {
                    Ok(session) => session.rows(&query.query).await.and_then(|rows| read_own(&rows, query, &database)),
                    Err(error) => Err(error.clone()),
                };
                let lost = matches!(samples, Err(ConnectionError::TimedOut(_)));
                let name = format!("{} in database \"{database}\"", query.name);
                // whatever is wrong with it, it is the operator's question and not the node
                let _ = self.keep(key, &name, samples);
                if lost {
                    break;
                }
            }
            if let Ok(session) = session {
                session.close().await;
            }
        }
    }

    fn is_due(&self, key: &(String, String), every: Duration) -> bool {
        self.kept.get(key).is_none_or(|kept| kept.asked.elapsed() >= every)
    }

    /// Takes over an answer. What the server says of one question is no reason not to ask the others; a broken connection is.
    fn keep(
        &mut self,
        key: (String, String),
        name: &str,
        samples: Result<Vec<Sample>, ConnectionError>,
    ) -> Result<(), ConnectionError> {
        let (samples, outcome) = match samples {
            Ok(samples) => {
                self.complained.remove(name);
                (Some(samples), Ok(()))
            }
            Err(error) => {
                self.complain(name, &error.to_string());
                let reported = matches!(error, ConnectionError::Reported { .. });
                (None, if reported { Ok(()) } else { Err(error) })
            }
        };
        let answered = samples.is_some();
        self.kept.insert(key, Kept { asked: Instant::now(), samples: samples.unwrap_or_default(), answered });
        outcome
    }

    /// Once, until it is answered again.
    fn complain(&mut self, question: &str, error: &str) {
        if self.complained.insert(question.to_owned()) {
            let (cluster, node) = (&*self.cluster, &*self.node.name);
            tracing::warn!(cluster, node, question, error, "metrics: a node could not be asked");
        }
    }
}

/// Rows with labels and values, as a question says.
fn read(rows: &[SimpleQueryRow], question: &Question) -> Vec<Sample> {
    let mut samples = Vec::new();
    for row in rows.iter().take(ROWS_MAX) {
        let mut labels = Vec::new();
        for (at, column) in row.columns().iter().enumerate() {
            let text = row.try_get(at).ok().flatten();
            if question.labels.contains(&column.name()) {
                labels.push((column.name().into(), text.unwrap_or_default().to_owned()));
                continue;
            }
            let metric = format!("howdah_postgres_{}", column.name());
            let Some(family) = crate::admin::metrics::family(&metric) else { continue };
            if let Some(value) = text.and_then(|text| number(text, family.kind)) {
                samples.push(Sample {
                    metric: family.name.into(),
                    kind: family.kind,
                    help: family.help.into(),
                    labels: labels.clone(),
                    value,
                });
            }
        }
    }
    samples
}

/// Rows as the operator has described them.
fn read_own(rows: &[SimpleQueryRow], query: &Query, database: &str) -> Result<Vec<Sample>, ConnectionError> {
    let mut samples = Vec::new();
    for row in rows.iter().take(ROWS_MAX) {
        let text = |name: &str| {
            let at = row.columns().iter().position(|column| column.name() == name);
            let at = at.ok_or_else(|| ConnectionError::Reported {
                sqlstate: None,
                message: format!("the answer has no column \"{name}\""),
            })?;
            Ok::<_, ConnectionError>(row.try_get(at).ok().flatten())
        };
        let mut labels: Vec<(Arc<str>, String)> = vec![("database".into(), database.to_owned())];
        for column in query.columns.iter().filter(|column| column.usage == Usage::Label) {
            labels.push((column.name.as_str().into(), text(&column.name)?.unwrap_or_default().to_owned()));
        }
        for column in &query.columns {
            let kind = match column.usage {
                Usage::Counter => Kind::Counter,
                Usage::Gauge => Kind::Gauge,
                Usage::Label | Usage::Discard => continue,
            };
            let Some(text) = text(&column.name)? else { continue };
            let value = number(text, kind).ok_or_else(|| ConnectionError::Reported {
                sqlstate: None,
                message: format!("column \"{}\" is not a number", column.name),
            })?;
            samples.push(Sample {
                metric: format!("{}_{}", query.name, column.name).into(),
                kind,
                help: column.help.as_str().into(),
                labels: labels.clone(),
                value,
            });
        }
    }
    Ok(samples)
}

/// A number, or a boolean as 1 and 0. A counter is finite and not negative.
fn number(text: &str, kind: Kind) -> Option<f64> {
    let value = match text {
        "t" => 1.0,
        "f" => 0.0,
        text => text.parse().ok()?,
    };
    (kind != Kind::Counter || (value >= 0.0 && f64::is_finite(value))).then_some(value)
}
