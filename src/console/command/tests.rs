//! What is a command, and what is none.

use proptest::prelude::*;

use super::*;

fn pgbouncer(text: &str) -> Result<Command, ConsoleError> {
    parse(text, Dialect::PgBouncer)
}

fn show(name: &str) -> Command {
    Command::Show { name: name.to_owned(), like: None }
}

fn set(key: &str, value: &str) -> Command {
    Command::Set { key: key.to_owned(), value: value.to_owned() }
}

fn said(result: Result<Command, ConsoleError>) -> String {
    let error = result.unwrap_err();
    format!("{} {error}", error.sqlstate())
}

#[test]
fn a_command_is_a_word_and_a_word_and_a_semicolon() {
    for text in ["show pools", "SHOW POOLS;", " \t\r\nShOw\n pools ; \n", "\"show\" \"pools\"", "select pools;"] {
        assert_eq!(pgbouncer(text), Ok(show("pools")), "{text:?}");
    }
    assert_eq!(pgbouncer("pause"), Ok(Command::Pause(None)));
    assert_eq!(pgbouncer("pause \"\""), Ok(Command::Pause(None)));
    assert_eq!(pgbouncer("PAUSE App;"), Ok(Command::Pause(Some("App".to_owned()))));
    assert_eq!(pgbouncer("kill \"a \"\"b\"\"; c\";"), Ok(Command::Kill(Some("a \"b\"; c".to_owned()))));
    assert_eq!(pgbouncer("kill_client 7"), Ok(Command::KillClient("7".to_owned())));
    assert_eq!(pgbouncer("disable"), Ok(Command::Disable(None)));
    assert_eq!(pgbouncer("shutdown Wait_For_Clients"), Ok(Command::Shutdown(Shutdown::WaitForClients)));
    assert_eq!(pgbouncer("shutdown wait_for_servers;"), Ok(Command::Shutdown(Shutdown::WaitForServers)));
    assert_eq!(pgbouncer("shutdown"), Ok(Command::Shutdown(Shutdown::Immediate)));
}

#[test]
fn what_is_no_command_is_said_in_pgbouncers_words() {
    for text in [
        "",
        ";",
        "show",
        "select",
        "show ;",
        "show pools pools",
        "show pools; show pools",
        "show pools;;",
        "set",
        "set a",
        "set a b",
        "reload x",
        "suspend x",
        "shutdown now",
        "explode",
        "select 1 + 1",
        "show \"pools",
        "show\u{a0}pools",
        "show pööls",
        "set a = ",
        "set = b",
        "set a = 1.5",
        "set a = 'b",
        "set a = 'b' 'c'",
        "set \"a\"b = c",
        "show'x'",
        "switchover",
        "show pools like 'a'",
    ] {
        assert_eq!(said(pgbouncer(text)), format!("42601 invalid command '{text}', use SHOW HELP;"));
    }
}

#[test]
fn words_longer_than_pgbouncers_buffers_are_bad_arguments() {
    let (long, fits) = ("x".repeat(64), "x".repeat(63));
    assert_eq!(pgbouncer(&format!("pause {fits}")), Ok(Command::Pause(Some(fits.clone()))));
    assert_eq!(said(pgbouncer(&format!("pause {long}"))), "54000 bad arguments");
    assert_eq!(said(pgbouncer(&format!("pause \"{}\"", "x".repeat(62)))), "54000 bad arguments");
    assert_eq!(said(pgbouncer("abcdefghijklmnop")), "54000 bad arguments");
    assert!(said(pgbouncer("abcdefghijklmno")).starts_with("42601"));
    assert_eq!(said(pgbouncer(&format!("set {long} = a"))), "54000 bad arguments");
    assert_eq!(said(pgbouncer("set \"\" = a")), "54000 bad arguments");
    assert_eq!(pgbouncer(&format!("set a = '{}'", "y".repeat(253))), Ok(set("a", &"y".repeat(253))));
    assert_eq!(said(pgbouncer(&format!("set a = '{}'", "y".repeat(254)))), "54000 bad arguments");
    let told = pgbouncer(&"é ".repeat(5_000)).unwrap_err().to_string();
    assert!(told.len() <= 1_023 && told.starts_with("invalid command 'é é"), "{told}");
}

