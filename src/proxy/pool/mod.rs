//! Pools.
pub mod accounting;
