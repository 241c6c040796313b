//! A console's prepared statements and portals. ◇

use std::collections::HashMap;

use super::answer::{Column, Formats, Refused, Table};
use super::command::Command;
use crate::pg::SqlState;

/// Names that a console may have of each kind: nobody needs more.
const NAMES_MAX: usize = 1_000;

/// A prepared statement.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// `None`: it says nothing.
    pub command: Option<Command>,
    /// What its lines are made of; `None` where it has none.
    pub columns: Option<&'static [Column]>,
}

/// A statement that can be executed.
#[derive(Clone, Debug)]
pub struct Portal {
    /// What.
    pub prepared: Prepared,
    /// In which formats.
    pub formats: Formats,
    /// What an Execute with a limit has left.
    pub left: Option<Table>,
}

/// All names.
#[derive(Debug, Default)]
pub struct Names {
    statements: HashMap<String, Prepared>,
    portals: HashMap<String, Portal>,
}

fn refused(text: String, code: SqlState) -> Refused {
    Refused { text, code, hint: None }
}

impl Names {
    /// Gives a statement a name.
    ///
    /// # Errors
    /// 42P05 for a name in use, 54000 for too many.
    pub fn prepare(&mut self, name: String, prepared: Prepared) -> Result<(), Refused> {
        if !name.is_empty() && self.statements.contains_key(&name) {
            let text = format!("prepared statement \"{name}\" already exists");
            return Err(refused(text, SqlState::DUPLICATE_PREPARED_STATEMENT));
        }
        if self.statements.len() >= NAMES_MAX {
            return Err(refused("too many prepared statements".to_owned(), SqlState::PROGRAM_LIMIT_EXCEEDED));
        }
        self.statements.insert(name, prepared);
        Ok(())
    }

    /// What a name stands for.
    ///
    /// # Errors
    /// 26000.
    pub fn prepared(&self, name: &str) -> Result<&Prepared, Refused> {
        self.statements.get(name).ok_or_else(|| {
            let text = match name {
                "" => "unnamed prepared statement does not exist".to_owned(),
                name => format!("prepared statement \"{name}\" does not exist"),
            };
            refused(text, SqlState::INVALID_SQL_STATEMENT_NAME)
        })
    }

    /// Makes a portal.
    ///
    /// # Errors
    /// 42P03 for a name in use, 54000 for too many.
    pub fn bind(&mut self, name: String, portal: Portal) -> Result<(), Refused> {
        if !name.is_empty() && self.portals.contains_key(&name) {
            return Err(refused(format!("cursor \"{name}\" already exists"), SqlState::DUPLICATE_CURSOR));
        }
        if self.portals.len() >= NAMES_MAX {
            return Err(refused("too many portals".to_owned(), SqlState::PROGRAM_LIMIT_EXCEEDED));
        }
        self.portals.insert(name, portal);
        Ok(())
    }

    /// A portal.
    ///
    /// # Errors
    /// 34000.
    pub fn portal(&mut self, name: &str) -> Result<&mut Portal, Refused> {
        let missing = || refused(format!("portal \"{name}\" does not exist"), SqlState::INVALID_CURSOR_NAME);
        self.portals.get_mut(name).ok_or_else(missing)
    }

    /// A Close; of what is not there it is nothing.
    pub fn close(&mut self, kind: u8, name: &str) {
        if kind == b'S' {
            self.statements.remove(name);
        } else {
            self.portals.remove(name);
        }
    }

    /// The transaction is over, and with it all portals.
    pub fn forget_portals(&mut self) {
        self.portals.clear();
    }
}
