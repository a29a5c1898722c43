//! The jobs under way and how to stop them. Cancelling a job drops its future, which closes its connections and
//! ends its processes; nothing more is said of it. The coordinator bounds their number by the slots of the hello.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use fleet_wire::v1;
use fleet_wire::v1::coordinator_message::Message as FromCoordinator;
use fleet_wire::v1::worker_message::Message;
use futures::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Outbox};
use crate::{eval_job, lease, realise};

/// Tasks, one a job.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    tasks: JoinSet<JobId>,
    tokens: HashMap<JobId, CancellationToken>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum JobId {
    Eval(u64),
    Lease(u64),
    Realise(u64),
}

impl Jobs {
    /// Starts or cancels a job.
    pub(crate) fn handle(&mut self, context: &Arc<Context>, message: v1::CoordinatorMessage) {
        let (context, outbox) = (context.clone(), context.outbox.clone());
        match message.message {
            Some(FromCoordinator::EvalJob(job)) => {
                let (id, end) = (JobId::Eval(job.job), eval_broken(&job));
                self.start(id, outbox, end, eval_job::run(context, job));
            }
            Some(FromCoordinator::Lease(lease)) => {
                let (id, end) = (JobId::Lease(lease.lease), lease_broken(&lease));
                self.start(id, outbox, end, lease::run(context, lease));
            }
            Some(FromCoordinator::Realise(job)) => {
                let (id, end) = (JobId::Realise(job.job), realise_broken(&job));
                self.start(id, outbox, end, realise::run(context, job));
            }
            Some(FromCoordinator::CancelEval(job)) => self.cancel(JobId::Eval(job.job)),
            Some(FromCoordinator::CancelLease(lease)) => self.cancel(JobId::Lease(lease.lease)),
            Some(_) | None => {}
        }
    }

    /// `end` is said for a job that panics: nobody must wait for it.
    fn start(
        &mut self,
        id: JobId,
        outbox: Outbox,
        end: Message,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let token = CancellationToken::new();
        self.tokens.insert(id, token.clone());
        self.tasks.spawn(async move {
            let work = AssertUnwindSafe(work).catch_unwind();
            if let Some(Err(_)) = token.run_until_cancelled(work).await {
                outbox.send(end).await;
            }
            id
        });
    }

    fn cancel(&mut self, id: JobId) {
        if let Some(token) = self.tokens.remove(&id) {
            token.cancel();
        }
    }

    /// Waits for one job's end; forever when there is none.
    pub(crate) async fn reap(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok(id)) => drop(self.tokens.remove(&id)),
            Some(Err(error)) => tracing::error!(%error, "a job ended abnormally"),
            None => std::future::pending().await,
        }
    }
}

fn eval_broken(job: &v1::EvalJob) -> Message {
    let unstarted = match &job.task {
        Some(v1::eval_job::Task::Hosts(hosts)) => hosts.hosts.clone(),
        _ => Vec::new(),
    };
    let failure = Some(broken());
    Message::EvalFinished(v1::EvalFinished { job: job.job, epoch: job.epoch, failure, unstarted })
}

fn lease_broken(lease: &v1::Lease) -> Message {
    Message::LeaseFinished(v1::LeaseFinished { lease: lease.lease, epoch: lease.epoch })
}

fn realise_broken(job: &v1::Realise) -> Message {
    let (job, epoch, failure) = (job.job, job.epoch, Some(broken()));
    Message::PathsRealised(v1::PathsRealised { job, epoch, infos: Vec::new(), done: true, failure })
}

fn broken() -> v1::Failure {
    let cause = "the worker failed at this; what it printed says why".to_owned();
    v1::Failure { code: "infrastructure".to_owned(), cause, ..v1::Failure::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::{mpsc, oneshot};

    #[tokio::test]
    async fn a_job_that_panics_is_said_to_have_ended() {
        let (sender, mut receiver) = mpsc::channel(4);
        let mut jobs = Jobs::default();
        let lease = v1::Lease { lease: 7, epoch: 8, steps: Vec::new() };
        let end = lease_broken(&lease);
        jobs.start(JobId::Lease(7), Outbox(sender), end.clone(), async { panic!("a planted bug") });
        jobs.reap().await;
        assert_eq!(receiver.recv().await.and_then(|message| message.message), Some(end));
        assert!(jobs.tokens.is_empty());
    }

    #[tokio::test]
    async fn a_cancelled_job_is_dropped_without_a_word() {
        let (sender, mut receiver) = mpsc::channel(4);
        let mut jobs = Jobs::default();
        let (alive, dropped) = oneshot::channel::<()>();
        let work = async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        };
        let end = lease_broken(&v1::Lease::default());
        jobs.start(JobId::Lease(7), Outbox(sender), end, work);
        jobs.cancel(JobId::Lease(7));
        jobs.reap().await;
        assert!(dropped.await.is_err(), "the future is gone");
        assert!(receiver.recv().await.is_none());
    }
}
