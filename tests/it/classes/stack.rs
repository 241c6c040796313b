//! Texts as deep as a text can be: a process of its own reads them, so that an overflow would be seen and hurt nobody.

use std::process::Command;
use std::time::Instant;

use howdah::sql::analysis::TEXT_MAX;
use howdah::sql::cache::ClassCache;
use howdah::sql::class::Reason;

/// Tells the child that it is one.
const CHILD: &str = "HOWDAH_STACK_TEST";

/// Workers' stacks are as large as those of Rust's threads.
const STACK: usize = 2 << 20;

/// What makes a text deep, around or behind `SELECT a`: opening, repeated, closing.
const CHAINS: [(&str, &str, &str); 16] = [
    ("SELECT 1", " + 1", ""),
    ("SELECT 1", "::int", ""),
    ("SELECT a FROM t WHERE a", " AND b", ""),
    ("SELECT a FROM t WHERE a", " OR b", ""),
    ("SELECT 1", " UNION SELECT 1", ""),
    ("SELECT 1", " UNION ALL (SELECT 1)", ""),
    ("SELECT a", "[1]", ""),
    ("SELECT a", ".b", ""),
    ("SELECT a", "||b", ""),
    ("SELECT ", "(", ")"),
    ("SELECT ", "-", "1"),
    ("SELECT ", "NOT ", "a"),
    ("SELECT ", "f(", ")"),
    ("SELECT ", "(SELECT ", ")"),
    ("SELECT ", "CASE WHEN a THEN ", " END"),
    ("", "EXPLAIN ", "SELECT 1"),
];

fn chain((open, repeated, close): (&str, &str, &str), times: usize) -> String {
    let closes = if close.len() == 1 || close == " END" { times } else { 1 };
    let inner = if closes > 1 { "1" } else { "" };
    format!("{open}{}{inner}{}", repeated.repeat(times), close.repeat(closes))
}

#[test]
fn no_text_is_too_deep() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["classes::stack::reads_texts_of_any_depth", "--exact", "--ignored", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{:?}\n{said}", child.status);
    // it has done what it should
    assert!(String::from_utf8_lossy(&child.stdout).contains("read them all"), "{said}");
}

#[test]
#[ignore = "run by no_text_is_too_deep, in a process of its own"]
fn reads_texts_of_any_depth() {
    assert!(std::env::var_os(CHILD).is_some());
    std::thread::Builder::new().stack_size(STACK).spawn(read_all).unwrap().join().unwrap();
    println!("read them all");
}

fn read_all() {
    let cache = ClassCache::default();
    for shape in CHAINS {
        let each = shape.1.len() + if chain(shape, 2).ends_with(&shape.2.repeat(2)) { shape.2.len() } else { 0 };
        let longest = (TEXT_MAX - 60) / each;
        // as many as may be looked into, and as many as crates that parse have died of
        for (times, looked_into) in [(10, true), (longest, true), (100_000, false)] {
            let text = chain(shape, times);
            assert_eq!(text.len() <= TEXT_MAX, looked_into, "{times} of {:?}", shape.1);
            let started = Instant::now();
            let analysis = cache.analyse(text.as_bytes(), true);
            if !looked_into {
                assert_eq!(analysis.settled().map(|verdict| verdict.reason), Some(Reason::TooLong));
            }
            assert!(started.elapsed() < super::BOUND, "{times} of {:?}", shape.1);
        }
    }
    let deep = "(".repeat(10_000) + "SELECT 1" + &")".repeat(10_000);
    assert_eq!(cache.analyse(deep.as_bytes(), true).settled().map(|verdict| verdict.reason), Some(Reason::TooLong));
}
