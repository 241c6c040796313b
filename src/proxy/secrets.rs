//! What checks who a client is, and what logs it in to servers.
//!
//! A user's secret comes from `[users.NAME]`, else `auth.users_file`, else the cluster. What a proof shows of the user's
//! key is kept, and logs in to servers as the same user until a server refuses it.
//!
//! Not here: the exchange itself (`handshake/login`), the questions to the cluster (`catalog`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::pool::PoolKey;
use super::server::connect::{ServerCredential, ServerPassword};
use super::shared::Shared;
use crate::catalog::{CatalogError, Role, RoleSecret};
use crate::config::{ANY_DATABASE, Config, Credential};
use crate::protocol::scram::{Keys, Verifier};

/// How long a user who has proven itself need not be asked for again, from the same address. Everybody else is asked for
/// at each login: whether a name exists, or when its password was changed, must not show in how long an answer takes.
const PROVEN: Duration = Duration::from_millis(200);
/// Proofs that are remembered before the old ones are looked for.
const PROVEN_MAX: usize = 10_000;

/// Users whose secret stands in a file.
#[derive(Debug, Default)]
pub struct FileUsers(HashMap<String, FileUser>);

#[derive(Debug)]
struct FileUser {
    credential: Credential,
    server: ServerCredential,
    /// Of a password: the verifier that was made of it, at first use.
    derived: Mutex<Option<Verifier>>,
}

impl FileUser {
    fn of(credential: &Credential) -> Self {
        let server = match credential {
            Credential::Password(password) => {
                ServerCredential::Password(Arc::new(ServerPassword::new(password.clone())))
            }
            Credential::Md5(hash) => ServerCredential::Md5(hash.clone()),
            Credential::Verifier(_) => ServerCredential::None,
        };
        Self { credential: credential.clone(), server, derived: Mutex::default() }
    }
}

impl FileUsers {
    /// Those of a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let tables = config.users.iter().filter_map(|(name, user)| Some((name, user.credential.as_ref()?)));
        // a table of the configuration goes before a line of the other file
        let all = config.auth.file_users.iter().chain(tables);
        Self(all.map(|(name, credential)| (name.clone(), FileUser::of(credential))).collect())
    }

    /// What logs the clients of a database in where they all are one user, by the database's name in the configuration.
    #[must_use]
    pub fn forced(config: &Config) -> Self {
        let all = config.databases.iter().filter_map(|(name, database)| Some((name, database.credential.as_ref()?)));
        Self(all.map(|(name, credential)| (name.clone(), FileUser::of(credential))).collect())
    }

    fn secret(&self, user: &str, iterations: u32) -> Option<RoleSecret> {
        let user = self.0.get(user)?;
        Some(match &user.credential {
            Credential::Verifier(verifier) => RoleSecret::Scram(verifier.clone()),
            Credential::Md5(hash) => RoleSecret::Md5(hash.clone()),
            Credential::Password(password) => {
                let mut derived = user.derived.lock();
                let verifier = derived.take().filter(|verifier| verifier.iterations == iterations);
                let verifier = verifier.unwrap_or_else(|| {
                    let salt: [u8; 16] = rand::random();
                    Verifier::from_password(password.reveal().as_bytes(), &salt, iterations)
                });
                *derived = Some(verifier.clone());
                RoleSecret::Scram(verifier)
            }
        })
    }

    fn server(&self, user: &str) -> Option<ServerCredential> {
        match &self.0.get(user)?.server {
            ServerCredential::None => None,
            credential => Some(credential.clone()),
        }
    }
}

/// Who has shown what.
#[derive(Debug)]
pub struct Secrets {
    /// What clients' proofs have shown, by cluster and user.
    keyring: Mutex<HashMap<(Arc<str>, Arc<str>), Arc<Keys>>>,
    proven: Mutex<HashMap<Proven, Instant>>,
    /// Makes the challenges for users who do not exist.
    mock: [u8; 32],
}

