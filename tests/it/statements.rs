//! Prepared statements in transaction mode: the client's own, on whichever server it gets, and PostgreSQL's in every
//! answer.

use crate::support::script::{Stage, simple, some, turn, turns};
use crate::support::wire::{self, bind, close, describe, execute, flush, parse, query, sync};

fn run(statement: &str, values: &[Option<&str>]) -> Vec<u8> {
    [bind("", statement, values), execute("", 0)].concat()
}

#[test]
fn a_statement_parsed_once_is_used_in_other_transactions_on_other_servers() {
    let stage = Stage::new("");
    let mut script = vec![turn([parse("s", "SELECT $1::text || current_setting('application_name')", &[]), sync()])];
    for _ in 0..4 {
        script.push(turn([run("s", &[Some("a")]), sync()]));
        script.push(turn([describe(b'S', "s"), sync()]));
        script.push(simple("BEGIN"));
        script.push(turn([run("s", &[Some("b")]), sync()]));
        script.push(simple("COMMIT"));
    }
    script.push(turn([close(b'S', "s"), sync()]));
    script.push(turn([run("s", &[Some("c")]), sync()]));
    stage.play("", &script);
}

#[test]
fn two_clients_mean_different_statements_by_the_same_name() {
    let stage = Stage::new("");
    let (mut a, mut b) = (stage.login("one"), stage.login("one"));
    a.send(&[parse("x", "SELECT 'a' || $1", &[]), sync()].concat());
    a.read_until_ready();
    b.send(&[parse("x", "SELECT $1::int * 2", &[]), sync()].concat());
    b.read_until_ready();
    for _ in 0..3 {
        a.send(&[run("x", &[Some("1")]), sync()].concat());
        assert_eq!(wire::first_column(&a.read_until_ready()), ["a1"]);
        b.send(&[run("x", &[Some("21")]), sync()].concat());
        assert_eq!(wire::first_column(&b.read_until_ready()), ["42"]);
    }
    b.send(&[close(b'S', "x"), sync()].concat());
    b.read_until_ready();
    a.send(&[run("x", &[Some("1")]), sync()].concat());
    assert_eq!(wire::first_column(&a.read_until_ready()), ["a1"]);
}

#[test]
fn names_are_taken_freed_and_kept_as_in_postgresql() {
    let stage = Stage::new("");
    let table = "CREATE TABLE IF NOT EXISTS t (i int PRIMARY KEY); TRUNCATE t";
    for _ in 0..2 {
        stage.play(
            table,
            &[
                turn([parse("x", "SELECT 1", &[]), sync()]),
                // taken; what came before it in the batch is rolled back
                turn([
                    parse("", "INSERT INTO t VALUES (1)", &[]),
                    run("", &[]),
                    parse("x", "SELECT 2", &[]),
                    run("x", &[]),
                    sync(),
                ]),
                turn([run("x", &[]), sync()]),
                simple("SELECT count(*) FROM t"),
                // missing
                turn([run("missing", &[]), sync()]),
                turn([describe(b'S', "missing"), sync()]),
                turn([close(b'S', "missing"), sync()]),
                turn([parse("", "INSERT INTO t VALUES (1)", &[]), run("", &[]), run("missing", &[]), sync()]),
                simple("SELECT count(*) FROM t"),
                // closed and used again
                turn([close(b'S', "x"), parse("x", "SELECT 3", &[]), run("x", &[]), sync()]),
                turn([close(b'S', "x"), sync()]),
                turn([run("x", &[]), sync()]),
                // a failed Parse leaves the name free
                turn([parse("x", "SELEC", &[]), sync()]),
                turn([run("x", &[]), sync()]),
                turn([parse("x", "SELECT 4", &[]), run("x", &[]), sync()]),
                // so does a skipped one; a skipped Close keeps it
                turn([run("missing", &[]), parse("y", "SELECT 5", &[]), close(b'S', "x"), sync()]),
                turn([run("y", &[]), sync()]),
                turn([run("x", &[]), sync()]),
                turn([parse("y", "SELECT 6", &[]), run("y", &[]), sync()]),
                // the same when the error has been read before
                some([run("missing", &[]), flush()], 1),
                turns(
                    [
                        parse("z", "SELECT 7", &[]),
                        close(b'S', "x"),
                        sync(),
                        parse("z", "SELECT 8", &[]),
                        run("z", &[]),
                        run("x", &[]),
                        sync(),
                    ],
                    2,
                ),
                // in a block
                simple("BEGIN"),
                turn([parse("x", "SELECT 9", &[]), sync()]),
                turn([parse("w", "SELECT 9", &[]), sync()]),
                simple("ROLLBACK"),
                turn([run("w", &[]), sync()]),
                turn([run("x", &[]), sync()]),
                // statements outlive the block that parsed them
                simple("BEGIN"),
                turn([parse("v", "SELECT 10", &[]), sync()]),
                simple("ROLLBACK"),
                turn([run("v", &[]), sync()]),
                turn([close(b'S', "v"), close(b'S', "x"), close(b'S', "y"), close(b'S', "z"), sync()]),
            ],
        );
    }
}

