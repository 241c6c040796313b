//! What the file only points at: passwords in other files, groups by name, paths relative to the file.
//!
//! Runs again on every reload, so that a new certificate or password file is noticed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::auth::Auth;
use super::cluster::Monitor;
use super::credential::Credential;
use super::document::{At, Document, Step, key_path};
use super::file::Config;
use super::hba::{Fault, Hba, IdentMaps};
use super::problem::{Place, Problem};
use super::queries;
use super::secret::Secret;
use super::secret_file::{Exposed, exposed};
use super::stats::Stats;
use super::users_file;

/// A shorter token could be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// Fills in what is found elsewhere; a problem for everything that is not found.
pub(super) fn complete(config: &mut Config, document: &Document<'_>, file: &Path) -> Vec<Problem> {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let base = file.parent().unwrap_or_else(|| Path::new("/")).to_owned();
    let mut seek = Seek { document, base, problems: Vec::new() };
    for (i, listener) in config.listeners.iter_mut().enumerate() {
        if let Some(group) = &listener.socket_group {
            listener.socket_gid = seek.group(group, key_path!["listeners", i, "socket_group"]);
        }
        if let Some(tls) = &mut listener.tls {
            seek.file(&mut tls.cert, key_path!["listeners", i, "tls", "cert"]);
            seek.private(&mut tls.key, key_path!["listeners", i, "tls", "key"]);
            seek.file(&mut tls.ca, key_path!["listeners", i, "tls", "ca"]);
        }
    }
    for (name, user) in &mut config.users {
        let given = Password { text: &user.password, file: &mut user.password_file, env: &user.password_env };
        if let Some((secret, key)) = seek.password(given, key_path!["users", name]) {
            user.credential = seek.credential(secret, key_path!["users", name, key]);
        }
    }
    for (name, database) in &mut config.databases {
        let given =
            Password { text: &database.password, file: &mut database.password_file, env: &database.password_env };
        if let Some((secret, key)) = seek.password(given, key_path!["databases", name]) {
            database.credential = seek.credential(secret, key_path!["databases", name, key]);
        }
    }
    seek.auth(&mut config.auth);
    config.http.admin_token = seek.token(&mut config.http.admin_token_file, "admin_token_file");
    config.http.read_token = seek.token(&mut config.http.read_token_file, "read_token_file");
    seek.queries(&mut config.stats);
    config.store.path = seek.base.join(&config.store.path);
    for (name, cluster) in &mut config.clusters {
        if let Some(monitor) = &mut cluster.monitor {
            let known = config.users.get(&monitor.user).and_then(|user| user.credential.as_ref());
            let known = known.or_else(|| config.auth.file_users.get(&monitor.user));
            seek.monitor(name, monitor, known);
        }
        seek.file(&mut cluster.agents.ca, key_path!["clusters", name, "agents", "ca"]);
        seek.file(&mut cluster.agents.cert, key_path!["clusters", name, "agents", "cert"]);
        seek.private(&mut cluster.agents.key, key_path!["clusters", name, "agents", "key"]);
        for (i, node) in cluster.nodes.iter_mut().enumerate() {
            if let Some(tls) = &mut node.tls {
                seek.file(&mut tls.ca, key_path!["clusters", name, "nodes", i, "tls", "ca"]);
                seek.file(&mut tls.cert, key_path!["clusters", name, "nodes", i, "tls", "cert"]);
                seek.private(&mut tls.key, key_path!["clusters", name, "nodes", i, "tls", "key"]);
            }
        }
    }
    seek.problems
}

/// The three ways to give a password.
struct Password<'c> {
    text: &'c Option<Secret>,
    file: &'c mut Option<PathBuf>,
    env: &'c Option<String>,
}

struct Seek<'d, 't> {
    document: &'d Document<'t>,
    base: PathBuf,
    problems: Vec<Problem>,
}

