//! What a client has set, what a server reports, and the cheap question whether two of those are the same.
//!
//! Both are immutable and interned: equal contents share one allocation, so that the data path compares pointers. A
//! client's [`Settings`] move with it from server to server (`proxy/server/prefix.rs` writes them); the
//! [`Reported`] parameters are what ParameterStatus has told (PostgreSQL: PROTOCOL-ASYNC).

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;

/// Settings a client has chosen, by lower-case name, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Settings(Vec<(Box<[u8]>, Box<[u8]>)>);

/// Parameters a server reports, by the name it uses, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reported(Vec<(Box<[u8]>, Box<[u8]>)>);

/// Parameters a server may report, and their bytes.
const REPORTED_MAX: usize = 200;
const REPORTED_BYTES_MAX: usize = 128 * 1024;

/// What tells a primary from a standby.
pub const IN_HOT_STANDBY: &[u8] = b"in_hot_standby";

/// Reported parameters that a session may set itself, in lower case. The others describe the server or the user.
const SETTABLE: [&[u8]; 9] = [
    b"application_name",
    b"client_encoding",
    b"datestyle",
    b"default_transaction_read_only",
    b"intervalstyle",
    b"scram_iterations",
    b"search_path",
    b"standard_conforming_strings",
    b"timezone",
];

fn insert(pairs: &mut Vec<(Box<[u8]>, Box<[u8]>)>, name: &[u8], value: &[u8]) {
    match pairs.binary_search_by(|(known, _)| known.as_ref().cmp(name)) {
        Ok(at) => {
            if let Some(pair) = pairs.get_mut(at) {
                pair.1 = value.into();
            }
        }
        Err(at) => pairs.insert(at, (name.into(), value.into())),
    }
}

fn value<'a>(pairs: &'a [(Box<[u8]>, Box<[u8]>)], name: &[u8]) -> Option<&'a [u8]> {
    let at = pairs.binary_search_by(|(known, _)| known.as_ref().cmp(name)).ok()?;
    pairs.get(at).map(|(_, value)| value.as_ref())
}

impl Settings {
    /// With `name` set to `value`. Names compare in lower case, as PostgreSQL's do.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        insert(&mut self.0, &name.to_ascii_lowercase(), value);
    }

    /// Without `name`, given in lower case.
    pub fn remove(&mut self, name: &[u8]) {
        self.0.retain(|(known, _)| known.as_ref() != name);
    }

    /// What goes with a change of `name`: a new session authorization takes the role away, as in PostgreSQL.
    pub fn forget_role_of(&mut self, name: &[u8]) {
        if name == b"session_authorization" {
            self.remove(b"role");
        }
    }

    /// Whether all it sets is also set by `other`, to whatever value. A role never is: what may be set depends on it.
    #[must_use]
    pub fn names_within(&self, other: &Self) -> bool {
        let is_role = |name: &[u8]| matches!(name, b"session_authorization" | b"role");
        self.0.iter().all(|(name, _)| !is_role(name) && other.value(name).is_some())
    }

    /// The value of `name`, given in lower case.
    #[must_use]
    pub fn value(&self, name: &[u8]) -> Option<&[u8]> {
        value(&self.0, name)
    }

    /// Names and values in the order they are to be set: the client's encoding first, as the others' values are read in
    /// it; who it wants to be last, as that one may not be allowed to set the others.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let rank = |name: &[u8]| match name {
            b"client_encoding" => 0,
            b"session_authorization" => 2,
            b"role" => 3,
            _ => 1,
        };
        let pairs = || self.0.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
        (0..4).flat_map(move |turn| pairs().filter(move |(name, _)| rank(name) == turn))
    }

    /// Those of `self`, and those of `over` in their place.
    #[must_use]
    pub fn overlaid(&self, over: &Self) -> Self {
        let mut settings = self.clone();
        over.0.iter().for_each(|(name, value)| insert(&mut settings.0, name, value));
        settings
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the client's settings are after a transaction, by what the server reports: a reported value is always the
    /// truth at ReadyForQuery. `login` is what the server reported when nobody had set anything.
    #[must_use]
    pub fn learn(&self, reported: &Reported, login: &Reported) -> Self {
        let mut learned = self.clone();
        for (name, now) in &reported.0 {
            let lower = name.to_ascii_lowercase();
            let chosen = learned.value(&lower).is_some() || login.value(name) != Some(now);
            if chosen && SETTABLE.contains(&lower.as_slice()) {
                learned.set(&lower, now);
            }
        }
        learned
    }
}

