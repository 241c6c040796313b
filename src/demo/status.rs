//! What the endpoint says of itself: `GET /status`, read as any script would read it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use crate::admin::{HttpAddress, client};

/// For all of it.
const BOUND: Duration = Duration::from_secs(1);

/// The parts of `GET /status` that the demo shows. Absent keys are empty.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Status {
    /// Whether clients are served.
    pub ready: bool,
    /// What is missing for that.
    pub missing: Vec<String>,
    /// All clusters.
    pub clusters: Vec<Cluster>,
    /// All pools.
    pub pools: Vec<Pool>,
    /// Client connections.
    pub clients: u64,
    /// How many requests went where.
    pub routing: Routing,
}

/// How many requests went where, since the start.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Routing {
    /// By what has happened.
    pub events: BTreeMap<String, u64>,
}

/// One cluster.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// The count of promotions.
    pub epoch: u64,
    /// Where writes go.
    pub primary: Option<String>,
    /// Its nodes.
    pub nodes: Vec<Node>,
}

/// One node.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// `primary` or `standby`.
    pub role: Option<String>,
    /// Whether the last health checks came back.
    pub healthy: bool,
    /// Bytes of log it has not replayed.
    pub lag_bytes: Option<u64>,
    /// For how long a standby has not had all of the primary's log.
    pub lag_time_ms: Option<u64>,
    /// Whether reads go there.
    pub replica: bool,
    /// Why not.
    pub unfit: Option<String>,
    /// Sessions that read there.
    pub sessions: u64,
    /// Why it is not healthy.
    pub trouble: Option<String>,
}

/// One pool.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Pool {
    /// The node it connects to.
    pub node: String,
    /// The database.
    pub database: String,
    /// The user.
    pub user: String,
    /// How many connections it may have.
    pub size: u64,
    /// How many it has.
    pub open: u64,
    /// Of these, free.
    pub idle: u64,
    /// Of these, lent to a client.
    pub in_use: u64,
    /// Clients that wait for one.
    pub waiting: u64,
    /// Transactions so far.
    pub transactions: u64,
}

/// Asks the endpoint whose HTTP API is at `address`.
///
/// # Errors
/// When it does not answer within a second, or not with 200 and such a JSON.
pub fn fetch(address: SocketAddr) -> io::Result<Status> {
    match http_get(address, "/status")? {
        (200, body) => serde_json::from_str(&body).map_err(io::Error::other),
        (status, _) => Err(io::Error::other(format!("GET /status answered {status}"))),
    }
}

/// One `GET`: status code and body.
///
/// # Errors
/// When there is no whole HTTP/1 answer within a second.
pub fn http_get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let answer = client::get(&HttpAddress::Tcp(address.to_string()), path, BOUND)?;
    Ok((answer.status, answer.body))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn answering(answer: String) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let len = socket.read(&mut request).unwrap();
            assert!(request[..len].starts_with(b"GET /status HTTP/1.1\r\n"));
            socket.write_all(answer.as_bytes()).unwrap();
        });
        address
    }

    #[test]
    fn the_agreed_answer_is_understood() {
        let body = r#"{"ready":true,"missing":[],"clusters":[{"name":"main","epoch":1,"primary":"a","nodes":[{"name":"a",
            "role":"primary","healthy":true,"timeline":1,"received_lsn":"0/3000060","replayed_lsn":null,"lag_bytes":0,
            "replica":false,"unfit":"accepts writes","sessions":3,"trouble":null}]}],"routing":{"events":{"to_replica":5}},"pools":[{"node":"a","database":"app","user":"app","size":20,"open":4,"idle":2,"in_use":2,
            "waiting":0,"transactions":1234}],"clients":16}"#;
        let status =
            fetch(answering(format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{body}"))).unwrap();
        assert!(status.ready);
        assert_eq!(status.clusters[0].primary.as_deref(), Some("a"));
        assert_eq!(status.clusters[0].nodes[0].role.as_deref(), Some("primary"));
        assert_eq!((status.clusters[0].nodes[0].sessions, status.routing.events["to_replica"]), (3, 5));
        assert_eq!((status.pools[0].in_use, status.pools[0].transactions, status.clients), (2, 1234, 16));
    }

    #[test]
    fn anything_else_is_an_error_and_not_an_empty_status() {
        assert!(fetch(answering("HTTP/1.1 404 Not Found\r\n\r\n".to_owned())).is_err());
        assert!(fetch(answering("SSH-2.0".to_owned())).is_err());
        assert!(fetch(answering("HTTP/1.1 200 OK\r\n\r\n[]x".to_owned())).is_err());
    }
}
