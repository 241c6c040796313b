//! A PostgreSQL client that does exactly what a test tells it, byte by byte, and blocks while it reads.
//!
//! Not a driver: nothing is sent that was not asked for, and answers come as they are. `Message`'s short forms make a
//! reply readable in an assertion: `["1", "2", "T", "D", "C:SELECT 1", "Z:I"]`.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

/// Protocol 3.0 and 3.2, and the three requests that come in their place.
pub const PROTOCOL_3_0: u32 = 0x0003_0000;
pub const PROTOCOL_3_2: u32 = 0x0003_0002;
pub const CANCEL_REQUEST: u32 = 80_877_102;
pub const SSL_REQUEST: u32 = 80_877_103;
pub const GSSENC_REQUEST: u32 = 80_877_104;

/// Longer than anything should take; a test that expects silence passes its own.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// Whatever carries the bytes: TCP, a Unix socket, TLS on top of either.
pub trait Transport: Read + Write + Send {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;
    fn close(&self) -> io::Result<()>;
}

impl Transport for TcpStream {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        TcpStream::set_read_timeout(self, timeout)
    }
    fn close(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Both)
    }
}

impl Transport for UnixStream {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        UnixStream::set_read_timeout(self, timeout)
    }
    fn close(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Both)
    }
}

/// TLS over TCP.
pub type TlsStream = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

impl Transport for TlsStream {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.sock.set_read_timeout(timeout)
    }
    fn close(&self) -> io::Result<()> {
        self.sock.shutdown(Shutdown::Both)
    }
}

/// One message of the server's.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Its first byte.
    pub tag: u8,
    /// What follows the length.
    pub body: Vec<u8>,
}

/// The fields of an ErrorResponse or NoticeResponse that tests look at; absent ones are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    pub severity: String,
    pub code: String,
    pub message: String,
    pub detail: String,
    pub hint: String,
    /// Empty in errors that howdah makes up.
    pub routine: String,
}

impl Message {
    /// The tag, and after a colon what tells it from others of its kind: command tag, transaction state, SQLSTATE,
    /// parameter.
    pub fn short(&self) -> String {
        let tag = char::from(self.tag);
        match self.tag {
            b'C' => format!("C:{}", self.text(0)),
            b'Z' => format!("Z:{}", self.body.first().map_or('?', |b| char::from(*b))),
            b'E' | b'N' => format!("{tag}:{}", self.fields().code),
            b'S' => format!("S:{}={}", self.text(0), self.text(1)),
            b'R' => format!("R:{}", self.int32(0)),
            b'A' => format!("A:{}", String::from_utf8_lossy(&self.body[4..]).split('\0').next().unwrap_or_default()),
            _ => tag.to_string(),
        }
    }

    /// The `index`th zero-terminated string of the body, counted from its start.
    pub fn text(&self, index: usize) -> String {
        self.body.split(|b| *b == 0).nth(index).map(|t| String::from_utf8_lossy(t).into_owned()).unwrap_or_default()
    }

    /// The 32-bit integer at an offset of the body.
    #[track_caller]
    pub fn int32(&self, offset: usize) -> i32 {
        i32::from_be_bytes(self.body[offset..offset + 4].try_into().unwrap())
    }

    /// The columns of a DataRow, as text.
    #[track_caller]
    pub fn columns(&self) -> Vec<Option<String>> {
        assert_eq!(self.tag, b'D', "not a DataRow: {self:?}");
        let count = i16::from_be_bytes(self.body[..2].try_into().unwrap());
        let mut at = 2;
        (0..count)
            .map(|_| {
                let len = self.int32(at);
                at += 4;
                let len = usize::try_from(len).ok()?; // -1 is NULL
                at += len;
                Some(String::from_utf8_lossy(&self.body[at - len..at]).into_owned())
            })
            .collect()
    }

    /// The column names of a RowDescription.
    #[track_caller]
    pub fn column_names(&self) -> Vec<String> {
        assert_eq!(self.tag, b'T', "not a RowDescription: {self:?}");
        let mut names = Vec::new();
        let mut rest = &self.body[2..];
        while let Some(end) = rest.iter().position(|b| *b == 0) {
            names.push(String::from_utf8_lossy(&rest[..end]).into_owned());
            rest = &rest[end + 1 + 18..];
        }
        names
    }

