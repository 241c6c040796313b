//! The agent's defect of a build with the feature `negative-control`, chosen with `HOWDAH_DEFECT=dead-postmaster`: a postmaster that
//! is dead counts as a fence, whatever it has left behind. No other build has this file.

/// Whether this process has it.
pub fn takes_a_dead_postmaster_for_a_fence() -> bool {
    std::env::var("HOWDAH_DEFECT").is_ok_and(|defect| defect == "dead-postmaster")
}
