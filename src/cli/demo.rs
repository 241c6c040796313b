//! `howdah demo`: a whole cluster on this machine, gone without a trace when it ends.

use std::time::Duration;

use clap::Args;

use crate::demo::{self, Options};

/// A primary, two standbys and the endpoint in a temporary directory, with a workload to watch. Ctrl-C removes it all.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// End by itself after this time (30s, 5min, 1h).
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    duration: Option<Duration>,
    /// Standbys beside the primary.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=8))]
    standbys: u8,
    /// Clients of the workload.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1000))]
    clients: u16,
    /// Let the last standby stay this far behind (200ms, 2s): who has written then reads elsewhere.
    #[arg(long, value_name = "TIME", value_parser = time)]
    replay_delay: Option<Duration>,
    /// Run the workload against the primary directly, without an endpoint.
    #[arg(long, hide = true)]
    direct: bool,
    /// Kill the primary with SIGKILL every so often, and count what that did to clients.
    #[arg(long, conflicts_with = "direct")]
    chaos: bool,
    /// How often (10s, 1min).
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "10s", requires = "chaos")]
    every: Duration,
}

/// Runs it to its end.
///
/// # Errors
/// When a part of it fails; everything is torn down by then.
pub fn run(args: DemoArgs) -> anyhow::Result<()> {
    let DemoArgs { duration, standbys, clients, replay_delay, direct, chaos, every } = args;
    demo::run(&Options { duration, standbys, clients, replay_delay, direct, chaos: chaos.then_some(every) })?;
    Ok(())
}

/// A time with a unit, as in `postgresql.conf`.
fn time(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let ms = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err("write a time with its unit, such as 200ms, 30s, 5min or 1h".to_owned()),
    };
    let number: u32 = number.parse().map_err(|_| "not a number of reasonable size".to_owned())?;
    Ok(Duration::from_millis(u64::from(number) * ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_need_a_unit() {
        assert_eq!(time("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(time("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(time("5min"), Ok(Duration::from_secs(300)));
        for wrong in ["10", "s", "", "10 parsecs", "99999999999s"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
