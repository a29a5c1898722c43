//! One eval job: bring the source, start an evaluator, take its hosts one at a time, report each. One host's
//! failure is that host's; what concerns the whole flake ends the job with the rest unstarted.

use std::sync::Arc;

use fleet_nix::PathInfo;
use fleet_nix::evaluator::{
    ConfigurationKind, EvalError, Evaluator, EvaluatorConfig, FlakeSource, HostAttr, start_evaluator,
};
use fleet_wire::v1;
use fleet_wire::v1::eval_job::Task;
use fleet_wire::v1::worker_message::Message;
use tokio::task::JoinSet;

use crate::context::{Context, Outbox, failure};
use crate::planner::{Asker, Planner};
use crate::source::{self, SourceError};
use crate::transfer;

/// Bytes of derivations in one message: heartbeats behind it must not wait for long on a slow link.
const DERIVATIONS_PER_MESSAGE: usize = 256 << 10;
/// Longest trace that is sent, bytes.
const MAX_TRACE: usize = 64 << 10;

/// Runs a job to its end and reports it.
pub(crate) async fn run(context: Arc<Context>, outbox: Outbox, job: v1::EvalJob) {
    let (id, epoch) = (job.job, job.epoch);
    let ended = evaluate(&context, &outbox, job).await;
    let (failure, unstarted) = match ended {
        Ok(unstarted) => (None, unstarted),
        Err((failure, unstarted)) => (Some(failure), unstarted),
    };
    outbox.send(Message::EvalFinished(v1::EvalFinished { job: id, epoch, failure, unstarted })).await;
}

type Ended = Result<Vec<v1::Host>, (v1::Failure, Vec<v1::Host>)>;

async fn evaluate(context: &Arc<Context>, outbox: &Outbox, job: v1::EvalJob) -> Ended {
    let hosts = match &job.task {
        Some(Task::Hosts(hosts)) => hosts.hosts.clone(),
        _ => Vec::new(),
    };
    let no_source = |error: SourceError| (failure(error.code(), &error), hosts.clone());
    let source = job.source.as_ref().ok_or_else(|| no_source(SourceError::Incomplete("itself")))?;
    // The evaluator reads all of it for as long as it runs.
    let (source, _held) = source::import(context, &job, source).await.map_err(no_source)?;
    let mut evaluator =
        start(context, &source).await.map_err(|error| (eval_failure(&error), hosts.clone()))?;
    match job.task {
        Some(Task::Discover(discover)) => {
            let kinds: Vec<_> = discover.kinds.iter().filter_map(|kind| kind_from(*kind)).collect();
            let found =
                evaluator.discover(&kinds).await.map_err(|error| (eval_failure(&error), Vec::new()))?;
            let hosts = found.iter().map(host_to).collect();
            let found = v1::HostsDiscovered { job: job.job, epoch: job.epoch, hosts };
            outbox.send(Message::HostsDiscovered(found)).await;
            Ok(Vec::new())
        }
        Some(Task::Hosts(_)) => {
            each_host((context, outbox), &mut *evaluator, (job.job, job.epoch), hosts).await
        }
        None => Ok(Vec::new()),
    }
}

async fn start(context: &Context, source: &FlakeSource) -> Result<Box<dyn Evaluator>, EvalError> {
    let (nix, cache) = (context.config.nix.clone(), context.config.cache_dir.join("evaluator"));
    let home = context.runtime_dir.path().join("homes");
    let mut config = EvaluatorConfig::new(nix, context.proxy.store_uri(), home, cache);
    config.store_dir = context.store_dir.clone();
    config.host_wall_limit = context.config.host_wall_limit;
    start_evaluator(&config, source).await
}

async fn each_host(
    (context, outbox): (&Arc<Context>, &Outbox),
    evaluator: &mut dyn Evaluator,
    (job, epoch): (u64, u64),
    hosts: Vec<v1::Host>,
) -> Ended {
    let mut hosts = hosts.into_iter();
    // Ends with the job, and the job with it.
    let mut bringing = JoinSet::new();
    for host in hosts.by_ref() {
        let Some(kind) = kind_from(host.kind) else {
            continue;
        };
        let started = v1::HostStarted { job, epoch, host: Some(host.clone()) };
        outbox.send(Message::HostStarted(started)).await;
        let attr = HostAttr { kind, name: host.name.clone() };
        let faults = context.proxy.faults();
        let (result, over) = match evaluator.evaluate(&attr).await {
            Ok(toplevel) => (plan((context, outbox), (job, epoch), &toplevel, &mut bringing).await, false),
            Err(EvalError::Host { cause, .. }) if context.proxy.faults() > faults => {
                (v1::host_evaluated::Result::Failure(daemon_lost(&cause)), false)
            }
            Err(error) => {
                let over = !matches!(error, EvalError::Host { .. }) && !error.lost_process();
                (v1::host_evaluated::Result::Failure(eval_failure(&error)), over)
            }
        };
        let evaluated = v1::HostEvaluated { job, epoch, host: Some(host), result: Some(result) };
        outbox.send(Message::HostEvaluated(evaluated)).await;
        if over {
            // The flake as a whole, or this machine: what is left may fare better with another job.
            break;
        }
    }
    while bringing.join_next().await.is_some() {}
    Ok(hosts.collect())
}

