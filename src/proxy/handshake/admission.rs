//! Whether a client may come in, and what it must show: the rule of `hba_file` or `auth.method`, then the method itself
//! (PostgreSQL: `ClientAuthentication()`).
//!
//! Passwords are [`super::login`]'s; here are trust, reject, certificates and the users of Unix sockets. What a method finds
//! out about somebody (the name in a certificate, the owner of a process) is compared through the ident maps.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use super::intake::Intake;
use super::login::{self, Wants};
use super::{Claim, Refusal};
use crate::catalog::Role;
use crate::config::AuthMethod;
use crate::config::hba::{Caller, ClientCert, Method, Origin};
use crate::net::stream::{Socket, Stream};
use crate::net::tls::common_name;
use crate::proxy::error::ClientError;
use crate::proxy::shared::{Running, Shared};

/// A client at the door.
pub struct Visit<'v> {
    /// What all share.
    pub shared: &'v Arc<Shared>,
    /// The configuration when it came.
    pub running: &'v Running,
    /// Its connection.
    pub stream: &'v mut Stream,
    /// What it has sent beyond its startup packet.
    pub intake: &'v mut Intake,
    /// Where it comes from, as the listener says.
    pub peer: &'v str,
    /// The cluster whose user it says it is.
    pub cluster: Option<&'v Arc<str>>,
    /// Who it says it is.
    pub claim: &'v Claim,
    /// Whether it wants the write-ahead log, and no database.
    pub physical_replication: bool,
    /// What SCRAM can be bound to on this connection.
    pub end_point: Option<&'v [u8]>,
}

/// What the rule says.
struct Demand {
    method: Method,
    map: Option<String>,
    client_cert: ClientCert,
}

/// Lets the client in, or not. What is to be sent in front of AuthenticationOk comes back.
///
/// # Errors
/// PostgreSQL's own words for each way to fail.
pub async fn admit(mut visit: Visit<'_>) -> Result<Vec<u8>, Refusal> {
    let from = visit.address()?;
    let role = visit.role().await;
    let member_of = |group: &str| role.as_ref().is_some_and(|role| role.is_member_of(group));
    let demand = visit.demand(from, &member_of)?;
    visit.check_certificate(&demand, &member_of)?;
    let wants = match demand.method {
        Method::Trust | Method::Cert => None,
        Method::Peer => {
            visit.check_peer(&demand, &member_of)?;
            None
        }
        Method::Reject => return Err(visit.hba_error(from, true).into()),
        Method::ScramSha256 => Some(Wants::Scram),
        Method::Md5 => Some(Wants::AsStored),
    };
    match wants {
        Some(wants) => login::prove(&mut visit, from, wants).await,
        None => {
            visit.learn_credential().await;
            Ok(Vec::new())
        }
    }
}

