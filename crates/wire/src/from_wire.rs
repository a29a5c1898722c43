//! Messages into core types. Parses at the edge: what passes here is well formed.

use std::sync::Arc;

use fleet_core::{
    Counts, DrvPath, EvalReport, Evaluated, Event, Failure, FailureClass, FailureCode, Goal, Host, HostKind,
    LeaseId, OnFailure, OutputPath, RunRequest, Selection, SourceId, StepOutcome, StepReport, WorkerHello,
    WorkerId,
};
use fleet_core::{Epoch, EvalJobId, RealiseJobId};
use thiserror::Error;

use crate::v1;

/// A message that no well-behaved peer sends.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// A required field or oneof is not set.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// A value is outside its range.
    #[error("field {0} is not valid")]
    Invalid(&'static str),
    /// A list or text is above its bound.
    #[error("field {0} is too large")]
    TooLarge(&'static str),
}

const MAX_NAME: usize = 1024;
const MAX_GLOBS: usize = 1024;
const MAX_HOSTS: usize = 100_000;

/// A host kind.
pub fn host_kind(kind: i32) -> Result<HostKind, WireError> {
    match v1::HostKind::try_from(kind) {
        Ok(v1::HostKind::Nixos) => Ok(HostKind::Nixos),
        Ok(v1::HostKind::Darwin) => Ok(HostKind::Darwin),
        Ok(v1::HostKind::Home) => Ok(HostKind::Home),
        Ok(v1::HostKind::Unspecified) | Err(_) => Err(WireError::Invalid("kind")),
    }
}

/// A host.
pub fn host(host: v1::Host) -> Result<Host, WireError> {
    if host.name.len() > MAX_NAME {
        return Err(WireError::TooLarge("host.name"));
    }
    Ok(Host { kind: host_kind(host.kind)?, name: host.name.into() })
}

fn hosts(list: Vec<v1::Host>) -> Result<Vec<Host>, WireError> {
    if list.len() > MAX_HOSTS {
        return Err(WireError::TooLarge("hosts"));
    }
    list.into_iter().map(host).collect()
}

/// The name of a source.
pub fn source_id(source: &v1::Source) -> Result<SourceId, WireError> {
    let bytes: &[u8] = &source.nar_hash;
    bytes.try_into().map(SourceId).map_err(|_| WireError::Invalid("source.nar_hash"))
}

/// What a client asks for.
pub fn run_request(request: &v1::SubmitRequest) -> Result<RunRequest, WireError> {
    let after = request.after.as_ref().ok_or(WireError::Missing("after"))?;
    let selection = request.selection.clone().unwrap_or_default();
    if selection.hosts.len() > MAX_GLOBS || selection.excludes.len() > MAX_GLOBS {
        return Err(WireError::TooLarge("selection"));
    }
    let globs = |list: Vec<String>| list.into_iter().map(Arc::from).collect();
    let mut kinds = selection.kinds.iter().map(|kind| host_kind(*kind)).collect::<Result<Vec<_>, _>>()?;
    if kinds.is_empty() {
        kinds.push(HostKind::Nixos);
    }
    kinds.sort_unstable();
    kinds.dedup();
    Ok(RunRequest {
        before: request.before.as_ref().map(source_id).transpose()?,
        after: source_id(after)?,
        selection: Selection { hosts: globs(selection.hosts), excludes: globs(selection.excludes), kinds },
        on_failure: if request.fail_fast { OnFailure::FailFast } else { OnFailure::KeepGoing },
        goal: if request.dry_run { Goal::Plan } else { Goal::Build },
    })
}

/// What a worker says it can do.
pub fn worker_hello(hello: v1::Hello) -> Result<WorkerHello, WireError> {
    if hello.name.is_empty() || hello.name.len() > MAX_NAME {
        return Err(WireError::Invalid("hello.name"));
    }
    if hello.systems.len() > 64 || hello.features.len() > 256 {
        return Err(WireError::TooLarge("hello.systems"));
    }
    Ok(WorkerHello {
        name: hello.name.into(),
        systems: hello.systems.into_iter().map(Into::into).collect(),
        features: hello.features.into_iter().map(Into::into).collect(),
        slots: hello.slots.min(4096),
        eval_slots: hello.eval_slots.min(1024),
    })
}

/// Why something failed; unknown codes count as infrastructure.
pub fn failure(failure: v1::Failure) -> Failure {
    let drv = (!failure.drv.is_empty()).then(|| DrvPath::from(failure.drv));
    Failure {
        code: failure_code(&failure.code),
        cause: failure.cause.into(),
        detail: failure.detail.into(),
        drv,
    }
}

fn failure_code(code: &str) -> FailureCode {
    crate::to_wire::FAILURE_CODES
        .iter()
        .find(|(_, name)| *name == code)
        .map_or(FailureCode::Infrastructure, |(code, _)| *code)
}

/// Counts as a client sees them.
pub fn counts(counts: &v1::Counts) -> Counts {
    Counts {
        wanted: counts.wanted,
        built: counts.built,
        substituted: counts.substituted,
        cached: counts.cached,
        failed: counts.failed,
        deduplicated: counts.deduplicated,
        running: counts.running,
        cancelled: counts.cancelled,
    }
}

/// A finished discovery.
pub fn discovered(worker: WorkerId, message: v1::HostsDiscovered) -> Result<Event, WireError> {
    let report = EvalReport::Discovered(hosts(message.hosts)?);
    Ok(Event::EvalReported { worker, job: EvalJobId(message.job), epoch: Epoch(message.epoch), report })
}

/// A host the evaluator turned to.
pub fn host_started(worker: WorkerId, message: v1::HostStarted) -> Result<Event, WireError> {
    let report = EvalReport::HostStarted(host(message.host.ok_or(WireError::Missing("host"))?)?);
    Ok(Event::EvalReported { worker, job: EvalJobId(message.job), epoch: Epoch(message.epoch), report })
}

/// A finished eval job.
pub fn eval_finished(worker: WorkerId, message: v1::EvalFinished) -> Result<Event, WireError> {
    let report =
        EvalReport::Finished { failure: message.failure.map(failure), unstarted: hosts(message.unstarted)? };
    Ok(Event::EvalReported { worker, job: EvalJobId(message.job), epoch: Epoch(message.epoch), report })
}

/// One host's result, without the definitions of its steps: the coordinator adds them from the
/// derivations it was sent and checked.
pub fn host_evaluated(worker: WorkerId, message: v1::HostEvaluated) -> Result<Event, WireError> {
    let host = host(message.host.ok_or(WireError::Missing("host"))?)?;
    let result = match message.result.ok_or(WireError::Missing("result"))? {
        v1::host_evaluated::Result::Failure(failed) => Err(failure(failed)),
        v1::host_evaluated::Result::Evaluated(evaluated) => Ok(Evaluated {
            drv: drv_path(evaluated.drv)?,
            toplevel: (!evaluated.output.is_empty()).then(|| evaluated.output.into()),
            wanted: evaluated.wanted.into_iter().map(drv_path).collect::<Result<_, _>>()?,
            new_steps: Vec::new(),
            substitutable_new: evaluated.substitutable_new,
        }),
    };
    let report = EvalReport::HostEvaluated { host, result };
    Ok(Event::EvalReported { worker, job: EvalJobId(message.job), epoch: Epoch(message.epoch), report })
}

fn drv_path(path: String) -> Result<DrvPath, WireError> {
    if path.len() > 300 || path.as_bytes().get(32) != Some(&b'-') {
        return Err(WireError::Invalid("drv"));
    }
    Ok(path.into())
}

/// A running step.
pub fn step_begun(worker: WorkerId, message: v1::StepBegun) -> Result<Event, WireError> {
    let (lease, epoch) = (LeaseId(message.lease), Epoch(message.epoch));
    Ok(Event::StepReported { worker, lease, epoch, drv: drv_path(message.drv)?, report: StepReport::Begun })
}

/// A step's end; `detail` is the tail of its log.
pub fn step_reported(
    worker: WorkerId,
    message: v1::StepReported,
    detail: &Arc<str>,
) -> Result<Event, WireError> {
    let drv = drv_path(message.drv)?;
    let outputs =
        message.outputs.into_iter().map(|o| (Arc::from(o.name), OutputPath::from(o.path))).collect();
    let class = v1::OutcomeClass::try_from(message.outcome).map_err(|_| WireError::Invalid("outcome"))?;
    let failed = |class: FailureClass, code: FailureCode| {
        let cause = Arc::from(message.message.as_str());
        StepOutcome::Failed(class, Failure { code, cause, detail: detail.clone(), drv: Some(drv.clone()) })
    };
    let outcome = match class {
        v1::OutcomeClass::Built => StepOutcome::Built(outputs),
        v1::OutcomeClass::AlreadyValid => StepOutcome::AlreadyValid(outputs),
        v1::OutcomeClass::BuildFailed => failed(FailureClass::BuildFailed, FailureCode::BuildFailed),
        v1::OutcomeClass::TimedOut => failed(FailureClass::TimedOut, FailureCode::TimedOut),
        v1::OutcomeClass::LogLimit => failed(FailureClass::LogLimit, FailureCode::LogLimit),
        v1::OutcomeClass::OutputRejected => failed(FailureClass::OutputRejected, FailureCode::OutputRejected),
        v1::OutcomeClass::Transient => failed(FailureClass::Transient, FailureCode::BuildFailed),
        v1::OutcomeClass::Infrastructure => failed(FailureClass::Infrastructure, FailureCode::Infrastructure),
        v1::OutcomeClass::Placement => failed(FailureClass::Placement, FailureCode::NoWorker),
        v1::OutcomeClass::InputMissing => failed(FailureClass::InputMissing, FailureCode::Infrastructure),
        v1::OutcomeClass::Cancelled => failed(FailureClass::Cancelled, FailureCode::Cancelled),
        v1::OutcomeClass::Unspecified => return Err(WireError::Invalid("outcome")),
    };
    let report = StepReport::Ended { outcome, duration_ms: message.duration_ms };
    Ok(Event::StepReported {
        worker,
        lease: LeaseId(message.lease),
        epoch: Epoch(message.epoch),
        drv,
        report,
    })
}

/// A finished lease.
pub fn lease_finished(worker: WorkerId, message: v1::LeaseFinished) -> Event {
    Event::LeaseFinished { worker, lease: LeaseId(message.lease), epoch: Epoch(message.epoch) }
}

/// The end of a realise job.
pub fn realised(worker: WorkerId, message: v1::PathsRealised) -> Event {
    let result = message.failure.map_or(Ok(()), |failed| Err(failure(failed)));
    Event::Realised { worker, job: RealiseJobId(message.job), epoch: Epoch(message.epoch), result }
}
