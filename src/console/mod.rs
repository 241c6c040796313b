//! The admin console: the databases `pgbouncer` (PgBouncer's console to the byte) and `howdah` (the same and more).

pub mod carry_out;
pub mod command;
mod own;
pub mod refusal;
pub mod setting;
mod words;
