//! The daemon itself: its build, its age, what the system says of its process.

use std::fs;

use super::super::http::{Sources, not_ready};
use super::page::Page;
use crate::proxy::incidents::{Reloads, ServerLogins};

/// What the daemon is.
#[derive(Clone, Debug, Default)]
pub struct DaemonFacts {
    /// Since it began.
    pub uptime_us: u64,
    /// Threads that serve clients.
    pub workers: usize,
    /// Grows by one with each reload.
    pub generation: u64,
    /// How many clients there may be.
    pub clients_max: u32,
    /// Clients by what they do.
    pub clients: ClientStates,
    /// Names of prepared statements that clients have.
    pub prepared: u64,
    /// How reloads have ended.
    pub reloads: Reloads,
    /// Cancels that were sent on, and those that nothing ran for.
    pub cancels: (u64, u64),
    /// Logins to servers.
    pub server_logins: ServerLogins,
}

/// Clients by what they do.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientStates {
    /// Nothing that needs a server.
    pub idle: u64,
    /// Waiting for a server.
    pub waiting: u64,
    /// With a server.
    pub working: u64,
}

pub(super) fn gather(page: &mut Page, sources: &Sources) {
    let facts = (sources.daemon)();
    page.gauge("howdah_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.level("howdah_uptime_seconds", &[], std::time::Duration::from_micros(facts.uptime_us).as_secs_f64());
    page.flag("howdah_ready", &[], not_ready(sources).is_empty());
    page.gauge("howdah_workers", &[], facts.workers as u64);
    page.gauge("howdah_config_generation", &[], facts.generation);
    page.gauge("howdah_clients_max", &[], facts.clients_max.into());
    page.counter("howdah_panics_total", &[], (sources.panics)());
    let ClientStates { idle, waiting, working } = facts.clients;
    for (state, count) in [("idle", idle), ("waiting", waiting), ("working", working)] {
        page.gauge("howdah_clients_by_state", &[("state", state)], count);
    }
    page.gauge("howdah_prepared_statements", &[], facts.prepared);
    page.flag("howdah_config_reload_success", &[], !facts.reloads.last_refused);
    page.gauge("howdah_config_reload_timestamp_seconds", &[], facts.reloads.last_at);
    page.level("howdah_config_reload_duration_seconds", &[], facts.reloads.last_took.as_secs_f64());
    for (outcome, count) in [("applied", facts.reloads.applied), ("refused", facts.reloads.refused)] {
        page.counter("howdah_config_reloads_total", &[("outcome", outcome)], count);
    }
    for (outcome, count) in [("sent", facts.cancels.0), ("in_vain", facts.cancels.1)] {
        page.counter("howdah_cancels_total", &[("outcome", outcome)], count);
    }
    for ((cluster, node), (done, failed)) in &facts.server_logins {
        for (outcome, count) in [("done", *done), ("failed", *failed)] {
            let labels = [("cluster", &**cluster), ("node", &**node), ("outcome", outcome)];
            page.counter("howdah_server_logins_total", &labels, count);
        }
    }
    process(page);
}

/// Parts of a second in which the kernel tells times to programs, on every Linux (`USER_HZ`).
const TICKS: u64 = 100;

/// What `/proc` says; what it does not say is left out.
fn process(page: &mut Page) {
    let told = |path: &str| fs::read_to_string(path).unwrap_or_default();
    if let Some(stat) = Stat::parse(&told("/proc/self/stat")) {
        let us = |ticks: u64| ticks.saturating_mul(1_000_000) / TICKS;
        page.seconds("process_cpu_seconds_total", &[], us(stat.cpu_ticks));
        if let Some(booted) = booted_at(&told("/proc/stat")) {
            page.gauge("process_start_time_seconds", &[], booted.saturating_add(stat.began_ticks / TICKS));
        }
    }
    let status = told("/proc/self/status");
    for (metric, field, unit) in [
        ("process_resident_memory_bytes", "VmRSS:", 1024),
        ("process_virtual_memory_bytes", "VmSize:", 1024),
        ("process_threads", "Threads:", 1),
    ] {
        let value = status.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse().ok());
        if let Some(value) = value {
            page.gauge(metric, &[], u64::saturating_mul(value, unit));
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        page.gauge("process_open_fds", &[], (open.count() as u64).saturating_sub(1)); // one is the look itself
    }
    if let Some(max) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        page.gauge("process_max_fds", &[], max);
    }
}

/// When the machine began, in seconds since 1970.
fn booted_at(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// Of `/proc/PID/stat` (`proc(5)`).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    began_ticks: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // the program's name is the second field, in parentheses, and may hold anything
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number.checked_sub(3)?)?.parse::<u64>().ok();
        Some(Self { cpu_ticks: field(14)?.saturating_add(field(15)?), began_ticks: field(22)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_be_called_anything() {
        let text =
            "42 (a) b) c) S 1 42 42 0 -1 4194560 100 0 0 0 7 5 0 0 20 0 3 0 12345 1000000 250 18446744073709551615 1";
        assert_eq!(Stat::parse(text), Some(Stat { cpu_ticks: 12, began_ticks: 12_345 }));
        assert_eq!(Stat::parse("nonsense"), None);
    }
}
