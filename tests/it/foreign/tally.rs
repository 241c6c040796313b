//! What has happened so far, over all clients.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;

/// The counts; one thread plays all clients.
#[derive(Default)]
pub struct Tally {
    answers: Cell<u64>,
    rows: Cell<u64>,
    cancels: Cell<u64>,
    disconnects: Cell<u64>,
    logins: Cell<u64>,
    foreign: Cell<u64>,
    errors: RefCell<BTreeMap<String, u64>>,
    mismatches: RefCell<Vec<String>>,
}

fn add(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

impl Tally {
    /// A statement's answer was the expected one.
    pub fn answer(&self) {
        add(&self.answers);
    }

    pub fn row(&self) {
        add(&self.rows);
    }

    /// As [`Self::answer`], and it was an error.
    pub fn error(&self, code: &str) {
        self.answer();
        *self.errors.borrow_mut().entry(code.to_owned()).or_default() += 1;
    }

    pub fn cancel(&self) {
        add(&self.cancels);
    }

    pub fn disconnect(&self) {
        add(&self.disconnects);
    }

    pub fn login(&self) {
        add(&self.logins);
    }

    /// Something else than expected came, or nothing; `foreign`: with another client's tag.
    pub fn mismatch(&self, what: String, foreign: bool) {
        if foreign {
            add(&self.foreign);
        }
        self.mismatches.borrow_mut().push(what);
    }

    pub fn answers(&self) -> u64 {
        self.answers.get()
    }

    pub fn cancels(&self) -> u64 {
        self.cancels.get()
    }

    pub fn disconnects(&self) -> u64 {
        self.disconnects.get()
    }

    pub fn foreign(&self) -> u64 {
        self.foreign.get()
    }

    pub fn mismatches(&self) -> Vec<String> {
        self.mismatches.borrow().clone()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = self.errors.borrow();
        let hits = errors.get("57014").copied().unwrap_or_default();
        writeln!(f, "answers {}, rows {}, logins {}", self.answers.get(), self.rows.get(), self.logins.get())?;
        writeln!(
            f,
            "cancels {}, disconnects {}, statements ended by 57014 {hits}",
            self.cancels.get(),
            self.disconnects.get()
        )?;
        let errors: Vec<_> = errors.iter().map(|(code, count)| format!("{code}: {count}")).collect();
        writeln!(f, "errors {}", errors.join(", "))?;
        write!(f, "mismatches {}, of them foreign {}", self.mismatches.borrow().len(), self.foreign.get())
    }
}
