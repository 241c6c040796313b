//! What the daemon as a whole is asked for: SHUTDOWN, RELOAD, SET. The data path only passes it on.

use std::fmt;

use tokio::sync::{mpsc, oneshot};

use super::{Mode, OrderError, Orders};
use crate::config::Config;
use crate::proxy::client::Signal;
use crate::proxy::shared::Shared;

/// How SHUTDOWN ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Now.
    Immediate,
    /// When no server is in use.
    WaitForServers,
    /// When every client has gone.
    WaitForClients,
}

/// A change of the running configuration, until the next reload.
pub type Change = Box<dyn FnOnce(&mut Config) -> Result<(), String> + Send>;

/// What the daemon is asked for.
pub enum Ask {
    /// Reads the configuration again; answers whether it is in force.
    Reload(oneshot::Sender<bool>),
    /// Changes the configuration in force; answers why not.
    Change(Change, oneshot::Sender<Result<(), String>>),
    /// Ends.
    Shutdown(Shutdown),
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reload(_) => "Reload",
            Self::Change(..) => "Change",
            Self::Shutdown(_) => "Shutdown",
        })
    }
}

impl Orders {
    /// What the daemon is asked for from now on; `None` when somebody takes it already.
    #[must_use]
    pub fn asks(&self) -> Option<mpsc::UnboundedReceiver<Ask>> {
        self.asks.lock().take()
    }

    /// RELOAD.
    ///
    /// # Errors
    /// [`OrderError::ReloadFailed`].
    pub async fn reload(&self) -> Result<(), OrderError> {
        let (answer, answered) = oneshot::channel();
        tracing::info!("ordered: RELOAD");
        let _ = self.daemon.send(Ask::Reload(answer)); // nobody there: there is no answer either
        if answered.await.unwrap_or(false) { Ok(()) } else { Err(OrderError::ReloadFailed) }
    }

    /// SET: lost with the next reload.
    ///
    /// # Errors
    /// [`OrderError::SetFailed`].
    pub async fn change(&self, change: Change) -> Result<(), OrderError> {
        let (answer, answered) = oneshot::channel();
        let _ = self.daemon.send(Ask::Change(change, answer));
        let answered = answered.await.unwrap_or_else(|_| Err("the daemon does not take changes now".to_owned()));
        answered.map_err(OrderError::SetFailed)
    }

    /// SHUTDOWN.
    pub fn shut_down(&self, shared: &Shared, how: Shutdown) {
        let mut state = self.state.lock();
        state.shutdown = Some(how);
        if how == Shutdown::WaitForServers && state.all.is_none() {
            let number = state.next();
            state.all = Some((Mode::Paused, number));
            self.enforce(shared, &state);
        }
        drop(state);
        // they would be told at the end of their login
        let newcomers = shared.newcomers.all().into_iter().filter(|newcomer| newcomer.is_client_of(None));
        newcomers.for_each(|newcomer| newcomer.handle.signal(Signal::Goodbye));
        tracing::info!(?how, "ordered: SHUTDOWN");
        let _ = self.daemon.send(Ask::Shutdown(how));
    }

    /// Whether new clients are refused because the daemon is about to end.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.state.lock().shutdown.is_some()
    }

    /// Whether clients that would wait for a server are told that there will be none.
    #[must_use]
    pub fn turns_away(&self) -> bool {
        self.state.lock().shutdown == Some(Shutdown::WaitForServers)
    }

    /// Whether what a SHUTDOWN waits for is over.
    #[must_use]
    pub fn may_end(&self, shared: &Shared) -> bool {
        match self.state.lock().shutdown {
            None => false,
            Some(Shutdown::Immediate) => true,
            Some(Shutdown::WaitForServers) => super::pause::is_closed(shared, None),
            Some(Shutdown::WaitForClients) => super::clients(shared).is_empty(),
        }
    }
}
