//! From the path of `agent.toml` to an [`AgentConfig`], or to everything that is wrong with the file.
//!
//! Not here: what only a look at the machine can tell (`surroundings`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use super::config::{AgentConfig, Listen, Login, VERSION, fields};
use crate::config::kindred::{Keys, Kindred};
use crate::config::secret_file::{Exposed, exposed};
use crate::config::{Problem, Problems, Secret};

/// As in libpq.
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// Reads and checks an `agent.toml`, and the password files that it names.
///
/// # Errors
/// Everything that is wrong, with line, column and key: unknown keys and wrong values together; only when there are none, what
/// needs the whole file.
pub fn load(path: &Path) -> Result<AgentConfig, Problems> {
    match fs::read_to_string(path) {
        Ok(text) => parse(path, &text),
        Err(error) => Err(Problem::unreadable(path, &error).into()),
    }
}

/// [`load`] for a text that was read already.
///
/// # Errors
/// As [`load`].
pub fn parse(path: &Path, text: &str) -> Result<AgentConfig, Problems> {
    static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::of::<AgentConfig>("AgentConfig", fields));
    let (mut config, file): (AgentConfig, _) = Kindred::read(path, text, &KEYS, VERSION)?;
    let mut seek = Seek { file, problems: Vec::new() };
    seek.config(&mut config);
    Problems::none_or_all(seek.problems)?;
    Ok(config)
}

/// Looks for what is wrong.
struct Seek<'t> {
    file: Kindred<'t>,
    problems: Vec<Problem>,
}

impl Seek<'_> {
    fn config(&mut self, config: &mut AgentConfig) {
        for (key, value) in [("cluster", &config.cluster), ("node", &config.node)] {
            if value.is_empty() {
                self.report(key, "must not be empty", "write the name that howdah.toml has for it");
            }
        }
        self.absolute("data_directory", Some(&config.data_directory));
        self.absolute("state_directory", Some(&config.state_directory));
        if config.state_directory.starts_with(&config.data_directory) {
            let advice = "it must outlive a data directory that is replaced";
            self.report("state_directory", "must not be inside the data directory", advice);
        }
        if config.bin_directory != "auto" {
            self.absolute("bin_directory", Some(Path::new(&config.bin_directory)));
        }
        if config.service.is_empty() {
            self.report("service", "must not be empty", "write \"auto\", \"none\" or a unit of systemd's");
        }
        if config.superuser.user.is_empty() {
            self.report("superuser.user", "must not be empty", "write the role of a superuser");
        }
        self.absolute("superuser.socket", config.superuser.socket.as_deref());
        self.listen(&mut config.listen, &mut config.found.gid);
        self.login("replication", &mut config.replication);
        if let Some(rewind) = &mut config.rewind {
            self.login("rewind", rewind);
        }
        if config.backups.discard_old {
            let advice = "write false, and give the new copy room beside the old one";
            self.report("backups.discard_old", "cannot be true yet: a copy replaces nothing before it runs", advice);
        }
        for (key, period) in [("step_timeout", config.jobs.step_timeout), ("job_timeout", config.jobs.job_timeout)] {
            if period.get().is_zero() {
                self.report(&format!("jobs.{key}"), "must not be 0", "every step ends at some time");
            }
        }
    }

    fn listen(&mut self, listen: &mut Listen, gid: &mut Option<u32>) {
        if listen.unix.is_none() && listen.address.is_none() {
            self.report("listen", "has neither unix nor address", "write unix = \"/run/howdah/agent.sock\"");
        }
        self.absolute("listen.unix", listen.unix.as_deref());
        if let Some(group) = &listen.group {
            *gid = number_of_group(group);
            if gid.is_none() {
                let message = format!("/etc/group has no group \"{group}\"");
                self.report("listen.group", &message, "write a group of this machine, or its number");
            }
        }
        let Some(address) = &listen.address else { return };
        if address.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            self.report(
                "listen.address",
                &format!("\"{address}\" is not host:port"),
                "write it as in \"10.0.0.1:6434\"",
            );
        }
        let files = [("cert", &listen.cert), ("key", &listen.key), ("ca", &listen.ca)];
        let mut lacking: Vec<&str> = files.iter().filter(|(_, file)| file.is_none()).map(|(key, _)| *key).collect();
        if listen.allow.is_empty() {
            lacking.push("allow");
        }
        if !lacking.is_empty() {
            let message = format!("over TCP both sides show certificates: [listen] lacks {}", lacking.join(", "));
            let advice = "write the paths, and in allow the common names of the daemons that may talk to this agent";
            self.report("listen.address", &message, advice);
        }
        self.private("listen.key", listen.key.as_deref());
    }

    fn login(&mut self, table: &str, login: &mut Login) {
        if login.user.is_empty() {
            self.report(&format!("{table}.user"), "must not be empty", "write the role that it logs in as");
        }
        if !SSL_MODES.contains(&login.sslmode.as_str()) {
            let key = format!("{table}.sslmode");
            self.report(
                &key,
                &format!("\"{}\" is none of libpq's", login.sslmode),
                &format!("valid: {}", SSL_MODES.join(", ")),
            );
        }
        let Some(file) = &login.password_file else { return };
        self.private(&format!("{table}.password_file"), Some(file));
        match fs::read_to_string(file).map(Secret::new) {
            Ok(text) => {
                login.password = Some(Secret::new(text.reveal().lines().next().unwrap_or_default().to_owned()));
            }
            Err(error) => {
                let message = format!("\"{}\" cannot be read: {error}", file.display());
                let advice = "write the path of a file that the agent's user can read";
                self.report(&format!("{table}.password_file"), &message, advice);
            }
        }
    }

    fn absolute(&mut self, key: &str, path: Option<&Path>) {
        if path.is_some_and(|path| !path.is_absolute()) {
            self.report(key, "must begin at the root", "write the whole path, from its first /");
        }
    }

    /// A secret that others can see or change.
    fn private(&mut self, key: &str, path: Option<&Path>) {
        if let Some(Exposed { message, advice }) = path.and_then(exposed) {
            self.report(key, &message, &advice);
        }
    }

    fn report(&mut self, key: &str, message: &str, advice: &str) {
        self.problems.push(self.file.problem(key, message, advice));
    }
}

