//! What watchers of a run see: numbered events that stay, and log lines that pass. Owns the sequence numbers and
//! what is said of a run in one line. Nothing gets in here before its record is durable. A slow watcher loses log
//! lines (with a marker), never events, and slows nobody.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use fleet_wire::v1;
use fleet_wire::v1::run_event::Event;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tonic::Status;

/// Log messages a watcher may lag behind before it loses some. Most are a line, none is above 256 KiB.
pub(crate) const LOG_BACKLOG: usize = 256;
/// Events copied out at a time.
const PAGE: usize = 256;

/// Feeds by run name, shared with the services.
pub(crate) type Feeds = Arc<DashMap<String, Arc<Feed>>>;

/// One run's events.
#[derive(Debug)]
pub(crate) struct Feed {
    origin: Origin,
    began: Instant,
    /// What `began` stands for, milliseconds after the submission: a restart lies between.
    began_ms: u64,
    shown: Mutex<Shown>,
    length: watch::Sender<usize>,
    logs: broadcast::Sender<v1::StepLog>,
}

/// Who asked for a run, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) run: String,
    /// Empty for a local user.
    pub(crate) client: String,
    pub(crate) submitted_unix_ms: u64,
}

#[derive(Debug, Default)]
struct Shown {
    events: Vec<v1::RunEvent>,
    tally: Tally,
    /// Why nothing follows although the run is not over.
    broken: Option<Status>,
}

/// A run in one line.
#[derive(Debug, Default)]
struct Tally {
    targets: u32,
    settled: u32,
    failed: u32,
    counts: Option<v1::Counts>,
    finished: Option<v1::RunFinished>,
}

impl Feed {
    /// Of a run that begins now.
    pub(crate) fn new(origin: Origin) -> Self {
        Self::restored(origin, Vec::new())
    }

    /// Of a run that went on before.
    pub(crate) fn restored(origin: Origin, events: Vec<v1::RunEvent>) -> Self {
        let mut tally = Tally::default();
        events.iter().filter_map(|event| event.event.as_ref()).for_each(|event| tally.add(event));
        let began_ms = events.last().map_or(0, |event| event.at_ms);
        let (length, logs) = (watch::Sender::new(events.len()), broadcast::Sender::new(LOG_BACKLOG));
        let shown = Mutex::new(Shown { events, tally, broken: None });
        Self { origin, began: Instant::now(), began_ms, shown, length, logs }
    }

    /// Shows an event to everyone, now and later. Its sequence number is one above the last; nothing follows the end
    /// of a run.
    pub(crate) fn show(&self, event: v1::RunEvent) {
        let mut shown = self.shown();
        debug_assert_eq!(event.sequence, shown.events.len() as u64 + 1, "a gap in {}", self.origin.run);
        if let Some(event) = &event.event {
            shown.tally.add(event);
        }
        shown.events.push(event);
        self.length.send_replace(shown.events.len());
    }

    /// Nothing follows, because the coordinator cannot go on: those who watch an open run are told.
    pub(crate) fn break_off(&self, why: &Status) {
        self.shown().broken = Some(why.clone());
        self.length.send_modify(|_| {});
    }

    /// Shows a transient event to those who watch with logs.
    pub(crate) fn pass(&self, log: v1::StepLog) {
        // No watcher is no error.
        let _ = self.logs.send(log);
    }

    /// The next events after the first `seen`; nothing when the run is over and all of them are seen.
    pub(crate) fn after(&self, seen: usize) -> Result<Option<Vec<v1::RunEvent>>, Status> {
        let shown = self.shown();
        if seen >= shown.events.len() {
            return match (&shown.tally.finished, &shown.broken) {
                (Some(_), _) => Ok(None),
                (None, Some(why)) => Err(why.clone()),
                (None, None) => Ok(Some(Vec::new())),
            };
        }
        let page = &shown.events[seen..];
        Ok(Some(page[..page.len().min(PAGE)].to_vec()))
    }

