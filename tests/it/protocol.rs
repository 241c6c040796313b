//! The wire protocol through howdah is PostgreSQL's: simple, extended, pipelined, message by message.

use std::time::{Duration, Instant};

use crate::support::script::{Stage, simple, some, turn, turns};
use crate::support::wire::{self, bind, close, describe, execute, flush, parse, query, sync};
use crate::support::{SOON, connection_count, eventually, shared};

#[test]
fn the_simple_protocol_is_postgresqls() {
    let stage = Stage::new("");
    let table = "CREATE TABLE IF NOT EXISTS t (i int PRIMARY KEY); TRUNCATE t";
    let short = stage.play(
        table,
        &[
            simple(""),
            simple(" ; ;"),
            simple("SELECT 1; SELECT 2, 'x'; SELECT NULL"),
            simple("SELECT 1; SELECT 1/0; SELECT 3"),
            simple("INSERT INTO t VALUES (1); INSERT INTO t VALUES (1)"),
            simple("SELECT count(*) FROM t"),
            simple("DO $$ BEGIN RAISE NOTICE 'hello %', 1; RAISE WARNING 'careful'; END $$"),
            simple("SELEC"),
            simple("SELECT 'unterminated"),
            simple("BEGIN"),
            simple("INSERT INTO t VALUES (2)"),
            simple("SELECT 1/0"),
            simple("SELECT 1"),
            simple("SAVEPOINT a"),
            simple("COMMIT"),
            simple("BEGIN; INSERT INTO t VALUES (3)"),
            simple("SAVEPOINT a"),
            simple("SELECT * FROM nowhere"),
            simple("ROLLBACK TO a; RELEASE a"),
            simple("COMMIT; SELECT i FROM t"),
            simple("COMMIT"),
            simple("BEGIN; SELECT 1; ROLLBACK; SELECT 2"),
            simple("BEGIN; COMMIT AND CHAIN"),
            simple("ROLLBACK"),
        ],
    );
    assert!(short.contains(&"E:25P02".to_owned()) && short.contains(&"N:01000".to_owned()));
}

#[test]
fn queries_sent_ahead_are_answered_in_order() {
    let stage = Stage::new("");
    stage.play(
        "",
        &[turns([query("SELECT 1"), query("SELECT 1/0"), query("SELECT 3"), query("")], 4), simple("SELECT 5")],
    );
    stage.play(
        "",
        &[turns([query("BEGIN"), query("SELECT 1/0"), query("SELECT 2"), query("ROLLBACK"), query("SELECT 4")], 5)],
    );
}

#[test]
fn rows_of_a_megabyte_and_a_hundred_thousand_small_ones_arrive_whole() {
    let stage = Stage::new("");
    stage.play(
        "",
        &[
            simple("SELECT repeat('x', 1000000), i, repeat('y', 70000) FROM generate_series(1, 20) i"),
            simple("SELECT i, i::text FROM generate_series(1, 100000) i"),
            turn([
                parse("", "SELECT repeat('x', $1) FROM generate_series(1, 10)", &[23]),
                bind("", "", &[Some("300000")]),
                describe(b'P', ""),
                execute("", 0),
                sync(),
            ]),
            // every size around the buffer's
            simple("SELECT repeat('z', 65300 + i) FROM generate_series(1, 400) i"),
            simple("DO $$ BEGIN RAISE NOTICE '%', repeat('n', 200000); END $$"),
            simple("DO $$ BEGIN RAISE EXCEPTION '%', repeat('e', 200000); END $$"),
            simple("SELECT 1"),
        ],
    );
}

#[test]
fn function_calls_are_answered() {
    let stage = Stage::new("");
    let abs = |value: &[u8]| wire::function_call(1397, &[Some(value)]);
    stage.play(
        "",
        &[
            turn([abs(&(-5_i32).to_be_bytes())]),
            turn([abs(b"too long for an int")]),
            turn([wire::function_call(1, &[])]),
            turns([query("BEGIN"), query("SELECT 1/0"), abs(&(-5_i32).to_be_bytes()), query("ROLLBACK")], 4),
            turn([abs(&(-5_i32).to_be_bytes())]),
        ],
    );
}

