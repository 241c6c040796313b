//! Connection strings for PostgreSQL's own connections: `primary_conninfo`, `pg_rewind`, `pg_basebackup`.
//!
//! A password never stands in one: PostgreSQL logs `primary_conninfo` when it changes and shows it to monitoring roles, and
//! arguments of programs are everybody's. It is in a passfile of the agent's, which nobody but PostgreSQL's user can read.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::files;
use crate::agent::config::{AgentConfig, Login};
use crate::directive::{Failure, Upstream};

/// `primary_conninfo` for following a node. Its passfile is written.
///
/// # Errors
/// When the passfile cannot be written.
pub fn primary(config: &AgentConfig, upstream: &Upstream) -> Result<String, Failure> {
    Ok(assemble(upstream, &config.replication, None, &config.node, passfile(config)?.as_deref()))
}

/// For a program of PostgreSQL's that asks a node, in a database or for replication. The passfile is written.
///
/// # Errors
/// When the passfile cannot be written.
pub fn program(
    config: &AgentConfig,
    upstream: &Upstream,
    login: &Login,
    database: Option<&str>,
) -> Result<String, Failure> {
    Ok(assemble(upstream, login, database, "howdah agent", passfile(config)?.as_deref()))
}

fn assemble(
    upstream: &Upstream,
    login: &Login,
    database: Option<&str>,
    application: &str,
    passfile: Option<&Path>,
) -> String {
    let mut text = String::new();
    let mut add = |key: &str, value: &str| {
        let space = if text.is_empty() { "" } else { " " };
        let _ = write!(text, "{space}{key}={}", quoted(value));
    };
    add("host", &upstream.host);
    add("port", &upstream.port.to_string());
    add("user", &login.user);
    if let Some(database) = database {
        add("dbname", database);
    }
    add("application_name", application);
    add("sslmode", &login.sslmode);
    if let (Some(passfile), Some(_)) = (passfile, &login.password) {
        add("passfile", &passfile.to_string_lossy());
    }
    text
}

/// As libpq reads it: bare where it is plain (PostgreSQL: `LIBPQ-CONNSTRING-KEYWORD-VALUE`).
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:,@%+".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Host and port that a connection string names; what it leaves out is `None`.
#[must_use]
pub fn place(conninfo: &str) -> (Option<String>, Option<u16>) {
    let pairs = pairs(conninfo);
    let find = |key: &str| pairs.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.clone());
    (find("host"), find("port").and_then(|port| port.parse().ok()))
}

fn pairs(conninfo: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut chars = conninfo.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace() || *c == '=').is_some() {}
        if key.is_empty() {
            return found;
        }
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        while let Some(c) = chars.next() {
            match c {
                '\\' => value.extend(chars.next()),
                '\'' if quoted => break,
                c if !quoted && c.is_whitespace() => break,
                c => value.push(c),
            }
        }
        found.push((key, value));
    }
}

/// Writes the passfile, if any login has a password, and says where it is.
fn passfile(config: &AgentConfig) -> Result<Option<PathBuf>, Failure> {
    let logins = [Some(&config.replication), config.rewind.as_ref()];
    let mut text = String::new();
    for login in logins.into_iter().flatten() {
        if let Some(password) = &login.password {
            let line = format!("*:*:*:{}:{}\n", escaped(&login.user), escaped(password.reveal()));
            if !text.contains(&line) {
                text.push_str(&line);
            }
        }
    }
    if text.is_empty() {
        return Ok(None);
    }
    let path = config.state_directory.join("passfile");
    if files::read(&path)?.as_deref() != Some(text.as_bytes()) {
        files::write(&path, text.as_bytes())?;
    }
    Ok(Some(path))
}

/// PostgreSQL: `LIBPQ-PGPASS`.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace(':', "\\:")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::directive::History;

    fn config(state: &Path) -> AgentConfig {
        let mut config: AgentConfig = toml::from_str(&format!(
            "cluster = 'main'\nnode = 'b'\ndata_directory = '/data'\nstate_directory = '{}'\n\
             [listen]\n[replication]\nuser = 'rep user'",
            state.display()
        ))
        .unwrap();
        config.replication.password = Some(Secret::new("s3cr:et\\".to_owned()));
        config
    }

    #[test]
    fn a_conninfo_names_the_node_and_hides_the_password() {
        let state = tempfile::tempdir().unwrap();
        let upstream = Upstream {
            node: "a".into(),
            host: "10.0.0.1".into(),
            port: 5433,
            slot: "howdah_b".into(),
            history: History::default(),
        };
        let text = primary(&config(state.path()), &upstream).unwrap();
        let passfile = state.path().join("passfile");
        let expected = format!(
            "host=10.0.0.1 port=5433 user='rep user' application_name=b sslmode=prefer passfile={}",
            passfile.display()
        );
        assert_eq!(text, expected);
        assert_eq!(place(&text), (Some("10.0.0.1".to_owned()), Some(5433)));
        assert_eq!(std::fs::read_to_string(&passfile).unwrap(), "*:*:*:rep user:s3cr\\:et\\\\\n");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&passfile).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn connection_strings_are_read_as_libpq_reads_them() {
        let text = r"host = '/tmp/a b' port=6 user='o\'x' password=a\ b host=last";
        assert_eq!(place(text), (Some("last".to_owned()), Some(6)));
        assert_eq!(pairs(text)[2], ("user".to_owned(), "o'x".to_owned()));
        assert_eq!(pairs(text)[3], ("password".to_owned(), "a b".to_owned()));
        assert_eq!(place(""), (None, None));
        assert_eq!(pairs(&format!("a={}", quoted("x' \\y"))), [("a".to_owned(), "x' \\y".to_owned())]);
    }
}
