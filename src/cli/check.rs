//! `howdah check`: what is wrong with a configuration, all of it at once.

use std::path::PathBuf;

use clap::Args;

use crate::config;
use crate::net::dial::Dialer;
use crate::proxy::shared::Running;

/// Reads a configuration as `serve` would, certificates included, and says what is wrong with it.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", default_value = super::serve::DEFAULT_CONFIG)]
    pub config: PathBuf,
}

/// Runs it.
///
/// # Errors
/// Every problem of the file, each with line and column.
pub fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let config = config::load(&args.config)?;
    let dialer = Dialer::new(&config.network);
    Running::new(config, &dialer)?;
    println!("{}: ok", args.config.display());
    Ok(())
}
