//! What clients ask for: runs, their events, their logs.

use std::path::{Path, PathBuf};
use std::pin::Pin;

use fleet_wire::v1;
use futures::{Stream, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{events, status};
use crate::access::Caller;
use crate::feed::{self, Feeds};
use crate::log_search::{self, FoundLog, Search, Wanted};
use crate::logs::{LogReader, LogWriter, Pull};
use crate::paths::Usage;
use crate::shell::{Input, Reply, Submission, source_chunks};

/// Messages waiting for a client; then its stream waits, and nothing else does.
const OUTBOUND: usize = 256;
/// Runs of one list, and those of a list that does not say.
const MAX_LISTED: u32 = 1_000;
const LISTED: u32 = 50;

/// Longest selector of a question, bytes.
pub(crate) const MAX_SELECTOR: usize = 1024;

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service `fleet.v1.Runs`.
#[derive(Debug)]
pub(crate) struct RunsService {
    pub(crate) shell: mpsc::Sender<Input>,
    pub(crate) feeds: Feeds,
    pub(crate) read_only: watch::Receiver<String>,
    pub(crate) logs: LogWriter,
    pub(crate) index_dir: PathBuf,
    pub(crate) usage: Usage,
}

#[tonic::async_trait]
impl v1::runs_server::Runs for RunsService {
    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitReply>, Status> {
        let client = Caller::of(request.extensions()).owner().to_owned();
        let submission = Box::new(Submission { request: request.into_inner(), client });
        // From here on the run needs its sources; what was told to be here long ago may be gone.
        let _entered = self.usage.enter().await;
        let sources = submission.request.before.iter().chain(&submission.request.after);
        self.usage.use_chunks(sources.flat_map(source_chunks));
        let run = self.ask(|reply| Input::Submit(submission, reply)).await?;
        Ok(Response::new(v1::SubmitReply { run }))
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Result<Response<v1::CancelReply>, Status> {
        let caller = Caller::of(request.extensions());
        let run = request.into_inner().run;
        self.ask(|reply| Input::Cancel(run, caller, reply)).await?;
        Ok(Response::new(v1::CancelReply {}))
    }

    async fn list(
        &self,
        request: Request<v1::ListRunsRequest>,
    ) -> Result<Response<v1::ListRunsReply>, Status> {
        let limit = match request.into_inner().limit {
            0 => LISTED,
            limit @ 1..=MAX_LISTED => limit,
            _ => return Err(Status::invalid_argument(format!("at most {MAX_LISTED} runs are listed"))),
        };
        Ok(Response::new(v1::ListRunsReply { runs: feed::newest(&self.feeds, limit as usize) }))
    }

    async fn show(&self, request: Request<v1::ShowRunRequest>) -> Result<Response<v1::RunDetail>, Status> {
        let run = request.into_inner().run;
        Ok(Response::new(self.ask(|reply| Input::Show(run, reply)).await?))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        let read_only = self.read_only.borrow().clone();
        if read_only.is_empty() {
            return Ok(Response::new(self.ask(Input::Status).await?));
        }
        // What the core knows by now may be more than what is durable: only that is said which is.
        let mut live = feed::newest(&self.feeds, MAX_LISTED as usize);
        live.retain(|run| run.finished.is_none());
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Response::new(v1::StatusReply { live, version, read_only, ..v1::StatusReply::default() }))
    }

    async fn why(&self, request: Request<v1::WhyRequest>) -> Result<Response<v1::WhyReply>, Status> {
        let request = request.into_inner();
        Ok(Response::new(self.ask(|reply| Input::Why(request, reply)).await?))
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
        tokio::spawn(async move { events::watch(&feed, seen, request.logs, &sender).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type LogsStream = Streamed<v1::LogChunk>;

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        let selector = request.selector.trim_end_matches('/').to_owned();
        if selector.is_empty() || selector.len() > MAX_SELECTOR {
            return Err(status::bad_selector());
        }
        let (logs, index) = (self.logs.directory().to_owned(), self.index_dir.clone());
        self.logs.flush().await;
        let wanted = Wanted { run: request.run, selector, attempt: request.attempt };
        let found = tokio::task::spawn_blocking(move || find_log(&logs, &index, &wanted))
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
    /// Asks the shell, unless it holds everything back until the disk has room.
    async fn ask<T>(&self, input: impl FnOnce(Reply<T>) -> Input) -> Result<T, Status> {
        let read_only = self.read_only.borrow().clone();
        if !read_only.is_empty() {
            return Err(status::read_only(&read_only));
        }
        let (reply, answer) = oneshot::channel();
        self.shell.send(input(reply)).await.map_err(|_| status::stopping())?;
        answer.await.map_err(|_| status::stopping())?
    }
}

fn find_log(logs: &Path, index: &Path, wanted: &Wanted) -> Result<FoundLog, Status> {
    let selector = &wanted.selector;
    match log_search::search(logs, index, wanted).map_err(|error| status::index(&error))? {
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

#[cfg(test)]
mod tests {
    use fleet_wire::v1::runs_server::Runs;
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn a_full_disk_is_said_and_nobody_waits_for_it() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (shell, mut asked) = mpsc::channel(4);
        let (full, read_only) = watch::channel("no space left".to_owned());
        let service = RunsService {
            shell,
            feeds: Feeds::default(),
            read_only,
            logs: LogWriter::open(directory.path().to_owned()).expect("opens"),
            index_dir: directory.path().to_owned(),
            usage: Usage::new(0, fleet_paths::collector::Condemned::default()),
        };
        let refused = service.submit(Request::new(v1::SubmitRequest::default())).await.expect_err("refused");
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(refused.message().contains("read-only: no space left"), "{refused}");
        let shown = service.show(Request::new(v1::ShowRunRequest::default())).await.expect_err("refused");
        assert_eq!(shown.code(), Code::Unavailable);
        let status = service.status(Request::new(v1::StatusRequest {})).await.expect("told").into_inner();
        assert_eq!(status.read_only, "no space left");
        service.list(Request::new(v1::ListRunsRequest::default())).await.expect("what is durable is shown");
        assert!(asked.try_recv().is_err(), "the shell was not to be asked");
        full.send_replace(String::new());
        drop(asked);
        let stopping = service.submit(Request::new(v1::SubmitRequest::default())).await.expect_err("gone");
        assert!(stopping.message().contains("stopping"), "{stopping}");
    }
}
