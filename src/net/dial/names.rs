//! Host names and their addresses, remembered: a name server that is slow or gone costs nobody more than a moment once
//! a name has been found.
//!
//! Not here: which of the addresses is tried first ([`super::standing`]).
//!
//! `getaddrinfo()` blocks, and says nothing of how long its answer holds. Each lookup has a thread of its own, one per name
//! at a time, so that one that hangs holds up neither the others nor the end of the daemon.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

/// How long a lookup is waited for when there is an older answer.
const PATIENCE: Duration = Duration::from_millis(100);
/// A name that somebody doubts is looked up again at most so often.
const DOUBTS_MS: u64 = 1_000;

/// Asks the system. Blocks.
pub type Lookup = Box<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

type Answer = Result<Vec<IpAddr>, String>;

/// What is known of one name. Pure; times are milliseconds on any clock that does not go back.
#[derive(Debug, Default)]
struct Known {
    /// The last answer that was one.
    addresses: Vec<IpAddr>,
    fresh_until_ms: u64,
    asked_ms: Option<u64>,
    /// Why there is no newer one, and until when that is believed.
    refusal: Option<(String, u64)>,
}

/// What to do about a name.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Use(Vec<IpAddr>),
    Refuse(String),
    /// Look it up; meanwhile there may be older addresses.
    Ask(Vec<IpAddr>),
}

impl Known {
    fn look(&self, now_ms: u64) -> Look {
        if now_ms < self.fresh_until_ms && !self.addresses.is_empty() {
            return Look::Use(self.addresses.clone());
        }
        match &self.refusal {
            Some((_, until)) if now_ms < *until && !self.addresses.is_empty() => Look::Use(self.addresses.clone()),
            Some((text, until)) if now_ms < *until => Look::Refuse(text.clone()),
            Some(_) | None => Look::Ask(self.addresses.clone()),
        }
    }

    fn answered(&mut self, answer: &Answer, now_ms: u64, ttl_ms: u64, negative_ttl_ms: u64) {
        match answer {
            Ok(addresses) => {
                self.addresses.clone_from(addresses);
                self.fresh_until_ms = now_ms.saturating_add(ttl_ms);
                self.refusal = None;
            }
            Err(text) => self.refusal = Some((text.clone(), now_ms.saturating_add(negative_ttl_ms))),
        }
    }

    fn doubt(&mut self, now_ms: u64) {
        if self.asked_ms.is_none_or(|asked| asked.saturating_add(DOUBTS_MS) <= now_ms) {
            self.fresh_until_ms = 0;
        }
    }
}

#[derive(Debug, Default)]
struct Entry {
    known: Known,
    /// The lookup that is under way.
    lookup: Option<watch::Receiver<Option<Answer>>>,
}

/// What is known of a name, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownName {
    /// It.
    pub name: String,
    /// Its addresses, as they were last found.
    pub addresses: Vec<IpAddr>,
    /// For so many seconds they are used without a look-up, or, without any, nobody asks again.
    pub fresh_s: u64,
    /// It is being looked up.
    pub is_asked: bool,
}

impl Entry {
    fn shown(&self, name: &str, now_ms: u64) -> KnownName {
        let until_ms = match &self.known.refusal {
            Some((_, until_ms)) => *until_ms,
            None => self.known.fresh_until_ms,
        };
        KnownName {
            name: name.to_owned(),
            addresses: self.known.addresses.clone(),
            fresh_s: until_ms.saturating_sub(now_ms) / 1_000,
            is_asked: self.lookup.is_some(),
        }
    }
}

/// All names that have been asked for.
pub struct Names {
    system: Lookup,
    entries: Mutex<HashMap<Box<str>, Entry>>,
    ttl_ms: AtomicU64,
    negative_ttl_ms: AtomicU64,
    started: Instant,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").field("entries", &self.entries).finish_non_exhaustive()
    }
}

/// What the operating system says, in the order it says it (RFC 6724).
fn ask_the_system(name: &str) -> io::Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for found in (name, 0).to_socket_addrs()? {
        if !addresses.contains(&found.ip()) {
            addresses.push(found.ip());
        }
    }
    Ok(addresses)
}

impl Names {
    /// Nothing known; `system` is asked, by default the operating system.
    #[must_use]
    pub fn new(system: Option<Lookup>) -> Self {
        Self {
            system: system.unwrap_or_else(|| Box::new(ask_the_system)),
            entries: Mutex::default(),
            ttl_ms: AtomicU64::new(0),
            negative_ttl_ms: AtomicU64::new(0),
            started: Instant::now(),
        }
    }

    /// How long answers hold from now on.
    pub fn hold(&self, ttl: Duration, negative_ttl: Duration) {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.ttl_ms.store(ms(ttl), Ordering::Relaxed);
        self.negative_ttl_ms.store(ms(negative_ttl), Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The addresses of a name: at once while the last answer is fresh, within a moment while there is any.
    ///
    /// # Errors
    /// What the system said, for people.
    ///
    /// # Cancel safety
    /// Safe: a lookup goes on without whoever asked for it.
    pub async fn addresses(self: &Arc<Self>, name: &str) -> Result<Vec<IpAddr>, String> {
        let (mut lookup, older) = {
            let mut entries = self.entries.lock();
            let entry = entries.entry(name.into()).or_default();
            match entry.known.look(self.now_ms()) {
                Look::Use(addresses) => return Ok(addresses),
                Look::Refuse(text) => return Err(text),
                Look::Ask(older) => match &entry.lookup {
                    Some(lookup) => (lookup.clone(), older),
                    None => {
                        entry.known.asked_ms = Some(self.now_ms());
                        (entry.lookup.insert(self.look_up(name)).clone(), older)
                    }
                },
            }
        };
        let answered = async {
            match lookup.wait_for(Option::is_some).await.map(|answer| answer.clone()) {
                Ok(Some(answer)) => answer,
                Ok(None) | Err(_) => Err(format!("\"{name}\": the lookup was broken off")),
            }
        };
        if older.is_empty() {
            return answered.await;
        }
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(_)) | Err(_) => Ok(older),
        }
    }

