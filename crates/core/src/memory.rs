//! What a fleet at rest must remember: the little that stands for its whole history.
//!
//! Graph, runs and jobs are forgotten: nobody wants anything, and whatever is wanted later is described again.

use serde::{Deserialize, Serialize};

use crate::disk::Sizes;
use crate::earlier::Earlier;
use crate::fleet::Fleet;
use crate::id::{Time, WorkerId};
use crate::record::Record;
use crate::view::RunView;
use crate::worker::Worker;

/// A fleet without live runs. Opaque: only [`Record`]s carry it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    now: Time,
    tick: u64,
    grants: u64,
    met_worker: bool,
    last_worker: u64,
    workers: Vec<(WorkerId, Worker)>,
    finished: Vec<RunView>,
    earlier: Earlier,
    #[serde(default)]
    sizes: Sizes,
}

impl Fleet {
    /// Records that may replace all before them; none while a run is live, or a worker busy. The shell
    /// replaces its fleet as well, by what [`Fleet::restore`] makes of them: from then on both know the same.
    pub fn condense(&self) -> Option<Vec<Record>> {
        // An eval job may outlive its run: its slot is not free before it ends.
        if !self.runs.is_empty() || !self.evals.jobs.is_empty() {
            return None;
        }
        let memory = Memory {
            now: self.now,
            tick: self.tick,
            grants: self.grants,
            met_worker: self.met_worker,
            last_worker: self.last_worker,
            workers: self.workers.iter().map(|(id, worker)| (*id, worker.clone())).collect(),
            finished: self.finished.iter().cloned().collect(),
            earlier: self.earlier.clone(),
            sizes: self.sizes.clone(),
        };
        let config = Record::Configured(Box::new(self.config.clone()));
        Some(vec![config, Record::Condensed(Box::new(memory))])
    }

    /// Forgets everything else.
    pub(crate) fn remember(&mut self, memory: Memory) {
        let sabotage = self.sabotage;
        *self = Self::new(self.config.clone());
        (self.sabotage, self.graph.sabotage) = (sabotage, sabotage);
        let Memory { now, tick, grants, met_worker, last_worker, workers, finished, earlier, sizes } = memory;
        self.now = now;
        self.tick = tick;
        self.grants = grants;
        self.met_worker = met_worker;
        self.last_worker = last_worker;
        self.workers = workers.into_iter().collect();
        self.finished = finished.into();
        self.earlier = earlier;
        self.sizes = sizes;
    }
}
