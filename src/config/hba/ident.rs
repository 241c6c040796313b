//! Which system user may be which database user: `pg_ident.conf` (PostgreSQL: `AUTH-USERNAME-MAPS`, `check_usermap()`).
//!
//! A system user is what a method has found out: the name in a certificate (`cert`), the owner of a process (`peer`).

use std::path::Path;

use super::words::{self, Line, Reader, Word};
use super::{Fault, Pattern, UserWord};

/// All maps of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentMaps {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    map: String,
    system: System,
    database: Database,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum System {
    Name(String),
    Pattern(Pattern),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Database {
    Word(UserWord),
    /// What stands before and after `\1`.
    Captured(String, String),
}

impl IdentMaps {
    /// Reads a file.
    ///
    /// # Errors
    /// Every line that means nothing, with what to write.
    pub fn parse(text: &str, path: &Path, reader: Reader<'_>) -> Result<Self, Vec<Fault>> {
        let (mut entries, mut faults) = (Vec::new(), Vec::new());
        for line in words::lines(text, path, reader)? {
            match entry(&line) {
                Ok(entry) => entries.push(entry),
                Err((message, advice)) => faults.push(Fault::new(path, line.number, message, advice)),
            }
        }
        if faults.is_empty() { Ok(Self { entries }) } else { Err(faults) }
    }

    /// Whether there is a map of this name.
    #[must_use]
    pub fn has(&self, map: &str) -> bool {
        self.entries.iter().any(|entry| entry.map == map)
    }

    /// Whether `system` may be `user`. Without a map the two must be the same.
    #[must_use]
    pub fn allows(&self, map: Option<&str>, system: &str, user: &str, member_of: &dyn Fn(&str) -> bool) -> bool {
        let Some(map) = map.filter(|map| !map.is_empty()) else { return system == user };
        self.entries.iter().any(|entry| entry.map == map && entry.allows(system, user, member_of))
    }
}

impl Entry {
    fn allows(&self, system: &str, user: &str, member_of: &dyn Fn(&str) -> bool) -> bool {
        let found = match &self.system {
            System::Name(name) if name == system => "",
            System::Name(_) => return false,
            System::Pattern(pattern) => match pattern.regex.captures(system) {
                Some(captures) => captures.get(1).map_or("", |group| group.as_str()),
                None => return false,
            },
        };
        match &self.database {
            Database::Word(word) => word.matches(user, member_of),
            Database::Captured(before, after) => {
                user.strip_prefix(before.as_str()).and_then(|rest| rest.strip_suffix(after.as_str())) == Some(found)
            }
        }
    }
}

const FORM: &str = "write MAP SYSTEM-USER DATABASE-USER, as in: people bob@example.com bob";

fn entry(line: &Line) -> Result<Entry, (String, String)> {
    let [[map], [system], [user]] = line.fields.iter().map(Vec::as_slice).collect::<Vec<_>>()[..] else {
        return Err(("not three words".to_owned(), FORM.to_owned()));
    };
    let plain = |message: String| (message, String::new());
    let system = match Pattern::of(system) {
        Some(pattern) => System::Pattern(pattern.map_err(plain)?),
        None => System::Name(system.text.clone()),
    };
    let database = database(user, &system)?;
    Ok(Entry { map: map.text.clone(), system, database })
}

fn database(user: &Word, system: &System) -> Result<Database, (String, String)> {
    let plain = |message: String| (message, String::new());
    match (user.text.split_once("\\1"), system) {
        (Some((before, after)), System::Pattern(pattern)) if !user.text.starts_with('/') => {
            if pattern.regex.captures_len() < 2 {
                let message = format!("\"/{}\" has no group that \\1 could stand for", pattern.text);
                return Err((message, "put the part in parentheses, as in /^(.*)@example\\.com$".to_owned()));
            }
            Ok(Database::Captured(before.to_owned(), after.to_owned()))
        }
        _ => UserWord::of(user).map(Database::Word).map_err(plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<IdentMaps, Vec<Fault>> {
        IdentMaps::parse(text, Path::new("ident"), &|_| Err("no".to_owned()))
    }

    #[test]
    fn a_map_says_who_may_be_whom() {
        let text = "# map system database\npeople bob@example.com bob\npeople /^(.*)@example\\.com$ app_\\1\n\
                    ops root all\nops carol +staff\nsome /^x /^y\n";
        let maps = parse(text).unwrap();
        let allows = |map: &str, system: &str, user: &str| {
            maps.allows(Some(map), system, user, &|group| group == "staff" && user == "ann")
        };
        assert!(allows("people", "bob@example.com", "bob"));
        assert!(!allows("people", "bob@example.org", "bob"));
        assert!(allows("people", "eve@example.com", "app_eve"));
        assert!(!allows("people", "eve@example.com", "app_bob"));
        assert!(!allows("people", "eve@example.com", "eve"));
        assert!(allows("ops", "root", "anybody") && !allows("people", "root", "anybody"));
        assert!(allows("ops", "carol", "ann") && !allows("ops", "carol", "bob"));
        assert!(allows("some", "xerxes", "yvonne") && !allows("some", "xerxes", "bob"));
        assert!(!allows("other", "bob", "bob"), "a map that is not there lets nobody in");
        assert!(maps.has("ops") && !maps.has("other"));
    }

    #[test]
    fn without_a_map_the_names_must_be_the_same() {
        let maps = IdentMaps::default();
        assert!(maps.allows(None, "bob", "bob", &|_| true));
        assert!(!maps.allows(None, "bob", "ann", &|_| true));
        assert!(!maps.allows(None, "bob", "Bob", &|_| true));
    }

    #[test]
    fn a_wrong_line_says_what_to_write() {
        let said = |text: &str| parse(text).unwrap_err().first().unwrap().to_string();
        assert!(said("\nmap only").starts_with("ident:2: not three words; write MAP SYSTEM-USER DATABASE-USER"));
        assert!(said("m /^.*$ \\1").contains("has no group that \\1 could stand for; put the part in parentheses"));
        assert!(said("m /( x").contains("not a regular expression"));
    }
}
