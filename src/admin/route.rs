//! `POST /route`: where a statement would go, and why.
//!
//! The body is a JSON object with `database`, `user`, and `sql`, or `sql_base64` for a text that is not UTF-8. The answer is an
//! [`Explanation`], or a [`Refusal`]. Not here: the answer itself (`proxy/route/explain`).

use std::pin::Pin;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::http::Sources;
pub use super::refusal::Refusal;
use crate::proxy::route::explain::{ExplainError, Explanation, Question};

/// Longest body: a text of 16 kB, which is as long as anybody looks into one, in JSON's longest spelling.
pub const BODY_BYTES_MAX: usize = 128 * 1024;

/// Explains a statement, on the thread that serves HTTP; see [`explain`](crate::proxy::route::explain::explain).
pub type Explain = Arc<dyn Fn(Question) -> Answer + Send + Sync>;
/// What [`Explain`] comes to.
pub type Answer = Pin<Box<dyn Future<Output = Result<Explanation, ExplainError>> + Send>>;

/// The body, as clients write it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteRequest {
    /// The database, as clients name it.
    pub database: String,
    /// The user.
    pub user: String,
    /// The statement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
    /// The same for any bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql_base64: Option<String>,
}

impl RouteRequest {
    /// Asks for a statement of any encoding.
    #[must_use]
    pub fn new(database: &str, user: &str, sql: &[u8]) -> Self {
        let (text, base64) = match std::str::from_utf8(sql) {
            Ok(text) => (Some(text.to_owned()), None),
            Err(_) => (None, Some(STANDARD.encode(sql))),
        };
        Self { database: database.to_owned(), user: user.to_owned(), sql: text, sql_base64: base64 }
    }

    fn question(self) -> Result<Question, String> {
        let sql = match (self.sql, self.sql_base64) {
            (Some(sql), None) => sql.into_bytes(),
            (None, Some(base64)) => STANDARD.decode(base64).map_err(|error| format!("\"sql_base64\": {error}"))?,
            (None, None) => return Err("\"sql\" is missing: the statement".to_owned()),
            (Some(_), Some(_)) => return Err("\"sql\" and \"sql_base64\" are both given: keep one".to_owned()),
        };
        Ok(Question { database: self.database, user: self.user, sql })
    }
}

/// The handler.
pub(super) async fn route(State(sources): State<Sources>, body: Result<Bytes, BytesRejection>) -> Response {
    let request = super::refusal::body(body, BODY_BYTES_MAX).and_then(|body| {
        let request = serde_json::from_slice::<RouteRequest>(&body).map_err(|error| format!("not understood: {error}"));
        let question = request.and_then(RouteRequest::question);
        question.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, "malformed", error))
    });
    match request {
        Err(refusal) => refusal.into_response(),
        Ok(question) => match (sources.explain)(question).await {
            Ok(explanation) => Json(explanation).into_response(),
            Err(error @ ExplainError::NoSuchDatabase(_)) => {
                Refusal::new(StatusCode::NOT_FOUND, "unknown-database", error.to_string()).into_response()
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_holds_any_bytes() {
        for sql in [b"select 1".as_slice(), b"select '\xff'", b""] {
            let written = serde_json::to_vec(&RouteRequest::new("app", "me", sql)).unwrap();
            let read: RouteRequest = serde_json::from_slice(&written).unwrap();
            let question = Question { database: "app".to_owned(), user: "me".to_owned(), sql: sql.to_vec() };
            assert_eq!(read.question(), Ok(question));
        }
    }

    #[test]
    fn a_request_that_lacks_its_statement_is_told_so() {
        let read = |text: &str| serde_json::from_str::<RouteRequest>(text).unwrap().question();
        assert!(read(r#"{"database":"a","user":"b"}"#).unwrap_err().contains("\"sql\" is missing"));
        assert!(read(r#"{"database":"a","user":"b","sql":"","sql_base64":""}"#).unwrap_err().contains("both given"));
        assert!(read(r#"{"database":"a","user":"b","sql_base64":"?"}"#).unwrap_err().contains("sql_base64"));
    }
}
