//! Everything that can go wrong in a statement, in every place of one: what writes, locks or is of one node, and what looks as if.
//!
//! Found by playing such a table, and 9,000 statements, to a primary that tells what they did. Not here: statements as people and
//! programs write them (`corpus.txt`).

use howdah::sql::analysis::Analysis;
use howdah::sql::class::Class;
use howdah::sql::knowledge::Knowledge;

use super::corpus::Row;

/// Where an expression, `{}`, may stand. Each is valid with any number.
const PLACES: [&str; 44] = [
    "SELECT {}",
    "SELECT 1 WHERE {} IS NULL",
    "SELECT id FROM orders ORDER BY {}",
    "SELECT status FROM orders GROUP BY status HAVING {} IS NOT NULL",
    "SELECT count(*) FILTER (WHERE {} IS NOT NULL) FROM orders",
    "SELECT sum(share) OVER (ORDER BY {}) FROM orders",
    "SELECT sum(share) OVER w FROM orders WINDOW w AS (PARTITION BY {})",
    "SELECT sum(share) OVER (ORDER BY id ROWS BETWEEN ({})::text::int PRECEDING AND CURRENT ROW) FROM orders",
    "SELECT id FROM orders LIMIT ({})::text::bigint",
    "SELECT id FROM orders OFFSET ({})::text::bigint",
    "SELECT * FROM orders, LATERAL (SELECT {}) z",
    "SELECT * FROM orders JOIN LATERAL (SELECT {} AS q) z ON true",
    "SELECT * FROM orders TABLESAMPLE bernoulli (({})::text::real)",
    "SELECT DISTINCT ON ({}) id FROM orders",
    "SELECT CASE WHEN true THEN {} END",
    "SELECT COALESCE(NULL, ({})::text)",
    "SELECT GREATEST(({})::text, NULL)",
    "SELECT NULLIF(({})::text, 'x')",
    "SELECT ARRAY[{}], ROW({}), ({}, 1)",
    "SELECT (ARRAY[1, 2])[({})::text::int]",
    "VALUES (1), (({})::text::int)",
    "WITH q AS (SELECT {}) SELECT * FROM q",
    "WITH q(x) AS MATERIALIZED (VALUES ({})), r AS (SELECT * FROM q) SELECT * FROM r",
    "WITH RECURSIVE q(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM q WHERE n < 2 AND {} IS NOT NULL) SELECT * FROM q",
    "SELECT 1 UNION SELECT ({})::text::int",
    "((SELECT ({})::text) INTERSECT (SELECT 'x'))",
    "EXPLAIN SELECT {}",
    "EXPLAIN (VERBOSE, COSTS OFF) SELECT {}",
    "COPY (SELECT {}) TO STDOUT",
    "COPY (VALUES ({})) TO STDOUT",
    "SELECT 1; SELECT {}",
    "SELECT {}; SELECT 1;",
    "SELECT ({}) IN (SELECT {})",
    "SELECT array_agg(id ORDER BY {}) FROM orders",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ({})::text::float) FROM orders",
    "SELECT string_agg(status, ({})::text) FROM orders",
    "SELECT concat_ws(',', VARIADIC ARRAY[({})::text])",
    "SELECT now() + ({} || ' days')::interval",
    "SELECT * FROM generate_series(1, ({})::text::int) WITH ORDINALITY AS g(i, n)",
    "SELECT count(*) FROM orders GROUP BY GROUPING SETS ((id), (({})::text), ())",
    "SELECT\n-- '\n{} /* ' /* nested */ */",
    "SELECT 1 FROM orders a JOIN orders b ON a.id = b.id AND {} IS NOT NULL",
    "SELECT * FROM orders WHERE (id, note) = (SELECT 1, ({})::text)",
    "SELECT (SELECT {} FROM orders LIMIT 1), 'add_note(1)', $$nextval('x')$$",
];

/// What keeps a statement from a standby.
const KEPT: [&str; 40] = [
    "add_note('x')",
    "public.add_note('x')",
    "\"add_note\"('x')",
    "ADD_note /* */ ('x')",
    "add_note(note => 'x')",
    "either('x')",
    "shop.sell(1)",
    "watched(1)::int",
    "5::watched_number",
    "CAST(5 AS watched_number)",
    "watched_number '5'",
    "shop.pg_sleep_until(1)",
    "(SELECT n FROM numbered LIMIT 1)",
    "(SELECT n FROM numbered_again LIMIT 1)",
    "(SELECT id FROM locked_orders LIMIT 1)",
    "(SELECT id FROM locked_deep LIMIT 1)",
    "(SELECT id FROM scratch LIMIT 1)",
    "(SELECT last_value FROM counter)",
    "(SELECT touched(o) FROM orders o LIMIT 1)",
    "(SELECT (o).touched FROM orders o LIMIT 1)",
    "(SELECT o.touched FROM orders o LIMIT 1)",
    "(SELECT 1 FROM orders LIMIT 1 FOR UPDATE)",
    "(SELECT 1 FROM orders LIMIT 1 FOR KEY SHARE)",
    "nextval('counter')",
    "pg_catalog . \"nextval\" ( 'counter' )",
    "setval('counter', 1)",
    "(SELECT 1 FROM pg_advisory_lock(1))",
    "pg_try_advisory_xact_lock_shared(1, 2)::int",
    "(SELECT 1 FROM pg_notify('x', 'y'))",
    "set_config('a.b', '1', true)",
    "lo_creat(-1)",
    "txid_current()",
    "pg_export_snapshot()",
    "query_to_xml('SELECT nextval(''counter'')', true, true, '')::text",
    "pg_backend_pid()",
    "(SELECT count(*) FROM pg_locks)",
    "no_such_function(1)",
    "treat(1 AS int)",
    "U&\"add\\005Fnote\"('x')",
    "'a' 'b'",
];

/// What does not.
const FREE: [&str; 17] = [
    "1",
    "twice(2)",
    "public.\"twice\"(2)",
    "order_count(1)",
    "shop.price(1)",
    "5::positive",
    "(ROW(1, 2)::pair).a",
    "(SELECT max(share) FROM orders)",
    "(SELECT count(*) FROM order_totals)",
    "(SELECT count(*) FROM shielded)",
    "length(lower('x'))",
    "extract(day FROM date '2024-01-02')::int",
    "position('b' IN 'abc')",
    "jsonb_array_length('[1]'::jsonb)",
    "(ARRAY[1, 2])[1]",
    "cast('1' AS int)",
    "coalesce(NULL, nullif(2, 3))",
];

fn filled(expressions: &[&str]) -> impl Iterator<Item = Row> {
    let with = |place: &&str| {
        let each = expressions.iter().map(|expression| place.replace("{}", expression));
        each.map(|sql| Row { sql, class: "", reason: "" }).collect::<Vec<_>>()
    };
    PLACES.iter().flat_map(with).collect::<Vec<_>>().into_iter()
}

/// Those that are classed as reads, of which none should be.
pub fn wrongly_read(known: &impl Knowledge) -> Vec<String> {
    filled(&KEPT).filter(|row| class(row, known) == Class::Read).map(|row| row.sql).collect()
}

/// Those that are classed as reads, and how many that should be are not.
pub fn read(known: &impl Knowledge) -> (Vec<Row>, Vec<String>) {
    let (read, lost): (Vec<_>, Vec<_>) = filled(&FREE).partition(|row| class(row, known) == Class::Read);
    (read, lost.into_iter().map(|row| row.sql).collect())
}

fn class(row: &Row, known: &impl Knowledge) -> Class {
    Analysis::of(row.sql.as_bytes(), true).verdict(known).class
}
