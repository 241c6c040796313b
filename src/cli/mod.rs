//! One file per command: the only place where parts are wired together.

pub mod demo;
