//! Which settings a text changes for its session, as far as it says so.
//!
//! Only asked once [`super::effects`] has found that it changes any. A lone `SET` with a plain value can be taken at its
//! word; of anything else only the names are taken, and the server is asked for what became of them.

use super::lexer::{Lexer, Token};

/// What a text says about settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignments {
    /// The names, folded to lower case; each once.
    pub names: Vec<Box<[u8]>>,
    /// `RESET ALL` or `DISCARD ALL` is among them.
    pub all: bool,
    /// What the text says, when that is all it says.
    pub lone: Option<Lone>,
}

/// A text that is one statement about one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lone {
    /// `SET name = value`.
    Set(Box<[u8]>, Box<[u8]>),
    /// `RESET name` or `SET name TO DEFAULT`.
    Reset(Box<[u8]>),
    /// `RESET ALL`.
    ResetAll,
}

/// Settings whose value is a list of names: what one word of it means depends on how it was quoted (`GUC_LIST_QUOTE`, which
/// extensions cannot define).
const LISTS: [&[u8]; 7] = [
    b"local_preload_libraries",
    b"output_plugin_libraries",
    b"search_path",
    b"session_preload_libraries",
    b"shared_preload_libraries",
    b"temp_tablespaces",
    b"unix_socket_directories",
];

/// The longest name that is asked for. PostgreSQL has no limit; nobody has one so long.
const NAME_MAX: usize = 256;

impl Assignments {
    /// Reads `sql`, any number of statements.
    #[must_use]
    pub fn of(sql: &[u8]) -> Self {
        let mut found = Self::default();
        let mut statements = 0_usize;
        let mut lexer = Lexer::new(sql);
        let mut first = true;
        while let Some(token) = lexer.next() {
            if token == Token::Symbol(b';') {
                first = true;
                continue;
            }
            if std::mem::take(&mut first) {
                statements += 1;
                if token.is_word("set") {
                    found.set(&mut lexer.clone());
                } else if token.is_word("reset") {
                    found.reset(&mut lexer.clone());
                } else if token.is_word("discard") {
                    found.all |= lexer.clone().next().is_some_and(|token| token.is_word("all"));
                }
            }
            if token.identifier().is_some_and(|name| name.eq_ignore_ascii_case(b"set_config")) {
                found.lone = None;
                let mut arguments = lexer;
                if let (Some(Token::Symbol(b'(')), Some(Token::Text { inner, .. } | Token::Dollar(inner))) =
                    (arguments.next(), arguments.next())
                {
                    found.add(&unquoted(inner, b'\''));
                }
            }
        }
        if statements != 1 {
            found.lone = None;
        }
        found
    }

    fn add(&mut self, name: &[u8]) {
        let name: Box<[u8]> = name.to_ascii_lowercase().into();
        if name.len() <= NAME_MAX && !self.names.contains(&name) {
            self.names.push(name);
        }
    }

    /// What follows `SET`.
    fn set(&mut self, lexer: &mut Lexer<'_>) {
        let Some(mut token) = lexer.next() else { return };
        if token.is_word("session") {
            let before = *lexer;
            match lexer.next() {
                Some(next) if next.is_word("authorization") => {
                    return self.value(b"session_authorization", lexer, true);
                }
                Some(next) if next.is_word("characteristics") => {
                    for name in ["isolation", "read_only", "deferrable"] {
                        self.add(format!("default_transaction_{name}").as_bytes());
                    }
                    return;
                }
                Some(next) if next.identifier().is_some() => token = next,
                _ => *lexer = before,
            }
        }
        match token {
            _ if ["local", "transaction", "constraints"].iter().any(|word| token.is_word(word)) => {}
            _ if token.is_word("time") && lexer.clone().next().is_some_and(|next| next.is_word("zone")) => {
                lexer.next();
                self.value(b"timezone", lexer, true);
            }
            _ if token.is_word("role") => self.value(b"role", lexer, !is_assignment(*lexer)),
            _ if token.is_word("names") => self.value(b"client_encoding", lexer, true),
            _ if token.is_word("schema") => self.add(b"search_path"),
            _ if token.is_word("xml") => self.add(b"xmloption"),
            Token::Word(_) | Token::Quoted(_) => {
                let name = self.dotted(token, lexer);
                self.value(&name, lexer, false);
            }
            _ => {}
        }
    }

