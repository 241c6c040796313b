//! What a text may leave behind in its session, beyond its transaction: settings, locks, temporary objects and the like.
//!
//! Errs on the side of saying too much: an effect that did not happen costs a question to the server, one that was missed
//! is lost or leaks. What functions, triggers and views do when the text only names them is not here: that takes the
//! database's catalogue (`catalog/hidden.rs`), to which [`mentions`] gives the names.
//!
//! Not here: which settings, and to what ([`super::assignment`]).

use std::ops::{BitOr, BitOrAssign};

use super::lexer::{Lexer, Token};

/// A set of effects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Effects(u32);

impl Effects {
    /// Nothing lasts.
    pub const NONE: Self = Self(0);
    /// Settings change for the session, and [`super::assignment`] finds their names.
    pub const SETS: Self = Self(1);
    /// Settings may go back to what they were at login.
    pub const RESETS: Self = Self(1 << 1);
    /// Anything may change, and the text does not say what.
    pub const HIDES: Self = Self(1 << 2);
    /// Temporary tables, views, functions.
    pub const TEMPORARY: Self = Self(1 << 3);
    /// Advisory locks of the session.
    pub const ADVISORY: Self = Self(1 << 4);
    /// `LISTEN`.
    pub const LISTENS: Self = Self(1 << 5);
    /// `WITH HOLD` cursors.
    pub const HOLDS: Self = Self(1 << 6);
    /// Statements prepared in SQL.
    pub const PREPARES: Self = Self(1 << 7);
    /// Temporary replication slots.
    pub const SLOTS: Self = Self(1 << 8);
    /// Something that ends with the server's process only: libraries, seeds, connections of extensions.
    pub const LASTING: Self = Self(1 << 9);
    /// `currval`, `lastval`: asks for what the session has left in a sequence.
    pub const READS_SEQUENCE: Self = Self(1 << 10);
    /// May leave something that `currval` or `lastval` finds.
    pub const MOVES_SEQUENCE: Self = Self(1 << 11);
    /// State that pins may be gone after it.
    pub const FREES: Self = Self(1 << 12);
    /// What functions, triggers and the like do may be different after it.
    pub const DEFINES: Self = Self(1 << 13);
    /// A table or a view may do after it what its definition names.
    pub const REFERS: Self = Self(1 << 15);
    /// What may be read on a standby may be different after it. Not after a `DROP`: what is known then is only too cautious.
    pub const OUTDATES: Self = Self(1 << 16);
    /// Creates something, temporary if the search path says so.
    pub const CREATES: Self = Self(1 << 14);

    /// State that can stay behind on a server, with the names operators know it by.
    pub const PINS: [(Self, &'static str); 8] = [
        (Self::TEMPORARY, "temporary objects"),
        (Self::ADVISORY, "advisory lock"),
        (Self::LISTENS, "listen"),
        (Self::HOLDS, "cursor with hold"),
        (Self::PREPARES, "prepared statement"),
        (Self::SLOTS, "temporary replication slot"),
        (Self::LASTING, "state that ends with its server process"),
        (Self::MOVES_SEQUENCE, "currval"),
    ];

    /// All of [`Self::PINS`].
    pub const PINNING: Self = Self(0b1_1111_1000 | 1 << 9 | 1 << 11);

    /// What makes a function worth flagging whose source does this: settings and state nobody would see otherwise.
    pub const HIDDEN: Self = Self(0b11_1111_1111);

    /// Whether any of `others` is among them.
    #[must_use]
    pub const fn any(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Without `others`.
    #[must_use]
    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Both together.
    #[must_use]
    pub const fn or(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Those that are in both.
    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    /// What `sql`, any number of statements, may leave behind.
    #[must_use]
    pub fn of(sql: &[u8]) -> Self {
        of_nested(sql, NESTING_MAX)
    }
}

impl BitOr for Effects {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        self.or(other)
    }
}

impl BitOrAssign for Effects {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// How deep bodies of `DO` are looked into.
const NESTING_MAX: u8 = 3;

/// Identifiers end here (`NAMEDATALEN - 1`).
const NAME_MAX: usize = 63;

/// The longest word that means anything here.
const WORD_MAX: usize = 40;

/// What the statement that is being read opened with, as far as that matters later in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    /// The next word opens a statement.
    Next,
    Set,
    /// `SET` and what follows it says that it ends with the transaction, or is read already.
    Other,
    /// The next words say what is created.
    Create,
    /// What is created is said already.
    Created,
    /// Of a schema's other words, some may say what is created in it.
    CreateSchema,
    Alter,
    /// A table, a sequence, or something as harmless.
    AlterTable,
    Declare,
    Do,
    Explain,
    Prepare,
    Update,
}

fn of_nested(sql: &[u8], nesting: u8) -> Effects {
    let mut reading = Reading {
        lexer: Lexer::new(sql),
        effects: Effects::NONE,
        verb: Verb::Next,
        depth: 0,
        after_with: false,
        nesting,
    };
    while let Some(token) = reading.lexer.next() {
        reading.take(token);
    }
    reading.effects
}

/// A text, as far as it has been read.
struct Reading<'a> {
    lexer: Lexer<'a>,
    effects: Effects,
    verb: Verb,
    /// Parentheses that are open.
    depth: usize,
    /// The last word was `WITH`.
    after_with: bool,
    /// How much deeper bodies of `DO` are looked into.
    nesting: u8,
}

impl Reading<'_> {
    fn take(&mut self, token: Token<'_>) {
        match token {
            Token::Word(word) => self.word(word, false),
            Token::Quoted(word) => self.word(word, true),
            Token::Symbol(b';') if self.depth == 0 => self.verb = Verb::Next,
            Token::Symbol(b'(') => self.depth += 1,
            Token::Symbol(b')') => self.depth = self.depth.saturating_sub(1),
            Token::Disguised => self.effects |= Effects::HIDES,
            Token::Text { inner, plain } => {
                // with backslashes as escapes it would end elsewhere
                if !plain && (inner.ends_with(b"\\") || memchr::memmem::find(inner, b"\\'").is_some()) {
                    self.effects |= Effects::HIDES;
                }
                self.code(inner);
                if self.verb == Verb::Set {
                    self.effects |= Effects::SETS; // SET 'name' is none of PostgreSQL's, but who knows
                    self.verb = Verb::Other;
                }
            }
            Token::Dollar(inner) => self.code(inner),
            Token::Symbol(_) | Token::Number(_) | Token::Param(_) => {}
        }
    }

