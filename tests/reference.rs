//! The generated files say what the structs say.
//!
//! `make docs` runs this with `HOWDAH_WRITE_DOCS=1`, which writes the files instead of comparing them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

use howdah::admin::metrics::families::render_tables;
use howdah::agent;
use howdah::agent::epochs::Epochs;
use howdah::agent::journal::Journal;
use howdah::agent::postgres::frozen;
use howdah::cluster::decide::{Record, diagram};
use howdah::cluster::store::{LocalStore, Store as _};
use howdah::config::{load, parse, render_docs, render_reference};
use howdah::topology::Epoch;

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
        let folder = entry.unwrap().path();
        let file = folder.join("howdah.toml");
        let config = load(&file).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!((config.version, config.pool.size), (1, 20), "{}", file.display());
        assert!(config.profile("anything", "anybody").is_some());
        let agent = agent::load::load(&folder.join("agent.toml")).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!((agent.version, &*agent.node), (1, "a"));
        the_state_of_a_released_version_is_read_kept_and_not_taken_from_a_newer_one(&folder.join("state"));
    }
    let path = Path::new("howdah.toml");
    assert_eq!(parse(path, "version = 1").unwrap().version, 1);
    let said = parse(path, "version = 2\nnew_key = 1").unwrap_err().to_string();
    let golden = "howdah.toml:1:11: version: the file is of version 2, and this howdah reads versions up to 1; start a newer \
                  howdah with it, or write it for this one\n    version = 2\n              ^";
    assert_eq!(said, golden);
}

/// What daemon and agent have kept; written by the howdah of that version.
fn the_state_of_a_released_version_is_read_kept_and_not_taken_from_a_newer_one(state: &Path) {
    let here = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let copy = |from: &str| {
        let to = here.path().join(from);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(state.join(from), &to).unwrap();
        to
    };
    let text = |path: &Path| std::fs::read_to_string(path).unwrap();
    let newer = |path: &Path| {
        let text =
            text(path).replacen("\"version\": 1", "\"version\": 2", 1).replacen('{', "{\"of_the_future\": 1,", 1);
        assert!(text.contains("\"version\": 2"), "{text}");
        std::fs::write(path, &text).unwrap();
        text
    };
    const REFUSED: &str = "it is of version 2, and this howdah reads versions up to 1: start the howdah that wrote it";

    // the daemon's record of a cluster
    let record_file = copy("store/main.json");
    let store = LocalStore::at(&here.path().join("store"));
    let record = runtime.block_on(store.load("main")).unwrap().unwrap();
    assert_eq!((record.generation, record.epoch.0, record.primary.as_deref()), (6, 2, Some("b")));
    assert_eq!(record.history.len(), 1);
    let next = Record { generation: 7, ..record };
    runtime.block_on(store.save("main", 6, &next)).unwrap();
    assert_eq!(runtime.block_on(store.load("main")).unwrap().unwrap(), next);
    let left = newer(&record_file);
    let refused = runtime.block_on(store.load("main")).unwrap_err().to_string();
    assert!(refused.contains("main.json\": ") && refused.contains(REFUSED), "{refused}");
    assert!(runtime.block_on(store.save("main", 7, &Record { generation: 8, ..next })).is_err());
    assert_eq!(text(&record_file), left);

    // the agent's promise
    let epoch_file = copy("agent/epoch.json");
    let agent = here.path().join("agent");
    let mut epochs = Epochs::open(&agent).unwrap();
    assert_eq!(epochs.promise().epoch, Epoch(2));
    runtime.block_on(epochs.take(Epoch(3), "somebody")).unwrap();
    assert_eq!(Epochs::open(&agent).unwrap().promise().epoch, Epoch(3));
    newer(&epoch_file);
    let refused = Epochs::open(&agent).unwrap_err().to_string();
    assert!(refused.contains("epoch.json\": ") && refused.contains(REFUSED), "{refused}");

    // what a freeze has put away
    let frozen_file = copy("agent/frozen.json");
    let kept = frozen::load(&agent).unwrap().unwrap();
    assert!(kept["primary_conninfo"].as_ref().unwrap().contains("application_name=c"));
    assert_eq!((kept.len(), &kept["restore_command"]), (2, &None));
    frozen::clear(&agent).unwrap();
    std::fs::write(here.path().join("postgresql.auto.conf"), "primary_conninfo = 'host=a'\n").unwrap();
    let kept = frozen::keep(&agent, here.path()).unwrap();
    assert_eq!(frozen::load(&agent).unwrap().unwrap(), kept);
    newer(&frozen_file);
    let refused = frozen::load(&agent).unwrap_err().to_string();
    assert!(refused.contains("frozen.json") && refused.contains(REFUSED), "{refused}");

    // its journal
    let jobs: Vec<String> = std::fs::read_dir(state.join("agent/jobs"))
        .unwrap()
        .map(|job| job.unwrap().file_name().into_string().unwrap())
        .collect();
    let files: Vec<PathBuf> = jobs.iter().map(|job| copy(&format!("agent/jobs/{job}"))).collect();
    let (journal, records) = Journal::open(&agent).unwrap();
    assert_eq!(records.len(), jobs.len());
    assert!(records.iter().all(|record| record.before.len() == record.job.steps.len()));
    for record in &records {
        runtime.block_on(journal.write(record)).unwrap();
    }
    let (_, again) = Journal::open(&agent).unwrap();
    assert!(records.iter().zip(&again).all(|(one, two)| (&one.job, &one.before) == (&two.job, &two.before)));
    newer(&files[0]);
    let refused = Journal::open(&agent).unwrap_err().to_string();
    assert!(refused.contains(&jobs[0]) && refused.contains(REFUSED), "{refused}");
    assert!(files[0].exists(), "what a newer howdah was in the middle of is not forgotten");
}

/// Files with a mistake, and what is said of each, in `tests/mistakes`: to be read as whoever has made the mistake.
#[test]
fn every_mistake_is_told_as_the_table_says() {
    let mut said = String::new();
    for folder in ["howdah", "agent"] {
        let mut files: Vec<PathBuf> = std::fs::read_dir(in_tree("tests/mistakes").join(folder))
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        files.sort();
        for file in files {
            let name = format!("{folder}/{}", file.file_name().unwrap().to_str().unwrap());
            let text = std::fs::read_to_string(&file).unwrap();
            let path = PathBuf::from(format!("{folder}.toml"));
            let problems = match folder {
                "howdah" => parse(&path, &text).map(drop),
                _ => agent::load::parse(&path, &text).map(drop),
            };
            let problems = problems.expect_err(&name);
            assert!(!problems.to_string().contains("hunter2"), "{name} shows a password");
            said += &format!("# {name}\n{problems}\n\n");
        }
    }
    is_current("tests/mistakes/said.txt", &said);
}

#[test]
fn the_example_file_loads() {
    let config = load(&in_tree("config/howdah.toml")).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(config.profile("anything", "anybody").is_some());
}
