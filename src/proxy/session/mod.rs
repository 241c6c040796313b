//! x
pub mod settings;
pub mod statements;
