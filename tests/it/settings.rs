//! What a client has set is its own: it never shows in another's session and follows the client from server to server.

use crate::support::script::{Stage, simple, turn, turns};
use crate::support::wire::{self, Client, bind, execute, parse, query, sync};
use crate::support::{SOON, connection_count, eventually, shared};

#[track_caller]
fn login_with(stage: &Stage, database: &str, settings: &[(&str, &str)]) -> Client {
    let mut client = stage.howdah.wire();
    let user = [("user", stage.tenant.name.as_str()), ("database", database)];
    client.login_with(&[&user[..], settings].concat(), &stage.tenant.password);
    client
}

#[test]
fn a_set_is_told_lasts_and_is_rolled_back_as_in_postgresql() {
    let stage = Stage::new("");
    stage.play(
        "",
        &[
            simple("SET TimeZone = 'Asia/Kolkata'"),
            simple("SHOW TimeZone"),
            simple("SET DateStyle = 'German, DMY'; SET IntervalStyle = iso_8601; SET application_name = 'mine'"),
            simple("SELECT date '2020-02-01', interval '1 day', current_setting('application_name')"),
            simple("BEGIN"),
            simple("SET TimeZone = 'Europe/Paris'"),
            simple("SELECT 1"),
            simple("ROLLBACK"),
            simple("SHOW TimeZone"),
            simple("BEGIN; SET LOCAL TimeZone = 'Europe/Rome'"),
            simple("COMMIT"),
            simple("SHOW TimeZone"),
            turn([parse("", "SET TimeZone = 'Asia/Dubai'", &[]), bind("", "", &[]), execute("", 0), sync()]),
            simple("SHOW TimeZone"),
            simple("SET TimeZone = 'Nowhere/At all'"),
            simple("SHOW TimeZone"),
            simple("RESET TimeZone"),
            simple("SHOW TimeZone"),
            turns([query("SET TimeZone = 'Asia/Tokyo'"), query("SHOW TimeZone"), query("SHOW application_name")], 3),
            simple("SELECT set_config('timezone', 'Asia/Seoul', false)"),
            simple("SHOW TimeZone"),
            simple("RESET ALL"),
            simple("SHOW TimeZone"),
            simple("SHOW application_name"),
            // half of a value each
            simple("SET DateStyle = SQL"),
            simple("SET DateStyle = dmy"),
            simple("SELECT date '1999-01-08'"),
        ],
    );
}

#[test]
fn a_custom_setting_outlives_a_transaction_that_hides_what_it_sets() {
    let stage = Stage::new("");
    stage.play(
        "",
        &[
            simple("SET TimeZone = 'Asia/Tokyo'; SET app.tenant = 'seven'"),
            simple("SET app.b = ''"),
            simple("DO $$ BEGIN PERFORM set_config('app.c', 'd', false); END $$"),
            simple("SHOW app.tenant"),
            simple("DO $$ BEGIN END $$"),
            simple("SELECT current_setting('app.tenant'), current_setting('app.b'), current_setting('app.c')"),
            simple("DO $$ BEGIN SET app.tenant = 'eight'; END $$"),
            simple("SELECT current_setting('app.tenant'), current_setting('app.b'), current_setting('app.c')"),
        ],
    );
}

#[test]
fn what_is_reset_goes_back_to_the_startup_packet_whatever_the_text_says_besides() {
    let stage = Stage::new("");
    let startup =
        [("DateStyle", "SQL, DMY"), ("statement_timeout", "77s"), ("my.own", "a"), ("plpgsql.extra_errors", "all")];
    for (set, reset) in [
        ("SET DateStyle = ISO", "RESET DateStyle"),
        ("SET DateStyle = ISO", "DO $$ BEGIN END $$; RESET DateStyle"),
        ("SET statement_timeout = 0", "SET statement_timeout TO DEFAULT; SELECT 1"),
        ("SET my.own = b", "DO $$ BEGIN END $$; RESET my.own"),
        ("DO $$ BEGIN END $$; SET plpgsql.extra_errors = none", "DO $$ BEGIN END $$; RESET plpgsql.extra_errors"),
        ("DO $$ BEGIN SET statement_timeout = '55s'; END $$", "DO $$ BEGIN EXECUTE 'RESET statement_timeout'; END $$"),
        ("SET DateStyle = German; SET my.own = c", "DO $$ BEGIN END $$; RESET ALL"),
    ] {
        for database in ["one", "two", "session"] {
            let mut client = login_with(&stage, database, &startup);
            client.query(set);
            client.query(reset);
            let mut other = login_with(&stage, database, &[]);
            other.query("SELECT 1");
            for (name, value) in startup {
                assert_eq!(client.value(&format!("SHOW {name}")), value, "{set}; {reset} in {database}");
            }
        }
    }
}

