//! `howdah serve`: the daemon. Wires the parts together, and turns signals into orders.
//!
//! Threads: one worker each for its clients (`proxy/worker.rs`), and this one for everything else: the acceptor, the
//! monitor, the catalogue, HTTP, signals.
//!
//! SIGHUP reloads. The first SIGTERM or SIGINT lets transactions finish, `timeouts.shutdown` at most; the second, and SIGQUIT, end at
//! once. SIGUSR1 pauses everything, SIGUSR2 resumes it; the console's SHUTDOWN comes in by `proxy/orders`.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::check::certificates::dates;
use super::doors::Doors;
use super::logs::Logs;
use super::managed::managed;
use super::reload::Daemon;
use super::window::Window;
use crate::admin::Access;
use crate::admin::http::{ClientStates, DaemonFacts, PoolRow, RoutingRow, Sources, Survey};
use crate::catalog::{HiddenCatalog, Lookup, Monitor, Verifiers, WatchedCluster, WatchedNode};
use crate::cluster::store::LocalStore;
use crate::cluster::{Coordinators, Watch, watch};
use crate::config::reload::order::{Order, Reloads};
use crate::config::{self, Config};
use crate::console::{self, Console};
use crate::net::dial::Dialer;
use crate::net::listen::handed::Handed;
use crate::proxy::client::Standing;
use crate::proxy::orders::OrderError;
use crate::proxy::orders::daemon::{Ask, Shutdown};
use crate::proxy::pause;
use crate::proxy::route::counters::Event;
use crate::proxy::route::explain::explain;
use crate::proxy::shared::{Running, Shared};
use crate::proxy::tally::period;
use crate::proxy::worker::{Worker, WorkerGate};
use crate::sql::class::Reason;
use crate::topology::Board;

/// Where the configuration is looked for.
pub const DEFAULT_CONFIG: &str = "/etc/howdah/howdah.toml";

/// How often a shutdown looks whether everybody has gone.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The daemon: endpoint, pools, monitor, HTTP.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}

/// Runs until it is told to stop.
///
/// # Errors
/// When the configuration is wrong or a listener cannot be opened.
pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    // first of all, while nothing else has been opened
    let handed = Handed::at_start().context("could not take over the sockets from systemd")?;
    let config = config::load(&args.config)?;
    let logs = Logs::start(&config.log);
    let (over, soon) = dates(&config);
    for warning in over.iter().chain(&soon) {
        tracing::warn!("{warning}");
    }
    raise_descriptor_limit(&config);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .context("could not start a runtime")?;
    runtime.block_on(serve(args, config, handed, logs))
}

/// Each client takes a descriptor: the soft limit is a default for programs that still use `select()`.
fn raise_descriptor_limit(config: &Config) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let raised = setrlimit(Resource::Nofile, limit);
    let clients = u64::from(config.limits.max_client_connections);
    if let (Ok(()), Some(max)) = (raised, limit.maximum)
        && max < clients.saturating_add(1_000)
    {
        tracing::warn!(
            descriptors = max,
            clients,
            "the limit of open files is low for max_client_connections (ulimit -n)"
        );
    }
}

