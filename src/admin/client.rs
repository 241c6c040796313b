//! Asks a running daemon's HTTP API, by TCP or by its socket: one request on a connection of its own.
//!
//! For the commands and the demo; blocking, and bounded in time and size. Not here: what is asked.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::listen::HttpAddress;

/// No answer is longer.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// An answer: its status, and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// What is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Question<'a> {
    /// The path.
    pub path: &'a str,
    /// A JSON body, which makes it a `POST`.
    pub body: Option<&'a [u8]>,
    /// Who asks, where that matters.
    pub token: Option<&'a str>,
    /// What ties log lines together; the daemon makes one where there is none.
    pub correlation: Option<&'a str>,
}

/// `GET path`.
///
/// # Errors
/// When there is no whole answer within `bound`.
pub fn get(address: &HttpAddress, path: &str, bound: Duration) -> io::Result<Answer> {
    ask(address, &Question { path, ..Question::default() }, bound)
}

/// `POST path`, with a JSON body.
///
/// # Errors
/// As [`get`].
pub fn post(address: &HttpAddress, path: &str, body: &[u8], bound: Duration) -> io::Result<Answer> {
    ask(address, &Question { path, body: Some(body), ..Question::default() }, bound)
}

/// Any of them.
///
/// # Errors
/// As [`get`].
pub fn ask(address: &HttpAddress, question: &Question<'_>, bound: Duration) -> io::Result<Answer> {
    let Question { path, body, token, correlation } = question;
    let deadline = Instant::now() + bound;
    let mut socket = Socket::connect(address, deadline)?;
    let method = if body.is_some() { "POST" } else { "GET" };
    let body = body.unwrap_or_default();
    let len = body.len();
    let mut head = Zeroizing::new(format!(
        "{method} {path} HTTP/1.1\r\nHost: howdah\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {len}\r\n"
    ));
    for (name, value) in [("Authorization: Bearer ", token), ("X-Correlation-Id: ", correlation)] {
        if let Some(value) = value {
            head.push_str(name);
            head.push_str(value);
            head.push_str("\r\n");
        }
    }
    head.push_str("\r\n");
    socket.set_deadline(deadline)?;
    // who refuses a body may answer and close before it has read it: what it says is worth more than the broken pipe
    let sent = socket.write(head.as_bytes()).and_then(|()| socket.write(body));
    let mut answer = Vec::new();
    let received = socket.read_to_end(&mut answer, deadline);
    match parse(&answer) {
        Some(answer) => Ok(answer),
        None => {
            sent.and(received)?;
            Err(io::Error::new(io::ErrorKind::InvalidData, "not a whole HTTP answer"))
        }
    }
}

/// An answer, if all of it is there.
fn parse(answer: &[u8]) -> Option<Answer> {
    let answer = std::str::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
    });
    match length {
        Some(Ok(length)) if length != body.len() => None,
        Some(Err(_)) => None,
        Some(Ok(_)) | None => Some(Answer { status, body: body.to_owned() }),
    }
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn connect(address: &HttpAddress, deadline: Instant) -> io::Result<Self> {
        match address {
            HttpAddress::Unix(path) => UnixStream::connect(path).map(Self::Unix),
            HttpAddress::Tcp(text) => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for address in text.to_socket_addrs()? {
                    match TcpStream::connect_timeout(&reachable(address), left(deadline)?) {
                        Ok(socket) => return Ok(Self::Tcp(socket)),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }

    fn set_deadline(&self, deadline: Instant) -> io::Result<()> {
        let left = Some(left(deadline)?);
        match self {
            Self::Tcp(socket) => socket.set_read_timeout(left).and_then(|()| socket.set_write_timeout(left)),
            Self::Unix(socket) => socket.set_read_timeout(left).and_then(|()| socket.set_write_timeout(left)),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.write_all(bytes),
            Self::Unix(socket) => socket.write_all(bytes),
        }
    }

    fn read_to_end(&mut self, into: &mut Vec<u8>, deadline: Instant) -> io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        loop {
            self.set_deadline(deadline)?;
            let read = match self {
                Self::Tcp(socket) => socket.read(&mut chunk),
                Self::Unix(socket) => socket.read(&mut chunk),
            };
            match read {
                Ok(0) => return Ok(()),
                Ok(len) if into.len() + len > ANSWER_BYTES_MAX => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
                }
                Ok(len) => into.extend_from_slice(chunk.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// What is left until then.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
        false => Ok(left),
    }
}

/// Who listens on every address listens on this machine's own.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    address
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn answering(answer: &'static str) -> HttpAddress {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = HttpAddress::Tcp(listener.local_addr().unwrap().to_string());
        thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = socket.read(&mut request).unwrap();
            socket.write_all(answer.as_bytes()).unwrap();
        });
        address
    }

    fn asked(answer: &'static str) -> io::Result<Answer> {
        get(&answering(answer), "/status", Duration::from_secs(10))
    }

    #[test]
    fn a_whole_answer_is_taken_and_nothing_less() {
        let whole = asked("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno").unwrap();
        assert_eq!(whole, Answer { status: 404, body: "no".to_owned() });
        assert_eq!(asked("HTTP/1.1 200 OK\r\n\r\nyes").unwrap().body, "yes");
        for wrong in ["", "SSH-2.0-x\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\ncut", "HTTP/1.1 200 OK\r\n"] {
            assert!(asked(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nobody_is_waited_for_longer_than_said() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = HttpAddress::Tcp(listener.local_addr().unwrap().to_string());
        let error = get(&silent, "/", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(listener);
        assert!(get(&silent, "/", Duration::from_secs(5)).is_err());
        assert!(get(&HttpAddress::Unix("/nonexistent/socket".into()), "/", Duration::from_secs(5)).is_err());
    }

    #[test]
    fn every_address_is_this_machines() {
        assert_eq!(reachable("0.0.0.0:1".parse().unwrap()), "127.0.0.1:1".parse().unwrap());
        assert_eq!(reachable("[::]:1".parse().unwrap()), "[::1]:1".parse().unwrap());
        assert_eq!(reachable("10.0.0.1:1".parse().unwrap()), "10.0.0.1:1".parse().unwrap());
    }
}
