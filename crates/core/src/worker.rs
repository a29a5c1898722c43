//! Worker sessions: what each offers and what it holds.
//!
//! Owns the list of connected workers. What a lost one held goes back to where it came from; how often is
//! the business of leases, eval jobs and realise jobs.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::event::WorkerHello;
use crate::fleet::Fleet;
use crate::graph::Need;
use crate::id::{EvalJobId, Feature, LeaseId, RealiseJobId, System, WorkerId};
use crate::sabotage::Sabotage;

/// Builds on any worker: Nix itself is the builder.
const BUILTIN: &str = "builtin";

/// One session of one worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) name: Arc<str>,
    pub(crate) systems: BTreeSet<System>,
    pub(crate) features: BTreeSet<Feature>,
    pub(crate) slots: usize,
    pub(crate) eval_slots: usize,
    pub(crate) leases: BTreeSet<LeaseId>,
    pub(crate) evals: BTreeSet<EvalJobId>,
    pub(crate) realises: BTreeSet<RealiseJobId>,
}

impl Worker {
    pub(crate) fn fits(&self, need: &Need) -> bool {
        self.slots > 0
            && (need.system.as_str() == BUILTIN || self.systems.contains(&need.system))
            && need.features.iter().all(|feature| self.features.contains(feature))
    }

    pub(crate) fn free_slots(&self) -> usize {
        self.slots.saturating_sub(self.leases.len())
    }

    pub(crate) fn free_eval_slots(&self) -> usize {
        self.eval_slots.saturating_sub(self.evals.len())
    }
}

impl Fleet {
    pub(crate) fn worker_joined(&mut self, id: WorkerId, hello: &WorkerHello) {
        if self.workers.contains_key(&id) || self.workers.len() >= self.config.max_workers {
            return;
        }
        let slots = |offered: u32| offered.min(self.config.max_slots) as usize;
        let worker = Worker {
            name: Arc::clone(&hello.name),
            systems: hello.systems.iter().cloned().collect(),
            features: hello.features.iter().cloned().collect(),
            slots: slots(hello.slots),
            eval_slots: slots(hello.eval_slots),
            leases: BTreeSet::new(),
            evals: BTreeSet::new(),
            realises: BTreeSet::new(),
        };
        self.workers.insert(id, worker);
        self.met_worker = true;
    }

    pub(crate) fn worker_lost(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.remove(&id) else { return };
        for lease in worker.leases {
            if self.sabotaged(Sabotage::LoseBatches) {
                self.leases.remove(&lease);
            } else {
                self.lease_lost(lease, &worker.name);
            }
        }
        for job in worker.realises {
            self.realise_lost(job, &worker.name);
        }
        // Last: a host that is given up lets its other side in, which may want what was leased here.
        for job in worker.evals {
            self.eval_lost(job, &worker.name);
        }
    }
}
