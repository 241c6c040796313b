//! What stands between the literals of a text: the same for all that an application sends in this form.
//!
//! Two texts that differ in nothing but plain literals, numbers by numbers and strings by strings, have the same tokens but for
//! the values of these. That takes no lexer to see: the parts between are compared, and a literal is passed over, which is why it
//! must be plain. Only digits, no more than make an integer; or a string in single quotes that has neither quotes nor backslashes
//! nor anything but ASCII in it.
//!
//! That the lexer would agree: up to a literal both texts are equal, and what comes then, a digit or a quote, is the same
//! for whatever looks one byte ahead. The literal of the first text has ended at what follows it there; the same follows in
//! the second, where it ends digits as well, and a quote is never followed by another.
//!
//! Not here: what is known of texts of one shape ([`super::texts`]).

use std::ops::Range;

use super::fingerprint::Number;
use super::lexer::{Lexer, Token};

/// Longer texts have no shape: lexing them is not what takes time.
const TEXT_MAX: usize = 4 * 1024;
/// Texts with more literals have none either.
const LITERALS_MAX: usize = 64;

/// A text, and where its plain literals stand.
#[derive(Debug, Default)]
pub struct Shape {
    text: Vec<u8>,
    literals: Vec<Range<usize>>,
}

impl Shape {
    /// Becomes the shape of `sql`; `false`, and matches nothing but the empty text, if that has none. Allocates only what it
    /// has not been as large as before.
    pub fn become_of(&mut self, sql: &[u8]) -> bool {
        self.text.clear();
        self.literals.clear();
        if sql.len() > TEXT_MAX {
            return false;
        }
        let mut lexer = Lexer::new(sql);
        while let Some(token) = lexer.next() {
            let end = sql.len() - lexer.rest().len();
            let len = match token {
                Token::Number(digits) if Number::of(digits) == Number::Integer => digits.len(),
                Token::Text { inner, plain: true } if inner.iter().all(|byte| passes(*byte)) => inner.len() + 2,
                _ => continue,
            };
            if self.literals.len() == LITERALS_MAX || !lexer.is_whole() {
                self.literals.clear();
                return false;
            }
            self.literals.push(end - len..end);
        }
        self.text.extend_from_slice(sql);
        true
    }

    /// Whether `sql` has this shape.
    #[must_use]
    pub fn matches(&self, sql: &[u8]) -> bool {
        let (mut from, mut rest) = (0, sql);
        for literal in &self.literals {
            let fixed = self.text.get(from..literal.start).unwrap_or_default();
            let behind = rest.strip_prefix(fixed).and_then(|rest| match self.text.get(literal.start) {
                Some(b'\'') => behind_string(rest),
                _ => behind_digits(rest),
            });
            let Some(behind) = behind else { return false };
            (from, rest) = (literal.end, behind);
        }
        self.text.get(from..).unwrap_or_default() == rest
    }
}

/// What may stand in a string that is passed over.
const fn passes(byte: u8) -> bool {
    byte.is_ascii() && !matches!(byte, 0 | b'\\' | b'\'')
}

fn behind_string(text: &[u8]) -> Option<&[u8]> {
    let inner = text.strip_prefix(b"'")?;
    let end = inner.iter().position(|byte| !passes(*byte))?;
    inner.get(end..)?.strip_prefix(b"'")
}