#[test]
fn the_extended_protocol_is_postgresqls() {
    let stage = Stage::new("");
    let table = "CREATE TABLE IF NOT EXISTS t (i int PRIMARY KEY, x text); TRUNCATE t";
    for _ in 0..3 {
        // the second time the unnamed statements are known
        stage.play(
            table,
            &[
                turn([sync()]),
                turn([parse("", "SELECT $1::int + 1 AS n", &[]), describe(b'S', ""), sync()]),
                turn([bind("", "", &[Some("4")]), describe(b'P', ""), execute("", 0), sync()]),
                turn([
                    parse("", "INSERT INTO t VALUES ($1, $2) RETURNING *", &[]),
                    describe(b'S', ""),
                    bind("", "", &[Some("1"), None]),
                    describe(b'P', ""),
                    execute("", 0),
                    sync(),
                ]),
                turn([parse("", "", &[]), bind("", "", &[]), describe(b'P', ""), execute("", 0), sync()]),
                turn([parse("", "-- nothing", &[]), bind("", "", &[]), execute("", 0), close(b'P', ""), sync()]),
                turn([parse("", "SELEC", &[]), bind("", "", &[]), execute("", 0), sync()]),
                turn([bind("", "", &[]), sync()]),
                turn([parse("", "SELECT $1::int", &[]), bind("", "", &[Some("x")]), execute("", 0), sync()]),
                turn([bind("", "", &[Some("1"), Some("2")]), sync()]),
                turn([parse("", "SELECT 1; SELECT 2", &[]), sync()]),
                turn([execute("nowhere", 0), sync()]),
                turn([describe(b'P', "nowhere"), sync()]),
                turn([close(b'P', "nowhere"), close(b'S', "nowhere"), sync()]),
                turn([
                    parse("", "INSERT INTO t VALUES (2)", &[]),
                    bind("", "", &[]),
                    execute("", 0),
                    parse("", "SELECT 1/0", &[]),
                    bind("", "", &[]),
                    execute("", 0),
                    sync(),
                ]),
                simple("SELECT i FROM t"),
                turn([parse("", "SHOW TimeZone", &[]), bind("", "", &[]), execute("", 0), sync()]),
                turn([
                    parse("", "DO $$ BEGIN RAISE NOTICE 'x'; END $$", &[]),
                    bind("", "", &[]),
                    execute("", 0),
                    sync(),
                ]),
            ],
        );
    }
}

#[test]
fn binary_formats_pass() {
    let stage = Stage::new("");
    let seven = 7_i32.to_be_bytes();
    let values: [Option<&[u8]>; 2] = [Some(&seven), None];
    for _ in 0..3 {
        stage.play(
            "",
            &[
                turn([
                    parse("", "SELECT $1::int, $2::text, 'x'::bytea", &[23, 25]),
                    wire::bind_formats("", "", &[1, 0], &values, &[1, 0, 1]),
                    describe(b'P', ""),
                    execute("", 0),
                    sync(),
                ]),
                turn([
                    parse("b", "SELECT $1::int, $2::text", &[23, 25]),
                    wire::bind_formats("", "b", &[1, 0], &values, &[1]),
                    execute("", 0),
                    close(b'S', "b"),
                    sync(),
                ]),
            ],
        );
    }
}

#[test]
fn portals_with_row_limits_are_suspended_and_go_on_inside_a_block() {
    let stage = Stage::new("");
    stage.play(
        "",
        &[
            turn([query("BEGIN")]),
            turn([
                parse("p", "SELECT i FROM generate_series(1, $1::int) i", &[]),
                bind("a", "p", &[Some("5")]),
                bind("b", "p", &[Some("3")]),
                execute("a", 2),
                sync(),
            ]),
            turn([execute("b", 1), execute("a", 2), sync()]),
            turn([describe(b'P', "a"), execute("a", 2), execute("b", 0), sync()]),
            turn([execute("a", 1), close(b'P', "a"), close(b'P', "a"), sync()]),
            turn([execute("a", 1), sync()]),
            simple("COMMIT"),
            // outside of a block a portal ends with its batch
            turn([bind("a", "p", &[Some("5")]), execute("a", 2), execute("a", 2), sync()]),
            turn([execute("a", 1), sync()]),
            turn([close(b'S', "p"), sync()]),
        ],
    );
}

#[test]
fn a_cursor_declared_in_sql_can_be_read_through_a_portal() {
    let stage = Stage::new("");
    stage.play(
        "",
        &[
            simple("BEGIN; DECLARE c CURSOR FOR SELECT generate_series(1, 9)"),
            turn([execute("c", 2), describe(b'P', "c"), sync()]),
            simple("FETCH 2 FROM c"),
            turn([close(b'P', "c"), sync()]),
            simple("FETCH 2 FROM c"),
            simple("ROLLBACK"),
        ],
    );
}

