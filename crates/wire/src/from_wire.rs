//! Messages into core types. Parses at the edge: what passes here is well formed.

mod source;

use std::sync::Arc;

use fleet_core::{
    Counts, DrvPath, EarlierFailures, EvalReport, Evaluated, Event, Failure, FailureClass, FailureCode, Goal,
    Host, HostKind, LeaseId, Load, OnFailure, OutputPath, RunRequest, Selection, StepLimits, StepOutcome,
    StepReport, WorkerHello, WorkerId,
};
use fleet_core::{Epoch, EvalJobId, RealiseJobId};
use thiserror::Error;

use crate::v1;
use source::source;

pub use source::source_id;

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
const MAX_WORD: usize = 256;
const MAX_CAUSE: usize = 4 << 10;
const MAX_DETAIL: usize = 64 << 10;
const MAX_WANTED: usize = 1 << 20;
const MAX_OUTPUTS: usize = 1024;
const MAX_MISSING: usize = 4_096;
const MAX_REFERENCES: usize = 1 << 16;
/// Hash part, dash, and the longest name Nix allows.
const MAX_STORE_NAME: usize = 32 + 1 + 211;
const MAX_GLOBS: usize = 1024;
const MAX_HOSTS: usize = 100_000;
/// Leases that one worker may come back with.
const MAX_HOLDS: usize = 4_096;

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

/// What a client asks for.
pub fn run_request(request: &v1::SubmitRequest) -> Result<RunRequest, WireError> {
    let after = request.after.as_ref().ok_or(WireError::Missing("after"))?;
    let selection = request.selection.clone().unwrap_or_default();
    if selection.hosts.len() > MAX_GLOBS || selection.excludes.len() > MAX_GLOBS {
        return Err(WireError::TooLarge("selection"));
    }
    let mut patterns = selection.hosts.iter().chain(&selection.excludes);
    if patterns.any(|glob| glob.len() > MAX_NAME) || selection.kinds.len() > 16 {
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
        before: request.before.as_ref().map(source).transpose()?,
        after: source(after)?,
        selection: Selection { hosts: globs(selection.hosts), excludes: globs(selection.excludes), kinds },
        on_failure: if request.fail_fast { OnFailure::FailFast } else { OnFailure::KeepGoing },
        goal: if request.dry_run { Goal::Plan } else { Goal::Build },
        earlier_failures: if request.retry_failed {
            EarlierFailures::Retry
        } else {
            EarlierFailures::Believe
        },
        limits: step_limits(request.limits.unwrap_or_default()),
    })
}

/// Zeros are limits that were not asked for.
fn step_limits(limits: v1::StepLimits) -> StepLimits {
    let seconds = |limit: u32| (limit > 0).then_some(limit);
    let bytes = |limit: u64| (limit > 0).then_some(limit);
    StepLimits {
        timeout_s: seconds(limits.timeout_s),
        max_silent_s: seconds(limits.max_silent_s),
        max_log_bytes: bytes(limits.max_log_bytes),
        max_output_bytes: bytes(limits.max_output_bytes),
    }
}

fn check_words(hello: &v1::Hello) -> Result<(), WireError> {
    if hello.holds.len() > MAX_HOLDS {
        return Err(WireError::TooLarge("hello.holds"));
    }
    let systems = hello.systems.len().max(hello.emulated_systems.len());
    let features = hello.features.len().max(hello.mandatory_features.len());
    let lists = [&hello.systems, &hello.emulated_systems, &hello.features, &hello.mandatory_features];
    let mut words = lists.into_iter().flatten().chain([
        &hello.boot_id,
        &hello.instance_id,
        &hello.nix_version,
        &hello.nix_lane,
        &hello.fleet_version,
    ]);
    if systems > 64 || features > 256 || words.any(|word| word.len() > MAX_WORD) {
        return Err(WireError::TooLarge("hello.systems"));
    }
    Ok(())
}

/// What a worker says it can do.
pub fn worker_hello(hello: v1::Hello) -> Result<WorkerHello, WireError> {
    if hello.name.is_empty() || hello.name.len() > MAX_NAME || hello.name.contains(char::is_control) {
        return Err(WireError::Invalid("hello.name"));
    }
    check_words(&hello)?;
    Ok(WorkerHello {
        name: hello.name.into(),
        systems: hello.systems.into_iter().map(Into::into).collect(),
        features: hello.features.into_iter().map(Into::into).collect(),
        slots: hello.slots.min(4096),
        eval_slots: hello.eval_slots.min(1024),
        mandatory_features: hello.mandatory_features.into_iter().map(Into::into).collect(),
        emulated: hello.emulated_systems.into_iter().map(Into::into).collect(),
        boot: hello.boot_id.into(),
        instance: hello.instance_id.into(),
    })
}

/// Why something failed; unknown codes count as infrastructure.
pub fn failure(failure: v1::Failure) -> Failure {
    let drv = (!failure.drv.is_empty()).then(|| DrvPath::from(failure.drv));
    Failure {
        code: failure_code(&failure.code),
        cause: shortened(&failure.cause, MAX_CAUSE).into(),
        detail: shortened(&failure.detail, MAX_DETAIL).into(),
        drv,
    }
}

