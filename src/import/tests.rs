//! Every key has a fate that holds, and files as they are in the wild come out as configurations that are right.
//!
//! The files are in `tests/import`, each with the howdah.toml it leads to; `HOWDAH_WRITE_DOCS=1` writes those anew.

use std::collections::BTreeSet;
use std::fs;

use super::keys::{Fate, Key};
use super::*;
use crate::config;

/// PgBouncer's own list (`src/main.c`, up to 1.26), written down apart from [`keys`].
const ALL: &str = "
admin_users application_name_add_host auth_dbname auth_file auth_hba_file auth_ident_file auth_ldap_options auth_query auth_type
auth_user autodb_idle_timeout cancel_wait_timeout client_idle_timeout client_login_timeout client_tls13_ciphers
client_tls_ca_file client_tls_cert_file client_tls_ciphers client_tls_dheparams client_tls_ecdhcurve client_tls_key_file
client_tls_protocols client_tls_sslmode conffile default_pool_size disable_pqexec dns_max_ttl dns_nxdomain_ttl
dns_zone_check_period idle_transaction_timeout ignore_startup_parameters job_name service_name listen_addr listen_backlog
listen_port log_connections log_disconnections log_pooler_errors log_stats logfile login_notify_message max_client_conn
max_db_client_connections max_db_connections max_packet_size max_prepared_statements max_user_client_connections
max_user_connections min_pool_size peer_id pidfile pkt_buf pool_idle_timeout pool_mode query_timeout query_wait_notify
query_wait_timeout reserve_pool_size reserve_pool_timeout resolv_conf sbuf_loopcnt scram_iterations server_check_delay
server_check_query server_connect_timeout server_fast_close server_idle_timeout server_lifetime server_login_retry
server_reset_query server_reset_query_always server_round_robin server_tls13_ciphers server_tls_ca_file server_tls_cert_file
server_tls_ciphers server_tls_key_file server_tls_protocols server_tls_sslmode so_reuseport stats_period stats_users
suspend_timeout syslog syslog_facility syslog_ident tcp_defer_accept tcp_keepalive tcp_keepcnt tcp_keepidle tcp_keepintvl
tcp_socket_buffer tcp_user_timeout track_extra_parameters transaction_timeout unix_socket_dir unix_socket_group
unix_socket_mode user verbose";

/// `src/loader.c`, with the alias of older versions.
const OF_DATABASES: &str =
    "dbname host port user password auth_user auth_dbname auth_query client_encoding datestyle timezone
application_name pool_size min_pool_size reserve_pool_size reserve_pool query_wait_timeout max_db_connections
max_db_client_connections server_lifetime load_balance_hosts pool_mode connect_query";
const OF_USERS: &str =
    "pool_mode pool_size reserve_pool_size max_user_connections max_user_client_connections query_timeout
query_wait_timeout idle_transaction_timeout transaction_timeout client_idle_timeout";
const OF_PEERS: &str = "host port pool_size";

/// An ini file of one text, without files beside it.
fn imported(text: &str) -> Imported {
    let read = |path: &Path| match path.to_str() {
        Some("pgbouncer.ini") => Ok((path.to_owned(), text.to_owned())),
        _ => Err("not there".to_owned()),
    };
    let locate = |path: &Path| path.to_owned();
    import(Path::new("pgbouncer.ini"), Surroundings { read: &read, locate: &locate, ipv6: true }).unwrap()
}

/// A value that is not the default, and what else must be there for it to matter.
fn sample(key: &Key) -> (&'static str, &'static str) {
    match key.name {
        "admin_users" | "stats_users" | "unix_socket_group" => ("somebody", ""),
        "auth_type" => ("scram-sha-256", ""),
        "auth_user" | "user" | "password" | "dbname" => ("somebody", ""),
        "auth_query" => ("select_from($1)", "auth_user = lookup\n"),
        "auth_dbname" => ("elsewhere", "auth_user = lookup\nauth_query = q($1)\n"),
        "auth_hba_file" | "auth_ident_file" => ("file", "auth_type = hba\n"),
        "client_tls_sslmode" => ("require", ""),
        "client_tls_cert_file" | "client_tls_key_file" | "client_tls_ca_file" => {
            ("file", "client_tls_sslmode = verify-ca\n")
        }
        "server_tls_sslmode" => ("disable", ""),
        "server_tls_ca_file" => ("file", "server_tls_sslmode = verify-ca\n"),
        "auth_file" | "server_tls_cert_file" | "server_tls_key_file" => ("file", ""),
        "listen_addr" | "host" => ("10.1.2.3", ""),
        "pool_mode" => ("statement", ""),
        "server_check_query" => ("", ""),
        "tcp_keepalive" | "log_stats" => ("0", ""),
        "log_connections" => ("0", "log_disconnections = 0\n"),
        "log_disconnections" => ("0", "log_connections = 0\n"),
        "unix_socket_dir" => ("/run/elsewhere", ""),
        "unix_socket_mode" => ("0700", ""),
        "verbose" => ("1", ""),
        _ => ("7", ""),
    }
}

