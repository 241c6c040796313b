//! PostgreSQL's regression scripts and our own corpus, judged by PostgreSQL's own grammar (libpg_query).
//!
//! Its verdicts are in `verdicts.txt`, a letter per statement, written by tests/oracle; the scripts themselves are
//! PostgreSQL's and come with `make conformance`. Our own corpus is always judged.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use howdah::sql::analysis::Analysis;
use howdah::sql::class::{Class, Reason};
use howdah::sql::knowledge::Assumed;

use super::corpus::rows;
use super::script::statements;

/// What the grammar says of each statement of a file: `r` it reads, `w` it does not, `x` it is none.
fn verdicts() -> HashMap<&'static str, (&'static str, &'static str)> {
    let lines = include_str!("verdicts.txt").lines().filter(|line| !line.starts_with('#'));
    let parts = lines.map(|line| line.split(' ').collect::<Vec<_>>());
    parts.map(|parts| (parts[0], (parts[1], parts[2]))).collect()
}

/// What a text is known by: FNV-1a, 64 bits.
fn checksum(text: &[u8]) -> String {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", text.iter().fold(0xcbf2_9ce4_8422_2325, fold))
}

#[derive(Debug, Default)]
struct Tally {
    statements: usize,
    reads: usize,
    lost: usize,
    wrong: String,
}

impl Tally {
    fn judge(&mut self, sql: &[u8], verdict: char) {
        self.statements += 1;
        let ours = Analysis::of(sql, true).verdict(&Assumed::ALL_READ);
        match (verdict, ours.class) {
            ('w', Class::Read) => writeln!(self.wrong, "{}", String::from_utf8_lossy(sql)).unwrap(),
            ('r', Class::Read) => self.reads += 1,
            ('r', _) => {
                self.reads += 1;
                let by_syntax = [
                    Reason::NotUnderstood,
                    Reason::Ambiguous,
                    Reason::UnknownStatement,
                    Reason::NotText,
                    Reason::TooLong,
                ];
                self.lost += usize::from(by_syntax.contains(&ours.reason));
            }
            _ => {}
        }
    }

    fn assert_good(&self, lost_percent_max: usize) {
        println!("{} statements, {} reads, {} of them lost", self.statements, self.reads, self.lost);
        assert!(self.wrong.is_empty(), "classed as reads, and the grammar says otherwise:\n{}", self.wrong);
        assert!(self.lost * 100 < self.reads * lost_percent_max, "{} of {} reads are lost", self.lost, self.reads);
    }
}

/// The scripts, where `make conformance` has put them.
fn scripts() -> Vec<PathBuf> {
    let target = crate::support::binary().ancestors().nth(2).unwrap();
    let sql = target.join("conformance/inputs/regress/sql");
    let Ok(entries) = std::fs::read_dir(std::env::var_os("HOWDAH_REGRESS").map_or(sql, PathBuf::from)) else {
        return Vec::new();
    };
    let mut scripts: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    scripts.retain(|path| path.extension().is_some_and(|extension| extension == "sql"));
    scripts.sort();
    scripts
}

#[test]
fn no_statement_of_our_corpus_reads_that_postgresqls_grammar_says_does_not() {
    let (_, verdicts) = verdicts()["corpus"];
    let rows = rows();
    assert_eq!(rows.len(), verdicts.len(), "corpus.txt has changed: tests/oracle/README.md says how to judge it anew");
    let mut tally = Tally::default();
    rows.iter().zip(verdicts.chars()).for_each(|(row, verdict)| tally.judge(row.sql.as_bytes(), verdict));
    tally.assert_good(10); // it is full of what is meant to be lost
}

#[test]
fn no_statement_of_postgresqls_regression_scripts_is_on_the_wrong_side() {
    let scripts = scripts();
    if scripts.is_empty() {
        eprintln!("skipped: PostgreSQL's regression scripts are not here; make conformance fetches them");
        return;
    }
    let verdicts = verdicts();
    let mut tally = Tally::default();
    let mut unknown = 0;
    for path in &scripts {
        let script = std::fs::read(path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        match verdicts.get(name) {
            Some((sum, verdicts)) if *sum == checksum(&script) => {
                let statements = statements(&script);
                assert_eq!(statements.len(), verdicts.len(), "{name}");
                statements.iter().zip(verdicts.chars()).for_each(|(sql, verdict)| tally.judge(sql, verdict));
            }
            _ => unknown += 1, // of another minor version
        }
    }
    println!("{} scripts, {unknown} of them another version's", scripts.len());
    assert!(unknown < scripts.len() / 4, "verdicts.txt is of another version: {unknown} of {} scripts", scripts.len());
    tally.assert_good(5);
}

/// Writes what tests/oracle reads: a line of JSON per text, `[name, checksum, [statement, …]]`.
#[test]
#[ignore = "by hand: tests/oracle/README.md"]
fn statements_for_the_oracle() {
    let into = std::env::var_os("HOWDAH_ORACLE").expect("HOWDAH_ORACLE names the file to write");
    let mut lines = String::new();
    let corpus: Vec<_> = rows().into_iter().map(|row| row.sql).collect();
    writeln!(lines, "{}", serde_json::json!(["corpus", "-", corpus])).unwrap();
    for path in scripts() {
        let script = std::fs::read(&path).unwrap();
        let statements: Vec<_> = statements(&script).into_iter().map(String::from_utf8_lossy).collect();
        let name = path.file_name().unwrap().to_str().unwrap();
        writeln!(lines, "{}", serde_json::json!([name, checksum(&script), statements])).unwrap();
    }
    std::fs::write(Path::new(&into), lines).unwrap();
}
