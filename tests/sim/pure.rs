//! The files of howdah that are tried here, as they are: that they compile alone is what being pure means.
//!
//! Nothing of their own is in here. Their lints and their tests are those of howdah.

#[path = "../../src/directive/mod.rs"]
pub mod directive;
#[path = "../../src/pg/mod.rs"]
pub mod pg;
#[path = "../../src/topology/mod.rs"]
pub mod topology;

#[path = "../../src/cluster"]
pub mod cluster {
    //! Of the control path what decides.
    pub mod decide;
}