    /// What follows `RESET`.
    fn reset(&mut self, lexer: &mut Lexer<'_>) {
        let Some(token) = lexer.next() else { return };
        let name: Vec<u8> = match token {
            _ if token.is_word("all") => {
                self.all = true;
                self.lone = ends(lexer).then_some(Lone::ResetAll);
                return;
            }
            _ if token.is_word("time") => {
                lexer.next();
                b"timezone".to_vec()
            }
            _ if token.is_word("session") => {
                lexer.next();
                b"session_authorization".to_vec()
            }
            Token::Word(_) | Token::Quoted(_) => self.dotted(token, lexer),
            _ => return,
        };
        self.add(&name);
        self.lone = ends(lexer).then(|| Lone::Reset(name.to_ascii_lowercase().into()));
    }

    /// A name of one or more parts.
    fn dotted(&self, first: Token<'_>, lexer: &mut Lexer<'_>) -> Vec<u8> {
        let part = |token: Token<'_>| match token {
            Token::Quoted(name) => unquoted(name, b'"'),
            Token::Word(name) => name.to_vec(),
            _ => Vec::new(),
        };
        let mut name = part(first);
        let mut ahead = *lexer;
        while ahead.next() == Some(Token::Symbol(b'.')) {
            let Some(next) = ahead.next() else { break };
            name.push(b'.');
            name.extend(part(next));
            *lexer = ahead;
        }
        name
    }

    /// What follows the name: `= value`, or the value at once where the syntax has no `=` (`bare`).
    fn value(&mut self, name: &[u8], lexer: &mut Lexer<'_>, bare: bool) {
        self.add(name);
        self.lone = None;
        if !bare && !lexer.next().is_some_and(|token| token == Token::Symbol(b'=') || token.is_word("to")) {
            return;
        }
        let lower: Box<[u8]> = name.to_ascii_lowercase().into();
        let Some(mut token) = lexer.next() else { return };
        let mut value = Vec::new();
        if token == Token::Symbol(b'-') {
            value.push(b'-');
            match lexer.next() {
                Some(number @ Token::Number(_)) => token = number,
                _ => return,
            }
        }
        let is_default = token.is_word("default") || bare && token.is_word("local") && name == b"timezone";
        if !ends(lexer) {
            return;
        }
        if is_default {
            self.lone = Some(Lone::Reset(lower));
            return;
        }
        match token {
            Token::Text { inner, plain: true } => value.extend(unquoted(inner, b'\'')),
            Token::Number(number) => value.extend(number),
            Token::Word(word) => value.extend(word.to_ascii_lowercase()),
            Token::Quoted(name) => value.extend(unquoted(name, b'"')),
            _ => return,
        }
        if !LISTS.contains(&&*lower) && value.is_ascii() {
            self.lone = Some(Lone::Set(lower, value.into()));
        }
    }
}

fn is_assignment(mut lexer: Lexer<'_>) -> bool {
    lexer.next().is_some_and(|token| token == Token::Symbol(b'=') || token.is_word("to"))
}

/// Whether nothing follows but semicolons.
fn ends(lexer: &Lexer<'_>) -> bool {
    lexer.clone().all(|token| token == Token::Symbol(b';'))
}

/// With doubled quotes made one.
fn unquoted(inner: &[u8], quote: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == quote && bytes.peek() == Some(&quote) {
            bytes.next();
        }
        out.push(byte);
    }
    out
}