async fn serve(args: &ServeArgs, config: Config, mut handed: Handed, logs: Logs) -> anyhow::Result<()> {
    let dialer = Dialer::new(&config.network);
    let running = Running::new(config, &dialer).context("the configuration cannot be used")?;
    let config = running.config.clone();
    let board = Arc::new(Board::new());
    let clusters = watched(&running);
    let catalog = Verifiers::start(clusters.clone(), lookup(&config), Arc::clone(&board));
    let hidden = HiddenCatalog::start(clusters.clone(), Arc::clone(&board));
    let workers = config.limits.workers.count();
    let shared = Arc::new(Shared::new(running, Arc::clone(&board), catalog, hidden, workers));
    let monitor = Arc::new(watch(clusters, Arc::clone(&board)));
    tokio::spawn(period::watch(Arc::clone(&shared)));
    tokio::spawn(pause::watch(Arc::clone(&shared))); // once: two would open each other's gates
    let store = Arc::new(LocalStore::at(&config.store.path));
    let coordinators = Coordinators::start(store, managed(&config)?, Arc::clone(&board), Arc::clone(&monitor));
    let coordinators = coordinators.await.context("a coordinator could not take over")?;
    let shutting_down = Arc::new(AtomicBool::new(false));
    let console = Console::new(console::Sources {
        control: Some(Arc::new(Arc::clone(&coordinators))),
        config: args.config.clone(),
        shutting_down: Arc::clone(&shutting_down),
    });
    let _ = shared.door.set(Arc::new(console)); // the first and only time

    let (gates, threads) = spawn_workers(&shared, workers)?;
    let mut doors = Doors::open(&shared.running(), &mut handed, &shared, &gates).await?;
    for left in handed.left() {
        tracing::warn!(address = left, "a socket from systemd belongs to no listener, and is closed");
    }
    drop(handed);
    let (reloads, orders) = Reloads::channel();
    let window = {
        let parts =
            (Arc::clone(&shared), Arc::clone(&monitor), Arc::clone(&coordinators), Arc::clone(&shutting_down), reloads);
        Arc::new(move || sources(&parts.0, &parts.1, &parts.2, &parts.3, &parts.4))
    };
    let window = Window::open(&config, window).await?;
    doors.serve();
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]); // without systemd there is nobody to tell
    tracing::info!(version = env!("CARGO_PKG_VERSION"), workers, config = %args.config.display(), "started");

    let mut signals = Signals::new()?;
    let mut heard = Heard { asks: shared.orders.asks().context("somebody else carries out orders")?, orders };
    let mut daemon = Daemon {
        path: args.config.clone(),
        shared: Arc::clone(&shared),
        monitor: Arc::clone(&monitor),
        coordinators,
        dialer,
        logs,
        doors,
        window,
    };
    let ending = loop {
        let event = signals.next(&mut heard).await;
        if let Some(ending) = heed(event, &mut daemon).await {
            break ending;
        }
    };
    let mut now = ending == Ending::Now;
    if ending == Ending::Wait {
        let clients = shared.census.clients();
        tracing::info!(clients, "shutting down: TCP listeners are closed, and the rest is waited for");
        daemon.doors.close_tcp();
        now = true; // whatever it was that was waited for
        while !shared.orders.may_end(&shared) {
            let event = tokio::select! {
                () = tokio::time::sleep(LOOK_AGAIN) => continue,
                event = signals.next(&mut heard) => event,
            };
            let ending = match event {
                // what is closed would be opened again
                Wish::Reload(_) => None,
                Wish::Ask(Ask::Reload(_) | Ask::Change(..)) => None,
                event => heed(event, &mut daemon).await,
            };
            if ending.is_some_and(|ending| ending != Ending::Wait) {
                break;
            }
        }
    }
    drop(heard); // who asks for something now is told that nobody hears it
    let Daemon { doors, mut window, .. } = daemon;

    shutting_down.store(true, Ordering::Release);
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let patience = shared.running().config.timeouts.shutdown.limit();
    tracing::info!(clients = shared.census.clients(), "shutting down: transactions finish, nobody comes in");
    doors.close().await;
    if !now {
        gates.iter().for_each(WorkerGate::drain);
    }
    let waiting = Instant::now();
    let deadline = patience.map(|patience| waiting + patience);
    while !now && gates.iter().any(|gate| gate.load() > 0) {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            tracing::warn!(clients = shared.census.clients(), "shutdown: not everybody finished in time");
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            () = signals.again() => {
                tracing::warn!(clients = shared.census.clients(), "shutdown: now");
                break;
            }
        }
    }
    gates.iter().for_each(WorkerGate::stop);
    for thread in threads {
        while !thread.is_finished() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
    window.close();
    monitor.stop().await;
    tracing::info!("stopped");
    Ok(())
}

#[allow(clippy::type_complexity)] // gates and threads of the same workers
fn spawn_workers(
    shared: &Arc<Shared>,
    workers: usize,
) -> anyhow::Result<(Rc<Vec<WorkerGate>>, Vec<std::thread::JoinHandle<()>>)> {
    let spawned = (0..workers).map(|id| Worker::spawn(id, Arc::clone(shared)));
    let spawned = spawned.collect::<std::io::Result<Vec<_>>>().context("could not start a worker")?;
    let (gates, threads) = spawned.into_iter().unzip();
    Ok((Rc::new(gates), threads))
}

