//! SCRAM. (being written)
