//! The agent's API, the only way in: HTTP over a Unix socket and over mutual TLS ([`directive`](crate::directive) has the table).
//!
//! Who is at the other end is known before the first byte is read: by `SO_PEERCRED` on the socket, by the common name of the
//! certificate over TLS. Not here: what an order does (`job`).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_core::Stream;
use tokio::sync::mpsc;

use super::events::Events;
use super::job::{Engine, Taken};
use super::peer::{Peer, PeerListener};
use crate::directive::{Code, Failure, ORDER_BYTES_MAX, Order};

/// Lines that a connection may be behind before its listener is.
const LINES_AHEAD: usize = 16;

#[derive(Clone)]
struct Shared {
    engine: Arc<Engine>,
    events: Arc<Events>,
}

/// Serves one listener for ever.
///
/// # Errors
/// When serving ends by itself.
pub async fn serve(listener: PeerListener, engine: Arc<Engine>, events: Arc<Events>) -> std::io::Result<()> {
    let routes = routes(Shared { engine, events });
    axum::serve(listener, routes.into_make_service_with_connect_info::<Peer>()).await
}

fn routes(shared: Shared) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/events", get(follow))
        .route("/v1/jobs", get(jobs).post(take))
        .route("/v1/jobs/{id}", get(job))
        .fallback(async || refusal(StatusCode::NOT_FOUND, &Failure::new(Code::Unknown, "there is no such path")))
        .layer(DefaultBodyLimit::max(ORDER_BYTES_MAX))
        .layer(middleware::from_fn(let_in))
        .with_state(shared)
}

/// Answers nobody who may not ask.
async fn let_in(ConnectInfo(peer): ConnectInfo<Peer>, request: Request, next: Next) -> Response {
    match peer.refused {
        None => next.run(request).await,
        Some(why) => {
            tracing::warn!(peer = peer.name, why, "refused");
            refusal(StatusCode::FORBIDDEN, &Failure::new(Code::Permission, why))
        }
    }
}

fn refusal(status: StatusCode, failure: &Failure) -> Response {
    (status, Json(failure)).into_response()
}

async fn status(State(shared): State<Shared>) -> Response {
    match shared.events.latest().await {
        Some(status) => Json(&*status).into_response(),
        None => refusal(StatusCode::SERVICE_UNAVAILABLE, &Failure::new(Code::Internal, "the agent is ending")),
    }
}

async fn jobs(State(shared): State<Shared>) -> Response {
    Json(shared.engine.jobs()).into_response()
}

async fn job(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    match shared.engine.job(&id) {
        Some(job) => Json(job).into_response(),
        None => refusal(StatusCode::NOT_FOUND, &Failure::new(Code::Unknown, format!("there is no job \"{id}\""))),
    }
}

async fn take(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => {
            let text = if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                format!("an order has {ORDER_BYTES_MAX} bytes at most")
            } else {
                rejection.body_text()
            };
            return refusal(rejection.status(), &Failure::new(Code::Malformed, text));
        }
    };
    let order: Order = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(error) => {
            return refusal(StatusCode::BAD_REQUEST, &Failure::new(Code::Malformed, format!("not an order: {error}")));
        }
    };
    let (id, correlation, directive) = (order.id.clone(), order.correlation.clone(), order.directive.name());
    match shared.engine.take(order).await {
        Ok(Taken::New(job)) => (StatusCode::ACCEPTED, Json(job)).into_response(),
        Ok(Taken::Known(job)) => Json(job).into_response(),
        Err(failure) => {
            tracing::warn!(job = id, correlation, directive, peer = peer.name, error = %failure, "refused an order");
            refusal(status_of(failure.code), &failure)
        }
    }
}

/// 409 for what may be different at another time or from somebody else, 422 for what this node cannot do.
fn status_of(code: Code) -> StatusCode {
    match code {
        Code::Malformed => StatusCode::BAD_REQUEST,
        Code::Busy | Code::StaleEpoch | Code::OtherCoordinator | Code::WrongState | Code::WrongRole => {
            StatusCode::CONFLICT
        }
        Code::Unknown => StatusCode::NOT_FOUND,
        Code::WrongNode
        | Code::Diverged
        | Code::OtherSystem
        | Code::Unreachable
        | Code::RewindImpossible
        | Code::DiskFull
        | Code::Permission
        | Code::Program
        | Code::TimedOut
        | Code::Interrupted
        | Code::NotUndone
        | Code::Internal => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

/// A line of JSON per event, for as long as somebody reads.
async fn follow(State(shared): State<Shared>) -> Response {
    let (lines, stream) = mpsc::channel(LINES_AHEAD);
    let mut listener = shared.events.listen();
    tokio::spawn(async move {
        loop {
            let line = tokio::select! {
                line = listener.next() => line,
                () = lines.closed() => return,
            };
            let Some(line) = line else { return };
            if lines.send(Bytes::copy_from_slice(line.as_bytes())).await.is_err() {
                return;
            }
        }
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(Lines(stream))).into_response()
}

struct Lines(mpsc::Receiver<Bytes>);

impl Stream for Lines {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|line| line.map(Ok))
    }
}