#[test]
fn parameter_types_are_part_of_a_statements_identity() {
    let stage = Stage::new("");
    for _ in 0..2 {
        stage.play(
            "",
            &[
                turn([parse("i", "SELECT $1", &[23]), describe(b'S', "i"), sync()]),
                turn([parse("t", "SELECT $1", &[25]), describe(b'S', "t"), sync()]),
                turn([parse("n", "SELECT $1", &[]), describe(b'S', "n"), sync()]),
                turn([describe(b'S', "i"), describe(b'S', "t"), describe(b'S', "n"), sync()]),
                turn([run("i", &[Some("x")]), sync()]),
                turn([run("t", &[Some("x")]), describe(b'P', ""), sync()]),
                turn([parse("", "SELECT $1", &[23]), describe(b'S', ""), sync()]),
                turn([parse("", "SELECT $1", &[25]), describe(b'S', ""), sync()]),
            ],
        );
    }
}

#[test]
fn eviction_is_never_seen() {
    let stage = Stage::new("prepared_statements = 2");
    let all = ["a", "b", "c", "d", "e"];
    let parses: Vec<u8> = all.iter().flat_map(|name| parse(name, &format!("SELECT '{name}' || $1",), &[])).collect();
    let runs: Vec<u8> = all.iter().flat_map(|name| run(name, &[Some("!")])).collect();
    let closes: Vec<u8> = all.iter().flat_map(|name| close(b'S', name)).collect();
    for _ in 0..2 {
        let mut script = vec![turn([parses.clone(), sync()])];
        for name in all.iter().chain(all.iter().rev()) {
            script.push(turn([run(name, &[Some("1")]), sync()]));
        }
        script.push(turn([runs.clone(), runs.clone(), sync()]));
        // an error behind evictions skips them
        for name in all {
            script.push(turn([run("missing", &[]), run(name, &[Some("2")]), sync()]));
            script.push(turn([run(name, &[Some("3")]), run(name, &[]), run("a", &[Some("4")]), sync()]));
            script.push(turn([run("e", &[Some("5")]), run(name, &[Some("6")]), sync()]));
        }
        script.push(simple("BEGIN"));
        script.push(turn([runs.clone(), sync()]));
        script.push(simple("SELECT 1/0"));
        script.push(turn([run("a", &[Some("7")]), sync()]));
        script.push(turn([run("b", &[Some("7")]), sync()]));
        script.push(simple("ROLLBACK"));
        script.push(turn([runs.clone(), sync()]));
        // in a failed block, all of it on its way at once
        script.push(turns(
            [
                query("BEGIN"),
                query("SELECT 1/0"),
                run("c", &[Some("8")]),
                sync(),
                run("a", &[Some("9")]),
                sync(),
                query("ROLLBACK"),
            ],
            5,
        ));
        script.push(turn([runs.clone(), sync()]));
        script.push(turn([closes.clone(), sync()]));
        stage.play("", &script);
    }
}

