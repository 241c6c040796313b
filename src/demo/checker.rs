//! Clients that insert numbered rows over connections they keep, and know of each row what they were told: acknowledged,
//! refused, or in doubt. Afterwards the table is asked what is true.
//!
//! It knows nothing of failovers: [`Checker::mark`] opens a window, and [`Checker::window`] says what the clients have seen in it.
//! A row is never sent twice, so a row that is there twice was repeated by somebody else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage, Statement};

use super::postgres::Rows;

/// What it needs. The row knows the port of the server that it was written on.
pub const SCHEMA: &str = "CREATE TABLE ledger (client int NOT NULL, seq bigint NOT NULL, \
                          node int NOT NULL DEFAULT current_setting('port')::int)";
/// What is in the table: unbroken ranges of each client, and how many rows there are in each.
pub const PRESENT: &str = "SELECT client, min(seq), max(seq), sum(times) FROM \
                           (SELECT client, seq, count(*) AS times, seq - row_number() OVER (PARTITION BY client ORDER BY seq) AS island \
                            FROM ledger GROUP BY client, seq) AS rows GROUP BY client, island ORDER BY client, min(seq)";
const INSERT: &str = "INSERT INTO ledger (client, seq) VALUES ($1, $2) RETURNING node";
/// Who has no answer by then has waited for longer than any wait is configured here.
const ANSWER_BOUND: Duration = Duration::from_secs(150);
/// Between two attempts to connect, and after an error.
const RETRY: Duration = Duration::from_millis(20);
/// For clients in the middle of something when the end is asked for.
const LEAVE_BOUND: Duration = Duration::from_secs(5);

/// What became of the rows, and of the clients' patience.
#[derive(Default)]
struct Book {
    pages: Vec<Page>,
    errors: BTreeMap<String, u64>,
    last_error: Option<String>,
    last_loss: Option<String>,
}

/// One client's.
#[derive(Default)]
struct Page {
    acked: Ranges,
    doubtful: BTreeSet<u64>,
    refused: BTreeSet<u64>,
    /// When and from which server, since the last mark.
    acks: Vec<(Instant, i32)>,
    connections: u64,
}

/// What clients saw since a moment.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// Of each client, the longest time without an acknowledged row.
    pub gaps: Vec<Duration>,
    /// From the moment to the first row that another server than before has acknowledged.
    pub first_elsewhere: Option<Duration>,
    /// The servers that have acknowledged rows, by their ports, in the order of time, each run of one as one.
    pub servers: Vec<i32>,
    /// Every client has had a row acknowledged by the server that was last to acknowledge one.
    pub everybody: bool,
}

impl Window {
    /// The least, the middle and the greatest of the gaps.
    #[must_use]
    pub fn spread(&self) -> (Duration, Duration, Duration) {
        let mut gaps = self.gaps.clone();
        gaps.sort_unstable();
        let at = |index: usize| gaps.get(index).copied().unwrap_or_default();
        (at(0), at(gaps.len() / 2), at(gaps.len().saturating_sub(1)))
    }
}

/// What became of all rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Rows that clients were told are there.
    pub acknowledged: u64,
    /// Of those, rows that are not.
    pub missing: u64,
    /// The first few of them: client and number.
    pub examples: Vec<(usize, u64)>,
    /// Rows of which clients were told that nobody knows, and that are there.
    pub doubtful_present: u64,
    /// Likewise, and are not there.
    pub doubtful_absent: u64,
    /// Rows that clients were told are not there, and that are.
    pub refused_present: u64,
    /// Likewise, and are not there.
    pub refused_absent: u64,
    /// Rows that are there more often than once, each time beyond the first.
    pub duplicates: u64,
    /// Connections made beyond one for each client.
    pub reconnected: u64,
    /// With which words the last of them was lost.
    pub last_loss: Option<String>,
    /// What clients were told instead of success, by SQLSTATE, or `closed`, `connect`, `silence`.
    pub errors: BTreeMap<String, u64>,
}

impl Verdict {
    /// How many errors there were.
    #[must_use]
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    /// The errors, for a line.
    #[must_use]
    pub fn errors_by_class(&self) -> String {
        by_class(&self.errors)
    }
}

/// `08007 x3, closed x1`, or `none`.
#[must_use]
pub fn by_class(errors: &BTreeMap<String, u64>) -> String {
    match errors.is_empty() {
        true => "none".to_owned(),
        false => errors.iter().map(|(class, count)| format!("{class} x{count}")).collect::<Vec<_>>().join(", "),
    }
}

