//! What has to be known of a database to say whether a statement may run on a standby: a question, answered elsewhere.
//!
//! Text alone does not tell: a function may write, a view may call it, a table may not be replicated. Answers err on the side
//! of the primary. Not here: where the answers come from (`catalog/hidden`).

/// What calling functions of one name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is none of that name, as far as is known.
    Unknown,
    /// All of them may run on a standby.
    Reads,
    /// One of them may write, or is right only on the primary.
    Writes,
}

impl Standing {
    /// The more cautious of both.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Writes, _) | (_, Self::Writes) => Self::Writes,
            (Self::Reads, _) | (_, Self::Reads) => Self::Reads,
            (Self::Unknown, Self::Unknown) => Self::Unknown,
        }
    }
}

/// What is known of one database. Names are folded as PostgreSQL folds them, without their schema: where several things
/// have one name, the most cautious answer holds for all.
pub trait Knowledge {
    /// Distinct for every state of knowledge of every database in this process; 0 when nothing is known.
    fn generation(&self) -> u64;

    /// What calling `name(…)` means. What [`super::built_ins::is_harmless`] knows better than `pg_proc` is in it.
    fn function(&self, name: &[u8]) -> Standing;

    /// Whether to read something called `name` may write, or gives another answer on a standby: a view over such a function,
    /// an unlogged or foreign table, a domain whose check writes, a function that can be called without parentheses.
    fn writes(&self, name: &[u8]) -> bool;

    /// Whether any statement may, whatever it names: through operators and casts.
    fn writes_everywhere(&self) -> bool;
}

/// The same said of every function, and no other name that writes: for who has no database to ask.
#[derive(Clone, Copy, Debug)]
pub struct Assumed {
    /// Whether it is taken for knowledge at all: 0 when not.
    pub generation: u64,
    /// What calling any function means.
    pub functions: Standing,
}

impl Assumed {
    /// Every function reads.
    pub const ALL_READ: Self = Self { generation: 1, functions: Standing::Reads };
}

impl Knowledge for Assumed {
    fn generation(&self) -> u64 {
        self.generation
    }

    fn function(&self, _: &[u8]) -> Standing {
        self.functions
    }

    fn writes(&self, _: &[u8]) -> bool {
        false
    }

    fn writes_everywhere(&self) -> bool {
        false
    }
}
