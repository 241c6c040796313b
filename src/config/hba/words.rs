//! The common grammar of `pg_hba.conf` and `pg_ident.conf`: lines of fields, fields of words (PostgreSQL: `next_token()`,
//! `tokenize_auth_file()`).
//!
//! Fields are separated by blanks, words of one field by commas; `#` begins a comment, quotes take away the meaning of
//! everything, a backslash at the end of a line joins it with the next, and `@file` stands for the words of that file.
//!
//! Not here: what the words mean ([`super::rule`], [`super::ident`]). No I/O: other files are read by the caller's closure.

use std::path::{Path, PathBuf};

use super::Fault;

/// Files inside files inside files; PostgreSQL's `CONF_FILE_MAX_DEPTH`.
const DEPTH_MAX: usize = 10;
/// Lines of one file that are read; more is no configuration.
const LINES_MAX: usize = 100_000;

/// One word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// Without its quotes.
    pub(super) text: String,
    /// Whether it begins with a quote: then it is a name, never a keyword.
    pub(super) quoted: bool,
}

impl Word {
    /// Whether it is this keyword.
    pub(super) fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text == keyword
    }
}

/// A line with something on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1; the first of those that were joined.
    pub(super) number: usize,
    /// Each with at least one word.
    pub(super) fields: Vec<Vec<Word>>,
}

/// Reads files that are named in files.
pub(super) type Reader<'r> = &'r dyn Fn(&Path) -> Result<String, String>;

/// Cuts a text into its lines.
pub(super) fn lines(text: &str, path: &Path, reader: Reader<'_>) -> Result<Vec<Line>, Vec<Fault>> {
    let mut found = Vec::new();
    let mut faults = Vec::new();
    for (number, line) in joined(text) {
        match fields(&line, path, reader, 0) {
            Ok(fields) if fields.is_empty() => {}
            Ok(fields) => found.push(Line { number, fields }),
            Err((message, advice)) => faults.push(Fault::new(path, number, message, advice)),
        }
        if number >= LINES_MAX {
            faults.push(Fault::new(path, number, format!("more than {LINES_MAX} lines"), "split the file"));
            break;
        }
    }
    if faults.is_empty() { Ok(found) } else { Err(faults) }
}

/// Lines with their numbers, those that end in a backslash joined with the next.
fn joined(text: &str) -> impl Iterator<Item = (usize, String)> {
    let mut lines = text.lines().enumerate();
    std::iter::from_fn(move || {
        let (first, line) = lines.next()?;
        let mut whole = line.to_owned();
        while whole.ends_with('\\') {
            whole.pop();
            match lines.next() {
                Some((_, next)) => whole.push_str(next),
                None => break,
            }
        }
        Some((first.saturating_add(1), whole))
    })
}

/// What is wrong with a line, and what to write.
type Wrong = (String, &'static str);

fn fields(line: &str, path: &Path, reader: Reader<'_>, depth: usize) -> Result<Vec<Vec<Word>>, Wrong> {
    let mut fields: Vec<Vec<Word>> = Vec::new();
    let mut rest = line;
    // a comma binds the next word to the field before it, with blanks on either side of it
    let mut bound = false;
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix(',') {
            (rest, bound) = (after, true);
            continue;
        }
        if rest.is_empty() || rest.starts_with('#') {
            return Ok(fields);
        }
        let (word, at_file, after) = word(rest)?;
        rest = after;
        let words = if at_file { included(&word.text, path, reader, depth)? } else { vec![word] };
        match fields.last_mut() {
            Some(field) if bound => field.extend(words),
            _ => fields.push(words),
        }
        bound = false;
    }
}