async fn plan(
    (context, outbox): (&Arc<Context>, &Outbox),
    job: (u64, u64),
    toplevel: &fleet_nix::evaluator::Toplevel,
    bringing: &mut JoinSet<()>,
) -> v1::host_evaluated::Result {
    // Locked until everything is sent: another job leaves out what this one sends, and must not overtake it.
    let mut planner = context.planner.lock().await;
    match planner.plan(Asker { context, job }, toplevel).await {
        Ok(plan) => {
            send_derivations(outbox, &mut planner, plan.news).await;
            if !plan.here.is_empty() {
                bringing.spawn(bring(context.clone(), job, plan.here));
            }
            v1::host_evaluated::Result::Evaluated(v1::Evaluated {
                drv: toplevel.drv.to_string(),
                output_name: toplevel.output_name.clone(),
                output: toplevel.output.as_ref().map(ToString::to_string).unwrap_or_default(),
                wanted: plan.wanted.iter().map(ToString::to_string).collect(),
                substitutable_new: plan.substitutable_new,
            })
        }
        Err(error) => v1::host_evaluated::Result::Failure(failure("infrastructure", &error)),
    }
}

/// Brings to the coordinator what no step makes: it must outlast this machine. Until it is there others have it from
/// us, and if it cannot be brought as well.
async fn bring(context: Arc<Context>, (job, epoch): (u64, u64), infos: Vec<Arc<PathInfo>>) {
    let right = v1::WorkRight { eval_job: job, epoch, ..v1::WorkRight::default() };
    let brought = async {
        let _guard = context.roots.guard(infos.iter().map(|info| &info.path)).await?;
        transfer::publish(&context, infos.clone(), right).await
    };
    if let Err(error) = brought.await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(job, error, "what builders need from here stays here");
    }
}

async fn send_derivations(outbox: &Outbox, planner: &mut Planner, derivations: Vec<v1::Derivation>) {
    let mut batch = Vec::new();
    let mut size = 0;
    for derivation in derivations {
        size += derivation.aterm.len() + 128;
        batch.push(derivation);
        if size > DERIVATIONS_PER_MESSAGE {
            send_batch(outbox, planner, std::mem::take(&mut batch)).await;
            size = 0;
        }
    }
    if !batch.is_empty() {
        send_batch(outbox, planner, batch).await;
    }
}

/// What a cancelled job did not send is sent by the next one that needs it.
async fn send_batch(outbox: &Outbox, planner: &mut Planner, derivations: Vec<v1::Derivation>) {
    let message = Message::DerivationsSeen(v1::DerivationsSeen { derivations: derivations.clone() });
    outbox.send(message).await;
    planner.was_told(&derivations);
}

fn eval_failure(error: &EvalError) -> v1::Failure {
    let (code, cause) = match error {
        EvalError::Host { cause, .. } => ("eval_failed", cause.clone()),
        EvalError::Flake { .. } => ("eval_failed", error.to_string()),
        other => ("eval_died", other.to_string()),
    };
    let detail = error.trace().unwrap_or_default().chars().take(MAX_TRACE / 4).collect();
    v1::Failure { code: code.to_owned(), cause, detail, drv: String::new() }
}

/// A host that failed while the daemon did says nothing about its flake: it is worth another try.
fn daemon_lost(cause: &str) -> v1::Failure {
    let cause = format!("the Nix daemon failed during evaluation: {cause}");
    v1::Failure { code: "infrastructure".to_owned(), cause, ..v1::Failure::default() }
}

fn kind_from(kind: i32) -> Option<ConfigurationKind> {
    match v1::HostKind::try_from(kind) {
        Ok(v1::HostKind::Nixos) => Some(ConfigurationKind::Nixos),
        Ok(v1::HostKind::Darwin) => Some(ConfigurationKind::Darwin),
        Ok(v1::HostKind::Home) => Some(ConfigurationKind::Home),
        Ok(v1::HostKind::Unspecified) | Err(_) => None,
    }
}

fn host_to(host: &HostAttr) -> v1::Host {
    let kind = match host.kind {
        ConfigurationKind::Nixos => v1::HostKind::Nixos,
        ConfigurationKind::Darwin => v1::HostKind::Darwin,
        ConfigurationKind::Home => v1::HostKind::Home,
    };
    v1::Host { name: host.name.clone(), kind: kind.into() }
}
