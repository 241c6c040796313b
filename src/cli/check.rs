//! `howdah check`: what is wrong with a configuration, all of it at once.
//!
//! Its exit code: 0 the file is right (there may be warnings), 1 it is not, 2 the command line is wrong.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::managed::managed;
use crate::admin::reload::ProblemRow;
use crate::config::{self, Config, Problem, Problems, VERSION};
use crate::net::dial::Dialer;
use crate::net::tls::{read_certificates, validity};
use crate::proxy::shared::Running;

/// An expiry that is nearer than this is told.
const SOON_S: i64 = 14 * 24 * 3600;

/// Reads a configuration as `serve` would, certificates included, and says what is wrong with it.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", default_value = super::serve::DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// For scripts: one JSON object with all problems and warnings.
    #[arg(long)]
    pub json: bool,
}

/// Runs it.
///
/// # Errors
/// Every problem of the file, each with line and column.
pub fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let (problems, warnings) = match config::load(&args.config) {
        Ok(config) => examine(config),
        Err(problems) => (problems.into_vec(), Vec::new()),
    };
    if args.json {
        let rows = |problems: &[Problem]| problems.iter().map(ProblemRow::from).collect::<Vec<_>>();
        let answer = json!({
            "file": args.config.display().to_string(),
            "ok": problems.is_empty(),
            "version": VERSION,
            "problems": rows(&problems),
            "warnings": rows(&warnings),
        });
        let _ = writeln!(std::io::stdout(), "{answer}"); // nobody reads it: the exit code says it too
    } else {
        for warning in &warnings {
            eprintln!("warning: {warning}");
        }
        if problems.is_empty() {
            let count = warnings.len();
            let told = if count == 0 { String::new() } else { format!(", {count} warnings") };
            println!("{}: ok{told}", args.config.display());
        }
    }
    Problems::none_or_all(problems)?;
    Ok(())
}

/// What reading the file alone does not show: certificates and their keys.
fn examine(config: Config) -> (Vec<Problem>, Vec<Problem>) {
    let mut warnings = config.written.warnings.clone();
    let (mut problems, expired) = dates(&config);
    warnings.extend(expired);
    if let Err(more) = managed(&config) {
        problems.extend(more.into_vec());
    }
    let dialer = Dialer::new(&config.network);
    if let Err(more) = Running::new(config, &dialer) {
        problems.extend(more.into_vec());
    }
    (problems, warnings)
}

/// Certificates whose time is over, and those whose time will be over soon.
fn dates(config: &Config) -> (Vec<Problem>, Vec<Problem>) {
    let mut files = Vec::new();
    for listener in &config.listeners {
        let key = |name: &str| format!("listeners[{}].tls.{name}", listener.address);
        let tls = listener.tls.iter();
        files.extend(tls.flat_map(|tls| [(key("cert"), tls.cert.clone()), (key("ca"), tls.ca.clone())]));
    }
    for (name, cluster) in &config.clusters {
        let at = format!("clusters.{}", config::toml_key(name));
        files.push((format!("{at}.agents.cert"), cluster.agents.cert.clone()));
        files.push((format!("{at}.agents.ca"), cluster.agents.ca.clone()));
        for node in &cluster.nodes {
            let key = |name: &str| format!("{at}.nodes[{}].tls.{name}", node.name);
            let tls = node.tls.iter();
            files.extend(tls.flat_map(|tls| [(key("cert"), tls.cert.clone()), (key("ca"), tls.ca.clone())]));
        }
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    for (key, path) in files.into_iter().filter_map(|(key, path)| Some((key, path?))) {
        // what cannot be read is told when TLS is made of it
        let Some(first) = read_certificates(&path).ok().and_then(|all| all.into_iter().next()) else { continue };
        let Some((from, until)) = validity(&first).map(std::ops::RangeInclusive::into_inner) else { continue };
        let days = |s: i64| s / (24 * 3600);
        let path = path.display();
        let advice = "put a new one in its place, then reload";
        if until < now {
            let message = format!("the certificate in \"{path}\" has expired, {} days ago", days(now - until));
            problems.push(config.written.problem(&key, message, advice));
        } else if from > now {
            let message = format!("the certificate in \"{path}\" is valid only in {} days", days(from - now));
            problems.push(config.written.problem(&key, message, "is this machine's clock right?"));
        } else if until - now < SOON_S {
            let message = format!("the certificate in \"{path}\" expires in {} days", days(until - now));
            warnings.push(config.written.problem(&key, message, advice));
        }
    }
    (problems, warnings)
}
