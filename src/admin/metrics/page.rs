//! One answer to `GET /metrics`, as it is filled: values in, Prometheus' text (format 0.0.4) out.
//!
//! Counters and gauges go through a recorder of `metrics-exporter-prometheus` that lives for one scrape: nothing of an earlier
//! scrape can be left in it, and two scrapes do not meet. What that exporter cannot take over whole is written here in the same
//! form: histograms that were counted elsewhere (it takes times one by one: what a busy daemon serves between two scrapes would
//! have to be played to it again), and counters with a fraction (its are integers).
//!
//! Not here: what there is to say (`gather`), what each metric means (`families`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use metrics::{Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use super::families::{FAMILIES, Family, Kind};

/// What is said where it comes from; the exporter does not look at it.
static METADATA: Metadata<'static> = Metadata::new("howdah", Level::INFO, None);

/// A label: its name, its value.
pub(super) type Labelled<'a> = (&'a str, &'a str);

/// The page.
pub(super) struct Page {
    recorder: PrometheusRecorder,
    /// What the recorder knows the meaning of.
    described: BTreeSet<&'static str>,
    /// By family: the lines that are written here.
    written: BTreeMap<String, Written>,
}

struct Written {
    kind: Kind,
    help: String,
    lines: String,
}

impl Page {
    /// An empty page.
    pub(super) fn new() -> Self {
        Self {
            recorder: PrometheusBuilder::new().build_recorder(),
            described: BTreeSet::new(),
            written: BTreeMap::new(),
        }
    }

    /// A counter, as it stands.
    pub(super) fn counter(&mut self, name: &'static str, labels: &[Labelled<'_>], value: u64) {
        let key = self.key(name, Kind::Counter, labels);
        self.recorder.register_counter(&key, &METADATA).absolute(value);
    }

    /// A gauge.
    #[allow(clippy::cast_precision_loss)] // Prometheus' values are floats
    pub(super) fn gauge(&mut self, name: &'static str, labels: &[Labelled<'_>], value: u64) {
        self.level(name, labels, value as f64);
    }

    /// A gauge that says yes (1) or no (0).
    pub(super) fn flag(&mut self, name: &'static str, labels: &[Labelled<'_>], value: bool) {
        self.gauge(name, labels, u64::from(value));
    }

    /// A gauge with a fraction.
    pub(super) fn level(&mut self, name: &'static str, labels: &[Labelled<'_>], value: f64) {
        let key = self.key(name, Kind::Gauge, labels);
        self.recorder.register_gauge(&key, &METADATA).set(value);
    }

    /// A counter of microseconds, in seconds.
    pub(super) fn seconds(&mut self, name: &'static str, labels: &[Labelled<'_>], us: u64) {
        let value = in_seconds(u128::from(us), 1_000_000);
        self.write(name, Kind::Counter, help(name), &sample(name, "", labels, None, value));
    }

    /// A histogram: upper bounds with how many did not exceed each and exceeded the one before, in units of which so many make a
    /// second; how many there were in all, and their sum.
    pub(super) fn histogram(
        &mut self,
        name: &'static str,
        labels: &[Labelled<'_>],
        buckets: impl Iterator<Item = (u64, u64)>,
        (count, sum): (u64, u64),
        per_second: u64,
    ) {
        let mut lines = String::new();
        let mut below = 0_u64;
        for (bound, inside) in buckets {
            below = below.saturating_add(inside);
            let bound = in_seconds(u128::from(bound), per_second);
            lines += &sample(name, "_bucket", labels, Some(&bound), below);
        }
        lines += &sample(name, "_bucket", labels, Some("+Inf"), count);
        lines += &sample(name, "_sum", labels, None, in_seconds(u128::from(sum), per_second));
        lines += &sample(name, "_count", labels, None, count);
        self.write(name, Kind::Histogram, help(name), &lines);
    }

    /// What is not in [`FAMILIES`]: an operator's own.
    pub(super) fn own(&mut self, name: &str, kind: Kind, help: &str, labels: &[Labelled<'_>], value: f64) {
        self.write(name, kind, help, &sample(name, "", labels, None, number(value)));
    }

    fn write(&mut self, name: &str, kind: Kind, help: &str, lines: &str) {
        if !self.written.contains_key(name) {
            let fresh = Written { kind, help: help.to_owned(), lines: String::new() };
            self.written.insert(name.to_owned(), fresh);
        }
        if let Some(written) = self.written.get_mut(name) {
            written.lines.push_str(lines);
        }
    }

    fn key(&mut self, name: &'static str, kind: Kind, labels: &[Labelled<'_>]) -> Key {
        if self.described.insert(name) {
            let help = help(name);
            match kind {
                Kind::Gauge => self.recorder.describe_gauge(name.into(), None, help.into()),
                Kind::Counter | Kind::Histogram => self.recorder.describe_counter(name.into(), None, help.into()),
            }
        }
        // The exporter takes a pair of backslashes for one that is escaped already: with every one doubled nothing is lost, and no
        // two values become one.
        let label = |(name, value): &Labelled<'_>| Label::new((*name).to_owned(), value.replace('\\', "\\\\"));
        Key::from_parts(name, labels.iter().map(label).collect::<Vec<_>>())
    }

    /// The text: families by name, their lines in order.
    pub(super) fn render(self) -> String {
        let rendered = self.recorder.handle().render();
        let mut families: BTreeMap<String, String> = BTreeMap::new();
        for block in rendered.split("\n\n").filter(|block| !block.is_empty()) {
            let (heads, mut lines): (Vec<&str>, Vec<&str>) = block.lines().partition(|line| line.starts_with('#'));
            lines.sort_unstable();
            let name = heads.iter().find_map(|head| head.strip_prefix("# TYPE ")?.split(' ').next());
            let text = heads.into_iter().chain(lines).fold(String::new(), |text, line| text + line + "\n");
            families.insert(name.unwrap_or_default().to_owned(), text);
        }
        for (name, Written { kind, help, lines }) in self.written {
            let help = help.replace('\\', "\\\\").replace('\n', "\\n");
            let text = format!("# HELP {name} {help}\n# TYPE {name} {}\n{lines}", kind.as_str());
            families.insert(name, text);
        }
        families.into_values().collect()
    }
}