fn behind_digits(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    (Number::of(digits) == Number::Integer && end > 0).then_some(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sql::effects::Effects;
    use crate::sql::fingerprint;

    fn shape(sql: &[u8]) -> Option<Shape> {
        let mut shape = Shape::default();
        shape.become_of(sql).then_some(shape)
    }

    fn fingerprint(sql: &[u8]) -> Vec<u8> {
        let mut written = Vec::new();
        fingerprint::write(sql, true, &mut written);
        written
    }

    #[test]
    fn other_values_have_the_same_shape_and_other_words_do_not() {
        let one = shape(b"select a from t1 where b = 12 and c in ('x', '') and d < -5 -- 7").unwrap();
        for (sql, matches) in [
            ("select a from t1 where b = 7 and c in ('', 'it is') and d < -123456 -- 7", true),
            ("select a from t2 where b = 12 and c in ('x', '') and d < -5 -- 7", false),
            ("select a from t1 where b = 12 and c in ('x', 'it''s') and d < -5 -- 7", false),
            (r"select a from t1 where b = 12 and c in ('x', '\') and d < -5 -- 7", false),
            ("select a from t1 where b = 12 and c in ('x', 'é') and d < -5 -- 7", false),
            ("select a from t1 where b = 1.5 and c in ('x', '') and d < -5 -- 7", false),
            ("select a from t1 where b =  and c in ('x', '') and d < -5 -- 7", false),
            ("select a from t1 where b = 1234567890123456789 and c in ('x', '') and d < -5 -- 7", false),
            ("select a from t1 where b = 'x' and c in ('x', '') and d < -5 -- 7", false),
            ("select a from t1 where b = 12 and c in ('x', '') and d < -5 -- 8", false),
            ("select a from t1 where b = 12 and c in ('x', '') and d < -5 -- 7;", false),
            ("select a from t1 where b = 12 and c in ('x", false),
            ("", false),
        ] {
            assert_eq!(one.matches(sql.as_bytes()), matches, "{sql}");
        }
    }

    #[test]
    fn what_has_no_end_or_is_too_much_has_no_shape() {
        let many = "1,".repeat(LITERALS_MAX + 1);
        let long = "a ".repeat(TEXT_MAX);
        for sql in ["select 'open", many.as_str(), long.as_str()] {
            assert!(shape(sql.as_bytes()).is_none(), "{sql}");
        }
    }

    /// Pieces that texts are put together of, so that everything is met next to everything.
    fn piece() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "1",
            "0",
            "42",
            "'a'",
            "''",
            "'",
            "\\",
            "'1'",
            " ",
            "\n",
            "-",
            "--",
            "/*",
            "*/",
            "$$",
            "$1",
            "$",
            "\"",
            "e'",
            "b'",
            "u&'",
            "u&\"",
            "x",
            "e",
            "1e",
            ".",
            ",",
            "(",
            ")",
            "[",
            "in (",
            ";",
            "é",
            "\u{1}",
            "\0",
            "_",
            "do ",
            "set x to ",
            "set_config(",
            "create ",
            "insert ",
            "select ",
            "true",
            "'true'",
            "listen ",
            "with hold",
            "declare ",
            "= ",
            "0x",
        ])
    }

    fn text() -> impl Strategy<Value = Vec<&'static str>> {
        prop::collection::vec(piece(), 0..14)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn texts_of_one_shape_have_one_fingerprint_and_the_same_effects(
            pieces in text(), at in any::<prop::sample::Index>(), other in piece(), values in "[0-9a-z ]{0,4}"
        ) {
            let sql = pieces.concat().into_bytes();
            let Some(shape) = shape(&sql) else { return Ok(()) };
            prop_assert!(shape.matches(&sql));
            // other values where its literals stand, and any other piece anywhere
            let (mut valued, mut from) = (Vec::new(), 0);
            for literal in &shape.literals {
                valued.extend_from_slice(&sql[from..literal.start]);
                match sql[literal.start] {
                    b'\'' => valued.extend_from_slice(format!("'{values}'").as_bytes()),
                    _ => valued.extend_from_slice(values.len().to_string().as_bytes()),
                }
                from = literal.end;
            }
            valued.extend_from_slice(&sql[from..]);
            prop_assert!(shape.matches(&valued));
            let mut mutated = pieces.clone();
            if !mutated.is_empty() {
                let at = at.index(mutated.len());
                mutated[at] = other;
            }
            for sibling in [valued, mutated.concat().into_bytes()] {
                if shape.matches(&sibling) {
                    let shown = String::from_utf8_lossy(&sibling).into_owned();
                    prop_assert_eq!(fingerprint(&sql), fingerprint(&sibling), "{}", shown);
                    let (effects, known) = (Effects::read(&sql), Effects::read(&sibling));
                    prop_assert_eq!(effects.by_values, known.by_values, "{}", shown);
                    prop_assert!(effects.by_values || effects == known, "{}", shown);
                }
            }
        }
    }
}
