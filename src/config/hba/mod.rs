//! Who may connect from where and how: PostgreSQL's `pg_hba.conf` and `pg_ident.conf` (`AUTH-PG-HBA-CONF`,
//! `AUTH-USERNAME-MAPS`), as typed rules.
//!
//! - `words`: lines, fields, words; quotes, comments, `@file`
//! - [`rule`]: what a line of `pg_hba.conf` means
//! - [`matching`]: which line holds for a connection
//! - [`ident`]: which system user may be which database user
//!
//! Pure: text in, rules out; the files are read by whoever calls. One wrong line is an error for the whole file: a rule
//! that is skipped would let somebody in, or keep somebody out, whom the next one was not written for.

pub mod ident;
pub mod matching;
pub mod rule;
mod words;

use std::fmt;
use std::path::{Path, PathBuf};

pub use ident::IdentMaps;
pub use matching::{Caller, Origin};
pub use rule::{ClientCert, Hba, Method, Rule};

use words::Word;

/// A line that means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead; may be empty.
    pub advice: String,
}

impl Fault {
    fn new(file: &Path, line: usize, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, message: message.into(), advice: advice.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.message)?;
        if self.advice.is_empty() { Ok(()) } else { write!(f, "; {}", self.advice) }
    }
}

/// A regular expression, written with a slash in front. It is found anywhere in a name unless it is anchored.
///
/// PostgreSQL's own flavour knows back-references and look-ahead, this one does not: they are refused, not misread.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    regex: regex_lite::Regex,
}

impl Pattern {
    /// The pattern of a word that begins with a slash.
    fn of(word: &Word) -> Option<Result<Self, String>> {
        let text = word.text.strip_prefix('/')?;
        // an automaton is as large as its counts say: {1000}{1000} must not be our memory
        let built = regex_lite::RegexBuilder::new(text).size_limit(1 << 20).build();
        Some(match built {
            Ok(regex) => Ok(Self { text: text.to_owned(), regex }),
            Err(error) => Err(format!("\"/{text}\" is not a regular expression: {error}")),
        })
    }

    fn is_match(&self, name: &str) -> bool {
        self.regex.is_match(name)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.text)
    }
}

/// A word in the column of users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserWord {
    /// `all`
    All,
    /// A name.
    Name(String),
    /// `+group`: its members, directly or not, and itself.
    Group(String),
    /// `/pattern`
    Pattern(Pattern),
}

impl UserWord {
    fn of(word: &Word) -> Result<Self, String> {
        if word.is("all") {
            return Ok(Self::All);
        }
        if let Some(pattern) = Pattern::of(word) {
            return pattern.map(Self::Pattern);
        }
        Ok(match word.text.strip_prefix('+') {
            Some(group) if !word.quoted => Self::Group(group.to_owned()),
            _ => Self::Name(word.text.clone()),
        })
    }

    fn matches(&self, user: &str, member_of: &dyn Fn(&str) -> bool) -> bool {
        match self {
            Self::All => true,
            Self::Name(name) => name == user,
            Self::Group(group) => member_of(group),
            Self::Pattern(pattern) => pattern.is_match(user),
        }
    }
}
