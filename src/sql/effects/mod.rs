//! What a text may leave behind in its session, beyond its transaction: settings, locks, temporary objects and the like.
//!
//! Errs on the side of saying too much: an effect that did not happen costs a question to the server, one that was missed
//! is lost or leaks. What functions, triggers and views do when the text only names them is not here: that takes the
//! database's catalogue (`catalog/hidden.rs`), to which [`mentions`] gives the names.
//!
//! - `reading`: goes over a text; `words`: what its words say; `set_config`: what a setting ends as
//! - `mentions`: the names in a text
//!
//! Not here: which settings, and to what ([`crate::sql::assignment`]).

mod mentions;
mod reading;
mod set_config;
#[cfg(test)]
mod tests;
mod words;

use std::ops::{BitOr, BitOrAssign};

pub use mentions::mentions;

/// A set of effects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Effects(u32);

impl Effects {
    /// Nothing lasts.
    pub const NONE: Self = Self(0);
    /// Settings change for the session, and [`crate::sql::assignment`] finds their names.
    pub const SETS: Self = Self(1);
    /// Settings may go back to what they were at login.
    pub const RESETS: Self = Self(1 << 1);
    /// Anything may change, and the text does not say what.
    pub const HIDES: Self = Self(1 << 2);
    /// Temporary tables, views, functions.
    pub const TEMPORARY: Self = Self(1 << 3);
    /// Advisory locks of the session.
    pub const ADVISORY: Self = Self(1 << 4);
    /// `LISTEN`.
    pub const LISTENS: Self = Self(1 << 5);
    /// `WITH HOLD` cursors.
    pub const HOLDS: Self = Self(1 << 6);
    /// Statements prepared in SQL.
    pub const PREPARES: Self = Self(1 << 7);
    /// Temporary replication slots.
    pub const SLOTS: Self = Self(1 << 8);
    /// Something that ends with the server's process only: libraries, seeds, connections of extensions.
    pub const LASTING: Self = Self(1 << 9);
    /// `currval`, `lastval`: asks for what the session has left in a sequence.
    pub const READS_SEQUENCE: Self = Self(1 << 10);
    /// May leave something that `currval` or `lastval` finds.
    pub const MOVES_SEQUENCE: Self = Self(1 << 11);
    /// State that pins may be gone after it.
    pub const FREES: Self = Self(1 << 12);
    /// What functions, triggers and the like do may be different after it.
    pub const DEFINES: Self = Self(1 << 13);
    /// A table or a view may do after it what its definition names.
    pub const REFERS: Self = Self(1 << 15);
    /// What may be read on a standby may be different after it. Not after a `DROP`: what is known then is only too cautious.
    pub const OUTDATES: Self = Self(1 << 16);
    /// Creates something, temporary if the search path says so.
    pub const CREATES: Self = Self(1 << 14);

    /// State that can stay behind on a server, with the names operators know it by.
    pub const PINS: [(Self, &'static str); 8] = [
        (Self::TEMPORARY, "temporary objects"),
        (Self::ADVISORY, "advisory lock"),
        (Self::LISTENS, "listen"),
        (Self::HOLDS, "cursor with hold"),
        (Self::PREPARES, "prepared statement"),
        (Self::SLOTS, "temporary replication slot"),
        (Self::LASTING, "state that ends with its server process"),
        (Self::MOVES_SEQUENCE, "currval"),
    ];

    /// All of [`Self::PINS`].
    pub const PINNING: Self = Self(0b1_1111_1000 | 1 << 9 | 1 << 11);

    /// What makes a function worth flagging whose source does this: settings and state nobody would see otherwise.
    pub const HIDDEN: Self = Self(0b11_1111_1111);

    /// Whether any of `others` is among them.
    #[must_use]
    pub const fn any(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Without `others`.
    #[must_use]
    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Both together.
    #[must_use]
    pub const fn or(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Those that are in both.
    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    /// What `sql`, any number of statements, may leave behind.
    #[must_use]
    pub fn of(sql: &[u8]) -> Self {
        reading::of(sql).effects
    }

    /// The same, and whether it holds for other values of its literals.
    #[must_use]
    pub fn read(sql: &[u8]) -> Read {
        reading::of(sql)
    }
}

/// What a text may leave behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// This.
    pub effects: Effects,
    /// With other values in its literals, it might be something else.
    pub by_values: bool,
}

impl BitOr for Effects {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        self.or(other)
    }
}

impl BitOrAssign for Effects {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}
