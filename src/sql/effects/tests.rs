//! Which effects which text has.

use super::*;
use proptest::prelude::*;

#[test]
fn what_lasts_is_found_wherever_it_stands() {
    const E: Effects = Effects::NONE;
    for (sql, effects) in [
        ("select a, b from t where c = 1", E),
        ("update t set a = 1, b = default where c = 2", E),
        ("select set, \"set\" from t; begin; commit", E),
        ("set work_mem = '1MB'", Effects::SETS),
        ("SET x TO default", Effects::SETS | Effects::RESETS),
        ("set local x = 1; set transaction read only; set constraints all deferred", E),
        ("set session x = 1", Effects::SETS),
        ("set \"app.tenant\" to 'default'", Effects::SETS),
        ("begin; reset all", Effects::SETS | Effects::RESETS),
        ("discard all", Effects::SETS | Effects::RESETS | Effects::FREES),
        ("select pg_catalog.set_config('a', 'b', true)", E),
        ("select set_config('a', 'b', false)", Effects::SETS),
        ("select set_config('a'] || ']', 'b', false)", Effects::HIDES),
        ("select set_config('a', $1, false)", Effects::SETS | Effects::RESETS),
        ("select set_config($1, $2, true)", E),
        ("select set_config('a' || x, 'b', false)", Effects::HIDES),
        ("select \"set_config\"($1, $2, $3)", Effects::HIDES),
        ("select U&\"set\\005Fconfig\"('a', 'b', false)", Effects::HIDES),
        ("select 'it''s' 'set_config'", E),
        (r"select '\', set_config('a', 'b', false), '", Effects::HIDES | Effects::SETS),
        (r"select 'a\'' || 'b'", Effects::HIDES),
        (r"select 'c:\dir'", E),
        ("update pg_catalog.pg_settings set setting = 1", Effects::HIDES),
        ("select * from pg_settings", E),
        ("create temp table t (a int)", Effects::CREATES | Effects::TEMPORARY | Effects::REFERS),
        ("create table pg_temp.t (a int)", Effects::CREATES | Effects::TEMPORARY | Effects::REFERS),
        ("create index on t (a)", Effects::CREATES | Effects::REFERS),
        ("alter table t add b int", Effects::REFERS),
        ("alter function f() volatile", Effects::DEFINES | Effects::OUTDATES),
        ("select 1 into temp t", Effects::TEMPORARY),
        ("explain (analyze, costs off) create temp table t as select 1", {
            Effects::CREATES | Effects::TEMPORARY | Effects::REFERS
        }),
        ("explain analyze verbose execute p(1)", Effects::HIDES),
        ("select pg_advisory_lock(1)", Effects::ADVISORY),
        ("select pg_advisory_xact_lock(1), pg_try_advisory_xact_lock(2)", E),
        ("select pg_advisory_unlock_all()", Effects::FREES),
        ("listen x", Effects::LISTENS),
        ("select listen from t", E),
        ("declare c cursor with hold for select 1", Effects::HOLDS),
        ("declare c cursor without hold for select 1", E),
        ("declare c cursor for select 1", E),
        ("prepare p as select 1", Effects::PREPARES),
        ("prepare transaction 'x'", E),
        ("load 'auto_explain'", Effects::LASTING),
        ("do $$ begin perform setseed(1); end $$", Effects::HIDES | Effects::LASTING),
        ("insert into t values (1)", Effects::MOVES_SEQUENCE),
        ("with x as (insert into t values (1) returning *) select * from x", Effects::MOVES_SEQUENCE),
        ("select lastval()", Effects::READS_SEQUENCE),
        ("/* set x = 1 */ -- set x = 1\n select $$set x = 1; do$$", E),
    ] {
        assert_eq!(Effects::of(sql.as_bytes()), effects, "{sql}");
    }
}

