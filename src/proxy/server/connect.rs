//! Dialling a server and logging in to it.
//!
//! The credential is whatever is known of the user: a password from the configuration, the keys a client's proof has
//! shown, or a stored md5 hash. Every step is bounded by the caller's deadline.
//!
//! Not here: who may dial and how often (`pool`).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_rustls::TlsConnector;

use super::statements::Prepared;
use super::{Endpoint, Identity, Server};
use crate::config::{ChannelBinding, Secret};
use crate::net::stream::{Socket, Stream};
use crate::net::tls::end_point_hash;
use crate::pg::SqlState;
use crate::protocol::error_response::ServerError;
use crate::protocol::frame::{HEADER_LEN, Scan, scan_header, split_cstr};
use crate::protocol::pipeline::Pipeline;
use crate::protocol::scram::{self, Binding, ClientExchange, Keys};
use crate::protocol::{md5, messages};
use crate::proxy::session::settings::{Interner, Reported, Settings};

/// The largest message a server may send before login is over, in bytes. libpq: `MAX_ERRLEN` and then some.
const LOGIN_MESSAGE_MAX: u32 = 30_000;
/// Parameters a server may report while it logs us in.
const PARAMETERS_MAX: usize = 1_000;
/// Quiet time before the first keepalive, and between two; three unanswered end the connection. PgBouncer: `tcp_keepalive`.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// What one logs in to servers with.
#[derive(Clone, Debug, Default)]
pub enum ServerCredential {
    /// Nothing: the server must trust us.
    #[default]
    None,
    /// A password, and the keys that were last derived from it.
    Password(Arc<ServerPassword>),
    /// What a client's proof has shown.
    Keys(Arc<Keys>),
    /// A stored md5 hash, `md5` in front.
    Md5(Secret),
}

/// A password with a memory, as deriving keys from it costs milliseconds.
#[derive(Debug)]
pub struct ServerPassword {
    password: Secret,
    derived: Mutex<Option<Arc<Keys>>>,
}

impl ServerPassword {
    /// A password nothing has been derived from.
    #[must_use]
    pub fn new(password: Secret) -> Self {
        Self { password, derived: Mutex::default() }
    }

    fn keys(&self, salt: &[u8], iterations: u32) -> Arc<Keys> {
        let mut derived = self.derived.lock();
        match &*derived {
            Some(keys) if keys.salt == salt && keys.iterations == iterations => Arc::clone(keys),
            _ => {
                let keys = Arc::new(Keys::derive(self.password.reveal().as_bytes(), salt, iterations));
                *derived = Some(Arc::clone(&keys));
                keys
            }
        }
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The server said so, in these fields of its ErrorResponse.
    #[error("{}", ServerError::read(.0).text())]
    Refused(Box<[u8]>),
    /// The network, or the absence of a server.
    #[error("{0}")]
    Unreachable(String),
    /// TLS did not come about.
    #[error("TLS: {0}")]
    Tls(String),
    /// The server wants a proof we have nothing for.
    #[error("{0}; write it under [users.NAME] in howdah.toml, or let the user log in once with scram-sha-256")]
    NoCredential(&'static str),
    /// The role's password is not the one a client has proven.
    #[error(
        "the password of this user has changed since it logged in, or its verifier in howdah's files is not the server's; \
         connect again with the new one"
    )]
    KeysOutdated,
    /// The server does not prove who it is, or does not speak the protocol.
    #[error("{0}")]
    Nonsense(String),
    /// `timeouts.server_connect`.
    #[error("no answer within {0:?} (timeouts.server_connect)")]
    TimedOut(Duration),
}

impl DialError {
    /// Whether trying again in a moment cannot help: wrong password, no such database or role.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused(fields) => ServerError::read(fields).code.is_some_and(|code| {
                matches!(&code.class(), b"28" | b"3D" | b"42" | b"0A" | b"22") || code == SqlState::PROTOCOL_VIOLATION
            }),
            Self::NoCredential(_) | Self::KeysOutdated => true,
            Self::Unreachable(_) | Self::Tls(_) | Self::Nonsense(_) | Self::TimedOut(_) => false,
        }
    }
}

impl DialError {
    /// Whether another credential may succeed.
    #[must_use]
    pub fn blames_credential(&self) -> bool {
        match self {
            Self::Refused(fields) => ServerError::read(fields).code == Some(SqlState::INVALID_PASSWORD),
            Self::NoCredential(_) | Self::KeysOutdated => true,
            Self::Unreachable(_) | Self::Tls(_) | Self::Nonsense(_) | Self::TimedOut(_) => false,
        }
    }
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Unreachable("the server hung up during login".to_owned()),
            io::ErrorKind::ConnectionRefused => Self::Unreachable("connection refused".to_owned()),
            _ => Self::Unreachable(error.to_string()),
        }
    }
}

