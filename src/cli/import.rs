//! `howdah import`: a howdah.toml from a PgBouncer configuration.
//!
//! The file is written for whoever may read pgbouncer.ini, and nobody else; one that is there already is left alone. Not here: what
//! becomes of which key (`import`).

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::{Ipv6Addr, UdpSocket};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use crate::config;
use crate::import::{self, Imported, Kind, Surroundings};

/// Makes a howdah.toml of a PgBouncer configuration: every key is carried over, or named with the reason why not.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// PgBouncer's configuration file.
    #[arg(value_name = "PGBOUNCER.INI")]
    pub ini: PathBuf,
    /// Where to write. Absent: standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write over a file that is there.
    #[arg(long, requires = "output")]
    pub force: bool,
}

/// Runs it.
///
/// # Errors
/// What keeps the file from being read or written. What has to be done by hand is no error: it is said, and stands in the file.
pub fn run(args: &ImportArgs) -> anyhow::Result<()> {
    let base = args.ini.parent().map(Path::to_owned).unwrap_or_default();
    let locate = |path: &Path| locate(path, &base);
    let read = |path: &Path| {
        let found = locate(path);
        fs::read_to_string(&found).map(|text| (found, text)).map_err(|error| error.to_string())
    };
    let ipv6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
    let imported = import::import(&args.ini, Surroundings { read: &read, locate: &locate, ipv6 })?;
    match &args.output {
        None => print!("{}", imported.toml),
        Some(output) => {
            write(output, &args.ini, &imported.toml, args.force)
                .with_context(|| format!("{} cannot be written", output.display()))?;
        }
    }
    tell(&imported, args.output.as_deref());
    Ok(())
}

/// PgBouncer starts relative paths at its working directory, which is gone: the one of this process, then that of its file.
fn locate(path: &Path, base: &Path) -> PathBuf {
    let here = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if path.is_absolute() || here.exists() {
        return here;
    }
    let beside = std::path::absolute(base.join(path)).unwrap_or_else(|_| here.clone());
    if beside.exists() { beside } else { here }
}

fn write(output: &Path, ini: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    let like = fs::metadata(ini)?;
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    if force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    let mut file = options.open(output).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => anyhow::anyhow!("it is there already; --force writes over it"),
        _ => error.into(),
    })?;
    // no wider than before, for a file that may hold passwords; and for those whom it was for
    let _ = std::os::unix::fs::fchown(&file, Some(like.uid()), Some(like.gid()));
    file.set_permissions(fs::Permissions::from_mode(like.mode() & 0o640))?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

fn tell(imported: &Imported, output: Option<&Path>) {
    for note in &imported.notes {
        match note.kind {
            Kind::Todo => eprintln!("todo: {note}"),
            Kind::Differs => eprintln!("note: {note}"),
            Kind::NoCounterpart => eprintln!("{note}"),
        }
    }
    if imported.holds_secrets {
        eprintln!(
            "note: passwords of forced users stand in the file, as they did in PgBouncer's: keep it from other eyes"
        );
    }
    let Some(output) = output else { return };
    match config::load(output) {
        Ok(_) => eprintln!("{}: written, and right: howdah serve -c {0}", output.display()),
        Err(problems) => eprintln!("{}: written; what is left to do:\n{problems}", output.display()),
    }
}
