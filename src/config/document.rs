//! The text of the file as a tree in which every key and value knows its place.
//!
//! Not here: which keys there may be (`schema`), what is wrong with them (`check`, `validate`).

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Place, Problem, Problems};

/// One step on the way from the top of the file to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// Into a table.
    Key(&'a str),
    /// Into a list, counted from 0.
    Item(usize),
}

impl<'a> From<&'a str> for Step<'a> {
    fn from(key: &'a str) -> Self {
        Self::Key(key)
    }
}

impl<'a> From<&'a String> for Step<'a> {
    fn from(key: &'a String) -> Self {
        Self::Key(key)
    }
}

impl From<usize> for Step<'_> {
    fn from(item: usize) -> Self {
        Self::Item(item)
    }
}

/// `key_path!["pool", "size"]`, `key_path!["clusters", &name, "nodes", 0]`
macro_rules! key_path {
    ($($step:expr),* $(,)?) => {
        &[$(crate::config::document::Step::from($step)),*]
    };
}

pub(super) use key_path;

/// Writes a path as a reader of TOML would: `databases."*".pool`, `listeners[0].address`.
pub(super) fn key_name(path: &[Step<'_>]) -> String {
    let mut name = String::new();
    for step in path {
        match step {
            Step::Item(item) => {
                let _ = write!(name, "[{item}]");
            }
            Step::Key(key) => {
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(&toml_key(key));
            }
        }
    }
    name
}

/// A key as TOML wants it: bare where that is possible.
#[must_use]
pub fn toml_key(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if bare { key.to_owned() } else { format!("\"{}\"", key.escape_default()) }
}

/// What a problem points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// The key. Shows nothing of the value, which may be a secret under a mistyped name.
    Key,
    /// The value, which is shown.
    Value,
}

/// Where a key and its value are written; the same for an item of a list.
struct Spans {
    key: Range<usize>,
    value: Range<usize>,
}

/// The parsed file.
pub(super) struct Document<'t> {
    file: &'t Path,
    text: &'t str,
    tree: Spanned<DeTable<'t>>,
}

impl<'t> Document<'t> {
    /// Parses the text.
    ///
    /// # Errors
    /// All errors of TOML's grammar. They show no line of the text: it could hold a password.
    pub(super) fn parse(file: &'t Path, text: &'t str) -> Result<Self, Problems> {
        let (tree, errors) = DeTable::parse_recoverable(text);
        Problems::none_or_all(errors.iter().map(|error| grammar_problem(file, text, error)).collect())?;
        Ok(Self { file, text, tree })
    }

    /// The top of the tree.
    pub(super) fn tree(&self) -> &DeTable<'t> {
        self.tree.get_ref()
    }

    /// The tree for serde.
    pub(super) fn into_tree(self) -> Spanned<DeTable<'t>> {
        self.tree
    }

    /// Whether the file has this key.
    pub(super) fn has(&self, path: &[Step<'_>]) -> bool {
        let (_, depth) = self.locate(path);
        depth == path.len()
    }

    /// A problem at a key, or at the nearest table around it when the file does not have the key.
    pub(super) fn problem(&self, path: &[Step<'_>], at: At, message: impl Into<String>, advice: &str) -> Problem {
        let (found, depth) = self.locate(path);
        let whole = depth == path.len();
        let (start, excerpt) = match &found {
            None => (None, None),
            Some(spans) if whole && at == At::Value => (Some(spans.value.start), self.excerpt(spans)),
            Some(spans) => (Some(spans.key.start), None),
        };
        Problem {
            file: self.file.to_owned(),
            place: start.map(|start| place(self.text, start)),
            key: key_name(path),
            message: message.into(),
            advice: (!advice.is_empty()).then(|| advice.to_owned()),
            excerpt,
        }
    }

    /// A problem at a position that no key names.
    pub(super) fn problem_at(&self, span: Option<Range<usize>>, message: String) -> Problem {
        Problem {
            file: self.file.to_owned(),
            place: span.map(|span| place(self.text, span.start)),
            key: String::new(),
            message,
            advice: None,
            excerpt: None,
        }
    }

    /// The spans of the deepest key on the path, and how many steps led there.
    fn locate(&self, path: &[Step<'_>]) -> (Option<Spans>, usize) {
        let mut found = None;
        let mut depth: usize = 0;
        let mut table = Some(self.tree.get_ref());
        let mut list = None;
        for step in path {
            let (key_span, value) = match step {
                Step::Key(key) => {
                    let Some((key, value)) = table.and_then(|t| t.get_key_value(*key)) else { break };
                    (key.span(), value)
                }
                Step::Item(item) => {
                    let Some(value) = list.and_then(|l: &toml::de::DeArray<'_>| l.get(*item)) else { break };
                    (value.span(), value)
                }
            };
            found = Some(Spans { key: key_span, value: value.span() });
            depth = depth.saturating_add(1);
            (table, list) = match value.get_ref() {
                DeValue::Table(inner) => (Some(inner), None),
                DeValue::Array(inner) => (None, Some(inner)),
                _ => (None, None),
            };
        }
        (found, depth)
    }

    /// `key = value` and carets below the value; nothing else of the line, and nothing when it spans lines.
    fn excerpt(&self, Spans { key, value }: &Spans) -> Option<String> {
        let written = self.text.get(key.start..value.end)?;
        if written.contains('\n') || key == value {
            return None;
        }
        let before = self.text.get(key.start..value.start)?.chars().count();
        let below = self.text.get(value.clone())?.chars().count().max(1);
        Some(format!("{written}\n{:before$}{:^<below$}", "", ""))
    }
}

/// An error of TOML's grammar, in words that its writer knows. Of the text it shows at most a key that is there twice.
fn grammar_problem(file: &Path, text: &str, error: &toml::de::Error) -> Problem {
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    let found = error.span().and_then(|span| text.get(span)).unwrap_or("");
    let start = error.span().and_then(|span| text.get(span.start..)).unwrap_or("");
    let (key, message, advice) = match start.chars().next() {
        _ if message == "duplicate key" => {
            (found, "is there twice".to_owned(), "keep one of them: a table is written once, with all of its keys")
        }
        // `level = info` is read as the beginning of "inf"; what its writer forgot are quotes
        Some(c) if c.is_alphabetic() && message.starts_with("invalid") => {
            ("", "a text without quotes".to_owned(), "write it as in key = \"text\"")
        }
        Some('“' | '”' | '„' | '‘' | '’' | '«' | '»') => {
            ("", "these are no quotes for a computer".to_owned(), "write straight ones, as in key = \"text\"")
        }
        Some(':') => ("", message, "write an equals sign, as in key = \"text\""),
        _ if message.ends_with("expected `\"`") => {
            ("", "a quote has no end in its line".to_owned(), "write \" behind the text")
        }
        _ if message.ends_with("expected `]`") => ("", "a bracket has no end".to_owned(), "write ] behind the name"),
        _ => ("", message, ""),
    };
    Problem {
        file: file.to_owned(),
        place: error.span().map(|span| place(text, span.start)),
        key: key.to_owned(),
        message,
        advice: (!advice.is_empty()).then(|| advice.to_owned()),
        excerpt: None,
    }
}

/// Line and column of a byte.
fn place(text: &str, byte: usize) -> Place {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at.saturating_add(1));
    Place {
        line: before.matches('\n').count().saturating_add(1),
        column: before.get(line_start..).unwrap_or("").chars().count().saturating_add(1),
    }
}
