//! `postgresql.auto.conf`: read last of all files, so that what is in it holds.
//!
//! Edited here and not by ALTER SYSTEM: the same edit works on a stopped server, on one that does not let ALTER SYSTEM in
//! (`allow_alter_system = off`), and can be taken back byte for byte. PostgreSQL replaces the file in the same way (a rename),
//! so nobody reads half of it.

use std::path::{Path, PathBuf};

use super::files::{self, Image};
use crate::directive::{Code, Failure};

/// A setting by its name, and the value it shall have; `None`: not in the file.
pub type Change = (String, Option<String>);

/// Where it is.
#[must_use]
pub fn path(data_directory: &Path) -> PathBuf {
    data_directory.join("postgresql.auto.conf")
}

/// What it says of a setting; `None` when nothing.
///
/// # Errors
/// When it cannot be read.
pub fn get(data_directory: &Path, name: &str) -> Result<Option<String>, Failure> {
    Ok(value(&text(data_directory)?, name))
}

/// Makes it say this. Writes nothing when it does.
///
/// # Errors
/// What the disk says; the file is what it was then.
pub fn set(data_directory: &Path, changes: &[Change]) -> Result<(), Failure> {
    let old = text(data_directory)?;
    let new = edited(&old, changes)?;
    if new == old { Ok(()) } else { files::write(&path(data_directory), new.as_bytes()) }
}

/// Takes [`set`] back: byte for byte, unless somebody has changed other settings since; then only these.
///
/// # Errors
/// What the disk says.
pub fn revert(data_directory: &Path, before: &Image, names: &[&str]) -> Result<(), Failure> {
    let old = before.bytes()?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let now = text(data_directory)?;
    if entries(&old, names) == entries(&now, names) {
        return before.restore(&path(data_directory));
    }
    let changes: Vec<Change> = names.iter().map(|name| ((*name).to_owned(), value(&old, name))).collect();
    set(data_directory, &changes)
}

fn text(data_directory: &Path) -> Result<String, Failure> {
    let path = path(data_directory);
    let bytes = files::read(&path)?.unwrap_or_default();
    String::from_utf8(bytes).map_err(|_| Failure::new(Code::WrongState, format!("{} is not UTF-8", path.display())))
}

fn edited(text: &str, changes: &[Change]) -> Result<String, Failure> {
    if let Some((name, _)) = changes.iter().find(|(_, value)| value.as_ref().is_some_and(|v| v.contains(['\n', '\r'])))
    {
        return Err(Failure::new(Code::Malformed, format!("the value of \"{name}\" has a line break in it")));
    }
    let mut left: Vec<&Change> = Vec::new();
    for change in changes {
        // what is so already stays where it is, so that doing it twice is doing it once
        let count = text.lines().filter_map(entry).filter(|(name, _)| name.eq_ignore_ascii_case(&change.0)).count();
        if !(count <= 1 && value(text, &change.0) == change.1) {
            left.push(change);
        }
    }
    let named = |line: &str| {
        entry(line).is_some_and(|(name, _)| left.iter().any(|(changed, _)| changed.eq_ignore_ascii_case(name)))
    };
    let mut new: String = text.split_inclusive('\n').filter(|line| !named(line)).collect();
    if left.iter().any(|(_, value)| value.is_some()) && !new.is_empty() && !new.ends_with('\n') {
        new.push('\n');
    }
    for (name, value) in left {
        if let Some(value) = value {
            new.push_str(&format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''")));
        }
    }
    Ok(new)
}

/// The last one wins.
fn value(text: &str, name: &str) -> Option<String> {
    text.lines().filter_map(entry).rfind(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// All but those of `names`.
fn entries(text: &str, names: &[&str]) -> Vec<(String, String)> {
    let other = |(name, value): (&str, String)| {
        (!names.iter().any(|own| own.eq_ignore_ascii_case(name))).then(|| (name.to_ascii_lowercase(), value))
    };
    text.lines().filter_map(entry).filter_map(other).collect()
}

/// `name = 'value'`, with or without the sign and the quotes; `None` for comments and what is nothing.
fn entry(line: &str) -> Option<(&str, String)> {
    let line = line.trim_start();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == '$'))?;
    let (name, rest) = line.split_at_checked(end)?;
    if name.is_empty() {
        return None;
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let Some(quoted) = rest.strip_prefix('\'') else {
        return Some((name, rest.split(|c: char| c.is_whitespace() || c == '#').next()?.to_owned()));
    };
    let mut value = String::new();
    let mut chars = quoted.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' if chars.peek() == Some(&'\'') => value.push(chars.next()?),
            '\'' => break,
            '\\' => value.push(escaped(chars.next()?, &mut chars)),
            c => value.push(c),
        }
    }
    Some((name, value))
}