#[test]
fn what_may_be_read_on_a_standby_is_outdated_by_what_may_change_it_only() {
    let outdates = |sql: &str| Effects::of(sql.as_bytes()).any(Effects::OUTDATES);
    for sql in [
        "create function f() returns int language sql as 'select 1'",
        "CREATE OR REPLACE PROCEDURE p() language sql as ''",
        "create view v as select 1",
        "create or replace recursive view v (n) as select 1",
        "create rule r as on select to t do instead select 1",
        "create policy p on t using (f())",
        "create operator ## (function = f, leftarg = int)",
        "create cast (a as b) with function f",
        "create domain d as int check (f(value))",
        "create type t as (a d)",
        "create extension if not exists x",
        "create foreign table f (a int) server s",
        "create unlogged table t (a int)",
        "create sequence s",
        "create schema s create table a (b int) create view v as select 1",
        "alter function f() volatile",
        "alter routine f() immutable",
        "alter view v rename to w",
        "alter table only v rename to w",
        "alter sequence s rename to r",
        "alter table t set unlogged",
        "alter table t attach partition p default",
        "alter table f inherit t",
        "alter extension x update",
        "alter domain d add check (f(value))",
        "import foreign schema a from server s into b",
        "select 1 into unlogged t",
        "select 1; create view v as select 1",
        "explain (analyze) create unlogged table t as select 1",
        "do $$ begin if a then create view v as select 1; end if; end $$",
        "do $$ begin execute 'CREATE' || ' VIEW v AS SELECT 1'; end $$",
    ] {
        assert!(outdates(sql), "{sql}");
    }
    for sql in [
        "create table t (id bigserial primary key, type text, function text, view text, policy int)",
        "create table if not exists t partition of p for values in (1)",
        "create table v as select 1",
        "create temp table t (a int)",
        "create temporary view v as select 1",
        "create temp sequence s",
        "create unique index concurrently i on t (type)",
        "create trigger t before insert on t for each row execute function f()",
        "create materialized view v as select 1",
        "create schema s",
        "create role r",
        "create database d",
        "create statistics s on a, b from t",
        "alter table t add type text, rename",
        "alter table t rename column a to b",
        "alter table t rename a to b",
        "alter table t alter type drop default, add constraint c check (a > 0)",
        "alter sequence s owned by t.a",
        "alter index i rename to j",
        "alter role r set work_mem = 1",
        "alter default privileges grant select on tables to r",
        "drop function f(); drop view v",
        "grant select on t to r; comment on view v is 'x'; refresh materialized view v",
        "do $$ begin perform f(); end $$",
        "select create, view, function from t",
        "insert into t (unlog, type) values ('create view')",
    ] {
        assert!(!outdates(sql), "{sql}");
    }
}

#[test]
fn every_pin_has_a_name() {
    let all = Effects::PINS.iter().fold(Effects::NONE, |all, (pin, _)| all | *pin);
    assert_eq!(all, Effects::PINNING);
}

#[test]
fn names_are_compared_as_postgresql_folds_them() {
    let names = |sql: &str, name: &[u8]| mentions(sql.as_bytes(), &mut |word| word == name);
    assert!(names("select My_Function()", b"my_function"));
    assert!(names("select \"My\"()", b"My") && !names("select \"My\"()", b"my"));
    assert!(!names("select 'my_function'", b"my_function"));
    assert!(names("select U&\"x\"", b"anything"));
    let long = "a".repeat(70);
    assert!(names(&format!("select {long}()"), &long.as_bytes()[..63]));
}

proptest! {
    #[test]
    fn any_bytes_have_effects(sql in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Effects::of(&sql);
    }

    #[test]
    fn a_set_is_found_behind_any_statement(before in "[a-z0-9 (),'=]{0,30}") {
        let quotes = before.matches('\'').count();
        let (open, close) = (before.matches('(').count(), before.matches(')').count());
        prop_assume!(quotes == 0 && open == close && open < 2 && !before.contains(")("));
        let sql = format!("{before}; set work_mem = 1");
        prop_assert!(open > 0 || Effects::of(sql.as_bytes()).any(Effects::SETS));
    }
}
