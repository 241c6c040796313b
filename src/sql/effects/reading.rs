//! Goes over a text, statement by statement, and gathers what it may leave behind.
//!
//! Not here: what single words say (`words.rs`), what a setting ends as (`set_config.rs`).

use super::set_config::{set_config, set_tail};
use super::words::{built_in, contains, defined, opening, outdated};
use super::{Effects, Read};
use crate::sql::lexer::{Lexer, Token};

/// How deep bodies of `DO` are looked into.
const NESTING_MAX: u8 = 3;

/// The longest word that means anything here.
const WORD_MAX: usize = 40;

/// What the statement that is being read opened with, as far as that matters later in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
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

/// What `sql`, any number of statements, may leave behind, and whether its literals were looked into.
pub(super) fn of(sql: &[u8]) -> Read {
    of_nested(sql, NESTING_MAX)
}

fn of_nested(sql: &[u8], nesting: u8) -> Read {
    let mut reading = Reading {
        lexer: Lexer::new(sql),
        effects: Effects::NONE,
        verb: Verb::Next,
        depth: 0,
        after_with: false,
        nesting,
        by_values: false,
    };
    while let Some(token) = reading.lexer.next() {
        reading.take(token);
    }
    Read { effects: reading.effects, by_values: reading.by_values }
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
    /// What a literal is, and not only that it is one, has mattered.
    by_values: bool,
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
        self.by_values |= self.verb == Verb::Do;
        if self.verb == Verb::Do && ["create", "alter", "import"].iter().any(|word| contains(inner, word.as_bytes())) {
            self.effects |= Effects::OUTDATES; // in the middle of it, or in a text that is executed
        }
        if self.verb == Verb::Do && self.nesting > 0 {
            self.effects |= of_nested(inner, self.nesting - 1).effects;
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
