//! What the agent finds on its machine when it starts, and what it refuses to start on: it must be the user that owns the data
//! directory, see PostgreSQL's processes, and have the programs of its version.
//!
//! Not here: what the file says (`load`).

use std::fs;
use std::io;
use std::net::TcpStream;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::geteuid;

use super::config::AgentConfig;
use super::sweep::{Home, look, parse_pid};

/// Debian's place for PostgreSQL's programs, a directory per major version.
const DEBIAN: &str = "/usr/lib/postgresql";
/// That of the packages of postgresql.org for Red Hat.
const RED_HAT: &str = "/usr";
/// What a version must have for the agent to work with it.
const PROGRAMS: [&str; 5] = ["postgres", "pg_ctl", "pg_controldata", "pg_rewind", "pg_basebackup"];

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum SurroundingsError {
    /// A directory is not what it should be.
    #[error("{what} \"{}\": {source}", path.display())]
    Directory {
        /// Which.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a data directory.
    #[error("\"{}\" is not a data directory of PostgreSQL's: it has no readable PG_VERSION", .0.display())]
    NoDataDirectory(PathBuf),
    /// Somebody else's data directory.
    #[error(
        "the agent runs as user {agent} and the data directory \"{}\" belongs to {owner}: run the agent as {owner}",
        path.display()
    )]
    WrongUser {
        /// Who it is.
        agent: String,
        /// Who it should be.
        owner: String,
        /// Whose directory is meant.
        path: PathBuf,
    },
    /// PostgreSQL runs where the agent does not see it.
    #[error(
        "something answers at {at}, which postmaster.pid gives to process {pid}, but no such process of the data directory \
         is to be seen: the agent must run in the PID namespace of PostgreSQL"
    )]
    Unseen {
        /// What `postmaster.pid` says.
        pid: String,
        /// Where it answers.
        at: String,
    },
    /// No programs.
    #[error("no programs of PostgreSQL {major} found: looked for {looked}; set bin_directory")]
    NoPrograms {
        /// The version that is needed.
        major: u32,
        /// Where.
        looked: String,
    },
    /// The unit that was asked for cannot be used.
    #[error("systemd does not run here, or has no unit \"{0}\": set service to one it has, or to \"none\"")]
    NoUnit(String),
}

/// Looks, and completes the configuration with what it finds.
///
/// # Errors
/// [`SurroundingsError`]; nothing has been changed then, but the state directory may have been made.
pub fn find(config: &mut AgentConfig) -> Result<(), SurroundingsError> {
    config.found.major = right_user(&config.data_directory)?;
    same_pid_namespace(&config.data_directory)?;
    make_state_directory(&config.state_directory)?;
    config.found.programs = programs(config)?;
    // sd_booted(3)
    config.found.unit = unit(config, Path::new("/run/systemd/system").is_dir(), has_unit)?;
    Ok(())
}

/// The major version of the data directory, if it is this user's.
fn right_user(data_directory: &Path) -> Result<u32, SurroundingsError> {
    let directory =
        |source| SurroundingsError::Directory { what: "data_directory", path: data_directory.to_owned(), source };
    let owner = fs::metadata(data_directory).map_err(directory)?.uid();
    let own = geteuid().as_raw();
    if owner != own {
        let (agent, owner) = (user_name(own), user_name(owner));
        return Err(SurroundingsError::WrongUser { agent, owner, path: data_directory.to_owned() });
    }
    let version = fs::read_to_string(data_directory.join("PG_VERSION")).ok();
    let major = version.and_then(|version| version.trim().split('.').next()?.parse().ok());
    major.ok_or_else(|| SurroundingsError::NoDataDirectory(data_directory.to_owned()))
}

/// `postgres (26)`, or the number alone.
fn user_name(uid: u32) -> String {
    let known = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = known.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    });
    name.map_or_else(|| uid.to_string(), |name| format!("\"{name}\" ({uid})"))
}

