//! One session: hello, welcome, then messages both ways until the stream, the coordinator or the worker ends it. It
//! never waits for a job or for room in a queue: a cancellation is always heard.

use std::sync::Arc;
use std::time::Duration;

use fleet_wire::v1;
use fleet_wire::v1::coordinator_message::Message as Told;
use fleet_wire::v1::worker_message::Message;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::agent::Agent;
use crate::context::{Context, Outbox};
use crate::jobs::Jobs;

/// Messages waiting for the coordinator. Few: a heartbeat behind them must not come late on a slow link.
const OUTBOX: usize = 8;
/// Unless the coordinator says otherwise.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// From dialling to the coordinator's first answer.
const OPEN_WITHIN: Duration = Duration::from_secs(30);

/// An open stream.
#[derive(Debug)]
pub(crate) struct Stream {
    outbox: Outbox,
    inbound: Streaming<v1::CoordinatorMessage>,
}

/// How a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The worker is to end.
    Over,
    /// The coordinator told the worker to end.
    Shutdown,
    /// The coordinator closed the stream without a word.
    Closed,
    /// The stream broke, or the coordinator said why it ends.
    Broken(Box<Status>),
    /// The worker stood still: the coordinator counts it as away.
    Paused,
}

/// Opens a stream and says hello.
pub(crate) async fn open(context: &Context, hello: v1::Hello) -> Result<Stream, Box<Status>> {
    // A coordinator that was told before may be another one now, or have lost what it was told.
    context.planner.lock().await.forget_told();
    context.told.lock().await.clear();
    context.introduced.forget_all();
    let (sender, messages) = mpsc::channel(OUTBOX);
    let outbox = Outbox(sender);
    outbox.send(Message::Hello(hello)).await;
    let mut client = v1::workers_client::WorkersClient::new(context.coordinator.clone())
        .max_decoding_message_size(fleet_wire::MAX_MESSAGE);
    let opening = client.session(ReceiverStream::new(messages));
    let opened = tokio::time::timeout(OPEN_WITHIN, opening).await;
    let late = |_| Box::new(Status::unavailable("the coordinator did not answer in time"));
    Ok(Stream { outbox, inbound: opened.map_err(late)?.map_err(Box::new)?.into_inner() })
}

impl Stream {
    /// Works until the session ends. Evals and realise jobs end with it; leases go on.
    pub(crate) async fn serve(self, agent: &mut Agent) -> End {
        let context = agent.context.clone();
        let end = self.converse(agent, &context).await;
        agent.left();
        end
    }

    async fn converse(mut self, agent: &mut Agent, context: &Arc<Context>) -> End {
        let mut visits = Jobs::default();
        // Dropped with the session, as the visits are.
        let mut pump = JoinSet::new();
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let (was_draining, is_idle) = (agent.is_draining(), visits.is_empty());
            tokio::select! {
                _ = beat.tick() => {
                    if !agent.beat() {
                        return End::Paused;
                    }
                    self.report(agent);
                }
                () = visits.reap() => {}
                over = agent.look_after(is_idle) => match over {
                    Err(_) => return End::Over,
                    Ok(()) if agent.is_draining() != was_draining => self.report(agent),
                    Ok(()) => {}
                },
                received = self.inbound.message() => match received.map(|told| told.map(|told| told.message)) {
                    Ok(Some(Some(Told::Shutdown(_)))) => return End::Shutdown,
                    Ok(Some(Some(Told::Welcome(welcome)))) if pump.is_empty() => {
                        beat = heartbeats(&welcome);
                        agent.arrived();
                        context.presence.open(self.outbox.clone(), welcome);
                        pump.spawn(pour(context.clone(), self.outbox.clone()));
                    }
                    Ok(Some(Some(told))) => agent.handle(&mut visits, &self.outbox, told),
                    Ok(Some(None)) => {}
                    Ok(None) => return End::Closed,
                    Err(status) => return End::Broken(Box::new(status)),
                },
            }
        }
    }

    /// What stands in a full queue is a sign of life as well.
    fn report(&self, agent: &Agent) {
        let _ = self.outbox.try_send(Message::Heartbeat(agent.heartbeat()));
    }
}

fn heartbeats(welcome: &v1::Welcome) -> tokio::time::Interval {
    let agreed = Duration::from_millis(welcome.heartbeat_ms.into());
    let mut beat = tokio::time::interval(if agreed.is_zero() { HEARTBEAT } else { agreed });
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    beat
}

/// What is kept, from its beginning: an earlier session may have lost anything that was not acknowledged.
async fn pour(context: Arc<Context>, outbox: Outbox) {
    let mut sent = 0;
    loop {
        let message = context.spool.next(sent).await;
        // After a pause this session is no longer ours to speak in: it ends with the next beat.
        if !context.presence.is_fresh() {
            return;
        }
        sent = message.sequence;
        if outbox.0.send(message).await.is_err() {
            return;
        }
        context.spool.sent(sent);
    }
}