    const fn creates(&self) -> bool {
        matches!(self.verb, Verb::Create | Verb::Created | Verb::CreateSchema)
    }

    /// A literal, which is code behind `DO`.
    fn code(&mut self, inner: &[u8]) {
        if self.verb == Verb::Do && ["create", "alter", "import"].iter().any(|word| contains(inner, word.as_bytes())) {
            self.effects |= Effects::OUTDATES; // in the middle of it, or in a text that is executed
        }
        if self.verb == Verb::Do && self.nesting > 0 {
            self.effects |= of_nested(inner, self.nesting - 1);
        }
    }

    fn word(&mut self, word: &[u8], quoted: bool) {
        let mut lower = [0; WORD_MAX];
        let Some(lower) = lower.get_mut(..word.len()) else { return };
        lower.copy_from_slice(word);
        lower.make_ascii_lowercase();
        let more = if quoted { self.quoted_name() } else { self.keyword(lower) };
        if more {
            self.name(lower, quoted);
        }
    }

    /// A name in quotes is no keyword, but may be what is set.
    fn quoted_name(&mut self) -> bool {
        if self.verb == Verb::Set {
            self.verb = Verb::Other;
            self.effects |= Effects::SETS | set_tail(self.lexer);
        }
        true
    }

    /// What a word says by its place in the statement; `true` when it may also be the name of something.
    fn keyword(&mut self, word: &[u8]) -> bool {
        let explained =
            self.verb == Verb::Explain && self.depth == 0 && !matches!(word, b"analyze" | b"analyse" | b"verbose");
        if self.verb == Verb::Next || explained {
            let (found, verb) = opening(word);
            self.effects |= found;
            self.verb = verb;
            self.after_with = false;
            return verb == Verb::Other;
        }
        match self.verb {
            Verb::Set => {
                self.verb = Verb::Other;
                if matches!(word, b"local" | b"transaction" | b"constraints") {
                    return false;
                }
                self.effects |= Effects::SETS | set_tail(self.lexer);
            }
            Verb::Prepare => {
                self.verb = Verb::Other;
                if word != b"transaction" {
                    self.effects |= Effects::PREPARES;
                }
                return false;
            }
            Verb::Create | Verb::Created | Verb::CreateSchema => {
                self.effects |= defined(word);
                self.created(word);
            }
            Verb::Alter => {
                self.verb = Verb::Other;
                self.effects |= if word == b"table" { Effects::REFERS } else { Effects::DEFINES };
                match word {
                    b"table" | b"sequence" => self.verb = Verb::AlterTable,
                    b"routine" => self.effects |= Effects::OUTDATES,
                    _ => self.effects |= outdated(word),
                }
            }
            Verb::AlterTable => self.effects |= self.altered(word),
            Verb::Declare if word == b"hold" && self.after_with => self.effects |= Effects::HOLDS,
            _ => {}
        }
        self.after_with = word == b"with";
        true
    }