/// Clients that run, in one thread with one runtime.
pub struct Checker {
    book: Arc<Mutex<Book>>,
    leave: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Checker {
    /// Starts `clients` clients of `target`, each of which rests for `pause` after each row. A third of them sends statements of the
    /// simple protocol, a third prepared ones, a third blocks.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be had.
    pub fn start(target: &Config, clients: u16, pause: Duration) -> std::io::Result<Self> {
        let pages = (0..clients).map(|_| Page::default()).collect();
        let book = Arc::new(Mutex::new(Book { pages, ..Book::default() }));
        let (leave, left) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("checker".to_owned()).spawn({
            let (book, target) = (Arc::clone(&book), target.clone());
            move || {
                runtime.block_on(all(&target, clients, pause, &book, left));
                runtime.shutdown_background();
            }
        })?;
        Ok(Self { book, leave, thread: Some(thread) })
    }

    /// Begins a window: forgets when rows were acknowledged before.
    #[must_use]
    pub fn mark(&self) -> Instant {
        let mut book = self.book.lock();
        for page in &mut book.pages {
            let last = page.acks.pop();
            page.acks.clear();
            page.acks.extend(last);
        }
        Instant::now()
    }

    /// What the clients have seen since `mark`.
    #[must_use]
    pub fn window(&self, mark: Instant) -> Window {
        let book = self.book.lock();
        let now = Instant::now();
        let mut all: Vec<(Instant, i32)> = Vec::new();
        let mut window = Window::default();
        for page in &book.pages {
            let mut last = mark;
            let mut gap = Duration::ZERO;
            for (at, _) in page.acks.iter().filter(|(at, _)| *at >= mark) {
                gap = gap.max(*at - last);
                last = *at;
            }
            window.gaps.push(gap.max(now.saturating_duration_since(last)));
            all.extend(&page.acks);
        }
        all.sort_by_key(|(at, _)| *at);
        window.servers = all.iter().map(|(_, server)| *server).collect();
        window.servers.dedup();
        let before = all.iter().rfind(|(at, _)| *at < mark).map(|(_, server)| *server);
        window.first_elsewhere =
            all.iter().find(|(at, server)| *at >= mark && Some(*server) != before).map(|(at, _)| *at - mark);
        let last = window.servers.last();
        window.everybody = book
            .pages
            .iter()
            .all(|page| page.acks.last().is_some_and(|(at, server)| *at >= mark && Some(server) == last));
        window
    }

    /// Rows acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.book.lock().pages.iter().map(|page| page.acked.count()).sum()
    }

    /// Errors so far, by class.
    #[must_use]
    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.book.lock().errors.clone()
    }

    /// The last error's text.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.book.lock().last_error.clone()
    }

    /// Compares with what [`PRESENT`] has answered, asked after this moment's book was copied: `ask` does that.
    ///
    /// # Errors
    /// What `ask` says.
    pub fn verify<E>(&self, ask: impl FnOnce() -> Result<Rows, E>) -> Result<Verdict, E> {
        let (known, mut verdict) = {
            let book = self.book.lock();
            let known: Vec<_> = book
                .pages
                .iter()
                .map(|page| (page.acked.clone(), page.doubtful.clone(), page.refused.clone()))
                .collect();
            let reconnected = book.pages.iter().map(|page| page.connections.saturating_sub(1)).sum();
            let (errors, last_loss) = (book.errors.clone(), book.last_loss.clone());
            (known, Verdict { reconnected, last_loss, errors, ..Verdict::default() })
        };
        let (present, duplicates) = present(&ask()?);
        verdict.duplicates = duplicates;
        let none = Ranges::default();
        for (client, (acked, doubtful, refused)) in known.iter().enumerate() {
            let present = present.get(&client).unwrap_or(&none);
            verdict.acknowledged += acked.count();
            for seq in acked.numbers().filter(|seq| !present.has(*seq)) {
                verdict.missing += 1;
                if verdict.examples.len() < 10 {
                    verdict.examples.push((client, seq));
                }
            }
            let there = |rows: &BTreeSet<u64>| rows.iter().filter(|seq| present.has(**seq)).count() as u64;
            verdict.doubtful_present += there(doubtful);
            verdict.doubtful_absent += doubtful.len() as u64 - there(doubtful);
            verdict.refused_present += there(refused);
            verdict.refused_absent += refused.len() as u64 - there(refused);
        }
        Ok(verdict)
    }

    /// Lets the clients finish what they are at, and leave; what they know stays.
    pub fn finish(&mut self) {
        self.leave.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.finish();
    }
}

