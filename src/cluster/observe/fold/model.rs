//! A model of everything around the fold that eras have to survive: servers that write, crash back, restart and are promoted,
//! connections that break, answers under way, reports in a queue, and sessions that read and stamp at any moment.
//!
//! A position in the model's log is (timeline, restarts, place), so that who knows a position knows whose it is, and "the bound
//! is not less than what was seen" means that it is of the same incarnation or a later one.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::topology::ClusterBoard;

const NAMES: [&str; 2] = ["a", "b"];
const SESSIONS: usize = 3;

#[derive(Debug)]
struct Server {
    up: bool,
    role: Role,
    timeline: u32,
    restarts: u64,
    place: u64,
    flushed: u64,
    /// Behind the record of a commit that nobody sees yet.
    committing: Option<u64>,
    /// How many transactions have ended, and behind which record the last of them did.
    ended: (u64, u64),
    /// Connections to an earlier one are dead.
    incarnation: u64,
}

impl Server {
    fn lsn(&self) -> Lsn {
        Lsn(u64::from(self.timeline) << 56 | self.restarts << 40 | self.place)
    }

    /// Behind all commits that can be seen.
    fn shown(&self) -> Lsn {
        Lsn(u64::from(self.timeline) << 56 | self.restarts << 40 | self.ended.1)
    }

    fn answer(&self) -> Answer {
        let standby = self.role == Role::Standby;
        Answer {
            role: self.role,
            system_identifier: Some(SystemIdentifier(7)),
            timeline: Some(Timeline(self.timeline)),
            received_lsn: Some(self.lsn()),
            replayed_lsn: standby.then_some(self.lsn()),
            flushed_lsn: None,
            snapshot: Some(self.ended.0.to_string().into()),
            receiver: if standby { Receiver::Streaming } else { Receiver::Absent },
            server_version: None,
            xids: Xids::default(),
        }
    }
}

/// The monitor's side of one node.
#[derive(Debug, Default)]
struct Probe {
    /// To which incarnation it is connected.
    connected: Option<u64>,
    asked: Option<Stamp>,
    /// Answered, and not read yet.
    answered: Option<(Stamp, Answer)>,
}

#[derive(Clone, Copy, Debug)]
enum Session {
    Idle,
    /// Was sent to this node.
    Sent(usize),
    /// The reply, which has not been read, is of a log that ended here, and shows commits up to there.
    Replied(Lsn, Lsn),
}

struct World {
    /// Whether samples are taken whenever they were asked for: the defect that eras are against.
    careless: bool,
    /// Whether snapshots are compared across eras: the same.
    hoards: bool,
    servers: [Server; 2],
    probes: [Probe; 2],
    reports: VecDeque<(usize, Observation)>,
    board: ClusterBoard,
    fold: Fold,
    views: Vec<ClusterView>,
    sessions: [Session; SESSIONS],
    tokens: Vec<(Stamp, Lsn, Lsn)>,
    now: Duration,
    bounds: usize,
    /// Bounds of reads that ask for less.
    closer: usize,
}

impl World {
    fn new(careless: bool, hoards: bool) -> Self {
        let server = |role| Server {
            up: true,
            role,
            timeline: 1,
            restarts: 0,
            place: 5,
            flushed: 5,
            committing: None,
            ended: (0, 5),
            incarnation: 0,
        };
        let mut fold = Fold::new(3, 0);
        fold.arrange(&NAMES.map(NodeName::from));
        Self {
            careless,
            hoards,
            servers: [server(Role::Primary), server(Role::Standby)],
            probes: Default::default(),
            reports: VecDeque::new(),
            board: ClusterBoard::default(),
            views: vec![fold.view()],
            fold,
            sessions: [Session::Idle; SESSIONS],
            tokens: Vec::new(),
            now: Duration::ZERO,
            bounds: 0,
            closer: 0,
        }
    }

    /// One thing happens somewhere. `Err` is a bound that is none.
    fn step(&mut self, what: u8, at: usize) -> Result<(), String> {
        let (node, session) = (at % 2, at % SESSIONS);
        let newest = self.servers.iter().map(|server| server.timeline).max().unwrap_or_default();
        let other_is_up = self.servers[1 - node].up;
        // a second promotion before anybody has looked at the first is the limit that the fold names
        let has_seen = |view: &ClusterView| view.nodes.iter().filter_map(|node| node.timeline).max();
        let promotes = newest == 1 || self.views.last().and_then(has_seen) == Some(Timeline(newest));
        let (server, probe) = (&mut self.servers[node], &mut self.probes[node]);
        match what {
            0..=9 if server.role == Role::Primary => server.place += 1,
            10..=29 if server.role == Role::Primary => match server.committing.take() {
                None => {
                    server.place += 1;
                    server.committing = Some(server.place);
                }
                Some(place) => server.ended = (server.ended.0 + 1, place),
            },
            30..=39 => server.flushed = server.place,
            40 | 41 => server.up = false,
            // back at once, before anybody looks
            42..=47 if server.up == (what < 44) => {
                (server.up, server.place) = (true, server.flushed);
                // the next transactions may well have the numbers of those that are lost
                (server.committing, server.ended.1) = (None, server.place);
                (server.incarnation, server.restarts) = (server.incarnation + 1, server.restarts + 1);
            }
            48 if promotes && server.up && server.role == Role::Standby => {
                (server.role, server.timeline, server.restarts) = (Role::Primary, newest + 1, 0);
            }
            49..=54 if !server.up && other_is_up && server.timeline < newest => {
                (server.role, server.timeline) = (Role::Standby, newest);
            }
            60..=89 if probe.connected.is_some() && probe.asked.is_none() && probe.answered.is_none() => {
                probe.asked = Some(self.board.ask());
            }
            90..=119 if server.up && probe.connected == Some(server.incarnation) => {
                probe.answered = probe.asked.take().map(|stamp| (stamp, server.answer()));
            }
            120..=149 => {
                let read = probe.answered.take();
                self.reports.extend(read.map(|(stamp, answer)| (node, Observation::Answered(stamp, answer))));
            }
            // the connection breaks, by itself or with the server; or there is none and one is made
            150..=169 => match probe.connected {
                Some(incarnation) if what > 150 && server.up && server.incarnation == incarnation => {}
                Some(_) => {
                    *probe = Probe::default();
                    self.reports.push_back((node, Observation::Disconnected));
                }
                None if server.up => {
                    probe.connected = Some(server.incarnation);
                    self.reports.push_back((node, Observation::Connected));
                }
                None => {
                    let miss = Miss::Gone("connection refused".to_owned());
                    self.reports.push_back((node, Observation::Missed(miss)));
                }
            },
            170..=219 => {
                let Some((node, observation)) = self.reports.pop_front() else { return Ok(()) };
                self.watch(node, observation);
                return self.check(self.views.len() - 1, 0);
            }
            _ => return self.session(session),
        }
        Ok(())
    }

