//! Bringing a server connection to a client's settings, in the same write as the client's first message.
//!
//! `BEGIN`, resets if needed, `set_config(…)`, `COMMIT` in the extended protocol **without Sync**: if any of it fails,
//! the server skips the client's message instead of running it in the wrong state. Every simpler form was measured to
//! let statements through (ARCHITECTURE.md, "State in front of a message"). It goes through the unnamed statement, so
//! whatever the server held there is gone.
//!
//! Order matters: the login's own user back first, as only it may reset everything; then the client's encoding, as values are
//! read in it; session authorization and role last, as they may not be allowed to set the others (`Settings::iter`).

use std::sync::Arc;

use super::Server;
use crate::protocol::messages;
use crate::protocol::pipeline::{InCopy, Owed, Reply};
use crate::proxy::session::settings::Settings;

/// What has to happen to a server before a client's first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing: it is in the client's state.
    None,
    /// The client's settings where they differ, on top of what is there.
    Set,
    /// Back to the login's, then the client's.
    ResetAndSet,
    /// Whatever another client may have left is swept out first.
    CleanAndSet,
}

impl Change {
    /// What it takes for `client`, who wants `wants`.
    #[must_use]
    pub fn needed(server: &Server, client: u64, wants: &Arc<Settings>) -> Self {
        let foreign = server.dirty.is_some_and(|by| by != client);
        if !foreign && Arc::ptr_eq(&server.applied, wants) {
            return Self::None;
        }
        match foreign {
            true => Self::CleanAndSet,
            // what the other has set and this client has not can only be taken back altogether
            false if server.applied.names_within(wants) => Self::Set,
            false => Self::ResetAndSet,
        }
    }
}

/// What `DISCARD ALL` does and a transaction allows, without losing prepared statements.
const SWEEPS: [&[u8]; 5] =
    [b"CLOSE ALL", b"UNLISTEN *", b"SELECT pg_catalog.pg_advisory_unlock_all()", b"DISCARD SEQUENCES", b"DISCARD TEMP"];

/// Appends the prefix to `out` and accounts for its replies.
///
/// # Errors
/// [`InCopy`] when the server is in the middle of something; it should not have been lent.
pub fn write(server: &mut Server, out: &mut Vec<u8>, change: Change, wants: &Settings) -> Result<(), InCopy> {
    #[cfg(feature = "negative-control")]
    let change = match crate::proxy::defect::has(crate::proxy::defect::Defect::NoReset) {
        true => Change::Set, // the defect: what others have left stays
        false => change,
    };
    server.pipeline.begin_prefix();
    server.unnamed = None;
    let mut step = |sql: &[u8], values: &[&[u8]], last: bool| -> Result<(), InCopy> {
        messages::parse(out, b"", sql);
        messages::bind(out, b"", values);
        messages::execute(out);
        server.pipeline.push(Owed::Parse { id: 0, serial: 0, reply: Reply::Swallow })?;
        server.pipeline.push(Owed::Bind(Reply::Swallow))?;
        server.pipeline.push(Owed::Execute(if last { Reply::PrefixEnd } else { Reply::Swallow }))
    };
    step(b"BEGIN", &[], false)?;
    if change != Change::Set {
        step(b"RESET SESSION AUTHORIZATION", &[], false)?;
        step(b"RESET ALL", &[], false)?;
    }
    if change == Change::CleanAndSet {
        for sweep in SWEEPS {
            step(sweep, &[], false)?;
        }
    }
    // a value is read in the encoding that is in force when its message is bound
    let kept = if change == Change::Set { Arc::clone(&server.applied) } else { Arc::default() };
    let ascii = wants.iter().all(|(_, value)| value.is_ascii());
    let alone = |(name, _): &(&[u8], &[u8])| !ascii && *name == b"client_encoding";
    for turn in [true, false] {
        let differs = |(name, value): &(&[u8], &[u8])| kept.value(name) != Some(*value);
        let pairs: Vec<_> = wants.iter().filter(|pair| alone(pair) == turn && differs(pair)).collect();
        if !pairs.is_empty() {
            let call = |at: usize| format!("pg_catalog.set_config(${}, ${}, false)", 2 * at + 1, 2 * at + 2);
            let calls: Vec<_> = (0..pairs.len()).map(call).collect();
            let values: Vec<_> = pairs.iter().flat_map(|(name, value)| [*name, *value]).collect();
            step(format!("SELECT {}", calls.join(", ")).as_bytes(), &values, false)?;
        }
    }
    step(b"COMMIT", &[], true)
}
