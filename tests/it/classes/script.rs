//! The statements of a psql script, as psql would send them: without its own commands, the data of `COPY` and variables.

use howdah::sql::lexer::{Lexer, Token};

/// Cuts a script into its statements.
pub fn statements(script: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let mut rest = script;
    loop {
        let start = rest.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(rest.len());
        rest = &rest[start..];
        if rest.is_empty() {
            return found;
        }
        let end = end(rest);
        let statement = &rest[..end];
        let mut tokens = Lexer::new(statement);
        if tokens.next().is_some() {
            found.push(statement);
        }
        rest = match rest.get(end) {
            Some(b'\\') => after_line(&rest[end..]),
            Some(_) => &rest[end + 1..],
            None => &[],
        };
        if copies_in(statement) {
            rest = after_data(rest);
        }
    }
}

/// Where the statement at the beginning of a text ends: at its semicolon or at a command of psql.
fn end(text: &[u8]) -> usize {
    let mut lexer = Lexer::new(text);
    let (mut parentheses, mut blocks, mut defines) = (0_usize, 0_usize, None);
    while let Some(token) = lexer.next() {
        let at = text.len() - lexer.rest().len() - 1;
        let creates = *defines.get_or_insert(token.is_word("create"));
        match token {
            Token::Symbol(b'(') => parentheses += 1,
            Token::Symbol(b')') => parentheses = parentheses.saturating_sub(1),
            Token::Symbol(b';') if parentheses == 0 && blocks == 0 => return at,
            Token::Symbol(b'\\') => return at,
            _ if creates && token.is_word("begin") => blocks += 1,
            _ if blocks > 0 && token.is_word("case") => blocks += 1,
            _ if blocks > 0 && token.is_word("end") => blocks -= 1,
            _ => {}
        }
    }
    text.len()
}

fn after_line(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    &text[end..]
}

fn copies_in(statement: &[u8]) -> bool {
    let words: Vec<_> = Lexer::new(statement).collect();
    words.first().is_some_and(|word| word.is_word("copy"))
        && words.windows(2).any(|pair| pair[0].is_word("from") && pair[1].is_word("stdin"))
}

fn after_data(text: &[u8]) -> &[u8] {
    let mut rest = after_line(text);
    loop {
        let line = rest.strip_prefix(b"\n").unwrap_or(rest);
        if line.is_empty() || line.starts_with(b"\\.") {
            return after_line(line);
        }
        rest = after_line(line);
    }
}
