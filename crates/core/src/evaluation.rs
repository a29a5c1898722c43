//! Eval jobs: which hosts are evaluated where, and what to do with those that were not.
//!
//! Owns the queue of discoveries and groups of hosts, and the jobs that workers hold. A host of a run that
//! waits for its evaluation is in exactly one of the two.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::effect::{Command, EvalTask, Notice, TargetStatus};
use crate::event::{EvalReport, Evaluated, Failure, FailureCode};
use crate::fleet::Fleet;
use crate::graph::StepId;
use crate::id::{Epoch, EvalJobId, Host, RunId, Side, Time, WorkerId};
use crate::record::Decision;
use crate::run::failure;
use crate::sabotage::Sabotage;
use crate::target::{Stage, TargetRef};

/// Everything about evaluation that is not over.
#[derive(Debug, Default)]
pub(crate) struct Evals {
    pub(crate) queue: VecDeque<EvalWork>,
    pub(crate) jobs: BTreeMap<EvalJobId, EvalJob>,
    /// Since when there is work and no connected worker evaluates.
    pub(crate) stranded: Option<Time>,
}

/// Work for one evaluator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EvalWork {
    pub(crate) run: RunId,
    /// Which of the run's trees.
    pub(crate) tree: usize,
    /// Which of the run's hosts; none to discover them.
    pub(crate) hosts: Option<Vec<u32>>,
}

/// Work that a worker has.
#[derive(Debug)]
pub(crate) struct EvalJob {
    pub(crate) worker: WorkerId,
    pub(crate) epoch: Epoch,
    /// What is not answered yet.
    pub(crate) work: EvalWork,
    /// The event with which it, or the host that is looked at, began.
    since: u64,
    /// The host that is looked at.
    current: Option<u32>,
    /// Whether any host came out.
    progressed: bool,
}

impl EvalJob {
    /// Whether looking at this host would be new.
    pub(crate) fn turns_to(&self, host: u32) -> bool {
        self.current != Some(host)
    }
}

impl Evals {
    pub(crate) fn want_discovery(&mut self, run: RunId, tree: usize) {
        self.queue.push_back(EvalWork { run, tree, hosts: None });
    }
}

impl Fleet {
    /// Who is to do the work that waits longest, if anyone has room.
    pub(crate) fn next_eval(&self) -> Option<Decision> {
        let EvalWork { run, tree, hosts } = self.evals.queue.front()?.clone();
        let takes_work = self.workers.iter().filter(|(_, worker)| self.takes_work(worker));
        let free = takes_work.map(|(id, worker)| (worker.free_eval_slots(), *id));
        // The idlest, and of these the one known longest.
        let (_, worker) =
            free.filter(|(free, _)| *free > 0).max_by_key(|(free, id)| (*free, Reverse(*id)))?;
        let grant = self.next_grant();
        Some(Decision::EvalGranted { worker, job: EvalJobId(grant), epoch: Epoch(grant), run, tree, hosts })
    }

    /// Takes work from the queue and gives it to a worker.
    pub(crate) fn start_eval(
        &mut self,
        id: WorkerId,
        job: EvalJobId,
        epoch: Epoch,
        work: &EvalWork,
    ) -> Option<()> {
        let at = self.evals.queue.iter().position(|waiting| waiting == work)?;
        let (run, worker) = (self.runs.get(&work.run)?, self.workers.get_mut(&id)?);
        let work = self.evals.queue.remove(at)?;
        let task = match &work.hosts {
            None => EvalTask::Discover(run.request.selection.kinds.clone()),
            Some(hosts) => {
                EvalTask::Hosts(hosts.iter().map(|host| run.hosts[*host as usize].host.clone()).collect())
            }
        };
        let source = run.trees[work.tree].source;
        worker.evals.insert(job);
        self.granted(epoch);
        self.evals.jobs.insert(
            job,
            EvalJob { worker: id, epoch, work, since: self.tick, current: None, progressed: false },
        );
        self.send(id, Command::StartEval { job, epoch, source, task });
        Some(())
    }

