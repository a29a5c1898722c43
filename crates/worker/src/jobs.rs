//! Jobs under way and how to stop them. Cancelling a job drops its future, which closes its connections and
//! ends its processes; nothing more is said of it. The coordinator bounds their number by the slots of the hello.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Tasks, one a job. Dropping it cancels all.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    tasks: JoinSet<JobId>,
    running: HashMap<JobId, Running>,
}

#[derive(Debug)]
struct Running {
    epoch: u64,
    token: CancellationToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum JobId {
    Eval(u64),
    Lease(u64),
    Realise(u64),
    /// An order to share.
    Share(u64),
    /// A hint, by our own count.
    Prefetch(u64),
}

impl Jobs {
    /// Starts a job, unless it runs already. `broken` follows a panic: nobody must wait for such a job.
    pub(crate) fn start(
        &mut self,
        id: JobId,
        epoch: u64,
        work: impl Future<Output = ()> + Send + 'static,
        broken: impl Future<Output = ()> + Send + 'static,
    ) {
        if self.running.contains_key(&id) {
            return;
        }
        let token = CancellationToken::new();
        self.running.insert(id, Running { epoch, token: token.clone() });
        self.tasks.spawn(async move {
            let work = AssertUnwindSafe(work).catch_unwind();
            if let Some(Err(_)) = token.run_until_cancelled(work).await {
                broken.await;
            }
            id
        });
    }

    /// Stops a job of this epoch; 0 is any.
    pub(crate) fn cancel(&mut self, id: JobId, epoch: u64) {
        if self.running.get(&id).is_some_and(|running| epoch == 0 || running.epoch == epoch)
            && let Some(running) = self.running.remove(&id)
        {
            running.token.cancel();
        }
    }

    /// Stops all jobs and says which they were.
    pub(crate) fn cancel_all(&mut self) -> Vec<(JobId, u64)> {
        let stopped = self.running.drain().map(|(id, running)| {
            running.token.cancel();
            (id, running.epoch)
        });
        stopped.collect()
    }

    /// Job and epoch of each that runs.
    pub(crate) fn running(&self) -> impl Iterator<Item = (JobId, u64)> {
        self.running.iter().map(|(id, running)| (*id, running.epoch))
    }

    /// Whether nothing runs.
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// How many run.
    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }

    /// Waits for one job's end; forever when there is none.
    pub(crate) async fn reap(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok(id)) => drop(self.running.remove(&id)),
            Some(Err(error)) => tracing::error!(%error, "a job ended abnormally"),
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn a_job_that_panics_is_said_to_have_ended() {
        let mut jobs = Jobs::default();
        let (said, heard) = oneshot::channel();
        let broken = async move { said.send("broken").expect("somebody waits") };
        jobs.start(JobId::Lease(7), 8, async { panic!("a planted bug") }, broken);
        jobs.reap().await;
        assert_eq!(heard.await, Ok("broken"));
        assert!(jobs.is_empty());
    }

    #[tokio::test]
    async fn a_cancelled_job_is_dropped_without_a_word() {
        let mut jobs = Jobs::default();
        let (alive, dropped) = oneshot::channel::<()>();
        let (said, heard) = oneshot::channel::<()>();
        let work = async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        };
        jobs.start(JobId::Lease(7), 8, work, async move { said.send(()).expect("somebody waits") });
        jobs.cancel(JobId::Lease(7), 9);
        assert_eq!(jobs.running().collect::<Vec<_>>(), [(JobId::Lease(7), 8)], "of another epoch");
        jobs.cancel(JobId::Lease(7), 8);
        jobs.reap().await;
        assert!(dropped.await.is_err(), "the future is gone");
        assert!(heard.await.is_err(), "nothing is said");
    }

    #[tokio::test]
    async fn a_job_that_is_given_twice_runs_once() {
        let mut jobs = Jobs::default();
        jobs.start(JobId::Lease(7), 8, std::future::pending(), async {});
        let (ran, second) = oneshot::channel();
        jobs.start(JobId::Lease(7), 8, async move { ran.send(()).expect("somebody waits") }, async {});
        assert!(second.await.is_err(), "dropped unused");
        assert_eq!(jobs.cancel_all(), [(JobId::Lease(7), 8)]);
        assert!(jobs.is_empty());
    }
}