/// A user of a cluster, and from where it came; `None` for Unix sockets.
type Proven = (Arc<str>, Arc<str>, Option<IpAddr>);

impl Default for Secrets {
    fn default() -> Self {
        Self { keyring: Mutex::default(), proven: Mutex::default(), mock: rand::random() }
    }
}

/// What a proof will be compared with.
#[derive(Debug)]
pub struct Expected {
    /// `None`: nothing can be right.
    pub secret: RoleSecret,
    /// Whether the cluster could not be asked, so that nobody knows whether it is still so.
    pub blind: bool,
}

impl Shared {
    /// What proves `user`, as it is now.
    pub async fn expected(&self, cluster: Option<&Arc<str>>, user: &Arc<str>, from: Option<IpAddr>) -> Expected {
        let iterations = self.iterations(cluster);
        let proven = self.has_proven(cluster, user, from);
        let filed = self.running().file_users.secret(user, iterations);
        if let Some(secret) = filed.as_ref().filter(|_| proven) {
            return Expected { secret: secret.clone(), blind: false };
        }
        // the same question whatever the files say: who is in them must not show either
        let asked = self.ask(cluster, user, proven).await;
        let blind = asked.as_ref().is_err_and(|error| !error.needs_a_person());
        let secret = filed.unwrap_or_else(|| match (asked, cluster) {
            (Ok(role), _) => role.secret(),
            (Err(_), Some(cluster)) => self.catalog.known(cluster, user).map_or(RoleSecret::None, |role| role.secret()),
            (Err(_), None) => RoleSecret::None,
        });
        Expected { secret, blind }
    }

    /// What the cluster says of a user: now, or a moment ago if it has proven itself then.
    async fn ask(&self, cluster: Option<&Arc<str>>, user: &Arc<str>, proven: bool) -> Result<Arc<Role>, CatalogError> {
        let Some(cluster) = cluster else { return Err(CatalogError::UnknownCluster(String::new())) };
        match self.catalog.known(cluster, user).filter(|_| proven) {
            Some(role) if role.asked.elapsed() < PROVEN => Ok(role),
            _ => self.catalog.ask(cluster, user).await,
        }
    }

    /// Whether the user has proven itself a moment ago.
    fn has_proven(&self, cluster: Option<&Arc<str>>, user: &Arc<str>, from: Option<IpAddr>) -> bool {
        let Some(cluster) = cluster else { return false };
        let key = (Arc::clone(cluster), Arc::clone(user), from);
        self.secrets.proven.lock().get(&key).is_some_and(|at| at.elapsed() < PROVEN)
    }

    /// What most users of the cluster have.
    fn iterations(&self, cluster: Option<&Arc<str>>) -> u32 {
        cluster.map(|cluster| self.catalog.ordinary(cluster)).unwrap_or_default().iterations()
    }

    /// A verifier that nothing fits, which looks like those of the cluster's users.
    #[must_use]
    pub fn mock_verifier(&self, cluster: Option<&Arc<str>>, user: &str) -> Verifier {
        Verifier::mock(user.as_bytes(), &self.secrets.mock, self.iterations(cluster))
    }

    /// The user has proven itself.
    pub fn note_proof(&self, cluster: &Arc<str>, user: &Arc<str>, from: Option<IpAddr>) {
        let mut proven = self.secrets.proven.lock();
        if proven.len() >= PROVEN_MAX {
            proven.retain(|_, at| at.elapsed() < PROVEN);
        }
        proven.insert((Arc::clone(cluster), Arc::clone(user), from), Instant::now());
    }

    /// The user has not.
    pub fn note_failure(&self, cluster: &Arc<str>, user: &Arc<str>, from: Option<IpAddr>) {
        self.secrets.proven.lock().remove(&(Arc::clone(cluster), Arc::clone(user), from));
    }

    /// Remembers what a client's proof has shown.
    pub fn remember_keys(&self, cluster: &Arc<str>, user: &Arc<str>, keys: Keys) {
        let mut keyring = self.secrets.keyring.lock();
        let key = (Arc::clone(cluster), Arc::clone(user));
        if keyring.get(&key).is_none_or(|known| **known != keys) {
            keyring.insert(key, Arc::new(keys));
        }
    }

