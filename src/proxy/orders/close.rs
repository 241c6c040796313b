//! RECONNECT, WAIT_CLOSE, KILL, KILL_CLIENT: who and what has to go.

use super::{LOOK_AGAIN, OrderError, Orders, known};
use crate::proxy::client::Signal;
use crate::proxy::shared::Shared;

impl Orders {
    /// RECONNECT: every server, of the database or at all, is closed as soon as nobody uses it.
    ///
    /// # Errors
    /// [`OrderError::NoSuchDatabase`].
    pub fn reconnect(&self, shared: &Shared, database: Option<&str>) -> Result<(), OrderError> {
        if let Some(name) = database {
            known(shared, name)?;
        }
        shared.pools.of(database).iter().for_each(|pool| pool.reconnect());
        self.notify();
        tracing::info!(database, "ordered: RECONNECT");
        Ok(())
    }

    /// WAIT_CLOSE: done when every server that a RECONNECT, or a KILL, wants closed is.
    ///
    /// # Errors
    /// [`OrderError::NoSuchDatabase`].
    pub async fn wait_close(&self, shared: &Shared, database: Option<&str>) -> Result<(), OrderError> {
        if let Some(name) = database {
            known(shared, name)?;
        }
        while shared.pools.of(database).iter().any(|pool| pool.has_to_close()) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// KILL: the database, or every one that has a pool, is paused, and its clients and servers are dropped.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn kill(&self, shared: &Shared, database: Option<&str>) -> Result<(), OrderError> {
        let mut state = self.state.lock();
        if state.all.is_some() {
            return Err(OrderError::AlreadyPaused);
        }
        if let Some(name) = database {
            known(shared, name)?;
        }
        let pools = shared.pools.of(database);
        for name in pools.iter().map(|pool| &*pool.key.database).chain(database) {
            if !state.databases.contains_key(name) {
                let number = state.next();
                state.databases.insert(name.into(), number);
            }
        }
        pools.iter().for_each(|pool| pool.reconnect());
        self.enforce(shared, &state);
        drop(state);
        let clients = super::clients(shared);
        let killed = clients.iter().filter(|client| database.is_none_or(|name| *client.database == *name));
        let count = killed.inspect(|client| client.handle.signal(Signal::Kill)).count();
        tracing::info!(database, clients = count, "ordered: KILL");
        Ok(())
    }

    /// KILL_CLIENT: this client goes.
    ///
    /// # Errors
    /// [`OrderError::ClientNotFound`].
    pub fn kill_client(&self, shared: &Shared, id: u64) -> Result<(), OrderError> {
        let client = shared.roster.find(id).ok_or(OrderError::ClientNotFound)?;
        client.handle.signal(Signal::Disconnect);
        tracing::info!(client = id, user = &*client.user, database = &*client.database, "ordered: KILL_CLIENT");
        Ok(())
    }
}
