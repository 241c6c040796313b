//! PostgreSQL seen from beside it: its files, its programs, its processes, its socket. What steps are made of.
//!
//! Nothing here decides or undoes anything: [`steps`](super::steps) do. Small files are read and written in place and not on
//! another thread: a step that was given up must not go on writing behind the step that undoes it.
//!
//! - [`control`]: what `pg_controldata` shows
//! - [`directory`]: is it a data directory, whose, how much room
//! - [`files`]: writes that survive a power cut; what a file was, and back
//! - [`latch`]: the file `standby.signal`
//! - [`auto_conf`]: the file `postgresql.auto.conf`
//! - [`conninfo`]: how a standby finds its upstream, without showing a password
//! - [`history`], [`wal`]: timelines and the ends of logs, from files
//! - [`own_files`]: configuration and the like, which copies of other nodes would overwrite
//! - [`pid_file`], [`processes`]: the postmaster, and everything else in its directory
//! - [`program`]: PostgreSQL's programs
//! - [`frozen`], [`rewinding`]: what outlives a job, in the state directory
//! - [`local`], [`standing`]: SQL over the Unix socket; what a running server is
//! - [`server`]: start and stop

pub mod auto_conf;
pub mod conninfo;
pub mod control;
pub mod directory;
pub mod files;
pub mod frozen;
pub mod history;
pub mod latch;
pub mod local;
pub mod own_files;
pub mod pid_file;
pub mod processes;
pub mod program;
pub mod rewinding;
pub mod server;
pub mod standing;
pub mod wal;
