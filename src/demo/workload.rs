//! A small live workload: clients that read and write accounts, each in a closed loop, as pgbench does it. Three of four only
//! read. The fourth writes in every second turn, and every fourth looks at once whether it finds what it has written.
//!
//! It goes through whatever address it is given and knows nothing of what is behind it. A client that is thrown out comes
//! back; every failure is counted and the last one kept.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::{Client, Config, NoTls, Statement};

use super::latency::Latencies;

/// Rows of the table.
pub const ACCOUNTS: i32 = 10_000;
/// What the workload needs, made by the owner of the database.
pub const SCHEMA: &str = "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL DEFAULT 0) \
                          WITH (fillfactor = 50); \
                          CREATE TABLE notes (client int, number int, written bigint NOT NULL, \
                          PRIMARY KEY (client, number)) WITH (fillfactor = 50)";
/// Of so many clients one writes.
const WRITES_ONE_OF: u16 = 4;
/// Notes of one client, which it writes in turn.
const NOTES: i32 = 100;
/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(250);
/// For clients in the middle of a transaction when the end is asked for.
const LEAVE_BOUND: Duration = Duration::from_secs(2);

/// What was seen, in the present period and altogether.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Since the last [`Workload::take_period`].
    pub period: Latencies,
    /// Since the start.
    pub total: Latencies,
    /// Reads since the last [`Workload::take_period`].
    pub period_reads: u64,
    /// Writes since the last [`Workload::take_period`].
    pub period_writes: u64,
    /// Rows that were looked for by the session that had just written them, since the start.
    pub own: u64,
    /// Of those, rows that were not there, or older than what it had written.
    pub stale: u64,
    /// Failed transactions and connections since the last [`Workload::take_period`].
    pub period_errors: u64,
    /// Failed transactions and connections since the start.
    pub errors: u64,
    /// The last failure's text.
    pub last_error: Option<String>,
    /// Clients that are connected now.
    pub connected: usize,
}

/// What one turn was.
struct Turn {
    reads: u64,
    writes: u64,
    own: u64,
    stale: u64,
}

impl Turn {
    const READ: Self = Self { reads: 1, writes: 0, own: 0, stale: 0 };
    const WRITE: Self = Self { reads: 0, writes: 1, own: 0, stale: 0 };
}

impl Tally {
    fn add(&mut self, turn: &Turn, took: Duration) {
        self.period.add(took);
        self.total.add(took);
        self.period_reads += turn.reads;
        self.period_writes += turn.writes;
        self.own += turn.own;
        self.stale += turn.stale;
    }

    fn fail(&mut self, error: &tokio_postgres::Error) {
        self.errors += 1;
        self.period_errors += 1;
        self.last_error = Some(match error.as_db_error() {
            Some(db) => format!("{} {}", db.code().code(), db.message()),
            None => error.to_string(),
        });
    }
}

