//! `GET /primary`, `/replica?lag=16MB` and the like: yes or no as a status code, for load balancers that know them from Patroni.
//!
//! | request | says 200 when |
//! |---|---|
//! | `/primary`, `/leader`, `/read-write`, `/master` | howdah sends writes to a node now |
//! | `/replica?lag=SIZE` | there is a replica that gets reads, at most so far behind |
//! | `/read-only?lag=SIZE` | reads are served: by such a replica, or by the primary |
//! | `/health` | some node answers |
//! | `/liveness`, `/readiness` | as `/healthz`, `/readyz` |
//!
//! Patroni is asked about the node it sits beside. A proxy is asked about itself, and so about all its clusters, unless `?cluster=NAME`
//! names one; `?node=NAME` asks about one node, as whoever balances between the nodes without howdah wants to. What has begun to go
//! down says no to everything but `/liveness`.
//!
//! Everybody may ask, as with `/healthz`: a load balancer has no token. The answer says no more than that code and the reason.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;

use super::http::Sources;
use super::refusal::Refusal;
use crate::config::ByteSize;
use crate::topology::{ClusterView, NodeView};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    Primary,
    Replica,
    ReadOnly,
    Health,
}

/// The requests there are.
pub(super) const PATHS: [(&str, Probe); 7] = [
    ("/primary", Probe::Primary),
    ("/leader", Probe::Primary),
    ("/read-write", Probe::Primary),
    ("/master", Probe::Primary),
    ("/replica", Probe::Replica),
    ("/read-only", Probe::ReadOnly),
    ("/health", Probe::Health),
];

/// The handler.
pub(super) async fn probe(
    probe: Probe,
    State(sources): State<Sources>,
    RawQuery(query): RawQuery,
) -> Result<(StatusCode, String), Refusal> {
    let question = Question::parse(query.as_deref().unwrap_or_default())?;
    if sources.shutting_down.load(Ordering::Acquire) {
        return Ok((StatusCode::SERVICE_UNAVAILABLE, "shutting down\n".to_owned()));
    }
    let topology = sources.board.read();
    if let Some(name) = &question.cluster
        && !topology.clusters.contains_key(name.as_str())
    {
        return Err(Refusal::no_cluster(name, topology.clusters.keys().map(|known| &**known)));
    }
    let (mut text, mut asked, mut yes) = (String::new(), 0_usize, true);
    for (name, view) in &topology.clusters {
        if question.cluster.as_ref().is_some_and(|wanted| **wanted != **name) {
            continue;
        }
        // several clusters may each have a node of that name
        if question.node.as_ref().is_some_and(|node| view.node(node).is_none()) {
            continue;
        }
        asked += 1;
        let answer = answer(probe, view, &question);
        yes &= answer.is_ok();
        let said = answer.unwrap_or_else(|why| why);
        let _ = writeln!(text, "cluster \"{name}\": {said}");
    }
    match (&question.node, asked) {
        (Some(node), 0) => {
            Err(Refusal::new(StatusCode::NOT_FOUND, "unknown-node", format!("there is no node \"{node}\"")))
        }
        (None, 0) => Ok((StatusCode::SERVICE_UNAVAILABLE, "there is no cluster\n".to_owned())),
        _ if yes => Ok((StatusCode::OK, text)),
        _ => Ok((StatusCode::SERVICE_UNAVAILABLE, text)),
    }
}

/// What the question leaves open.
#[derive(Debug, Default, PartialEq, Eq)]
struct Question {
    cluster: Option<String>,
    node: Option<String>,
    lag_max: Option<u64>,
}

impl Question {
    fn parse(query: &str) -> Result<Self, Refusal> {
        let mut question = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value).ok_or_else(|| wrong(pair))?;
            match key {
                "cluster" => question.cluster = Some(value),
                "node" => question.node = Some(value),
                "lag" => question.lag_max = Some(size(&value).ok_or_else(|| wrong(pair))?),
                _ => return Err(wrong(pair)),
            }
        }
        Ok(question)
    }

    fn is_about(&self, node: &NodeView) -> bool {
        self.node.as_ref().is_none_or(|wanted| **wanted == *node.name)
    }

    fn is_near(&self, node: &NodeView) -> bool {
        self.lag_max.is_none_or(|max| node.lag_bytes.is_some_and(|lag| lag <= max))
    }
}