pub(super) fn watched(running: &Running) -> Vec<WatchedCluster> {
    let clusters = running.config.clusters.iter().map(|(name, cluster)| {
        let nodes = cluster.nodes.iter().filter_map(|node| {
            Some(WatchedNode { name: node.name.as_str().into(), way: running.way(name, &node.name)? })
        });
        WatchedCluster {
            name: name.as_str().into(),
            nodes: nodes.collect(),
            monitor: cluster.monitor.as_ref().map(|entry| Monitor {
                user: entry.user.clone(),
                password: entry.resolved_password.clone(),
                dbname: entry.dbname.clone(),
                interval: entry.interval.get(),
                lag_interval: entry.lag_interval.get(),
                timeout: entry.timeout.get(),
                failure_threshold: entry.failure_threshold,
            }),
            max_lag: cluster.max_lag.bytes(),
        }
    });
    clusters.collect()
}

pub(super) fn lookup(config: &Config) -> Lookup {
    let auth = &config.auth;
    Lookup {
        query: auth.query.clone(),
        dbname: auth.dbname.clone(),
        groups: auth.hba.as_ref().is_some_and(|hba| hba.asks_for_groups()),
    }
}

fn sources(
    shared: &Arc<Shared>,
    monitor: &Arc<Watch>,
    coordinators: &Arc<Coordinators>,
    shutting_down: &Arc<AtomicBool>,
    reloads: &Reloads,
) -> Sources {
    let (pools, clients, catalog) = (Arc::clone(shared), Arc::clone(shared), Arc::clone(&shared.catalog));
    let hidden = Arc::clone(&shared.hidden);
    let addresses = Arc::clone(monitor);
    let (homes, counted, panicked, asked, guarded) =
        (Arc::clone(shared), Arc::clone(shared), Arc::clone(shared), Arc::clone(shared), Arc::clone(shared));
    let (tallied, followed, described) = (Arc::clone(shared), Arc::clone(shared), Arc::clone(shared));
    let (reloaded, asked_about) = (Arc::clone(shared), Arc::clone(shared));
    let rows = move || {
        let row = |pool: &Arc<crate::proxy::pool::Pool>| {
            let counts = pool.counts();
            let now_us = pools.now_us();
            PoolRow {
                cluster: pool.key.cluster.to_string(),
                node: pool.key.node.to_string(),
                database: pool.key.database.to_string(),
                user: pool.key.user.to_string(),
                size: pool.size().into(),
                open: counts.open.into(),
                idle: counts.idle.into(),
                in_use: counts.open.saturating_sub(counts.idle).into(),
                waiting: counts.waiting.into(),
                oldest_wait_us: pool.oldest_us().map_or(0, |since| now_us.saturating_sub(since)),
                transactions: pool.transactions(),
                pinned: pool.pinned().collect(),
            }
        };
        pools.pools.all().iter().map(row).collect()
    };
    Sources {
        board: Arc::clone(&shared.board),
        pools: Arc::new(rows),
        clients: Arc::new(move || usize::try_from(clients.census.clients()).unwrap_or(usize::MAX)),
        shutting_down: Arc::clone(shutting_down),
        extra_missing: Arc::new(move || [catalog.missing(), hidden.missing()].concat()),
        address: Arc::new(move |cluster, node| addresses.address(cluster, node)),
        sessions: Arc::new(move |cluster, node| homes.standbys(cluster).sessions(node).load(Ordering::Relaxed)),
        routing: Arc::new(move || routing(&counted)),
        panics: Arc::new(move || panicked.panics()),
        statistics: Arc::new(move || tallied.statistics()),
        statements: Arc::new(move || followed.statements()),
        daemon: Arc::new(move || facts(&described)),
        survey: Some(Arc::new(Survey::new(
            Arc::clone(&shared.board),
            move || reloaded.generation(),
            move || {
                let running = asked_about.running();
                (watched(&running), Arc::clone(&running.config.stats.queries))
            },
        ))),
        reloads: Some(reloads.clone()),
        control: Some(Arc::new(Arc::clone(coordinators))),
        explain: Arc::new(move |question| {
            let shared = Arc::clone(&asked);
            Box::pin(async move { explain(&shared, &question).await })
        }),
        access: Arc::new(move || Access::of(&guarded.running().config.http)),
        ..Sources::of(Arc::clone(&shared.board))
    }
}

