//! A whole cluster in a temporary directory, built from the public parts as anyone would.

pub mod ports;
pub mod postgres;
pub mod process;
pub mod scratch;
