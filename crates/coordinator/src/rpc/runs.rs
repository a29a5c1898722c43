//! What clients ask for: runs, their events, their logs.

use std::path::{Path, PathBuf};
use std::pin::Pin;

use fleet_wire::v1;
use fleet_wire::v1::run_event::Event;
use futures::{Stream, StreamExt};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::status;
use crate::feed::{Feed, LOG_BACKLOG};
use crate::log_search::{self, FoundLog, Search, Wanted};
use crate::logs::{LogReader, LogWriter, Pull};
use crate::shell::{Feeds, Input};

/// Messages waiting for a client; then its stream waits, and nothing else does.
const OUTBOUND: usize = 256;

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service `fleet.v1.Runs`.
#[derive(Debug)]
pub(crate) struct RunsService {
    pub(crate) shell: mpsc::Sender<Input>,
    pub(crate) feeds: Feeds,
    pub(crate) logs: LogWriter,
    pub(crate) journal_dir: PathBuf,
}

#[tonic::async_trait]
impl v1::runs_server::Runs for RunsService {
    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitReply>, Status> {
        let (reply, answer) = oneshot::channel();
        self.tell(Input::Submit(Box::new(request.into_inner()), reply)).await?;
        let run = answer.await.map_err(|_| status::stopping())??;
        Ok(Response::new(v1::SubmitReply { run }))
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Result<Response<v1::CancelReply>, Status> {
        let (reply, answer) = oneshot::channel();
        self.tell(Input::Cancel(request.into_inner().run, reply)).await?;
        answer.await.map_err(|_| status::stopping())??;
        Ok(Response::new(v1::CancelReply {}))
    }

    async fn list(&self, _: Request<v1::ListRunsRequest>) -> Result<Response<v1::ListRunsReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn show(&self, _: Request<v1::ShowRunRequest>) -> Result<Response<v1::RunDetail>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn why(&self, _: Request<v1::WhyRequest>) -> Result<Response<v1::WhyReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    type EventsStream = Streamed<v1::RunEvent>;

    async fn events(
        &self,
        request: Request<v1::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let request = request.into_inner();
        let feed = self.feeds.get(&request.run).map(|entry| entry.value().clone());
        let feed = feed.ok_or_else(|| status::unknown_run(&request.run))?;
        let (sender, receiver) = mpsc::channel(OUTBOUND);
        let seen = usize::try_from(request.after_sequence).unwrap_or(usize::MAX);
        tokio::spawn(async move { watch(&feed, seen, request.logs, &sender).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type LogsStream = Streamed<v1::LogChunk>;

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        let (logs, journal) = (self.logs.directory().to_owned(), self.journal_dir.clone());
        self.logs.flush().await;
        let selector = request.selector.trim_end_matches('/').to_owned();
        let wanted = Wanted { run: request.run, selector, attempt: request.attempt };
        let found = tokio::task::spawn_blocking(move || find_log(&logs, &journal, &wanted))
            .await
            .map_err(|_| status::stopping())??;
        let reader =
            self.logs.read(&found.log, request.offset, request.follow).map_err(|e| unreadable(&e))?;
        let first = v1::LogChunk {
            drv: found.drv,
            attempt: found.log.attempt,
            offset: request.offset,
            ..v1::LogChunk::default()
        };
        Ok(Response::new(Box::pin(log_chunks(first, reader))))
    }
}

impl RunsService {
    async fn tell(&self, input: Input) -> Result<(), Status> {
        self.shell.send(input).await.map_err(|_| status::stopping())
    }
}

/// Sends a feed until its run ends or the client goes. Events are looked at first and sent last, so that a step's
/// log lines go out before its end; but no flood of lines holds them back.
async fn watch(
    feed: &Feed,
    mut seen: usize,
    logs: bool,
    sender: &mpsc::Sender<Result<v1::RunEvent, Status>>,
) {
    let mut length = feed.watch();
    let mut lines = logs.then(|| feed.watch_logs());
    loop {
        length.mark_unchanged();
        let Some(events) = feed.after(seen) else { return };
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

fn find_log(logs: &Path, journal: &Path, wanted: &Wanted) -> Result<FoundLog, Status> {
    let selector = &wanted.selector;
    match log_search::search(logs, journal, wanted).map_err(|error| status::journal(&error))? {
        Search::Found(found) => Ok(found),
        Search::NothingBuilt => Err(Status::not_found(format!(
            "no log is kept for {selector}: it was not built here, or printed nothing"
        ))),
        Search::UnknownHost => Err(Status::not_found(format!("no remembered run has a host {selector}"))),
    }
}

/// Which log it is, then its bytes, as fast as they are taken.
fn log_chunks(
    first: v1::LogChunk,
    reader: LogReader,
) -> impl Stream<Item = Result<v1::LogChunk, Status>> + Send {
    let rest = futures::stream::try_unfold(reader, |mut reader| async move {
        let pull = reader.pull().await.map_err(|error| unreadable(&error))?;
        Ok(pull.map(|Pull { offset, skipped, data }| {
            (v1::LogChunk { offset, skipped, data, ..v1::LogChunk::default() }, reader)
        }))
    });
    futures::stream::once(std::future::ready(Ok(first))).chain(rest)
}

fn unreadable(error: &std::io::Error) -> Status {
    Status::unavailable(format!("cannot read the log: {error}"))
}
