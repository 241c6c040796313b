//! A node whose servers misbehave for one user and are real for everybody else, the monitor included.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::wire;
use crate::support::{Howdah, config, free_port, shared};

/// Stands in front of the shared primary.
pub struct FakeNode {
    port: u16,
    stopped: Arc<AtomicBool>,
}

impl FakeNode {
    /// Connections of `user` are `serve`'s, after their startup packet has been read; all others go through.
    pub fn start(user: &str, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::listen(user, false, move |socket, _| serve(socket))
    }

    /// [`Self::start`], with the first packet; cancels are `serve`'s as well.
    pub fn start_reading(user: &str, serve: impl Fn(TcpStream, &[u8]) + Send + Sync + 'static) -> Self {
        Self::listen(user, true, serve)
    }

    fn listen(user: &str, cancels: bool, serve: impl Fn(TcpStream, &[u8]) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stopped, serve, user) = (Arc::new(AtomicBool::new(false)), Arc::new(serve), user.to_owned());
        let stop = Arc::clone(&stopped);
        thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (serve, user) = (Arc::clone(&serve), user.clone());
                thread::spawn(move || greet(socket, &user, cancels, &*serve));
            }
        });
        Self { port, stopped }
    }

    /// A howdah that takes this for its primary and trusts its clients.
    #[track_caller]
    pub fn howdah(&self, extra: &str) -> Howdah {
        self.howdah_that_asks(&format!("{extra}\n[auth]\nmethod = \"trust\"\n"))
    }

    /// A howdah that takes this for its primary.
    #[track_caller]
    pub fn howdah_that_asks(&self, extra: &str) -> Howdah {
        let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
        let real = format!("port = {}\n", shared().primary().port());
        let toml = config(shared().nodes(), port, http_port, extra).replace(&real, &format!("port = {}\n", self.port));
        Howdah::start(&toml, port, http_port)
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn greet(mut socket: TcpStream, user: &str, cancels: bool, serve: &dyn Fn(TcpStream, &[u8])) -> Option<()> {
    socket.set_nodelay(true).ok()?;
    loop {
        let packet = read_packet(&mut socket).ok()?;
        if packet[4..8] == wire::SSL_REQUEST.to_be_bytes() {
            socket.write_all(b"N").ok()?;
            continue;
        }
        let named = format!("user\0{user}\0");
        let is_cancel = cancels && packet[4..8] == wire::CANCEL_REQUEST.to_be_bytes();
        if is_cancel || packet.windows(named.len()).any(|window| window == named.as_bytes()) {
            serve(socket, &packet);
            return None;
        }
        let mut real = TcpStream::connect(("127.0.0.1", shared().primary().port())).ok()?;
        real.write_all(&packet).ok()?;
        let (mut back_from, mut back_to) = (real.try_clone().ok()?, socket.try_clone().ok()?);
        thread::spawn(move || {
            let _ = io::copy(&mut back_from, &mut back_to);
            let _ = back_to.shutdown(Shutdown::Both);
        });
        let _ = io::copy(&mut socket, &mut real);
        let _ = real.shutdown(Shutdown::Both);
        return None;
    }
}

fn read_packet(socket: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; 4];
    socket.read_exact(&mut packet)?;
    let len = u32::from_be_bytes(packet[..4].try_into().unwrap());
    packet.resize(usize::try_from(len).unwrap(), 0);
    socket.read_exact(&mut packet[4..])?;
    Ok(packet)
}

/// What a server says when it has let somebody in.
pub fn welcome() -> Vec<u8> {
    let mut out = wire::tagged(b'R', &[0, 0, 0, 0]);
    out.extend(wire::tagged(b'S', b"server_version\x0015.0\0"));
    out.extend(wire::tagged(b'K', &[0, 0, 0, 7, 0, 0, 0, 7]));
    out.extend(ready(b'I'));
    out
}

/// ReadyForQuery.
pub fn ready(status: u8) -> Vec<u8> {
    wire::tagged(b'Z', &[status])
}

/// The answer to `SELECT 'text'`, without ReadyForQuery.
pub fn row(text: &str) -> Vec<u8> {
    let mut description = vec![0, 1, b'c', 0];
    description.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 25, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
    let mut data = vec![0, 1];
    data.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
    data.extend(text.as_bytes());
    [wire::tagged(b'T', &description), wire::tagged(b'D', &data), wire::tagged(b'C', b"SELECT 1\0")].concat()
}

/// One message from a client: its tag and its body.
pub fn read_message(socket: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut tag = [0];
    socket.read_exact(&mut tag)?;
    let mut len = [0; 4];
    socket.read_exact(&mut len)?;
    let mut body = vec![0; usize::try_from(u32::from_be_bytes(len)).unwrap() - 4];
    socket.read_exact(&mut body)?;
    Ok((tag[0], body))
}
