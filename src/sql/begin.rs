//! What `BEGIN` and `START TRANSACTION` say of the block they begin (SQL-BEGIN).

use super::class::{Class, Reason, Verdict};
use super::lexer::Token;

/// Whether a block says that it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `READ ONLY`.
    ReadOnly,
    /// `READ WRITE`.
    ReadWrite,
}

/// The isolation a block asks for, as far as standbys care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// `SERIALIZABLE`, which a hot standby refuses.
    Serializable,
    /// Any other.
    Other,
}

/// What is said of a block; of several words about one thing the last counts, as for PostgreSQL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// `READ ONLY`, `READ WRITE` or neither: then the session's `default_transaction_read_only` holds.
    pub access: Option<Access>,
    /// As named; otherwise the session's `default_transaction_isolation` holds.
    pub isolation: Option<Isolation>,
}

impl Modes {
    /// Reads the tokens behind `BEGIN` or `START TRANSACTION`. What is no mode is left to the server to complain of.
    pub fn of<'a>(tokens: impl IntoIterator<Item = Token<'a>>) -> Self {
        let mut modes = Self::default();
        let mut previous: Option<Token<'a>> = None;
        for token in tokens {
            let after = |word: &str| previous.is_some_and(|token| token.is_word(word));
            if after("read") && token.is_word("only") {
                modes.access = Some(Access::ReadOnly);
            } else if after("read") && token.is_word("write") {
                modes.access = Some(Access::ReadWrite);
            } else if after("level") {
                let serializable = token.is_word("serializable");
                modes.isolation = Some(if serializable { Isolation::Serializable } else { Isolation::Other });
            }
            previous = Some(token);
        }
        modes
    }

    /// Where a block may run by what is said of it alone.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        match (self.access, self.isolation) {
            (_, Some(Isolation::Serializable)) => Verdict::new(Class::Begin, Reason::BeginSerializable),
            (Some(Access::ReadOnly), _) => Verdict::new(Class::ReadOnlyBegin, Reason::BeginReadOnly),
            _ => Verdict::new(Class::Begin, Reason::Begin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lexer::Lexer;
    use super::*;

    #[test]
    fn the_last_word_counts() {
        let modes = |sql: &str| Modes::of(Lexer::new(sql.as_bytes()));
        let of = |access, isolation| Modes { access, isolation };
        assert_eq!(modes("begin"), of(None, None));
        assert_eq!(modes("begin read only, read write"), of(Some(Access::ReadWrite), None));
        assert_eq!(modes("begin read write read only not deferrable"), of(Some(Access::ReadOnly), None));
        assert_eq!(
            modes("begin isolation level serializable, isolation level repeatable read read only"),
            of(Some(Access::ReadOnly), Some(Isolation::Other))
        );
        assert_eq!(
            modes("start transaction read only isolation level serializable").verdict().reason,
            Reason::BeginSerializable
        );
    }
}
