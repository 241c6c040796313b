//! What a setting ends as, by `SET` or by a call of `set_config`: at a value, at its default, or where nobody can tell.

use super::Effects;
use crate::sql::lexer::{Lexer, Token};

/// Whether the rest of a `SET` says `DEFAULT`.
pub(super) fn set_tail(lexer: Lexer<'_>) -> Effects {
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
pub(super) fn set_config(mut lexer: Lexer<'_>) -> Effects {
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
                    depth = depth.saturating_sub(1); // a bracket that none opens is no SQL
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
