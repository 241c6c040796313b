//! What Prometheus reads and load balancers ask for: a daemon's metrics say what is so, in the format to the letter, and the list in
//! the documentation is the one a daemon gives.

use std::collections::{BTreeMap, BTreeSet};

use howdah::admin::metrics::families::{FAMILIES, Family};

use crate::support::{Howdah, Tenant};

mod text;

use text::Scrape;

/// A scrape that must come out well.
#[track_caller]
fn scrape(howdah: &Howdah) -> Scrape {
    let (status, text) = howdah.get("/metrics").expect("an answer to GET /metrics");
    assert_eq!(status, 200, "{text}");
    Scrape::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn families() -> impl Iterator<Item = &'static Family> {
    FAMILIES.iter().flat_map(|(_, families)| families.iter())
}

/// Everything that is there is in the list, with this type, these labels, this meaning.
#[track_caller]
fn is_as_listed(scrape: &Scrape) {
    let listed: BTreeMap<&str, &Family> = families().map(|family| (family.name, family)).collect();
    for (name, found) in &scrape.families {
        let family = listed.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in the list"));
        assert_eq!((found.kind.as_str(), found.help.as_str()), (family.kind.as_str(), family.help), "{name}");
        for series in &found.series {
            let labels: BTreeSet<&str> = series.labels.keys().map(String::as_str).filter(|key| *key != "le").collect();
            assert_eq!(labels, family.labels.iter().copied().collect(), "{name}");
        }
    }
}

#[test]
fn a_scrape_is_in_the_format_to_the_letter_and_holds_nothing_that_is_not_documented() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("");
    let mut client = howdah.login(&tenant);
    client.query("SELECT 1");
    let scrape = scrape(&howdah);
    is_as_listed(&scrape);
    assert_eq!(scrape.sum("howdah_node_up", &[]), 1.0);
    assert_eq!(scrape.sum("howdah_clients", &[]), 1.0);
    assert!(scrape.sum("process_resident_memory_bytes", &[]) > 1e6);
    assert!(scrape.sum("process_open_fds", &[]) >= 5.0);
    let age = scrape.sum("howdah_uptime_seconds", &[]);
    assert!(age > 0.0 && age < 600.0, "{age}");
}

#[test]
fn probes_say_yes_and_no_to_load_balancers() {
    let howdah = Howdah::shared("");
    let says = |path: &str| howdah.get(path).expect("an answer").0;
    for (path, status) in [
        ("/primary", 200),
        ("/leader", 200),
        ("/read-write?cluster=main", 200),
        ("/replica", 503),
        ("/replica?lag=16MB", 503),
        ("/read-only", 200),
        ("/health", 200),
        ("/liveness", 200),
        ("/readiness", 200),
        ("/primary?cluster=nobody", 404),
        ("/primary?node=nobody", 404),
        ("/replica?lag=much", 400),
        ("/replica?tag_x=y", 400),
    ] {
        assert_eq!(says(path), status, "{path}");
    }
}
