//! What one piece of code in a catalogue does to the session of whoever runs it: a function's text, an expression's tree,
//! a function of a library.
//!
//! Pure. Not here: what it does because of what it calls (`graph`).

use crate::sql::assignment::Assignments;
use crate::sql::effects::Effects;
use crate::sql::lexer::{Lexer, Token};

/// PostgreSQL's own functions that change or need session state, as they are looked for in expressions. `nextval` is none
/// of them: it hides in the default of every serial column, and an `INSERT` says as much.
pub const BUILT_INS: [&str; 35] = [
    "currval",
    "cursor_to_xml",
    "database_to_xml",
    "database_to_xml_and_xmlschema",
    "lastval",
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_advisory_unlock",
    "pg_advisory_unlock_all",
    "pg_advisory_unlock_shared",
    "pg_backup_start",
    "pg_backup_stop",
    "pg_copy_logical_replication_slot",
    "pg_copy_physical_replication_slot",
    "pg_create_logical_replication_slot",
    "pg_create_physical_replication_slot",
    "pg_drop_replication_slot",
    "pg_replication_origin_session_reset",
    "pg_replication_origin_session_setup",
    "pg_start_backup",
    "pg_stop_backup",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
    "query_to_xml",
    "query_to_xml_and_xmlschema",
    "query_to_xmlschema",
    "schema_to_xml",
    "schema_to_xml_and_xmlschema",
    "set_config",
    "setseed",
    "setval",
    "table_to_xml",
    "table_to_xml_and_xmlschema",
    "ts_rewrite",
    "ts_stat",
];

/// What naming one of [`BUILT_INS`] in an expression means.
#[must_use]
pub fn built_in(name: &str) -> Effects {
    match name {
        "setval" => Effects::MOVES_SEQUENCE,
        // what it sets, and for how long, stands in its arguments
        "set_config" => Effects::HIDES,
        "pg_backup_start" | "pg_start_backup" | "pg_replication_origin_session_reset" => Effects::LASTING,
        "pg_backup_stop" | "pg_stop_backup" => Effects::FREES,
        _ if reads_a_query(name) => Effects::HIDES,
        _ => Effects::of(name.as_bytes()),
    }
}

/// Whether it runs a query it is given as text, or whatever the table of a given name is.
fn reads_a_query(name: &str) -> bool {
    name.contains("_to_xml") || matches!(name, "ts_rewrite" | "ts_stat")
}

/// A function's text, in SQL or PL/pgSQL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// What it does itself.
    pub effects: Effects,
    /// Every identifier in it, folded; sorted, each once.
    pub words: Vec<Box<[u8]>>,
    /// The settings it names in plain sight.
    pub settings: Vec<Box<[u8]>>,
}

impl Source {
    /// Reads it.
    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        let text = statements(text);
        let mut effects = Effects::of(&text);
        let mut words: Vec<Box<[u8]>> = Lexer::new(&text).filter_map(identifier).collect();
        words.sort();
        words.dedup();
        if words.iter().any(|word| std::str::from_utf8(word).is_ok_and(reads_a_query)) {
            effects |= Effects::HIDES;
        }
        let settings = match effects.any(Effects::SETS | Effects::HIDES) {
            true => Assignments::of(&text).names,
            false => Vec::new(),
        };
        Self { effects, words, settings }
    }
}

/// How deep literals are looked into for more of them.
const NESTING_MAX: u8 = 3;

/// The identifiers in a text's literals, which are parts of statements where a function puts them together.
#[must_use]
pub fn literal_words(text: &[u8]) -> Vec<Box<[u8]>> {
    let mut words = Vec::new();
    add_literal_words(text, NESTING_MAX, &mut words);
    words.sort();
    words.dedup();
    words
}

fn add_literal_words(text: &[u8], nesting: u8, words: &mut Vec<Box<[u8]>>) {
    for token in Lexer::new(text) {
        if let Token::Text { inner, .. } | Token::Dollar(inner) = token {
            words.extend(Lexer::new(inner).filter_map(identifier));
            if nesting > 0 {
                add_literal_words(inner, nesting - 1, words);
            }
        }
    }
}

/// An identifier as the catalogue has it.
fn identifier(token: Token<'_>) -> Option<Box<[u8]>> {
    match token {
        Token::Word(word) => Some(word.to_ascii_lowercase().into()),
        Token::Quoted(name) => {
            let mut plain = Vec::with_capacity(name.len());
            for byte in name {
                // a quote inside is doubled
                if *byte == b'"' && plain.last() == Some(&b'"') {
                    continue;
                }
                plain.push(*byte);
            }
            Some(plain.into())
        }
        _ => None,
    }
}

