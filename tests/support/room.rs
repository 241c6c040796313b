//! A small file system over a directory, which can be full: for disks without room. It takes root's rights; without them there is none.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use howdah::demo::scratch::Scratch;

/// Takes the room.
const FILLER: &str = "filler";

/// A file system of a few megabytes in memory with what was in the directory. Goes away when dropped, or when this process ends in
/// whatever way.
pub struct Room {
    directory: PathBuf,
    watcher: Child,
}

impl Room {
    /// Over this directory, in which nobody may have a file open. `None`: it may not be mounted here, which is said.
    #[track_caller]
    pub fn over(directory: &Path, megabytes: u32) -> Option<Self> {
        let aside = Scratch::new("howdah-aside").unwrap();
        run(Command::new("cp").arg("-a").arg(directory.join(".")).arg(aside.path()));
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "howdah-test"]).arg(directory).output();
        if !mounted.as_ref().is_ok_and(|output| output.status.success()) {
            // not with eprintln!, which the harness keeps to itself
            let _ = writeln!(std::io::stderr(), "NOT TESTED: full disks need the right to mount: {mounted:?}");
            return None;
        }
        let watch = "trap '' HUP INT TERM; read -r _; umount -l \"$1\"";
        let mut watcher = Command::new("sh");
        watcher.args(["-c", watch, "sh"]).arg(directory).stdin(Stdio::piped()).process_group(0);
        let room = Self { directory: directory.to_owned(), watcher: watcher.spawn().unwrap() };
        run(Command::new("cp").arg("-a").arg(aside.path().join(".")).arg(directory));
        Some(room)
    }

    /// Not a byte is left.
    #[track_caller]
    pub fn fill(&self) {
        let mut filler = std::fs::File::create(self.directory.join(FILLER)).unwrap();
        let mut size = 64 * 1024;
        while size > 0 {
            match filler.write(&vec![0; size]) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => size /= 2,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// There is room again.
    pub fn empty(&self) {
        let _ = std::fs::remove_file(self.directory.join(FILLER));
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
