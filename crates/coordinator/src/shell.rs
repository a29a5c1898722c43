//! The shell around the core: one task owns the [`Fleet`], gathers inputs, applies each, makes what came of a round
//! durable, and only then lets anything of it be seen. It decides nothing and never waits on a peer: a worker whose
//! queue is full is treated as lost. While an append is on its way, inputs gather in their queue.

mod acks;
mod clients;
mod commit;
mod compaction;
mod inbound;
mod known;
mod locate;
mod outbound;
mod publishing;
mod registry;
mod relays;
mod restore;
mod rights;
mod roots;
mod round;
mod runs;
mod sessions;
mod standing;
mod timers;

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use fleet_core::WorkerOrder;
use fleet_core::{
    Effect, Epoch, EvalJobId, Event, Fleet, FleetConfig, RealiseJobId, RunId, SourceId, Time, Timer, WorkerId,
};
use fleet_identity::{Answer, Registry, Request};
use fleet_journal::{Journal, JournalError};
use fleet_nix::{PathInfo, PublicKey, StorePath};
use fleet_paths::Standing;
use fleet_wire::v1;
use futures::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::access::Caller;
use crate::attempts::Attempts;
use crate::derivations::Derivations;
use crate::feed::Feeds;
use crate::log_index::LogIndex;
use crate::logs::LogWriter;
use crate::paths::{Expected, PathTable};

use acks::Acks;
use round::Round;
use runs::RunTable;
use timers::Timers;

pub(crate) use locate::{Found, LocateAnswer, LocateQuestion};
pub(crate) use publishing::Published;
pub(crate) use relays::{ASK_AGAIN, RELAYED_WITHIN};
pub use restore::RestoreFailed;
pub(crate) use rights::{Asking, Right};
pub(crate) use roots::{Needed, PinWhat, RootsInput, source_chunks};
pub(crate) use runs::Submission;
pub(crate) use sessions::{Ending, Joining, Seat};

/// Inputs waiting for the shell; senders wait when it is full, which slows the peer that floods.
const INPUTS: usize = 1024;
/// Inputs applied before their records are made durable together.
const BATCH: usize = 128;

/// Where an answer goes, once what it says is durable.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Status>>;

/// What the services tell the shell.
#[derive(Debug)]
pub(crate) enum Input {
    /// A client's request.
    Submit(Box<Submission>, Reply<String>),
    /// A client's withdrawal.
    Cancel(String, Caller, Reply<()>),
    /// One run with its targets.
    Show(String, Reply<v1::RunDetail>),
    /// Why something is not done.
    Why(v1::WhyRequest, Reply<v1::WhyReply>),
    /// The fleet at a glance.
    Status(Reply<v1::StatusReply>),
    /// Every worker that was seen.
    Workers(oneshot::Sender<Vec<v1::WorkerStatus>>),
    /// An administrator decides about the worker of this name, and says why.
    Order(String, WorkerOrder, String, Reply<()>),
    /// A change of who may come in.
    Registry(Request, Reply<Answer>),
    /// A worker opened a session.
    Join(Box<Joining>, Reply<Seat>),
    /// A worker says something. Room for its next word comes with the permit.
    Said(fleet_core::Session, Box<v1::WorkerMessage>, OwnedSemaphorePermit),
    /// A worker's session ended, and why, unless it just closed.
    Left(fleet_core::Session, Option<String>),
    /// How do these paths stand?
    Look(Vec<StorePath>, Reply<Vec<Standing>>),
    /// A worker tells of paths that nobody built here.
    Vouch(Asking, Vec<PathInfo>, Reply<Vec<Standing>>),
    /// Where can these paths be had?
    Locate(Box<LocateQuestion>, Reply<LocateAnswer>),
    /// May this path be brought?
    MayKeep(Asking, Box<PathInfo>, Reply<Expected>),
    /// May these paths be read, and these chunks of the source of an eval job?
    MayRead(Asking, Vec<StorePath>, Vec<Bytes>, Reply<()>),
    /// The bytes of a path are here from now on, or are no more.
    Kept(StorePath, bool, Reply<()>),
    /// Pins, ended runs, and what is needed.
    Roots(RootsInput),
    /// A target's closure was published, or cannot be.
    Published(Box<Published>),
}

/// What the shell needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) fleet: FleetConfig,
    pub(crate) heartbeat_ms: u32,
    pub(crate) upload_outputs: bool,
    /// By these workers know the coordinator's word; as Nix prints them.
    pub(crate) internal_keys: Vec<String>,
    /// What these signed comes from upstream.
    pub(crate) upstream_keys: Vec<PublicKey>,
}

/// The shell from outside.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) feeds: Feeds,
    /// Why nothing can be kept now; empty when it can.
    pub(crate) read_only: watch::Receiver<String>,
    /// Who may come in, as far as it is durable.
    pub(crate) registry: watch::Receiver<Arc<Registry>>,
    /// Ends the shell between two words, as a crash would.
    pub(crate) halt: CancellationToken,
}

/// State beside the core: names, feeds, sessions.
pub(crate) struct Shell {
    fleet: Fleet,
    settings: Settings,
    clock: Clock,
    journal: Box<dyn Journal>,
    /// Entries since the last compaction.
    appended: usize,
    index: LogIndex,
    attempts: Attempts,
    acks: Acks,
    derivations: Derivations,
    feeds: Feeds,
    runs: RunTable,
    sources: HashMap<SourceId, v1::Source>,
    sessions: sessions::Table,
    realises: HashMap<RealiseJobId, Realising>,
    /// Which tree each eval job looks at.
    evals: HashMap<EvalJobId, SourceId>,
    known: fleet_paths::Table,
    roots: fleet_paths::roots::Roots,
    relays: relays::Relays,
    hints: known::Hints,
    unreachable: locate::Unreachable,
    publisher: Option<publishing::Publisher>,
    timers: Timers,
    registry: Registry,
    durable_registry: watch::Sender<Arc<Registry>>,
    read_only: watch::Sender<String>,
}