    pub(crate) fn eval_reported(
        &mut self,
        worker: WorkerId,
        id: EvalJobId,
        epoch: Epoch,
        report: &EvalReport,
    ) {
        if let EvalReport::HostEvaluated { result: Ok(evaluated), .. } = report {
            // Even a report that is refused may carry the only definitions: they are content, not opinion.
            self.learn_definitions(evaluated);
        }
        let Some(job) = self.evals.jobs.get(&id) else { return };
        if job.worker != worker || job.epoch != epoch {
            return;
        }
        self.touched.insert(job.work.run);
        match report {
            EvalReport::Discovered(hosts) => self.discovered(id, hosts),
            EvalReport::HostStarted(host) => self.host_started(id, host),
            EvalReport::HostEvaluated { host, result } => self.host_evaluated(id, host, result.as_ref()),
            EvalReport::Finished { failure, unstarted } => {
                self.eval_finished(id, failure.as_ref(), unstarted);
            }
        }
    }

    fn learn_definitions(&mut self, evaluated: &Evaluated) {
        for new in &evaluated.new_steps {
            if self.graph.define(new).is_err() {
                // Whoever wants it will find it missing, and say so.
                return;
            }
            // It may turn out to be a step that has failed.
            if let Some(id) = self.graph.find(&new.drv).filter(|id| self.graph.step(*id).state.is_failed()) {
                let dependents: Vec<StepId> = self.graph.dependents(id).collect();
                for dependent in dependents {
                    self.doom_by_inputs(dependent);
                }
            }
        }
    }

    fn host_started(&mut self, id: EvalJobId, host: &Host) {
        let Some((host, tree)) = self.host_of_job(id, host) else { return };
        let Some(job) = self.evals.jobs.get_mut(&id) else { return };
        if job.current.replace(host) == Some(host) {
            return;
        }
        job.since = self.tick;
        let run = job.work.run;
        for side in self.sides_of(run, tree) {
            let at = TargetRef { run, host, side };
            self.advance(at, Stage::Evaluating);
            let target = self.runs[&run].hosts[host as usize].target(side);
            self.notify(run, Notice::TargetStarted { target });
        }
    }

    fn host_evaluated(&mut self, id: EvalJobId, host: &Host, result: Result<&Evaluated, &Failure>) {
        let Some((host, tree)) = self.host_of_job(id, host) else { return };
        let Some(job) = self.evals.jobs.get_mut(&id) else { return };
        job.progressed = true;
        if let Some(hosts) = &mut job.work.hosts {
            hosts.retain(|waiting| *waiting != host);
        }
        let (run, worker, since) = (job.work.run, job.worker, job.since);
        match result {
            Ok(evaluated) => {
                for side in self.sides_of(run, tree) {
                    self.answered(TargetRef { run, host, side }, evaluated, worker, since);
                }
                self.admit_host(run, host);
            }
            Err(failure) => self.hosts_failed(run, tree, &[host], failure),
        }
    }

    /// The number of a host that the job still owes an answer for, and the job's tree.
    pub(crate) fn host_of_job(&self, id: EvalJobId, host: &Host) -> Option<(u32, usize)> {
        let job = self.evals.jobs.get(&id)?;
        let run = self.runs.get(&job.work.run)?;
        let found = run.hosts.binary_search_by(|entry| entry.host.cmp(host)).ok()?;
        let number = u32::try_from(found).ok()?;
        job.work.hosts.as_ref()?.contains(&number).then_some((number, job.work.tree))
    }

    pub(crate) fn sides_of(&self, run: RunId, tree: usize) -> Vec<Side> {
        self.runs
            .get(&run)
            .and_then(|run| run.trees.get(tree))
            .map_or_else(Vec::new, |tree| tree.sides.clone())
    }

    fn eval_finished(&mut self, id: EvalJobId, failure: Option<&Failure>, unstarted: &[Host]) {
        let named: Vec<u32> =
            unstarted.iter().filter_map(|host| Some(self.host_of_job(id, host)?.0)).collect();
        let Some(job) = self.end_eval(id) else { return };
        let EvalWork { run, tree, hosts } = job.work;
        let lost = self::failure(FailureCode::Infrastructure, "the evaluator stopped without an answer");
        let Some(hosts) = hosts else {
            self.discovery_failed(run, tree, failure.unwrap_or(&lost));
            return;
        };
        let (named, forgotten): (Vec<u32>, Vec<u32>) =
            hosts.into_iter().partition(|host| named.contains(host));
        match failure {
            Some(failure) => self.hosts_failed(run, tree, &named, failure),
            None if self.sabotaged(Sabotage::LoseHosts) => {}
            // Handing hosts back is no fault as long as some come out.
            None if job.progressed => self.requeue_hosts(run, tree, named),
            None => self.hosts_failed(run, tree, &named, &lost),
        }
        self.hosts_failed(run, tree, &forgotten, &lost);
    }

