//! Sessions that know what they must see, and the count of what they saw.

use std::fmt;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::support::wire::{self, Client, Message};
use crate::support::{Howdah, Tenant};

/// How a statement travels.
#[derive(Clone, Copy, Debug)]
pub enum Protocol {
    /// A Query with its values in the text.
    Simple,
    /// Parse, Bind and Execute each time.
    Extended,
    /// Prepared once under a name.
    Prepared,
}

impl Protocol {
    pub const ALL: [Self; 3] = [Self::Simple, Self::Extended, Self::Prepared];
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub reads: u64,
    /// Reads that a standby answered.
    pub on_replicas: u64,
    /// Reads that did not show what their own session had written.
    pub stale: u64,
    /// Reads that showed less than an earlier one of the same session.
    pub backward: u64,
    /// Such reads on the primary of what a standby had shown a moment before the primary did: no position of the log tells
    /// (docs/consistency.md, "Limits").
    pub ahead: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.reads += other.reads;
        self.on_replicas += other.on_replicas;
        self.stale += other.stale;
        self.backward += other.backward;
        self.ahead += other.ahead;
    }

    /// Reads on replicas, in percent.
    #[allow(clippy::cast_precision_loss)]
    pub fn share(&self) -> f64 {
        100.0 * self.on_replicas as f64 / self.reads.max(1) as f64
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reads, stale, backward, ahead, .. } = self;
        write!(f, "{reads} reads, {stale} stale, {backward} backward, {:.1} % on replicas", self.share())?;
        if *ahead > 0 { write!(f, ", {ahead} seen on a standby first") } else { Ok(()) }
    }
}

/// Sessions at work at once, each in a thread of its own.
pub struct Play<'a> {
    howdah: &'a Howdah,
    tenant: &'a Tenant,
}

impl<'a> Play<'a> {
    pub fn new(howdah: &'a Howdah, tenant: &'a Tenant) -> Self {
        Self { howdah, tenant }
    }

    /// Runs so many sessions, each told its number, and adds up what they saw.
    pub fn all(&self, count: usize, work: impl Fn(usize, &mut Session) + Sync) -> Tally {
        let sum = Mutex::new(Tally::default());
        thread::scope(|scope| {
            for at in 0..count {
                let (sum, work) = (&sum, &work);
                scope.spawn(move || {
                    let mut session = Session::new(self.howdah, self.tenant);
                    work(at, &mut session);
                    sum.lock().unwrap().add(session.tally);
                });
            }
        });
        sum.into_inner().unwrap()
    }
}

/// One client, and what it has seen.
pub struct Session {
    client: Client,
    prepared: bool,
    /// Keys of its own begin here.
    first: u32,
    pub tally: Tally,
    /// The counter, when it was last read, and whether a standby said so.
    seen: (i64, bool),
}

const SEES: &str = "SELECT count(*), pg_is_in_recovery() FROM kept WHERE k = $1";
const COUNTER: &str = "SELECT v, pg_is_in_recovery() FROM counter";

impl Session {
    pub fn new(howdah: &Howdah, tenant: &Tenant) -> Self {
        static RUNS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        let run = RUNS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let client = howdah.login(tenant);
        client.read_timeout(Duration::from_secs(60));
        Self { client, prepared: false, first: run * 1_000_000, tally: Tally::default(), seen: (0, false) }
    }

    /// A text that must go well.
    #[track_caller]
    pub fn run(&mut self, sql: &str) -> Vec<Message> {
        let answer = self.client.query(sql);
        assert!(answer.iter().all(|m| m.tag != b'E'), "{sql}: {answer:?}");
        answer
    }

    /// A text that need not go well.
    pub fn try_run(&mut self, sql: &str) -> bool {
        self.client.query(sql).iter().all(|m| m.tag != b'E')
    }

    /// A COPY from the client.
    #[track_caller]
    pub fn copy(&mut self, sql: &str, data: &str) {
        self.client.send(&wire::query(sql));
        self.client.read_until(b'G');
        self.client.send(&[wire::copy_data(data.as_bytes()), wire::copy_done()].concat());
        assert_eq!(wire::short(&self.client.read_until_ready()).last().unwrap(), "Z:I");
    }

    /// Sends one statement with at most one value.
    fn send(&mut self, protocol: Protocol, name: &str, sql: &str, value: Option<u32>) {
        let text = value.map(|value| value.to_string());
        let values: Vec<Option<&str>> = text.iter().map(|text| Some(text.as_str())).collect();
        let types: &[u32] = if value.is_some() { &[23] } else { &[] };
        let run = |statement: &str| [wire::bind("", statement, &values), wire::execute("", 0), wire::sync()].concat();
        let bytes = match protocol {
            Protocol::Simple => wire::query(&sql.replace("$1", text.as_deref().unwrap_or("$1"))),
            Protocol::Extended => [wire::parse("", sql, types), run("")].concat(),
            Protocol::Prepared => run(name),
        };
        self.client.send(&bytes);
    }