    /// A server has refused this credential. `true` when there is another one to try.
    pub fn refused(&self, cluster: &Arc<str>, user: &Arc<str>, credential: &ServerCredential) -> bool {
        let ServerCredential::Keys(refused) = credential else { return false };
        let mut keyring = self.secrets.keyring.lock();
        let key = (Arc::clone(cluster), Arc::clone(user));
        // somebody may have logged in with the new password meanwhile
        if keyring.get(&key).is_some_and(|known| Arc::ptr_eq(known, refused)) {
            keyring.remove(&key);
        }
        drop(keyring);
        !matches!(self.credential(cluster, user), ServerCredential::None)
    }

    /// What logs a pool in: its database's own, where all its clients are one user, else its user's.
    #[must_use]
    pub fn pool_credential(&self, key: &PoolKey) -> ServerCredential {
        let running = self.running();
        let named = running.config.databases.get_key_value(&*key.database);
        let entry = named.or_else(|| running.config.databases.get_key_value(ANY_DATABASE));
        let forced = entry.filter(|(_, entry)| entry.user.as_deref() == Some(&*key.user));
        let forced = forced.and_then(|(name, _)| running.forced_users.server(name));
        forced.unwrap_or_else(|| self.credential(&key.cluster, &key.user))
    }

    /// What logs a user in to the servers of a cluster.
    #[must_use]
    pub fn credential(&self, cluster: &Arc<str>, user: &Arc<str>) -> ServerCredential {
        if let Some(credential) = self.running().file_users.server(user) {
            return credential;
        }
        if let Some(keys) = self.secrets.keyring.lock().get(&(Arc::clone(cluster), Arc::clone(user))) {
            return ServerCredential::Keys(Arc::clone(keys));
        }
        match self.catalog.known(cluster, user).map(|role| role.secret()) {
            Some(RoleSecret::Md5(hash)) => ServerCredential::Md5(hash),
            Some(RoleSecret::Scram(_) | RoleSecret::None) | None => ServerCredential::None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    fn file_users(toml: &str) -> FileUsers {
        FileUsers::of(&parse(Path::new("howdah.toml"), toml).unwrap())
    }

    #[test]
    fn a_password_becomes_a_verifier_like_those_of_the_cluster_and_keeps_its_salt() {
        let users = file_users("[users.app]\npassword = \"secret\"\n[users.limited]\npool.size = 1\n");
        let verifier = |iterations| match users.secret("app", iterations) {
            Some(RoleSecret::Scram(verifier)) => verifier,
            other => panic!("{other:?}"),
        };
        let first = verifier(10);
        assert_eq!(first.iterations, 10);
        assert_eq!(verifier(10), first, "a salt that changed at each try would tell who is in the file");
        assert_eq!(verifier(20).iterations, 20);
        assert!(users.secret("limited", 10).is_none() && users.server("limited").is_none());
        assert!(matches!(users.server("app"), Some(ServerCredential::Password(_))));
    }

    #[test]
    fn a_verifier_lets_in_and_logs_in_nowhere_and_an_md5_hash_does_both() {
        let verifier = Verifier::from_password(b"x", b"0123456789abcdef", 7).to_string();
        let md5 = format!("md5{}", "0".repeat(32));
        let users = file_users(&format!(
            "[auth]\nmethod = \"md5\"\n[users.a]\npassword = \"{verifier}\"\n[users.b]\npassword = \"{md5}\"\n"
        ));
        assert!(matches!(users.secret("a", 4096), Some(RoleSecret::Scram(known)) if known.iterations == 7));
        assert!(users.server("a").is_none());
        assert!(matches!(users.secret("b", 4096), Some(RoleSecret::Md5(_))));
        assert!(matches!(users.server("b"), Some(ServerCredential::Md5(_))));
        assert!(!format!("{users:?}").contains("0000"));
    }
}
