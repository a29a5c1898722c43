//! Commands into messages: ids become names, sources and derivations are filled in.

use fleet_core::{Closure, Command, Epoch, EvalTask, Event, Failure, FailureClass, FailureCode};
use fleet_core::{LeaseId, LeasedStep, Publish, StepOutcome, StepReport, WorkerId};
use fleet_wire::v1::coordinator_message::Message as ToWorker;
use fleet_wire::{to_wire, v1};

use super::round::{Deed, Round};
use super::{Realising, Shell};

impl Shell {
    /// A command goes to the session that its worker has now.
    pub(super) fn send(&mut self, worker: WorkerId, command: Command, round: &mut Round) {
        let message = match command {
            Command::StartEval { job, epoch, source, task } => {
                self.evals.retain(|job, _| self.fleet.eval_job(*job).is_some());
                self.evals.insert(job, source);
                ToWorker::EvalJob(v1::EvalJob {
                    job: job.0,
                    epoch: epoch.0,
                    source: self.sources.get(&source).cloned(),
                    task: Some(eval_task(&task)),
                })
            }
            Command::CancelEval { job } => ToWorker::CancelEval(v1::CancelEval { job: job.0 }),
            Command::StartLease { lease, epoch, steps } => self.lease(worker, lease, epoch, &steps, round),
            Command::CancelLease { lease, epoch } => {
                if let Some(session) = self.sessions.of(worker) {
                    self.sessions.take_back(session, lease, epoch);
                }
                ToWorker::CancelLease(v1::CancelLease { lease: lease.0, epoch: epoch.0 })
            }
            Command::Drain { reason } => ToWorker::Drain(v1::Drain { reason: reason.to_string() }),
            Command::Resume => ToWorker::Resume(v1::Resume {}),
            Command::EndSession { session, end } => return self.cut(session, &end, round),
            Command::Realise { job, epoch, path, run, closure, publish } => {
                let toplevel = path.as_str().parse().ok();
                let publish = publish == Publish::Wanted && self.settings.upload_outputs;
                self.realises.insert(job, Realising::new(run, worker, epoch, toplevel, publish));
                ToWorker::Realise(v1::Realise {
                    job: job.0,
                    epoch: epoch.0,
                    path: path.to_string(),
                    closure: closure == Closure::Wanted,
                    run: self.runs.name(run),
                    publish,
                })
            }
            Command::Prefetch { drv, lease, epoch } => {
                let Some(inputs) = self.prefetch(worker, &drv, lease) else { return };
                let right = v1::WorkRight { lease: lease.0, epoch: epoch.0, ..v1::WorkRight::default() };
                ToWorker::Prefetch(v1::Prefetch { drv: drv.to_string(), inputs, right: Some(right) })
            }
        };
        if let Some(session) = self.sessions.of(worker) {
            round.then(Deed::Say(session, message));
        }
    }

    fn lease(
        &mut self,
        worker: WorkerId,
        lease: LeaseId,
        epoch: Epoch,
        steps: &[LeasedStep],
        round: &mut Round,
    ) -> ToWorker {
        let mut work = Vec::with_capacity(steps.len());
        for step in steps {
            match self.derivations.work(step) {
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
                    let report =
                        StepReport::Ended { outcome, duration_ms: 0, output_bytes: 0, missing: Vec::new() };
                    round.cause(Event::StepReported { worker, lease, epoch, drv: step.drv.clone(), report });
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
