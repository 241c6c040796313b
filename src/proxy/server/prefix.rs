//! Bringing a server connection to a client's settings, in the same write as the client's first message.
//!
//! `BEGIN`, resets if needed, `set_config(…)`, `COMMIT` in the extended protocol **without Sync**: if any of it fails,
//! the server skips the client's message instead of running it in the wrong state. Every simpler form was measured to
//! let statements through (ARCHITECTURE.md, "State in front of a message"). It goes through the unnamed statement, so
//! whatever the server held there is gone.
//!
//! Order matters: session authorization, then everything else, then the client's encoding before values that may be
//! written in it.

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
    /// The client's settings on top of the login's.
    Set,
    /// Back to the login's, then the client's.
    ResetAndSet,
}

impl Change {
    /// What it takes for `client`, who wants `wants`.
    #[must_use]
    pub fn needed(server: &Server, client: u64, wants: &Arc<Settings>) -> Self {
        let foreign = server.dirty.is_some_and(|by| by != client);
        if !foreign && Arc::ptr_eq(&server.applied, wants) {
            return Self::None;
        }
        if foreign || !server.applied.is_empty() { Self::ResetAndSet } else { Self::Set }
    }
}

/// Appends the prefix to `out` and accounts for its replies.
///
/// # Errors
/// [`InCopy`] when the server is in the middle of something; it should not have been lent.
pub fn write(server: &mut Server, out: &mut Vec<u8>, change: Change, wants: &Settings) -> Result<(), InCopy> {
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
    if change == Change::ResetAndSet {
        step(b"RESET SESSION AUTHORIZATION", &[], false)?;
        step(b"RESET ALL", &[], false)?;
        step(b"UNLISTEN *", &[], false)?;
    }
    if !wants.is_empty() {
        let mut sql = b"SELECT ".to_vec();
        let mut values = Vec::with_capacity(2 * wants.len());
        for (at, (name, value)) in wants.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            sql.extend(format!("{comma}pg_catalog.set_config(${}, ${}, false)", 2 * at + 1, 2 * at + 2).bytes());
            values.extend([name, value]);
        }
        step(&sql, &values, false)?;
    }
    step(b"COMMIT", &[], true)
}