/// For metrics.
fn facts(shared: &Shared) -> DaemonFacts {
    let (mut clients, mut prepared) = (ClientStates::default(), 0);
    for client in shared.roster.clients() {
        prepared += u64::from(client.prepared());
        match client.standing() {
            Standing::Idle => clients.idle += 1,
            Standing::Waiting => clients.waiting += 1,
            Standing::Working(_) => clients.working += 1,
        }
    }
    DaemonFacts {
        uptime_us: shared.now_us(),
        workers: shared.workers,
        generation: shared.generation(),
        clients_max: shared.running().config.limits.max_client_connections,
        clients,
        prepared,
        reloads: shared.incidents.reloads(),
        cancels: shared.incidents.cancels(),
        server_logins: shared.incidents.server_logins(),
    }
}

/// The counters of all workers, added up.
fn routing(shared: &Shared) -> RoutingRow {
    let events = Event::ALL.map(|(event, name)| {
        let count = shared.counters.iter().map(|counters| counters.events(event)).sum();
        (name, count)
    });
    let reasons = Reason::ALL.iter().map(|reason| {
        let count = shared.counters.iter().map(|counters| counters.reasons(reason.index())).sum::<u64>();
        (reason.label(), count)
    });
    RoutingRow { events: events.into_iter().collect(), reasons: reasons.filter(|(_, count)| *count > 0).collect() }
}

/// What the operator says by signals.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    pause: Signal,
    resume: Signal,
}

/// How it is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Transactions finish, clients are told.
    Drain,
    /// At once.
    Now,
    /// When the orders say so.
    Wait,
}

/// What is heard beside signals.
struct Heard {
    asks: mpsc::UnboundedReceiver<Ask>,
    orders: mpsc::Receiver<Order>,
}

/// What somebody wants.
enum Wish {
    /// SIGHUP, or somebody who waits for the answer.
    Reload(Option<Order>),
    Pause,
    Resume,
    Ask(Ask),
    End(Ending),
}

/// Does what is wanted; how it is to end, if it is.
async fn heed(wish: Wish, daemon: &mut Daemon) -> Option<Ending> {
    let told = |what: &str, done: Result<(), OrderError>| {
        if let Err(error) = done {
            tracing::warn!(%error, "{what}");
        }
    };
    let shared = &daemon.shared;
    match wish {
        Wish::Reload(None) => drop(daemon.reload("SIGHUP", None).await),
        Wish::Reload(Some(order)) => daemon.carry_out(order).await,
        Wish::Pause => told("SIGUSR1", shared.orders.pause_now(shared)),
        Wish::Resume => told("SIGUSR2", shared.orders.resume(shared, None)),
        Wish::Ask(Ask::Reload(answer)) => {
            let _ = answer.send(daemon.reload("RELOAD", None).await.is_ok()); // may have gone
        }
        Wish::Ask(Ask::Change(change, answer)) => {
            let outcome = daemon.reload("SET", Some(change)).await;
            let _ = answer.send(outcome.map(drop).map_err(|error| error.to_string()));
        }
        Wish::Ask(Ask::Shutdown(Shutdown::Immediate)) => return Some(Ending::Now),
        Wish::Ask(Ask::Shutdown(Shutdown::WaitForServers | Shutdown::WaitForClients)) => return Some(Ending::Wait),
        Wish::End(ending) => return Some(ending),
    }
    None
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("could not listen for signals");
        Ok(Self {
            hangup: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            pause: listen(SignalKind::user_defined1())?,
            resume: listen(SignalKind::user_defined2())?,
        })
    }

    /// The next thing that is wanted. Nothing is lost when it is not waited for any longer.
    async fn next(&mut self, heard: &mut Heard) -> Wish {
        tokio::select! {
            _ = self.hangup.recv() => Wish::Reload(None),
            _ = self.pause.recv() => Wish::Pause,
            _ = self.resume.recv() => Wish::Resume,
            _ = self.terminate.recv() => Wish::End(Ending::Drain),
            _ = self.interrupt.recv() => Wish::End(Ending::Drain),
            _ = self.quit.recv() => Wish::End(Ending::Now),
            Some(order) = heard.orders.recv() => Wish::Reload(Some(order)),
            Some(ask) = heard.asks.recv() => Wish::Ask(ask),
        }
    }

    /// Somebody insists.
    async fn again(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}
