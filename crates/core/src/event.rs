//! Everything that can happen, one closed enum. The shells have parsed and checked the content.

use std::sync::Arc;

use crate::id::{
    DrvPath, Epoch, EvalJobId, Feature, Host, HostKind, LeaseId, OutputPath, RealiseJobId, RunId, SourceId,
    System, WorkerId,
};

/// Everything that can happen to a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// A worker opened its session.
    WorkerJoined {
        /// Unused so far.
        worker: WorkerId,
        /// What it can do.
        hello: WorkerHello,
    },
    /// A worker's session ended; nothing further is heard from this id.
    WorkerLost {
        /// Unknown workers are ignored.
        worker: WorkerId,
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
    },
    /// A timer armed by [`Effect::Arm`](crate::Effect::Arm) is due. Late and stale ones are harmless.
    TimerFired {
        /// Which.
        timer: Timer,
    },
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

/// Which hosts of a flake a run wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Globs over names; none means all.
    pub hosts: Vec<Arc<str>>,
    /// Globs over names to leave out.
    pub excludes: Vec<Arc<str>>,
    /// Never empty.
    pub kinds: Vec<HostKind>,
}

/// What to do with the rest when one target fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Finish everything else.
    KeepGoing,
    /// Cancel everything else.
    FailFast,
}

/// How far a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Evaluate and say what would be built.
    Plan,
    /// Build.
    Build,
}

/// What a worker can do, as granted by the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

/// What a worker says about an eval job.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepReport {
    /// The builder runs.
    Begun,
    /// It ended.
    Ended {
        /// How.
        outcome: StepOutcome,
        /// How long the attempt took.
        duration_ms: u64,
    },
}

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// Outputs are valid on the worker: name and path of each.
    Built(Vec<(Arc<str>, OutputPath)>),
    /// Outputs were valid before.
    AlreadyValid(Vec<(Arc<str>, OutputPath)>),
    /// No result.
    Failed(FailureClass, Failure),
}

/// What may be done about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureClass {
    /// The builder failed: final.
    BuildFailed,
    /// Wall or silence limit: final.
    TimedOut,
    /// Log limit: final.
    LogLimit,
    /// Outputs refused (references, size, hash): final.
    OutputRejected,
    /// Might work elsewhere or later; bounded retries, then final.
    Transient,
    /// Not the step's fault; bounded retries.
    Infrastructure,
    /// This worker cannot build it: another may.
    Placement,
    /// An input was not there: bounded retries.
    InputMissing,
    /// Stopped on request.
    Cancelled,
}

/// Why something ended without a result, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Stable code, lower snake case; proto/fleet/v1/common.proto lists them.
    pub code: FailureCode,
    /// One sentence.
    pub cause: Arc<str>,
    /// Trace or log tail.
    pub detail: Arc<str>,
    /// The derivation that failed, if one did.
    pub drv: Option<DrvPath>,
}

/// Stable names of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it; common.proto explains the codes")]
pub enum FailureCode {
    EvalFailed,
    EvalDied,
    BuildFailed,
    TimedOut,
    LogLimit,
    OutputRejected,
    DependencyFailed,
    NoWorker,
    Cancelled,
    Infrastructure,
    NoSource,
    NoHosts,
}

/// What can be waited for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A step may be tried again.
    RetryStep(DrvPath),
    /// Ready steps or eval jobs that fit no worker are given up.
    Unplaceable,
    /// A run has taken too long as a whole.
    RunDeadline(RunId),
}
