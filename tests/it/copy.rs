//! COPY through howdah, both ways, well and badly ended.

use std::time::Duration;

use crate::support::script::{Stage, simple, some, turn, turns};
use crate::support::wire::{self, Client, bind, copy_data, copy_done, copy_fail, execute, flush, parse, query, sync};
use crate::support::{SOON, connection_count, eventually, rss_bytes, shared};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS t (x text); TRUNCATE t";

fn extended(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat()
}

#[test]
fn copy_in_and_out_in_both_protocols_is_postgresqls() {
    let stage = Stage::new("");
    let from = "COPY t FROM STDIN";
    for _ in 0..3 {
        stage.play(
            TABLE,
            &[
                some([query(from)], 1),
                turn([copy_data(b"a\nb"), copy_data(b"c\n"), copy_done()]),
                turn([query(from), copy_data(b"d\n"), copy_done()]),
                turn([query(from), copy_data(b"e\n"), copy_fail("no more")]),
                turn([query(from), copy_data(b"a\tb\n"), copy_done()]),
                turn([query("COPY t TO STDOUT")]),
                turns([query(from), copy_data(b"f\n"), copy_done(), query("COPY t TO STDOUT"), query("SELECT 1")], 3),
                turn([query("COPY t FROM STDIN; SELECT count(*) FROM t"), copy_data(b"g\n"), copy_done()]),
                turn([query("COPY t TO STDOUT; SELECT 1/0; SELECT 2")]),
                // the extended protocol
                some([extended(from), flush()], 3),
                turn([copy_data(b"h\n"), copy_done(), sync()]),
                turn([extended(from), copy_data(b"i\n"), copy_done(), sync()]),
                turn([extended(from), copy_data(b"j\n"), copy_fail("enough"), sync()]),
                turn([extended("COPY t TO STDOUT"), sync()]),
                turn([extended("COPY t TO STDOUT"), extended("SELECT 1"), sync()]),
                turn([extended("COPY nowhere FROM STDIN"), copy_data(b"k\n"), copy_done(), sync()]),
                turn([extended("COPY nowhere TO STDOUT"), sync()]),
                simple("COPY t FROM '/nowhere/at/all'"),
                // in a block
                simple("BEGIN"),
                turn([query(from), copy_data(b"l\n"), copy_done()]),
                turn([query(from), copy_data(b"m\n"), copy_fail("x")]),
                turn([query("COPY t TO STDOUT")]),
                simple("ROLLBACK"),
                simple("SELECT x FROM t ORDER BY 1"),
            ],
        );
    }
}

#[test]
fn a_sync_right_behind_the_execute_of_a_copy_is_ignored_as_in_postgresql() {
    let stage = Stage::new("");
    for _ in 0..3 {
        stage.play(
            TABLE,
            &[
                // as PQexecParams sends it, and PQgetResult and PQputCopyEnd then
                some([extended("COPY t FROM STDIN"), sync()], 3),
                turn([copy_data(b"a\n"), copy_done(), sync()]),
                some([extended("COPY t FROM STDIN"), sync()], 3),
                turn([copy_data(b"b\n"), copy_fail("x"), sync()]),
                turn([extended("COPY t TO STDOUT"), sync()]),
                turn([extended("COPY nowhere FROM STDIN"), sync()]),
                turn([parse("c", "COPY t FROM STDIN", &[]), sync()]),
                some([bind("", "c", &[]), execute("", 0), sync()], 2),
                turn([copy_data(b"c\n"), copy_done(), sync()]),
                turn([wire::close(b'S', "c"), sync()]),
                simple("SELECT x FROM t ORDER BY 1"),
            ],
        );
    }
}

#[test]
fn late_data_of_a_failed_copy_is_ignored_and_the_server_is_not_stuck() {
    let stage = Stage::new("");
    stage.play(
        TABLE,
        &[
            turn([query("COPY nowhere FROM STDIN")]),
            turn([copy_data(b"late\n"), copy_done(), query("SELECT 1")]),
            turn([copy_fail("late"), query("SELECT 2")]),
            turn([copy_done(), sync()]),
            some([query("COPY t FROM STDIN")], 1),
            turn([copy_data(b"too\tmany\n"), copy_data(b"fine\n"), copy_done(), copy_done()]),
            turn([copy_data(b"late\n"), copy_done(), query("SELECT 3")]),
            // the error is read while the data goes on
            some([query("COPY t FROM STDIN")], 1),
            turn([copy_data(&b"too\tmany\n".repeat(10_000))]),
            turn([
                copy_data(&b"x\n".repeat(100_000)),
                copy_data(&b"y\n".repeat(100_000)),
                copy_done(),
                query("SELECT 4"),
            ]),
            turn([copy_data(b"late\n"), wire::close(b'P', ""), sync()]),
            simple("SELECT count(*) FROM t"),
        ],
    );
    // the pool is not drained by it
    let mut other = stage.login("one");
    let pid = other.value("SELECT pg_backend_pid()");
    let mut client = stage.login("one");
    for _ in 0..20 {
        client.query("COPY nowhere FROM STDIN");
        client.send(&copy_done());
        assert_eq!(other.value("SELECT pg_backend_pid()"), pid);
    }
}

