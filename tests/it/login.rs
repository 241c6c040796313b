//! Who gets in, as whom, and what the others are told.

use std::time::Duration;

use crate::support::wire::{self, Message};
use crate::support::{Howdah, SOON, Tenant, eventually, shared};

fn try_login(howdah: &Howdah, user: &str, password: &str, database: &str) -> Vec<Message> {
    howdah.wire().try_login(&[("user", user), ("database", database)], password).unwrap()
}

#[track_caller]
fn logs_in(howdah: &Howdah, user: &str, password: &str, database: &str) {
    let mut client = howdah.wire();
    client.login(user, password, database);
    assert_eq!(client.value("SELECT current_user"), user);
}

#[test]
fn a_role_of_the_cluster_logs_in_through_its_own_verifier_and_no_password_is_stored() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("");
    assert!(!std::fs::read_to_string(howdah.config()).unwrap().contains(&tenant.password));
    let messages = try_login(&howdah, &tenant.name, &tenant.password, &tenant.name);
    assert_eq!(wire::short(&messages)[..4], ["R:10", "R:11", "R:12", "R:0"]);
    let mut client = howdah.login(&tenant);
    let sql = "SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = ";
    assert_eq!(shared().primary().sql(&format!("{sql}'{}'", tenant.name)).unwrap().cell(), Some("t"));
    assert_eq!(client.value("SELECT session_user"), tenant.name);
}

#[test]
fn a_wrong_password_and_a_user_who_does_not_exist_look_the_same() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("");
    let challenge = |messages: &[Message]| {
        let text = String::from_utf8_lossy(&messages[1].body[4..]).into_owned();
        let fields: Vec<_> = text.split(',').map(|field| (field[..2].to_owned(), field.len())).collect();
        let rounds = text.rsplit(',').next().unwrap().to_owned();
        (fields, rounds)
    };
    let salt =
        |messages: &[Message]| String::from_utf8_lossy(&messages[1].body[4..]).split(',').nth(1).unwrap().to_owned();
    let wrong = try_login(&howdah, &tenant.name, "wrong", &tenant.name);
    let nobody = try_login(&howdah, "nobody_at_all", "wrong", &tenant.name);
    assert_eq!(wire::short(&wrong), ["R:10", "R:11", "E:28P01"]);
    assert_eq!(wire::short(&nobody), wire::short(&wrong));
    assert_eq!(challenge(&nobody), challenge(&wrong));
    let mut expected = wire::error(&wrong);
    expected.message = expected.message.replace(&tenant.name, "nobody_at_all");
    assert_eq!(wire::error(&nobody), expected);
    assert_eq!(expected.severity, "FATAL");
    // a salt that changed at each try would tell
    let again = try_login(&howdah, "nobody_at_all", "wrong", &tenant.name);
    assert_eq!(salt(&nobody), salt(&again));
    assert_ne!(salt(&nobody), salt(&try_login(&howdah, "nobody_else", "wrong", &tenant.name)));
}

#[test]
fn users_of_the_file_log_in_with_its_password_or_verifier() {
    let tenant = Tenant::shared();
    let (name, password) = (&tenant.name, &tenant.password);
    let howdah = Howdah::shared(&format!("[users.{name}]\npassword = \"{password}\"\n"));
    logs_in(&howdah, name, password, name);
    assert_eq!(wire::error(&try_login(&howdah, name, "wrong", name)).code, "28P01");

    let sql = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{name}'");
    let verifier = shared().primary().sql(&sql).unwrap().cell().unwrap().to_owned();
    let howdah = Howdah::shared(&format!("[users.{name}]\npassword = '{verifier}'\n"));
    logs_in(&howdah, name, password, name);
    assert_eq!(wire::error(&try_login(&howdah, name, "wrong", name)).code, "28P01");
}

