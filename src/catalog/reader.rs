//! The task that asks one cluster about its users, over one connection that it keeps.
//!
//! All who have asked when a question is put share its answer, each user is asked for once. Without `auth.query` one
//! statement serves all of them.
//!
//! What an attacker could have set in a session of his own (`search_path`, operators, casts) does not hold here: the
//! connection is the monitor's, opened and used by nobody else, and our own statements name everything with its schema.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{self, Instant};
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Row, Statement};

use super::connection::{ConnectionError, ControlConnection, Monitor, WatchedCluster, WatchedNode};
use super::role::{Ordinary, Role, RoleSecret};
use super::verifiers::{CatalogError, Lookup, Request, State};
use crate::pg::SqlState;
use crate::topology::Board;

/// Shown in the nodes' `pg_stat_activity`.
const APPLICATION_NAME: &str = "howdah verifiers";
/// Between two looks nobody asked for: whether passwords can be read at all, and what they are like.
const PERIOD: Duration = Duration::from_secs(30);
/// The first wait after a look that failed; doubles up to [`PERIOD`].
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Between two looks at the board for a healthy node before the first answer.
const LOOK: Duration = Duration::from_millis(100);
/// At least so long between two questions, so that a flood of strangers costs the node less than a core.
const SPACING: Duration = Duration::from_millis(2);

/// The least patience with an answer. The monitor's is for telling the dead from the living, and may be shorter than a busy
/// server takes to let somebody in.
const PATIENCE_MIN: Duration = Duration::from_secs(5);

/// `pg_authid`'s answer in the form `auth.query` has it.
const SECRETS: &str = "SELECT rolname, rolpassword, rolvaliduntil FROM pg_catalog.pg_authid \
    WHERE rolcanlogin AND rolname OPERATOR(pg_catalog.=) ANY ($1)";

/// Every role a user is a member of, directly or not, itself included.
const GROUPS: &str = "\
    WITH RECURSIVE up (member, role) AS ( \
        SELECT oid, oid FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) ANY ($1) \
        UNION SELECT up.member, m.roleid FROM up \
            JOIN pg_catalog.pg_auth_members m ON m.member OPERATOR(pg_catalog.=) up.role) \
    SELECT u.rolname, g.rolname FROM up \
        JOIN pg_catalog.pg_roles u ON u.oid OPERATOR(pg_catalog.=) up.member \
        JOIN pg_catalog.pg_roles g ON g.oid OPERATOR(pg_catalog.=) up.role";

/// The beginning that most secrets have.
const ORDINARY: &str = "\
    SELECT pg_catalog.substring(rolpassword, '^(SCRAM-SHA-256[$][0-9]+|md5)') FROM pg_catalog.pg_authid \
    WHERE rolcanlogin AND rolpassword IS NOT NULL GROUP BY 1 ORDER BY pg_catalog.count(*) DESC, 1 DESC LIMIT 1";

/// The server's clock, in microseconds since 2000 as its timestamps are.
const CLOCK: &str = "SELECT pg_catalog.clock_timestamp()";

/// Asks one cluster.
pub(super) struct Reader {
    cluster: Arc<WatchedCluster>,
    lookup: Arc<Lookup>,
    board: Arc<Board>,
    state: Arc<State>,
    session: Option<Session>,
}

type Answers = HashMap<Arc<str>, Arc<Role>>;

impl Reader {
    pub(super) const fn new(
        cluster: Arc<WatchedCluster>,
        lookup: Arc<Lookup>,
        board: Arc<Board>,
        state: Arc<State>,
    ) -> Self {
        Self { cluster, lookup, board, state, session: None }
    }

