//! A run's events in order, without a gap and none twice, across broken streams and long outages.

use std::fmt;
use std::pin::Pin;

use fleet_wire::v1::{self, run_event::Event, runs_client::RunsClient};
use tokio::time::Instant;
use tonic::{Response, Status, Streaming};

use crate::contact::{Contact, News};
use crate::remote::Link;

/// Follows one run to its end.
pub struct Follower {
    client: RunsClient<Link>,
    run: String,
    logs: bool,
    seen: u64,
    ended: bool,
    /// Came first after an outage, and waits until its end is told.
    held: Option<v1::RunEvent>,
    state: State,
    contact: Contact,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// An event.
    Event(Box<v1::RunEvent>),
    /// Contact is lost, or there again.
    News(News),
}

type Subscribing = Pin<Box<dyn Future<Output = Result<Response<Streaming<v1::RunEvent>>, Status>> + Send>>;

/// Kept between calls: a call that is cancelled must not begin anew what takes its time.
enum State {
    Idle,
    Pausing(Instant),
    Subscribing(Subscribing),
    Streaming(Box<Streaming<v1::RunEvent>>),
}

impl Follower {
    /// From the run's first event on; with log lines if `logs`.
    pub fn new(client: RunsClient<Link>, run: String, logs: bool, contact: Contact) -> Self {
        Self { client, run, logs, seen: 0, ended: false, held: None, state: State::Idle, contact }
    }

    /// What comes next; nothing after the run's last event. Cancelling this future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Seen>, Status> {
        if let Some(seen) = self.held.take().and_then(|event| self.accept(event)) {
            return Ok(Some(seen));
        }
        while !self.ended {
            let received = match &mut self.state {
                State::Idle => {
                    self.state = State::Subscribing(self.subscribe());
                    continue;
                }
                State::Pausing(until) => {
                    tokio::time::sleep_until(*until).await;
                    self.state = State::Idle;
                    continue;
                }
                State::Subscribing(subscribing) => match subscribing.await {
                    Ok(response) => {
                        self.state = State::Streaming(Box::new(response.into_inner()));
                        continue;
                    }
                    Err(status) => Err(status),
                },
                State::Streaming(stream) => match stream.message().await {
                    Ok(Some(event)) => Ok(event),
                    Ok(None) => Err(Status::unavailable("its events ended early")),
                    Err(status) => Err(status),
                },
            };
            if let Some(seen) = self.take(received)? {
                return Ok(Some(seen));
            }
        }
        Ok(None)
    }

    fn take(&mut self, received: Result<v1::RunEvent, Status>) -> Result<Option<Seen>, Status> {
        let event = match received {
            Ok(event) if event.sequence > self.seen + 1 => {
                return self.recover(Status::data_loss("an event is missing"));
            }
            Ok(event) => event,
            Err(status) => return self.recover(status),
        };
        match self.contact.made() {
            Some(news) => {
                self.held = Some(event);
                Ok(Some(Seen::News(news)))
            }
            None => Ok(self.accept(event)),
        }
    }

    /// Nothing for an event that was seen before; log lines are outside of the sequence.
    fn accept(&mut self, event: v1::RunEvent) -> Option<Seen> {
        if event.sequence > 0 && event.sequence <= self.seen {
            return None;
        }
        self.seen = self.seen.max(event.sequence);
        self.ended = matches!(event.event, Some(Event::RunFinished(_)));
        Some(Seen::Event(Box::new(event)))
    }

    fn subscribe(&self) -> Subscribing {
        let mut client = self.client.clone();
        let request = v1::EventsRequest { run: self.run.clone(), after_sequence: self.seen, logs: self.logs };
        Box::pin(async move { client.events(request).await })
    }

    /// Pauses before another try, or gives the status back where none can help.
    fn recover(&mut self, status: Status) -> Result<Option<Seen>, Status> {
        let Some(retry) = self.contact.lost(&status) else { return Err(status) };
        self.state = State::Pausing(Instant::now() + retry.pause);
        Ok(retry.news.map(Seen::News))
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("run", &self.run).field("seen", &self.seen).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
