//! What a statement is to the router, and why.
//!
//! Words only: who finds out is [`super::analysis`], who acts on it is the session.

use super::lexer::Lexer;

/// Where a statement may run, as far as it says so itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// On a standby, with the same effect and the same answer as on the primary.
    Read,
    /// On the primary only.
    Write,
    /// Begins a block that may write, or may if the session says so.
    Begin,
    /// Begins a block that says it does not write, and that a standby accepts.
    ReadOnlyBegin,
    /// Ends a block.
    End,
    /// Changes or asks for what its session holds, and touches no data.
    SessionState,
    /// Nobody knows: on the primary.
    Unknown,
}

impl Class {
    const ALL: [Self; 7] =
        [Self::Read, Self::Write, Self::Begin, Self::ReadOnlyBegin, Self::End, Self::SessionState, Self::Unknown];

    /// As logs and `howdah route` name it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Begin => "begin",
            Self::ReadOnlyBegin => "read_only_begin",
            Self::End => "end",
            Self::SessionState => "session_state",
            Self::Unknown => "unknown",
        }
    }
}

/// A leading comment that says where its statement is to run: `/* howdah: primary */`, `/* howdah: replica */`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// On the primary.
    Primary,
    /// On a standby, if any may take reads.
    Replica,
}

impl Hint {
    /// The hint in front of the first token of `sql`; the first one, if there are several.
    #[must_use]
    pub fn of(sql: &[u8]) -> Option<Self> {
        if sql.first().is_none_or(u8::is_ascii_alphabetic) {
            return None; // nearly all
        }
        let mut lexer = Lexer::new(sql);
        while let Some(comment) = lexer.comment() {
            if let Some(hint) = Self::of_comment(comment) {
                return Some(hint);
            }
        }
        None
    }

    fn of_comment(comment: &[u8]) -> Option<Self> {
        let (name, target) = comment.trim_ascii().split_at_checked(6)?;
        let target = target.trim_ascii().strip_prefix(b":")?.trim_ascii();
        if !name.eq_ignore_ascii_case(b"howdah") {
            return None;
        }
        match target {
            _ if target.eq_ignore_ascii_case(b"primary") => Some(Self::Primary),
            _ if target.eq_ignore_ascii_case(b"replica") => Some(Self::Replica),
            _ => None,
        }
    }

    /// What it makes of its statement.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Primary => Verdict::write(Reason::HintPrimary),
            Self::Replica => Verdict::new(Class::Read, Reason::HintReplica),
        }
    }

    /// The comment in its one spelling.
    #[must_use]
    pub const fn comment(self) -> &'static str {
        match self {
            Self::Primary => "/* howdah: primary */ ",
            Self::Replica => "/* howdah: replica */ ",
        }
    }
}

/// Declares [`Reason`] with what belongs to each: so that none lacks a label or a text.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident $label:literal $text:literal),+ $(,)?) => {
        /// Why a statement is what it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $(#[doc = $text] $(#[$doc])* $name),+
        }

        impl Reason {
            /// All of them, in the order of their [`index`](Self::index).
            pub const ALL: [Self; [$($label),+].len()] = [$(Self::$name),+];

            /// Its name in counters.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label),+ }
            }

            /// For people.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }
    };
}

