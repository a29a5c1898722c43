//! What workers say, into events: messages are parsed and checked. An error means that the worker breaks the protocol
//! and ends its session.

use fleet_core::{
    DrvPath, Epoch, EvalReport, Evaluated, Event, Failure, FailureCode, LeaseId, RealiseJobId, Session,
    WorkerId,
};
use fleet_wire::v1::coordinator_message::Message as ToWorker;
use fleet_wire::v1::run_event::Event as Seen;
use fleet_wire::v1::worker_message::Message as FromWorker;
use fleet_wire::{from_wire, v1};
use tonic::Status;

use super::round::{Deed, Round};
use super::{Input, Realising, Shell};
use crate::kept;
use crate::rpc::status;

/// Path infos that one run may gather: far above any fleet's.
const MAX_PATH_INFOS: usize = 2_000_000;

/// The successful evaluation in a report, if it is one.
pub(super) fn evaluated(report: &mut EvalReport) -> Option<&mut Evaluated> {
    match report {
        EvalReport::HostEvaluated { result: Ok(evaluated), .. } => Some(evaluated),
        _ => None,
    }
}

/// Whether a report says that the outputs are there.
fn is_success(report: &v1::StepReported) -> bool {
    matches!(report.outcome(), v1::OutcomeClass::Built | v1::OutcomeClass::AlreadyValid)
}

impl Shell {
    /// Applies one input.
    pub(super) fn take(&mut self, input: Input, round: &mut Round) {
        match input {
            Input::Submit(submission, reply) => {
                let submitted = self.submit(*submission, round);
                round.answer(reply, submitted);
            }
            Input::Cancel(run, caller, reply) => {
                let cancelled = self.cancel(&run, &caller, round);
                round.answer(reply, cancelled);
            }
            Input::Show(run, reply) => round.answer(reply, self.show(&run)),
            Input::Why(request, reply) => round.answer(reply, self.why(&request)),
            Input::Status(reply) => round.answer(reply, Ok(self.status())),
            Input::Workers(reply) => {
                let workers = self.worker_statuses();
                // Whoever asked may have gone; without an answer the coordinator is stopping.
                round.then(Deed::Answer(Box::new(|durable| drop(durable.map(|()| reply.send(workers))))));
            }
            Input::Order(name, order, reason, reply) => {
                let ordered = self.order(&name, order, &reason, round);
                round.answer(reply, ordered);
            }
            Input::Registry(request, reply) => {
                let answer = self.change_registry(request, round);
                round.answer(reply, answer);
            }
            Input::Join(joining, reply) => self.join(*joining, reply, round),
            Input::Said(session, said, permit) => {
                let Some(worker) = self.sessions.get(session).map(|connected| connected.worker) else {
                    return;
                };
                let sequence = said.sequence;
                match self.said(session, worker, *said, round) {
                    Ok(()) => round.then(Deed::Heard(session, sequence, permit)),
                    Err(why) => self.end_session(session, why, round),
                }
            }
            Input::Left(session, why) => {
                let why = why.as_deref().unwrap_or("it closed its session");
                if let Some(connected) = self.leave(session, why, round) {
                    round.then(Deed::Close(Box::new(connected)));
                }
            }
            other => self.asked(other, round),
        }
    }

    fn said(
        &mut self,
        session: Session,
        worker: WorkerId,
        said: v1::WorkerMessage,
        round: &mut Round,
    ) -> Result<(), Status> {
        let message = said.message.ok_or_else(|| Status::invalid_argument("an empty message"))?;
        let event = match message {
            FromWorker::Hello(_) => return Err(Status::failed_precondition("a session has one hello")),
            FromWorker::Heartbeat(load) => {
                self.heard(session, &load, round);
                return Ok(());
            }
            FromWorker::DerivationsSeen(seen) => return self.learn(&seen, round),
            FromWorker::StepLogged(logged) => {
                self.logged(session, worker, &logged, round);
                return Ok(());
            }
            FromWorker::StepPhased(phased) => {
                self.phased(worker, &phased, round);
                return Ok(());
            }
            FromWorker::PathsHeld(held) => return self.paths_held(worker, &held, round),
            FromWorker::PathsLost(lost) => return self.paths_lost(worker, &lost, round),
            FromWorker::HostsDiscovered(message) => from_wire::discovered(worker, message),
            FromWorker::HostStarted(message) => from_wire::host_started(worker, message),
            FromWorker::HostEvaluated(message) => self.host_evaluated(worker, message, round),
            FromWorker::EvalFinished(message) => from_wire::eval_finished(worker, message),
            FromWorker::StepBegun(message) => {
                self.check_lease(session, worker, LeaseId(message.lease), Epoch(message.epoch), round);
                from_wire::step_begun(worker, message)
            }
            FromWorker::StepReported(message) => self.step_reported(session, worker, message, round),
            FromWorker::LeaseFinished(message) => Ok(from_wire::lease_finished(worker, message)),
            FromWorker::PathsRealised(message) => match self.paths_realised(worker, message, round) {
                Ok(Some(event)) => Ok(event),
                Ok(None) => return Ok(()),
                Err(error) => Err(error),
            },
        };
        let event = event.map_err(|error| status::invalid(&error))?;
        self.apply(event, round);
        Ok(())
    }

