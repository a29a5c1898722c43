//! What watchers of a run see: numbered events that stay, and log lines that pass. Owns the sequence numbers.
//! A slow watcher loses log lines (with a marker), never events, and slows nobody.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use fleet_wire::v1;
use fleet_wire::v1::run_event::Event;
use tokio::sync::{broadcast, watch};

/// Log messages a watcher may lag behind before it loses some. Most are a line, none is above 256 KiB.
pub(crate) const LOG_BACKLOG: usize = 256;
/// Events copied out at a time.
const PAGE: usize = 256;

/// One run's events.
#[derive(Debug)]
pub(crate) struct Feed {
    started: Instant,
    events: Mutex<Vec<v1::RunEvent>>,
    length: watch::Sender<usize>,
    logs: broadcast::Sender<v1::StepLog>,
}

impl Feed {
    pub(crate) fn new() -> Self {
        let started = Instant::now();
        let (length, logs) = (watch::Sender::new(0), broadcast::Sender::new(LOG_BACKLOG));
        Self { started, events: Mutex::default(), length, logs }
    }

    /// Adds an event for everyone, now and later. Nothing follows the end of a run.
    pub(crate) fn push(&self, event: Event) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if is_end(events.last()) {
            return;
        }
        let sequence = events.len() as u64 + 1;
        events.push(v1::RunEvent { sequence, at_ms: self.now_ms(), event: Some(event) });
        self.length.send_replace(events.len());
    }

    /// Ends the run, if it goes on, because the coordinator cannot.
    pub(crate) fn fail(&self, cause: &str) {
        let failure =
            v1::Failure { code: "infrastructure".into(), cause: cause.into(), ..v1::Failure::default() };
        self.push(Event::RunFinished(v1::RunFinished {
            outcome: v1::RunOutcome::Failed.into(),
            failure: Some(failure),
            ..v1::RunFinished::default()
        }));
    }

    /// Shows a transient event to those who watch with logs.
    pub(crate) fn show(&self, log: v1::StepLog) {
        // No watcher is no error.
        let _ = self.logs.send(log);
    }

    /// The next events after the first `seen`; nothing when the run is over and all of them are seen.
    pub(crate) fn after(&self, seen: usize) -> Option<Vec<v1::RunEvent>> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if seen >= events.len() && is_end(events.last()) {
            return None;
        }
        let page = events.get(seen..).unwrap_or_default();
        Some(page[..page.len().min(PAGE)].to_vec())
    }

    /// Changes with every event.
    pub(crate) fn watch(&self) -> watch::Receiver<usize> {
        self.length.subscribe()
    }

    /// Log lines from now on.
    pub(crate) fn watch_logs(&self) -> broadcast::Receiver<v1::StepLog> {
        self.logs.subscribe()
    }

    /// A log line as an event without a number.
    pub(crate) fn transient(&self, event: Event) -> v1::RunEvent {
        v1::RunEvent { sequence: 0, at_ms: self.now_ms(), event: Some(event) }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn is_end(event: Option<&v1::RunEvent>) -> bool {
    matches!(event, Some(v1::RunEvent { event: Some(Event::RunFinished(_)), .. }))
}
