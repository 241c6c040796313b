//! The files that say who may come in: every text is rules or errors, and what is said about a secret never shows it.

#![no_main]

use std::net::IpAddr;
use std::path::Path;

use arbitrary::Arbitrary;
use howdah::config::hba::rule::{Addresses, DatabaseWord, Kind};
use howdah::config::hba::{Caller, Hba, IdentMaps, Origin, UserWord};
use howdah::config::users_file;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Said {
    text: String,
    included: String,
    database: String,
    user: String,
    system: String,
    address: Option<IpAddr>,
    tls: bool,
    same_host: bool,
    replication: bool,
    groups: u8,
}

fuzz_target!(|said: Said| {
    let path = Path::new("file");
    // every other file is the same one: it may name itself
    let reader = |_: &Path| Ok(said.included.clone());
    let member_of = |group: &str| group.len().is_multiple_of(usize::from(said.groups).max(1));
    if let Ok(hba) = Hba::parse(&said.text, path, &reader) {
        assert!(!hba.rules.is_empty(), "no rule is no file");
        let origin = match said.address {
            None => Origin::Local,
            Some(address) => Origin::Host { address, tls: said.tls, same_host: said.same_host },
        };
        let caller = Caller {
            database: &said.database,
            user: &said.user,
            replication: said.replication,
            origin,
            member_of: &member_of,
        };
        if let Some(rule) = hba.rule_for(&caller) {
            assert!(hba.rules.contains(rule));
            assert_eq!(rule.kind == Kind::Local, origin == Origin::Local);
            assert!(rule.kind != Kind::HostGssenc);
            assert!(rule.kind != Kind::HostSsl || said.tls);
            assert!(rule.kind != Kind::HostNoSsl || !said.tls);
            assert!(rule.address != Addresses::SameHost || said.same_host);
            assert!(!said.replication || rule.databases.contains(&DatabaseWord::Replication));
            let names = |word: &UserWord| !matches!(word, UserWord::Name(name) if *name != said.user);
            assert!(rule.users.iter().any(names), "every word names somebody else");
        }
    }
    if let Ok(maps) = IdentMaps::parse(&said.text, path, &reader) {
        let allowed = maps.allows(Some("map"), &said.system, &said.user, &member_of);
        assert!(!allowed || maps.has("map"), "a map that is not there lets nobody in");
        assert_eq!(maps.allows(None, &said.system, &said.user, &member_of), said.system == said.user);
    }
    // a marker no message of ours holds
    let marked = said.text.replace('x', "hunter2");
    match users_file::parse(&marked, path) {
        Ok(users) => assert!(users.keys().all(|user| !user.is_empty())),
        Err(faults) => assert!(faults.iter().all(|fault| !fault.to_string().contains("hunter2"))),
    }
});
