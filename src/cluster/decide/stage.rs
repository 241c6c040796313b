//! The stages of the coordinator and every way between them: the one table that the machine, its tests and the diagram in
//! ARCHITECTURE.md share.
//!
//! Not here: what is done in a stage (`failover`, `switchover`, `start`, `steady`). What is under way is in the
//! [`Record`](super::Record); a stage is how far this life of the daemon is with it.

/// Where the coordinator is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The configuration says that somebody else decides.
    Observing,
    /// It is not known yet who is the primary.
    #[default]
    Starting,
    /// There is a primary; standbys are looked after.
    Steady,
    /// The primary fails, or does not answer, and nothing is done about it yet.
    Suspecting,
    /// The primary is started again where it was.
    Restarting,
    /// The old primary is being fenced and the standbys are being frozen: gate (a).
    Fencing,
    /// Nobody can write; the standby that has most is looked for: gate (b).
    Choosing,
    /// One node is told to become the primary.
    Promoting,
    /// A switchover: checkpoints, so that the stop is short.
    Preparing,
    /// New transactions are held, running ones drain.
    Draining,
    /// The old primary is being stopped cleanly.
    Stopping,
    /// The candidate replays the rest.
    CatchingUp,
}

use Stage::{
    CatchingUp, Choosing, Draining, Fencing, Observing, Preparing, Promoting, Restarting, Starting, Steady, Stopping,
    Suspecting,
};

impl Stage {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Observing, Starting, Steady, Suspecting, Restarting, Fencing, Choosing, Promoting, Preparing, Draining,
        Stopping, CatchingUp,
    ];

    /// Its name, as `howdah status` shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Observing => "observing",
            Starting => "starting",
            Steady => "steady",
            Suspecting => "suspecting",
            Restarting => "restarting",
            Fencing => "fencing",
            Choosing => "choosing",
            Promoting => "promoting",
            Preparing => "preparing",
            Draining => "draining",
            Stopping => "stopping",
            CatchingUp => "catching-up",
        }
    }

    /// Whether an operation is under way that others have to wait for.
    #[must_use]
    pub const fn is_operation(self) -> bool {
        matches!(self, Restarting | Fencing | Choosing | Promoting | Preparing | Draining | Stopping | CatchingUp)
    }
}

/// Every way from one stage to another, and what leads there.
pub const WAYS: &[(Stage, &str, Stage)] = &[
    (Observing, "managed again", Starting),
    (Starting, "the primary is known", Steady),
    (Starting, "recorded: a failover", Fencing),
    (Starting, "recorded: a restart", Restarting),
    (Starting, "recorded: a stop for a switchover", Stopping),
    (Starting, "recorded: a promotion", Promoting),
    (Starting, "nobody accepts writes, everybody is heard", Fencing),
    (Steady, "the primary fails", Suspecting),
    (Steady, "a restart is asked for", Restarting),
    (Steady, "failover, by command", Fencing),
    (Steady, "switchover", Preparing),
    (Suspecting, "it is well", Steady),
    (Suspecting, "a restart is quicker, or nobody else can", Restarting),
    (Suspecting, "evidence, and a candidate", Fencing),
    (Restarting, "it accepts writes", Steady),
    (Restarting, "it does not come up", Fencing),
    (Restarting, "something has started it as a standby", Promoting),
    (Fencing, "proof, or an operator vouches", Choosing),
    (Fencing, "the fence never came there, and it is well", Steady),
    (Fencing, "an agent knows a higher epoch", Fencing),
    (Choosing, "a candidate", Promoting),
    (Choosing, "no candidate: the old primary again, under a new epoch", Restarting),
    (Choosing, "an agent knows a higher epoch", Fencing),
    (Promoting, "it accepts writes", Steady),
    (Promoting, "it failed or is lost: under a new epoch", Fencing),
    (Preparing, "checkpoints are done", Draining),
    (Preparing, "undone", Steady),
    (Preparing, "the primary fails", Suspecting),
    (Draining, "nothing is open", Stopping),
    (Draining, "undone", Steady),
    (Draining, "the primary fails", Suspecting),
    (Stopping, "stopped cleanly", CatchingUp),
    (Stopping, "undone, it still runs", Steady),
    (Stopping, "undone: started again under a new epoch", Restarting),
    (CatchingUp, "everything is replayed", Promoting),
    (CatchingUp, "undone: started again under a new epoch", Restarting),
];

/// Whether the table has this way. To [`Stage::Observing`] there is one from everywhere, and back to the start when the agents know more than
/// the record does.
#[must_use]
pub fn may_go(from: Stage, to: Stage) -> bool {
    matches!(to, Observing | Starting) || WAYS.iter().any(|(a, _, b)| *a == from && *b == to)
}
