//! One connection: TCP or Unix socket, plain or TLS, and movable from one worker's reactor to another's.
//!
//! A [`Socket`] knows whether it is registered with a reactor. Detached ones (freshly accepted, or on their way to
//! another worker) register themselves when they first have to wait; until then they write straight to the socket,
//! because a socket that has just been registered cannot be written before the reactor has turned once.
//!
//! # Cancel safety
//! All `poll_` functions keep no state of their own between calls and may be dropped at any time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A socket, with or without a reactor.
#[derive(Debug, Default)]
pub enum Socket {
    /// TCP, registered with the current worker's reactor.
    Tcp(TcpStream),
    /// Unix, registered.
    Unix(UnixStream),
    /// TCP, not registered.
    TcpDetached(std::net::TcpStream),
    /// Unix, not registered.
    UnixDetached(std::os::unix::net::UnixStream),
    /// Nothing: a move went wrong half-way.
    #[default]
    Closed,
}

impl Socket {
    /// Takes the socket off its reactor, so that another worker can go on with it.
    ///
    /// # Errors
    /// The kernel's; the socket is closed then.
    pub fn detach(&mut self) -> io::Result<()> {
        *self = match std::mem::take(self) {
            Self::Tcp(socket) => Self::TcpDetached(socket.into_std()?),
            Self::Unix(socket) => Self::UnixDetached(socket.into_std()?),
            other => other,
        };
        Ok(())
    }

    /// Registers the socket with the current worker's reactor, if it is with none.
    fn attach(&mut self) -> io::Result<()> {
        *self = match std::mem::take(self) {
            Self::TcpDetached(socket) => Self::Tcp(TcpStream::from_std(socket)?),
            Self::UnixDetached(socket) => Self::Unix(UnixStream::from_std(socket)?),
            Self::Closed => return Err(io::ErrorKind::NotConnected.into()),
            registered => registered,
        };
        Ok(())
    }

    /// The raw descriptor's options, for keepalives and the like.
    #[must_use]
    pub fn options(&self) -> Option<socket2::SockRef<'_>> {
        match self {
            Self::Tcp(socket) => Some(socket2::SockRef::from(socket)),
            Self::Unix(socket) => Some(socket2::SockRef::from(socket)),
            Self::TcpDetached(socket) => Some(socket2::SockRef::from(socket)),
            Self::UnixDetached(socket) => Some(socket2::SockRef::from(socket)),
            Self::Closed => None,
        }
    }

    /// Whether nothing has come from the peer: no bytes, no end, no error. Costs no system call while the reactor has
    /// seen nothing.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        let mut byte = [0];
        let read = match self {
            Self::Tcp(socket) => socket.try_io(tokio::io::Interest::READABLE, || peek(socket, &mut byte)),
            Self::Unix(socket) => socket.try_io(tokio::io::Interest::READABLE, || peek(socket, &mut byte)),
            Self::TcpDetached(socket) => peek(socket, &mut byte),
            Self::UnixDetached(socket) => peek(socket, &mut byte),
            Self::Closed => return false,
        };
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

