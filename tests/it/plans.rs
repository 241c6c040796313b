//! A statement that is parsed after a table has changed runs, although servers hold the same text with an older plan.

use crate::support::wire::{self, Client};
use crate::support::{Howdah, Tenant, shared};

const TEXT: &str = "SELECT * FROM t";

fn parse_and_run(client: &mut Client, name: &str) -> Vec<String> {
    let messages =
        [wire::parse(name, TEXT, &[]), wire::bind("", name, &[]), wire::describe(b'P', ""), wire::execute("", 0)];
    client.send(&[messages.concat(), wire::sync()].concat());
    let answer = client.read_until_ready();
    let columns = answer.iter().find(|message| message.tag == b'T').map(|message| message.column_names().concat());
    [wire::short(&answer), columns.into_iter().collect()].concat()
}

fn run(client: &mut Client, name: &str) -> Vec<String> {
    client.send(&[wire::bind("", name, &[]), wire::execute("", 0), wire::sync()].concat());
    wire::short(&client.read_until_ready())
}

fn ran(columns: &str) -> Vec<String> {
    ["1", "2", "T", "D", "C:SELECT 1", "Z:I", columns].map(str::to_owned).into()
}

#[test]
fn after_a_change_through_howdah_new_statements_run_and_old_ones_fail_as_in_postgresql() {
    let (tenant, howdah) = (Tenant::shared(), Howdah::shared("[pool]\nsize = 1\n"));
    let (mut old, mut ddl) = (howdah.login(&tenant), howdah.login(&tenant));
    ddl.query("CREATE TABLE t AS SELECT 1 AS a");
    assert_eq!(parse_and_run(&mut old, "s"), ran("a"));

    for (statement, columns) in [("ALTER TABLE t ADD b int", "ab"), ("ALTER TABLE t RENAME b TO c", "ac")] {
        // planned again by others while the change is not committed yet
        ddl.query("BEGIN");
        ddl.query(statement);
        ddl.query("COMMIT");
        assert_eq!(parse_and_run(&mut howdah.login(&tenant), "s"), ran(columns), "{statement}");
        assert_eq!(parse_and_run(&mut ddl, columns), ran(columns), "{statement}");
    }
    assert_eq!(run(&mut old, "s"), ["E:0A000", "Z:I"]);
    old.send(&[wire::close(b'S', "s"), wire::sync()].concat());
    old.read_until_ready();
    assert_eq!(parse_and_run(&mut old, "s"), ran("ac"));
}

#[test]
fn after_a_change_behind_howdahs_back_one_failure_is_enough_to_learn_it() {
    let (tenant, howdah) = (Tenant::shared(), Howdah::shared("[pool]\nsize = 1\n"));
    let mut client = howdah.login(&tenant);
    client.query("CREATE TABLE t AS SELECT 1 AS a");
    assert_eq!(parse_and_run(&mut client, "s"), ran("a"));
    shared().primary().sql_in(&tenant.name, "ALTER TABLE t ADD b int").unwrap();
    let failed = parse_and_run(&mut howdah.login(&tenant), "s");
    assert!(failed.contains(&"E:0A000".to_owned()), "{failed:?}");
    for _ in 0..3 {
        assert_eq!(parse_and_run(&mut howdah.login(&tenant), "s"), ran("ab"));
    }
}
