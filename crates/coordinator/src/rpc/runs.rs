//! What clients ask for: runs, their events, their logs.

use std::path::PathBuf;
use std::pin::Pin;

use fleet_wire::v1;
use fleet_wire::v1::run_event::Event;
use futures::Stream;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::status;
use crate::feed::Feed;
use crate::journal::Fact;
use crate::logs;
use crate::shell::{Feeds, Input};

/// Messages waiting for a client; then its stream waits, and nothing else does.
const OUTBOUND: usize = 256;
const LOG_CHUNK: usize = 64 << 10;

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service `fleet.v1.Runs`.
#[derive(Debug)]
pub(crate) struct RunsService {
    pub(crate) shell: mpsc::Sender<Input>,
    pub(crate) feeds: Feeds,
    pub(crate) logs_dir: PathBuf,
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
        let (logs_dir, journal_dir) = (self.logs_dir.clone(), self.journal_dir.clone());
        let wanted = request.clone();
        let found = tokio::task::spawn_blocking(move || find_log(&logs_dir, &journal_dir, &wanted))
            .await
            .map_err(|_| status::stopping())??;
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(async move {
            if let Err(error) = send_log(found, request.offset, &sender).await {
                let _ = sender.send(Err(Status::unavailable(format!("cannot read the log: {error}")))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl RunsService {
    async fn tell(&self, input: Input) -> Result<(), Status> {
        self.shell.send(input).await.map_err(|_| status::stopping())
    }
}

/// Sends a feed until its run ends or the client goes. Events are looked at first and sent last, so that a step's
/// log lines go out before its end.
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
        let events = feed.after(seen);
        while let Some(line) = lines.as_mut().and_then(next_line) {
            if sender.send(Ok(feed.transient(line))).await.is_err() {
                return;
            }
        }
        for event in events {
            seen += 1;
            let last = matches!(event.event, Some(Event::RunFinished(_)));
            if sender.send(Ok(event)).await.is_err() || last {
                return;
            }
        }
        tokio::select! {
            changed = length.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
            line = wait_for_line(lines.as_mut()) => if let Some(line) = line
                && sender.send(Ok(feed.transient(Event::StepLog(line)))).await.is_err() { return },
        }
    }
}

/// The next log line; nothing when some were lost; never for a watcher without logs.
async fn wait_for_line(lines: Option<&mut broadcast::Receiver<v1::StepLog>>) -> Option<v1::StepLog> {
    match lines {
        Some(lines) => lines.recv().await.ok(),
        None => std::future::pending().await,
    }
}

/// The next waiting log line, or how many were lost.
fn next_line(lines: &mut broadcast::Receiver<v1::StepLog>) -> Option<Event> {
    match lines.try_recv() {
        Ok(line) => Some(Event::StepLog(line)),
        Err(broadcast::error::TryRecvError::Lagged(lost)) => {
            let text = format!("{lost} log messages were dropped for this slow reader");
            Some(Event::Notice(v1::Notice { text }))
        }
        Err(_) => None,
    }
}

struct FoundLog {
    drv: String,
    log: logs::KeptLog,
}

fn find_log(
    logs_dir: &std::path::Path,
    journal_dir: &std::path::Path,
    request: &v1::LogsRequest,
) -> Result<FoundLog, Status> {
    let selector = request.selector.trim_end_matches('/');
    let base_name = selector.rsplit_once('/').map_or(selector, |(_, name)| name);
    let mut candidates: Vec<String> = Vec::new();
    if std::path::Path::new(base_name).extension().is_some_and(|e| e == "drv") {
        candidates.push(base_name.to_owned());
    } else {
        let facts =
            crate::journal::read(journal_dir).map_err(|error| Status::unavailable(error.to_string()))?;
        candidates.extend(facts.into_iter().filter_map(|fact| match fact {
            Fact::TargetSettled { run, host, drv, .. }
                if host == selector && (request.run.is_empty() || run == request.run) =>
            {
                drv
            }
            _ => None,
        }));
        if candidates.is_empty() {
            return Err(Status::not_found(format!("no remembered run has a host {selector}")));
        }
    }
    for drv in candidates {
        let kept = logs::kept(logs_dir, &drv);
        let wanted = kept.into_iter().rfind(|log| request.attempt == 0 || log.attempt == request.attempt);
        if let Some(log) = wanted {
            return Ok(FoundLog { drv, log });
        }
    }
    Err(Status::not_found(format!("no log is kept for {selector}: nothing was built for it here")))
}

async fn send_log(
    found: FoundLog,
    from: u64,
    sender: &mpsc::Sender<Result<v1::LogChunk, Status>>,
) -> std::io::Result<()> {
    let mut file = tokio::fs::File::open(&found.log.path).await?;
    let mut offset = file.seek(std::io::SeekFrom::Start(from)).await?;
    let mut first = Some((found.drv, found.log.attempt));
    loop {
        let mut data = Vec::with_capacity(LOG_CHUNK);
        let read = (&mut file).take(LOG_CHUNK as u64).read_to_end(&mut data).await?;
        if read == 0 && first.is_none() {
            return Ok(());
        }
        let (drv, attempt) = first.take().unwrap_or_default();
        let chunk = v1::LogChunk { drv, attempt, offset, data: data.into() };
        offset += read as u64;
        if sender.send(Ok(chunk)).await.is_err() || read == 0 {
            return Ok(());
        }
    }
}