fn peek(socket: &impl std::os::fd::AsFd, byte: &mut [u8; 1]) -> io::Result<usize> {
    use rustix::net::RecvFlags;
    let (read, _) = rustix::net::recv(socket, byte.as_mut_slice(), RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
    Ok(read)
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
            _ => {
                self.attach()?;
                self.poll_read(cx, buf)
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let direct = match &mut *self {
            Self::Tcp(socket) => return Pin::new(socket).poll_write(cx, buf),
            Self::Unix(socket) => return Pin::new(socket).poll_write(cx, buf),
            Self::TcpDetached(socket) => io::Write::write(socket, buf),
            Self::UnixDetached(socket) => io::Write::write(socket, buf),
            Self::Closed => Err(io::ErrorKind::NotConnected.into()),
        };
        match direct {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                self.attach()?;
                self.poll_write(cx, buf)
            }
            done => Poll::Ready(done),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.attach()?;
        match &mut *self {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            _ => Poll::Ready(Ok(())),
        }
    }
}

/// A connection to a client or a server.
#[derive(Debug)]
pub enum Stream {
    /// Bytes as they are.
    Plain(Socket),
    /// TLS, we are the server.
    Accepted(Box<tokio_rustls::server::TlsStream<Socket>>),
    /// TLS, we are the client.
    Dialled(Box<tokio_rustls::client::TlsStream<Socket>>),
}

impl Stream {
    /// The socket under it all.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Accepted(tls) => tls.get_ref().0,
            Self::Dialled(tls) => tls.get_ref().0,
        }
    }

    /// Takes the socket off its reactor; see [`Socket::detach`].
    ///
    /// # Errors
    /// The kernel's; the connection is closed then.
    pub fn detach(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.detach(),
            Self::Accepted(tls) => tls.get_mut().0.detach(),
            Self::Dialled(tls) => tls.get_mut().0.detach(),
        }
    }

    /// Whether the bytes are encrypted.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// The certificate the other side has shown, in DER: a server's always, a client's if it has shown one. Of clients
    /// one is asked for only where the listener has a `ca`, and a handshake with one that this did not sign fails: what is
    /// here is verified. Whom it names: [`common_name`](super::tls::common_name).
    #[must_use]
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        let chain = match self {
            Self::Plain(_) => None,
            Self::Accepted(tls) => tls.get_ref().1.peer_certificates(),
            Self::Dialled(tls) => tls.get_ref().1.peer_certificates(),
        };
        chain.and_then(|chain| chain.first())
    }

    /// The protocol that ALPN has agreed on.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Accepted(tls) => tls.get_ref().1.alpn_protocol(),
            Self::Dialled(tls) => tls.get_ref().1.alpn_protocol(),
        }
    }

    /// Protocol and cipher suite, as PgBouncer's `SHOW CLIENTS` has them: `TLSv1.3/TLS_AES_256_GCM_SHA384`.
    #[must_use]
    pub fn tls_words(&self) -> Option<String> {
        let (version, suite) = match self {
            Self::Plain(_) => return None,
            Self::Accepted(tls) => (tls.get_ref().1.protocol_version(), tls.get_ref().1.negotiated_cipher_suite()),
            Self::Dialled(tls) => (tls.get_ref().1.protocol_version(), tls.get_ref().1.negotiated_cipher_suite()),
        };
        let version = match version {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLS",
        };
        let suite = suite.and_then(|suite| suite.suite().as_str()).unwrap_or("unknown");
        Some(format!("{version}/{}", suite.replace("TLS13_", "TLS_")))
    }

    /// Reads what is there into `into`; 0 is the end.
    ///
    /// # Errors
    /// The socket's. A TLS peer that goes without saying so counts as the end, as it does for libpq.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(into);
        let read = match self {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, &mut buf),
            Self::Accepted(tls) => Pin::new(tls.as_mut()).poll_read(cx, &mut buf),
            Self::Dialled(tls) => Pin::new(tls.as_mut()).poll_read(cx, &mut buf),
        };
        match ready!(read) {
            Ok(()) => Poll::Ready(Ok(buf.filled().len())),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(0)),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Writes as much of `bytes` as the peer takes now.
    ///
    /// # Errors
    /// The socket's.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Accepted(tls) => Pin::new(tls.as_mut()).poll_write(cx, bytes),
            Self::Dialled(tls) => Pin::new(tls.as_mut()).poll_write(cx, bytes),
        }
    }

    /// Brings what TLS still holds onto the wire; nothing to do for a plain socket.
    ///
    /// # Errors
    /// The socket's.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Accepted(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
            Self::Dialled(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }

    /// Reads at least one byte, or 0 at the end.
    ///
    /// # Errors
    /// The socket's.
    pub async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_read(cx, into)).await
    }

    /// Fills all of `into`.
    ///
    /// # Errors
    /// The socket's, and `UnexpectedEof`.
    pub async fn read_exact(&mut self, into: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read(rest).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
        }
        Ok(())
    }

    /// Writes all of `bytes` onto the wire.
    ///
    /// # Errors
    /// The socket's.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = std::future::poll_fn(|cx| self.poll_write(cx, bytes)).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = bytes.get(written..).unwrap_or_default();
        }
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Accepted(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
            Self::Dialled(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        }
    }

    /// Says goodbye (TLS close_notify, FIN), waiting no longer than it takes to hand it to the kernel.
    pub async fn close(&mut self) {
        let shut = std::future::poll_fn(|cx| self.poll_shutdown(cx));
        // A peer that is gone or does not read its goodbye is not waited for.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(100), shut).await;
    }
}

/// For whoever takes nothing else, such as `tokio_postgres`.
impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Self::poll_read(self.get_mut(), cx, buf.initialize_unfilled()))?;
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Self::poll_write(self.get_mut(), cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_flush(self.get_mut(), cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_shutdown(cx)
    }
}
