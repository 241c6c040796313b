//! What jobs are made of: one reversible act in each file, on the primitives of [`postgres`](super::postgres).
//!
//! A step looks at the world when it is applied and again when it is undone, because PostgreSQL, a person or a power cut may have
//! been there in between; what it cannot see any more stands in its pre-image.
//!
//! Not here: which steps a directive has (`jobs`), who calls them (`job`).

pub mod check;
pub mod checkpoint;
pub mod copy;
pub mod fence;
pub mod freeze;
pub mod identity;
pub mod point;
pub mod promote;
pub mod rewind;
pub mod running;
pub mod settings;
pub mod slots;
pub mod swap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::directive::{Code, Failure};

/// A pre-image for the journal.
fn to_journal(image: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(image)
        .map_err(|error| Failure::new(Code::Internal, format!("a pre-image does not write: {error}")))
}

/// A pre-image from the journal.
fn from_journal<T: DeserializeOwned>(value: &Value) -> Result<T, Failure> {
    T::deserialize(value).map_err(|error| Failure::new(Code::Internal, format!("a pre-image does not read: {error}")))
}
