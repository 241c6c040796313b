//! What hides a change of session state in a database is found, and a database without it is known to be harmless.

use std::sync::Arc;
use std::time::{Duration, Instant};

use howdah::catalog::{Hidden, HiddenCatalog, HiddenView, Monitor, WatchedCluster, WatchedNode};
use howdah::config::{ChannelBinding, Network};
use howdah::net::dial::{Dialer, Target};
use howdah::net::way::Way;
use howdah::sql::effects::Effects;
use howdah::topology::{Board, ClusterView, Topology};

use crate::support::{Howdah, Node, SOON, Tenant, config, eventually, free_port, shared};

/// A database of the shared primary, and what is known of it.
pub struct Place {
    pub tenant: Tenant,
    catalog: Arc<HiddenCatalog>,
    board: Arc<Board>,
}

impl Place {
    /// With these objects in it.
    pub fn with(sql: &str) -> Self {
        let tenant = Tenant::shared();
        let node = shared().primary();
        let node_there = |sql| node.sql_in(&tenant.name, sql).unwrap_or_else(|error| panic!("{error}: {sql}"));
        sql.split("\n\n").for_each(|statements| drop(node_there(statements)));
        let board = Arc::new(Board::new());
        let catalog = HiddenCatalog::start(vec![watched(node)], Arc::clone(&board));
        Self { tenant, catalog, board }
    }

    /// The same with its primary known.
    pub fn with_primary(sql: &str) -> Self {
        let place = Self::with(sql);
        place.appoint(shared().primary());
        place
    }

    pub fn sql(&self, sql: &str) {
        shared().primary().sql_in(&self.tenant.name, sql).unwrap();
    }

    pub fn view(&self) -> Arc<HiddenView> {
        self.catalog.view("main", &self.tenant.name)
    }

    pub fn appoint(&self, node: &Node) {
        self.appoint_called(node.name());
    }

    pub fn appoint_called(&self, name: &str) {
        let view = ClusterView { primary: Some(name.into()), ..ClusterView::default() };
        self.board.publish(Topology { clusters: [("main".into(), Arc::new(view))].into() });
    }
}

pub fn watched(node: &Node) -> WatchedCluster {
    let target = Target { host: node.host().parse().unwrap(), port: node.port() };
    let channel_binding = ChannelBinding::Prefer;
    let way = Way { target, tls: None, channel_binding, dialer: Dialer::new(&Network::default()) };
    // twice, as if there were two
    let nodes = [node.name(), "other"].map(|name| WatchedNode { name: name.into(), way: Arc::new(way.clone()) });
    let monitor = Monitor {
        user: node.superuser().to_owned(),
        password: Some(howdah::config::Secret::new(node.password().to_owned())),
        dbname: "postgres".to_owned(),
        interval: Duration::from_secs(1),
        lag_interval: Duration::from_secs(1),
        timeout: SOON,
        failure_threshold: 3,
    };
    WatchedCluster { name: "main".into(), nodes: nodes.into(), monitor: Some(monitor), max_lag: 0 }
}

