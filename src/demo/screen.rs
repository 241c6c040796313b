//! What the demo shows: on a terminal a table that is redrawn in place, elsewhere one line per second.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::flow::{Flow, NodeFlow};
use super::status::{Node, Pool, Status};
use super::workload::Tally;
use crate::pg::size_pretty;

/// What one frame is made of.
pub struct Frame<'a> {
    /// Since the workload began.
    pub elapsed: Duration,
    /// The length of the period, for rates.
    pub period: Duration,
    /// What the clients saw.
    pub tally: &'a Tally,
    /// What the endpoint says, or why it says nothing.
    pub status: Result<&'a Status, &'a str>,
    /// What went where, by that.
    pub flow: &'a Flow,
    /// Lines that stay below the table.
    pub hints: &'a [String],
}

/// Where frames go.
pub struct Screen {
    terminal: bool,
    lines_drawn: usize,
}

impl Screen {
    /// The standard output.
    #[must_use]
    pub fn stdout() -> Self {
        Self { terminal: io::stdout().is_terminal(), lines_drawn: 0 }
    }

    /// Whether frames are redrawn in place, hints and all.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Draws a frame over the last one, or prints a line.
    ///
    /// # Errors
    /// When nobody reads the output any more.
    pub fn draw(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if !self.terminal {
            writeln!(out, "{}", line(frame))?;
            return out.flush();
        }
        let text = table(frame);
        if self.lines_drawn > 0 {
            write!(out, "\x1b[{}A", self.lines_drawn)?;
        }
        // without wrapping, so that a line is a line in a narrow window too
        write!(out, "\x1b[?7l")?;
        for line in text.lines() {
            writeln!(out, "{line}\x1b[K")?;
        }
        write!(out, "\x1b[J\x1b[?7h")?;
        self.lines_drawn = text.lines().count();
        out.flush()
    }

    /// Prints a line above where the next frame will be.
    ///
    /// # Errors
    /// As [`Screen::draw`].
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        self.lines_drawn = 0;
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()
    }
}

/// The table for a terminal.
#[must_use]
pub fn table(frame: &Frame<'_>) -> String {
    let mut text = String::new();
    let tally = frame.tally;
    let _ = writeln!(
        text,
        "\n{:>4} s   {} tx/s   p50 {}   p99 {}   max {}   {} clients   {} errors",
        frame.elapsed.as_secs(),
        grouped(rate(frame)),
        milliseconds(tally.period.percentile(50)),
        milliseconds(tally.period.percentile(99)),
        milliseconds(tally.period.max()),
        tally.connected,
        grouped(tally.errors),
    );
    let _ = writeln!(text, "         {}", reads_and_writes(frame));
    let _ = writeln!(
        text,
        "         own writes read back {}   not found {}   reads asked again {}",
        grouped(tally.own),
        grouped(tally.stale),
        grouped(frame.flow.asked_again),
    );
    if let Some(error) = &tally.last_error {
        let _ = writeln!(text, "         last error: {error}");
    }
    match frame.status {
        Ok(status) => {
            let _ = writeln!(
                text,
                "\n  {:<8}{:<10}{:<11}{:>9}{:>10}   {:<16}",
                "node", "role", "health", "tx/s", "sessions", "behind by"
            );
            for NodeFlow { node, rate } in &frame.flow.nodes {
                let role = node.role.as_deref().unwrap_or("unknown");
                let health = if node.healthy { "healthy" } else { "unhealthy" };
                let sessions = if role == "standby" { node.sessions.to_string() } else { "-".to_owned() };
                let behind = if role == "standby" { behind(node) } else { "-".to_owned() };
                let why = why_no_reads(node).map(|why| format!("   no reads: {why}")).unwrap_or_default();
                let _ = writeln!(
                    text,
                    "  {:<8}{role:<10}{health:<11}{:>9}{sessions:>10}   {behind:<16}{why}",
                    node.name,
                    grouped(*rate),
                );
            }
            for cluster in &status.clusters {
                let primary = cluster.primary.as_deref().unwrap_or("none");
                let _ = writeln!(text, "  primary {primary}, epoch {}", cluster.epoch);
            }
            if !status.pools.is_empty() {
                let _ = writeln!(
                    text,
                    "\n  {:<16}{:>6}{:>6}{:>6}{:>8}{:>9}{:>14}",
                    "pool", "size", "open", "idle", "in use", "waiting", "transactions"
                );
            }
            for pool in &status.pools {
                let name = format!("{} {}/{}", pool.node, pool.database, pool.user);
                let Pool { size, open, idle, in_use, waiting, .. } = pool;
                let transactions = grouped(pool.transactions);
                let _ =
                    writeln!(text, "  {name:<16}{size:>6}{open:>6}{idle:>6}{in_use:>8}{waiting:>9}{transactions:>14}");
            }
        }
        Err(why) => {
            let _ = writeln!(text, "\n  nodes and pools: {why}");
        }
    }
    text.push('\n');
    for hint in frame.hints {
        let _ = writeln!(text, "  {hint}");
    }
    text
}

