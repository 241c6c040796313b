//! `DEALLOCATE`: which prepared statement a text takes away (SQL-DEALLOCATE).

use super::lexer::{Lexer, Token};

/// What a text of one `DEALLOCATE` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deallocate {
    /// `ALL`.
    All,
    /// One statement, folded to lower case unless it was quoted.
    Name(Vec<u8>),
}

impl Deallocate {
    /// Reads `sql`; `None` when it is anything else, or more than one statement.
    #[must_use]
    pub fn of(sql: &[u8]) -> Option<Self> {
        let mut tokens = Lexer::new(sql).skip_while(|token| *token == Token::Symbol(b';'));
        if !tokens.next()?.is_word("deallocate") {
            return None;
        }
        let mut name = tokens.next()?;
        let mut rest = tokens.next();
        if name.is_word("prepare")
            && let Some(next) = rest.filter(|next| *next != Token::Symbol(b';'))
        {
            (name, rest) = (next, tokens.next());
        }
        if rest.into_iter().chain(tokens).any(|token| token != Token::Symbol(b';')) {
            return None;
        }
        match name {
            _ if name.is_word("all") => Some(Self::All),
            Token::Word(name) => Some(Self::Name(name.to_ascii_lowercase())),
            Token::Quoted(name) if !name.contains(&b'"') => Some(Self::Name(name.to_vec())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_or_all_are_found_and_nothing_else() {
        let name = |name: &str| Some(Deallocate::Name(name.as_bytes().to_vec()));
        for (sql, expected) in [
            ("DEALLOCATE Pdo_stmt_1", name("pdo_stmt_1")),
            ("; deallocate prepare \"A1\" ;", name("A1")),
            ("deallocate prepare", name("prepare")),
            ("deallocate all", Some(Deallocate::All)),
            ("deallocate prepare all;", Some(Deallocate::All)),
            ("deallocate a; select 1", None),
            ("select deallocate", None),
            ("deallocate", None),
        ] {
            assert_eq!(Deallocate::of(sql.as_bytes()), expected, "{sql}");
        }
    }
}
