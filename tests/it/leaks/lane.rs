//! Plays a case directly and through howdah, and looks for what leaked and what was lost.
//!
//! The pool has two servers. While the client plays, one of two keepers holds the other server in an open block; then
//! the other keeper takes the server that the client has used (and must see its own defaults there), the first one
//! lets go, and the client goes on where it has never been (and must see what it would see directly).

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::Duration;

use super::space::Case;
use crate::support::wire::{self, Client};
use crate::support::{Node, SOON, Tenant, eventually};

/// What a session sees: every setting, and who it is.
pub type State = BTreeMap<String, String>;

/// How long a keeper waits for a server that its client has used; longer means that the client has kept it.
const PINNED: Duration = Duration::from_secs(2);

/// What is wrong with howdah.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Another client sees it.
    Leak,
    /// The client itself does not see what it should.
    Loss,
    /// The client was answered something else.
    Answer,
}

/// One difference, and how to see it again.
#[derive(Clone, Debug)]
pub struct Finding {
    pub kind: Kind,
    pub label: String,
    what: String,
    startup: Vec<(String, String)>,
    text: Vec<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}\n    {}", self.kind, self.label, self.what)?;
        if !self.startup.is_empty() {
            write!(f, "\n    login with {:?}", self.startup)?;
        }
        self.text.iter().try_for_each(|text| write!(f, "\n    {text}"))
    }
}

/// One login's two keepers, and what it takes to make its clients.
pub struct Lane<'a> {
    pub tenant: &'a Tenant,
    pub node: &'a Node,
    pub howdah: u16,
    read: Vec<u8>,
    defaults: State,
    keepers: [Client; 2],
    holds: usize,
    /// Cases whose client kept its server.
    pub pinned: u64,
}

impl<'a> Lane<'a> {
    /// `extra` are names that pg_settings does not show.
    pub fn new(tenant: &'a Tenant, node: &'a Node, howdah: u16, extra: &[&str]) -> Self {
        let mut direct = connect(node.port(), tenant, &[]).unwrap();
        let names = direct.query("SELECT name FROM pg_settings ORDER BY name");
        let mut names = wire::first_column(&names);
        names.extend(extra.iter().map(|name| (*name).to_owned()));
        // '' for what has been reset and NULL for what was never there: the one difference that cannot be removed
        let read = wire::query(&format!(
            "SELECT n, coalesce(pg_catalog.current_setting(n, true), '') FROM pg_catalog.unnest('{{{}}}'::text[]) n
             UNION ALL VALUES ('current_user', current_user::text), ('session_user', session_user::text)",
            names.join(",")
        ));
        let defaults = state(&mut direct, &read).unwrap().expect("a login sees its settings");
        let keepers = [(); 2].map(|()| connect(howdah, tenant, &[]).unwrap());
        let mut lane = Self { tenant, node, howdah, read, defaults, keepers, holds: 0, pinned: 0 };
        begin(&mut lane.keepers[0]);
        lane
    }

    /// Plays a case; what differs.
    pub fn play(&mut self, case: &Case) -> Vec<Finding> {
        let mut found = Vec::new();
        let report = |kind, what: String| Finding {
            kind,
            label: case.label.clone(),
            what,
            startup: case.startup.clone(),
            text: case.text.clone(),
        };
        let startup: Vec<_> = case.startup.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (said, saw) = self.directly(case, &startup);

        let mut client = match connect(self.howdah, self.tenant, &startup) {
            Ok(client) => client,
            Err(_) if said == ["refused"] => return found, // by both
            Err(error) => {
                found.push(report(Kind::Answer, format!("not let in: {error}")));
                return found;
            }
        };
        if said == ["refused"] {
            client.cut(); // what PostgreSQL refuses at login, howdah refuses at the first statement
            return found;
        }
        let mut heard = answers(&mut client, case);
        if startup.iter().any(|(_, value)| value.contains(&format!("{}_other", self.tenant.name))) {
            // a role in the startup packet is taken with the first statement, and so is what it means
            heard.retain(|message| message != "S:is_superuser=off");
        }
        // a server that ends itself (exit_on_error) is an outage: what the client is told then is asked in outage.rs
        let ended = said.last().is_some_and(|last| last == "closed");
        if heard != said && !ended {
            found.push(report(Kind::Answer, format!("{heard:?} and not {said:?}")));
        }
        if case.vanish {
            client.cut();
        }
        let taker = 1 - self.holds;
        if let Some(told) = self.take(taker) {
            if !told.is_empty() {
                found.push(report(Kind::Leak, format!("another client is told {told:?}")));
            }
            match state(&mut self.keepers[taker], &self.read) {
                Ok(Ok(seen)) => {
                    if let Some(what) = differences(&self.defaults, &seen) {
                        found.push(report(Kind::Leak, what));
                    }
                }
                other => found.push(report(Kind::Leak, format!("another client cannot look: {other:?}"))),
            }
        }
        if let Some(saw) = saw {
            match (state(&mut client, &self.read), saw) {
                (Ok(Ok(seen)), Ok(saw)) => {
                    if let Some(what) = differences(&saw, &seen) {
                        found.push(report(Kind::Loss, what));
                    }
                }
                (Ok(Err(code)), Err(expected)) if code == expected => {}
                (seen, saw) => found.push(report(Kind::Loss, format!("sees {seen:?} and not {saw:?}"))),
            }
            let _ = client.try_send(&wire::terminate());
        }
        if !found.is_empty() {
            self.begin_anew();
        }
        found
    }

