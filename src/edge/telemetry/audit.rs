//! The audit log: one JSON line for each event, and the latest of each account in the store.
//!
//! Events are queued and written by one task, so that recording never waits. A full queue loses events and
//! says so: the alternative is a gateway that stops because the reader of a pipe does not read.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config::AuditTo;
use palisade_core::domain::audit::Event;
use palisade_core::ports::{Audit, Change, Store};
use palisade_core::service::outage::Outage;

/// Events that may wait to be written.
const QUEUE: usize = 16 * 1024;
/// Events that share one write.
const BATCH: usize = 256;

/// The audit log.
pub struct AuditLog {
    queue: Mutex<Option<mpsc::Sender<Event>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// An event with its moment as people and log collectors read it.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    event: &'a Event,
}

impl AuditLog {
    /// Starts the task that writes. Needs a runtime.
    #[must_use]
    pub fn start(destination: AuditTo, store: Arc<dyn Store>) -> AuditLog {
        let (queue, events) = mpsc::channel(QUEUE);
        let writer = tokio::spawn(run(destination, store, events));
        AuditLog { queue: Mutex::new(Some(queue)), writer: Mutex::new(Some(writer)) }
    }

    /// Writes what is queued and ends. Later events are lost.
    pub async fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // It ends once the queue is empty; it has nothing to report.
            let _ = writer.await;
        }
    }
}

impl Audit for AuditLog {
    fn record(&self, event: Event) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let action = event.action;
        if queue.as_ref().is_none_or(|queue| queue.try_send(event).is_err()) {
            tracing::error!(?action, "an audit event was lost: the queue is full or closed");
        }
    }
}

async fn run(destination: AuditTo, store: Arc<dyn Store>, mut events: mpsc::Receiver<Event>) {
    let mut batch = Vec::with_capacity(BATCH);
    let outage = Outage::new("audit events are in the log only: the store does not take them");
    while events.recv_many(&mut batch, BATCH).await > 0 {
        let text = lines(&batch);
        let to = destination.clone();
        // A pipe whose reader does not read must not hold a worker of the runtime.
        let written = tokio::task::spawn_blocking(move || write(&to, &text)).await;
        if let Ok(Err(error)) = written {
            tracing::error!(%error, lost = batch.len(), "audit events could not be written");
        }
        match store.commit(vec![Change::Record(std::mem::take(&mut batch))]).await {
            Ok(_) => outage.succeeded(),
            Err(error) => outage.failed(&error),
        }
    }
}

fn lines(batch: &[Event]) -> Vec<u8> {
    let mut text = Vec::new();
    for event in batch {
        let at = UNIX_EPOCH + Duration::from_secs(event.at.0);
        let line = Line { time: humantime::format_rfc3339_seconds(at).to_string(), event };
        // A struct of text and numbers, into memory: nothing to fail on.
        if serde_json::to_writer(&mut text, &line).is_ok() {
            text.push(b'\n');
        }
    }
    text
}

fn write(to: &AuditTo, text: &[u8]) -> io::Result<()> {
    match to {
        AuditTo::Stdout => {
            let mut out = io::stdout().lock();
            out.write_all(text)?;
            out.flush()
        }
        AuditTo::File(path) => {
            let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
            file.write_all(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_core::domain::account::UserId;
    use palisade_core::domain::audit::{Action, Actor, Outcome};
    use palisade_core::domain::time::UnixTime;
    use palisade_testing::fakes::FakeStore;

    fn event(n: u128) -> Event {
        Event {
            id: uuid::Uuid::from_u128(n),
            at: UnixTime(1_800_000_000),
            action: Action::Login,
            outcome: Outcome::Denied,
            actor: Actor::User,
            user: Some(UserId(uuid::Uuid::from_u128(1))),
            session: None,
            connection: None,
            address: Some([192, 0, 2, 1].into()),
            request_id: Some("r\n1".to_owned()),
            reason: Some("wrong_password".to_owned()),
            details: serde_json::Map::new(),
        }
    }

    #[tokio::test]
    async fn events_are_lines_and_are_kept_with_the_account() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let store = Arc::new(FakeStore::default());
        let log = AuditLog::start(AuditTo::File(file.clone()), store.clone());
        (0..3).for_each(|n| log.record(event(n)));
        log.close().await;
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["time"], "2027-01-15T08:00:00Z");
        assert_eq!(lines[0]["action"], "login");
        assert_eq!(lines[0]["request_id"], "r\n1", "a line feed cannot forge a line");
        let kept = store.events(Some(UserId(uuid::Uuid::from_u128(1))), 10).await.unwrap();
        assert_eq!(kept.len(), 3);
        log.record(event(9));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text, "closed is closed");
    }
}
