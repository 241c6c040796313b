//! What a command does, for those who may.
//!
//! Not here: SHOW (`show`), the SET of what drivers try out (`show` too), who may ask (`seat`), what the orders are (`proxy/orders`).
//!
//! Dropping the future gives the command up: a PAUSE or SUSPEND that waits is undone, as PgBouncer does for a `^C`.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::command::{Command, Shutdown};
use super::refusal::ConsoleError;
use super::setting;
use crate::admin::control::Control;
use crate::cluster::decide::{self, Accepted};
use crate::cluster::ledger::OperationState;
use crate::proxy::orders::OrderError;
use crate::proxy::shared::Shared;

/// A coordinator answers at once, or when its record is stored.
const ANSWER_BOUND: Duration = Duration::from_secs(5);
/// How often an operation is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// An operation that is accepted, and of which nothing is seen.
const UNSEEN_MAX: Duration = Duration::from_secs(15);

/// What commands reach.
pub struct Means<'a> {
    /// The data path and its orders.
    pub shared: &'a Arc<Shared>,
    /// The coordinators; `None` where there are none.
    pub control: Option<&'a Arc<dyn Control>>,
    /// Whether a database is a console.
    pub is_console: &'a dyn Fn(&str) -> bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// As in CommandComplete.
    pub tag: String,
    /// Something to say before it.
    pub notice: Option<String>,
}

impl From<&str> for Carried {
    fn from(tag: &str) -> Self {
        Self { tag: tag.to_owned(), notice: None }
    }
}

/// Carries a command out, for somebody who may do everything. SHUTDOWN without a wait never answers: the connection is closed.
///
/// # Errors
/// PgBouncer's words.
pub async fn carry_out(means: &Means<'_>, command: &Command) -> Result<Carried, ConsoleError> {
    let (shared, orders) = (means.shared, &means.shared.orders);
    let no_console = |verb: &'static str, database: Option<&str>| match database {
        Some(name) if (means.is_console)(name) => Err(ConsoleError::AdminDatabase { verb, database: name.to_owned() }),
        _ => Ok(()),
    };
    let named = |verb: &'static str, database: &Option<String>| {
        let name = database.clone().ok_or(ConsoleError::DatabaseRequired)?;
        no_console(verb, Some(&name)).map(|()| name)
    };
    Ok(match command {
        Command::Show { .. } => return Err(ConsoleError::BadArguments), // not asked for here
        Command::Set { key, value } => {
            let (name, wanted) = (key.clone(), value.clone());
            let change = Box::new(move |config: &mut _| setting::set(config, &name, &wanted));
            orders.change(change).await?;
            Carried { tag: format!("SET {key}={value}"), notice: None }
        }
        Command::Pause(database) => {
            let database = database.as_deref();
            no_console("pause", database)?;
            orders.pause(shared, database).await?;
            "PAUSE".into()
        }
        Command::Resume(database) => {
            if let Some(name) = database.as_deref().filter(|name| (means.is_console)(name)) {
                return Err(OrderError::DatabaseNotPaused(name.to_owned()).into());
            }
            orders.resume(shared, database.as_deref())?;
            "RESUME".into()
        }
        Command::Suspend => {
            orders.suspend(shared).await?;
            "SUSPEND".into()
        }
        Command::Disable(database) => {
            orders.set_disabled(shared, &named("disable", database)?, true)?;
            "DISABLE".into()
        }
        Command::Enable(database) => {
            orders.set_disabled(shared, &named("enable", database)?, false)?;
            "ENABLE".into()
        }
        Command::Reconnect(database) => {
            no_console("reconnect", database.as_deref())?;
            orders.reconnect(shared, database.as_deref())?;
            "RECONNECT".into()
        }
        Command::Kill(database) => {
            no_console("kill", database.as_deref())?;
            orders.kill(shared, database.as_deref())?;
            "KILL".into()
        }
        Command::KillClient(id) => {
            let id = id.trim().parse().map_err(|_| ConsoleError::BadClient)?;
            orders.kill_client(shared, id)?;
            "KILL_CLIENT".into()
        }
        Command::WaitClose(database) => {
            no_console("wait in", database.as_deref())?;
            orders.wait_close(shared, database.as_deref()).await?;
            "WAIT_CLOSE".into()
        }
        Command::Reload => {
            orders.reload().await?;
            "RELOAD".into()
        }
        Command::Shutdown(how) => {
            orders.shut_down(shared, *how);
            if *how == Shutdown::Immediate {
                pending::<()>().await;
            }
            "SHUTDOWN".into()
        }
        Command::Operate { cluster, command, tag } => {
            let notice = operate(means, cluster.as_deref(), command.clone(), tag).await?;
            Carried { tag: (*tag).to_owned(), notice: Some(notice) }
        }
    })
}

/// Asks a cluster's coordinator, and waits for the end of what it accepts. It goes on although nobody may wait any more.
async fn operate(
    means: &Means<'_>,
    cluster: Option<&str>,
    command: decide::Command,
    tag: &'static str,
) -> Result<String, ConsoleError> {
    let (cluster, control) = managed(means, cluster)?;
    let correlation = format!("console-{:08x}", rand::random::<u32>());
    tracing::info!(correlation, cluster, command = ?command, "console: asked");
    let asked = control.ask(&cluster, command, &correlation);
    let asked = tokio::spawn(tokio::time::timeout(ANSWER_BOUND, asked));
    let Ok(Ok(answer)) = asked.await else { return Err(ConsoleError::Unanswered) };
    let Accepted { id, text } = answer.map_err(|answer| ConsoleError::Refused(answer.text))?;
    if id.is_empty() {
        return Ok(text);
    }
    let mut seen = Instant::now();
    loop {
        match control.ledger().operation(&cluster, &id) {
            Some(operation) if operation.state != OperationState::Running => {
                return match operation.state {
                    OperationState::Done | OperationState::Running => Ok(text),
                    OperationState::Restarted => Err(ConsoleError::Restarted),
                    OperationState::Undone => Err(ConsoleError::Undone { tag, why: operation.text }),
                    OperationState::Failed => Err(ConsoleError::Failed { tag, why: operation.text }),
                };
            }
            Some(_) => seen = Instant::now(),
            None if seen.elapsed() > UNSEEN_MAX => {
                return Err(ConsoleError::Vanished(id));
            }
            None => {}
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The cluster that is named, or the only one that is managed.
fn managed<'a>(means: &Means<'a>, cluster: Option<&str>) -> Result<(String, &'a Arc<dyn Control>), ConsoleError> {
    let running = means.shared.running();
    let clusters = &running.config.clusters;
    let is_managed = |name: &str| means.control.filter(|control| control.explanation(name).is_some());
    let name = match cluster {
        Some(name) if clusters.contains_key(name) => name,
        Some(name) => {
            let known = clusters.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(ConsoleError::NoSuchCluster { name: name.to_owned(), known });
        }
        None => {
            let mut managed = clusters.keys().filter(|name| is_managed(name).is_some());
            match (managed.next(), managed.next()) {
                (Some(only), None) => only,
                (Some(_), Some(_)) => return Err(ConsoleError::WhichCluster),
                (None, _) => return Err(ConsoleError::Observed(clusters.keys().next().cloned().unwrap_or_default())),
            }
        }
    };
    is_managed(name).map(|control| (name.to_owned(), control)).ok_or_else(|| ConsoleError::Observed(name.to_owned()))
}