    fn learn(&mut self, seen: &v1::DerivationsSeen, round: &mut Round) -> Result<(), Status> {
        for derivation in &seen.derivations {
            if self.derivations.learn(derivation).map_err(|error| status::refused(&error))? {
                round.keep(kept::derivation(derivation));
            }
        }
        Ok(())
    }

    fn host_evaluated(
        &mut self,
        worker: WorkerId,
        message: v1::HostEvaluated,
        round: &mut Round,
    ) -> Result<Event, from_wire::WireError> {
        let mut event = from_wire::host_evaluated(worker, message)?;
        if let Event::EvalReported { report: EvalReport::HostEvaluated { result, .. }, .. } = &mut event
            && let Ok(evaluated) = result
        {
            match self.derivations.news(&evaluated.wanted) {
                Ok(news) => {
                    for derivation in self.derivations.take_unkept(&evaluated.wanted) {
                        round.keep(kept::derivation(&derivation));
                    }
                    evaluated.new_steps = news;
                }
                Err(error) => {
                    *result = Err(Failure {
                        code: FailureCode::Infrastructure,
                        cause: error.to_string().into(),
                        detail: "".into(),
                        drv: None,
                    });
                }
            }
        }
        Ok(event)
    }

    fn step_reported(
        &mut self,
        session: Session,
        worker: WorkerId,
        mut message: v1::StepReported,
        round: &mut Round,
    ) -> Result<Event, from_wire::WireError> {
        let (lease, epoch) = (LeaseId(message.lease), Epoch(message.epoch));
        let drv = DrvPath::from(message.drv.as_str());
        let holds = self.attempts.holds(worker, lease, epoch, &drv);
        let tail = if holds { self.attempts.tail(&drv) } else { String::new() };
        if holds && is_success(&message) {
            self.hear_report(worker, &drv, &mut message, round);
        }
        let event = from_wire::step_reported(worker, message, &tail.into())?;
        if holds {
            super::restore::hear_outputs(&mut self.derivations, &event);
        } else {
            self.check_lease(session, worker, lease, epoch, round);
        }
        Ok(event)
    }

    /// A worker speaks of a lease. One that is not its own is taken back, so that a worker that slept too long stops
    /// building what others build now.
    fn check_lease(
        &mut self,
        session: Session,
        worker: WorkerId,
        lease: LeaseId,
        epoch: Epoch,
        round: &mut Round,
    ) {
        let held = self.fleet.lease_view(lease);
        let own = held.is_some_and(|held| (held.worker, held.epoch) == (worker, epoch));
        if !own && self.sessions.take_back(session, lease, epoch) {
            let cancel = v1::CancelLease { lease: lease.0, epoch: epoch.0 };
            round.then(Deed::Say(session, ToWorker::CancelLease(cancel)));
        }
    }

    fn logged(&mut self, session: Session, worker: WorkerId, logged: &v1::StepLogged, round: &mut Round) {
        let drv = DrvPath::from(logged.drv.as_str());
        let (lease, epoch) = (LeaseId(logged.lease), Epoch(logged.epoch));
        if !self.attempts.holds(worker, lease, epoch, &drv) {
            return self.check_lease(session, worker, lease, epoch, round);
        }
        let offsets = self.sessions.get(session).is_some_and(|connected| connected.offsets);
        let Some(news) = self.attempts.append(worker, logged, offsets.then_some(logged.offset)) else {
            return;
        };
        let name = logged.drv.get(33..).unwrap_or_default().trim_end_matches(".drv").to_owned();
        let log = v1::StepLog { drv: logged.drv.clone(), name, attempt: news.attempt, data: news.data };
        for run in self.runs.building(&drv) {
            if let Some(feed) = self.runs.feed(run) {
                round.then(Deed::Pass(feed, log.clone()));
            }
        }
    }

    fn phased(&mut self, worker: WorkerId, phased: &v1::StepPhased, round: &mut Round) {
        if self.attempts.phase(worker, phased) {
            for run in self.runs.building(&DrvPath::from(phased.drv.as_str())) {
                let phase = v1::StepPhase { drv: phased.drv.clone(), phase: phased.phase.clone() };
                self.tell(run, Seen::StepPhase(phase), round);
            }
        }
    }

    /// Path infos go straight to their run's watchers; the event is for the last message.
    fn paths_realised(
        &mut self,
        worker: WorkerId,
        mut message: v1::PathsRealised,
        round: &mut Round,
    ) -> Result<Option<Event>, from_wire::WireError> {
        let (job, epoch) = (RealiseJobId(message.job), Epoch(message.epoch));
        let current = |job: &&Realising| (job.worker, job.epoch) == (worker, epoch);
        let Some(run) = self.realises.get(&job).filter(current).map(|job| job.run) else { return Ok(None) };
        let mut infos = std::mem::take(&mut message.infos);
        infos.iter().try_for_each(from_wire::path_info)?;
        self.runs.retain_new(run, &mut infos, MAX_PATH_INFOS).map_err(from_wire::WireError::TooLarge)?;
        if !infos.is_empty() {
            for info in &mut infos {
                self.derivations.identify(info);
            }
            self.tell(run, Seen::PathInfos(v1::PathInfos { infos }), round);
        }
        if message.done && self.publishes(worker, &message) {
            return Ok(None);
        }
        if message.done {
            self.realises.remove(&job);
        }
        if message.done { from_wire::realised(worker, message).map(Some) } else { Ok(None) }
    }
}
