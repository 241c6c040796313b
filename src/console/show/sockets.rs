//! `SHOW CLIENTS`, `SHOW SERVERS` and `SHOW SOCKETS`, as PgBouncer has them.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::answer::Kind::{Int4, Text};
use super::super::answer::{Cell, Row};
use super::super::seat::PGBOUNCER;
use super::scene::{Scene, ServerState};
use super::{Look, View, written};
use crate::protocol::startup::Replication;
use crate::proxy::client::Standing;
use crate::proxy::newcomers::Newcomer;
use crate::proxy::roster::{ClientFacts, Ends, ServerFacts};
use crate::proxy::sounding::Level;

macro_rules! socket_columns {
    ($($more:expr),*) => {
        &[
            ("type", Text),
            ("user", Text),
            ("database", Text),
            ("replication", Text),
            ("state", Text),
            ("addr", Text),
            ("port", Int4),
            ("local_addr", Text),
            ("local_port", Int4),
            ("connect_time", Text),
            ("request_time", Text),
            ("wait", Int4),
            ("wait_us", Int4),
            ("close_needed", Int4),
            ("ptr", Text),
            ("link", Text),
            ("remote_pid", Int4),
            ("tls", Text),
            ("application_name", Text),
            ("prepared_statements", Int4),
            ("id", Int4),
            $($more),*
        ]
    };
}

/// SHOW CLIENTS.
pub const CLIENTS: View = View { name: "clients", columns: socket_columns!(), rows: clients };

/// SHOW SERVERS.
pub const SERVERS: View = View { name: "servers", columns: socket_columns!(), rows: servers };

/// SHOW SOCKETS. How far its buffers are filled only a socket's own session knows: all have been asked before.
pub const SOCKETS: View = View {
    name: "sockets",
    columns: socket_columns!(
        ("recv_pos", Int4),
        ("pkt_pos", Int4),
        ("pkt_remain", Int4),
        ("send_pos", Int4),
        ("send_remain", Int4),
        ("pkt_avail", Int4),
        ("send_avail", Int4)
    ),
    rows: |look| all_sockets(look, |_| true),
};

/// SHOW ACTIVE_SOCKETS: those that are not idle.
pub const ACTIVE_SOCKETS: View = View {
    name: "active_sockets",
    columns: SOCKETS.columns,
    rows: |look| all_sockets(look, |state| !matches!(state, "sv_idle" | "sv_used")),
};

/// Both kinds of sockets, as far as they are alike.
struct Line<'a> {
    kind: &'static str,
    user: &'a str,
    database: &'a str,
    replication: Option<Replication>,
    state: String,
    ends: &'a Ends,
    connected: String,
    requested: String,
    wait_us: u64,
    close_needed: bool,
    ptr: String,
    link: String,
    remote_pid: i32,
    application_name: &'a str,
    prepared: u32,
    id: u64,
}

impl Line<'_> {
    fn row(self) -> Row {
        let replication = match self.replication {
            None => "none",
            Some(Replication::Logical) => "logical",
            Some(Replication::Physical) => "physical",
        };
        vec![
            self.kind.into(),
            self.user.into(),
            self.database.into(),
            replication.into(),
            self.state.into(),
            self.ends.remote.address().into(),
            u32::from(self.ends.remote.port()).into(),
            self.ends.local.address().into(),
            u32::from(self.ends.local.port()).into(),
            self.connected.into(),
            self.requested.into(),
            (self.wait_us / 1_000_000).into(),
            (self.wait_us % 1_000_000).into(),
            self.close_needed.into(),
            self.ptr.into(),
            self.link.into(),
            self.remote_pid.into(),
            Cell::from(self.ends.tls.clone().unwrap_or_default()),
            self.application_name.into(),
            self.prepared.into(),
            self.id.into(),
        ]
    }
}

/// PgBouncer prints addresses in memory, which nobody can use for anything but telling sockets apart.
fn client_ptr(id: u64) -> String {
    format!("0x{:012x}", id << 4)
}

fn server_ptr(id: u64) -> String {
    format!("0x{:012x}", (id << 4) | (1 << 47))
}

fn client_line(scene: &Scene, client: &ClientFacts, standing: &Standing, state: &str) -> Row {
    let server = scene.server_of(standing);
    let application_name = client.application_name();
    Line {
        kind: "C",
        user: if client.is_caller { PGBOUNCER } else { &client.user },
        database: &client.database,
        replication: client.replication,
        state: state.to_owned(),
        ends: &client.ends,
        connected: written(client.connected),
        requested: written(scene.requested(client)),
        wait_us: scene.wait_us(client.id),
        close_needed: false,
        ptr: client_ptr(client.id),
        link: server.map(|server| server_ptr(server.id)).unwrap_or_default(),
        remote_pid: 0,
        application_name: &application_name,
        prepared: client.prepared(),
        id: client.id,
    }
    .row()
}

