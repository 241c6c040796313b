//! What a whole file leads to.

use std::path::Path;

use super::*;

mod auth;
mod failover;
mod problems;
mod settings;

/// A file that configures one cluster, after the text of a test.
const MAIN: &str = r#"
[clusters.main]
monitor = { user = "howdah" }
nodes = [{ name = "a", host = "127.0.0.1" }]
"#;

/// A file that only its owner can read.
fn private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

fn read(text: &str) -> Result<Config, Problems> {
    parse(Path::new("/etc/howdah/howdah.toml"), text)
}

/// The problems of a text, one line each, without excerpts and the path.
fn said(text: &str) -> Vec<String> {
    let problems = read(text).expect_err("this file should be wrong");
    let first_line = |problem: &Problem| problem.to_string().lines().next().unwrap_or_default().to_owned();
    problems.iter().map(first_line).map(|line| line.replace("/etc/howdah/howdah.toml:", "")).collect()
}
