//! A small live workload: clients that read and write accounts, each in a closed loop, as pgbench does it.
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
                          WITH (fillfactor = 50)";
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
    /// Failed transactions and connections since the last [`Workload::take_period`].
    pub period_errors: u64,
    /// Failed transactions and connections since the start.
    pub errors: u64,
    /// The last failure's text.
    pub last_error: Option<String>,
    /// Clients that are connected now.
    pub connected: usize,
}

impl Tally {
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
        tally.period_errors = 0;
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
    for _ in 0..clients {
        running.spawn(one(target.clone(), Arc::clone(tally), left.clone()));
    }
    let _ = left.wait_for(|leave| *leave).await;
    let _ = tokio::time::timeout(LEAVE_BOUND, async { while running.join_next().await.is_some() {} }).await;
}

/// One client's life, over as many connections as it takes.
async fn one(target: Config, tally: Arc<Mutex<Tally>>, mut left: watch::Receiver<bool>) {
    while !*left.borrow() {
        match target.connect(NoTls).await {
            Ok((client, connection)) => {
                let connection = tokio::spawn(connection);
                tally.lock().connected += 1;
                let result = transactions(&client, &tally, &left).await;
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
    client: &Client,
    tally: &Mutex<Tally>,
    left: &watch::Receiver<bool>,
) -> Result<(), tokio_postgres::Error> {
    let select = client.prepare("SELECT balance FROM accounts WHERE id = $1").await?;
    let update = client.prepare("UPDATE accounts SET balance = balance + $1 WHERE id = $2").await?;
    let mut turn: u32 = rand::random();
    while !*left.borrow() {
        turn = turn.wrapping_add(1);
        let begun = Instant::now();
        match transaction(client, turn, &select, &update).await {
            Ok(()) => {
                let took = begun.elapsed();
                let mut tally = tally.lock();
                tally.period.add(took);
                tally.total.add(took);
            }
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

/// In four turns: two reads by a prepared statement, one as text, one block that writes.
async fn transaction(
    client: &Client,
    turn: u32,
    select: &Statement,
    update: &Statement,
) -> Result<(), tokio_postgres::Error> {
    let id: i32 = rand::random_range(1..=ACCOUNTS);
    match turn % 4 {
        0 => {
            client.batch_execute("BEGIN").await?;
            client.execute(update, &[&rand::random_range(-100_i64..=100), &id]).await?;
            client.batch_execute("COMMIT").await
        }
        1 => client.simple_query(&format!("SELECT balance FROM accounts WHERE id = {id}")).await.map(drop),
        _ => client.query_one(select, &[&id]).await.map(drop),
    }
}
