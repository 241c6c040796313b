//! What proves a user, wherever it is written: the catalogue, a file, the operator's query; when it changes; and what
//! nobody may learn of it.

use std::time::{Duration, Instant};

use super::auth::{logs_in, refused, try_login, with_files};
use crate::support::wire::{self, Client, Fields};
use crate::support::{Cluster, Howdah, SOON, Tenant, config, eventually, free_port, poll, shared};

#[test]
fn md5_is_asked_of_those_whose_secret_is_md5s_and_scram_of_all_others() {
    let tenant = Tenant::shared();
    let (name, password) = (&tenant.name, &tenant.password);
    let old = format!("{name}_old");
    let sql =
        format!("SET password_encryption = 'md5'; CREATE ROLE {old} LOGIN PASSWORD 'old secret' IN ROLE md5_users");
    shared().primary().sql(&sql).unwrap();
    let howdah = Howdah::shared("[auth]\nmethod = \"md5\"\n");
    // no password anywhere: the hash of the catalogue lets the client in, and howdah into the server
    let messages = try_login(&howdah, &old, "old secret", name);
    assert_eq!(wire::short(&messages)[..2], ["R:5", "R:0"]);
    assert_eq!(messages.last().unwrap().short(), "Z:I");
    let wrong = try_login(&howdah, &old, "wrong", name);
    assert_eq!(wire::short(&wrong), ["R:5", "E:28P01"]);
    assert_eq!(wire::error(&wrong).message, format!("password authentication failed for user \"{old}\""));
    assert_eq!(wire::short(&try_login(&howdah, name, password, name))[..4], ["R:10", "R:11", "R:12", "R:0"]);
    // who does not exist is asked as most of the others are
    assert_eq!(wire::short(&try_login(&howdah, "nobody", "x", name)), ["R:10", "R:11", "E:28P01"]);
    // where md5 is not allowed, an md5 hash is no password
    let howdah = Howdah::shared("");
    assert_eq!(wire::short(&try_login(&howdah, &old, "old secret", name)), ["R:10", "R:11", "E:28P01"]);
}