fn file(global: &str, database: &str, user: &str) -> String {
    format!(
        "[databases]\ndb = host=127.0.0.1 {database}\n[users]\napp = pool_size=3 {user}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n{global}\n"
    )
}

/// The whole text without its comments: what a key changes there.
fn settings(imported: &Imported) -> Vec<String> {
    let line = |line: &str| line.split("  # ").next().unwrap_or_default().to_owned();
    imported.toml.lines().filter(|line| !line.starts_with('#')).map(line).collect()
}

fn holds(key: &Key, with: &Imported, without: &Imported, shown: &str) {
    match key.fate {
        Fate::To(name) => {
            assert_ne!(settings(with), settings(without), "{shown} changes nothing");
            let last = name.rsplit('.').next().unwrap();
            assert!(with.toml.contains(&format!("{last} = ")), "{shown} is {name}:\n{}", with.toml);
        }
        Fate::Nowhere(why) => {
            let noted =
                |note: &Note| note.kind == Kind::NoCounterpart && note.key.ends_with(key.name) && note.text == why;
            assert!(with.notes.iter().any(noted), "{shown} is not named");
            assert!(with.toml.contains("No counterpart in howdah:"), "{}", with.toml);
        }
    }
}

#[test]
fn every_key_of_pgbouncers_is_carried_over_or_named_with_the_reason_why_not() {
    let names = |table: &[Key]| table.iter().map(|key| key.name).collect::<BTreeSet<_>>();
    for (table, all) in
        [(keys::PGBOUNCER, ALL), (keys::DATABASE, OF_DATABASES), (keys::USER, OF_USERS), (keys::PEER, OF_PEERS)]
    {
        assert_eq!(names(table), all.split_whitespace().collect());
        assert_eq!(names(table).len(), table.len(), "a key is there twice");
    }
    for key in keys::PGBOUNCER {
        let (value, needs) = sample(key);
        let with = imported(&file(&format!("{needs}{} = {value}", key.name), "", ""));
        holds(key, &with, &imported(&file(needs, "", "")), key.name);
    }
    for key in keys::DATABASE {
        let (value, needs) = sample(key);
        let needs = if key.name == "password" { ("", "user=x ") } else { (needs, "") };
        let with = imported(&file(needs.0, &format!("{}{}={value}", needs.1, key.name), ""));
        holds(key, &with, &imported(&file(needs.0, needs.1, "")), &format!("[databases] {}", key.name));
    }
    for key in keys::USER {
        let with = imported(&file("", "", &format!("{}={}", key.name, sample(key).0)));
        holds(key, &with, &imported(&file("", "", "")), &format!("[users] {}", key.name));
    }
    let peers = imported("[peers]\n1 = host=/tmp/a\n[pgbouncer]\n");
    assert!(peers.notes.iter().any(|note| note.key == "[peers] 1" && note.text == keys::NO_PEERS));
}

#[test]
fn what_a_key_is_called_in_howdah_exists_there() {
    let reference = config::render_reference();
    for key in [keys::PGBOUNCER, keys::DATABASE, keys::USER].concat() {
        let Fate::To(name) = key.fate else { continue };
        let last = name.rsplit('.').next().unwrap();
        let there = |line: &str| line.trim_start_matches(['#', ' ']).starts_with(last);
        assert!(reference.lines().any(there), "{}: {name}", key.name);
    }
}