#[test]
fn rows_larger_than_a_buffer_pass_both_ways() {
    let stage = Stage::new("");
    let row = |size: usize| [vec![b'r'; size], vec![b'\n']].concat();
    let sizes = [65_000, 65_520, 65_530, 65_531, 65_535, 65_536, 65_537, 70_000, 131_072, 1_000_000, 3_000_000];
    let rows: Vec<u8> = sizes.iter().flat_map(|size| copy_data(&row(*size))).collect();
    stage.play(
        TABLE,
        &[
            turn([query("COPY t FROM STDIN"), rows.clone(), copy_done()]),
            turn([extended("COPY t FROM STDIN"), rows, copy_done(), sync()]),
            turn([query("COPY t TO STDOUT")]),
            simple("SELECT sum(length(x)), count(*) FROM t"),
        ],
    );
}

#[test]
fn a_hundred_megabytes_stream_both_ways_in_bounded_memory() {
    let stage = Stage::new("");
    stage.direct().query("CREATE UNLOGGED TABLE large (x text)");
    let mut client = stage.login("one");
    client.query("SELECT 1");
    let before = rss_bytes(stage.howdah.pid());
    let line = copy_data(&[&[b'x'; 999][..], b"\n"].concat());
    let block = line.repeat(100);
    client.send(&query("COPY large FROM STDIN"));
    assert_eq!(client.expect().short(), "G");
    for _ in 0..1_000 {
        client.send(&block);
    }
    client.send(&copy_done());
    assert_eq!(wire::short(&client.read_until_ready()), ["C:COPY 100000", "Z:I"]);
    // one message of 100 MB
    client.send(&query("COPY large FROM STDIN"));
    assert_eq!(client.expect().short(), "G");
    let mut header = vec![b'd'];
    header.extend((100_000_000_i32 + 4).to_be_bytes());
    client.send(&header);
    let chunk = [&[b'y'; 999][..], b"\n"].concat().repeat(100);
    for _ in 0..1_000 {
        client.send(&chunk);
    }
    client.send(&copy_done());
    assert_eq!(wire::short(&client.read_until_ready()), ["C:COPY 100000", "Z:I"]);
    let peak = rss_bytes(stage.howdah.pid());
    client.send(&query("COPY large TO STDOUT"));
    let mut rows = 0;
    loop {
        let message = client.expect();
        match message.tag {
            b'd' => rows += 1,
            b'Z' => break,
            _ => {}
        }
    }
    assert_eq!(rows, 200_000);
    // and one row of 200 MB, by way of a client that reads slowly
    client.send(&query("SELECT repeat('z', 200000000)"));
    std::thread::sleep(Duration::from_millis(300));
    let stalled = rss_bytes(stage.howdah.pid());
    assert_eq!(wire::short(&client.read_until_ready()), ["T", "D", "C:SELECT 1", "Z:I"]);
    for rss in [peak, stalled, rss_bytes(stage.howdah.pid())] {
        assert!(rss < before + 8_000_000, "from {before} to {rss} bytes");
    }
}

fn in_copy(stage: &Stage, database: &str, sql: &str) -> Client {
    let mut client = stage.login(database);
    client.send(&query(sql));
    assert!(matches!(client.expect().tag, b'G' | b'H'));
    client
}

#[test]
fn a_client_that_vanishes_in_a_copy_leaves_a_usable_server() {
    let stage = Stage::new("");
    stage.direct().query("CREATE TABLE t (x text)");
    let mut other = stage.login("one");
    let pid = other.value("SELECT pg_backend_pid()");
    for round in 0..3 {
        let mut client = in_copy(&stage, "one", "COPY t FROM STDIN");
        client.send(&copy_data(b"lost\n"));
        client.cut();
        assert_eq!(other.value("SELECT count(*) FROM t"), "0", "{round}");
        let mut client =
            in_copy(&stage, "one", "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 1000000)) TO STDOUT");
        client.cut();
        assert_eq!(other.value("SELECT count(*) FROM t"), "0", "{round}");
        let mut client = stage.login("one");
        client.send(&[extended("COPY t FROM STDIN"), flush()].concat());
        client.read_until(b'G');
        client.send(&[copy_data(b"lost\n"), wire::terminate()].concat());
        client.cut();
        assert_eq!(other.value("SELECT count(*) FROM t"), "0", "{round}");
        let mut client = stage.login("one");
        client.send(&[query("COPY t FROM STDIN"), copy_data(b"lost\n"), wire::terminate()].concat());
        client.cut();
        assert_eq!(other.value("SELECT count(*) FROM t"), "0", "{round}");
    }
    assert_eq!(other.value("SELECT pg_backend_pid()"), pid);
    // half a CopyData has been sent: that server cannot be kept, but its place can
    for _ in 0..3 {
        let mut client = in_copy(&stage, "one", "COPY t FROM STDIN");
        client.send(&copy_data(&[b'x'; 1_000_000])[..500_000]);
        client.cut();
        assert_eq!(other.value("SELECT count(*) FROM t"), "0");
    }
    eventually("one server", SOON, || connection_count(shared().primary(), &stage.tenant.name) == 1);
}

#[test]
fn a_query_in_the_middle_of_a_copy_ends_the_session_and_nobody_elses() {
    let stage = Stage::new("");
    stage.direct().query("CREATE TABLE t (x text)");
    let mut other = stage.login("one");
    for bad in [query("SELECT 1"), parse("x", "SELECT 1", &[]), bind("", "x", &[]), execute("", 0)] {
        let mut client = in_copy(&stage, "one", "COPY t FROM STDIN");
        client.send(&[copy_data(b"lost\n"), bad].concat());
        let last = client.read_until_closed();
        assert_eq!(wire::error(&last).code, "08P01", "{last:?}");
        assert_eq!(other.value("SELECT count(*) FROM t"), "0");
    }
    eventually("one server", SOON, || connection_count(shared().primary(), &stage.tenant.name) == 1);
}
