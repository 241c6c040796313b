//! Transcripts of what the coordinator does.