/// The first word, whether it is `@file` (the word is then the file's name), and what follows it.
fn word(text: &str) -> Result<(Word, bool, &str), Wrong> {
    let at_file = text.starts_with('@') && !text.starts_with("@ ") && text.len() > 1;
    let mut word = Word { text: String::new(), quoted: false };
    let mut in_quotes = false;
    let mut was_quote = false;
    let mut rest = "";
    for (at, c) in text.char_indices() {
        if !in_quotes && (c.is_whitespace() || c == ',' || c == '#') {
            rest = text.get(at..).unwrap_or_default();
            break;
        }
        if c == '"' {
            // "" inside quotes is one
            if !in_quotes && was_quote {
                word.text.push('"');
            }
            (in_quotes, was_quote, word.quoted) = (!in_quotes, in_quotes, word.quoted || at == 0);
            continue;
        }
        was_quote = false;
        if !(at == 0 && at_file) {
            word.text.push(c);
        }
    }
    if in_quotes {
        return Err(("a quote is not closed".to_owned(), "write \" at the end of the name"));
    }
    Ok((word, at_file, rest))
}

/// All words of another file, whatever its lines.
fn included(name: &str, path: &Path, reader: Reader<'_>, depth: usize) -> Result<Vec<Word>, Wrong> {
    if depth >= DEPTH_MAX {
        return Err((
            format!("\"@{name}\": files name each other more than {DEPTH_MAX} deep"),
            "does one name itself?",
        ));
    }
    let file: PathBuf = path.parent().unwrap_or_else(|| Path::new("")).join(name);
    let text = reader(&file).map_err(|error| (format!("\"{}\" cannot be read: {error}", file.display()), ""))?;
    let mut words = Vec::new();
    for (_, line) in joined(&text).take(LINES_MAX) {
        words.extend(fields(&line, &file, reader, depth.saturating_add(1))?.into_iter().flatten());
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(usize, Vec<Vec<String>>)> {
        let reader = |path: &Path| match path.to_str() {
            Some("/etc/names") => Ok("one, two\n# none\n\"three four\"\n".to_owned()),
            Some("/etc/loop") => Ok("@loop".to_owned()),
            _ => Err("no such file".to_owned()),
        };
        let lines = lines(text, Path::new("/etc/pg_hba.conf"), &reader).unwrap();
        let plain = |words: Vec<Word>| words.into_iter().map(|word| word.text).collect();
        lines.into_iter().map(|line| (line.number, line.fields.into_iter().map(plain).collect())).collect()
    }

    #[test]
    fn blanks_separate_fields_and_commas_words() {
        assert_eq!(
            read("# a comment\n\n local\tall , b,c  \"d e\"#x\n"),
            [(3, vec![vec!["local".into()], vec!["all".into(), "b".into(), "c".into()], vec!["d e".into()]])]
        );
    }

    #[test]
    fn quotes_make_names_of_keywords_and_hold_their_own_kind_doubled() {
        let found = lines("\"all\" a\"b\"\"c\"\n", Path::new("f"), &|_| Err(String::new())).unwrap();
        let word = |text: &str, quoted| Word { text: text.to_owned(), quoted };
        assert_eq!(found[0].fields, [[word("all", true)], [word("ab\"c", false)]]);
        assert!(!found[0].fields[0][0].is("all"));
    }

    #[test]
    fn a_backslash_at_the_end_joins_lines_and_the_first_gives_the_number() {
        let words = |texts: &[&str]| texts.iter().map(|text| vec![(*text).to_owned()]).collect::<Vec<_>>();
        assert_eq!(read("a \\\n b\nc\n"), [(1, words(&["a", "b"])), (3, words(&["c"]))]);
    }

    #[test]
    fn a_file_stands_for_its_words_and_must_be_there() {
        assert_eq!(read("@names,x"), [(1, vec![vec!["one".into(), "two".into(), "three four".into(), "x".into()]])]);
        let reader = |path: &Path| if path.ends_with("loop") { Ok("@loop".to_owned()) } else { Err("gone".to_owned()) };
        let wrong = |text: &str| lines(text, Path::new("/etc/f"), &reader).unwrap_err()[0].to_string();
        assert!(wrong("x\n@nothing").starts_with("/etc/f:2: \"/etc/nothing\" cannot be read: gone"));
        assert!(wrong("@loop").contains("more than 10 deep"));
        assert!(wrong("\"open").contains("not closed"));
    }
}
