//! A node whose PostgreSQL is a unit of systemd's: who starts it, and what becomes of a start that does not come about.
//!
//! `systemctl` is a script here, which writes down what it is asked and starts the real postmaster; systemd's own part (what a unit is,
//! who may start it) is not tried.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use howdah::demo::agent::Extras;
use howdah::directive::{Code, Directive};

use crate::agent::Pair;
use crate::support::{Node, builder};

const UNIT: &str = "postgresql@15-main";

/// A systemd that has one unit.
struct Systemd {
    directory: PathBuf,
}

impl Systemd {
    fn beside(node: &Node) -> Self {
        let directory = node.directory().join("systemd");
        fs::create_dir(&directory).unwrap();
        let (here, programs) = (directory.display(), node.binaries().directory().display());
        let script = format!(
            "#!/bin/sh\n\
             echo \"$*\" >> {here}/asked\n\
             how=$(cat {here}/how 2>/dev/null)\n\
             case \"$*\" in\n\
             'show --property=LoadState {UNIT}') echo LoadState=loaded;;\n\
             show*) echo LoadState=not-found;;\n\
             'reset-failed {UNIT}') rm -f {here}/failed;;\n\
             'is-failed --quiet {UNIT}') test -e {here}/failed;;\n\
             '--no-block start {UNIT}')\n\
             rm -f {here}/how\n\
             case \"$how\" in\n\
             fails) touch {here}/failed;;\n\
             refuses) echo 'Failed to start {UNIT}.service: Access denied' >&2; exit 4;;\n\
             hangs) exec sleep 600;;\n\
             *) setsid {programs}/pg_ctl start --silent --no-wait -D {data} -l {here}/log < /dev/null > /dev/null 2>&1 &\n\
             esac;;\n\
             *) exit 64;;\n\
             esac\n",
            data = node.data_directory().display(),
        );
        let program = directory.join("systemctl");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        node.binaries().own(&directory).unwrap();
        Self { directory }
    }

    /// How the next start goes.
    fn next(&self, how: &str) {
        let file = self.directory.join("how");
        fs::write(&file, how).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    }

    /// What it was asked since the last time this was called.
    fn asked(&self) -> Vec<String> {
        let file = self.directory.join("asked");
        let said = fs::read_to_string(&file).unwrap_or_default();
        let _ = fs::remove_file(file);
        said.lines().map(str::to_owned).collect()
    }
}

fn path(systemd: &Path) -> String {
    format!("{}:{}", systemd.display(), std::env::var("PATH").unwrap_or_default())
}

#[test]
fn a_unit_of_systemds_is_started_through_it_and_stopped_by_the_agent_itself() {
    let cluster = builder().prefix("howdah-agent").start().unwrap();
    let systemd = Systemd::beside(cluster.primary());
    let extras = Extras {
        toml: "[jobs]\nstep_timeout = \"4s\"\n".to_owned(),
        environment: [("PATH".to_owned(), path(&systemd.directory))].into(),
        unit: Some(UNIT.to_owned()),
        ..Extras::default()
    };
    let pair = Pair::beside_with(cluster, "a", extras);
    assert_eq!(systemd.asked(), [format!("show --property=LoadState {UNIT}")]);
    let start = [format!("reset-failed {UNIT}"), format!("--no-block start {UNIT}")];
    let answers = || pair.node().sql("SELECT pg_is_in_recovery()").unwrap().cell() == Some("f");
    let restart = |id: &str, epoch: u64| pair.order(id, epoch, Directive::Restart { primary: true });

    let before = pair.node().postmaster_pid().unwrap();
    pair.completed(&restart("restart", 1));
    assert_eq!(systemd.asked(), start);
    assert!(answers() && pair.node().postmaster_pid() != Some(before));

    // nobody starts what is fenced, until a restart of the epoch
    pair.completed(&pair.order("fence", 2, Directive::Fence));
    assert_eq!(systemd.asked(), Vec::<String>::new());
    assert!(pair.node().processes().is_empty());
    pair.completed(&restart("again", 3));
    assert_eq!(systemd.asked(), start);
    assert!(answers());

    // a start that does not come about is told, and undone: what ran runs again
    for (epoch, (how, code, words)) in (4..).zip([
        ("fails", Code::Program, UNIT),
        ("refuses", Code::Program, "Access denied"),
        ("hangs", Code::TimedOut, "4.0 s"),
    ]) {
        systemd.next(how);
        let failure = pair.failed(&restart(how, epoch)).failure.unwrap();
        assert!(failure.code == code && failure.text.contains(words), "{how}: {failure}");
        let asked = systemd.asked();
        assert_eq!(asked.iter().filter(|line| **line == start[1]).count(), 2, "{how}: {asked:?}");
        assert!(answers(), "{how}");
    }
}
