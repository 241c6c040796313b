//! The names in a text, whatever they stand for.

use crate::sql::lexer::{Lexer, Token};

/// Identifiers end here (`NAMEDATALEN - 1`).
const NAME_MAX: usize = 63;

/// Whether `sql` names anything that `wanted` knows: identifiers come folded to lower case and cut, as PostgreSQL does it.
/// Literals are not looked into.
pub fn mentions(sql: &[u8], wanted: &mut impl FnMut(&[u8]) -> bool) -> bool {
    let mut buffer = [0; NAME_MAX];
    for token in Lexer::new(sql) {
        let found = match token {
            Token::Word(word) => {
                let folded = buffer.iter_mut().zip(word).map(|(to, from)| *to = from.to_ascii_lowercase()).count();
                wanted(buffer.get(..folded).unwrap_or_default())
            }
            Token::Quoted(name) => wanted(name),
            Token::Disguised => true,
            _ => false,
        };
        if found {
            return true;
        }
    }
    false
}
