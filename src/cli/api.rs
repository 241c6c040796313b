//! How an operating command finds the daemon: by `--api`, or by the address in its configuration.
//!
//! Of the configuration only `[http]` is read: whoever asks need not be allowed to read the passwords it points at.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde::Deserialize;

use super::serve::DEFAULT_CONFIG;
use crate::admin::http::HttpAddress;
use crate::config;

/// Which daemon.
#[derive(Debug, Args)]
pub struct ApiArgs {
    /// The daemon's configuration file, for the address of its HTTP API.
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// The address itself: 127.0.0.1:6433, or unix:/run/howdah/api.sock.
    #[arg(long, value_name = "ADDRESS")]
    pub api: Option<HttpAddress>,
}

impl ApiArgs {
    /// Where the daemon's API is.
    ///
    /// # Errors
    /// When the file does not say.
    pub fn address(&self) -> anyhow::Result<HttpAddress> {
        match &self.api {
            Some(address) => Ok(address.clone()),
            None => in_file(&self.config),
        }
    }

    /// Where that daemon's tokens are: the one for everything, then the one for looking. None with `--api`, which may mean
    /// another daemon than the file.
    #[must_use]
    pub fn token_files(&self) -> Vec<PathBuf> {
        let http = match &self.api {
            Some(_) => return Vec::new(),
            None => fs::read_to_string(&self.config).ok().and_then(|text| toml::from_str::<File>(&text).ok()),
        };
        let base = std::path::absolute(&self.config).unwrap_or_default();
        let base = base.parent().unwrap_or_else(|| Path::new("/"));
        let files = http.map(|file| [file.http.admin_token_file, file.http.read_token_file]);
        files.into_iter().flatten().flatten().map(|file| base.join(file)).collect()
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    http: config::Http,
}

fn in_file(path: &Path) -> anyhow::Result<HttpAddress> {
    let name = path.display();
    let text = fs::read_to_string(path).with_context(|| {
        format!("cannot read \"{name}\" for the daemon's address; say where it is with -c or --api")
    })?;
    let file: File = toml::from_str(&text).with_context(|| format!("\"{name}\""))?;
    match file.http.address {
        config::HttpAddress::Unix(path) => Ok(HttpAddress::Unix(path)),
        address @ config::HttpAddress::Tcp { .. } => Ok(HttpAddress::Tcp(address.to_string())),
        config::HttpAddress::Off => anyhow::bail!("the daemon of \"{name}\" has no HTTP API: http.address is \"off\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> anyhow::Result<HttpAddress> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("howdah.toml");
        std::fs::write(&path, text).unwrap();
        in_file(&path)
    }

    #[test]
    fn the_tokens_are_where_the_file_says() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("howdah.toml");
        std::fs::write(&config, "[http]\nadmin_token_file = \"a\"\nread_token_file = \"/r\"\n").unwrap();
        let args = |api: Option<&str>| ApiArgs { config: config.clone(), api: api.map(|api| api.parse().unwrap()) };
        assert_eq!(args(None).token_files(), [directory.path().join("a"), PathBuf::from("/r")]);
        assert!(args(Some("127.0.0.1:1")).token_files().is_empty());
    }

    #[test]
    fn only_the_address_is_read_of_a_configuration() {
        let elsewhere =
            "[users.app]\npassword_file = \"/nonexistent\"\n[http]\naddress = \"unix:/run/howdah/api.sock\"\n";
        assert_eq!(found(elsewhere).unwrap(), HttpAddress::Unix("/run/howdah/api.sock".into()));
        assert_eq!(found("").unwrap(), HttpAddress::Tcp("127.0.0.1:6433".to_owned()));
        for wrong in ["[http]\naddress = \"off\"", "[http]\naddress = 7", "[http", "[http]\nadress = \"x:1\""] {
            assert!(found(wrong).is_err(), "{wrong}");
        }
        assert!(format!("{:#}", in_file(Path::new("/nonexistent")).unwrap_err()).contains("--api"));
    }
}
