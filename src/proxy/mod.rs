//! THE DATA PATH. (map follows)
pub mod pool;
