//! The `tls` tables: towards clients under a listener, towards PostgreSQL under a node.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much TLS must prove, in libpq's words (`LIBPQ-SSL-SSLMODE-STATEMENTS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// No TLS.
    Disable,
    /// TLS where the other side insists.
    Allow,
    /// TLS where the other side can.
    #[default]
    Prefer,
    /// TLS or no connection; nobody's certificate is checked.
    Require,
    /// TLS, and the other side's certificate must come from the authority in `ca`.
    VerifyCa,
    /// As verify-ca; towards a node, its certificate must also name its host.
    VerifyFull,
}

impl TlsMode {
    /// As spelled in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    /// Whether a connection without TLS is out of the question.
    #[must_use]
    pub const fn needs_tls(self) -> bool {
        matches!(self, Self::Require | Self::VerifyCa | Self::VerifyFull)
    }

    /// Whether the other side's certificate must be checked.
    #[must_use]
    pub const fn verifies(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyFull)
    }
}

/// How much SCRAM must be bound to TLS, in libpq's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelBinding {
    /// Where the node can.
    #[default]
    Prefer,
    /// Or no connection.
    Require,
}

/// How TLS begins on a connection to PostgreSQL, in libpq's words (`LIBPQ-CONNECT-SSLNEGOTIATION`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TlsNegotiation {
    /// By asking first, which every PostgreSQL understands.
    #[default]
    Postgres,
    /// At once, which saves a round trip; PostgreSQL 17 and newer.
    Direct,
}

/// TLS towards clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerTls {
    /// The certificate chain in PEM format, the server's own first. Relative to the configuration file. Needed unless
    /// the mode is disable. PgBouncer: `client_tls_cert_file`.
    #[schemars(extend("x-reload" = "live", "format" = "path", "x-example" = "server.crt"))]
    pub cert: Option<PathBuf>,

    /// The private key of `cert`, in PEM format. PgBouncer: `client_tls_key_file`.
    #[schemars(extend("x-reload" = "live", "format" = "path", "x-example" = "server.key"))]
    pub key: Option<PathBuf>,

    /// Authorities whose client certificates are accepted, in PEM format. Needed by verify-ca and verify-full; with a
    /// weaker mode a client may present a certificate, and one that these authorities did not sign is refused.
    /// PgBouncer: `client_tls_ca_file`.
    #[schemars(extend("x-reload" = "live", "format" = "path", "x-example" = "clients.crt"))]
    pub ca: Option<PathBuf>,

    /// What a client must do. With allow and prefer, which are the same here, it chooses; require refuses plain text;
    /// verify-ca and verify-full, again the same, also demand a certificate that `ca` signed. Whom it names is not
    /// compared with the user, as in PgBouncer. A client may ask for TLS first or begin with it (libpq:
    /// `sslnegotiation=direct`). PgBouncer: `client_tls_sslmode`.
    #[schemars(extend("x-reload" = "live"))]
    pub mode: TlsMode,
}

/// TLS towards PostgreSQL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NodeTls {
    /// What howdah insists on, as libpq's `sslmode`: allow tries without TLS first and with it where the node does not
    /// want that, prefer the other way round. Which connection is tried again is narrower than in libpq: one that
    /// `pg_hba.conf` has refused, and one whose TLS handshake has failed. PgBouncer: `server_tls_sslmode`.
    #[schemars(extend("x-reload" = "live"))]
    pub mode: TlsMode,

    /// How TLS begins, as libpq's `sslnegotiation`. `"direct"` saves a round trip, needs PostgreSQL 17 or newer on the
    /// node, and mode require or stricter.
    #[schemars(extend("x-reload" = "live"))]
    pub negotiation: TlsNegotiation,

    /// Authorities that may have signed the node's certificate, in PEM format, relative to the configuration file.
    /// Only with verify-ca, which needs it, and verify-full, which without it trusts the authorities of the operating
    /// system (libpq: `sslrootcert=system`).
    #[schemars(extend("x-reload" = "live", "format" = "path", "x-example" = "root.crt"))]
    pub ca: Option<PathBuf>,

    /// Whether a node must prove at login that nobody stands between it and howdah, whatever certificate it shows (libpq:
    /// `channel_binding`). With prefer, a node that offers it is bound, and one that notices that its offer was taken away
    /// refuses; with require, a node that does not offer it, or that asks for no SCRAM at all, is not used.
    #[schemars(extend("x-reload" = "live"))]
    pub channel_binding: ChannelBinding,

    /// The certificate with which howdah presents itself, in PEM format.
    #[schemars(extend("x-reload" = "live", "format" = "path", "x-example" = "howdah.crt"))]
    pub cert: Option<PathBuf>,

    /// The private key of `cert`, in PEM format.
    #[schemars(extend("x-reload" = "live", "format" = "path", "x-example" = "howdah.key"))]
    pub key: Option<PathBuf>,
}