impl Visit<'_> {
    /// Where it comes from; `None` for Unix sockets.
    fn address(&self) -> Result<Option<IpAddr>, Refusal> {
        match self.stream.socket() {
            Socket::Unix(_) | Socket::UnixDetached(_) => Ok(None),
            // one that has hung up already has no address, and no rule may fit it
            Socket::Tcp(_) | Socket::TcpDetached(_) | Socket::Closed => match self.peer.parse::<SocketAddr>() {
                Ok(peer) => Ok(Some(peer.ip().to_canonical())),
                Err(_) => Err(Refusal::Gone),
            },
        }
    }

    /// What the cluster says of the user, where a rule wants to know its groups.
    async fn role(&self) -> Option<Arc<Role>> {
        let hba = self.running.config.auth.hba.as_ref().filter(|hba| hba.asks_for_groups())?;
        let cluster = self.cluster.filter(|_| !hba.rules.is_empty())?;
        match self.shared.catalog.ask(cluster, &self.claim.user).await {
            Ok(role) => Some(role),
            Err(_) => self.shared.catalog.known(cluster, &self.claim.user), // it says in the log why it failed
        }
    }

    fn demand(&self, from: Option<IpAddr>, member_of: &dyn Fn(&str) -> bool) -> Result<Demand, ClientError> {
        let auth = &self.running.config.auth;
        let plain = |method, client_cert| Ok(Demand { method, map: None, client_cert });
        let hba = match (auth.method, &auth.hba) {
            (AuthMethod::ScramSha256, _) => return plain(Method::ScramSha256, ClientCert::Ignored),
            (AuthMethod::Md5, _) => return plain(Method::Md5, ClientCert::Ignored),
            (AuthMethod::Trust, _) => return plain(Method::Trust, ClientCert::Ignored),
            (AuthMethod::Peer, _) => return plain(Method::Peer, ClientCert::Ignored),
            (AuthMethod::Cert, _) => return plain(Method::Cert, ClientCert::VerifyFull),
            (AuthMethod::Hba, Some(hba)) => hba,
            (AuthMethod::Hba, None) => return Err(ClientError::Internal("hba without rules")),
        };
        let origin = from.map_or(Origin::Local, |address| Origin::Host {
            address,
            tls: self.stream.is_tls(),
            // an address one can listen on is one of this machine's
            same_host: hba.asks_for_same_host() && UdpSocket::bind((address, 0)).is_ok(),
        });
        let caller = Caller {
            database: &self.claim.database,
            user: &self.claim.user,
            replication: self.physical_replication,
            origin,
            member_of,
        };
        match hba.rule_for(&caller) {
            Some(rule) => Ok(Demand { method: rule.method, map: rule.map.clone(), client_cert: rule.client_cert }),
            None => Err(self.hba_error(from, false)),
        }
    }

    fn hba_error(&self, from: Option<IpAddr>, rejected: bool) -> ClientError {
        let host = from.map_or_else(|| "[local]".to_owned(), |from| from.to_string());
        let (user, database) = (&self.claim.user, &self.claim.database);
        let encryption = if self.stream.is_tls() { "SSL encryption" } else { "no encryption" };
        let who = match self.physical_replication {
            true => format!("host \"{host}\", user \"{user}\", {encryption}"),
            false => format!("host \"{host}\", user \"{user}\", database \"{database}\", {encryption}"),
        };
        match (rejected, self.physical_replication) {
            (true, false) => ClientError::HbaRejects(who),
            (true, true) => ClientError::HbaRejectsReplication(who),
            (false, false) => ClientError::HbaNoEntry(who),
            (false, true) => ClientError::HbaNoReplicationEntry(who),
        }
    }

    /// The client's certificate, which the TLS handshake has verified if there is one.
    fn check_certificate(&self, demand: &Demand, member_of: &dyn Fn(&str) -> bool) -> Result<(), ClientError> {
        if demand.client_cert == ClientCert::Ignored {
            return Ok(());
        }
        let certificate = self.stream.peer_certificate().ok_or(ClientError::NoCertificate)?;
        if demand.client_cert == ClientCert::VerifyCa {
            return Ok(());
        }
        let user = &self.claim.user;
        let named = common_name(certificate);
        let allowed = named.as_ref().is_some_and(|name| self.may_be(demand, name, member_of));
        if allowed {
            return Ok(());
        }
        let found = named.unwrap_or_default();
        tracing::info!(user = &**user, common_name = found, "the client's certificate is not this user's");
        Err(ClientError::WrongCertificate(user.to_string()))
    }

    /// The owner of the process at the other end of the Unix socket.
    fn check_peer(&self, demand: &Demand, member_of: &dyn Fn(&str) -> bool) -> Result<(), ClientError> {
        let user = &self.claim.user;
        let credentials = match self.stream.socket() {
            Socket::Unix(socket) => rustix::net::sockopt::socket_peercred(socket).ok(),
            Socket::UnixDetached(socket) => rustix::net::sockopt::socket_peercred(socket).ok(),
            Socket::Tcp(_) | Socket::TcpDetached(_) | Socket::Closed => None,
        };
        let name = credentials.and_then(|credentials| user_name(credentials.uid.as_raw()));
        if name.as_ref().is_some_and(|name| self.may_be(demand, name, member_of)) {
            return Ok(());
        }
        let found = name.unwrap_or_default();
        tracing::info!(user = &**user, system_user = found, "the client's process is not this user's");
        Err(ClientError::WrongPeer(user.to_string()))
    }

    fn may_be(&self, demand: &Demand, name: &str, member_of: &dyn Fn(&str) -> bool) -> bool {
        self.running.config.auth.ident.allows(demand.map.as_deref(), name, &self.claim.user, member_of)
    }

    /// Whoever comes without a password may have an md5 hash in the catalogue, which is enough for servers.
    async fn learn_credential(&self) {
        use crate::proxy::server::connect::ServerCredential;
        let Some(cluster) = self.cluster else { return };
        if matches!(self.shared.credential(cluster, &self.claim.user), ServerCredential::None) {
            let _ = self.shared.catalog.ask(cluster, &self.claim.user).await; // then there is none
        }
    }
}

/// The name of a user of this machine.
fn user_name(uid: u32) -> Option<String> {
    let known = std::fs::read_to_string("/etc/passwd").ok()?;
    known.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_a_name_and_nobody_else_has_it() {
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(user_name(u32::MAX - 7), None);
    }
}
