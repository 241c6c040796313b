//! What a database is asked to find what hides in it, and what keeps from a standby who reads it.
//!
//! One exchange on a connection of its own, in one snapshot. PostgreSQL's dependencies tell who uses whom among what users
//! have made (`CATALOG-PG-DEPEND`); they do not record its own functions, so expressions are searched for those. What is
//! too large to be looked into is taken for the worst.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_postgres::SimpleQueryRow;

use super::own::{Own, Shelf};
use super::source::BUILT_INS;

/// First on a connection. Nothing the database's owner has made is looked up instead of what is meant, and a question
/// nobody waits for any more ends.
pub const PREPARATION: &str = "\
    SET search_path = ''; SET statement_timeout = '10s'; SET lock_timeout = '1s'; SET jit = off; SET enable_nestloop = off; \
    SET enable_mergejoin = off; SET work_mem = '32MB'; \
    SELECT 'v', pg_catalog.current_setting('server_version_num'), \
        (SELECT string_agg(concat_ws(' ', oid, proname, CASE prokind WHEN 'p' THEN 'v' ELSE provolatile END), chr(10) \
            ORDER BY oid) FROM pg_catalog.pg_proc WHERE oid < 16384), \
        (SELECT string_agg(concat_ws(' ', oid, relname), chr(10) ORDER BY oid) FROM pg_catalog.pg_class \
            WHERE oid < 16384 AND relkind = 'v')";

