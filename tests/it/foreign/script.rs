//! What one client does, and what PostgreSQL would answer to it alone.
//!
//! A [`Batch`] is bytes and the exact messages they must bring; a [`Client`] makes random ones and compares.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::stream::{Stream, cancel};
use super::tally::Tally;
use crate::support::random::Random;
use crate::support::wire::{self, Message};

/// What a client may do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Everything.
    Main,
    /// Sleep, and be cancelled by `timeouts.query`.
    Brief,
}

/// One message that must come next.
#[derive(Clone, Debug)]
enum Want {
    /// Any message of this kind: `1`, `2`, `3`, `n`, `s`, `t`, `T`, `I`, `G`, `H`, `c`.
    Tag(u8),
    Row(Vec<String>),
    CopyRow(String),
    Command(String),
    /// An error with this SQLSTATE whose text holds this.
    Error(&'static str, String),
    /// Rows with these values and their command tag; or 57014, because a cancel or a time limit was asked for.
    Unless57014(Vec<String>),
    Ready(u8),
}

/// Bytes, and what they must bring.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    wants: Vec<Want>,
    /// An error has come: up to the Sync nothing is answered.
    failed: bool,
}

impl Batch {
    fn send(&mut self, bytes: &[u8], wants: impl IntoIterator<Item = Want>) {
        self.bytes.extend_from_slice(bytes);
        if !self.failed {
            self.wants.extend(wants);
        }
    }

    fn fail(&mut self, bytes: &[u8], before: impl IntoIterator<Item = Want>, code: &'static str, text: &str) {
        let error = Want::Error(code, text.to_owned());
        self.send(bytes, before.into_iter().chain([error]));
        self.failed = true;
    }

    fn sync(&mut self, status: u8) {
        self.failed = false;
        self.send(&wire::sync(), [Want::Ready(status)]);
    }

    /// A simple query with one row for each of `rows`.
    fn query(&mut self, sql: &str, rows: &[&[&str]], status: u8) {
        let results = rows.iter().flat_map(|values| result(values));
        self.send(&wire::query(sql), results.chain([Want::Ready(status)]));
    }

    fn command(&mut self, sql: &str, tag: &str, status: u8) {
        self.send(&wire::query(sql), [Want::Command(tag.to_owned()), Want::Ready(status)]);
    }
}

fn row(values: &[&str]) -> Want {
    Want::Row(values.iter().map(|value| (*value).to_owned()).collect())
}

fn result(values: &[&str]) -> [Want; 3] {
    [Want::Tag(b'T'), row(values), Want::Command("SELECT 1".to_owned())]
}

/// How a statement in a failed block is refused.
fn refused() -> Want {
    Want::Error("25P02", "current transaction is aborted".to_owned())
}

/// One client.
pub struct Client {
    id: u64,
    kind: Kind,
    random: Random,
    port: u16,
    user: String,
    database: String,
    tally: Rc<Tally>,
    stream: Option<Stream>,
    /// What the names `s0` to `s3` stand for: names all clients share, each with SQL of its own.
    named: [Option<String>; 4],
    /// The setting it has chosen for itself, to be found again on every server.
    label: Option<String>,
    tags: u64,
}

/// The connection is of no use any more; why has been said.
struct Broken;

impl Client {
    pub fn new(id: u64, kind: Kind, seed: u64, port: u16, user: &str, database: &str, tally: &Rc<Tally>) -> Self {
        Self {
            id,
            kind,
            random: Random::new(seed.wrapping_mul(1_000_003).wrapping_add(id)),
            port,
            user: user.to_owned(),
            database: database.to_owned(),
            tally: Rc::clone(tally),
            stream: None,
            named: Default::default(),
            label: None,
            tags: 0,
        }
    }

    /// Does random things until the time is over.
    pub async fn play(mut self, until: Instant) {
        while Instant::now() < until {
            if self.stream.is_none() && self.login().await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            let done = match self.kind {
                Kind::Main => self.something().await,
                Kind::Brief => self.something_brief().await,
            };
            if done.is_err() {
                self.stream = None;
            }
        }
        if let Some(stream) = &mut self.stream {
            let _ = stream.send(&wire::terminate()).await;
        }
    }

