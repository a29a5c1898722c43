//! What a worker is across its sessions: its leases, whether it drains, how long it has been away. Looks after them
//! whether or not a session is open.

use std::sync::Arc;
use std::time::Duration;

use fleet_wire::v1;
use fleet_wire::v1::worker_message::Message;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::clock::Moment;
use crate::context::{Context, Outbox};
use crate::jobs::{JobId, Jobs};
use crate::{eval_job, lease, realise, share, transfer};

/// How long results may take to be acknowledged by a worker that wants to end.
const FAREWELL: Duration = Duration::from_secs(5);
/// Hints that are followed at a time; the coordinator gives one and waits for its lease.
const PREFETCHES: usize = 2;
/// Orders to share at a time; they wait for each other's uploads.
const SHARES: usize = 256;
/// How often it is looked whether the worker has been away for too long.
const AWAY_CHECK: Duration = Duration::from_secs(1);

/// How a worker is told to end. None of them need ever happen.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Take nothing new, finish what runs.
    pub drain: CancellationToken,
    /// Give back what runs.
    pub hand_back: CancellationToken,
    /// End without a word.
    pub at_once: CancellationToken,
}

/// The worker is to end now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Over;

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) context: Arc<Context>,
    stop: Stop,
    leases: Jobs,
    sessions: Sessions,
    /// Since when no session is open.
    away: Option<Moment>,
    ending: Ending,
    /// Hints so far.
    hints: u64,
}

/// Whether another session may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sessions {
    /// This one, with a coordinator that sleeps and wakes as we do.
    One,
    Many,
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    No,
    /// Until then what runs may finish.
    Draining(Instant),
    /// Until then results may arrive.
    Leaving(Instant),
}

impl Agent {
    pub(crate) fn new(context: Arc<Context>, sessions: Sessions, stop: Stop) -> Self {
        Self { context, stop, leases: Jobs::default(), sessions, away: None, ending: Ending::No, hints: 0 }
    }

    /// We run; false if this worker stood still, and the coordinator did not.
    pub(crate) fn beat(&self) -> bool {
        self.context.presence.beat() || self.sessions == Sessions::One
    }

    /// How we are.
    pub(crate) fn heartbeat(&self) -> v1::Heartbeat {
        let mut heartbeat = self.context.health.latest();
        heartbeat.leases = u32::try_from(self.leases.len()).unwrap_or(u32::MAX);
        heartbeat.spooled = self.context.spool.bytes();
        if self.is_draining() {
            "draining".clone_into(&mut heartbeat.unwell);
        }
        heartbeat
    }

    /// What a hello says of leases: those that run, and those of which something has not arrived.
    pub(crate) fn holds(&self) -> Vec<v1::HeldLease> {
        let mut holds = self.context.spool.leases();
        let running = self.leases.running().filter_map(|(id, epoch)| match id {
            JobId::Lease(lease) => Some((lease, epoch)),
            _ => None,
        });
        holds.extend(running);
        holds.sort_unstable();
        holds.dedup();
        holds.into_iter().map(|(lease, epoch)| v1::HeldLease { lease, epoch }).collect()
    }

    pub(crate) fn is_draining(&self) -> bool {
        !matches!(self.ending, Ending::No)
    }

    /// A session is open.
    pub(crate) fn arrived(&mut self) {
        self.away = None;
    }

    /// The session is over: its end counts from when we last ran.
    pub(crate) fn left(&mut self) {
        self.context.presence.close();
        self.away.get_or_insert_with(|| self.context.presence.last_beat());
    }

    /// Starts or cancels a job. Evals and realise jobs are the session's, and speak in it.
    pub(crate) fn handle(
        &mut self,
        visits: &mut Jobs,
        outbox: &Outbox,
        message: v1::coordinator_message::Message,
    ) {
        use v1::coordinator_message::Message as Told;
        let (context, outbox) = (self.context.clone(), outbox.clone());
        match message {
            Told::EvalJob(job) => {
                let (id, epoch, broken) = (JobId::Eval(job.job), job.epoch, eval_broken(&job));
                let says = say(outbox.clone(), broken);
                visits.start(id, epoch, eval_job::run(context, outbox, job), says);
            }
            Told::Realise(job) => {
                let (id, epoch, broken) = (JobId::Realise(job.job), job.epoch, realise_broken(&job));
                let says = say(outbox.clone(), broken);
                visits.start(id, epoch, realise::run(context, outbox, job), says);
            }
            Told::Lease(lease) => {
                let (id, epoch) = (JobId::Lease(lease.lease), lease.epoch);
                let (spooling, broken) = (context.clone(), lease_broken(lease.lease, epoch));
                let says = async move {
                    spooling.spool.add(broken);
                };
                self.leases.start(id, epoch, lease::run(context, lease), says);
            }
            Told::CancelEval(job) => visits.cancel(JobId::Eval(job.job), 0),
            Told::CancelLease(lease) => {
                self.leases.cancel(JobId::Lease(lease.lease), lease.epoch);
                context.spool.forget(lease.lease, lease.epoch);
            }
            Told::Acknowledged(acknowledged) => context.spool.acknowledge(acknowledged.through),
            Told::Drain(drain) => tracing::info!(reason = drain.reason, "the coordinator gives nothing new"),
            Told::Resume(_) => tracing::info!("the coordinator gives work again"),
            Told::Share(order) => self.share(visits, outbox, order),
            Told::Prefetch(hint) => self.prefetch(visits, hint),
            Told::Welcome(_) | Told::Shutdown(_) => {}
        }
    }

