//! `howdah serve`: the daemon. Wires the parts together, and turns signals into orders.
//!
//! Threads: one worker each for its clients (`proxy/worker.rs`), and this one for everything else: the acceptor, the
//! monitor, the catalogue, HTTP, signals.
//!
//! SIGHUP reloads. The first SIGTERM or SIGINT lets transactions finish, `timeouts.shutdown` at most; the second, and SIGQUIT, end at
//! once. SIGUSR1 pauses everything, SIGUSR2 resumes it; the console's SHUTDOWN comes in by `proxy/orders`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload;

use super::managed::managed;
use crate::admin::Access;
use crate::admin::http::{ClientStates, DaemonFacts, HttpAddress, HttpListener, PoolRow, RoutingRow, Sources, Survey};
use crate::catalog::{HiddenCatalog, Lookup, Monitor, Verifiers, WatchedCluster, WatchedNode};
use crate::cluster::store::LocalStore;
use crate::cluster::{Coordinators, Watch, watch};
use crate::config::{self, Config, LogFormat};
use crate::console::{self, Console};
use crate::net::dial::Dialer;
use crate::net::listen::handed::Handed;
use crate::proxy::accept::Door;
use crate::proxy::client::Standing;
use crate::proxy::orders::OrderError;
use crate::proxy::orders::daemon::{Ask, Change, Shutdown};
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

type LogLevel = reload::Handle<EnvFilter, tracing_subscriber::Registry>;

/// Runs until it is told to stop.
///
/// # Errors
/// When the configuration is wrong or a listener cannot be opened.
pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    // first of all, while nothing else has been opened
    let handed = Handed::at_start().context("could not take over the sockets from systemd")?;
    let config = config::load(&args.config)?;
    let log_level = start_log(&config);
    raise_descriptor_limit(&config);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .context("could not start a runtime")?;
    runtime.block_on(serve(args, config, handed, log_level))
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

fn start_log(config: &Config) -> LogLevel {
    use tracing_subscriber::prelude::*;
    let (filter, handle) = reload::Layer::new(filter(config));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    match config.log.format {
        LogFormat::Text => registry.with(layer.with_ansi(std::io::stderr().is_terminal())).init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).init(),
    }
    handle
}

/// howdah's own words at the configured level; libraries only when something is wrong with them.
fn filter(config: &Config) -> EnvFilter {
    EnvFilter::new(format!("warn,howdah={}", config.log.level.as_str()))
}

async fn serve(args: &ServeArgs, config: Config, mut handed: Handed, log_level: LogLevel) -> anyhow::Result<()> {
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
    let (stop_http, http_stopped) = tokio::sync::oneshot::channel::<()>();

    let (gates, threads) = spawn_workers(&shared, workers)?;
    let mut doors = Vec::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        doors.push(Door::open(listener, index, &mut handed).await?);
    }
    for left in handed.left() {
        tracing::warn!(address = left, "a socket from systemd belongs to no listener, and is closed");
    }
    drop(handed);
    if let Some(address) = http_address(&config) {
        let listener = HttpListener::bind(address).await?;
        tracing::info!(address = %listener.address(), "http listening");
        let serving = listener.serve(sources(&shared, &monitor, &coordinators, &shutting_down), async {
            let _ = http_stopped.await;
        });
        tokio::task::spawn_local(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "http stopped");
            }
        });
    }
    let mut accepting = Vec::new();
    for door in doors {
        tracing::info!(address = door.address, "listening");
        let is_tcp = door.is_tcp();
        accepting.push((is_tcp, tokio::task::spawn_local(door.serve(Arc::clone(&shared), Rc::clone(&gates)))));
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]); // without systemd there is nobody to tell
    tracing::info!(version = env!("CARGO_PKG_VERSION"), workers, config = %args.config.display(), "started");

    let mut signals = Signals::new()?;
    let mut asks = shared.orders.asks().context("somebody else carries out orders")?;
    let reload = |change| reload(args, &shared, &monitor, &coordinators, &dialer, &log_level, change);
    let ending = signals.until_shutdown(&shared, &mut asks, &reload).await;
    let mut now = ending == Ending::Now;
    if ending == Ending::Wait {
        let clients = shared.census.clients();
        tracing::info!(clients, "shutting down: TCP listeners are closed, and the rest is waited for");
        accepting.retain(|(is_tcp, door)| {
            if *is_tcp {
                door.abort();
            }
            !is_tcp
        });
        now = true; // whatever it was that was waited for
        while !shared.orders.may_end(&shared) {
            let again = tokio::select! {
                () = tokio::time::sleep(LOOK_AGAIN) => None,
                ending = signals.until_shutdown(&shared, &mut asks, &reload) => Some(ending),
            };
            if again.is_some_and(|ending| ending != Ending::Wait) {
                break;
            }
        }
    }
    drop(asks);

    shutting_down.store(true, Ordering::Release);
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let patience = shared.running().config.timeouts.shutdown.limit();
    tracing::info!(clients = shared.census.clients(), "shutting down: transactions finish, nobody comes in");
    for (_, door) in accepting {
        door.abort();
        let _ = door.await; // it is an error that says it was aborted: the door is closed now
    }
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
    let _ = stop_http.send(());
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