    /// Runs until nobody can ask any more.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut due = Instant::now();
        let mut earliest = due;
        let mut retry = RETRY_FIRST;
        loop {
            let mut waiting = Vec::new();
            tokio::select! {
                request = queue.recv() => match request {
                    Some(request) => waiting.push(request),
                    None => return,
                },
                () = time::sleep_until(due) => {}
            }
            // nothing but a person will change the answer, and each question would be an error in the server's log
            let hopeless = self.state.trouble().filter(CatalogError::needs_a_person);
            if let Some(error) = hopeless.filter(|_| Instant::now() < due) {
                waiting.into_iter().for_each(|request| drop(request.answer.send(Err(error.clone()))));
                continue;
            }
            time::sleep_until(earliest).await;
            while let Ok(request) = queue.try_recv() {
                waiting.push(request);
            }
            earliest = Instant::now() + SPACING;
            let users: HashSet<_> = waiting.iter().map(|request| Arc::clone(&request.user)).collect();
            let look = Instant::now() >= due || self.state.trouble().is_some();
            let outcome = self.ask(&users, look).await;
            match &outcome {
                Ok(_) => {
                    retry = RETRY_FIRST;
                    // an answer between two looks moves neither; one after trouble is a look
                    let now = Instant::now();
                    due = if look { now + PERIOD } else { due };
                }
                Err(CatalogError::NoNode(_)) => due = Instant::now() + LOOK,
                Err(_) => {
                    due = Instant::now() + retry;
                    retry = (retry * 2).min(PERIOD);
                }
            }
            self.state.note(&self.cluster.name, outcome.as_ref().err());
            for request in waiting {
                let answer = match &outcome {
                    Ok(answers) => answers.get(&request.user).cloned().ok_or_else(|| self.lost()),
                    Err(error) => Err(error.clone()),
                };
                // a worker that has stopped waiting needs no answer
                let _ = request.answer.send(answer);
            }
        }
    }

    /// Every user that was asked for has an answer; this says so if one had none.
    fn lost(&self) -> CatalogError {
        CatalogError::Stopped(self.cluster.name.to_string())
    }

    /// Asks over the connection that is there. One that was used before may have ended since: a second try on a new one.
    async fn ask(&mut self, users: &HashSet<Arc<str>>, look: bool) -> Result<Answers, CatalogError> {
        let cluster = Arc::clone(&self.cluster);
        let monitor = cluster.monitor.as_ref().ok_or_else(|| CatalogError::NoMonitor(cluster.name.clone()))?;
        let node = self.node_to_ask().ok_or_else(|| CatalogError::NoNode(cluster.name.clone()))?;
        if let Some(session) = self.session.take().filter(|session| session.node == node) {
            match session.ask(users, look, &self.state).await {
                Ok(answers) => {
                    self.session = Some(session);
                    return Ok(answers);
                }
                Err(Failure::Connection(error @ ConnectionError::TimedOut(_))) => {
                    return Err(self.explain(Failure::Connection(error), &node, monitor));
                }
                Err(_) => {}
            }
        }
        let fresh = async {
            let session = Session::open(&node, monitor, &self.lookup).await?;
            let answers = session.ask(users, true, &self.state).await?;
            Ok((session, answers))
        };
        match fresh.await {
            Ok((session, answers)) => {
                self.session = Some(session);
                Ok(answers)
            }
            Err(failure) => Err(self.explain(failure, &node, monitor)),
        }
    }

    fn explain(&self, failure: Failure, node: &WatchedNode, monitor: &Monitor) -> CatalogError {
        explain(failure, node, monitor, &self.lookup)
    }

    /// The primary; without one any healthy node, whose catalog is a little older.
    fn node_to_ask(&self) -> Option<WatchedNode> {
        let topology = self.board.read();
        let view = topology.clusters.get(&self.cluster.name)?;
        let healthy = view.nodes.iter().filter(|node| node.healthy).map(|node| &node.name);
        let name = view.primary.iter().chain(healthy).next()?;
        self.cluster.nodes.iter().find(|node| node.name == *name).cloned()
    }
}

/// Asks one node for one user, as a reader would: whether the monitor's user may, and `auth.query` works.
///
/// # Errors
/// Why not.
pub async fn try_lookup(node: &WatchedNode, monitor: &Monitor, lookup: &Lookup) -> Result<(), CatalogError> {
    let asked = async {
        let session = Session::open(node, monitor, lookup).await?;
        session.ask(&HashSet::from([Arc::from(monitor.user.as_str())]), true, &State::default()).await?;
        session.connection.close().await;
        Ok(())
    };
    asked.await.map_err(|failure| explain(failure, node, monitor, lookup))
}

fn explain(failure: Failure, node: &WatchedNode, monitor: &Monitor, lookup: &Lookup) -> CatalogError {
    let node = node.name.clone();
    match failure {
        Failure::Query(message) => CatalogError::BadQuery { message, node },
        Failure::Connection(ConnectionError::Reported { sqlstate: Some(SqlState::INSUFFICIENT_PRIVILEGE), .. })
            if lookup.query.is_none() =>
        {
            CatalogError::NoPermission {
                user: monitor.user.clone(),
                dbname: lookup.dbname.as_ref().unwrap_or(&monitor.dbname).clone(),
                node,
            }
        }
        Failure::Connection(error) => CatalogError::NoAnswer { node, error },
    }
}

/// Why there is no answer.
enum Failure {
    Connection(ConnectionError),
    /// `auth.query` is at fault.
    Query(String),
}

impl From<ConnectionError> for Failure {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error)
    }
}

/// A connection with its questions prepared.
struct Session {
    node: WatchedNode,
    connection: ControlConnection,
    secrets: Statement,
    /// Whether `secrets` takes one user, and is the operator's.
    own_query: bool,
    groups: Option<Statement>,
}

impl Session {
    async fn open(node: &WatchedNode, monitor: &Monitor, lookup: &Lookup) -> Result<Self, Failure> {
        let mut monitor = monitor.clone();
        monitor.timeout = monitor.timeout.max(PATIENCE_MIN);
        if let Some(dbname) = &lookup.dbname {
            monitor.dbname.clone_from(dbname);
        }
        let connection = ControlConnection::open(node, &monitor, APPLICATION_NAME).await?;
        let secrets = match &lookup.query {
            Some(query) => checked(connection.prepare(query).await.map_err(blame_query)?)?,
            None => connection.prepare(SECRETS).await?,
        };
        let groups = if lookup.groups { Some(connection.prepare(GROUPS).await?) } else { None };
        Ok(Self { node: node.clone(), connection, secrets, own_query: lookup.query.is_some(), groups })
    }

