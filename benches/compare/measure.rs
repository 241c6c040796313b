//! Figures from `/proc`, pgbench's log and strace.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// CPU a process has used so far, in milliseconds.
#[derive(Clone, Copy, Default)]
pub struct Cpu {
    pub total: f64,
    /// Of it, by which side each tick of the clock has met: coarse.
    pub user: f64,
}

impl Cpu {
    pub fn of(pid: u32) -> Self {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return Self::default() };
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ms = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0) * 10.0;
        Self { total: exact_ms(pid).unwrap_or(ms(11) + ms(12)), user: ms(11) }
    }

    pub fn of_all(pids: &[u32]) -> Self {
        pids.iter()
            .map(|pid| Self::of(*pid))
            .fold(Self::default(), |sum, one| Self { user: sum.user + one.user, total: sum.total + one.total })
    }

    pub fn since(self, before: Self) -> Self {
        Self { user: self.user - before.user, total: self.total - before.total }
    }
}

/// What the scheduler has counted, over all threads, where the kernel tells.
fn exact_ms(pid: u32) -> Option<f64> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut ns = 0.0;
    for thread in threads.flatten() {
        let stat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        ns += stat.split(' ').next()?.parse::<f64>().ok()?;
    }
    (ns > 0.0).then_some(ns / 1e6)
}

/// A line of `/proc/PID/smaps_rollup`, in KiB.
pub fn memory_kib(pid: u32, line: &str) -> f64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let found = rollup.lines().find(|l| l.starts_with(line)).and_then(|l| l.split_whitespace().nth(1));
    found.and_then(|kib| kib.parse().ok()).unwrap_or(0.0)
}

/// What pgbench's transaction log says.
#[derive(Default)]
pub struct Latencies {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// The slowest client's transactions relative to the mean.
    pub least_share: f64,
}

/// Reads and removes the logs pgbench wrote under a prefix.
pub fn latencies(directory: &Path, prefix: &str, clients: usize) -> Latencies {
    let (mut times, mut shares) = (Vec::new(), BTreeMap::<String, usize>::new());
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(prefix) {
            continue;
        }
        for line in std::fs::read_to_string(entry.path()).unwrap().lines() {
            let mut fields = line.split(' ');
            let client = fields.next().unwrap_or_default().to_owned();
            if let Some(us) = fields.nth(1).and_then(|us| us.parse::<f64>().ok()) {
                times.push(us / 1_000.0);
                *shares.entry(client).or_default() += 1;
            }
        }
        let _ = std::fs::remove_file(entry.path());
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get(((times.len() as f64) * share) as usize).or(times.last()).copied().unwrap_or(0.0);
    let mean = times.len() as f64 / clients as f64;
    let least = if shares.len() < clients { 0 } else { shares.values().copied().min().unwrap_or(0) };
    Latencies { p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0), least_share: least as f64 / mean }
}

/// System calls of a process over a while, or nothing when strace is not there.
pub fn system_calls(pid: u32, during: Duration) -> Option<f64> {
    let seconds = during.as_secs_f64().to_string();
    let child = Command::new("timeout")
        .args(["-s", "INT", &seconds, "strace", "-f", "-c", "-p", &pid.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let out = child.wait_with_output().ok()?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    let total = text.lines().rev().find(|line| line.trim_end().ends_with("total"))?;
    // "100.00    1.234567          12     98765        12 total": calls is the fourth field
    total.split_whitespace().nth(3)?.parse().ok()
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}
