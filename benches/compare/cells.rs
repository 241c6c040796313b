//! What is measured: one cell is one load, played to each pooler in turn.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use crate::measure::{self, Cpu, Latencies};
use crate::peers::{Bed, DATABASE, Door, Peer, client};

#[derive(Clone)]
pub enum Load {
    /// pgbench with these arguments.
    Pgbench { arguments: &'static [&'static str], script: Option<&'static str> },
    /// pgbench twice at once, each half of the clients with settings of its own (`PGOPTIONS`), through howdah alone.
    State { options: [&'static str; 2], script: &'static str },
    /// pgbench, a connection per transaction: bound by the client's own key derivation.
    Churn,
    /// So many logins one after the other, by a client that remembers its keys.
    Logins(usize),
    /// So many clients that have asked once.
    Idle(usize),
    /// pgbench where reads go to a standby, and where the same howdah sends all to the primary.
    Routed { arguments: &'static [&'static str], script: Option<&'static str>, traced: bool },
    /// pgbench under strace.
    SystemCalls { arguments: &'static [&'static str], script: Option<&'static str> },
}

#[derive(Clone)]
pub struct Cell {
    pub name: String,
    pub what: &'static str,
    pub load: Load,
    pub clients: usize,
    pub servers: u32,
    pub door: Door,
}

/// The figures of one round.
#[derive(Clone, Default)]
pub struct Figures(pub BTreeMap<&'static str, f64>);

/// One pooler's rounds.
pub struct Row {
    pub peer: String,
    pub rounds: Vec<Figures>,
}

impl Cell {
    pub fn all() -> Vec<Self> {
        const SIMPLE: &[&str] = &["-S", "-M", "simple"];
        const EXTENDED: &[&str] = &["-S", "-M", "extended"];
        const PREPARED: &[&str] = &["-S", "-M", "prepared"];
        let pgbench = |arguments, script| Load::Pgbench { arguments, script };
        let calls = |arguments, script| Load::SystemCalls { arguments, script };
        let cell = |name: &str, what, load, clients, servers, door| Self {
            name: name.to_owned(),
            what,
            load,
            clients,
            servers,
            door,
        };
        let state =
            |name: &str, what, options, script| cell(name, what, Load::State { options, script }, 2, 1, Door::Scram);
        vec![
            cell(
                "ping16",
                "SELECT 1, simple protocol",
                pgbench(&["-M", "simple"], Some("ping.sql")),
                16,
                8,
                Door::Scram,
            ),
            cell(
                "ping64",
                "SELECT 1, simple protocol",
                pgbench(&["-M", "simple"], Some("ping.sql")),
                64,
                8,
                Door::Scram,
            ),
            cell(
                "unix16",
                "SELECT 1, simple protocol, servers by TCP and by Unix socket",
                pgbench(&["-M", "simple"], Some("ping.sql")),
                16,
                8,
                Door::Scram,
            ),
            cell("simple16", "pgbench -S, simple", pgbench(SIMPLE, None), 16, 8, Door::Scram),
            cell("simple64", "pgbench -S, simple", pgbench(SIMPLE, None), 64, 8, Door::Scram),
            cell(
                "extended16",
                "pgbench -S, extended (unnamed statements)",
                pgbench(EXTENDED, None),
                16,
                8,
                Door::Scram,
            ),
            cell("prepared16", "pgbench -S, prepared", pgbench(PREPARED, None), 16, 8, Door::Scram),
            cell("prepared64", "pgbench -S, prepared", pgbench(PREPARED, None), 64, 8, Door::Scram),
            cell("large", "10,000 rows of 100 bytes", pgbench(&["-M", "simple"], Some("large.sql")), 4, 8, Door::Scram),
            cell("tls16", "pgbench -S, simple, TLS to clients", pgbench(SIMPLE, None), 16, 8, Door::Tls),
            cell("crowd", "pgbench -S, simple, 500 clients on 4 servers", pgbench(SIMPLE, None), 500, 4, Door::Scram),
            cell("login", "logins with SCRAM", Load::Logins(2_000), 1, 8, Door::Scram),
            cell("churn-tls", "a connection per transaction, SCRAM, TLS", Load::Churn, 16, 8, Door::Tls),
            cell("idle", "5,000 clients that have asked once", Load::Idle(5_000), 5_000, 8, Door::Trust),
            cell(
                "calls-ping16",
                "system calls, SELECT 1",
                calls(&["-M", "simple"], Some("ping.sql")),
                16,
                8,
                Door::Scram,
            ),
            state("state-same", "one state: SELECT 1", ["", ""], "ping.sql"),
            state(
                "state-1",
                "another value of one setting each time",
                ["-c work_mem=5MB", "-c work_mem=6MB"],
                "ping.sql",
            ),
            state(
                "state-3",
                "another value of three settings each time",
                [
                    "-c work_mem=5MB -c statement_timeout=50s -c lock_timeout=50s",
                    "-c work_mem=6MB -c statement_timeout=60s -c lock_timeout=60s",
                ],
                "ping.sql",
            ),
            state("state-reset", "a setting, and none, in turn", ["-c work_mem=5MB", ""], "ping.sql"),
            state("state-set", "SET and SELECT 1, each alone", ["", ""], "set.sql"),
            state("state-local", "SET LOCAL and SELECT 1 in a block", ["", ""], "set-local.sql"),
            state("state-block", "SET and SELECT 1 in a block: asked for by name", ["", ""], "set-block.sql"),
            state("state-do", "DO and SELECT 1: asked for everything, and swept", ["", ""], "do.sql"),
            cell("calls-prepared16", "system calls, prepared", calls(PREPARED, None), 16, 8, Door::Scram),
        ]
        .into_iter()
        .chain(crate::routed::cells())
        .collect()
    }

    /// The poolers of this cell; the first is what the others are compared with.
    fn peers(&self, bed: &Bed<'_>) -> Vec<Peer> {
        let (door, servers) = (self.door, self.servers);
        // Debian's PgBouncer 1.18 knows no named statements in transaction mode
        let knows_names = !self.name.contains("prepared") || !self.is_old(bed);
        let mut peers = Vec::new();
        if self.name == "unix16" {
            return vec![Peer::howdah(bed, door, servers, 1), Peer::howdah_by_socket(bed, door, servers)];
        }
        if let Load::Routed { .. } = self.load {
            return crate::routed::peers(bed, servers, if self.clients > 16 { 2 } else { 1 });
        }
        if matches!(self.load, Load::State { .. }) {
            return vec![Peer::howdah(bed, door, servers, 1)];
        }
        if knows_names {
            peers.push(Peer::pgbouncer(bed, door, servers, 4096));
        }
        if self.name == "large" {
            peers.push(Peer::pgbouncer(bed, door, servers, 65536));
        }
        peers.push(Peer::howdah(bed, door, servers, 1));
        peers.extend(Peer::howdah_before(bed, door, servers));
        if matches!(self.name.as_str(), "ping64" | "simple16" | "simple64" | "crowd") {
            peers.push(Peer::howdah(bed, door, servers, 2));
        }
        peers
    }

    fn is_old(&self, bed: &Bed<'_>) -> bool {
        let version = std::process::Command::new(&bed.pgbouncer).arg("--version").output().unwrap();
        let text = String::from_utf8_lossy(&version.stdout).into_owned();
        let minor = text.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok()).unwrap_or(0);
        minor < 21
    }
}

pub fn run(bed: &Bed<'_>, cell: &Cell, rounds: usize, during: Duration) -> Vec<Row> {
    let peers = cell.peers(bed);
    let mut rows: Vec<_> = peers.iter().map(|peer| Row { peer: peer.name.clone(), rounds: Vec::new() }).collect();
    let rounds = if matches!(cell.load, Load::Idle(_) | Load::SystemCalls { .. } | Load::Routed { traced: true, .. }) {
        1
    } else {
        rounds
    };
    for round in 0..rounds {
        // whoever goes first in a round pays for cold caches: take turns
        for turn in 0..peers.len() {
            let at = (turn + round) % peers.len();
            rows[at].rounds.push(play(bed, cell, &peers[at], during));
        }
    }
    rows
}

fn play(bed: &Bed<'_>, cell: &Cell, peer: &Peer, during: Duration) -> Figures {
    match &cell.load {
        Load::Pgbench { arguments, script } => pgbench(bed, cell, peer, during, arguments, *script, false),
        Load::Routed { arguments, script, traced } => pgbench(bed, cell, peer, during, arguments, *script, *traced),
        Load::State { options, script } => state(bed, cell, peer, during, options, script),
        Load::Churn => churn(bed, cell, peer, during),
        Load::Logins(count) => logins(peer, *count),
        Load::Idle(clients) => idle(peer, *clients),
        Load::SystemCalls { arguments, script } => pgbench(bed, cell, peer, during, arguments, *script, true),
    }
}

fn pgbench_command(bed: &Bed<'_>, cell: &Cell, peer: &Peer, during: Duration) -> std::process::Command {
    let mut command = client("pgbench", bed.node, peer.port);
    if cell.door == Door::Tls {
        command.env("PGSSLMODE", "require");
    }
    command.current_dir(&bed.directory);
    command.args(["-n", "-j", "1", "-c", &cell.clients.to_string(), "-T", &during.as_secs().to_string()]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What the pooler and PostgreSQL spend where clients with different settings take turns on a server.
fn state(bed: &Bed<'_>, cell: &Cell, peer: &Peer, during: Duration, options: &[&str; 2], script: &str) -> Figures {
    let prefix = format!("log-{}", peer.port);
    let half = Cell { clients: cell.clients / 2, ..cell.clone() };
    let halves = options.map(|options| {
        let mut command = pgbench_command(bed, &half, peer, during);
        command.env("PGOPTIONS", options).args(["-M", "simple", "-l", "--log-prefix", &prefix, "-f", script]);
        command.arg(DATABASE).spawn().unwrap()
    });
    std::thread::sleep(Duration::from_millis(700));
    let pids: Vec<u32> = bed.node.processes().iter().map(|pid| pid.as_raw_nonzero().get().unsigned_abs()).collect();
    let (before, servers_before, logged) = (Cpu::of(peer.pid()), Cpu::of_all(&pids), log_lines(bed, &prefix));
    std::thread::sleep(during.saturating_sub(Duration::from_millis(1_000)));
    let (cpu, server_cpu) = (Cpu::of(peer.pid()).since(before), Cpu::of_all(&pids).since(servers_before));
    let transactions = (log_lines(bed, &prefix) - logged) as f64;
    for half in halves {
        let out = half.wait_with_output().unwrap();
        assert!(out.status.success(), "pgbench: {}", String::from_utf8_lossy(&out.stderr));
    }
    let _ = measure::latencies(&bed.directory, &prefix, cell.clients); // takes the logs away
    Figures(BTreeMap::from([
        ("CPU µs/tx", cpu.total * 1_000.0 / transactions),
        ("PG CPU µs/tx", server_cpu.total * 1_000.0 / transactions),
    ]))
}

fn pgbench(
    bed: &Bed<'_>,
    cell: &Cell,
    peer: &Peer,
    during: Duration,
    arguments: &[&str],
    script: Option<&str>,
    traced: bool,
) -> Figures {
    let prefix = format!("log-{}", peer.port);
    let mut command = pgbench_command(bed, cell, peer, during);
    command.args(arguments).args(["-l", "--log-prefix", &prefix]);
    if let Some(script) = script {
        command.args(["-f", script]);
    }
    let servers = || -> Vec<u32> {
        let all = bed.nodes.iter().flat_map(|node| node.processes());
        all.map(|pid| pid.as_raw_nonzero().get().unsigned_abs()).collect()
    };
    let child = command.arg(DATABASE).spawn().unwrap();
    // logins are another cell's: measure from when they are over to before the end
    std::thread::sleep(Duration::from_millis(700));
    let (before, pids) = (Cpu::of(peer.pid()), servers());
    let servers_before = Cpu::of_all(&pids);
    let logged_before = log_lines(bed, &prefix);
    let window = during.saturating_sub(Duration::from_millis(1_000));
    let calls = if traced { measure::system_calls(peer.pid(), window) } else { None };
    if !traced {
        std::thread::sleep(window);
    }
    let cpu = Cpu::of(peer.pid()).since(before);
    let server_cpu = Cpu::of_all(&pids).since(servers_before);
    let transactions = (log_lines(bed, &prefix) - logged_before) as f64;
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "pgbench through {}: {}", peer.name, String::from_utf8_lossy(&out.stderr));
    let Latencies { p50_ms, p99_ms, max_ms, least_share, .. } =
        measure::latencies(&bed.directory, &prefix, cell.clients);
    let mut figures = BTreeMap::new();
    if let Some(calls) = calls {
        figures.insert("calls/tx", calls / transactions);
        return Figures(figures);
    }
    figures.insert("tx/s", transactions / window.as_secs_f64());
    figures.insert("CPU µs/tx", cpu.total * 1_000.0 / transactions);
    figures.insert("user µs/tx", cpu.user * 1_000.0 / transactions);
    figures.insert("PG CPU µs/tx", server_cpu.total * 1_000.0 / transactions);
    figures.insert("p50 ms", p50_ms);
    figures.insert("p99 ms", p99_ms);
    figures.insert("max ms", max_ms);
    figures.insert("least share", least_share);
    if cell.name == "large" {
        // a row: 7 bytes of header and count, 4 of length, 100 of data
        figures.insert("CPU s/GB", cpu.total / 1_000.0 / (transactions * 10_000.0 * 111.0 / 1e9));
    }
    Figures(figures)
}

/// Lines pgbench has written so far. It writes in blocks, so this is a little late, on both sides of the window.
fn log_lines(bed: &Bed<'_>, prefix: &str) -> usize {
    let mut lines = 0;
    for entry in std::fs::read_dir(&bed.directory).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            lines += bytes.iter().filter(|byte| **byte == b'\n').count();
        }
    }
    lines
}

