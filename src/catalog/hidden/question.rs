//! What a database is asked to find what hides in it, and what its answer says.
//!
//! One exchange on a connection of its own, in one snapshot. PostgreSQL's dependencies tell who uses whom among what users
//! have made (`CATALOG-PG-DEPEND`); they do not record its own functions, so expressions are searched for those. What is
//! too large to be looked into is taken for the worst.

use std::collections::HashMap;

use tokio_postgres::SimpleQueryRow;

use super::graph::{Graph, Kind, Object};
use super::names::Names;
use super::source::{BUILT_INS, Source, built_in, library_effects, tree_effects, tree_settings};
use crate::sql::effects::Effects;

/// First on a connection. Nothing the database's owner has made is looked up instead of what is meant, and a question
/// nobody waits for any more ends.
pub const PREPARATION: &str = "\
    SET search_path = ''; SET statement_timeout = '10s'; SET lock_timeout = '1s'; SET jit = off; SET enable_nestloop = off; \
    SELECT 'v', pg_catalog.current_setting('server_version_num')";

/// Functions that are looked at; a database with more may hide anything anywhere.
const FUNCTIONS_MAX: usize = 100_000;
/// The longest source or expression that is looked into.
const TEXT_MAX: usize = 64 * 1024;
/// Bytes of sources in all; those beyond may do anything.
const SOURCES_MAX: usize = 32 * 1024 * 1024;
/// Uses that are looked at, likewise.
const USES_MAX: usize = 1_000_000;

/// Objects up to this number are PostgreSQL's own (`FirstNormalObjectId`).
const FIRST_USER_OID: u32 = 16_384;

/// `@name` stands for the catalogue's number, `#name` for a value of [`question`].
const QUESTION: &str = "\
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;

SELECT 's', 'pg_catalog.pg_settings'::regclass::oid;

SELECT 'b', oid, proname, prosrc FROM pg_catalog.pg_proc
WHERE pronamespace = 'pg_catalog'::regnamespace AND oid < #user AND proname = ANY ('{#built_ins}'::name[]);

SELECT 'f', p.oid, p.proname, l.lanname,
    CASE WHEN octet_length(p.prosrc) <= #text AND sum(octet_length(p.prosrc)) OVER (ORDER BY p.oid) <= #sources
        THEN p.prosrc END,
    p.probin
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
WHERE p.oid >= #user OR l.lanname NOT IN ('internal', 'c') ORDER BY p.oid LIMIT #functions + 1;

