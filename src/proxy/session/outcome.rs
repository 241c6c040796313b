//! ◇ What is known of a block's transaction in case its COMMIT should stay without an answer (`commit_outcome = "resolve"`).
//!
//! Behind the block's first write the server is asked for the transaction's id; whether a COMMIT alone is on its way follows from the
//! messages sent. Pure: tags and openings in. Not here: the asking (`doubt.rs`), what the id is good for (`proxy/verdict.rs`).

use super::lost::Ending;

/// What is known of the id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Xid {
    /// Nothing.
    #[default]
    Unknown,
    /// There was none, and nothing has run since.
    None,
    /// This is it.
    Known(u64),
}

/// What the turn that was sent last is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Turn {
    /// Something else than a COMMIT alone.
    #[default]
    Other,
    /// Messages that run nothing.
    Begun,
    /// A COMMIT is bound.
    Bound,
    /// It runs; the turn goes on.
    Runs,
    /// It runs, and that is all.
    Commit,
}

/// What is known of the open block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    xid: Xid,
    /// Something has been written, and the id is not known.
    wrote: bool,
    turn: Turn,
    /// The question is on its way.
    pub asks: bool,
}

impl Block {
    /// A message is sent. `settled`: nothing is owed, so that it begins a turn. `runs`: what a simple query, or a portal that is bound
    /// would run, if that is known.
    pub fn sends(&mut self, tag: u8, settled: bool, runs: Option<Ending>) {
        if settled {
            self.turn = Turn::Begun;
        } else if self.turn == Turn::Commit {
            self.turn = Turn::Other; // more is on its way than the COMMIT
        }
        let commits = runs.is_some_and(Ending::commits_alone);
        self.turn = match (tag, self.turn) {
            (b'Q', Turn::Begun) if commits => Turn::Commit,
            (b'B', Turn::Begun) if commits => Turn::Bound,
            (b'E', Turn::Bound) => Turn::Runs,
            (b'S', Turn::Runs) => Turn::Commit,
            (b'P' | b'D' | b'C' | b'H', turn) => turn,
            _ => Turn::Other,
        };
    }

    /// A command has been completed.
    pub fn completed(&mut self, tag: &[u8]) {
        let is = |command: &[u8]| tag.starts_with(command);
        if is(b"COMMIT") || is(b"ROLLBACK") {
            // the block may go on, as it was or as another
            (self.xid, self.wrote) = (Xid::Unknown, is(b"ROLLBACK"));
            return;
        }
        if matches!(self.xid, Xid::Known(_)) {
            return;
        }
        self.xid = Xid::Unknown;
        let reads: [&[u8]; 16] = [
            b"SELECT",
            b"SHOW",
            b"BEGIN",
            b"START",
            b"SET",
            b"RESET",
            b"SAVEPOINT",
            b"RELEASE",
            b"DECLARE",
            b"CLOSE",
            b"FETCH",
            b"MOVE",
            b"LISTEN",
            b"UNLISTEN",
            b"EXPLAIN",
            b"LOCK",
        ];
        self.wrote |= !reads.into_iter().any(is);
    }

    /// ReadyForQuery with this status: the end of a block is the end of what is known.
    pub fn is_ready(&mut self, status: u8) {
        if status == b'I' {
            *self = Self::default();
        }
    }

    /// Whether the id is to be asked for.
    #[must_use]
    pub const fn wants_to_ask(&self) -> bool {
        self.wrote && !self.asks
    }

    /// The question has been answered.
    pub fn learn(&mut self, xid: Option<u64>) {
        self.xid = xid.map_or(Xid::None, Xid::Known);
        self.wrote = false;
    }

    /// The COMMIT whose answer is all that is owed, if that is so and its transaction is known: its id, or `None` in it where there
    /// is nothing to commit.
    #[must_use]
    pub const fn in_doubt(&self) -> Option<Option<u64>> {
        match (self.turn, self.xid) {
            (Turn::Commit, Xid::Known(xid)) => Some(Some(xid)),
            (Turn::Commit, Xid::None) => Some(None),
            _ => None,
        }
    }
}

