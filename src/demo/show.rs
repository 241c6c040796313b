//! The demo from its first line to its last: make, serve, load, watch, tear down.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio_postgres::Config;

use super::DemoError;
use super::agent::Agent;
use super::chaos::Chaos;
use super::endpoint::Endpoint;
use super::flow::Flow;
use super::postgres::{LocalCluster, LocalError, Node, query};
use super::screen::{Frame, Screen, grouped, milliseconds};
use super::status::{self, Status};
use super::stop::Stop;
use super::workload::{ACCOUNTS, SCHEMA, Tally, Workload};

/// Until the endpoint answers a statement.
const READY_BOUND: Duration = Duration::from_secs(30);
/// Until it also says so itself; a statement that was answered is good enough after that.
const READYZ_BOUND: Duration = Duration::from_secs(10);
/// Until the standbys have what was made for the workload.
const STREAMING_BOUND: Duration = Duration::from_secs(30);
/// Between two frames.
const PERIOD: Duration = Duration::from_secs(1);

/// What the demo shall be like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Ends by itself after this time with the workload; `None` waits for Ctrl-C.
    pub duration: Option<Duration>,
    /// How many standbys.
    pub standbys: u8,
    /// How many clients the workload has.
    pub clients: u16,
    /// How long the last standby waits before it replays what it has received.
    pub replay_delay: Option<Duration>,
    /// The workload goes to the primary directly and no endpoint is started: what PostgreSQL alone does.
    pub direct: bool,
    /// The primary is killed so often.
    pub chaos: Option<Duration>,
}

/// Passwords of this one demo.
struct Secrets {
    superuser: String,
    monitor: String,
    app: String,
}

impl Secrets {
    fn new() -> Self {
        let secret = || format!("{:016x}", rand::random::<u64>());
        Self { superuser: secret(), monitor: secret(), app: secret() }
    }
}