/// What the table has, by client, and how many rows more than numbers.
fn present(rows: &Rows) -> (BTreeMap<usize, Ranges>, u64) {
    let mut by_client: BTreeMap<usize, Ranges> = BTreeMap::new();
    let mut duplicates = 0;
    for row in &rows.0 {
        let number = |at: usize| row.get(at).and_then(Option::as_deref).and_then(|text| text.parse::<u64>().ok());
        let (Some(client), Some(first), Some(last), Some(times)) = (number(0), number(1), number(2), number(3)) else {
            continue;
        };
        duplicates += times.saturating_sub(last - first + 1);
        by_client.entry(usize::try_from(client).unwrap_or_default()).or_default().0.push((first, last));
    }
    (by_client, duplicates)
}

/// Numbers that grow, mostly without holes: the first and the last of each run.
#[derive(Clone, Debug, Default)]
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// A number greater than all before.
    fn push(&mut self, number: u64) {
        match self.0.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => self.0.push((number, number)),
        }
    }

    fn has(&self, number: u64) -> bool {
        let behind = self.0.partition_point(|(first, _)| *first <= number);
        behind.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, last)| number <= *last)
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    fn numbers(&self) -> impl Iterator<Item = u64> {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }
}

async fn all(target: &Config, clients: u16, pause: Duration, book: &Arc<Mutex<Book>>, mut left: watch::Receiver<bool>) {
    let mut running = JoinSet::new();
    for number in 0..clients {
        let inserter = Inserter { number: usize::from(number), pause, book: Arc::clone(book), left: left.clone() };
        running.spawn(inserter.live(target.clone()));
    }
    let _ = left.wait_for(|leave| *leave).await;
    let _ = tokio::time::timeout(LEAVE_BOUND, async { while running.join_next().await.is_some() {} }).await;
}

/// What a client was told about a row.
enum Told {
    /// It is there, and which server wrote it.
    Acked(i32),
    /// It is not there.
    Refused(Error),
    /// Nobody knows.
    Doubtful(Error),
}

/// Whether an error of the statement that would have made a row durable leaves that open.
fn told(error: Error) -> Told {
    match error.code().map(tokio_postgres::error::SqlState::code) {
        Some("08007") | None => Told::Doubtful(error),
        Some(_) => Told::Refused(error),
    }
}

struct Inserter {
    number: usize,
    pause: Duration,
    book: Arc<Mutex<Book>>,
    left: watch::Receiver<bool>,
}

