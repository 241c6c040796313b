//! HTTP to one agent: a connection per request, over its Unix socket or over TCP with mutual TLS.
//!
//! Every wait is bounded. Not here: what is asked (`directive`), what follows from the answer (`agents`).

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::directive::{AgentStatus, Failure};

/// How long connecting and being answered may take.
const BOUND: Duration = Duration::from_secs(2);
/// No answer is longer.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Where an agent is.
#[derive(Clone, Debug)]
pub enum AgentWay {
    /// Its socket.
    Unix(PathBuf),
    /// Its TCP address, and how to prove ourselves there.
    Tls {
        /// `host:port`.
        address: String,
        /// The name its certificate must be for.
        host: String,
        /// Our certificate, and whose we believe.
        config: Arc<rustls::ClientConfig>,
    },
}

impl PartialEq for AgentWay {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix(one), Self::Unix(two)) => one == two,
            (Self::Tls { address: one, config: a, .. }, Self::Tls { address: two, config: b, .. }) => {
                one == two && Arc::ptr_eq(a, b)
            }
            (Self::Unix(_), Self::Tls { .. }) | (Self::Tls { .. }, Self::Unix(_)) => false,
        }
    }
}

impl std::fmt::Display for AgentWay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tls { address, .. } => write!(f, "https://{address}"),
        }
    }
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    /// Nobody is there: what was asked has not arrived.
    #[error("{0}")]
    Unreachable(#[source] io::Error),
    /// It was asked, and nobody knows what became of it.
    #[error("{0}")]
    Lost(String),
}

impl AgentWay {
    /// What the agent says of itself.
    ///
    /// # Errors
    /// Why it does not, in words.
    pub async fn status(&self) -> Result<AgentStatus, String> {
        match self.ask(Method::GET, "/v1/status", Vec::new()).await {
            Ok((StatusCode::OK, body)) => {
                serde_json::from_slice(&body).map_err(|error| format!("its status does not read: {error}"))
            }
            Ok((StatusCode::FORBIDDEN, body)) => match serde_json::from_slice::<Failure>(&body) {
                Ok(failure) => Err(format!("it lets nobody in from here: {}", failure.text)),
                Err(_) => Err("it lets nobody in from here".to_owned()),
            },
            Ok((status, _)) => Err(format!("it answers {status}")),
            Err(error) => Err(format!("no answer at {self}: {error}")),
        }
    }

    /// A request and its answer's status and body. The body of a stream is read by [`AgentWay::open`].
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), LineError> {
        let asked = async {
            let answer = self.open(method, path, body).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| LineError::Lost(error.to_string()))?;
            Ok((status, body.to_bytes()))
        };
        tokio::time::timeout(BOUND, asked)
            .await
            .unwrap_or_else(|_| Err(LineError::Lost("no answer in time".to_owned())))
    }

    /// A request, and the head of its answer.
    pub(super) async fn open(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, LineError> {
        let opened = async {
            match self {
                Self::Unix(socket) => {
                    let stream = UnixStream::connect(socket).await.map_err(LineError::Unreachable)?;
                    request(stream, method, path, body).await
                }
                Self::Tls { address, host, config } => {
                    let stream = TcpStream::connect(address).await.map_err(LineError::Unreachable)?;
                    let _ = stream.set_nodelay(true);
                    let name = ServerName::try_from(host.clone())
                        .map_err(|error| LineError::Unreachable(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
                    let connector = TlsConnector::from(Arc::clone(config));
                    let stream = connector.connect(name, stream).await.map_err(LineError::Unreachable)?;
                    request(stream, method, path, body).await
                }
            }
        };
        match tokio::time::timeout(BOUND, opened).await {
            Ok(opened) => opened,
            Err(_) => Err(LineError::Lost("no answer in time".to_owned())),
        }
    }
}

async fn request<S>(stream: S, method: Method, path: &str, body: Vec<u8>) -> Result<Response<Incoming>, LineError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let lost = |error: hyper::Error| LineError::Lost(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    // ends with the answer, or when nobody reads it any more
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "howdah-agent")
        .header("content-type", "application/json")
        .header("connection", "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| LineError::Lost(error.to_string()))?;
    sender.send_request(request).await.map_err(lost)
}
