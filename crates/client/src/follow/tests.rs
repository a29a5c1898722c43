//! A coordinator that breaks its streams: followed without a gap and without an event twice.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use fleet_wire::v1::runs_server::{Runs, RunsServer};
use fleet_wire::v1::{self, runs_client::RunsClient};
use futures::{Stream, StreamExt, stream};
use hyper_util::rt::TokioIo;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};

use super::Follower;

const EVENTS: u64 = 5;

/// Gives two events a stream, then breaks it; the last stream ends in order.
#[derive(Clone, Default)]
struct Flaky {
    asked: Arc<Mutex<Vec<u64>>>,
    refused: Arc<AtomicU64>,
    breaks_with: Option<Code>,
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
        if self.refused.fetch_add(1, Ordering::Relaxed) == 1 {
            return Err(Status::unavailable("restarting"));
        }
        // A log line, outside of the sequence; then one event too many, as after a lost acknowledgement.
        let first = after.max(1);
        let last = (after + 2).min(EVENTS);
        let events = (first..=last).map(|sequence| v1::RunEvent { sequence, ..Default::default() });
        let log = v1::RunEvent::default();
        let mut items: Vec<_> = std::iter::once(log).chain(events).map(Ok).collect();
        if last < EVENTS {
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

async fn sequences(flaky: Flaky) -> Result<Vec<u64>, Status> {
    let mut follower = Follower::new(RunsClient::new(connect(flaky)), "run".to_owned(), true);
    let mut seen = Vec::new();
    while let Some(event) = follower.next().await? {
        seen.push(event.sequence);
    }
    Ok(seen)
}

#[tokio::test]
async fn a_broken_stream_is_taken_up_where_it_ended() {
    let flaky = Flaky::default();
    let seen = sequences(flaky.clone()).await.expect("followed");
    let numbered: Vec<u64> = seen.into_iter().filter(|&sequence| sequence > 0).collect();
    assert_eq!(numbered, [1, 2, 3, 4, 5]);
    assert_eq!(*flaky.asked.lock().expect("no test panicked"), [0, 2, 2, 4]);
}

#[tokio::test]
async fn what_cannot_pass_is_an_error_at_once() {
    let flaky = Flaky { breaks_with: Some(Code::NotFound), ..Flaky::default() };
    let error = sequences(flaky.clone()).await.expect_err("an error");
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(flaky.asked.lock().expect("no test panicked").len(), 1);
}
