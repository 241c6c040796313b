//! What may not be read on a standby is known by its name, and what may be read there is not held back.

use std::sync::Arc;
use std::time::Instant;

use howdah::catalog::hidden::Reading;
use howdah::catalog::{Hidden, HiddenView};
use howdah::sql::knowledge::{Knowledge, Standing};

use super::hidden::Place;
use crate::support::{Howdah, SOON, Tenant, eventually, shared};

/// Waits until it is known what may be read.
async fn known(view: &HiddenView) -> Arc<Reading> {
    let deadline = Instant::now() + SOON;
    loop {
        let reading = Arc::clone(&view.reading());
        if reading.generation() > 0 {
            return reading;
        }
        assert!(Instant::now() < deadline, "nothing is known within {SOON:?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// One of each. What begins with `w_` must not be read on a standby, what begins with `r_` may be.
const EVERYWHERE: &str = "
CREATE SEQUENCE w_sequence;
CREATE FUNCTION w_volatile() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION r_stable() RETURNS int STABLE LANGUAGE sql AS $$ SELECT count(*)::int FROM pg_class $$;
CREATE FUNCTION r_immutable(a int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN a; END $$;
CREATE PROCEDURE w_procedure() LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION w_overloaded(int) RETURNS int STABLE LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION w_overloaded(text) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION r_overloaded(int) RETURNS int STABLE LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION r_overloaded(text) RETURNS int IMMUTABLE LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION w_judges(int) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE SCHEMA elsewhere;
CREATE FUNCTION w_schemas() RETURNS int STABLE LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION elsewhere.w_schemas() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION lower(int) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION elsewhere.pg_sleep_for(text) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION w_definer() RETURNS int SECURITY DEFINER LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION r_definer() RETURNS int STABLE SECURITY DEFINER SET search_path = pg_catalog LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION w_lie() RETURNS bigint STABLE LANGUAGE sql AS $$ SELECT nextval('w_sequence') $$;
CREATE FUNCTION w_lie_wrapped() RETURNS bigint STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN w_lie() + 1; END $$;
CREATE FUNCTION w_lie_locks() RETURNS void STABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); END $$;
CREATE FUNCTION w_lie_dynamic() RETURNS void STABLE LANGUAGE plpgsql
    AS $$ BEGIN EXECUTE 'SELECT pg_advisory_xact_lock(1)'; END $$;
CREATE FUNCTION r_dynamic() RETURNS int STABLE LANGUAGE plpgsql AS $$ DECLARE n int; BEGIN
    EXECUTE format('SELECT count(*) FROM %I', 'pg_class') INTO n; RETURN n; END $$;
CREATE FUNCTION w_lie_atomic() RETURNS bigint STABLE BEGIN ATOMIC SELECT nextval('w_sequence'); END;
CREATE FUNCTION r_atomic() RETURNS float STABLE BEGIN ATOMIC SELECT random(); END;
CREATE FUNCTION w_argument(a bigint DEFAULT nextval('w_sequence')) RETURNS bigint STABLE LANGUAGE sql AS $$ SELECT a $$;
CREATE FUNCTION r_random() RETURNS float STABLE LANGUAGE sql AS $$ SELECT random() $$;
CREATE FUNCTION w_state(s int, a int) RETURNS int LANGUAGE sql AS $$ SELECT s + a $$;
CREATE FUNCTION r_state(s int, a int) RETURNS int IMMUTABLE LANGUAGE sql AS $$ SELECT s + a $$;
CREATE AGGREGATE w_aggregate(int) (SFUNC = w_state, STYPE = int);
CREATE AGGREGATE w_final_aggregate(int) (SFUNC = r_state, STYPE = int, FINALFUNC = w_judges);
CREATE AGGREGATE r_aggregate(int) (SFUNC = r_state, STYPE = int);

CREATE EXTENSION tablefunc; CREATE EXTENSION \"uuid-ossp\"; CREATE EXTENSION tsm_system_rows; CREATE EXTENSION dblink;
CREATE TABLE r_table (id bigserial PRIMARY KEY, a int);
CREATE UNLOGGED TABLE w_unlogged (a int);
CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE w_foreign (a text) SERVER files OPTIONS (filename '/dev/null');
CREATE FUNCTION w_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('w_sequence'); RETURN new; END $$;
CREATE TABLE r_triggered (id bigint PRIMARY KEY DEFAULT nextval('w_sequence'), a int CHECK (w_judges(a) > 0), b int DEFAULT w_volatile());
CREATE TRIGGER a BEFORE INSERT ON r_triggered FOR EACH ROW EXECUTE FUNCTION w_trigger();
CREATE RULE a AS ON INSERT TO r_triggered DO ALSO SELECT nextval('w_sequence');
CREATE TABLE r_child_of_triggered (id bigint REFERENCES r_triggered ON DELETE CASCADE);
CREATE FUNCTION r_reads_triggered() RETURNS bigint STABLE LANGUAGE sql AS $$ SELECT count(*) FROM r_triggered $$;
CREATE FUNCTION w_reads_unlogged() RETURNS bigint STABLE LANGUAGE sql AS $$ SELECT count(*) FROM w_unlogged $$;
CREATE VIEW w_next AS SELECT nextval('w_sequence');
CREATE VIEW w_next_of_next AS SELECT * FROM w_next;
CREATE VIEW w_third AS SELECT * FROM r_table WHERE a IN (SELECT nextval FROM w_next_of_next);
CREATE VIEW w_calls AS SELECT w_volatile();
CREATE VIEW w_calls_lie AS SELECT w_lie_wrapped();
CREATE VIEW w_aggregates AS SELECT w_aggregate(a) FROM r_table;
CREATE VIEW w_over_unlogged AS SELECT * FROM w_unlogged;
CREATE VIEW w_over_sequence AS SELECT last_value FROM w_sequence;
CREATE VIEW w_shares AS SELECT pg_try_advisory_lock_shared(1);
CREATE VIEW w_locks AS SELECT * FROM r_table FOR UPDATE;
CREATE VIEW w_locks_deep AS SELECT * FROM (SELECT a FROM r_table FOR KEY SHARE) x;
CREATE VIEW w_locks_of_view AS SELECT count(*) FROM w_locks_deep;
CREATE VIEW w_node AS SELECT count(*) FROM pg_stat_activity;
CREATE VIEW w_backend AS SELECT pg_backend_pid();
CREATE VIEW w_transaction AS SELECT txid_current();
CREATE FUNCTION w_function_of_node() RETURNS bigint STABLE LANGUAGE sql AS $$ SELECT count(*) FROM pg_locks $$;
CREATE VIEW w_crosstab AS SELECT * FROM crosstab('SELECT 1, 2, 3') AS c(a int, b int);
CREATE VIEW r_uuid AS SELECT uuid_generate_v4(), gen_random_uuid(), pg_table_size('r_table'), pg_is_in_recovery();
CREATE VIEW r_sample AS SELECT * FROM r_table TABLESAMPLE system_rows(10);
CREATE VIEW r_sample_too AS SELECT * FROM r_table TABLESAMPLE bernoulli(10);
CREATE VIEW r_view AS SELECT a, random(), clock_timestamp(), r_stable(), r_aggregate(a) OVER () FROM r_triggered;
CREATE VIEW r_catalogue AS SELECT tablename, null_frac FROM pg_tables JOIN pg_stats USING (schemaname, tablename);
CREATE VIEW r_view_with_rules AS SELECT * FROM r_table;
CREATE RULE a AS ON INSERT TO r_view_with_rules DO INSTEAD SELECT nextval('w_sequence');
CREATE MATERIALIZED VIEW r_matview AS SELECT nextval('w_sequence'), w_volatile() WITH NO DATA;

CREATE TABLE w_policy (a int); ALTER TABLE w_policy ENABLE ROW LEVEL SECURITY;
CREATE POLICY a ON w_policy USING (w_judges(a) > 0);
CREATE TABLE w_policy_next (a int);
CREATE POLICY a ON w_policy_next FOR SELECT USING (nextval('w_sequence') > 0);
CREATE TABLE w_policy_subselect (a int);
CREATE POLICY a ON w_policy_subselect USING (a IN (SELECT a FROM w_unlogged));
CREATE TABLE r_policy (a int);
CREATE POLICY a ON r_policy USING (a = r_stable()); CREATE POLICY b ON r_policy FOR INSERT WITH CHECK (w_volatile() > 0);
CREATE VIEW w_over_policy AS SELECT * FROM w_policy;
CREATE DOMAIN w_domain AS int CHECK (w_judges(VALUE) > 0);
CREATE DOMAIN w_domain_next AS bigint CHECK (nextval('w_sequence') > VALUE);
CREATE DOMAIN w_domain_of_domain AS w_domain;
CREATE DOMAIN r_domain AS int DEFAULT w_volatile() CHECK (VALUE > 0);
CREATE TYPE w_composite AS (a w_domain);
CREATE TABLE r_column (a w_domain, b w_composite);
CREATE VIEW w_casts AS SELECT a::w_domain FROM r_table;
CREATE FUNCTION w_takes(a w_domain) RETURNS int STABLE LANGUAGE sql AS $$ SELECT 1 $$;

CREATE TABLE w_parent (a int) PARTITION BY LIST (a);
CREATE UNLOGGED TABLE w_partition PARTITION OF w_parent FOR VALUES IN (1);
CREATE TABLE r_sister PARTITION OF w_parent FOR VALUES IN (2);
CREATE TABLE w_ancestor (a int); CREATE TABLE w_middle () INHERITS (w_ancestor);
CREATE FOREIGN TABLE w_heir () INHERITS (w_middle) SERVER files OPTIONS (filename '/dev/null');
CREATE TABLE w_same_name (a int); CREATE UNLOGGED TABLE elsewhere.w_same_name (a int);
CREATE TEMPORARY TABLE r_table (a int); CREATE TEMPORARY VIEW r_temporary AS SELECT 1;

CREATE FUNCTION attribute(r_table) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION attribute_of_all(anyelement, int DEFAULT 1) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION attribute_of_record(record) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END $$;
CREATE FUNCTION attribute_of_text(text) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION attribute_of_two(r_table, int) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION attribute_that_reads(r_table) RETURNS int STABLE LANGUAGE sql AS $$ SELECT 1 $$;
CREATE EXTENSION hstore; CREATE EXTENSION pg_trgm;
";

#[tokio::test]
async fn every_way_to_write_by_reading_is_found_and_what_only_reads_is_not_held_back() {
    let place = Place::with(EVERYWHERE);
    let view = place.view();
    let nothing = Arc::clone(&view.reading());
    assert_eq!((nothing.generation(), nothing.function(b"lower")), (0, Standing::Unknown));
    assert!(nothing.writes(b"anything") && nothing.writes_everywhere());
    place.appoint(shared().primary());
    let reading = known(&view).await;

    let names = |sql: &str| {
        let rows = shared().primary().sql_in(&place.tenant.name, sql).unwrap();
        rows.column().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let expected = |name: &str| if name.starts_with("r_") { Standing::Reads } else { Standing::Writes };
    let functions = names("SELECT DISTINCT proname::text FROM pg_proc WHERE proname ~ '^[rw]_' ORDER BY 1");
    let wrong: Vec<_> = functions.iter().filter(|f| reading.function(f.as_bytes()) != expected(f)).collect();
    assert!(wrong.is_empty(), "functions judged wrongly: {wrong:?}");
    let relations = names(
        "SELECT relname::text FROM pg_class WHERE relname ~ '^[rw]_' AND relkind NOT IN ('i', 'S')
        UNION SELECT typname FROM pg_type WHERE typname ~ '^[rw]_' ORDER BY 1",
    );
    let wrong: Vec<_> =
        relations.iter().filter(|name| reading.writes(name.as_bytes()) != name.starts_with("w_")).collect();
    assert!(wrong.is_empty(), "relations and types judged wrongly: {wrong:?}");
    assert!(!reading.writes_everywhere());
    assert!(functions.len() > 25 && relations.len() > 35, "{} {}", functions.len(), relations.len());

    // and PostgreSQL agrees that they can be
    let readable = names(
        "SELECT relname::text FROM pg_class WHERE relname ~ '^r_' AND relkind IN ('r', 'v') AND relpersistence = 'p'",
    );
    assert!(readable.len() > 8);
    let each = readable.iter().map(|name| format!("SELECT FROM public.{name}")).collect::<Vec<_>>().join("; ");
    shared().primary().sql_in(&place.tenant.name, &format!("BEGIN READ ONLY; {each}; COMMIT")).unwrap();

    // what pg_proc says, of all schemas
    for (name, standing) in [
        ("upper", Standing::Reads),
        ("lower", Standing::Writes),
        ("now", Standing::Reads),
        ("nextval", Standing::Writes),
        ("random", Standing::Reads),
        ("pg_sleep_for", Standing::Writes),
        ("pg_advisory_lock", Standing::Writes),
        ("count", Standing::Reads),
        ("row_number", Standing::Reads),
        ("_pg_expandarray", Standing::Reads),
        ("nobody", Standing::Unknown),
        ("dblink", Standing::Writes),
        ("hstore", Standing::Reads),
        ("similarity", Standing::Reads),
        ("system_rows", Standing::Reads),
    ] {
        assert_eq!(reading.function(name.as_bytes()), standing, "{name}");
    }
    for (name, writes) in [
        ("attribute", true),
        ("attribute_of_all", true),
        ("attribute_of_record", true),
        ("attribute_of_text", false),
        ("attribute_of_two", false),
        ("attribute_that_reads", false),
        ("r_table_id_seq", true),
        ("w_volatile", false),
    ] {
        assert_eq!(reading.writes(name.as_bytes()), writes, "{name}");
    }
}

#[test]
fn a_statement_that_may_change_it_has_the_catalogue_read_again_and_a_plain_table_does_not() {
    for mode in ["transaction", "session"] {
        let (primary, tenant) = (shared().primary(), Tenant::shared());
        let howdah = Howdah::before(std::slice::from_ref(primary), &format!("[pool]\nmode = \"{mode}\"\n"));
        let mut client = howdah.login(&tenant);
        let connections = || {
            let sql = format!("SELECT sessions FROM pg_stat_database WHERE datname = '{}'", tenant.name);
            primary.sql(&sql).unwrap().cell().unwrap().parse::<i64>().unwrap()
        };
        assert_eq!(client.value("SELECT 1"), "1");
        eventually("the client's connection and the first read's", SOON, || connections() == 2);
        let mut expected = 2;
        for (sql, rereads) in [
            ("CREATE TABLE t (id bigserial, type text)", false),
            ("CREATE INDEX ON t (id)", false),
            ("ALTER TABLE t ADD view int", false),
            ("CREATE VIEW v AS SELECT 1", true),
            ("BEGIN; CREATE POLICY p ON t USING (true); COMMIT", true),
            ("ALTER TABLE t SET UNLOGGED", true),
            ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", true),
            ("DROP TABLE t", false),
            ("CREATE EXTENSION citext", true),
        ] {
            client.query(sql);
            expected += i64::from(rereads);
            eventually(sql, SOON, || connections() >= expected);
        }
        assert_eq!(connections(), expected, "{mode}");
    }
}

#[tokio::test]
async fn what_is_true_still_keeps_its_generation_and_another_primary_is_asked_at_once() {
    let place = Place::with("CREATE UNLOGGED TABLE u (a int); CREATE TABLE t (a int);");
    place.appoint(shared().primary());
    let view = place.view();
    let first = known(&view).await;
    assert!(first.writes(b"u") && !first.writes(b"t"));
    view.outdate();
    assert!(view.reading().generation() == 0 && matches!(**view.read(), Hidden::Known(_)), "only what may be read");
    let same = known(&view).await;
    assert_eq!(same.generation(), first.generation());
    place.sql("ALTER TABLE t SET UNLOGGED");
    view.doubt();
    let second = known(&view).await;
    assert!(second.writes(b"t") && second.generation() > first.generation());
    let elsewhere = known(&Place::with_primary("").view()).await;
    assert!(elsewhere.generation() > second.generation() && !elsewhere.writes(b"t"));

    // behind howdah's back
    place.sql("CREATE UNLOGGED TABLE late (a int)");
    assert!(!view.reading().writes(b"late"));
    place.appoint_called("other");
    let deadline = Instant::now() + SOON;
    while !view.reading().writes(b"late") {
        assert!(Instant::now() < deadline, "another primary is not asked within {SOON:?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn operators_and_casts_that_nobody_names_keep_everything_from_standbys_and_others_their_types() {
    let place = Place::with(
        "CREATE TYPE pair AS (a int, b int); CREATE DOMAIN half AS pair; CREATE TABLE t (p pair);
        CREATE FUNCTION equal(pair, pair) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN true; END $$;
        CREATE FUNCTION compare(pair, pair) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END $$;
        CREATE FUNCTION steady(pair, pair) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN true; END $$;
        CREATE FUNCTION from_text(text) RETURNS pair LANGUAGE plpgsql AS $$ BEGIN RETURN (1, 2); END $$;
        CREATE FUNCTION to_text(pair) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 'x'; END $$;",
    );
    place.appoint(shared().primary());
    let view = place.view();
    for (made, gone, everywhere, names) in [
        (
            "CREATE OPERATOR ## (FUNCTION = steady, LEFTARG = pair, RIGHTARG = pair)",
            "DROP OPERATOR ## (pair, pair)",
            false,
            "",
        ),
        (
            "CREATE OPERATOR ## (FUNCTION = equal, LEFTARG = pair, RIGHTARG = pair)",
            "DROP OPERATOR ## (pair, pair)",
            true,
            "",
        ),
        ("CREATE OPERATOR ## (FUNCTION = setseed, RIGHTARG = float8)", "DROP OPERATOR ## (NONE, float8)", true, ""),
        (
            "CREATE OPERATOR CLASS c FOR TYPE pair USING btree AS OPERATOR 3 pg_catalog.= (record, record), FUNCTION 1 compare(pair, pair)",
            "DROP OPERATOR FAMILY c USING btree",
            true,
            "",
        ),
        ("CREATE CAST (text AS pair) WITH FUNCTION from_text AS IMPLICIT", "DROP CAST (text AS pair)", true, ""),
        (
            "CREATE CAST (text AS pair) WITH FUNCTION from_text AS ASSIGNMENT",
            "DROP CAST (text AS pair)",
            false,
            "pair half",
        ),
        ("CREATE CAST (text AS pair) WITH FUNCTION from_text", "DROP CAST (text AS pair)", false, "pair half"),
        // text has other names: varchar, character varying
        ("CREATE CAST (pair AS text) WITH FUNCTION to_text", "DROP CAST (pair AS text)", true, ""),
    ] {
        place.sql(made);
        view.doubt();
        let reading = known(&view).await;
        assert_eq!(reading.writes_everywhere(), everywhere, "{made}");
        let writing = ["pair", "half", "t"].into_iter().filter(|name| !everywhere && reading.writes(name.as_bytes()));
        assert_eq!(writing.collect::<Vec<_>>().join(" "), names, "{made}");
        place.sql(gone);
        view.doubt();
        let reading = known(&view).await;
        assert!(!reading.writes_everywhere() && !reading.writes(b"pair"), "{gone}");
    }
}