    async fn login(&mut self) -> Result<(), Broken> {
        self.named = Default::default();
        self.label = (self.kind == Kind::Main && self.id.is_multiple_of(4)).then(|| self.tag());
        let mut parameters = vec![("user", self.user.clone()), ("database", self.database.clone())];
        parameters.extend(self.label.clone().map(|label| ("application_name", label)));
        let parameters: Vec<_> = parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
        match Stream::login(self.port, &parameters).await {
            Ok(stream) => {
                self.tally.login();
                self.stream = Some(stream);
                Ok(())
            }
            Err(error) => Err(self.broken(&error)),
        }
    }

    fn broken(&self, what: &str) -> Broken {
        self.tally.mismatch(format!("client {}: {what}", self.id), self.is_foreign(what));
        Broken
    }

    /// A literal nobody else has, and this client once.
    fn tag(&mut self) -> String {
        self.tags += 1;
        format!("c{}.{}.{:x}", self.id, self.tags, self.random.next() & 0xffff)
    }

    /// Whether a text holds another client's tag.
    fn is_foreign(&self, text: &str) -> bool {
        let digits = |rest: &str| {
            rest.find(|c: char| !c.is_ascii_digit()).map(|end| (rest[..end].to_owned(), rest[end..].starts_with('.')))
        };
        text.match_indices('c')
            .filter_map(|(at, _)| digits(&text[at + 1..]))
            .any(|(id, is_tag)| is_tag && !id.is_empty() && id != self.id.to_string())
    }

    async fn something(&mut self) -> Result<(), Broken> {
        let mut batch = Batch::default();
        match self.random.below(200) {
            0..=29 => self.simple(&mut batch),
            30..=59 => self.statements(&mut batch, b'I', true),
            60..=119 => {
                // several turns in flight
                for _ in 0..2 + self.random.below(5) {
                    match self.random.below(4) {
                        0 => self.simple(&mut batch),
                        _ => self.statements(&mut batch, b'I', true),
                    }
                }
            }
            120..=134 => self.block(&mut batch),
            135..=144 => self.copy(&mut batch),
            145..=149 => self.rows_in_portions(&mut batch),
            150..=153 => self.many_rows(&mut batch),
            154 => self.large_text(&mut batch),
            155..=158 => self.own_time_limit(&mut batch),
            159..=163 => self.own_setting(&mut batch),
            164 => {
                batch.command("DEALLOCATE ALL", "DEALLOCATE ALL", b'I');
                self.named = Default::default();
            }
            165..=189 => return self.cancelled().await,
            190..=192 => return self.cancel_for_nothing().await,
            193..=197 => return self.vanish().await,
            198 => {
                if let Some(mut stream) = self.stream.take() {
                    let _ = stream.send(&wire::terminate()).await;
                }
                return Ok(());
            }
            _ => {
                // a moment of rest
                tokio::time::sleep(Duration::from_millis(self.random.below(20))).await;
                return Ok(());
            }
        }
        self.run(batch).await
    }

    async fn something_brief(&mut self) -> Result<(), Broken> {
        let mut batch = Batch::default();
        for _ in 0..1 + self.random.below(3) {
            let tag = self.tag();
            let seconds = if self.random.one_in(2) { "0.3" } else { "0.001" };
            let sql = format!("SELECT '{tag}' FROM pg_sleep({seconds})");
            batch.send(&wire::query(&sql), [Want::Unless57014(vec![tag]), Want::Ready(b'I')]);
        }
        self.run(batch).await
    }

    /// Sends and compares.
    async fn run(&mut self, batch: Batch) -> Result<(), Broken> {
        let Some(mut stream) = self.stream.take() else { return Err(Broken) };
        let sent = match self.random.one_in(8) {
            true => stream.send_in_pieces(&batch.bytes, &mut self.random).await,
            false => stream.send(&batch.bytes).await,
        };
        if let Err(error) = sent {
            return Err(self.broken(&format!("send: {error}")));
        }
        self.compare(&mut stream, &batch.wants).await?;
        self.stream = Some(stream);
        Ok(())
    }

    async fn compare(&self, stream: &mut Stream, wants: &[Want]) -> Result<(), Broken> {
        for (at, want) in wants.iter().enumerate() {
            let answered = match want {
                Want::Unless57014(values) => self.compare_unless_cancelled(stream, values).await,
                want => match stream.expect().await {
                    Ok(message) => self.compare_one(want, &message),
                    Err(error) => Err(error),
                },
            };
            if let Err(got) = answered {
                let before = &wants[at.saturating_sub(4)..at];
                return Err(self.broken(&format!("wanted {want:?} after {before:?}, got {got}")));
            }
        }
        Ok(())
    }