#[test]
fn an_encoding_of_a_client_is_its_own() {
    let stage = Stage::new("");
    stage.play(
        "",
        &[
            simple("SET client_encoding = 'LATIN1'"),
            turn([wire::tagged(b'Q', b"SELECT 'caf\xe9', length('caf\xe9')\0")]),
            simple("SELECT U&'\\20AC'"),
            simple("SHOW client_encoding"),
            simple("RESET client_encoding"),
            simple("SHOW client_encoding"),
            turn([wire::tagged(b'Q', b"SELECT 'caf\xe9'\0")]),
        ],
    );
}

#[test]
fn settings_of_one_client_never_show_in_another() {
    let stage = Stage::new("");
    let (mut a, mut b) = (stage.login("one"), stage.login("one"));
    let was: Vec<String> =
        ["TimeZone", "DateStyle", "application_name", "client_encoding", "statement_timeout", "work_mem"]
            .map(|name| b.value(&format!("SHOW {name}")))
            .into();
    a.query("SET TimeZone = 'Asia/Kolkata'");
    a.query("SET DateStyle = 'German'");
    a.query("SET application_name = 'a'");
    a.query("SET client_encoding = 'LATIN1'");
    a.query("SET statement_timeout = '1234s'");
    a.query("SET work_mem = '5MB'");
    let now: Vec<String> =
        ["TimeZone", "DateStyle", "application_name", "client_encoding", "statement_timeout", "work_mem"]
            .map(|name| b.value(&format!("SHOW {name}")))
            .into();
    assert_eq!(now, was);
    assert_eq!(a.value("SHOW TimeZone"), "Asia/Kolkata");
    assert_eq!(a.value("SHOW application_name"), "a");
    assert_eq!(b.parameter("TimeZone"), Some("UTC"));
    // set in a block, in front of its commit, and by a text of several statements
    a.query("BEGIN");
    a.query("SET statement_timeout = '4321s'");
    a.query("COMMIT");
    assert_eq!(b.value("SHOW statement_timeout"), was[4]);
    a.query("SELECT 1; SET statement_timeout = '4321s'; SELECT 2");
    assert_eq!(b.value("SHOW statement_timeout"), was[4]);
    a.send(&[parse("", "SET statement_timeout = '99s'", &[]), bind("", "", &[]), execute("", 0), sync()].concat());
    a.read_until_ready();
    assert_eq!(b.value("SHOW statement_timeout"), was[4]);
    // a role another client has taken
    let name = &stage.tenant.name;
    stage.howdah.wire().cut();
    shared().primary().sql(&format!("CREATE ROLE {name}_other; GRANT {name}_other TO {name}")).unwrap();
    a.query(&format!("SET ROLE {name}_other"));
    assert_eq!(b.value("SELECT current_user"), *name);
}