#[test]
fn files_as_they_are_in_the_wild_become_configurations_that_are_right() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import");
    let mut names: Vec<_> = fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert!(names.len() >= 7);
    for name in names {
        let folder = corpus.join(&name);
        // wherever a file says that another is, it lies beside it
        let locate = |path: &Path| PathBuf::from(path.file_name().unwrap());
        let read = |path: &Path| {
            let found = locate(path);
            fs::read_to_string(folder.join(&found)).map(|text| (found, text)).map_err(|error| error.to_string())
        };
        let surroundings = Surroundings { read: &read, locate: &locate, ipv6: true };
        let imported = import(Path::new("pgbouncer.ini"), surroundings).unwrap();
        let golden = folder.join("howdah.toml");
        if std::env::var_os("HOWDAH_WRITE_DOCS").is_some() {
            fs::write(&golden, &imported.toml).unwrap();
        }
        assert_eq!(fs::read_to_string(&golden).unwrap(), imported.toml, "{name:?}");
        // beside its files, as nobody but their owner reads them
        let own = tempfile::tempdir().unwrap();
        for file in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let copy = own.path().join(file.file_name());
            fs::copy(file.path(), &copy).unwrap();
            fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        }
        config::parse(&own.path().join("howdah.toml"), &imported.toml)
            .unwrap_or_else(|problems| panic!("{name:?}:\n{problems}"));
        let users = fs::read_to_string(folder.join("userlist.txt")).unwrap_or_default();
        for line in users.lines().filter(|line| line.contains("secret")) {
            let Some(secret) = line.split('"').nth(3).filter(|secret| secret.contains("secret")) else { continue };
            let forced = imported.holds_secrets && name == "forced";
            assert!(forced || !imported.toml.contains(secret), "a secret of {name:?}'s userlist is in the text");
        }
    }
}

#[test]
fn several_hosts_without_anybody_who_may_look_at_them_are_left_to_a_person_and_check_says_so() {
    let imported =
        imported("[databases]\napp = host=10.0.0.1,10.0.0.2\n[pgbouncer]\nlisten_addr = *\nauth_type = trust\n");
    let todo = imported.notes.iter().find(|note| note.kind == Kind::Todo).unwrap();
    assert!(todo.text.contains("[clusters.main.monitor]"), "{todo}");
    assert!(imported.toml.contains("# TODO by hand:"), "{}", imported.toml);
    let problems = config::parse(Path::new("howdah.toml"), &imported.toml).unwrap_err().to_string();
    assert!(problems.contains("write [clusters.main.monitor] with user and password_file"), "{problems}");
}

#[test]
fn a_section_begins_anew_each_time_and_the_last_line_holds() {
    let imported = imported(
        "[pgbouncer]\nmax_client_conn = 7\ndefault_pool_size = 8\n[databases]\na = host=x\n[pgbouncer]\nlisten_addr = ::1\n\
         default_pool_size = 5\ndefault_pool_size = 9\n[databases]\nb = host=y\na = host=y\n",
    );
    for line in [
        "max_client_connections = 100  #",
        "size = 9  #",
        "address = \"[::1]:6432\"",
        "[clusters.main]",
        "host = \"y\"",
    ] {
        let line = line.trim_end_matches("[clusters.main]");
        assert!(imported.toml.contains(line), "{line}:\n{}", imported.toml);
    }
    assert!(!imported.toml.contains("host = \"x\""));
}

#[test]
fn what_pgbouncer_does_not_start_with_is_an_error_or_left_to_a_person() {
    let read = |text: &str| {
        let read = |path: &Path| Ok((path.to_owned(), text.to_owned()));
        let locate = |path: &Path| path.to_owned();
        import(Path::new("p.ini"), Surroundings { read: &read, locate: &locate, ipv6: true })
    };
    assert_eq!(read("[databases]\n").unwrap_err().to_string(), "p.ini: there is no section [pgbouncer]");
    assert_eq!(read("[pgbouncer]\n[pools]\n").unwrap_err().to_string(), "p.ini:2: there is no section \"pools\"");
    let todo = |text: &str| {
        let imported = read(text).unwrap();
        imported.notes.into_iter().find(|note| note.kind == Kind::Todo).map(|note| note.to_string()).unwrap_or_default()
    };
    assert!(
        todo("[databases]\na = host=x password=hunter2 y\n[pgbouncer]\n").starts_with("p.ini:2: [databases] a: a word")
    );
    assert!(todo("[databases]\na = host=x\n[pgbouncer]\nmax_client_conn = many\n").contains("is not a number"));
    assert!(todo("[databases]\na = host=x\n[pgbouncer]\nauth_type = pam\n").contains("howdah has no \"pam\""));
    assert!(!todo("[databases]\na = password='hunter2\n[pgbouncer]\n").contains("hunter2"));
}