#[test]
fn a_parse_in_a_failed_block_is_refused_although_the_server_has_the_statement() {
    let stage = Stage::new("");
    for _ in 0..3 {
        stage.play(
            "",
            &[
                turn([parse("k", "SELECT 'known'", &[]), sync()]),
                turn([close(b'S', "k"), sync()]),
                simple("BEGIN"),
                simple("SELECT 1/0"),
                // nothing is on its way
                turn([parse("k", "SELECT 'known'", &[]), sync()]),
                turn([parse("", "SELECT 'known'", &[]), run("", &[]), sync()]),
                turn([run("", &[]), sync()]),
                turn([parse("r", "ROLLBACK", &[]), run("r", &[]), sync()]),
                turn([run("k", &[]), sync()]),
                // the failure is on its way
                turns(
                    [query("BEGIN"), query("SELECT 1/0"), parse("k", "SELECT 'known'", &[]), sync(), query("ROLLBACK")],
                    4,
                ),
                turns(
                    [
                        query("BEGIN; SELECT 1/0"),
                        parse("k", "SELECT 'known'", &[]),
                        run("k", &[]),
                        sync(),
                        run("r", &[]),
                        sync(),
                    ],
                    3,
                ),
                turn([run("k", &[]), sync()]),
                turn([parse("k", "SELECT 'known'", &[]), run("k", &[]), sync()]),
                turn([close(b'S', "k"), close(b'S', "r"), sync()]),
            ],
        );
    }
}

#[test]
fn deallocate_all_and_discard_all_forget_the_clients_statements() {
    let stage = Stage::new("");
    for sql in ["DEALLOCATE ALL", "DISCARD ALL", "DEALLOCATE PREPARE ALL", "discard all;"] {
        stage.play(
            "",
            &[
                turn([parse("x", "SELECT 1", &[]), run("x", &[]), sync()]),
                simple(sql),
                turn([run("x", &[]), sync()]),
                turn([parse("x", "SELECT 1", &[]), run("x", &[]), sync()]),
                turn([parse("x", "SELECT 2", &[]), sync()]),
                turn([run("x", &[]), sync()]),
                turn([parse("", sql, &[]), run("", &[]), sync()]),
                turn([run("x", &[]), sync()]),
                turn([parse("x", "SELECT 3", &[]), run("x", &[]), sync()]),
            ],
        );
    }
    // and nobody else's
    let (mut a, mut b) = (stage.login("one"), stage.login("one"));
    a.send(&[parse("x", "SELECT 'a'", &[]), run("x", &[]), sync()].concat());
    a.read_until_ready();
    b.query("DISCARD ALL");
    a.send(&[run("x", &[]), sync()].concat());
    assert_eq!(wire::first_column(&a.read_until_ready()), ["a"]);
}

#[test]
fn an_unnamed_statement_lasts_until_the_next_parse_or_simple_query() {
    let stage = Stage::new("");
    for _ in 0..3 {
        stage.play(
            "",
            &[
                turn([parse("", "SELECT 'u' || $1", &[]), sync()]),
                turn([run("", &[Some("1")]), sync()]),
                turn([describe(b'S', ""), run("", &[Some("2")]), sync()]),
                turn([parse("n", "SELECT 'named'", &[]), run("n", &[]), sync()]),
                turn([run("", &[Some("3")]), sync()]),
                turn([query("SELECT 1")]),
                turn([run("", &[Some("4")]), sync()]),
                turn([parse("", "SELECT 'v'", &[]), sync()]),
                turn([close(b'S', ""), sync()]),
                turn([run("", &[]), sync()]),
                turn([describe(b'S', ""), sync()]),
                turn([parse("", "SELECT 'w'", &[]), sync()]),
                turn([parse("", "SELEC", &[]), sync()]),
                turn([run("", &[]), sync()]),
                turn([parse("", "SELECT 'x'", &[]), sync()]),
                // a skipped Parse destroys nothing
                turn([run("missing", &[]), parse("", "SELECT 'y'", &[]), sync()]),
                turn([run("", &[]), sync()]),
                turn([parse("", "SELECT 'z'", &[]), parse("", "SELECT 'last'", &[]), run("", &[]), sync()]),
                turn([run("", &[]), sync()]),
                // a Bind that fails leaves it
                turn([parse("", "SELECT $1::int", &[]), run("", &[Some("x")]), sync()]),
                turn([run("", &[Some("5")]), sync()]),
                turn([query("")]),
                turn([run("", &[Some("5")]), sync()]),
                turn([close(b'S', "n"), sync()]),
            ],
        );
    }
}

