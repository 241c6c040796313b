//! A statement with its literals replaced: the key under which what is known of it is remembered.
//!
//! The fingerprint is SQL itself, in one spelling of many: words folded, comments gone, one blank where blanks are needed,
//! numbers `0` or `0.0`, text `''`. Whatever is said of a statement is derived from its fingerprint alone
//! ([`super::analysis`]), so that two texts with one fingerprint cannot be told apart, and need not be. What the lexer
//! reads loosely stays as it is and is not understood there: numbers with letters behind them (`1for` is two tokens
//! before PostgreSQL 15), a backslash that would move the end of a literal, whatever has no end.
//!
//! Literals are taken out wherever they stand; where one is code (the body of `DO`, an argument of `query_to_xml`), the
//! statement around it must not be taken for a read. Writing a fingerprint's fingerprint changes nothing.

use super::class::Hint;
use super::lexer::{Lexer, Token};

/// What was written last, as far as it matters for the blank behind it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Nothing,
    /// A word or a name in quotes.
    Name,
    /// `(` or `[`.
    Open,
    /// `)` or `]`.
    Close,
    /// A `.` behind a name.
    Dot,
    /// A character that operators are made of.
    Operator,
    Other,
}

/// How far a list of literals has been read that is written as its first one only.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    No,
    /// `IN` or `ARRAY`.
    Named,
    /// Its parenthesis.
    Opened,
    /// A literal at its beginning.
    Item,
}

/// Writes the fingerprint of `sql` to the end of `out`, and nothing else is allocated. With `hints`, a leading comment
/// that is one ([`Hint`]) is part of it.
pub fn write(sql: &[u8], hints: bool, out: &mut Vec<u8>) {
    if hints && let Some(hint) = Hint::of(sql) {
        out.extend_from_slice(hint.comment().as_bytes());
    }
    let mut writer = Writer { out, last: Last::Nothing, list: List::No, ended: false };
    let mut lexer = Lexer::new(sql);
    let mut before = lexer.rest().len();
    while let Some(token) = lexer.next() {
        let after = lexer.rest().len();
        // a symbol is one byte: if more has been read, blanks or comments stood in front
        writer.token(token, before - after == 1, &mut lexer);
        before = lexer.rest().len();
    }
    let is_text = sql.is_ascii() || std::str::from_utf8(sql).is_ok();
    if !is_text && !writer.out.ends_with(b"\x01") {
        writer.other(b"\x01"); // as if it were a symbol: behind an odd comment, the rest may be text
    }
    if !lexer.is_whole() {
        out.extend_from_slice(b" /*");
    }
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    last: Last,
    list: List,
    /// A semicolon is due if anything follows.
    ended: bool,
}