/// Opens a connection to `endpoint` and logs in, with what `startup` sets in the startup packet.
///
/// # Errors
/// [`DialError`].
pub async fn connect(
    endpoint: &Arc<Endpoint>,
    user: &str,
    database: &str,
    credential: &ServerCredential,
    reported: &Interner<Reported>,
    startup: &Arc<Settings>,
    within: Option<Duration>,
) -> Result<Server, DialError> {
    let dialling = async {
        let (mut stream, server_hash) = open(endpoint).await?;
        let login = Box::pin(log_in(&mut stream, endpoint, user, database, credential, startup, server_hash)).await?;
        let told = reported.intern(login.reported);
        let now = Instant::now();
        Ok(Server {
            identity: Arc::new(Identity::new(Arc::clone(endpoint), login.pid, &login.secret, stream.is_tls())),
            stream,
            pipeline: Pipeline::new(),
            prepared: Prepared::default(),
            unnamed: None,
            reported: Arc::clone(&told),
            login: told,
            startup: Arc::clone(startup),
            applied: Arc::clone(startup),
            dirty: None,
            sequence_of: None,
            kept: Vec::new(),
            database: database.into(),
            born: now,
            idle_since: now,
            carry: Vec::new(),
            body_left: 0,
            body_dropped: false,
            out: None,
            out_sent: 0,
            deaf: false,
        })
    };
    match within {
        Some(within) => tokio::time::timeout(within, dialling).await.unwrap_or(Err(DialError::TimedOut(within))),
        None => dialling.await,
    }
}

/// Sends a cancel for a server connection and waits until the server has taken it. `Ok` when it has, or when it was
/// never sent.
///
/// # Errors
/// When it is not known whether the cancel will still arrive.
pub async fn cancel(identity: &Identity, within: Option<Duration>) -> Result<(), DialError> {
    let endpoint = &identity.endpoint;
    let within = within.unwrap_or(Duration::from_secs(10));
    let open = async {
        let socket = dial(endpoint).await?;
        if identity.tls {
            start_tls(socket, endpoint).await.map(|(stream, _)| stream)
        } else {
            Ok(Stream::Plain(socket))
        }
    };
    let Ok(Ok(mut stream)) = tokio::time::timeout(within, open).await else { return Ok(()) };
    let sent = async {
        let mut request = Vec::new();
        messages::cancel_request(&mut request, identity.pid, &identity.secret);
        stream.write_all(&request).await?;
        // the server closes once the signal has been sent; what it says before that is nothing
        let mut rest = [0; 64];
        while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
        Ok(())
    };
    tokio::time::timeout(within, sent).await.unwrap_or(Err(DialError::TimedOut(within)))
}

async fn dial(endpoint: &Endpoint) -> Result<Socket, DialError> {
    if endpoint.host.starts_with('/') {
        let path = format!("{}/.s.PGSQL.{}", endpoint.host, endpoint.port);
        return Ok(Socket::Unix(tokio::net::UnixStream::connect(path).await?));
    }
    let socket = tokio::net::TcpStream::connect((endpoint.host.as_ref(), endpoint.port)).await?;
    socket.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(3);
    socket2::SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
    Ok(Socket::Tcp(socket))
}

/// A connection on which the startup message can be sent, and the hash of the server's certificate.
async fn open(endpoint: &Endpoint) -> Result<(Stream, Option<Vec<u8>>), DialError> {
    let socket = dial(endpoint).await?;
    let wants_tls = endpoint.tls.as_ref().is_some_and(|tls| tls.mode.tries_tls_first());
    if !wants_tls || endpoint.host.starts_with('/') {
        return Ok((Stream::Plain(socket), None));
    }
    start_tls(socket, endpoint).await
}

