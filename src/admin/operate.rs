//! `POST /clusters/NAME/COMMAND`: asks a cluster's coordinator for something.
//!
//! The body is a JSON object with the fields of the [`Command`]; none at all is an empty one. Not here: whether it is done (`cluster/decide`),
//! who may ask (`access`).

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::access::Correlation;
use super::http::Sources;
use super::refusal::{Refusal, body};
use crate::cluster::decide::{Accepted, Command};

/// No command is longer.
pub const BODY_BYTES_MAX: usize = 16 * 1024;
/// A coordinator answers at once, or when its record is stored.
const ANSWER_BOUND: Duration = Duration::from_secs(5);

/// Each command, and the fields it takes.
pub const COMMANDS: [(&str, &[&str]); 10] = [
    ("switchover", &["to"]),
    ("failover", &["to", "vouch", "allow_data_loss"]),
    ("pause", &[]),
    ("resume", &[]),
    ("attach", &["node"]),
    ("detach", &["node"]),
    ("fence", &["node"]),
    ("unfence", &["node"]),
    ("rebuild", &["node"]),
    ("restart", &["node"]),
];

/// The answer to a command that is carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// The operation, for `GET /clusters/NAME/operations/ID`; empty when it is done already.
    pub id: String,
    /// In words.
    pub text: String,
    /// The request's, also in its header `X-Correlation-Id`.
    pub correlation: String,
}

/// The handler.
pub(super) async fn operate(
    State(sources): State<Sources>,
    Extension(Correlation(correlation)): Extension<Correlation>,
    Path((cluster, name)): Path<(String, String)>,
    bytes: Result<Bytes, BytesRejection>,
) -> Response {
    let command = body(bytes, BODY_BYTES_MAX).and_then(|bytes| read(&name, &bytes));
    let asked = match command {
        Ok(command) => ask(sources, cluster, command, correlation).await,
        Err(refusal) => Err(refusal),
    };
    match asked {
        Ok(taken) if taken.id.is_empty() => Json(taken).into_response(),
        Ok(taken) => (StatusCode::ACCEPTED, Json(taken)).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

/// What the path and the body say.
fn read(name: &str, bytes: &[u8]) -> Result<Command, Refusal> {
    let Some((_, fields)) = COMMANDS.iter().find(|(known, _)| *known == name) else {
        let known = COMMANDS.map(|(name, _)| name).join(", ");
        let error = format!("there is no command \"{name}\"; there are: {known}");
        return Err(Refusal::new(StatusCode::NOT_FOUND, "unknown-command", error));
    };
    let malformed = |error: String| Refusal::new(StatusCode::BAD_REQUEST, "malformed", error);
    let blank = bytes.iter().all(u8::is_ascii_whitespace);
    let mut object = match blank {
        true => Map::new(),
        false => serde_json::from_slice::<Map<String, Value>>(bytes)
            .map_err(|error| malformed(format!("the body is no JSON object: {error}")))?,
    };
    if let Some(unknown) = object.keys().find(|key| !fields.contains(&key.as_str())) {
        let takes = match fields {
            [] => "nothing".to_owned(),
            fields => fields.join(", "),
        };
        return Err(malformed(format!("\"{name}\" takes no \"{unknown}\"; it takes: {takes}")));
    }
    object.insert("command".to_owned(), name.into());
    serde_json::from_value(Value::Object(object)).map_err(|error| malformed(format!("\"{name}\": {error}")))
}

async fn ask(sources: Sources, cluster: String, command: Command, correlation: String) -> Result<Taken, Refusal> {
    let known = sources.board.read();
    let is_known = known.clusters.contains_key(cluster.as_str());
    let managed = sources.control.as_ref().filter(|control| control.explanation(&cluster).is_some());
    let Some(control) = managed.cloned() else {
        return Err(match is_known {
            true => Refusal::new(
                StatusCode::CONFLICT,
                "not-managed",
                format!(
                    "cluster \"{cluster}\" is only observed: write \"agent\" at every node of it, and no mode = \"observe\""
                ),
            ),
            false => Refusal::no_cluster(&cluster, known.clusters.keys().map(|name| &**name)),
        });
    };
    let told = command.clone();
    tracing::info!(correlation, cluster, command = ?told, "api: asked");
    // it goes on although who asked may hang up: the coordinator says in the log what came of it
    let asked = tokio::spawn(async move {
        let answer = tokio::time::timeout(ANSWER_BOUND, control.ask(&cluster, command, &correlation)).await;
        if answer.is_err() {
            tracing::error!(correlation, cluster, command = ?told, "api: no answer from the coordinator");
        }
        (answer, correlation)
    });
    match asked.await {
        Ok((Ok(Ok(Accepted { id, text })), correlation)) => Ok(Taken { id, text, correlation }),
        Ok((Ok(Err(refused)), _)) => Err(refused.into()),
        Ok((Err(_), _)) | Err(_) => {
            let error = "the coordinator has not answered in time; it may still do it: look at the status";
            Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, "no-answer", error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_its_name_and_the_fields_it_takes() {
        let to = |to: Option<&str>| Command::Switchover { to: to.map(Into::into) };
        assert_eq!(read("switchover", b""), Ok(to(None)));
        assert_eq!(read("switchover", b" \n"), Ok(to(None)));
        assert_eq!(read("switchover", br#"{"to": "b"}"#), Ok(to(Some("b"))));
        assert_eq!(read("switchover", br#"{"to": null}"#), Ok(to(None)));
        assert_eq!(read("pause", b"{}"), Ok(Command::Pause));
        assert_eq!(read("fence", br#"{"node":"a"}"#), Ok(Command::Fence { node: "a".into() }));
        let failover = Command::Failover { to: None, vouch: Some("a".into()), allow_data_loss: true };
        assert_eq!(read("failover", br#"{"vouch":"a","allow_data_loss":true}"#), Ok(failover));
        for (name, _) in COMMANDS {
            assert!(read(name, br#"{"node":"a"}"#).is_ok() || read(name, b"{}").is_ok(), "{name}");
        }
    }

    #[test]
    fn what_is_no_command_is_told_why() {
        let said = |name: &str, body: &str| {
            let refusal = read(name, body.as_bytes()).unwrap_err();
            format!("{}: {}", refusal.reason, refusal.error)
        };
        assert!(said("promote", "").starts_with("unknown-command: there is no command \"promote\"; there are: switch"));
        assert!(said("pause", r#"{"node":"a"}"#).contains("takes no \"node\"; it takes: nothing"));
        assert!(said("switchover", r#"{"target":"b"}"#).contains("takes no \"target\"; it takes: to"));
        assert!(said("switchover", r#"{"command":"pause"}"#).contains("takes no \"command\""));
        assert!(said("fence", "{}").contains("missing field `node`"));
        assert!(said("failover", r#"{"allow_data_loss":"yes"}"#).starts_with("malformed: \"failover\""));
        for body in ["[]", "7", "{", "\"b\"", "{\"to\":\"b\"} x"] {
            assert!(said("switchover", body).contains("no JSON object"), "{body}");
        }
    }
}
