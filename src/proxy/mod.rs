//! THE DATA PATH. (map follows)
pub mod pool;
pub mod server;
pub mod session;
pub mod statements;