fn client_state(standing: &Standing) -> &'static str {
    match standing {
        Standing::Idle => "idle",
        Standing::Waiting => "waiting",
        Standing::Working(_) => "active",
    }
}

fn server_line(scene: &Scene, server: &Arc<ServerFacts>, state: &str) -> Row {
    let client = scene.client_of(server).and_then(|id| scene.clients.iter().find(|(client, _)| client.id == id));
    let requested = client.map_or(server.connected, |(client, _)| scene.requested(client));
    Line {
        kind: "S",
        user: &server.pool.user,
        database: &server.pool.database,
        replication: None,
        state: state.to_owned(),
        ends: &server.ends,
        connected: written(server.connected),
        requested: written(requested),
        wait_us: 0,
        close_needed: server.close_needed() || server.identity.is_tainted(),
        ptr: server_ptr(server.id),
        link: scene.client_of(server).map(client_ptr).unwrap_or_default(),
        remote_pid: server.identity.pid,
        application_name: &server.application_name,
        prepared: server.prepared(),
        id: server.id,
    }
    .row()
}

fn clients(look: &Look) -> Vec<Row> {
    let scene = Scene::now(look);
    let line = |(client, standing): &(Arc<ClientFacts>, Standing)| {
        // a console that asks this is at work, which PgBouncer calls idle
        let state = if client.is_caller { "idle" } else { client_state(standing) };
        client_line(&scene, client, standing, state)
    };
    scene.clients.iter().map(line).collect()
}

fn servers(look: &Look) -> Vec<Row> {
    let scene = Scene::now(look);
    scene.servers.iter().map(|server| server_line(&scene, server, scene.state(server).word())).collect()
}

/// A connection that is logging in. Nothing is proven of who it says it is.
fn newcomer_line(newcomer: &Newcomer) -> Row {
    let claim = newcomer.claim();
    let at = written(newcomer.connected);
    Line {
        kind: "C",
        user: claim.map_or("(nouser)", |claim| &claim.user),
        database: claim.map_or("(nodb)", |claim| &claim.database),
        replication: None,
        state: "cl_login".to_owned(),
        ends: &newcomer.ends,
        connected: at.clone(),
        requested: at,
        wait_us: 0,
        close_needed: false,
        ptr: client_ptr(newcomer.handle.id),
        link: String::new(),
        remote_pid: 0,
        application_name: "",
        prepared: 0,
        id: newcomer.handle.id,
    }
    .row()
}

/// The seven columns of a buffer; NULLs where nobody has told.
fn positions(level: Option<Level>) -> [Cell; 7] {
    let Some(Level { received, seen, message_left, sent, unsent }) = level else { return [const { Cell::Null }; 7] };
    let (pkt_avail, send_avail) = (received.saturating_sub(seen), unsent);
    [received, seen, message_left, sent, unsent, pkt_avail, send_avail].map(Cell::from)
}

/// The lines of SHOW SOCKETS: each client with what has come from it, each server with what has come from it, and who is logging
/// in. A session that is about to end, or sets a server right, tells nothing.
fn all_sockets(look: &Look, is_wanted: fn(&str) -> bool) -> Vec<Row> {
    let newcomers = look.shared.newcomers.all(); // first: who gets on meanwhile is among the clients
    let levels = &look.levels;
    let scene = Scene::now(look);
    let clients = scene.clients.iter().map(|(client, standing)| {
        let waits = matches!(standing, Standing::Waiting) && !client.is_caller;
        let state = if waits { "cl_waiting" } else { "cl_active" };
        let level = levels.get(&client.id).map(|levels| levels.client);
        (state, client_line(&scene, client, standing, state), level)
    });
    let known: HashSet<u64> = scene.clients.iter().map(|(client, _)| client.id).collect();
    let newcomers = newcomers.iter().filter(|newcomer| !known.contains(&newcomer.handle.id));
    let newcomers = newcomers.map(|newcomer| ("cl_login", newcomer_line(newcomer), None));
    let servers = scene.servers.iter().map(|server| {
        let of_client = || scene.client_of(server).and_then(|client| levels.get(&client)).map(|levels| levels.server);
        let (state, level) = match scene.state(server) {
            ServerState::Active => ("sv_active", of_client()),
            // what rests owes nothing
            ServerState::Idle => ("sv_idle", Some(Level::default())),
            ServerState::Used => ("sv_used", Some(Level::default())),
            ServerState::Tested | ServerState::BeingCanceled => ("sv_tested", None),
        };
        (state, server_line(&scene, server, state), level)
    });
    let lines = clients.chain(newcomers).chain(servers).filter(|(state, ..)| is_wanted(state));
    let rows = lines.map(|(_, mut row, level)| {
        row.extend(positions(level));
        row
    });
    rows.collect()
}
