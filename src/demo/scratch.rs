//! A directory that goes away, and with it every process that sits in it.
//!
//! A value's `Drop` does not run when the process is killed or when the value is a `static`. So a small watcher, a shell
//! that waits for the end of a pipe this process holds, does the same from outside: kill what sits in the directory,
//! remove it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use super::process::processes_in;

/// `sun_path` holds 108 bytes with its final zero.
const SOCKET_PATH_MAX: usize = 107;
/// What comes after the directory in the longest socket path: `/s/.s.PGSQL.65535.lock`.
const SOCKET_SUFFIX: usize = 22;

/// Runs when the pipe ends. SIGQUIT first: an immediate stop lets PostgreSQL free its shared memory.
const WATCHER: &str = r#"
trap '' HUP INT TERM
read -r _
[ -d "$1" ] || exit 0
inside() {
    for link in /proc/[0-9]*/cwd; do
        case "$(readlink "$link" 2>/dev/null)/" in "$1"/*) link=${link#/proc/}; echo "${link%/cwd}" ;; esac
    done
}
for signal in CONT QUIT QUIT KILL; do
    for pid in $(inside "$1"); do kill -s $signal "$pid" 2>/dev/null; done
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ "$signal" = CONT ] && break
        [ -z "$(inside "$1")" ] && break 2
        sleep 0.1
    done
done
for lock in "$1"/*/data/postmaster.pid; do
    [ -f "$lock" ] && ipcrm -m "$(sed -n 7p "$lock" | awk '{print $2}')" 2>/dev/null
done
rm -rf -- "$1"
"#;

/// A directory of a name nobody else has, which any user may enter (mode 0711). Removed with all its processes when
/// dropped, or when this process ends in whatever way.
pub struct Scratch {
    path: PathBuf,
    watcher: Child,
}

impl Scratch {
    /// Makes it in the directory for temporary files, or in `/tmp` where that one's name would make the path of a Unix
    /// socket too long or where the unprivileged user that runs PostgreSQL for root could not enter it.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn new(prefix: &str) -> io::Result<Self> {
        let name = format!("{prefix}-{:x}-{:08x}", std::process::id(), rand::random::<u32>());
        let usual = std::env::temp_dir();
        let fits = usual.as_os_str().as_bytes().len() + 1 + name.len() + SOCKET_SUFFIX <= SOCKET_PATH_MAX;
        let path = if fits && is_open(&usual) { usual } else { PathBuf::from("/tmp") }.join(name);
        DirBuilder::new().mode(0o711).create(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o711))?; // whatever the umask took away
        let path = fs::canonicalize(&path)?; // as /proc/PID/cwd spells it
        let watcher = Command::new("sh")
            .args(["-c", WATCHER, "howdah-scratch"])
            .arg(&path)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { path, watcher })
    }

    /// Where it is, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let left = processes_in(&self.path);
            if left.is_empty() {
                break;
            }
            for pid in left {
                let _ = kill_process(pid, Signal::KILL);
            }
            if Instant::now() > deadline {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = fs::remove_dir_all(&self.path);
        drop(self.watcher.stdin.take()); // it finds nothing left to do, and ends
        let _ = self.watcher.wait();
    }
}

/// Whether everybody may enter a directory; asked only by root, who runs PostgreSQL as somebody else.
fn is_open(directory: &Path) -> bool {
    let open = |directory: &Path| fs::metadata(directory).is_ok_and(|found| found.permissions().mode() & 0o001 != 0);
    !rustix::process::geteuid().is_root() || directory.ancestors().all(open)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_a_dropped_scratch() {
        let scratch = Scratch::new("howdah-test").unwrap();
        let path = scratch.path().to_owned();
        fs::write(path.join("file"), "x").unwrap();
        let mut sleeper = Command::new("sleep").arg("600").current_dir(&path).spawn().unwrap();
        drop(scratch);
        assert!(!path.exists());
        assert!(!sleeper.wait().unwrap().success());
    }
}