impl Writer<'_> {
    fn token(&mut self, token: Token<'_>, adjacent: bool, lexer: &mut Lexer<'_>) {
        let list = std::mem::replace(&mut self.list, List::No);
        if token == Token::Symbol(b';') {
            self.ended = self.last != Last::Nothing;
            return;
        }
        if std::mem::take(&mut self.ended) {
            self.out.push(b';');
            self.last = Last::Other;
        }
        match token {
            Token::Word(word) => {
                self.blank(self.last != Last::Open && self.last != Last::Dot);
                let start = self.out.len();
                self.out.extend_from_slice(word);
                if let Some(written) = self.out.get_mut(start..) {
                    written.make_ascii_lowercase();
                    if *written == *b"in" || *written == *b"array" {
                        self.list = List::Named;
                    }
                }
                self.last = Last::Name;
            }
            Token::Quoted(name) => {
                self.blank(self.last != Last::Open && self.last != Last::Dot);
                self.out.push(b'"');
                self.out.extend_from_slice(name);
                self.out.push(b'"');
                self.last = Last::Name;
            }
            Token::Symbol(symbol) => self.symbol(symbol, adjacent, list, lexer),
            Token::Disguised => self.other(b"u&\"\""),
            Token::Text { .. } if moves_its_end(token) => self.other(b"'\\'"),
            Token::Text { .. } | Token::Dollar(_) => self.item(b"''", list),
            Token::Number(number) => match Number::of(number) {
                Number::Integer => self.item(b"0", list),
                Number::Decimal => self.item(b"0.0", list),
                Number::Odd => self.other(number),
            },
            Token::Param(number) => {
                self.other(b"$");
                self.digits(number);
                self.list = if list == List::Opened { List::Item } else { List::No };
            }
        }
    }

    fn blank(&mut self, needed: bool) {
        if needed && self.last != Last::Nothing {
            self.out.push(b' ');
        }
    }

    fn other(&mut self, text: &[u8]) {
        self.blank(self.last != Last::Open);
        self.out.extend_from_slice(text);
        self.last = Last::Other;
    }

    fn digits(&mut self, number: u16) {
        let mut divisor = 10_000;
        while divisor > 1 && number < divisor {
            divisor /= 10;
        }
        while divisor > 0 {
            self.out.push(b'0' + u8::try_from(number / divisor % 10).unwrap_or_default());
            divisor /= 10;
        }
    }

    /// A literal, which may begin a list.
    fn item(&mut self, text: &[u8], list: List) {
        self.other(text);
        if list == List::Opened {
            self.list = List::Item;
        }
    }

    fn symbol(&mut self, symbol: u8, adjacent: bool, list: List, lexer: &mut Lexer<'_>) {
        let (blank, last) = match symbol {
            b',' if list == List::Item && self.passes_item(lexer) => return,
            b')' | b']' => (false, Last::Close),
            b',' => (false, Last::Other),
            b'(' => (!matches!(self.last, Last::Name | Last::Open), Last::Open),
            b'[' => (false, Last::Open),
            b'.' if matches!(self.last, Last::Name | Last::Close) => (false, Last::Dot),
            b'*' if self.last == Last::Dot => (false, Last::Operator),
            _ if is_operator(symbol) => {
                (self.last != Last::Open && !(adjacent && self.last == Last::Operator), Last::Operator)
            }
            _ => (self.last != Last::Open, Last::Other),
        };
        if matches!(symbol, b'(' | b'[') && list == List::Named {
            self.list = List::Opened;
        }
        self.blank(blank);
        self.out.push(symbol);
        self.last = last;
    }

    /// Behind a comma in a list: passes over one more literal, if it is all there is of the next item.
    fn passes_item(&mut self, lexer: &mut Lexer<'_>) -> bool {
        let mut ahead = *lexer;
        let passes = match ahead.next() {
            Some(token @ Token::Text { .. }) => !moves_its_end(token),
            Some(Token::Number(number)) => Number::of(number) != Number::Odd,
            Some(Token::Dollar(_) | Token::Param(_)) => true,
            _ => false,
        };
        let behind = ahead;
        if passes && matches!(ahead.next(), Some(Token::Symbol(b',' | b')' | b']'))) {
            *lexer = behind;
            self.list = List::Item;
            return true;
        }
        false
    }
}

/// Characters of operators (`self` and `op_chars` of PostgreSQL's scanner).
const fn is_operator(symbol: u8) -> bool {
    matches!(
        symbol,
        b'+' | b'-'
            | b'*'
            | b'/'
            | b'<'
            | b'>'
            | b'='
            | b'~'
            | b'!'
            | b'@'
            | b'#'
            | b'%'
            | b'^'
            | b'&'
            | b'|'
            | b'`'
            | b'?'
            | b':'
    )
}

/// Whether a literal would end elsewhere if `standard_conforming_strings` were otherwise. One with a prefix has said how it
/// is to be read, and the lexer has.
#[must_use]
pub fn moves_its_end(token: Token<'_>) -> bool {
    match token {
        Token::Text { inner, plain: false } => inner.ends_with(b"\\") || memchr::memmem::find(inner, b"\\'").is_some(),
        _ => false,
    }
}

/// What a number is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    Integer,
    Decimal,
    /// With something behind it that is a number in some version of PostgreSQL, and something else in others.
    Odd,
}

impl Number {
    pub(super) fn of(text: &[u8]) -> Self {
        let digits = |text: &[u8]| text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
        let whole = digits(text);
        let rest = text.get(whole..).unwrap_or_default();
        if rest.is_empty() {
            // longer ones are no integers to PostgreSQL
            return if whole <= 18 { Self::Integer } else { Self::Decimal };
        }
        let rest = match rest {
            [b'.', fraction @ ..] => {
                let len = digits(fraction);
                if whole + len == 0 {
                    return Self::Odd;
                }
                fraction.get(len..).unwrap_or_default()
            }
            _ => rest,
        };
        match rest {
            [] => Self::Decimal,
            [b'e' | b'E', b'+' | b'-', exponent @ ..] | [b'e' | b'E', exponent @ ..]
                if !exponent.is_empty() && digits(exponent) == exponent.len() =>
            {
                Self::Decimal
            }
            _ => Self::Odd,
        }
    }
}

