//! The shape of the source: which folder may use which, how files begin and what they are not called.
//!
//! The table is that of ARCHITECTURE.md. It is read from the text (`crate::` paths, in `use` and elsewhere), which is
//! enough because nothing here is generated or renamed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What the topmost folders stand on, from the ground up.
const GROUND: [&str; 16] = [
    "pg",
    "protocol",
    "sql",
    "stats",
    "topology",
    "directive",
    "config",
    "net",
    "catalog",
    "agent",
    "proxy",
    "cluster",
    "admin",
    "console",
    "import",
    "demo",
];

/// So many of [`GROUND`].
const fn first(count: usize) -> &'static [&'static str] {
    const GROUNDS: &[&str] = &GROUND;
    GROUNDS.split_at(count).0
}

/// The folders of `src/`, each with those it may use beside itself.
const MAY_USE: &[(&str, &[&str])] = &[
    ("pg", &[]),
    ("protocol", &["pg"]),
    ("sql", &["pg"]),
    ("stats", &[]),
    ("topology", &["pg"]),
    ("directive", &["pg", "topology"]),
    ("config", &["pg", "protocol", "sql", "topology"]),
    ("net", &["pg", "protocol", "sql", "topology", "config"]),
    ("catalog", &["pg", "protocol", "sql", "topology", "config", "net"]),
    ("import", &["pg", "protocol", "config"]),
    ("agent", &["pg", "topology", "directive", "config", "net", "catalog"]),
    ("proxy", &["pg", "protocol", "sql", "stats", "topology", "config", "net", "catalog"]),
    ("cluster", &["pg", "protocol", "sql", "topology", "directive", "config", "net", "catalog"]),
    ("admin", first(12)),
    ("console", first(13)),
    ("demo", first(13)),
    ("cli", first(16)),
];

/// Names that say nothing about what is inside.
const NO_NAMES: [&str; 6] = ["utils", "util", "helpers", "common", "types", "manager"];

fn in_tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Every Rust file below `directory`, with its text.
fn sources(directory: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found.sort();
    found
}

/// The folders of the crate that a text names: `crate::a::b`, `use crate::{a::b, c}`, and the same with `howdah::`.
fn used(text: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    for root in ["crate::", "howdah::"] {
        for (at, _) in code.match_indices(root) {
            // `crate` may end another word, and `howdah` be a module's of ours
            if code.get(..at).and_then(|before| before.chars().last()).is_some_and(|c| c.is_alphanumeric() || c == '_')
            {
                continue;
            }
            let rest = code.get(at + root.len()..).unwrap_or_default();
            match rest.strip_prefix('{') {
                Some(list) => used.extend(heads(list)),
                None => used.extend(head(rest)),
            }
        }
    }
    used
}

/// The first name of a path.
fn head(path: &str) -> Option<String> {
    let name: String = path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// The first name of each path in a list, up to the brace that ends it.
fn heads(list: &str) -> Vec<String> {
    let mut depth = 0_usize;
    let mut heads = vec![head(list)];
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(head(list.get(at + 1..).unwrap_or_default())),
            _ => {}
        }
    }
    heads.into_iter().flatten().collect()
}

/// The wrong imports of a file in `folder`, as sentences.
fn wrong_imports(folder: &str, text: &str) -> Vec<String> {
    let Some((_, may)) = MAY_USE.iter().find(|(name, _)| *name == folder) else {
        return vec![format!("src/{folder} is not in the table of tests/tidy.rs")];
    };
    let known = |name: &String| MAY_USE.iter().any(|(folder, _)| folder == name);
    let wrong = used(text).into_iter().filter(known).filter(|name| name != folder && !may.contains(&name.as_str()));
    wrong.map(|name| format!("{folder} must not use {name}")).collect()
}