/// A `postmaster.pid` whose process is not to be seen is left of a crash, or of another PID namespace: then somebody answers.
fn same_pid_namespace(data_directory: &Path) -> Result<(), SurroundingsError> {
    let Ok(lock) = fs::read_to_string(data_directory.join("postmaster.pid")) else { return Ok(()) };
    let lines: Vec<&str> = lock.lines().map(str::trim).collect();
    let line = |index: usize| lines.get(index).copied().unwrap_or_default();
    let home = Home::of(data_directory);
    if parse_pid(line(0)).is_some_and(|pid| matches!(look(&home, pid), Ok(Some(_)))) {
        return Ok(());
    }
    let (port, sockets, address) = (line(3), line(4), line(5));
    let unix = Path::new(sockets).join(format!(".s.PGSQL.{port}"));
    let at = if !sockets.is_empty() && UnixStream::connect(&unix).is_ok() {
        unix.display().to_string()
    } else if let Some(tcp) = tcp_answers(address, port) {
        tcp
    } else {
        return Ok(());
    };
    // orphans keep a socket open as well, and are to be seen
    if super::sweep::server_processes(&home).is_ok_and(|found| !found.is_empty()) {
        return Ok(());
    }
    Err(SurroundingsError::Unseen { pid: line(0).to_owned(), at })
}

fn tcp_answers(address: &str, port: &str) -> Option<String> {
    let address = match address {
        "*" | "0.0.0.0" | "::" => "127.0.0.1",
        address => address,
    };
    let address = std::net::SocketAddr::new(address.parse().ok()?, port.parse().ok()?);
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok().map(|_| address.to_string())
}

fn make_state_directory(path: &Path) -> Result<(), SurroundingsError> {
    let refused = |source| SurroundingsError::Directory { what: "state_directory", path: path.to_owned(), source };
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(refused(io::ErrorKind::NotADirectory.into())),
        Err(_) => fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(refused),
    }
}

fn programs(config: &AgentConfig) -> Result<PathBuf, SurroundingsError> {
    let major = config.found.major;
    let places = match config.bin_directory.as_str() {
        "auto" => {
            let fixed = [format!("{DEBIAN}/{major}/bin"), format!("{RED_HAT}/pgsql-{major}/bin")].map(PathBuf::from);
            let path = std::env::var_os("PATH").unwrap_or_default();
            fixed.into_iter().chain(std::env::split_paths(&path)).collect()
        }
        given => vec![PathBuf::from(given)],
    };
    let whole = |place: &&PathBuf| PROGRAMS.iter().all(|program| place.join(program).is_file());
    let right = |place: &&PathBuf| version_of(&place.join("postgres")) == Some(major);
    places.iter().filter(whole).find(right).cloned().ok_or_else(|| {
        let names: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        SurroundingsError::NoPrograms { major, looked: format!("{} in {}", PROGRAMS.join(", "), names.join(", ")) }
    })
}

/// `postgres (PostgreSQL) 15.8 (Debian …)`, `… 18beta1`
fn version_of(postgres: &Path) -> Option<u32> {
    let output = std::process::Command::new(postgres).arg("--version").env("LC_ALL", "C").output().ok()?;
    major_in(&String::from_utf8(output.stdout).ok()?)
}