#[test]
fn a_file_of_users_lets_them_in_and_is_read_again() {
    let tenant = Tenant::shared();
    let (name, password) = (&tenant.name, &tenant.password);
    let old = format!("{name}_old");
    let sql =
        format!("SET password_encryption = 'md5'; CREATE ROLE {old} LOGIN PASSWORD 'old secret' IN ROLE md5_users");
    shared().primary().sql(&sql).unwrap();
    let hash = |sql: &str| shared().primary().sql(sql).unwrap().cell().unwrap().to_owned();
    let md5 = hash(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{old}'"));
    let verifier = hash(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{name}'"));
    let text = format!("; PgBouncer's\n\"{name}\" \"{verifier}\"\n\"{old}\" \"{md5}\" more\n");
    // a query that knows nobody: whoever gets in is in the file
    let auth = "[auth]\nmethod = \"md5\"\nusers_file = \"DIR/users\"\nquery = \"SELECT 'x', 'y' WHERE $1 = 'z'\"\n";
    let (howdah, folder) = with_files(&[("users", &text)], "", auth);
    logs_in(&howdah, name, password, name);
    logs_in(&howdah, &old, "old secret", name);
    assert_eq!(refused(&howdah, name, "wrong", name).code, "28P01");
    assert_eq!(refused(&howdah, "postgres", shared().primary().password(), name).code, "28P01");

    // [users.NAME] goes before it; a plain password logs in to servers
    let toml = std::fs::read_to_string(howdah.config()).unwrap();
    std::fs::write(folder.path().join("users"), format!("\"{name}\" \"not this one\"\n\"{old}\" \"old secret\"\n"))
        .unwrap();
    howdah.reload(&format!("{toml}[users.{name}]\npassword = \"{password}\"\n"));
    eventually("the new file", SOON, || try_login(&howdah, &old, "old secret", name)[0].short() == "R:10");
    logs_in(&howdah, name, password, name);
    logs_in(&howdah, &old, "old secret", name);
    // a broken one is refused, and its secrets are not shown
    std::fs::write(folder.path().join("users"), format!("\"{name}\" \"hunter2\"\nhunter2 line\n")).unwrap();
    howdah.reload(&toml);
    eventually("refused", SOON, || howdah.log().contains("users:2:1: not a user and a secret"));
    assert!(!howdah.log().contains("hunter2"));
    logs_in(&howdah, name, password, name);
}

#[test]
fn a_query_of_the_operators_finds_secrets_and_nothing_a_client_sends_changes_it() {
    let tenant = Tenant::shared();
    let (name, password) = (&tenant.name, &tenant.password);
    let primary = shared().primary();
    let admin = format!("{name}_admin");
    let (reader, past) = (format!("{name}_reader"), format!("{name}_past"));
    for statement in [
        format!("CREATE DATABASE {admin}"),
        format!("CREATE ROLE {reader} LOGIN PASSWORD 'reader'"),
        format!("CREATE ROLE {past} LOGIN PASSWORD 'past' VALID UNTIL '2001-01-01'"),
    ] {
        primary.sql(&statement).unwrap();
    }
    // the function calls now() without its schema: a search_path of the client's could put another one in its place
    primary
        .sql_in(
            &admin,
            "CREATE FUNCTION look_up(name) RETURNS TABLE (u name, p text, v timestamptz) LANGUAGE plpgsql SECURITY DEFINER AS \
             $$ BEGIN PERFORM now(); RETURN QUERY SELECT rolname, rolpassword, rolvaliduntil FROM pg_authid WHERE rolname = $1; END $$",
        )
        .unwrap();
    // a trap that lets anybody in, for whoever has its schema in front
    primary
        .sql_in(
            &admin,
            "CREATE SCHEMA trap; CREATE FUNCTION trap.look_up(name) RETURNS TABLE (u name, p text, v timestamptz) LANGUAGE sql AS \
             $$ SELECT $1, (SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'), NULL::timestamptz $$",
        )
        .unwrap();
    let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
    let auth = format!("[auth]\nquery = \"SELECT u, p, v FROM look_up($1)\"\ndbname = \"{admin}\"\n");
    let toml = config(shared().nodes(), port, http_port, &auth);
    let (user, secret) = (primary.superuser(), primary.password());
    let toml = toml.replace(
        &format!("user = \"{user}\"\npassword = \"{secret}\""),
        &format!("user = \"{reader}\"\npassword = \"reader\""),
    );
    primary.sql(&format!("GRANT pg_monitor TO {reader}")).unwrap();
    let howdah = Howdah::start(&toml, port, http_port);
    logs_in(&howdah, name, password, name);
    assert_eq!(refused(&howdah, name, "wrong", name).code, "28P01");
    assert_eq!(refused(&howdah, &past, "past", name).code, "28P01");
    assert_eq!(refused(&howdah, "nobody", "x", name).code, "28P01");
    for evil in ["trap", "trap,pg_catalog", "x'; ALTER ROLE postgres PASSWORD 'evil'; --", "\"; SELECT 1"] {
        for parameters in
            [[("search_path", evil.to_owned())], [("options", format!("-c search_path={}", evil.replace(' ', "\\ ")))]]
        {
            let [(key, value)] = &parameters;
            let login = |user: &str, password: &str| {
                let parameters = [("user", user), ("database", name.as_str()), (*key, value.as_str())];
                howdah.wire().try_login(&parameters, password).unwrap()
            };
            assert_eq!(wire::error(&login(name, primary.password())).code, "28P01", "{evil}");
            let good = login(name, password);
            assert!(wire::short(&good).contains(&"R:0".to_owned()), "{evil}: {good:?}");
        }
    }
    // a name is a parameter, never a part of the text
    assert_eq!(refused(&howdah, "x' OR '1' = '1", "x", name).code, "28P01");
}

#[test]
fn a_changed_password_works_at_once_the_old_one_never_and_connections_go_on() {
    let tenant = Tenant::shared();
    let (name, old) = (&tenant.name, &tenant.password);
    let primary = shared().primary();
    let howdah = Howdah::shared("[limits]\nworkers = 2\n");
    let mut before = howdah.login(&tenant);
    assert_eq!(before.value("SELECT 1"), "1");
    // whoever has just proven itself is believed for a moment; nobody else is
    primary.sql(&format!("ALTER ROLE {name} PASSWORD 'changed'")).unwrap();
    let deadline = Instant::now() + SOON;
    while try_login(&howdah, name, old, name).last().unwrap().short() == "Z:I" {
        assert!(Instant::now() < deadline, "the old password still works");
    }
    for _ in 0..3 {
        assert_eq!(refused(&howdah, name, old, name).code, "28P01");
        logs_in(&howdah, name, "changed", name);
        std::thread::sleep(Duration::from_millis(210)); // longer than anybody is believed
    }
    assert_eq!(before.value("SELECT 1"), "1");

    // the servers are gone and the key is of an old password: the connected client hears why, and lives
    let terminate = format!("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{name}'");
    primary.sql(&format!("ALTER ROLE {name} PASSWORD 'again'")).unwrap();
    primary.sql(&terminate).unwrap();
    let error = poll_error(&mut before);
    assert!(error.message.contains("the password of this user has changed"), "{error:?}");
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("ERROR", "57P03"));
    // the first login with the new one serves all
    logs_in(&howdah, name, "again", name);
    eventually("it goes on", SOON, || {
        before.query_short("SELECT 1").last().map(String::as_str) == Some("Z:I")
            && before.query_short("SELECT 1").contains(&"D".to_owned())
    });
}

/// The error of the next statement that has one.
fn poll_error(client: &mut Client) -> Fields {
    poll(SOON, || {
        client.query("SELECT 1").into_iter().find(|message| message.tag == b'E').map(|message| message.fields())
    })
    .expect("an error")
}

#[test]
fn a_role_nobody_can_ask_about_is_not_said_to_have_mistyped() {
    let cluster = Cluster::builder().start().unwrap_or_else(|error| panic!("{error}"));
    let tenant = Tenant::on(cluster.primary());
    let howdah = Howdah::before(cluster.nodes(), "[timeouts]\nquery_wait = \"1s\"\n");
    logs_in(&howdah, &tenant.name, &tenant.password, &tenant.name);
    cluster.primary().sql("CREATE ROLE fresh LOGIN PASSWORD 'fresh'").unwrap();
    cluster.primary().freeze();
    for (user, password) in [("fresh", "fresh"), (&tenant.name, "wrong"), ("nobody", "x")] {
        let error = refused(&howdah, user, password, &tenant.name);
        assert_eq!(error.code, "57P03", "{user}: {error:?}");
        assert!(error.message.contains("could not be checked"), "{error:?}");
    }
    cluster.primary().thaw();
    eventually("it can be asked again", SOON, || {
        try_login(&howdah, "fresh", "fresh", &tenant.name).last().unwrap().short() == "Z:I"
    });
}

#[test]
fn a_user_who_does_not_exist_takes_the_same_steps_as_a_wrong_password() {
    let tenant = Tenant::shared();
    let name = &tenant.name;
    let primary = shared().primary();
    // iterations as no default has them
    let verifier = howdah::protocol::scram::Verifier::from_password(b"slow", b"0123456789abcdef", 5_000).to_string();
    let cluster = Cluster::builder().start().unwrap_or_else(|error| panic!("{error}"));
    for role in ["app", "bob", "eve"] {
        cluster.primary().sql(&format!("CREATE ROLE {role} LOGIN PASSWORD '{verifier}'")).unwrap();
    }
    let howdah = Howdah::before(cluster.nodes(), "");
    let iterations = |user: &str| {
        let messages = try_login(&howdah, user, "wrong", "postgres");
        String::from_utf8_lossy(&messages[1].body).rsplit("i=").next().unwrap().to_owned()
    };
    assert_eq!([iterations("app"), iterations("nobody")], ["5000", "5000"]);

    // each attempt is one question to the cluster, whoever it is about
    primary.sql_in(name, "CREATE SEQUENCE calls").unwrap();
    primary
        .sql_in(
            name,
            "CREATE FUNCTION look_up(name, OUT u name, OUT p text) RETURNS SETOF record LANGUAGE sql SECURITY DEFINER AS \
             $$ SELECT nextval('public.calls'); SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1 $$",
        )
        .unwrap();
    let auth = format!("[auth]\nquery = \"SELECT u, p FROM public.look_up($1)\"\ndbname = \"{name}\"\n");
    let asking = Howdah::shared(&auth);
    let calls =
        || primary.sql_in(name, "SELECT last_value FROM calls").unwrap().cell().unwrap().parse::<i64>().unwrap();
    let mut costs = Vec::new();
    for user in [name.as_str(), "nobody_1", name.as_str(), "nobody_1", "nobody_2"] {
        let before = calls();
        assert_eq!(refused(&asking, user, "wrong", name).code, "28P01");
        costs.push(calls() - before);
    }
    assert_eq!(costs[1..], [1; 4]);
    // the first call of a sequence shows as none
    assert!(matches!(costs[0], 0 | 1));

    // and takes the same time, as far as a loaded machine can tell: a refresh for one of them would be seen
    let howdah = Howdah::shared("");
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..40 {
        for (times, user) in times.iter_mut().zip([name.clone(), format!("nobody_{round}")]) {
            times.push(refused_after(&howdah, &user, name));
        }
    }
    let [known, unknown] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    let near = |a: Duration, b: Duration| a < b * 2 + Duration::from_millis(20);
    assert!(near(known, unknown) && near(unknown, known), "{known:?} {unknown:?}");
}

/// How long a refusal takes, without the hashing of a client.
fn refused_after(howdah: &Howdah, user: &str, database: &str) -> Duration {
    let mut client = howdah.wire();
    let begun = Instant::now();
    client.send(&wire::startup(wire::PROTOCOL_3_0, &[("user", user), ("database", database)]));
    client.expect();
    client.send(&wire::sasl_initial("SCRAM-SHA-256", b"n,,n=,r=abcdefgh"));
    let challenge = String::from_utf8_lossy(&client.expect().body[4..]).into_owned();
    let nonce = challenge.split(',').next().unwrap();
    client.send(&wire::tagged(b'p', format!("c=biws,{nonce},p={}=", "A".repeat(43)).as_bytes()));
    assert_eq!(client.expect().fields().code, "28P01");
    begun.elapsed()
}

#[test]
fn no_secret_shows_in_a_log_a_status_or_an_error_at_any_level() {
    let tenant = Tenant::shared();
    let (name, password) = (&tenant.name, &tenant.password);
    let primary = shared().primary();
    let old = format!("{name}_old");
    let sql =
        format!("SET password_encryption = 'md5'; CREATE ROLE {old} LOGIN PASSWORD 'old secret' IN ROLE md5_users");
    primary.sql(&sql).unwrap();
    let stored = |role: &str| {
        let sql = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'");
        primary.sql(&sql).unwrap().cell().unwrap().to_owned()
    };
    let (verifier, md5) = (stored(name), stored(&old));
    let users = format!("\"filed\" \"filed secret\"\n\"{old}\" \"{md5}\"\n\"kept\" \"{verifier}\"\n");
    for format in ["text", "json"] {
        let extra = format!(
            "[users.app]\npassword = \"app secret\"\n[log]\nlevel = \"trace\"\nformat = \"{format}\"\n\
             [auth]\nmethod = \"md5\"\nusers_file = \"DIR/users\"\n"
        );
        let (howdah, folder) = with_files(&[("users", &users)], "", &extra);
        let mut said = String::new();
        for (user, password) in [
            (name.as_str(), password.as_str()),
            (name, "mistyped secret"),
            (&old, "old secret"),
            (&old, "mistyped secret"),
            ("app", "app secret"),
            ("filed", "filed secret"),
            ("kept", password),
            ("nobody", "mistyped secret"),
        ] {
            for message in try_login(&howdah, user, password, name).iter().filter(|message| message.tag == b'E') {
                said += &String::from_utf8_lossy(&message.body);
            }
        }
        let mut client = howdah.login(&tenant);
        client.query(&format!("ALTER ROLE {name} PASSWORD '{password}'"));
        let toml = std::fs::read_to_string(howdah.config()).unwrap();
        std::fs::write(folder.path().join("users"), users.clone() + "hunter2 secret\n").unwrap();
        howdah.reload(&(toml + "[users.more]\npassword = \"\\u0000 zero secret\"\n"));
        eventually("the reload is refused", SOON, || howdah.log().contains("reload refused"));
        said += &howdah.log();
        said += &howdah.get("/status").unwrap().1;
        said += &howdah.get("/readyz").unwrap().1;
        assert!(said.contains("client logged in"), "nothing is logged at all: {said}");
        let parts: Vec<&str> = verifier.split(['$', ':']).collect();
        let secrets =
            [password, primary.password(), "secret-of", "old secret", "app secret", "filed secret", "hunter2"];
        let more = ["mistyped secret", "zero secret", &md5[3..], parts[2], parts[3], parts[4], "n=,r=", "c=biws"];
        for secret in secrets.iter().chain(&more) {
            assert!(!said.contains(secret), "\"{secret}\" shows");
        }
    }
}