/// Who realises for which run.
struct Realising {
    run: RunId,
    worker: WorkerId,
    epoch: Epoch,
    /// Its toplevel.
    path: Option<StorePath>,
    /// Whether its closure is to be published.
    publish: bool,
    /// What its toplevel refers to, as far as it was known when this was last asked.
    closure: HashSet<StorePath>,
    /// How often the closure was gone through.
    #[cfg(test)]
    walks: usize,
}

impl Realising {
    fn new(run: RunId, worker: WorkerId, epoch: Epoch, path: Option<StorePath>, publish: bool) -> Self {
        Self {
            run,
            worker,
            epoch,
            path,
            publish,
            closure: HashSet::new(),
            #[cfg(test)]
            walks: 0,
        }
    }
}

/// The core's time: it goes on where it was before a restart.
#[derive(Clone, Copy, Debug)]
struct Clock {
    began: Instant,
    began_at: Time,
}

impl Clock {
    fn from(began_at: Time) -> Self {
        Self { began: Instant::now(), began_at }
    }

    fn now(&self) -> Time {
        self.began_at.plus_ms(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

impl std::fmt::Debug for Shell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shell").field("feeds", &self.feeds.len()).finish_non_exhaustive()
    }
}

impl Shell {
    /// Restores what the journal holds and says that it restarted.
    pub(crate) async fn open(
        settings: Settings,
        journal: Box<dyn Journal>,
        index: LogIndex,
        logs: LogWriter,
    ) -> Result<Self, RestoreFailed> {
        let mut shell = Self::restore(settings, journal, index, logs).await?;
        shell.compact_when_idle().await?;
        let mut round = Round::default();
        let epoch_floor = restore::epoch_floor(shell.journal.epoch());
        shell.apply(Event::Restarted { epoch_floor }, &mut round);
        shell.forget_strangers(&mut round);
        shell.finish(round, || false).await?;
        Ok(shell)
    }

    /// What is really kept, before anything is said of it.
    pub(crate) async fn take_stock(&mut self, kept: &[StorePath]) -> Result<(), RestoreFailed> {
        let mut round = Round::default();
        for record in self.known.take_stock(kept) {
            known::learnt(Some(record), &mut round);
        }
        Ok(self.finish(round, || false).await?)
    }

    /// Starts the shell's task; it ends when every sender is gone, or when it cannot go on. No watcher of a run
    /// waits on after that.
    pub(crate) fn spawn(mut self, paths: Option<PathTable>) -> Handle {
        let (inputs, received) = mpsc::channel(INPUTS);
        self.publisher = paths.map(|table| publishing::Publisher { table, shell: inputs.downgrade() });
        let handle = Handle {
            inputs,
            feeds: self.feeds.clone(),
            read_only: self.read_only.subscribe(),
            registry: self.durable_registry.subscribe(),
            halt: CancellationToken::new(),
        };
        let (feeds, halt) = (self.feeds.clone(), handle.halt.clone());
        tokio::spawn(async move {
            let running = AssertUnwindSafe(halt.run_until_cancelled_owned(Box::pin(self.run(received))));
            let cause = match running.catch_unwind().await {
                Ok(Some(Ok(())) | None) => "the coordinator stopped".to_owned(),
                Ok(Some(Err(error))) => {
                    // Nothing visible may precede its record: without a journal there is no going on.
                    let cause = fleet_telemetry::with_causes(&error);
                    tracing::error!("stopping: {cause}");
                    cause
                }
                Err(_) => "the coordinator failed; what it printed says why".to_owned(),
            };
            for feed in feeds.iter() {
                feed.break_off(&Status::unavailable(cause.as_str()));
            }
        });
        handle
    }

    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) -> Result<(), JournalError> {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let due = self.timers.next_due(self.clock.now());
            tokio::select! {
                received = inputs.recv_many(&mut batch, BATCH) => if received == 0 { return Ok(()) },
                () = tokio::time::sleep(due) => {}
            }
            let mut round = Round::default();
            for timer in self.timers.take_due(self.clock.now()) {
                self.fired(timer, &mut round);
            }
            for input in batch.drain(..) {
                self.take(input, &mut round);
            }
            self.finish(round, || inputs.is_closed()).await?;
            self.compact_when_idle().await?;
        }
    }

    fn fired(&mut self, timer: Timer, round: &mut Round) {
        let away = match &timer {
            Timer::WorkerAway(worker, _) => Some(*worker),
            _ => None,
        };
        self.apply(Event::TimerFired { timer }, round);
        if let Some(worker) = away {
            self.forget_holder_if_gone(worker, round);
        }
    }

    /// Applies an event, and those that follow from its effects.
    fn apply(&mut self, event: Event, round: &mut Round) {
        let effects = self.fleet.apply(self.clock.now(), event);
        self.absorb(effects, round);
    }

    /// Takes effects into the round; what cannot be done comes back as an event.
    fn absorb(&mut self, effects: Vec<Effect>, round: &mut Round) {
        let mut effects = effects;
        loop {
            for effect in effects {
                match effect {
                    Effect::Append(record) => self.record(record, round),
                    Effect::Arm(timer, at) => self.timers.arm(timer, at),
                    Effect::Notify(run, notice) => self.notify(run, &notice, round),
                    Effect::Send(worker, command) => self.send(worker, command, round),
                }
            }
            let Some(caused) = round.take_caused() else { return };
            effects = self.fleet.apply(self.clock.now(), caused);
        }
    }
}

#[cfg(test)]
mod tests;
