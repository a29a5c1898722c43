//! Executes a lease: its steps in order, on one connection. A step's inputs are made valid first; then the daemon
//! builds, and what became of it is kept for the coordinator, with what the store says of the outputs. Nothing is
//! uploaded. Goes on while no session is open. Dropping the future cancels.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fleet_nix::daemon::{BuildVerdict, DaemonError, Substitute};
use fleet_nix::derivation::{BasicDerivation, DerivationError};
use fleet_nix::store_path::{OutputName, StorePath, StorePathError};
use fleet_wire::v1;
use fleet_wire::v1::OutcomeClass;
use fleet_wire::v1::worker_message::Message;
use thiserror::Error;
use tokio::task::JoinSet;

use crate::attempt::{self, Made};
use crate::context::Context;
use crate::health;
use crate::introduced;
use crate::lane::{Lane, Purpose};
use crate::orphans::{self, Traces};
use crate::outcome::Outcome;
use crate::roots::Guard;
use crate::step_log::StepLog;
use crate::transfer::{self, TransferError};
use crate::witness::Witness;

/// How often outputs are deleted that something still holds, and how long that is waited for.
const DELETE_TRIES: u32 = 8;
const DELETE_REST: Duration = Duration::from_millis(250);

/// Why an attempt has no outputs.
#[derive(Debug, Error)]
pub(crate) enum StepError {
    #[error("the step has a bad store path")]
    Path(#[from] StorePathError),
    #[error("the step's derivation cannot be parsed")]
    Derivation(#[from] DerivationError),
    #[error("the Nix daemon failed")]
    Daemon(#[from] DaemonError),
    #[error(transparent)]
    Transfer(TransferError),
    #[error(
        "this worker has no {0}: a step whose outputs float, or that a daemon builds which does not trust the worker, \
         is built where it was evaluated"
    )]
    NoDerivation(StorePath),
    #[error("the Nix daemon gave no result")]
    NoResult,
    #[error("the Nix daemon does not say where output {0} is")]
    NoOutput(String),
    #[error("its builder did not start within {0} s: does another process hold the lock of its output?")]
    NotStarted(u64),
    #[error("{0}")]
    TimedOut(String),
    #[error("its log is longer than {0} bytes")]
    LogLimit(u64),
    #[error("its outputs have {size} bytes, more than the {limit} that are allowed")]
    TooBig { size: u64, limit: u64 },
    #[error("the disk was full while it was built: its outputs are not to be trusted")]
    Spoilt,
    #[error(
        "its outputs refer to {reference} by way of {behind}, which this store has from elsewhere than the fleet: no \
         upstream cache signed it; if one has it, delete it here, so that it is fetched with its signature"
    )]
    Unaccounted { reference: StorePath, behind: StorePath },
}

impl From<TransferError> for StepError {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::Daemon(error) => Self::Daemon(error),
            other => Self::Transfer(other),
        }
    }
}

/// Runs a lease to its end and reports each step.
pub(crate) async fn run(context: Arc<Context>, lease: v1::Lease) {
    for work in &lease.steps {
        let started = Instant::now();
        let outcome = execute(&context, &lease, work).await;
        if matches!(
            outcome.class,
            OutcomeClass::Infrastructure | OutcomeClass::DaemonGone | OutcomeClass::DiskFull
        ) {
            context.health.suspect();
        }
        let reported = v1::StepReported {
            lease: lease.lease,
            epoch: lease.epoch,
            drv: work.drv.clone(),
            outcome: outcome.class.into(),
            message: outcome.message,
            duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            outputs: outcome.outputs,
            missing: outcome.missing,
        };
        context.spool.add(Message::StepReported(reported));
    }
    context.spool.add(Message::LeaseFinished(v1::LeaseFinished { lease: lease.lease, epoch: lease.epoch }));
}