    /// All events so far.
    pub(crate) fn all(&self) -> Vec<v1::RunEvent> {
        self.shown().events.clone()
    }

    /// How many events there are.
    pub(crate) fn len(&self) -> usize {
        self.shown().events.len()
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

    /// Milliseconds since the run was submitted; time that the coordinator was away does not count.
    pub(crate) fn now_ms(&self) -> u64 {
        let here = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.began_ms.saturating_add(here)
    }

    /// Who asked, and when.
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The run in one line.
    pub(crate) fn summary(&self) -> v1::RunSummary {
        let shown = self.shown();
        v1::RunSummary {
            run: self.origin.run.clone(),
            client: self.origin.client.clone(),
            submitted_unix_ms: self.origin.submitted_unix_ms,
            targets: shown.tally.targets,
            settled: shown.tally.settled,
            failed: shown.tally.failed,
            counts: shown.tally.counts,
            finished: shown.tally.finished.clone(),
        }
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        // No holder of the lock panics half way through a change.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    fn add(&mut self, event: &Event) {
        match event {
            Event::HostsFound(found) => {
                self.targets = self.targets.saturating_add(found.hosts.len().try_into().unwrap_or(u32::MAX));
            }
            Event::TargetSettled(settled) => {
                self.settled += 1;
                let failed = [v1::TargetStatus::EvalFailed, v1::TargetStatus::BuildFailed];
                self.failed += u32::from(failed.contains(&settled.status()));
            }
            Event::Counts(counts) => self.counts = Some(*counts),
            Event::RunFinished(finished) => {
                self.counts = finished.counts.or(self.counts);
                self.finished = Some(finished.clone());
            }
            _ => {}
        }
    }
}

/// The newest runs in one line each, newest first.
pub(crate) fn newest(feeds: &Feeds, limit: usize) -> Vec<v1::RunSummary> {
    let mut runs: Vec<Arc<Feed>> = feeds.iter().map(|entry| entry.value().clone()).collect();
    runs.sort_by_key(|feed| std::cmp::Reverse((feed.origin.submitted_unix_ms, feed.origin.run.clone())));
    runs.iter().take(limit).map(|feed| feed.summary()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(sequence: u64, event: Event) -> v1::RunEvent {
        v1::RunEvent { sequence, at_ms: 10 * sequence, event: Some(event) }
    }

    #[tokio::test]
    async fn a_restored_feed_goes_on_where_it_was() {
        let hosts = vec![v1::Host::default(); 3];
        let settled = v1::TargetSettled { status: v1::TargetStatus::EvalFailed.into(), ..Default::default() };
        let events = vec![
            numbered(1, Event::HostsFound(v1::HostsFound { side: 2, hosts })),
            numbered(2, Event::TargetSettled(settled)),
        ];
        let feed = Feed::restored(Origin::default(), events.clone());
        assert!(feed.now_ms() >= 20, "time goes on");
        feed.show(numbered(3, Event::RunFinished(v1::RunFinished::default())));
        assert_eq!(feed.after(0).expect("sound").expect("events")[..2], events);
        assert_eq!(feed.after(3).expect("sound"), None);
        let summary = feed.summary();
        assert_eq!((summary.targets, summary.settled, summary.failed), (3, 1, 1));
        assert!(summary.finished.is_some());
    }

    #[tokio::test]
    async fn a_coordinator_that_stops_ends_no_run_but_its_watchers() {
        let feed = Feed::new(Origin::default());
        feed.show(numbered(1, Event::Notice(v1::Notice::default())));
        feed.break_off(&Status::unavailable("the disk is gone"));
        assert_eq!(feed.after(0).expect("what was shown stays").map(|events| events.len()), Some(1));
        assert_eq!(feed.after(1).expect_err("no more").message(), "the disk is gone");
        assert!(feed.summary().finished.is_none());
    }
}