    /// `Err` is what came instead.
    fn compare_one(&self, want: &Want, got: &Message) -> Result<(), String> {
        let as_wanted = match (want, got.tag) {
            (Want::Tag(tag), came) => {
                if *tag == b's' {
                    self.tally.answer();
                }
                *tag == came
            }
            (Want::Row(values), b'D') => {
                self.tally.row();
                got.columns().iter().map(Option::as_deref).eq(values.iter().map(|value| Some(value.as_str())))
            }
            (Want::CopyRow(text), b'd') => {
                self.tally.row();
                got.body == text.as_bytes()
            }
            (Want::Command(tag), b'C') => {
                self.tally.answer();
                got.text(0) == *tag
            }
            (Want::Error(code, text), b'E') => {
                self.tally.error(code);
                let fields = got.fields();
                fields.code == *code && fields.message.contains(text.as_str()) && fields.severity == "ERROR"
            }
            (Want::Ready(status), b'Z') => got.body == [*status],
            _ => false,
        };
        if as_wanted { Ok(()) } else { Err(format!("{got:?}{}", String::from_utf8_lossy(&got.body))) }
    }

    async fn compare_unless_cancelled(&self, stream: &mut Stream, values: &[String]) -> Result<(), String> {
        let wants = [Want::Tag(b'T'), Want::Row(values.to_vec()), Want::Command("SELECT 1".to_owned())];
        for want in &wants {
            let message = stream.expect().await?;
            if message.tag == b'E' && message.fields().code == "57014" && message.fields().severity == "ERROR" {
                self.tally.error("57014");
                return Ok(());
            }
            self.compare_one(want, &message)?;
        }
        Ok(())
    }

    /// A simple query: one statement, several, or several of which one fails.
    fn simple(&mut self, batch: &mut Batch) {
        let (a, b) = (self.tag(), self.tag());
        match self.random.below(6) {
            0..=2 => batch.query(&format!("SELECT '{a}', '{b}'"), &[&[&a, &b]], b'I'),
            3 => batch.query(&format!("SELECT '{a}'; SELECT '{b}', 'x'"), &[&[&a], &[&b, "x"]], b'I'),
            4 => {
                let sql = format!("SELECT '{a}'; SELECT '{b}'::int; SELECT 'never'");
                let error = Want::Error("22P02", format!("\"{b}\""));
                batch.send(&wire::query(&sql), result(&[&a]).into_iter().chain([error, Want::Ready(b'I')]));
            }
            _ => batch.send(&wire::query(" -- nothing"), [Want::Tag(b'I'), Want::Ready(b'I')]),
        }
    }

    /// One batch of the extended protocol up to its Sync. With `may_fail`, anywhere in it.
    fn statements(&mut self, batch: &mut Batch, status: u8, may_fail: bool) {
        for _ in 0..1 + self.random.below(3) {
            match self.random.below(if may_fail { 14 } else { 9 }) {
                0..=3 => self.unnamed(batch),
                4..=8 => self.named(batch),
                9 => {
                    let tag = self.tag();
                    let name = if self.random.one_in(2) { "" } else { "broken" };
                    let sql = format!("SELECT '{tag}'::int");
                    batch.fail(&wire::parse(name, &sql, &[]), [], "22P02", &format!("\"{tag}\""));
                }
                10 => {
                    let tag = self.tag();
                    let bytes = [wire::parse("", "SELECT $1::int", &[]), wire::bind("", "", &[Some(&tag)])].concat();
                    batch.fail(&bytes, [Want::Tag(b'1')], "22P02", &format!("\"{tag}\""));
                }
                11 => {
                    let tag = self.tag();
                    let sql = "SELECT (1 / (g - 3))::text, $1::text FROM generate_series(1, 5) g";
                    let bytes =
                        [wire::parse("", sql, &[]), wire::bind("", "", &[Some(&tag)]), wire::execute("", 0)].concat();
                    let before = [Want::Tag(b'1'), Want::Tag(b'2'), row(&["0", &tag]), row(&["-1", &tag])];
                    batch.fail(&bytes, before, "22012", "division by zero");
                }
                12 => {
                    let name = self.tag();
                    batch.fail(&wire::bind("", &name, &[]), [], "26000", &format!("\"{name}\""));
                }
                _ => match self.random.index(4) {
                    taken if self.named[taken].is_some() => {
                        let name = format!("s{taken}");
                        batch.fail(&wire::parse(&name, "SELECT 1", &[]), [], "42P05", &format!("\"{name}\""));
                    }
                    free => {
                        let bytes = wire::describe(b'S', &format!("s{free}"));
                        batch.fail(&bytes, [], "26000", &format!("\"s{free}\""));
                    }
                },
            }
        }
        batch.sync(status);
    }