    /// The fields of an ErrorResponse or NoticeResponse.
    #[track_caller]
    pub fn fields(&self) -> Fields {
        assert!(matches!(self.tag, b'E' | b'N'), "not an error or notice: {}", char::from(self.tag));
        let mut fields = Fields::default();
        for field in self.body.split(|b| *b == 0).filter(|f| !f.is_empty()) {
            let value = String::from_utf8_lossy(&field[1..]).into_owned();
            match field[0] {
                b'V' => fields.severity = value,
                b'S' if fields.severity.is_empty() => fields.severity = value,
                b'C' => fields.code = value,
                b'M' => fields.message = value,
                b'D' => fields.detail = value,
                b'H' => fields.hint = value,
                b'R' => fields.routine = value,
                _ => {}
            }
        }
        fields
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tag {
            b'E' | b'N' => {
                let fields = self.fields();
                write!(f, "{} {} {}: {}", char::from(self.tag), fields.severity, fields.code, fields.message)
            }
            b'D' => write!(f, "D{:?}", self.columns()),
            _ => f.write_str(&self.short()),
        }
    }
}

/// The short forms of messages, for assertions.
pub fn short(messages: &[Message]) -> Vec<String> {
    messages.iter().map(Message::short).collect()
}

/// The first column of every DataRow, NULL as the empty string.
pub fn first_column(messages: &[Message]) -> Vec<String> {
    let rows = messages.iter().filter(|m| m.tag == b'D');
    rows.map(|row| row.columns().into_iter().next().flatten().unwrap_or_default()).collect()
}

/// The first ErrorResponse.
#[track_caller]
pub fn error(messages: &[Message]) -> Fields {
    match messages.iter().find(|m| m.tag == b'E') {
        Some(message) => message.fields(),
        None => panic!("no error in {messages:?}"),
    }
}

/// A client connection.
pub struct Client {
    stream: Box<dyn Transport>,
    /// The key data of BackendKeyData: process id and secret (4 bytes in protocol 3.0).
    pub key: (u32, Vec<u8>),
    /// The ParameterStatus messages of the login, and those seen since by [`Client::read_until_ready`].
    pub parameters: Vec<(String, String)>,
}

