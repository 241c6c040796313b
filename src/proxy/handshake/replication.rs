//! Letting a replication connection in: a place in the pool's limits, then a server connection of its own that is dialled
//! with what the client put into its startup packet.
//!
//! The server may refuse (no REPLICATION attribute, no line in `pg_hba.conf`, `max_wal_senders`): the client reads its
//! words. Which entry of `[databases]` applies is decided by the name the client asks for, as for everybody; PostgreSQL
//! itself ignores that name in a physical connection (libpq's tools say `replication`).

use std::rc::Rc;
use std::sync::Arc;

use super::greeting::{find_pool, no_answer, welcome_in};
use super::{Claim, Presence, Refusal};
use crate::config::Profile;
use crate::net::stream::Stream;
use crate::proxy::client::ClientHandle;
use crate::proxy::error::ClientError;
use crate::proxy::pool::claim::Place;
use crate::proxy::replication::Replication;
use crate::proxy::worker::Worker;

/// What is taken from a client that does not wait for its greeting, in bytes.
const SENT_MAX: usize = 8 * 1_024;

/// A client whose claim is proven, and what it has sent so far.
pub struct Proven<'a> {
    /// Its connection.
    pub stream: &'a mut Stream,
    /// The last message of its authentication, to be sent with the greeting.
    pub last: Vec<u8>,
    /// What came behind its login.
    pub sent: Vec<u8>,
}

/// Opens the server's side, within `query_wait`, and greets the client.
///
/// # Errors
/// [`ClientError::NoPrimary`], [`ClientError::QueryWait`] without a server or a place in time, [`ClientError::ServerUnreachable`]
/// and [`ClientError::ServerRefused`] when the server does not let it in.
pub async fn greet(
    worker: &Rc<Worker>,
    handle: &Arc<ClientHandle>,
    client: Proven<'_>,
    profile: &Profile,
    claim: &Claim,
    mut presence: Presence,
) -> Result<Box<Replication>, Refusal> {
    let shared = &worker.shared;
    let startup = shared.settings.intern(claim.settings.clone());
    let opening = async {
        let placing = find_place(worker, handle, profile, claim);
        let place = match profile.timeouts.query_wait {
            Some(max) => tokio::time::timeout(max, placing).await.ok(),
            None => Some(placing.await),
        };
        let place = place.unwrap_or_else(|| Err(no_answer(shared.route(profile, &claim.database, &claim.user))))?;
        let server = place.open(&startup).await?;
        Ok::<_, ClientError>((place, server))
    };
    let mut sent = client.sent;
    let (place, server) = tokio::select! {
        opened = opening => opened?,
        () = leaving(client.stream, &mut sent) => return Err(Refusal::Gone),
    };
    let key = shared.cancels.register(handle, claim.long_keys);
    let out = welcome_in(client.last, &server.login, false, &key);
    presence.key = Some(key);
    client.stream.write_all(&out).await?;
    Ok(Box::new(Replication::new(worker, handle, place, server, presence, &sent)))
}

/// Ready when the client has left: it must not keep its place in the queue. What it sends meanwhile is kept.
async fn leaving(stream: &mut Stream, sent: &mut Vec<u8>) {
    let mut chunk = [0; 1_024];
    while sent.len() < SENT_MAX {
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(read) => sent.extend_from_slice(chunk.get(..read).unwrap_or_default()),
        }
    }
    std::future::pending().await
}

async fn find_place(
    worker: &Rc<Worker>,
    handle: &Arc<ClientHandle>,
    profile: &Profile,
    claim: &Claim,
) -> Result<Place, ClientError> {
    loop {
        let pool = find_pool(handle, || worker.shared.route(profile, &claim.database, &claim.user)).await?;
        match pool.claim(worker, handle).await {
            Err(ClientError::PoolRetired) => {}
            placed => return placed,
        }
    }
}
