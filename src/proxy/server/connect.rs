//! Dialling a server and logging in to it.
//!
//! Not here: addresses and TLS (`net/way`), who may dial and how often (`pool`). What is here of them: which attempt
//! comes after one that was refused.
//!
//! The credential is whatever is known of the user: a password from the configuration, the keys a client's proof has
//! shown, or a stored md5 hash. Every step is bounded by the caller's deadline.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::kept::Kept;
use super::statements::Prepared;
use super::{Endpoint, Identity, Server};
use crate::config::{ChannelBinding, Secret};
use crate::net::stream::Stream;
use crate::net::way::{Demand, OpenError, Opened};
use crate::pg::SqlState;
use crate::protocol::error_response::ServerError;
use crate::protocol::frame::{HEADER_LEN, Scan, scan_header, split_cstr};
use crate::protocol::pipeline::Pipeline;
use crate::protocol::scram::{self, Binding, ClientExchange, Keys};
use crate::protocol::{md5, messages, startup};
use crate::proxy::session::settings::{Interner, Reported, Settings};
use crate::proxy::tally::runs::Runs;
use crate::topology::Epoch;
use parking_lot::Mutex;

/// The largest message a server may send before login is over, in bytes. libpq: `MAX_ERRLEN` and then some.
const LOGIN_MESSAGE_MAX: u32 = 30_000;
/// Parameters a server may report while it logs us in.
const PARAMETERS_MAX: usize = 1_000;

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

/// How far a login has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The server has said nothing yet.
    Asked,
    /// It speaks an older protocol.
    Negotiated,
    /// It wants a proof, or none.
    Authenticating,
}

/// A login that came to nothing.
struct Failed {
    error: DialError,
    /// How far it had come: before any proof, another way of speaking to the server may do.
    stage: Stage,
    /// Whether it was said through TLS.
    encrypted: bool,
}

