//! Executes a lease: its steps in order, on one connection. A step's inputs are made valid first, by
//! substitution; then the daemon builds, and its verdict goes back as it is. Dropping the future cancels.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use fleet_nix::daemon::{BuildResult, BuildVerdict, DaemonError, Substitute, Trust, ignore};
use fleet_nix::derivation::{BasicDerivation, DerivationError};
use fleet_nix::store_path::{OutputName, StorePath, StorePathError};
use fleet_nix::{DerivedPath, OutputSet};
use fleet_wire::v1;
use fleet_wire::v1::OutcomeClass;
use fleet_wire::v1::worker_message::Message;
use thiserror::Error;

use crate::context::Context;
use crate::lane::{Lane, Purpose};
use crate::step_log::StepLog;

#[derive(Debug, Error)]
enum StepError {
    #[error("the step has a bad store path")]
    Path(#[from] StorePathError),
    #[error("the step's derivation cannot be parsed")]
    Derivation(#[from] DerivationError),
    #[error("the Nix daemon failed")]
    Daemon(#[from] DaemonError),
    #[error("input {path} is not valid here and cannot be substituted: {cause}")]
    InputMissing { path: String, cause: String },
    #[error("the Nix daemon gave no result")]
    NoResult,
    #[error("the Nix daemon does not say where output {0} is")]
    NoOutput(String),
}

/// How an attempt ended.
struct Outcome {
    class: OutcomeClass,
    message: String,
    outputs: Vec<v1::BuiltOutput>,
}

/// Runs a lease to its end and reports each step.
pub(crate) async fn run(context: Arc<Context>, lease: v1::Lease) {
    for work in &lease.steps {
        let started = Instant::now();
        let outcome = match execute(&context, &lease, work).await {
            Ok(outcome) => outcome,
            Err(error) => {
                let class = match &error {
                    StepError::InputMissing { .. } => OutcomeClass::InputMissing,
                    _ => OutcomeClass::Infrastructure,
                };
                let message = crate::context::failure("", &error).cause;
                Outcome { class, message, outputs: Vec::new() }
            }
        };
        let reported = v1::StepReported {
            lease: lease.lease,
            epoch: lease.epoch,
            drv: work.drv.clone(),
            outcome: outcome.class.into(),
            message: outcome.message,
            duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            outputs: outcome.outputs,
        };
        context.outbox.send(Message::StepReported(reported)).await;
    }
    let finished = v1::LeaseFinished { lease: lease.lease, epoch: lease.epoch };
    context.outbox.send(Message::LeaseFinished(finished)).await;
}

async fn execute(context: &Context, lease: &v1::Lease, work: &v1::StepWork) -> Result<Outcome, StepError> {
    let drv: StorePath = work.drv.parse()?;
    let inputs = work.inputs.iter().map(|path| path.parse()).collect::<Result<BTreeSet<StorePath>, _>>()?;
    context.roots.hold(inputs.iter().chain([&drv])).await?;
    let purpose = Purpose::Build { timeout_s: work.timeout_s, max_silent_s: work.max_silent_s };
    let mut lane = context.lanes.take(purpose).await?;
    make_valid(context, &mut lane, &inputs).await?;
    let begun = v1::StepBegun { lease: lease.lease, epoch: lease.epoch, drv: work.drv.clone() };
    context.outbox.send(Message::StepBegun(begun)).await;
    let mut log = StepLog::new(context.outbox.clone(), lease, work);
    let built = build(context, &mut lane, &drv, work, &mut log).await;
    let over_limit = log.is_over_limit();
    log.finish().await;
    match built {
        Ok(outcome) => {
            context.lanes.give_back(lane);
            Ok(outcome)
        }
        Err(StepError::Daemon(DaemonError::Aborted)) if over_limit => Ok(Outcome {
            class: OutcomeClass::LogLimit,
            message: format!("its log is longer than {} bytes", work.max_log_bytes),
            outputs: Vec::new(),
        }),
        Err(StepError::Daemon(error)) if error.remote().is_some() => {
            let class = class(BuildVerdict::of_error(&error));
            Ok(Outcome { class, message: error.to_string(), outputs: Vec::new() })
        }
        Err(other) => {
            if matches!(other, StepError::Daemon(_)) {
                context.lanes.forget_idle();
            }
            Err(other)
        }
    }
}

/// Substitutes those of `inputs` that are absent.
async fn make_valid(
    context: &Context,
    lane: &mut Lane,
    inputs: &BTreeSet<StorePath>,
) -> Result<(), StepError> {
    let valid = lane.daemon.query_valid_paths(inputs, Substitute::No).await?;
    let absent: Vec<_> = inputs.difference(&valid).cloned().map(DerivedPath::Opaque).collect();
    if absent.is_empty() {
        return Ok(());
    }
    let mut substituter = context.lanes.take(Purpose::Substitute).await?;
    let results = substituter.daemon.build_paths_with_results(&absent, &mut ignore).await?;
    context.lanes.give_back(substituter);
    match results.into_iter().find(|(_, result)| !result.status.is_success()) {
        Some((path, result)) => {
            let (DerivedPath::Opaque(path) | DerivedPath::Built { drv: path, .. }) = path;
            let path = context.store_dir.print(&path);
            Err(StepError::InputMissing { path, cause: result.error_message })
        }
        None => Ok(()),
    }
}

async fn build(
    context: &Context,
    lane: &mut Lane,
    drv: &StorePath,
    work: &v1::StepWork,
    log: &mut StepLog,
) -> Result<Outcome, StepError> {
    let mut result = None;
    let basic = match &*work.basic_derivation {
        [] => None,
        bytes => {
            let name = drv.derivation_name().unwrap_or(drv.name());
            Some(BasicDerivation::parse(&context.store_dir, name, bytes)?)
        }
    };
    if let Some(basic) = &basic
        && context.trust != Trust::NotTrusted
    {
        let built = lane.daemon.build_derivation(drv, basic, &mut |event| log.observe(event)).await;
        result = match built {
            Err(error) if BuildVerdict::of_error(&error) == BuildVerdict::NotTrusted => None,
            other => Some(other?),
        };
    }
    let result = match result {
        Some(result) => result,
        None => build_from_store(lane, drv, log).await?,
    };
    let verdict = BuildVerdict::of_result(result.status, &result.error_message);
    let built = result.built_outputs;
    let built =
        if verdict.is_success() { outputs(lane, drv, work, basic.as_ref(), built).await? } else { built };
    context.roots.hold(built.values()).await?;
    let outputs = built
        .iter()
        .map(|(name, path)| v1::BuiltOutput { name: name.to_string(), path: path.to_string() })
        .collect();
    Ok(Outcome { class: class(verdict), outputs, message: result.error_message })
}

/// Where all outputs are. Some daemons leave them out of their results: then the derivation says it, or, for
/// those that float, the store.
async fn outputs(
    lane: &mut Lane,
    drv: &StorePath,
    work: &v1::StepWork,
    basic: Option<&BasicDerivation>,
    mut built: BTreeMap<OutputName, StorePath>,
) -> Result<BTreeMap<OutputName, StorePath>, StepError> {
    let wanted = work.output_names.iter().map(|name| name.parse()).collect::<Result<Vec<OutputName>, _>>()?;
    let fixed = basic.iter().flat_map(|basic| wanted.iter().map(|name| (name, basic.output_path(name))));
    for (name, path) in fixed {
        if let Some(path) = path {
            built.entry(name.clone()).or_insert_with(|| path.clone());
        }
    }
    if wanted.iter().all(|name| built.contains_key(name)) {
        return Ok(built);
    }
    let mut known = lane.daemon.query_derivation_output_map(drv).await?;
    for name in wanted {
        if let Entry::Vacant(absent) = built.entry(name) {
            let path = known.remove(absent.key()).flatten();
            let path = path.ok_or_else(|| StepError::NoOutput(absent.key().to_string()))?;
            absent.insert(path);
        }
    }
    Ok(built)
}

/// A daemon that does not trust us builds only what it can check: the .drv in its own store.
async fn build_from_store(
    lane: &mut Lane,
    drv: &StorePath,
    log: &mut StepLog,
) -> Result<BuildResult, StepError> {
    let goal = DerivedPath::Built { drv: drv.clone(), outputs: OutputSet::All };
    let results = lane.daemon.build_paths_with_results(&[goal], &mut |event| log.observe(event)).await?;
    results.into_iter().next().map(|(_, result)| result).ok_or(StepError::NoResult)
}

fn class(verdict: BuildVerdict) -> OutcomeClass {
    match verdict {
        BuildVerdict::Built | BuildVerdict::Substituted => OutcomeClass::Built,
        BuildVerdict::AlreadyValid => OutcomeClass::AlreadyValid,
        BuildVerdict::BuildFailed => OutcomeClass::BuildFailed,
        BuildVerdict::TimedOut => OutcomeClass::TimedOut,
        BuildVerdict::LogLimit => OutcomeClass::LogLimit,
        BuildVerdict::OutputRejected => OutcomeClass::OutputRejected,
        BuildVerdict::Transient => OutcomeClass::Transient,
        BuildVerdict::Infrastructure | BuildVerdict::Cancelled => OutcomeClass::Infrastructure,
        BuildVerdict::Placement | BuildVerdict::NotTrusted => OutcomeClass::Placement,
        BuildVerdict::InputMissing => OutcomeClass::InputMissing,
    }
}
