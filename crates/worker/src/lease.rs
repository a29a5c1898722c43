//! Executes a lease: its steps in order, on one connection. A step's inputs are made valid first, by
//! substitution; then the daemon builds, and its verdict goes back as it is. Dropping the future cancels.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use fleet_nix::daemon::{BuildVerdict, Daemon, DaemonError, Substitute, Trust};
use fleet_nix::derivation::{BasicDerivation, DerivationError};
use fleet_nix::store_path::{StorePath, StorePathError};
use fleet_nix::{DerivedPath, OutputSet};
use fleet_wire::v1;
use fleet_wire::v1::OutcomeClass;
use fleet_wire::v1::worker_message::Message;
use thiserror::Error;

use crate::context::Context;
use crate::lane::{Lane, Limits};
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
                Outcome {
                    class,
                    message,
                    outputs: Vec::new(),
                }
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
    let finished = v1::LeaseFinished {
        lease: lease.lease,
        epoch: lease.epoch,
    };
    context.outbox.send(Message::LeaseFinished(finished)).await;
}

async fn execute(context: &Context, lease: &v1::Lease, work: &v1::StepWork) -> Result<Outcome, StepError> {
    let drv: StorePath = work.drv.parse()?;
    let inputs = work
        .inputs
        .iter()
        .map(|path| path.parse())
        .collect::<Result<BTreeSet<StorePath>, _>>()?;
    context.roots.hold(inputs.iter().chain([&drv])).await?;
    let limits = Limits {
        timeout_s: work.timeout_s,
        max_silent_s: work.max_silent_s,
    };
    let mut lane = context.lanes.take(limits).await?;
    make_valid(&mut lane.daemon, context, &inputs).await?;
    let begun = v1::StepBegun {
        lease: lease.lease,
        epoch: lease.epoch,
        drv: work.drv.clone(),
    };
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
        Err(StepError::Daemon(DaemonError::Remote(remote))) => {
            let class = class(&BuildVerdict::of_error(&remote));
            Ok(Outcome {
                class,
                message: remote.to_string(),
                outputs: Vec::new(),
            })
        }
        Err(other) => Err(other),
    }
}

/// Substitutes those of `inputs` that are absent.
async fn make_valid(
    daemon: &mut Daemon,
    context: &Context,
    inputs: &BTreeSet<StorePath>,
) -> Result<(), StepError> {
    let valid = daemon.query_valid_paths(inputs, Substitute::No).await?;
    let absent: Vec<_> = inputs
        .difference(&valid)
        .cloned()
        .map(DerivedPath::Opaque)
        .collect();
    if absent.is_empty() {
        return Ok(());
    }
    let results = daemon
        .build_paths_with_results(&absent, &mut |_| std::ops::ControlFlow::Continue(()))
        .await?;
    for (path, result) in results {
        if !result.status.is_success() {
            let DerivedPath::Opaque(path) = path else { continue };
            let path = context.store_dir.print(&path);
            return Err(StepError::InputMissing {
                path,
                cause: result.error_message,
            });
        }
    }
    Ok(())
}

async fn build(
    context: &Context,
    lane: &mut Lane,
    drv: &StorePath,
    work: &v1::StepWork,
    log: &mut StepLog,
) -> Result<Outcome, StepError> {
    let mut observe = |event| log.observe(event);
    let result = if context.trust == Trust::Trusted && !work.basic_derivation.is_empty() {
        let name = drv.derivation_name().unwrap_or(drv.name());
        let basic = BasicDerivation::parse(&context.store_dir, name, &work.basic_derivation)?;
        lane.daemon.build_derivation(drv, &basic, &mut observe).await?
    } else {
        // A daemon that does not trust us builds only what it can check: the .drv in its own store.
        let goal = DerivedPath::Built {
            drv: drv.clone(),
            outputs: OutputSet::All,
        };
        let mut results = lane
            .daemon
            .build_paths_with_results(&[goal], &mut observe)
            .await?;
        let Some((_, result)) = results.pop() else {
            let message = "the Nix daemon gave no result".to_owned();
            return Ok(Outcome {
                class: OutcomeClass::Infrastructure,
                message,
                outputs: Vec::new(),
            });
        };
        result
    };
    let verdict = result.verdict();
    let outputs: Vec<_> = result
        .built_outputs
        .iter()
        .map(|(name, path)| v1::BuiltOutput {
            name: name.to_string(),
            path: path.to_string(),
        })
        .collect();
    let paths: Vec<StorePath> = result.built_outputs.values().cloned().collect();
    context.roots.hold(&paths).await?;
    Ok(Outcome {
        class: class(&verdict),
        message: result.error_message,
        outputs,
    })
}

fn class(verdict: &BuildVerdict) -> OutcomeClass {
    match verdict {
        BuildVerdict::Built => OutcomeClass::Built,
        BuildVerdict::AlreadyValid => OutcomeClass::AlreadyValid,
        BuildVerdict::BuildFailed => OutcomeClass::BuildFailed,
        BuildVerdict::TimedOut => OutcomeClass::TimedOut,
        BuildVerdict::LogLimit => OutcomeClass::LogLimit,
        BuildVerdict::OutputRejected => OutcomeClass::OutputRejected,
        BuildVerdict::Transient => OutcomeClass::Transient,
        BuildVerdict::Infrastructure => OutcomeClass::Infrastructure,
        BuildVerdict::Placement => OutcomeClass::Placement,
        BuildVerdict::InputMissing => OutcomeClass::InputMissing,
    }
}
