//! `stats.queries_file`: an operator's own questions to the nodes, whose answers become metrics. The shape is that of
//! `postgres_exporter`'s `queries.yaml`, in TOML:
//!
//! ```toml
//! [[queries]]
//! name = "app_orders"                 # the metrics are NAME_COLUMN
//! query = "SELECT state, count(*) AS open FROM public.orders GROUP BY state"
//! interval = "1min"                   # so old may the answer be
//! databases = ["app"]                 # absent: the monitor's
//! roles = ["primary"]                 # absent: primary and standby
//! columns.state = { usage = "label" }
//! columns.open = { usage = "gauge", help = "Orders that are not done." }
//! ```
//!
//! Not here: who asks (`admin/survey`).

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::{At, Document, Step};
use super::duration::Period;
use super::problem::{Problem, Problems};
use super::suggest::nearest;

/// How old an answer may be where nothing is said.
const INTERVAL: Duration = Duration::from_secs(30);
/// Names that are howdah's own.
const RESERVED: [&str; 3] = ["howdah_", "process_", "__"];
/// Labels that howdah adds to every answer.
const ADDED: [&str; 4] = ["cluster", "node", "database", "le"];

const KEYS: [&str; 7] = ["name", "query", "interval", "databases", "clusters", "roles", "columns"];
const COLUMN_KEYS: [&str; 2] = ["usage", "help"];
const USAGES: [&str; 4] = ["label", "counter", "gauge", "discard"];
const ROLES: [&str; 2] = ["primary", "standby"];

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// What the metrics begin with.
    pub name: String,
    /// The SQL.
    pub query: String,
    /// How old an answer may be.
    pub interval: Duration,
    /// In which databases, as the server names them; none: the monitor's.
    pub databases: Vec<String>,
    /// Of which clusters; none: all.
    pub clusters: Vec<String>,
    /// Whether primaries are asked.
    pub primary: bool,
    /// Whether standbys are asked.
    pub standby: bool,
    /// What becomes of the columns.
    pub columns: Vec<Column>,
}

/// What becomes of one column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What it is.
    pub usage: Usage,
    /// What the metric means.
    pub help: String,
}

/// What a column is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// It tells rows apart.
    Label,
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Nothing.
    Discard,
}

/// Reads the file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(file: &Path, text: &str) -> Result<Vec<Query>, Problems> {
    let document = Document::parse(file, text)?;
    let mut reader = Reader { document: &document, problems: Vec::new() };
    let mut queries = Vec::new();
    for (key, value) in document.tree() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("queries", DeValue::Array(list)) => {
                queries.extend(list.iter().enumerate().filter_map(|(at, item)| reader.query(at, item)));
            }
            ("queries", _) => {
                reader.report(&[Step::Key("queries")], At::Key, "not a list of tables", "write [[queries]]")
            }
            (other, _) => reader.unknown(&[], other, &["queries"]),
        }
    }
    let mut metrics = BTreeSet::new();
    for (at, query) in queries.iter().enumerate() {
        for column in query.columns.iter().filter(|column| matches!(column.usage, Usage::Counter | Usage::Gauge)) {
            let metric = format!("{}_{}", query.name, column.name);
            if !metrics.insert(metric.clone()) {
                let path = [Step::Key("queries"), Step::Item(at), Step::Key("name")];
                reader.report(&path, At::Value, format!("the metric {metric} is there twice"), "write another name");
            }
        }
    }
    Problems::none_or_all(reader.problems)?;
    Ok(queries)
}

struct Reader<'d, 't> {
    document: &'d Document<'t>,
    problems: Vec<Problem>,
}

