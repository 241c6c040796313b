//! What only the database `howdah` understands: `SHOW … LIKE '…'`, and the commands of a cluster. ◇
//!
//! ```text
//! SWITCHOVER [TO node] [IN cluster]
//! FAILOVER [TO node] [VOUCH node] [ALLOW DATA LOSS] [IN cluster]
//! MAINTENANCE ON | OFF [IN cluster]
//! ATTACH | DETACH | FENCE | UNFENCE | REBUILD | RESTART node [IN cluster]
//! ```

use super::command::{ARGUMENT_BYTES_MAX, Command, VALUE_BYTES_MAX, fits};
use super::refusal::ConsoleError;
use super::words::Cursor;
use crate::cluster::decide;

/// A command of howdah's own; `None` when the text begins like none.
pub(super) fn parse(text: &str) -> Option<Result<Command, ConsoleError>> {
    let mut cursor = Cursor::new(text);
    cursor.blanks();
    let verb = cursor.word()?.to_ascii_lowercase();
    if matches!(verb.as_str(), "show" | "select") {
        return like(cursor);
    }
    if !VERBS.contains(&verb.as_str()) {
        return None;
    }
    let mut reader = Reader { cursor };
    let command = reader.operation(&verb);
    Some(command.transpose().unwrap_or_else(|| Err(ConsoleError::syntax(text))))
}

const VERBS: [&str; 9] =
    ["switchover", "failover", "maintenance", "attach", "detach", "fence", "unfence", "rebuild", "restart"];

/// `name LIKE 'pattern'`.
fn like(mut cursor: Cursor<'_>) -> Option<Result<Command, ConsoleError>> {
    cursor.blanks();
    let name = cursor.word()?;
    (cursor.blanks() && cursor.keyword("like")).then_some(())?;
    cursor.blanks();
    let pattern = cursor.string()?;
    cursor.is_over().then_some(())?;
    let fitting = || {
        let name = fits(name, ARGUMENT_BYTES_MAX)?.to_ascii_lowercase();
        Ok(Command::Show { name, like: Some(fits(pattern, VALUE_BYTES_MAX)?) })
    };
    Some(fitting())
}

struct Reader<'a> {
    cursor: Cursor<'a>,
}

/// `None`: not what is understood.
type Read<T> = Result<Option<T>, ConsoleError>;

impl Reader<'_> {
    fn operation(&mut self, verb: &str) -> Read<Command> {
        let (command, tag) = match verb {
            "switchover" => (decide::Command::Switchover { to: self.clause("to")?.map(Into::into) }, "SWITCHOVER"),
            "failover" => {
                let to = self.clause("to")?.map(Into::into);
                let vouch = self.clause("vouch")?.map(Into::into);
                let allow_data_loss = self.phrase(&["allow", "data", "loss"]);
                (decide::Command::Failover { to, vouch, allow_data_loss }, "FAILOVER")
            }
            "maintenance" if self.phrase(&["on"]) => (decide::Command::Pause, "MAINTENANCE"),
            "maintenance" if self.phrase(&["off"]) => (decide::Command::Resume, "MAINTENANCE"),
            _ => {
                let Some(node) = self.name()? else { return Ok(None) };
                let node = node.as_str().into();
                match verb {
                    "attach" => (decide::Command::Attach { node }, "ATTACH"),
                    "detach" => (decide::Command::Detach { node }, "DETACH"),
                    "fence" => (decide::Command::Fence { node }, "FENCE"),
                    "unfence" => (decide::Command::Unfence { node }, "UNFENCE"),
                    "rebuild" => (decide::Command::Rebuild { node }, "REBUILD"),
                    "restart" => (decide::Command::Restart { node }, "RESTART"),
                    _ => return Ok(None),
                }
            }
        };
        let cluster = self.clause("in")?;
        Ok(self.cursor.is_over().then_some(Command::Operate { cluster, command, tag }))
    }

    /// A name that follows blanks.
    fn name(&mut self) -> Read<String> {
        if !self.cursor.blanks() {
            return Ok(None);
        }
        self.cursor.name().map(|name| fits(name, ARGUMENT_BYTES_MAX)).transpose()
    }

    /// `word name`, if it comes next.
    fn clause(&mut self, word: &str) -> Read<String> {
        let before = self.cursor.clone();
        if self.phrase(&[word])
            && let Some(name) = self.name()?
        {
            return Ok(Some(name));
        }
        self.cursor = before;
        Ok(None)
    }

    /// These words, if they come next.
    fn phrase(&mut self, words: &[&str]) -> bool {
        let mut ahead = self.cursor.clone();
        let comes =
            words.iter().all(|word| ahead.blanks() && ahead.name().is_some_and(|next| next.eq_ignore_ascii_case(word)));
        if comes {
            self.cursor = ahead;
        }
        comes
    }
}