    /// An unnamed statement: of its own text, or of one that all clients use.
    fn unnamed(&mut self, batch: &mut Batch) {
        let (value, own) = (self.tag(), self.tag());
        let mark = match self.random.below(3) {
            0 => own,
            n => format!("shared {}", 2 * n + self.random.below(2)),
        };
        let sql = format!("SELECT $1::text, '{mark}'");
        batch.send(&wire::parse("", &sql, &[]), [Want::Tag(b'1')]);
        let again = if self.random.one_in(8) { 2 } else { 1 };
        for _ in 0..again {
            batch.send(&wire::bind("", "", &[Some(&value)]), [Want::Tag(b'2')]);
            if self.random.one_in(2) {
                batch.send(&wire::describe(b'P', ""), [Want::Tag(b'T')]);
            }
            let done = [row(&[&value, &mark]), Want::Command("SELECT 1".to_owned())];
            batch.send(&wire::execute("", 0), done);
        }
    }

    /// A statement under a name that every client uses for something else.
    fn named(&mut self, batch: &mut Batch) {
        let which = self.random.index(4);
        let name = format!("s{which}");
        if self.named[which].is_some() && self.random.one_in(6) {
            batch.send(&wire::close(b'S', &name), [Want::Tag(b'3')]);
            if !batch.failed {
                self.named[which] = None;
            }
        }
        let mark = match &self.named[which] {
            Some(mark) => mark.clone(),
            None => {
                // some texts are shared between clients, under any of the names
                let mark = if self.random.one_in(3) { format!("common {}", self.random.below(40)) } else { self.tag() };
                batch.send(&wire::parse(&name, &format!("SELECT '{mark}', $1::text"), &[]), [Want::Tag(b'1')]);
                if !batch.failed {
                    self.named[which] = Some(mark.clone());
                }
                mark
            }
        };
        if self.random.one_in(8) {
            batch.send(&wire::describe(b'S', &name), [Want::Tag(b't'), Want::Tag(b'T')]);
        }
        let value = self.tag();
        let done = [Want::Tag(b'2'), row(&[&mark, &value]), Want::Command("SELECT 1".to_owned())];
        batch.send(&[wire::bind("", &name, &[Some(&value)]), wire::execute("", 0)].concat(), done);
    }

    /// A transaction block, sent at once: well, or failing and rolled back, or with a savepoint.
    fn block(&mut self, batch: &mut Batch) {
        let (a, b) = (self.tag(), self.tag());
        batch.command("BEGIN", "BEGIN", b'T');
        batch.query(&format!("SELECT '{a}'"), &[&[&a]], b'T');
        self.statements(batch, b'T', false);
        match self.random.below(4) {
            0 => batch.command("COMMIT", "COMMIT", b'I'),
            1 => {
                let error = Want::Error("22P02", format!("\"{b}\""));
                batch.send(&wire::query(&format!("SELECT '{b}'::int")), [error, Want::Ready(b'E')]);
                batch.send(&wire::query(&format!("SELECT '{a}'")), [refused(), Want::Ready(b'E')]);
                batch.command("COMMIT", "ROLLBACK", b'I');
            }
            2 => {
                batch.command("SAVEPOINT a", "SAVEPOINT", b'T');
                batch.fail(&wire::parse("", &format!("SELECT '{b}'::int"), &[]), [], "22P02", &format!("\"{b}\""));
                batch.sync(b'E');
                batch.command("ROLLBACK TO a", "ROLLBACK", b'T');
                batch.query(&format!("SELECT '{b}'"), &[&[&b]], b'T');
                batch.command("COMMIT", "COMMIT", b'I');
            }
            _ => batch.command("ROLLBACK", "ROLLBACK", b'I'),
        }
    }

