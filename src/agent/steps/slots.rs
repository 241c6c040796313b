//! Physical replication slots: made where they are missing, dropped where they are howdah's and nobody's.

use serde_json::Value;

use super::{from_journal, to_journal};
use crate::agent::postgres::local::{Local, LocalError, literal};
use crate::agent::step::{Act, Step, Work};
use crate::directive::{Code, Failure};

/// What the names of howdah's own slots begin with.
pub const PREFIX: &str = "howdah_";
/// PostgreSQL: "Querying and Manipulating Replication Slots".
const NAME_BYTES_MAX: usize = 63;

/// Whether PostgreSQL takes this name for a slot.
///
/// # Errors
/// [`Code::Malformed`].
pub fn check_name(name: &str) -> Result<(), Failure> {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if plain && !name.is_empty() && name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    let text = format!("\"{name}\" is no name of a slot: lower-case letters, digits and underscores, 63 at most");
    Err(Failure::new(Code::Malformed, text))
}

/// Makes slots that hold log from now on. One that has lost its log is made anew. Undone: those that were not there go.
pub struct MakeSlots(pub Vec<String>);

impl Step for MakeSlots {
    fn name(&self) -> &'static str {
        "make slots"
    }

    /// Those that are not there.
    fn before<'a>(&'a self, work: &'a Work) -> Act<'a, Value> {
        Box::pin(async move {
            let mut missing = Vec::new();
            if !self.0.is_empty() {
                let local = Local::open(&work.config).await?;
                for slot in &self.0 {
                    if status(&local, slot).await?.is_none() {
                        missing.push(slot.clone());
                    }
                }
            }
            to_journal(&missing)
        })
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            if self.0.is_empty() {
                return Ok(());
            }
            let local = Local::open(&work.config).await?;
            for slot in &self.0 {
                match status(&local, slot).await? {
                    Some(Status { physical: false, .. }) => {
                        let text = format!("there is a logical slot \"{slot}\"");
                        return Err(Failure::new(Code::WrongState, text));
                    }
                    Some(Status { lost: false, .. }) => continue,
                    Some(Status { lost: true, .. }) => drop_slot(&local, slot).await?,
                    None => {}
                }
                let make = format!("SELECT pg_create_physical_replication_slot({}, true)", literal(slot));
                local.rows(&make).await?;
            }
            Ok(())
        })
    }

    fn undo<'a>(&'a self, work: &'a Work, before: &'a Value) -> Act<'a, ()> {
        Box::pin(async move {
            let missing: Vec<String> = from_journal(before)?;
            if missing.is_empty() {
                return Ok(());
            }
            let local = Local::open(&work.config).await?;
            for slot in &missing {
                if status(&local, slot).await?.is_some_and(|status| !status.active) {
                    drop_slot(&local, slot).await?;
                }
            }
            Ok(())
        })
    }
}

/// Drops slots of howdah's that nobody uses. Log that they held is gone then, so this comes last and is not undone.
pub struct DropSlots(pub Vec<String>);

impl Step for DropSlots {
    fn name(&self) -> &'static str {
        "drop slots"
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            if self.0.is_empty() {
                return Ok(());
            }
            let local = Local::open(&work.config).await?;
            for slot in &self.0 {
                match status(&local, slot).await? {
                    None => {}
                    Some(Status { active: true, .. }) => {
                        work.notes.say(format!("slot \"{slot}\" is in use, and stays"))
                    }
                    Some(Status { physical: false, .. }) => {
                        work.notes.say(format!("slot \"{slot}\" is a logical one, and stays"));
                    }
                    Some(_) => drop_slot(&local, slot).await?,
                }
            }
            Ok(())
        })
    }

    fn is_point_of_no_return(&self) -> bool {
        !self.0.is_empty()
    }
}

struct Status {
    physical: bool,
    active: bool,
    lost: bool,
}

async fn status(local: &Local, slot: &str) -> Result<Option<Status>, Failure> {
    let ask = format!(
        "SELECT slot_type = 'physical', active, coalesce(wal_status = 'lost', false) \
         FROM pg_replication_slots WHERE slot_name = {}",
        literal(slot)
    );
    let rows = local.rows(&ask).await?;
    let yes = |index: usize| move |row: &tokio_postgres::SimpleQueryRow| row.get(index) == Some("t");
    Ok(rows.first().map(|row| Status { physical: yes(0)(row), active: yes(1)(row), lost: yes(2)(row) }))
}

async fn drop_slot(local: &Local, slot: &str) -> Result<(), Failure> {
    match local.rows(&format!("SELECT pg_drop_replication_slot({})", literal(slot))).await {
        Ok(_) => Ok(()),
        // somebody else was faster, or has just begun to use it
        Err(LocalError::Failed { sqlstate: Some(state), .. }) if state == "42704" || state == "55006" => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_postgresql_would_not_take_are_refused_before_anything_happens() {
        assert!(check_name("howdah_b_1").is_ok());
        for wrong in ["", "Howdah", "a-b", "a'b", &"x".repeat(64)] {
            assert_eq!(check_name(wrong).unwrap_err().code, Code::Malformed, "{wrong}");
        }
    }
}
