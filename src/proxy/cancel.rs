//! A cancel key's way to the right server, or nowhere.
//!
//! Every client has a key of its own; servers' keys never leave howdah. A cancel reaches a server only while that
//! server works for the key's owner, and the server stays out of its pool until the cancel is over
//! ([`crate::proxy::server::Identity`]), so that it can never meet another client's statement. A cancel of a client that
//! waits for a server ends the wait (PostgreSQL: PROTOCOL-FLOW-CANCELING-REQUESTS).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use subtle::ConstantTimeEq;

use super::client::ClientHandle;
use super::server::Identity;
use super::server::connect;

/// A client's cancel key.
#[derive(Clone)]
pub struct CancelKey {
    /// Stands where PostgreSQL has the process id.
    pub pid: i32,
    /// 4 bytes, or 32 in protocol 3.2.
    pub secret: Box<[u8]>,
}

impl std::fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CancelKey({}, ***)", self.pid)
    }
}

/// All clients by their cancel keys.
#[derive(Debug, Default)]
pub struct Cancels {
    clients: Mutex<HashMap<i32, (Box<[u8]>, Arc<ClientHandle>), foldhash::fast::RandomState>>,
}

impl Cancels {
    /// Gives a client a key nobody else has. `long`: protocol 3.2.
    pub fn register(&self, client: &Arc<ClientHandle>, long: bool) -> CancelKey {
        let secret: [u8; 32] = rand::random();
        let secret: Box<[u8]> =
            if long { secret.into() } else { secret.first_chunk::<4>().copied().unwrap_or_default().into() };
        let mut clients = self.clients.lock();
        loop {
            // like a process id: positive
            let pid = rand::random::<i32>() & i32::MAX;
            if pid != 0 && !clients.contains_key(&pid) {
                clients.insert(pid, (secret.clone(), Arc::clone(client)));
                return CancelKey { pid, secret };
            }
        }
    }

    /// The client has gone.
    pub fn forget(&self, key: &CancelKey) {
        self.clients.lock().remove(&key.pid);
    }

    /// The owner of a key.
    #[must_use]
    pub fn owner(&self, pid: i32, secret: &[u8]) -> Option<Arc<ClientHandle>> {
        let clients = self.clients.lock();
        let (expected, client) = clients.get(&pid)?;
        bool::from(expected.as_ref().ct_eq(secret)).then(|| Arc::clone(client))
    }
}

/// Carries a cancel to its server. To be spawned: nobody waits for it.
pub async fn deliver(identity: Arc<Identity>, within: Option<Duration>) {
    let sent = connect::cancel(&identity, within).await;
    if let Err(error) = &sent {
        tracing::warn!(node = &*identity.endpoint.node, server_pid = identity.pid, %error, "cancel may arrive late");
    }
    identity.cancel_over(sent.is_ok());
}
