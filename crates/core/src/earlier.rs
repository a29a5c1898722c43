//! Failures that outlive their run.
//!
//! Owns what later runs believe of steps that failed for good. Only what is the derivation's own is
//! remembered: what a worker, the network or a download did may go another way next time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::event::{EarlierFailures, Failure, FailureClass, StepLimits};
use crate::fleet::Fleet;
use crate::graph::{State, StepId};
use crate::id::RunId;
use crate::lease::Leased;
use crate::retry::Kind;
use crate::run::Hold;
use crate::sabotage::Sabotage;

/// How the cause of a failure begins that an earlier run saw.
pub const EARLIER_CAUSE: &str = "it failed in an earlier run: ";

/// Bytes of a failure's log that are remembered.
const MAX_DETAIL: usize = 4 << 10;

/// Failed steps by their key, as many as the settings allow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Earlier {
    failures: BTreeMap<Arc<str>, EarlierFailure>,
    /// Oldest first.
    order: VecDeque<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct EarlierFailure {
    class: FailureClass,
    failure: Failure,
    /// What the attempt was allowed.
    limits: StepLimits,
}

impl Earlier {
    fn remember(&mut self, key: Arc<str>, failure: EarlierFailure, most: usize) {
        if self.failures.insert(Arc::clone(&key), failure).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > most {
            if let Some(oldest) = self.order.pop_front() {
                self.failures.remove(&oldest);
            }
        }
    }

    /// Whether it is within its bound, and whole.
    pub(crate) fn is_consistent(&self, most: usize) -> bool {
        let known = self.order.iter().all(|key| self.failures.contains_key(key));
        known && self.order.len() == self.failures.len() && self.order.len() <= most
    }

    fn forget(&mut self, key: &str) {
        if self.failures.remove(key).is_some() {
            self.order.retain(|kept| &**kept != key);
        }
    }
}

impl Fleet {
    /// Keeps a final failure for later runs, if it is the derivation's own.
    pub(crate) fn remember_failure(
        &mut self,
        leased: &Leased,
        class: FailureClass,
        kind: Kind,
        failure: &Failure,
    ) {
        let most = self.config.remember_failures;
        let own = class.is_the_step_s() && kind == Kind::Ordinary;
        if most == 0 || !(own || self.sabotaged(Sabotage::RememberInfrastructure)) {
            return;
        }
        let drv = Some(self.graph.drv(leased.step));
        let detail = &failure.detail
            [failure.detail.ceil_char_boundary(failure.detail.len().saturating_sub(MAX_DETAIL))..];
        let failure = Failure { drv, detail: detail.into(), ..failure.clone() };
        let limits = leased.limits;
        self.earlier.remember(
            self.graph.key_text(leased.step),
            EarlierFailure { class, failure, limits },
            most,
        );
    }

    /// A step was built after all.
    pub(crate) fn forget_failure(&mut self, id: StepId) {
        if !self.earlier.failures.is_empty() {
            self.earlier.forget(&self.graph.key_text(id));
        }
    }

    /// Fails a step that just became wanted, if an earlier run saw it fail and nothing has changed.
    pub(crate) fn believe_earlier_failure(&mut self, id: StepId, run: RunId) -> Option<Failure> {
        if self.earlier.failures.is_empty() {
            return None;
        }
        let key = self.graph.key_text(id);
        let earlier = self.earlier.failures.get(&key)?;
        let retries = self.runs.get(&run)?.request.earlier_failures == EarlierFailures::Retry;
        if retries || self.limits_of(id).allow_more(earlier.limits, earlier.class) {
            self.earlier.forget(&key);
            return None;
        }
        let cause = format!("{EARLIER_CAUSE}{}", earlier.failure.cause);
        Some(Failure { cause: cause.into(), ..earlier.failure.clone() })
    }

    /// The failure that a run would have to believe of this step, if it was another run's.
    pub(crate) fn retries_failure(&self, id: StepId, run: RunId) -> Option<StepId> {
        let root = match self.graph.step(id).state {
            State::Failed => id,
            State::DependencyFailed(root) => root,
            _ => return None,
        };
        let run = self.runs.get(&run)?;
        let own = run.holds.get(&root) == Some(&Hold::Failed) || run.blamed.contains(&root);
        let retries = run.request.earlier_failures == EarlierFailures::Retry;
        (retries && !own).then_some(root)
    }

    /// Has a failed step, and what failed with it, be built again, though other runs still know of the failure:
    /// for them nothing changes.
    pub(crate) fn reopen(&mut self, root: StepId) {
        self.forget_failure(root);
        let mut failed = BTreeSet::new();
        for run in self.runs.values_mut() {
            // Not by dependents: how a step is made may have changed since it failed.
            let with_root = |id: &StepId| match self.graph.step(*id).state {
                State::Failed => *id == root,
                State::DependencyFailed(of) => of == root,
                _ => false,
            };
            let held = run.holds.iter().filter(|(_, hold)| **hold == Hold::Failed).map(|(id, _)| *id);
            let ids: Vec<StepId> = held.filter(with_root).collect();
            for id in &ids {
                run.set_hold(*id, Hold::FailedEarlier);
            }
            run.blamed.remove(&root);
            failed.extend(ids);
        }
        failed.insert(root);
        for id in failed {
            self.graph.step_mut(id).claims = 0;
            self.graph.failures.remove(&id);
            self.graph.shift(id, State::Idle);
        }
    }
}
