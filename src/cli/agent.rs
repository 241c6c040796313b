//! `howdah agent`: the process beside PostgreSQL.
//!
//! SIGTERM and SIGINT end it, and leave PostgreSQL as it is.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::agent::{self, load, surroundings};

/// The process beside PostgreSQL: tells what becomes of it, and does what a coordinator orders.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", default_value_os_t = load::default_path())]
    pub config: PathBuf,
}

/// Runs until it is told to stop.
///
/// # Errors
/// When the configuration is wrong, the machine is not as it must be, or the agent cannot listen.
pub fn run(args: &AgentArgs) -> anyhow::Result<()> {
    let mut config = load::load(&args.config)?;
    surroundings::find(&mut config)?;
    let filter = EnvFilter::try_from_env("HOWDAH_LOG").unwrap_or_else(|_| EnvFilter::new("warn,howdah=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("could not start a runtime")?;
    let ended = runtime.block_on(async {
        let listen = |kind| signal(kind).context("could not listen for signals");
        let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let (node, unit) = (config.node.clone(), config.found.unit.clone());
        let ready = |listening: &[&str]| {
            let unit = unit.as_deref().unwrap_or("none");
            tracing::info!(node, unit, listening = listening.join(", "), "the agent is ready");
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        };
        agent::run::run(config, Box::new(agent::jobs::plan), stop, ready).await?;
        tracing::info!("the agent ends, PostgreSQL stays as it is");
        anyhow::Ok(())
    });
    // a thread that waits for a disk must not keep the process
    runtime.shutdown_background();
    ended
}
