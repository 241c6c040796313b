//! What only the whole file can show: names that nobody defines, addresses used twice, files without their pair.

mod failover;

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::address::{Address, Host, HttpAddress, NodeHost};
use super::auth::AuthMethod;
use super::cluster::{Cluster, Node};
use super::credential::Credential;
use super::database::Database;
use super::document::{At, Document, Step, key_path};
use super::file::Config;
use super::hba::ClientCert;
use super::listener::{Listener, SocketMode};
use super::pool::CommitOutcome;
use super::problem::Problem;
use super::suggest::nearest;
use super::tls::{ChannelBinding, ListenerTls, NodeTls, TlsMode, TlsNegotiation};

/// Everything that contradicts something else in the file.
pub(super) fn validate(config: &Config, document: &Document<'_>) -> Vec<Problem> {
    let mut rules = Rules { document, problems: Vec::new() };
    rules.listeners(config);
    for (name, cluster) in &config.clusters {
        rules.nodes(name, &cluster.nodes);
        rules.monitor(name, cluster);
        rules.failover(name, cluster);
    }
    rules.databases(config);
    rules.auth(config);
    rules.store(config);
    rules.problems
}

struct Rules<'d, 't> {
    document: &'d Document<'t>,
    problems: Vec<Problem>,
}

impl Rules<'_, '_> {
    fn report(&mut self, path: &[Step<'_>], at: At, message: impl Into<String>, advice: &str) {
        self.problems.push(self.document.problem(path, at, message, advice));
    }

    fn listeners(&mut self, config: &Config) {
        if config.listeners.is_empty() {
            self.report(
                key_path!["listeners"],
                At::Value,
                "no listener",
                "write one, or remove the key for the default",
            );
        }
        for (i, listener) in config.listeners.iter().enumerate() {
            let earlier = config.listeners.iter().take(i).find(|other| overlap(&other.address, &listener.address));
            if let Some(other) = earlier {
                let message = format!("\"{}\" is taken by the listener on \"{}\"", listener.address, other.address);
                self.report(key_path!["listeners", i, "address"], At::Value, message, "remove one of them");
            }
            self.socket(i, listener);
            if let Some(tls) = &listener.tls {
                self.listener_tls(i, listener, tls);
            }
        }
        let http = match &config.http.address {
            HttpAddress::Tcp { host, port } => Some(Address::Tcp { host: host.clone(), port: *port }),
            HttpAddress::Unix { .. } | HttpAddress::Off => None,
        };
        let taken = http.and_then(|http| config.listeners.iter().find(|listener| overlap(&listener.address, &http)));
        if let Some(listener) = taken {
            let message = format!("\"{}\" is taken by the listener on \"{}\"", config.http.address, listener.address);
            self.report(key_path!["http", "address"], At::Value, message, "write another port, or \"off\"");
        }
        if let HttpAddress::Unix(file) = &config.http.address
            && config.listeners.iter().any(|listener| listener.address.socket_path().as_ref() == Some(file))
        {
            let message = format!("\"{}\" is the socket of a listener", config.http.address);
            self.report(key_path!["http", "address"], At::Value, message, "write another file");
        }
    }

    fn socket(&mut self, i: usize, listener: &Listener) {
        if matches!(listener.address, Address::Unix { .. }) {
            return;
        }
        for key in ["socket_mode", "socket_group"] {
            let path = key_path!["listeners", i, key];
            // The default says nothing; the reference file writes it out.
            let said = key != "socket_mode" || listener.socket_mode != SocketMode::default();
            if said && self.document.has(path) {
                let message = format!("\"{}\" is no Unix socket", listener.address);
                self.report(path, At::Key, message, "remove the key, or listen on \"unix:/dir\"");
            }
        }
    }

    fn listener_tls(&mut self, i: usize, listener: &Listener, tls: &ListenerTls) {
        let table = key_path!["listeners", i, "tls"];
        if matches!(listener.address, Address::Unix { .. }) {
            return self.report(table, At::Key, "a Unix socket has no TLS", "remove the key");
        }
        self.pair(table, tls.cert.is_some(), tls.key.is_some());
        if tls.mode == TlsMode::Disable {
            return;
        }
        let mode = mode_name(tls.mode);
        if tls.cert.is_none() && tls.key.is_none() {
            let message = format!("mode \"{mode}\" needs a certificate");
            self.report(table, At::Key, message, "write \"cert\" and \"key\", or mode = \"disable\"");
        }
        if tls.mode.verifies() && tls.ca.is_none() {
            let message = format!("mode \"{mode}\" needs to know which client certificates to accept");
            self.report(key_path!["listeners", i, "tls", "mode"], At::Value, message, "write \"ca\" too");
        }
    }

    fn auth(&mut self, config: &Config) {
        let auth = &config.auth;
        match (auth.method, &auth.hba_file) {
            (AuthMethod::Hba, None) => {
                let advice = "write hba_file = \"pg_hba.conf\"";
                self.report(key_path!["auth", "method"], At::Value, "method \"hba\" needs rules", advice);
            }
            (AuthMethod::Hba, Some(_)) | (_, None) => {}
            // somebody who writes rules believes that they hold
            (_, Some(_)) => self.report(
                key_path!["auth", "hba_file"],
                At::Key,
                "the rules do not hold with this method",
                "write method = \"hba\", or remove \"hba_file\"",
            ),
        }
        if auth.query.as_ref().is_some_and(|query| !query.contains("$1")) {
            let message = "the query does not ask for a user";
            self.report(key_path!["auth", "query"], At::Key, message, "write $1 where the user's name belongs");
        }
        if auth.query.is_none() && auth.dbname.is_some() {
            let message = "\"dbname\" says where \"query\" runs, and there is none";
            self.report(key_path!["auth", "dbname"], At::Key, message, "write \"query\" too, or remove it");
        }
        let listens = |wanted: &dyn Fn(&Listener) -> bool| config.listeners.iter().any(wanted);
        let wants_certificates = auth.method == AuthMethod::Cert
            || auth.hba.iter().flat_map(|hba| &hba.rules).any(|rule| rule.client_cert != ClientCert::Ignored);
        if wants_certificates && !listens(&|listener| listener.tls.as_ref().is_some_and(|tls| tls.ca.is_some())) {
            let message = "certificates are asked for, and no listener knows whose to accept";
            self.report(key_path!["auth"], At::Key, message, "write \"ca\" into the tls table of a listener");
        }
        if auth.method == AuthMethod::Peer && !listens(&|listener| matches!(listener.address, Address::Unix { .. })) {
            let message = "method \"peer\" is for Unix sockets, and no listener is one";
            let advice = "write a listener with address = \"unix:/dir\"";
            self.report(key_path!["auth", "method"], At::Value, message, advice);
        }
        let maps =
            auth.hba.iter().flat_map(|hba| &hba.rules).filter_map(|rule| rule.map.as_ref().map(|map| (map, rule)));
        for (map, rule) in maps.filter(|(map, _)| !auth.ident.has(map)) {
            let message = format!("no map \"{map}\" for the rule in line {}", rule.line);
            self.report(key_path!["auth", "ident_file"], At::Value, message, "write its lines into the ident file");
        }
        if auth.method == AuthMethod::ScramSha256 {
            for (name, user) in &config.users {
                if matches!(user.credential, Some(Credential::Md5(_))) {
                    let message = "an md5 hash cannot serve for scram-sha-256";
                    let advice = "write the password or a SCRAM verifier, or method = \"md5\" under [auth]";
                    self.report(key_path!["users", name], At::Key, message, advice);
                }
            }
        }
    }

    fn pair(&mut self, table: &[Step<'_>], cert: bool, key: bool) {
        match (cert, key) {
            (true, false) => self.report(table, At::Key, "\"cert\" without \"key\"", "write both"),
            (false, true) => self.report(table, At::Key, "\"key\" without \"cert\"", "write both"),
            (true, true) | (false, false) => {}
        }
    }

    fn nodes(&mut self, cluster: &str, nodes: &[Node]) {
        if nodes.is_empty() {
            let advice = format!("write [[clusters.{}.nodes]] with name and host", super::document::toml_key(cluster));
            self.report(key_path!["clusters", cluster], At::Key, "the cluster has no nodes", &advice);
        }
        let mut names = BTreeSet::new();
        let mut places: Vec<(&NodeHost, u16)> = Vec::new();
        for (i, node) in nodes.iter().enumerate() {
            if !names.insert(&node.name) {
                let message = format!("there is another node \"{}\" in this cluster", node.name);
                self.report(
                    key_path!["clusters", cluster, "nodes", i, "name"],
                    At::Value,
                    message,
                    "write another name",
                );
            }
            let place = (&node.host, node.port);
            if places.contains(&place) {
                let message = format!("there is another node at \"{}\", port {}", node.host, node.port);
                self.report(
                    key_path!["clusters", cluster, "nodes", i, "host"],
                    At::Value,
                    message,
                    "remove one of them",
                );
            }
            places.push(place);
            if let Some(tls) = &node.tls {
                self.node_tls(key_path!["clusters", cluster, "nodes", i, "tls"], node, tls);
            }
        }
    }

    fn monitor(&mut self, name: &str, cluster: &Cluster) {
        if cluster.monitor.is_some() {
            return;
        }
        let why = match cluster.nodes.as_slice() {
            [_, _, ..] => "which of several nodes is the primary cannot be seen without a monitor",
            [node] if node.agent.is_some() => "a node with an agent needs a monitor",
            [_] | [] => return,
        };
        let advice =
            format!("write [clusters.{}.monitor] with user and password_file", super::document::toml_key(name));
        self.report(key_path!["clusters", name], At::Key, why, &advice);
    }

    fn node_tls(&mut self, table: &[Step<'_>], node: &Node, tls: &NodeTls) {
        if matches!(node.host, NodeHost::SocketDirectory(_)) {
            return self.report(table, At::Key, "a Unix socket has no TLS", "remove the key");
        }
        self.pair(table, tls.cert.is_some(), tls.key.is_some());
        let mode = mode_name(tls.mode);
        if tls.channel_binding == ChannelBinding::Require && !tls.mode.needs_tls() {
            let message = format!("channel_binding \"require\" needs TLS, and mode \"{mode}\" does not");
            self.report(table, At::Key, message, "write mode = \"require\" or stricter");
        }
        if tls.negotiation == TlsNegotiation::Direct && !tls.mode.needs_tls() {
            let message = format!("negotiation \"direct\" leaves no choice, which mode \"{mode}\" promises");
            self.report(table, At::Key, message, "write mode = \"require\" or stricter");
        }
        if tls.mode == TlsMode::VerifyCa && tls.ca.is_none() {
            // With the authorities of the operating system anybody could get a certificate that passes.
            let message = "mode \"verify-ca\" needs to know which authority to trust";
            self.report(table, At::Key, message, "write \"ca\", or mode = \"verify-full\"");
        }
        if tls.ca.is_some() && !tls.mode.verifies() {
            // Somebody who writes a ca believes that it is used.
            let message = format!("\"ca\" is not used with mode \"{mode}\"");
            self.report(table, At::Key, message, "write mode = \"verify-full\", or remove \"ca\"");
        }
    }

    fn forced_user(&mut self, name: &str, database: &Database) {
        let table = key_path!["databases", name];
        if database.user.is_none() && database.credential.is_some() {
            let message = "a password without a user";
            self.report(
                table,
                At::Key,
                message,
                "write \"user\" too: as whom clients of this database log in to servers",
            );
        }
        if matches!(database.credential, Some(Credential::Verifier(_))) {
            let message = "what PostgreSQL stores of a password is not enough to log in to a server";
            self.report(table, At::Key, message, "write the password itself");
        }
    }

    /// Who begins to be the primary, and with which transaction, only a monitor sees.
    fn commit_outcome(&mut self, name: &str, database: &Database, config: &Config) {
        let unwatched = config.clusters.get(&database.cluster).is_some_and(|cluster| cluster.monitor.is_none());
        let outcomes = [database.pool.commit_outcome, Some(config.pool.commit_outcome)];
        if unwatched && outcomes.into_iter().flatten().next() == Some(CommitOutcome::Resolve) {
            let (own, all) =
                (key_path!["databases", name, "pool", "commit_outcome"], key_path!["pool", "commit_outcome"]);
            let path: &[Step<'_>] = if database.pool.commit_outcome.is_some() { own } else { all };
            let cluster = super::document::toml_key(&database.cluster);
            let advice = format!("write [clusters.{cluster}.monitor] with user and password_file, or \"report\"");
            self.report(path, At::Value, "\"resolve\" needs a monitor", &advice);
        }
    }

    fn databases(&mut self, config: &Config) {
        for (name, database) in &config.databases {
            self.forced_user(name, database);
            self.commit_outcome(name, database, config);
            if config.clusters.contains_key(&database.cluster) {
                continue;
            }
            let known = || config.clusters.keys().map(String::as_str);
            let advice = match nearest(&database.cluster, known()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None if config.clusters.is_empty() => format!("write [clusters.{}]", database.cluster),
                None => format!("the clusters are: {}", known().collect::<Vec<_>>().join(", ")),
            };
            let message = format!("there is no cluster \"{}\"", database.cluster);
            self.report(key_path!["databases", name, "cluster"], At::Value, message, &advice);
        }
    }
}

/// Whether the kernel would refuse the second: the same place, or the same port on every interface and on one.
fn overlap(a: &Address, b: &Address) -> bool {
    match (a, b) {
        (Address::Unix { .. }, Address::Unix { .. }) => a == b,
        (Address::Tcp { host: a_host, port: a_port }, Address::Tcp { host: b_host, port: b_port }) => {
            // Port 0 is another one each time.
            a_port == b_port && *a_port != 0 && (a_host == b_host || covers(a_host, b_host) || covers(b_host, a_host))
        }
        (Address::Systemd(a), Address::Systemd(b)) => a == b,
        (Address::Unix { .. } | Address::Tcp { .. } | Address::Systemd(_), _) => false,
    }
}

fn covers(all: &Host, one: &Host) -> bool {
    match (all, one) {
        (Host::Ip(IpAddr::V4(all)), Host::Ip(IpAddr::V4(_))) => all.is_unspecified(),
        (Host::Ip(IpAddr::V6(all)), Host::Ip(IpAddr::V6(_))) => all.is_unspecified(),
        _ => false,
    }
}

fn mode_name(mode: TlsMode) -> &'static str {
    match mode {
        TlsMode::Disable => "disable",
        TlsMode::Allow => "allow",
        TlsMode::Prefer => "prefer",
        TlsMode::Require => "require",
        TlsMode::VerifyCa => "verify-ca",
        TlsMode::VerifyFull => "verify-full",
    }
}
