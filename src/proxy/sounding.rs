//! How far the buffers of connections are filled: asked of the sessions that own them, and told when each next looks at its signals.
//! It costs nothing while nobody asks; a session that is busy with something else for longer than [`PATIENCE`] is not waited for.
//!
//! Not here: who asks (`SHOW SOCKETS` in `console/show/sockets.rs`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::shared::Shared;

/// How long answers are waited for. Sessions answer at once but when they are about to end, or set a server right.
const PATIENCE: Duration = Duration::from_millis(250);

/// What has come by a connection, and how much of that has gone on to the other side. All in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Held of what has come. PgBouncer: `recv_pos`.
    pub received: usize,
    /// Of that, looked at. PgBouncer: `pkt_pos`.
    pub seen: usize,
    /// To come of a message that has begun, and streams. PgBouncer: `pkt_remain`.
    pub message_left: usize,
    /// Of what is on its way to the other side, what that has taken. PgBouncer: `send_pos`.
    pub sent: usize,
    /// What it has not. PgBouncer: `send_remain`.
    pub unsent: usize,
}

/// A client's connection, and that of the server that works for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// From the client, towards its server.
    pub client: Level,
    /// From its server, towards the client.
    pub server: Level,
}

/// A question to all sessions.
#[derive(Debug)]
pub struct Sounding {
    told: Mutex<Told>,
    complete: Notify,
}

#[derive(Debug)]
struct Told {
    levels: HashMap<u64, Levels>,
    wanted: usize,
}

impl Sounding {
    /// A session answers.
    pub(super) fn told(&self, client: u64, levels: Levels) {
        let mut told = self.told.lock();
        told.levels.insert(client, levels);
        if told.levels.len() >= told.wanted {
            self.complete.notify_one();
        }
    }
}

/// Asks all sessions. What comes back is by client; those are missing that have not answered in time.
pub async fn sound(shared: &Shared) -> HashMap<u64, Levels> {
    let clients = shared.roster.clients();
    let told = Mutex::new(Told { levels: HashMap::new(), wanted: clients.len() });
    let sounding = Arc::new(Sounding { told, complete: Notify::new() });
    clients.iter().for_each(|client| client.handle.sound(&sounding));
    let _ = tokio::time::timeout(PATIENCE, sounding.complete.notified()).await;
    std::mem::take(&mut sounding.told.lock().levels)
}
