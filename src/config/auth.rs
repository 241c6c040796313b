//! `[auth]`: how clients prove who they are, and where what proves them comes from.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::credential::Credential;
use super::hba::{Hba, IdentMaps};

/// How clients prove who they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// What a client must show. A client that is connected stays. PgBouncer: `auth_type`.
    #[schemars(extend("x-reload" = "live"))]
    pub method: AuthMethod,

    /// Rules as in `pg_hba.conf`, for method hba; the first that fits decides. Types: local, host, hostssl, hostnossl
    /// (hostgssenc never fits); methods: scram-sha-256, md5, cert, peer, trust, reject; options: map, clientcert,
    /// clientname=CN. Groups (`+name`, samerole) are asked from the cluster. Host names, samenet and include are refused.
    /// Relative to the configuration file; read again on reload, and a wrong line refuses the reload. PgBouncer:
    /// `auth_hba_file`.
    #[schemars(extend("x-reload" = "live", "format" = "path", "x-example" = "pg_hba.conf"))]
    pub hba_file: Option<PathBuf>,

    /// Maps as in `pg_ident.conf`, for rules with `map=`: which name in a certificate, or user of the operating system, may
    /// be which database user. Relative to the configuration file; read again on reload. PgBouncer: `auth_ident_file`.
    #[schemars(extend("x-reload" = "live", "format" = "path", "x-example" = "pg_ident.conf"))]
    pub ident_file: Option<PathBuf>,

    /// Users and their secrets, a line `"user" "secret"` each, as PgBouncer's `userlist.txt`. A secret is a password, an
    /// md5 hash (it starts with `md5`) or a SCRAM verifier (`SCRAM-SHA-256$`). Such a user need not be in the cluster's
    /// catalogue; `[users.NAME]` goes before it. Relative to the configuration file; read again on reload. PgBouncer:
    /// `auth_file`.
    #[schemars(extend("x-reload" = "live", "format" = "path", "x-example" = "userlist.txt"))]
    pub users_file: Option<PathBuf>,

    /// What asks the cluster for the secret of user `$1`, where the monitor's user may not read `pg_authid`: a row of name,
    /// secret and, if there is a third column, its VALID UNTIL as timestamptz; no row for no such user. It runs as the
    /// monitor's user on a connection of its own, where nothing a client has set holds: name every table and function with
    /// its schema all the same. Asked at each login, once for those at the same time. PgBouncer: `auth_query`.
    #[schemars(extend("x-reload" = "live", "x-example" = "SELECT usename, passwd FROM admin.my_lookup($1)"))]
    pub query: Option<String>,

    /// The database in which `query` runs. Absent: the monitor's `dbname`. PgBouncer: `auth_dbname`.
    #[schemars(extend("x-reload" = "live", "x-example" = "postgres"))]
    pub dbname: Option<String>,

    /// What `hba_file` says.
    #[serde(skip)]
    pub hba: Option<Arc<Hba>>,

    /// What `ident_file` says.
    #[serde(skip)]
    pub ident: Arc<IdentMaps>,

    /// What `users_file` says.
    #[serde(skip)]
    pub file_users: Arc<BTreeMap<String, Credential>>,
}

/// What a client must show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuthMethod {
    /// The password, without sending it; over TLS bound to the connection if the client can.
    #[default]
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// As scram-sha-256, but md5 for users whose stored secret is an md5 hash.
    Md5,
    /// A certificate signed by the listener's `ca`, whose common name is the user's.
    Cert,
    /// To be the user of the operating system of the same name; Unix sockets only.
    Peer,
    /// Nothing; only where everybody who can connect may be anybody.
    Trust,
    /// What the rule in `hba_file` says.
    Hba,
}
