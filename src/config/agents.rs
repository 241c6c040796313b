//! `[clusters.NAME.agents]` and the key `agent` of a node: how the daemon reaches the agents beside PostgreSQL.
//!
//! Not here: what an agent is told by its own file (`agent/config`).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Deserialize;

use super::address::{AddressError, Host, parse_path, parse_tcp, print_tcp};
use super::text::text_value;

/// The port in the advice for an address that lacks one.
const AGENT_PORT: u16 = 6434;

/// Mutual TLS towards the agents at `https://` addresses. Each side checks the other's certificate; there is no other way in over
/// a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Agents {
    /// The authority that has signed the agents' certificates, in PEM format. Relative to the configuration file. An agent's
    /// certificate must name the host of its address.
    #[schemars(extend("x-reload" = "live", "format" = "path", "x-example" = "agents-ca.crt"))]
    pub ca: Option<PathBuf>,

    /// The certificate with which the daemon presents itself, in PEM format; its common name stands in the agents' `allow`.
    #[schemars(extend("x-reload" = "live", "format" = "path", "x-example" = "daemon.crt"))]
    pub cert: Option<PathBuf>,

    /// The private key of `cert`, in PEM format.
    #[schemars(extend("x-reload" = "live", "format" = "path", "x-example" = "daemon.key"))]
    pub key: Option<PathBuf>,
}

/// Where an agent listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AgentAddress {
    /// `"unix:/path"`: its socket file, on this machine.
    Unix(PathBuf),
    /// `"https://host:port"`: with mutual TLS.
    Https {
        /// Whom its certificate must name.
        host: Host,
        /// Its port.
        port: u16,
    },
}

/// Why a text is no agent's address, and what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentAddressError {
    /// Neither of the two forms.
    #[error("\"{0}\" is not an agent's address; write \"unix:/run/howdah/agent.sock\" or \"https://host:6434\"")]
    Form(String),
    /// Plain HTTP, which proves nobody.
    #[error("\"{0}\": agents are reached with TLS; write \"https://\", or a Unix socket on the same machine")]
    Plain(String),
    /// A path, which is the API's business.
    #[error("\"{0}\" has something after the port; write \"https://host:port\" only")]
    Path(String),
    /// The host, the port or the path is wrong.
    #[error(transparent)]
    Place(#[from] AddressError),
}

impl FromStr for AgentAddress {
    type Err = AgentAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("http://") {
            return Err(AgentAddressError::Plain(text.to_owned()));
        }
        if let Some(place) = text.strip_prefix("https://") {
            if place.contains('/') {
                return Err(AgentAddressError::Path(text.to_owned()));
            }
            let (host, port) = parse_tcp(place, AGENT_PORT)?;
            return Ok(Self::Https { host, port });
        }
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Self::Unix(parse_path(path, text, 0)?)),
            None => Err(AgentAddressError::Form(text.to_owned())),
        }
    }
}

impl fmt::Display for AgentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Https { host, port } => {
                f.write_str("https://")?;
                print_tcp(host, *port, f)
            }
        }
    }
}

text_value!(AgentAddress, "agent address");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_address_reads_what_it_prints_and_a_wrong_one_says_what_to_write() {
        for text in ["unix:/run/howdah/agent.sock", "https://10.0.0.1:6434", "https://[::1]:6434", "https://db1:6434"] {
            assert_eq!(text.parse::<AgentAddress>().unwrap().to_string(), text);
        }
        let said = |text: &str| text.parse::<AgentAddress>().unwrap_err().to_string();
        assert!(said("10.0.0.1:6434").contains("https://host:6434"));
        assert!(said("http://10.0.0.1:6434").contains("with TLS"));
        assert!(said("https://10.0.0.1:6434/v1").contains("after the port"));
        assert!(said("https://10.0.0.1").contains("10.0.0.1:6434"));
        assert!(said("unix:agent.sock").contains("absolute"));
    }
}