#[test]
fn an_unnamed_statement_larger_than_a_buffer_runs() {
    let stage = Stage::new("");
    let large = format!("SELECT length('{}'), $1::int", "x".repeat(200_000));
    let around = |n: usize| format!("SELECT {n}, length('{}')", "x".repeat(65_536 - 60 + n));
    let mut script = vec![
        turn([parse("", &large, &[]), bind("", "", &[Some("1")]), describe(b'P', ""), execute("", 0), sync()]),
        turn([parse("", "SELECT 'small'", &[]), run("", &[]), sync()]),
        turn([parse("", &large, &[]), describe(b'S', ""), run("", &[Some("2")]), run("", &[Some("x")]), sync()]),
        simple("BEGIN"),
        turn([parse("", &large, &[]), sync()]),
        turn([run("", &[Some("3")]), sync()]),
        simple("COMMIT"),
        simple(&large.replace("$1", "4")),
    ];
    script.extend((0..100).step_by(3).map(|n| turn([parse("", &around(n), &[]), run("", &[]), sync()])));
    stage.play("", &script);
}

#[test]
fn a_named_statement_too_large_to_keep_is_refused_and_the_session_goes_on() {
    let stage = Stage::new("");
    let large = format!("SELECT length('{}')", "x".repeat(200_000));
    let mut client = stage.login("one");
    for _ in 0..2 {
        client.send(&[parse("big", &large, &[]), run("big", &[]), sync()].concat());
        let messages = client.read_until_ready();
        assert_eq!(wire::short(&messages), ["E:54000", "Z:I"]);
        let error = wire::error(&messages);
        assert!(error.message.contains("\"big\"") && error.hint.contains("unnamed"), "{error:?}");
        client.send(&[run("big", &[]), sync()].concat());
        assert_eq!(wire::short(&client.read_until_ready()), ["E:26000", "Z:I"]);
    }
    client.query("BEGIN");
    client.send(&[parse("big", &large, &[]), sync()].concat());
    assert_eq!(wire::short(&client.read_until_ready()), ["E:54000", "Z:E"]);
    assert_eq!(client.query_short("ROLLBACK"), ["C:ROLLBACK", "Z:I"]);
    client.send(&[parse("big", "SELECT 1", &[]), run("big", &[]), sync()].concat());
    assert_eq!(wire::short(&client.read_until_ready()), ["1", "2", "D", "C:SELECT 1", "Z:I"]);
}

#[test]
fn a_parameter_of_a_megabyte_goes_to_named_and_unnamed_statements() {
    let stage = Stage::new("");
    let megabyte = "p".repeat(1_000_000);
    let value = [Some(megabyte.as_str())];
    let mut script = vec![turn([parse("m", "SELECT length($1), md5($1)", &[]), sync()])];
    for _ in 0..3 {
        script.push(turn([run("m", &value), sync()]));
        script.push(turn([parse("", "SELECT $1::text", &[]), run("", &value), run("m", &value), sync()]));
        script.push(turn([run("missing", &value), run("m", &value), sync()]));
        script.push(turns([run("m", &value), sync(), run("m", &value), sync()], 2));
    }
    for n in 0..40 {
        let around = "q".repeat(65_536 - 50 + 2 * n);
        script.push(turn([run("m", &[Some(around.as_str())]), sync()]));
    }
    script.push(turn([close(b'S', "m"), sync()]));
    stage.play("", &script);
}

#[test]
fn prepare_and_execute_as_sql_work_inside_a_block() {
    let stage = Stage::new("");
    stage.play(
        "",
        &[
            simple("BEGIN; PREPARE q AS SELECT 1; EXECUTE q"),
            simple("EXECUTE q"),
            simple("DEALLOCATE q; COMMIT"),
            turn([parse("x", "SELECT 1", &[]), run("x", &[]), sync()]),
            turn([run("x", &[]), sync()]),
            turn([close(b'S', "x"), sync()]),
        ],
    );
}

#[test]
fn a_statement_whose_result_type_has_changed_is_refused_once_and_parsed_anew() {
    let stage = Stage::new("");
    let mut direct = stage.direct();
    direct.query("CREATE TABLE c (a int)");
    let mut client = stage.login("one");
    client.send(&[parse("c", "SELECT * FROM c", &[]), run("c", &[]), sync()].concat());
    client.read_until_ready();
    direct.query("ALTER TABLE c ADD b int");
    client.send(&[run("c", &[]), sync()].concat());
    assert_eq!(wire::error(&client.read_until_ready()).message, "cached plan must not change result type");
    // what drivers do then: close it and parse it again
    client.send(&[close(b'S', "c"), sync(), parse("c", "SELECT * FROM c", &[]), run("c", &[]), sync()].concat());
    assert_eq!(wire::short(&client.read_until_ready()), ["3", "Z:I"]);
    assert_eq!(wire::short(&client.read_until_ready()), ["1", "2", "C:SELECT 0", "Z:I"]);
}