/// SSLRequest and the handshake (PostgreSQL: PROTOCOL-FLOW-SSL).
async fn start_tls(socket: Socket, endpoint: &Endpoint) -> Result<(Stream, Option<Vec<u8>>), DialError> {
    let Some(tls) = &endpoint.tls else { return Ok((Stream::Plain(socket), None)) };
    let mut plain = Stream::Plain(socket);
    plain.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]).await?;
    let mut answer = [0];
    plain.read_exact(&mut answer).await?;
    let Stream::Plain(socket) = plain else { return Err(DialError::Tls("not a plain socket".to_owned())) };
    match answer {
        [b'S'] => {}
        [b'N'] if !tls.mode.needs_tls() => return Ok((Stream::Plain(socket), None)),
        [b'N'] => return Err(DialError::Tls("the server does not support it".to_owned())),
        _ => return Err(DialError::Nonsense("unexpected answer to the request for TLS".to_owned())),
    }
    if !socket.is_silent() {
        return Err(DialError::Nonsense("unencrypted data behind the answer to the request for TLS".to_owned()));
    }
    let name = tls.server_name(&endpoint.host).map_err(|error| DialError::Tls(error.to_string()))?;
    let connected = TlsConnector::from(Arc::clone(&tls.config)).connect(name, socket).await;
    let stream = connected.map_err(|error| DialError::Tls(error.to_string()))?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first().cloned());
    let hash = certificate.and_then(|certificate| end_point_hash(&certificate));
    Ok((Stream::Dialled(Box::new(stream)), hash))
}

/// What a login brings.
#[derive(Default)]
struct Login {
    reported: Reported,
    pid: i32,
    secret: Vec<u8>,
}

/// Startup, authentication, parameters, ReadyForQuery (PostgreSQL: PROTOCOL-FLOW-START-UP).
async fn log_in(
    stream: &mut Stream,
    endpoint: &Endpoint,
    user: &str,
    database: &str,
    credential: &ServerCredential,
    startup: &Settings,
    server_hash: Option<Vec<u8>>,
) -> Result<Login, DialError> {
    let mut parameters: Vec<(&[u8], &[u8])> = vec![(b"user", user.as_bytes()), (b"database", database.as_bytes())];
    parameters.extend(startup.iter());
    let mut out = Vec::new();
    messages::startup(&mut out, &parameters);
    stream.write_all(&out).await?;
    let mut login = Login::default();
    let mut authenticated = false;
    let mut bound = false;
    let mut parameters = 0;
    loop {
        let (tag, body) = read_message(stream).await?;
        match tag {
            b'E' => return Err(DialError::Refused(body.into())),
            b'N' => {}
            b'R' if !authenticated => {
                let (binding, hash) = (endpoint.channel_binding, server_hash.as_deref());
                authenticated = authenticate(stream, &body, user, credential, hash, binding, &mut bound).await?;
            }
            b'S' if authenticated && parameters < PARAMETERS_MAX => {
                parameters += 1;
                let pair = split_cstr(&body).and_then(|(name, rest)| Some((name, split_cstr(rest)?.0)));
                let (name, value) = pair.ok_or_else(|| nonsense("malformed ParameterStatus"))?;
                login.reported.set(name, value);
            }
            b'K' if authenticated => {
                let (pid, secret) =
                    body.split_first_chunk::<4>().ok_or_else(|| nonsense("malformed BackendKeyData"))?;
                login.pid = i32::from_be_bytes(*pid);
                login.secret = secret.to_vec();
            }
            b'Z' if authenticated && body == b"I" => return Ok(login),
            other => return Err(nonsense(&format!("unexpected message type {other} during login"))),
        }
    }
}

fn nonsense(text: &str) -> DialError {
    DialError::Nonsense(text.to_owned())
}

async fn read_message(stream: &mut Stream) -> Result<(u8, Vec<u8>), DialError> {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).await?;
    match scan_header(&header) {
        Ok(Scan::Header { tag, body_len }) if body_len <= LOGIN_MESSAGE_MAX => {
            let mut body = vec![0; usize::try_from(body_len).unwrap_or(0)];
            stream.read_exact(&mut body).await?;
            Ok((tag, body))
        }
        _ => Err(nonsense("message of impossible length during login")),
    }
}

