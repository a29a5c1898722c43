//! The shell around the core: one task owns the [`Fleet`], gathers inputs, applies each, makes the records of a
//! batch durable, then performs the other effects. It decides nothing and never waits on a peer: a worker
//! whose queue is full is treated as lost.

mod inbound;
mod outbound;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use fleet_core::{Effect, Epoch, Event, Fleet, Notice, RealiseJobId, RunId, SourceId, Time, Timer, WorkerId};
use fleet_wire::v1;
use fleet_wire::v1::coordinator_message::Message as ToWorker;
use fleet_wire::v1::worker_message::Message as FromWorker;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::config::StepLimits;
use crate::derivations::Derivations;
use crate::feed::Feed;
use crate::journal::{Fact, Journal};
use crate::logs::Logs;

/// Inputs waiting for the shell; senders wait when it is full, which slows the peer that floods.
const INPUTS: usize = 1024;
/// Inputs applied before their records are made durable together.
const BATCH: usize = 128;
/// Runs whose feeds stay in memory.
const KEPT_RUNS: usize = 64;

/// Feeds by run name, shared with the services.
pub(crate) type Feeds = Arc<DashMap<String, Arc<Feed>>>;

/// What the services tell the shell.
#[derive(Debug)]
pub(crate) enum Input {
    /// A client's request.
    Submit(Box<v1::SubmitRequest>, oneshot::Sender<Result<String, Status>>),
    /// A client's withdrawal.
    Cancel(String, oneshot::Sender<Result<(), Status>>),
    /// A worker opened a session.
    Join(Box<v1::Hello>, mpsc::Sender<ToWorker>, oneshot::Sender<Result<(WorkerId, u64), Status>>),
    /// A worker says something; an error ends its session.
    Said(WorkerId, FromWorker, oneshot::Sender<Result<(), Status>>),
    /// A worker's session ended.
    Left(WorkerId),
}

/// State beside the core: names, feeds, sessions.
pub(crate) struct Shell {
    fleet: Fleet,
    started: Instant,
    journal: Box<dyn Journal>,
    logs: Logs,
    derivations: Derivations,
    limits: StepLimits,
    feeds: Feeds,
    runs: BTreeMap<RunId, RunState>,
    sources: HashMap<SourceId, v1::Source>,
    workers: BTreeMap<WorkerId, mpsc::Sender<ToWorker>>,
    realises: HashMap<RealiseJobId, RunId>,
    next_run: u64,
    next_worker: u64,
    timers: BTreeMap<(Time, u64), Timer>,
    next_timer: u64,
}

struct RunState {
    name: String,
    feed: Arc<Feed>,
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
    pub(crate) fn new(fleet: Fleet, journal: Box<dyn Journal>, logs: Logs, limits: StepLimits) -> Self {
        Self {
            fleet,
            started: Instant::now(),
            journal,
            logs,
            derivations: Derivations::default(),
            limits,
            feeds: Feeds::default(),
            runs: BTreeMap::new(),
            sources: HashMap::new(),
            workers: BTreeMap::new(),
            realises: HashMap::new(),
            next_run: 1,
            next_worker: 1,
            timers: BTreeMap::new(),
            next_timer: 0,
        }
    }

    /// Starts the shell's task; it ends when every sender is gone.
    pub(crate) fn spawn(self) -> (mpsc::Sender<Input>, Feeds) {
        let (sender, inputs) = mpsc::channel(INPUTS);
        let feeds = self.feeds.clone();
        tokio::spawn(self.run(inputs));
        (sender, feeds)
    }

    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let due = self.next_due();
            tokio::select! {
                received = inputs.recv_many(&mut batch, BATCH) => if received == 0 { break },
                () = tokio::time::sleep(due) => {}
            }
            let mut effects = Vec::new();
            for timer in self.due_timers() {
                self.apply(Event::TimerFired { timer }, &mut effects);
            }
            for input in batch.drain(..) {
                self.take(input, &mut effects);
            }
            if let Err(error) = self.perform(effects) {
                // Nothing visible may precede its record: without a journal there is no going on.
                tracing::error!(%error, "stopping: the journal cannot be written");
                self.fail_runs(&format!("{error}: {}", error_source(&error)));
                break;
            }
        }
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn apply(&mut self, event: Event, effects: &mut Vec<Effect>) {
        effects.extend(self.fleet.apply(self.now(), event));
    }

    /// Performs effects, and those of what performing them caused.
    fn perform(&mut self, effects: Vec<Effect>) -> Result<(), crate::journal::JournalError> {
        let mut effects = effects;
        while !effects.is_empty() {
            let facts: Vec<Fact> = effects
                .iter()
                .filter_map(|effect| match effect {
                    Effect::Append(record) => Fact::of(record, |run| self.run_name(run)),
                    _ => None,
                })
                .collect();
            if !facts.is_empty() {
                self.journal.append(&facts)?;
            }
            let mut caused = Vec::new();
            for effect in effects {
                match effect {
                    Effect::Append(_) => {}
                    Effect::Arm(timer, at) => self.arm(timer, at),
                    Effect::Notify(run, notice) => self.notify(run, &notice),
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
        let Some(state) = self.runs.get(&run) else { return };
        state.feed.push(fleet_wire::to_wire::notice(notice));
        if matches!(notice, Notice::Finished(_)) {
            self.realises.retain(|_, of| *of != run);
            while self.runs.len() > KEPT_RUNS {
                if let Some((_, old)) = self.runs.pop_first() {
                    self.feeds.remove(&old.name);
                }
            }
        }
    }

    /// Ends every watcher's wait when the shell cannot go on.
    fn fail_runs(&mut self, cause: &str) {
        for state in self.runs.values() {
            let failure =
                v1::Failure { code: "infrastructure".into(), cause: cause.into(), ..v1::Failure::default() };
            let finished = v1::RunFinished {
                outcome: v1::RunOutcome::Failed.into(),
                failure: Some(failure),
                ..v1::RunFinished::default()
            };
            state.feed.push(v1::run_event::Event::RunFinished(finished));
        }
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

fn error_source(error: &dyn std::error::Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}
