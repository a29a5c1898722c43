//! Discovery: which hosts a run has, and in which order they are evaluated.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::effect::{Notice, Outcome};
use crate::evaluation::EvalWork;
use crate::event::{Failure, FailureCode};
use crate::fleet::Fleet;
use crate::glob;
use crate::id::{EvalJobId, Host, RunId, Side};
use crate::run::{Run, failure};
use crate::target::HostEntry;

/// Names shown to whoever selected none.
const MAX_LEFT_OUT: usize = 1000;

impl Fleet {
    pub(crate) fn discovered(&mut self, id: EvalJobId, hosts: &[Host]) {
        if self.evals.jobs.get(&id).is_none_or(|job| job.work.hosts.is_some()) {
            return;
        }
        let Some(job) = self.end_eval(id) else { return };
        let (run_id, tree) = (job.work.run, job.work.tree);
        let Some(run) = self.runs.get_mut(&run_id) else { return };
        let (mut hosts, left_out): (Vec<_>, Vec<_>) =
            hosts.iter().cloned().partition(|host| glob::selects(&run.request.selection, host));
        let left_out = left_out.into_iter().map(|host| host.name).take(MAX_LEFT_OUT).collect();
        hosts.sort();
        hosts.dedup();
        run.target_evaluated(self.now);
        run.trees[tree].found = Some(hosts.clone());
        run.trees[tree].left_out = left_out;
        for side in self.sides_of(run_id, tree) {
            self.notify(run_id, Notice::HostsFound { side, hosts: hosts.clone() });
        }
        if self.runs[&run_id].trees.iter().all(|tree| tree.found.is_some()) {
            self.begin_targets(run_id);
        }
    }

    /// A discovery brought no list: fails the run, or tries again if the infrastructure is to blame.
    pub(crate) fn discovery_failed(&mut self, id: RunId, tree: usize, failure: &Failure) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        run.trees[tree].tries += 1;
        let again = run.trees[tree].tries < self.config.eval_attempts;
        if again && failure.code.is_infrastructure() {
            self.evals.want_discovery(id, tree);
        } else {
            self.end_run_early(id, Outcome::Failed, Some(failure.clone()));
        }
    }

    /// All trees are known: makes the run's targets and queues their evaluation.
    fn begin_targets(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let mut hosts: Vec<Host> = run.trees.iter().filter_map(|tree| tree.found.clone()).flatten().collect();
        hosts.sort();
        hosts.dedup();
        let (found, limit) = (hosts.len(), self.config.max_hosts);
        if found == 0 || found > limit {
            let failure = if found == 0 {
                Failure {
                    detail: run.left_out(),
                    ..failure(FailureCode::NoHosts, "no host matches the selection")
                }
            } else {
                failure(
                    FailureCode::Infrastructure,
                    format!("{found} hosts are more than the limit of {limit}; select fewer"),
                )
            };
            self.end_run_early(id, Outcome::Failed, Some(failure));
            return;
        }
        run.hosts = hosts.into_iter().map(HostEntry::new).collect();
        for tree in 0..run.trees.len() {
            for side in run.trees[tree].sides.clone() {
                run.add_targets(tree, side);
            }
        }
        let slots = self.workers.values().filter(|worker| worker.is_connected());
        let slots = slots.map(|worker| worker.offer.eval_slots).sum();
        let groups = groups(run, id, self.config.eval_group, slots);
        self.evals.queue.extend(groups);
    }
}

impl Run {
    /// Names that the selection left out, one a line, for whoever misspelt one.
    fn left_out(&self) -> Arc<str> {
        let names: BTreeSet<&str> =
            self.trees.iter().flat_map(|tree| &tree.left_out).map(|name| &**name).collect();
        names.into_iter().collect::<Vec<_>>().join("\n").into()
    }

    fn add_targets(&mut self, tree: usize, side: Side) {
        let found = self.trees[tree].found.as_deref().unwrap_or_default();
        for entry in &mut self.hosts {
            if found.binary_search(&entry.host).is_ok() {
                entry.add(side);
                self.unsettled += 1;
            }
        }
    }

    /// Whether a host exists in a tree.
    fn has(&self, tree: usize, host: u32) -> bool {
        self.trees[tree].sides.iter().any(|side| self.hosts[host as usize].get(*side).is_some())
    }
}

/// Cuts the hosts into groups, those of all trees for the same hosts beside each other, so that both sides
/// of a host come out near each other. Groups are no larger than leaves work for every evaluator.
fn groups(run: &Run, id: RunId, largest: usize, eval_slots: usize) -> Vec<EvalWork> {
    let evaluators_per_tree = (eval_slots / run.trees.len()).max(1);
    let size = run.hosts.len().div_ceil(evaluators_per_tree).clamp(1, largest.max(1));
    let all: Vec<u32> = (0..).take(run.hosts.len()).collect();
    let trees = 0..run.trees.len();
    let cut = all.chunks(size).flat_map(|chunk| trees.clone().map(move |tree| (tree, chunk)));
    cut.filter_map(|(tree, chunk)| {
        let hosts: Vec<u32> = chunk.iter().copied().filter(|host| run.has(tree, *host)).collect();
        (!hosts.is_empty()).then_some(EvalWork { run: id, tree, hosts: Some(hosts) })
    })
    .collect()
}
