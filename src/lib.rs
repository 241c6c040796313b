//! howdah: one PostgreSQL endpoint in front of a primary and its streaming standbys.
//!
//! Two paths and one meeting point. The **data path** ([`proxy`]) moves a client's statements; the **control path**
//! ([`cluster`]) changes which node is the primary. They never call each other: the control path publishes a
//! [`topology::Topology`], the data path reads it.
//!
//! Modules in reading order; each may use only those above it (`tests/tidy.rs` holds that). [`agent`] is a process of its own, beside each PostgreSQL; what it is told is in [`directive`]:

// pure: no I/O, no clock, no randomness
pub mod directive;
pub mod pg;
pub mod protocol;
pub mod sql;
pub mod stats;
pub mod topology;

pub mod catalog;
pub mod config;
pub mod net;

// beside PostgreSQL
pub mod agent;

// the two paths: they never import each other
pub mod cluster;
pub mod proxy;

pub mod admin;
pub mod cli;
pub mod console;
pub mod demo;
pub mod import;