#[test]
fn a_flush_brings_the_answers_without_a_sync_and_the_server_stays_while_the_batch_is_open() {
    let stage = Stage::new("");
    stage.play(
        "",
        &[
            some([parse("f", "SELECT $1::int", &[]), flush()], 1),
            some([describe(b'S', "f"), flush()], 2),
            some([bind("", "f", &[Some("1")]), flush()], 1),
            some([execute("", 0), flush()], 2),
            turn([sync()]),
            // known to the server now: howdah answers the first message itself
            turn([close(b'S', "f"), sync()]),
            some([parse("f", "SELECT $1::int", &[]), flush()], 1),
            some([bind("", "f", &[Some("1")]), execute("", 0), flush()], 3),
            some([close(b'S', "f"), flush()], 1),
            some([bind("", "f", &[Some("1")]), flush()], 1),
            turn([bind("", "f", &[Some("1")]), query("SELECT 1"), sync()]),
        ],
    );

    let (mut client, mut other) = (stage.login("one"), stage.login("one"));
    client.send(&[parse("", "SELECT 1", &[]), bind("", "", &[]), execute("", 0), flush()].concat());
    for expected in ["1", "2", "D", "C:SELECT 1"] {
        assert_eq!(client.expect().short(), expected);
    }
    other.send(&query("SELECT 2"));
    other.expect_silence(Duration::from_millis(200));
    client.send(&sync());
    assert_eq!(client.expect().short(), "Z:I");
    assert_eq!(wire::first_column(&other.read_until_ready()), ["2"]);
}

#[test]
fn an_answer_is_read_before_the_next_is_computed() {
    let stage = Stage::new("");
    for database in ["one", "session"] {
        let mut client = stage.login(database);
        let mut holder = stage.direct();
        holder.query("SELECT pg_advisory_lock(42)");
        let one = |sql: &str| [parse("", sql, &[]), bind("", "", &[]), execute("", 0), sync()].concat();
        client.send(&[one("SELECT 1"), one("SELECT pg_advisory_xact_lock(42)"), one("SELECT 3")].concat());
        assert_eq!(wire::short(&client.read_until_ready()), ["1", "2", "D", "C:SELECT 1", "Z:I"]);
        client.expect_silence(Duration::from_millis(100));
        holder.query("SELECT pg_advisory_unlock(42)");
        client.read_until_ready();
        assert_eq!(wire::first_column(&client.read_until_ready()), ["3"]);

        // rows of one statement too
        holder.query("SELECT pg_advisory_lock(42)");
        client.send(&query("SELECT repeat('x', 20000); SELECT pg_advisory_xact_lock(42)"));
        assert_eq!(client.expect().short(), "T"); // the rest waits in PostgreSQL's own buffer
        holder.query("SELECT pg_advisory_unlock(42)");
        client.read_until_ready();
    }
}

#[test]
fn pipelines_with_several_syncs_and_errors_in_the_middle_are_postgresqls() {
    let stage = Stage::new("");
    let table = "CREATE TABLE IF NOT EXISTS t (i int PRIMARY KEY); TRUNCATE t";
    let insert = |i: &str| [bind("", "ins", &[Some(i)]), execute("", 0)].concat();
    for _ in 0..3 {
        stage.play(
            table,
            &[
                turns(
                    [
                        parse("ins", "INSERT INTO t VALUES ($1)", &[]),
                        insert("1"),
                        sync(),
                        insert("2"),
                        insert("1"),
                        insert("3"),
                        sync(),
                        insert("4"),
                        sync(),
                        query("SELECT count(*) FROM t"),
                        insert("5"),
                        sync(),
                    ],
                    5,
                ),
                simple("SELECT i FROM t ORDER BY i"),
                // a simple query among what is skipped, and a Flush
                turns(
                    [
                        insert("1"),
                        query("INSERT INTO t VALUES (99)"),
                        flush(),
                        insert("6"),
                        sync(),
                        insert("7"),
                        sync(),
                    ],
                    2,
                ),
                // a simple query behind an open batch commits it
                turns([insert("8"), query("SELECT i FROM t ORDER BY i"), insert("9"), insert("8"), sync()], 2),
                turns(
                    [query("BEGIN"), insert("10"), sync(), insert("1"), sync(), insert("11"), sync(), query("COMMIT")],
                    5,
                ),
                turn([close(b'S', "ins"), sync()]),
                simple("SELECT i FROM t ORDER BY i"),
            ],
        );
    }
}

