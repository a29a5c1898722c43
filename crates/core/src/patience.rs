//! Patience: what fits no connected worker waits for one that may come, but not for ever.
//!
//! Owns the times since which things wait for a worker, and the one timer over all of them.

use crate::config::FleetConfig;
use crate::effect::TargetStatus;
use crate::event::{Failure, FailureCode, Timer};
use crate::fleet::Fleet;
use crate::graph::{ClassId, State, StepId};
use crate::id::Time;
use crate::outcome::StepEnd;
use crate::run::failure;

impl Fleet {
    /// Notes what fits no connected worker and since when. Without patience, gives it up at once and says
    /// whether there was any.
    pub(crate) fn give_up_stranded(&mut self) -> bool {
        let Some(since) = self.note_stranded() else { return false };
        let patience_ms = self.patience_ms();
        if patience_ms == 0 {
            self.fail_stranded(self.now);
            return true;
        }
        let due = since.plus_ms(patience_ms);
        if self.patience_ends.is_none_or(|armed| armed > due) {
            self.patience_ends = Some(due);
            self.arm(Timer::Unplaceable, due);
        }
        false
    }

    fn patience_ms(&self) -> u64 {
        let FleetConfig { unplaceable_after_ms, first_worker_within_ms, .. } = self.config;
        if self.met_worker { unplaceable_after_ms } else { unplaceable_after_ms.max(first_worker_within_ms) }
    }

    /// Since when the first of what is stranded is.
    fn note_stranded(&mut self) -> Option<Time> {
        let now = self.now;
        let mut first: Option<Time> = None;
        let mut note = |stranded: &mut Option<Time>, is_stranded: bool| {
            *stranded = is_stranded.then(|| stranded.unwrap_or(now));
            first = first.into_iter().chain(*stranded).min();
        };
        let nobody_evaluates = self.workers.values().all(|worker| worker.eval_slots == 0);
        note(&mut self.evals.stranded, nobody_evaluates && !self.evals.queue.is_empty());
        let unrealisable = self.realises.queue.iter().any(|work| !self.can_realise(work));
        note(&mut self.realises.stranded, unrealisable);
        let busy: Vec<ClassId> = self.graph.classes.busy().collect();
        for id in busy {
            let class = self.graph.classes.get_mut(id);
            note(&mut class.stranded, !self.workers.values().any(|worker| worker.fits(&class.need)));
        }
        let refused: Vec<StepId> = self.refusals.keys().copied().collect();
        for id in refused {
            let by_all = self.is_refused_by_all(id);
            if let Some(refusal) = self.refusals.get_mut(&id) {
                note(&mut refusal.stranded, by_all);
            }
        }
        first
    }

    /// Whether a step is ready, and fits only workers that refused it. One that fits none at all waits with
    /// its class.
    fn is_refused_by_all(&self, id: StepId) -> bool {
        let step = self.graph.step(id);
        let need = &self.graph.classes.get(self.graph.definition(id).class).need;
        let mut fitting = self.workers.iter().filter(|(_, worker)| worker.fits(need)).peekable();
        step.state == State::Ready
            && fitting.peek().is_some()
            && fitting.all(|(worker, _)| self.has_refused(id, *worker))
    }

    pub(crate) fn patience_ended(&mut self) {
        if self.patience_ends.is_none_or(|due| due > self.now) {
            return;
        }
        self.patience_ends = None;
        // What began to wait later arms the timer again.
        if let Some(since) = self.now.0.checked_sub(self.patience_ms()) {
            self.fail_stranded(Time(since));
        }
    }

    /// Fails all work that found no worker since that time or an earlier one.
    fn fail_stranded(&mut self, latest: Time) {
        let over = |stranded: Option<Time>| stranded.is_some_and(|since| since <= latest);
        if over(self.evals.stranded) {
            self.fail_waiting_evals();
        }
        if over(self.realises.stranded) {
            self.fail_waiting_realises();
        }
        let busy = self.graph.classes.busy().map(|id| self.graph.classes.get(id));
        let ready = busy.filter(|class| over(class.stranded)).flat_map(|class| &class.ready);
        let refused = self.refusals.iter().filter(|(_, refusal)| over(refusal.stranded));
        let steps: Vec<StepId> = ready.map(|key| key.step).chain(refused.map(|(id, _)| *id)).collect();
        for id in steps {
            if self.graph.step(id).state == State::Ready {
                self.fail_step(id, self.no_worker(id), StepEnd::NONE);
            }
        }
    }

    fn fail_waiting_realises(&mut self) {
        let queue = std::mem::take(&mut self.realises.queue);
        let (waiting, unrealisable) = queue.into_iter().partition(|work| self.can_realise(work));
        self.realises.queue = waiting;
        let failure = failure(FailureCode::NoWorker, "no connected worker can realise its toplevel");
        for work in unrealisable {
            self.settle(work.at, TargetStatus::BuildFailed, Some(failure.clone()));
        }
    }

    /// Why a step cannot be placed.
    pub(crate) fn no_worker(&self, id: StepId) -> Failure {
        let need = &self.graph.classes.get(self.graph.definition(id).class).need;
        let features: Vec<&str> = need.features.iter().map(crate::id::Feature::as_str).collect();
        let with = if features.is_empty() { String::new() } else { format!(" with {}", features.join(", ")) };
        let wanted = format!("{}{with}", need.system);
        let (cause, detail) = match self.refusals.get(&id) {
            Some(refusal) => {
                let cause = format!("every worker for {wanted} refused it: {}", refusal.last.cause);
                (cause, refusal.last.detail.clone())
            }
            None => (format!("no connected worker builds for {wanted}"), "".into()),
        };
        Failure { code: FailureCode::NoWorker, cause: cause.into(), detail, drv: Some(self.graph.drv(id)) }
    }
}
