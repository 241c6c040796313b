//! PostgreSQL's own tests, directly and through howdah in session and in transaction mode: `make conformance`.
//!
//! The judge is PostgreSQL's `pg_regress`: what psql prints must be what PostgreSQL's developers expect, byte for byte.
//! `scripts/conformance` gets the tests and says through `HOWDAH_CONFORMANCE_…` which to run. What may differ, and why, is
//! the table in `docs/conformance.md`; anything else fails.
//!
//! - [`run`]: one suite in one mode, on a PostgreSQL of its own
//! - [`outcome`]: what `pg_regress` says, taken apart
//! - [`table`]: the differences that are known

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod outcome;
mod run;
#[path = "../support/mod.rs"]
mod support;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;

use self::outcome::{Outcome, Verdict};
use self::run::{Mode, Suite};
use self::table::{Known, Table};

/// How many tests of the regression suite may differ in transaction mode.
const DIFFERENCES_MAX: usize = 10;

/// The words of a variable, or `all` where it has none.
fn words<T>(variable: &str, all: &[T]) -> Vec<T>
where
    T: Copy + std::fmt::Display,
{
    let said = std::env::var(variable).unwrap_or_default();
    let said: Vec<&str> = said.split_whitespace().collect();
    let named = |word: &str| {
        let found = all.iter().find(|known| known.to_string() == word);
        *found.unwrap_or_else(|| panic!("{variable} knows no \"{word}\""))
    };
    if said.is_empty() { all.to_vec() } else { said.into_iter().map(named).collect() }
}

#[test]
#[ignore = "minutes, and a download: make conformance"]
fn what_postgresql_s_own_tests_see_is_the_same_through_howdah() {
    let directory = PathBuf::from(std::env::var_os("HOWDAH_CONFORMANCE_DIR").expect("run scripts/conformance"));
    let modes = words("HOWDAH_CONFORMANCE_MODES", &Mode::ALL);
    let suites = words("HOWDAH_CONFORMANCE_SUITES", &Suite::ALL);
    let only = std::env::var("HOWDAH_CONFORMANCE_ONLY").unwrap_or_default();
    let only: Vec<&str> = only.split_whitespace().collect();
    let table = Table::read();

    let (mut counts, mut complaints) = (Vec::new(), Vec::new());
    let tests: Vec<_> = suites.into_iter().map(|suite| (suite, run::tests(suite, &only, &directory))).collect();
    for test in &only {
        assert!(tests.iter().any(|(_, tests)| tests.iter().any(|known| known == test)), "there is no test \"{test}\"");
    }
    for (suite, tests) in tests.into_iter().filter(|(_, tests)| !tests.is_empty()) {
        let mut direct = None;
        for &mode in &modes {
            let outcome = run::run(suite, mode, &tests, !only.is_empty(), &directory);
            let differing = differences(&outcome, direct.as_ref());
            complaints.extend(judge(suite, mode, &differing, &table));
            counts.push(format!("{suite:<10} {mode:<12} {} of {}", outcome.passed(), outcome.tests.len()));
            if mode == Mode::Direct {
                direct = Some(outcome);
            }
        }
    }
    println!("\n{}\n", counts.join("\n"));
    assert!(complaints.is_empty(), "{}", complaints.join("; "));
}

/// What went wrong in `outcome`; what goes wrong without howdah too is not counted.
fn differences<'a>(outcome: &'a Outcome, direct: Option<&Outcome>) -> BTreeMap<&'a str, &'a str> {
    let directly_too = |test: &str| direct.is_some_and(|direct| direct.tests.get(test) != Some(&Verdict::Passed));
    let failed = outcome.tests.iter().filter_map(|(test, verdict)| match verdict {
        Verdict::Passed => None,
        Verdict::Failed(first_line) => Some((test.as_str(), first_line.as_str())),
    });
    failed.filter(|(test, _)| !directly_too(test)).collect()
}

/// Prints the differences of a run. The answer is why it is not good.
fn judge(suite: Suite, mode: Mode, differing: &BTreeMap<&str, &str>, table: &Table) -> Vec<String> {
    let mut new = 0;
    for (test, line) in differing {
        let remark = match table.find(suite, mode, test, line) {
            Known::Yes => "known",
            Known::Otherwise => "OTHER",
            Known::No => "NEW  ",
        };
        new += usize::from(remark != "known");
        println!("{suite} {mode} {remark} {test:<28} {line}");
    }
    let mut complaints = Vec::new();
    if new > 0 {
        complaints.push(format!("{suite} {mode}: {new} differences are not in docs/conformance.md"));
    }
    if mode == Mode::Transaction && suite == Suite::Regress && differing.len() > DIFFERENCES_MAX {
        complaints.push(format!("{suite} {mode}: {} tests differ, more than {DIFFERENCES_MAX}", differing.len()));
    }
    complaints
}