impl Failed {
    /// `pg_hba.conf` has no entry for a connection like this one (libpq tries the other kind then: `sslmode` allow and
    /// prefer).
    fn is_of_encryption(&self, demand: Demand) -> bool {
        match &self.error {
            DialError::Tls(_) => true,
            DialError::Refused(fields) => {
                let tried_both = demand == Demand::TlsIfOffered && !self.encrypted;
                !tried_both
                    && self.stage != Stage::Authenticating
                    && ServerError::read(fields).code == Some(SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
            }
            _ => false,
        }
    }

    /// What knows protocol 3.0 only says so, or hangs up.
    fn is_of_version(&self) -> bool {
        self.stage == Stage::Asked
            && match &self.error {
                DialError::Refused(fields) => ServerError::read(fields)
                    .code
                    .is_none_or(|code| code == SqlState::FEATURE_NOT_SUPPORTED || code == SqlState::PROTOCOL_VIOLATION),
                DialError::Unreachable(_) => true,
                _ => false,
            }
    }
}

impl From<OpenError> for Failed {
    fn from(error: OpenError) -> Self {
        let error = match error {
            OpenError::Unreached(error) => DialError::Unreachable(error.text),
            OpenError::Tls(text) => DialError::Tls(text),
            OpenError::Nonsense(text) => nonsense(text),
        };
        Self { error, stage: Stage::Authenticating, encrypted: false }
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
    let whom = Whom { user, database, credential, startup, binding: endpoint.way.channel_binding };
    let dialling = async {
        let (opened, login) = negotiate(endpoint, &whom).await?;
        let Opened { stream, place, .. } = opened;
        let told = reported.intern(login.reported);
        let now = Instant::now();
        let identity = Identity::new(Arc::clone(endpoint), place, login.pid, &login.secret, stream.is_tls());
        Ok(Server {
            identity: Arc::new(identity),
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
            kept: Kept::default(),
            runs: Runs::default(),
            database: database.into(),
            epoch: Epoch(0),
            reign: (0, 0),
            asked_in: 0,
            board: None,
            round: Arc::default(),
            born: now,
            idle_since: now,
            carry: Vec::new(),
            body_left: 0,
            body_dropped: false,
            out: None,
            out_sent: 0,
            deaf: false,
            entry: None,
        })
    };
    match within {
        Some(within) => tokio::time::timeout(within, dialling).await.unwrap_or(Err(DialError::TimedOut(within))),
        None => dialling.await,
    }
}

/// Who logs in, and where to.
struct Whom<'a> {
    user: &'a str,
    database: &'a str,
    credential: &'a ServerCredential,
    /// What the startup packet sets.
    startup: &'a Settings,
    /// Whether the login must be bound to TLS.
    binding: ChannelBinding,
}

/// With TLS or without, as `sslmode` has it.
async fn negotiate(endpoint: &Endpoint, whom: &Whom<'_>) -> Result<(Opened, Login), DialError> {
    let mut said: Option<DialError> = None;
    for demand in endpoint.way.attempts() {
        match greet(endpoint, whom, *demand).await {
            Ok(done) => return Ok(done),
            Err(failed) if failed.is_of_encryption(*demand) => match (&said, failed.error) {
                // what the server itself has said tells more than that it has no TLS
                (Some(DialError::Refused(_)), DialError::Tls(_)) => {}
                (_, error) => said = Some(error),
            },
            Err(failed) => return Err(failed.error),
        }
    }
    Err(said.unwrap_or_else(|| nonsense("no way to speak to the server")))
}

/// With protocol 3.2, or 3.0 where the server does not even negotiate (before 9.3.21, and some that stand in front).
async fn greet(endpoint: &Endpoint, whom: &Whom<'_>, demand: Demand) -> Result<(Opened, Login), Failed> {
    let newest = match endpoint.old_protocol.load(Ordering::Relaxed) {
        true => 0,
        false => startup::NEWEST_MINOR,
    };
    let failed = match attempt(endpoint, whom, demand, newest).await {
        Err(failed) if newest > 0 && failed.is_of_version() => failed,
        ended => return ended,
    };
    tracing::debug!(node = &*endpoint.node, error = %failed.error, "protocol 3.2 refused");
    let done = attempt(endpoint, whom, demand, 0).await?;
    endpoint.old_protocol.store(true, Ordering::Relaxed);
    Ok(done)
}

async fn attempt(endpoint: &Endpoint, whom: &Whom<'_>, demand: Demand, minor: u16) -> Result<(Opened, Login), Failed> {
    let mut opened = endpoint.way.open(demand).await?;
    let login = Box::pin(log_in(&mut opened, whom, minor)).await;
    if !matches!(&login, Err(Failed { error: DialError::Unreachable(_), .. })) {
        opened.answered();
    }
    Ok((opened, login?))
}

/// Sends a cancel for a server connection and waits until the server has taken it. `Ok` when it has, or when it was
/// never sent.
///
/// # Errors
/// When it is not known whether the cancel will still arrive.
pub async fn cancel(identity: &Identity, within: Option<Duration>) -> Result<(), DialError> {
    let within = within.unwrap_or(Duration::from_secs(10));
    let demand = if identity.tls { Demand::Tls } else { Demand::Plain };
    let open = identity.endpoint.way.open_again(&identity.place, demand);
    let Ok(Ok(Opened { mut stream, .. })) = tokio::time::timeout(within, open).await else { return Ok(()) };
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

/// What a login brings.
#[derive(Default)]
struct Login {
    reported: Reported,
    pid: i32,
    secret: Vec<u8>,
}

/// Startup, authentication, parameters, ReadyForQuery (PostgreSQL: PROTOCOL-FLOW-START-UP).
async fn log_in(opened: &mut Opened, whom: &Whom<'_>, minor: u16) -> Result<Login, Failed> {
    let mut stage = Stage::Asked;
    let login = log_in_with(opened, whom, minor, &mut stage).await;
    login.map_err(|error| Failed { error, stage, encrypted: opened.stream.is_tls() })
}

async fn log_in_with(opened: &mut Opened, whom: &Whom<'_>, minor: u16, stage: &mut Stage) -> Result<Login, DialError> {
    let Opened { stream, end_point_hash, .. } = opened;
    let mut out = Vec::new();
    let mut parameters: Vec<(&[u8], &[u8])> =
        vec![(b"user", whom.user.as_bytes()), (b"database", whom.database.as_bytes())];
    parameters.extend(whom.startup.iter());
    messages::startup(&mut out, minor, &parameters);
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
            b'v' if *stage == Stage::Asked => {
                *stage = Stage::Negotiated;
                startup::read_negotiation(&body, minor)
                    .ok_or_else(|| nonsense("the server negotiates a protocol that nobody asked for"))?;
            }
            b'R' if !authenticated => {
                *stage = Stage::Authenticating;
                let hash = end_point_hash.as_deref();
                authenticated =
                    authenticate(stream, &body, whom.user, whom.credential, hash, whom.binding, &mut bound).await?;
            }
            b'S' if authenticated && parameters < PARAMETERS_MAX => {
                parameters += 1;
                let pair = split_cstr(&body).and_then(|(name, rest)| Some((name, split_cstr(rest)?.0)));
                let (name, value) = pair.ok_or_else(|| nonsense("malformed ParameterStatus"))?;
                login.reported.set(name, value);
            }
            b'K' if authenticated => {
                let (pid, secret) = body
                    .split_first_chunk::<4>()
                    .filter(|(_, secret)| startup::SECRET_BYTES.contains(&secret.len()))
                    .ok_or_else(|| nonsense("malformed BackendKeyData"))?;
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