impl Seek<'_, '_> {
    fn report(&mut self, path: &[Step<'_>], at: At, message: impl Into<String>, advice: &str) {
        self.problems.push(self.document.problem(path, at, message, advice));
    }

    /// Makes a path absolute and sees whether it can be read.
    fn file(&mut self, file: &mut Option<PathBuf>, path: &[Step<'_>]) {
        let Some(file) = file else { return };
        *file = self.base.join(&*file);
        // looked at before it is opened: a pipe would be waited for
        let readable = fs::metadata(&*file)
            .and_then(|found| if found.is_file() { File::open(&*file).map(|_| found) } else { Ok(found) });
        match readable {
            Ok(metadata) if !metadata.is_dir() && !metadata.is_file() => {
                let message = format!("\"{}\" is a pipe, a socket or a device", file.display());
                self.report(path, At::Value, message, "write the path of a file");
            }
            Ok(metadata) if metadata.is_dir() => {
                let message = format!("\"{}\" is a directory", file.display());
                self.report(path, At::Value, message, "write the path of a file");
            }
            Ok(_) => {}
            Err(error) => {
                let message = format!("\"{}\" cannot be read: {error}", file.display());
                self.report(path, At::Value, message, "");
            }
        }
    }

    /// [`Self::file`], for one that holds a secret.
    fn private(&mut self, file: &mut Option<PathBuf>, path: &[Step<'_>]) {
        let before = self.problems.len();
        self.file(file, path);
        let found = file.as_deref().filter(|_| self.problems.len() == before);
        if let Some(Exposed { message, advice }) = found.and_then(exposed) {
            self.report(path, At::Value, message, &advice);
        }
    }

    /// Reads the files that `[auth]` names.
    fn auth(&mut self, auth: &mut Auth) {
        let read_other = |path: &Path| fs::read_to_string(path).map_err(|error| error.to_string());
        if let Some((file, text)) = self.text(&mut auth.hba_file, key_path!["auth", "hba_file"]) {
            match Hba::parse(&text, &file, &read_other) {
                Ok(hba) => auth.hba = Some(Arc::new(hba)),
                Err(faults) => self.faults(faults),
            }
        }
        if let Some((file, text)) = self.text(&mut auth.ident_file, key_path!["auth", "ident_file"]) {
            match IdentMaps::parse(&text, &file, &read_other) {
                Ok(maps) => auth.ident = Arc::new(maps),
                Err(faults) => self.faults(faults),
            }
        }
        if let Some((file, text)) = self.secret_text(&mut auth.users_file, key_path!["auth", "users_file"]) {
            match users_file::parse(&text, &file) {
                Ok(users) => auth.file_users = Arc::new(users),
                Err(faults) => self.faults(faults),
            }
        }
    }

    /// Reads the operator's questions.
    fn queries(&mut self, stats: &mut Stats) {
        if let Some((file, text)) = self.text(&mut stats.queries_file, key_path!["stats", "queries_file"]) {
            match queries::parse(&file, &text) {
                Ok(found) => stats.queries = Arc::new(found),
                Err(problems) => self.problems.extend(problems.iter().cloned()),
            }
        }
    }

    /// Makes a path absolute and reads what is there.
    fn text(&mut self, file: &mut Option<PathBuf>, path: &[Step<'_>]) -> Option<(PathBuf, Zeroizing<String>)> {
        let before = self.problems.len();
        self.file(file, path);
        let file = file.as_ref().filter(|_| self.problems.len() == before)?;
        self.read(file, path)
    }

    /// [`Self::text`], of a file that holds a secret.
    fn secret_text(&mut self, file: &mut Option<PathBuf>, path: &[Step<'_>]) -> Option<(PathBuf, Zeroizing<String>)> {
        let before = self.problems.len();
        self.private(file, path);
        let file = file.as_ref().filter(|_| self.problems.len() == before)?;
        self.read(file, path)
    }

    fn read(&mut self, file: &Path, path: &[Step<'_>]) -> Option<(PathBuf, Zeroizing<String>)> {
        match fs::read_to_string(file) {
            Ok(text) => Some((file.to_owned(), Zeroizing::new(text))), // it may hold passwords
            Err(error) => {
                let message = format!("\"{}\" cannot be read: {error}", file.display());
                self.report(path, At::Value, message, "");
                None
            }
        }
    }

    /// A token of the API: the first line of its file.
    fn token(&mut self, file: &mut Option<PathBuf>, key: &'static str) -> Option<Secret> {
        let path = key_path!["http", key];
        let (file, text) = self.secret_text(file, path)?;
        let shown = file.display();
        let token = text.lines().next().unwrap_or_default().trim();
        if token.len() < TOKEN_BYTES_MIN || !token.bytes().all(|b| b.is_ascii_graphic()) {
            let message = format!("the first line of \"{shown}\" is no token of {TOKEN_BYTES_MIN} characters or more");
            self.report(path, At::Value, message, "make one with: openssl rand -hex 32");
            return None;
        }
        Some(Secret::new(token.to_owned()))
    }

    /// What is wrong with another file than the configuration.
    fn faults(&mut self, faults: Vec<Fault>) {
        self.problems.extend(faults.into_iter().map(|fault| Problem {
            file: fault.file,
            place: Some(Place { line: fault.line, column: 1 }),
            key: String::new(),
            message: fault.message,
            advice: (!fault.advice.is_empty()).then_some(fault.advice),
            excerpt: None,
        }));
    }

    /// The password and the key it was given by.
    fn password(&mut self, given: Password<'_>, table: &[Step<'_>]) -> Option<(Secret, &'static str)> {
        let written: Vec<&'static str> = [
            given.text.as_ref().map(|_| "password"),
            given.file.as_ref().map(|_| "password_file"),
            given.env.as_ref().map(|_| "password_env"),
        ]
        .into_iter()
        .flatten()
        .collect();
        if let [first, second, ..] = written.as_slice() {
            let message = format!("the password is given twice, by \"{first}\" and by \"{second}\"");
            self.report(&within(table, second), At::Key, message, "keep one of them");
            return None;
        }
        if let Some(secret) = given.text {
            return Some((secret.clone(), "password"));
        }
        if let Some(variable) = given.env {
            return match std::env::var(variable) {
                Ok(text) => Some((Secret::new(text), "password_env")),
                Err(_) => {
                    let message = format!("the environment has no variable \"{variable}\" that is text");
                    self.report(&within(table, "password_env"), At::Value, message, "");
                    None
                }
            };
        }
        let (_, text) = self.secret_text(given.file, &within(table, "password_file"))?;
        let line = text.lines().next().unwrap_or_default();
        Some((Secret::new(line.to_owned()), "password_file"))
    }

    fn credential(&mut self, secret: Secret, path: &[Step<'_>]) -> Option<Credential> {
        match Credential::from_secret(secret) {
            Ok(credential) => Some(credential),
            Err(error) => {
                self.report(path, At::Key, error.to_string(), "");
                None
            }
        }
    }

    /// The monitor's password: its own, or the one of the user it logs in as.
    fn monitor(&mut self, cluster: &str, monitor: &mut Monitor, known: Option<&Credential>) {
        let given = Password { text: &monitor.password, file: &mut monitor.password_file, env: &monitor.password_env };
        let unset = given.text.is_none() && given.file.is_none() && given.env.is_none();
        if let (true, Some(Credential::Password(password))) = (unset, known) {
            monitor.resolved_password = Some(password.clone());
        }
        if let Some((secret, key)) = self.password(given, key_path!["clusters", cluster, "monitor"]) {
            let place = key_path!["clusters", cluster, "monitor", key];
            match self.credential(secret, place) {
                Some(Credential::Password(password)) => monitor.resolved_password = Some(password),
                Some(Credential::Verifier(_) | Credential::Md5(_)) => {
                    let message = "what PostgreSQL stores of a password is not enough to log in to a server";
                    self.report(place, At::Key, message, "write the password itself");
                }
                None => {}
            }
        }
    }

    /// The number of a group: itself, or what `/etc/group` says.
    fn group(&mut self, group: &str, path: &[Step<'_>]) -> Option<u32> {
        if let Ok(gid) = group.parse() {
            return Some(gid);
        }
        let known = fs::read_to_string("/etc/group").unwrap_or_default();
        let gid = known.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok()).flatten()
        });
        if gid.is_none() {
            let message = format!("/etc/group has no group \"{group}\"");
            self.report(path, At::Value, message, "write a group of this machine, or its number");
        }
        gid
    }
}

fn within<'a>(table: &[Step<'a>], key: &'a str) -> Vec<Step<'a>> {
    table.iter().copied().chain([Step::Key(key)]).collect()
}