/// The number of a group: itself, or what `/etc/group` says.
fn number_of_group(group: &str) -> Option<u32> {
    if let Ok(gid) = group.parse() {
        return Some(gid);
    }
    let known = fs::read_to_string("/etc/group").unwrap_or_default();
    known.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// Where the configuration is looked for.
#[must_use]
pub fn default_path() -> PathBuf {
    PathBuf::from("/etc/howdah/agent.toml")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const RIGHT: &str = r#"
cluster = "main"
node = "a"
data_directory = "/var/lib/postgresql/15/main"
state_directory = "/var/lib/howdah-agent"
[listen]
unix = "/run/howdah/agent.sock"
[replication]
user = "replicator"
"#;

    fn wrong(text: &str) -> String {
        parse(Path::new("agent.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn the_file_in_the_documentation_is_right() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/agent.toml");
        let config = parse(&path, &fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!((config.node.as_str(), config.service.as_str()), ("a", "auto"));
        assert_eq!(config.jobs.job_timeout.get().as_secs(), 3_600);
        // what is commented out in it is right as well, but for files that are not here
        let all = fs::read_to_string(&path).unwrap();
        let all: Vec<&str> = all.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line)).collect();
        for problem in parse(&path, &all.join("\n")).expect_err("its files are not here").iter() {
            assert!(problem.key.ends_with("password_file") || problem.message.contains("/etc/group"), "{problem}");
        }
    }

    #[test]
    fn a_key_that_there_is_not_is_told_with_its_line_and_what_may_have_been_meant() {
        let said = wrong(&RIGHT.replace("data_directory", "data_dirctory"));
        assert_eq!(said, "agent.toml:4:1: data_dirctory: unknown key; did you mean \"data_directory\"?");
        let said = wrong(&format!("{RIGHT}[jobs]\nstep = \"1s\"\n"));
        assert_eq!(said, "agent.toml:11:1: jobs.step: unknown key; known here: step_timeout, job_timeout");
    }

    #[test]
    fn a_wrong_value_is_told_with_its_line_and_key() {
        let said = wrong(&format!("{RIGHT}[jobs]\nstep_timeout = \"1 fortnight\"\n"));
        assert!(said.starts_with("agent.toml:11:16: jobs.step_timeout: \"1 fortnight\""), "{said}");
        assert!(wrong("node = \"a\"").contains("\"cluster\" is missing; write it, as in cluster = \"main\""));
        let said = wrong(&format!("{RIGHT}[backups]\ndiscard_old = true\n"));
        assert!(said.starts_with("agent.toml:11:15: backups.discard_old: cannot be true yet"), "{said}");
    }

    #[test]
    fn everything_that_only_the_whole_file_shows_is_told_at_once() {
        let text = RIGHT
            .replace("/var/lib/howdah-agent", "state")
            .replace("unix = \"/run/howdah/agent.sock\"", "address = \"10.0.0.1:6434\"\ngroup = \"no such\"")
            + "sslmode = \"perhaps\"\npassword_file = \"/nowhere\"\n";
        let said = wrong(&text);
        for expected in [
            "agent.toml:5:19: state_directory: must begin at the root",
            "agent.toml:8:9: listen.group: /etc/group has no group \"no such\"",
            "agent.toml:7:11: listen.address: over TCP both sides show certificates: [listen] lacks cert, key, ca, allow",
            "agent.toml:11:11: replication.sslmode: \"perhaps\" is none of libpq's",
            "agent.toml:12:17: replication.password_file: \"/nowhere\" cannot be read",
        ] {
            assert!(said.contains(expected), "{expected}\n--\n{said}");
        }
    }

    #[test]
    fn a_state_directory_that_would_go_with_the_data_is_refused() {
        let said = wrong(&RIGHT.replace("/var/lib/howdah-agent", "/var/lib/postgresql/15/main/howdah"));
        assert!(said.contains("state_directory: must not be inside the data directory"), "{said}");
    }
}