#[test]
fn what_a_client_sets_in_its_startup_packet_is_applied_and_told() {
    let stage = Stage::new("");
    stage.direct().query("CREATE SCHEMA one_path; CREATE TABLE one_path.here AS SELECT 'found' AS x");
    for database in ["one", "two", "session"] {
        let settings = [
            ("application_name", "my app's \"name\""),
            ("options", "-c search_path=one_path -c statement_timeout=77s --work_mem=6MB"),
            ("client_encoding", "LATIN1"),
            ("extra_float_digits", "2"),
            ("DateStyle", "German"),
        ];
        let mut client = login_with(&stage, database, &settings);
        let mut other = stage.login(database);
        for _ in 0..3 {
            assert_eq!(client.value("SHOW application_name"), "my app's \"name\"", "{database}");
            assert_eq!(client.value("SELECT x FROM here"), "found");
            assert_eq!(client.value("SHOW extra_float_digits"), "2");
            assert_eq!(client.value("SHOW statement_timeout"), "77s");
            assert_eq!(client.value("SHOW work_mem"), "6MB");
            assert_eq!(client.value("SHOW client_encoding"), "LATIN1");
            let bytes = client.query("SELECT U&'caf\\00e9'");
            assert!(bytes[1].body.ends_with(b"caf\xe9"));
            assert_eq!(client.value("SELECT date '2020-02-01'"), "01.02.2020");
            assert_eq!(client.parameter("client_encoding"), Some("LATIN1"));
            assert_eq!(client.parameter("application_name"), Some("my app's \"name\""));
            assert_eq!(client.parameter("DateStyle"), Some("German, DMY"));
            assert_eq!(other.value("SHOW extra_float_digits"), "1");
            assert_eq!(other.value("SHOW search_path"), "\"$user\", public");
        }
        // RESET goes back to what the startup packet said, as in PostgreSQL
        client.query("SET application_name = 'changed'");
        assert_eq!(client.value("SHOW application_name"), "changed");
    }
}

#[test]
fn a_bad_value_in_the_startup_packet_gets_postgresqls_error_and_costs_no_server() {
    let stage = Stage::new("");
    let mut other = stage.login("one");
    let pid = other.value("SELECT pg_backend_pid()");
    for (settings, code) in [
        ([("TimeZone", "nonsense")], "22023"),
        ([("no_such_setting", "1")], "42704"),
        ([("client_encoding", "nonsense")], "22023"),
        ([("max_connections", "7")], "55P02"),
    ] {
        let mut direct = Client::connect(("127.0.0.1", shared().primary().port())).unwrap();
        let user = [("user", stage.tenant.name.as_str()), ("database", stage.tenant.name.as_str())];
        let said = direct.try_login(&[&user[..], &settings[..]].concat(), &stage.tenant.password).unwrap();
        let expected = wire::error(&said);
        assert_eq!(expected.code, code);

        let mut client = stage.howdah.wire();
        let user = [("user", stage.tenant.name.as_str()), ("database", "one")];
        let login = client.try_login(&[&user[..], &settings[..]].concat(), &stage.tenant.password).unwrap();
        let error = match login.iter().find(|m| m.tag == b'E') {
            Some(error) => error.fields(),
            None => {
                client.send(&query("SELECT 'never'"));
                wire::error(&client.read_until(b'E'))
            }
        };
        assert_eq!((&error.code, &error.message), (&expected.code, &expected.message));
        assert_eq!(other.value("SELECT pg_backend_pid()"), pid);
        assert_eq!(other.value("SHOW TimeZone"), "UTC");
        client.cut();
    }
    eventually("one server", SOON, || connection_count(shared().primary(), &stage.tenant.name) == 1);
}

#[test]
fn a_bad_value_in_front_of_a_message_that_streams_is_told_and_the_server_kept() {
    let stage = Stage::new("");
    let mut other = stage.login("one");
    let pid = other.value("SELECT pg_backend_pid()");
    let large = format!("SELECT length('{}')", "x".repeat(5_000_000));
    for batch in [query(&large), [parse("", &large, &[]), bind("", "", &[]), execute("", 0), sync()].concat()] {
        let mut client = login_with(&stage, "one", &[("TimeZone", "nonsense")]);
        client.send(&batch);
        assert_eq!(wire::short(&client.read_until_ready()), ["E:22023", "Z:I"]);
        client.send(&query("SELECT 1"));
        assert_eq!(wire::short(&client.read_until_ready()), ["E:22023", "Z:I"]);
        assert_eq!(other.value("SELECT pg_backend_pid()"), pid);
        let mut good = login_with(&stage, "one", &[("TimeZone", "Asia/Tokyo")]);
        good.send(&batch);
        assert_eq!(wire::first_column(&good.read_until_ready()), ["5000000"]);
    }
    let mut session = login_with(&stage, "session", &[("TimeZone", "nonsense")]);
    session.send(&query("SELECT 1"));
    let last = wire::error(&session.read_until_closed());
    assert_eq!((last.severity.as_str(), last.code.as_str()), ("FATAL", "22023"));
    assert_eq!(stage.login("session").value("SELECT 1"), "1");
}

