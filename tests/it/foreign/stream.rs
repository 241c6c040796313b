//! One connection: bytes out, messages in, and a random source that a seed repeats.

use std::io;
use std::time::Duration;

use howdah::protocol::frame::{HEADER_LEN, Scan, scan_header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::random::Random;
use crate::support::wire::{self, Message};

/// Longer than any wait in the queue.
const STALLED: Duration = Duration::from_secs(60);

/// A logged-in connection.
pub struct Stream {
    socket: TcpStream,
    read: Vec<u8>,
    at: usize,
    /// For cancels.
    pub key: (u32, Vec<u8>),
}

impl Stream {
    /// Logs in; without a password, which costs the machine nothing it is needed for.
    pub async fn login(port: u16, parameters: &[(&str, &str)]) -> Result<Self, String> {
        let socket = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| format!("connect: {error}"))?;
        socket.set_nodelay(true).map_err(|error| error.to_string())?;
        let mut stream = Self { socket, read: Vec::new(), at: 0, key: (0, Vec::new()) };
        stream.send(&wire::startup(wire::PROTOCOL_3_0, parameters)).await.map_err(|error| error.to_string())?;
        loop {
            let message = stream.next().await?;
            match message.tag {
                b'K' => stream.key = (message.int32(0).cast_unsigned(), message.body[4..].to_vec()),
                b'Z' => return Ok(stream),
                b'R' | b'S' | b'N' => {}
                _ => return Err(format!("login: {message:?}")),
            }
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes).await
    }

    /// Sends in up to four pieces, with a moment between them.
    pub async fn send_in_pieces(&mut self, bytes: &[u8], random: &mut Random) -> io::Result<()> {
        let mut rest = bytes;
        for _ in 0..random.below(4) {
            let (piece, after) = rest.split_at(random.index(rest.len() + 1));
            self.send(piece).await?;
            match random.below(2) {
                0 => tokio::task::yield_now().await,
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
            rest = after;
        }
        self.send(rest).await
    }

    /// The next message; what may come at any time is left out.
    pub async fn expect(&mut self) -> Result<Message, String> {
        loop {
            let message = self.next().await?;
            if !matches!(message.tag, b'N' | b'S') {
                return Ok(message);
            }
        }
    }

    async fn next(&mut self) -> Result<Message, String> {
        loop {
            let here = &self.read[self.at..];
            if let Scan::Header { tag, body_len } = scan_header(here).map_err(|error| error.to_string())? {
                let end = HEADER_LEN + usize::try_from(body_len).unwrap();
                if let Some(body) = here.get(HEADER_LEN..end) {
                    let message = Message { tag, body: body.to_vec() };
                    self.at += end;
                    return Ok(message);
                }
            }
            self.read.drain(..self.at);
            self.at = 0;
            match tokio::time::timeout(STALLED, self.socket.read_buf(&mut self.read)).await {
                Err(_) => return Err(format!("nothing came within {STALLED:?}")),
                Ok(Ok(0)) => return Err("the connection was closed".to_owned()),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(format!("read: {error}")),
            }
        }
    }

    /// Goes without a word; with `reset` not even a FIN.
    pub fn vanish(self, reset: bool) {
        if reset {
            #[allow(deprecated)] // it blocks only with a time
            let _ = self.socket.set_linger(Some(Duration::ZERO));
        }
    }
}

/// Sends a CancelRequest and waits until howdah has read it.
pub async fn cancel(port: u16, key: &(u32, Vec<u8>)) -> io::Result<()> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
    socket.write_all(&wire::cancel_request(key)).await?;
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).await?;
    Ok(())
}