#[test]
fn a_password_changed_and_a_role_made_meanwhile_work_within_a_moment() {
    let tenant = Tenant::shared();
    let primary = shared().primary();
    let howdah = Howdah::shared("");
    let (name, database) = (&tenant.name, &tenant.name);
    let mut before = howdah.login(&tenant);
    primary.sql(&format!("ALTER ROLE {name} PASSWORD 'changed'")).unwrap();
    eventually("the new password", SOON, || {
        try_login(&howdah, name, "changed", database).last().unwrap().short() == "Z:I"
    });
    // connections made anew take it too
    primary.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}'")).unwrap();
    logs_in(&howdah, name, "changed", database);
    assert_eq!(before.value("SELECT 1"), "1");
    assert_eq!(wire::error(&try_login(&howdah, name, &tenant.password, database)).code, "28P01");

    let role = format!("{name}_new");
    primary.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 'new'")).unwrap();
    logs_in(&howdah, &role, "new", database);
}

#[test]
fn a_server_that_wants_md5_gets_it_from_the_files_password() {
    let tenant = Tenant::shared();
    let role = format!("{}_old", tenant.name);
    let sql =
        format!("SET password_encryption = 'md5'; CREATE ROLE {role} LOGIN PASSWORD 'old secret' IN ROLE md5_users");
    shared().primary().sql(&sql).unwrap();
    let howdah = Howdah::shared(&format!("[users.{role}]\npassword = \"old secret\"\n"));
    logs_in(&howdah, &role, "old secret", &tenant.name);
    // trusted clients: the hash in the catalogue is enough
    let howdah = Howdah::shared("[auth]\nmethod = \"trust\"\n");
    eventually("the catalogue has been read", SOON, || {
        try_login(&howdah, &role, "", &tenant.name).last().unwrap().short() == "Z:I"
    });
}

#[test]
fn a_trusted_client_without_any_credential_is_told_what_is_missing() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[auth]\nmethod = \"trust\"\n");
    let messages = try_login(&howdah, &tenant.name, "", &tenant.name);
    let error = wire::error(&messages);
    assert_eq!(error.severity, "FATAL");
    assert!(error.message.contains("no password for this user"), "{error:?}");
}

#[test]
fn a_database_that_does_not_exist_is_refused_by_whoever_knows() {
    let tenant = Tenant::shared();
    let (name, password) = (&tenant.name, &tenant.password);
    let howdah = Howdah::shared("");
    let begun = std::time::Instant::now();
    let error = wire::error(&try_login(&howdah, name, password, "missing_db"));
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "3D000"));
    assert_eq!(error.message, "database \"missing_db\" does not exist");
    assert!(begun.elapsed() < Duration::from_secs(5));
    // made meanwhile, it is there
    shared().primary().sql(&format!("CREATE DATABASE {name}_late OWNER {name}")).unwrap();
    assert_eq!(wire::error(&try_login(&howdah, name, password, "missing_db")).code, "3D000");
    logs_in(&howdah, name, password, &format!("{name}_late"));

    let toml =
        std::fs::read_to_string(howdah.config()).unwrap().replace("[databases.\"*\"]", &format!("[databases.{name}]"));
    howdah.reload(&toml);
    eventually("not configured any more", SOON, || {
        let messages = try_login(&howdah, name, password, "other");
        messages.iter().any(|message| message.tag == b'E' && message.fields().message == "no such database: other")
    });
    let error = wire::error(&try_login(&howdah, name, password, "other"));
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "3D000"));
    assert!(error.hint.contains("[databases]"), "{error:?}");
    logs_in(&howdah, name, password, name);
}

#[test]
fn a_role_that_may_not_log_in_does_not() {
    let tenant = Tenant::shared();
    let (name, password) = (&tenant.name, &tenant.password);
    shared().primary().sql(&format!("ALTER ROLE {name} NOLOGIN")).unwrap();
    let howdah = Howdah::shared("");
    assert_eq!(wire::error(&try_login(&howdah, name, password, name)).code, "28P01");
    // with its password in the file, PostgreSQL says so itself
    let howdah = Howdah::shared(&format!("[users.{name}]\npassword = \"{password}\"\n"));
    let error = wire::error(&try_login(&howdah, name, password, name));
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "28000"));
    assert!(error.message.contains("not permitted to log in"), "{error:?}");
}
