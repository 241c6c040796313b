//! One text may hold several statements, as psql's `-c` sends them. ◇

/// The statements of a text, without those that say nothing. Semicolons in quotes divide nothing.
#[must_use]
pub fn statements(text: &str) -> Vec<&str> {
    let (mut found, mut start, mut quote) = (Vec::new(), 0, None);
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (None, ';') => {
                found.extend(text.get(start..at));
                start = at + 1;
            }
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            _ => {}
        }
    }
    found.extend(text.get(start..));
    found.retain(|statement| !statement.trim().is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_divided_at_semicolons_outside_quotes() {
        assert_eq!(statements(" PAUSE; SHOW POOLS ;; "), [" PAUSE", " SHOW POOLS "]);
        assert_eq!(statements("SHOW NODES LIKE 'a;b'"), ["SHOW NODES LIKE 'a;b'"]);
        assert!(statements(" ; ").is_empty());
    }
}
