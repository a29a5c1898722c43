//! A run's events for one watcher, at the watcher's pace: no event is lost, and no flood of log lines holds one back.

use fleet_wire::v1;
use fleet_wire::v1::run_event::Event;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc};
use tonic::Status;

use crate::feed::{Feed, LOG_BACKLOG};

/// Sends a feed until its run ends, the coordinator cannot go on, or the client goes. Events are looked at first and
/// sent last, so that a step's log lines go out before its end; but no flood of lines holds them back.
pub(super) async fn watch(
    feed: &Feed,
    mut seen: usize,
    logs: bool,
    sender: &mpsc::Sender<Result<v1::RunEvent, Status>>,
) {
    let mut length = feed.watch();
    let mut lines = logs.then(|| feed.watch_logs());
    loop {
        length.mark_unchanged();
        let events = match feed.after(seen) {
            Ok(Some(events)) => events,
            Ok(None) => return,
            Err(broken) => {
                // The client may have gone.
                let _ = sender.send(Err(broken)).await;
                return;
            }
        };
        for _ in 0..LOG_BACKLOG {
            let Some(line) = lines.as_mut().and_then(next_line) else { break };
            if sender.send(Ok(feed.transient(line))).await.is_err() {
                return;
            }
        }
        let any = !events.is_empty();
        for event in events {
            seen += 1;
            if sender.send(Ok(event)).await.is_err() {
                return;
            }
        }
        if any {
            continue;
        }
        tokio::select! {
            changed = length.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
            line = wait_for_line(lines.as_mut()) => if let Some(line) = line
                && sender.send(Ok(feed.transient(line))).await.is_err() { return },
        }
    }
}

/// The next log line, or how many were lost; never for a watcher without logs.
async fn wait_for_line(lines: Option<&mut broadcast::Receiver<v1::StepLog>>) -> Option<Event> {
    match lines {
        Some(lines) => match lines.recv().await {
            Ok(line) => Some(Event::StepLog(line)),
            Err(RecvError::Lagged(lost)) => Some(lost_lines(lost)),
            Err(RecvError::Closed) => None,
        },
        None => std::future::pending().await,
    }
}

/// The next waiting log line, or how many were lost.
fn next_line(lines: &mut broadcast::Receiver<v1::StepLog>) -> Option<Event> {
    match lines.try_recv() {
        Ok(line) => Some(Event::StepLog(line)),
        Err(TryRecvError::Lagged(lost)) => Some(lost_lines(lost)),
        Err(_) => None,
    }
}

fn lost_lines(lost: u64) -> Event {
    Event::Notice(v1::Notice { text: format!("{lost} log messages were dropped for this slow reader") })
}