impl Client {
    /// Connects over TCP and sends nothing.
    pub fn connect(address: impl ToSocketAddrs) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self::over(Box::new(stream)))
    }

    /// Connects over a Unix socket and sends nothing.
    pub fn connect_unix(path: &Path) -> io::Result<Self> {
        Ok(Self::over(Box::new(UnixStream::connect(path)?)))
    }

    /// Connects over TCP, asks for TLS and makes the handshake; the second is the server's certificate.
    pub fn connect_tls(address: impl ToSocketAddrs, config: &Arc<rustls::ClientConfig>) -> io::Result<(Self, Vec<u8>)> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.write_all(&ssl_request())?;
        let mut answer = [0];
        socket.read_exact(&mut answer)?;
        assert_eq!(answer, *b"S", "no TLS");
        let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let mut tls = rustls::ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        tls.complete_io(&mut socket)?;
        let certificate = tls.peer_certificates().unwrap()[0].to_vec();
        Ok((Self::over(Box::new(TlsStream::new(tls, socket))), certificate))
    }

    /// Any transport, for TLS.
    pub fn over(stream: Box<dyn Transport>) -> Self {
        stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        Self { stream, key: (0, Vec::new()), parameters: Vec::new() }
    }

    /// Gives the transport back, for a change to TLS.
    pub fn into_transport(self) -> Box<dyn Transport> {
        self.stream
    }

    /// How long a read may take from now on.
    pub fn read_timeout(&self, timeout: Duration) {
        self.stream.set_read_timeout(Some(timeout)).unwrap();
    }

    // --- sending

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    /// Sends bytes to a peer that may have gone.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Closes the connection without a Terminate.
    pub fn cut(&mut self) {
        let _ = self.stream.close();
    }

    // --- logging in

    /// StartupMessage 3.0 and whatever login it takes, up to ReadyForQuery.
    #[track_caller]
    pub fn login(&mut self, user: &str, password: &str, database: &str) {
        self.login_with(&[("user", user), ("database", database)], password);
    }

    /// [`Client::login`] with any parameters; panics when refused.
    #[track_caller]
    pub fn login_with(&mut self, parameters: &[(&str, &str)], password: &str) -> Vec<Message> {
        let messages = self.try_login(parameters, password).unwrap();
        if let Some(error) = messages.iter().find(|m| m.tag == b'E') {
            panic!("login refused: {error:?}");
        }
        messages
    }

    /// Logs in and returns everything that came, up to ReadyForQuery or ErrorResponse. Answers to trust, clear-text, md5
    /// and SCRAM; a `user` must be among the parameters.
    pub fn try_login(&mut self, parameters: &[(&str, &str)], password: &str) -> io::Result<Vec<Message>> {
        self.try_send(&startup(PROTOCOL_3_0, parameters))?;
        let user = parameters.iter().find(|(name, _)| *name == "user").map_or("", |(_, value)| *value);
        self.authenticate(user, password)
    }

    /// The login after a startup packet that was sent by other means.
    pub fn authenticate(&mut self, user: &str, password: &str) -> io::Result<Vec<Message>> {
        self.authenticate_by(user, password, "SCRAM-SHA-256", &ChannelBinding::unsupported)
    }

    /// [`Client::authenticate`] with this mechanism and channel binding where SASL is asked for.
    pub fn authenticate_by(
        &mut self,
        user: &str,
        password: &str,
        mechanism: &str,
        binding: &dyn Fn() -> ChannelBinding,
    ) -> io::Result<Vec<Message>> {
        let mut scram: Option<ScramSha256> = None;
        let mut messages = Vec::new();
        loop {
            let message = self.read()?;
            messages.push(message.clone());
            match (message.tag, message.tag == b'R') {
                (b'E' | b'Z', _) => return Ok(messages),
                (b'K', _) => {
                    self.key = (message.int32(0).cast_unsigned(), message.body[4..].to_vec());
                    continue;
                }
                (b'S', _) => {
                    self.note_parameter(&message);
                    continue;
                }
                (_, false) => continue,
                (_, true) => {}
            }
            match message.int32(0) {
                0 => {}
                3 => self.try_send(&password_message(password))?,
                5 => {
                    let salt = message.body[4..8].try_into().unwrap();
                    let hash = md5_hash(user.as_bytes(), password.as_bytes(), salt);
                    self.try_send(&password_message(&hash))?;
                }
                10 => {
                    let exchange = ScramSha256::new(password.as_bytes(), binding());
                    self.try_send(&sasl_initial(mechanism, exchange.message()))?;
                    scram = Some(exchange);
                }
                11 => {
                    let exchange = scram.as_mut().expect("AuthenticationSASL comes first");
                    exchange.update(&message.body[4..])?;
                    let answer = exchange.message().to_vec();
                    self.try_send(&tagged(b'p', &answer))?;
                }
                12 => scram.as_mut().expect("AuthenticationSASL comes first").finish(&message.body[4..])?,
                other => return Err(io::Error::other(format!("authentication method {other}"))),
            }
        }
    }

    fn note_parameter(&mut self, message: &Message) {
        let (name, value) = (message.text(0), message.text(1));
        self.parameters.retain(|(known, _)| *known != name);
        self.parameters.push((name, value));
    }

    /// The newest value of a parameter that the server reports.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    // --- reading

    /// One message. The end of the connection is `UnexpectedEof`, silence is `WouldBlock`.
    pub fn read(&mut self) -> io::Result<Message> {
        let mut header = [0; 5];
        self.stream.read_exact(&mut header)?;
        let [tag, len @ ..] = header;
        let len = usize::try_from(i32::from_be_bytes(len) - 4).map_err(io::Error::other)?;
        let mut body = vec![0; len];
        self.stream.read_exact(&mut body)?;
        Ok(Message { tag, body })
    }

    /// One byte, as the answer to an SSLRequest.
    #[track_caller]
    pub fn read_byte(&mut self) -> u8 {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).unwrap();
        byte[0]
    }

    /// One message, which must come.
    #[track_caller]
    pub fn expect(&mut self) -> Message {
        self.read().unwrap_or_else(|error| panic!("no message: {error}"))
    }

    /// All messages up to and with ReadyForQuery. Parameters are noted in passing.
    #[track_caller]
    pub fn read_until_ready(&mut self) -> Vec<Message> {
        self.read_until(b'Z')
    }

    /// All messages up to and with the first of a kind.
    #[track_caller]
    pub fn read_until(&mut self, tag: u8) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            match self.read() {
                Ok(message) => {
                    if message.tag == b'S' {
                        self.note_parameter(&message);
                    }
                    messages.push(message);
                }
                Err(error) => panic!("{error} after {messages:?}"),
            }
            if messages.last().is_some_and(|m| m.tag == tag) {
                return messages;
            }
        }
    }

    /// All messages up to the end of the connection, which must come.
    #[track_caller]
    pub fn read_until_closed(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            match self.read() {
                Ok(message) => messages.push(message),
                Err(error) => match error.kind() {
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => return messages,
                    _ => panic!("{error} after {messages:?}"),
                },
            }
        }
    }

    /// Insists that nothing comes for a while.
    #[track_caller]
    pub fn expect_silence(&mut self, duration: Duration) {
        self.read_timeout(duration);
        match self.read() {
            Ok(message) => panic!("expected silence, got {message:?}"),
            Err(error) => assert!(
                matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
                "expected silence, got {error}"
            ),
        }
        self.read_timeout(READ_TIMEOUT);
    }

    // --- whole exchanges

    /// A Query, and everything up to ReadyForQuery.
    #[track_caller]
    pub fn query(&mut self, sql: &str) -> Vec<Message> {
        self.send(&query(sql));
        self.read_until_ready()
    }

    /// [`Client::query`], as short forms.
    #[track_caller]
    pub fn query_short(&mut self, sql: &str) -> Vec<String> {
        short(&self.query(sql))
    }

    /// A Query that must succeed, and the first column of its rows.
    #[track_caller]
    pub fn column(&mut self, sql: &str) -> Vec<String> {
        let messages = self.query(sql);
        assert!(messages.iter().all(|m| m.tag != b'E'), "{sql}: {messages:?}");
        first_column(&messages)
    }

    /// A Query that must succeed with one value.
    #[track_caller]
    pub fn value(&mut self, sql: &str) -> String {
        let mut column = self.column(sql);
        assert_eq!(column.len(), 1, "{sql}: {column:?}");
        column.remove(0)
    }

    /// Parse, Bind, Describe, Execute of an unnamed statement and Sync, in one write; everything up to ReadyForQuery.
    #[track_caller]
    pub fn extended(&mut self, sql: &str, values: &[Option<&str>]) -> Vec<Message> {
        let batch = [parse("", sql, &[]), bind("", "", values), describe(b'P', ""), execute("", 0), sync()];
        self.send(&batch.concat());
        self.read_until_ready()
    }
}