    /// All that is known, by name.
    #[must_use]
    pub fn known(&self) -> Vec<KnownName> {
        let now_ms = self.now_ms();
        let mut all: Vec<KnownName> =
            self.entries.lock().iter().map(|(name, entry)| entry.shown(name, now_ms)).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// Nobody answers at the addresses of a name: it may have moved.
    pub fn doubt(&self, name: &str) {
        if let Some(entry) = self.entries.lock().get_mut(name) {
            entry.known.doubt(self.now_ms());
        }
    }

    fn look_up(self: &Arc<Self>, name: &str) -> watch::Receiver<Option<Answer>> {
        let (answered, lookup) = watch::channel(None);
        let (names, name) = (Arc::clone(self), Box::<str>::from(name));
        let thread = std::thread::Builder::new().name("resolver".to_owned());
        let spawned = thread.spawn(move || {
            let answer = match (names.system)(&name) {
                Ok(addresses) if addresses.is_empty() => Err(format!("\"{name}\" has no address")),
                Ok(addresses) => Ok(addresses),
                Err(error) => Err(format!("\"{name}\": {error}")),
            };
            let (ttl, negative) = (names.ttl_ms.load(Ordering::Relaxed), names.negative_ttl_ms.load(Ordering::Relaxed));
            let now = names.now_ms();
            if let Some(entry) = names.entries.lock().get_mut(&name) {
                entry.known.answered(&answer, now, ttl, negative);
                entry.lookup = None;
            }
            let _ = answered.send(Some(answer)); // whoever asked may have gone
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for a name lookup");
        }
        lookup
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn an_answer_holds_for_its_time_and_serves_on_while_there_is_no_newer_one() {
        let mut known = Known::default();
        assert_eq!(known.look(0), Look::Ask(vec![]));
        known.answered(&Ok(vec![A]), 0, 15_000, 5_000);
        assert_eq!(known.look(14_999), Look::Use(vec![A]));
        assert_eq!(known.look(15_000), Look::Ask(vec![A]));
        known.answered(&Err("no".to_owned()), 15_000, 15_000, 5_000);
        assert_eq!(known.look(19_999), Look::Use(vec![A]));
        assert_eq!(known.look(20_000), Look::Ask(vec![A]));
        known.answered(&Ok(vec![B]), 20_000, 15_000, 5_000);
        assert_eq!(known.look(20_001), Look::Use(vec![B]));
    }

    #[test]
    fn a_name_without_address_is_not_asked_for_all_the_time() {
        let mut known = Known::default();
        known.answered(&Err("no such host".to_owned()), 0, 15_000, 5_000);
        assert_eq!(known.look(4_999), Look::Refuse("no such host".to_owned()));
        assert_eq!(known.look(5_000), Look::Ask(vec![]));
    }

    #[test]
    fn a_doubted_answer_is_asked_for_again_and_not_all_the_time() {
        let mut known = Known { asked_ms: Some(0), ..Known::default() };
        known.answered(&Ok(vec![A]), 0, 15_000, 5_000);
        known.doubt(999);
        assert_eq!(known.look(999), Look::Use(vec![A]));
        known.doubt(1_000);
        assert_eq!(known.look(1_000), Look::Ask(vec![A]));
    }

    #[tokio::test]
    async fn many_who_ask_at_once_make_one_lookup() {
        let lookups = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&lookups);
        let names = Arc::new(Names::new(Some(Box::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(50));
            Ok(vec![A, B])
        }))));
        names.hold(Duration::from_secs(60), Duration::from_secs(60));
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let names = Arc::clone(&names);
            all.spawn(async move { names.addresses("db").await });
        }
        assert!(all.join_all().await.into_iter().all(|found| found == Ok(vec![A, B])));
        assert_eq!(names.addresses("db").await, Ok(vec![A, B]));
        assert_eq!(lookups.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_lookup_that_hangs_or_fails_costs_a_moment_once_the_name_is_known() {
        let lookups = Arc::new(AtomicUsize::new(0));
        let (counted, (release, hung)) = (Arc::clone(&lookups), std::sync::mpsc::channel::<()>());
        let hung = Mutex::new(hung);
        let names = Arc::new(Names::new(Some(Box::new(move |_| match counted.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(vec![A]),
            1 => {
                let _ = hung.lock().recv();
                Ok(vec![B])
            }
            _ => Err(io::Error::other("no name server")),
        }))));
        names.hold(Duration::ZERO, Duration::ZERO);
        assert_eq!(names.addresses("db").await, Ok(vec![A]));
        let begun = Instant::now();
        for _ in 0..3 {
            assert_eq!(names.addresses("db").await, Ok(vec![A]), "it hangs");
        }
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert_eq!(lookups.load(Ordering::Relaxed), 2);
        release.send(()).unwrap();
        while names.entries.lock()["db"].lookup.is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(names.addresses("db").await, Ok(vec![B]), "it has answered, and the next fails");
        let unknown = names.addresses("other").await;
        assert_eq!(unknown, Err("\"other\": no name server".to_owned()));
    }

    #[test]
    fn the_system_knows_this_machine() {
        assert!(ask_the_system("localhost").unwrap().iter().all(IpAddr::is_loopback));
    }
}