    /// Reads what a `CREATE` creates.
    fn created(&mut self, word: &[u8]) {
        self.verb = match (self.verb, word) {
            (Verb::Create, b"schema") => Verb::CreateSchema,
            (
                Verb::Create,
                b"or" | b"replace" | b"recursive" | b"local" | b"global" | b"constraint" | b"default" | b"trusted"
                | b"procedural" | b"unique",
            ) => Verb::Create,
            (Verb::Create | Verb::CreateSchema, _) => {
                self.effects |= outdated(word);
                if self.verb == Verb::Create { Verb::Created } else { self.verb }
            }
            (verb, _) => verb,
        };
    }

    /// What a word of `ALTER TABLE` adds. `RENAME TO` gives a view or an unlogged table a name nobody knows.
    fn altered(&self, word: &[u8]) -> Effects {
        let renames = word == b"rename" && self.lexer.clone().next().is_some_and(|token| token.is_word("to"));
        match renames || matches!(word, b"inherit" | b"attach") {
            true => Effects::OUTDATES,
            false => Effects::NONE,
        }
    }

    /// What a name says wherever it stands.
    fn name(&mut self, word: &[u8], quoted: bool) {
        self.effects |= match word {
            b"set_config" => set_config(self.lexer),
            b"pg_settings" if self.verb == Verb::Update => Effects::HIDES,
            b"update" if !quoted => {
                if self.verb == Verb::Other {
                    self.verb = Verb::Update;
                }
                Effects::NONE
            }
            // SELECT … INTO TEMP; a column of that name costs a question
            b"temp" | b"temporary" if !quoted && !self.creates() => Effects::TEMPORARY,
            // SELECT … INTO UNLOGGED as well
            b"unlogged" if !quoted => Effects::OUTDATES,
            b"insert" | b"merge" | b"nextval" | b"setval" => Effects::MOVES_SEQUENCE,
            b"currval" | b"lastval" => Effects::READS_SEQUENCE,
            b"setseed" | b"dblink_connect" | b"dblink_connect_u" | b"pg_replication_origin_session_setup" => {
                Effects::LASTING
            }
            // they run the text they are given
            b"query_to_xml"
            | b"query_to_xmlschema"
            | b"query_to_xml_and_xmlschema"
            | b"cursor_to_xml"
            | b"cursor_to_xmlschema"
            | b"table_to_xml"
            | b"table_to_xml_and_xmlschema"
            | b"schema_to_xml"
            | b"schema_to_xml_and_xmlschema"
            | b"database_to_xml"
            | b"database_to_xml_and_xmlschema"
            | b"ts_stat"
            | b"ts_rewrite" => Effects::HIDES,
            _ if word.starts_with(b"pg_") => built_in(word),
            _ => Effects::NONE,
        };
    }
}

/// What the first word of a statement says.
fn opening(word: &[u8]) -> (Effects, Verb) {
    match word {
        b"set" => (Effects::NONE, Verb::Set),
        b"reset" => (Effects::SETS | Effects::RESETS, Verb::Other),
        b"discard" => (Effects::SETS | Effects::RESETS | Effects::FREES, Verb::Other),
        b"listen" => (Effects::LISTENS, Verb::Other),
        b"unlisten" | b"deallocate" | b"close" | b"drop" => (Effects::FREES, Verb::Other),
        b"load" => (Effects::LASTING, Verb::Other),
        b"prepare" => (Effects::NONE, Verb::Prepare),
        b"execute" => (Effects::HIDES, Verb::Other),
        b"do" => (Effects::HIDES, Verb::Do),
        b"declare" => (Effects::NONE, Verb::Declare),
        b"create" => (Effects::CREATES, Verb::Create),
        b"alter" => (Effects::NONE, Verb::Alter),
        b"import" => (Effects::DEFINES.or(Effects::OUTDATES), Verb::Other),
        b"copy" => (Effects::MOVES_SEQUENCE, Verb::Other),
        b"explain" => (Effects::NONE, Verb::Explain),
        b"update" => (Effects::NONE, Verb::Update),
        _ => (Effects::NONE, Verb::Other),
    }
}

