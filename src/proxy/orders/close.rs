//! RECONNECT, WAIT_CLOSE, KILL, KILL_CLIENT: who and what has to go.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{LOOK_AGAIN, OrderError, Orders, known};
use crate::proxy::client::{ClientHandle, Signal};
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

    /// KILL: the database, or every one that has a pool, is paused, and its clients and servers are dropped; those who are logging
    /// in, too, once they have said to which database.
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
        // first those who are logging in: whoever gets on meanwhile is among the clients
        let mut killed: BTreeMap<u64, Arc<ClientHandle>> = BTreeMap::new();
        let newcomers = shared.newcomers.all().into_iter().filter(|newcomer| newcomer.is_client_of(database));
        killed.extend(newcomers.map(|newcomer| (newcomer.handle.id, Arc::clone(&newcomer.handle))));
        let clients = super::clients(shared).into_iter();
        let clients = clients.filter(|client| database.is_none_or(|name| *client.database == *name));
        killed.extend(clients.map(|client| (client.id, Arc::clone(&client.handle))));
        killed.values().for_each(|handle| handle.signal(Signal::Kill));
        let count = killed.len();
        tracing::info!(database, clients = count, "ordered: KILL");
        Ok(())
    }

    /// KILL_CLIENT: this client goes, whether it has logged in or not.
    ///
    /// # Errors
    /// [`OrderError::ClientNotFound`].
    pub fn kill_client(&self, shared: &Shared, id: u64) -> Result<(), OrderError> {
        // first among those who are logging in: whoever gets on meanwhile is a client then
        let newcomer = shared.newcomers.find(id).map(|newcomer| Arc::clone(&newcomer.handle));
        let client = || shared.roster.find(id).map(|client| Arc::clone(&client.handle));
        let handle = newcomer.or_else(client).ok_or(OrderError::ClientNotFound)?;
        handle.signal(Signal::Disconnect);
        tracing::info!(client = id, "ordered: KILL_CLIENT");
        Ok(())
    }
}
