//! The API as its clients see it, over real sockets; the coordinators are played.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::client::{self, Answer, Question};
use super::control::{Asked, Control};
use super::{Access, HttpAddress, HttpListener, Sources};
use crate::cluster::decide::{Accepted, Command, Event, Explanation, NodeExplanation, Reason, Refused};
use crate::cluster::ledger::Ledger;
use crate::config::{Http, Secret};
use crate::directive::Job;
use crate::topology::{Board, ClusterView, NodeView, Topology};

const BOUND: Duration = Duration::from_secs(20);
const ADMIN: &str = "admin-token-0123456789";
const READ: &str = "read-token-0123456789";

/// Accepts what names no node and refuses the rest.
#[derive(Default)]
struct Played {
    ledger: Ledger,
    asked: Mutex<Vec<(Command, String)>>,
}

impl Control for Played {
    fn ask(&self, cluster: &str, command: Command, correlation: &str) -> Asked<Result<Accepted, Refused>> {
        assert_eq!(cluster, "main");
        let answer = match &command {
            Command::Fence { node } => {
                Err(Refused { reason: Reason::UnknownNode, text: format!("there is no node \"{node}\"") })
            }
            Command::Switchover { .. } => Ok(Accepted { id: "main-s1".to_owned(), text: "a to b".to_owned() }),
            Command::Rebuild { .. } => Err(Refused { reason: Reason::Busy, text: "main-s1 runs".to_owned() }),
            _ => Ok(Accepted::default()),
        };
        self.asked.lock().push((command, correlation.to_owned()));
        Box::pin(std::future::ready(answer))
    }

    fn explanation(&self, cluster: &str) -> Option<Explanation> {
        let node = |name: &str| NodeExplanation {
            name: name.into(),
            state: "standby".to_owned(),
            agent: true,
            refused: None,
            note: None,
        };
        (cluster == "main").then(|| Explanation {
            mode: "automatic".to_owned(),
            state: "steady".to_owned(),
            primary: Some("a".into()),
            nodes: vec![node("a"), node("b")],
            ..Explanation::default()
        })
    }

