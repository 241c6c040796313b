//! Everything that needs a real PostgreSQL, in one binary: one module per promise.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod admission;
mod agent;
mod agent_jobs;
mod auth;
mod bad_input;
mod cancel;
mod catalogue;
mod classes;
mod consistency;
mod console;
mod console_golden;
mod copy;
mod demo;
mod drivers;
mod eighteen;
mod explain;
mod failover;
mod failover_index;
mod failover_runs;
mod fake;
mod faults;
mod fencing;
mod foreign;
mod full_disks;
mod harness;
mod health;
mod hidden;
mod import;
mod in_vain;
mod intents;
mod leaks;
mod limits;
mod listening;
mod login;
mod metrics;
mod modes;
mod operate;
mod orders;
mod outage;
mod passwords;
mod pausing;
mod pins;
mod pipelines;
mod plans;
mod protocol;
mod reload;
mod replicas_lost;
mod replication;
mod routing;
mod scram;
mod settings;
mod shutdown;
mod standbys;
mod starving;
mod statements;
mod statistics;
mod timeouts;
mod tls;
mod versions;
mod volatility;
mod ways;