/// Reads the file again and applies it, or the change of what is in force; or says why not and changes nothing.
fn reload(
    args: &ServeArgs,
    shared: &Arc<Shared>,
    monitor: &Arc<Watch>,
    coordinators: &Arc<Coordinators>,
    dialer: &Arc<Dialer>,
    log_level: &LogLevel,
    change: Option<Change>,
) -> Result<(), String> {
    let reloading = sd_notify::NotifyState::monotonic_usec_now().map(|now| [sd_notify::NotifyState::Reloading, now]);
    let _ = reloading.and_then(|reloading| sd_notify::notify(&reloading)); // Type=notify-reload wants the time as well
    let before = shared.running();
    let loaded = match change {
        None => config::load(&args.config).map_err(anyhow::Error::from),
        Some(change) => {
            let mut config = before.config.clone();
            change(&mut config).map(|()| config).map_err(anyhow::Error::msg)
        }
    };
    let prepared = loaded.and_then(|mut config| {
        let changes = config::compare(&before.config, &config);
        config::keep_bound(&before.config, &mut config);
        let managed = managed(&config)?;
        Ok((changes, managed, Running::new(config, dialer)?))
    });
    let outcome = match prepared {
        Ok((changes, managed, running)) => {
            for change in changes {
                tracing::warn!(%change, "reload: takes effect at the next start");
            }
            let _ = log_level.reload(filter(&running.config)); // fails only once the subscriber is gone
            dialer.reload(&running.config.network);
            let clusters = watched(&running);
            shared.catalog.replace(clusters.clone(), lookup(&running.config));
            shared.hidden.replace(clusters.clone());
            monitor.replace(clusters);
            let coordinators = Arc::clone(coordinators);
            tokio::spawn(async move {
                if let Err(error) = coordinators.replace(managed).await {
                    tracing::error!(%error, "a coordinator could not take over");
                }
            });
            shared.reload(running);
            tracing::info!(config = %args.config.display(), "reloaded");
            Ok(())
        }
        Err(problems) => {
            shared.incidents.reloaded(false);
            tracing::error!(config = %args.config.display(), "reload refused, nothing has changed:\n{problems:#}");
            Err(format!("{problems:#}"))
        }
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    outcome
}

fn watched(running: &Running) -> Vec<WatchedCluster> {
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

fn lookup(config: &Config) -> Lookup {
    let auth = &config.auth;
    Lookup {
        query: auth.query.clone(),
        dbname: auth.dbname.clone(),
        groups: auth.hba.as_ref().is_some_and(|hba| hba.asks_for_groups()),
    }
}

fn http_address(config: &Config) -> Option<HttpAddress> {
    match &config.http.address {
        config::HttpAddress::Off => None,
        config::HttpAddress::Unix(path) => Some(HttpAddress::Unix(path.clone())),
        tcp @ config::HttpAddress::Tcp { .. } => Some(HttpAddress::Tcp(tcp.to_string())),
    }
}

fn sources(
    shared: &Arc<Shared>,
    monitor: &Arc<Watch>,
    coordinators: &Arc<Coordinators>,
    shutting_down: &Arc<AtomicBool>,
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
        daemon: Arc::new(move || DaemonFacts {
            uptime_us: described.now_us(),
            workers: described.workers,
            generation: described.generation(),
            clients_max: described.running().config.limits.max_client_connections,
            reloads: described.incidents.reloads(),
            cancels: described.incidents.cancels(),
            server_logins: described.incidents.server_logins(),
        }),
        daemon: Arc::new(move || facts(&described)),
        survey: Some(Arc::new(Survey::new(
            Arc::clone(&shared.board),
            move || reloaded.generation(),
            move || {
                let running = asked_about.running();
                (watched(&running), Arc::clone(&running.config.stats.queries))
            },
        ))),
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

    /// Reloads, pauses and goes on as it is told to, until it is time to stop.
    async fn until_shutdown(
        &mut self,
        shared: &Shared,
        asks: &mut mpsc::UnboundedReceiver<Ask>,
        reload: impl Fn(Option<Change>) -> Result<(), String>,
    ) -> Ending {
        let told = |what: &str, done: Result<(), OrderError>| {
            if let Err(error) = done {
                tracing::warn!(%error, "{what}");
            }
        };
        loop {
            tokio::select! {
                _ = self.hangup.recv() => drop(reload(None)),
                _ = self.pause.recv() => told("SIGUSR1", shared.orders.pause_now(shared)),
                _ = self.resume.recv() => told("SIGUSR2", shared.orders.resume(shared, None)),
                _ = self.terminate.recv() => return Ending::Drain,
                _ = self.interrupt.recv() => return Ending::Drain,
                _ = self.quit.recv() => return Ending::Now,
                Some(ask) = asks.recv() => match ask {
                    Ask::Reload(answer) => {
                        let _ = answer.send(reload(None).is_ok());
                    }
                    Ask::Change(change, answer) => {
                        let _ = answer.send(reload(Some(change)));
                    }
                    Ask::Shutdown(Shutdown::Immediate) => return Ending::Now,
                    Ask::Shutdown(Shutdown::WaitForServers | Shutdown::WaitForClients) => return Ending::Wait,
                },
            }
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