/// Functions that are looked at; a database with more may hide anything anywhere.
pub const FUNCTIONS_MAX: usize = 100_000;
/// The longest source or expression that is looked into.
pub const TEXT_MAX: usize = 64 * 1024;
/// Bytes of sources in all; those beyond may do anything.
const SOURCES_MAX: usize = 32 * 1024 * 1024;
/// Uses that are looked at, likewise.
pub const USES_MAX: usize = 1_000_000;

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
    p.probin,
    CASE WHEN p.oid < #user THEN NULL
        WHEN p.prorettype IN ('trigger'::regtype, 'event_trigger'::regtype) THEN 't'
        WHEN p.prokind <> 'p' AND p.provolatile <> 'v' OR p.prorettype = 'tsm_handler'::regtype THEN 'r'
        ELSE 'w' END,
    -- t.f is f(t) where t has no column f
    p.pronargs > 0 AND p.pronargs - p.pronargdefaults <= 1 AND (coalesce(b.typtype, a.typtype) IN ('c', 'p') OR a.oid IN (
        SELECT casttarget FROM pg_catalog.pg_cast WHERE oid >= #user AND castcontext = 'i'))
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
    LEFT JOIN pg_catalog.pg_type a ON a.oid = p.proargtypes[0] LEFT JOIN pg_catalog.pg_type b ON b.oid = a.typbasetype
WHERE p.oid >= #user OR l.lanname NOT IN ('internal', 'c') ORDER BY p.oid LIMIT #functions + 1;

WITH trees (kind, oid, reads, tree) AS (
    SELECT 'r', c.oid, ev_type = '1' AND relkind = 'v', ev_qual::text || ev_action::text
        FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class WHERE r.oid >= #user
    UNION ALL SELECT 'r', adrelid, false, adbin::text FROM pg_catalog.pg_attrdef WHERE oid >= #user
    UNION ALL SELECT CASE conrelid WHEN 0 THEN 'y' ELSE 'r' END, CASE conrelid WHEN 0 THEN contypid ELSE conrelid END,
        conrelid = 0, conbin::text FROM pg_catalog.pg_constraint WHERE oid >= #user AND conbin IS NOT NULL
    UNION ALL SELECT 'y', oid, false, typdefaultbin::text FROM pg_catalog.pg_type
        WHERE oid >= #user AND typdefaultbin IS NOT NULL
    UNION ALL SELECT 'r', polrelid, polcmd IN ('r', '*'), concat(polqual::text, polwithcheck::text) FROM pg_catalog.pg_policy
    UNION ALL SELECT 'r', indrelid, false, concat(indexprs::text, indpred::text) FROM pg_catalog.pg_index
        WHERE indexrelid >= #user AND (indexprs IS NOT NULL OR indpred IS NOT NULL)
    UNION ALL SELECT 'r', tgrelid, false, tgqual::text FROM pg_catalog.pg_trigger WHERE tgqual IS NOT NULL
    UNION ALL SELECT 'r', partrelid, false, partexprs::text FROM pg_catalog.pg_partitioned_table WHERE partexprs IS NOT NULL
    UNION ALL SELECT 'f', oid, true, concat(proargdefaults::text, #body) FROM pg_catalog.pg_proc
        WHERE oid >= #user AND proargdefaults IS NOT NULL OR #body IS NOT NULL
)
-- numbers of functions and relations in a tree follow `funcid ` and `relid `; PostgreSQL's own are nothing else's
SELECT 't', t.kind, t.oid, coalesce(p.proname, c.relname, y.typname),
    CASE WHEN found & 1 <> 0 THEN left(t.tree, #text + 1) END, t.reads AND found & 2 <> 0
FROM trees t CROSS JOIN LATERAL (
    SELECT bit_or(('#meanings'::jsonb ->> split_part(part, ' ', 1))::int) AS found
    FROM unnest(string_to_array(t.tree, 'id ')) part
) m
    LEFT JOIN pg_catalog.pg_proc p ON t.kind = 'f' AND p.oid = t.oid
    LEFT JOIN pg_catalog.pg_class c ON t.kind = 'r' AND c.oid = t.oid
    LEFT JOIN pg_catalog.pg_type y ON t.kind = 'y' AND y.oid = t.oid
WHERE found & CASE WHEN t.reads THEN 3 ELSE 1 END <> 0;

-- not replicated, or further on a standby than on the primary
SELECT 'w', 'r', oid, relname FROM pg_catalog.pg_class WHERE oid >= #user AND relpersistence <> 't'
    AND (relkind IN ('f', 'S') OR relpersistence = 'u' AND relkind IN ('r', 'm', 'p'))
-- a view that locks rows (FOR UPDATE, FOR SHARE)
UNION ALL SELECT 'w', 'r', c.oid, c.relname FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
    WHERE r.oid >= #user AND ev_type = '1' AND relkind = 'v' AND strpos(ev_action::text, ':hasForUpdate true') > 0
UNION ALL SELECT 'w', 'f', aggfnoid, NULL FROM pg_catalog.pg_aggregate WHERE aggfnoid >= #user
    AND ARRAY[aggtransfn, aggfinalfn, aggmtransfn, aggminvtransfn, aggmfinalfn]::oid[] && '{#writing}'
UNION ALL SELECT 'w', 'e', 0, NULL FROM pg_catalog.pg_operator WHERE oid >= #user AND oprcode = ANY ('{#writing}'::oid[])
UNION ALL SELECT 'w', 'e', 0, NULL FROM pg_catalog.pg_cast WHERE oid >= #user AND castfunc = ANY ('{#writing}'::oid[]);

WITH standing (type, kind, oid, base) AS MATERIALIZED (
    -- a row type stands for its relation, an array for its elements
    SELECT t.oid, CASE WHEN coalesce(e.typrelid, t.typrelid) = 0 THEN 'y' ELSE 'r' END,
        CASE WHEN coalesce(e.typrelid, t.typrelid) = 0 THEN coalesce(e.oid, t.oid) ELSE coalesce(e.typrelid, t.typrelid) END,
        t.typbasetype
    FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type e ON t.typcategory = 'A' AND e.oid = t.typelem
    WHERE t.oid >= #user
), owners (classid, objid, kind, oid, hides, reads) AS (
    SELECT @proc, oid, 'f', oid, true, true FROM pg_catalog.pg_proc WHERE oid >= #user
    UNION ALL SELECT @rewrite, r.oid, 'r', c.oid, true, ev_type = '1' AND relkind = 'v'
        FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class WHERE r.oid >= #user
    UNION ALL SELECT @attrdef, oid, 'r', adrelid, true, false FROM pg_catalog.pg_attrdef WHERE oid >= #user
    UNION ALL SELECT @constraint, oid, CASE conrelid WHEN 0 THEN 'y' ELSE 'r' END,
        CASE conrelid WHEN 0 THEN contypid ELSE conrelid END, true, conrelid = 0
        FROM pg_catalog.pg_constraint WHERE oid >= #user AND contype <> 'f'
    UNION ALL SELECT @policy, oid, 'r', polrelid, true, polcmd IN ('r', '*') FROM pg_catalog.pg_policy
    UNION ALL SELECT @trigger, oid, 'r', tgrelid, true, false FROM pg_catalog.pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT @class, c.oid, 'r', coalesce(i.indrelid, c.oid), true, relkind = 'c' FROM pg_catalog.pg_class c
        LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid WHERE c.oid >= #user
    UNION ALL SELECT @type, type, kind, oid, true, kind = 'y' AND base = 0 FROM standing
    UNION ALL SELECT @event_trigger, oid, 'e', 0, true, false FROM pg_catalog.pg_event_trigger WHERE evtenabled <> 'D'
    UNION ALL SELECT @operator, oid, 'e', 0, true, true FROM pg_catalog.pg_operator WHERE oid >= #user
    -- a cast that is asked for names its target, if that has no other name (int, integer)
    UNION ALL SELECT @cast, oid, 'e', 0, true, castcontext = 'i' OR casttarget < #user
        FROM pg_catalog.pg_cast WHERE oid >= #user
    UNION ALL SELECT @cast, c.oid, s.kind, s.oid, false, true FROM pg_catalog.pg_cast c JOIN standing s ON s.type = c.casttarget
        WHERE c.oid >= #user
    UNION ALL SELECT @opclass, oid, 'e', 0, true, true FROM pg_catalog.pg_opclass WHERE oid >= #user
    UNION ALL SELECT @amproc, oid, 'e', 0, true, true FROM pg_catalog.pg_amproc WHERE oid >= #user
), uses (kind, oid, used_kind, used, hides, reads) AS (
    SELECT kind, oid, used_kind, used, bool_or(hides), bool_or(reads) FROM (
        SELECT o.kind, o.oid, CASE d.refclassid WHEN @proc THEN 'f' WHEN @class THEN 'r' ELSE s.kind END AS used_kind,
            coalesce(s.oid, d.refobjid) AS used, o.hides, o.reads
        FROM pg_catalog.pg_depend d JOIN owners o ON o.classid = d.classid AND o.objid = d.objid
            LEFT JOIN standing s ON d.refclassid = @type AND s.type = d.refobjid
        WHERE d.refobjid >= #user
            AND (d.refclassid = @proc OR o.kind <> 'e' AND d.classid <> @cast AND d.refclassid IN (@class, @type))
            -- an index and a sequence belong to their table, they do not use it
            AND NOT (d.classid = @class AND d.refclassid = @class)
    ) d WHERE NOT (kind = used_kind AND oid = used)
    GROUP BY 1, 2, 3, 4
    -- a row that goes takes others with it; TRUNCATE … CASCADE runs the triggers of TRUNCATE
    UNION ALL SELECT 'r', confrelid, 'r', conrelid, true, false FROM pg_catalog.pg_constraint
    WHERE contype = 'f' AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd') OR EXISTS (
        SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = conrelid AND tgtype & 32 <> 0))
    UNION ALL SELECT 'r', inhparent, 'r', inhrelid, true, true FROM pg_catalog.pg_inherits
    UNION ALL SELECT 'r', inhrelid, 'r', inhparent, true, false FROM pg_catalog.pg_inherits
    -- whatever a domain's default does
    UNION ALL SELECT 'y', d.oid, s.kind, s.oid, false, true FROM standing d JOIN standing s ON s.type = d.base
    -- whoever reads a value has it written out
    UNION ALL SELECT 'e', 0, 'f', p.oid, false, true FROM pg_catalog.pg_type t
        JOIN pg_catalog.pg_proc p ON p.oid IN (t.typoutput, t.typsend) WHERE p.oid >= #user AND p.provolatile = 'v'
)
SELECT 'u', u.kind, u.oid, coalesce(p.proname, c.relname, y.typname), u.used_kind, u.used, u.hides, u.reads
FROM uses u
    LEFT JOIN pg_catalog.pg_proc p ON u.kind = 'f' AND p.oid = u.oid
    LEFT JOIN pg_catalog.pg_class c ON u.kind = 'r' AND c.oid = u.oid
    LEFT JOIN pg_catalog.pg_type y ON u.kind = 'y' AND y.oid = u.oid
WHERE NOT (u.kind = u.used_kind AND u.oid = u.used) LIMIT #uses + 1;

COMMIT";

/// The question for a server of this version (`server_version_num`), with this of PostgreSQL's own.
#[must_use]
pub fn question(version: u32, own: &Own) -> String {
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
        .replace("#meanings", &meanings(own))
        .replace("#writing", &list(&own.writing))
        .replace("#user", &FIRST_USER_OID.to_string())
        .replace("#built_ins", &BUILT_INS.join(","))
        .replace("#text", &TEXT_MAX.to_string())
        .replace("#sources", &SOURCES_MAX.to_string())
        .replace("#functions", &FUNCTIONS_MAX.to_string())
        .replace("#uses", &USES_MAX.to_string())
        .replace("#body", body)
}

/// What each of PostgreSQL's own means in an expression: 1 when it hides something, 2 when it is not for a standby.
fn meanings(own: &Own) -> String {
    let mut meanings = BTreeMap::new();
    for oid in &own.hiding {
        *meanings.entry(oid).or_insert(0) |= 1;
    }
    for oid in own.writing.iter().chain(&own.node_views) {
        *meanings.entry(oid).or_insert(0) |= 2;
    }
    let meanings: Vec<String> = meanings.iter().map(|(oid, meaning)| format!("\"{oid}\":{meaning}")).collect();
    format!("{{{}}}", meanings.join(","))
}

/// Numbers as an array has them between its braces.
fn list(oids: &[u32]) -> String {
    oids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// The version in the answer to [`PREPARATION`], and what of PostgreSQL's own is there.
#[must_use]
pub fn prepared(rows: &[SimpleQueryRow], shelf: &Shelf) -> Option<(u32, Arc<Own>)> {
    let row = rows.first()?;
    Some((text(row, 1)?.parse().ok()?, shelf.own(text(row, 2)?, text(row, 3)?)?))
}

/// A column that is text; `None` for null too.
pub fn text(row: &SimpleQueryRow, column: usize) -> Option<&str> {
    row.try_get(column).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_has_no_gaps() {
        for version in [130_000, 180_000] {
            let question = question(version, &Own::default());
            assert!(!question.contains('@') && !question.contains('#'), "{question}");
            assert_eq!(question.contains("prosqlbody"), version >= 140_000);
        }
    }
}