/// Running clients, in one thread with one runtime.
pub struct Workload {
    tally: Arc<Mutex<Tally>>,
    leave: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Workload {
    /// Starts `clients` clients of `target`.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be had.
    pub fn start(target: &Config, clients: u16) -> std::io::Result<Self> {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let (leave, left) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("workload".to_owned()).spawn({
            let (tally, target) = (Arc::clone(&tally), target.clone());
            move || {
                runtime.block_on(all(&target, clients, &tally, left));
                runtime.shutdown_background();
            }
        })?;
        Ok(Self { tally, leave, thread: Some(thread) })
    }

    /// What was seen since the last call, and altogether; a new period begins.
    #[must_use]
    pub fn take_period(&self) -> Tally {
        let mut tally = self.tally.lock();
        let seen = tally.clone();
        tally.period = Latencies::default();
        (tally.period_reads, tally.period_writes, tally.period_errors) = (0, 0, 0);
        seen
    }

    /// Lets the clients finish what they are at, and leave.
    #[must_use]
    pub fn finish(mut self) -> Tally {
        self.leave();
        self.take_period()
    }

    fn leave(&mut self) {
        self.leave.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.leave();
    }
}

async fn all(target: &Config, clients: u16, tally: &Arc<Mutex<Tally>>, mut left: watch::Receiver<bool>) {
    let mut running = JoinSet::new();
    for number in 0..clients {
        running.spawn(one(number, target.clone(), Arc::clone(tally), left.clone()));
    }
    let _ = left.wait_for(|leave| *leave).await;
    let _ = tokio::time::timeout(LEAVE_BOUND, async { while running.join_next().await.is_some() {} }).await;
}

/// One client's life, over as many connections as it takes.
async fn one(number: u16, target: Config, tally: Arc<Mutex<Tally>>, mut left: watch::Receiver<bool>) {
    while !*left.borrow() {
        match target.connect(NoTls).await {
            Ok((client, connection)) => {
                let connection = tokio::spawn(connection);
                tally.lock().connected += 1;
                let result = transactions(number, &client, &tally, &left).await;
                {
                    let mut tally = tally.lock();
                    tally.connected -= 1;
                    if let Err(error) = result {
                        tally.fail(&error);
                    }
                }
                drop(client);
                let _ = connection.await;
            }
            Err(error) => tally.lock().fail(&error),
        }
        let _ = tokio::time::timeout(RETRY, left.wait_for(|leave| *leave)).await;
    }
}

/// Transactions until the connection or the workload ends.
async fn transactions(
    number: u16,
    client: &Client,
    tally: &Mutex<Tally>,
    left: &watch::Receiver<bool>,
) -> Result<(), tokio_postgres::Error> {
    let worker = Worker {
        client,
        number: i32::from(number),
        select: client.prepare("SELECT balance FROM accounts WHERE id = $1").await?,
        update: client.prepare("UPDATE accounts SET balance = balance + $1 WHERE id = $2").await?,
        write: client.prepare(WRITE_NOTE).await?,
        look: client.prepare("SELECT written FROM notes WHERE client = $1 AND number = $2").await?,
    };
    let mut turn: u32 = rand::random();
    while !*left.borrow() {
        turn = turn.wrapping_add(1);
        let begun = Instant::now();
        match worker.turn(turn).await {
            Ok(done) => tally.lock().add(&done, begun.elapsed()),
            Err(error) if client.is_closed() => return Err(error),
            Err(error) => {
                tally.lock().fail(&error);
                client.batch_execute("ROLLBACK").await?; // a warning when no block is open
                tokio::time::sleep(Duration::from_millis(20)).await; // an error that stays must not spin
            }
        }
    }
    Ok(())
}

/// Makes a note, or writes it anew with a greater number.
const WRITE_NOTE: &str = "INSERT INTO notes (client, number, written) VALUES ($1, $2, 1) \
                          ON CONFLICT (client, number) DO UPDATE SET written = notes.written + 1 RETURNING written";

/// A client and what it has prepared.
struct Worker<'a> {
    client: &'a Client,
    number: i32,
    select: Statement,
    update: Statement,
    write: Statement,
    look: Statement,
}

impl Worker<'_> {
    async fn turn(&self, turn: u32) -> Result<Turn, tokio_postgres::Error> {
        let writes = self.number % i32::from(WRITES_ONE_OF) == 0;
        let id: i32 = rand::random_range(1..=ACCOUNTS);
        match turn % 4 {
            0 if writes => self.block(id).await.map(|()| Turn::WRITE),
            2 if writes => self.note_and_look().await,
            1 => {
                let sql = format!("SELECT balance FROM accounts WHERE id = {id}");
                self.client.simple_query(&sql).await.map(|_| Turn::READ)
            }
            _ => self.client.query_one(&self.select, &[&id]).await.map(|_| Turn::READ),
        }
    }

    /// A block that writes.
    async fn block(&self, id: i32) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute("BEGIN").await?;
        self.client.execute(&self.update, &[&rand::random_range(-100_i64..=100), &id]).await?;
        self.client.batch_execute("COMMIT").await
    }

    /// Writes a row and looks for it at once, wherever that read may go.
    async fn note_and_look(&self) -> Result<Turn, tokio_postgres::Error> {
        let number = rand::random_range(0..NOTES);
        let written: i64 = self.client.query_one(&self.write, &[&self.number, &number]).await?.try_get(0)?;
        let found = self.client.query_opt(&self.look, &[&self.number, &number]).await?;
        let found: Option<i64> = found.map(|row| row.try_get(0)).transpose()?;
        let stale = u64::from(found.is_none_or(|found| found < written));
        Ok(Turn { reads: 1, writes: 1, own: 1, stale })
    }
}
