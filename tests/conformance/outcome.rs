//! What `pg_regress` says, taken apart: its list of tests, and the differences it has found.
//!
//! Pure. Written against the words of PostgreSQL 15.

use std::collections::BTreeMap;

/// How one test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every byte as expected.
    Passed,
    /// Not; with the first line that differs, as `diff` marks it, or what became of the test.
    Failed(String),
}

/// How all tests ended, by name.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The tests that were run to an end, or should have been.
    pub tests: BTreeMap<String, Verdict>,
}

impl Outcome {
    /// From the tests that should run, what `pg_regress` printed, and its `regression.diffs`.
    pub fn new(scheduled: &[String], printed: &str, diffs: &str) -> Self {
        let first_lines = first_lines(diffs);
        let said: BTreeMap<&str, &str> = printed.lines().filter_map(verdict).collect();
        let verdict = |test: &String| match said.get(test.as_str()) {
            None => Verdict::Failed("(did not end)".to_owned()),
            Some(said) if said.starts_with("ok") => Verdict::Passed,
            Some(said) => Verdict::Failed(match first_lines.get(test.as_str()) {
                Some(line) => (*line).to_owned(),
                None => format!("({said})"),
            }),
        };
        Self { tests: scheduled.iter().map(|test| (test.clone(), verdict(test))).collect() }
    }

    /// How many are as expected.
    pub fn passed(&self) -> usize {
        self.tests.values().filter(|verdict| **verdict == Verdict::Passed).count()
    }
}

/// The tests of a schedule, in order.
pub fn scheduled(schedule: &str) -> Vec<String> {
    let lines = schedule.lines().filter_map(|line| line.strip_prefix("test:"));
    lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

/// A line like `test boolean    ... ok     51 ms`, or the same indented in a parallel group.
fn verdict(line: &str) -> Option<(&str, &str)> {
    let (test, said) = line.split_once(" ... ")?;
    let test = test.strip_prefix("test ").unwrap_or(test).trim();
    let said = said.trim();
    let said = said.strip_suffix(" ms").map_or(said, |said| said.trim_end_matches(|c: char| c.is_ascii_digit()));
    (!test.is_empty()).then_some((test, said.trim_end()))
}

/// The first line of each test's first hunk that is not the same on both sides.
fn first_lines(diffs: &str) -> BTreeMap<&str, &str> {
    let mut found = BTreeMap::new();
    let (mut test, mut inside) = ("", false);
    for line in diffs.lines() {
        if let Some(files) = line.strip_prefix("diff -U3 ") {
            let result = files.rsplit('/').next().unwrap_or_default();
            (test, inside) = (result.strip_suffix(".out").unwrap_or(result), false);
        } else if line.starts_with("@@ ") {
            inside = true;
        } else if inside && line.starts_with(['+', '-']) {
            found.entry(test).or_insert(line);
        }
    }
    found
}

#[test]
fn the_words_of_pg_regress_are_understood() {
    let printed = "\
test test_setup                   ... ok          152 ms
parallel group (3 tests):  guc name temp
     guc                          ... FAILED      120 ms
     name                         ... FAILED (test process exited with exit code 2)      120 ms
     temp                         ... ok           11 ms
";
    let diffs = "\
diff -U3 /e/guc.out /r/results/guc.out
--- /e/guc.out\t2026-11-21
+++ /r/results/guc.out\t2026-11-21
@@ -5,7 +5,7 @@
 SHOW x;
- a
+ b
";
    let scheduled = scheduled("# a comment\ntest: test_setup\ntest: guc name temp\n\ntest: last\n");
    assert_eq!(scheduled.len(), 5);
    let outcome = Outcome::new(&scheduled, printed, diffs);
    assert_eq!(outcome.passed(), 2);
    assert_eq!(outcome.tests["guc"], Verdict::Failed("- a".to_owned()));
    assert_eq!(outcome.tests["name"], Verdict::Failed("(FAILED (test process exited with exit code 2))".to_owned()));
    assert_eq!(outcome.tests["last"], Verdict::Failed("(did not end)".to_owned()));
}
