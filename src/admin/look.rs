//! `GET /clusters/NAME` and what is below it: what the coordinator makes of a cluster, what it has done, what agents do.
//!
//! `…/events?follow` is a stream with one event per line, the last ones first, until the reader or the daemon goes. Not here:
//! commands (`operate`).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::Json;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use tokio::sync::{broadcast, mpsc, watch};

use super::control::Control;
use super::http::Sources;
use super::refusal::Refusal;
use crate::cluster::decide::{Explanation, NodeExplanation};
use crate::cluster::ledger::Told;
use crate::topology::{ClusterView, Role};

/// Lines that wait for a reader of a stream.
const LINES: usize = 64;

/// `GET /clusters/NAME`
pub(super) async fn cluster(
    State(sources): State<Sources>,
    Path(cluster): Path<String>,
) -> Result<Json<Explanation>, Refusal> {
    match sources.control.as_ref().and_then(|control| control.explanation(&cluster)) {
        Some(explanation) => Ok(Json(explanation)),
        None => Ok(Json(observed(&*view(&sources, &cluster)?))),
    }
}

/// `GET /clusters/NAME/history`
pub(super) async fn history(State(sources): State<Sources>, Path(cluster): Path<String>) -> Result<Response, Refusal> {
    Ok(match known(&sources, &cluster)? {
        Some(control) => Json(control.ledger().history(&cluster)).into_response(),
        None => Json([(); 0]).into_response(),
    })
}

/// `GET /clusters/NAME/operations`
pub(super) async fn operations(
    State(sources): State<Sources>,
    Path(cluster): Path<String>,
) -> Result<Response, Refusal> {
    Ok(match known(&sources, &cluster)? {
        Some(control) => Json(control.ledger().operations(&cluster)).into_response(),
        None => Json([(); 0]).into_response(),
    })
}

/// `GET /clusters/NAME/operations/ID`
pub(super) async fn operation(
    State(sources): State<Sources>,
    Path((cluster, id)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let found = known(&sources, &cluster)?.and_then(|control| control.ledger().operation(&cluster, &id));
    match found {
        Some(operation) => Ok(Json(operation).into_response()),
        None => {
            let error = format!("there is no operation \"{id}\", or it was long ago");
            Err(Refusal::new(StatusCode::NOT_FOUND, "unknown-operation", error))
        }
    }
}

/// `GET /clusters/NAME/nodes/NODE/jobs`
pub(super) async fn jobs(
    State(sources): State<Sources>,
    Path((cluster, node)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let Some(control) = known(&sources, &cluster)? else {
        let error = format!("cluster \"{cluster}\" is only observed: its nodes have no jobs");
        return Err(Refusal::new(StatusCode::CONFLICT, "not-managed", error));
    };
    let explanation = control.explanation(&cluster).unwrap_or_default();
    if !explanation.nodes.iter().any(|known| *known.name == *node) {
        let names: Vec<&str> = explanation.nodes.iter().map(|node| &*node.name).collect();
        let error = format!("there is no node \"{node}\" in cluster \"{cluster}\"; there are: {}", names.join(", "));
        return Err(Refusal::new(StatusCode::NOT_FOUND, "unknown-node", error));
    }
    match control.jobs(&cluster, &node).await {
        Ok(jobs) => Ok(Json(jobs).into_response()),
        Err(error) => Err(Refusal::new(StatusCode::BAD_GATEWAY, "unreachable", error)),
    }
}

/// `GET /clusters/NAME/events`, `?follow`
pub(super) async fn events(
    State(sources): State<Sources>,
    Path(cluster): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let follow = match query.as_deref() {
        None | Some("") => false,
        Some("follow" | "follow=" | "follow=true") => true,
        Some(other) => {
            let error = format!("\"?{other}\" is not understood; there is: ?follow");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "malformed", error));
        }
    };
    let control = known(&sources, &cluster)?;
    if !follow {
        let events = control.map(|control| control.ledger().events(&cluster)).unwrap_or_default();
        return Ok(Json(events).into_response());
    }
    let (lines, body) = mpsc::channel(LINES);
    tokio::spawn(follow_events(control, cluster, lines, sources.closing.clone()));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(Lines(body))).into_response())
}

async fn follow_events(
    control: Option<Arc<dyn Control>>,
    cluster: String,
    lines: mpsc::Sender<Bytes>,
    mut closing: watch::Receiver<bool>,
) {
    let mut news = control.as_ref().map(|control| control.ledger().follow());
    let mut seen = 0;
    for told in control.iter().flat_map(|control| control.ledger().events(&cluster)) {
        seen = told.seq;
        if lines.send(line(&told)).await.is_err() {
            return;
        }
    }
    loop {
        let told = tokio::select! {
            () = lines.closed() => return,
            _ = closing.wait_for(|closing| *closing) => return,
            told = next(&mut news) => told,
        };
        match told {
            Ok(told) if *told.cluster == *cluster && told.seq > seen => {
                if lines.send(line(&told)).await.is_err() {
                    return;
                }
            }
            // a reader that is slower than all this gets what is left
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

async fn next(news: &mut Option<broadcast::Receiver<Arc<Told>>>) -> Result<Arc<Told>, broadcast::error::RecvError> {
    match news {
        Some(news) => news.recv().await,
        None => std::future::pending().await,
    }
}

fn line(told: &Told) -> Bytes {
    let mut line = serde_json::to_vec(told).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

/// A body that ends when nobody writes it any more.
struct Lines(mpsc::Receiver<Bytes>);

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(ready!(self.0.poll_recv(cx)).map(|line| Ok(Frame::data(line))))
    }
}

/// The coordinators, if this cluster has one.
fn known(sources: &Sources, cluster: &str) -> Result<Option<Arc<dyn Control>>, Refusal> {
    let managed = sources.control.as_ref().filter(|control| control.explanation(cluster).is_some());
    match managed {
        Some(control) => Ok(Some(Arc::clone(control))),
        None => view(sources, cluster).map(|_| None),
    }
}

fn view(sources: &Sources, cluster: &str) -> Result<Arc<ClusterView>, Refusal> {
    let topology = sources.board.read();
    let found = topology.clusters.get(cluster).map(Arc::clone);
    found.ok_or_else(|| Refusal::no_cluster(cluster, topology.clusters.keys().map(|name| &**name)))
}

/// A cluster that nobody here looks after.
fn observed(view: &ClusterView) -> Explanation {
    let state = |role: Option<Role>| match role {
        Some(Role::Primary) => "primary",
        Some(Role::Standby) => "standby",
        None => "unknown",
    };
    let nodes = view.nodes.iter().map(|node| NodeExplanation {
        name: node.name.clone(),
        state: state(node.role).to_owned(),
        agent: false,
        refused: None,
        note: node.trouble.clone(),
    });
    Explanation {
        mode: "observe".to_owned(),
        state: "observing".to_owned(),
        epoch: view.epoch,
        primary: view.primary.clone(),
        nodes: nodes.collect(),
        ..Explanation::default()
    }
}
