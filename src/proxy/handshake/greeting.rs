//! What a client is told before its first ReadyForQuery: that it is in, what its server reports, its cancel key.
//!
//! What a server reports only a server knows: the first client of a pool waits for its first connection. If the server
//! refuses that login, the client reads the server's own words.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::{Claim, Presence, Refusal};
use crate::config::{Profile, RoutingRole};
use crate::net::stream::Stream;
use crate::protocol::messages;
use crate::proxy::cancel::CancelKey;
use crate::proxy::client::{ClientHandle, Signal};
use crate::proxy::error::ClientError;
use crate::proxy::pool::{Lent, Pool};
use crate::proxy::session::settings::{IN_HOT_STANDBY, Reported};
use crate::proxy::session::{Membership, Session};
use crate::proxy::worker::Worker;

/// How often a login looks whether there is a primary by now.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long the first login to a database waits for what its catalogue says.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);

/// Who is greeted.
#[derive(Debug)]
pub struct Welcomed {
    /// What holds for it.
    pub profile: Profile,
    /// Who it is.
    pub claim: Claim,
    /// Where its listener sends statements.
    pub listener_role: RoutingRole,
}

/// Greets a client whose claim is proven.
///
/// # Errors
/// [`ClientError::NoPrimary`], [`ClientError::ServerUnreachable`] and [`ClientError::ServerRefused`] when no server could
/// be asked within `query_wait`.
pub async fn greet(
    worker: &Rc<Worker>,
    handle: &Arc<ClientHandle>,
    stream: &mut Stream,
    proven: Vec<u8>,
    guest: Welcomed,
    mut presence: Presence,
) -> Result<Box<Session>, Refusal> {
    let Welcomed { mut profile, claim, listener_role } = guest;
    profile.role = profile.role.or(listener_role);
    let shared = &worker.shared;
    let known = shared.greeter(&profile, &claim.database, &claim.user).ok();
    let (pool, welcome) = match known.and_then(|pool| Some((Arc::clone(&pool), pool.welcome()?))) {
        Some(known) => known,
        None => {
            let waiting = learn_welcome(worker, handle, &profile, &claim);
            let learned = match profile.timeouts.query_wait {
                Some(max) => tokio::time::timeout(max, waiting).await.ok(),
                None => Some(waiting.await),
            };
            match learned {
                Some(learned) => {
                    let (pool, welcome) = learned?;
                    know_what_hides(&pool).await;
                    (pool, welcome)
                }
                None => return Err(no_answer(shared.greeter(&profile, &claim.database, &claim.user)).into()),
            }
        }
    };
    drop(pool);
    let told = shared.reported.intern(welcome.overlaid(&claim.settings));
    let key = shared.cancels.register(handle, claim.long_keys);
    let out = welcome_in(proven, &told, profile.role == RoutingRole::Replica, &key);
    presence.key = Some(key);
    stream.write_all(&out).await?;
    let membership = Membership::new(claim.database, claim.user, profile, listener_role, shared);
    let wants = shared.settings.intern(claim.settings);
    Ok(Box::new(Session::new(worker, handle, membership, wants, told, presence)))
}

/// The messages that let a client in. Whether it is on a standby is told of its listener: it does not change with routing.
pub(super) fn welcome_in(proven: Vec<u8>, told: &Reported, on_replica: bool, key: &CancelKey) -> Vec<u8> {
    let mut out = proven;
    out.reserve(512);
    out.extend(messages::AUTHENTICATION_OK);
    if told.tells_standbys() {
        messages::parameter_status(&mut out, IN_HOT_STANDBY, if on_replica { b"on" } else { b"off" });
    }
    for (name, value) in told.iter() {
        messages::parameter_status(&mut out, name, value);
    }
    messages::backend_key_data(&mut out, key.pid, &key.secret);
    out.extend(messages::ready_for_query(b'I'));
    out
}

/// Why nobody answered in time.
pub(super) fn no_answer(pool: Result<Arc<Pool>, String>) -> ClientError {
    match pool {
        Err(missing) => ClientError::NoPrimary(missing),
        Ok(pool) => {
            pool.trouble().map_or(ClientError::QueryWait, |error| ClientError::ServerUnreachable(error.to_string()))
        }
    }
}

/// The pool that `look` finds, as soon as there is one.
pub(super) async fn find_pool(
    handle: &ClientHandle,
    look: impl Fn() -> Result<Arc<Pool>, String>,
) -> Result<Arc<Pool>, ClientError> {
    loop {
        match look() {
            Ok(pool) => return Ok(pool),
            Err(_) if !handle.has(Signal::Goodbye) => tokio::time::sleep(LOOK_AGAIN).await,
            Err(_) => return Err(ClientError::ShuttingDown),
        }
    }
}

/// What servers report to this user, from the pool's memory or from its first connection.
async fn learn_welcome(
    worker: &Rc<Worker>,
    handle: &Arc<ClientHandle>,
    profile: &Profile,
    claim: &Claim,
) -> Result<(Arc<Pool>, Arc<Reported>), ClientError> {
    let (pool, server) = loop {
        let pool = find_pool(handle, || worker.shared.greeter(profile, &claim.database, &claim.user)).await?;
        if let Some(welcome) = pool.welcome() {
            return Ok((pool, welcome));
        }
        let server = match pool.checkout(worker, handle) {
            Lent::Server(server) => server,
            Lent::Full => return Err(ClientError::TooManyWaiting),
            Lent::Queued(ticket) => {
                let place = QueuePlace { pool: &pool, worker, handle, ticket: Some(ticket) };
                match place.wait().await {
                    // the place to wait is elsewhere by now
                    Err(ClientError::PoolRetired) => {
                        tokio::time::sleep(LOOK_AGAIN).await;
                        continue;
                    }
                    granted => granted?,
                }
            }
        };
        break (pool, server);
    };
    let welcome = Arc::clone(&server.login);
    pool.give_back(worker, server);
    Ok((pool, welcome))
}

/// Until it is known what hides in the database, every transaction is asked what it has left: waits for that a moment.
async fn know_what_hides(pool: &Pool) {
    let known = async {
        while pool.hidden().is_pending() {
            tokio::time::sleep(LOOK_AGAIN / 4).await;
        }
    };
    let _ = tokio::time::timeout(KNOWN_WITHIN, known).await;
}

/// A place in a pool's queue that is left when it is dropped.
struct QueuePlace<'a> {
    pool: &'a Arc<Pool>,
    worker: &'a Rc<Worker>,
    handle: &'a Arc<ClientHandle>,
    ticket: Option<crate::proxy::pool::accounting::Ticket>,
}

impl QueuePlace<'_> {
    async fn wait(mut self) -> Result<Box<crate::proxy::server::Server>, ClientError> {
        let granted = poll_fn(|cx| {
            self.handle.listen(cx);
            if self.handle.has(Signal::Goodbye) {
                return Poll::Ready(Err(ClientError::ShuttingDown));
            }
            self.handle.take_grant().map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        if granted.is_ok() {
            self.ticket = None;
            self.handle.end_wait();
        }
        granted
    }
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.pool.leave(self.worker, self.handle, ticket);
        }
    }
}
