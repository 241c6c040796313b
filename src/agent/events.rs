//! What the agent tells everybody who listens: its latest status, and what happens, at once.
//!
//! Publishing never waits; a listener that is too slow loses lines and is given a whole status instead.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, broadcast, watch};

use crate::directive::{AgentEvent, AgentStatus, HEARTBEAT, Job};

/// Lines that a listener may be behind.
const BEHIND_MAX: usize = 1_024;
/// A status that is older proves that the agent hangs: nobody is told that it lives.
const STALE: Duration = Duration::from_secs(5);
/// A listener is told something at least so often; less than [`HEARTBEAT`], which it must never miss.
const SILENCE_MAX: Duration = Duration::from_millis(350);
const _: () = assert!(SILENCE_MAX.as_millis() < HEARTBEAT.as_millis());

/// Where everything is published.
#[derive(Debug)]
pub struct Events {
    lines: broadcast::Sender<Arc<str>>,
    status: watch::Sender<Option<(Instant, Arc<AgentStatus>)>>,
    changed: Notify,
}

impl Default for Events {
    fn default() -> Self {
        Self { lines: broadcast::channel(BEHIND_MAX).0, status: watch::channel(None).0, changed: Notify::new() }
    }
}

/// An event as a line of JSON.
fn line(event: &AgentEvent) -> Option<Arc<str>> {
    match serde_json::to_string(event) {
        Ok(mut text) => {
            text.push('\n');
            Some(text.into())
        }
        Err(error) => {
            tracing::error!(%error, "an event cannot be written");
            None
        }
    }
}

impl Events {
    fn tell(&self, event: &AgentEvent) {
        if self.lines.receiver_count() > 0
            && let Some(line) = line(event)
        {
            let _ = self.lines.send(line);
        }
    }

    /// The postmaster has died.
    pub fn postmaster_died(&self) {
        self.tell(&AgentEvent::PostmasterDied);
    }

    /// A job has moved.
    pub fn job(&self, job: &Job) {
        self.tell(&AgentEvent::Job(Box::new(job.clone())));
    }

    /// What has just been found out. Told if it is not what was found before.
    pub fn status(&self, status: AgentStatus) {
        let status = Arc::new(status);
        let last = self.status.send_replace(Some((Instant::now(), Arc::clone(&status))));
        if last.is_none_or(|(_, last)| last != status) {
            self.tell(&AgentEvent::Status(Box::new(AgentStatus::clone(&status))));
        }
    }

    /// The latest status; waits for the first.
    pub async fn latest(&self) -> Option<Arc<AgentStatus>> {
        let mut status = self.status.subscribe();
        let found = status.wait_for(Option::is_some).await.ok()?;
        found.as_ref().map(|(_, status)| Arc::clone(status))
    }

    /// Something has changed that a status would show: a new one is wanted now.
    pub fn want_status(&self) {
        self.changed.notify_one();
    }

    /// Waits until somebody wants one.
    pub async fn status_wanted(&self) {
        self.changed.notified().await;
    }

    /// Somebody who listens.
    #[must_use]
    pub fn listen(self: &Arc<Self>) -> Listener {
        Listener { events: Arc::clone(self), lines: self.lines.subscribe(), begun: false }
    }
}

/// Reads what happens, line by line.
#[derive(Debug)]
pub struct Listener {
    events: Arc<Events>,
    lines: broadcast::Receiver<Arc<str>>,
    begun: bool,
}

impl Listener {
    /// The next line: what has happened, or a status when nothing has for a while. `None` when the agent hangs or ends.
    pub async fn next(&mut self) -> Option<Arc<str>> {
        if !self.begun {
            self.begun = true;
            return self.status_line().await;
        }
        match tokio::time::timeout(SILENCE_MAX, self.lines.recv()).await {
            Ok(Ok(line)) => Some(line),
            Ok(Err(broadcast::error::RecvError::Lagged(_))) | Err(_) => self.status_line().await,
            Ok(Err(broadcast::error::RecvError::Closed)) => None,
        }
    }

    async fn status_line(&self) -> Option<Arc<str>> {
        let status = self.events.latest().await?;
        let age = self.events.status.borrow().as_ref().map_or(Duration::ZERO, |(at, _)| at.elapsed());
        (age < STALE).then(|| line(&AgentEvent::Status(Box::new(AgentStatus::clone(&status))))).flatten()
    }
}