// --- messages of the client's

/// Any message: tag, length, body.
pub fn tagged(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend(i32::try_from(body.len() + 4).unwrap().to_be_bytes());
    message.extend(body);
    message
}

/// A packet without a tag: length, code, body.
pub fn untagged(code: u32, body: &[u8]) -> Vec<u8> {
    let mut packet = i32::try_from(body.len() + 8).unwrap().to_be_bytes().to_vec();
    packet.extend(code.to_be_bytes());
    packet.extend(body);
    packet
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend(text.as_bytes());
    out.push(0);
}

/// StartupMessage.
pub fn startup(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in parameters {
        text(&mut body, name);
        text(&mut body, value);
    }
    body.push(0);
    untagged(version, &body)
}

/// SSLRequest.
pub fn ssl_request() -> Vec<u8> {
    untagged(SSL_REQUEST, &[])
}

/// GSSENCRequest.
pub fn gssenc_request() -> Vec<u8> {
    untagged(GSSENC_REQUEST, &[])
}

/// CancelRequest; take the key from [`Client::key`].
pub fn cancel_request(key: &(u32, Vec<u8>)) -> Vec<u8> {
    untagged(CANCEL_REQUEST, &[&key.0.to_be_bytes()[..], &key.1].concat())
}

/// PasswordMessage.
pub fn password_message(password: &str) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, password);
    tagged(b'p', &body)
}