WITH pattern AS MATERIALIZED (
    SELECT ':(op)?funcid (' || string_agg(oid::text, '|') || ') |:relid ' || 'pg_catalog.pg_settings'::regclass::oid
        || ' ' AS pattern
    FROM pg_catalog.pg_proc
    WHERE pronamespace = 'pg_catalog'::regnamespace AND oid < #user AND proname = ANY ('{#built_ins}'::name[])
), trees (kind, oid, tree) AS (
    SELECT 'r', ev_class, ev_qual::text || ev_action::text FROM pg_catalog.pg_rewrite WHERE oid >= #user
    UNION ALL SELECT 'r', adrelid, adbin::text FROM pg_catalog.pg_attrdef WHERE oid >= #user
    UNION ALL SELECT CASE conrelid WHEN 0 THEN 'y' ELSE 'r' END, CASE conrelid WHEN 0 THEN contypid ELSE conrelid END,
        conbin::text FROM pg_catalog.pg_constraint WHERE oid >= #user AND conbin IS NOT NULL
    UNION ALL SELECT 'y', oid, typdefaultbin::text FROM pg_catalog.pg_type WHERE oid >= #user AND typdefaultbin IS NOT NULL
    UNION ALL SELECT 'r', polrelid, concat(polqual::text, polwithcheck::text) FROM pg_catalog.pg_policy
    UNION ALL SELECT 'r', indrelid, concat(indexprs::text, indpred::text) FROM pg_catalog.pg_index
        WHERE indexrelid >= #user AND (indexprs IS NOT NULL OR indpred IS NOT NULL)
    UNION ALL SELECT 'r', tgrelid, tgqual::text FROM pg_catalog.pg_trigger WHERE tgqual IS NOT NULL
    UNION ALL SELECT 'r', partrelid, partexprs::text FROM pg_catalog.pg_partitioned_table WHERE partexprs IS NOT NULL
    UNION ALL SELECT 'f', oid, concat(proargdefaults::text, #body) FROM pg_catalog.pg_proc
        WHERE oid >= #user AND proargdefaults IS NOT NULL OR #body IS NOT NULL
)
SELECT 't', t.kind, t.oid, coalesce(p.proname, c.relname, y.typname), left(t.tree, #text + 1)
FROM pattern JOIN trees t ON t.tree ~ pattern
    LEFT JOIN pg_catalog.pg_proc p ON t.kind = 'f' AND p.oid = t.oid
    LEFT JOIN pg_catalog.pg_class c ON t.kind = 'r' AND c.oid = t.oid
    LEFT JOIN pg_catalog.pg_type y ON t.kind = 'y' AND y.oid = t.oid;

WITH standing (type, kind, oid) AS MATERIALIZED (
    -- a row type stands for its relation, an array for its elements
    SELECT t.oid, CASE WHEN coalesce(e.typrelid, t.typrelid) = 0 THEN 'y' ELSE 'r' END,
        CASE WHEN coalesce(e.typrelid, t.typrelid) = 0 THEN coalesce(e.oid, t.oid) ELSE coalesce(e.typrelid, t.typrelid) END
    FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type e ON t.typcategory = 'A' AND e.oid = t.typelem
    WHERE t.oid >= #user
), owners (classid, objid, kind, oid) AS (
    SELECT @proc, oid, 'f', oid FROM pg_catalog.pg_proc WHERE oid >= #user
    UNION ALL SELECT @rewrite, oid, 'r', ev_class FROM pg_catalog.pg_rewrite WHERE oid >= #user
    UNION ALL SELECT @attrdef, oid, 'r', adrelid FROM pg_catalog.pg_attrdef WHERE oid >= #user
    UNION ALL SELECT @constraint, oid, CASE conrelid WHEN 0 THEN 'y' ELSE 'r' END,
        CASE conrelid WHEN 0 THEN contypid ELSE conrelid END FROM pg_catalog.pg_constraint WHERE oid >= #user AND contype <> 'f'
    UNION ALL SELECT @policy, oid, 'r', polrelid FROM pg_catalog.pg_policy
    UNION ALL SELECT @trigger, oid, 'r', tgrelid FROM pg_catalog.pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT @class, c.oid, 'r', coalesce(i.indrelid, c.oid) FROM pg_catalog.pg_class c
        LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid WHERE c.oid >= #user
    UNION ALL SELECT @type, type, kind, oid FROM standing
    UNION ALL SELECT @event_trigger, oid, 'e', 0 FROM pg_catalog.pg_event_trigger WHERE evtenabled <> 'D'
    UNION ALL SELECT @operator, oid, 'e', 0 FROM pg_catalog.pg_operator WHERE oid >= #user
    UNION ALL SELECT @cast, oid, 'e', 0 FROM pg_catalog.pg_cast WHERE oid >= #user
    UNION ALL SELECT @opclass, oid, 'e', 0 FROM pg_catalog.pg_opclass WHERE oid >= #user
    UNION ALL SELECT @amproc, oid, 'e', 0 FROM pg_catalog.pg_amproc WHERE oid >= #user
), uses (kind, oid, used_kind, used) AS (
    SELECT DISTINCT o.kind, o.oid,
        CASE d.refclassid WHEN @proc THEN 'f' WHEN @class THEN 'r' ELSE s.kind END, coalesce(s.oid, d.refobjid)
    FROM pg_catalog.pg_depend d JOIN owners o ON o.classid = d.classid AND o.objid = d.objid
        LEFT JOIN standing s ON d.refclassid = @type AND s.type = d.refobjid
    WHERE d.refobjid >= #user AND (d.refclassid = @proc OR o.kind <> 'e' AND d.refclassid IN (@class, @type))
        -- an index and a sequence belong to their table, they do not use it
        AND NOT (d.classid = @class AND d.refclassid = @class)
    -- a row that goes takes others with it; TRUNCATE … CASCADE runs the triggers of TRUNCATE
    UNION ALL SELECT 'r', confrelid, 'r', conrelid FROM pg_catalog.pg_constraint
    WHERE contype = 'f' AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd') OR EXISTS (
        SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = conrelid AND tgtype & 32 <> 0))
    UNION ALL SELECT 'r', inhparent, 'r', inhrelid FROM pg_catalog.pg_inherits
    UNION ALL SELECT 'r', inhrelid, 'r', inhparent FROM pg_catalog.pg_inherits
)
SELECT 'u', u.kind, u.oid, coalesce(p.proname, c.relname, y.typname), u.used_kind, u.used
FROM uses u
    LEFT JOIN pg_catalog.pg_proc p ON u.kind = 'f' AND p.oid = u.oid
    LEFT JOIN pg_catalog.pg_class c ON u.kind = 'r' AND c.oid = u.oid
    LEFT JOIN pg_catalog.pg_type y ON u.kind = 'y' AND y.oid = u.oid
WHERE NOT (u.kind = u.used_kind AND u.oid = u.used) LIMIT #uses + 1;

COMMIT";