    async fn ask(&self, users: &HashSet<Arc<str>>, look: bool, state: &State) -> Result<Answers, Failure> {
        let asked = Instant::now();
        let names: Vec<&str> = users.iter().map(AsRef::as_ref).collect();
        let mut roles: HashMap<&str, Role> = names.iter().map(|name| (*name, Role::unknown(asked))).collect();
        if self.own_query {
            for name in &names {
                let rows = self.connection.query(&self.secrets, &[name]).await.map_err(blame_query)?;
                self.read_secrets(&rows, asked, &mut roles).await?;
            }
        } else if !names.is_empty() {
            let rows = self.connection.query(&self.secrets, &[&names]).await?;
            self.read_secrets(&rows, asked, &mut roles).await?;
        }
        if let Some(groups) = self.groups.as_ref().filter(|_| !names.is_empty()) {
            for row in self.connection.query(groups, &[&names]).await? {
                let (user, group) = (text(&row, 0)?, text(&row, 1)?);
                if let (Some(role), Some(group)) = (user.and_then(|user| roles.get_mut(user)), group) {
                    role.groups.push(group.into());
                }
            }
        }
        let mut answers = Answers::with_capacity(users.len());
        for user in users {
            if let Some(role) = roles.remove(&**user) {
                let role = Arc::new(role);
                state.remember(user, &role);
                answers.insert(Arc::clone(user), role);
            }
        }
        if look && !self.own_query {
            let rows = self.connection.rows(ORDINARY).await?;
            let kind = rows.first().and_then(|row| row.try_get(0).ok().flatten()).and_then(Ordinary::of);
            state.set_ordinary(kind.unwrap_or_default());
        } else if self.own_query {
            state.set_ordinary(state.commonest().unwrap_or_default());
        }
        Ok(answers)
    }

    async fn read_secrets(&self, rows: &[Row], asked: Instant, roles: &mut HashMap<&str, Role>) -> Result<(), Failure> {
        for row in rows {
            let secret = RoleSecret::from_stored(text(row, 1)?);
            let expires = match row.len() {
                0..=2 => None,
                _ => row.try_get::<_, Option<Timestamp>>(2).map_err(|error| Failure::Query(error.to_string()))?,
            };
            let expires = match expires {
                None | Some(Timestamp(i64::MAX)) => None,
                Some(Timestamp(at)) => {
                    let now = self.server_clock().await?;
                    let left = u64::try_from(at.saturating_sub(now)).unwrap_or(0);
                    asked.checked_add(Duration::from_micros(left))
                }
            };
            match text(row, 0)?.and_then(|user| roles.get_mut(user)) {
                Some(role) => (role.secret, role.expires) = (secret, expires),
                None => return Err(Failure::Query("the first column is not the user that was asked for".to_owned())),
            }
        }
        Ok(())
    }

    async fn server_clock(&self) -> Result<i64, Failure> {
        let clock = self.connection.prepare(CLOCK).await?;
        let rows = self.connection.query(&clock, &[]).await?;
        let now = rows.first().and_then(|row| row.try_get::<_, Timestamp>(0).ok());
        now.map(|now| now.0).ok_or_else(|| Failure::Connection(ConnectionError::Failed("no clock".to_owned())))
    }
}

/// What the server says of the operator's query is the operator's to correct, unless the server itself is in trouble.
fn blame_query(error: ConnectionError) -> Failure {
    match error {
        ConnectionError::Reported { sqlstate, message }
            if sqlstate.is_some_and(|code| !matches!(&code.class(), b"57" | b"53" | b"40" | b"0A")) =>
        {
            Failure::Query(message)
        }
        other => Failure::Connection(other),
    }
}

/// Whether the answers can be read.
fn checked(query: Statement) -> Result<Statement, Failure> {
    let is_text = |kind: &Type| matches!(*kind, Type::TEXT | Type::VARCHAR | Type::NAME | Type::BPCHAR | Type::UNKNOWN);
    let types: Vec<&Type> = query.columns().iter().map(tokio_postgres::Column::type_).collect();
    let readable = match types[..] {
        [user, secret] => is_text(user) && is_text(secret),
        [user, secret, until] => is_text(user) && is_text(secret) && *until == Type::TIMESTAMPTZ,
        _ => false,
    };
    if query.params().len() != 1 {
        return Err(Failure::Query("it must have the one parameter $1, the user".to_owned()));
    }
    if !readable {
        let found: Vec<&str> = types.iter().map(|kind| kind.name()).collect();
        let message = format!(
            "it must answer user, secret (text) and, if it likes, until (timestamptz), not ({})",
            found.join(", ")
        );
        return Err(Failure::Query(message));
    }
    Ok(query)
}

fn text(row: &Row, column: usize) -> Result<Option<&str>, Failure> {
    row.try_get(column).map_err(|error| Failure::Query(error.to_string()))
}

/// `timestamptz`: microseconds since 2000.
#[derive(Clone, Copy)]
struct Timestamp(i64);

impl<'r> FromSql<'r> for Timestamp {
    fn from_sql(_: &Type, raw: &'r [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(i64::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }
}