fn churn(bed: &Bed<'_>, cell: &Cell, peer: &Peer, during: Duration) -> Figures {
    let before = Cpu::of(peer.pid());
    let mut command = pgbench_command(bed, cell, peer, during);
    let out = command.args(["-C", "-M", "simple", "-f", "ping.sql", DATABASE]).output().unwrap();
    assert!(out.status.success(), "pgbench -C through {}: {}", peer.name, String::from_utf8_lossy(&out.stderr));
    let cpu = Cpu::of(peer.pid()).since(before);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let done = text.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
    let done: f64 = done.and_then(|n| n.split('/').next()?.trim().parse().ok()).expect("a count of transactions");
    Figures(BTreeMap::from([("CPU ms/login", cpu.total / done), ("logins/s", done / during.as_secs_f64())]))
}

/// A message from a pooler: its tag and body.
fn message(stream: &mut std::net::TcpStream) -> (u8, Vec<u8>) {
    use std::io::Read;
    let mut header = [0; 5];
    stream.read_exact(&mut header).unwrap();
    let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body).unwrap();
    (header[0], body)
}

fn logins(peer: &Peer, count: usize) -> Figures {
    use std::io::Write;

    use howdah::protocol::messages;
    use howdah::protocol::scram::{Binding, ClientExchange, Credential, Keys};

    let mut keys: Option<Keys> = None;
    let mut login = || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", peer.port)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut out = Vec::new();
        let parameters: [(&[u8], &[u8]); 2] =
            [(b"user", crate::peers::USER.as_bytes()), (b"database", DATABASE.as_bytes())];
        messages::startup(&mut out, 0, &parameters);
        stream.write_all(&out).unwrap();
        assert_eq!(message(&mut stream).0, b'R');
        let nonce: [u8; 9] = std::array::from_fn(|at| b'a' + (at as u8));
        let (exchange, first) =
            ClientExchange::start(std::str::from_utf8(&nonce).unwrap(), Binding::Unavailable).unwrap();
        out.clear();
        messages::message(&mut out, b'p', |body| {
            messages::cstr(body, b"SCRAM-SHA-256");
            body.extend((first.len() as u32).to_be_bytes());
            body.extend(&first);
        });
        stream.write_all(&out).unwrap();
        let (_, challenge) = message(&mut stream);
        let asked = exchange.read_server_first(&challenge[4..]).unwrap();
        if keys.as_ref().is_none_or(|keys| keys.salt != asked.salt || keys.iterations != asked.iterations) {
            keys = Some(Keys::derive(crate::peers::PASSWORD.as_bytes(), &asked.salt, asked.iterations));
        }
        let (last, _) = exchange.respond(&challenge[4..], &Credential::Keys(keys.as_ref().unwrap())).unwrap();
        out.clear();
        messages::password(&mut out, &last);
        stream.write_all(&out).unwrap();
        while message(&mut stream).0 != b'Z' {}
        stream.write_all(&messages::TERMINATE).unwrap();
    };
    for _ in 0..50 {
        login();
    }
    let before = Cpu::of(peer.pid());
    for _ in 0..count {
        login();
    }
    let cpu = Cpu::of(peer.pid()).since(before);
    let count = count as f64;
    Figures(BTreeMap::from([("CPU ms/login", cpu.total / count), ("user ms/login", cpu.user / count)]))
}