/// The question for a server of this version (`server_version_num`).
#[must_use]
pub fn question(version: u32) -> String {
    let mut question = QUESTION.to_owned();
    for name in [
        "attrdef",
        "amproc",
        "cast",
        "class",
        "constraint",
        "event_trigger",
        "opclass",
        "operator",
        "policy",
        "proc",
        "rewrite",
        "trigger",
        "type",
    ] {
        question = question.replace(&format!("@{name}"), &format!("'pg_catalog.pg_{name}'::regclass"));
    }
    // BEGIN ATOMIC came with 14
    let body = if version >= 140_000 { "prosqlbody::text" } else { "NULL::text" };
    question
        .replace("#user", &FIRST_USER_OID.to_string())
        .replace("#built_ins", &BUILT_INS.join(","))
        .replace("#text", &TEXT_MAX.to_string())
        .replace("#sources", &SOURCES_MAX.to_string())
        .replace("#functions", &FUNCTIONS_MAX.to_string())
        .replace("#uses", &USES_MAX.to_string())
        .replace("#body", body)
}

/// The version in the answer to [`PREPARATION`]; what cannot be read counts as the oldest.
#[must_use]
pub fn version(rows: &[SimpleQueryRow]) -> u32 {
    rows.iter().find_map(|row| text(row, 1)?.parse().ok()).unwrap_or_default()
}

/// What the answer to [`question`] says. Takes long for a large catalogue: not for a thread that others need.
#[must_use]
pub fn names(rows: &[SimpleQueryRow]) -> Names {
    let mut answer = Answer::default();
    for row in rows {
        if answer.read(row).is_none() {
            // a name in an encoding that is none, or a catalogue from the future
            return Names::everything();
        }
    }
    match answer.functions > FUNCTIONS_MAX || answer.uses > USES_MAX {
        true => Names::everything(),
        false => answer.graph.names(),
    }
}

/// A column that is text; `None` for null too.
fn text(row: &SimpleQueryRow, column: usize) -> Option<&str> {
    row.try_get(column).ok().flatten()
}

#[derive(Default)]
struct Answer {
    graph: Graph,
    /// PostgreSQL's own functions that do something: by number, and by their symbol.
    built_ins: HashMap<u32, Effects>,
    symbols: HashMap<Box<str>, Effects>,
    /// How expressions name the view that sets what is written to it.
    settings_view: String,
    functions: usize,
    uses: usize,
}

impl Answer {
    /// `None` when it makes no sense.
    fn read(&mut self, row: &SimpleQueryRow) -> Option<()> {
        match text(row, 0)? {
            "s" => self.settings_view = format!(":relid {} ", text(row, 1)?),
            "b" => {
                let effects = built_in(text(row, 2)?);
                self.built_ins.insert(text(row, 1)?.parse().ok()?, effects);
                *self.symbols.entry(text(row, 3)?.into()).or_default() |= effects;
            }
            "f" => self.function(row)?,
            "t" => self.tree(object(row, 1)?, text(row, 3)?, text(row, 4)?),
            "u" => {
                self.uses += 1;
                let (user, used) = (object(row, 1)?, object(row, 4)?);
                if user.0 != Kind::Everywhere {
                    self.graph.name(user, text(row, 3)?.as_bytes());
                }
                self.graph.uses(user, used);
            }
            _ => return None,
        }
        Some(())
    }

    fn function(&mut self, row: &SimpleQueryRow) -> Option<()> {
        self.functions += 1;
        let function = Object(Kind::Function, text(row, 1)?.parse().ok()?);
        self.graph.name(function, text(row, 2)?.as_bytes());
        let effects = match (text(row, 3)?, text(row, 4)) {
            // too long, or not text
            (_, None) => Effects::HIDES,
            ("internal", Some(symbol)) => self.symbols.get(symbol).copied().unwrap_or_default(),
            ("c", Some(symbol)) => library_effects(text(row, 5).unwrap_or_default(), symbol),
            ("sql" | "plpgsql", Some(source)) => {
                let source = Source::of(source.as_bytes());
                self.graph.mentions(function, source.words);
                self.graph.sets(source.settings);
                source.effects
            }
            // any other language can do anything
            (_, Some(_)) => Effects::HIDES,
        };
        self.graph.does(function, effects);
        Some(())
    }

    fn tree(&mut self, object: Object, name: &str, tree: &str) {
        let known = &self.built_ins;
        let mut effects = tree_effects(tree, |oid| known.get(&oid).copied().unwrap_or_default());
        if tree.contains(&self.settings_view) || tree.len() > TEXT_MAX || effects.is_empty() {
            effects |= Effects::HIDES;
        }
        self.graph.name(object, name.as_bytes());
        self.graph.does(object, effects);
        self.graph.sets(tree_settings(tree));
    }
}

/// An object in two columns, kind and number.
fn object(row: &SimpleQueryRow, column: usize) -> Option<Object> {
    let kind = match text(row, column)? {
        "f" => Kind::Function,
        "r" => Kind::Relation,
        "y" => Kind::Type,
        "e" => Kind::Everywhere,
        _ => return None,
    };
    Some(Object(kind, text(row, column.checked_add(1)?)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_has_no_gaps() {
        for version in [130_000, 180_000] {
            let question = question(version);
            assert!(!question.contains('@') && !question.contains('#'), "{question}");
            assert_eq!(question.contains("prosqlbody"), version >= 140_000);
        }
    }
}
