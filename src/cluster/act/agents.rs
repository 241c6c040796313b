//! The agents of one cluster: a listener each, which turns what it hears into inputs, and the sending of orders.
//!
//! An agent whose stream is silent for three heartbeats, or breaks, is reported silent once; it is tried again at once, and then
//! at growing intervals up to a second. An order is sent on a connection of its own; whether it has arrived is not always known,
//! and then said so. Not here: what follows (`decide`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::line::{AgentWay, LineError};
use crate::cluster::decide::Input;
use crate::directive::{AgentEvent, AgentStatus, Code, Failure, HEARTBEAT, Job, Order};
use crate::topology::NodeName;

/// The first pause before listening again; doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// No event is longer.
const LINE_BYTES_MAX: usize = 4 << 20;

/// What listeners report to.
type Inputs = mpsc::UnboundedSender<Input>;

/// The agents of one cluster. Dropping it stops the listening.
#[derive(Debug)]
pub struct Agents {
    inputs: Inputs,
    agents: BTreeMap<NodeName, (Arc<AgentWay>, AbortHandle)>,
}

impl Agents {
    /// Nobody yet. What is heard goes to `inputs`.
    #[must_use]
    pub fn new(inputs: Inputs) -> Self {
        Self { inputs, agents: BTreeMap::new() }
    }

    /// Listens to these agents from now on; to those that stay where they are without a break.
    pub fn replace(&mut self, ways: Vec<(NodeName, AgentWay)>) {
        let mut before = std::mem::take(&mut self.agents);
        for (node, way) in ways {
            let kept = before.remove(&node).filter(|(known, _)| **known == way);
            let entry = kept.unwrap_or_else(|| {
                let way = Arc::new(way);
                let listener = tokio::spawn(listen(node.clone(), Arc::clone(&way), self.inputs.clone()));
                (way, listener.abort_handle())
            });
            if let Some((_, replaced)) = self.agents.insert(node, entry) {
                replaced.abort();
            }
        }
        // those that have moved are among them: their old listeners
        before.into_values().for_each(|(_, listener)| listener.abort());
    }

    /// Sends an order in the background; how that went comes back as an input.
    pub fn send(&self, node: &NodeName, order: Order) {
        let Some((way, _)) = self.agents.get(node) else {
            let why = "the node has no agent".to_owned();
            let _ = self.inputs.send(Input::Undelivered(node.clone(), order.id, why)); // fails only at the end
            return;
        };
        let (node, way, inputs) = (node.clone(), Arc::clone(way), self.inputs.clone());
        tokio::spawn(async move {
            let _ = inputs.send(deliver(&way, node, order).await);
        });
    }

    /// Asks an agent how it is, in the background.
    pub fn ask(&self, node: &NodeName) {
        let Some((way, _)) = self.agents.get(node) else { return };
        let (node, way, inputs) = (node.clone(), Arc::clone(way), self.inputs.clone());
        tokio::spawn(async move {
            let input = match way.ask(Method::GET, "/v1/status", Vec::new()).await {
                Ok((StatusCode::OK, body)) => match serde_json::from_slice::<AgentStatus>(&body) {
                    Ok(status) => Input::Reported(node, Box::new(status)),
                    Err(error) => Input::Silent(node, format!("its status does not read: {error}")),
                },
                Ok((status, _)) => Input::Silent(node, format!("it answers {status}")),
                Err(error) => Input::Silent(node, error.to_string()),
            };
            let _ = inputs.send(input);
        });
    }

    /// An agent's last jobs.
    ///
    /// # Errors
    /// Why they could not be had, in words.
    pub fn jobs(&self, node: &str) -> impl Future<Output = Result<Vec<Job>, String>> + Send + use<> {
        let way = self.agents.get(node).map(|(way, _)| Arc::clone(way));
        let node = node.to_owned();
        async move {
            let way = way.ok_or_else(|| format!("node \"{node}\" has no agent"))?;
            match way.ask(Method::GET, "/v1/jobs", Vec::new()).await {
                Ok((StatusCode::OK, body)) => read(&body),
                Ok((status, _)) => Err(format!("the agent of \"{node}\" answers {status}")),
                Err(error) => Err(format!("the agent of \"{node}\" does not answer: {error}")),
            }
        }
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.agents.values().for_each(|(_, listener)| listener.abort());
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("its answer does not read: {error}"))
}

