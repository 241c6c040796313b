//! The generated files say what the structs say.
//!
//! `make docs` runs this with `HOWDAH_WRITE_DOCS=1`, which writes the files instead of comparing them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use howdah::admin::metrics::families::render_tables;
use howdah::cluster::decide::diagram;
use howdah::config::{load, parse, render_docs, render_reference};

fn in_tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn is_current(path: &str, rendered: &str) {
    let file = in_tree(path);
    if std::env::var_os("HOWDAH_WRITE_DOCS").is_some() {
        std::fs::write(&file, rendered).expect("the generated files can be written");
        return;
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = written.lines().zip(rendered.lines()).position(|(a, b)| a != b);
    assert!(
        written == rendered,
        "{path} differs from what the code says (first in line {differs:?}, from 0): run make docs"
    );
}

#[test]
fn the_reference_file_is_what_the_structs_say() {
    is_current("config/howdah.reference.toml", &render_reference());
}

#[test]
fn the_documentation_is_what_the_structs_say() {
    is_current("docs/configuration.md", &render_docs());
}

#[test]
fn the_list_of_metrics_is_the_one_of_the_code() {
    let text = std::fs::read_to_string(in_tree("docs/metrics.md")).expect("it is there");
    let (begin, end) = ("<!-- printed by admin/metrics/families.rs -->\n", "<!-- end -->");
    let (before, rest) = text.split_once(begin).expect("the list's beginning is marked");
    let (_, after) = rest.split_once(end).expect("the list's end is marked");
    is_current("docs/metrics.md", &format!("{before}{begin}{}{end}{after}", render_tables()));
}

#[test]
fn the_state_diagram_in_the_architecture_is_the_one_of_the_code() {
    let text = std::fs::read_to_string(in_tree("ARCHITECTURE.md")).expect("it is there");
    let (begin, end) = ("<!-- printed by cluster/decide/diagram.rs -->\n", "<!-- end -->");
    let (before, rest) = text.split_once(begin).expect("the diagram's beginning is marked");
    let (_, after) = rest.split_once(end).expect("the diagram's end is marked");
    is_current("ARCHITECTURE.md", &format!("{before}{begin}{}{end}{after}", diagram()));
}

#[test]
fn the_reference_file_loads_and_sets_nothing_but_defaults() {
    let path = Path::new("howdah.reference.toml");
    let reference = parse(path, &render_reference()).unwrap_or_else(|problems| panic!("{problems}"));
    let empty = parse(path, "").unwrap();
    assert_eq!(reference.limits, empty.limits);
    assert_eq!(reference.listeners.len(), 1);
    assert_eq!(reference.listeners.first().map(|l| &l.address), empty.listeners.first().map(|l| &l.address));
    assert_eq!(reference.pool, empty.pool);
    assert_eq!(reference.timeouts, empty.timeouts);
    assert_eq!(reference.network, empty.network);
    assert_eq!(reference.auth, empty.auth);
    assert_eq!(reference.http, empty.http);
    assert_eq!(reference.log, empty.log);
}

#[test]
fn what_the_reference_file_shows_in_comments_is_known_too() {
    let example = |line: &str| {
        let (key, _) = line.strip_prefix("# ")?.split_once(" = ")?;
        key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_').then(|| line.replacen("# ", "", 1))
    };
    let text = render_reference();
    let uncommented: Vec<String> = text.lines().map(|line| example(line).unwrap_or_else(|| line.to_owned())).collect();
    let problems = parse(Path::new("howdah.reference.toml"), &uncommented.join("\n")).expect_err("no such files");
    for problem in problems.iter() {
        // Known keys and right values; only the files of the examples do not exist, passwords are there thrice, and rules
        // belong to another method than the default.
        let expected = ["cannot be read", "given twice", "no group", "is no Unix socket", "the rules do not hold"];
        assert!(expected.iter().any(|text| problem.message.contains(text)), "{problem}");
    }
}

#[test]
fn a_file_of_each_released_version_loads_and_one_of_a_newer_is_refused() {
    for entry in std::fs::read_dir(in_tree("tests/corpus")).unwrap() {
        let file = entry.unwrap().path().join("howdah.toml");
        let config = load(&file).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!((config.version, config.pool.size), (1, 20), "{}", file.display());
        assert!(config.profile("anything", "anybody").is_some());
    }
    let path = Path::new("howdah.toml");
    assert_eq!(parse(path, "version = 1").unwrap().version, 1);
    let said = parse(path, "version = 2\nnew_key = 1").unwrap_err().to_string();
    let golden = "howdah.toml:1:11: version: the file is of version 2, and this howdah reads versions up to 1; start a newer \
                  howdah with it, or write it for this one\n    version = 2\n              ^";
    assert_eq!(said, golden);
}

#[test]
fn the_example_file_loads() {
    let config = load(&in_tree("config/howdah.toml")).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(config.profile("anything", "anybody").is_some());
}
