//! What the data path does for every message, without its sockets: `cargo bench --bench micro`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::sync::Arc;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use howdah::protocol::frame::{HEADER_LEN, Scan, scan_header};
use howdah::protocol::pipeline::{Owed, Pipeline, Receipt, Reply};
use howdah::proxy::pool::PoolKey;
use howdah::proxy::pool::accounting::{Accounting, Bounds, Checkout, Release};
use howdah::proxy::server::statements::Prepared;
use howdah::proxy::statements::{Cache, Registry};
use howdah::proxy::tally::block::Blocks;
use howdah::proxy::tally::followed::{Followers, shown};
use howdah::proxy::tally::runs::Runs;
use howdah::sql::analysis::Analysis;
use howdah::sql::cache::ClassCache;
use howdah::sql::effects::Effects;
use howdah::sql::fingerprint;
use howdah::sql::opening::Opening;

fn main() {
    divan::main();
}

/// A full buffer of DataRows with one text column of so many bytes.
fn data_rows(column: usize) -> Vec<u8> {
    let body = [&1_i16.to_be_bytes()[..], &u32::try_from(column).unwrap().to_be_bytes(), &vec![b'x'; column]].concat();
    let row = [&b"D"[..], &u32::try_from(body.len() + 4).unwrap().to_be_bytes(), &body].concat();
    row.repeat(64 * 1024 / row.len())
}

#[divan::bench(args = [8, 100, 1000])]
fn scan_a_buffer_of_rows(bencher: Bencher, column: usize) {
    let rows = data_rows(column);
    bencher.counter(BytesCount::new(rows.len())).bench(|| {
        let (mut at, mut found) = (0, 0_u32);
        while let Ok(Scan::Header { tag, body_len }) = scan_header(black_box(&rows)[at..].as_ref()) {
            at += HEADER_LEN + body_len as usize;
            found += u32::from(tag == b'D');
        }
        found
    });
}

#[divan::bench(args = [8, 100, 1000])]
fn scan_and_account_for_a_buffer_of_rows(bencher: Bencher, column: usize) {
    let rows = data_rows(column);
    let mut pipeline = Pipeline::new();
    pipeline.push(Owed::Query(Reply::Forward)).unwrap();
    bencher.counter(BytesCount::new(rows.len())).bench_local(|| {
        let (mut at, mut forwarded) = (0, 0_u32);
        while let Ok(Scan::Header { tag, body_len }) = scan_header(black_box(&rows)[at..].as_ref()) {
            let receipt = pipeline.receive(tag, None).unwrap();
            forwarded += u32::from(receipt == Receipt::Forward);
            at += HEADER_LEN + body_len as usize;
        }
        forwarded
    });
}

/// What the session pushes for one prepared statement in a turn of its own, and what comes back.
fn prepared_turn(pipeline: &mut Pipeline) {
    for owed in [Owed::Bind(Reply::Forward), Owed::Execute(Reply::Forward), Owed::Sync(Reply::Forward)] {
        pipeline.push(owed).unwrap();
    }
    for (tag, first) in [(b'2', None), (b'D', None), (b'C', None), (b'Z', Some(b'T'))] {
        let _ = black_box(pipeline.receive(black_box(tag), first));
        while pipeline.due().is_some() {}
    }
}

#[divan::bench]
fn account_for_a_prepared_transaction(bencher: Bencher) {
    let mut pipeline = Pipeline::new();
    bencher.bench_local(|| {
        for _ in 0..7 {
            // pgbench's: BEGIN, five statements, END
            prepared_turn(&mut pipeline);
        }
        pipeline.settled()
    });
}

#[divan::bench]
fn account_for_a_simple_query(bencher: Bencher) {
    let mut pipeline = Pipeline::new();
    bencher.bench_local(|| {
        pipeline.push(Owed::Query(Reply::Forward)).unwrap();
        for (tag, first) in [(b'T', None), (b'D', None), (b'C', None), (b'Z', Some(b'I'))] {
            let _ = black_box(pipeline.receive(black_box(tag), first));
        }
        pipeline.settled()
    });
}

fn definitions(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| format!("SELECT abalance FROM pgbench_accounts WHERE aid = $1 /* {n} */\0\0\0").into()).collect()
}