    fn share(&self, visits: &mut Jobs, outbox: Outbox, order: v1::Share) {
        let is_order = |(id, _): &(JobId, u64)| matches!(id, JobId::Share(_));
        let lost = Message::PathsLost(v1::PathsLost { paths: order.paths.clone() });
        if visits.running().filter(is_order).count() >= SHARES {
            tracing::warn!(share = order.share, "too many orders to share at once");
            // To somebody else, then.
            let _ = outbox.try_send(lost);
            return;
        }
        let (id, says) = (JobId::Share(order.share), say(outbox.clone(), lost));
        visits.start(id, 0, share::run(self.context.clone(), outbox, order), says);
    }

    fn prefetch(&mut self, visits: &mut Jobs, hint: v1::Prefetch) {
        let is_hint = |(id, _): &(JobId, u64)| matches!(id, JobId::Prefetch(_));
        if self.is_draining() || visits.running().filter(is_hint).count() >= PREFETCHES {
            return;
        }
        self.hints += 1;
        let id = JobId::Prefetch(self.hints);
        visits.start(id, 0, transfer::prefetch(self.context.clone(), hint), async {});
    }

    /// Looks after what goes on without a session until `until` is ready.
    pub(crate) async fn meanwhile<T>(&mut self, until: impl Future<Output = T>) -> Result<T, Over> {
        tokio::pin!(until);
        loop {
            tokio::select! {
                ready = &mut until => return Ok(ready),
                over = self.look_after(true) => over?,
            }
        }
    }

    /// One thing that happens to leases or to the worker's end. `is_idle` says whether only leases are under way.
    /// Safe to drop.
    pub(crate) async fn look_after(&mut self, is_idle: bool) -> Result<(), Over> {
        if self.away.is_some() {
            self.give_up_stale();
        }
        let is_done = is_idle && self.leases.is_empty();
        if is_done && let Ending::Draining(_) = self.ending {
            self.ending = Ending::Leaving(Instant::now() + FAREWELL);
        }
        let (draining, leaving) = match self.ending {
            Ending::No => (None, None),
            Ending::Draining(until) => (Some(until), None),
            Ending::Leaving(until) => (None, Some(until)),
        };
        tokio::select! {
            () = self.stop.at_once.cancelled() => return Err(Over),
            () = self.stop.drain.cancelled(), if matches!(self.ending, Ending::No) => {
                let limit = self.context.config.drain_timeout;
                tracing::info!(limit_s = limit.as_secs(), leases = self.leases.len(), "draining");
                self.ending = Ending::Draining(Instant::now() + limit);
            }
            () = self.stop.hand_back.cancelled(), if leaving.is_none() => self.hand_back(),
            () = due(draining) => self.hand_back(),
            () = due(leaving) => return Err(Over),
            () = self.context.spool.emptied(), if leaving.is_some() => return Err(Over),
            () = self.leases.reap() => {}
            () = tokio::time::sleep(AWAY_CHECK), if self.away.is_some() => {}
        }
        Ok(())
    }

    /// Stops every lease and says nothing of them: they are void, or the coordinator knows.
    pub(crate) fn abandon(&mut self) {
        for (id, epoch) in self.leases.cancel_all() {
            if let JobId::Lease(lease) = id {
                self.context.spool.forget(lease, epoch);
            }
        }
    }

    fn hand_back(&mut self) {
        let stopped = self.leases.cancel_all();
        if !stopped.is_empty() {
            tracing::warn!(leases = stopped.len(), "what still runs is handed back");
        }
        for (id, epoch) in stopped {
            if let JobId::Lease(lease) = id {
                self.context.spool.add(lease_broken(lease, epoch));
            }
        }
        self.ending = Ending::Leaving(Instant::now() + FAREWELL);
    }

    /// After so long the coordinator has given our leases to others.
    fn give_up_stale(&mut self) {
        // Not welcomed yet: what an earlier start left may still be waited for. If it is not, we shall be told.
        let Some(limit) = self.context.presence.away_limit() else { return };
        let is_stale = self.away.is_some_and(|since| since.elapsed() > limit);
        let held = self.holds();
        if is_stale && !held.is_empty() {
            tracing::warn!(leases = held.len(), "away for too long: others have these leases now");
            self.abandon();
            for held in held {
                self.context.spool.forget(held.lease, held.epoch);
            }
        }
    }
}

async fn due(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn say(outbox: Outbox, message: Message) {
    outbox.send(message).await;
}

fn eval_broken(job: &v1::EvalJob) -> Message {
    let unstarted = match &job.task {
        Some(v1::eval_job::Task::Hosts(hosts)) => hosts.hosts.clone(),
        _ => Vec::new(),
    };
    let failure = Some(broken());
    Message::EvalFinished(v1::EvalFinished { job: job.job, epoch: job.epoch, failure, unstarted })
}

fn lease_broken(lease: u64, epoch: u64) -> Message {
    Message::LeaseFinished(v1::LeaseFinished { lease, epoch })
}

fn realise_broken(job: &v1::Realise) -> Message {
    let (job, epoch, failure) = (job.job, job.epoch, Some(broken()));
    Message::PathsRealised(v1::PathsRealised {
        job,
        epoch,
        infos: Vec::new(),
        done: true,
        failure,
        missing: Vec::new(),
    })
}

fn broken() -> v1::Failure {
    let cause = "the worker failed at this; what it printed says why".to_owned();
    v1::Failure { code: "infrastructure".to_owned(), cause, ..v1::Failure::default() }
}
