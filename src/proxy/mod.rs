//! THE DATA PATH, in the order it runs.
//!
//! 1. [`accept`]: listeners; each socket goes to the [`worker`] with the fewest clients and stays there
//! 2. [`handshake`]: TLS, the first packet, who the client is, what it is told
//! 3. [`session`]: the loop of a client's life, and what it owns
//! 4. [`route`]: which node a request goes to
//! 5. [`pool`]: checkout, queue, limits
//! 6. [`relay`]: frames both ways until the server owes nothing
//! 7. [`pool`] again: the server goes to whoever waits, or rests
//!
//! Beside it: [`shared`] (what all workers share), [`replication`] (connections that are one client's from dial to close), [`secrets`] (what proves a
//! client, and logs it in to servers), [`server`] (a server connection),
//! [`statements`] (what clients prepare, shared), [`cancel`] (a cancel key's way), [`client`] (what others may do to a
//! client), [`entrance`] (what a listener means), [`pause`] (what a change of primary means here), [`orders`] (what the operator has ordered), [`census`] (who is connected, counted), [`roster`] (by name), [`newcomers`] (who is logging in), [`door`] (a way to the console), [`tally`] (what is counted), [`sounding`] (how far buffers are filled), [`error`] (what a client can be told).

pub mod accept;
pub mod cancel;
pub mod census;
pub mod client;
#[cfg(feature = "negative-control")]
pub mod defect;
pub mod door;
pub mod entrance;
pub mod error;
pub mod handshake;
pub mod incidents;
pub mod newcomers;
pub mod orders;
pub mod pause;
pub mod pool;
pub mod relay;
pub mod replication;
pub mod roster;
pub mod route;
pub mod secrets;
pub mod server;
pub mod session;
pub mod shared;
pub mod sounding;
pub mod statements;
pub mod tally;
pub mod verdict;
pub mod worker;

use base64::Engine as _;

/// A fresh SCRAM nonce: 18 random bytes in base64, as PostgreSQL's (`SCRAM_RAW_NONCE_LEN`).
#[must_use]
pub fn nonce() -> String {
    base64::engine::general_purpose::STANDARD.encode(rand::random::<[u8; 18]>())
}
