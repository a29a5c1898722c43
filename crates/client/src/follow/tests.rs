//! A coordinator that breaks its streams: followed without a gap and without an event twice.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fleet_wire::v1;
use fleet_wire::v1::run_event::Event;
use fleet_wire::v1::runs_server::{Runs, RunsServer};
use futures::{Stream, StreamExt, stream};
use hyper_util::rt::TokioIo;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};

use super::{Follower, Seen};
use crate::contact::{Contact, News};
use crate::remote::Connection;

const EVENTS: u64 = 5;
const PATIENCE: Duration = Duration::from_secs(20);

/// Gives two events a stream, then breaks it; the last stream ends in order.
#[derive(Clone, Default)]
struct Flaky {
    asked: Arc<Mutex<Vec<u64>>>,
    refused: Arc<AtomicU64>,
    /// So often in a row it refuses the second question.
    outage: u64,
    breaks_with: Option<Code>,
    /// Streams end in order though the run has not.
    ends_early: bool,
    /// The first stream leaves this event out.
    leaves_out: Option<u64>,
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Runs for Flaky {
    async fn list(&self, _: Request<v1::ListRunsRequest>) -> Result<Response<v1::ListRunsReply>, Status> {
        Err(Status::unimplemented("only events are asked for here"))
    }

    async fn show(&self, _: Request<v1::ShowRunRequest>) -> Result<Response<v1::RunDetail>, Status> {
        Err(Status::unimplemented("only events are asked for here"))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        Err(Status::unimplemented("only events are asked for here"))
    }

    async fn why(&self, _: Request<v1::WhyRequest>) -> Result<Response<v1::WhyReply>, Status> {
        Err(Status::unimplemented("only events are asked for here"))
    }

    type EventsStream = Streamed<v1::RunEvent>;
    type LogsStream = Streamed<v1::LogChunk>;

    async fn events(
        &self,
        request: Request<v1::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let after = request.into_inner().after_sequence;
        self.asked.lock().expect("no test panicked").push(after);
        let call = self.refused.fetch_add(1, Ordering::Relaxed);
        if (1..=self.outage).contains(&call) {
            return Err(Status::unavailable("restarting"));
        }
        // A log line, outside of the sequence; then one event too many, as after a lost acknowledgement.
        let first = after.max(1);
        let last = (after + 2).min(EVENTS);
        let finished =
            |sequence| (sequence == EVENTS).then(|| Event::RunFinished(v1::RunFinished::default()));
        let events = (first..=last)
            .filter(|sequence| call > 0 || self.leaves_out != Some(*sequence))
            .map(|sequence| v1::RunEvent { sequence, event: finished(sequence), ..Default::default() });
        let log = v1::RunEvent::default();
        let mut items: Vec<_> = std::iter::once(log).chain(events).map(Ok).collect();
        if last < EVENTS && !self.ends_early {
            items.push(Err(Status::new(self.breaks_with.unwrap_or(Code::Unavailable), "the stream broke")));
        }
        Ok(Response::new(stream::iter(items).boxed()))
    }

    async fn submit(&self, _: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitReply>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }

    async fn cancel(&self, _: Request<v1::CancelRequest>) -> Result<Response<v1::CancelReply>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }

    async fn logs(&self, _: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }
}

fn connect(flaky: Flaky) -> Channel {
    let (connections, incoming) = tokio::sync::mpsc::channel(1);
    let incoming = ReceiverStream::new(incoming).map(Ok::<tokio::io::DuplexStream, std::io::Error>);
    tokio::spawn(Server::builder().add_service(RunsServer::new(flaky)).serve_with_incoming(incoming));
    let connector = tower::service_fn(move |_| {
        let connections = connections.clone();
        async move {
            let (near, far) = tokio::io::duplex(4096);
            connections.send(far).await.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(near))
        }
    });
    Endpoint::from_static("http://in-memory").connect_with_connector_lazy(connector)
}

/// Sequence numbers as they were seen, and what was told of the connection.
async fn followed(flaky: Flaky, patience: Duration) -> Result<(Vec<u64>, Vec<News>), Status> {
    let connection = Connection::in_memory(connect(flaky));
    let mut follower = Follower::new(connection.runs(), "run".to_owned(), true, Contact::new(patience));
    let (mut seen, mut told) = (Vec::new(), Vec::new());
    loop {
        // As a display that is redrawn: the wait for an event is begun anew again and again.
        let next = tokio::time::timeout(Duration::from_millis(5), follower.next()).await;
        let Ok(next) = next else { continue };
        match next? {
            Some(Seen::Event(event)) => seen.push(event.sequence),
            Some(Seen::News(news)) => told.push(news),
            None => break,
        }
    }
    seen.retain(|&sequence| sequence > 0);
    Ok((seen, told))
}

#[tokio::test]
async fn a_broken_stream_is_taken_up_where_it_ended() {
    let flaky = Flaky::default();
    let (seen, told) = followed(flaky.clone(), PATIENCE).await.expect("followed");
    assert_eq!(seen, [1, 2, 3, 4, 5]);
    assert_eq!(told, [], "nobody need know");
    assert_eq!(*flaky.asked.lock().expect("no test panicked"), [0, 2, 4]);
}

#[tokio::test]
async fn an_outage_is_told_once_and_costs_no_event() {
    let flaky = Flaky { outage: 4, ..Flaky::default() };
    let (seen, told) = followed(flaky.clone(), PATIENCE).await.expect("followed");
    assert_eq!(seen, [1, 2, 3, 4, 5]);
    assert!(matches!(&*told, [News::Lost { why, .. }, News::Back { .. }] if why == "restarting"), "{told:?}");
    assert_eq!(*flaky.asked.lock().expect("no test panicked"), [0, 2, 2, 2, 2, 2, 4]);
}

#[tokio::test]
async fn a_stream_that_ends_before_its_run_is_taken_up_again() {
    let (seen, _) =
        followed(Flaky { ends_early: true, ..Flaky::default() }, PATIENCE).await.expect("followed");
    assert_eq!(seen, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn an_event_that_is_missing_is_asked_for_again() {
    let flaky = Flaky { leaves_out: Some(1), ..Flaky::default() };
    let (seen, _) = followed(flaky.clone(), PATIENCE).await.expect("followed");
    assert_eq!(seen, [1, 2, 3, 4, 5]);
    assert_eq!(flaky.asked.lock().expect("no test panicked")[..2], [0, 0]);
}

#[tokio::test]
async fn patience_ends() {
    let error = followed(Flaky { outage: u64::MAX, ..Flaky::default() }, Duration::from_millis(300)).await;
    assert_eq!(error.expect_err("given up").code(), Code::Unavailable);
}

#[tokio::test]
async fn what_cannot_pass_is_an_error_at_once() {
    let flaky = Flaky { breaks_with: Some(Code::NotFound), ..Flaky::default() };
    let error = followed(flaky.clone(), PATIENCE).await.expect_err("an error");
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(flaky.asked.lock().expect("no test panicked").len(), 1);
}