/// The id in the row that answers the question; `None` in it for no transaction.
#[must_use]
pub fn read_row(body: &[u8]) -> Option<Option<u64>> {
    let (columns, rest) = body.split_first_chunk::<2>()?;
    let (length, value) = rest.split_first_chunk::<4>()?;
    match (u16::from_be_bytes(*columns), i32::from_be_bytes(*length)) {
        (1, -1) => Some(None),
        (1, length) if usize::try_from(length) == Ok(value.len()) => {
            std::str::from_utf8(value).ok()?.parse().ok().map(Some)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &[u8] = b"COMMIT";

    fn query(block: &mut Block, settled: bool, sql: &[u8]) {
        block.sends(b'Q', settled, Some(Ending::of(sql)));
    }

    fn written(xid: Option<u64>) -> Block {
        let mut block = Block::default();
        query(&mut block, true, b"INSERT INTO t VALUES (1)");
        block.completed(b"INSERT 0 1\0");
        block.is_ready(b'T');
        assert!(block.wants_to_ask());
        block.learn(xid);
        assert!(!block.wants_to_ask());
        block
    }

    #[test]
    fn a_commit_alone_behind_a_write_is_in_doubt_with_its_id() {
        for commit in [COMMIT, b"end;", b" Commit work ; ", b"COMMIT AND NO CHAIN"] {
            let mut block = written(Some(7));
            assert_eq!(block.in_doubt(), None);
            query(&mut block, true, commit);
            assert_eq!(block.in_doubt(), Some(Some(7)), "{}", commit.escape_ascii());
        }
        let mut block = written(Some(7));
        for (tag, settled) in [(b'P', true), (b'B', false), (b'D', false), (b'E', false)] {
            block.sends(tag, settled, (tag == b'B').then(|| Ending::of(COMMIT)));
            assert_eq!(block.in_doubt(), None);
        }
        block.sends(b'S', false, None);
        assert_eq!(block.in_doubt(), Some(Some(7)));
        let mut block = written(None);
        query(&mut block, true, COMMIT);
        assert_eq!(block.in_doubt(), Some(None), "there was nothing to commit");
    }

    #[test]
    fn whatever_is_more_than_a_commit_alone_is_not() {
        for commit in [
            &b"COMMIT; SELECT 1"[..],
            b"COMMIT AND CHAIN",
            b"COMMIT PREPARED 'x'",
            b"PREPARE TRANSACTION 'x'",
            b"ROLLBACK",
        ] {
            let mut block = written(Some(7));
            query(&mut block, true, commit);
            assert_eq!(block.in_doubt(), None, "{}", commit.escape_ascii());
        }
        let mut block = written(Some(7));
        query(&mut block, true, b"INSERT INTO t VALUES (2)");
        query(&mut block, false, COMMIT); // pipelined
        assert_eq!(block.in_doubt(), None);
        let mut block = written(Some(7));
        query(&mut block, true, COMMIT);
        query(&mut block, false, b"BEGIN");
        assert_eq!(block.in_doubt(), None);
        let mut block = written(Some(7));
        let turn = [(b'B', &b"INSERT"[..]), (b'E', b""), (b'B', COMMIT), (b'E', b""), (b'S', b"")];
        for (at, (tag, sql)) in turn.into_iter().enumerate() {
            block.sends(tag, at == 0, (tag == b'B').then(|| Ending::of(sql)));
        }
        assert_eq!(block.in_doubt(), None);
    }

    #[test]
    fn an_id_holds_for_its_own_block_only() {
        let mut block = written(Some(7));
        block.completed(b"COMMIT\0"); // AND CHAIN
        block.is_ready(b'T');
        query(&mut block, true, COMMIT);
        assert_eq!(block.in_doubt(), None);
        let mut block = written(Some(7));
        block.completed(b"ROLLBACK\0"); // TO a savepoint, or AND CHAIN
        assert!(block.wants_to_ask());
        let mut block = written(Some(7));
        block.is_ready(b'I');
        assert_eq!(block, Block::default());
    }

    #[test]
    fn that_there_is_no_id_holds_until_something_runs() {
        let mut block = written(None);
        block.completed(b"SELECT 1\0"); // a function may have written
        query(&mut block, true, COMMIT);
        assert_eq!((block.in_doubt(), block.wants_to_ask()), (None, false));
        let mut block = written(None);
        block.completed(b"UPDATE 1\0");
        assert!(block.wants_to_ask());
    }

    #[test]
    fn rows_are_read_whole_or_not_at_all() {
        assert_eq!(read_row(b"\0\x01\0\0\0\x02\x34\x32"), Some(Some(42)));
        assert_eq!(read_row(b"\0\x01\xff\xff\xff\xff"), Some(None));
        for broken in [&b""[..], b"\0\x01\0\0\0\x03\x34\x32", b"\0\x02\0\0\0\x01\x34", b"\0\x01\0\0\0\x01x"] {
            assert_eq!(read_row(broken), None, "{}", broken.escape_ascii());
        }
    }
}
