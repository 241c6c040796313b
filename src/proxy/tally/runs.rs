//! What a server runs for a client, in the order it was asked: so that each answer is counted to its statement and its request.
//!
//! It follows [`crate::protocol::pipeline`] loosely: where the two should ever differ, statistics are off by one and no client is.

use std::collections::VecDeque;
use std::sync::Arc;

use super::followed::Followed;

/// Portals and statements whose names are remembered at most; beyond, what is done with others is counted to no statement.
const NAMES_MAX: usize = 1_000;

/// One thing that a server was asked.
#[derive(Debug)]
struct Run {
    kind: Kind,
    statement: Option<Arc<Followed>>,
    /// When it was sent.
    since_us: u64,
    /// How long its client had waited for the server before.
    waited_us: u64,
    failed: bool,
    rows: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One statement of a batch.
    Execute,
    /// A simple query, or a function call: both its statement and a request.
    Query,
    /// The end of a batch: a request.
    Sync,
}

/// How long a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Took {
    /// The server.
    pub server_us: u64,
    /// In all: with the wait for one.
    pub total_us: u64,
    /// Rows that came since the last request's end.
    pub rows: u64,
}

/// What a server runs, and what it would run by name.
#[derive(Debug, Default)]
pub struct Runs {
    asked: VecDeque<Run>,
    /// When the last answer ended: what was pipelined behind it began then.
    last_us: u64,
    /// When the last request's did.
    ready_us: u64,
    /// Rows since the last request's end; and since the last statement's.
    rows: u64,
    statement_rows: u64,
    /// A COPY to the client has ended: its tag will say of how many rows.
    copied: bool,
    /// What the unnamed portal would run.
    bound: Option<Arc<Followed>>,
    portals: Vec<(Box<[u8]>, Option<Arc<Followed>>)>,
    /// Where the client's names are the server's: what they stand for.
    prepared: Vec<(Box<[u8]>, Arc<Followed>)>,
    /// Parse messages that were sent; Parse and Bind messages that the client has sent. Until somebody takes them.
    pub parses: u32,
    /// See `parses`.
    pub client_parses: u32,
    /// See `parses`.
    pub binds: u32,
}

impl Runs {
    /// Another client's loan begins.
    pub fn clear(&mut self) {
        self.forget();
        self.bound = None;
        self.portals.clear();
        self.prepared.clear();
    }

    /// What was asked will not be answered, or is asked again.
    pub fn forget(&mut self) {
        self.asked.clear();
        (self.rows, self.statement_rows, self.copied) = (0, 0, false);
    }

    /// A statement is bound.
    pub fn bind(&mut self, portal: &[u8], statement: Option<Arc<Followed>>) {
        if portal.is_empty() {
            self.bound = statement;
            return;
        }
        let fits = self.portals.len() < NAMES_MAX;
        match self.portals.iter_mut().find(|(name, _)| **name == *portal) {
            Some((_, there)) => *there = statement,
            None if fits => self.portals.push((portal.into(), statement)),
            None => {}
        }
    }

    /// A statement is prepared under a name that the server is told as it is.
    pub fn prepare(&mut self, name: &[u8], statement: Arc<Followed>) {
        let fits = self.prepared.len() < NAMES_MAX;
        match self.prepared.iter_mut().find(|(known, _)| **known == *name) {
            Some((_, there)) => *there = statement,
            None if fits => self.prepared.push((name.into(), statement)),
            None => {}
        }
    }

    /// What such a name stands for.
    #[must_use]
    pub fn prepared(&self, name: &[u8]) -> Option<Arc<Followed>> {
        self.prepared.iter().find(|(known, _)| **known == *name).map(|(_, statement)| Arc::clone(statement))
    }

    /// A portal is executed.
    pub fn execute(&mut self, portal: &[u8], now_us: u64) {
        let statement = match portal {
            [] => self.bound.clone(),
            name => self.portals.iter().find(|(known, _)| **known == *name).and_then(|(_, bound)| bound.clone()),
        };
        self.push(Kind::Execute, statement, now_us, 0);
    }

