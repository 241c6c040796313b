//! One file per command, and the only place where parts are wired together.

pub mod check;
pub mod demo;
pub mod serve;
