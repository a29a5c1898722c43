//! Core types into messages. Total: whatever the core says can be said.

use fleet_core::{
    Counts, Failure, FailureCode, Finished, Host, HostKind, Notice, Outcome, Settled, Side, StepStatus,
    TargetStatus,
};

use fleet_core::view::{StepStage, StepView, TargetStage, TargetView, WhyView};

use crate::v1;
use crate::v1::run_event::Event;

/// Names of failure codes on the wire.
pub const FAILURE_CODES: [(FailureCode, &str); 18] = [
    (FailureCode::EvalFailed, "eval_failed"),
    (FailureCode::EvalDied, "eval_died"),
    (FailureCode::BuildFailed, "build_failed"),
    (FailureCode::TimedOut, "timed_out"),
    (FailureCode::LogLimit, "log_limit"),
    (FailureCode::OutputRejected, "output_rejected"),
    (FailureCode::DependencyFailed, "dependency_failed"),
    (FailureCode::NoWorker, "no_worker"),
    (FailureCode::Cancelled, "cancelled"),
    (FailureCode::Infrastructure, "infrastructure"),
    (FailureCode::NoSource, "no_source"),
    (FailureCode::NoHosts, "no_hosts"),
    (FailureCode::WorkerLost, "worker_lost"),
    (FailureCode::DiskFull, "disk_full"),
    (FailureCode::OutOfMemory, "out_of_memory"),
    (FailureCode::Transfer, "transfer"),
    (FailureCode::DaemonGone, "daemon_gone"),
    (FailureCode::OutputTooBig, "output_too_big"),
];

/// The name of a failure code.
pub fn failure_code(code: FailureCode) -> &'static str {
    FAILURE_CODES.iter().find(|(known, _)| *known == code).map_or("infrastructure", |(_, name)| name)
}