#[test]
fn a_batch_that_asks_for_its_columns_gets_the_new_ones_without_an_error() {
    let stage = Stage::new("");
    let mut direct = stage.direct();
    direct.query("CREATE TABLE n (a int)");
    let mut client = stage.login("one");
    client.send(&[parse("n", "SELECT * FROM n", &[]), run("n", &[]), sync()].concat());
    client.read_until_ready();
    let described = [bind("", "n", &[]), describe(b'P', ""), execute("", 0), sync()].concat();
    for column in ["b", "c"] {
        direct.query(&format!("ALTER TABLE n ADD {column} int; INSERT INTO n VALUES (1)"));
        client.send(&described);
        let answer = client.read_until_ready();
        let short = wire::short(&answer);
        assert_eq!(short.first().zip(short.last()), Some((&"2".to_owned(), &"Z:I".to_owned())), "{short:?}");
        assert!(short.contains(&"T".to_owned()) && short.contains(&"D".to_owned()), "{short:?}");
    }
    // in a block the transaction has failed, and says so
    direct.query("ALTER TABLE n ADD d int");
    client.query("BEGIN");
    client.send(&described);
    assert_eq!(wire::short(&client.read_until_ready()), ["E:0A000", "Z:E"]);
    client.query("ROLLBACK");
    // with another turn behind it, it would be overtaken
    direct.query("ALTER TABLE n ADD e int");
    client.send(&[described.clone(), query("SELECT 1")].concat());
    assert_eq!(wire::short(&client.read_until_ready()), ["E:0A000", "Z:I"]);
    assert_eq!(wire::first_column(&client.read_until_ready()), ["1"]);
}

#[test]
fn a_statement_that_somebody_took_off_the_server_is_prepared_again_unseen() {
    let stage = Stage::new("");
    let (mut client, mut other) = (stage.login("one"), stage.login("one"));
    client.send(&[parse("v", "SELECT 'v'", &[]), run("v", &[]), sync()].concat());
    client.read_until_ready();
    for _ in 0..2 {
        other.query("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$");
        client.send(&[run("v", &[]), sync()].concat());
        assert_eq!(wire::short(&client.read_until_ready()), ["2", "D", "C:SELECT 1", "Z:I"]);
    }
}

#[test]
fn deallocate_takes_a_name_of_the_clients_and_nothing_off_the_server() {
    let stage = Stage::new("");
    let (mut client, mut other) = (stage.login("one"), stage.login("one"));
    for each in [&mut client, &mut other] {
        each.send(&[parse("Pdo_1", "SELECT 'p'", &[]), run("Pdo_1", &[]), sync()].concat());
        each.read_until_ready();
    }
    client.send(&query("DEALLOCATE \"Pdo_1\""));
    assert_eq!(wire::short(&client.read_until_ready()), ["C:DEALLOCATE", "Z:I"]);
    client.send(&[run("Pdo_1", &[]), sync()].concat());
    assert_eq!(wire::short(&client.read_until_ready()), ["E:26000", "Z:I"]);
    other.send(&[run("Pdo_1", &[]), sync()].concat());
    assert_eq!(wire::short(&other.read_until_ready()), ["2", "D", "C:SELECT 1", "Z:I"]);
    // in a failed block it fails, and the name stays
    other.query("BEGIN");
    other.send(&query("SELECT 1/0"));
    other.read_until_ready();
    other.send(&query("DEALLOCATE \"Pdo_1\""));
    assert_eq!(wire::short(&other.read_until_ready()), ["E:25P02", "Z:E"]);
    other.query("ROLLBACK");
    other.send(&[run("Pdo_1", &[]), sync()].concat());
    assert_eq!(wire::short(&other.read_until_ready()), ["2", "D", "C:SELECT 1", "Z:I"]);
}
