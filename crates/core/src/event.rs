//! Everything that can happen, one closed enum. The shells have parsed and checked the content.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use crate::failure::{Failure, FailureClass, FailureCode};
use crate::id::{
    DrvPath, Epoch, EvalJobId, Feature, Host, HostKind, LeaseId, OutputPath, RealiseJobId, RunId, Session,
    SourceId, System, WorkerId,
};
pub use crate::limits::StepLimits;

/// Everything that can happen to a fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A client asks for a run; its sources are already in the chunk store.
    RunSubmitted {
        /// Unused so far.
        run: RunId,
        /// What is asked for.
        request: RunRequest,
    },
    /// A client withdraws its run.
    RunCancelled {
        /// Unknown and finished runs are ignored.
        run: RunId,
    },
    /// The coordinator started: every session is gone, and so is every timer.
    Restarted {
        /// Everything granted from now on lies above this, and above all that was granted before.
        epoch_floor: Epoch,
    },
    /// A worker opened a session.
    WorkerJoined {
        /// As [`Fleet::worker_named`](crate::Fleet::worker_named) says for its name.
        worker: WorkerId,
        /// Unused so far.
        session: Session,
        /// What it can do.
        hello: WorkerHello,
        /// Leases it still works on, or has results of. Its other leases are lost.
        holds: Vec<(LeaseId, Epoch)>,
    },
    /// A worker says that it lives, and how it is. Not recorded.
    WorkerHeard {
        /// Unknown workers are ignored.
        worker: WorkerId,
        /// Sessions other than its present one are ignored.
        session: Session,
        /// How it is.
        load: Load,
    },
    /// A worker's session ended. It may come back: its leases wait for a while.
    WorkerLost {
        /// Unknown workers are ignored.
        worker: WorkerId,
        /// Sessions other than its present one are ignored.
        session: Session,
    },
    /// An administrator decided about a worker.
    WorkerOrdered {
        /// As [`Fleet::worker_named`](crate::Fleet::worker_named) says for its name.
        worker: WorkerId,
        /// Its name.
        name: Arc<str>,
        /// What to do with it.
        order: WorkerOrder,
        /// For people.
        reason: Arc<str>,
    },
    /// A worker reports on an eval job.
    EvalReported {
        /// Who speaks.
        worker: WorkerId,
        /// Which job.
        job: EvalJobId,
        /// As in [`Command::StartEval`](crate::Command::StartEval); others are refused.
        epoch: Epoch,
        /// What it says.
        report: EvalReport,
    },
    /// A worker reports on a leased step.
    StepReported {
        /// Who speaks.
        worker: WorkerId,
        /// Which lease.
        lease: LeaseId,
        /// As in [`Command::StartLease`](crate::Command::StartLease); others are refused.
        epoch: Epoch,
        /// Which step of the batch.
        drv: DrvPath,
        /// What it says.
        report: StepReport,
    },
    /// A worker has no more to say on a lease; steps of it that were not reported are lost.
    LeaseFinished {
        /// Who speaks.
        worker: WorkerId,
        /// Which lease.
        lease: LeaseId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// A worker finished a realise job. The path infos themselves do not pass through the core.
    Realised {
        /// Who speaks.
        worker: WorkerId,
        /// Which job.
        job: RealiseJobId,
        /// Its epoch.
        epoch: Epoch,
        /// Why it failed, if it did.
        result: Result<(), Failure>,
        /// With a failure: paths that nobody has any more.
        #[serde(default)]
        missing: Vec<OutputPath>,
    },
    /// A timer armed by [`Effect::Arm`](crate::Effect::Arm) is due. Late and stale ones are harmless.
    TimerFired {
        /// Which.
        timer: Timer,
    },
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRequest {
    /// The base, for a comparison.
    pub before: Option<SourceId>,
    /// The tree to build.
    pub after: SourceId,
    /// Which hosts.
    pub selection: Selection,
    /// What to do with the rest when one target fails.
    pub on_failure: OnFailure,
    /// How far to go.
    pub goal: Goal,
    /// What to do with steps that failed for good in an earlier run.
    pub earlier_failures: EarlierFailures,
    /// What an attempt may take; of several runs that want a step, the most generous decides.
    pub limits: StepLimits,
}

/// What to do with steps that failed for good in an earlier run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EarlierFailures {
    /// They have failed.
    #[default]
    Believe,
    /// They are built again.
    Retry,
}

/// Which hosts of a flake a run wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Globs over names; none means all.
    pub hosts: Vec<Arc<str>>,
    /// Globs over names to leave out.
    pub excludes: Vec<Arc<str>>,
    /// Never empty.
    pub kinds: Vec<HostKind>,
}

