//! `POST /reload`: the files are read again; the answer says what has changed and what waits for a restart, or everything that is
//! wrong with them.
//!
//! Not here: reloading (`cli/reload`).

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, body::Bytes, extract::rejection::BytesRejection};
use serde::Serialize;

use super::access::Correlation;
use super::http::Sources;
use super::refusal::{Refusal, body};
use crate::config::reload::order::NotReloaded;
use crate::config::{Place, Problem};

/// The body is empty, or `{}`.
pub(super) const BODY_BYTES_MAX: usize = 1024;

/// One thing that is wrong, for programs.
#[derive(Debug, Serialize)]
pub struct ProblemRow {
    file: String,
    line: Option<usize>,
    column: Option<usize>,
    key: String,
    message: String,
    advice: Option<String>,
}

impl From<&Problem> for ProblemRow {
    fn from(problem: &Problem) -> Self {
        let Problem { file, place, key, message, advice, excerpt: _ } = problem;
        Self {
            file: file.display().to_string(),
            line: place.map(|Place { line, .. }| line),
            column: place.map(|Place { column, .. }| column),
            key: key.clone(),
            message: message.clone(),
            advice: advice.clone(),
        }
    }
}

#[derive(Serialize)]
struct Wrong {
    error: String,
    reason: &'static str,
    problems: Vec<ProblemRow>,
}

pub(super) async fn reload(
    State(sources): State<Sources>,
    Extension(Correlation(correlation)): Extension<Correlation>,
    bytes: Result<Bytes, BytesRejection>,
) -> Response {
    match body(bytes, BODY_BYTES_MAX) {
        Err(refusal) => return refusal.into_response(),
        Ok(body) if !matches!(body.trim_ascii(), b"" | b"{}") => {
            let error = "a reload takes nothing but what the files say: send no body";
            return Refusal::new(StatusCode::BAD_REQUEST, "malformed", error).into_response();
        }
        Ok(_) => {}
    }
    let Some(reloads) = &sources.reloads else {
        let error = "this howdah has no configuration file";
        return Refusal::new(StatusCode::CONFLICT, "no-file", error).into_response();
    };
    match reloads.reload(format!("the API, {correlation}")).await {
        Ok(reloaded) => Json(reloaded).into_response(),
        Err(NotReloaded::Problems(problems)) => {
            let wrong = Wrong {
                error: format!("reload refused, nothing has changed:\n{problems}"),
                reason: "bad-configuration",
                problems: problems.iter().map(ProblemRow::from).collect(),
            };
            (StatusCode::UNPROCESSABLE_ENTITY, Json(wrong)).into_response()
        }
        Err(busy @ NotReloaded::Busy(_)) => {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", busy.to_string()).into_response()
        }
    }
}