async fn deliver(way: &AgentWay, node: NodeName, order: Order) -> Input {
    let id = order.id.clone();
    let body = match serde_json::to_vec(&order) {
        Ok(body) => body,
        Err(error) => return Input::Refused(node, id, Failure::new(Code::Malformed, error.to_string())),
    };
    match way.ask(Method::POST, "/v1/jobs", body).await {
        Ok((StatusCode::OK | StatusCode::ACCEPTED, body)) => match read::<Job>(&body) {
            Ok(job) => Input::Moved(node, Box::new(job)),
            Err(why) => Input::Undelivered(node, id, why),
        },
        Ok((status, body)) if status.is_client_error() => {
            let failure = read::<Failure>(&body).unwrap_or_else(|_| {
                Failure::new(Code::Malformed, format!("{status}: {}", String::from_utf8_lossy(&body)))
            });
            Input::Refused(node, id, failure)
        }
        Ok((status, _)) => Input::Undelivered(node, id, format!("it answers {status}")),
        Err(LineError::Unreachable(error)) => Input::Undelivered(node, id, error.to_string()),
        Err(LineError::Lost(why)) => Input::Undelivered(node, id, why),
    }
}

/// Listens to one agent until nobody wants to hear.
async fn listen(node: NodeName, way: Arc<AgentWay>, inputs: Inputs) {
    let mut pause = PAUSE_FIRST;
    let mut heard = true;
    loop {
        let (silence, any) = hear(&node, &way, &inputs).await;
        if any {
            (pause, heard) = (PAUSE_FIRST, true);
        }
        // once each time, and once at the beginning
        if std::mem::take(&mut heard) && inputs.send(Input::Silent(node.clone(), silence)).is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Hears until the stream ends; says why it did, and whether anything was heard.
async fn hear(node: &NodeName, way: &AgentWay, inputs: &Inputs) -> (String, bool) {
    let mut stream = match way.open(Method::GET, "/v1/events", Vec::new()).await {
        Ok(answer) if answer.status() == StatusCode::OK => answer.into_body(),
        Ok(answer) => return (format!("it answers {}", answer.status()), false),
        Err(error) => return (error.to_string(), false),
    };
    let mut kept = Vec::new();
    let mut any = false;
    loop {
        let chunk = match next(&mut stream).await {
            Ok(chunk) => chunk,
            Err(why) => return (why, any),
        };
        kept.extend_from_slice(&chunk);
        while let Some(end) = kept.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = kept.drain(..=end).collect();
            match serde_json::from_slice::<AgentEvent>(&line) {
                Ok(event) => {
                    any = true;
                    if inputs.send(input(node, event)).is_err() {
                        return ("nobody listens".to_owned(), any);
                    }
                }
                Err(error) => return (format!("an event does not read: {error}"), any),
            }
        }
        if kept.len() > LINE_BYTES_MAX {
            return ("an event has no end".to_owned(), any);
        }
    }
}

async fn next(stream: &mut Incoming) -> Result<hyper::body::Bytes, String> {
    loop {
        let frame = tokio::time::timeout(HEARTBEAT * 3, stream.frame()).await;
        match frame {
            Err(_) => return Err("it is silent".to_owned()),
            Ok(None) => return Err("it has closed its stream of events".to_owned()),
            Ok(Some(Err(error))) => return Err(error.to_string()),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(data);
                }
            }
        }
    }
}

fn input(node: &NodeName, event: AgentEvent) -> Input {
    match event {
        AgentEvent::Status(status) => Input::Reported(node.clone(), status),
        AgentEvent::PostmasterDied => Input::PostmasterDied(node.clone()),
        AgentEvent::Job(job) => Input::Moved(node.clone(), job),
    }
}
