//! Plays one script of messages to PostgreSQL directly and to howdah in every arrangement, and insists that the client
//! reads the same.
//!
//! Between two turns of the script other clients get the server: with a pool of one they use the same server, with a
//! pool of two they make the client change server each time. They have settings and statements of their own, some under
//! the same names.

use super::wire::{self, Client, Message};
use super::{Howdah, Tenant, shared};

/// How much is read before the script goes on.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// Up to and with so many ReadyForQuery.
    Ready(usize),
    /// So many messages.
    Messages(usize),
}

/// What is sent in one write, and what is read then.
pub type Turn = (Vec<u8>, Until);

/// A turn that ends in one ReadyForQuery.
pub fn turn<const N: usize>(messages: [Vec<u8>; N]) -> Turn {
    turns(messages, 1)
}

/// A turn that ends in so many ReadyForQuery.
pub fn turns<const N: usize>(messages: [Vec<u8>; N], readies: usize) -> Turn {
    (messages.concat(), Until::Ready(readies))
}

/// A turn that is over when so many messages have come, without a ReadyForQuery.
pub fn some<const N: usize>(messages: [Vec<u8>; N], count: usize) -> Turn {
    (messages.concat(), Until::Messages(count))
}

/// A simple query.
pub fn simple(sql: &str) -> Turn {
    turn([wire::query(sql)])
}

/// A tenant, and howdah in front of it in every arrangement.
pub struct Stage {
    /// Whose database the scripts run in.
    pub tenant: Tenant,
    /// Databases `one` and `two` pool in transaction mode with so many servers, `session` in session mode.
    pub howdah: Howdah,
}

impl Stage {
    /// Starts howdah, with these keys in every database's pool.
    pub fn new(pool: &str) -> Self {
        let tenant = Tenant::shared();
        let mut extra = String::new();
        for (name, mode, size) in [("one", "transaction", 1), ("two", "transaction", 2), ("session", "session", 3)] {
            extra += &format!(
                "[databases.{name}]\ncluster = \"main\"\ndbname = \"{}\"\n\
                 [databases.{name}.pool]\nmode = \"{mode}\"\nsize = {size}\n{pool}\n",
                tenant.name
            );
        }
        Self { howdah: Howdah::shared(&extra), tenant }
    }

    /// A client of one of the three databases.
    #[track_caller]
    pub fn login(&self, database: &str) -> Client {
        let mut client = self.howdah.wire();
        client.login(&self.tenant.name, &self.tenant.password, database);
        client
    }

    /// A client of PostgreSQL itself.
    #[track_caller]
    pub fn direct(&self) -> Client {
        let mut client = Client::connect(("127.0.0.1", shared().primary().port())).unwrap();
        client.login(&self.tenant.name, &self.tenant.password, &self.tenant.name);
        client
    }

    /// Plays `script` everywhere, each time after `setup`; the answer is what PostgreSQL itself said, as short forms.
    #[track_caller]
    pub fn play(&self, setup: &str, script: &[Turn]) -> Vec<String> {
        self.play_in(&["one", "two", "session"], setup, script)
    }

    /// [`Stage::play`] in these databases.
    #[track_caller]
    pub fn play_in(&self, databases: &[&str], setup: &str, script: &[Turn]) -> Vec<String> {
        let prepare = || {
            if !setup.is_empty() {
                let answers = self.direct().query(setup);
                assert!(answers.iter().all(|m| m.tag != b'E'), "{setup}: {answers:?}");
            }
        };
        prepare();
        let expected = play(&mut self.direct(), script, || ());
        for database in databases {
            prepare();
            let mut thieves = match *database {
                "one" => vec![self.thief("one")],
                "two" => vec![self.thief("two"), self.thief("two")],
                _ => vec![],
            };
            let mut held: Option<usize> = None;
            let mut steal = || match thieves.as_mut_slice() {
                [one] => make_noise(one),
                [_, _] => {
                    let next = held.map_or(0, |held| 1 - held);
                    make_noise(&mut thieves[next]);
                    assert_eq!(thieves[next].query_short("BEGIN"), ["C:BEGIN", "Z:T"]);
                    if let Some(before) = held.replace(next) {
                        assert_eq!(thieves[before].query_short("ROLLBACK"), ["C:ROLLBACK", "Z:I"]);
                    }
                }
                _ => {}
            };
            let read = play(&mut self.login(database), script, &mut steal);
            assert_same(database, &expected, &read);
        }
        expected.iter().map(Message::short).collect()
    }