reasons! {
    Reads "reads" "only reads, in every part and in every function it calls",
    HintPrimary "hint_primary" "a comment in front of it says so: primary",
    HintReplica "hint_replica" "a comment in front of it says so: replica",
    Empty "empty" "there is no statement in it",
    Begin "begin" "begins a transaction block",
    BeginReadOnly "begin_read_only" "begins a transaction block that does not write",
    BeginSerializable "begin_serializable" "begins a serializable block, which a standby refuses",
    End "end" "ends a transaction block",
    Savepoint "savepoint" "sets, releases or goes back to a savepoint of its block",
    TwoPhase "two_phase" "two-phase commit",
    Set "set" "changes settings of its session",
    SetTransaction "set_transaction" "changes its own transaction",
    Discard "discard" "gives up what its session holds",
    Prepare "prepare" "makes or drops a prepared statement",
    Execute "execute" "runs a statement prepared in SQL, which may be anything",
    Cursor "cursor" "a cursor lives in its session",
    Listen "listen" "listens, which a standby refuses",
    Notify "notify" "notifies, which a standby refuses",
    LockTable "lock_table" "locks a table",
    Call "call" "calls a procedure, which may write",
    Do "do" "runs code that is not looked into",
    Copy "copy" "copies into a table, from or to a program or file, or what a statement that writes returns",
    Load "load" "loads a library into its session",
    Show "show" "asks for a setting, which its node decides",
    ChangesData "changes_data" "inserts, updates, deletes, merges or truncates",
    Definition "definition" "defines, changes or drops something, or says who may use it",
    Maintenance "maintenance" "maintains tables or the server",
    ExplainAnalyze "explain_analyze" "EXPLAIN that runs its statement",
    RowLock "row_lock" "locks rows (FOR UPDATE, FOR SHARE)",
    SelectInto "select_into" "makes a table of what it selects (INTO)",
    HiddenWrite "hidden_write" "inserts, updates, deletes or merges in a part of it",
    AdvisoryLock "advisory_lock" "takes, gives back or tries an advisory lock, which every node has its own of",
    ExportSnapshot "export_snapshot" "exports a snapshot, which only its own node can import",
    NotifyFunction "notify_function" "notifies by function, which a standby refuses",
    Sequence "sequence" "moves or asks for a sequence",
    SetConfig "set_config" "changes settings by function",
    LargeObject "large_object" "large objects by function",
    TransactionId "transaction_id" "asks for a transaction id, which standbys do not give",
    RunsText "runs_text" "a function that runs text or reads what text names",
    Foreign "foreign" "reaches another server by function",
    Administration "administration" "a function for administrators: of files, processes, logs or replication",
    TellsOfNode "tells_of_node" "asks for what differs from node to node",
    WritingFunction "writing_function" "calls a function that may write, or that is volatile",
    UnknownFunction "unknown_function" "calls a function that is not in the catalogue as it was read",
    WritingName "writing_name" "names something that may write or is not on standbys: a view, type or column function, an unlogged table",
    WritesEverywhere "writes_everywhere" "the database has an operator or cast that may write",
    RefusedByStandby "refused_by_standby" "a standby has refused it, although nothing told that it writes",
    CatalogueUnread "catalogue_unread" "the database's catalogue has not been read yet",
    SeveralStatements "several_statements" "several statements, of which not all only read",
    UnknownStatement "unknown_statement" "begins with no word that is known",
    NotUnderstood "not_understood" "not understood by the second grammar",
    Ambiguous "ambiguous" "can be read in more ways than one, depending on settings or versions",
    NotText "not_text" "has no end, or is not UTF-8",
    TooLong "too_long" "longer than what is looked into",
}

impl Reason {
    /// Its place in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether a standby would accept it and do something else than the primary does: what a block on a standby must
    /// refuse, because nobody else will. Advisory locks are the standby's own and lock out nobody; an exported snapshot can
    /// be imported nowhere else. What merely answers for another node is not among them.
    #[must_use]
    pub const fn is_silent_on_standby(self) -> bool {
        matches!(self, Self::AdvisoryLock | Self::ExportSnapshot)
    }
}

/// What a statement is, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What it is.
    pub class: Class,
    /// Why.
    pub reason: Reason,
}

impl Verdict {
    /// Both.
    #[must_use]
    pub const fn new(class: Class, reason: Reason) -> Self {
        Self { class, reason }
    }

    /// On the primary only.
    #[must_use]
    pub const fn write(reason: Reason) -> Self {
        Self::new(Class::Write, reason)
    }

    /// On the primary, for want of knowledge.
    #[must_use]
    pub const fn unknown(reason: Reason) -> Self {
        Self::new(Class::Unknown, reason)
    }

    /// In two bytes.
    #[must_use]
    pub const fn pack(self) -> u16 {
        u16::from_be_bytes([self.class as u8, self.reason as u8])
    }

    /// Out of [`Self::pack`].
    #[must_use]
    pub fn unpack(packed: u16) -> Option<Self> {
        let [class, reason] = packed.to_be_bytes();
        let class = *Class::ALL.get(usize::from(class))?;
        Some(Self { class, reason: *Reason::ALL.get(usize::from(reason))? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_comes_back_out_of_two_bytes() {
        for class in Class::ALL {
            for reason in Reason::ALL {
                let verdict = Verdict { class, reason };
                assert_eq!(Verdict::unpack(verdict.pack()), Some(verdict));
                assert_eq!(Reason::ALL[reason.index()], reason);
            }
        }
        assert_eq!(Verdict::unpack(u16::MAX), None);
    }

    #[test]
    fn hints_are_found_in_front_of_the_first_token_only() {
        for (sql, hint) in [
            ("/* howdah: primary */ select 1", Some(Hint::Primary)),
            (" \n/*HOWDAH:replica*/select 1", Some(Hint::Replica)),
            ("-- x\n/* other */ /* Howdah : Replica */ select 1", Some(Hint::Replica)),
            ("/*howdah: primary*//*howdah: replica*/ select 1", Some(Hint::Primary)),
            ("select /* howdah: primary */ 1", None),
            ("; /* howdah: primary */ select 1", None),
            ("/* howdah: secondary */ select 1", None),
            ("-- howdah: primary\nselect 1", None),
            ("/* /* howdah: primary */ */ select 1", None),
            ("/* howdah: primary", None),
            ("", None),
        ] {
            assert_eq!(Hint::of(sql.as_bytes()), hint, "{sql}");
        }
    }
}
