//! Who may come in from where, and what it must show: rules, groups, maps, certificates, owners of processes.

use std::path::Path;

use super::tls::{Authority, serve};
use crate::support::wire::{self, Client, Fields, Message};
use crate::support::{Cluster, Howdah, SOON, Tenant, config, eventually, free_port, private, shared};

pub fn try_login(howdah: &Howdah, user: &str, password: &str, database: &str) -> Vec<Message> {
    howdah.wire().try_login(&[("user", user), ("database", database)], password).unwrap()
}

#[track_caller]
pub fn logs_in(howdah: &Howdah, user: &str, password: &str, database: &str) {
    let messages = try_login(howdah, user, password, database);
    assert_eq!(messages.last().unwrap().short(), "Z:I", "{messages:?}");
}

#[track_caller]
pub fn refused(howdah: &Howdah, user: &str, password: &str, database: &str) -> Fields {
    wire::error(&try_login(howdah, user, password, database))
}

/// A howdah in front of the shared primary, with files beside its configuration.
pub fn with_files(files: &[(&str, &str)], listeners: &str, extra: &str) -> (Howdah, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        private(&folder.path().join(name), text);
    }
    let extra = extra.replace("DIR", folder.path().to_str().unwrap());
    let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
    let listeners = listeners.replace("DIR", folder.path().to_str().unwrap());
    let toml =
        config(shared().nodes(), port, http_port, &extra).replacen("\n\n[http]", &format!("\n{listeners}\n[http]"), 1);
    (Howdah::start(&toml, port, http_port), folder)
}

const HBA: &str = "[auth]\nmethod = \"hba\"\nhba_file = \"DIR/hba\"\nident_file = \"DIR/ident\"\n";
const UNIX: &str = "[[listeners]]\naddress = \"unix:DIR\"\n";

fn unix(folder: &Path) -> Client {
    Client::connect_unix(&folder.join(".s.PGSQL.6432")).unwrap()
}

fn operating_system_user() -> String {
    let uid = rustix::process::getuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let mut users = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    users.find(|fields| fields[2] == uid).unwrap()[0].to_owned()
}