/// The text with a semicolon wherever PL/pgSQL begins a statement without one, and in front of each `EXECUTE`, which may
/// stand inside one (`RETURN QUERY EXECUTE`, `FOR … IN EXECUTE`).
fn statements(text: &[u8]) -> Vec<u8> {
    let mut lexer = Lexer::new(text);
    let mut split = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(token) = lexer.next() {
        let (read, left) = rest.split_at_checked(rest.len().saturating_sub(lexer.rest().len())).unwrap_or((rest, &[]));
        rest = left;
        if token.is_word("execute") {
            split.push(b';');
        }
        split.extend(read);
        if ["begin", "then", "else", "loop"].iter().any(|word| token.is_word(word)) {
            split.push(b';');
        }
    }
    split
}

/// What an expression does, stored as PostgreSQL stores parsed expressions (`pg_node_tree`), by the functions in it.
#[must_use]
pub fn tree_effects(tree: &str, mut effects_of: impl FnMut(u32) -> Effects) -> Effects {
    let mut effects = Effects::NONE;
    // operators are in it with their functions: `:opfuncid`
    for (at, label) in tree.match_indices("funcid ") {
        let digits = tree.get(at.saturating_add(label.len())..).unwrap_or_default();
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        if let Some(oid) = digits.get(..end).and_then(|digits| digits.parse().ok()) {
            effects |= effects_of(oid);
        }
    }
    effects
}

/// The text constants of an expression that could be names of placeholders: `:constvalue 14 [ 56 0 0 0 97 … ]`.
#[must_use]
pub fn tree_settings(tree: &str) -> Vec<Box<[u8]>> {
    let constants = tree.split(":constvalue ").skip(1).filter_map(|rest| {
        let (_, bytes) = rest.split_once('[')?;
        let (bytes, _) = bytes.split_once(']')?;
        // they are printed as signed; the first four are the length
        let bytes = bytes.split_ascii_whitespace().skip(4);
        let bytes = bytes.map(|byte| byte.parse::<i16>().ok().and_then(|byte| u8::try_from(byte).ok()));
        let mut name: Vec<u8> = bytes.collect::<Option<_>>()?;
        name.make_ascii_lowercase();
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$');
        (name.contains(&b'.') && name.iter().all(plain)).then(|| name.into())
    });
    constants.collect()
}

/// Libraries whose functions neither run SQL they are given nor keep anything in the session: PostgreSQL's own
/// extensions, and the best known others. Functions of any other library may do anything.
const HARMLESS_LIBRARIES: [&str; 57] = [
    "_int",
    "address_standardizer",
    "adminpack",
    "amcheck",
    "autoinc",
    "bloom",
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "dict_int",
    "dict_xsyn",
    "earthdistance",
    "file_fdw",
    "fuzzystrmatch",
    "hstore",
    "hstore_plperl",
    "hstore_plpython3",
    "insert_username",
    "ip4r",
    "isn",
    "jsonb_plperl",
    "jsonb_plpython3",
    "lo",
    "ltree",
    "ltree_plpython3",
    "moddatetime",
    "old_snapshot",
    "pageinspect",
    "passwordcheck",
    "pg_buffercache",
    "pg_freespacemap",
    "pg_logicalinspect",
    "pg_prewarm",
    "pg_stat_statements",
    "pg_surgery",
    "pg_trgm",
    "pg_visibility",
    "pg_walinspect",
    "pgaudit",
    "pgcrypto",
    "pgrowlocks",
    "pgstattuple",
    "pgxml",
    "plpgsql",
    "postgis",
    "postgis_raster",
    "postgres_fdw",
    "seg",
    "sslinfo",
    "tablefunc",
    "tcn",
    "tsm_system_rows",
    "tsm_system_time",
    "unaccent",
    "uuid-ossp",
    "vector",
];

/// Functions of harmless libraries that are not: they set something, or run SQL they are given. By their symbol.
const EXCEPTIONS: [&str; 7] = [
    "accept_weak_input",
    "connectby_text",
    "connectby_text_serial",
    "crosstab",
    "crosstab_hash",
    "set_limit",
    "xpath_table",
];