    fn jobs(&self, _: &str, node: &str) -> Asked<Result<Vec<Job>, String>> {
        let answer = if node == "a" { Ok(Vec::new()) } else { Err("it does not answer".to_owned()) };
        Box::pin(std::future::ready(answer))
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

struct Api {
    address: HttpAddress,
    played: Arc<Played>,
    stop: tokio::sync::oneshot::Sender<()>,
    served: tokio::task::JoinHandle<()>,
}

/// Serves a managed cluster "main" and an observed one "other".
async fn serve(address: HttpAddress, tokens: bool) -> Api {
    let board = Arc::new(Board::new());
    let view = |node: &str| {
        let nodes = vec![NodeView::unknown(node.into())];
        Arc::new(ClusterView { primary: Some(node.into()), nodes, ..ClusterView::default() })
    };
    board.publish(Topology { clusters: [("main".into(), view("a")), ("other".into(), view("x"))].into() });
    let played = Arc::new(Played::default());
    let secret = |text: &str| tokens.then(|| Secret::new(text.to_owned()));
    let access = Access::of(&Http { admin_token: secret(ADMIN), read_token: secret(READ), ..Http::default() });
    let sources = Sources {
        control: Some(Arc::clone(&played) as Arc<dyn Control>),
        access: Arc::new(move || access.clone()),
        ..Sources::of(board)
    };
    let listener = HttpListener::bind(address).await.unwrap();
    let address = listener.address().clone();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let served = tokio::spawn(async move {
        let stopped = async {
            let _ = stopped.await;
        };
        listener.serve(sources, stopped).await.unwrap();
    });
    Api { address, played, stop, served }
}

async fn loopback(tokens: bool) -> Api {
    serve(HttpAddress::Tcp("127.0.0.1:0".to_owned()), tokens).await
}

impl Api {
    async fn ask(&self, path: &str, body: Option<&str>, token: Option<&str>) -> (u16, Value) {
        let (address, path) = (self.address.clone(), path.to_owned());
        let (body, token) = (body.map(str::to_owned), token.map(str::to_owned));
        let Answer { status, body } = tokio::task::spawn_blocking(move || {
            let question = Question {
                path: &path,
                body: body.as_deref().map(str::as_bytes),
                token: token.as_deref(),
                correlation: Some("c-1"),
            };
            client::ask(&address, &question, BOUND).unwrap()
        })
        .await
        .unwrap();
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(path, None, None).await
    }

    async fn post(&self, path: &str, body: &str) -> (u16, Value) {
        self.ask(path, Some(body), None).await
    }

    fn tcp(&self) -> TcpStream {
        let HttpAddress::Tcp(address) = &self.address else { unreachable!() };
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        socket
    }
}

#[tokio::test]
async fn a_command_reaches_its_coordinator_with_its_correlation_id() {
    let api = loopback(false).await;
    let (status, answer) = api.post("/clusters/main/switchover", r#"{"to":"b"}"#).await;
    assert_eq!((status, answer), (202, json!({"id": "main-s1", "text": "a to b", "correlation": "c-1"})));
    assert_eq!(api.post("/clusters/main/pause", "").await.0, 200);
    let asked = api.played.asked.lock().clone();
    let switchover = Command::Switchover { to: Some("b".into()) };
    assert_eq!(asked, [(switchover, "c-1".to_owned()), (Command::Pause, "c-1".to_owned())]);
}

#[tokio::test]
async fn every_refusal_is_json_with_a_reason() {
    let api = loopback(false).await;
    let long = format!("{{\"to\":\"{}\"}}", "x".repeat(20_000));
    for (path, body, status, reason, words) in [
        ("/clusters/main/fence", r#"{"node":"z"}"#, 404, "unknown-node", "no node \"z\""),
        ("/clusters/main/rebuild", r#"{"node":"b"}"#, 409, "busy", "main-s1 runs"),
        ("/clusters/main/promote", "{}", 404, "unknown-command", "there are: switchover, failover"),
        ("/clusters/main/switchover", "{\"to\":", 400, "malformed", "no JSON object"),
        ("/clusters/main/switchover", r#"{"to":"b","force":true}"#, 400, "malformed", "takes no \"force\""),
        ("/clusters/main/switchover", &long, 413, "too-large", "larger than 16 kB"),
        ("/clusters/other/pause", "{}", 409, "not-managed", "only observed"),
        ("/clusters/nobody/pause", "{}", 404, "unknown-cluster", "there are: main, other"),
        ("/clusters/main/history", "{}", 405, "wrong-method", "does not take POST"),
        ("/nothing", "{}", 404, "unknown-path", "\"/nothing\""),
    ] {
        let (code, answer) = api.post(path, body).await;
        let error = answer["error"].as_str().unwrap_or_default();
        assert_eq!((code, answer["reason"].as_str()), (status, Some(reason)), "{path}: {answer}");
        assert!(error.contains(words), "{path}: {error}");
    }
    for (path, status, reason) in [
        ("/clusters/nobody", 404, "unknown-cluster"),
        ("/clusters/main/operations/none", 404, "unknown-operation"),
        ("/clusters/main/nodes/z/jobs", 404, "unknown-node"),
        ("/clusters/main/nodes/b/jobs", 502, "unreachable"),
        ("/clusters/other/nodes/x/jobs", 409, "not-managed"),
        ("/clusters/main/events?since=7", 400, "malformed"),
        ("/clusters/main/pause", 405, "wrong-method"),
    ] {
        let (code, answer) = api.get(path).await;
        assert_eq!((code, answer["reason"].as_str()), (status, Some(reason)), "{path}: {answer}");
    }
    assert_eq!(api.played.asked.lock().len(), 2, "nothing but what was understood came there");
}

#[tokio::test]
async fn what_is_known_of_a_cluster_can_be_looked_at() {
    let api = loopback(false).await;
    let event = Event { node: None, grave: false, operation: None, text: "it begins".to_owned() };
    api.played.ledger.tell(&"main".into(), 7, event);
    assert_eq!(api.get("/clusters/main").await.1["state"], "steady");
    let (status, observed) = api.get("/clusters/other").await;
    assert_eq!((status, &observed["mode"], &observed["primary"]), (200, &json!("observe"), &json!("x")));
    assert_eq!(api.get("/clusters/main/events").await.1[0]["text"], "it begins");
    for path in
        ["/clusters/main/history", "/clusters/main/operations", "/clusters/other/history", "/clusters/other/events"]
    {
        assert_eq!(api.get(path).await, (200, json!([])), "{path}");
    }
    assert_eq!(api.get("/clusters/main/nodes/a/jobs").await, (200, json!([])));
    let (_, status) = api.get("/status").await;
    let main = &status["clusters"][0];
    assert_eq!(
        (&main["mode"], &main["state"], &main["appointed"]),
        (&json!("automatic"), &json!("steady"), &json!("a"))
    );
    assert_eq!((&main["nodes"][0]["agent"], &main["nodes"][0]["state"]), (&json!(true), &json!("standby")));
    assert_eq!(status["clusters"][1]["mode"], "observe");
    let (_, metrics) = api.get("/metrics").await;
    assert!(
        metrics.as_str().unwrap().contains("howdah_failovers_total{cluster=\"main\",outcome=\"done\",class=\"\"} 0")
    );
}

#[tokio::test]
async fn with_tokens_each_lets_in_for_what_it_is() {
    let api = loopback(true).await;
    for (path, body, token, status, reason) in [
        ("/clusters/main/pause", Some("{}"), None, 401, "no-token"),
        ("/clusters/main/pause", Some("{}"), Some("wrong"), 401, "wrong-token"),
        ("/clusters/main/pause", Some("{}"), Some(READ), 403, "read-only-token"),
        ("/clusters/main", None, None, 401, "no-token"),
        ("/metrics", None, None, 401, "no-token"),
        ("/clusters/main/events?follow", None, Some("wrong"), 401, "wrong-token"),
    ] {
        let (code, answer) = api.ask(path, body, token).await;
        assert_eq!((code, answer["reason"].as_str()), (status, Some(reason)), "{path}: {answer}");
    }
    assert!(api.played.asked.lock().is_empty());
    assert_eq!(api.ask("/clusters/main/pause", Some("{}"), Some(ADMIN)).await.0, 200);
    assert_eq!(api.ask("/clusters/main", None, Some(READ)).await.0, 200);
    assert_eq!(api.get("/healthz").await.0, 200);
    assert_eq!(api.get("/readyz").await.0, 200);
}

#[tokio::test]
async fn without_tokens_nobody_changes_anything_over_a_network_or_from_a_browser() {
    let everywhere = serve(HttpAddress::Tcp("0.0.0.0:0".to_owned()), false).await;
    let (code, answer) = everywhere.post("/clusters/main/pause", "{}").await;
    assert_eq!((code, &answer["reason"]), (403, &json!("no-admin-token")));
    assert_eq!(everywhere.get("/clusters/main").await.0, 200);
    let api = loopback(false).await;
    let page = api.tcp();
    let request = "POST /clusters/main/pause HTTP/1.1\r\nHost: x\r\nOrigin: http://evil.example\r\n\
                   Content-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    let answered = tokio::task::spawn_blocking(move || {
        (&page).write_all(request.as_bytes()).unwrap();
        let mut first = String::new();
        BufReader::new(page).read_line(&mut first).unwrap();
        first
    });
    let first = answered.await.unwrap();
    assert!(first.contains(" 403 "), "{first}");
    assert!(api.played.asked.lock().is_empty() && everywhere.played.asked.lock().is_empty());
}

#[tokio::test]
async fn a_unix_socket_is_for_its_owner_and_group() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let api = serve(HttpAddress::Unix(path.clone()), false).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert_eq!(api.post("/clusters/main/pause", "{}").await.0, 200);
}

#[tokio::test]
async fn who_follows_gets_each_event_once_until_the_daemon_goes() {
    let api = loopback(false).await;
    let tell = |text: &str| {
        let event = Event { node: None, grave: false, operation: None, text: text.to_owned() };
        api.played.ledger.tell(&"main".into(), 7, event.clone());
        api.played.ledger.tell(&"other".into(), 7, event);
    };
    tell("before");
    let mut follower = api.tcp();
    follower.write_all(b"GET /clusters/main/events?follow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let (lines, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let reading = std::thread::spawn(move || {
        for line in BufReader::new(follower).lines().map_while(Result::ok).filter(|line| line.starts_with('{')) {
            let _ = lines.send(serde_json::from_str::<Value>(&line).unwrap()["text"].clone());
        }
    });
    assert_eq!(tokio::time::timeout(BOUND, heard.recv()).await.unwrap().unwrap(), "before");
    tell("after");
    assert_eq!(tokio::time::timeout(BOUND, heard.recv()).await.unwrap().unwrap(), "after");
    api.stop.send(()).unwrap();
    tokio::time::timeout(BOUND, api.served).await.expect("a stream does not keep the daemon").unwrap();
    reading.join().unwrap();
    assert_eq!(heard.recv().await, None, "nothing of the other cluster");
}