/// How a worker says it is; numbers that are none are not believed.
pub fn heartbeat(load: &v1::Heartbeat) -> v1::Heartbeat {
    let share = |number: f64| if number.is_finite() { number.max(0.0) } else { 0.0 };
    v1::Heartbeat {
        load1: share(load.load1),
        cpu_pressure: share(load.cpu_pressure),
        memory_pressure: share(load.memory_pressure),
        io_pressure: share(load.io_pressure),
        unwell: shortened(&load.unwell, MAX_CAUSE).to_owned(),
        ..load.clone()
    }
}

/// What decisions need of how a worker is.
pub fn load(load: &v1::Heartbeat) -> Load {
    Load { unwell: reason(&load.unwell), store_free: (load.store_total > 0).then_some(load.store_free) }
}

/// Words for people; none when there are none.
pub fn reason(text: &str) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| shortened(text, MAX_CAUSE).into())
}

/// The beginning of a text that is too long.
fn shortened(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
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
        v1::host_evaluated::Result::Evaluated(evaluated) if evaluated.wanted.len() > MAX_WANTED => {
            return Err(WireError::TooLarge("wanted"));
        }
        v1::host_evaluated::Result::Evaluated(evaluated) => Ok(Evaluated {
            drv: drv_path(evaluated.drv)?,
            toplevel: Some(evaluated.output).filter(|path| !path.is_empty()).map(output_path).transpose()?,
            wanted: evaluated.wanted.into_iter().map(drv_path).collect::<Result<_, _>>()?,
            new_steps: Vec::new(),
            substitutable_new: evaluated.substitutable_new,
        }),
    };
    let report = EvalReport::HostEvaluated { host, result };
    Ok(Event::EvalReported { worker, job: EvalJobId(message.job), epoch: Epoch(message.epoch), report })
}

fn drv_path(path: String) -> Result<DrvPath, WireError> {
    if !is_store_name(&path) || path.strip_suffix(".drv").is_none() {
        return Err(WireError::Invalid("drv"));
    }
    Ok(path.into())
}

fn output_path(path: String) -> Result<OutputPath, WireError> {
    if is_store_name(&path) { Ok(path.into()) } else { Err(WireError::Invalid("output")) }
}

/// Whether this has the form of a store path's base name.
fn is_store_name(text: &str) -> bool {
    let name = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte);
    let hash = |byte: &u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
    let bytes = text.as_bytes();
    bytes.len() > 33
        && bytes.len() <= MAX_STORE_NAME
        && bytes[..32].iter().all(hash)
        && bytes[32] == b'-'
        && bytes[33..].iter().all(|byte| name(*byte))
}

/// Whether a path info is well formed; watchers get it as it is.
pub fn path_info(info: &v1::PathInfo) -> Result<(), WireError> {
    if info.references.len() > MAX_REFERENCES {
        return Err(WireError::TooLarge("info.references"));
    }
    let deriver = (!info.deriver.is_empty()).then_some(&info.deriver);
    let mut names = info.references.iter().chain([&info.path]).chain(deriver);
    if info.nar_hash.len() != 32 || !names.all(|name| is_store_name(name)) {
        return Err(WireError::Invalid("info"));
    }
    Ok(())
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
    if message.outputs.len() > MAX_OUTPUTS {
        return Err(WireError::TooLarge("outputs"));
    }
    let sizes = message.outputs.iter().filter_map(|output| Some(output.info.as_ref()?.nar_size));
    let output_bytes = sizes.fold(0, u64::saturating_add);
    let outputs = message.outputs.into_iter();
    let outputs = outputs
        .map(|output| Ok((Arc::from(shortened(&output.name, MAX_WORD)), output_path(output.path)?)))
        .collect::<Result<_, _>>()?;
    let class = v1::OutcomeClass::try_from(message.outcome).map_err(|_| WireError::Invalid("outcome"))?;
    let failed = |class: FailureClass, code: FailureCode| {
        let cause = Arc::from(shortened(&message.message, MAX_CAUSE));
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
        v1::OutcomeClass::DiskFull => failed(FailureClass::DiskFull, FailureCode::DiskFull),
        v1::OutcomeClass::OutOfMemory => failed(FailureClass::OutOfMemory, FailureCode::OutOfMemory),
        v1::OutcomeClass::Transfer => failed(FailureClass::Transfer, FailureCode::Transfer),
        v1::OutcomeClass::DaemonGone => failed(FailureClass::DaemonGone, FailureCode::DaemonGone),
        v1::OutcomeClass::OutputTooBig => failed(FailureClass::OutputTooBig, FailureCode::OutputTooBig),
        v1::OutcomeClass::Cancelled => failed(FailureClass::Cancelled, FailureCode::Cancelled),
        v1::OutcomeClass::Unspecified => return Err(WireError::Invalid("outcome")),
    };
    let missing = missing_paths(message.missing)?;
    let report = StepReport::Ended { outcome, duration_ms: message.duration_ms, output_bytes, missing };
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
pub fn realised(worker: WorkerId, message: v1::PathsRealised) -> Result<Event, WireError> {
    let result = message.failure.map_or(Ok(()), |failed| Err(failure(failed)));
    let (job, epoch) = (RealiseJobId(message.job), Epoch(message.epoch));
    Ok(Event::Realised { worker, job, epoch, result, missing: missing_paths(message.missing)? })
}

/// Paths that nobody has any more. Of too many the first: the others are found missing with the next attempt.
fn missing_paths(paths: Vec<String>) -> Result<Vec<OutputPath>, WireError> {
    paths.into_iter().take(MAX_MISSING).map(output_path).collect()
}

#[cfg(test)]
mod tests;