/// A step whose inputs are valid and held.
struct Begun {
    drv: StorePath,
    inputs: BTreeSet<StorePath>,
    lane: Lane,
    _guard: Guard,
    /// Tells of the inputs meanwhile; ends when it is dropped.
    introducing: JoinSet<Result<(), TransferError>>,
}

async fn execute(context: &Arc<Context>, lease: &v1::Lease, work: &v1::StepWork) -> Outcome {
    let mut step = match begin(context, lease, work).await {
        Ok(begun) => begun,
        Err(error) => return Outcome::of_error(&error, None),
    };
    let begun = v1::StepBegun { lease: lease.lease, epoch: lease.epoch, drv: work.drv.clone() };
    context.spool.add(Message::StepBegun(begun));
    let places = health::places(&context.config, &context.store_dir);
    let mut witness = Witness::new(places, context.config.suspicious_free_bytes);
    let log = Mutex::new(StepLog::new(context.clone(), lease, work));
    let built = attempt::build(context, &mut step.lane, &step.drv, work, &log, &mut witness).await;
    let mut log = log.into_inner().unwrap_or_else(PoisonError::into_inner);
    log.flush();
    let drv = step.drv.clone();
    let ended = match built {
        Err(StepError::Daemon(DaemonError::Aborted)) if log.is_over_limit() => {
            Err(StepError::LogLimit(work.max_log_bytes))
        }
        Ok(made) if made.verdict.is_success() => accept(context, step, work, made, &witness).await,
        Ok(made) => {
            context.lanes.give_back(step.lane);
            Ok(made)
        }
        Err(error) => {
            // A connection that broke is closed; one on which the daemon only refused can be used again.
            if matches!(&error, StepError::Daemon(error) if error.remote().is_some()) {
                context.lanes.give_back(step.lane);
            }
            Err(error)
        }
    };
    match ended {
        Ok(made) => Outcome::of_made(made, &witness),
        Err(error) => {
            let mut outcome = Outcome::of_error(&error, Some(&witness));
            if matches!(outcome.class, OutcomeClass::DaemonGone | OutcomeClass::TimedOut) {
                context.lanes.forget_idle();
                outcome.message.push_str(&end_orphans(context, &drv, work).await);
            }
            outcome
        }
    }
}

/// Roots and inputs first.
async fn begin(context: &Arc<Context>, lease: &v1::Lease, work: &v1::StepWork) -> Result<Begun, StepError> {
    let drv: StorePath = work.drv.parse()?;
    let inputs = work.inputs.iter().map(|path| path.parse()).collect::<Result<BTreeSet<StorePath>, _>>()?;
    let guard = context.roots.guard(inputs.iter().chain([&drv])).await?;
    let right = v1::WorkRight { lease: lease.lease, epoch: lease.epoch, ..v1::WorkRight::default() };
    let (timeout_s, max_silent_s) = (work.timeout_s, work.max_silent_s);
    let purpose = Purpose::Build { timeout_s, max_silent_s, max_log_bytes: work.max_log_bytes };
    let mut lane = context.lanes.take(purpose).await?;
    match make_valid(context, &mut lane, &inputs, right).await {
        // The end of an idle connection shows only when it is used.
        Err(StepError::Daemon(error)) if error.remote().is_none() => {
            context.lanes.forget_idle();
            lane = context.lanes.take(purpose).await?;
            make_valid(context, &mut lane, &inputs, right).await?;
        }
        made => made?,
    }
    let mut introducing = JoinSet::new();
    if context.relays() {
        let (context, inputs) = (context.clone(), inputs.clone());
        introducing.spawn(async move { introduced::introduce(&context, &inputs, right).await });
    }
    Ok(Begun { drv, inputs, lane, _guard: guard, introducing })
}