/// A worker's own cache, and the registry all of them share.
#[divan::bench(args = [10, 1000])]
fn find_a_statement_in_the_cache(bencher: Bencher, count: usize) {
    let (registry, cache, definitions) = (Registry::default(), Cache::default(), definitions(count));
    definitions.iter().for_each(|definition| drop(cache.statement(&registry, definition)));
    let mut next = definitions.iter().cycle();
    bencher.bench_local(|| cache.statement(&registry, black_box(next.next().unwrap())).id);
}

#[divan::bench(args = [10, 1000])]
fn find_a_statement_in_the_registry(bencher: Bencher, count: usize) {
    let (registry, definitions) = (Registry::default(), definitions(count));
    let _held: Vec<_> = definitions.iter().map(|definition| registry.statement(definition)).collect();
    let mut next = definitions.iter().cycle();
    bencher.bench_local(|| registry.statement(black_box(next.next().unwrap())).id);
}

#[divan::bench]
fn find_a_statement_on_its_server(bencher: Bencher) {
    let mut prepared = Prepared::default();
    for id in 1..=100 {
        prepared.use_statement(id, 200, false);
        prepared.parsed(id);
    }
    let mut next = (1..=100_u64).cycle();
    bencher.bench_local(|| {
        prepared.next_batch();
        prepared.use_statement(next.next().unwrap(), 200, false).parse
    });
}

#[divan::bench(args = [
    "SELECT abalance FROM pgbench_accounts WHERE aid = 7",
    "BEGIN",
    "/* controller='users',action='show' */ SELECT 1",
    "START TRANSACTION READ ONLY",
])]
fn read_an_opening(sql: &str) -> Opening {
    Opening::of(black_box(sql.as_bytes()))
}

/// Lent and given back while nobody waits: what every transaction pays.
#[divan::bench]
fn lend_an_idle_server(bencher: Bencher) {
    let mut books: Accounting<u64, u64> = Accounting::new(Bounds { size: 8, ..Bounds::default() }, 2);
    let Checkout::Queued { dial: true, .. } = books.checkout(0, 0, || true, |_| 1) else { panic!("it is empty") };
    let Release::Grant { server, .. } = books.dialled(0, 1) else { panic!("somebody waits") };
    assert!(matches!(books.release(0, server), Release::Kept));
    bencher.bench_local(|| match books.checkout(0, 1, || true, |_| 1) {
        Checkout::Own(server) | Checkout::Moved(server) => books.release(0, server),
        Checkout::Queued { .. } | Checkout::Full => panic!("a server is idle"),
    });
}

/// So many wait on each of two workers: each release serves one, who comes again.
#[divan::bench(args = [1, 64, 1000])]
fn serve_a_waiter(bencher: Bencher, waiting: u64) {
    let mut books: Accounting<u64, u64> = Accounting::new(Bounds { size: 1, ..Bounds::default() }, 2);
    books.checkout(0, 0, || true, |_| 0);
    let Release::Grant { server, .. } = books.dialled(0, 1) else { panic!("somebody waits") };
    for n in 0..2 * waiting {
        books.checkout(usize::try_from(n % 2).unwrap(), n, || true, |_| n);
    }
    let (mut lent, mut now) = (Some(server), 2 * waiting);
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        let Release::Grant { server, waiter, .. } = books.release(0, lent.take().unwrap()) else { panic!("all wait") };
        now += 1;
        books.checkout(usize::try_from(waiter % 2).unwrap(), now, || true, |_| waiter);
        lent = Some(server);
        waiter
    });
}

/// What a simple query costs before it is sent when nothing like it is known.
#[divan::bench(args = ["select 1;", "SELECT abalance FROM pgbench_accounts WHERE aid = 1234567;"])]
fn find_the_effects_of_a_text(bencher: Bencher, sql: &str) {
    bencher.counter(BytesCount::new(sql.len())).bench(|| Effects::of(black_box(sql.as_bytes())));
}

/// The same for texts like those that came before.
#[divan::bench(args = STATEMENTS)]
fn look_a_text_up(bencher: Bencher, sql: &str) {
    let cache = ClassCache::default();
    bencher.counter(BytesCount::new(sql.len())).bench_local(|| cache.read(black_box(sql.as_bytes())));
}

