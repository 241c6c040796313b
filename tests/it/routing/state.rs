//! What a session has set and prepared goes with it to every node, and nobody else meets it there.

use super::{PATIENT, WHERE, reader, served, shared};
use crate::support::wire;
use crate::support::{SOON, eventually};

#[test]
fn what_a_session_has_set_and_prepared_holds_on_every_node() {
    let (howdah, tenant) = served(PATIENT);
    shared().primary().sql(&format!("CREATE ROLE {0}_other; GRANT {0}_other TO {0}", tenant.name)).unwrap();
    shared().wait_streaming(SOON).unwrap();
    let (mut client, mut other) = (reader(&howdah, &tenant), reader(&howdah, &tenant));
    client.query("CREATE SCHEMA s; CREATE TABLE s.t AS SELECT 7 AS i");
    client.query(&format!("GRANT ALL ON SCHEMA s TO {0}_other; GRANT ALL ON s.t TO {0}_other", tenant.name));
    client.query("SET search_path = s");
    client.query("SET TimeZone = 'Asia/Tokyo'");
    client.query("SET my.own = 'x y'");
    client.query(&format!("SET ROLE {}_other", tenant.name));
    client.send(&[wire::parse("p", "SELECT i, pg_is_in_recovery() FROM t WHERE i = $1", &[]), wire::sync()].concat());
    assert_eq!(wire::short(&client.read_until_ready()), ["1", "Z:I"]);
    let state = "SELECT i || current_setting('search_path') || current_setting('TimeZone') || current_setting('my.own')
        || current_user, pg_is_in_recovery() FROM t";
    let expected = format!("7sAsia/Tokyox y{}_other", tenant.name);
    let bound = [wire::bind("", "p", &[Some("7")]), wire::execute("", 0), wire::sync()].concat();
    let mut on = [0, 0];
    for round in 0..60 {
        let hint = if round % 3 == 0 { "/* howdah: primary */ " } else { "" };
        for rows in [client.query(&format!("{hint}{state}")), client.extended(&format!("{hint}{state}"), &[])] {
            let row = rows.iter().find(|m| m.tag == b'D').unwrap_or_else(|| panic!("{rows:?}")).columns();
            assert_eq!(row[0].as_deref(), Some(expected.as_str()));
            on[usize::from(row[1].as_deref() == Some("t"))] += 1;
            assert!(rows.iter().all(|m| m.tag != b'S'), "a parameter flickers: {rows:?}");
        }
        client.send(&bound);
        let rows = client.read_until_ready();
        assert_eq!(wire::first_column(&rows), ["7"], "{rows:?}");
        // the same servers serve somebody else in between, with other settings
        assert_eq!(
            other.value("SELECT current_setting('TimeZone') || current_user || current_setting('search_path')"),
            format!("{}{}\"$user\", public", zone(), tenant.name)
        );
    }
    assert!(on[0] >= 20 && on[1] >= 20, "both kinds of nodes answered: {on:?}");
    // set inside a block on a standby, it holds on the primary after COMMIT and is gone after ROLLBACK
    for (end, zone) in [("COMMIT", "Asia/Kabul"), ("ROLLBACK", "Asia/Tokyo")] {
        client.query("SET TimeZone = 'Asia/Tokyo'");
        eventually("a block on a standby", SOON, || {
            client.query("BEGIN READ ONLY");
            let on_standby = client.value(WHERE) == "t";
            client.query("SET TimeZone = 'Asia/Kabul'");
            client.query("SET LOCAL search_path = nowhere");
            client.query(end);
            on_standby
        });
        for hint in ["/* howdah: primary */ ", ""] {
            let now =
                client.value(&format!("{hint}SELECT current_setting('TimeZone') || current_setting('search_path')"));
            assert_eq!(now, format!("{zone}s"), "{end} {hint}");
        }
    }
    client.query("RESET ALL");
    client.query("RESET ROLE");
    for hint in ["/* howdah: primary */ ", ""] {
        assert_eq!(
            client.value(&format!("{hint}SELECT current_setting('TimeZone') || current_user")),
            format!("{}{}", zone(), tenant.name)
        );
    }
}

#[test]
fn what_a_client_leaves_on_a_standbys_server_is_swept_there() {
    let (howdah, tenant) = served(&format!("[pool]\nsize = 1\n\n{PATIENT}"));
    let (mut client, mut other) = (reader(&howdah, &tenant), howdah.login(&tenant));
    client.query("CREATE TABLE t (i int)");
    for round in 0..10 {
        eventually("a block on a standby", SOON, || {
            client.query("BEGIN READ ONLY");
            let on_standby = client.value(WHERE) == "t";
            client.query("SELECT set_config('my.own', 'mine', false)");
            client.query("SET work_mem = '1234kB'");
            client.query("DECLARE c CURSOR WITH HOLD FOR SELECT 1");
            client.query(if round % 2 == 0 { "COMMIT" } else { "ROLLBACK" });
            on_standby
        });
        client.query("CLOSE ALL");
        let seen = other.value("SELECT coalesce(current_setting('my.own', true), '') || current_setting('work_mem')");
        assert_eq!(seen, "4MB", "round {round}");
        // a cursor that outlives its block keeps its server; a write goes on all the same
        assert_eq!(client.query_short("INSERT INTO t VALUES (1)"), ["C:INSERT 0 1", "Z:I"], "round {round}");
        client.query("DISCARD ALL");
    }
    let log = howdah.log();
    let line = log.lines().find(|line| line.contains("lost step") || line.contains("panicked"));
    assert_eq!(line, None);
}

#[test]
fn notifications_and_listening_belong_to_the_primary_and_reach_who_listens() {
    let (howdah, tenant) = served(PATIENT);
    let (mut listener, mut client) = (reader(&howdah, &tenant), reader(&howdah, &tenant));
    assert_eq!(listener.query_short("LISTEN news"), ["C:LISTEN", "Z:I"]);
    client.query("NOTIFY news, 'one'");
    client.query("SELECT pg_notify('news', 'two')");
    let mut heard = Vec::new();
    eventually("both are heard", SOON, || {
        heard.extend(listener.query("SELECT 1").into_iter().filter(|m| m.tag == b'A'));
        heard.len() == 2
    });
    assert_eq!(listener.query_short("UNLISTEN *"), ["C:UNLISTEN", "Z:I"]);
    eventually("it reads from a standby again", SOON, || listener.value(WHERE) == "t");
}

/// The time zone of a session that has set none.
fn zone() -> String {
    shared().primary().sql("SHOW TimeZone").unwrap().cell().unwrap().to_owned()
}
