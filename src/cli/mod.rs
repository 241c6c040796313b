//! One file per command, and the only place where parts are wired together.

pub mod api;
pub mod check;
pub mod demo;
pub mod route;
pub mod serve;
