//! The shell around the core: one task owns the [`Fleet`], gathers inputs, applies each, makes the records of a
//! batch durable, then performs the other effects. It decides nothing and never waits on a peer: a worker
//! whose queue is full is treated as lost.

mod inbound;
mod outbound;
mod registry;
mod rights;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use fleet_core::{
    DrvPath, Effect, Epoch, Event, Fleet, Notice, RealiseJobId, RunId, RunRequest, SourceId, Time, Timer,
    WorkerId, WorkerOrder,
};
use fleet_identity::Registry;
use fleet_wire::v1;
use fleet_wire::v1::coordinator_message::Message as ToWorker;
use fleet_wire::v1::worker_message::Message as FromWorker;
use futures::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

use crate::access::Directory;
use crate::attempts::Attempts;
use crate::config::StepLimits;
use crate::derivations::{Derivations, MAX_BYTES};
use crate::feed::Feed;
use crate::journal::{Fact, Journal, JournalError};
use crate::logs::LogWriter;
use crate::rpc::Claim;

/// Inputs waiting for the shell; senders wait when it is full, which slows the peer that floods.
const INPUTS: usize = 1024;
/// Inputs applied before their records are made durable together.
const BATCH: usize = 128;
/// Runs that ended and whose feeds stay in memory.
const KEPT_RUNS: usize = 64;
/// Path infos that one run may gather: far above any fleet's.
const MAX_PATH_INFOS: usize = 2_000_000;

/// Feeds by run name, shared with the services.
pub(crate) type Feeds = Arc<DashMap<String, Arc<Feed>>>;

/// What the services tell the shell.
#[derive(Debug)]
pub(crate) enum Input {
    /// A client's request.
    Submit(Box<v1::SubmitRequest>, oneshot::Sender<Result<String, Status>>),
    /// A client's withdrawal.
    Cancel(String, oneshot::Sender<Result<(), Status>>),
    /// Whether a worker may bring a store path.
    MayKeep(Claim, oneshot::Sender<Result<(), Status>>),
    /// A worker opened a session.
    Join(Box<v1::Hello>, mpsc::Sender<ToWorker>, oneshot::Sender<Result<(WorkerId, u64), Status>>),
    /// A worker says something; an error ends its session.
    Said(WorkerId, FromWorker, oneshot::Sender<Result<(), Status>>),
    /// A worker's session ended, and why, unless it just closed.
    Left(WorkerId, Option<String>),
    /// A change of who may come in.
    Registry(fleet_identity::Request, oneshot::Sender<Result<fleet_identity::Answer, Status>>),
    /// An administrator's order to the worker of this name, with its reason.
    Order(String, WorkerOrder, String, oneshot::Sender<Result<(), Status>>),
    /// What is known of every worker.
    Workers(oneshot::Sender<Vec<v1::WorkerStatus>>),
}

/// State beside the core: names, feeds, sessions.
pub(crate) struct Shell {
    fleet: Fleet,
    started: Instant,
    journal: Box<dyn Journal>,
    attempts: Attempts,
    derivations: Derivations,
    limits: StepLimits,
    feeds: Feeds,
    runs: BTreeMap<RunId, RunState>,
    sources: HashMap<SourceId, v1::Source>,
    workers: BTreeMap<WorkerId, Session>,
    max_workers: usize,
    realises: HashMap<RealiseJobId, Realising>,
    /// Runs that ended, oldest first.
    ended: VecDeque<RunId>,
    next_run: u64,
    next_worker: u64,
    timers: BTreeMap<(Time, u64), Timer>,
    next_timer: u64,
    registry: watch::Sender<Arc<Registry>>,
}

struct RunState {
    name: String,
    request: RunRequest,
    feed: Arc<Feed>,
    live: bool,
    /// Steps of it that run now.
    running: HashSet<DrvPath>,
    path_infos: usize,
}

struct Session {
    name: String,
    outbound: mpsc::Sender<ToWorker>,
}

/// Who realises for which run.
struct Realising {
    run: RunId,
    worker: WorkerId,
    epoch: Epoch,
}

impl std::fmt::Debug for Shell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shell")
            .field("runs", &self.runs.len())
            .field("workers", &self.workers.len())
            .finish_non_exhaustive()
    }
}

impl Shell {
    pub(crate) fn new(
        fleet: Fleet,
        max_workers: usize,
        journal: Box<dyn Journal>,
        logs: LogWriter,
        limits: StepLimits,
    ) -> Self {
        Self {
            fleet,
            started: Instant::now(),
            journal,
            attempts: Attempts::new(logs),
            derivations: Derivations::new(MAX_BYTES),
            limits,
            feeds: Feeds::default(),
            runs: BTreeMap::new(),
            sources: HashMap::new(),
            workers: BTreeMap::new(),
            max_workers,
            realises: HashMap::new(),
            ended: VecDeque::new(),
            next_run: 1,
            next_worker: 1,
            timers: BTreeMap::new(),
            next_timer: 0,
            registry: watch::Sender::default(),
        }
    }

