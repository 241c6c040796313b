//! An ini file as PgBouncer reads it (`lib/usual/cfparser.c`).
//!
//! A line is a section, `key = value`, a comment (`;` or `#` at its beginning, nowhere else) or `%include file`. A value is what
//! follows to the end of the line; a key is of letters, digits and `_.-*`, or anything between single quotes. What is wrong ends the
//! reading, as PgBouncer does not start with it.

use std::fmt;
use std::path::{Path, PathBuf};

/// How deep files may include files.
const INCLUDES_MAX: usize = 10;

/// Where something is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// What stands in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// `[name]`
    Section {
        /// Its name.
        name: String,
        /// Where.
        place: Place,
    },
    /// `key = value`
    Entry(Entry),
}

/// `key = value`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub place: Place,
    /// Without quotes.
    pub key: String,
    /// To the end of the line.
    pub value: String,
}

/// Why a file cannot be read. It never holds a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct IniError {
    place: Option<Place>,
    message: String,
}

impl IniError {
    pub(super) fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place: Some(place), message: message.into() }
    }

    pub(super) fn no_main_section(path: &Path) -> Self {
        let message = format!("{}: there is no section [pgbouncer]", path.display());
        Self { place: None, message }
    }
}

impl fmt::Display for IniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Reads a file through; see [`super::Surroundings::read`].
pub type Reader<'r> = &'r dyn Fn(&Path) -> Result<(PathBuf, String), String>;

/// Reads a file and what it includes.
///
/// # Errors
/// The first thing that is wrong.
pub fn read(path: &Path, reader: Reader<'_>) -> Result<Vec<Item>, IniError> {
    let mut items = Vec::new();
    match reader(path) {
        Ok((found, text)) => Scan { file: &found, text: &text, at: 0, reader, depth: 0, items: &mut items }.run()?,
        Err(error) => {
            return Err(IniError { place: None, message: format!("{}: cannot be read: {error}", path.display()) });
        }
    }
    Ok(items)
}

struct Scan<'s> {
    file: &'s Path,
    text: &'s str,
    at: usize,
    reader: Reader<'s>,
    depth: usize,
    items: &'s mut Vec<Item>,
}

impl<'s> Scan<'s> {
    fn run(mut self) -> Result<(), IniError> {
        loop {
            self.skip(|c| c.is_ascii_whitespace() || c == '\u{b}');
            let rest = self.rest();
            let Some(first) = rest.chars().next() else { return Ok(()) };
            if let Some(file) = rest.strip_prefix("%include").filter(|after| after.starts_with([' ', '\t'])) {
                let name = line_of(file).trim().to_owned();
                self.include(&name)?;
                self.skip(|c| c != '\n');
            } else if matches!(first, '#' | ';') {
                self.skip(|c| c != '\n');
            } else if first == '[' {
                let line = line_of(rest);
                let Some((name, _)) = line.get(1..).and_then(|inner| inner.split_once(']')) else {
                    return Err(self.wrong("a section without \"]\""));
                };
                self.items.push(Item::Section { name: name.to_owned(), place: self.place() });
                self.at += name.len() + 2;
            } else {
                self.entry()?;
            }
        }
    }

    fn entry(&mut self) -> Result<(), IniError> {
        let (place, rest) = (self.place(), self.rest());
        let (key, after) = match rest.strip_prefix('\'') {
            // even over the end of a line
            Some(quoted) => match quoted.split_once('\'') {
                Some((key, after)) if !key.is_empty() => (key, after),
                _ => return Err(self.wrong("a key in quotes does not end, or is empty")),
            },
            None => {
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_.-*".contains(c))).unwrap_or(rest.len());
                rest.split_at_checked(end).unwrap_or((rest, ""))
            }
        };
        let Some(after_value) = after.trim_start_matches([' ', '\t']).strip_prefix('=') else {
            return Err(
                self.wrong("\"=\" is missing after a key of letters, digits and _.-* (others need single quotes)")
            );
        };
        let value = line_of(after_value);
        self.items.push(Item::Entry(Entry { place, key: key.to_owned(), value: value.trim().to_owned() }));
        // the key may go over lines, the value does not
        self.at += rest.len() - after_value.len() + value.len();
        Ok(())
    }

    fn include(&mut self, name: &str) -> Result<(), IniError> {
        if self.depth >= INCLUDES_MAX {
            return Err(self.wrong("files include each other too deeply"));
        }
        let (found, text) = (self.reader)(Path::new(name))
            .map_err(|error| self.wrong(&format!("\"{name}\" cannot be read: {error}")))?;
        Scan { file: &found, text: &text, at: 0, reader: self.reader, depth: self.depth + 1, items: &mut *self.items }
            .run()
    }

    fn rest(&self) -> &'s str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip(&mut self, what: impl Fn(char) -> bool) {
        let rest = self.rest();
        self.at += rest.find(|c| !what(c)).unwrap_or(rest.len());
    }

    fn place(&self) -> Place {
        let before = self.text.get(..self.at).unwrap_or_default();
        Place { file: self.file.to_owned(), line: before.matches('\n').count() + 1 }
    }

    fn wrong(&self, message: &str) -> IniError {
        IniError::new(self.place(), message)
    }
}

fn line_of(text: &str) -> &str {
    text.split('\n').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(files: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let reader = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(name, text)| (PathBuf::from(name), (*text).to_owned())).ok_or_else(|| "not there".to_owned())
        };
        let items = read(Path::new("a.ini"), &reader).map_err(|error| error.to_string())?;
        Ok(items
            .into_iter()
            .map(|item| match item {
                Item::Section { name, place } => format!("{place} [{name}]"),
                Item::Entry(Entry { place, key, value }) => format!("{place} <{key}> <{value}>"),
            })
            .collect())
    }

    #[test]
    fn lines_are_read_as_pgbouncer_reads_them() {
        let text =
            "; c\n # c\n[databases]\n*=host=a\n'my db'\t =  host=b ; no comment \r\n\n  a.b-c_1 = \n[pgbouncer] x = 1";
        assert_eq!(
            items(&[("a.ini", text)]).unwrap(),
            [
                "a.ini:3 [databases]",
                "a.ini:4 <*> <host=a>",
                "a.ini:5 <my db> <host=b ; no comment>",
                "a.ini:7 <a.b-c_1> <>",
                "a.ini:8 [pgbouncer]",
                "a.ini:8 <x> <1>",
            ]
        );
    }

    #[test]
    fn includes_are_read_in_their_place_and_a_loop_ends() {
        let files = [("a.ini", "[a]\n%include b.ini\nz = 1\n"), ("b.ini", "y = 1\n[b]\n")];
        assert_eq!(items(&files).unwrap(), ["a.ini:1 [a]", "b.ini:1 <y> <1>", "b.ini:2 [b]", "a.ini:3 <z> <1>"]);
        assert_eq!(items(&[("a.ini", "%include a.ini")]).unwrap_err(), "a.ini:1: files include each other too deeply");
        assert_eq!(items(&[("a.ini", "\n%include c")]).unwrap_err(), "a.ini:2: \"c\" cannot be read: not there");
    }

    #[test]
    fn what_pgbouncer_does_not_start_with_is_refused() {
        for (text, line) in [("[a\nb]", 1), ("[a]\nkey\n", 2), ("\"db\" = x", 1), ("'db = x", 1), ("'' = x", 1)] {
            let error = items(&[("a.ini", text)]).unwrap_err();
            assert!(error.starts_with(&format!("a.ini:{line}: ")), "{error}");
        }
    }
}