/// One line, for a file or a pipe.
#[must_use]
pub fn line(frame: &Frame<'_>) -> String {
    let tally = frame.tally;
    let mut text = format!(
        "{:>4} s  {:>7} tx/s  p50 {}  p99 {}  errors {}",
        frame.elapsed.as_secs(),
        rate(frame),
        milliseconds(tally.period.percentile(50)),
        milliseconds(tally.period.percentile(99)),
        tally.period_errors,
    );
    if let Some(error) = tally.last_error.as_ref().filter(|_| tally.period_errors > 0) {
        let _ = write!(text, " ({error})");
    }
    let _ = write!(text, "  {}  stale {} of {}", reads_and_writes(frame), tally.stale, tally.own);
    match frame.status {
        Ok(_) => {
            if frame.flow.asked_again > 0 {
                let _ = write!(text, "  asked again {}", frame.flow.asked_again);
            }
            for NodeFlow { node, rate } in &frame.flow.nodes {
                let role = node.role.as_deref().filter(|_| node.healthy).unwrap_or("down");
                let _ = write!(text, "  {}={role} {rate}/s", node.name);
                if role == "standby" {
                    let _ = write!(text, " ({})", why_no_reads(node).map_or_else(|| behind(node), ToOwned::to_owned));
                }
            }
        }
        Err(why) => {
            let _ = write!(text, "  ({why})");
        }
    }
    text
}

/// `reads 12 000/s (99.8 % on standbys)  writes 800/s`.
fn reads_and_writes(frame: &Frame<'_>) -> String {
    let (reads, writes) = (per_second(frame, frame.tally.period_reads), per_second(frame, frame.tally.period_writes));
    let share = frame.flow.share().map(|share| format!(" ({share} on standbys)")).unwrap_or_default();
    format!("reads {}/s{share}  writes {}/s", grouped(reads), grouped(writes))
}

/// How far a standby is behind: `0 B, 12 ms`.
fn behind(node: &Node) -> String {
    match (node.lag_bytes, node.lag_time_ms) {
        (None, _) => "?".to_owned(),
        (Some(bytes), None) => size_pretty(bytes),
        (Some(bytes), Some(ms)) => format!("{}, {ms} ms", size_pretty(bytes)),
    }
}

/// Why reads do not go to a node that is no primary.
fn why_no_reads(node: &Node) -> Option<&str> {
    match &node.trouble {
        Some(trouble) => Some(trouble),
        None => node.unfit.as_deref().filter(|_| node.role.as_deref() != Some("primary")),
    }
}

fn rate(frame: &Frame<'_>) -> u64 {
    per_second(frame, frame.tally.period.count())
}

fn per_second(frame: &Frame<'_>, count: u64) -> u64 {
    let period_ms = u64::try_from(frame.period.as_millis()).unwrap_or(u64::MAX).max(1);
    count.saturating_mul(1000) / period_ms
}

/// `1.23 ms`, with three digits that count.
#[must_use]
pub fn milliseconds(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1000.0;
    let decimals = if ms < 10.0 { 2 } else { usize::from(ms < 100.0) };
    format!("{ms:.decimals$} ms")
}

/// `12 345 678`.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::demo::status;

    fn status() -> Status {
        let node = |name: &str, role: &str, healthy| status::Node {
            name: name.to_owned(),
            role: Some(role.to_owned()),
            healthy,
            lag_bytes: Some(20_480),
            lag_time_ms: Some(12),
            ..Node::default()
        };
        let pool = Pool {
            node: "a".to_owned(),
            database: "app".to_owned(),
            user: "app".to_owned(),
            open: 4,
            ..Pool::default()
        };
        let nodes = vec![node("a", "primary", true), node("b", "standby", true), node("c", "standby", false)];
        let cluster = status::Cluster { name: "main".to_owned(), epoch: 1, primary: Some("a".to_owned()), nodes };
        Status { ready: true, clusters: vec![cluster], pools: vec![pool], ..Status::default() }
    }

    #[test]
    fn a_line_holds_rate_latency_and_what_went_where() {
        let mut tally = Tally::default();
        (0..500).for_each(|_| tally.period.add(Duration::from_micros(1234)));
        let status = status();
        let (elapsed, period) = (Duration::from_secs(7), Duration::from_millis(500));
        (tally.period_reads, tally.period_writes, tally.own) = (490, 10, 7);
        let mut flow = Flow::between(None, &status, 500);
        (flow.to_standbys, flow.to_primary) = (489, 1);
        let line = line(&Frame { elapsed, period, tally: &tally, status: Ok(&status), flow: &flow, hints: &[] });
        assert_eq!(
            line,
            "   7 s     1000 tx/s  p50 1.23 ms  p99 1.23 ms  errors 0  reads 980/s (99.7 % on standbys)  writes 20/s  \
             stale 0 of 7  a=primary 0/s  b=standby 0/s (20 kB, 12 ms)  c=down 0/s"
        );
    }

    #[test]
    fn a_table_without_status_says_why_and_keeps_the_hints() {
        let hints = ["psql postgres://".to_owned()];
        let period = Duration::from_secs(1);
        let (tally, flow, status) = (Tally::default(), Flow::default(), Err("nobody answers"));
        let frame = Frame { elapsed: period, period, tally: &tally, status, flow: &flow, hints: &hints };
        let text = table(&frame);
        assert!(text.contains("nobody answers") && text.ends_with("  psql postgres://\n"), "{text}");
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1_234_567), "1 234 567");
        assert_eq!(milliseconds(Duration::from_micros(12_345)), "12.3 ms");
        assert_eq!(milliseconds(Duration::from_micros(234_567)), "235 ms");
    }
}
