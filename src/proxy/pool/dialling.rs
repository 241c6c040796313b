//! Opening server connections for a pool.
//!
//! A dial belongs to the pool, not to the client that caused it. One that fails is tried again while somebody waits: at a
//! standby nobody does for long, as there are other nodes.
//!
//! A connection to a standby is lent only once the monitor's own connection has answered a question that was asked after this
//! one was ready: then both speak to the same life of the node, and what is known of its position holds for it too.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::accounting::Release;
use super::{Pool, login};
use crate::proxy::error::ClientError;
use crate::proxy::server::Server;
use crate::proxy::server::connect::DialError;
use crate::proxy::worker::Worker;
use crate::topology::Role;

/// The pause after a first failed dial; it doubles up to [`REST_MAX`]. PgBouncer: `server_login_retry` (15 s, flat).
const REST_MIN: Duration = Duration::from_millis(50);
/// The longest pause between dials while clients wait.
const REST_MAX: Duration = Duration::from_secs(1);
/// How long no session is sent to a standby whose dial has failed.
const LEFT_ALONE_MS: u64 = 1_000;
/// How long a connection to a standby waits for the monitor to have asked that node.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(5);

impl Pool {
    /// Opens a connection that the books count already.
    pub(super) fn dial(self: &Arc<Self>, worker: &Rc<Worker>) {
        let (pool, worker) = (Arc::clone(self), Rc::clone(worker));
        // its turn begins here, or it would give way before it has what it waits for; and again when it has that
        pool.turned_us.store(worker.shared.now_us(), Ordering::Relaxed);
        if !pool.looks_into.swap(true, Ordering::AcqRel) {
            pool.hidden.store(worker.shared.hidden.view(&pool.key.cluster, &pool.settings.load().dbname));
        }
        tokio::task::spawn_local(async move {
            let mut rest = REST_MIN;
            loop {
                let begun = Instant::now();
                let startup = pool.usual_startup(&worker);
                let error = match pool.connect(&worker, &startup).await {
                    Ok(server) if !pool.is_confirmed(&worker).await => {
                        tokio::task::spawn_local(super::hang_up(server));
                        DialError::TimedOut(CONFIRMED_WITHIN)
                    }
                    Ok(server) => {
                        let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                        pool.login_us.store(took, Ordering::Relaxed);
                        pool.turned_us.store(worker.shared.now_us(), Ordering::Relaxed);
                        return pool.arrived(&worker, server);
                    }
                    Err(_) if pool.forget_startup(&startup) => continue, // one client's settings are not everybody's
                    Err(error) => error,
                };
                worker.shared.incidents.server_login(&pool.key.cluster, &pool.key.node, false);
                let first = pool.trouble.lock().replace(error.clone()).as_ref() != Some(&error);
                if first {
                    let (node, user, database) = (&*pool.key.node, &*pool.key.user, &*pool.key.database);
                    let address = pool.endpoint.load().address();
                    tracing::warn!(node, user, database, address, %error, "server login failed");
                }
                pool.books.lock().dial_failed();
                for starved in pool.budgets.give_back() {
                    starved.dial_for_waiters(&worker);
                }
                if pool.is_standbys(&worker) {
                    // whoever waits has other nodes to go to, and the monitor looks at this one
                    pool.failed_ms.store(worker.shared.now_ms().max(1), Ordering::Relaxed);
                    worker.shared.board.cluster(&pool.key.cluster).suspect(&pool.key.node);
                    return pool.dismiss(&ClientError::PoolRetired);
                }
                if error.is_final() {
                    return pool.dismiss(&login::told(&error));
                }
                tokio::time::sleep(rest).await;
                rest = (rest * 2).min(REST_MAX);
                let mut books = pool.books.lock();
                books.rested();
                if !books.dial(worker.shared.now_us(), || pool.budgets.take()) {
                    drop(books);
                    return pool.dial_for_waiters(&worker);
                }
            }
        });
    }

    /// Whether its node is a standby now.
    fn is_standbys(&self, worker: &Worker) -> bool {
        let board = worker.shared.board.cluster(&self.key.cluster);
        board.view().node(&self.key.node).is_some_and(|node| node.role == Some(Role::Standby))
    }

    /// Waits until what is known of a standby's position holds for a connection that has just become ready.
    async fn is_confirmed(&self, worker: &Worker) -> bool {
        if !self.is_standbys(worker) {
            return true;
        }
        let board = worker.shared.board.cluster(&self.key.cluster);
        let ready = board.stamp().asked;
        let _wish = board.wait_beyond(0); // standbys are asked again at once
        let confirmed = async {
            loop {
                let published = board.published();
                match board.view().node(&self.key.node) {
                    Some(node) if node.role == Some(Role::Standby) && node.sampled <= ready => {}
                    _ => return,
                }
                published.await;
            }
        };
        tokio::time::timeout(CONFIRMED_WITHIN, confirmed).await.is_ok()
    }

    /// Whether a dial to it, a standby's, has failed lately: it is left alone for a moment.
    #[must_use]
    pub fn has_failed_lately(&self, now_ms: u64) -> bool {
        let at = self.failed_ms.load(Ordering::Relaxed);
        at != 0 && now_ms.saturating_sub(at) < LEFT_ALONE_MS
    }

    /// A dial has succeeded.
    fn arrived(self: &Arc<Self>, worker: &Rc<Worker>, server: Box<Server>) {
        worker.shared.incidents.server_login(&self.key.cluster, &self.key.node, true);
        self.failed_ms.store(0, Ordering::Relaxed);
        if self.trouble.lock().take().is_some() {
            let (node, user, database) = (&*self.key.node, &*self.key.user, &*self.key.database);
            tracing::info!(node, user, database, "server login works again");
        }
        if server.startup.is_empty() {
            self.welcome.store(Some(Arc::clone(&server.reported)));
        }
        if self.closes(&server.round) {
            self.books.lock().dialled_in_vain();
            return self.discard(worker, server);
        }
        let release = self.books.lock().dialled(worker.id, server);
        let kept = matches!(release, Release::Kept);
        if let Some(refused) = self.hand_over(worker, release) {
            self.pass_on(worker, refused);
        } else if kept && self.budgets.is_pressed() {
            self.yield_idle(worker); // whoever it was for has left, and another pool has none
        }
        // more may wait than there are dials under way
        self.dial_for_waiters(worker);
    }

    /// Nobody who waits can be served.
    fn dismiss(&self, error: &ClientError) {
        let dismissed: Vec<_> = self.books.lock().dismiss().collect();
        for (ticket, client) in dismissed {
            client.refuse(ticket, error.clone());
        }
    }
}
