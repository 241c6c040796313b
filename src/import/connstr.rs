//! What stands behind a name in `[databases]`, `[users]` and `[peers]`: `key=value` pairs (PgBouncer: `cstr_get_pair()`).
//!
//! A value ends with a blank, or stands between single quotes, in which a quote is written twice. It cannot be empty. Only the blank
//! ends a word, not the tab; of a key that is there twice the last holds.

/// Why a text is not such pairs. PgBouncer does not start with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnstrError {
    /// A word without `=`.
    #[error("a word without \"=\"; write key=value pairs with blanks between them")]
    NoValue,
    /// `key=` and nothing, or `''`.
    #[error("\"{0}\" has an empty value, which PgBouncer refuses")]
    Empty(&'static str),
    /// A quote that does not end.
    #[error("a value in single quotes does not end")]
    Unended,
}

/// The pairs, in their order; of a key that is there twice only the last.
///
/// # Errors
/// [`ConnstrError`].
pub fn parse(text: &str) -> Result<Vec<(String, String)>, ConnstrError> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut rest = blank(text);
    while !rest.is_empty() {
        let end = rest.find(['=', ' ']).ok_or(ConnstrError::NoValue)?;
        let (key, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let value = blank(after).strip_prefix('=').filter(|_| !key.is_empty()).ok_or(ConnstrError::NoValue)?;
        let (value, after) = word(blank(value))?;
        if value.is_empty() {
            return Err(ConnstrError::Empty("a key"));
        }
        pairs.retain(|(earlier, _)| earlier != key);
        pairs.push((key.to_owned(), value));
        rest = blank(after);
    }
    Ok(pairs)
}

fn blank(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}'])
}

fn word(text: &str) -> Result<(String, &str), ConnstrError> {
    let Some(mut rest) = text.strip_prefix('\'') else {
        let (value, after) = text.split_once(' ').unwrap_or((text, ""));
        return Ok((value.to_owned(), after));
    };
    let mut value = String::with_capacity(rest.len());
    loop {
        let (before, after) = rest.split_once('\'').ok_or(ConnstrError::Unended)?;
        value.push_str(before);
        match after.strip_prefix('\'') {
            Some(more) => {
                value.push('\'');
                rest = more;
            }
            // what follows a quote at once is passed over
            None => {
                let mut after = after.chars();
                after.next();
                return Ok((value, after.as_str()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap()
    }

    #[test]
    fn pairs_are_read_as_pgbouncer_reads_them() {
        let read = pairs(" host = a.b  port=1 password='it''s = x' connect_query='select 1' port=2");
        let read: Vec<_> = read.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(read, [("host", "a.b"), ("password", "it's = x"), ("connect_query", "select 1"), ("port", "2")]);
        assert!(pairs("").is_empty());
        assert_eq!(pairs("a=1\tb=2"), [("a".to_owned(), "1\tb=2".to_owned())]);
    }

    #[test]
    fn what_pgbouncer_refuses_is_refused() {
        for text in ["host", "host a", "=a", "host=", "host=''", "host='a", "a=1 b"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
