//! One file per command, and the only place where parts are wired together.

pub mod agent;
pub mod api;
pub mod check;
pub mod demo;
mod managed;
pub mod route;
pub mod serve;