/// What a function in C does, by the library it is in (`probin`) and its name there (`prosrc`).
#[must_use]
pub fn library_effects(library: &str, symbol: &str) -> Effects {
    let name = library.rsplit('/').next().unwrap_or(library);
    let name = name.strip_suffix(".so").unwrap_or(name);
    // postgis-3, ip4r-2.4
    let version = |c: char| c.is_ascii_digit() || c == '.' || c == '-';
    let bare = name.trim_end_matches(version);
    let harmless = [name, bare].iter().any(|name| HARMLESS_LIBRARIES.binary_search(name).is_ok());
    match harmless && !EXCEPTIONS.contains(&symbol) {
        true => Effects::NONE,
        false => Effects::HIDES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_found_wherever_plpgsql_lets_it_begin() {
        for (text, effects) in [
            ("BEGIN SET work_mem = 1; END", Effects::SETS),
            ("begin if a then set work_mem = 1; else reset all; end if; end", Effects::SETS | Effects::RESETS),
            ("begin for r in execute 'select 1' loop null; end loop; end", Effects::HIDES),
            ("begin return query execute 'select 1'; end", Effects::HIDES),
            ("begin loop listen x; end loop; end", Effects::LISTENS),
            ("declare a text := set_config('a.b', 'c', false); begin end", Effects::SETS),
            ("begin perform set_config('a.b', new.tenant, true); return new; end", Effects::NONE),
            ("begin update t set a = 1 where b; set local x = 1; return new; end", Effects::NONE),
            ("begin insert into audit values (1); return new; end", Effects::MOVES_SEQUENCE),
            ("begin if tg_op = 'DELETE' then return old; else new.at = now(); return new; end if; end", Effects::NONE),
            ("select case when a then b else c end from t", Effects::NONE),
            ("select table_to_xml('v', true, true, '')", Effects::HIDES),
            ("begin execute 'se' || 't x = 1'; end", Effects::HIDES),
        ] {
            assert_eq!(Source::of(text.as_bytes()).effects, effects, "{text}");
        }
    }

    #[test]
    fn the_words_and_settings_of_a_source_are_known() {
        let source = Source::of(b"begin perform Set_Tenant(\"My\"\"Table\".a, 'text'); SET App.Tenant = 1; end");
        let words: Vec<_> = source.words.iter().map(|word| std::str::from_utf8(word).unwrap()).collect();
        assert_eq!(words, ["My\"Table", "a", "app", "begin", "end", "perform", "set", "set_tenant", "tenant"]);
        assert_eq!(source.settings, [b"app.tenant".as_slice().into()]);
    }

    #[test]
    fn an_expression_says_which_functions_and_settings_are_in_it() {
        let tree = "{FUNCEXPR :funcid 2078 :funcresulttype 25 :args ({CONST :consttype 25 :constlen -1 :location 12 \
            :constvalue 8 [ 32 0 0 0 97 46 66 99 ]} {CONST :consttype 16 :constvalue 1 [ 0 0 0 0 0 0 0 0 ]})}";
        let found = tree_effects(tree, |oid| if oid == 2078 { Effects::SETS } else { Effects::NONE });
        assert_eq!(found, Effects::SETS);
        assert_eq!(tree_settings(tree), [b"a.bc".as_slice().into()]);
        let operator = "{OPEXPR :opno 96 :opfuncid 65 :opresulttype 16";
        assert_eq!(
            tree_effects(operator, |oid| if oid == 65 { Effects::HIDES } else { Effects::NONE }),
            Effects::HIDES
        );
        for broken in
            ["", ":funcid ", ":funcid 99999999999 ", ":constvalue ", ":constvalue 3 [ 1 2", ":constvalue [ -3 ]"]
        {
            assert_eq!(tree_effects(broken, |_| Effects::HIDES), Effects::NONE, "{broken}");
            assert!(tree_settings(broken).is_empty(), "{broken}");
        }
    }

    #[test]
    fn every_built_in_that_is_looked_for_does_something() {
        for name in BUILT_INS {
            assert!(!built_in(name).is_empty(), "{name}");
        }
        assert!(BUILT_INS.is_sorted() && HARMLESS_LIBRARIES.is_sorted());
    }

    #[test]
    fn a_library_nobody_knows_may_do_anything() {
        for (library, symbol, effects) in [
            ("$libdir/hstore", "hstore_in", Effects::NONE),
            ("$libdir/postgis-3", "LWGEOM_in", Effects::NONE),
            ("/usr/lib/postgresql/15/lib/citext.so", "citext_eq", Effects::NONE),
            ("$libdir/pg_trgm", "set_limit", Effects::HIDES),
            ("$libdir/tablefunc", "crosstab", Effects::HIDES),
            ("$libdir/dblink", "dblink_exec", Effects::HIDES),
            ("$libdir/ours", "f", Effects::HIDES),
        ] {
            assert_eq!(library_effects(library, symbol), effects, "{library} {symbol}");
        }
    }
}
