//! Who may come to the console, and what it knows of the daemon.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use super::answer::{Done, Encoded, Formats};
use super::carry_out::{Carried, Means, carry_out};
use super::command::{Command, Dialect};
use super::refusal::ConsoleError;
use super::show::{self, Look};
use super::talk::talk;
use crate::admin::control::Control;
use crate::proxy::door::{Behind, Caller, Door};
use crate::proxy::shared::{Running, Shared};

/// The answers of all consoles that nobody has taken yet, in bytes. Those that are small have room in any case.
const UNTAKEN_MAX: usize = 64 * 1_024 * 1_024;
/// What is small.
const SMALL: usize = 256 * 1_024;
/// Answers that are put together at the same time, beside the workers' threads.
const LOOKS_MAX: usize = 2;

/// PgBouncer's console.
pub const PGBOUNCER: &str = "pgbouncer";
/// The same, and howdah's own views and commands.
pub const HOWDAH: &str = "howdah";
/// Whose columns are served: the release whose console this is. Monitors parse the first three numbers they find.
pub const PGBOUNCER_VERSION: &str = "1.25.2";

/// Which console a database is.
#[must_use]
pub fn dialect(database: &str) -> Dialect {
    if database == HOWDAH { Dialect::Howdah } else { Dialect::PgBouncer }
}

/// What somebody at the console may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Admin,
    /// Look.
    Stats,
}

/// What the console is told by whoever wires the daemon together.
pub struct Sources {
    /// The coordinators; `None` where there are none.
    pub control: Option<Arc<dyn Control>>,
    /// Where the configuration was read from.
    pub config: PathBuf,
    /// howdah is shutting down.
    pub shutting_down: Arc<AtomicBool>,
}

/// What all consoles share.
pub struct Seat {
    /// The daemon.
    pub sources: Sources,
    logins: AtomicU64,
    queries: AtomicU64,
    untaken: AtomicUsize,
    looks: Arc<Semaphore>,
}

/// A part of the room for answers that nobody has taken yet. Dropping it gives it back.
pub struct Room {
    seat: Arc<Seat>,
    bytes: usize,
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.seat.untaken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The console, as the data path knows it.
#[derive(Clone)]
pub struct Console(Arc<Seat>);

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Console")
    }
}

impl Console {
    /// Nobody has come yet.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        Self(Arc::new(Seat {
            sources,
            logins: AtomicU64::new(0),
            queries: AtomicU64::new(0),
            untaken: AtomicUsize::new(0),
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
        }))
    }
}

/// What the configuration lets a user do.
fn access(running: &Running, user: &str) -> Option<Access> {
    let admin = &running.config.admin;
    let named = |users: &[String]| users.iter().any(|name| name == user);
    if named(&admin.users) {
        return Some(Access::Admin);
    }
    named(&admin.stats_users).then_some(Access::Stats)
}

fn leads_here(running: &Running, database: &str) -> bool {
    matches!(database, PGBOUNCER | HOWDAH) && !running.config.databases.contains_key(database)
}

fn noticed(tag: &str, notice: &str, detail: Option<&'static str>) -> Done {
    Done::Tag { tag: tag.to_owned(), notice: Some(notice.to_owned()), detail }
}

impl Door for Console {
    /// Both names, unless the configuration has a database that is really called so.
    fn leads_to(&self, running: &Running, database: &str) -> bool {
        leads_here(running, database)
    }

    fn knows_own(&self, user: &str) -> bool {
        matches!(user, PGBOUNCER | HOWDAH)
    }

    fn admits(&self, running: &Running, user: &str) -> bool {
        access(running, user).is_some()
    }

    fn enter(&self, caller: Caller) -> Behind {
        let seat = Arc::clone(&self.0);
        seat.logins.fetch_add(1, Ordering::Relaxed);
        let running = caller.presence.worker.shared.running();
        let access = if caller.is_own { Some(Access::Admin) } else { access(&running, &caller.claim.user) };
        Box::pin(talk(seat, access.unwrap_or(Access::Stats), caller))
    }
}

/// PgBouncer's, and howdah's own below.
macro_rules! help {
    ($own:literal) => {
        concat!(
            "\n\tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION",
            "\n\tSHOW PEERS|PEER_POOLS",
            "\n\tSHOW FDS|SOCKETS|ACTIVE_SOCKETS|LISTS|MEM|STATE",
            "\n\tSHOW DNS_HOSTS|DNS_ZONES",
            "\n\tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS",
            "\n\tSET key = arg",
            "\n\tRELOAD",
            "\n\tPAUSE [<db>]",
            "\n\tRESUME [<db>]",
            "\n\tDISABLE <db>",
            "\n\tENABLE <db>",
            "\n\tRECONNECT [<db>]",
            "\n\tKILL [<db>]",
            "\n\tKILL_CLIENT <client_id>",
            "\n\tSUSPEND",
            "\n\tSHUTDOWN",
            "\n\tSHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS",
            "\n\tWAIT_CLOSE [<db>]",
            $own
        )
    };
}

