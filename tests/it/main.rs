//! Everything that needs a real PostgreSQL, in one binary: one module per promise.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod copy;
mod demo;
mod drivers;
mod foreign;
mod harness;
mod modes;
mod pipelines;
mod plans;
mod protocol;
mod settings;
mod starving;
mod statements;