/// What to do with the rest when one target fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFailure {
    /// Finish everything else.
    KeepGoing,
    /// Cancel everything else.
    FailFast,
}

/// How far a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goal {
    /// Evaluate and say what would be built.
    Plan,
    /// Build.
    Build,
}

/// What a worker can do, as granted by the coordinator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerHello {
    /// For people.
    pub name: Arc<str>,
    /// Systems it builds for.
    pub systems: Vec<System>,
    /// Features it offers.
    pub features: Vec<Feature>,
    /// Leases at a time.
    pub slots: u32,
    /// Eval jobs at a time; 0 for a worker that only builds.
    pub eval_slots: u32,
    /// Features that a step must require to be built here.
    pub mandatory_features: Vec<Feature>,
    /// Of `systems`, those that are emulated: only for what fits nowhere else.
    pub emulated: Vec<System>,
    /// Changes with every start of the machine.
    pub boot: Arc<str>,
    /// Changes with every start of the program: two at once are two workers with one identity.
    pub instance: Arc<str>,
}

/// How a worker is, as far as decisions need it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Why it should get nothing now; none when it is well.
    pub unwell: Option<Arc<str>>,
    /// Bytes that its store has room for, where it is known.
    #[serde(default)]
    pub store_free: Option<u64>,
}

/// What an administrator decides about a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerOrder {
    /// No new work; what runs is finished.
    Drain,
    /// Ends drain, quarantine and lock.
    Resume,
    /// For ever: its session ends, its leases are void, it is never let in again.
    Revoke,
}

/// What a worker says about an eval job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EvalReport {
    /// All hosts of the asked kinds; ends a discovery.
    Discovered(Vec<Host>),
    /// The evaluator turned to this host.
    HostStarted(Host),
    /// One host came out.
    HostEvaluated {
        /// One of the job's.
        host: Host,
        /// Its graph, or why there is none.
        result: Result<Evaluated, Failure>,
    },
    /// The job is over.
    Finished {
        /// Set when it ended early: then it concerns every host of `unstarted`, or the discovery.
        failure: Option<Failure>,
        /// Hosts not looked at. Without a failure they are queued again.
        unstarted: Vec<Host>,
    },
}

/// A target's toplevel and what it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluated {
    /// Derivation of the toplevel.
    pub drv: DrvPath,
    /// Where it will be; none when the output floats.
    pub toplevel: Option<OutputPath>,
    /// Every derivation to be built for it, inputs before their users. Empty when the toplevel is there
    /// already or can be substituted.
    pub wanted: Vec<DrvPath>,
    /// Definitions of those of `wanted` that the coordinator had not seen, in the same order.
    pub new_steps: Vec<NewStep>,
    /// Output paths a substituter will serve for this target that no earlier target counted.
    pub substitutable_new: u32,
}

/// A derivation to be built, as the core needs to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewStep {
    /// Its derivation.
    pub drv: DrvPath,
    /// For people: the derivation's name.
    pub name: Arc<str>,
    /// Output paths in the order of their names; empty when they float. The step's key.
    pub outputs: Vec<OutputPath>,
    /// Where it builds; `builtin` builds anywhere.
    pub system: System,
    /// Features a worker must offer.
    pub features: Vec<Feature>,
    /// Derivations among its inputs, whether or not they are steps.
    pub inputs: Vec<DrvPath>,
    /// Fixed-output: its failures are worth another try.
    pub fixed_output: bool,
    /// preferLocalBuild: small, build where the inputs are.
    pub prefer_local: bool,
}

/// What a worker says about a leased step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepReport {
    /// The builder runs.
    Begun,
    /// It ended.
    Ended {
        /// How.
        outcome: StepOutcome,
        /// How long the attempt took.
        duration_ms: u64,
        /// NAR sizes of all outputs together; 0 when there are none, or nobody knows.
        #[serde(default)]
        output_bytes: u64,
        /// Inputs that nobody has any more, with [`FailureClass::InputMissing`].
        #[serde(default)]
        missing: Vec<OutputPath>,
    },
}

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepOutcome {
    /// Outputs are valid on the worker: name and path of each.
    Built(Vec<(Arc<str>, OutputPath)>),
    /// Outputs were valid before.
    AlreadyValid(Vec<(Arc<str>, OutputPath)>),
    /// No result.
    Failed(FailureClass, Failure),
}

/// What can be waited for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Timer {
    /// A step may be tried again.
    RetryStep(DrvPath),
    /// Ready steps or eval jobs that fit no worker are given up.
    Unplaceable,
    /// A run has taken too long as a whole.
    RunDeadline(RunId),
    /// A worker whose session ended has not come back.
    WorkerAway(WorkerId, Session),
    /// A quarantined worker may be tried with one step.
    Canary(WorkerId),
}