fn idle(peer: &Peer, clients: usize) -> Figures {
    use std::io::{Read, Write};
    let connect = || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", peer.port)).unwrap();
        let mut startup = Vec::new();
        let parameters: [(&[u8], &[u8]); 2] =
            [(b"user", crate::peers::USER.as_bytes()), (b"database", DATABASE.as_bytes())];
        howdah::protocol::messages::startup(&mut startup, 0, &parameters);
        stream.write_all(&startup).unwrap();
        stream
    };
    let until_ready = |stream: &mut std::net::TcpStream| {
        let mut seen = Vec::new();
        let mut bytes = [0; 4096];
        while !seen.ends_with(b"Z\0\0\0\x05I") {
            let read = stream.read(&mut bytes).unwrap();
            assert!(read > 0, "{} hung up: {}", peer.name, String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&bytes[..read]);
        }
    };
    // the first few warm up what does not grow with the number of clients
    let mut held: Vec<_> = (0..100).map(|_| connect()).collect();
    held.iter_mut().for_each(until_ready);
    let empty = measure::memory_kib(peer.pid(), "Pss:");
    let before = Cpu::of(peer.pid());
    for _ in 0..clients {
        let mut stream = connect();
        until_ready(&mut stream);
        let mut query = Vec::new();
        howdah::protocol::messages::query(&mut query, b"select 1");
        stream.write_all(&query).unwrap();
        until_ready(&mut stream);
        held.push(stream);
    }
    let login = Cpu::of(peer.pid()).since(before).total / clients as f64;
    let full = measure::memory_kib(peer.pid(), "Pss:");
    let resting = Cpu::of(peer.pid());
    std::thread::sleep(Duration::from_secs(10));
    let rest = Cpu::of(peer.pid()).since(resting).total / 10_000.0 * 100.0;
    Figures(BTreeMap::from([
        ("KiB/client", (full - empty) / clients as f64),
        ("CPU ms/login+query", login),
        ("CPU % idle", rest),
    ]))
}
