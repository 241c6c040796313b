//! The highest epoch this agent has seen, and who gave it: persisted before anything is done under it, so that neither a restart
//! nor a store that was put back can make the agent obey the past.
//!
//! [`Promise`] is pure; [`Epochs`] is the file around it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::durable;
use crate::config::version::{read_state, state_text};
use crate::directive::{Code, Failure};
use crate::topology::Epoch;

/// The version of the file.
const VERSION: u32 = 1;
/// The file's name in the state directory.
const FILE: &str = "epoch.json";

/// What was seen, and so what is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promise {
    /// The highest epoch.
    pub epoch: Epoch,
    /// Who gave it; empty before there was any.
    pub coordinator: String,
}

impl Promise {
    /// The promise after an order of this epoch and coordinator.
    ///
    /// # Errors
    /// [`Code::StaleEpoch`], [`Code::OtherCoordinator`]: for ever.
    pub fn after(&self, epoch: Epoch, coordinator: &str) -> Result<Self, Failure> {
        if coordinator.is_empty() {
            return Err(Failure::new(Code::Malformed, "the order does not say which coordinator gives it"));
        }
        if epoch < self.epoch {
            let text =
                format!("epoch {epoch} is older than {}, which coordinator \"{}\" gave", self.epoch, self.coordinator);
            return Err(Failure::new(Code::StaleEpoch, text));
        }
        let first_of_epoch = epoch > self.epoch || self.coordinator.is_empty();
        if !first_of_epoch && coordinator != self.coordinator {
            let text = format!(
                "epoch {epoch} was given by coordinator \"{}\" before, not by \"{coordinator}\"",
                self.coordinator
            );
            return Err(Failure::new(Code::OtherCoordinator, text));
        }
        Ok(Self { epoch, coordinator: coordinator.to_owned() })
    }
}

/// The promise and its file.
#[derive(Debug)]
pub struct Epochs {
    path: PathBuf,
    promise: Promise,
}

impl Epochs {
    /// Reads the promise of former lives; there is none in a new state directory.
    ///
    /// # Errors
    /// When the file is there and does not read, or a later howdah has written it: an agent that has forgotten its promise must not begin a new one by itself.
    pub fn open(state_directory: &Path) -> io::Result<Self> {
        let path = state_directory.join(FILE);
        let promise = match fs::read(&path) {
            Ok(text) => read_state(&text, VERSION).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("\"{}\": {error}", path.display()))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Promise::default(),
            Err(error) => return Err(io::Error::new(error.kind(), format!("\"{}\": {error}", path.display()))),
        };
        Ok(Self { path, promise })
    }

    /// What was seen.
    #[must_use]
    pub const fn promise(&self) -> &Promise {
        &self.promise
    }

    /// Takes an order's epoch: when this returns `Ok`, it is on the disk.
    ///
    /// # Errors
    /// As [`Promise::after`], and what keeps the file from being written; nothing has changed then.
    ///
    /// # Cancel safety
    /// None: the file may be ahead of what is known here. Run it to its end.
    pub async fn take(&mut self, epoch: Epoch, coordinator: &str) -> Result<(), Failure> {
        let next = self.promise.after(epoch, coordinator)?;
        if next != self.promise {
            let text = state_text(&next, VERSION).map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
            durable::write(self.path.clone(), text).await?;
            self.promise = next;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn take(epochs: &mut Epochs, epoch: u64, coordinator: &str) -> Result<(), Code> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(epochs.take(Epoch(epoch), coordinator)).map_err(|failure| failure.code)
    }

    #[test]
    fn what_was_seen_holds_in_every_later_life() {
        let directory = tempfile::tempdir().unwrap();
        let mut epochs = Epochs::open(directory.path()).unwrap();
        assert_eq!(take(&mut epochs, 0, "c1"), Ok(()));
        assert_eq!(take(&mut epochs, 7, "c1"), Ok(()));
        assert_eq!(take(&mut epochs, 7, "c1"), Ok(()));
        for _life in 0..2 {
            let mut epochs = Epochs::open(directory.path()).unwrap();
            assert_eq!(take(&mut epochs, 6, "c1"), Err(Code::StaleEpoch));
            assert_eq!(take(&mut epochs, 7, "c2"), Err(Code::OtherCoordinator));
            assert_eq!(take(&mut epochs, 8, ""), Err(Code::Malformed));
        }
        let mut epochs = Epochs::open(directory.path()).unwrap();
        assert_eq!(take(&mut epochs, 8, "c2"), Ok(()));
        assert_eq!(take(&mut epochs, 8, "c1"), Err(Code::OtherCoordinator));
    }

    #[test]
    fn a_promise_that_cannot_be_written_is_not_given_and_one_that_does_not_read_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let mut epochs = Epochs::open(directory.path()).unwrap();
        fs::create_dir(directory.path().join("epoch.json.howdah-tmp")).unwrap();
        assert!(take(&mut epochs, 3, "c1").is_err());
        assert_eq!(epochs.promise(), &Promise::default());
        for wrong in ["{", "{\"version\":2,\"epoch\":9,\"coordinator\":\"c\",\"new\":1}"] {
            fs::write(directory.path().join(FILE), wrong).unwrap();
            assert!(Epochs::open(directory.path()).unwrap_err().to_string().contains("epoch.json\": "));
        }
    }

    proptest! {
        #[test]
        fn no_epoch_is_ever_obeyed_from_two_coordinators_and_none_after_a_newer_one(
            orders in proptest::collection::vec((0_u64..5, 0_u8..3), 0..40)
        ) {
            let mut promise = Promise::default();
            let mut obeyed: Vec<(u64, u8)> = Vec::new();
            for (epoch, who) in orders {
                if let Ok(next) = promise.after(Epoch(epoch), &format!("c{who}")) {
                    promise = next;
                    prop_assert!(obeyed.iter().all(|(before, by)| *before < epoch || *before == epoch && *by == who));
                    obeyed.push((epoch, who));
                }
            }
        }
    }
}