/// SASLInitialResponse.
pub fn sasl_initial(mechanism: &str, response: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, mechanism);
    body.extend(i32::try_from(response.len()).unwrap().to_be_bytes());
    body.extend(response);
    tagged(b'p', &body)
}

/// Query.
pub fn query(sql: &str) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, sql);
    tagged(b'Q', &body)
}

/// Parse, with parameter types as OIDs (0 or none: to be inferred).
pub fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, name);
    text(&mut body, sql);
    body.extend(i16::try_from(types.len()).unwrap().to_be_bytes());
    types.iter().for_each(|oid| body.extend(oid.to_be_bytes()));
    tagged(b'P', &body)
}

/// Bind, all values and results in text format.
pub fn bind(portal: &str, statement: &str, values: &[Option<&str>]) -> Vec<u8> {
    let values: Vec<_> = values.iter().map(|value| value.map(str::as_bytes)).collect();
    bind_formats(portal, statement, &[], &values, &[])
}

/// Bind, with formats (0 text, 1 binary) of values and results.
pub fn bind_formats(
    portal: &str,
    statement: &str,
    formats: &[i16],
    values: &[Option<&[u8]>],
    results: &[i16],
) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, portal);
    text(&mut body, statement);
    body.extend(i16::try_from(formats.len()).unwrap().to_be_bytes());
    formats.iter().for_each(|format| body.extend(format.to_be_bytes()));
    body.extend(i16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        match value {
            Some(value) => {
                body.extend(i32::try_from(value.len()).unwrap().to_be_bytes());
                body.extend(*value);
            }
            None => body.extend((-1_i32).to_be_bytes()),
        }
    }
    body.extend(i16::try_from(results.len()).unwrap().to_be_bytes());
    results.iter().for_each(|format| body.extend(format.to_be_bytes()));
    tagged(b'B', &body)
}

/// Describe a statement (`b'S'`) or a portal (`b'P'`).
pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    named(b'D', kind, name)
}

/// Close a statement (`b'S'`) or a portal (`b'P'`).
pub fn close(kind: u8, name: &str) -> Vec<u8> {
    named(b'C', kind, name)
}

fn named(tag: u8, kind: u8, name: &str) -> Vec<u8> {
    let mut body = vec![kind];
    text(&mut body, name);
    tagged(tag, &body)
}

/// Execute, at most `rows` rows; 0 is all.
pub fn execute(portal: &str, rows: i32) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, portal);
    body.extend(rows.to_be_bytes());
    tagged(b'E', &body)
}

/// Flush.
pub fn flush() -> Vec<u8> {
    tagged(b'H', &[])
}

/// Sync.
pub fn sync() -> Vec<u8> {
    tagged(b'S', &[])
}

/// Terminate.
pub fn terminate() -> Vec<u8> {
    tagged(b'X', &[])
}

/// CopyData.
pub fn copy_data(data: &[u8]) -> Vec<u8> {
    tagged(b'd', data)
}

/// CopyDone.
pub fn copy_done() -> Vec<u8> {
    tagged(b'c', &[])
}

/// CopyFail.
pub fn copy_fail(reason: &str) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, reason);
    tagged(b'f', &body)
}

/// FunctionCall, values in binary format, result in binary format.
pub fn function_call(oid: u32, values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut body = oid.to_be_bytes().to_vec();
    body.extend([0, 1, 0, 1]); // one format for all values: binary
    body.extend(i16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        match value {
            Some(value) => {
                body.extend(i32::try_from(value.len()).unwrap().to_be_bytes());
                body.extend(*value);
            }
            None => body.extend((-1_i32).to_be_bytes()),
        }
    }
    body.extend([0, 1]);
    tagged(b'F', &body)
}
