//! What statements are to the router: our own corpus, run on a real standby; PostgreSQL's, judged by its own grammar; and
//! texts that no parser likes.

mod catalogue;
mod corpus;
mod nasty;
mod regress;
mod script;
mod stack;

use std::fmt::Write as _;
use std::process::Output;
use std::time::Duration;

use howdah::sql::analysis::Analysis;
use howdah::sql::class::{Class, Reason};

use crate::support::{Cluster, Node, SOON, builder, eventually};
use corpus::{Row, rows};

const SCHEMA: &str = include_str!("classes/schema.sql");

/// A primary and a standby with the corpus's schema in a database of its own.
fn cluster() -> Cluster {
    let cluster = builder().standby("b").start().unwrap();
    cluster.primary().sql("CREATE DATABASE corpus").unwrap();
    cluster.primary().sql_in("corpus", SCHEMA).unwrap();
    let standby = cluster.find("b").unwrap();
    let there = "SELECT count(*) FROM pgbench_accounts"; // the schema's last line
    eventually("the schema is on the standby", SOON, || {
        standby.sql_in("corpus", there).is_ok_and(|rows| rows.cell() == Some("1"))
    });
    cluster
}

#[tokio::test]
async fn every_statement_of_the_corpus_is_what_it_should_be_and_a_standby_runs_all_that_read() {
    let cluster = cluster();
    let catalogue = catalogue::read(cluster.primary(), "corpus").await;
    let rows = rows();
    assert!(rows.len() >= 600, "{}", rows.len());
    let mut wrong = String::new();
    for row in &rows {
        let verdict = Analysis::of(row.sql.as_bytes(), true).verdict(&*catalogue);
        if (verdict.class.label(), verdict.reason.label()) != (row.class, row.reason) {
            writeln!(wrong, "{verdict:?} and not {} {}: {}", row.class, row.reason, row.sql).unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    let used = |reason: &Reason| rows.iter().any(|row| row.reason == reason.label());
    // what no text comes to by itself
    let elsewhere = [
        Reason::WritesEverywhere,
        Reason::CatalogueUnread,
        Reason::TooLong,
        Reason::HintPrimary,
        Reason::HintReplica,
        Reason::RefusedByStandby,
    ];
    let unused: Vec<_> = Reason::ALL.iter().filter(|reason| !used(reason) && !elsewhere.contains(reason)).collect();
    assert!(unused.is_empty(), "no statement of the corpus has {unused:?}");

    let reads: Vec<&Row> = rows.iter().filter(|row| row.class == Class::Read.label()).collect();
    let refused = errors(cluster.find("b").unwrap(), &reads);
    assert!(refused.is_empty(), "classed as reads, and not run by a standby:\n{refused}");
    // what is hidden in any place of a statement is found, and the place alone keeps nothing from a standby
    let kept = nasty::wrongly_read(&*catalogue);
    assert!(kept.is_empty(), "classed as reads:\n{}", kept.join("\n"));
    let (read, lost) = nasty::read(&*catalogue);
    assert!(lost.is_empty(), "{} are lost beside {}:\n{}", lost.len(), read.len(), lost.join("\n"));
    let refused = errors(cluster.find("b").unwrap(), &read.iter().collect::<Vec<_>>());
    assert!(refused.is_empty(), "classed as reads, and not run by a standby:\n{refused}");
    // and what it says of one that is none is seen here
    let write = Row { sql: "INSERT INTO orders (note) VALUES ($1)".to_owned(), ..*reads[0] };
    assert!(errors(cluster.find("b").unwrap(), &[&write]).contains("read-only transaction"));
}

/// What psql says of statements that fail on a node.
fn errors(node: &Node, rows: &[&Row]) -> String {
    let script: String = rows.iter().map(|row| one_line(&row.sql) + "\n;\n").collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    let mut psql = node.command("psql");
    psql.args(["-h", node.host(), "-p", &node.port().to_string(), "-U", node.superuser(), "-d", "corpus", "-X", "-q"]);
    psql.env("PGPASSWORD", node.password()).stdin(std::fs::File::open(file.path()).unwrap());
    let Output { stderr, .. } = psql.output().unwrap();
    String::from_utf8_lossy(&stderr).into_owned()
}

/// With nulls for parameters.
fn one_line(sql: &str) -> String {
    let mut out = String::new();
    let mut parts = sql.split('$');
    out.push_str(parts.next().unwrap());
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        out.push_str(if rest.len() < part.len() { " NULL" } else { "$" });
        out.push_str(rest);
    }
    out
}

/// How long anything in here may take at most, whatever is thrown at it, on a busy machine.
const BOUND: Duration = Duration::from_secs(60);