    /// What PostgreSQL answers, and what the client sees in the end if it is still there.
    fn directly(&self, case: &Case, startup: &[(&str, &str)]) -> (Vec<String>, Option<Result<State, String>>) {
        let Ok(mut client) = connect(self.node.port(), self.tenant, startup) else {
            return (vec!["refused".to_owned()], None);
        };
        let said = answers(&mut client, case);
        if case.vanish || said.last().is_some_and(|last| last == "closed") {
            return (said, None);
        }
        let saw = state(&mut client, &self.read).unwrap();
        (said, Some(saw))
    }

    /// The keeper `taker` gets the server that the client has used, and the other lets its own go. What that is told
    /// although it has done nothing; `None` when the client does not give the server.
    fn take(&mut self, taker: usize) -> Option<Vec<String>> {
        let keeper = &mut self.keepers[taker];
        keeper.send(&wire::query("BEGIN"));
        keeper.read_timeout(PINNED);
        let first = keeper.read();
        self.keepers[taker].read_timeout(SOON);
        let mut told = wire::short(&self.keepers[self.holds].query("ROLLBACK"));
        self.holds = taker;
        let taken = first.is_ok();
        told.extend(first.map(|message| message.short()));
        if told.last().is_none_or(|last| last != "Z:T") {
            told.extend(wire::short(&self.keepers[taker].read_until_ready()));
        }
        if !taken {
            self.pinned += 1;
            return None;
        }
        told.retain(|message| !["C:ROLLBACK", "Z:I", "C:BEGIN", "Z:T"].contains(&message.as_str()));
        Some(told)
    }

    /// New servers: what was found once shall not be found again in the next case.
    fn begin_anew(&mut self) {
        let servers = format!("FROM pg_stat_activity WHERE datname = '{}'", self.tenant.name);
        self.keepers.iter_mut().for_each(Client::cut);
        self.node.sql(&format!("SELECT pg_terminate_backend(pid) {servers}")).unwrap();
        eventually("no server is left", SOON, || {
            self.node.sql(&format!("SELECT count(*) {servers}")).unwrap().cell() == Some("0")
        });
        self.keepers = [(); 2].map(|()| connect(self.howdah, self.tenant, &[]).unwrap());
        self.holds = 0;
        begin(&mut self.keepers[0]);
    }
}

#[track_caller]
fn begin(keeper: &mut Client) {
    assert_eq!(keeper.query_short("BEGIN"), ["C:BEGIN", "Z:T"]);
}

pub fn connect(port: u16, tenant: &Tenant, startup: &[(&str, &str)]) -> io::Result<Client> {
    let mut client = Client::connect(("127.0.0.1", port))?;
    let user = [("user", tenant.name.as_str()), ("database", tenant.name.as_str())];
    let came = client.try_login(&[&user[..], startup].concat(), &tenant.password)?;
    match came.iter().find(|m| m.tag == b'E') {
        Some(error) => Err(io::Error::other(format!("{error:?}"))),
        None => Ok(client),
    }
}

/// Every setting and the user, or the SQLSTATE that kept the client from looking.
fn state(client: &mut Client, read: &[u8]) -> io::Result<Result<State, String>> {
    client.try_send(read)?;
    let (mut state, mut failed) = (State::new(), None);
    loop {
        let message = client.read()?;
        match message.tag {
            b'D' => {
                let mut columns = message.columns().into_iter().map(Option::unwrap_or_default);
                state.insert(columns.next().unwrap(), columns.next().unwrap());
            }
            b'E' => failed = Some(message.fields().code),
            b'Z' => return Ok(failed.map_or(Ok(state), Err)),
            _ => {}
        }
    }
}

/// The short forms of everything a case is answered.
fn answers(client: &mut Client, case: &Case) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    let rollback = (wire::query("ROLLBACK"), 1);
    for (bytes, readies) in case.turns.iter().chain([&rollback]) {
        let open = said.last().is_some_and(|last| last == "Z:T" || last == "Z:E");
        if std::ptr::eq(readies, &rollback.1) && (!open || case.vanish) {
            break;
        }
        let from = said.len();
        if client.try_send(bytes).is_err() {
            said.push("closed".to_owned());
            return said;
        }
        let mut left = *readies;
        while left > 0 {
            match client.read() {
                Ok(message) => {
                    left -= usize::from(message.tag == b'Z');
                    said.push(message.short());
                }
                Err(error) => {
                    said.push(if error.kind() == io::ErrorKind::WouldBlock { "silence" } else { "closed" }.to_owned());
                    return said;
                }
            }
        }
        // what is reported of several settings at once comes in no order
        for run in said[from..].chunk_by_mut(|a, b| a.starts_with("S:") && b.starts_with("S:")) {
            run.sort();
        }
    }
    said
}

fn differences(expected: &State, seen: &State) -> Option<String> {
    let names: std::collections::BTreeSet<_> = expected.keys().chain(seen.keys()).collect();
    let differ: Vec<String> = names
        .into_iter()
        .filter(|name| expected.get(*name) != seen.get(*name))
        .map(|name| {
            let show = |state: &State| state.get(name).map_or("nothing".to_owned(), |value| format!("{value:?}"));
            format!("{name} is {} and not {}", show(seen), show(expected))
        })
        .collect();
    (!differ.is_empty()).then(|| differ.join(", "))
}