impl Inserter {
    /// Over as many connections as it takes; one, if all is well.
    async fn live(self, target: Config) {
        let mut seq = 0;
        while !*self.left.borrow() {
            match target.connect(NoTls).await {
                Ok((client, connection)) => {
                    let connection = tokio::spawn(connection);
                    self.page(|page| page.connections += 1);
                    if let Err(error) = self.rows(&client, &mut seq).await {
                        self.fail("closed", &error);
                        self.book.lock().last_loss = Some(words(&error));
                    }
                    drop(client);
                    let _ = connection.await;
                }
                Err(error) => self.fail("connect", &error),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Rows until the connection or the checker ends.
    async fn rows(&self, client: &Client, seq: &mut u64) -> Result<(), Error> {
        let insert = client.prepare(INSERT).await?;
        while !*self.left.borrow() {
            *seq += 1;
            match tokio::time::timeout(ANSWER_BOUND, self.row(client, &insert, *seq)).await {
                Ok(Told::Acked(server)) => self.page(|page| {
                    page.acked.push(*seq);
                    page.acks.push((Instant::now(), server));
                }),
                Ok(Told::Refused(error)) => {
                    self.page(|page| page.refused.insert(*seq));
                    self.go_on(client, error).await?;
                }
                Ok(Told::Doubtful(error)) => {
                    self.page(|page| page.doubtful.insert(*seq));
                    self.go_on(client, error).await?;
                }
                Err(_) => {
                    self.page(|page| page.doubtful.insert(*seq));
                    *self.book.lock().errors.entry("silence".to_owned()).or_default() += 1;
                    return Ok(()); // another connection
                }
            }
            if !self.pause.is_zero() {
                tokio::time::sleep(self.pause).await;
            }
        }
        Ok(())
    }

    /// Counts an error, and goes on with the connection if it is still one.
    async fn go_on(&self, client: &Client, error: Error) -> Result<(), Error> {
        if client.is_closed() || error.code().is_none() {
            return Err(error);
        }
        self.fail("", &error);
        // a warning when no block is open; it may meet a server that goes as well
        match client.batch_execute("ROLLBACK").await {
            Err(error) if client.is_closed() || error.code().is_none() => return Err(error),
            Err(error) => self.fail("", &error),
            Ok(()) => {}
        }
        tokio::time::sleep(RETRY).await;
        Ok(())
    }

    async fn row(&self, client: &Client, insert: &Statement, seq: u64) -> Told {
        let (number, row) = (i32::try_from(self.number).unwrap_or_default(), i64::try_from(seq).unwrap_or_default());
        let simple = format!("INSERT INTO ledger (client, seq) VALUES ({number}, {seq}) RETURNING node");
        match self.number % 3 {
            0 => match client.query_one(insert, &[&number, &row]).await {
                Ok(row) => Told::Acked(row.try_get(0).unwrap_or_default()),
                Err(error) => told(error),
            },
            1 => match client.simple_query(&simple).await {
                Ok(answer) => Told::Acked(server(&answer)),
                Err(error) => told(error),
            },
            _ => {
                if let Err(error) = client.batch_execute("BEGIN").await {
                    return Told::Refused(error);
                }
                let server = match client.simple_query(&simple).await {
                    Ok(answer) => server(&answer),
                    Err(error) => return Told::Refused(error),
                };
                match client.batch_execute("COMMIT").await {
                    Ok(()) => Told::Acked(server),
                    Err(error) => told(error),
                }
            }
        }
    }

    fn page<T>(&self, change: impl FnOnce(&mut Page) -> T) {
        if let Some(page) = self.book.lock().pages.get_mut(self.number) {
            change(page);
        }
    }

    fn fail(&self, otherwise: &str, error: &Error) {
        let mut book = self.book.lock();
        let code = error.code().map(|code| code.code().to_owned());
        *book.errors.entry(code.unwrap_or_else(|| otherwise.to_owned())).or_default() += 1;
        book.last_error = Some(words(error));
    }
}

fn words(error: &Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} {}", db.code().code(), db.message()),
        None => error.to_string(),
    }
}

fn server(answer: &[SimpleQueryMessage]) -> i32 {
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row.and_then(|text| text.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_ranges_or_not() {
        let mut ranges = Ranges::default();
        [1, 2, 3, 7, 9, 10].into_iter().for_each(|number| ranges.push(number));
        assert_eq!(ranges.0, [(1, 3), (7, 7), (9, 10)]);
        assert_eq!((0..12).filter(|number| ranges.has(*number)).collect::<Vec<_>>(), [1, 2, 3, 7, 9, 10]);
        assert_eq!((ranges.count(), ranges.numbers().count()), (6, 6));
    }

    #[test]
    fn what_was_told_is_compared_with_what_is_there() {
        let mut page = Page { connections: 2, ..Page::default() };
        (1..=5).for_each(|number| page.acked.push(number));
        page.doubtful.extend([6, 7]);
        page.refused.extend([8, 9]);
        let book = Book { pages: vec![page], ..Book::default() };
        let checker = Checker { book: Arc::new(Mutex::new(book)), leave: watch::channel(false).0, thread: None };
        let row = |cells: [&str; 4]| cells.iter().map(|cell| Some((*cell).to_owned())).collect();
        let rows = Rows(vec![row(["0", "1", "3", "4"]), row(["0", "5", "6", "2"]), row(["0", "9", "9", "1"])]);
        let verdict = checker.verify(|| Ok::<_, ()>(rows)).unwrap();
        assert_eq!((verdict.acknowledged, verdict.missing, verdict.examples.clone()), (5, 1, vec![(0, 4)]));
        assert_eq!((verdict.doubtful_present, verdict.doubtful_absent), (1, 1));
        assert_eq!((verdict.refused_present, verdict.refused_absent), (1, 1));
        assert_eq!((verdict.duplicates, verdict.reconnected), (1, 1));
    }

    #[test]
    fn a_window_shows_the_longest_silence_and_the_first_word_from_elsewhere() {
        let ms = Duration::from_millis;
        let mark = Instant::now().checked_sub(ms(1000)).unwrap();
        let page = |acks: &[(i64, i32)]| Page {
            acks: acks
                .iter()
                .map(|(at, server)| (mark + ms(u64::try_from(1000 + at).unwrap()) - ms(1000), *server))
                .collect(),
            ..Page::default()
        };
        let mut first = page(&[(20, 1), (500, 2), (980, 2)]);
        first.acks.insert(0, (mark.checked_sub(ms(10)).unwrap(), 1));
        let second = page(&[(600, 2), (990, 2)]);
        let book = Book { pages: vec![first, second], ..Book::default() };
        let checker = Checker { book: Arc::new(Mutex::new(book)), leave: watch::channel(false).0, thread: None };
        let window = checker.window(mark);
        assert_eq!(window.gaps, [ms(480), ms(600)]);
        assert_eq!(
            (window.first_elsewhere, window.servers.clone(), window.everybody),
            (Some(ms(500)), vec![1, 2], true)
        );
    }
}
