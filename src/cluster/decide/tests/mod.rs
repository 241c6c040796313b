//! Transcripts: what happens, and what the coordinator does about it.

mod failover;
mod fixture;
mod rejoin;
mod switchover;
mod total;
