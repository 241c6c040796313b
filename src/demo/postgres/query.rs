//! One statement on a connection of its own, from any context.

use std::thread;
use std::time::Duration;

use tokio_postgres::{NoTls, SimpleQueryMessage};

/// How long a statement of ours may take.
const BOUND: Duration = Duration::from_secs(60);

/// What a statement returned, as text. `None` is NULL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows(pub Vec<Vec<Option<String>>>);

impl Rows {
    /// The first column of the first row; `None` when there is no row or the value is NULL.
    #[must_use]
    pub fn cell(&self) -> Option<&str> {
        self.0.first()?.first()?.as_deref()
    }

    /// The first column of every row, NULL as the empty string.
    #[must_use]
    pub fn column(&self) -> Vec<&str> {
        self.0.iter().filter_map(|row| row.first()).map(|cell| cell.as_deref().unwrap_or_default()).collect()
    }
}

/// Why not: the SQLSTATE, if there is one, and a text.
pub(in crate::demo) type Refusal = (Option<String>, String);

/// Connects, runs `sql` (one or more statements of the simple protocol), disconnects. In a thread of its own, because a
/// runtime cannot be started inside another one.
pub(in crate::demo) fn run(config: &tokio_postgres::Config, sql: &str) -> Result<Rows, Refusal> {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| (None, error.to_string()))?;
            runtime.block_on(async {
                tokio::time::timeout(BOUND, statement(config, sql))
                    .await
                    .unwrap_or_else(|_| Err((None, format!("no answer within {BOUND:?}"))))
            })
        });
        worker.join().unwrap_or_else(|_| Err((None, "the thread that asked has panicked".to_owned())))
    })
}

async fn statement(config: &tokio_postgres::Config, sql: &str) -> Result<Rows, Refusal> {
    let (client, connection) = config.connect(NoTls).await.map_err(refusal)?;
    let connection = tokio::spawn(connection);
    let messages = client.simple_query(sql).await.map_err(refusal)?;
    drop(client);
    let _ = connection.await; // Terminate is sent before this returns
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
        _ => None,
    });
    Ok(Rows(rows.collect()))
}

fn refusal(error: tokio_postgres::Error) -> Refusal {
    match error.as_db_error() {
        Some(db) => (Some(db.code().code().to_owned()), format!("{}: {}", db.severity(), db.message())),
        None => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            (None, text)
        }
    }
}