impl Reader<'_, '_> {
    fn report(&mut self, path: &[Step<'_>], at: At, message: impl Into<String>, advice: &str) {
        self.problems.push(self.document.problem(path, at, message, advice));
    }

    fn unknown(&mut self, table: &[Step<'_>], key: &str, known: &[&str]) {
        let advice = match nearest(key, known.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("known here: {}", known.join(", ")),
        };
        self.report(&below(table, key), At::Key, "unknown key", &advice);
    }

    /// A query; `None` when something is wrong that was reported.
    fn query(&mut self, at: usize, item: &Spanned<DeValue<'_>>) -> Option<Query> {
        let path = [Step::Key("queries"), Step::Item(at)];
        let DeValue::Table(table) = item.get_ref() else {
            self.report(&path, At::Key, "not a table", "write [[queries]]");
            return None;
        };
        let before = self.problems.len();
        for (key, _) in table.iter().filter(|(key, _)| !KEYS.contains(&key.get_ref().as_ref())) {
            self.unknown(&path, key.get_ref(), &KEYS);
        }
        let name = self.text(&path, table, "name");
        if let Some(name) = name.as_ref().filter(|name| !is_name(name) || is_reserved(name)) {
            let message = format!("\"{name}\" cannot begin the name of a metric");
            let advice = "write lower-case letters, digits and \"_\", and not \"howdah_\", which is ours";
            self.report(&below(&path, "name"), At::Value, message, advice);
        }
        let query = self.text(&path, table, "query");
        let interval = match table.get("interval").map(Spanned::get_ref) {
            None => INTERVAL,
            Some(DeValue::String(text)) => match text.parse::<Period>() {
                Ok(period) => period.get(),
                Err(error) => {
                    self.report(&below(&path, "interval"), At::Value, error.to_string(), "");
                    INTERVAL
                }
            },
            Some(_) => {
                self.report(
                    &below(&path, "interval"),
                    At::Value,
                    "not a duration",
                    "write it in quotes, as in \"30s\"",
                );
                INTERVAL
            }
        };
        let databases = self.list(&path, table, "databases", None);
        let clusters = self.list(&path, table, "clusters", None);
        let roles = self.list(&path, table, "roles", Some(&ROLES));
        let columns = self.columns(&path, table);
        let asks = |role: &str| roles.is_empty() || roles.iter().any(|known| known == role);
        let found = Query {
            name: name?,
            query: query?,
            interval,
            databases,
            clusters,
            primary: asks("primary"),
            standby: asks("standby"),
            columns,
        };
        (self.problems.len() == before).then_some(found)
    }

    fn columns(&mut self, query: &[Step<'_>], table: &DeTable<'_>) -> Vec<Column> {
        let path = below(query, "columns");
        let Some(DeValue::Table(listed)) = table.get("columns").map(Spanned::get_ref) else {
            let advice = "write one for each, as in columns.open = { usage = \"gauge\", help = \"…\" }";
            self.report(&path, At::Key, "it is not said what the columns are", advice);
            return Vec::new();
        };
        let mut columns = Vec::new();
        for (name, value) in listed {
            let (name, path) = (name.get_ref().to_string(), below(&path, name.get_ref()));
            let DeValue::Table(column) = value.get_ref() else {
                self.report(&path, At::Key, "not a table", "write { usage = \"gauge\", help = \"…\" }");
                continue;
            };
            for (key, _) in column.iter().filter(|(key, _)| !COLUMN_KEYS.contains(&key.get_ref().as_ref())) {
                self.unknown(&path, key.get_ref(), &COLUMN_KEYS);
            }
            let usage = match self.text(&path, column, "usage").as_deref() {
                None => continue,
                Some("label") => Usage::Label,
                Some("counter") => Usage::Counter,
                Some("gauge") => Usage::Gauge,
                Some("discard") => Usage::Discard,
                Some(other) => {
                    let message = format!("\"{other}\" is no usage");
                    let advice = format!("write one of: {}", USAGES.join(", "));
                    self.report(&below(&path, "usage"), At::Value, message, &advice);
                    continue;
                }
            };
            let wrong = usage != Usage::Discard && !is_name(&name)
                || usage == Usage::Label && (ADDED.contains(&&*name) || name.starts_with("__"));
            if wrong {
                let message = format!("\"{name}\" cannot be the name of a {}", usage_word(usage));
                let advice = "rename the column in the query (AS …): lower-case letters, digits and \"_\"; cluster, node and \
                              database are there already";
                self.report(&path, At::Key, message, advice);
            }
            let help = match column.get("help") {
                None => String::new(),
                Some(_) => self.text(&path, column, "help").unwrap_or_default(),
            };
            columns.push(Column { name, usage, help });
        }
        if !columns.iter().any(|column| matches!(column.usage, Usage::Counter | Usage::Gauge)) {
            self.report(&path, At::Key, "no column is a metric", "say usage = \"gauge\" or \"counter\" of one");
        }
        columns
    }

    /// A text that must be there and not empty.
    fn text(&mut self, path: &[Step<'_>], table: &DeTable<'_>, key: &'static str) -> Option<String> {
        match table.get(key).map(Spanned::get_ref) {
            Some(DeValue::String(text)) if !text.trim().is_empty() => Some(text.to_string()),
            Some(_) => {
                self.report(&below(path, key), At::Value, "not a text, or an empty one", "");
                None
            }
            None => {
                self.report(path, At::Key, format!("\"{key}\" is missing"), "");
                None
            }
        }
    }

    fn list(
        &mut self,
        path: &[Step<'_>],
        table: &DeTable<'_>,
        key: &'static str,
        known: Option<&[&str]>,
    ) -> Vec<String> {
        let items = match table.get(key).map(Spanned::get_ref) {
            None => return Vec::new(),
            Some(DeValue::Array(items)) if !items.is_empty() => items,
            Some(_) => {
                self.report(
                    &below(path, key),
                    At::Value,
                    "not a list with something in it",
                    "write [\"…\"], or leave it out",
                );
                return Vec::new();
            }
        };
        let mut found = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::String(text) if known.is_none_or(|known| known.contains(&text.as_ref())) => {
                    found.push(text.to_string());
                }
                _ => {
                    let advice = known.map(|known| format!("write some of: {}", known.join(", "))).unwrap_or_default();
                    self.report(&below(path, key), At::Value, "something in the list is wrong", &advice);
                }
            }
        }
        found
    }
}

fn below<'a>(path: &[Step<'a>], key: &'a str) -> Vec<Step<'a>> {
    path.iter().copied().chain([Step::Key(key)]).collect()
}

const fn usage_word(usage: Usage) -> &'static str {
    match usage {
        Usage::Label => "label",
        Usage::Counter | Usage::Gauge | Usage::Discard => "metric",
    }
}

fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    !text.is_empty() && text.chars().all(allowed) && !text.starts_with(|c: char| c.is_ascii_digit())
}

fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|reserved| name.starts_with(reserved)) || matches!(name, "howdah" | "process")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<String> {
        match parse(Path::new("q.toml"), text) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(|problem| problem.to_string()).collect(),
        }
    }

    #[test]
    fn a_question_reads_as_it_is_written() {
        let text = "[[queries]]\nname = \"app_orders\"\nquery = \"SELECT state, count(*) AS open FROM public.orders GROUP BY 1\"\n\
                    interval = \"1min\"\ndatabases = [\"app\"]\nroles = [\"primary\"]\n\
                    columns.state = { usage = \"label\" }\ncolumns.open = { usage = \"gauge\", help = \"Orders.\" }\n\
                    [[queries]]\nname = \"b\"\nquery = \"SELECT 1 AS one\"\n[queries.columns.one]\nusage = \"counter\"\n";
        let queries = parse(Path::new("q.toml"), text).unwrap();
        assert_eq!(queries[0].interval, Duration::from_secs(60));
        assert_eq!(
            (queries[0].primary, queries[0].standby, &queries[0].databases[..]),
            (true, false, &["app".to_owned()][..])
        );
        let usages: Vec<_> = queries[0].columns.iter().map(|column| (column.name.as_str(), column.usage)).collect();
        assert!(usages.contains(&("state", Usage::Label)) && usages.contains(&("open", Usage::Gauge)), "{usages:?}");
        assert_eq!((queries[1].primary, queries[1].standby, queries[1].interval), (true, true, INTERVAL));
        assert_eq!(parse(Path::new("q.toml"), "").unwrap(), []);
    }

    #[test]
    fn everything_that_is_wrong_has_its_place() {
        let head = "[[queries]]\nname = \"a\"\nquery = \"SELECT 1\"\n";
        let one = "columns.one = { usage = \"gauge\" }\n";
        for (text, expected) in [
            ("queries = 1".to_owned(), "q.toml:1:1: queries: not a list of tables"),
            ("[[querys]]".to_owned(), "q.toml:1:3: querys: unknown key; did you mean \"queries\"?"),
            (
                format!("{head}intervall = \"1s\"\n{one}"),
                "q.toml:4:1: queries[0].intervall: unknown key; did you mean \"interval\"?",
            ),
            (format!("{head}interval = \"5\"\n{one}"), "q.toml:4:12: queries[0].interval: \"5\" has no unit"),
            (
                format!("{head}roles = [\"replica\"]\n{one}"),
                "q.toml:4:9: queries[0].roles: something in the list is wrong; write some of: primary, standby",
            ),
            (head.to_owned(), "q.toml:1:1: queries[0].columns: it is not said what the columns are"),
            (
                format!("{head}columns.one = {{ usage = \"guage\" }}\n"),
                "q.toml:4:25: queries[0].columns.one.usage: \"guage\" is no usage",
            ),
            (
                format!("{head}columns.node = {{ usage = \"label\" }}\n{one}"),
                "q.toml:4:9: queries[0].columns.node: \"node\" cannot be the name of a label",
            ),
            (
                format!("{head}columns.one = {{ usage = \"label\" }}\n"),
                "q.toml:4:1: queries[0].columns: no column is a metric",
            ),
            (format!("{head}{one}{head}{one}"), "the metric a_one is there twice"),
            (
                format!("[[queries]]\nname = \"howdah_x\"\nquery = \"SELECT 1\"\n{one}"),
                "q.toml:2:8: queries[0].name: \"howdah_x\" cannot begin",
            ),
            (format!("[[queries]]\nname = \"a\"\n{one}"), "queries[0]: \"query\" is missing"),
        ] {
            let said = said(&text);
            assert!(said.iter().any(|problem| problem.contains(expected)), "{expected}: {said:?}");
        }
    }
}
