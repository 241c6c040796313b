//! The dashboard and the alerts ask for nothing that is not there: each metric is one of the list, each label one of its metrics'.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use howdah::admin::metrics::families::{FAMILIES, Family, Kind};

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn listed() -> BTreeMap<&'static str, &'static Family> {
    FAMILIES.iter().flat_map(|(_, families)| families.iter()).map(|family| (family.name, family)).collect()
}

/// Words of a text: letters, digits and `_`, each with what follows it.
fn words(text: &str) -> Vec<(&str, &str)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_word) {
        let word = &rest[start..];
        let end = word.find(|c| !is_word(c)).unwrap_or(word.len());
        found.push((&word[..end], &word[end..]));
        rest = &word[end..];
    }
    found
}

/// What is wrong with an expression, and the labels that its metrics have.
fn wrong_in(expression: &str) -> Result<BTreeSet<&'static str>, String> {
    let listed = listed();
    let mut labels = BTreeSet::from(["instance", "job"]);
    let mut metrics = 0;
    for (word, rest) in words(expression).into_iter().filter(|(word, _)| is_metric(word)) {
        let suffix = ["_bucket", "_sum", "_count"].into_iter().find_map(|suffix| word.strip_suffix(suffix));
        let family = match (listed.get(word), suffix.and_then(|name| listed.get(name))) {
            (Some(family), _) if family.kind != Kind::Histogram => family,
            (None, Some(family)) if family.kind == Kind::Histogram => family,
            _ => return Err(format!("there is no {word}")),
        };
        metrics += 1;
        labels.extend(family.labels);
        if family.kind == Kind::Histogram {
            labels.insert("le");
        }
        if let Some((matchers, _)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            for matcher in matchers.split(',').filter(|matcher| !matcher.is_empty()) {
                let (label, value) = matcher.split_once(['=', '!']).unwrap();
                if !value.ends_with('"') || !(family.labels.contains(&label) || label == "instance") {
                    return Err(format!("{word} has no label {label}"));
                }
            }
        }
        // a counter is looked at through its growth
        if family.kind == Kind::Counter && !expression.contains("rate(") && !expression.contains("increase(") {
            return Err(format!("{word} only grows"));
        }
    }
    for (_, by) in expression
        .match_indices("by (")
        .map(|(at, _)| expression[at + 4..].split_once(')').unwrap())
        .map(|(by, rest)| (rest, by))
    {
        if let Some(unknown) = by.split(',').map(str::trim).find(|label| !labels.contains(label)) {
            return Err(format!("no metric has a label {unknown}"));
        }
    }
    if metrics == 0 || expression.matches('(').count() != expression.matches(')').count() {
        return Err("not an expression".to_owned());
    }
    Ok(labels)
}

fn is_metric(word: &str) -> bool {
    word.starts_with("howdah_") || word.starts_with("process_")
}

/// The labels that a text for people shows: `{{name}}`, `{{ $labels.name }}`.
fn shown(text: &str) -> Vec<&str> {
    let inner = text.split("{{").skip(1).filter_map(|part| part.split_once("}}"));
    inner.map(|(name, _)| name.trim().trim_start_matches("$labels.")).collect()
}

#[track_caller]
fn is_right(place: &str, expression: &str, text: &str) {
    let labels = wrong_in(expression).unwrap_or_else(|error| panic!("{place}: {error}: {expression}"));
    for label in shown(text) {
        assert!(labels.contains(label), "{place}: nothing has the label {label}: {expression}");
    }
}

#[test]
fn the_dashboard_shows_what_there_is() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("config/grafana/howdah.json")).unwrap();
    let (mut targets, mut ids) = (0, BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()));
        for target in panel["targets"].as_array().into_iter().flatten() {
            let text = |key: &str| target[key].as_str().unwrap();
            is_right(panel["title"].as_str().unwrap(), text("expr"), text("legendFormat"));
            targets += 1;
        }
    }
    assert!(targets > 40, "{targets}");
}

#[test]
fn every_alert_asks_for_what_there_is_and_says_what_to_do() {
    let text = read("config/prometheus/howdah.rules.yml");
    let alerts: Vec<&str> = text.split("- alert: ").skip(1).collect();
    let mut names = BTreeSet::new();
    for alert in &alerts {
        let name = alert.lines().next().unwrap();
        let line = |key: &str| {
            let line = alert.lines().find_map(|line| line.trim_start().strip_prefix(key)?.strip_prefix(": "));
            line.unwrap_or_else(|| panic!("{name} has no {key}"))
        };
        assert!(names.insert(name), "{name} is there twice");
        let expression = line("expr").strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).unwrap();
        is_right(name, expression, line("summary"));
        assert!(["warning", "critical"].iter().any(|severity| line("labels").contains(severity)), "{name}");
        assert!(line("runbook").len() > 30 && line("runbook").ends_with(".\""), "{name}: {}", line("runbook"));
        assert!(line("for").ends_with(['s', 'm', 'h']), "{name}");
    }
    assert!(alerts.len() > 20, "{}", alerts.len());
}

#[test]
fn what_is_not_there_is_found() {
    for wrong in [
        "howdah_no_such_thing",
        "howdah_pool_wait_seconds",
        "howdah_node_up{pool=\"x\"}",
        "sum by (pool) (howdah_node_up)",
        "howdah_transactions_total",
        "1",
    ] {
        assert!(wrong_in(wrong).is_err(), "{wrong}");
    }
    assert!(wrong_in("sum by (le) (rate(howdah_pool_wait_seconds_bucket{node=~\"a\"}[5m]))").is_ok());
}
