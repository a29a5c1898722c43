//! The session of a worker: its messages become inputs, the shell's commands go out. Ends the session when the
//! worker breaks the protocol, goes away, is silent, or does not take its messages.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fleet_wire::v1;
use fleet_wire::v1::coordinator_message::Message as ToWorker;
use fleet_wire::v1::worker_message::Message as FromWorker;
use futures::Stream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tonic::{Request, Response, Status, Streaming};

use super::status;
use crate::access::Caller;
use crate::shell::{Ending, Input, Joining, Seat};

/// Commands waiting for a worker: several times what its slots can need at once.
const OUTBOUND: usize = 1024;
/// Messages of one worker that are on their way to the disk; it waits before it says more.
const UNHEARD: usize = 64;
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// The service `fleet.v1.Workers`.
#[derive(Debug)]
pub(crate) struct WorkersService {
    pub(crate) shell: mpsc::Sender<Input>,
}

#[tonic::async_trait]
impl v1::workers_server::Workers for WorkersService {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::CoordinatorMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::WorkerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let identity = Caller::of(request.extensions()).worker().cloned();
        let mut inbound = request.into_inner();
        let hello = tokio::time::timeout(HELLO_WITHIN, inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello within 10 s"))?
            .map_err(status::of_peer)?;
        let Some(v1::WorkerMessage { message: Some(FromWorker::Hello(hello)), .. }) = hello else {
            return Err(Status::failed_precondition("the first message of a session is a hello"));
        };
        let (commands, outbox) = mpsc::channel(OUTBOUND);
        let (reply, answer) = oneshot::channel();
        let ending = Ending::new();
        let joining = Joining { hello, identity, outbound: commands, ending: ending.clone() };
        self.shell.send(Input::Join(Box::new(joining), reply)).await.map_err(|_| status::stopping())?;
        let (shell, heard) = (self.shell.clone(), ending.clone());
        let (seated, entered) = oneshot::channel();
        // A task from here on: a caller that goes while it waits must not leave a session that nobody listens to.
        tokio::spawn(async move {
            let seat = answer.await.unwrap_or_else(|_| Err(status::stopping()));
            // Who has gone is heard of below.
            let _ = seated.send(seat.as_ref().map(drop).map_err(Status::clone));
            let Ok(seat) = seat else { return };
            let result = tokio::select! {
                result = listen(seat, &mut inbound, &shell) => result,
                // It was cut from here: nothing it says is heard any more.
                _ = heard.reached() => return,
            };
            let reason = result.as_ref().err().map(|status| status.message().to_owned());
            heard.set(result);
            // The shell may be gone already.
            let _ = shell.send(Input::Left(seat.session, reason)).await;
        });
        entered.await.map_err(|_| status::stopping())??;
        Ok(Response::new(Box::pin(outbound(outbox, ending))))
    }
}

async fn listen(
    seat: Seat,
    inbound: &mut Streaming<v1::WorkerMessage>,
    shell: &mpsc::Sender<Input>,
) -> Result<(), Status> {
    // A worker is lost when this passes twice without a word: after a pause of the whole machine, or of this process,
    // the first is over at once. Both together last less than three heartbeats.
    let silent_within = Duration::from_millis(u64::from(seat.heartbeat_ms) * 14 / 10);
    let room = Arc::new(Semaphore::new(UNHEARD));
    while let Some(message) = hear(inbound, silent_within).await? {
        let permit = room.clone().acquire_owned().await.map_err(|_| status::stopping())?;
        let said = Input::Said(seat.session, Box::new(message), permit);
        shell.send(said).await.map_err(|_| status::stopping())?;
    }
    Ok(())
}

async fn hear(
    inbound: &mut Streaming<v1::WorkerMessage>,
    silent_within: Duration,
) -> Result<Option<v1::WorkerMessage>, Status> {
    for _ in 0..2 {
        if let Ok(heard) = tokio::time::timeout(silent_within, inbound.message()).await {
            return heard.map_err(status::of_peer);
        }
    }
    Err(status::silent())
}

/// Commands until the session ends; then the reason, if there is one.
fn outbound(
    commands: mpsc::Receiver<ToWorker>,
    ending: Ending,
) -> impl Stream<Item = Result<v1::CoordinatorMessage, Status>> {
    futures::stream::unfold(Some((commands, ending)), |state| async move {
        let (mut commands, ending) = state?;
        tokio::select! {
            biased;
            end = ending.reached() => end.err().map(|reason| (Err(reason), None)),
            command = commands.recv() => match command {
                Some(command) => {
                    let message = v1::CoordinatorMessage { message: Some(command) };
                    Some((Ok(message), Some((commands, ending))))
                }
                // The shell is gone.
                None => Some((Err(status::stopping()), None)),
            },
        }
    })
}
