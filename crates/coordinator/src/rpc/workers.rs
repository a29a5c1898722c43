//! The session of a worker: its messages become inputs, the shell's commands go out. Ends the session when the
//! worker breaks the protocol, goes away, or does not take its messages.

use std::pin::Pin;
use std::time::Duration;

use fleet_core::WorkerId;
use fleet_wire::v1;
use fleet_wire::v1::coordinator_message::Message as ToWorker;
use fleet_wire::v1::worker_message::Message as FromWorker;
use futures::Stream;
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status, Streaming};

use super::status;
use crate::shell::Input;

/// Commands waiting for a worker: several times what its slots can need at once.
const OUTBOUND: usize = 1024;
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Workers say something every 10 s. A worker is lost when this passes twice without a word: after a pause of the
/// whole machine, or of this process, the first is over at once.
const SILENT_WITHIN: Duration = Duration::from_secs(15);

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
        let mut inbound = request.into_inner();
        let hello = tokio::time::timeout(HELLO_WITHIN, inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello within 10 s"))??;
        let Some(v1::WorkerMessage { message: Some(FromWorker::Hello(hello)), .. }) = hello else {
            return Err(Status::failed_precondition("the first message of a session is a hello"));
        };
        let (commands, outbox) = mpsc::channel(OUTBOUND);
        let (reply, answer) = oneshot::channel();
        let join = Input::Join(Box::new(hello), commands.clone(), reply);
        self.shell.send(join).await.map_err(|_| status::stopping())?;
        let (worker, epoch) = answer.await.map_err(|_| status::stopping())??;
        // The queue is empty: the welcome always fits, though commands may already stand before it.
        let _ = commands.try_send(ToWorker::Welcome(v1::Welcome { epoch, ..v1::Welcome::default() }));
        let (end, ended) = oneshot::channel();
        let shell = self.shell.clone();
        tokio::spawn(async move {
            let result = listen(worker, &mut inbound, &shell).await;
            let reason = result.as_ref().err().map(|status| status.message().to_owned());
            // Both ends may be gone already. The reason first: the commands end when the shell hears of it.
            let _ = end.send(result);
            let _ = shell.send(Input::Left(worker, reason)).await;
        });
        Ok(Response::new(Box::pin(outbound(outbox, ended))))
    }
}

async fn listen(
    worker: WorkerId,
    inbound: &mut Streaming<v1::WorkerMessage>,
    shell: &mpsc::Sender<Input>,
) -> Result<(), Status> {
    while let Some(message) = hear(inbound).await? {
        let message = message.message.ok_or_else(|| Status::invalid_argument("an empty message"))?;
        let (reply, answer) = oneshot::channel();
        shell.send(Input::Said(worker, message, reply)).await.map_err(|_| status::stopping())?;
        answer.await.map_err(|_| status::stopping())??;
    }
    Ok(())
}

async fn hear(inbound: &mut Streaming<v1::WorkerMessage>) -> Result<Option<v1::WorkerMessage>, Status> {
    for _ in 0..2 {
        if let Ok(heard) = tokio::time::timeout(SILENT_WITHIN, inbound.message()).await {
            return heard;
        }
    }
    Err(status::silent())
}

/// Commands until the session ends; then the reason, if there is one.
fn outbound(
    commands: mpsc::Receiver<ToWorker>,
    ended: oneshot::Receiver<Result<(), Status>>,
) -> impl Stream<Item = Result<v1::CoordinatorMessage, Status>> {
    futures::stream::unfold(Some((commands, ended)), |state| async move {
        let (mut commands, mut ended) = state?;
        tokio::select! {
            biased;
            end = &mut ended => match end {
                Ok(Err(reason)) => Some((Err(reason), None)),
                _ => None,
            },
            command = commands.recv() => match command {
                Some(command) => {
                    let message = v1::CoordinatorMessage { message: Some(command) };
                    Some((Ok(message), Some((commands, ended))))
                }
                // The shell gave the worker up, or is gone.
                None => Some((Err(status::not_taken()), None)),
            },
        }
    })
}
