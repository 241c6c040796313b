//! The way to a node: its addresses, and TLS as libpq's `sslmode` has it. Connections for clients' statements, cancels
//! and control connections all take it.
//!
//! Not here: who logs in and how (`proxy/server/connect`, `catalog/connection`); they say which attempt comes next.

use std::sync::Arc;

use tokio_rustls::TlsConnector;

use super::dial::{Dialer, Place, Target, Trial, Unreached};
use super::stream::{Socket, Stream};
use super::tls::{ALPN, ClientTls, end_point_hash};
use crate::config::{ChannelBinding, Host, NodeHost, TlsMode, TlsNegotiation};

/// SSLRequest, whole (PostgreSQL: PROTOCOL-MESSAGE-FORMATS).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// How a node is reached.
#[derive(Clone, Debug)]
pub struct Way {
    /// Where it listens.
    pub target: Target,
    /// Whether and how TLS is spoken. Not used over Unix sockets, as in libpq.
    pub tls: Option<ClientTls>,
    /// Whether a login must be bound to TLS (libpq: `channel_binding`).
    pub channel_binding: ChannelBinding,
    /// Who connects.
    pub dialer: Arc<Dialer>,
}

/// What one attempt asks of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// No TLS.
    Plain,
    /// TLS, or none where the node has none.
    TlsIfOffered,
    /// TLS.
    Tls,
}

/// A connection on which the startup message can be sent.
#[derive(Debug)]
pub struct Opened {
    /// The connection.
    pub stream: Stream,
    /// Where it has ended up.
    pub place: Place,
    /// The hash of the node's certificate, which SCRAM binds to.
    pub end_point_hash: Option<Vec<u8>>,
    /// Whether anybody answers there; the login tells. None for a place that is known to work.
    pub trial: Option<Trial>,
}

impl Opened {
    /// Somebody has answered, be it with a refusal.
    pub fn answered(&mut self) {
        if let Some(trial) = self.trial.take() {
            trial.answered();
        }
    }
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Nobody was reached.
    #[error("{0}")]
    Unreached(#[from] Unreached),
    /// TLS did not come about.
    #[error("TLS: {0}")]
    Tls(String),
    /// Whoever is there does not speak PostgreSQL.
    #[error("{0}")]
    Nonsense(&'static str),
}

impl From<std::io::Error> for OpenError {
    fn from(error: std::io::Error) -> Self {
        Self::Unreached(match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Unreached { reason: super::dial::Reason::Refused, text: "the server hung up before TLS".to_owned() }
            }
            _ => error.into(),
        })
    }
}

impl Way {
    /// What to try, in this order, each one on a connection of its own (libpq: `sslmode`). The second only where the first
    /// was refused by `pg_hba.conf`, or its TLS handshake has failed.
    #[must_use]
    pub fn attempts(&self) -> &'static [Demand] {
        match &self.tls {
            _ if matches!(self.target.host, NodeHost::SocketDirectory(_)) => &[Demand::Plain],
            None => &[Demand::Plain],
            Some(tls) => match tls.mode {
                TlsMode::Disable => &[Demand::Plain],
                TlsMode::Allow => &[Demand::Plain, Demand::Tls],
                TlsMode::Prefer => &[Demand::TlsIfOffered, Demand::Plain],
                TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => &[Demand::Tls],
            },
        }
    }

    /// Connects, and speaks TLS as demanded.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(&self, demand: Demand) -> Result<Opened, OpenError> {
        let (socket, place) = self.dialer.dial(&self.target).await?;
        let trial = self.dialer.trial(&place);
        let mut opened = self.encrypt(socket, place, demand).await?;
        opened.trial = Some(trial);
        Ok(opened)
    }

    /// The same, to where a connection has ended up before.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open_again(&self, place: &Place, demand: Demand) -> Result<Opened, OpenError> {
        let socket = self.dialer.dial_again(place).await?;
        self.encrypt(socket, place.clone(), demand).await
    }

    async fn encrypt(&self, socket: Socket, place: Place, demand: Demand) -> Result<Opened, OpenError> {
        let (tls, host) = match (demand, &self.tls, &place) {
            (Demand::Plain, _, _) | (_, _, Place::Unix(_)) => return Ok(plain(socket, place)),
            (_, None, _) => return Err(OpenError::Tls("not configured".to_owned())),
            (_, Some(tls), Place::Tcp(_, host)) => (tls, host),
        };
        let mut socket = socket;
        if tls.negotiation == TlsNegotiation::Postgres {
            let mut asking = Stream::Plain(socket);
            asking.write_all(&SSL_REQUEST).await?;
            let mut answer = [0];
            asking.read_exact(&mut answer).await?;
            let Stream::Plain(asked) = asking else { return Err(OpenError::Nonsense("not a plain socket")) };
            match (answer, demand) {
                ([b'S'], _) => {}
                ([b'N'], Demand::TlsIfOffered) => return Ok(plain(asked, place)),
                ([b'N'], _) => return Err(OpenError::Tls("the server does not support it".to_owned())),
                // an ErrorResponse: whoever it is does not know the request, or somebody in between says anything
                ([b'E'], _) => return Err(OpenError::Tls("the server refused the request".to_owned())),
                _ => return Err(OpenError::Nonsense("unexpected answer to the request for TLS")),
            }
            if !asked.is_silent() {
                return Err(OpenError::Nonsense("unencrypted data behind the answer to the request for TLS"));
            }
            socket = asked;
        }
        let host = match host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name.clone(),
        };
        let failed = |error: &dyn std::fmt::Display| OpenError::Tls(error.to_string());
        let name = tls.server_name(&host).map_err(|error| failed(&error))?;
        let connected = TlsConnector::from(Arc::clone(&tls.config)).connect(name, socket).await;
        let stream = Stream::Dialled(Box::new(connected.map_err(|error| failed(&error))?));
        if tls.negotiation == TlsNegotiation::Direct && stream.alpn() != Some(ALPN) {
            return Err(OpenError::Tls(
                "the server did not agree on ALPN \"postgresql\": negotiation = \"direct\" needs PostgreSQL 17"
                    .to_owned(),
            ));
        }
        let end_point_hash = stream.peer_certificate().and_then(|certificate| end_point_hash(certificate));
        Ok(Opened { stream, place, end_point_hash, trial: None })
    }
}

fn plain(socket: Socket, place: Place) -> Opened {
    Opened { stream: Stream::Plain(socket), place, end_point_hash: None, trial: None }
}