    /// Starts the shell's task; it ends when every sender is gone, or when it cannot go on. No watcher of a run
    /// waits on after that.
    pub(crate) fn spawn(self) -> (mpsc::Sender<Input>, Feeds, Directory) {
        let (sender, inputs) = mpsc::channel(INPUTS);
        let feeds = self.feeds.clone();
        let ending = feeds.clone();
        let directory = self.registry.subscribe();
        tokio::spawn(async move {
            let cause = match AssertUnwindSafe(self.run(inputs)).catch_unwind().await {
                Ok(Ok(())) => "the coordinator stopped".to_owned(),
                Ok(Err(error)) => {
                    // Nothing visible may precede its record: without a journal there is no going on.
                    let cause = fleet_telemetry::with_causes(&error);
                    tracing::error!("stopping: {cause}");
                    cause
                }
                Err(_) => "the coordinator failed; what it printed says why".to_owned(),
            };
            for feed in ending.iter() {
                feed.fail(&cause);
            }
        });
        (sender, feeds, directory)
    }

    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) -> Result<(), JournalError> {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let due = self.next_due();
            tokio::select! {
                received = inputs.recv_many(&mut batch, BATCH) => if received == 0 { return Ok(()) },
                () = tokio::time::sleep(due) => {}
            }
            let mut effects = Vec::new();
            for timer in self.due_timers() {
                self.apply(Event::TimerFired { timer }, &mut effects);
            }
            let mut answers = Vec::with_capacity(batch.len());
            for input in batch.drain(..) {
                answers.extend(self.take(input, &mut effects));
            }
            let performed = self.perform(effects);
            for answer in answers {
                answer.give(performed.as_ref().err());
            }
            performed?;
        }
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn apply(&mut self, event: Event, effects: &mut Vec<Effect>) {
        effects.extend(self.fleet.apply(self.now(), event));
    }

    /// Performs effects, and those of what performing them caused.
    fn perform(&mut self, effects: Vec<Effect>) -> Result<(), JournalError> {
        let mut effects = effects;
        while !effects.is_empty() {
            let facts: Vec<Fact> =
                effects.iter().flat_map(|effect| Fact::of(effect, |run| self.run_name(run))).collect();
            if !facts.is_empty() {
                self.journal.append(&facts)?;
            }
            let mut caused = Vec::new();
            for effect in effects {
                match effect {
                    Effect::Append(_) => {}
                    Effect::Arm(timer, at) => self.arm(timer, at),
                    Effect::Notify(run, notice) => {
                        if let Notice::StepFinished { drv, attempt, .. } = &notice {
                            self.attempts.end(drv, *attempt);
                        }
                        self.notify(run, &notice);
                    }
                    Effect::Send(worker, command) => self.send(worker, command, &mut caused),
                }
            }
            effects = caused;
        }
        Ok(())
    }

    fn run_name(&self, run: RunId) -> String {
        self.runs.get(&run).map_or_else(|| run.to_string(), |state| state.name.clone())
    }

    fn notify(&mut self, run: RunId, notice: &Notice) {
        let Some(state) = self.runs.get_mut(&run) else { return };
        match notice {
            Notice::StepStarted { drv, .. } => _ = state.running.insert(drv.clone()),
            Notice::StepFinished { drv, .. } => _ = state.running.remove(drv),
            _ => {}
        }
        state.feed.push(fleet_wire::to_wire::notice(notice));
        if matches!(notice, Notice::Finished(_)) {
            state.live = false;
            state.running = HashSet::new();
            self.run_ended(run);
        }
    }

    /// Forgets what only this run needed, and the run that ended longest ago.
    fn run_ended(&mut self, run: RunId) {
        self.realises.retain(|_, realising| realising.run != run);
        let live = self.runs.values().filter(|state| state.live);
        let needed: HashSet<SourceId> =
            live.flat_map(|state| state.request.before.into_iter().chain([state.request.after])).collect();
        self.sources.retain(|source, _| needed.contains(source));
        self.ended.push_back(run);
        if self.ended.len() > KEPT_RUNS
            && let Some(old) = self.ended.pop_front().and_then(|old| self.runs.remove(&old))
        {
            self.feeds.remove(&old.name);
        }
    }

    /// A worker is gone, or given up.
    fn worker_left(&mut self, worker: WorkerId, why: &str, effects: &mut Vec<Effect>) {
        let Some(session) = self.workers.remove(&worker) else { return };
        self.realises.retain(|_, realising| realising.worker != worker);
        let text = format!("worker {} left: {why}", session.name);
        tracing::info!("{text}");
        for state in self.runs.values().filter(|state| state.live) {
            state.feed.push(v1::run_event::Event::Notice(v1::Notice { text: text.clone() }));
        }
        self.apply(Event::WorkerLost { worker, session: fleet_core::Session(worker.0) }, effects);
    }

    fn arm(&mut self, timer: Timer, at: Time) {
        self.next_timer += 1;
        self.timers.insert((at, self.next_timer), timer);
    }

    fn next_due(&self) -> Duration {
        // Far enough for "no timer"; the loop then just goes round.
        const IDLE_MS: u64 = 3_600_000;
        let wait = self.timers.keys().next().map_or(IDLE_MS, |(at, _)| at.since_ms(self.now()));
        Duration::from_millis(wait)
    }

    fn due_timers(&mut self) -> Vec<Timer> {
        let later = self.timers.split_off(&(self.now().plus_ms(1), 0));
        std::mem::replace(&mut self.timers, later).into_values().collect()
    }

    fn epoch_of(worker: WorkerId) -> Epoch {
        Epoch(worker.0)
    }
}

#[cfg(test)]
mod tests;
