//! The process beside PostgreSQL, and the only one that touches a data directory: `howdah agent`.
//!
//! It decides nothing about roles: a coordinator tells it ([`directive`](crate::directive)), under an epoch, and it refuses what is
//! older than what it has seen.
//!
//! - [`config`][]: `agent.toml`, read by [`load`]; [`surroundings`]: what it finds on the machine
//! - [`epochs`][]: what it refuses
//! - [`job`] runs jobs as [`course`] says, [`journal`] remembers them, [`durable`] writes
//! - [`events`][]: what it tells, at once, of the [`postmaster`] and of all that makes a [`status`], which it has to [`ask`] for
//! - [`api`] and [`peer`]: how it is talked to, and by whom
//! - [`run`][]: all of it
//! - [`step`]: one reversible act of a job; [`jobs`]: lists of them; [`steps`]: those that there are
//! - [`postgres`][]: its files, programs, processes and socket, which steps are made of
//! - [`sweep`]: finds every server process of the data directory, and leaves none

pub mod api;
pub mod ask;
pub mod config;
pub mod course;
#[cfg(feature = "negative-control")]
pub mod defect;
pub mod durable;
pub mod epochs;
pub mod events;
pub mod job;
pub mod jobs;
pub mod journal;
pub mod load;
pub mod peer;
pub mod postgres;
pub mod postmaster;
pub mod run;
pub mod status;
pub mod step;
pub mod steps;
pub mod surroundings;
pub mod sweep;