fn wrong(pair: &str) -> Refusal {
    let error = format!("\"?{pair}\" is not understood; there are: cluster=NAME, node=NAME, lag=16MB");
    Refusal::new(StatusCode::BAD_REQUEST, "malformed", error)
}

/// A size with its unit, or bytes as Patroni's users write them.
fn size(text: &str) -> Option<u64> {
    text.parse::<u64>().ok().or_else(|| text.parse::<ByteSize>().ok().map(ByteSize::bytes))
}

/// A value in a URL.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                u8::try_from(digit(bytes.next())? * 16 + digit(bytes.next())?).ok()?
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

/// Yes or no, with what to tell a person.
fn answer(probe: Probe, view: &ClusterView, question: &Question) -> Result<&'static str, &'static str> {
    let primary = || match &view.primary {
        Some(primary) if question.node.as_ref().is_none_or(|node| **node == **primary) => Ok("it takes writes"),
        Some(_) => Err("another node takes writes"),
        None => Err("there is no primary"),
    };
    let replica = || {
        let fit = || view.nodes.iter().filter(|node| question.is_about(node) && node.unfit.is_none());
        match fit().next() {
            None => Err("no such replica gets reads"),
            Some(_) if fit().any(|node| question.is_near(node)) => Ok("a replica gets reads"),
            Some(_) => Err("further behind than that"),
        }
    };
    match probe {
        Probe::Primary => primary(),
        Probe::Replica => replica(),
        Probe::ReadOnly => primary().or_else(|_| replica()),
        Probe::Health => {
            let answers = view.nodes.iter().any(|node| question.is_about(node) && node.healthy);
            if answers { Ok("a node answers") } else { Err("no such node answers") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Role, Unfit};

    fn view() -> ClusterView {
        let node = |name: &str, unfit, lag| {
            let mut node = NodeView::unknown(name.into());
            (node.healthy, node.unfit, node.lag_bytes) = (true, unfit, Some(lag));
            node.role = Some(if unfit == Some(Unfit::Primary) { Role::Primary } else { Role::Standby });
            node
        };
        let mut dead = NodeView::unknown("d".into());
        dead.lag_bytes = Some(0);
        let nodes = vec![
            node("a", Some(Unfit::Primary), 0),
            node("b", None, 1_000),
            node("c", Some(Unfit::Lagging), 1 << 30),
            dead,
        ];
        ClusterView { primary: Some("a".into()), nodes, ..ClusterView::default() }
    }

    fn says(probe: Probe, query: &str, view: &ClusterView) -> bool {
        answer(probe, view, &Question::parse(query).unwrap()).is_ok()
    }

    #[test]
    fn each_probe_says_what_its_name_promises() {
        let all = view();
        let gone = ClusterView { primary: None, ..view() };
        for (probe, query, with, without) in [
            (Probe::Primary, "", true, false),
            (Probe::Primary, "node=a", true, false),
            (Probe::Primary, "node=b", false, false),
            (Probe::Replica, "", true, true),
            (Probe::Replica, "lag=1000", true, true),
            (Probe::Replica, "lag=999", false, false),
            (Probe::Replica, "lag=16MB&node=b", true, true),
            (Probe::Replica, "node=a", false, false),
            (Probe::Replica, "node=c", false, false),
            (Probe::ReadOnly, "node=a", true, false),
            (Probe::ReadOnly, "lag=1", true, false),
            (Probe::ReadOnly, "", true, true),
            (Probe::Health, "", true, true),
            (Probe::Health, "node=d", false, false),
        ] {
            assert_eq!(says(probe, query, &all), with, "{probe:?} {query} with a primary");
            assert_eq!(says(probe, query, &gone), without, "{probe:?} {query} without");
        }
    }

    #[test]
    fn a_question_is_understood_or_refused() {
        let question = Question::parse("cluster=m%61in&node=b+c&lag=16MB").unwrap();
        let expected =
            Question { cluster: Some("main".to_owned()), node: Some("b c".to_owned()), lag_max: Some(16 << 20) };
        assert_eq!(question, expected);
        for wrong in ["lag=", "lag=much", "lag=-1", "lags=1", "node=%zz", "node=%f", "tag_x=y", "cluster=%ff"] {
            assert!(Question::parse(wrong).is_err(), "{wrong}");
        }
    }
}