    /// A simple query is sent; or something as whole without a text.
    pub fn query(&mut self, statement: Option<Arc<Followed>>, now_us: u64, waited_us: u64) {
        self.push(Kind::Query, statement, now_us, waited_us);
    }

    /// A batch has come to its end.
    pub fn sync(&mut self, now_us: u64, waited_us: u64) {
        self.push(Kind::Sync, None, now_us, waited_us);
    }

    fn push(&mut self, kind: Kind, statement: Option<Arc<Followed>>, since_us: u64, waited_us: u64) {
        self.asked.push_back(Run { kind, statement, since_us, waited_us, failed: false, rows: 0 });
    }

    /// A row has come.
    pub const fn row(&mut self) {
        self.rows += 1;
        self.statement_rows += 1;
    }

    /// All rows of a COPY to the client have come. They are not looked at one by one.
    pub const fn copied(&mut self) {
        self.copied = true;
    }

    /// A command's tag has come, such as `COPY 5`.
    pub fn tagged(&mut self, tag: &[u8]) {
        if std::mem::take(&mut self.copied) {
            let count = tag.strip_prefix(b"COPY ").unwrap_or_default();
            let digits = count.iter().map_while(|byte| char::from(*byte).to_digit(10));
            let rows = digits.fold(0_u64, |rows, digit| rows.saturating_mul(10).saturating_add(digit.into()));
            self.rows = self.rows.saturating_add(rows);
            self.statement_rows = self.statement_rows.saturating_add(rows);
        }
    }

    /// A command has come to its end, or with `suspended` has paused.
    pub fn completed(&mut self, suspended: bool, now_us: impl FnOnce() -> u64) {
        let Some(run) = self.asked.front_mut().filter(|run| run.kind == Kind::Execute) else { return };
        run.rows += std::mem::take(&mut self.statement_rows);
        let Some(run) = self.asked.pop_front() else { return };
        if suspended {
            // it is called once it has come to its end
            run.statement.iter().for_each(|statement| statement.sent(run.rows));
            return;
        }
        self.ended(run, now_us());
    }

    fn ended(&mut self, run: Run, now_us: u64) {
        let since = run.since_us.max(self.last_us);
        self.last_us = now_us;
        if let Some(statement) = run.statement {
            statement.ran(now_us.saturating_sub(since), run.rows, run.failed);
        }
    }

    /// The client is told of an error. What follows it in its batch is skipped.
    pub fn failed(&mut self, now_us: impl FnOnce() -> u64) {
        match self.asked.front_mut() {
            Some(run) if run.kind == Kind::Execute => {
                run.failed = true;
                run.rows += std::mem::take(&mut self.statement_rows);
                if let Some(run) = self.asked.pop_front() {
                    self.ended(run, now_us());
                }
                while self.asked.front().is_some_and(|run| run.kind == Kind::Execute) {
                    self.asked.pop_front();
                }
            }
            Some(run) => run.failed = true,
            None => {}
        }
    }

    /// A request has been answered; `quiet`: nothing else is owed.
    pub fn answered(&mut self, now_us: u64, quiet: bool) -> Took {
        let mut took = Took { rows: std::mem::take(&mut self.rows), ..Took::default() };
        while let Some(mut run) = self.asked.pop_front() {
            if run.kind == Kind::Execute {
                continue; // it was skipped
            }
            run.rows = std::mem::take(&mut self.statement_rows);
            took.server_us = now_us.saturating_sub(run.since_us.max(self.ready_us));
            took.total_us = took.server_us + run.waited_us;
            self.ended(run, now_us);
            break;
        }
        self.statement_rows = 0;
        if quiet {
            self.asked.clear();
        }
        (self.last_us, self.ready_us) = (now_us, now_us);
        took
    }
}

#[cfg(test)]
mod tests {
    use super::super::followed::{Followers, look};
    use super::*;
    use crate::proxy::pool::PoolKey;

    /// Statements by number, and what was counted of each: calls, errors, rows, microseconds.
    struct Stage {
        followers: Followers,
        runs: Runs,
        shelf: Arc<super::super::followed::Shelf>,
    }

    impl Stage {
        fn new() -> Self {
            let shelf = Arc::new(super::super::followed::Shelf::default());
            Self { followers: Followers::new(Arc::clone(&shelf)), runs: Runs::default(), shelf }
        }

