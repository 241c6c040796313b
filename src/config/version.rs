//! The one rule for versions, of configuration files and of the files that daemon and agent keep what they know in: a file says which
//! version it is written for, one that does not is of the first, those before ours are read, and a newer one is refused: what it means
//! is not known here.
//!
//! Not here: what is in the files.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Why a file of the daemon's or the agent's own does not read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A later howdah has written it.
    #[error(
        "it is of version {found}, and this howdah reads versions up to {newest}: start the howdah that wrote it, or a newer one"
    )]
    Newer {
        /// Which it is.
        found: u64,
        /// The last that is known here.
        newest: u32,
    },
    /// It is none of ours, or torn.
    #[error(transparent)]
    Unreadable(#[from] serde_json::Error),
}

/// The key that says it.
const KEY: &str = "version";

#[derive(Serialize)]
struct Versioned<'c, T> {
    version: u32,
    #[serde(flatten)]
    content: &'c T,
}

/// The text of a state file: `content`, which is an object in JSON, with its version in front.
///
/// # Errors
/// What serde says.
pub fn state_text<T: Serialize>(content: &T, version: u32) -> Result<Vec<u8>, serde_json::Error> {
    let mut text = serde_json::to_vec_pretty(&Versioned { version, content })?;
    text.push(b'\n');
    Ok(text)
}

/// What a state file says, if it is of a version up to `newest`.
///
/// # Errors
/// [`StateError`].
pub fn read_state<T: DeserializeOwned>(text: &[u8], newest: u32) -> Result<T, StateError> {
    let mut whole: Value = serde_json::from_slice(text)?;
    let version = whole.as_object_mut().and_then(|object| object.remove(KEY));
    match version.map(u64::deserialize) {
        None => {}
        Some(Ok(0) | Err(_)) => {
            return Err(serde_json::Error::custom("its version is no number from 1").into());
        }
        Some(Ok(found)) if found > u64::from(newest) => return Err(StateError::Newer { found, newest }),
        Some(Ok(_)) => {}
    }
    Ok(T::deserialize(whole)?)
}

/// What to say of a configuration file of a version that did not exist yet, and what to do.
pub(crate) fn newer(version: i64, newest: u32) -> Option<(String, &'static str)> {
    (version > i64::from(newest)).then(|| {
        let message = format!("the file is of version {version}, and this howdah reads versions up to {newest}");
        (message, "start a newer howdah with it, or write it for this one")
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_is_written_is_read_what_has_no_version_too_and_a_newer_one_is_not() {
        let content = BTreeMap::from([("a".to_owned(), Some(u64::MAX)), ("b".to_owned(), None)]);
        let text = state_text(&content, 3).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&text),
            format!("{{\n  \"version\": 3,\n  \"a\": {},\n  \"b\": null\n}}\n", u64::MAX)
        );
        let read = |text: &[u8], newest| read_state::<BTreeMap<String, Option<u64>>>(text, newest);
        assert_eq!(read(&text, 3).unwrap(), content);
        assert_eq!(read(&text, 4).unwrap(), content);
        assert_eq!(read(b"{\"a\":1}", 1).unwrap(), BTreeMap::from([("a".to_owned(), Some(1))]));
        let said = read(&text, 2).unwrap_err().to_string();
        assert_eq!(
            said,
            "it is of version 3, and this howdah reads versions up to 2: start the howdah that wrote it, or a newer one"
        );
        for wrong in ["{\"version\":0}", "{\"version\":\"1\"}", "{\"version\":null}", "[]", "{", ""] {
            assert!(matches!(read(wrong.as_bytes(), 9), Err(StateError::Unreadable(_))), "{wrong}");
        }
    }
}
