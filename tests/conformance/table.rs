//! The differences that are known: the tables of `docs/conformance.md`, one under each heading that names a suite and a
//! mode, each row a test, its first differing line, and the cause.

use std::collections::BTreeMap;

use super::run::{Mode, Suite};

/// What the table says of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// This one.
    Yes,
    /// Another one of the same test.
    Otherwise,
    /// None of this test.
    No,
}

/// All rows.
#[derive(Debug, Default)]
pub struct Table {
    rows: BTreeMap<(String, String), String>, // (heading, test): line
}

impl Table {
    /// The committed one.
    pub fn read() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/conformance.md");
        Self::parse(&std::fs::read_to_string(path).unwrap())
    }

    /// Panics at a row that is not complete.
    fn parse(page: &str) -> Self {
        let mut rows = BTreeMap::new();
        let mut heading = String::new();
        for line in page.lines() {
            if let Some(text) = line.strip_prefix("## ") {
                heading = text.trim().to_ascii_lowercase();
            }
            let Some(row) = line.strip_prefix("| `").and_then(|row| row.strip_suffix(" |")) else { continue };
            let Some((test, rest)) = row.split_once("` | `") else { panic!("no first differing line: {line}") };
            let Some((first, cause)) = rest.split_once("` | ") else { panic!("no cause: {line}") };
            assert!(!cause.trim().is_empty(), "no cause: {line}");
            let first = first.replace("\\|", "|");
            let before = rows.insert((heading.clone(), test.to_owned()), first);
            assert_eq!(before, None, "two rows for {test} under {heading}");
        }
        Self { rows }
    }

    /// What it says of this difference.
    pub fn find(&self, suite: Suite, mode: Mode, test: &str, line: &str) -> Known {
        let heading = format!("{suite}, {mode} mode");
        match self.rows.get(&(heading, test.to_owned())) {
            Some(known) if matches(known.trim_end(), line.trim_end()) => Known::Yes,
            Some(_) => Known::Otherwise,
            None => Known::No,
        }
    }

    /// How many tests are known to differ.
    #[cfg(test)]
    fn count(&self, suite: Suite, mode: Mode) -> usize {
        let heading = format!("{suite}, {mode} mode");
        self.rows.keys().filter(|(of, _)| *of == heading).count()
    }
}

/// Whether a line is the one in the table, where `…` stands for what is not always the same.
fn matches(known: &str, line: &str) -> bool {
    let mut pieces = known.split('…');
    let Some(mut rest) = pieces.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let mut last = None;
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
        last = Some(piece);
    }
    rest.is_empty() || last.is_some_and(|last| line.ends_with(last))
}

#[test]
fn a_line_may_leave_open_what_is_not_always_the_same() {
    for (known, line, same) in [
        ("- a", "- a", true),
        ("- a", "- ab", false),
        ("-…: NOTIFY … from x", "-b: NOTIFY \"c\" from x", true),
        ("-…: NOTIFY … from x", "-b: NOTIFY from x", false),
        ("-…: NOTIFY … from x", "+b: NOTIFY \"c\" from x", false),
        ("- a…", "- abc", true),
        ("-…x", "-xyx", true),
    ] {
        assert_eq!(matches(known, line), same, "{known} and {line}");
    }
}

#[test]
fn every_known_difference_has_a_line_and_a_cause_and_they_are_few() {
    let table = Table::read();
    assert_eq!(table.count(Suite::Regress, Mode::Session), 0, "session mode equals direct");
    assert!(table.count(Suite::Regress, Mode::Transaction) <= super::DIFFERENCES_MAX);
}

#[test]
fn a_row_is_found_by_suite_mode_test_and_line() {
    let table = Table::parse("## Regress, transaction mode\n\n| `guc` | `- a \\| b` | because |\n");
    assert_eq!(table.find(Suite::Regress, Mode::Transaction, "guc", "- a | b"), Known::Yes);
    assert_eq!(table.find(Suite::Regress, Mode::Transaction, "guc", "+ c"), Known::Otherwise);
    assert_eq!(table.find(Suite::Regress, Mode::Session, "guc", "- a | b"), Known::No);
}