/// Outputs are there: whether they may be reported, and what is said of them.
async fn accept(
    context: &Context,
    step: Begun,
    work: &v1::StepWork,
    mut made: Made,
    witness: &Witness,
) -> Result<Made, StepError> {
    let Begun { inputs, mut lane, mut introducing, .. } = step;
    let is_new = made.verdict == BuildVerdict::Built;
    if is_new && witness.saw_full_disk() || !is_new && context.suspects.any(made.outputs.values()) {
        context.suspects.add(made.outputs.values());
        // Its process holds roots of what it built.
        drop(lane);
        discard(context, &made.outputs).await;
        return Err(StepError::Spoilt);
    }
    context.suspects.clear(made.outputs.values());
    context.roots.hold(made.outputs.values()).await?;
    made.infos = context.infos.fresh(&mut lane.daemon, made.outputs.values()).await?;
    let (size, limit) = (made.infos.iter().map(|info| info.nar_size).sum(), work.max_output_bytes);
    if limit > 0 && size > limit {
        context.lanes.give_back(lane);
        return Err(StepError::TooBig { size, limit });
    }
    if let Some(told) = introducing.join_next().await {
        told.unwrap_or(Err(TransferError::Interrupted))?;
        let unaccounted = context.introduced.unaccounted(context, &mut lane.daemon, &inputs, &made.infos);
        if let Some((reference, behind)) = unaccounted.await? {
            context.lanes.give_back(lane);
            return Err(StepError::Unaccounted { reference, behind });
        }
        context.introduced.reported(made.outputs.values());
    }
    let kept = context.gc_roots.keep(&mut lane.daemon, &context.store_dir, made.outputs.values());
    if let Err(error) = kept.await {
        tracing::warn!(error = &error as &dyn std::error::Error, "outputs are not kept from the collector");
    }
    if !lane.daemon.is_poisoned() {
        context.lanes.give_back(lane);
    }
    Ok(made)
}

/// Takes outputs out of the store. The daemon's process that built them holds them for a moment longer, and the
/// planner, where it asked for them, until it is told not to.
async fn discard(context: &Context, outputs: &BTreeMap<OutputName, StorePath>) {
    let paths = outputs.values().cloned().collect();
    let mut tries = 1;
    while let Err(error) = delete(context, &paths).await {
        if tries == DELETE_TRIES {
            tracing::warn!(%error, "outputs that a full disk may have spoilt cannot be deleted: they are not used");
            return;
        }
        tries += 1;
        if let Err(error) = context.planner.lock().await.let_go().await {
            tracing::debug!(%error, "the planner cannot be connected again");
        }
        tokio::time::sleep(DELETE_REST).await;
    }
}

async fn delete(context: &Context, paths: &BTreeSet<StorePath>) -> Result<(), DaemonError> {
    let mut lane = context.lanes.take(Purpose::Substitute).await?;
    lane.daemon.delete_paths(paths).await?;
    context.lanes.give_back(lane);
    Ok(())
}

async fn end_orphans(context: &Context, drv: &StorePath, work: &v1::StepWork) -> String {
    let name = drv.derivation_name().unwrap_or(drv.name());
    let basic = BasicDerivation::parse(&context.store_dir, name, &work.basic_derivation).ok();
    let names: Vec<OutputName> = work.output_names.iter().filter_map(|name| name.parse().ok()).collect();
    let outputs = basic.iter().flat_map(|basic| names.iter().filter_map(|name| basic.output_path(name)));
    let traces = Traces::of(&context.config.daemon, &context.store_dir, drv, outputs);
    let ended = orphans::end(&traces).await;
    let text = ended.text();
    if !text.is_empty() {
        tracing::warn!(drv = %drv, "a Nix daemon died while it built{text}");
    }
    text
}

/// Has those of `inputs` brought that are absent.
async fn make_valid(
    context: &Context,
    lane: &mut Lane,
    inputs: &BTreeSet<StorePath>,
    right: v1::WorkRight,
) -> Result<(), StepError> {
    let valid = lane.daemon.query_valid_paths(inputs, Substitute::No).await?;
    if valid.len() < inputs.len() {
        transfer::make_valid(context, inputs, right).await?;
    }
    Ok(())
}