#[test]
fn every_client_has_a_key_of_its_own() {
    let stage = Stage::new("");
    let clients: Vec<Client> = (0..50).map(|_| stage.login("one")).collect();
    let mut keys: Vec<_> = clients.iter().map(|client| client.key.clone()).collect();
    assert!(keys.iter().all(|key| key.1.len() == 4));
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 50);
}

#[test]
fn versions_and_options_are_negotiated() {
    let stage = Stage::new("");
    let user = [("user", stage.tenant.name.as_str()), ("database", "one")];
    for (version, options, answer) in [
        (wire::PROTOCOL_3_0, &[][..], None),
        (wire::PROTOCOL_3_2, &[][..], None),
        (0x0003_0001, &[][..], Some((0x0003_0001, 0))),
        (0x0003_0009, &[][..], Some((0x0003_0002, 0))),
        (0x0003_270f, &[][..], Some((0x0003_0002, 0))),
        (wire::PROTOCOL_3_0, &[("_pq_.x", "1"), ("_pq_.y", "2")][..], Some((0x0003_0000, 2))),
        (wire::PROTOCOL_3_2, &[("_pq_.x", "1")][..], Some((0x0003_0002, 1))),
    ] {
        let mut client = stage.howdah.wire();
        client.send(&wire::startup(version, &[&user[..], options].concat()));
        let login = client.authenticate(&stage.tenant.name, &stage.tenant.password).unwrap();
        assert_eq!(wire::short(&login).last().unwrap(), "Z:I", "{login:?}");
        let told = login.iter().find(|m| m.tag == b'v').map(|m| (m.int32(0), m.int32(4)));
        if version != 0x0003_0001 {
            assert_eq!(told, answer, "{version:x}");
        }
        let long = version & 0xffff >= 2;
        assert_eq!(client.key.1.len() > 4, long, "{version:x}");
        assert_eq!(client.value("SELECT 1"), "1");
    }
    let mut client = stage.howdah.wire();
    client.send(&wire::gssenc_request());
    assert_eq!(client.read_byte(), b'N');
    client.send(&wire::ssl_request());
    assert_eq!(client.read_byte(), b'N');
    client.login(&stage.tenant.name, &stage.tenant.password, "one");
}

#[test]
fn a_custom_setting_that_was_reset_is_empty_on_every_server_and_not_unknown() {
    let stage = Stage::new("");
    let (mut client, mut other) = (stage.login("two"), stage.login("two"));
    let mut both_servers = |client: &mut Client, sql: &str| {
        let mut seen = std::collections::BTreeMap::new();
        for hold in [false, true, false, true] {
            if hold {
                other.query("BEGIN");
                other.query("SELECT 1");
            }
            let answer = client.query(&format!("SELECT pg_backend_pid() || ':' || {sql}"));
            let value = wire::first_column(&answer).pop().unwrap_or_else(|| format!("{answer:?}"));
            if let Some((pid, value)) = value.split_once(':') {
                seen.insert(pid.to_owned(), value.to_owned());
            }
            if hold {
                other.query("COMMIT");
            } else {
                other.query("SELECT 1");
            }
        }
        seen.into_values().collect::<Vec<_>>()
    };
    for reset in ["RESET ALL", "RESET my.tenant"] {
        client.query("SET my.tenant = 'x'");
        assert!(both_servers(&mut client, "current_setting('my.tenant')").iter().all(|value| value == "x"));
        client.query(reset);
        let empty = both_servers(&mut client, "current_setting('my.tenant')");
        assert!(!empty.is_empty() && empty.iter().all(String::is_empty), "{reset}: {empty:?}");
    }
}
