//! A run's events in order, without a gap, across broken streams.

use std::time::Duration;

use fleet_wire::v1::{self, runs_client::RunsClient};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// Attempts to reach the coordinator again before the run is given up, and the pause before the first.
const MAX_ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Follows one run.
#[derive(Debug)]
pub struct Follower {
    client: RunsClient<Channel>,
    run: String,
    logs: bool,
    seen: u64,
    stream: Option<Streaming<v1::RunEvent>>,
    attempts: u32,
}

impl Follower {
    /// From the run's first event on; with log lines if `logs`.
    pub fn new(client: RunsClient<Channel>, run: String, logs: bool) -> Self {
        Self { client, run, logs, seen: 0, stream: None, attempts: 0 }
    }

    /// The next event; none after the last. Cancelling this future loses nothing.
    pub async fn next(&mut self) -> Result<Option<v1::RunEvent>, Status> {
        loop {
            let received = match &mut self.stream {
                Some(stream) => stream.message().await,
                None => match self.subscribe().await {
                    Ok(()) => continue,
                    Err(status) => Err(status),
                },
            };
            match received {
                Ok(Some(event)) => {
                    self.attempts = 0;
                    // Log lines are outside of the sequence.
                    if event.sequence == 0 || event.sequence > self.seen {
                        self.seen = self.seen.max(event.sequence);
                        return Ok(Some(event));
                    }
                }
                Ok(None) => return Ok(None),
                Err(status) => self.recover(status).await?,
            }
        }
    }

    async fn subscribe(&mut self) -> Result<(), Status> {
        let request = v1::EventsRequest { run: self.run.clone(), after_sequence: self.seen, logs: self.logs };
        self.stream = Some(self.client.events(request).await?.into_inner());
        Ok(())
    }

    /// Waits before another try, or gives the status back where none can help.
    async fn recover(&mut self, status: Status) -> Result<(), Status> {
        self.stream = None;
        self.attempts += 1;
        let passing = matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Internal | Code::ResourceExhausted
        );
        if !passing || self.attempts > MAX_ATTEMPTS {
            return Err(status);
        }
        tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(self.attempts - 1)).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
