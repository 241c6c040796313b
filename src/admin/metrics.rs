//! `GET /metrics`: what coordinators have done, as Prometheus reads it (text format 0.0.4).
//!
//! Every operation and every job moves one counter by one when it ends. Not here: pools and routing (`status`).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::http::Sources;
use crate::cluster::ledger::{BUCKETS_MS, Counts, Histogram, OperationState};
use crate::topology::ClusterName;

/// The handler.
pub(super) async fn metrics(State(sources): State<Sources>) -> impl IntoResponse {
    let mut counts = sources.control.as_ref().map(|control| control.ledger().counts()).unwrap_or_default();
    let topology = sources.board.read();
    for name in topology.clusters.keys() {
        counts.entry(name.clone()).or_default();
    }
    let mut text = rendered(&counts);
    family(&mut text, "howdah_epoch", "gauge", "The count of promotions of a cluster.");
    for (name, view) in &topology.clusters {
        sample(&mut text, "howdah_epoch", &[("cluster", name)], view.epoch.0);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

fn rendered(clusters: &BTreeMap<ClusterName, Counts>) -> String {
    let mut text = String::new();
    for (metric, kind, help) in [
        (
            "howdah_failovers_total",
            "failover",
            "Failovers that have ended, by outcome and by class of what went wrong.",
        ),
        ("howdah_switchovers_total", "switchover", "Switchovers that have ended."),
        ("howdah_restarts_total", "restart", "Primaries whose process was started again where it was."),
    ] {
        family(&mut text, metric, "counter", help);
        for (cluster, counts) in clusters {
            let done = ((kind.to_owned(), OperationState::Done, String::new()), 0);
            let all: BTreeMap<_, u64> = [done].into_iter().chain(counts.operations.clone()).collect();
            for ((_, outcome, class), count) in all.iter().filter(|((of, _, _), _)| of == kind) {
                let labels = [("cluster", &**cluster), ("outcome", outcome.as_str()), ("class", class)];
                sample(&mut text, metric, &labels, *count);
            }
        }
    }
    family(&mut text, "howdah_jobs_total", "counter", "Jobs of agents that have ended.");
    for (cluster, counts) in clusters {
        for ((node, directive, outcome, class), count) in &counts.jobs {
            let labels = [
                ("cluster", &**cluster),
                ("node", node),
                ("directive", directive),
                ("outcome", outcome.as_str()),
                ("class", class),
            ];
            sample(&mut text, "howdah_jobs_total", &labels, *count);
        }
    }
    family(&mut text, "howdah_rollbacks_total", "counter", "Operations and jobs that were undone.");
    for (cluster, counts) in clusters {
        for ((kind, class), count) in &counts.rollbacks {
            let labels = [("cluster", &**cluster), ("kind", kind), ("class", class)];
            sample(&mut text, "howdah_rollbacks_total", &labels, *count);
        }
    }
    let help = "From the first sign to the promotion.";
    family(&mut text, "howdah_failover_seconds", "histogram", help);
    for (cluster, counts) in clusters {
        let none = [("failover", Histogram::default())];
        let mut all: BTreeMap<&str, Histogram> = none.into_iter().collect();
        all.extend(counts.seconds.iter().map(|(kind, histogram)| (kind.as_str(), histogram.clone())));
        for (kind, histogram) in all {
            histogram_samples(&mut text, cluster, kind, &histogram);
        }
    }
    text
}

fn histogram_samples(text: &mut String, cluster: &str, kind: &str, histogram: &Histogram) {
    let mut below = 0;
    for (bound, count) in BUCKETS_MS.iter().zip(histogram.buckets) {
        below += count;
        let bound = seconds(*bound);
        let labels = [("cluster", cluster), ("kind", kind), ("le", bound.as_str())];
        sample(text, "howdah_failover_seconds_bucket", &labels, below);
    }
    let labels = [("cluster", cluster), ("kind", kind), ("le", "+Inf")];
    sample(text, "howdah_failover_seconds_bucket", &labels, histogram.count);
    let labels = [("cluster", cluster), ("kind", kind)];
    sample(text, "howdah_failover_seconds_sum", &labels, seconds(histogram.sum_ms));
    sample(text, "howdah_failover_seconds_count", &labels, histogram.count);
}

/// Milliseconds as seconds, exactly.
fn seconds(ms: u64) -> String {
    let text = format!("{}.{:03}", ms / 1000, ms % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn family(text: &mut String, metric: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {metric} {help}\n# TYPE {metric} {kind}");
}

fn sample(text: &mut String, metric: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    let _ = writeln!(text, "{metric}{{{}}} {value}", labels.join(","));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_read_as_prometheus_does() {
        let mut counts = Counts::default();
        counts.operations.insert(("failover".to_owned(), OperationState::Done, String::new()), 2);
        counts.operations.insert(("switchover".to_owned(), OperationState::Undone, "timed-out".to_owned()), 1);
        counts.rollbacks.insert(("switchover".to_owned(), "timed-out".to_owned()), 1);
        let key = ("b".to_owned(), "rebuild".to_owned(), OperationState::Undone, "disk-full".to_owned());
        counts.jobs.insert(key, 1);
        counts.seconds.entry("failover".to_owned()).or_default().add(300);
        counts.seconds.entry("failover".to_owned()).or_default().add(700_000);
        let text = rendered(&BTreeMap::from([("ma\"in".into(), counts)]));
        for line in [
            "# TYPE howdah_failovers_total counter",
            r#"howdah_failovers_total{cluster="ma\"in",outcome="done",class=""} 2"#,
            r#"howdah_switchovers_total{cluster="ma\"in",outcome="done",class=""} 0"#,
            r#"howdah_switchovers_total{cluster="ma\"in",outcome="undone",class="timed-out"} 1"#,
            r#"howdah_jobs_total{cluster="ma\"in",node="b",directive="rebuild",outcome="undone",class="disk-full"} 1"#,
            r#"howdah_rollbacks_total{cluster="ma\"in",kind="switchover",class="timed-out"} 1"#,
            r#"howdah_failover_seconds_bucket{cluster="ma\"in",kind="failover",le="0.25"} 0"#,
            r#"howdah_failover_seconds_bucket{cluster="ma\"in",kind="failover",le="0.5"} 1"#,
            r#"howdah_failover_seconds_bucket{cluster="ma\"in",kind="failover",le="300"} 1"#,
            r#"howdah_failover_seconds_bucket{cluster="ma\"in",kind="failover",le="+Inf"} 2"#,
            r#"howdah_failover_seconds_sum{cluster="ma\"in",kind="failover"} 700.3"#,
        ] {
            assert!(text.lines().any(|written| written == line), "{line}\n{text}");
        }
    }
}
