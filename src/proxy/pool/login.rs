//! What a pool's servers say in their startup packets: nothing, or in session mode what their client said in its own.
//!
//! `RESET` goes back to the login's values, some settings can be made by a login alone, and `pg_settings` tells where each
//! value is from. So a client that has a server to itself gets one that has logged in as the client would have. A server
//! whose login said something else is closed and dialled again in its place; which seldom happens, as the next dial says
//! what the last such login said, and the clients of a pool mostly say the same.
//!
//! In the other modes servers belong to nobody: their logins set nothing.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Pool, hang_up};
use crate::proxy::error::ClientError;
use crate::proxy::roster::Roster;
use crate::proxy::server::Server;
use crate::proxy::server::connect::{self, DialError};
use crate::proxy::session::settings::Settings;
use crate::proxy::worker::Worker;

/// What a client is told of a login that failed.
pub(super) fn told(error: &DialError) -> ClientError {
    match error {
        DialError::Refused(fields) => ClientError::ServerRefused(fields.clone()),
        other => ClientError::ServerUnreachable(other.to_string()),
    }
}

impl Pool {
    /// What the next dial says. The first says nothing: its reports are what clients are greeted with.
    pub(super) fn usual_startup(&self, worker: &Worker) -> Arc<Settings> {
        let usual = self.welcome.load().is_some().then(|| self.startup.load_full()).flatten();
        usual.unwrap_or_else(|| Arc::clone(&worker.shared.neutral))
    }

    /// A dial that said this has failed: the next says nothing. `false` when that is what this one said.
    pub(super) fn forget_startup(&self, startup: &Settings) -> bool {
        self.startup.store(None);
        !startup.is_empty()
    }

    /// Dials once; a credential that is refused is forgotten, and the next best tried.
    pub(super) async fn connect(&self, worker: &Worker, startup: &Arc<Settings>) -> Result<Box<Server>, DialError> {
        let (endpoint, settings, round) = (self.endpoint.load_full(), self.settings.load_full(), self.round());
        let shared = &worker.shared;
        let board = shared.board.cluster(&self.key.cluster);
        let (epoch, reign) = {
            let view = board.view();
            let its = view.reigns.last().filter(|reign| reign.node == self.key.node);
            (view.epoch, its.map_or(0, |reign| reign.number))
        };
        loop {
            let credential = shared.pool_credential(&self.key);
            let dialled = Box::pin(connect::connect(
                &endpoint,
                &self.key.user,
                &settings.dbname,
                &credential,
                &shared.reported,
                startup,
                settings.server_connect,
            ));
            match dialled.await {
                Err(error)
                    if error.blames_credential() && shared.refused(&self.key.cluster, &self.key.user, &credential) => {}
                Ok(server) => {
                    let whose = (&*settings.dbname, &**startup, &round);
                    let entry = Roster::server(shared, &self.key, &server.identity, &server.stream, whose);
                    let reign = (reign, board.stamp().asked);
                    let board = Some(Arc::clone(&board));
                    return Ok(Box::new(Server { epoch, reign, board, round, entry: Some(entry), ..server }));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Puts one that has logged in with `startup` in the place of a lent server. Goes on when nobody waits for it any
    /// more: the place is the pool's.
    pub fn log_in_anew(
        self: &Arc<Self>,
        worker: &Rc<Worker>,
        server: Box<Server>,
        startup: Arc<Settings>,
    ) -> oneshot::Receiver<Result<Box<Server>, ClientError>> {
        let (sender, receiver) = oneshot::channel();
        let (pool, dialler) = (Arc::clone(self), Rc::clone(worker));
        worker.see_through(async move {
            hang_up(server).await;
            match pool.connect(&dialler, &startup).await {
                Ok(server) => {
                    pool.startup.store(Some(startup));
                    if let Err(Ok(server)) = sender.send(Ok(server)) {
                        pool.pass_on(&dialler, server);
                    }
                }
                Err(error) => {
                    pool.closed(&dialler);
                    let _ = sender.send(Err(told(&error))); // or nobody wants to know any more
                }
            }
        });
        receiver
    }
}
