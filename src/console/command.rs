//! What was typed at the console, as a command. ◇ Text in, command out: no I/O, no state.
//!
//! PgBouncer's grammar is three patterns (`admin.c`): a word with an optional word behind it; `SET key =|TO word`; `SET key =|TO
//! 'string'`; a `;` may follow. A word is letters, digits and underscores, or anything in double quotes. The database `howdah`
//! understands the same and its own ([`own`](super::own)).
//!
//! Not here: what a command does (`carry_out`), whether there is such a SHOW (`show`), who may ask.

use super::own;
use super::refusal::ConsoleError;
use super::words::{Cursor, unquote};
use crate::cluster::decide;
pub use crate::proxy::orders::daemon::Shutdown;

/// PgBouncer's buffers, less the zero at their end. Quotes count.
const COMMAND_BYTES_MAX: usize = 15;
/// An argument's.
pub(super) const ARGUMENT_BYTES_MAX: usize = 63;
/// A value's.
pub(super) const VALUE_BYTES_MAX: usize = 255;

/// Which of the two consoles is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The database `pgbouncer`: what PgBouncer understands, and nothing else.
    PgBouncer,
    /// The database `howdah`.
    Howdah,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `SHOW name`, and `SELECT name`, which PgBouncer takes for the same.
    Show {
        /// In lower case.
        name: String,
        /// `LIKE 'pattern'`, on database `howdah`.
        like: Option<String>,
    },
    /// `SET key = value`.
    Set {
        /// As it was written.
        key: String,
        /// Without its quotes.
        value: String,
    },
    /// `PAUSE [db]`.
    Pause(Option<String>),
    /// `RESUME [db]`.
    Resume(Option<String>),
    /// `SUSPEND`.
    Suspend,
    /// `DISABLE db`; without one it is refused, but not as a mistake of grammar.
    Disable(Option<String>),
    /// `ENABLE db`.
    Enable(Option<String>),
    /// `RECONNECT [db]`.
    Reconnect(Option<String>),
    /// `KILL [db]`.
    Kill(Option<String>),
    /// `KILL_CLIENT id`, which may be no number.
    KillClient(String),
    /// `WAIT_CLOSE [db]`.
    WaitClose(Option<String>),
    /// `RELOAD`.
    Reload,
    /// `SHUTDOWN [WAIT_FOR_SERVERS | WAIT_FOR_CLIENTS]`.
    Shutdown(Shutdown),
    /// What a cluster's coordinator is asked for, on database `howdah`.
    Operate {
        /// Which cluster; there may be only one.
        cluster: Option<String>,
        /// What for.
        command: decide::Command,
        /// The tag of the answer.
        tag: &'static str,
    },
}

/// Reads what was typed.
///
/// # Errors
/// 42601 for what is no command, 54000 for words that PgBouncer's buffers would not hold.
pub fn parse(text: &str, dialect: Dialect) -> Result<Command, ConsoleError> {
    if dialect == Dialect::Howdah
        && let Some(command) = own::parse(text)
    {
        return command;
    }
    if let Some((name, argument)) = a_word_or_two(text) {
        let name = fits(name, COMMAND_BYTES_MAX)?;
        let argument = argument.map(|word| fits(word, ARGUMENT_BYTES_MAX)).transpose()?;
        return named(&name, argument.unwrap_or_default()).ok_or_else(|| ConsoleError::syntax(text));
    }
    let Some((key, value)) = setting(text, Cursor::string).or_else(|| setting(text, Cursor::word)) else {
        return Err(ConsoleError::syntax(text));
    };
    let key = fits(key, ARGUMENT_BYTES_MAX)?;
    if key.is_empty() {
        return Err(ConsoleError::BadArguments);
    }
    Ok(Command::Set { key, value: fits(value, VALUE_BYTES_MAX)? })
}

/// `^ WORD [WORD] [;] $`, words as they were written.
fn a_word_or_two(text: &str) -> Option<(&str, Option<&str>)> {
    let mut cursor = Cursor::new(text);
    cursor.blanks();
    let name = cursor.word()?;
    let argument = if cursor.blanks() { cursor.word() } else { None };
    cursor.is_over().then_some((name, argument))
}

/// `^ SET WORD (=|TO) value [;] $`. Nothing need stand around the `TO`, so a key may end where one begins: the longest key that
/// lets the rest fit is it, as with a POSIX pattern.
fn setting<'a>(text: &'a str, value: fn(&mut Cursor<'a>) -> Option<&'a str>) -> Option<(&'a str, &'a str)> {
    let mut cursor = Cursor::new(text);
    cursor.blanks();
    if !cursor.keyword("set") || !cursor.blanks() {
        return None;
    }
    let start = cursor.clone();
    let longest = cursor.word()?;
    let rest = |mut cursor: Cursor<'a>| {
        cursor.blanks();
        if !cursor.keyword("=") && !cursor.keyword("to") {
            return None;
        }
        cursor.blanks();
        let value = value(&mut cursor)?;
        cursor.is_over().then_some(value)
    };
    if let Some(value) = rest(cursor) {
        return Some((longest, value));
    }
    if longest.starts_with('"') {
        return None;
    }
    (1..longest.len()).rev().find_map(|len| {
        let (mut cursor, key) = (start.clone(), longest.get(..len)?);
        cursor.skip(len);
        cursor.clone().keyword("to").then_some(())?;
        Some((key, rest(cursor)?))
    })
}

/// A word without its quotes, unless PgBouncer's buffer is too small for it as it is written.
pub(super) fn fits(written: &str, bytes_max: usize) -> Result<String, ConsoleError> {
    if written.len() > bytes_max {
        return Err(ConsoleError::BadArguments);
    }
    Ok(unquote(written))
}

fn named(name: &str, argument: String) -> Option<Command> {
    let optional = |argument: String| (!argument.is_empty()).then_some(argument);
    let alone = |command: Command| argument.is_empty().then_some(command);
    let is = |word: &str| argument.eq_ignore_ascii_case(word);
    Some(match name.to_ascii_lowercase().as_str() {
        "show" | "select" if !argument.is_empty() => Command::Show { name: argument.to_ascii_lowercase(), like: None },
        "disable" => Command::Disable(optional(argument)),
        "enable" => Command::Enable(optional(argument)),
        "kill" => Command::Kill(optional(argument)),
        "kill_client" => Command::KillClient(argument),
        "pause" => Command::Pause(optional(argument)),
        "reconnect" => Command::Reconnect(optional(argument)),
        "resume" => Command::Resume(optional(argument)),
        "wait_close" => Command::WaitClose(optional(argument)),
        "reload" => return alone(Command::Reload),
        "suspend" => return alone(Command::Suspend),
        "shutdown" if argument.is_empty() => Command::Shutdown(Shutdown::Immediate),
        "shutdown" if is("wait_for_servers") => Command::Shutdown(Shutdown::WaitForServers),
        "shutdown" if is("wait_for_clients") => Command::Shutdown(Shutdown::WaitForClients),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
