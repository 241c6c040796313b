//! The sockets that clients come in by, and how a reload exchanges them: what is new is opened before anything else changes, what
//! goes is closed last, and clients who came by it stay.
//!
//! Not here: what a listener means to a client (`proxy/entrance`), letting in (`proxy/accept`).

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::config::{Address, Config, Listener, Problem, Problems};
use crate::net::listen::Beside;
use crate::net::listen::handed::Handed;
use crate::proxy::accept::Door;
use crate::proxy::entrance::Entrance;
use crate::proxy::shared::{Running, Shared};
use crate::proxy::worker::WorkerGate;

/// All that are open.
#[derive(Debug)]
pub(super) struct Doors {
    shared: Arc<Shared>,
    gates: Rc<Vec<WorkerGate>>,
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    listener: Listener,
    door: Door,
    task: Option<JoinHandle<()>>,
}

/// What a reload will make of the doors.
#[derive(Debug)]
pub(super) struct Exchange {
    /// In the new file's order: an open one by its index, or a new one.
    places: Vec<Place>,
}

#[derive(Debug)]
enum Place {
    Stays(usize),
    New(Door),
}

impl Doors {
    /// Opens the first ones, and lets nobody in yet.
    pub(super) async fn open(
        running: &Running,
        handed: &mut Handed,
        shared: &Arc<Shared>,
        gates: &Rc<Vec<WorkerGate>>,
    ) -> io::Result<Self> {
        let mut open = Vec::new();
        for (listener, entrance) in running.config.listeners.iter().zip(&running.entrances) {
            let door = Door::open(listener, Arc::clone(entrance), handed, Beside::Nobody).await?;
            open.push(Open { listener: listener.clone(), door, task: None });
        }
        Ok(Self { shared: Arc::clone(shared), gates: Rc::clone(gates), open })
    }

    /// Lets clients in.
    pub(super) fn serve(&mut self) {
        for open in self.open.iter_mut().filter(|open| open.task.is_none()) {
            tracing::info!(address = open.door.address, "listening");
            let serving = open.door.clone().serve(Arc::clone(&self.shared), Rc::clone(&self.gates));
            open.task = Some(tokio::task::spawn_local(serving));
        }
    }

    /// Opens what another configuration needs beside what is open.
    ///
    /// # Errors
    /// Every listener that cannot be had; then everything is as it was.
    pub(super) async fn prepare(&self, config: &Config, entrances: &[Arc<Entrance>]) -> Result<Exchange, Problems> {
        let (mut places, mut problems, mut taken) = (Vec::new(), Vec::new(), vec![false; self.open.len()]);
        for listener in &config.listeners {
            let stays = self
                .open
                .iter()
                .zip(&taken)
                .position(|(open, taken)| !taken && open.listener.address == listener.address);
            if let Some(stays) = stays {
                taken.iter_mut().skip(stays).take(1).for_each(|taken| *taken = true);
            }
            places.push(stays);
        }
        let going = || self.open.iter().zip(&taken).filter(|(_, taken)| !**taken).map(|(open, _)| open);
        going().for_each(|open| drop(open.door.listening().make_room(true)));
        let mut made = Vec::new();
        for ((listener, entrance), stays) in config.listeners.iter().zip(entrances).zip(places) {
            match stays {
                Some(stays) => made.push(Place::Stays(stays)),
                None => match new(listener, entrance).await {
                    Ok(door) => made.push(Place::New(door)),
                    Err(why) => problems.push(problem(config, listener, &why)),
                },
            }
        }
        going().for_each(|open| drop(open.door.listening().make_room(false)));
        if problems.is_empty() {
            problems = self.permit(config, &made);
        }
        Problems::none_or_all(problems)?;
        Ok(Exchange { places: made })
    }

    /// Permissions of socket files that stay. They are the one thing that is undone where it cannot be done.
    fn permit(&self, config: &Config, places: &[Place]) -> Vec<Problem> {
        let pairs = config.listeners.iter().zip(places).filter_map(|(listener, place)| match place {
            Place::Stays(at) => Some((listener, self.open.get(*at)?)),
            Place::New(_) => None,
        });
        let differ = |(new, open): &(&Listener, &Open)| {
            (new.socket_mode, new.socket_gid) != (open.listener.socket_mode, open.listener.socket_gid)
        };
        let (mut done, mut problems): (Vec<&Open>, _) = (Vec::new(), Vec::new());
        for (new, open) in pairs.filter(differ) {
            match open.door.listening().permit(new.socket_mode.bits(), new.socket_gid) {
                Ok(()) => done.push(open),
                Err(error) => problems.push(problem(config, new, &error.to_string())),
            }
        }
        if !problems.is_empty() {
            for open in done {
                let _ = open.door.listening().permit(open.listener.socket_mode.bits(), open.listener.socket_gid);
            }
        }
        problems
    }

    /// Puts them in force: new ones let in, those that go let in who has knocked and are closed.
    pub(super) async fn exchange(&mut self, config: &Config, entrances: &[Arc<Entrance>], exchange: Exchange) {
        let mut before: Vec<Option<Open>> = std::mem::take(&mut self.open).into_iter().map(Some).collect();
        for ((listener, entrance), place) in config.listeners.iter().zip(entrances).zip(exchange.places) {
            let open = match place {
                Place::New(door) => Some(Open { listener: listener.clone(), door, task: None }),
                Place::Stays(at) => before.get_mut(at).and_then(Option::take).map(|open| {
                    open.door.lead_to(Arc::clone(entrance));
                    Open { listener: listener.clone(), ..open }
                }),
            };
            self.open.extend(open);
        }
        self.serve();
        for gone in before.into_iter().flatten() {
            gone.door.go();
            if let Some(task) = gone.task {
                let _ = task.await; // a door that has panicked is closed too
            }
            tracing::info!(address = gone.door.address, "no longer listening; clients who came by it stay");
            gone.door.close(Arc::clone(&self.shared), Rc::clone(&self.gates)).await;
        }
    }

    /// Closes those that are no Unix sockets.
    pub(super) fn close_tcp(&mut self) {
        self.open.retain(|open| {
            let is_tcp = open.door.is_tcp();
            if let (true, Some(task)) = (is_tcp, &open.task) {
                task.abort();
            }
            !is_tcp
        });
    }

    /// Closes all.
    pub(super) async fn close(self) {
        for open in self.open {
            if let Some(task) = open.task {
                task.abort();
                let _ = task.await; // it is an error that says it was aborted: the door is closed now
            }
        }
    }
}

async fn new(listener: &Listener, entrance: &Arc<Entrance>) -> Result<Door, String> {
    if let Address::Systemd(name) = &listener.address {
        return Err(format!("systemd hands over its sockets (\"{name}\") when the daemon starts, not later"));
    }
    let opened = Door::open(listener, Arc::clone(entrance), &mut Handed::default(), Beside::Ours).await;
    opened.map_err(|error| error.to_string())
}

fn problem(config: &Config, listener: &Listener, why: &str) -> Problem {
    let advice = match listener.address {
        Address::Systemd(_) => "restart the daemon, or write the address itself",
        _ => "write another address, or see who listens there",
    };
    config.written.problem(&format!("listeners[{}].address", listener.address), why, advice)
}