impl Reported {
    /// With `name` reported as `value`. What tells a primary from a standby is left out: clients are told that of their
    /// listener, not of whichever server they get.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        if name != IN_HOT_STANDBY {
            insert(&mut self.0, name, value);
        }
    }

    /// Whether such a server reports `in_hot_standby` (PostgreSQL 14 and later).
    #[must_use]
    pub fn tells_standbys(&self) -> bool {
        let version = self.value(b"server_version").unwrap_or_default();
        let major =
            version.split(|byte| !byte.is_ascii_digit()).next().and_then(|digits| std::str::from_utf8(digits).ok());
        major.and_then(|major| major.parse().ok()).is_some_and(|major: u32| major >= 14)
    }

    /// The value of `name`, spelled as the server spells it.
    #[must_use]
    pub fn value(&self, name: &[u8]) -> Option<&[u8]> {
        value(&self.0, name)
    }

    /// The value of `name`, spelled in any way.
    #[must_use]
    pub fn value_of(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Whether a server may report so much. PostgreSQL reports fifteen parameters; each change copies all of them, so
    /// one that goes on and on would stop its worker.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        let bytes = |(name, value): &(Box<[u8]>, Box<[u8]>)| name.len().saturating_add(value.len());
        self.0.len() <= REPORTED_MAX && self.0.iter().map(bytes).sum::<usize>() <= REPORTED_BYTES_MAX
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }

    /// With the values of `settings` in place of the server's, for those that are reported: what a client is told at
    /// login, before any server has taken its settings.
    #[must_use]
    pub fn overlaid(&self, settings: &Settings) -> Self {
        let mut told = self.clone();
        for (name, value) in &mut told.0 {
            if let Some(chosen) = settings.value(&name.to_ascii_lowercase()) {
                *value = chosen.into();
            }
        }
        told
    }
}

impl Reported {
    /// What a client should hear after a RESET: where the server has gone back to what it reported at `login`, the value of
    /// the client's own `startup` packet, in the spelling it was `told` if that is the same.
    #[must_use]
    pub fn back_to(&self, login: &Self, startup: &Settings, told: &Self) -> Self {
        let mut now = self.clone();
        for (name, value) in &mut now.0 {
            let own = startup.value(&name.to_ascii_lowercase()).filter(|_| login.value(name) == Some(value));
            if let Some(own) = own {
                *value = told.value(name).filter(|told| spells(told, own)).unwrap_or(own).into();
            }
        }
        now
    }
}

/// Whether `reported` is how PostgreSQL spells `given`: `ISO, MDY` for `iso`, `UTF8` for `utf-8`.
fn spells(reported: &[u8], given: &[u8]) -> bool {
    let plain = |text: &'_ [u8]| {
        text.iter().filter(|b| b.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase).collect::<Vec<_>>()
    };
    plain(reported).starts_with(&plain(given))
}

/// Keeps one allocation for equal values. A value nobody holds any longer is forgotten when the set grows.
#[derive(Debug)]
pub struct Interner<T> {
    known: Mutex<Known<T>>,
}

#[derive(Debug)]
struct Known<T> {
    set: HashSet<Arc<T>, foldhash::fast::RandomState>,
    sweep_at: usize,
}

impl<T: Hash + Eq> Default for Interner<T> {
    fn default() -> Self {
        Self { known: Mutex::new(Known { set: HashSet::default(), sweep_at: 64 }) }
    }
}

impl<T: Hash + Eq> Interner<T> {
    /// The one allocation for `value`.
    pub fn intern(&self, value: T) -> Arc<T> {
        let mut known = self.known.lock();
        if let Some(same) = known.set.get(&value) {
            return Arc::clone(same);
        }
        if known.set.len() >= known.sweep_at {
            known.set.retain(|value| Arc::strong_count(value) > 1);
            known.sweep_at = 64.max(known.set.len() * 2);
        }
        let value = Arc::new(value);
        known.set.insert(Arc::clone(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(pairs: &[(&str, &str)]) -> Reported {
        let mut reported = Reported::default();
        pairs.iter().for_each(|(name, value)| reported.set(name.as_bytes(), value.as_bytes()));
        reported
    }

    #[test]
    fn what_a_client_changed_is_learned_and_what_only_describes_the_server_is_not() {
        let login = reported(&[("TimeZone", "Etc/UTC"), ("DateStyle", "ISO, MDY"), ("is_superuser", "off")]);
        let now = reported(&[("TimeZone", "Europe/Paris"), ("DateStyle", "ISO, MDY"), ("is_superuser", "on")]);
        let learned = Settings::default().learn(&now, &login);
        assert_eq!(learned.iter().collect::<Vec<_>>(), [(b"timezone" as &[u8], b"Europe/Paris" as &[u8])]);
    }

    #[test]
    fn a_startup_value_takes_the_servers_spelling() {
        let mut settings = Settings::default();
        settings.set(b"DateStyle", b"ISO");
        let now = reported(&[("DateStyle", "ISO, MDY")]);
        assert_eq!(settings.learn(&now, &now).value(b"datestyle"), Some(b"ISO, MDY" as &[u8]));
        assert_eq!(now.overlaid(&settings).value(b"DateStyle"), Some(b"ISO" as &[u8]));
    }

    #[test]
    fn the_encoding_comes_first_and_the_role_last() {
        let mut settings = Settings::default();
        let names: [&[u8]; 5] = [b"client_encoding", b"app.a", b"work_mem", b"session_authorization", b"role"];
        names.iter().rev().for_each(|name| settings.set(name, b"x"));
        assert!(settings.iter().map(|(name, _)| name).eq(names));
    }

    #[test]
    fn equal_values_are_one_allocation_and_forgotten_ones_are_swept() {
        let interner = Interner::default();
        let one = interner.intern("x".to_owned());
        assert!(Arc::ptr_eq(&one, &interner.intern("x".to_owned())));
        for n in 0..1_000 {
            interner.intern(n.to_string());
        }
        assert!(interner.known.lock().set.len() <= 64);
    }
}