    /// The coordinator started: what was being evaluated waits again, and nobody is to blame.
    pub(crate) fn resume_evals(&mut self) {
        // Backwards, so that the oldest ends up in front.
        let jobs: Vec<EvalJobId> = self.evals.jobs.keys().rev().copied().collect();
        for id in jobs {
            let Some(EvalJob { work, .. }) = self.end_eval(id) else { continue };
            for host in work.hosts.iter().flatten() {
                for side in self.sides_of(work.run, work.tree) {
                    self.advance(TargetRef { run: work.run, host: *host, side }, Stage::Found);
                }
            }
            match work.hosts {
                None => self.evals.queue.push_front(work),
                Some(hosts) => self.requeue_hosts(work.run, work.tree, hosts),
            }
        }
    }

    /// A worker is gone: what its job has not answered goes back to the queue.
    pub(crate) fn eval_lost(&mut self, id: EvalJobId, worker: &Arc<str>) {
        let Some(job) = self.end_eval(id) else { return };
        let EvalWork { run, tree, hosts } = job.work;
        self.touched.insert(run);
        let failure = failure(FailureCode::WorkerLost, format!("worker {worker} was lost"));
        match hosts {
            None => self.discovery_failed(run, tree, &failure),
            Some(hosts) => self.hosts_failed(run, tree, &hosts, &failure),
        }
    }

    /// Forgets a job and frees its slot.
    pub(crate) fn end_eval(&mut self, id: EvalJobId) -> Option<EvalJob> {
        let job = self.evals.jobs.remove(&id)?;
        if let Some(worker) = self.workers.get_mut(&job.worker) {
            worker.evals.remove(&id);
        }
        Some(job)
    }

    /// Fails these hosts of a tree; or has them tried again, if the infrastructure is to blame and may do
    /// better.
    fn hosts_failed(&mut self, run: RunId, tree: usize, hosts: &[u32], failure: &Failure) {
        let mut again = Vec::new();
        for host in hosts {
            let mut retried = false;
            for side in self.sides_of(run, tree) {
                let at = TargetRef { run, host: *host, side };
                if failure.code.is_infrastructure() && self.may_evaluate_again(at) {
                    retried = true;
                    self.advance(at, Stage::Found);
                } else {
                    self.settle(at, TargetStatus::EvalFailed, Some(failure.clone()));
                }
            }
            if retried {
                again.push(*host);
            } else {
                self.admit_host(run, *host);
            }
        }
        self.requeue_hosts(run, tree, again);
    }

    fn may_evaluate_again(&mut self, at: TargetRef) -> bool {
        let attempts = self.config.eval_attempts;
        let target = self.runs.get_mut(&at.run).and_then(|run| run.target_mut(at));
        target.is_some_and(|target| {
            target.tries += 1;
            target.tries < attempts
        })
    }

    fn requeue_hosts(&mut self, run: RunId, tree: usize, hosts: Vec<u32>) {
        if !hosts.is_empty() && self.runs.contains_key(&run) {
            // In front: its other side may be out already.
            self.evals.queue.push_front(EvalWork { run, tree, hosts: Some(hosts) });
        }
    }

    /// No worker evaluates, and the patience is over.
    pub(crate) fn give_up_evals(&mut self, failure: &Failure) -> Option<()> {
        let queue = std::mem::take(&mut self.evals.queue);
        queue.front()?;
        for EvalWork { run, tree, hosts } in queue {
            self.touched.insert(run);
            match hosts {
                None => self.discovery_failed(run, tree, failure),
                Some(hosts) => self.hosts_failed(run, tree, &hosts, failure),
            }
        }
        Some(())
    }

    /// Stops all evaluation for a run.
    pub(crate) fn cancel_evals(&mut self, run: RunId) {
        self.evals.queue.retain(|work| work.run != run);
        let of_run = self.evals.jobs.iter().filter(|(_, job)| job.work.run == run);
        let jobs: Vec<EvalJobId> = of_run.map(|(id, _)| *id).collect();
        for id in jobs {
            if let Some(job) = self.end_eval(id) {
                self.send(job.worker, Command::CancelEval { job: id });
            }
        }
    }
}