/// Runs the demo to its end: `--for`, Ctrl-C, SIGTERM or a failure. Nothing is left of it then.
///
/// # Errors
/// When a part fails; the text holds the end of that part's log. Ctrl-C is no error.
pub fn run(options: &Options) -> Result<(), DemoError> {
    let begun = Instant::now();
    let mut screen = Screen::stdout();
    let stop = Stop::on_signals().map_err(|source| DemoError::Io { what: "listen for signals", source })?;
    let shown = show(options, begun, &stop, &mut screen); // everything it made is gone when it returns
    let result = match shown {
        Err(DemoError::Local(LocalError::Interrupted)) => Ok(()),
        Err(DemoError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        Err(DemoError::Local(error @ (LocalError::NoPostgres { .. } | LocalError::NoUser))) => return Err(error.into()),
        other => other,
    };
    let _ = screen.say(&step(begun, "everything is stopped and removed"));
    result
}

fn step(begun: Instant, text: &str) -> String {
    format!("{:>6.1} s  {text}", begun.elapsed().as_secs_f64())
}

fn show(options: &Options, begun: Instant, stop: &Stop, screen: &mut Screen) -> Result<(), DemoError> {
    let secrets = Secrets::new();
    let mut builder = LocalCluster::builder()
        .prefix("howdah-demo")
        .superuser("postgres", &secrets.superuser)
        .slots("howdah_")
        .setting("max_connections", "200")
        .interrupt(stop.flag())
        .progress(move |text| {
            let _ = Screen::stdout().say(&step(begun, text));
        });
    for name in ('b'..='z').take(usize::from(options.standbys)) {
        builder = builder.standby(&name.to_string());
    }
    let cluster = builder.start()?;
    screen.say(&step(begun, "roles \"howdah\" and \"app\", database \"app\""))?;
    populate(cluster.primary(), &secrets)?;
    cluster.wait_streaming(STREAMING_BOUND)?; // a session that has seen nothing yet may read anywhere

    let agents = if options.direct { Vec::new() } else { agents(&cluster, begun, screen)? };
    let endpoint = match options.direct {
        true => None,
        false => {
            let chaos = options.chaos.is_some();
            let endpoint = Endpoint::start(&cluster, &agents, "howdah", &secrets.monitor, chaos)?;
            let (listener, http) = (endpoint.listener(), endpoint.http());
            screen.say(&step(begun, &format!("start of howdah on {listener}, HTTP API on {http}")))?;
            wait_ready(&endpoint, &app(listener, &secrets.app), stop)?;
            Some(endpoint)
        }
    };
    if let (Some(delay), Some(last)) = (options.replay_delay, cluster.nodes().iter().skip(1).last()) {
        screen.say(&step(
            begun,
            &format!("standby \"{}\" is told to stay {} ms behind", last.name(), delay.as_millis()),
        ))?;
        last.set("recovery_min_apply_delay", &format!("{}ms", delay.as_millis()))?;
    }
    let primary = SocketAddr::from(([127, 0, 0, 1], cluster.primary().port()));
    let target = endpoint.as_ref().map_or(primary, Endpoint::listener);
    let hints = || hints(target, &secrets.app, &cluster);
    screen.say(&step(begun, &format!("ready; {} clients begin\n", options.clients)))?;
    if !screen.is_terminal() {
        screen.say(&hints().iter().map(|hint| format!("  {hint}\n")).collect::<String>())?;
    }
    let workload = Workload::start(&app(target, &secrets.app), options.clients)
        .map_err(|source| DemoError::Io { what: "start the workload", source })?;
    let mut chaos = match (options.chaos, &endpoint) {
        (Some(every), Some(_)) => Some(Chaos::start(cluster.primary(), &app(target, &secrets.app), every)?),
        _ => None,
    };
    let started = Instant::now();
    let view = View { endpoint: endpoint.as_ref(), workload: &workload, hints: &hints, cluster: &cluster };
    let watched = watch(options, &view, chaos.as_mut(), stop, screen);
    let took = started.elapsed();
    let tally = workload.finish();
    watched?;
    screen.say(&format!("\n{}", summary(&tally, took)))?;
    if let Some(chaos) = chaos {
        let status = endpoint.as_ref().and_then(|endpoint| status::fetch(endpoint.http()).ok());
        screen.say(&chaos.finish(&cluster, status.as_ref()))?;
    }
    match (tally.total.count(), tally.last_error) {
        (0, Some(error)) if !stop.is_raised() => Err(DemoError::NoTransaction { error }),
        (_, _) => Ok(()),
    }
}

/// An agent beside each node.
fn agents(cluster: &LocalCluster, begun: Instant, screen: &mut Screen) -> Result<Vec<Agent>, DemoError> {
    let program =
        std::env::current_exe().map_err(|source| DemoError::Io { what: "find the howdah program", source })?;
    let start = |node| Agent::start(node, "main", &program, "");
    let agents = cluster.nodes().iter().map(start).collect::<Result<Vec<_>, _>>()?;
    for agent in &agents {
        screen.say(&step(begun, &format!("start of the agent of \"{}\" on {}", agent.node(), agent.address())))?;
        agent.wait_ready()?;
    }
    Ok(agents)
}

/// What is watched.
struct View<'a> {
    endpoint: Option<&'a Endpoint>,
    workload: &'a Workload,
    hints: &'a dyn Fn() -> Vec<String>,
    cluster: &'a LocalCluster,
}

/// Draws until the time is over or the end is asked for.
fn watch(
    options: &Options,
    view: &View<'_>,
    mut chaos: Option<&mut Chaos>,
    stop: &Stop,
    screen: &mut Screen,
) -> Result<(), DemoError> {
    let View { endpoint, workload, hints, cluster } = *view;
    let started = Instant::now();
    let end = options.duration.map(|duration| started + duration);
    let mut last = started;
    let mut before = endpoint.and_then(|endpoint| Some((started, status::fetch(endpoint.http()).ok()?)));
    loop {
        let next = last + PERIOD;
        let stopped = stop.wait_until(end.map_or(next, |end| end.min(next)));
        if let Some(endpoint) = endpoint {
            endpoint.check()?;
        }
        let now = Instant::now();
        let status = match endpoint {
            Some(endpoint) => status::fetch(endpoint.http())
                .map_err(|error| format!("http://{}/status does not answer: {error}", endpoint.http())),
            None => Err("directly to the primary, no endpoint".to_owned()),
        };
        let flow = status.as_ref().map(|status| flow(before.as_ref(), now, status)).unwrap_or_default();
        if let (Some(chaos), Ok(status)) = (chaos.as_deref_mut(), &status)
            && let Some(line) = chaos.go_on(status, cluster)
        {
            screen.say(&step(started, &line))?;
        }
        let hints = if screen.is_terminal() { hints() } else { Vec::new() };
        let frame = Frame {
            elapsed: now - started,
            period: now - last,
            tally: &workload.take_period(),
            status: status.as_ref().map_err(String::as_str),
            flow: &flow,
            hints: &hints,
        };
        if !stopped {
            screen.draw(&frame)?;
        }
        if stopped || end.is_some_and(|end| now >= end) {
            return Ok(());
        }
        last = now;
        before = status.ok().map(|status| (now, status)).or(before);
    }
}