/// What a word of `CREATE …` adds.
fn defined(word: &[u8]) -> Effects {
    match word {
        b"temp" | b"temporary" => Effects::TEMPORARY,
        b"function" | b"procedure" | b"operator" | b"aggregate" | b"cast" | b"extension" | b"conversion"
        | b"language" | b"event" => Effects::DEFINES,
        b"table" | b"view" | b"trigger" | b"rule" | b"policy" | b"domain" | b"type" | b"index" => Effects::REFERS,
        _ => Effects::NONE,
    }
}

/// What the kind of thing that is created or altered says about who may be read on a standby.
fn outdated(kind: &[u8]) -> Effects {
    match kind {
        b"function" | b"procedure" | b"aggregate" | b"operator" | b"cast" | b"extension" | b"view" | b"rule"
        | b"policy" | b"domain" | b"type" | b"foreign" | b"sequence" => Effects::OUTDATES,
        _ => Effects::NONE,
    }
}

/// Whether `text` contains `word`, whatever the case.
fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
}

/// What a function of PostgreSQL's own leaves behind.
fn built_in(word: &[u8]) -> Effects {
    match word {
        b"pg_advisory_lock" | b"pg_advisory_lock_shared" | b"pg_try_advisory_lock" | b"pg_try_advisory_lock_shared" => {
            Effects::ADVISORY
        }
        b"pg_create_logical_replication_slot"
        | b"pg_create_physical_replication_slot"
        | b"pg_copy_logical_replication_slot"
        | b"pg_copy_physical_replication_slot" => Effects::SLOTS,
        _ if word.starts_with(b"pg_temp") => Effects::TEMPORARY,
        _ if word.starts_with(b"pg_advisory_unlock") || word == b"pg_drop_replication_slot" => Effects::FREES,
        _ => Effects::NONE,
    }
}

/// Whether the rest of a `SET` says `DEFAULT`.
fn set_tail(lexer: Lexer<'_>) -> Effects {
    for token in lexer {
        match token {
            Token::Symbol(b';') => break,
            _ if token.is_word("default") => return Effects::RESETS,
            _ => {}
        }
    }
    Effects::NONE
}

/// What a call of `set_config` does, by its arguments as far as they are literals.
fn set_config(mut lexer: Lexer<'_>) -> Effects {
    if lexer.next() != Some(Token::Symbol(b'(')) {
        return Effects::HIDES; // its name alone: perhaps in quotes, or somebody's alias
    }
    let mut arguments = Arguments { lexer };
    let named = matches!(arguments.next_argument(), Argument::Literal);
    let value = arguments.next_argument();
    if matches!(arguments.next_argument(), Argument::True) {
        return Effects::NONE; // it ends with the transaction
    }
    match (named, value) {
        (true, Argument::Literal) => Effects::SETS,
        (true, _) => Effects::SETS | Effects::RESETS,
        (false, _) => Effects::HIDES,
    }
}

/// The arguments of a call whose parenthesis has been read.
struct Arguments<'a> {
    lexer: Lexer<'a>,
}

enum Argument {
    Literal,
    True,
    Other,
}

impl Arguments<'_> {
    /// Reads up to the comma or parenthesis behind the next argument.
    fn next_argument(&mut self) -> Argument {
        let mut found = None;
        let mut depth = 0_usize;
        for token in self.lexer.by_ref() {
            let argument = match token {
                Token::Symbol(b',') if depth == 0 => break,
                Token::Symbol(b')') if depth == 0 => break,
                Token::Symbol(b'(' | b'[') => {
                    depth += 1;
                    Argument::Other
                }
                Token::Symbol(b')' | b']') => {
                    depth -= 1;
                    Argument::Other
                }
                Token::Text { plain: true, .. } | Token::Dollar(_) => Argument::Literal,
                _ if token.is_word("true") => Argument::True,
                _ => Argument::Other,
            };
            found = Some(if found.is_none() { argument } else { Argument::Other });
        }
        found.unwrap_or(Argument::Other)
    }
}

/// Whether `sql` names anything that `wanted` knows: identifiers come folded to lower case and cut, as PostgreSQL does it.
/// Literals are not looked into.
pub fn mentions(sql: &[u8], wanted: &mut impl FnMut(&[u8]) -> bool) -> bool {
    let mut buffer = [0; NAME_MAX];
    for token in Lexer::new(sql) {
        let found = match token {
            Token::Word(word) => {
                let folded = buffer.iter_mut().zip(word).map(|(to, from)| *to = from.to_ascii_lowercase()).count();
                wanted(buffer.get(..folded).unwrap_or_default())
            }
            Token::Quoted(name) => wanted(name),
            Token::Disguised => true,
            _ => false,
        };
        if found {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
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
}
