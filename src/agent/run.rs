//! The agent as a whole: what is started, in which order, and how it ends.
//!
//! It ends by SIGTERM or SIGINT, and PostgreSQL stays as it is; a job in the middle is found by the next life. One agent per state
//! directory: a lock holds that.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::api;
use super::config::AgentConfig;
use super::epochs::Epochs;
use super::events::Events;
use super::job::{Engine, Planner};
use super::journal::Journal;
use super::peer::{ListenError, PeerListener};
use super::postgres::program::Programs;
use super::postmaster;
use super::status::{Collector, knock};
use crate::directive::Accepting;

/// Why the agent ends by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its state cannot be read or locked.
    #[error("state_directory: {0}")]
    State(io::Error),
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Something that should never end has ended.
    #[error("{0} has ended")]
    Ended(&'static str),
}

/// Runs until `stop` resolves. `ready` is called when the agent listens.
///
/// # Errors
/// [`RunError`].
pub async fn run(
    config: AgentConfig,
    planner: Box<Planner>,
    stop: impl Future<Output = ()>,
    ready: impl FnOnce(&[&str]),
) -> Result<(), RunError> {
    let _lock = lock(&config).map_err(RunError::State)?;
    let journal = Journal::open(&config.state_directory).map_err(RunError::State)?;
    let epochs = Epochs::open(&config.state_directory).map_err(RunError::State)?;
    // before anything is taken up: whoever cannot listen does nothing
    let listeners = PeerListener::all(&config).await?;
    match Programs::find(&config) {
        // what a former life was in the middle of must not go on beside its undoing
        Ok(programs) => programs.end_strays(),
        Err(failure) => tracing::warn!(error = %failure, "PostgreSQL's programs"),
    }
    let (config, events) = (Arc::new(config), Arc::new(Events::default()));
    let engine = Engine::start(Arc::clone(&config), planner, journal, epochs, Arc::clone(&events));

    let (postmaster, present) =
        watch::channel(postmaster::find(&config.data_directory).map(|pid| pid.as_raw_pid().unsigned_abs()));
    let (accepting, found) = watch::channel(Accepting::No);
    let mut tasks = JoinSet::new();
    let watched =
        postmaster::watch(config.data_directory.clone(), Arc::clone(&engine), Arc::clone(&events), postmaster);
    tasks.spawn(async move {
        watched.await;
        "the watch of the postmaster"
    });
    let knocking = knock(Arc::clone(&config), present.clone(), Arc::clone(&events), accepting);
    tasks.spawn(async move {
        knocking.await;
        "asking PostgreSQL"
    });
    let collector = Collector {
        config,
        engine: Arc::clone(&engine),
        events: Arc::clone(&events),
        postmaster: present,
        accepting: found,
        incarnation: format!("{:016x}", rand::random::<u64>()),
    };
    tasks.spawn(async move {
        collector.run().await;
        "the collection of the status"
    });
    let names: Vec<String> = listeners.iter().map(|listener| listener.name().to_owned()).collect();
    for listener in listeners {
        let served = api::serve(listener, Arc::clone(&engine), Arc::clone(&events));
        tasks.spawn(async move {
            if let Err(error) = served.await {
                tracing::error!(%error, "the API");
            }
            "the API"
        });
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    ready(&names);
    tokio::select! {
        () = stop => Ok(()),
        ended = tasks.join_next() => Err(RunError::Ended(match ended {
            Some(Ok(name)) => name,
            Some(Err(error)) => {
                tracing::error!(%error, "a part of the agent");
                "a part of the agent"
            }
            None => "everything",
        })),
    }
}

fn lock(config: &AgentConfig) -> io::Result<File> {
    let path = config.state_directory.join("lock");
    let named = |error: io::Error| io::Error::new(error.kind(), format!("\"{}\": {error}", path.display()));
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(named)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| named(io::Error::new(io::ErrorKind::AddrInUse, "another agent holds this lock")))?;
    Ok(file)
}
