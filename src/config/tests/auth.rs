//! `[auth]`: what contradicts itself, and what the files beside it say.

use super::*;

#[test]
fn a_method_without_what_it_needs_is_refused() {
    let md5 = "[users.a]\npassword = \"md500000000000000000000000000000000\"\n";
    for (text, expected) in [
        ("[auth]\nmethod = \"hba\"", "2:10: auth.method: method \"hba\" needs rules; write hba_file = \"pg_hba.conf\""),
        (
            "[auth]\nmethod = \"cert\"",
            "1:2: auth: certificates are asked for, and no listener knows whose to accept; write",
        ),
        (
            "[auth]\nmethod = \"peer\"",
            "2:10: auth.method: method \"peer\" is for Unix sockets, and no listener is one; write",
        ),
        ("[auth]\nquery = \"SELECT 1\"", "2:1: auth.query: the query does not ask for a user; write $1"),
        ("[auth]\ndbname = \"x\"", "2:1: auth.dbname: \"dbname\" says where \"query\" runs, and there is none; write"),
        (md5, "1:8: users.a: an md5 hash cannot serve for scram-sha-256; write the password or a SCRAM verifier"),
    ] {
        let said = said(text);
        assert!(said.len() == 1 && said[0].starts_with(expected), "{said:?}");
    }
    assert!(read(&format!("[auth]\nmethod = \"md5\"\n{md5}")).is_ok());
}

#[test]
fn rules_maps_and_users_are_read_and_their_faults_have_place_and_advice() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| private(&directory.path().join(name), text);
    let path = directory.path().join("howdah.toml");
    write(
        "howdah.toml",
        "[auth]\nmethod = \"hba\"\nhba_file = \"hba\"\nident_file = \"ident\"\nusers_file = \"users\"\n\
         [[listeners]]\naddress = \"127.0.0.1:1\"\n",
    );
    write("hba", "local all @who peer map=people\n");
    write("who", "ann\nbob\n");
    write("ident", "people root ann\n");
    write("users", "\"ann\" \"hunter2\"\n");
    let config = load(&path).unwrap();
    assert_eq!(config.auth.hba.as_ref().unwrap().rules[0].users.len(), 2);
    assert!(config.auth.ident.has("people"));
    assert!(config.auth.file_users.contains_key("ann"));
    assert!(!format!("{config:?}").contains("hunter2"));

    write("hba", "local all all peer map=nobodys\n");
    let problems = load(&path).unwrap_err().to_string();
    assert!(problems.contains("no map \"nobodys\" for the rule in line 1"), "{problems}");

    write("hba", "local all all peer map=nobodys\nhost all all samenet md5\n");
    write("ident", "people\n");
    write("users", "ann secret\n");
    let problems = load(&path).unwrap_err().to_string();
    let directory = directory.path().display();
    for expected in [
        format!("{directory}/hba:2:1: \"samenet\" is not supported; write the network, as in 10.0.0.0/8"),
        format!("{directory}/ident:1:1: not three words; write MAP"),
        format!("{directory}/users:1:1: not a user and a secret; write"),
    ] {
        assert!(problems.contains(&expected), "{expected}: {problems}");
    }
    assert!(!problems.contains("ann secret"), "{problems}");
}
