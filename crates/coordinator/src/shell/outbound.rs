//! Effects into messages: ids become names, sources and derivations are filled in.

use fleet_core::{Closure, Command, Effect, Epoch, EvalTask, Event, Failure, FailureClass, FailureCode};
use fleet_core::{LeaseId, LeasedStep, StepOutcome, StepReport, WorkerId};
use fleet_wire::v1::coordinator_message::Message as ToWorker;
use fleet_wire::{to_wire, v1};

use tokio::sync::mpsc::error::TrySendError;

use super::{Realising, Shell};

impl Shell {
    /// Sends a command; `caused` collects the effects of what cannot be sent.
    pub(super) fn send(&mut self, worker: WorkerId, command: Command, caused: &mut Vec<Effect>) {
        let message = match command {
            Command::StartEval { job, epoch, source, task } => ToWorker::EvalJob(v1::EvalJob {
                job: job.0,
                epoch: epoch.0,
                source: self.sources.get(&source).cloned(),
                task: Some(eval_task(&task)),
            }),
            Command::CancelEval { job } => ToWorker::CancelEval(v1::CancelEval { job: job.0 }),
            Command::StartLease { lease, epoch, steps } => self.lease(worker, lease, epoch, &steps, caused),
            Command::CancelLease { lease, epoch } => {
                ToWorker::CancelLease(v1::CancelLease { lease: lease.0, epoch: epoch.0 })
            }
            Command::Drain { reason } => ToWorker::Drain(v1::Drain { reason: reason.to_string() }),
            Command::Resume => ToWorker::Resume(v1::Resume {}),
            Command::EndSession { .. } => ToWorker::Shutdown(v1::Shutdown {}),
            Command::Realise { job, epoch, path, run, closure } => {
                self.realises.insert(job, Realising { run, worker, epoch });
                ToWorker::Realise(v1::Realise {
                    job: job.0,
                    epoch: epoch.0,
                    path: path.to_string(),
                    closure: closure == Closure::Wanted,
                    run: self.run_name(run),
                })
            }
        };
        let Some(session) = self.workers.get(&worker) else {
            return;
        };
        match session.outbound.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.worker_left(worker, "it does not take its messages", caused),
            Err(TrySendError::Closed(_)) => self.worker_left(worker, "its session broke", caused),
        }
    }

    fn lease(
        &mut self,
        worker: WorkerId,
        lease: LeaseId,
        epoch: Epoch,
        steps: &[LeasedStep],
        caused: &mut Vec<Effect>,
    ) -> ToWorker {
        let mut work = Vec::with_capacity(steps.len());
        for step in steps {
            match self.derivations.work(step, self.limits) {
                Ok(ready) => {
                    self.attempts.begin(worker, lease, epoch, step);
                    work.push(ready);
                }
                Err(error) => {
                    let failure = Failure {
                        code: FailureCode::Infrastructure,
                        cause: error.to_string().into(),
                        detail: "".into(),
                        drv: Some(step.drv.clone()),
                    };
                    let outcome = StepOutcome::Failed(FailureClass::OutputRejected, failure);
                    let report = StepReport::Ended { outcome, duration_ms: 0 };
                    self.apply(
                        Event::StepReported { worker, lease, epoch, drv: step.drv.clone(), report },
                        caused,
                    );
                }
            }
        }
        ToWorker::Lease(v1::Lease { lease: lease.0, epoch: epoch.0, steps: work })
    }
}

fn eval_task(task: &EvalTask) -> v1::eval_job::Task {
    match task {
        EvalTask::Discover(kinds) => v1::eval_job::Task::Discover(v1::Discover {
            kinds: kinds.iter().map(|kind| to_wire::host_kind(*kind).into()).collect(),
        }),
        EvalTask::Hosts(hosts) => {
            v1::eval_job::Task::Hosts(v1::EvalHosts { hosts: hosts.iter().map(to_wire::host).collect() })
        }
    }
}
