//! A strict reader of Prometheus' text format 0.0.4: what it takes, every collector takes.

use std::collections::{BTreeMap, BTreeSet};

/// One answer.
#[derive(Debug)]
pub struct Scrape {
    pub families: BTreeMap<String, Found>,
}

/// A metric that was there.
#[derive(Debug)]
pub struct Found {
    pub kind: String,
    pub help: String,
    pub series: Vec<Series>,
}

/// One line.
#[derive(Debug)]
pub struct Series {
    /// With `_bucket`, `_sum` and `_count`.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Scrape {
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.ends_with('\n') {
            return Err("the last line does not end".to_owned());
        }
        let mut families: BTreeMap<String, Found> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut current = String::new();
        for line in text.lines() {
            let wrong = |why: &str| format!("{why}: {line}");
            if let Some(head) = line.strip_prefix("# HELP ") {
                let (name, help) = head.split_once(' ').ok_or_else(|| wrong("no help"))?;
                let found = Found { kind: String::new(), help: unescape(help, false)?, series: Vec::new() };
                if families.insert(name.to_owned(), found).is_some() {
                    return Err(wrong("a family in two pieces"));
                }
                current = name.to_owned();
            } else if let Some(head) = line.strip_prefix("# TYPE ") {
                let (name, kind) = head.split_once(' ').ok_or_else(|| wrong("no type"))?;
                let found =
                    families.get_mut(name).filter(|_| *name == current).ok_or_else(|| wrong("no help before"))?;
                if !found.kind.is_empty() || !["counter", "gauge", "histogram"].contains(&kind) {
                    return Err(wrong("a wrong type"));
                }
                found.kind = kind.to_owned();
            } else if line.starts_with('#') || line.is_empty() {
                return Err(wrong("a line that says nothing"));
            } else {
                let series = Series::parse(line).map_err(|why| wrong(&why))?;
                if !seen.insert((series.name.clone(), series.labels.clone())) {
                    return Err(wrong("a series is there twice"));
                }
                let found = families.get_mut(&current).ok_or_else(|| wrong("no family"))?;
                let suffix = series.name.strip_prefix(current.as_str()).ok_or_else(|| wrong("another family's"))?;
                let fits = match found.kind.as_str() {
                    "histogram" => {
                        ["_bucket", "_sum", "_count"].contains(&suffix)
                            && series.labels.contains_key("le") == (suffix == "_bucket")
                    }
                    "" => false,
                    _ => suffix.is_empty() && !series.labels.contains_key("le"),
                };
                if !fits || (found.kind == "counter" && (series.value < 0.0 || !series.value.is_finite())) {
                    return Err(wrong("not of its type"));
                }
                found.series.push(series);
            }
        }
        for (name, found) in &families {
            if found.series.is_empty() {
                return Err(format!("{name} has no series"));
            }
            if found.kind == "histogram" {
                found.check_buckets(name)?;
            }
        }
        Ok(Self { families })
    }

    /// The values of all series with these labels, added up; 0 when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.each(name, labels).iter().map(|(_, value)| value).sum()
    }

    /// All series with these labels.
    pub fn each(&self, name: &str, labels: &[(&str, &str)]) -> Vec<(&BTreeMap<String, String>, f64)> {
        let of = |found: &'_ Found| found.series.iter().any(|series| series.name == name);
        let series = self.families.values().filter(|found| of(found)).flat_map(|found| &found.series);
        let fits = |series: &&Series| {
            let has = |(key, value): &(&str, &str)| series.labels.get(*key).is_some_and(|found| found == value);
            series.name == name && labels.iter().all(has)
        };
        series.filter(fits).map(|series| (&series.labels, series.value)).collect()
    }
}

impl Found {
    /// Buckets grow, the last has no bound and holds all.
    fn check_buckets(&self, name: &str) -> Result<(), String> {
        let mut all: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
        let mut counts = BTreeMap::new();
        for series in &self.series {
            let mut labels = series.labels.clone();
            match labels.remove("le") {
                Some(le) => {
                    let bound =
                        if le == "+Inf" { f64::INFINITY } else { le.parse().map_err(|_| format!("{name}: {le}"))? };
                    all.entry(labels).or_default().push((bound, series.value));
                }
                None if series.name.ends_with("_count") => {
                    counts.insert(labels, series.value);
                }
                None => {}
            }
        }
        for (labels, buckets) in &all {
            let grows = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
            let last = buckets.last().copied();
            if !grows || last != counts.get(labels).map(|count| (f64::INFINITY, *count)) {
                return Err(format!("{name}{labels:?}: {buckets:?}"));
            }
        }
        if all.len() == counts.len() { Ok(()) } else { Err(format!("{name}: a histogram without a count")) }
    }
}

impl Series {
    fn parse(line: &str) -> Result<Self, String> {
        let end = line.find(['{', ' ']).ok_or("no value")?;
        let (name, mut rest) = line.split_at(end);
        if !is_name(name, true) {
            return Err("a wrong name".to_owned());
        }
        let mut labels = BTreeMap::new();
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            loop {
                let (key, after) = rest.split_once("=\"").ok_or("a label without a value")?;
                let end = closing(after).ok_or("a value without an end")?;
                let value = unescape(&after[..end], true)?;
                if !is_name(key, false) || labels.insert(key.to_owned(), value).is_some() {
                    return Err(format!("a wrong label {key}"));
                }
                rest = &after[end + 1..];
                match rest.strip_prefix(',') {
                    Some(more) => rest = more,
                    None => break,
                }
            }
            rest = rest.strip_prefix('}').ok_or("labels without an end")?;
        }
        let value = rest.strip_prefix(' ').ok_or("no value")?;
        let value = match value {
            "+Inf" => f64::INFINITY,
            "-Inf" => f64::NEG_INFINITY,
            "NaN" => f64::NAN,
            value if value.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
                value.parse().map_err(|_| "a wrong value")?
            }
            _ => return Err("a wrong value".to_owned()),
        };
        Ok(Self { name: name.to_owned(), labels, value })
    }
}

/// Where a quoted value ends.
fn closing(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let end = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        end.then_some(at)
    })
}

fn unescape(text: &str, quotes: bool) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next() {
                Some('\\') => '\\',
                Some('n') => '\n',
                Some('"') if quotes => '"',
                other => return Err(format!("a wrong escape {other:?}")),
            },
            other => other,
        });
    }
    Ok(out)
}

fn is_name(text: &str, colons: bool) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    !text.is_empty() && text.chars().all(allowed) && !text.starts_with(|c: char| c.is_ascii_digit())
}