    fn prepare(&mut self) {
        if !std::mem::replace(&mut self.prepared, true) {
            let all = [
                wire::parse("insert", "INSERT INTO kept VALUES ($1)", &[23]),
                wire::parse("sees", SEES, &[23]),
                wire::parse("counter", COUNTER, &[]),
                wire::sync(),
            ];
            self.client.send(&all.concat());
            assert_eq!(wire::short(&self.client.read_until_ready()), ["1", "1", "1", "Z:I"]);
        }
    }

    /// The row of an answer that must have one, and whether a standby gave it.
    #[track_caller]
    fn row(&mut self) -> (i64, bool) {
        let answer = self.client.read_until_ready();
        let Some(row) = answer.iter().find(|m| m.tag == b'D') else { panic!("no row: {answer:?}") };
        let columns = row.columns();
        (columns[0].as_deref().unwrap().parse().unwrap(), columns[1].as_deref() == Some("t"))
    }

    /// Whether the row is there, and whether a standby said so.
    #[track_caller]
    pub fn sees(&mut self, protocol: Protocol, key: u32) -> (bool, bool) {
        self.prepare();
        self.send(protocol, "sees", SEES, Some(key));
        let (count, on_replica) = self.row();
        (count > 0, on_replica)
    }

    /// A read, an insert and a read of it in one write. Whether it went in, and the second read, if it was answered: whether the row
    /// was there, and whether a standby said so.
    pub fn pipeline(&mut self, key: u32) -> (bool, Option<(bool, bool)>) {
        let sees = wire::query(&SEES.replace("$1", &key.to_string()));
        let insert = wire::query(&format!("INSERT INTO kept VALUES ({key})"));
        self.client.send(&[&sees[..], &insert, &sees].concat());
        let [_, insert, seen] = [(); 3].map(|()| self.client.read_until_ready());
        let row = seen.iter().find(|m| m.tag == b'D').map(Message::columns);
        let seen = row.map(|row| (row[0].as_deref() != Some("0"), row[1].as_deref() == Some("t")));
        (insert.iter().any(|m| m.tag == b'C'), seen)
    }

    /// Waits for a notification.
    #[track_caller]
    pub fn hear(&mut self) {
        self.client.read_until(b'A');
    }

    /// Counts a read of what it had written itself.
    pub fn note(&mut self, stale: bool, on_replica: bool) {
        self.tally.reads += 1;
        self.tally.on_replicas += u64::from(on_replica);
        self.tally.stale += u64::from(stale);
    }

    /// Inserts a row and reads it, at once and again a little later.
    #[track_caller]
    pub fn insert_and_read(&mut self, protocol: Protocol, round: u32, pause: Duration) {
        self.prepare();
        let key = self.first + round;
        thread::sleep(pause);
        self.send(protocol, "insert", "INSERT INTO kept VALUES ($1)", Some(key));
        let answer = self.client.read_until_ready();
        assert!(answer.iter().all(|m| m.tag != b'E'), "{answer:?}");
        for wait in [Duration::ZERO, pause / 3] {
            thread::sleep(wait);
            let (seen, on_replica) = self.sees(protocol, key);
            self.note(!seen, on_replica);
            if pause.is_zero() {
                break;
            }
        }
    }

    /// The counter, and whether a standby said so.
    #[track_caller]
    pub fn counter(&mut self, hint: &str) -> (i64, bool) {
        self.send(Protocol::Simple, "", &format!("{hint}{COUNTER}"), None);
        self.row()
    }

    /// Reads the counter and counts what it showed. A hint needs its own text.
    #[track_caller]
    pub fn read_counter(&mut self, protocol: Protocol, hint: &str) {
        let protocol = if hint.is_empty() { protocol } else { Protocol::Simple };
        if matches!(protocol, Protocol::Prepared) {
            self.prepare(); // an INSERT too: on the primary
        }
        self.send(protocol, "counter", &format!("{hint}{COUNTER}"), None);
        let now = self.row();
        self.tally.reads += 1;
        self.tally.on_replicas += u64::from(now.1);
        let before = std::mem::replace(&mut self.seen, now);
        if now.0 >= before.0 {
            return;
        }
        // A standby may show a commit that the primary is about to show. Nothing else can take a session from a standby back to
        // less on the primary, which has every commit that a standby has.
        if before.1 && !now.1 {
            self.tally.ahead += 1;
        } else {
            println!("backward: {before:?}, then {now:?} (the counter, and whether a standby showed it)");
            self.tally.backward += 1;
        }
    }
}
