//! What a pool's books say to whoever looks: which servers rest, which clients wait and since when. Seldom asked, and copied
//! out under the books' lock.

use std::sync::Arc;
use std::time::Instant;

use super::Pool;
use super::accounting::Counts;
use crate::proxy::server::Identity;

/// A pool at one moment.
#[derive(Clone, Debug)]
pub struct PoolLook {
    /// Its numbers.
    pub counts: Counts,
    /// Connections that are being closed; `counts.open` has them.
    pub closing: u32,
    /// The servers at rest, and since when.
    pub resting: Vec<(Arc<Identity>, Instant)>,
    /// The clients that wait, by number, and since when ([`Shared::now_us`](crate::proxy::shared::Shared::now_us)).
    pub waiting: Vec<(u64, u64)>,
}

impl Pool {
    /// What its books say now.
    #[must_use]
    pub fn look(&self) -> PoolLook {
        let books = self.books.lock();
        PoolLook {
            counts: books.counts(),
            closing: books.closing(),
            resting: books.idle().map(|server| (Arc::clone(&server.identity), server.idle_since)).collect(),
            waiting: books.queued().map(|(client, since_us)| (client.id, since_us)).collect(),
        }
    }
}
