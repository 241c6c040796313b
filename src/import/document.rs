//! The file that is written: tables and keys of TOML, each with where it is from, and at its head what its reader must be told.

use std::fmt;
use std::path::{Path, PathBuf};

use super::Imported;
use super::ini::Place;

/// How wide a comment is.
const WIDTH: usize = 118;

/// What kind of thing its reader must be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Somebody has to do something, or the outcome is not what PgBouncer did.
    Todo,
    /// It works, and otherwise.
    Differs,
    /// There is nothing in howdah that would say it.
    NoCounterpart,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Todo, Self::Differs, Self::NoCounterpart];

    const fn title(self) -> &'static str {
        match self {
            Self::Todo => "TODO by hand:",
            Self::Differs => "Works otherwise than in PgBouncer:",
            Self::NoCounterpart => "No counterpart in howdah:",
        }
    }
}

/// Something its reader must be told. It never holds a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What kind of thing.
    pub kind: Kind,
    /// Where it comes from in PgBouncer's files, if it comes from there.
    pub place: Option<Place>,
    /// PgBouncer's key, or whatever it is about.
    pub key: String,
    /// What to know.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        match self.kind {
            Kind::NoCounterpart => write!(f, "{}: no counterpart because {}", self.key, self.text),
            Kind::Todo | Kind::Differs => write!(f, "{}: {}", self.key, self.text),
        }
    }
}

/// A file in the making.
pub(super) struct Document {
    from: PathBuf,
    body: String,
    notes: Vec<Note>,
    holds_secrets: bool,
}

impl Document {
    pub(super) fn new(from: &Path) -> Self {
        Self { from: from.to_owned(), body: String::new(), notes: Vec::new(), holds_secrets: false }
    }

    /// Tells the reader something; the same once.
    pub(super) fn note(&mut self, kind: Kind, place: Option<&Place>, key: &str, text: &str) {
        let note = Note { kind, place: place.cloned(), key: key.to_owned(), text: text.to_owned() };
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Begins a table: `[name]`, or `[[name]]`.
    pub(super) fn table(&mut self, header: &str) {
        self.body.push('\n');
        self.line(header);
    }

    /// A key and its value as TOML, and in a comment what it is from.
    pub(super) fn key(&mut self, key: &str, value: &str, from: &str) {
        match from {
            "" => self.line(&format!("{key} = {value}")),
            from => self.line(&format!("{key} = {value}  # {from}")),
        }
    }

    /// A key at the end of a table that is there already.
    pub(super) fn append(&mut self, header: &str, key: &str, value: &str, from: &str) {
        let Some(at) = self.body.find(&format!("\n{header}\n")) else { return };
        let after =
            self.body.get(at + 1..).and_then(|rest| rest.find("\n\n")).map_or(self.body.len(), |end| at + 1 + end + 1);
        self.body.insert_str(after, &format!("{key} = {value}  # {from}\n"));
    }

    /// A comment of its own.
    pub(super) fn comment(&mut self, text: &str) {
        for line in wrapped(text, WIDTH - 2) {
            self.line(&format!("# {line}"));
        }
    }

    /// A password is in the text.
    pub(super) fn secret(&mut self) {
        self.holds_secrets = true;
    }

    pub(super) fn finish(mut self) -> Imported {
        self.notes.sort_by_key(|note| note.kind);
        let mut toml = format!("# Made of {} by \"howdah import\".\n", one_line(&self.from.display().to_string()));
        for kind in Kind::ALL {
            let mut notes = self.notes.iter().filter(|note| note.kind == kind).peekable();
            if notes.peek().is_none() {
                continue;
            }
            toml.push_str(&format!("#\n# {}\n", kind.title()));
            for note in notes {
                for (i, line) in wrapped(&one_line(&note.to_string()), WIDTH - 4).iter().enumerate() {
                    toml.push_str(&format!("# {} {line}\n", if i == 0 { "-" } else { " " }));
                }
            }
        }
        toml.push_str(&self.body);
        Imported { toml, notes: self.notes, holds_secrets: self.holds_secrets }
    }

    fn line(&mut self, line: &str) {
        self.body.push_str(line);
        self.body.push('\n');
    }
}

/// A text in TOML's quotes.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A list of texts.
pub(super) fn quoted_list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", "))
}

/// A name as a key of TOML.
pub(super) fn bare(name: &str) -> String {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if plain { name.to_owned() } else { quoted(name) }
}

/// A comment must not end where a name has a line break.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { break };
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