        fn statement(&self, number: u64) -> Option<Arc<Followed>> {
            let name = || Arc::<str>::from("a");
            let key = PoolKey { cluster: name(), node: name(), database: name(), user: name() };
            Some(self.followers.follow(number, 1, &key, String::new))
        }

        fn counted(&self, number: u64) -> (u64, u64, u64, u64) {
            let all = look(&self.shelf);
            let one = all.iter().find(|one| one.fingerprint == number);
            one.map_or((0, 0, 0, 0), |one| (one.calls, one.errors, one.rows, one.total.sum_us()))
        }

        fn batch(&mut self, portal: &[u8], number: u64, now_us: u64) {
            let statement = self.statement(number);
            self.runs.bind(portal, statement);
            self.runs.execute(portal, now_us);
        }
    }

    #[test]
    fn each_answer_in_a_pipeline_is_its_own_statements_and_takes_from_the_end_of_the_one_before() {
        let mut stage = Stage::new();
        stage.batch(b"", 1, 100);
        stage.batch(b"p", 2, 100);
        stage.runs.sync(100, 7);
        stage.runs.query(stage.statement(3), 100, 0);
        stage.runs.row();
        stage.runs.completed(false, || 110);
        stage.runs.row();
        stage.runs.row();
        stage.runs.completed(false, || 130);
        assert_eq!(stage.runs.answered(130, false), Took { server_us: 30, total_us: 37, rows: 3 });
        stage.runs.row();
        stage.runs.completed(false, || panic!("a simple query ends with its request"));
        assert_eq!(stage.runs.answered(150, true), Took { server_us: 20, total_us: 20, rows: 1 });
        assert_eq!([1, 2, 3].map(|n| stage.counted(n)), [(1, 0, 1, 10), (1, 0, 2, 20), (1, 0, 1, 20)]);
    }

    #[test]
    fn what_follows_an_error_up_to_the_end_of_its_batch_was_not_called() {
        let mut stage = Stage::new();
        for number in [1, 2, 3] {
            stage.batch(b"", number, 100);
        }
        stage.runs.sync(100, 0);
        stage.batch(b"", 4, 100);
        stage.runs.sync(100, 0);
        stage.runs.completed(false, || 110);
        stage.runs.failed(|| 120);
        stage.runs.answered(120, false);
        stage.runs.completed(false, || 140);
        stage.runs.answered(140, true);
        assert_eq!([1, 2, 3, 4].map(|n| stage.counted(n)), [(1, 0, 0, 10), (1, 1, 0, 10), (0, 0, 0, 0), (1, 0, 0, 20)]);
    }

    #[test]
    fn the_rows_of_a_copy_to_the_client_are_its_tags_and_what_a_client_copies_in_is_none() {
        let mut stage = Stage::new();
        stage.runs.query(stage.statement(1), 100, 0);
        stage.runs.copied();
        stage.runs.tagged(b"COPY 1205\0");
        stage.runs.completed(false, || panic!("a simple query ends with its request"));
        assert_eq!(stage.runs.answered(110, true).rows, 1_205);
        stage.runs.query(stage.statement(2), 120, 0);
        stage.runs.tagged(b"COPY 7\0");
        assert_eq!(stage.runs.answered(130, true).rows, 0);
        assert_eq!([1, 2].map(|n| stage.counted(n).2), [1_205, 0]);
    }

    #[test]
    fn a_portal_that_pauses_is_called_once_and_keeps_its_rows() {
        let mut stage = Stage::new();
        stage.batch(b"c", 1, 100);
        stage.runs.sync(100, 0);
        stage.runs.row();
        stage.runs.completed(true, || panic!("it goes on"));
        stage.runs.answered(110, true);
        stage.batch(b"", 2, 120);
        stage.runs.execute(b"c", 120);
        stage.runs.sync(120, 0);
        stage.runs.completed(false, || 125);
        stage.runs.row();
        stage.runs.completed(false, || 130);
        stage.runs.answered(130, true);
        assert_eq!([1, 2].map(|n| stage.counted(n)), [(1, 0, 2, 5), (1, 0, 0, 5)]);
    }
}
