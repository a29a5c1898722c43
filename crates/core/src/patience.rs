//! Patience: what fits no connected worker waits for one that may come, but not for ever.
//!
//! Owns the times since which things wait for a worker, and the one timer over all of them.

use std::collections::BTreeMap;

use crate::config::FleetConfig;
use crate::disk::in_words;
use crate::event::{Failure, FailureCode, Timer};
use crate::fleet::Fleet;
use crate::graph::{ClassId, ReadyKey, State, StepId};
use crate::id::{DrvPath, Time, WorkerId};
use crate::outcome::StepEnd;
use crate::record::Decision;
use crate::run::failure;
use crate::target::TargetRef;
use crate::view::describe;
use crate::worker::Worker;

impl Fleet {
    /// Something that fits no worker, and has waited long enough for one.
    pub(crate) fn next_given_up(&mut self) -> Option<Decision> {
        self.note_stranded();
        self.stranded_since?;
        let patience_ms = self.patience_ms();
        let over =
            |stranded: &Option<Time>| stranded.is_some_and(|since| since.plus_ms(patience_ms) <= self.now);
        if over(&self.evals.stranded) {
            let failure = failure(FailureCode::NoWorker, "no connected worker evaluates");
            return Some(Decision::EvalsGivenUp { failure });
        }
        if over(&self.realises.stranded)
            && let Some(TargetRef { run, host, side }) = self.unrealisable()
        {
            let failure = failure(FailureCode::NoWorker, "no connected worker can realise its toplevel");
            return Some(Decision::RealiseGivenUp { run, host, side, failure });
        }
        let classes = self.graph.classes.busy().map(|id| self.graph.classes.get(id));
        let unfit = classes.filter(|class| over(&class.stranded)).flat_map(|class| &class.ready);
        let refused = self.objections.iter().filter(|(_, objection)| over(&objection.stranded));
        let cramped = self.cramped.iter().filter(|(_, since)| over(&Some(**since)));
        let waiting = unfit.map(|key| key.step).chain(refused.map(|(id, _)| *id));
        let id = waiting.chain(cramped.map(|(id, _)| *id)).next()?;
        Some(Decision::StepGivenUp { drv: self.graph.drv(id), failure: self.no_worker(id) })
    }

    /// Has the timer come when the first of what fits no worker has waited long enough.
    pub(crate) fn wait_for_workers(&mut self) {
        if self.script.is_some() {
            self.note_stranded();
        }
        let Some(since) = self.stranded_since else { return };
        let due = since.plus_ms(self.patience_ms());
        if self.patience_ends.is_none_or(|armed| armed > due) {
            self.patience_ends = Some(due);
            self.arm(Timer::Unplaceable, due);
        }
    }

    /// Who has never had a worker, or has one that may soon be well, has some patience in any case.
    pub(crate) fn patience_ms(&self) -> u64 {
        let FleetConfig { unplaceable_after_ms, first_worker_within_ms, .. } = self.config;
        let soon = !self.met_worker || self.workers.values().any(|worker| worker.unwell.is_some());
        if soon { unplaceable_after_ms.max(first_worker_within_ms) } else { unplaceable_after_ms }
    }

    /// Notes what fits no worker that is there or may come back, and since when.
    fn note_stranded(&mut self) {
        let now = self.now;
        let mut first: Option<Time> = None;
        let mut note = |stranded: &mut Option<Time>, is_stranded: bool| {
            *stranded = is_stranded.then(|| stranded.unwrap_or(now));
            first = first.into_iter().chain(*stranded).min();
        };
        let unevaluated = !self.evals.queue.is_empty() && !self.evaluators_expected();
        note(&mut self.evals.stranded, unevaluated);
        let unrealisable = self.unrealisable().is_some();
        note(&mut self.realises.stranded, unrealisable);
        let busy: Vec<ClassId> = self.graph.classes.busy().collect();
        for id in busy {
            let class = self.graph.classes.get_mut(id);
            let mut expected = self.workers.values().filter(|worker| worker.is_expected());
            note(&mut class.stranded, !expected.any(|worker| worker.fit(&class.need).is_some()));
        }
        let objections: Vec<StepId> = self.objections.keys().copied().collect();
        for id in objections {
            let by_all = self.is_refused_by_all(id);
            if let Some(objection) = self.objections.get_mut(&id) {
                note(&mut objection.stranded, by_all);
            }
        }
        self.cramped = self.find_cramped();
        self.stranded_since = first.into_iter().chain(self.cramped.values().copied()).min();
    }