/// What went where since the last answer of the endpoint.
fn flow(before: Option<&(Instant, Status)>, now: Instant, status: &Status) -> Flow {
    let since = before.map_or(PERIOD, |(at, _)| now - *at);
    Flow::between(before.map(|(_, before)| before), status, u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Roles, database and table, as a person would make them.
fn populate(primary: &Node, secrets: &Secrets) -> Result<(), DemoError> {
    let Secrets { monitor, app, .. } = secrets;
    primary.sql(&format!("CREATE ROLE howdah LOGIN SUPERUSER PASSWORD '{monitor}'"))?; // it reads pg_authid
    primary.sql(&format!("CREATE ROLE app LOGIN PASSWORD '{app}'"))?;
    primary.sql("CREATE DATABASE app OWNER app")?;
    let rows = format!("INSERT INTO accounts (id) SELECT generate_series(1, {ACCOUNTS})");
    primary.sql_in("app", &format!("SET ROLE app; {SCHEMA}; {rows}"))?;
    primary.sql_in("app", "VACUUM ANALYZE accounts")?;
    Ok(())
}

fn app(address: SocketAddr, password: &str) -> Config {
    let mut config = Config::new();
    config.host(address.ip().to_string()).port(address.port()).user("app").password(password).dbname("app");
    config.application_name("howdah demo").connect_timeout(Duration::from_secs(5));
    config
}

fn wait_ready(endpoint: &Endpoint, target: &Config, stop: &Stop) -> Result<(), DemoError> {
    let begun = Instant::now();
    loop {
        endpoint.check()?;
        let why = match query::run(target, "SELECT 1") {
            Ok(_) => match status::http_get(endpoint.http(), "/readyz") {
                Ok((200, _)) if reads_go_everywhere(endpoint) => return Ok(()),
                _ if begun.elapsed() > READYZ_BOUND => return Ok(()),
                Ok((code, body)) => format!("GET /readyz answers {code}: {body}"),
                Err(error) => format!("GET /readyz: {error}"),
            },
            Err((_, message)) => message,
        };
        if begun.elapsed() > READY_BOUND {
            return Err(endpoint.error(&format!("is not ready after {READY_BOUND:?}: {why}")));
        }
        if stop.wait(Duration::from_millis(50)) {
            return Err(LocalError::Interrupted.into());
        }
    }
}

/// Whether every standby may be read from: a session that comes earlier would stay with the first that may.
fn reads_go_everywhere(endpoint: &Endpoint) -> bool {
    let status = status::fetch(endpoint.http()).unwrap_or_default();
    let mut nodes = status.clusters.iter().flat_map(|cluster| &cluster.nodes);
    nodes.all(|node| node.replica || node.role.as_deref() == Some("primary"))
}

fn hints(target: SocketAddr, password: &str, cluster: &LocalCluster) -> Vec<String> {
    let nodes = cluster.nodes().iter().map(|node| {
        let pid = node.postmaster_pid().map(|pid| pid.as_raw_pid().to_string()).unwrap_or_default();
        format!("{} port {} pid {pid}", node.name(), node.port())
    });
    vec![
        format!("try    psql postgres://app:{password}@{target}/app"),
        format!("nodes  {}", nodes.collect::<Vec<_>>().join(", ")),
        format!("files  {}", cluster.directory().display()),
        "Ctrl-C stops and removes all of it".to_owned(),
    ]
}

fn summary(tally: &Tally, took: Duration) -> String {
    let count = tally.total.count();
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
    let mut text = format!(
        "{} transactions in {:.1} s ({} tx/s), p50 {}, p99 {}, max {}, {} errors",
        grouped(count),
        took.as_secs_f64(),
        grouped(count.saturating_mul(1000) / took_ms),
        milliseconds(tally.total.percentile(50)),
        milliseconds(tally.total.percentile(99)),
        milliseconds(tally.total.max()),
        grouped(tally.errors),
    );
    if let Some(error) = &tally.last_error {
        text.push_str(&format!("; the last: {error}"));
    }
    let (own, stale) = (grouped(tally.own), grouped(tally.stale));
    text.push_str(&format!("\n{own} rows looked for right after they were written: {stale} stale"));
    text
}
