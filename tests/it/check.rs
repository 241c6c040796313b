//! `howdah check` says all that is wrong with a configuration, to people and to scripts, without a daemon.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::binary;

fn check(directory: &Path, arguments: &[&str]) -> Output {
    let file = directory.join("howdah.toml");
    Command::new(binary()).arg("check").arg("-c").arg(file).args(arguments).output().unwrap()
}

fn put(directory: &Path, name: &str, text: &str, mode: u32) {
    std::fs::write(directory.join(name), text).unwrap();
    std::fs::set_permissions(directory.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A certificate that is over, one that is not, and the key of the second.
fn certificates(directory: &Path) {
    let made = |year: i32| {
        let mut parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2001, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        (parameters.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let (over, (good, key)) = (made(2002), made(2100));
    put(directory, "over.crt", &over.0, 0o644);
    put(directory, "over.key", &over.1, 0o600);
    put(directory, "good.crt", &good, 0o644);
    put(directory, "good.key", &key, 0o644);
}

#[test]
fn certificates_that_are_over_or_not_their_keys_are_told_all_at_once() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let text = "[[listeners]]\naddress = \"127.0.0.1:6432\"\ntls = { cert = \"over.crt\", key = \"over.key\" }\n\
                [[listeners]]\naddress = \"127.0.0.1:6434\"\ntls = { cert = \"over.crt\", key = \"good.key\" }\n";
    put(directory.path(), "howdah.toml", text, 0o600);
    let done = check(directory.path(), &["--json"]);
    assert_eq!(done.status.code(), Some(1));
    let said: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let rows = said["problems"].as_array().unwrap();
    let has = |line: u64, text: &str| {
        rows.iter().any(|row| row["line"] == line && row["message"].as_str().unwrap().contains(text))
    };
    assert!(has(3, "has expired") && has(6, "has expired") && has(6, "does not match"), "{said:#}");
    let warned = said["warnings"].to_string();
    assert!(warned.contains("good.key") && !warned.contains("over.key"), "{said:#}");
}

#[test]
fn a_file_that_is_right_ends_with_0_one_that_is_not_with_1_and_a_wrong_command_line_with_2() {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "howdah.toml", "version = 1\n[users.app]\npassword = \"x\"\n", 0o644);
    let done = check(directory.path(), &[]);
    let (said, warned) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(said.ends_with("howdah.toml: ok, 1 warnings\n"), "{said}{warned}");
    assert!(
        warned.contains(":3:12: users.app.password: the password stands in a file that others can see"),
        "{warned}"
    );
    assert_eq!(done.status.code(), Some(0));
    put(directory.path(), "howdah.toml", "version = 7\n", 0o600);
    let done = check(directory.path(), &[]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(1));
    assert!(said.contains("howdah.toml:1:11: version: the file is of version 7"), "{said}");
    assert_eq!(check(directory.path(), &["--nonsense"]).status.code(), Some(2));
}

#[test]
fn a_pipe_in_place_of_a_file_is_refused_and_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let made = Command::new("mkfifo").arg(directory.path().join("pipe")).status().unwrap();
    assert!(made.success());
    put(directory.path(), "howdah.toml", "[auth]\nusers_file = \"pipe\"\n", 0o600);
    let done = check(directory.path(), &[]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.code() == Some(1) && said.contains("pipe\" is a pipe, a socket or a device"), "{said}");
}
