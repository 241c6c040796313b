//! TLS both ways. (being written)
