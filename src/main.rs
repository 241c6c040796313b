//! Parses the command line, runs one file of `cli/`, turns the result into an exit code. Nothing else.

use std::process::ExitCode;

use clap::Parser;
use howdah::cli;

/// One PostgreSQL endpoint in front of a primary and its streaming standbys.
#[derive(Debug, Parser)]
#[command(
    name = "howdah",
    version,
    propagate_version = true,
    after_help = "Exit codes: 0 done, 1 an error, 2 the command line is wrong, 3 the daemon refuses and nothing has changed, \
                  4 there is no daemon, 5 see \"howdah check --help\""
)]
enum Command {
    /// Run the daemon.
    Serve(cli::serve::ServeArgs),
    /// Run the process beside PostgreSQL.
    Agent(cli::agent::AgentArgs),
    /// Say what is wrong with a configuration, without running it.
    Check(cli::check::CheckArgs),
    /// Make a howdah.toml of a PgBouncer configuration.
    Import(cli::import::ImportArgs),
    /// Say what a statement is, where it would go and why.
    Route(cli::route::RouteArgs),
    /// Make a whole cluster on this machine, with the endpoint in front and a workload to watch.
    Demo(cli::demo::DemoArgs),
    #[command(flatten)]
    Operate(cli::operate::Operate),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Serve(args) => cli::serve::run(&args),
        Command::Agent(args) => cli::agent::run(&args),
        Command::Check(args) => cli::check::run(&args),
        Command::Import(args) => cli::import::run(&args),
        Command::Route(args) => cli::route::run(&args),
        Command::Demo(args) => cli::demo::run(args),
        Command::Operate(operate) => cli::operate::run(operate),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("howdah: {error:#}");
            ExitCode::from(cli::exit::code(&error))
        }
    }
}