/// Answers one authentication request; `true` when the server is satisfied.
async fn authenticate(
    stream: &mut Stream,
    body: &[u8],
    user: &str,
    credential: &ServerCredential,
    server_hash: Option<&[u8]>,
    demanded: ChannelBinding,
    bound: &mut bool,
) -> Result<bool, DialError> {
    let (kind, rest) = body.split_first_chunk::<4>().ok_or_else(|| nonsense("malformed authentication request"))?;
    let kind = u32::from_be_bytes(*kind);
    // before anything is said that somebody in between could use
    let binds = *bound || (kind == 10 && server_hash.is_some() && offers(rest, scram::MECHANISM_PLUS));
    if demanded == ChannelBinding::Require && !binds {
        return Err(DialError::Tls("channel binding is required, and the server does not offer it".to_owned()));
    }
    match kind {
        0 => return Ok(true),
        3 => {
            let ServerCredential::Password(known) = credential else {
                return Err(DialError::NoCredential("the server wants a password, and howdah has none for this user"));
            };
            if !stream.is_tls() {
                return Err(DialError::NoCredential("the server wants a password in clear text without TLS"));
            }
            send_password(stream, known.password.reveal().as_bytes()).await?;
        }
        5 => {
            let salt: [u8; 4] = rest.try_into().map_err(|_| nonsense("malformed md5 salt"))?;
            let secret = match credential {
                ServerCredential::Password(known) => known.password.reveal(),
                ServerCredential::Md5(hash) => hash.reveal(),
                ServerCredential::None | ServerCredential::Keys(_) => {
                    return Err(DialError::NoCredential(
                        "the server wants md5, and howdah has no password for this user",
                    ));
                }
            };
            send_password(stream, md5::md5_response(user.as_bytes(), secret.as_bytes(), salt).as_bytes()).await?;
        }
        10 => {
            scram_login(stream, rest, credential, server_hash).await?;
            *bound = binds;
        }
        other => return Err(nonsense(&format!("unsupported authentication method {other}"))),
    }
    Ok(false)
}

async fn send_password(stream: &mut Stream, secret: &[u8]) -> io::Result<()> {
    let mut out = Vec::new();
    messages::message(&mut out, b'p', |body| messages::cstr(body, secret));
    stream.write_all(&out).await
}

/// Whether AuthenticationSASL names this mechanism.
fn offers(mechanisms: &[u8], name: &str) -> bool {
    mechanisms.split(|b| *b == 0).any(|offer| offer == name.as_bytes())
}

/// SASL with SCRAM-SHA-256, bound to the channel where the server offers it (PostgreSQL: SASL-AUTHENTICATION).
async fn scram_login(
    stream: &mut Stream,
    mechanisms: &[u8],
    credential: &ServerCredential,
    server_hash: Option<&[u8]>,
) -> Result<(), DialError> {
    let offers = |name: &str| offers(mechanisms, name);
    let (mechanism, binding) = match server_hash {
        Some(hash) if offers(scram::MECHANISM_PLUS) => (scram::MECHANISM_PLUS, Binding::EndPoint(hash.to_vec())),
        Some(_) if offers(scram::MECHANISM) => (scram::MECHANISM, Binding::Unused),
        _ if offers(scram::MECHANISM) => (scram::MECHANISM, Binding::Unavailable),
        _ => return Err(nonsense("the server offers no SASL mechanism that howdah speaks")),
    };
    let wrong = |error: scram::ScramError| nonsense(&error.to_string());
    let (exchange, first) = ClientExchange::start(&crate::proxy::nonce(), binding).map_err(wrong)?;
    let mut out = Vec::new();
    messages::message(&mut out, b'p', |body| {
        messages::cstr(body, mechanism.as_bytes());
        body.extend(u32::try_from(first.len()).unwrap_or(0).to_be_bytes());
        body.extend(&first);
    });
    stream.write_all(&out).await?;
    let server_first = sasl_answer(stream, 11).await?;
    let asked = exchange.read_server_first(&server_first).map_err(wrong)?;
    let keys = match credential {
        ServerCredential::Keys(keys) => Arc::clone(keys),
        ServerCredential::Password(known) => known.keys(&asked.salt, asked.iterations),
        ServerCredential::None | ServerCredential::Md5(_) => {
            return Err(DialError::NoCredential("the server wants SCRAM, and howdah has no password for this user"));
        }
    };
    let (last, expected) =
        exchange.respond(&server_first, &scram::Credential::Keys(&keys)).map_err(|error| match error {
            scram::ScramError::KeysDoNotFit { .. } => DialError::KeysOutdated,
            error => wrong(error),
        })?;
    out.clear();
    messages::password(&mut out, &last);
    stream.write_all(&out).await?;
    expected.verify(&sasl_answer(stream, 12).await?).map_err(wrong)
}

async fn sasl_answer(stream: &mut Stream, expected: u32) -> Result<Vec<u8>, DialError> {
    let (tag, body) = read_message(stream).await?;
    match (tag, body.split_first_chunk::<4>()) {
        (b'E', _) => Err(DialError::Refused(body.into())),
        (b'R', Some((kind, rest))) if u32::from_be_bytes(*kind) == expected => Ok(rest.to_vec()),
        _ => Err(nonsense("unexpected answer during SASL")),
    }
}