/// The fingerprint as people expect to see one: `?` for each literal.
#[must_use]
pub fn shown(fingerprint: &[u8]) -> String {
    let mut shown = Vec::with_capacity(fingerprint.len());
    let mut lexer = Lexer::new(fingerprint);
    let mut at = 0;
    while let Some(token) = lexer.next() {
        let end = fingerprint.len() - lexer.rest().len();
        let literal = match token {
            Token::Text { inner: b"", .. } => b"''".as_slice(),
            Token::Number(number @ (b"0" | b"0.0")) => number,
            _ => b"",
        };
        if literal.is_empty() {
            shown.extend_from_slice(fingerprint.get(at..end).unwrap_or_default());
        } else {
            shown.extend_from_slice(fingerprint.get(at..end - literal.len()).unwrap_or_default());
            shown.push(b'?');
        }
        at = end;
    }
    shown.extend_from_slice(fingerprint.get(at..).unwrap_or_default());
    String::from_utf8_lossy(&shown).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::analysis::Analysis;
    use super::super::class::{Class, Reason, Verdict};
    use super::super::knowledge::Assumed;
    use super::super::second_opinion::Opinion;
    use super::*;
    use proptest::prelude::*;

    fn of(sql: &str) -> String {
        let mut out = Vec::new();
        write(sql.as_bytes(), true, &mut out);
        let mut again = Vec::new();
        write(&out, true, &mut again);
        assert_eq!(out, again, "{sql}");
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn one_spelling_of_many_is_written() {
        for (sql, fingerprint) in [
            ("SELECT  abalance\nFROM T WHERE Aid=12 ; ", "select abalance from t where aid = 0"),
            ("select 1.5, .5, 1e10, 1E-7, 'it''s', E'a\\n', $$x$$, x'1F'", {
                "select 0.0, 0.0, 0.0, 0.0, '', '', '', ''"
            }),
            ("select a . b.*, \"A\".\"b\"", "select a.b.*, \"A\".\"b\""),
            ("select count( * )/* x */from t--y", "select count(*) from t"),
            ("select a<=b, a< =b, a- -1, a-/**/-1", "select a <= b, a < = b, a - - 0, a - - 0"),
            ("select x::int[], a[1:2], array [1, 2,3]", "select x :: int[], a[0 : 0], array[0]"),
            ("where id in (1,2, 3) and x in ('a') and y in ($1,$2)", "where id in(0) and x in('') and y in($1)"),
            ("where id in (1, 2 + 3, -4)", "where id in(0, 0 + 0, - 0)"),
            ("where id in (1, 'a\\', 3)", "where id in(0, '\\', 0)"),
            ("; ;select 1;;select 2;", "select 0; select 0"),
            ("/*HOWDAH:replica*/ select 1", "/* howdah: replica */ select 0"),
            ("select 1for, 1_000, 0x1f, 1.5.5", "select 1for, 1_000, 0x1f, 1.5.5"),
            ("select 'a'\n'b'", "select '' ''"),
            ("select U&\"x\", u & \"x\"", "select u&\"\", u & \"x\""),
            ("select 'open", "select '' /*"),
            ("select /* open", "select /*"),
            ("select $1, a$1, $2a", "select $1, a$1, $2 a"),
            ("a?b, a?|b, ?", "a ? b, a ?| b, ?"),
        ] {
            assert_eq!(of(sql), fingerprint, "{sql}");
        }
    }

    #[test]
    fn people_see_question_marks() {
        assert_eq!(shown(b"select a from t where b = 0 and c in('') -- '0'"), {
            "select a from t where b = ? and c in(?) -- '0'"
        });
    }

    /// Pieces of statements, and of what makes them hard to read.
    const PIECES: &[&str] = &[
        "select",
        "SELECT",
        "from",
        "t",
        "\"t\"",
        "where",
        "for",
        "update",
        "share",
        "into",
        "union",
        "with",
        "as",
        "(",
        ")",
        "(",
        ")",
        ",",
        ";",
        ".",
        "=",
        "-",
        "*",
        "::",
        ":",
        "?",
        "|",
        "/",
        "in (",
        "array[",
        "]",
        "1",
        "2",
        "1.5",
        ".5",
        "1e5",
        "1for",
        "0x1F",
        "1_000",
        "e",
        "E",
        "+",
        "'a'",
        "'it''s'",
        "'a\\'",
        "'\\d'",
        "E'\\''",
        "E'a'",
        "U&'x'",
        "U&",
        "b'1'",
        "x",
        "$1",
        "$2",
        "$",
        "a$1",
        "$$ x $$",
        "$q$ $$ $q$",
        "$q$",
        "/*",
        "*/",
        "--",
        "\n",
        "'",
        "\"",
        "\\",
        "delete",
        "returning",
        "values",
        "table",
        "explain",
        "analyze",
        "copy",
        "to",
        "stdout",
        "insert",
        "do",
        "begin",
        "read",
        "only",
        "é",
        "f(",
        "order by",
    ];

    fn soup() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(PIECES);
        let gap = prop::sample::select(&["", " ", " ", " ", "\n", "/**/", " -- x\n", "\t"][..]);
        prop::collection::vec((piece, gap), 0..16)
            .prop_map(|pieces| pieces.into_iter().flat_map(|(piece, gap)| [piece, gap]).collect())
    }

    /// The tokens of a text, literals without what is in them and semicolons as the fingerprint keeps them.
    fn tokens(sql: &str) -> Vec<String> {
        let mut tokens: Vec<_> = Vec::new();
        for token in Lexer::new(sql.as_bytes()) {
            let shown = match token {
                Token::Text { .. } if moves_its_end(token) => "moving text".to_owned(),
                Token::Text { .. } | Token::Dollar(_) => "text".to_owned(),
                Token::Number(number) if Number::of(number) == Number::Integer => "integer".to_owned(),
                Token::Number(number) if Number::of(number) == Number::Decimal => "decimal".to_owned(),
                Token::Word(word) => String::from_utf8_lossy(&word.to_ascii_lowercase()).into_owned(),
                Token::Symbol(b';') if tokens.last().is_none_or(|last| last == ";") => continue,
                Token::Symbol(symbol) => char::from(symbol).to_string(),
                other => format!("{other:?}"),
            };
            tokens.push(shown);
        }
        if tokens.last().is_some_and(|last| last == ";") {
            tokens.pop();
        }
        tokens
    }

    fn has_list(sql: &str) -> bool {
        let lower = sql.to_ascii_lowercase();
        lower.contains("in") || lower.contains("array")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_fingerprint_keeps_all_tokens_but_what_is_in_literals(sql in soup()) {
            let fingerprint = of(&sql);
            if !has_list(&sql) {
                prop_assert_eq!(tokens(&fingerprint), tokens(&sql), "{}", fingerprint);
            }
        }

        #[test]
        fn what_another_grammar_finds_in_a_text_its_fingerprint_does_not_hide(sql in soup()) {
            let verdict = Analysis::of(sql.as_bytes(), true).verdict(&Assumed::ALL_READ);
            let ours_alone = sql.contains(';') || sql.to_ascii_lowercase().contains("table")
                || sql.to_ascii_lowercase().contains("copy") || sql.to_ascii_lowercase().contains("explain");
            if verdict == Verdict::new(Class::Read, Reason::Reads) && !ours_alone {
                let opinion = Opinion::of(&sql);
                prop_assert!(matches!(opinion, Opinion::Reads | Opinion::Silent), "{:?}", opinion);
            }
        }

        #[test]
        fn literals_blanks_comments_and_case_change_nothing_but_the_spelling(
            number in 0..1_000_000_u32, text in "[a-z ;/*-]{0,10}", gap in "( |\n|/\\* x \\*/|-- y\n){1,3}", list in 1..20_usize,
        ) {
            let items = vec!["7"; list].join(&format!(",{gap}"));
            for (plain, spelt) in [
                ("select a from t where b = 1", format!("SELECT{gap}A{gap}FROM t{gap}where b={number}")),
                ("select 'x'", format!("select{gap}'{text}'")),
                ("select a in (1) for update", format!("select a in ({items}){gap}FOR{gap}UPDATE;")),
                ("delete from t where a = 'x'", format!("{gap}delete from t where a ={gap}'{text}'{gap};{gap}")),
            ] {
                prop_assert_eq!(of(plain), of(&spelt));
            }
        }

        #[test]
        fn any_bytes_have_a_fingerprint_and_a_class(sql in prop::collection::vec(any::<u8>(), 0..200)) {
            let (mut once, mut twice) = (Vec::new(), Vec::new());
            write(&sql, true, &mut once);
            write(&once, true, &mut twice);
            prop_assert_eq!(&once, &twice);
            let (of_text, of_fingerprint) = (Analysis::of(&sql, true), Analysis::of(&once, true));
            prop_assert_eq!(of_text.verdict(&Assumed::ALL_READ), of_fingerprint.verdict(&Assumed::ALL_READ));
        }
    }
}
