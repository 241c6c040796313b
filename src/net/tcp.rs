//! What the kernel is told about TCP connections, towards clients and servers alike.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::config::Network;

/// The finest the kernel counts.
const SECOND: Duration = Duration::from_secs(1);
/// The longest it takes for keepalives (`MAX_TCP_KEEPIDLE`); it refuses more.
const KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);
/// The longest it takes for unacknowledged bytes: a signed number of milliseconds.
const USER_TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX.unsigned_abs() as u64);

/// Options of a TCP socket; a listening one passes them on to the connections it accepts.
#[derive(Clone, Debug, Default)]
pub struct TcpOptions {
    keepalive: Option<TcpKeepalive>,
    user_timeout: Option<Duration>,
}

impl From<&Network> for TcpOptions {
    fn from(network: &Network) -> Self {
        let keepalive = network.keepalive_idle.limit().map(|idle| {
            let keepalive =
                TcpKeepalive::new().with_time(idle.clamp(SECOND, KEEPALIVE_MAX)).with_retries(network.keepalive_count);
            match network.keepalive_interval.limit() {
                Some(interval) => keepalive.with_interval(interval.clamp(SECOND, KEEPALIVE_MAX)),
                None => keepalive,
            }
        });
        Self { keepalive, user_timeout: network.tcp_user_timeout.limit().map(|limit| limit.min(USER_TIMEOUT_MAX)) }
    }
}

impl TcpOptions {
    /// Sets them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        match &self.keepalive {
            Some(keepalive) => socket.set_tcp_keepalive(keepalive)?,
            None => socket.set_keepalive(false)?,
        }
        socket.set_tcp_user_timeout(self.user_timeout)
    }
}
