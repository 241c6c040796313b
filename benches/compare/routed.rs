//! What it costs to send reads to a standby: one howdah with two listeners in front of a primary and a standby, one of which
//! routes and one of which sends all to the primary; and beside them a howdah that knows the primary only.
//!
//! The standby answers as many at once as the primary does. What it spends itself says nothing about howdah.

use std::time::{Duration, Instant};

use howdah::demo::ports::free_port;

use crate::cells::{Cell, Load};
use crate::peers::{Bed, DATABASE, Door, PASSWORD, Peer, USER, client};

pub const STANDBY: &str = "b";

/// Nine reads and a write, each alone.
pub const MIXED: &str = "\\set aid random(1, 1000000)\n\\set other random(1, 1000000)\n\
    select abalance from pgbench_accounts where aid = :aid;\nselect abalance from pgbench_accounts where aid = :other;\n\
    select bid from pgbench_accounts where aid = :aid;\nselect bid from pgbench_accounts where aid = :other;\n\
    update pgbench_accounts set abalance = abalance + 1 where aid = :aid;\n\
    select abalance from pgbench_accounts where aid = :aid;\nselect abalance from pgbench_accounts where aid = :other;\n\
    select filler from pgbench_accounts where aid = :aid;\nselect filler from pgbench_accounts where aid = :other;\n\
    select abalance from pgbench_accounts where aid = :aid;\n";

pub fn cells() -> Vec<Cell> {
    let cell = |name: &str, what, arguments, script, traced, clients| Cell {
        name: name.to_owned(),
        what,
        load: Load::Routed { arguments, script, traced },
        clients,
        servers: 8,
        door: Door::Scram,
    };
    const SIMPLE: &[&str] = &["-M", "simple"];
    const READS: &[&str] = &["-S", "-M", "simple"];
    const EXTENDED: &[&str] = &["-S", "-M", "extended"];
    const PREPARED: &[&str] = &["-S", "-M", "prepared"];
    const WRITES: &[&str] = &["-M", "prepared"];
    let ping = Some("ping.sql");
    vec![
        cell("routed-ping", "SELECT 1, routed", SIMPLE, ping, false, 16),
        cell("routed-simple", "pgbench -S, simple, routed", READS, None, false, 16),
        cell("routed-extended", "pgbench -S, extended, routed", EXTENDED, None, false, 16),
        cell("routed-prepared", "pgbench -S, prepared, routed", PREPARED, None, false, 16),
        cell("routed-one", "pgbench -S, prepared, one client, routed", PREPARED, None, false, 1),
        cell("routed-mixed", "nine reads and a write, prepared, routed", WRITES, Some("mixed.sql"), false, 16),
        cell("routed-mixed64", "the same, 64 clients, 2 workers", WRITES, Some("mixed.sql"), false, 64),
        cell("calls-routed-ping", "system calls, SELECT 1, routed", SIMPLE, ping, true, 16),
        cell("calls-routed-prepared", "system calls, prepared, routed", PREPARED, None, true, 16),
    ]
}

pub fn peers(bed: &Bed<'_>, servers: u32, workers: u32) -> Vec<Peer> {
    let (port, auto) = (free_port().unwrap(), free_port().unwrap());
    let (monitor, monitor_password) = (bed.node.superuser(), bed.node.password());
    let mut config = format!(
        "[limits]\nworkers = {workers}\n[[listeners]]\naddress = \"127.0.0.1:{port}\"\nrole = \"primary\"\n\
         [[listeners]]\naddress = \"127.0.0.1:{auto}\"\n\
         [pool]\nsize = {servers}\n[auth]\nmethod = \"scram-sha-256\"\n[users.{USER}]\npassword = \"{PASSWORD}\"\n\
         [clusters.main.monitor]\nuser = \"{monitor}\"\npassword = \"{monitor_password}\"\n\
         [databases.\"*\"]\ncluster = \"main\"\n[http]\naddress = \"off\"\n[log]\nlevel = \"warn\"\n"
    );
    for node in bed.nodes {
        config += &format!(
            "[[clusters.main.nodes]]\nname = \"{}\"\nhost = \"{}\"\nport = {}\ntls = {{ mode = \"disable\" }}\n",
            node.name(),
            node.host(),
            node.port()
        );
    }
    let primary = Peer::serve(bed, "howdah, all to the primary".to_owned(), port, &config);
    let routed = primary.beside("howdah, reads to the standby", auto);
    let until = Instant::now() + Duration::from_secs(20);
    while !reads_from_standby(bed, &routed) {
        assert!(Instant::now() < until, "no read goes to the standby");
        std::thread::sleep(Duration::from_millis(100));
    }
    vec![primary, routed, Peer::howdah(bed, Door::Scram, servers, workers)]
}

fn reads_from_standby(bed: &Bed<'_>, peer: &Peer) -> bool {
    let mut command = client("psql", bed.node, peer.port);
    let out = command.args(["-XAtc", "select pg_is_in_recovery()", DATABASE]).output().unwrap();
    out.stdout == b"t\n"
}