#[test]
fn set_takes_what_pgbouncers_patterns_take() {
    for text in ["set a=b", "SET a TO b;", "set a = 'b'", "set \"a\" to \"b\" ; ", "set a='b'", "set a to'b'"] {
        assert_eq!(pgbouncer(text), Ok(set("a", "b")), "{text:?}");
    }
    assert_eq!(pgbouncer("set a = ''"), Ok(set("a", "")));
    assert_eq!(pgbouncer("set a = 'it''s; \"x\"'"), Ok(set("a", "it's; \"x\"")));
    // nothing need stand around the TO: the longest key that lets the rest fit
    assert_eq!(pgbouncer("set footo bar"), Ok(set("foo", "bar")));
    assert_eq!(pgbouncer("set footobar"), Err(ConsoleError::syntax("set footobar")));
    assert_eq!(pgbouncer("set tototo 'x'"), Ok(set("toto", "x")));
    assert_eq!(pgbouncer("set atob to c"), Ok(set("atob", "c")));
    assert_eq!(pgbouncer("set ato tob"), Ok(set("ato", "b")));
}

#[test]
fn the_other_console_understands_more() {
    let howdah = |text: &str| parse(text, Dialect::Howdah);
    let operate =
        |cluster: Option<&str>, command, tag| Command::Operate { cluster: cluster.map(Into::into), command, tag };
    let switchover = |to: Option<&str>| decide::Command::Switchover { to: to.map(Into::into) };
    let rebuild = decide::Command::Rebuild { node: "pg-2.example".into() };
    assert_eq!(howdah("switchover;"), Ok(operate(None, switchover(None), "SWITCHOVER")));
    assert_eq!(howdah("Switchover To b"), Ok(operate(None, switchover(Some("b")), "SWITCHOVER")));
    assert_eq!(
        howdah("switchover to \"b c\" in main;"),
        Ok(operate(Some("main"), switchover(Some("b c")), "SWITCHOVER"))
    );
    let failover = decide::Command::Failover { to: Some("b".into()), vouch: Some("a".into()), allow_data_loss: true };
    assert_eq!(howdah("failover to b vouch a allow data loss"), Ok(operate(None, failover, "FAILOVER")));
    assert_eq!(howdah("maintenance on"), Ok(operate(None, decide::Command::Pause, "MAINTENANCE")));
    assert_eq!(howdah("maintenance off in main"), Ok(operate(Some("main"), decide::Command::Resume, "MAINTENANCE")));
    assert_eq!(howdah("rebuild pg-2.example"), Ok(operate(None, rebuild, "REBUILD")));
    let like = Command::Show { name: "nodes".to_owned(), like: Some("a%".to_owned()) };
    assert_eq!(howdah("show NODES like 'a%';"), Ok(like));
    assert_eq!(howdah("show pools"), Ok(show("pools")));
    assert_eq!(howdah("pause app"), Ok(Command::Pause(Some("app".to_owned()))));
    for text in
        ["rebuild", "maintenance", "maintenance maybe", "switchover b", "switchover to", "fence a b", "show a like b"]
    {
        assert_eq!(said(howdah(text)), format!("42601 invalid command '{text}', use SHOW HELP;"));
    }
    assert_eq!(said(howdah(&format!("fence {}", "x".repeat(64)))), "54000 bad arguments");
}

proptest! {
    #[test]
    fn anything_typed_is_a_command_or_refused_briefly(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let text = String::from_utf8_lossy(&bytes);
        for dialect in [Dialect::PgBouncer, Dialect::Howdah] {
            if let Err(error) = parse(&text, dialect) {
                prop_assert!(error.to_string().len() <= 1_023);
            }
        }
    }

    #[test]
    fn what_is_nearly_a_command_is_too(text in "[ \t;]{0,2}(set|show|pause|switchover|failover|fence|x)[ \"'=;a-z_\u{e9}-]{0,40}") {
        for dialect in [Dialect::PgBouncer, Dialect::Howdah] {
            let _ = parse(&text, dialect);
        }
    }

    #[test]
    fn any_name_can_be_quoted(name in "[^\u{0}]{1,20}", blanks in "[ \t\r\n]{1,4}") {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        if quoted.len() <= ARGUMENT_BYTES_MAX {
            let text = format!("{blanks}PAUSE{blanks}{quoted}{blanks};{blanks}");
            prop_assert_eq!(pgbouncer(&text), Ok(Command::Pause(Some(name))));
        }
    }

    #[test]
    fn any_value_can_be_set(key in "[a-z_]{1,20}", value in "[^\u{0}]{0,60}") {
        let quoted = format!("'{}'", value.replace('\'', "''"));
        if quoted.len() <= VALUE_BYTES_MAX {
            prop_assert_eq!(pgbouncer(&format!("set {key}={quoted}")), Ok(set(&key, &value)));
        }
    }
}