/// A trivial statement, pgbench's, and one with joins.
const STATEMENTS: [&str; 3] = [
    "SELECT 1",
    "SELECT abalance FROM pgbench_accounts WHERE aid = 1234567;",
    "SELECT o.id, o.total, c.name, i.sku, i.quantity FROM orders o JOIN customers c ON c.id = o.customer_id LEFT JOIN \
     items i ON i.order_id = o.id WHERE o.status = 'new' AND o.created_at > '2024-01-01' AND c.country IN ('de', 'fr') \
     ORDER BY o.created_at DESC LIMIT 50",
];

#[divan::bench(args = STATEMENTS)]
fn classify_a_known_statement(bencher: Bencher, sql: &str) {
    let cache = ClassCache::default();
    bencher.bench_local(|| cache.analyse(black_box(sql.as_bytes()), true));
}

#[divan::bench(args = STATEMENTS)]
fn classify_a_new_statement(bencher: Bencher, sql: &str) {
    bencher.bench_local(|| Analysis::of(black_box(sql.as_bytes()), true));
}

#[divan::bench(args = STATEMENTS)]
fn write_a_fingerprint(bencher: Bencher, sql: &str) {
    let mut out = Vec::with_capacity(1000);
    bencher.bench_local(|| {
        out.clear();
        fingerprint::write(black_box(sql.as_bytes()), true, &mut out);
        out.len()
    });
}

/// All that statistics do for a request but reading the clock. Another text each time: nothing is known of it from the last.
#[divan::bench(args = STATEMENTS)]
fn count_a_request(bencher: Bencher, sql: &str) {
    let (classes, followers, blocks) = (ClassCache::default(), Followers::new(Arc::default()), Blocks::new(1));
    let name = || Arc::<str>::from("a");
    let key = PoolKey { cluster: name(), node: name(), database: name(), user: name() };
    let texts = [sql.to_owned(), format!("{sql} ")];
    let (mut runs, mut now) = (Runs::default(), 0_u64);
    bencher.bench_local(|| {
        now += 100;
        let sql = black_box(texts[usize::from(now % 200 == 0)].as_bytes());
        let statement = followers.follow(classes.read(sql).1, 1, &key, || shown(&classes, sql, 1));
        runs.query(Some(statement), now, 0);
        runs.row();
        let took = runs.answered(now + 50, true);
        let block = blocks.of(0).unwrap();
        for counter in [&block.server_assignments, &block.wait_us, &block.queries, &block.xacts, &block.rows] {
            counter.raise(1);
        }
        for counter in [&block.query_us, &block.xact_us, &block.received, &block.sent] {
            counter.raise(took.server_us);
        }
        block.wait.add(0);
        block.server.add(took.server_us);
        block.total.add(took.total_us);
    });
}

/// The same for a statement that was prepared.
#[divan::bench]
fn count_a_prepared_request(bencher: Bencher) {
    let (classes, registry) = (ClassCache::default(), Registry::default());
    let (followers, blocks) = (Followers::new(Arc::default()), Blocks::new(1));
    let name = || Arc::<str>::from("a");
    let key = PoolKey { cluster: name(), node: name(), database: name(), user: name() };
    let statement = registry.statement(&definitions(1)[0]);
    let (mut runs, mut now) = (Runs::default(), 0_u64);
    bencher.bench_local(|| {
        now += 100;
        let fingerprint = black_box(&statement).fingerprint(&classes);
        let followed = followers.follow(fingerprint, 1, &key, || shown(&classes, statement.sql(), 1));
        runs.bind(b"", Some(followed));
        runs.execute(b"", now);
        runs.sync(now, 0);
        runs.row();
        runs.completed(false, || now + 50);
        let took = runs.answered(now + 50, true);
        let block = blocks.of(0).unwrap();
        for counter in [&block.server_assignments, &block.wait_us, &block.queries, &block.xacts, &block.rows] {
            counter.raise(1);
        }
        for counter in [&block.query_us, &block.xact_us, &block.received, &block.sent] {
            counter.raise(took.server_us);
        }
        block.wait.add(0);
        block.server.add(took.server_us);
        block.total.add(took.total_us);
    });
}
