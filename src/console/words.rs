//! The console's words: bare, in double quotes, or strings in single quotes. ◇
//!
//! As PgBouncer's patterns have them: blanks are space, tab, newline and carriage return; a bare word is ASCII letters, digits and
//! underscores; a quote in quotes is written twice.

/// What is left of a text.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    /// Skips blanks. Whether there were any.
    pub(super) fn blanks(&mut self) -> bool {
        let rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
        let any = rest.len() < self.rest.len();
        self.rest = rest;
        any
    }

    /// A word, with its quotes.
    pub(super) fn word(&mut self) -> Option<&'a str> {
        if self.rest.starts_with('"') {
            return self.quoted('"');
        }
        self.bare(|char| char.is_ascii_alphanumeric() || char == '_')
    }

    /// A name of the `howdah` dialect: a word that may hold what names of nodes do.
    pub(super) fn name(&mut self) -> Option<&'a str> {
        if self.rest.starts_with('"') {
            return self.quoted('"');
        }
        self.bare(|char| char.is_alphanumeric() || matches!(char, '_' | '-' | '.'))
    }

    /// A string, with its quotes.
    pub(super) fn string(&mut self) -> Option<&'a str> {
        if self.rest.starts_with('\'') { self.quoted('\'') } else { None }
    }

    /// Takes `word` if it comes next, in any case. What follows it may be anything.
    pub(super) fn keyword(&mut self, word: &str) -> bool {
        let comes = self.rest.get(..word.len()).is_some_and(|next| next.eq_ignore_ascii_case(word));
        if comes {
            self.skip(word.len());
        }
        comes
    }

    /// Skips so many bytes, which have been looked at.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    /// Whether nothing follows but blanks, and one `;` among them.
    pub(super) fn is_over(&mut self) -> bool {
        self.blanks();
        if self.keyword(";") {
            self.blanks();
        }
        self.rest.is_empty()
    }

    fn bare(&mut self, belongs: impl Fn(char) -> bool) -> Option<&'a str> {
        let end = self.rest.find(|char| !belongs(char)).unwrap_or(self.rest.len());
        self.take(end)
    }

    fn quoted(&mut self, quote: char) -> Option<&'a str> {
        let mut chars = self.rest.char_indices().skip(1).peekable();
        while let Some((at, char)) = chars.next() {
            if char != quote {
                continue;
            }
            if chars.next_if(|(_, next)| *next == quote).is_none() {
                return self.take(at + quote.len_utf8());
            }
        }
        None
    }

    fn take(&mut self, bytes: usize) -> Option<&'a str> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        (!taken.is_empty()).then_some(taken)
    }
}

/// A word or a string without its quotes.
pub(super) fn unquote(written: &str) -> String {
    for (quote, twice) in [("\"", "\"\""), ("'", "''")] {
        let inside = written.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
        if let Some(inside) = inside {
            return inside.replace(twice, quote);
        }
    }
    written.to_owned()
}
