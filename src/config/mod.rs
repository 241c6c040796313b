//! The configuration file: the structs that are its reference, and the way from a file to a [`Config`] that is right.
//!
//! The way in, in the order it runs ([`load()`]):
//!
//! 1. `document`: the text becomes a tree whose every key and value knows its line and column.
//! 2. `check`: the tree is compared with the `schema` of the structs; every unknown key and wrong value is a [`Problem`].
//! 3. serde fills [`Config`]; its values are types that cannot be wrong ([`ConfigDuration`], [`Address`], [`Secret`]).
//! 4. `complete`: paths become absolute, passwords are read from their files, groups become numbers.
//! 5. `validate`: what only the whole file can show, such as a database in a cluster that does not exist.
//!
//! All problems of a step are reported at once. Nothing past this module sees a string that still needs parsing, and
//! nothing reads a part of the overlays: [`Config::profile`] says what holds for one user in one database.
//!
//! Two rules hold for all files of howdah's: `secret_file` says who may be able to read a secret, [`version`] which versions are read.
//!
//! The docstrings of the structs are the documentation: [`render_reference`] and [`render_docs`] print them, and what
//! a key needs when it changes (`x-reload`) is what [`compare`] says.
//!
//! Not here: the command line (`cli`); the keys of `agent.toml` (`agent`), which is read the same way (`kindred`).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

mod address;
mod admin;
mod agents;
mod auth;
mod check;
mod cluster;
mod complete;
mod credential;
mod database;
mod document;
mod duration;
mod failover;
mod file;
pub mod hba;
pub(crate) mod kindred;
mod listener;
mod load;
mod network;
mod overlay;
mod pool;
mod problem;
mod profile;
pub mod queries;
pub mod reload;
mod render;
mod routing;
mod schema;
mod secret;
pub(crate) mod secret_file;
mod size;
mod stats;
mod store;
pub(crate) mod suggest;
mod text;
mod timeouts;
mod tls;
mod user;
pub mod users_file;
mod validate;
pub mod version;

pub use address::{Address, Host, HttpAddress, NodeHost};
pub use admin::Admin;
pub use agents::{AgentAddress, AgentAddressError, Agents};
pub use auth::{Auth, AuthMethod};
pub use cluster::{Cluster, Monitor, Node};
pub use credential::Credential;
pub use database::{ANY_DATABASE, Database};
pub use document::toml_key;
pub use duration::{ConfigDuration, Period};
pub use failover::{Durability, Failover, FailoverMode, Lease, OnOpen, Switchover};
pub use file::{Config, Http, Limits, Log, LogFormat, LogLevel, VERSION, Workers};
pub use listener::{Listener, SOCKET_PORT, SocketMode};
pub use load::{load, parse};
pub use network::Network;
pub use pool::{CommitOutcome, Pins, Pool, PoolMode, PoolOverlay};
pub use problem::{Place, Problem, Problems};
pub use profile::{Profile, ProfileTimeouts, Undivided};
pub use reload::change::{Change, Written};
pub use reload::{RestartNeeded, compare, keep_running};
pub use render::{render_docs, render_reference};
pub use routing::{Balance, Consistency, Routing, RoutingRole};
pub use schema::keys;
pub use secret::Secret;
pub use size::ByteSize;
pub use stats::Stats;
pub use store::{Store, StoreKind};
pub use timeouts::{Timeouts, TimeoutsOverlay};
pub use tls::{ChannelBinding, ListenerTls, NodeTls, TlsMode, TlsNegotiation};
pub use user::User;

#[cfg(test)]
mod tests;
