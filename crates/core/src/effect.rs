//! Everything we do in reply. What must survive a restart are [`Record`]s; facts for people, such as when an
//! attempt began and ended, follow from commands and notices.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::event::{Failure, StepLimits, Timer};
use crate::id::{
    DrvPath, Epoch, EvalJobId, Host, HostKind, LeaseId, OutputPath, RealiseJobId, RunId, Session, Side,
    SourceId, System, Target, Time, WorkerId,
};
use crate::record::Record;

/// One thing to do. The shell makes all appends of a batch durable before it performs the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Keep this for a restart.
    Append(Record),
    /// Tell a worker.
    Send(WorkerId, Command),
    /// Tell everyone who watches this run. In the order of the run's sequence numbers.
    Notify(RunId, Notice),
    /// Come back with [`Event::TimerFired`](crate::Event::TimerFired) at this time or later.
    Arm(Timer, Time),
}

/// An order to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Evaluate.
    StartEval {
        /// Names the job in reports.
        job: EvalJobId,
        /// Fences them.
        epoch: Epoch,
        /// The tree.
        source: SourceId,
        /// What to do with it.
        task: EvalTask,
    },
    /// Stop evaluating; reports of the job are refused from now on.
    CancelEval {
        /// Which.
        job: EvalJobId,
    },
    /// Build a batch.
    StartLease {
        /// Names the lease in reports.
        lease: LeaseId,
        /// Fences them.
        epoch: Epoch,
        /// In dependency order.
        steps: Vec<LeasedStep>,
    },
    /// Stop building; reports of the lease are refused from now on.
    CancelLease {
        /// Which.
        lease: LeaseId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Nothing new comes after what runs now.
    Drain {
        /// For people.
        reason: Arc<str>,
    },
    /// New work may come again.
    Resume,
    /// The session is over: cut the stream.
    EndSession {
        /// Which.
        session: Session,
        /// What the worker is told.
        end: SessionEnd,
    },
    /// Make a toplevel valid, root it, and describe its closure if asked.
    Realise {
        /// Names the job in reports.
        job: RealiseJobId,
        /// Fences them.
        epoch: Epoch,
        /// The toplevel.
        path: OutputPath,
        /// Whose path infos it adds to.
        run: RunId,
        /// Whether the path infos of its closure are wanted.
        closure: Closure,
        /// Whether its closure is to be brought to the coordinator.
        publish: Publish,
    },
    /// Fetch the inputs of a step that will probably be leased next, while others are built. No duty.
    Prefetch {
        /// The step's derivation.
        drv: DrvPath,
        /// A lease that the worker has: the right by which it reads.
        lease: LeaseId,
        /// Of that lease.
        epoch: Epoch,
    },
}

/// Why a session is cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionEnd {
    /// A newer session of the same worker took its place.
    Replaced,
    /// An older session of another instance is still open: come again later.
    Contended,
    /// Two instances use one identity.
    Locked,
    /// The worker was revoked.
    Revoked,
    /// There are as many workers as fit.
    TooMany,
}

/// Whether the path infos of a closure are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Closure {
    /// For the diff stage.
    Wanted,
    /// Only the toplevel matters.
    NotWanted,
}

/// Whether a closure is to be brought to the coordinator, so that it can be served when its builders are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Publish {
    /// As far as it is lacking there, and no upstream cache serves it.
    Wanted,
    /// It stays where it is.
    NotWanted,
}

/// What an eval job does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EvalTask {
    /// List hosts of these kinds.
    Discover(Vec<HostKind>),
    /// Evaluate these, in this order.
    Hosts(Vec<Host>),
}

/// One step of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasedStep {
    /// Its derivation.
    pub drv: DrvPath,
    /// From 1, over all workers.
    pub attempt: u32,
    /// What it may take.
    pub limits: StepLimits,
}

/// What watchers of a run see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// Hosts of one side, after selection, in name order.
    HostsFound {
        /// Which tree.
        side: Side,
        /// What it holds.
        hosts: Vec<Host>,
    },
    /// An evaluator turned to this target.
    TargetStarted {
        /// Which.
        target: Target,
    },
    /// A target's graph is known.
    TargetEvaluated {
        /// Which.
        target: Target,
        /// Its toplevel's derivation.
        drv: DrvPath,
        /// Where it will be.
        toplevel: Option<OutputPath>,
        /// How many steps it wants.
        steps: u32,
    },
    /// A target ended.
    TargetSettled {
        /// Which.
        target: Target,
        /// How.
        settled: Settled,
    },
    /// An attempt was leased.
    StepStarted {
        /// Of which step.
        drv: DrvPath,
        /// For people.
        name: Arc<str>,
        /// Where it builds.
        system: System,
        /// By whom.
        worker: Arc<str>,
        /// Which.
        attempt: u32,
    },
    /// An attempt ended, or the step did without one.
    StepFinished {
        /// Of which step.
        drv: DrvPath,
        /// For people.
        name: Arc<str>,
        /// How.
        status: StepStatus,
        /// Which; 0 when there was none.
        attempt: u32,
        /// How long it took.
        duration_ms: u64,
        /// Why, unless built.
        failure: Option<Failure>,
    },
    /// How far the run is; at most once per applied event, after its causes.
    Counts(Counts),
    /// Something a person should know.
    Message(Arc<str>),
    /// The last notice of a run.
    Finished(Finished),
}

/// How an attempt or a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StepStatus {
    /// Its outputs are valid.
    Built,
    /// For good.
    Failed,
    /// Another attempt follows.
    Retried,
    /// Nobody wants it any more.
    Cancelled,
    /// An input failed.
    DependencyFailed,
}

/// How a target ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// In one word.
    pub status: TargetStatus,
    /// Unless evaluation failed.
    pub drv: Option<DrvPath>,
    /// Unless evaluation failed or the output floats and was not built.
    pub toplevel: Option<OutputPath>,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

/// How a target ended, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TargetStatus {
    /// Its toplevel was built for this run (or another's that shared the step).
    Built,
    /// Its toplevel was there already or came from a substituter.
    Cached,
    /// Equal on both sides: nothing was done.
    Unchanged,
    /// No graph.
    EvalFailed,
    /// A step it needs failed, or its toplevel could not be realised.
    BuildFailed,
    /// Withdrawn.
    Cancelled,
    /// A plan ends here.
    Planned,
}

/// How far a run is. Every step counts once, in exactly one of built, cached, failed, cancelled, or none yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Distinct steps its targets want.
    pub wanted: u32,
    /// Of these, built while the run wanted them.
    pub built: u32,
    /// Paths that come from substituters instead.
    pub substituted: u32,
    /// Wanted steps whose outputs were there already.
    pub cached: u32,
    /// Wanted steps that failed, or depend on one that did.
    pub failed: u32,
    /// Requests for a step beyond the first within this run.
    pub deduplicated: u32,
    /// Leased now.
    pub running: u32,
    /// Given up because nobody wants them.
    pub cancelled: u32,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// In one word.
    pub outcome: Outcome,
    /// Why nothing could be done, for [`Outcome::Failed`].
    pub failure: Option<Failure>,
    /// The final counts.
    pub counts: Counts,
    /// From submission to the last evaluated target.
    pub eval_ms: u64,
    /// From the first lease to the last step's end.
    pub build_ms: u64,
    /// From submission to now.
    pub total_ms: u64,
}

/// How a run ended, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Outcome {
    /// Every target has its toplevel.
    Succeeded,
    /// At least one target failed, the rest is complete.
    Partial,
    /// Nothing could be done.
    Failed,
    /// Withdrawn.
    Cancelled,
}