/// As `DeescapeQuotedString` of PostgreSQL's `guc-file.l`.
fn escaped(first: char, rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> char {
    match first {
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        '0'..='7' => {
            let mut code = first.to_digit(8).unwrap_or(0);
            for _ in 0..2 {
                if let Some(digit) = rest.peek().and_then(|c| c.to_digit(8)) {
                    code = code * 8 + digit;
                    rest.next();
                }
            }
            char::from_u32(code).unwrap_or('?')
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "# Do not edit this file manually!\n\
                       work_mem = '4MB'\n\
                       primary_conninfo = 'user=x passfile=''/a b/c'' host=1'\n\
                       Primary_Conninfo='host=2'\n\
                       shared_buffers 128MB # bare";

    #[test]
    fn values_are_read_as_postgresql_reads_them() {
        assert_eq!(value(OLD, "primary_conninfo").as_deref(), Some("host=2"));
        assert_eq!(value(OLD, "SHARED_BUFFERS").as_deref(), Some("128MB"));
        assert_eq!(value(OLD, "port"), None);
        assert_eq!(entry(r"a = 'it''s \'b\' \\ \101 '").unwrap().1, r"it's 'b' \ A ");
        assert_eq!(entry("# a = 1"), None);
        assert_eq!(entry(""), None);
    }

    #[test]
    fn an_edit_changes_what_it_names_and_nothing_else() {
        let change = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        let new = edited(OLD, &[change("primary_conninfo", Some(r"host=3 o='\x'")), change("port", None)]).unwrap();
        let expected = "# Do not edit this file manually!\nwork_mem = '4MB'\nshared_buffers 128MB # bare\n\
                        primary_conninfo = 'host=3 o=''\\\\x'''\n";
        assert_eq!(new, expected);
        assert_eq!(value(&new, "primary_conninfo").as_deref(), Some(r"host=3 o='\x'"));
        assert_eq!(edited(&new, &[change("primary_conninfo", Some(r"host=3 o='\x'"))]).unwrap(), new, "twice is once");
        assert_eq!(edited(&new, &[change("work_mem", None)]).unwrap().lines().count(), 3);
        assert!(edited(OLD, &[change("work_mem", Some("1\n2"))]).is_err());
    }

    #[test]
    fn what_is_taken_back_is_the_same_bytes_and_leaves_what_others_did() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path();
        std::fs::write(path(data), OLD).unwrap();
        let before = Image::of(&path(data)).unwrap();
        set(data, &[("primary_conninfo".to_owned(), Some(String::new()))]).unwrap();
        assert_eq!(get(data, "primary_conninfo").unwrap().as_deref(), Some(""));
        revert(data, &before, &["primary_conninfo"]).unwrap();
        assert_eq!(std::fs::read_to_string(path(data)).unwrap(), OLD);

        set(data, &[("primary_conninfo".to_owned(), Some(String::new()))]).unwrap();
        set(data, &[("work_mem".to_owned(), Some("8MB".to_owned()))]).unwrap();
        revert(data, &before, &["primary_conninfo"]).unwrap();
        assert_eq!(get(data, "primary_conninfo").unwrap().as_deref(), Some("host=2"));
        assert_eq!(get(data, "work_mem").unwrap().as_deref(), Some("8MB"));
    }
}