/// Words anywhere in `bytes`, whatever they are quoted with, that could be the name of a custom setting (`app.tenant`). At
/// most `max` of them are handed to `found`.
pub fn custom_names(bytes: &[u8], max: usize, found: &mut impl FnMut(&[u8])) {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80;
    let words = bytes.split(|byte| !is_part(*byte) && *byte != b'.').filter(|word| {
        let starts = |part: &[u8]| part.first().is_some_and(|byte| is_part(*byte) && !byte.is_ascii_digit());
        word.len() <= NAME_MAX && word.contains(&b'.') && word.split(|byte| *byte == b'.').all(starts)
    });
    words.take(max).for_each(found);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lone(sql: &str) -> Option<Lone> {
        Assignments::of(sql.as_bytes()).lone
    }

    fn names(sql: &str) -> String {
        let found = Assignments::of(sql.as_bytes());
        let names: Vec<_> = found.names.iter().map(|name| String::from_utf8_lossy(name)).collect();
        names.join(" ") + if found.all { " all" } else { "" }
    }

    #[test]
    fn a_lone_set_is_taken_at_its_word() {
        let set = |name: &str, value: &str| Some(Lone::Set(name.as_bytes().into(), value.as_bytes().into()));
        assert_eq!(lone("set Work_Mem = '4MB';"), set("work_mem", "4MB"));
        assert_eq!(lone("/* x */ SET SESSION a TO On ; "), set("a", "on"));
        assert_eq!(lone("set app.\"Tenant\" = 'it''s'"), set("app.tenant", "it's"));
        assert_eq!(lone("set time zone -7"), set("timezone", "-7"));
        assert_eq!(lone("set role \"Bob\""), set("role", "Bob"));
        assert_eq!(lone("set role to bob"), set("role", "bob"));
        assert_eq!(lone("set session authorization 'bob'"), set("session_authorization", "bob"));
        assert_eq!(lone("set names utf8"), set("client_encoding", "utf8"));
        assert_eq!(lone("set x to default"), Some(Lone::Reset(b"x"[..].into())));
        assert_eq!(lone("set session authorization default"), lone("reset session authorization"));
        assert_eq!(lone("reset time zone"), Some(Lone::Reset(b"timezone"[..].into())));
        assert_eq!(lone("reset all"), Some(Lone::ResetAll));
    }

    #[test]
    fn anything_else_gives_names_only() {
        for (sql, expected) in [
            ("set search_path = 'a'", "search_path"),
            ("set datestyle = iso, dmy", "datestyle"),
            ("set time zone interval '1' hour", "timezone"),
            ("set a = 1; set b = 2; reset a", "a b"),
            ("select set_config('App.X', v, false), set_config('b', 'c', false)", "app.x b"),
            ("set session characteristics as transaction read only", {
                "default_transaction_isolation default_transaction_read_only default_transaction_deferrable"
            }),
            ("set schema 'x'", "search_path"),
            ("set local x = 1", ""),
            ("begin; reset all; commit", " all"),
            ("discard all", " all"),
            ("discard plans", ""),
            ("set x = E'a\\n'", "x"),
        ] {
            assert_eq!(names(sql), expected, "{sql}");
            assert_eq!(lone(sql), None, "{sql}");
        }
    }

    #[test]
    fn custom_names_are_found_however_they_are_quoted() {
        let mut found = Vec::new();
        custom_names(b"do $$ perform set_config('app.tenant', t.x::text, 1.5) $$; a..b .c", 9, &mut |name| {
            found.push(String::from_utf8_lossy(name).into_owned());
        });
        assert_eq!(found, ["app.tenant", "t.x"]);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(sql in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Assignments::of(&sql);
            custom_names(&sql, 10, &mut |_| {});
        }

        #[test]
        fn any_quoted_value_comes_back(value in "[ -~]{0,30}") {
            prop_assume!(!value.contains('\\'));
            let sql = format!("set x = '{}'", value.replace('\'', "''"));
            prop_assert_eq!(lone(&sql), Some(Lone::Set(b"x"[..].into(), value.into_bytes().into())));
        }
    }
}
