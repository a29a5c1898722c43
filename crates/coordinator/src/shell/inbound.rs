//! Inputs into events: names become ids, messages are parsed and checked. Refusals go back to who asked.

use std::collections::HashSet;
use std::sync::Arc;

use fleet_core::{
    DrvPath, Effect, Epoch, EvalReport, Event, Failure, FailureCode, LeaseId, RealiseJobId, RunId, WorkerId,
};
use fleet_wire::v1::coordinator_message::Message as ToWorker;
use fleet_wire::v1::run_event::Event as Seen;
use fleet_wire::v1::worker_message::Message as FromWorker;
use fleet_wire::{from_wire, v1};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::{Input, MAX_PATH_INFOS, Realising, RunState, Session, Shell};
use crate::feed::Feed;
use crate::journal::JournalError;
use crate::rpc::status;

/// What is said to whoever asked, once the records behind it are durable.
#[must_use]
pub(super) enum Answer {
    /// The name of a run.
    Run(oneshot::Sender<Result<String, Status>>, Result<String, Status>),
    /// That it is done.
    Done(oneshot::Sender<Result<(), Status>>, Result<(), Status>),
}

impl Answer {
    /// Answers, or says why there is no answer. A peer that no longer waits is no error.
    pub(super) fn give(self, failed: Option<&JournalError>) {
        let failed = failed.map(status::not_durable);
        match self {
            Self::Run(reply, answer) => drop(reply.send(failed.map_or(answer, Err))),
            Self::Done(reply, answer) => drop(reply.send(failed.map_or(answer, Err))),
        }
    }
}

impl Shell {
    /// Applies one input. The answer is given when the effects have been performed.
    pub(super) fn take(&mut self, input: Input, effects: &mut Vec<Effect>) -> Option<Answer> {
        match input {
            Input::Submit(request, reply) => return Some(Answer::Run(reply, self.submit(&request, effects))),
            Input::Cancel(run, reply) => return Some(Answer::Done(reply, self.cancel(&run, effects))),
            // Nobody waits any more, or the answer arrives: it changes nothing.
            Input::MayKeep(claim, reply) => drop(reply.send(self.may_keep(&claim))),
            Input::Join(hello, outbound, reply) => {
                let joined = self.join(*hello, outbound, effects);
                if let Err(Ok((worker, _))) = reply.send(joined) {
                    self.worker_left(worker, "it did not wait for its welcome", effects);
                }
            }
            Input::Said(worker, message, reply) => {
                return Some(Answer::Done(reply, self.said(worker, message, effects)));
            }
            Input::Registry(change, reply) => drop(reply.send(self.change_registry(change))),
            Input::Order(_, _, _, reply) => {
                drop(reply.send(Err(Status::unimplemented("orders to workers"))));
            }
            Input::Workers(reply) => drop(reply.send(self.worker_statuses())),
            Input::Left(worker, why) => {
                self.worker_left(worker, why.as_deref().unwrap_or("it closed its session"), effects);
            }
        }
        None
    }

    fn join(
        &mut self,
        hello: v1::Hello,
        outbound: mpsc::Sender<ToWorker>,
        effects: &mut Vec<Effect>,
    ) -> Result<(WorkerId, u64), Status> {
        let hello = from_wire::worker_hello(hello).map_err(|error| status::invalid(&error))?;
        if self.workers.len() >= self.max_workers {
            return Err(status::too_many_workers(self.max_workers));
        }
        let worker = WorkerId(self.next_worker);
        self.next_worker += 1;
        self.workers.insert(worker, Session { name: hello.name.to_string(), outbound });
        let session = fleet_core::Session(worker.0);
        self.apply(Event::WorkerJoined { worker, session, hello, holds: Vec::new() }, effects);
        Ok((worker, Self::epoch_of(worker).0))
    }

    fn submit(&mut self, request: &v1::SubmitRequest, effects: &mut Vec<Effect>) -> Result<String, Status> {
        let parsed = from_wire::run_request(request).map_err(|e| status::invalid(&e))?;
        if request.idempotency_key.is_empty() || request.idempotency_key.len() > 256 {
            return Err(Status::invalid_argument("idempotency_key must have 1 to 256 characters"));
        }
        let name = run_name(&request.idempotency_key);
        if let Some(known) = self.runs.values().find(|state| state.name == name) {
            let same = known.request == parsed;
            return if same { Ok(name) } else { Err(status::other_request(&request.idempotency_key)) };
        }
        for source in request.before.iter().chain(&request.after) {
            let id = from_wire::source_id(source).map_err(|e| status::invalid(&e))?;
            self.sources.insert(id, source.clone());
        }
        let run = RunId(self.next_run);
        self.next_run += 1;
        let feed = Arc::new(Feed::new());
        self.feeds.insert(name.clone(), feed.clone());
        let state = RunState {
            name: name.clone(),
            request: parsed.clone(),
            feed,
            live: true,
            running: HashSet::new(),
            path_infos: 0,
        };
        self.runs.insert(run, state);
        self.apply(Event::RunSubmitted { run, request: parsed }, effects);
        Ok(name)
    }

    fn cancel(&mut self, name: &str, effects: &mut Vec<Effect>) -> Result<(), Status> {
        let run = self.runs.iter().find(|(_, state)| state.name == name).map(|(run, _)| *run);
        let run = run.ok_or_else(|| status::unknown_run(name))?;
        self.apply(Event::RunCancelled { run }, effects);
        Ok(())
    }