/// Waits until the view knows something.
async fn known(view: &HiddenView) -> howdah::catalog::hidden::Names {
    let deadline = Instant::now() + SOON;
    loop {
        if let Hidden::Known(names) = &**view.read() {
            return names.clone();
        }
        assert!(Instant::now() < deadline, "nothing is known within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One of each. Blank lines part what must not be one transaction.
const EVERYWHERE: &str = "
CREATE FUNCTION h_sql() RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.sql', 'x', false) $$;
CREATE FUNCTION h_plpgsql() RETURNS void LANGUAGE plpgsql AS $$ BEGIN SET app.plpgsql = 'x'; END $$;
CREATE PROCEDURE h_procedure() LANGUAGE plpgsql AS $$ BEGIN IF true THEN SET app.procedure = 'x'; END IF; END $$;
CREATE FUNCTION h_atomic() RETURNS text BEGIN ATOMIC SELECT set_config('app.atomic', 'x', false); END;
CREATE FUNCTION h_dynamic() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'se' || 't app.dynamic = 1'; END $$;
CREATE FUNCTION h_definer() RETURNS void SECURITY DEFINER SET work_mem = '1MB' LANGUAGE plpgsql
    AS $$ BEGIN PERFORM set_config('app.definer', 'x', false); END $$;
CREATE FUNCTION h_query() RETURNS SETOF int LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXECUTE 'SELECT 1'; END $$;
CREATE FUNCTION h_lock() RETURNS void LANGUAGE sql AS $$ SELECT pg_advisory_lock(1) $$;
CREATE FUNCTION h_alias(text, text, bool) RETURNS text LANGUAGE internal AS 'set_config_by_name';
CREATE FUNCTION h_argument(a text DEFAULT set_config('app.argument', 'x', false)) RETURNS text LANGUAGE sql AS $$ SELECT a $$;
CREATE FUNCTION \"H Quoted\"() RETURNS text LANGUAGE sql AS $$ SELECT h_sql() $$;
CREATE FUNCTION h_wrapper() RETURNS text LANGUAGE sql AS $$ SELECT \"H Quoted\"() $$;
CREATE FUNCTION h_atomic_wrapper() RETURNS text BEGIN ATOMIC SELECT h_wrapper(); END;
CREATE FUNCTION h_state(s text, a int) RETURNS text LANGUAGE sql AS $$ SELECT h_sql() $$;
CREATE AGGREGATE h_aggregate(int) (SFUNC = h_state, STYPE = text);
CREATE FUNCTION h_trigger() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN PERFORM set_config('app.trigger', 'x', false); RETURN new; END $$;
CREATE FUNCTION harmless_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.a = 1; RETURN new; END $$;
CREATE TABLE h_triggered (id int PRIMARY KEY, a int);
CREATE TRIGGER a BEFORE INSERT ON h_triggered FOR EACH ROW EXECUTE FUNCTION h_trigger();
CREATE TABLE h_when (id int PRIMARY KEY, a int);
CREATE TRIGGER a BEFORE INSERT ON h_when FOR EACH ROW
    WHEN (set_config('app.when', 'x', false) = 'x') EXECUTE FUNCTION harmless_trigger();
CREATE VIEW h_view AS SELECT set_config('app.view', 'x', false);
CREATE VIEW h_view_of_function AS SELECT h_sql();
CREATE VIEW h_view_of_view AS SELECT * FROM h_view_of_function;
CREATE VIEW h_lock_view AS SELECT pg_try_advisory_lock(1);
CREATE MATERIALIZED VIEW h_matview AS SELECT h_wrapper() WITH NO DATA;
CREATE TABLE h_default (a text DEFAULT set_config('app.default', 'x', false));
CREATE TABLE h_default_function (a text DEFAULT h_sql());
CREATE TABLE h_check (a text CHECK (set_config('app.check', 'x', false) = 'x'));
CREATE DOMAIN h_domain AS text CHECK (set_config('app.domain', VALUE, false) = VALUE);
CREATE DOMAIN h_domain_of_domain AS h_domain;
CREATE DOMAIN h_domain_default AS text DEFAULT h_sql();
CREATE TABLE h_column (a h_domain_of_domain);
CREATE TABLE h_array (a h_domain[]);
CREATE TYPE h_composite AS (a h_domain);
CREATE TABLE h_composed (a h_composite[]);
CREATE FUNCTION h_takes(a h_domain) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE TABLE h_rule (a int);
CREATE RULE a AS ON INSERT TO h_rule DO ALSO SELECT set_config('app.rule', 'x', false);
CREATE TABLE h_policy (a int);
CREATE POLICY a ON h_policy USING (set_config('app.policy', 'x', false) = 'x');
CREATE TABLE h_policy_function (a int);
CREATE POLICY a ON h_policy_function WITH CHECK (h_wrapper() = 'x');
CREATE FUNCTION h_immutable(a int) RETURNS text IMMUTABLE LANGUAGE plpgsql
    AS $$ BEGIN RETURN set_config('app.index', 'x', false); END $$;
CREATE TABLE h_index (a int);
CREATE INDEX ON h_index (h_immutable(a));
CREATE TABLE h_predicate (a int);
CREATE INDEX ON h_predicate (a) WHERE h_immutable(a) = 'x';
CREATE TABLE h_generated (a int, b text GENERATED ALWAYS AS (h_immutable(a)) STORED);
CREATE TABLE h_partitioned (a int) PARTITION BY LIST (h_immutable(a));
CREATE TABLE parent_of_cascade (id int PRIMARY KEY);
CREATE TABLE h_child (id int REFERENCES parent_of_cascade ON DELETE CASCADE);
CREATE TRIGGER a BEFORE DELETE ON h_child FOR EACH ROW EXECUTE FUNCTION h_trigger();
CREATE TABLE parent_truncated (id int PRIMARY KEY);
CREATE TABLE h_truncated (id int REFERENCES parent_truncated);
CREATE TRIGGER a BEFORE TRUNCATE ON h_truncated EXECUTE FUNCTION h_trigger();
CREATE TABLE parent_untouched (id int PRIMARY KEY);
CREATE TABLE h_refers (id int REFERENCES parent_untouched);
CREATE TRIGGER a BEFORE DELETE ON h_refers FOR EACH ROW EXECUTE FUNCTION h_trigger();
CREATE TABLE parent_of_partition (a int) PARTITION BY LIST (a);
CREATE TABLE h_partition PARTITION OF parent_of_partition FOR VALUES IN (1);
CREATE TRIGGER a BEFORE INSERT ON h_partition FOR EACH ROW EXECUTE FUNCTION h_trigger();
CREATE TABLE sister_partition PARTITION OF parent_of_partition FOR VALUES IN (2);
CREATE FUNCTION h_writes() RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO h_triggered VALUES (1); END $$;
CREATE VIEW h_query_view AS SELECT query_to_xml('SELECT 1', true, true, '');
CREATE VIEW h_settings AS SELECT * FROM pg_settings;
CREATE EXTENSION dblink; CREATE EXTENSION tablefunc; CREATE EXTENSION hstore; CREATE EXTENSION pg_trgm;
CREATE TABLE harmless_serial (id serial PRIMARY KEY, h hstore, a text CHECK (length(a) > 1) DEFAULT 'x' || now());
CREATE INDEX ON harmless_serial (lower(a)) WHERE a LIKE 'x%';
CREATE VIEW harmless_view AS SELECT count(*) FROM harmless_serial;
CREATE FUNCTION harmless_local() RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.local', 'x', true) $$;
CREATE FUNCTION harmless_clause(a int) RETURNS int SET search_path = public LANGUAGE sql AS $$ SELECT a $$;
";

#[tokio::test]
async fn every_hiding_place_is_found_and_what_is_harmless_is_not() {
    let place = Place::with(EVERYWHERE);
    let view = place.view();
    assert_eq!(**view.read(), Hidden::Unknown, "there is no primary yet");
    place.appoint(shared().primary());
    let names = known(&view).await;

    let all = "SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind NOT IN ('i', 'I', 'S') AND relname <> 'dblink_pkey_results'
        UNION SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype = 'd' ORDER BY 1";
    let all = shared().primary().sql_in(&place.tenant.name, all).unwrap();
    let hides = |name: &&str| {
        let expected = name.starts_with("h_")
            || name.starts_with("dblink")
            || name.starts_with("crosstab")
            || ["H Quoted", "connectby", "set_limit", "parent_of_cascade", "parent_truncated"].contains(name)
            || ["parent_of_partition", "sister_partition"].contains(name);
        expected != names.contains(name.as_bytes())
    };
    let wrong: Vec<_> = all.column().into_iter().filter(hides).collect();
    assert!(wrong.is_empty(), "judged wrongly: {wrong:?}");
    assert_eq!(names.everywhere(), Effects::NONE);
    assert!(!names.is_empty() && !names.contains(b"select") && !names.contains(b"now"));

    // what they do, and what they set
    assert_eq!(names.effects(b"h_lock"), Effects::ADVISORY);
    assert_eq!(names.effects(b"h_wrapper"), Effects::SETS);
    assert!(names.effects(b"h_dynamic").any(Effects::HIDES) && names.effects(b"h_lock_view").any(Effects::ADVISORY));
    let settings: Vec<_> = names.settings().iter().map(|name| std::str::from_utf8(name).unwrap()).collect();
    let expected =
        "argument atomic check default definer domain index plpgsql policy procedure rule sql trigger view when";
    assert_eq!(settings, expected.split(' ').map(|name| format!("app.{name}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn operators_casts_and_event_triggers_make_everything_suspicious() {
    let function =
        "CREATE FUNCTION f(a int, b int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN SET a.b = 1; RETURN true; END $$;
        CREATE FUNCTION c(a json) RETURNS int LANGUAGE plpgsql AS $$ BEGIN SET a.b = 1; RETURN 1; END $$;
        CREATE FUNCTION e() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN SET a.b = 1; END $$;";
    let place = Place::with(function);
    place.appoint(shared().primary());
    let view = place.view();
    let mut names = known(&view).await;
    assert_eq!(names.everywhere(), Effects::NONE);
    for (made, gone) in [
        ("CREATE OPERATOR ?? (FUNCTION = f, LEFTARG = int, RIGHTARG = int)", "DROP OPERATOR ?? (int, int)"),
        ("CREATE CAST (json AS int) WITH FUNCTION c", "DROP CAST (json AS int)"),
        ("CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION e()", "ALTER EVENT TRIGGER e DISABLE"),
    ] {
        place.sql(made);
        view.doubt();
        names = known(&view).await;
        assert!(names.contains(b"anything"), "{made}");
        place.sql(gone);
        view.doubt();
        names = known(&view).await;
        assert!(!names.contains(b"anything"), "{gone}");
    }
    assert!(names.contains(b"f"));
}

#[tokio::test]
async fn a_database_where_nothing_hides_is_known_to_be_harmless() {
    let node = shared().primary();
    let place = Place::with(
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.at := now(); RETURN NEW; END $$;
         CREATE TABLE t (id bigserial PRIMARY KEY, at timestamptz DEFAULT now(), CHECK (id > 0));
         CREATE TRIGGER touch BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch();
         CREATE FUNCTION log(x text) RETURNS bigint LANGUAGE sql AS $$ INSERT INTO t DEFAULT VALUES RETURNING id $$;
         CREATE VIEW recent AS SELECT * FROM t WHERE at > now() - interval '1 day' AND (id IN (SELECT log('x')));
         CREATE EXTENSION hstore; CREATE EXTENSION pgcrypto; CREATE EXTENSION citext;",
    );
    let url = place.tenant.url(node.port());
    let pgbench = node.command("pgbench").args(["-i", "-q", "-s", "1", &url]).output().unwrap();
    assert!(pgbench.status.success(), "{}", String::from_utf8_lossy(&pgbench.stderr));
    place.appoint(node);
    let names = known(&place.view()).await;
    assert!(names.is_empty(), "{names:?}");
    assert!(names.settings().is_empty());
    // which does not mean that nothing happens
    assert_eq!(names.effects(b"recent"), Effects::MOVES_SEQUENCE);
}

#[tokio::test]
async fn of_postgresqls_own_extensions_only_few_functions_hide_anything() {
    let place = Place::with("");
    let install = "DO $$ DECLARE e text; BEGIN
        FOR e IN SELECT name FROM pg_available_extensions WHERE name NOT LIKE 'pl%' AND name NOT LIKE '%\\_pl%' LOOP
            EXECUTE format('CREATE EXTENSION IF NOT EXISTS %I CASCADE', e);
        END LOOP; END $$";
    place.sql(install);
    place.appoint(shared().primary());
    let names = known(&place.view()).await;
    let all = "SELECT proname::text FROM pg_proc WHERE oid >= 16384 UNION SELECT relname FROM pg_class
        WHERE oid >= 16384 AND relkind <> 'c' ORDER BY 1";
    let all = shared().primary().sql_in(&place.tenant.name, all).unwrap();
    let hides = |name: &&str| {
        let known_to = ["check_", "connectby", "crosstab", "dblink"].iter().any(|start| name.starts_with(start));
        let known_to = known_to || ["isn_weak", "set_limit", "xpath_table"].contains(name);
        known_to != names.contains(name.as_bytes())
    };
    let wrong: Vec<_> = all.column().into_iter().filter(hides).collect();
    assert!(wrong.is_empty(), "judged wrongly: {wrong:?}");
    assert_eq!(names.everywhere(), Effects::NONE);
}

#[tokio::test]
async fn after_a_doubt_nothing_is_known_until_the_new_function_is() {
    let place = Place::with("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;");
    place.appoint(shared().primary());
    let view = place.view();
    assert!(known(&view).await.is_empty());
    for round in 0..3 {
        place.sql(&format!("CREATE FUNCTION f{round}() RETURNS void LANGUAGE plpgsql AS $$ BEGIN SET a.b = 1; END $$"));
        view.doubt();
        assert_eq!(**view.read(), Hidden::Unknown);
        // a second one that may well arrive during the read is not lost either
        tokio::time::sleep(Duration::from_millis(15 * round)).await;
        place.sql(&format!("CREATE FUNCTION g{round}() RETURNS void LANGUAGE plpgsql AS $$ BEGIN SET a.b = 1; END $$"));
        view.doubt();
        let names = known(&view).await;
        assert!(names.contains(format!("f{round}").as_bytes()) && names.contains(format!("g{round}").as_bytes()));
    }
}

#[tokio::test]
async fn the_owner_of_a_database_cannot_make_the_monitor_run_what_is_theirs() {
    let place = Place::with(
        "CREATE SCHEMA trap; CREATE TABLE trap.sprung (a int);
         CREATE FUNCTION trap.spring(a oid, b oid) RETURNS bool LANGUAGE sql AS $$ INSERT INTO trap.sprung VALUES (1); SELECT true $$;
         CREATE OPERATOR trap.= (FUNCTION = trap.spring, LEFTARG = oid, RIGHTARG = oid);
         CREATE FUNCTION trap.octet_length(text) RETURNS int LANGUAGE sql AS $$ INSERT INTO trap.sprung VALUES (1); SELECT 1 $$;",
    );
    let name = &place.tenant.name;
    shared().primary().sql(&format!("ALTER DATABASE {name} SET search_path = trap, pg_catalog")).unwrap();
    place.appoint(shared().primary());
    known(&place.view()).await;
    let sprung = || shared().primary().sql_in(name, "SELECT count(*) FROM trap.sprung").unwrap();
    assert_eq!(sprung().cell(), Some("0"));
    place.sql("SELECT 1::oid = 2::oid");
    assert_eq!(sprung().cell(), Some("1"), "this is how a careless monitor would have stepped into it");
}

#[test]
fn a_database_the_monitor_may_not_enter_is_named_once_in_the_log_and_in_the_status() {
    let (primary, tenant) = (shared().primary(), Tenant::shared());
    let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
    let monitor = format!("{}_monitor", tenant.name);
    let grants = format!(
        "CREATE ROLE {monitor} LOGIN PASSWORD 'watching'; GRANT pg_monitor TO {monitor};
         GRANT SELECT ON pg_authid TO {monitor}; REVOKE CONNECT ON DATABASE {0} FROM public",
        tenant.name
    );
    primary.sql(&grants).unwrap();
    let toml = config(std::slice::from_ref(primary), port, http_port, "");
    let toml = toml
        .replace(&format!("user = \"{}\"", primary.superuser()), &format!("user = \"{monitor}\""))
        .replace(&format!("password = \"{}\"", primary.password()), "password = \"watching\"");
    let howdah = Howdah::start(&toml, port, http_port);
    let mut client = howdah.login(&tenant);
    assert_eq!(client.value("SELECT 1"), "1");
    let missing = || howdah.status()["missing"].to_string();
    eventually("it is missed", SOON, || missing().contains(&tenant.name));
    let line = missing();
    assert!(line.contains(&monitor) && line.contains("permission denied for database"), "{line}");
    let told = || howdah.log().matches("the catalogue of a database cannot be read").count();
    eventually("it is in the log", SOON, || told() == 1);

    primary.sql(&format!("GRANT CONNECT ON DATABASE {} TO {monitor}", tenant.name)).unwrap();
    eventually("it is not missed any more", SOON, || !missing().contains(&tenant.name));
    assert_eq!(told(), 1, "more than once:\n{}", howdah.log());
    assert!(howdah.log().contains("can be read again"));
}

#[test]
fn what_a_session_in_session_mode_defines_is_known_to_those_that_share_servers() {
    let tenant = Tenant::shared();
    let name = &tenant.name;
    let whole =
        format!("[databases.whole]\ncluster = \"main\"\ndbname = \"{name}\"\npool = {{ mode = \"session\" }}\n");
    let howdah = Howdah::shared(&format!("[pool]\nsize = 1\n\n{whole}"));
    let (mut client, mut other, mut owner) = (howdah.login(&tenant), howdah.login(&tenant), howdah.wire());
    owner.login(name, &tenant.password, "whole");
    let setup = "CREATE TABLE t (i int); CREATE FUNCTION sets() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN PERFORM set_config('app.leak', 'x', false); RETURN new; END $$";
    assert!(client.query(setup).iter().all(|m| m.tag != b'E'));
    let question = format!(r#"{{"database": "{name}", "user": "{name}", "sql": "SELECT sets()"}}"#);
    eventually("the function is known", SOON, || {
        crate::explain::post(howdah.http_port(), question.as_bytes()).1.contains(r#""standing":"may_write""#)
    });
    assert_eq!(client.query_short("INSERT INTO t VALUES (1)"), ["C:INSERT 0 1", "Z:I"]);
    let trigger = "CREATE TRIGGER a BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION sets()";
    assert_eq!(owner.query_short(trigger), ["C:CREATE TRIGGER", "Z:I"]);
    for _ in 0..3 {
        assert_eq!(client.query_short("INSERT INTO t VALUES (1)"), ["C:INSERT 0 1", "Z:I"]);
        assert_eq!(other.value("SELECT coalesce(current_setting('app.leak', true), '')"), "");
    }
    eventually("it is the client's own once it is known where it is set", SOON, || {
        client.query("INSERT INTO t VALUES (1)");
        client.value("SELECT coalesce(current_setting('app.leak', true), '')") == "x"
    });
    assert_eq!(other.value("SELECT coalesce(current_setting('app.leak', true), '')"), "");
}
