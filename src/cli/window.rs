//! The HTTP listener, and how a reload moves it: the new socket is bound before the old one goes, and whoever has asked there is
//! answered.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::admin::http::{Going, HttpAddress, HttpListener, Sources};
use crate::config::{self, Config, Problems};

/// Where the API is served, if anywhere.
pub(super) struct Window {
    sources: Arc<dyn Fn() -> Sources>,
    address: config::HttpAddress,
    stop: Option<oneshot::Sender<()>>,
    going: Option<Going>,
}

/// What a reload will make of it.
pub(super) enum Next {
    /// It stays where it is.
    Stays,
    /// It goes there, or away.
    Moves(config::HttpAddress, Option<HttpListener>),
}

impl Window {
    /// Serves at the configured address.
    pub(super) async fn open(config: &Config, sources: Arc<dyn Fn() -> Sources>) -> anyhow::Result<Self> {
        let mut window = Self { sources, address: config.http.address.clone(), stop: None, going: None };
        if let Some(address) = address(&config.http.address) {
            window.serve(HttpListener::bind(address).await?);
        }
        Ok(window)
    }

    fn serve(&mut self, listener: HttpListener) {
        tracing::info!(address = %listener.address(), "http listening");
        self.going = listener.going();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = listener.serve((self.sources)(), async {
            let _ = stopped.await;
        });
        tokio::task::spawn_local(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "http stopped");
            }
        });
        self.stop = Some(stop);
    }

    /// Binds another address.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(super) async fn prepare(&self, config: &Config) -> Result<Next, Problems> {
        if config.http.address == self.address {
            return Ok(Next::Stays);
        }
        let listener = match address(&config.http.address) {
            None => None,
            Some(address) => Some(HttpListener::bind_beside(address, self.going.as_ref()).await.map_err(|error| {
                let advice = "write another address, or see who listens there";
                config.written.problem("http.address", error.to_string(), advice)
            })?),
        };
        Ok(Next::Moves(config.http.address.clone(), listener))
    }

    /// Takes the new one.
    pub(super) fn exchange(&mut self, next: Next) {
        let Next::Moves(address, listener) = next else { return };
        self.close();
        self.address = address;
        if let Some(listener) = listener {
            self.serve(listener);
        }
    }

    /// Nobody comes in any more; who has asked is answered.
    pub(super) fn close(&mut self) {
        self.going = None;
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(()); // it has ended by itself
        }
    }
}

fn address(address: &config::HttpAddress) -> Option<HttpAddress> {
    match address {
        config::HttpAddress::Off => None,
        config::HttpAddress::Unix(path) => Some(HttpAddress::Unix(path.clone())),
        tcp @ config::HttpAddress::Tcp { .. } => Some(HttpAddress::Tcp(tcp.to_string())),
    }
}