    fn copy(&mut self, batch: &mut Batch) {
        let tag = self.tag();
        let count = 1 + self.random.below(20);
        match self.random.below(6) {
            0 | 1 => {
                let sql = format!("COPY (SELECT '{tag}', g FROM generate_series(1, {count}) g) TO STDOUT");
                let rows = (1..=count).map(|g| Want::CopyRow(format!("{tag}\t{g}\n")));
                let end = [Want::Tag(b'c'), Want::Command(format!("COPY {count}"))];
                if self.random.one_in(2) {
                    let rows = [Want::Tag(b'H')].into_iter().chain(rows).chain(end);
                    batch.send(&wire::query(&sql), rows.chain([Want::Ready(b'I')]));
                } else {
                    let bytes = [wire::parse("", &sql, &[]), wire::bind("", "", &[]), wire::execute("", 0)].concat();
                    let begun = [Want::Tag(b'1'), Want::Tag(b'2'), Want::Tag(b'H')];
                    batch.send(&bytes, begun.into_iter().chain(rows).chain(end));
                    batch.sync(b'I');
                }
            }
            2 => {
                // rows that nobody else may see
                batch.command("BEGIN", "BEGIN", b'T');
                self.copy_in(batch, "COPY copied FROM STDIN", &tag, count);
                let done = [Want::Command(format!("COPY {count}")), Want::Ready(b'T')];
                batch.send(&wire::copy_done(), done);
                let sql = "SELECT count(*)::text, min(tag), max(tag) FROM copied";
                batch.query(sql, &[&[&count.to_string(), &tag, &tag]], b'T');
                batch.command("ROLLBACK", "ROLLBACK", b'I');
            }
            3 => {
                self.copy_in(batch, "COPY copied FROM STDIN WHERE false", &tag, count);
                let failed = Want::Error("57014", format!("COPY from stdin failed: {tag}"));
                batch.send(&wire::copy_fail(&tag), [failed, Want::Ready(b'I')]);
            }
            4 => {
                self.copy_in(batch, "COPY copied FROM STDIN WHERE false", &tag, count);
                let failed = Want::Error("22P02", format!("\"{tag}\""));
                batch.send(&wire::copy_data(format!("{tag}\tx\n").as_bytes()), [failed, Want::Ready(b'I')]);
                // late, and ignored
                batch.send(&[wire::copy_data(b"1\tx\n"), wire::copy_done()].concat(), []);
            }
            _ => {
                // as libpq does it: the first Sync is read by the COPY
                let sql = "COPY copied FROM STDIN WHERE false";
                let bytes = [wire::parse("", sql, &[]), wire::bind("", "", &[]), wire::describe(b'P', "")].concat();
                batch.send(&bytes, [Want::Tag(b'1'), Want::Tag(b'2'), Want::Tag(b'n')]);
                batch.send(&[wire::execute("", 0), wire::sync()].concat(), [Want::Tag(b'G')]);
                for n in 0..count {
                    batch.send(&wire::copy_data(format!("{n}\t{tag}\n").as_bytes()), []);
                }
                batch.send(&wire::copy_done(), [Want::Command("COPY 0".to_owned())]);
                batch.sync(b'I');
            }
        }
    }

    fn copy_in(&self, batch: &mut Batch, sql: &str, tag: &str, count: u64) {
        batch.send(&wire::query(sql), [Want::Tag(b'G')]);
        for n in 0..count {
            batch.send(&wire::copy_data(format!("{n}\t{tag}\n").as_bytes()), []);
        }
    }

    /// A portal fetched two rows at a time.
    fn rows_in_portions(&mut self, batch: &mut Batch) {
        let tag = self.tag();
        let sql = "SELECT $1::text, g::text FROM generate_series(1, 5) g";
        let bytes = [wire::parse("", sql, &[]), wire::bind("p", "", &[Some(&tag)])].concat();
        batch.send(&bytes, [Want::Tag(b'1'), Want::Tag(b'2')]);
        batch.send(&wire::execute("p", 2), [row(&[&tag, "1"]), row(&[&tag, "2"]), Want::Tag(b's')]);
        batch.send(&wire::execute("p", 2), [row(&[&tag, "3"]), row(&[&tag, "4"]), Want::Tag(b's')]);
        if self.random.one_in(2) {
            batch.send(&wire::execute("p", 0), [row(&[&tag, "5"]), Want::Command("SELECT 1".to_owned())]);
        }
        batch.send(&wire::close(b'P', "p"), [Want::Tag(b'3')]);
        batch.sync(b'I');
    }

