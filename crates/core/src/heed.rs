//! Which events are heeded: those that change anything. The others leave no record.
//!
//! Decides nothing else, and changes nothing: what is not heeded is as if it had not been said. Fences stand
//! here once more, so that stale words of many workers do not fill the journal.

use crate::event::{EvalReport, Event, StepReport, Timer};
use crate::fleet::Fleet;
use crate::graph::State;
use crate::id::{DrvPath, Epoch, EvalJobId, LeaseId, Time, WorkerId};
use crate::sabotage::Sabotage;
use crate::worker::Presence;

impl Fleet {
    pub(crate) fn heeds(&mut self, now: Time, event: &Event) -> bool {
        match event {
            Event::RunSubmitted { run, .. } => !self.knows_run(*run),
            Event::RunCancelled { run } => self.runs.get(run).is_some_and(|run| run.verdict.is_none()),
            Event::Restarted { .. } => true,
            Event::WorkerJoined { worker, session, hello, .. } => self.heeds_join(*worker, *session, hello),
            Event::WorkerHeard { worker, session, load } => self.heeds_word(now, *worker, *session, load),
            Event::WorkerLost { worker, session } => {
                self.workers.get(worker).is_some_and(|worker| worker.session() == Some(*session))
            }
            Event::WorkerOrdered { worker, order, .. } => self.heeds_order(*worker, *order),
            Event::EvalReported { worker, job, epoch, report } => {
                self.heeds_eval(*worker, *job, *epoch, report)
            }
            Event::StepReported { worker, lease, epoch, drv, report } => {
                let ended = matches!(report, StepReport::Ended { .. });
                ended && (self.leases_step(*worker, *lease, *epoch, drv) || self.believes_all())
            }
            Event::LeaseFinished { worker, lease, epoch } => self.is_current(*worker, *lease, *epoch),
            Event::Realised { worker, job, epoch, .. } => self.is_realising(*worker, *job, *epoch),
            Event::TimerFired { timer } => self.is_due(now, timer),
        }
    }

    fn believes_all(&self) -> bool {
        self.sabotaged(Sabotage::AcceptStaleReports)
    }

    fn leases_step(&self, worker: WorkerId, lease: LeaseId, epoch: Epoch, drv: &DrvPath) -> bool {
        let Some(step) = self.graph.find(drv) else { return false };
        let leased = self.leases.get(&lease).is_some_and(|lease| lease.position(step).is_some());
        leased && self.is_current(worker, lease, epoch)
    }

    fn heeds_eval(&self, worker: WorkerId, id: EvalJobId, epoch: Epoch, report: &EvalReport) -> bool {
        // Even a report that is refused may carry the only definitions: they are content, not opinion.
        if let EvalReport::HostEvaluated { result: Ok(evaluated), .. } = report
            && evaluated.new_steps.iter().any(|new| !self.knows(&new.drv))
        {
            return true;
        }
        let Some(job) = self.evals.jobs.get(&id) else { return false };
        if job.worker != worker || job.epoch != epoch {
            return false;
        }
        match report {
            EvalReport::Discovered(_) => job.work.hosts.is_none(),
            EvalReport::HostStarted(host) => {
                self.host_of_job(id, host).is_some_and(|(host, _)| job.turns_to(host))
            }
            EvalReport::HostEvaluated { host, .. } => self.host_of_job(id, host).is_some(),
            EvalReport::Finished { .. } => true,
        }
    }

    fn is_due(&self, now: Time, timer: &Timer) -> bool {
        match timer {
            Timer::RetryStep(drv) => self
                .graph
                .find(drv)
                .is_some_and(|id| matches!(self.graph.step(id).state, State::Delayed(until) if until <= now)),
            Timer::Unplaceable => self.patience_ends.is_some_and(|due| due <= now),
            Timer::RunDeadline(run) => self.is_overdue(now, *run),
            Timer::WorkerAway(worker, of) => self.workers.get(worker).is_some_and(|worker| {
                let due = |since: Time| since.plus_ms(self.config.away_ms) <= now;
                matches!(worker.presence, Presence::Away { session, since } if session == *of && due(since))
            }),
            Timer::Canary(worker) => self.workers.get(worker).is_some_and(|worker| worker.rests_until(now)),
        }
    }
}