impl Seat {
    /// What a console is greeted with, as PgBouncer has it.
    #[must_use]
    pub const fn parameters(&self) -> [(&'static str, &'static str); 7] {
        [
            ("server_version", "1.25.2/bouncer"),
            ("client_encoding", "UTF8"),
            ("server_encoding", "UTF8"),
            ("DateStyle", "ISO"),
            ("TimeZone", "GMT"),
            ("standard_conforming_strings", "on"),
            ("is_superuser", "on"),
        ]
    }

    pub(super) fn count_query(&self) {
        self.queries.fetch_add(1, Ordering::Relaxed);
    }

    /// Commands that consoles have given.
    #[must_use]
    pub fn queries(&self) -> u64 {
        self.queries.load(Ordering::Relaxed)
    }

    /// Consoles that have been opened.
    #[must_use]
    pub fn logins(&self) -> u64 {
        self.logins.load(Ordering::Relaxed)
    }

    const fn help(dialect: Dialect) -> &'static str {
        match dialect {
            Dialect::PgBouncer => help!(""),
            Dialect::Howdah => help!(
                "\n\tSHOW NODES|CLUSTER|NODE_POOLS|ROUTING|STATEMENTS|PINS|EPOCH|ERRORS|HISTOGRAMS\
                 \n\tSHOW FAILOVERS|OPERATIONS|EVENTS|JOBS\
                 \n\tSHOW ... LIKE 'pattern'\
                 \n\tSWITCHOVER [TO <node>] [IN <cluster>]\
                 \n\tFAILOVER [TO <node>] [VOUCH <node>] [ALLOW DATA LOSS] [IN <cluster>]\
                 \n\tMAINTENANCE ON|OFF [IN <cluster>]\
                 \n\tATTACH|DETACH|FENCE|UNFENCE|REBUILD|RESTART <node> [IN <cluster>]"
            ),
        }
    }

    /// Room for an answer that may wait for its reader.
    ///
    /// # Errors
    /// [`ConsoleError::TooManyAnswers`].
    pub(super) fn room(self: &Arc<Self>, bytes: usize) -> Result<Room, ConsoleError> {
        // whatever comes of it, what is counted is given back with this
        let room = Room { seat: Arc::clone(self), bytes };
        let before = self.untaken.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > UNTAKEN_MAX { Err(ConsoleError::TooManyAnswers) } else { Ok(room) }
    }

    /// Puts an answer together, not on the thread of a worker: ten thousand clients are ten milliseconds of it.
    async fn show(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        dialect: Dialect,
        (name, like): (&str, Option<&str>),
        formats: &Formats,
    ) -> Result<Encoded, ConsoleError> {
        let unknown = || ConsoleError::syntax(&format!("SHOW {}", name.to_uppercase()));
        let mut look = Look::new(self, shared, dialect);
        let told = show::ask(&mut look, name).await;
        let looks = Arc::clone(&self.looks).acquire_owned().await;
        let (name, like, formats) = (name.to_owned(), like.map(str::to_owned), formats.clone());
        let making = tokio::task::spawn_blocking(move || {
            let _looks = looks; // given back when it is done, also when nobody waits for it any more
            show::table(&look, told, &name, like.as_deref()).map(|table| Encoded::of(table, &formats))
        });
        let mut made = match making.await {
            Ok(made) => made.ok_or_else(unknown)?,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return Err(ConsoleError::Canceled), // the worker ends
        };
        if made.len() > SMALL {
            made.room = Some(self.room(made.len())?);
        }
        Ok(made)
    }

    /// Carries a command out. Dropping it gives it up.
    ///
    /// # Errors
    /// PgBouncer's words.
    pub async fn carry_out(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        dialect: Dialect,
        access: Access,
        (command, formats): (&Command, &Formats),
    ) -> Result<Done, ConsoleError> {
        match command {
            Command::Show { name, .. } if name == "help" => {
                Ok(noticed("SHOW", "Console usage", Some(Self::help(dialect))))
            }
            Command::Show { name, .. } if name == "fds" && access != Access::Admin => Err(ConsoleError::AdminNeeded),
            Command::Show { name, like } => {
                self.show(shared, dialect, (name, like.as_deref()), formats).await.map(Done::Rows)
            }
            Command::Set { key, .. } if show::is_parameter(key) => Ok(noticed("SET", "SET ignored", None)),
            _ if access != Access::Admin => Err(ConsoleError::AdminNeeded),
            command => {
                let running = shared.running();
                let is_console = |name: &str| leads_here(&running, name);
                let means = Means { shared, control: self.sources.control.as_ref(), is_console: &is_console };
                let Carried { tag, notice } = carry_out(&means, command).await?;
                Ok(Done::Tag { tag, notice, detail: None })
            }
        }
    }
}
