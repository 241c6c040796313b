//! A console's prepared statements and portals. ◇

use std::collections::HashMap;

use super::answer::{Column, Encoded, Formats};
use super::command::Command;
use super::refusal::ConsoleError;

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
#[derive(Debug)]
pub struct Portal {
    /// What.
    pub prepared: Prepared,
    /// In which formats.
    pub formats: Formats,
    /// What an Execute with a limit has left.
    pub left: Option<Encoded>,
}

/// All names.
#[derive(Debug, Default)]
pub struct Names {
    statements: HashMap<String, Prepared>,
    portals: HashMap<String, Portal>,
}

impl Names {
    /// Gives a statement a name.
    ///
    /// # Errors
    /// 42P05 for a name in use, 54000 for too many.
    pub fn prepare(&mut self, name: String, prepared: Prepared) -> Result<(), ConsoleError> {
        if !name.is_empty() && self.statements.contains_key(&name) {
            return Err(ConsoleError::StatementExists(name));
        }
        if self.statements.len() >= NAMES_MAX && !self.statements.contains_key(&name) {
            return Err(ConsoleError::TooManyStatements);
        }
        self.statements.insert(name, prepared);
        Ok(())
    }

    /// What a name stands for.
    ///
    /// # Errors
    /// 26000.
    pub fn prepared(&self, name: &str) -> Result<&Prepared, ConsoleError> {
        self.statements.get(name).ok_or_else(|| match name {
            "" => ConsoleError::NoUnnamedStatement,
            name => ConsoleError::NoSuchStatement(name.to_owned()),
        })
    }

    /// Makes a portal.
    ///
    /// # Errors
    /// 42P03 for a name in use, 54000 for too many.
    pub fn bind(&mut self, name: String, portal: Portal) -> Result<(), ConsoleError> {
        if !name.is_empty() && self.portals.contains_key(&name) {
            return Err(ConsoleError::PortalExists(name));
        }
        if self.portals.len() >= NAMES_MAX && !self.portals.contains_key(&name) {
            return Err(ConsoleError::TooManyPortals);
        }
        self.portals.insert(name, portal);
        Ok(())
    }

    /// A portal.
    ///
    /// # Errors
    /// 34000.
    pub fn portal(&mut self, name: &str) -> Result<&mut Portal, ConsoleError> {
        self.portals.get_mut(name).ok_or_else(|| ConsoleError::NoSuchPortal(name.to_owned()))
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
