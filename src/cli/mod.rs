//! One file per command, and the only place where parts are wired together.
//!
//! `operate`, `look` and `follow` are the commands for a running daemon; `daemon` asks it, `exit` has their exit codes. [`managed`] says
//! which clusters get a coordinator. [`check`] asks nobody unless it is told to. What `serve` is made of: `doors`, `window` (sockets), `logs`, `reload`.

pub mod advice;
pub mod agent;
pub mod api;
pub mod check;
pub mod daemon;
pub mod demo;
mod doors;
pub mod exit;
mod follow;
pub mod import;
mod logs;
pub mod look;
pub mod managed;
pub mod operate;
mod reload;
pub mod route;
pub mod serve;
pub mod table;
mod window;