    fn thief(&self, database: &str) -> Client {
        let mut thief = self.howdah.wire();
        let settings = [("application_name", "thief"), ("TimeZone", "Asia/Tokyo")];
        let user = [("user", self.tenant.name.as_str()), ("database", database)];
        thief.login_with(&[&user[..], &settings[..]].concat(), &self.tenant.password);
        thief.send(&[wire::parse("s", "SELECT 'thief', $1::text", &[]), wire::sync()].concat());
        assert_eq!(wire::short(&thief.read_until_ready()), ["1", "Z:I"]);
        thief
    }
}

/// Uses a server as another application would.
#[track_caller]
fn make_noise(thief: &mut Client) {
    thief.send(&[wire::bind("", "s", &[Some("x")]), wire::execute("", 0), wire::sync()].concat());
    assert_eq!(wire::short(&thief.read_until_ready()), ["2", "D", "C:SELECT 1", "Z:I"]);
    let mine = thief.extended("SELECT current_setting('application_name') || $1", &[Some("!")]);
    assert_eq!(wire::first_column(&mine), ["thief!"]);
    assert_eq!(thief.value("SHOW TimeZone"), "Asia/Tokyo");
}

/// Plays a script to one client; `between` runs before each turn that starts outside of a block.
#[track_caller]
pub fn play(client: &mut Client, script: &[Turn], mut between: impl FnMut()) -> Vec<Message> {
    let mut messages: Vec<Message> = Vec::new();
    for (at, (bytes, until)) in script.iter().enumerate() {
        if messages.last().is_none_or(|m| m.tag == b'Z' && m.body == b"I") {
            between();
        }
        client.send(bytes);
        let (mut readies, mut count) = (0, 0);
        let done = |readies: usize, count: usize| match *until {
            Until::Ready(wanted) => readies == wanted,
            Until::Messages(wanted) => count == wanted,
        };
        while !done(readies, count) {
            let message = client.read().unwrap_or_else(|error| panic!("turn {at}: {error} after {messages:?}"));
            readies += usize::from(message.tag == b'Z');
            count += 1;
            messages.push(message);
        }
        // what is reported of several settings at once comes in no order
        for run in messages.chunk_by_mut(|a, b| a.tag == b'S' && b.tag == b'S') {
            run.sort_by(|a, b| a.body.cmp(&b.body));
        }
    }
    messages
}

/// Every byte must be PostgreSQL's, but for the places in its source that errors name.
#[track_caller]
fn assert_same(database: &str, expected: &[Message], read: &[Message]) {
    let same = |a: &Message, b: &Message| match (a.tag, b.tag) {
        (b'E' | b'N', b'E' | b'N') => {
            let (mut a, mut b) = (a.fields(), b.fields());
            a.routine.clear();
            b.routine.clear();
            a == b
        }
        _ => a == b,
    };
    let differs = (0..expected.len().max(read.len())).find(|&at| match (expected.get(at), read.get(at)) {
        (Some(a), Some(b)) => !same(a, b),
        _ => true,
    });
    if let Some(at) = differs {
        let show = |messages: &[Message]| {
            let show: Vec<_> =
                messages.iter().map(|m| format!("{m:?}").chars().take(200).collect::<String>()).collect();
            show.join("\n  ")
        };
        panic!(
            "through \"{database}\" message {at} differs: {:?} and {:?}\nPostgreSQL:\n  {}\nhowdah:\n  {}",
            expected.get(at),
            read.get(at),
            show(expected),
            show(read)
        );
    }
}