    fn watch(&mut self, node: usize, observation: Observation) {
        self.now += Duration::from_millis(1);
        let observation = match observation {
            Observation::Answered(stamp, answer) if self.careless => {
                Observation::Answered(Stamp { era: self.board.stamp().era, ..stamp }, answer)
            }
            other => other,
        };
        let epoch = self.fold.view().epoch;
        let last = self.fold.last_primary.clone();
        self.fold.observe(self.now, NAMES[node], observation);
        if self.fold.needs_era() {
            let shown = self.fold.shown.clone().filter(|_| self.hoards);
            self.fold.begin_era(self.board.begin_era());
            self.fold.shown = shown;
        }
        let view = self.fold.view();
        let grown = u64::from(self.fold.last_primary != last);
        assert_eq!(view.epoch.0, epoch.0 + grown, "the epoch counts changes of the primary");
        let fit = view.nodes.iter().filter(|node| node.unfit.is_none());
        assert!(fit.into_iter().all(|node| node.role == Some(Role::Standby) && node.replayed_lsn.is_some()));
        self.views.push(view);
    }

    fn session(&mut self, session: usize) -> Result<(), String> {
        let next = match self.sessions[session] {
            Session::Idle => {
                let primary = self.views.last().and_then(|view| view.primary.clone());
                NAMES.iter().position(|name| primary.as_deref() == Some(*name)).map_or(Session::Idle, Session::Sent)
            }
            Session::Sent(node) => match &self.servers[node] {
                server if server.up && server.role == Role::Primary => Session::Replied(server.lsn(), server.shown()),
                _ => Session::Idle,
            },
            Session::Replied(seen, shown) => {
                self.tokens.push((self.board.stamp(), seen, shown));
                self.sessions[session] = Session::Idle;
                return self.check(0, self.tokens.len() - 1);
            }
        };
        self.sessions[session] = next;
        Ok(())
    }

    /// Every bound that these views give for these tokens has what was seen: sessions may hold an older view as well.
    fn check(&mut self, views_from: usize, tokens_from: usize) -> Result<(), String> {
        for view in &self.views[views_from..] {
            for (stamp, seen, shown) in &self.tokens[tokens_from..] {
                let Some(bound) = view.samples.bound(*stamp) else { continue };
                self.bounds += 1;
                if bound < *seen {
                    return Err(format!("{bound} bounds {stamp:?}, which has seen {seen}, in {view:#?}"));
                }
                let of_reads = view.samples.shown(*stamp).unwrap();
                self.closer += usize::from(of_reads < bound);
                if of_reads < *shown || of_reads > bound {
                    return Err(format!("{of_reads} bounds {stamp:?}, which was shown {shown}, in {view:#?}"));
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn a_sample_that_bounds_a_stamp_has_all_that_was_seen_before_it_whatever_crashes_and_whoever_is_promoted(
        steps in proptest::collection::vec((any::<u8>(), 0..6_usize), 0..1_500)
    ) {
        let mut world = World::new(false, false);
        for (what, at) in steps {
            if let Err(wrong) = world.step(what, at) {
                prop_assert!(false, "{wrong}");
            }
        }
    }
}

/// How many random worlds have a bound that is none, and how many bounds there were at all, and of reads closer ones.
fn wrong_worlds(careless: bool, hoards: bool) -> (usize, usize, usize) {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let (mut wrong, mut bounds, mut closer) = (0, 0, 0);
    for _ in 0..300 {
        let mut world = World::new(careless, hoards);
        let mut step = || world.step(next() as u8, (next() % 6) as usize);
        wrong += usize::from((0..1_500).any(|_| step().is_err()));
        bounds += world.bounds;
        closer += world.closer;
    }
    (wrong, bounds, closer)
}

#[test]
fn the_model_finds_samples_that_are_taken_whenever_they_were_asked_for() {
    let (wrong, bounds, closer) = wrong_worlds(false, false);
    assert!(wrong == 0 && bounds > 100_000 && closer > 10_000, "{wrong} {bounds} {closer}");
    for (careless, hoards) in [(true, false), (false, true)] {
        let (wrong, _, _) = wrong_worlds(careless, hoards);
        assert!(wrong > 0, "nothing of it was found: {careless} {hoards}");
    }
}
