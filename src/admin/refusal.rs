//! Every answer of the API that is none: `{"error": TEXT, "reason": WORD}`. The word is for programs.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::cluster::decide::{Reason, Refused};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For people.
    pub error: String,
    /// For programs: a [`Reason`] of the coordinator, or one of the API's own.
    #[serde(default)]
    pub reason: String,
    #[serde(skip)]
    status: u16,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, reason: &str, error: impl Into<String>) -> Self {
        Self { error: error.into(), reason: reason.to_owned(), status: status.as_u16() }
    }

    /// There is no such cluster.
    pub(super) fn no_cluster<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        let known = known.collect::<Vec<_>>().join(", ");
        let error = match known.is_empty() {
            true => format!("there is no cluster \"{name}\", nor any other"),
            false => format!("there is no cluster \"{name}\"; there are: {known}"),
        };
        Self::new(StatusCode::NOT_FOUND, "unknown-cluster", error)
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let status = match refused.reason {
            Reason::UnknownNode => StatusCode::NOT_FOUND,
            Reason::StoreFailed => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::CONFLICT,
        };
        Self::new(status, &word(refused.reason), refused.text)
    }
}

/// A reason as JSON writes it.
pub(super) fn word(reason: Reason) -> String {
    match serde_json::to_value(reason) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "unknown".to_owned(),
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self)).into_response()
    }
}

/// A body of bounded size.
pub(super) fn body(body: Result<Bytes, BytesRejection>, bytes_max: usize) -> Result<Bytes, Refusal> {
    body.map_err(|rejection| match rejection.status() {
        status @ StatusCode::PAYLOAD_TOO_LARGE => {
            Refusal::new(status, "too-large", format!("the request is larger than {} kB", bytes_max / 1024))
        }
        status => Refusal::new(status, "malformed", rejection.body_text()),
    })
}