    /// One message of a worker. An error means it breaks the protocol and ends its session.
    fn said(
        &mut self,
        worker: WorkerId,
        message: FromWorker,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Status> {
        let event = match message {
            FromWorker::Hello(_) => return Err(Status::failed_precondition("a session has one hello")),
            FromWorker::Heartbeat(_) => return Ok(()),
            FromWorker::DerivationsSeen(seen) => return self.learn(seen),
            FromWorker::StepLogged(logged) => {
                self.logged(worker, &logged);
                return Ok(());
            }
            FromWorker::StepPhased(phased) => {
                self.phased(worker, &phased);
                return Ok(());
            }
            FromWorker::HostsDiscovered(message) => from_wire::discovered(worker, message),
            FromWorker::HostStarted(message) => from_wire::host_started(worker, message),
            FromWorker::HostEvaluated(message) => self.host_evaluated(worker, message),
            FromWorker::EvalFinished(message) => from_wire::eval_finished(worker, message),
            FromWorker::StepBegun(message) => from_wire::step_begun(worker, message),
            FromWorker::StepReported(message) => self.step_reported(worker, message),
            FromWorker::LeaseFinished(message) => Ok(from_wire::lease_finished(worker, message)),
            FromWorker::PathsRealised(message) => match self.paths_realised(worker, message) {
                Ok(Some(event)) => Ok(event),
                Ok(None) => return Ok(()),
                Err(error) => Err(error),
            },
        };
        let event = event.map_err(|error| status::invalid(&error))?;
        self.apply(event, effects);
        Ok(())
    }

    fn learn(&mut self, seen: v1::DerivationsSeen) -> Result<(), Status> {
        seen.derivations.into_iter().try_for_each(|derivation| {
            self.derivations.learn(derivation).map_err(|error| status::refused(&error))
        })
    }

    fn host_evaluated(
        &mut self,
        worker: WorkerId,
        message: v1::HostEvaluated,
    ) -> Result<Event, from_wire::WireError> {
        let mut event = from_wire::host_evaluated(worker, message)?;
        if let Event::EvalReported { report: EvalReport::HostEvaluated { result, .. }, .. } = &mut event
            && let Ok(evaluated) = result
        {
            match self.derivations.take_news(&evaluated.wanted) {
                Ok(news) => evaluated.new_steps = news,
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
        worker: WorkerId,
        message: v1::StepReported,
    ) -> Result<Event, from_wire::WireError> {
        let (lease, epoch) = (LeaseId(message.lease), Epoch(message.epoch));
        let drv = DrvPath::from(message.drv.as_str());
        let holds = self.attempts.holds(worker, lease, epoch, &drv);
        let tail = if holds { self.attempts.tail(&drv) } else { String::new() };
        let event = from_wire::step_reported(worker, message, &tail.into())?;
        if holds
            && let Event::StepReported { report, .. } = &event
            && let fleet_core::StepReport::Ended { outcome, .. } = report
            && let fleet_core::StepOutcome::Built(outputs) | fleet_core::StepOutcome::AlreadyValid(outputs) =
                outcome
        {
            self.derivations.realised(&drv, outputs);
        }
        Ok(event)
    }

    fn logged(&mut self, worker: WorkerId, logged: &v1::StepLogged) {
        let Some(attempt) = self.attempts.append(worker, logged) else { return };
        let name = logged.drv.get(33..).unwrap_or_default().trim_end_matches(".drv").to_owned();
        let log = v1::StepLog { drv: logged.drv.clone(), name, attempt, data: logged.data.clone() };
        for feed in self.interested(&logged.drv) {
            feed.show(log.clone());
        }
    }

    fn phased(&mut self, worker: WorkerId, phased: &v1::StepPhased) {
        if self.attempts.phase(worker, phased) {
            for feed in self.interested(&phased.drv) {
                let phase = v1::StepPhase { drv: phased.drv.clone(), phase: phased.phase.clone() };
                feed.push(Seen::StepPhase(phase));
            }
        }
    }

    /// Path infos go straight to their run's watchers; the event is for the last message.
    fn paths_realised(
        &mut self,
        worker: WorkerId,
        mut message: v1::PathsRealised,
    ) -> Result<Option<Event>, from_wire::WireError> {
        let (job, epoch) = (RealiseJobId(message.job), Epoch(message.epoch));
        let current = |job: &&Realising| (job.worker, job.epoch) == (worker, epoch);
        let Some(run) = self.realises.get(&job).filter(current).map(|job| job.run) else { return Ok(None) };
        let mut infos = std::mem::take(&mut message.infos);
        infos.iter().try_for_each(from_wire::path_info)?;
        if let Some(state) = self.runs.get_mut(&run)
            && !infos.is_empty()
        {
            state.path_infos = state.path_infos.saturating_add(infos.len());
            if state.path_infos > MAX_PATH_INFOS {
                return Err(from_wire::WireError::TooLarge("infos"));
            }
            for info in &mut infos {
                self.derivations.identify(info);
            }
            state.feed.push(Seen::PathInfos(v1::PathInfos { infos }));
        }
        if message.done {
            self.realises.remove(&job);
        }
        Ok(message.done.then(|| from_wire::realised(worker, message)))
    }

    /// Watchers of the runs for which a step is being built.
    fn interested(&self, drv: &str) -> impl Iterator<Item = &Feed> {
        let drv = DrvPath::from(drv);
        self.runs.values().filter(move |state| state.running.contains(&drv)).map(|state| &*state.feed)
    }
}

/// The name of a run follows from its key, so that the same key finds the same run.
fn run_name(idempotency_key: &str) -> String {
    let digest = fleet_store::Digest::of(idempotency_key.as_bytes()).to_string();
    format!("run-{}", &digest[..12])
}