#[test]
fn imports_go_one_way() {
    let src = in_tree("src");
    let mut wrong = Vec::new();
    for (path, text) in sources(&src) {
        let path = path.strip_prefix(&src).unwrap();
        let mut parts = path.components().map(|part| part.as_os_str().to_str().unwrap());
        let folder = parts.next().unwrap();
        if ["lib.rs", "main.rs"].contains(&folder) {
            continue;
        }
        let sentences = wrong_imports(folder.trim_end_matches(".rs"), &text);
        wrong.extend(sentences.into_iter().map(|sentence| format!("src/{}: {sentence}", path.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn main_uses_nothing_but_cli() {
    assert_eq!(used(&fs::read_to_string(in_tree("src/main.rs")).unwrap()), BTreeSet::from(["cli".to_owned()]));
}

#[test]
fn every_way_to_write_a_wrong_import_is_seen() {
    for (folder, text) in [
        ("proxy", "use crate::cluster::Watch;"),
        ("cluster", "use crate::proxy::pool;"),
        ("cluster", "fn f() { crate::proxy::nonce(); }"),
        ("protocol", "use crate::{pg::Lsn, net::stream::{self, Stream}};"),
        ("protocol", "use crate::{\n    pg::{Lsn, SqlState},\n    config,\n};"),
        ("pg", "pub(in crate::topology) fn f() {}"),
        ("admin", "use howdah::cli::serve;"),
        ("config", "use crate::demo;"),
        ("elsewhere", ""),
    ] {
        assert_eq!(wrong_imports(folder, text).len(), 1, "{folder}: {text}");
    }
    for (folder, text) in [
        ("proxy", "use crate::{config::Config, net::{self, stream}};\nuse crate::proxy::pool;"),
        ("proxy", "//! [`crate::cluster`] publishes what is read here."),
        ("cluster", "use not_a_crate::proxy; use crate::topology::Board;"),
        ("cli", "use crate::cluster::watch;\nuse crate::proxy::worker::Worker;"),
    ] {
        assert_eq!(wrong_imports(folder, text), Vec::<String>::new(), "{folder}: {text}");
    }
}

#[test]
fn the_table_is_that_of_the_documentation() {
    let documented = fs::read_to_string(in_tree("ARCHITECTURE.md")).unwrap();
    for (folder, may) in MAY_USE {
        let names: Vec<String> = may.iter().map(|name| format!("`{name}`")).collect();
        let uses = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        let row = format!("| `{folder}` | {uses} |");
        assert!(documented.contains(&row), "ARCHITECTURE.md has no line\n{row}");
    }
}

#[test]
fn every_file_says_what_it_is() {
    for directory in ["src", "tests"] {
        let silent: Vec<_> = sources(&in_tree(directory))
            .into_iter()
            .filter(|(_, text)| !text.starts_with("//! "))
            .map(|(path, _)| path)
            .collect();
        assert!(silent.is_empty(), "these do not begin with //! {silent:?}");
    }
}

#[test]
fn no_file_has_a_name_that_says_nothing() {
    for (path, _) in sources(&in_tree("src")) {
        let names = path.strip_prefix(in_tree("src")).unwrap().with_extension("");
        let vague = names.components().any(|name| NO_NAMES.iter().any(|vague| name.as_os_str() == *vague));
        assert!(!vague, "{}: name it after what it is for", path.display());
    }
}

/// The texts in the `#[error(…)]` attributes of a source, up to the first thing that is put into each.
fn error_texts(source: &str) -> Vec<String> {
    let mut texts = Vec::new();
    for attribute in source.split("#[error(").skip(1) {
        let attribute = attribute.split(")]\n").next().unwrap_or_default();
        let mut rest = attribute;
        while let Some((_, inside)) = rest.split_once('"') {
            let mut text = String::new();
            let mut chars = inside.char_indices();
            let end = loop {
                match chars.next() {
                    Some((_, '\\')) => text.extend(chars.next().map(|(_, escaped)| escaped)),
                    Some((at, '"')) => break at + 1,
                    Some((_, char)) => text.push(char),
                    None => break inside.len(),
                }
            };
            rest = inside.get(end..).unwrap_or_default();
            texts.push(text.split('{').next().unwrap_or_default().trim_end().to_owned());
        }
    }
    texts.retain(|text| !text.is_empty());
    texts
}

#[test]
fn every_error_of_ours_is_documented() {
    let documented = fs::read_to_string(in_tree("docs/errors.md")).unwrap();
    let console = documented.find("## At the console").unwrap();
    let (elsewhere, at_console) = documented.split_at(console);
    for (path, section, least) in [
        ("src/proxy/error.rs", elsewhere, 50),
        ("src/console/refusal.rs", at_console, 25),
        ("src/proxy/orders/mod.rs", at_console, 9),
    ] {
        let texts = error_texts(&fs::read_to_string(in_tree(path)).unwrap());
        assert!(texts.len() >= least, "{path}: {texts:?}");
        for text in texts {
            let explains = |line: &str| line.starts_with('|') && line.contains(&text);
            assert!(section.lines().any(explains), "docs/errors.md does not explain \"{text}\" of {path}");
        }
    }
}

#[test]
fn every_text_of_an_error_is_found() {
    let source = "#[error(\"plain\")]\n A,\n#[error(\"no \\\"{0}\\\" here\")]\n#[error(\"{}\", cut(format!(\"inner {}\", .0)))]\n\
                  #[error(transparent)]\n#[error(\"{0}\")]\n";
    assert_eq!(error_texts(source), ["plain", "no \"", "inner"]);
}
