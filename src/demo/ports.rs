//! Ports nobody listens on.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, TcpListener};

use parking_lot::Mutex;

/// Below Linux' range for outgoing connections (`ip_local_port_range`, from 32768): what is free now is not taken by
/// somebody's outgoing connection while a killed PostgreSQL restarts.
const FIRST: u16 = 16_384;
const LAST: u16 = 32_700;

/// Given out by this process already.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port of 127.0.0.1 on which nobody listens, never the same twice in one process.
///
/// # Errors
/// What the operating system says when even a port of its own choice cannot be had.
pub fn free_port() -> io::Result<u16> {
    let mut given = GIVEN.lock();
    for _ in 0..1000 {
        let port = rand::random_range(FIRST..=LAST);
        if !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            given.insert(port);
            return Ok(port);
        }
    }
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    given.insert(port);
    Ok(port)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_out_twice() {
        let ports: BTreeSet<u16> = (0..100).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 100);
    }
}
