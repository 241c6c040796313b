//! Clients: some write through howdah, as the data path does, one holds on to a server whatever happens to its postmaster.
//!
//! The data path's promise: a transaction begins only at the appointed node, when nothing is held there and it says it is a primary;
//! a server connection that is of an older epoch is not used, and what is in flight on it has an unknown outcome.

use howdah::cluster::decide::Input;
use howdah::topology::{Appointment, Epoch, Role};

use super::check;
use super::postgres::Server;
use super::server;
use super::shell;
use super::world::{MS, SECOND, Wire, World};
use crate::say;

/// A server connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Connection {
    node: usize,
    life: u64,
    epoch: Epoch,
}

/// A client of howdah.
#[derive(Clone, Debug, Default)]
pub struct Client {
    connection: Option<Connection>,
    /// A transaction is open.
    busy: bool,
    number: u64,
    waits_since: Option<u64>,
}

/// A client beside howdah that never waits for an answer before it sends more.
#[derive(Clone, Debug, Default)]
pub struct Direct {
    node: Option<(&'static str, usize, u64)>,
    /// The epoch that it came in.
    epoch: Epoch,
}

impl Direct {
    pub fn attached(&self, name: &str, life: u64) -> bool {
        self.node.is_some_and(|(node, _, at)| node == name && at == life)
    }
}

/// Routing learns something.
pub fn appointed(w: &mut World, appointment: Appointment) {
    let before = w.daemon.appointment.replace(appointment.clone());
    if before.as_ref().is_none_or(|before| before.epoch < appointment.epoch) {
        drop_older(w, appointment.epoch);
    }
    w.daemon.open_told = None;
    tell_open(w);
}

fn drop_older(w: &mut World, epoch: Epoch) {
    for index in 0..w.clients.len() {
        let client = &mut w.clients[index];
        if client.connection.is_some_and(|connection| connection.epoch < epoch) {
            client.connection = None;
            if std::mem::take(&mut client.busy) {
                client.number += 1;
                failed(w, "unknown outcome");
            }
        }
    }
}

/// The daemon has died, and every connection through it.
pub fn routing_died(w: &mut World) {
    for client in &mut w.clients {
        client.connection = None;
        client.busy = false;
        client.number += 1;
        client.waits_since = None;
    }
}

fn failed(w: &mut World, what: &'static str) {
    w.count(what);
    w.ledger.client_errors += 1;
}

/// While something is held, the coordinator hears what is open there.
fn tell_open(w: &mut World) {
    let held = w.daemon.appointment.as_ref().is_some_and(|appointment| appointment.held);
    if !held {
        return;
    }
    let open = w.clients.iter().filter(|client| client.busy).count() as u64;
    if w.daemon.open_told != Some(open) {
        w.daemon.open_told = Some(open);
        let life = w.daemon.life;
        let delay = w.rng.range(100, 2 * MS);
        w.after(delay, move |w| {
            let held = w.daemon.appointment.as_ref().is_some_and(|appointment| appointment.held);
            if w.daemon.life == life && held {
                shell::input(w, Input::Open(open));
            }
        });
    }
}

/// A client thinks, and writes.
pub fn begin(w: &mut World, index: usize) {
    let pause = w.rng.range(30 * MS, 250 * MS);
    let appointment = w.daemon.appointment.clone().filter(|_| w.daemon.up);
    let target = appointment.as_ref().filter(|it| !it.held).and_then(|it| it.primary.clone());
    let target = target.and_then(|name| w.index_of(&name)).filter(|node| w.daemon.roles[*node] == Some(Role::Primary));
    let (Some(appointment), Some(node)) = (appointment, target) else {
        let since = *w.clients[index].waits_since.get_or_insert(w.now);
        w.ledger.longest_wait = w.ledger.longest_wait.max(w.now - since);
        return w.after(pause / 2, move |w| begin(w, index));
    };
    let pg = &w.nodes[node].postgres;
    let fresh = Connection { node, life: pg.life, epoch: appointment.epoch };
    let reachable = w.open_both(Wire::Postgres, w.daemon_host(), node);
    let usable =
        w.clients[index].connection == Some(fresh) || (reachable && pg.server == Server::Primary && !pg.stopped);
    if !usable {
        w.clients[index].connection = None;
        return w.after(pause, move |w| begin(w, index));
    }
    let client = &mut w.clients[index];
    client.connection = Some(fresh);
    client.busy = true;
    client.waits_since = None;
    client.number += 1;
    let number = client.number;
    let lasts =
        if w.rng.per_mille(w.knobs.long_blocks) { w.rng.range(SECOND, 6 * SECOND) } else { w.rng.range(MS, 20 * MS) };
    w.after(lasts, move |w| commit(w, index, fresh, number));
    w.after(lasts + pause, move |w| begin_when_free(w, index));
}

fn begin_when_free(w: &mut World, index: usize) {
    if w.clients[index].busy {
        w.after(10 * MS, move |w| begin_when_free(w, index));
    } else {
        begin(w, index);
    }
}

fn done(w: &mut World, index: usize) {
    let client = &mut w.clients[index];
    client.busy = false;
    client.number += 1;
    tell_open(w);
}

fn commit(w: &mut World, index: usize, on: Connection, number: u64) {
    let client = &w.clients[index];
    if client.number != number || !client.busy {
        return;
    }
    let pg = &w.nodes[on.node].postgres;
    let ended = pg.life != on.life || pg.server != Server::Primary || !w.nodes[on.node].powered;
    let reachable = w.open_both(Wire::Postgres, w.daemon_host(), on.node);
    if ended && reachable {
        w.clients[index].connection = None;
        failed(w, "lost block");
        return done(w, index);
    }
    if ended || !reachable || pg.stopped {
        // nothing comes back; the epoch's end is the end of this
        return w.after(30 * MS, move |w| commit(w, index, on, number));
    }
    let at = server::append(w, on.node);
    check::committed(w, on.node, on.epoch, true);
    let delay = w.rng.range(50, 2 * MS);
    w.after(delay, move |w| {
        if w.clients[index].number == number && w.clients[index].busy {
            check::acknowledged(w, on.node, on.epoch, at);
            w.count("acknowledged");
            done(w, index);
        }
    });
}

/// The direct client sends its next commit.
pub fn pipeline(w: &mut World) {
    let pause = w.rng.range(20 * MS, 100 * MS);
    w.after(pause, pipeline);
    if let Some((_, node, life)) = w.direct.node {
        let pg = &w.nodes[node].postgres;
        let serves =
            (pg.server == Server::Primary || (!pg.alive() && pg.orphans > 0 && pg.was_primary)) && pg.life == life;
        if !serves || !w.nodes[node].powered {
            w.direct.node = None;
        } else if !pg.stopped {
            let orphan = pg.orphans > 0;
            server::append(w, node);
            if orphan {
                w.count("commits of orphans");
            }
            let epoch = w.direct.epoch;
            check::committed(w, node, epoch, false);
        }
        return;
    }
    // now and then it comes to whoever writes for the routed ones
    if w.rng.per_mille(60) {
        let found = w.daemon.appointment.as_ref().and_then(|it| it.primary.clone()).and_then(|name| w.index_of(&name));
        if let Some(node) =
            found.filter(|node| w.nodes[*node].postgres.server == Server::Primary && w.nodes[*node].powered)
        {
            w.direct.node = Some((w.nodes[node].name, node, w.nodes[node].postgres.life));
            w.direct.epoch = w.daemon.appointment.as_ref().map_or(Epoch(0), |it| it.epoch);
            say!(w, "the pipelining client is at {}", w.nodes[node].name);
        }
    }
}