    fn many_rows(&mut self, batch: &mut Batch) {
        let tag = self.tag();
        let filler = "x".repeat(self.random.index(400));
        let count = 1 + self.random.below(400);
        let sql = format!("SELECT '{tag}' || g, '{filler}' FROM generate_series(1, {count}) g");
        let rows = (1..=count).map(|g| row(&[&format!("{tag}{g}"), &filler]));
        let end = [Want::Command(format!("SELECT {count}")), Want::Ready(b'I')];
        batch.send(&wire::query(&sql), [Want::Tag(b'T')].into_iter().chain(rows).chain(end));
    }

    /// More than is ever held back: it streams.
    fn large_text(&mut self, batch: &mut Batch) {
        let tag = self.tag();
        let length = 60_000 + self.random.index(100_000);
        let text = "y".repeat(length);
        let length = length.to_string();
        if self.random.one_in(2) {
            batch.query(&format!("SELECT '{tag}', length('{text}')::text"), &[&[&tag, &length]], b'I');
        } else {
            let sql = "SELECT $1::text, length($2::text)::text";
            batch.send(&wire::parse("", sql, &[]), [Want::Tag(b'1')]);
            batch.send(&wire::bind("", "", &[Some(&tag), Some(&text)]), [Want::Tag(b'2')]);
            batch.send(&wire::execute("", 0), [row(&[&tag, &length]), Want::Command("SELECT 1".to_owned())]);
            batch.sync(b'I');
        }
    }

    /// `statement_timeout` for one block.
    fn own_time_limit(&mut self, batch: &mut Batch) {
        let tag = self.tag();
        batch.command("BEGIN", "BEGIN", b'T');
        batch.command("SET LOCAL statement_timeout = '5ms'", "SET", b'T');
        // it never gets to its row, and on a busy machine not even to its description
        let sql = format!("SELECT '{tag}' FROM pg_sleep(10)");
        batch.send(&wire::query(&sql), [Want::Unless57014(vec![tag]), Want::Ready(b'E')]);
        batch.command("ROLLBACK", "ROLLBACK", b'I');
    }

    /// What this client has set, on whichever server it is now.
    fn own_setting(&mut self, batch: &mut Batch) {
        let Some(label) = self.label.clone() else { return self.simple(batch) };
        if self.random.one_in(4) {
            let label = self.tag();
            batch.command(&format!("SET application_name = '{label}'"), "SET", b'I');
            self.label = Some(label);
        } else {
            let done = [Want::Tag(b'T'), row(&[&label]), Want::Command("SHOW".to_owned()), Want::Ready(b'I')];
            batch.send(&wire::query("SHOW application_name"), done);
        }
    }

    /// One or a few slow queries, and a cancel at a random moment.
    async fn cancelled(&mut self) -> Result<(), Broken> {
        let mut batch = Batch::default();
        for _ in 0..1 + self.random.below(3) {
            let tag = self.tag();
            let ms = self.random.below(8);
            let sql = format!("SELECT '{tag}' FROM pg_sleep(0.00{ms})");
            if self.random.one_in(2) {
                batch.send(&wire::query(&sql), [Want::Unless57014(vec![tag]), Want::Ready(b'I')]);
            } else {
                let bytes = [wire::parse("", &sql, &[]), wire::bind("", "", &[])].concat();
                let rest = [wire::describe(b'P', ""), wire::execute("", 0), wire::sync()].concat();
                // the cancel may meet any of them
                batch.send(&[bytes, rest].concat(), [Want::Unless57014(vec![tag]), Want::Ready(b'I')]);
            }
        }
        let Some(mut stream) = self.stream.take() else { return Err(Broken) };
        let (port, key) = (self.port, stream.key.clone());
        let wait = Duration::from_micros(self.random.below(12_000));
        let cancelling = tokio::task::spawn_local(async move {
            tokio::time::sleep(wait).await;
            cancel(port, &key).await
        });
        if let Err(error) = stream.send(&batch.bytes).await {
            return Err(self.broken(&format!("send: {error}")));
        }
        self.compare_some_cancelled(&mut stream, &batch.wants).await?;
        if !matches!(cancelling.await, Ok(Ok(()))) {
            return Err(self.broken("a CancelRequest was not taken"));
        }
        self.tally.cancel();
        self.stream = Some(stream);
        Ok(())
    }

