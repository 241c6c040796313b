//! Two sessions that outlive their postmaster: a client that never waits for an answer, so that its server never looks whether
//! the postmaster lives, and a procedure that commits in a loop. Directly at a node, beside howdah.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Node;
use super::wire::{query, tagged};

/// Rows of the pipelining client and of the procedure.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS orphans (seq bigint NOT NULL);
    CREATE TABLE IF NOT EXISTS procedure_rows (seq bigint NOT NULL);
    CREATE OR REPLACE PROCEDURE commit_for_ever() LANGUAGE plpgsql AS $$
    DECLARE i bigint := 0;
    BEGIN LOOP i := i + 1; INSERT INTO procedure_rows VALUES (i); COMMIT; END LOOP; END $$";

/// Both of them, at one node. Dropping it waits for their end, and makes it.
pub struct Orphans {
    acknowledged: Arc<AtomicU64>,
    last: Arc<Mutex<Option<Instant>>>,
    sockets: Vec<UnixStream>,
    threads: Vec<JoinHandle<()>>,
    over: Arc<AtomicBool>,
    first: u64,
    procedure: Arc<AtomicBool>,
}

impl Orphans {
    /// Makes what they need on a primary, and starts them there.
    #[track_caller]
    pub fn start(node: &Node) -> Self {
        node.sql(SCHEMA).unwrap();
        let first = node.sql("SELECT coalesce(max(seq), 0) + 1 FROM orphans").unwrap().cell().unwrap().parse().unwrap();
        let acknowledged = Arc::new(AtomicU64::new(0));
        let last = Arc::new(Mutex::new(None));
        let over = Arc::new(AtomicBool::new(false));
        let procedure = Arc::new(AtomicBool::new(false));
        let (pipeline, caller) = (login(node), login(node));
        let sockets = vec![pipeline.try_clone().unwrap(), caller.try_clone().unwrap()];
        let writer = thread::spawn({
            let (mut socket, over) = (pipeline.try_clone().unwrap(), Arc::clone(&over));
            move || {
                let mut seq: u64 = first;
                while !over.load(Ordering::Relaxed) {
                    let burst: Vec<u8> =
                        (0..50).flat_map(|at| query(&format!("INSERT INTO orphans VALUES ({})", seq + at))).collect();
                    seq += 50;
                    if socket.write_all(&burst).is_err() {
                        return;
                    }
                }
            }
        });
        let reader = thread::spawn({
            let (acknowledged, last, over) = (Arc::clone(&acknowledged), Arc::clone(&last), Arc::clone(&over));
            move || {
                let mut socket = pipeline;
                while let Some((tag, _)) = message(&mut socket) {
                    if tag == b'C' {
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                        *last.lock() = Some(Instant::now());
                    }
                }
                over.store(true, Ordering::Relaxed);
            }
        });
        let caller = thread::spawn({
            let procedure = Arc::clone(&procedure);
            move || {
                let mut socket = caller;
                let _ = socket.write_all(&query("CALL commit_for_ever()"));
                procedure.store(true, Ordering::Relaxed);
                while message(&mut socket).is_some() {}
                procedure.store(false, Ordering::Relaxed);
            }
        });
        let threads = vec![writer, reader, caller];
        Self { acknowledged, last, sockets, threads, over, first, procedure }
    }

    /// How many rows the pipelining client was told are there.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Whether the procedure has been called, and has not ended.
    pub fn procedure_commits(&self) -> bool {
        self.procedure.load(Ordering::Relaxed)
    }

    /// When the last of them was acknowledged.
    pub fn last(&self) -> Option<Instant> {
        *self.last.lock()
    }

    /// Whether both have ended.
    pub fn are_over(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// How many acknowledged rows a node does not have. They were sent in order, so those that are there are the first.
    #[track_caller]
    pub fn missing_on(&self, node: &Node) -> u64 {
        let (first, told) = (self.first, self.acknowledged());
        let sql = format!("SELECT count(*) FROM orphans WHERE seq BETWEEN {first} AND {}", first + told - 1);
        told - node.sql(&sql).unwrap().cell().unwrap().parse::<u64>().unwrap()
    }
}

impl Drop for Orphans {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for socket in &self.sockets {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Over the socket, where everybody is trusted.
#[track_caller]
fn login(node: &Node) -> UnixStream {
    let mut socket = UnixStream::connect(node.sockets().join(format!(".s.PGSQL.{}", node.port()))).unwrap();
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for text in ["user", node.superuser(), "database", "postgres", ""] {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    let mut packet = u32::try_from(body.len() + 4).unwrap().to_be_bytes().to_vec();
    packet.extend_from_slice(&body);
    socket.write_all(&packet).unwrap();
    while let Some((tag, body)) = message(&mut socket) {
        assert_ne!(tag, b'E', "{}", String::from_utf8_lossy(&body));
        if tag == b'Z' {
            return socket;
        }
    }
    panic!("no login at {}", node.name());
}

fn message(socket: &mut UnixStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    socket.read_exact(&mut head).ok()?;
    let len = u32::from_be_bytes(head[1..].try_into().ok()?);
    let mut body = vec![0; usize::try_from(len).ok()?.checked_sub(4)?];
    socket.read_exact(&mut body).ok()?;
    Some((head[0], body))
}