/// Why something failed.
pub fn failure(failure: &Failure) -> v1::Failure {
    v1::Failure {
        code: failure_code(failure.code).to_owned(),
        cause: failure.cause.to_string(),
        detail: failure.detail.to_string(),
        drv: failure.drv.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

/// A side.
pub fn side(side: Side) -> v1::Side {
    match side {
        Side::Before => v1::Side::Before,
        Side::After => v1::Side::After,
    }
}

/// A host kind.
pub fn host_kind(kind: HostKind) -> v1::HostKind {
    match kind {
        HostKind::Nixos => v1::HostKind::Nixos,
        HostKind::Darwin => v1::HostKind::Darwin,
        HostKind::Home => v1::HostKind::Home,
    }
}

/// A host.
pub fn host(host: &Host) -> v1::Host {
    v1::Host { name: host.name.to_string(), kind: host_kind(host.kind).into() }
}

/// How far a run is.
pub fn counts(counts: &Counts) -> v1::Counts {
    v1::Counts {
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

/// How a run ended.
pub fn finished(finished: &Finished) -> v1::RunFinished {
    let outcome = match finished.outcome {
        Outcome::Succeeded => v1::RunOutcome::Succeeded,
        Outcome::Partial => v1::RunOutcome::Partial,
        Outcome::Failed => v1::RunOutcome::Failed,
        Outcome::Cancelled => v1::RunOutcome::Cancelled,
    };
    v1::RunFinished {
        outcome: outcome.into(),
        failure: finished.failure.as_ref().map(failure),
        counts: Some(counts(&finished.counts)),
        eval_ms: finished.eval_ms,
        build_ms: finished.build_ms,
        total_ms: finished.total_ms,
    }
}

fn target_status(status: TargetStatus) -> v1::TargetStatus {
    match status {
        TargetStatus::Built => v1::TargetStatus::Built,
        TargetStatus::Cached => v1::TargetStatus::Cached,
        TargetStatus::Unchanged => v1::TargetStatus::Unchanged,
        TargetStatus::EvalFailed => v1::TargetStatus::EvalFailed,
        TargetStatus::BuildFailed => v1::TargetStatus::BuildFailed,
        TargetStatus::Cancelled => v1::TargetStatus::Cancelled,
        TargetStatus::Planned => v1::TargetStatus::Planned,
    }
}

fn step_status(status: StepStatus) -> v1::StepStatus {
    match status {
        StepStatus::Built => v1::StepStatus::Built,
        StepStatus::Failed => v1::StepStatus::Failed,
        StepStatus::Retried => v1::StepStatus::Retried,
        StepStatus::Cancelled => v1::StepStatus::Cancelled,
        StepStatus::DependencyFailed => v1::StepStatus::DependencyFailed,
    }
}

fn settled(target: &fleet_core::Target, settled: &Settled) -> v1::TargetSettled {
    v1::TargetSettled {
        host: target.host.name.to_string(),
        kind: host_kind(target.host.kind).into(),
        side: side(target.side).into(),
        status: target_status(settled.status).into(),
        drv: settled.drv.as_ref().map(ToString::to_string).unwrap_or_default(),
        toplevel: settled.toplevel.as_ref().map(ToString::to_string).unwrap_or_default(),
        failure: settled.failure.as_ref().map(failure),
    }
}

/// One target with how far it is.
pub fn target_detail(view: &TargetView) -> v1::TargetDetail {
    let (stage, status) = match view.stage {
        TargetStage::Found => ("found", v1::TargetStatus::Unspecified),
        TargetStage::Evaluating => ("evaluating", v1::TargetStatus::Unspecified),
        TargetStage::Evaluated => ("evaluated", v1::TargetStatus::Unspecified),
        TargetStage::Building => ("building", v1::TargetStatus::Unspecified),
        TargetStage::Realising => ("realising", v1::TargetStatus::Unspecified),
        TargetStage::Settled(status) => ("settled", target_status(status)),
    };
    v1::TargetDetail {
        host: Some(host(&view.target.host)),
        side: side(view.target.side).into(),
        stage: stage.to_owned(),
        status: status.into(),
        drv: view.drv.as_ref().map(ToString::to_string).unwrap_or_default(),
        toplevel: view.toplevel.as_ref().map(ToString::to_string).unwrap_or_default(),
        failure: view.failure.as_ref().map(failure),
    }
}

/// Why something is not done.
pub fn why(view: &WhyView) -> v1::Why {
    let rejections = view.rejections.iter().map(|rejection| v1::WorkerRejection {
        worker: rejection.worker.to_string(),
        reason: rejection.reason.clone(),
    });
    v1::Why {
        subject: view.subject.clone(),
        state: view.state.clone(),
        chain: view.chain.iter().map(why_step).collect(),
        rejections: rejections.collect(),
    }
}

fn why_step(step: &StepView) -> v1::WhyStep {
    let stage = match step.stage {
        StepStage::Idle => "idle",
        StepStage::Present => "present",
        StepStage::Waiting => "waiting",
        StepStage::Ready => "ready",
        StepStage::Delayed(_) => "delayed",
        StepStage::Leased(_) => "leased",
        StepStage::Failed(_) => "failed",
        StepStage::DependencyFailed(_) => "dependency_failed",
    };
    let worker = match &step.stage {
        StepStage::Leased(worker) => worker.to_string(),
        _ => String::new(),
    };
    v1::WhyStep {
        drv: step.drv.to_string(),
        name: step.name.to_string(),
        system: step.system.to_string(),
        stage: stage.to_owned(),
        waits_for: step.waits_for,
        worker,
        attempts: step.attempts,
    }
}

/// What watchers see.
pub fn notice(notice: &Notice) -> Event {
    match notice {
        Notice::HostsFound { side: which, hosts } => Event::HostsFound(v1::HostsFound {
            side: side(*which).into(),
            hosts: hosts.iter().map(host).collect(),
        }),
        Notice::TargetStarted { target } => Event::TargetStarted(v1::TargetStarted {
            host: target.host.name.to_string(),
            kind: host_kind(target.host.kind).into(),
            side: side(target.side).into(),
        }),
        Notice::TargetEvaluated { target, drv, toplevel, steps } => {
            Event::TargetEvaluated(v1::TargetEvaluated {
                host: target.host.name.to_string(),
                kind: host_kind(target.host.kind).into(),
                side: side(target.side).into(),
                drv: drv.to_string(),
                toplevel: toplevel.as_ref().map(ToString::to_string).unwrap_or_default(),
                steps: *steps,
            })
        }
        Notice::TargetSettled { target, settled: how } => Event::TargetSettled(settled(target, how)),
        Notice::StepStarted { drv, name, system, worker, attempt } => Event::StepStarted(v1::StepStarted {
            drv: drv.to_string(),
            name: name.to_string(),
            system: system.to_string(),
            worker: worker.to_string(),
            attempt: *attempt,
        }),
        Notice::StepFinished { drv, name, status, attempt, duration_ms, failure: why } => {
            Event::StepFinished(v1::StepFinished {
                drv: drv.to_string(),
                name: name.to_string(),
                status: step_status(*status).into(),
                attempt: *attempt,
                duration_ms: *duration_ms,
                failure: why.as_ref().map(failure),
            })
        }
        Notice::Counts(now) => Event::Counts(counts(now)),
        Notice::Message(text) => Event::Notice(v1::Notice { text: text.to_string() }),
        Notice::Finished(how) => Event::RunFinished(finished(how)),
    }
}