#[test]
fn the_rules_of_an_hba_file_hold_and_its_refusals_are_postgresqls_own() {
    // the same rules for both: the first that fits decides, groups are PostgreSQL's
    let lines = "local all postgres trust\nhost all postgres 127.0.0.1/32 scram-sha-256\n\
                 host all +outcasts all reject\nhost sameuser all 127.0.0.0/8 scram-sha-256\n\
                 host samerole all 127.0.0.1 255.255.255.255 scram-sha-256\nhostssl all all all trust\n";
    let mut builder = Cluster::builder();
    for line in lines.lines() {
        builder = builder.hba(line);
    }
    // what the harness adds behind them would let everybody in
    let cluster = builder.hba("host all all all reject").start().unwrap_or_else(|error| panic!("{error}"));
    let primary = cluster.primary();
    let sql = |text: &str| primary.sql(text).unwrap();
    for statement in [
        "CREATE ROLE outcasts",
        "CREATE ROLE deeper IN ROLE outcasts",
        "CREATE ROLE team",
        "CREATE ROLE ann LOGIN PASSWORD 'ann' IN ROLE team",
        "CREATE ROLE eve LOGIN PASSWORD 'eve' IN ROLE deeper",
        "CREATE DATABASE ann",
        "CREATE DATABASE team",
        "CREATE DATABASE other",
        "CREATE DATABASE eve",
    ] {
        sql(statement);
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hba"), format!("{lines}host all all all reject\n")).unwrap();
    let extra = format!("[auth]\nmethod = \"hba\"\nhba_file = \"{}/hba\"\n", folder.path().display());
    let howdah = Howdah::before(cluster.nodes(), &extra);
    let mut outcomes = Vec::new();
    for (user, password, database) in [
        ("ann", "ann", "ann"),
        ("ann", "ann", "team"),
        ("ann", "ann", "other"),
        ("ann", "wrong", "ann"),
        ("eve", "eve", "eve"),
        ("nobody", "x", "nobody"),
        ("nobody", "x", "team"),
    ] {
        let answers = [primary.port(), howdah.port()].map(|port| {
            let mut client = Client::connect(("127.0.0.1", port)).unwrap();
            let messages = client.try_login(&[("user", user), ("database", database)], password).unwrap();
            let outcome = messages.last().unwrap();
            match outcome.tag {
                b'E' => (outcome.fields().code, outcome.fields().message),
                _ => (outcome.short(), String::new()),
            }
        });
        assert_eq!(answers[1], answers[0], "{user} to {database}");
        outcomes.push(answers[1].0.clone());
    }
    assert_eq!(outcomes, ["Z:I", "Z:I", "28000", "28P01", "28000", "28P01", "28000"]);

    // without the last line nothing fits any more
    std::fs::write(folder.path().join("hba"), lines).unwrap();
    let toml = std::fs::read_to_string(howdah.config()).unwrap();
    howdah.reload(&toml);
    let message = "no pg_hba.conf entry for host \"127.0.0.1\", user \"ann\", database \"other\", no encryption";
    eventually("the new rules hold", SOON, || refused(&howdah, "ann", "ann", "other").message == message);
    assert_eq!(refused(&howdah, "ann", "ann", "other").code, "28000");
    // a role that is taken into a group, or out of it, is so at its next login
    sql("REVOKE deeper FROM eve");
    logs_in(&howdah, "eve", "eve", "eve");
    // a wrong line refuses the reload, and the rules that held go on
    std::fs::write(folder.path().join("hba"), "host all all all trust\nhost all all all trusty\n").unwrap();
    howdah.reload(&toml);
    eventually("refused", SOON, || howdah.log().contains("reload refused"));
    assert!(howdah.log().contains("hba:2:1: \"trusty\" is no method; valid: scram-sha-256"), "{}", howdah.log());
    assert_eq!(refused(&howdah, "ann", "wrong", "ann").code, "28P01");
    assert_eq!(refused(&howdah, "ann", "ann", "other").message, message);
}

#[test]
fn the_owner_of_a_process_is_the_user_that_a_map_says() {
    let tenant = Tenant::shared();
    let (name, me) = (&tenant.name, operating_system_user());
    let hba = format!(
        "local all {me} peer\nlocal all other peer map=none\nlocal all all peer map=people\nhost all all all scram-sha-256\n"
    );
    let ident = format!("people {me} {name}\npeople /^(.*)$ app_\\1\nnone nobody_here all\n");
    let (howdah, folder) = with_files(&[("hba", &hba), ("ident", &ident)], UNIX, HBA);
    let login = |user: &str| {
        let mut client = unix(folder.path());
        client.try_login(&[("user", user), ("database", name)], "").unwrap()
    };
    for user in ["other", "stranger", &format!("app_{name}")] {
        let messages = login(user);
        let error = wire::error(&messages);
        assert_eq!(error.code, "28000");
        assert_eq!(error.message, format!("Peer authentication failed for user \"{user}\""));
    }
    // without a password it cannot go on to a server that wants one, and is told so
    let error = wire::error(&login(name));
    assert!(error.message.contains("no password for this user; write it under [users.NAME]"), "{error:?}");
    // once the user has logged in with its password, its key is known
    logs_in(&howdah, name, &tenant.password, name);
    let messages = login(name);
    assert_eq!(wire::short(&messages)[0], "R:0");
    assert_eq!(messages.last().unwrap().short(), "Z:I");

    // the method for everybody: names must be the same, and TCP has no owner
    let (howdah, folder) = with_files(&[], UNIX, "[auth]\nmethod = \"peer\"\n");
    let error = wire::error(&unix(folder.path()).try_login(&[("user", name)], "").unwrap());
    assert_eq!(error.message, format!("Peer authentication failed for user \"{name}\""));
    assert_eq!(refused(&howdah, &me, "", name).message, format!("Peer authentication failed for user \"{me}\""));
}

#[test]
fn a_certificate_is_the_user_it_names_or_the_one_a_map_says() {
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    authority.sign("server", "127.0.0.1");
    let tenant = Tenant::shared();
    let (name, password) = (&tenant.name, &tenant.password);
    authority.sign_client("me", name);
    authority.sign_client("mail", &format!("{name}@example.com"));
    other.sign_client("forged", name);
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
    write(
        "hba",
        &format!(
            "hostssl {name} all all cert\nhostssl template1 all all cert map=mail clientname=CN\n\
         hostssl postgres all all scram-sha-256 clientcert=verify-ca\n\
         hostssl other all all scram-sha-256 clientcert=verify-full\nhost all all all scram-sha-256\n"
        ),
    );
    write("ident", "mail /^(.*)@example\\.com$ \\1\n");
    let listener = authority.listener("server", "prefer");
    let listener = listener.replace("{ cert", &format!("{{ ca = \"{}\", cert", authority.path("ca.crt").display()));
    let auth = HBA.replace("DIR", folder.path().to_str().unwrap());
    // the password is for servers: a certificate opens none
    let howdah = serve(shared(), &listener, &format!("{auth}[users.{name}]\npassword = \"{password}\"\n"));
    let login = |certificate: Option<&str>, user: &str, password: &str, database: &str| {
        let (mut client, _) =
            Client::connect_tls(("127.0.0.1", howdah.port()), &authority.client(certificate)).unwrap();
        let messages = client.try_login(&[("user", user), ("database", database)], password).unwrap();
        let last = messages.last().unwrap();
        if last.tag == b'E' { format!("{} {}", last.fields().code, last.fields().message) } else { messages[0].short() }
    };
    let no_certificate = "28000 connection requires a valid client certificate";
    let wrong = |user: &str| format!("28000 certificate authentication failed for user \"{user}\"");
    assert_eq!(login(Some("me"), name, "", name), "R:0");
    assert_eq!(login(None, name, "", name), no_certificate);
    assert_eq!(login(Some("mail"), name, "", name), wrong(name));
    assert_eq!(login(Some("me"), "postgres", "", name), wrong("postgres"));
    assert_eq!(login(Some("mail"), name, "", "template1"), "R:0");
    assert_eq!(login(Some("me"), name, "", "template1"), wrong(name));
    // beside a password
    assert_eq!(login(None, name, password, "postgres"), no_certificate);
    assert_eq!(login(Some("mail"), name, password, "postgres"), "R:10");
    assert!(login(Some("mail"), name, "wrong", "postgres").starts_with("28P01 "));
    assert_eq!(login(Some("mail"), name, password, "other"), wrong(name));
    // one that somebody else has signed does not get through the handshake
    for file in ["forged.crt", "forged.key"] {
        std::fs::copy(other.path(file), authority.path(file)).unwrap();
    }
    let forged = authority.client(Some("forged"));
    let refused = Client::connect_tls(("127.0.0.1", howdah.port()), &forged)
        .and_then(|(mut client, _)| client.try_login(&[("user", name), ("database", name)], ""));
    assert!(refused.is_err(), "{refused:?}");
    // no TLS, no certificate: those lines do not fit
    logs_in(&howdah, name, password, name);

    // the method for everybody; it shows its user, and an earlier login by password has shown the key
    let howdah = serve(shared(), &listener, "[auth]\nmethod = \"cert\"\n");
    let login = |certificate: Option<&str>| {
        let (mut client, _) =
            Client::connect_tls(("127.0.0.1", howdah.port()), &authority.client(certificate)).unwrap();
        wire::error(&client.try_login(&[("user", name), ("database", name)], password).unwrap()).message
    };
    assert!(login(Some("me")).contains("no password for this user"), "{}", login(Some("me")));
    assert_eq!(login(Some("mail")), format!("certificate authentication failed for user \"{name}\""));
    assert_eq!(login(None), "connection requires a valid client certificate");
    assert_eq!(refused_by(&howdah, name).message, "connection requires a valid client certificate");
}

fn refused_by(howdah: &Howdah, user: &str) -> Fields {
    wire::error(&try_login(howdah, user, "", user))
}
