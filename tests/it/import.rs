//! A pgbouncer.ini means the same to howdah: PgBouncer runs on the file, howdah on what `howdah import` makes of it, and clients
//! cannot tell them apart.
//!
//! The peer is whichever PgBouncer is installed (`PGBOUNCER`, else Debian's). What differs on purpose is not compared: SQLSTATEs
//! of errors that PgBouncer makes up (08P01 for all), and the words about wrong passwords.

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use howdah::demo::process::Process;
use howdah::demo::scratch::Scratch;

use crate::support::wire::{self, Client, Message};
use crate::support::{Howdah, SOON, Tenant, binary, eventually, free_port, shared};

/// Both, on one file.
struct Pair {
    pgbouncer: Process,
    pgbouncer_port: u16,
    howdah: Howdah,
    toml: String,
    said: String,
    _directory: Scratch,
}

/// Files in a directory that everybody may read; `PORT` and `DIR` in them are replaced.
fn write(directory: &Path, port: u16, files: &[(&str, &str)]) {
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    for (name, text) in files {
        let text = text.replace("PORT", &port.to_string()).replace("DIR", directory.to_str().unwrap());
        std::fs::write(directory.join(name), text).unwrap();
        // what may hold passwords belongs to the user of the PgBouncer that reads it
        let mode = if name.ends_with(".txt") || name.ends_with(".key") { 0o600 } else { 0o644 };
        std::fs::set_permissions(directory.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
        shared().primary().binaries().own(&directory.join(name)).unwrap();
    }
}

fn howdah(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Pair {
    #[track_caller]
    fn start(files: &[(&str, &str)]) -> Self {
        let directory = Scratch::new("howdah-import").unwrap();
        let (pgbouncer_port, port, http_port) = (free_port().unwrap(), free_port().unwrap(), free_port().unwrap());
        write(directory.path(), pgbouncer_port, files);
        let ini = directory.path().join("pgbouncer.ini");
        let output = directory.path().join("howdah.toml");
        let made = howdah(&["import", ini.to_str().unwrap(), "-o", output.to_str().unwrap()]);
        let said = text(&made.stderr);
        assert!(made.status.success(), "{said}");
        let checked = howdah(&["check", "-c", output.to_str().unwrap()]);
        assert!(checked.status.success(), "{}", text(&checked.stderr));
        let toml = std::fs::read_to_string(&output).unwrap();

        let program = std::env::var_os("PGBOUNCER").map_or_else(|| "/usr/sbin/pgbouncer".into(), PathBuf::from);
        assert!(program.exists(), "{} is missing: apt-get install pgbouncer, or set PGBOUNCER", program.display());
        let mut command = shared().primary().command(program.to_str().unwrap());
        command.arg("-q").arg(&ini);
        let pgbouncer = Process::spawn(command, &directory.path().join("pgbouncer.log")).unwrap();
        let listens = || TcpStream::connect(("127.0.0.1", pgbouncer_port)).is_ok();
        eventually("PgBouncer listens", SOON, listens);
        let moved = toml.replace(&format!(":{pgbouncer_port}\""), &format!(":{port}\""));
        assert_ne!(moved, toml);
        let howdah = Howdah::start(&format!("{moved}\n[http]\naddress = \"127.0.0.1:{http_port}\"\n"), port, http_port);
        Self { pgbouncer, pgbouncer_port, howdah, toml, said, _directory: directory }
    }

    /// What both say; the same, or the test fails.
    #[track_caller]
    fn both<T: PartialEq + std::fmt::Debug>(&self, what: &str, ask: impl Fn(u16) -> T) -> T {
        let (theirs, ours) = (ask(self.pgbouncer_port), ask(self.howdah.port()));
        assert_eq!(theirs, ours, "{what}: PgBouncer's answer is not howdah's\n{}\n{}", self.toml, self.howdah.log());
        ours
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = self.pgbouncer.kill();
    }
}

/// A client, or why not: the message alone, as the code is howdah's own.
fn enter(port: u16, user: &str, password: &str, database: &str) -> Result<Client, String> {
    let mut client = Client::connect(("127.0.0.1", port)).unwrap();
    let messages = client
        .try_login(&[("user", user), ("database", database)], password)
        .map_err(|error| format!("cut off: {error}"))?;
    match messages.iter().find(|message| message.tag == b'E') {
        Some(error) => Err(error.fields().message),
        None => Ok(client),
    }
}

/// Whether somebody comes in.
fn enters(port: u16, user: &str, password: &str, database: &str) -> bool {
    enter(port, user, password, database).is_ok()
}

/// What a statement brings: rows, tags, errors by their message.
fn answers(client: &mut Client, sql: &str) -> Vec<String> {
    client.send(&wire::query(sql));
    let mut said = Vec::new();
    while let Ok(message) = client.read() {
        let done = message.tag == b'Z';
        said.extend(shown(&message));
        if done {
            break;
        }
    }
    said
}

fn shown(message: &Message) -> Option<String> {
    match message.tag {
        b'D' => Some(format!("{:?}", message.columns())),
        b'E' => Some(message.fields().message),
        b'C' | b'Z' => Some(message.short()),
        _ => None,
    }
}

/// Comes in and asks; the refusal, if it is none.
fn asks(port: u16, who: (&str, &str, &str), sql: &[&str]) -> Vec<String> {
    match enter(port, who.0, who.1, who.2) {
        Ok(mut client) => sql.iter().flat_map(|sql| answers(&mut client, sql)).collect(),
        Err(refusal) => vec![refusal],
    }
}

#[test]
fn users_databases_and_modes_are_the_same_through_both() {
    let (tenant, other) = (Tenant::shared(), Tenant::shared());
    let (name, password) = (tenant.name.as_str(), tenant.password.as_str());
    let node = shared().primary();
    let (old, stored, forced) = (format!("{name}_old"), format!("{name}_stored"), format!("{name}_forced"));
    node.sql(&format!(
        "SET password_encryption = 'md5'; CREATE ROLE {old} LOGIN PASSWORD 'old secret' IN ROLE md5_users; \
         RESET password_encryption; CREATE ROLE {stored} LOGIN PASSWORD 'stored secret'; \
         CREATE ROLE {forced} LOGIN PASSWORD 'it''s forced'"
    ))
    .unwrap();
    let secret = |role: &str| {
        let rows = node.sql(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'")).unwrap();
        rows.cell().unwrap().to_owned()
    };
    let users = format!(
        "\"{name}\" \"{password}\"\n; a comment\n\"{old}\" \"{}\"\n\"{stored}\" \"{}\"\n\"nobody\" \"x\"\n",
        secret(&old),
        secret(&stored)
    );
    let (host, port) = (node.host(), node.port());
    let at = format!("host={host} port={port}");
    let ini = format!(
        "[databases]\nrenamed = {at} dbname={name}\n{name} = {at}\n\
         single = {at} dbname={other} user={forced} password='it''s forced'\n\
         by_list = {at} dbname={other} user={name}\n\
         statements = {at} dbname={name} pool_mode=statement\n\
         narrow = {at} dbname={name} pool_size=1\n\
         * = {at}\n\
         [users]\n{stored} = pool_mode=transaction\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = PORT\nunix_socket_dir =\nauth_type = md5\n\
         auth_file = DIR/users.txt\nmax_client_conn = 20\nquery_wait_timeout = 1\n",
        other = other.name
    );
    let pair = Pair::start(&[("pgbouncer.ini", &ini), ("users.txt", &users)]);
    assert!(pair.toml.contains("mode = \"session\"") && !pair.toml.contains(password), "{}", pair.toml);
    assert!(pair.said.contains("nobody watches cluster \"main\""), "{}", pair.said);

    for (user, password, database, may) in [
        (name, password, name, true),
        (name, password, "renamed", true),
        (name, "wrong", "renamed", false),
        (name, "", "renamed", false),
        ("nobody_there", password, "renamed", false),
        ("nobody", "x", "renamed", false), // known here, not on the server
        (&old, "old secret", name, true),
        (&old, "wrong", name, false),
        (&stored, "stored secret", name, true),
        (&stored, "wrong", name, false),
        (name, password, "postgres", true), // by the star
        (name, password, "no_such_database", false),
        (name, password, "single", true),
        (name, "wrong", "single", false),
        (&stored, "stored secret", "by_list", true),
        (&forced, "it's forced", "single", false), // it is in no list
    ] {
        let what = format!("{user} in {database}");
        let came = pair.both(&what, |port| enters(port, user, password, database));
        assert_eq!(came, may, "{what}");
    }
    let whole = (name, password, "renamed");
    let who = ["SELECT current_user, current_database()"];
    pair.both("a renamed database", |port| asks(port, whole, &who));
    pair.both("one user for all", |port| asks(port, (name, password, "single"), &who));
    pair.both("one user for all, of the list", |port| asks(port, (&stored, "stored secret", "by_list"), &who));
    let star = pair.both("the star", |port| asks(port, (name, password, "postgres"), &who));
    assert_eq!(star[0], format!("[Some(\"{name}\"), Some(\"postgres\")]"));
    pair.both("statements of many kinds", |port| {
        let statements = [
            "SELECT 1; SELECT 2",
            "BEGIN",
            "CREATE TEMP TABLE t AS SELECT generate_series(1, 3) AS i",
            "SELECT sum(i) FROM t",
            "SELEC 1",
            "SELECT 1",
            "ROLLBACK",
            "SET timezone = 'Asia/Kolkata'",
            "SHOW timezone",
            "SELECT 1 / 0",
            "",
        ];
        asks(port, whole, &statements)
    });
    // PgBouncer goes on to close the connection
    let refused = pair.both("a block in statement mode", |port| {
        asks(port, (name, password, "statements"), &["BEGIN"]).into_iter().next()
    });
    assert_eq!(refused.as_deref(), Some("transaction blocks not allowed in statement pooling mode"));
    pair.both("a statement in statement mode", |port| asks(port, (name, password, "statements"), &["SELECT 7"]));
    // in session mode the only server stays with the first client
    let waited = pair.both("the pool is full", |port| {
        let mut first = enter(port, name, password, "narrow").map_err(|error| vec![error])?;
        answers(&mut first, "SELECT 1");
        let second = asks(port, (name, password, "narrow"), &["SELECT 1"]);
        drop(first);
        Ok::<_, Vec<String>>(second.first().cloned())
    });
    assert_eq!(waited, Ok(Some("query_wait_timeout".to_owned())));
    // in transaction mode, which is the user's, it does not
    pair.both("a user's own mode", |port| {
        let mut first = enter(port, &stored, "stored secret", "narrow").map_err(|error| vec![error])?;
        answers(&mut first, "SELECT 1");
        Ok::<_, Vec<String>>(asks(port, (&stored, "stored secret", "narrow"), &["SELECT 1"]))
    })
    .unwrap();
    let last = pair.both("one too many", |port| {
        let mut clients = Vec::new();
        // those of before may still be on their way out
        eventually("twenty are in", SOON, || {
            clients.extend(enter(port, &stored, "stored secret", name));
            clients.len() == 20
        });
        (clients.len(), enter(port, &stored, "stored secret", name).err())
    });
    assert_eq!(last, (20, Some("no more connections allowed (max_client_conn)".to_owned())));
}

#[test]
fn a_question_of_the_operators_and_rules_let_in_the_same_through_both() {
    let tenant = Tenant::shared();
    let (name, password) = (tenant.name.as_str(), tenant.password.as_str());
    let node = shared().primary();
    let lookup = format!("{name}_lookup");
    node.sql(&format!("CREATE ROLE {lookup} LOGIN PASSWORD 'lookup secret'")).unwrap();
    node.sql_in(
        name,
        &format!(
            "CREATE FUNCTION public.get_auth(text, OUT text, OUT text) RETURNS SETOF record LANGUAGE sql SECURITY DEFINER \
             AS 'SELECT usename::text, passwd::text FROM pg_catalog.pg_shadow WHERE usename = $1'; \
             REVOKE ALL ON FUNCTION public.get_auth(text) FROM public; \
             GRANT EXECUTE ON FUNCTION public.get_auth(text) TO {lookup}"
        ),
    )
    .unwrap();
    let (host, port) = (node.host(), node.port());
    let ini = format!(
        "[databases]\n{name} = host={host} port={port}\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = PORT\nunix_socket_dir =\nauth_type = hba\n\
         auth_file = DIR/users.txt\nauth_hba_file = DIR/hba\nauth_user = {lookup}\n\
         auth_query = SELECT * FROM public.get_auth($1)\npool_mode = transaction\nadmin_users = {name}\nstats_users = {lookup}\n"
    );
    let users = format!("\"{lookup}\" \"lookup secret\"\n");
    let hba = format!(
        "host {name} postgres 127.0.0.1/32 reject\nhost {name} all 127.0.0.1/32 scram-sha-256\nhost pgbouncer all 127.0.0.1/32 md5\n"
    );
    let pair = Pair::start(&[("pgbouncer.ini", &ini), ("users.txt", &users), ("hba", &hba)]);
    assert!(
        pair.toml.contains(&format!("user = \"{lookup}\"")) && !pair.toml.contains("lookup secret"),
        "{}",
        pair.toml
    );
    for (user, password, database, may) in [
        (name, password, name, true),
        (name, "wrong", name, false),
        (&lookup, "lookup secret", name, true),
        ("postgres", password, name, false),
        ("nobody_there", password, name, false),
        (name, password, "elsewhere", false),
    ] {
        let what = format!("{user} in {database}");
        let came = pair.both(&what, |port| enters(port, user, password, database));
        assert_eq!(came, may, "{what}\n{}", pair.howdah.log());
    }
    pair.both("a statement", |port| asks(port, (name, password, name), &["SELECT current_user", "SELECT 1 / 0"]));
    let secret = ("lookup secret", "pgbouncer");
    pair.both("a stats user looks", |port| asks(port, (&lookup, secret.0, secret.1), &["SHOW VERSION"]).pop());
    let paused = pair
        .both("a stats user pauses", |port| asks(port, (&lookup, secret.0, secret.1), &["PAUSE"]).into_iter().next());
    assert_eq!(paused.as_deref(), Some("admin access needed"));
    pair.both("a stats user with a wrong password", |port| enters(port, &lookup, "wrong", "pgbouncer"));
    pair.both("a stranger at the console", |port| enters(port, "stranger", "x", "pgbouncer"));
}

#[test]
fn a_file_that_is_there_is_left_alone_and_a_new_one_is_nobody_elses() {
    let directory = Scratch::new("howdah-import").unwrap();
    let ini = "[databases]\n* = host=127.0.0.1 user=app password=hunter2\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = PORT\n\
               unix_socket_dir =\nauth_type = any\npidfile = p\n";
    write(directory.path(), free_port().unwrap(), &[("pgbouncer.ini", ini)]);
    let (ini, output) = (directory.path().join("pgbouncer.ini"), directory.path().join("howdah.toml"));
    let (ini, output) = (ini.to_str().unwrap(), output.to_str().unwrap());
    let made = howdah(&["import", ini, "-o", output]);
    let said = text(&made.stderr);
    assert!(made.status.success(), "{said}");
    assert!(said.contains("pidfile: no counterpart because") && said.contains("passwords of forced users"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    let mode = std::fs::metadata(output).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o640, "{mode:o}");
    let again = howdah(&["import", ini, "-o", output]);
    assert!(!again.status.success() && text(&again.stderr).contains("--force"), "{}", text(&again.stderr));
    assert!(howdah(&["import", ini, "-o", output, "--force"]).status.success());
    let printed = text(&howdah(&["import", ini]).stdout);
    assert_eq!(printed, std::fs::read_to_string(output).unwrap());
    let missing = howdah(&["import", "/nowhere/pgbouncer.ini"]);
    assert!(!missing.status.success() && text(&missing.stderr).contains("cannot be read"), "{}", text(&missing.stderr));
}