fn help(name: &str) -> &'static str {
    family(name).map_or("", |family| family.help)
}

/// What is known of a metric.
pub(in crate::admin) fn family(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().flat_map(|(_, families)| families.iter()).find(|family| family.name == name)
}

/// One line.
fn sample(
    name: &str,
    suffix: &str,
    labels: &[Labelled<'_>],
    le: Option<&str>,
    value: impl std::fmt::Display,
) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let le = le.map(|bound| ("le", bound));
    let labels = labels.iter().copied().chain(le).map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
    let labels: Vec<String> = labels.collect();
    let mut line = format!("{name}{suffix}");
    if !labels.is_empty() {
        let _ = write!(line, "{{{}}}", labels.join(","));
    }
    let _ = writeln!(line, " {value}");
    line
}

/// A whole number of parts of a second as seconds, exactly; `per_second` is a power of ten.
fn in_seconds(value: u128, per_second: u64) -> String {
    let per_second = u128::from(per_second.max(1));
    let digits = per_second.checked_ilog10().unwrap_or(0) as usize;
    let (whole, part) = (value / per_second, value % per_second);
    if part == 0 { whole.to_string() } else { format!("{whole}.{part:0digits$}").trim_end_matches('0').to_owned() }
}

/// A float as Prometheus reads it.
fn number(value: f64) -> String {
    match value {
        value if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_as_prometheus_does() {
        let mut page = Page::new();
        page.counter("howdah_failovers_total", &[("cluster", "ma\"in"), ("outcome", "done"), ("class", "")], 2);
        page.gauge("howdah_epoch", &[("cluster", "b")], 7);
        page.gauge("howdah_epoch", &[("cluster", "a")], 6);
        page.seconds("howdah_transaction_seconds_total", &[("database", "x")], 1_500_007);
        let buckets = [(250, 0), (500, 1), (60_000, 0)];
        page.histogram("howdah_failover_seconds", &[("cluster", "a")], buckets.into_iter(), (2, 700_300), 1_000);
        let text = page.render();
        let expected = concat!(
            "# HELP howdah_epoch The count of promotions of a cluster.\n# TYPE howdah_epoch gauge\n",
            "howdah_epoch{cluster=\"a\"} 6\nhowdah_epoch{cluster=\"b\"} 7\n",
        );
        assert!(text.starts_with(expected), "{text}");
        for line in [
            "# TYPE howdah_failovers_total counter",
            r#"howdah_failovers_total{cluster="ma\"in",outcome="done",class=""} 2"#,
            "# TYPE howdah_transaction_seconds_total counter",
            r#"howdah_transaction_seconds_total{database="x"} 1.500007"#,
            "# TYPE howdah_failover_seconds histogram",
            r#"howdah_failover_seconds_bucket{cluster="a",le="0.25"} 0"#,
            r#"howdah_failover_seconds_bucket{cluster="a",le="0.5"} 1"#,
            r#"howdah_failover_seconds_bucket{cluster="a",le="60"} 1"#,
            r#"howdah_failover_seconds_bucket{cluster="a",le="+Inf"} 2"#,
            r#"howdah_failover_seconds_sum{cluster="a"} 700.3"#,
            r#"howdah_failover_seconds_count{cluster="a"} 2"#,
        ] {
            assert!(text.lines().any(|written| written == line), "{line}\n{text}");
        }
    }

    #[test]
    fn no_two_names_become_one_series() {
        let names = ["a", "a\\", "a\\\\", "a\"", "a\\\"", "a\n", "a\\n", "a\\\n", "a\\\\n"];
        let mut page = Page::new();
        for name in names {
            page.gauge("howdah_epoch", &[("cluster", name)], 1);
            page.seconds("howdah_transaction_seconds_total", &[("database", name)], 1);
        }
        let text = page.render();
        for name in names {
            let escaped = name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            for line in [
                format!("howdah_epoch{{cluster=\"{escaped}\"}} 1"),
                format!("howdah_transaction_seconds_total{{database=\"{escaped}\"}} 0.000001"),
            ] {
                assert_eq!(text.lines().filter(|written| *written == line).count(), 1, "{name:?} {line}\n{text}");
            }
        }
    }

    #[test]
    fn every_family_is_named_as_prometheus_recommends() {
        let mut names = std::collections::BTreeSet::new();
        for family in FAMILIES.iter().flat_map(|(_, families)| families.iter()) {
            let Family { name, kind, labels, help } = family;
            assert!(names.insert(*name), "{name} is there twice");
            assert!(name.starts_with("howdah_") || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(!name.ends_with("_ms") && !name.ends_with("_us") && !name.ends_with("_kb"), "{name}: base units");
            assert!(help.ends_with('.') && !help.contains('|'), "{name}: {help}");
            assert!(labels.iter().all(|label| *label != "le" && !label.starts_with("__")), "{name}");
        }
    }
}
