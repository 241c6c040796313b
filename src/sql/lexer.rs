//! SQL text as tokens, as PostgreSQL's own scanner sees them (SQL-SYNTAX-LEXICAL).
//!
//! No allocation, and no text is an error: what is unterminated ends where the text ends. Nothing is unescaped here.
//! `standard_conforming_strings` is not known: a plain literal is read as if it were on, and one that would end elsewhere
//! if it were off says so ([`Token::Text`]).
//!
//! Not here: what the tokens mean ([`super::effects`]).

/// One token. Comments and blanks are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// A keyword or an identifier without quotes, as written: PostgreSQL folds it to lower case.
    Word(&'a [u8]),
    /// An identifier in double quotes, without them; a quote in it is still doubled.
    Quoted(&'a [u8]),
    /// `U&"…"`: an identifier in disguise.
    Disguised,
    /// A literal in single quotes, without them and without its prefix.
    Text {
        /// What stands between the quotes.
        inner: &'a [u8],
        /// Whether it is what it seems: no escapes, and the same end whatever `standard_conforming_strings` is.
        plain: bool,
    },
    /// A literal in dollar quotes, without them.
    Dollar(&'a [u8]),
    /// A number.
    Number(&'a [u8]),
    /// `$1` and its like.
    Param(u16),
    /// Any other byte.
    Symbol(u8),
}

impl<'a> Token<'a> {
    /// Whether it is this keyword, given in lower case.
    #[must_use]
    pub const fn is_word(&self, keyword: &str) -> bool {
        matches!(self, Self::Word(word) if word.eq_ignore_ascii_case(keyword.as_bytes()))
    }

    /// The bytes of an identifier, quoted or not.
    #[must_use]
    pub const fn identifier(&self) -> Option<&'a [u8]> {
        match self {
            Self::Word(name) | Self::Quoted(name) => Some(name),
            _ => None,
        }
    }
}

/// The tokens of a text.
#[derive(Clone, Copy, Debug)]
pub struct Lexer<'a> {
    rest: &'a [u8],
    whole: bool,
}

const fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

const fn continues_word(byte: u8) -> bool {
    starts_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

impl<'a> Lexer<'a> {
    /// Reads `text` from its beginning, up to a zero byte if there is one.
    #[must_use]
    pub const fn new(text: &'a [u8]) -> Self {
        Self { rest: text, whole: true }
    }

    /// Whether everything read so far ended: no quote or comment was still open where the text ends, no zero byte cut it.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.whole
    }

    /// Skips what no token begins with; what stands in the block comment that comes first there, if one does.
    pub fn comment(&mut self) -> Option<&'a [u8]> {
        loop {
            match self.rest {
                [byte, rest @ ..] if is_blank(*byte) => self.rest = rest,
                [b'-', b'-', ..] => self.skip_line(),
                [b'/', b'*', rest @ ..] => {
                    self.rest = rest;
                    self.skip_block_comment();
                    let len = rest.len() - self.rest.len();
                    return rest.get(..len.saturating_sub(2));
                }
                _ => return None,
            }
        }
    }

    /// What has not been read yet.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Splits off what `wanted` accepts.
    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| !wanted(*byte)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, &[]));
        self.rest = rest;
        taken
    }

    /// What stands before the closing quote; the opening one has been read. A doubled quote is not the end, and with
    /// `escapes` neither is one behind a backslash.
    fn quoted(&mut self, quote: u8, escapes: bool) -> &'a [u8] {
        let text = self.rest;
        let mut at = 0;
        while let Some(found) = text.get(at..).and_then(|rest| memchr::memchr2(quote, b'\\', rest)) {
            at += found;
            if text.get(at) == Some(&b'\\') {
                at += if escapes { 2 } else { 1 };
            } else if text.get(at + 1) == Some(&quote) {
                at += 2;
            } else {
                self.rest = text.get(at + 1..).unwrap_or_default();
                return text.get(..at).unwrap_or_default();
            }
        }
        self.rest = &[];
        self.whole = false;
        text
    }

    /// A literal whose opening quote has been read.
    fn literal(&mut self, escapes: bool, prefixed: bool) -> Token<'a> {
        let inner = self.quoted(b'\'', escapes);
        Token::Text { inner, plain: !prefixed && memchr::memchr(b'\\', inner).is_none() }
    }

    /// `$tag$ … $tag$`, or `None` when the dollar opens none.
    fn dollar(&mut self) -> Option<Token<'a>> {
        let rest = self.rest.get(1..)?;
        let tag_len = rest.iter().position(|byte| !continues_word(*byte) || *byte == b'$')?;
        if rest.get(tag_len) != Some(&b'$') || rest.first().is_some_and(u8::is_ascii_digit) {
            return None;
        }
        let tag = self.rest.get(..tag_len + 2)?;
        let body = rest.get(tag_len + 1..)?;
        let Some(end) = memchr::memmem::find(body, tag) else {
            self.rest = &[];
            self.whole = false;
            return Some(Token::Dollar(body));
        };
        self.rest = body.get(end + tag.len()..)?;
        Some(Token::Dollar(body.get(..end)?))
    }

    /// A word, or the literal or identifier that it is the prefix of.
    fn word(&mut self) -> Token<'a> {
        let word = self.take_while(continues_word);
        match (word, self.rest) {
            ([b'e' | b'E'], [b'\'', rest @ ..]) => {
                self.rest = rest;
                self.literal(true, true)
            }
            ([b'b' | b'B' | b'x' | b'X' | b'n' | b'N'], [b'\'', rest @ ..]) => {
                self.rest = rest;
                self.literal(false, true)
            }
            ([b'u' | b'U'], [b'&', b'\'', rest @ ..]) => {
                self.rest = rest;
                self.literal(false, true)
            }
            ([b'u' | b'U'], [b'&', b'"', rest @ ..]) => {
                self.rest = rest;
                self.quoted(b'"', false);
                Token::Disguised
            }
            _ => Token::Word(word),
        }
    }

    fn skip_block_comment(&mut self) {
        let mut depth = 1_usize;
        while depth > 0 {
            match self.rest {
                [b'*', b'/', rest @ ..] => {
                    depth -= 1;
                    self.rest = rest;
                }
                [b'/', b'*', rest @ ..] => {
                    depth += 1;
                    self.rest = rest;
                }
                [_, rest @ ..] => {
                    let next = memchr::memchr2(b'*', b'/', rest).unwrap_or(rest.len());
                    self.rest = rest.get(next..).unwrap_or_default();
                }
                [] => {
                    self.whole = false;
                    return;
                }
            }
        }
    }

    fn skip_line(&mut self) {
        let end = memchr::memchr2(b'\n', b'\r', self.rest).unwrap_or(self.rest.len());
        self.rest = self.rest.get(end..).unwrap_or_default();
    }

    /// A number, with all that PostgreSQL of some version takes into it or complains of.
    fn number(&mut self) -> Token<'a> {
        let text = self.rest;
        let mut len = 0;
        for at in 0..text.len() {
            let signed = || {
                let exponent = text.get(at.wrapping_sub(1)).is_some_and(|before| matches!(before, b'e' | b'E'));
                exponent && text.get(at + 1).is_some_and(u8::is_ascii_digit) && !matches!(text, [b'0', b'x' | b'X', ..])
            };
            match text.get(at) {
                Some(byte) if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_') => {}
                Some(b'+' | b'-') if signed() => {}
                _ => break,
            }
            len = at + 1;
        }
        let (number, rest) = text.split_at_checked(len).unwrap_or((text, &[]));
        self.rest = rest;
        Token::Number(number)
    }
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let (&byte, rest) = self.rest.split_first()?;
            match byte {
                0 => {
                    self.rest = &[];
                    self.whole = false;
                    return None;
                }
                _ if starts_word(byte) => return Some(self.word()),
                _ if is_blank(byte) => self.rest = rest,
                b'-' if rest.first() == Some(&b'-') => self.skip_line(),
                b'/' if rest.first() == Some(&b'*') => {
                    self.rest = rest.get(1..).unwrap_or_default();
                    self.skip_block_comment();
                }
                b'\'' => {
                    self.rest = rest;
                    return Some(self.literal(false, false));
                }
                b'"' => {
                    self.rest = rest;
                    return Some(Token::Quoted(self.quoted(b'"', false)));
                }
                b'$' => {
                    if let Some(token) = self.dollar() {
                        return Some(token);
                    }
                    self.rest = rest;
                    let digits = self.take_while(|byte| byte.is_ascii_digit());
                    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
                    return Some(number.map_or(Token::Symbol(b'$'), Token::Param));
                }
                b'0'..=b'9' => return Some(self.number()),
                b'.' if rest.first().is_some_and(u8::is_ascii_digit) => return Some(self.number()),
                _ => {
                    self.rest = rest;
                    return Some(Token::Symbol(byte));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(inner: &str, plain: bool) -> Token<'_> {
        Token::Text { inner: inner.as_bytes(), plain }
    }

    fn word(word: &str) -> Token<'_> {
        Token::Word(word.as_bytes())
    }

    #[test]
    fn literals_end_where_postgresql_ends_them() {
        for (sql, tokens) in [
            ("'it''s' x", vec![text("it''s", true), word("x")]),
            (r"'a\' x", vec![text(r"a\", false), word("x")]),
            (r"E'a\'b' x", vec![text(r"a\'b", false), word("x")]),
            ("U&\"d\\0061t\" U&'x' b'1'", vec![Token::Disguised, text("x", false), text("1", false)]),
            ("$$a'b$$ $q$ $$ $q$ $1 $", {
                vec![Token::Dollar(b"a'b"), Token::Dollar(b" $$ "), Token::Param(1), Token::Symbol(b'$')]
            }),
            ("a$1 $2a", vec![word("a$1"), Token::Param(2), word("a")]),
            ("\"A\"\"b\".c", vec![Token::Quoted(b"A\"\"b"), Token::Symbol(b'.'), word("c")]),
            ("/* a /* ' */ */ 'x' -- 'y'\n 1.5", vec![text("x", true), Token::Number(b"1.5")]),
            ("'open", vec![text("open", true)]),
            ("$x$ open", vec![Token::Dollar(b" open")]),
        ] {
            assert_eq!(Lexer::new(sql.as_bytes()).collect::<Vec<_>>(), tokens, "{sql}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_to_an_end(sql in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Lexer::new(&sql).count() <= sql.len());
        }

        #[test]
        fn quotes_and_comments_of_any_kind_come_to_an_end(sql in "[-a$'\"/*U&\\\\ ;(),]{0,60}") {
            prop_assert!(Lexer::new(sql.as_bytes()).count() <= sql.len());
        }
    }
}