#[test]
fn a_failure_at_the_sync_itself_is_told() {
    let stage = Stage::new("");
    let table = "CREATE TABLE IF NOT EXISTS t (i int UNIQUE DEFERRABLE INITIALLY DEFERRED); TRUNCATE t";
    let insert =
        |i: &str| [parse("", "INSERT INTO t VALUES ($1::int)", &[]), bind("", "", &[Some(i)]), execute("", 0)].concat();
    stage.play(
        table,
        &[
            turn([insert("1"), sync()]),
            turns([insert("1"), sync(), insert("2"), sync()], 2),
            turns([query("BEGIN"), insert("1"), sync(), query("COMMIT"), query("SELECT i FROM t ORDER BY 1")], 4),
            turns([query("INSERT INTO t VALUES (1)"), query("SELECT 1")], 2),
        ],
    );
}

#[test]
fn pipelines_of_thousands_of_batches_are_answered() {
    let stage = Stage::new("");
    let one = |i: usize| {
        let i = i.to_string();
        [parse("", "SELECT $1::int", &[]), bind("", "", &[Some(&i)]), execute("", 0), sync()].concat()
    };
    for database in ["one", "two", "session"] {
        let mut client = stage.login(database);
        let count = 20_000;
        let mut sent = 0;
        let mut read = 0;
        while read < count {
            while sent < count && sent - read < 1_000 {
                client.send(&one(sent));
                sent += 1;
            }
            for _ in 0..500.min(count - read) {
                let answers = client.read_until_ready();
                assert_eq!(wire::first_column(&answers), [read.to_string()]);
                read += 1;
            }
        }
    }
}

#[test]
fn a_batch_of_thousands_of_statements_is_one_transaction() {
    let stage = Stage::new("");
    let mut batch = parse("many", "SELECT $1::int", &[]);
    for i in 0..6_000 {
        batch.extend(bind("", "many", &[Some(&i.to_string())]));
        batch.extend(execute("", 0));
    }
    batch.extend(sync());
    stage.play("", &[turn([batch, vec![]]), turn([close(b'S', "many"), sync()])]);
}

#[test]
fn bytes_may_come_one_at_a_time() {
    let stage = Stage::new("");
    let script = [
        query("SELECT 1"),
        parse("slow", "SELECT $1::text", &[]),
        bind("", "slow", &[Some("xyz")]),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ]
    .concat();
    for database in ["one", "session"] {
        let mut client = stage.login(database);
        for byte in &script {
            client.send(&[*byte]);
        }
        assert_eq!(wire::short(&client.read_until_ready()), ["T", "D", "C:SELECT 1", "Z:I"]);
        assert_eq!(wire::short(&client.read_until_ready()), ["1", "2", "T", "D", "C:SELECT 1", "Z:I"]);
    }
}

#[test]
fn a_terminate_right_behind_a_query_lets_it_be_done_and_the_server_is_kept() {
    let stage = Stage::new("");
    stage.direct().query("CREATE TABLE t (i int)");
    let mut other = stage.login("one");
    let pid = other.value("SELECT pg_backend_pid()");
    for round in 1..=20 {
        let mut client = stage.login("one");
        client.send(&[query("INSERT INTO t VALUES (1)"), query("SELECT 1"), wire::terminate()].concat());
        let said = client.read_until_closed();
        assert_eq!(wire::short(&said), ["C:INSERT 0 1", "Z:I", "T", "D", "C:SELECT 1", "Z:I"]);
        assert_eq!(other.value("SELECT count(*) FROM t"), round.to_string());
        let mut client = stage.login("one");
        client.send(&[query("BEGIN"), parse("", "SELECT 1", &[]), wire::terminate()].concat());
        client.read_until_closed();
    }
    assert_eq!(other.value("SELECT pg_backend_pid()"), pid);
    eventually("one server", SOON, || connection_count(shared().primary(), &stage.tenant.name) == 1);
}

#[test]
fn a_long_wait_for_answers_holds_nobody_else_up() {
    let stage = Stage::new("");
    let mut slow = stage.login("two");
    slow.send(&query("SELECT pg_sleep(20)"));
    let mut quick = stage.login("two");
    let begun = Instant::now();
    for _ in 0..100 {
        quick.query("SELECT 1");
    }
    assert!(begun.elapsed() < Duration::from_secs(15));
}