    /// Ready steps that fit workers of which none has the disk for them, and since when.
    fn find_cramped(&self) -> BTreeMap<StepId, Time> {
        let mut cramped = BTreeMap::new();
        let largest = self.largest_prediction();
        for class in self.graph.classes.busy().map(|id| self.graph.classes.get(id)) {
            let expected = self.workers.iter().filter(|(_, worker)| worker.is_expected());
            let fitting = expected.filter(|(_, worker)| worker.fit(&class.need).is_some());
            let fitting: Vec<(&WorkerId, &Worker)> = fitting.collect();
            if fitting.iter().all(|(_, worker)| self.could_hold(worker, largest)) {
                continue;
            }
            for ReadyKey { step, .. } in &class.ready {
                let bytes = self.predicted_bytes(*step);
                let willing = fitting.iter().filter(|(id, _)| !self.has_refused(*step, **id));
                let mut willing = willing.peekable();
                if willing.peek().is_some() && !willing.any(|(_, worker)| self.could_hold(worker, bytes)) {
                    cramped.insert(*step, self.cramped.get(step).copied().unwrap_or(self.now));
                }
            }
        }
        cramped
    }

    /// Whether a worker that evaluates is there, or may come back.
    pub(crate) fn evaluators_expected(&self) -> bool {
        self.workers.values().any(|worker| worker.offer.eval_slots > 0 && worker.is_expected())
    }

    /// A target whose toplevel nobody can realise.
    fn unrealisable(&self) -> Option<TargetRef> {
        let (_, queue) = self.realises.queues.iter().find(|(builder, _)| !self.can_realise(**builder))?;
        queue.front().map(|work| work.at)
    }

    /// Whether a step is ready, and fits only workers that refused it. One that fits none at all waits with
    /// its class.
    fn is_refused_by_all(&self, id: StepId) -> bool {
        let step = self.graph.step(id);
        let need = &self.graph.classes.get(self.graph.definition(id).class).need;
        let fits = |worker: &Worker| worker.is_expected() && worker.fit(need).is_some();
        let mut fitting = self.workers.iter().filter(|(_, worker)| fits(worker)).peekable();
        step.state == State::Ready
            && fitting.peek().is_some()
            && fitting.all(|(worker, _)| self.has_refused(id, *worker))
    }

    pub(crate) fn give_up_step(&mut self, drv: &DrvPath, failure: &Failure) -> Option<()> {
        let id = self.graph.find(drv).filter(|id| self.graph.step(*id).state == State::Ready)?;
        self.fail_step(id, failure.clone(), StepEnd::NONE);
        Some(())
    }

    /// Why a step cannot be placed.
    pub(crate) fn no_worker(&self, id: StepId) -> Failure {
        let need = &self.graph.classes.get(self.graph.definition(id).class).need;
        let wanted = describe(need);
        let (cause, detail) = match self.objections.get(&id).filter(|objection| !objection.refused.is_empty())
        {
            Some(refusal) => {
                let cause = format!("every worker for {wanted} refused it: {}", refusal.last.cause);
                (cause, refusal.last.detail.clone())
            }
            None if self.cramped.contains_key(&id) => {
                let needed = in_words(self.predicted_bytes(id));
                (format!("no worker for {wanted} has room on its disk for about {needed}"), "".into())
            }
            None => (format!("no connected worker builds for {wanted}"), "".into()),
        };
        Failure { code: FailureCode::NoWorker, cause: cause.into(), detail, drv: Some(self.graph.drv(id)) }
    }
}