fn major_in(said: &str) -> Option<u32> {
    let version = said.split_once("(PostgreSQL)")?.1.trim();
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The unit that runs PostgreSQL, where systemd has one. It is only asked without being told to where the machine was `booted` with it.
fn unit(
    config: &AgentConfig,
    booted: bool,
    has_unit: impl Fn(&str) -> bool,
) -> Result<Option<String>, SurroundingsError> {
    match config.service.as_str() {
        "none" => Ok(None),
        "auto" if !booted => Ok(None),
        "auto" => Ok(candidates(config.found.major, &config.data_directory).into_iter().find(|unit| has_unit(unit))),
        given if has_unit(given) => Ok(Some(given.to_owned())),
        given => Err(SurroundingsError::NoUnit(given.to_owned())),
    }
}

/// Debian's unit per cluster is named after the data directory; the others are one per machine.
fn candidates(major: u32, data_directory: &Path) -> Vec<String> {
    let mut units = Vec::new();
    if data_directory.starts_with(format!("/var/lib/postgresql/{major}"))
        && let Some(cluster) = data_directory.file_name().and_then(|name| name.to_str())
    {
        units.push(format!("postgresql@{major}-{cluster}"));
    }
    if data_directory.starts_with("/var/lib/pgsql") {
        units.extend([format!("postgresql-{major}"), "postgresql".to_owned()]);
    }
    units
}

fn has_unit(unit: &str) -> bool {
    let shown = std::process::Command::new("systemctl").args(["show", "--property=LoadState", unit]).output();
    shown.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == "LoadState=loaded")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_postgres_says() {
        assert_eq!(major_in("postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)\n"), Some(15));
        assert_eq!(major_in("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major_in("postgres (EnterpriseDB) 15.1"), None);
    }

    #[test]
    fn a_unit_is_only_taken_for_the_data_directory_it_runs() {
        assert_eq!(candidates(15, Path::new("/var/lib/postgresql/15/main")), ["postgresql@15-main"]);
        assert_eq!(candidates(15, Path::new("/var/lib/pgsql/15/data")), ["postgresql-15", "postgresql"]);
        assert_eq!(candidates(15, Path::new("/tmp/demo/a/data")), Vec::<String>::new());
    }

    #[test]
    fn the_unit_is_the_first_that_systemd_has() {
        let config = |service: &str, data: &str| {
            let text = format!(
                "cluster = 'main'\nnode = 'a'\ndata_directory = '{data}'\nstate_directory = '/s'\nservice = '{service}'\n\
                 [listen]\n[replication]\nuser = 'r'\n"
            );
            let mut config: AgentConfig = toml::from_str(&text).unwrap();
            config.found.major = 15;
            config
        };
        let found = |service: &str, data: &str, booted: bool, has: &[&str]| {
            unit(&config(service, data), booted, |unit| has.contains(&unit)).map_err(|error| error.to_string())
        };
        let (debian, red_hat) = ("/var/lib/postgresql/15/main", "/var/lib/pgsql/15/data");
        let some = |unit: &str| Ok(Some(unit.to_owned()));
        assert_eq!(found("auto", debian, true, &["postgresql@15-main", "postgresql"]), some("postgresql@15-main"));
        assert_eq!(
            found("auto", debian, true, &["postgresql"]),
            Ok(None),
            "Debian's of all clusters starts none of them"
        );
        assert_eq!(found("auto", red_hat, true, &["postgresql-15", "postgresql"]), some("postgresql-15"));
        assert_eq!(found("auto", red_hat, true, &["postgresql"]), some("postgresql"));
        assert_eq!(found("auto", red_hat, false, &["postgresql"]), Ok(None));
        assert_eq!(found("none", debian, true, &["postgresql@15-main"]), Ok(None));
        assert_eq!(found("mine", "/data", true, &["mine"]), some("mine"));
        assert!(found("mine", "/data", true, &[]).unwrap_err().contains("\"mine\""));
    }

    #[test]
    fn what_is_no_data_directory_is_refused_and_so_is_one_of_somebody_else() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(right_user(directory.path()), Err(SurroundingsError::NoDataDirectory(_))));
        fs::write(directory.path().join("PG_VERSION"), "15\n").unwrap();
        assert_eq!(right_user(directory.path()).unwrap(), 15);
        assert!(matches!(right_user(&directory.path().join("nowhere")), Err(SurroundingsError::Directory { .. })));
    }

    #[test]
    fn a_server_that_answers_and_is_not_to_be_seen_is_in_another_namespace() {
        let directory = tempfile::tempdir().unwrap();
        let sockets = directory.path().display();
        let lock = |pid: &str| format!("{pid}\n{sockets}\n1700000000\n5432\n{sockets}\n\n");
        fs::write(directory.path().join("postmaster.pid"), lock("999999999")).unwrap();
        assert!(same_pid_namespace(directory.path()).is_ok(), "left of a crash: nobody answers");
        let _answers = std::os::unix::net::UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
        let refused = same_pid_namespace(directory.path()).unwrap_err().to_string();
        assert!(refused.contains("PID namespace") && refused.contains("999999999"), "{refused}");
    }
}
