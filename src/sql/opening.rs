//! What the first words of a statement say, without parsing the rest.
//!
//! Enough for pooling: which statements begin or end a block, which move COPY data, which touch a server's own
//! statements. Only the first statement of a text is looked at. Not here: whether a statement reads or writes.

/// What a statement opens with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// `BEGIN`, `START TRANSACTION`.
    Begin,
    /// `COMMIT`, `END`; not `COMMIT PREPARED`.
    Commit,
    /// `ROLLBACK`, `ABORT`; not `ROLLBACK PREPARED`.
    Rollback,
    /// `ROLLBACK TO`.
    RollbackTo,
    /// `PREPARE TRANSACTION`.
    PrepareTransaction,
    /// `SAVEPOINT`.
    Savepoint,
    /// `RELEASE`.
    Release,
    /// `COPY`.
    Copy,
    /// `DISCARD`, `DEALLOCATE`: may take prepared statements away from the server.
    Discards,
    /// No statement at all: blank, comments, semicolons.
    Empty,
    /// Anything else.
    Other,
}

impl Opening {
    /// Reads the opening of `sql`. Unterminated comments and bytes that are not text are [`Opening::Empty`] and
    /// [`Opening::Other`]; nothing is an error here.
    #[must_use]
    pub fn of(sql: &[u8]) -> Self {
        let mut words = Words(sql);
        let first = words.next_word();
        let is = |word: &[u8], keyword: &str| word.eq_ignore_ascii_case(keyword.as_bytes());
        match first.len() {
            0 if words.0.is_empty() => return Self::Empty,
            3..=10 => {}
            _ => return Self::Other,
        }
        if is(first, "begin") || is(first, "start") && is(words.next_word(), "transaction") {
            Self::Begin
        } else if is(first, "commit") || is(first, "end") {
            if is(words.next_word(), "prepared") { Self::Other } else { Self::Commit }
        } else if is(first, "rollback") || is(first, "abort") {
            let mut next = words.next_word();
            if is(next, "work") || is(next, "transaction") {
                next = words.next_word();
            }
            match next {
                next if is(next, "to") => Self::RollbackTo,
                next if is(next, "prepared") => Self::Other,
                _ => Self::Rollback,
            }
        } else if is(first, "prepare") && is(words.next_word(), "transaction") {
            Self::PrepareTransaction
        } else if is(first, "savepoint") {
            Self::Savepoint
        } else if is(first, "release") {
            Self::Release
        } else if is(first, "copy") {
            Self::Copy
        } else if is(first, "discard") || is(first, "deallocate") {
            Self::Discards
        } else {
            Self::Other
        }
    }

    /// Whether PostgreSQL accepts it in a failed block (`IsTransactionExitStmt`).
    #[must_use]
    pub const fn exits_block(self) -> bool {
        matches!(self, Self::Commit | Self::Rollback | Self::RollbackTo | Self::PrepareTransaction)
    }
}

/// Words in front of a text, past blanks, comments and empty statements.
struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    /// The next run of letters; empty when something else comes next.
    fn next_word(&mut self) -> &'a [u8] {
        self.skip_blank();
        let end = self.0.iter().position(|b| !b.is_ascii_alphabetic() && *b != b'_').unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at_checked(end).unwrap_or((self.0, &[]));
        self.0 = rest;
        word
    }

    fn skip_blank(&mut self) {
        loop {
            self.0 = match self.0 {
                [b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | b';', rest @ ..] => rest,
                [b'-', b'-', rest @ ..] => {
                    let end = rest.iter().position(|b| matches!(b, b'\n' | b'\r')).unwrap_or(rest.len());
                    rest.get(end..).unwrap_or_default()
                }
                [b'/', b'*', rest @ ..] => after_comment(rest),
                _ => return,
            };
        }
    }
}

/// What follows a comment whose `/*` has been read. They nest in PostgreSQL.
fn after_comment(mut text: &[u8]) -> &[u8] {
    let mut depth = 1_usize;
    while depth > 0 {
        text = match text {
            [b'*', b'/', rest @ ..] => {
                depth -= 1;
                rest
            }
            [b'/', b'*', rest @ ..] => {
                depth += 1;
                rest
            }
            [_, rest @ ..] => rest,
            [] => return text,
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn openings_are_found_behind_comments_blanks_and_semicolons() {
        for (sql, opening) in [
            ("begin", Opening::Begin),
            ("BEGIN ISOLATION LEVEL SERIALIZABLE", Opening::Begin),
            ("/* a /* b */ */ -- c\n ; Start\tTransaction read only", Opening::Begin),
            ("start", Opening::Other),
            ("commit;", Opening::Commit),
            ("end", Opening::Commit),
            ("commit prepared 'x'", Opening::Other),
            ("abort", Opening::Rollback),
            ("rollback and chain", Opening::Rollback),
            ("rollback work to savepoint a", Opening::RollbackTo),
            ("rollback to a", Opening::RollbackTo),
            ("rollback prepared 'x'", Opening::Other),
            ("prepare transaction 'x'", Opening::PrepareTransaction),
            ("prepare x as select 1", Opening::Other),
            ("copy t from stdin", Opening::Copy),
            ("deallocate all", Opening::Discards),
            ("discard all", Opening::Discards),
            ("select begin", Opening::Other),
            ("beginning", Opening::Other),
            ("begin_x", Opening::Other),
            ("", Opening::Empty),
            (" ; /* x", Opening::Empty),
            ("1", Opening::Other),
        ] {
            assert_eq!(Opening::of(sql.as_bytes()), opening, "{sql}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_opening(sql in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Opening::of(&sql);
        }
    }
}