    /// As [`Self::compare`], whichever protocol the statement came by.
    async fn compare_some_cancelled(&self, stream: &mut Stream, wants: &[Want]) -> Result<(), Broken> {
        let mut tags = wants.iter().filter_map(|want| match want {
            Want::Unless57014(values) => Some(values),
            _ => None,
        });
        let turns = wants.iter().filter(|want| matches!(want, Want::Ready(_))).count();
        for _ in 0..turns {
            let Some(values) = tags.next() else { break };
            let (mut rows, mut failed) = (0, false);
            loop {
                let message = match stream.expect().await {
                    Ok(message) => message,
                    Err(error) => return Err(self.broken(&format!("wanted {values:?} or 57014, got {error}"))),
                };
                let good = match message.tag {
                    b'1' | b'2' | b'T' => !failed,
                    b'D' => {
                        rows += 1;
                        !failed && self.compare_one(&Want::Row(values.clone()), &message).is_ok()
                    }
                    b'C' => rows == 1 && self.compare_one(&Want::Command("SELECT 1".to_owned()), &message).is_ok(),
                    b'E' => {
                        failed = true;
                        self.tally.error("57014");
                        let fields = message.fields();
                        fields.code == "57014" && fields.severity == "ERROR"
                    }
                    b'Z' => message.body == b"I" && (failed || rows == 1),
                    _ => false,
                };
                if !good {
                    let body = String::from_utf8_lossy(&message.body).into_owned();
                    return Err(self.broken(&format!("wanted {values:?} or 57014, got {message:?} {body}")));
                }
                if message.tag == b'Z' {
                    break;
                }
            }
        }
        Ok(())
    }

    /// A cancel while nothing runs: it must meet nothing, and nobody.
    async fn cancel_for_nothing(&mut self) -> Result<(), Broken> {
        let Some(stream) = &self.stream else { return Err(Broken) };
        let key = stream.key.clone();
        if cancel(self.port, &key).await.is_err() {
            return Err(self.broken("a CancelRequest was not taken"));
        }
        self.tally.cancel();
        let mut batch = Batch::default();
        self.simple(&mut batch);
        self.run(batch).await
    }

    /// Leaves in the middle of something.
    async fn vanish(&mut self) -> Result<(), Broken> {
        let Some(mut stream) = self.stream.take() else { return Err(Broken) };
        let mut batch = Batch::default();
        let (mut reads, mut cut) = (0, false);
        match self.random.below(8) {
            0 => batch.bytes = wire::query(&format!("SELECT '{}' FROM pg_sleep(0.02)", self.tag())),
            1 => {
                for _ in 0..4 {
                    self.statements(&mut batch, b'I', true);
                }
                reads = self.random.index(4);
            }
            2 => {
                // messages or a message cut short
                self.statements(&mut batch, b'I', true);
                cut = true;
            }
            3 => {
                let tag = self.tag();
                self.copy_in(&mut batch, "COPY copied FROM STDIN WHERE false", &tag, 5);
                reads = self.random.index(2);
                cut = self.random.one_in(2);
            }
            4 => {
                self.block(&mut batch);
                cut = true;
                reads = self.random.index(3);
            }
            5 => {
                // a batch without its Sync
                self.unnamed(&mut batch);
                self.named(&mut batch);
                batch.send(&wire::flush(), []);
                reads = 2;
            }
            6 => {
                self.many_rows(&mut batch);
                reads = self.random.index(3);
            }
            _ => {
                self.large_text(&mut batch);
                cut = true;
            }
        }
        if cut {
            let keep = self.random.index(batch.bytes.len() + 1);
            batch.bytes.truncate(keep);
            reads = 0;
        }
        if stream.send(&batch.bytes).await.is_err() {
            return Err(self.broken("send"));
        }
        let first = batch.wants.len().min(reads);
        self.compare(&mut stream, &batch.wants[..first]).await?;
        if self.random.one_in(2) {
            tokio::time::sleep(Duration::from_micros(self.random.below(5_000))).await;
        }
        stream.vanish(self.random.one_in(2));
        self.tally.disconnect();
        Ok(())
    }
}
