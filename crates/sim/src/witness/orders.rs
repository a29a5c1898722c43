//! Promises about attempts and commands: who is told to do what, and whether they can.

use fleet_core::{
    Command, Decision, DrvPath, Epoch, EvalTask, LeaseId, LeasedStep, Record, StepStatus, WorkerHello,
    WorkerId,
};

use super::{Grant, Scene, Witness, hold};

impl Witness {
    pub(super) fn record(&mut self, scene: &Scene<'_>, record: &Record) -> Result<(), String> {
        let Record::Decided(Decision::LeaseGranted { steps, .. }) = record else { return Ok(()) };
        for LeasedStep { drv, attempt, .. } in steps {
            let (last, running) = self.attempts.entry(content(scene, drv)?).or_default();
            hold(!*running, "a step has one attempt at a time", || format!("{drv} {attempt}"))?;
            hold(*attempt == *last + 1, "attempts are counted from 1", || format!("{drv} {attempt}"))?;
            (*last, *running) = (*attempt, true);
        }
        Ok(())
    }

    /// One of the runs that want a step is told that an attempt ended.
    pub(super) fn attempt_ended(
        &mut self,
        scene: &Scene<'_>,
        drv: &DrvPath,
        attempt: u32,
        status: StepStatus,
    ) -> Result<(), String> {
        let content = content(scene, drv)?;
        let leased = self.leases.iter().find(|(_, lease)| lease.what.contains(&content));
        hold(status == StepStatus::Cancelled || leased.is_none(), "an attempt ends with its lease", || {
            format!("{drv} {attempt} {status:?} {leased:?}")
        })?;
        if status == StepStatus::Cancelled {
            self.withdrawn.insert(content);
        }
        let (last, running) = self.attempts.entry(content).or_default();
        hold(attempt == *last, "the attempt that runs ends", || format!("{drv} {attempt}"))?;
        *running = false;
        Ok(())
    }

    pub(super) fn command(
        &mut self,
        scene: &Scene<'_>,
        worker: WorkerId,
        command: &Command,
    ) -> Result<(), String> {
        let hello = self.may_get(worker, command)?.hello.clone();
        match command {
            Command::StartEval { job, epoch, task, .. } => {
                self.fresh(*epoch)?;
                let what = match task {
                    EvalTask::Discover(_) => None,
                    EvalTask::Hosts(hosts) => Some(hosts.iter().cloned().collect()),
                };
                self.evals.insert(*job, Grant { worker, epoch: *epoch, since: self.events, what });
                let running = self.evals.values().filter(|eval| eval.worker == worker).count();
                let kept = running <= hello.eval_slots as usize;
                hold(kept, "a worker gets no more eval jobs than slots", || format!("{worker} {running}"))
            }
            Command::CancelEval { job } => {
                let held = self.evals.remove(job).is_some_and(|eval| eval.worker == worker);
                hold(held, "only a running eval job is cancelled", || job.to_string())
            }
            Command::StartLease { lease, epoch, steps } => {
                self.start_lease(scene, worker, &hello, *lease, *epoch, steps)
            }
            Command::CancelLease { lease, .. } => {
                let held = self.leases.remove(lease);
                let own = held.as_ref().is_none_or(|lease| lease.worker == worker);
                let kept = own && (held.is_some() || self.stale.contains(lease));
                hold(kept, "only a running or a stale lease is cancelled", || lease.to_string())
            }
            Command::Drain { .. } | Command::Resume | Command::EndSession { .. } => Ok(()),
            Command::Prefetch { drv, lease, epoch } => self.fetches_ahead(scene, worker, drv, *lease, *epoch),
            Command::Realise { job, epoch, path, run, publish, .. } => {
                self.fresh(*epoch)?;
                let kept = scene.world.content_at(path).is_some_and(|content| scene.has(content));
                hold(kept, "only what can be had is realised", || path.to_string())?;
                self.published(scene, *run, path, *publish)?;
                // Of several that make it, whoever was described first: none is as good as any.
                let top = scene.world.content_at(path).filter(|content| scene.world.is_made_once(*content));
                let what = (*run, top);
                self.realises.insert(*job, Grant { worker, epoch: *epoch, since: self.events, what });
                Ok(())
            }
        }
    }

    fn start_lease(
        &mut self,
        scene: &Scene<'_>,
        worker: WorkerId,
        hello: &WorkerHello,
        lease: LeaseId,
        epoch: Epoch,
        steps: &[LeasedStep],
    ) -> Result<(), String> {
        self.fresh(epoch)?;
        self.leases_sent += 1;
        let mut contents = std::collections::BTreeSet::new();
        for LeasedStep { drv, attempt, .. } in steps {
            let content = content(scene, drv)?;
            let node = &scene.world.nodes[scene.world.node_of(drv).unwrap_or(content)];
            let shared = scene.world.nodes.iter().filter(|other| other.content == content).count() > 1;
            let twice = self.leases.values().any(|other| other.what.contains(&content));
            hold(!twice, "a step has one lease at a time", || format!("{drv} {lease}"))?;
            let recorded = self.attempts.get(&content) == Some(&(*attempt, true));
            hold(recorded, "an attempt is recorded before its lease is sent", || format!("{drv} {attempt}"))?;
            let holder = self.holders.get(&content);
            let kept = holder.is_none() || self.collected.contains(content);
            hold(kept, "a step is built once while its outputs stay", || {
                format!("{drv}, held by {holder:?}")
            })?;
            let input = |input: &&usize| !scene.has(scene.world.nodes[**input].content);
            let absent = node.inputs.iter().find(input);
            let unseen = shared || self.missed.contains(content);
            hold(unseen || absent.is_none(), "a lease is sent when all inputs are there", || {
                format!("{drv} {absent:?}")
            })?;
            let system = node.step.system.as_str() == "builtin" || hello.systems.contains(&node.step.system);
            let features = node.step.features.iter().all(|feature| hello.features.contains(feature));
            hold(system && features, "a worker gets what it can build", || format!("{drv} {hello:?}"))?;
            let waits = |input: &&usize| self.lost.contains(scene.world.nodes[**input].content);
            let lost = node.inputs.iter().find(waits);
            hold(shared || lost.is_none(), "what is lost is made again before it is needed", || {
                format!("{drv} {lost:?}")
            })?;
            self.remade += usize::from(self.lost.contains(content));
            let bytes = self.room(scene, worker, scene.world.node_of(drv).unwrap_or(content))?;
            self.reserved.insert(content, bytes);
            contents.insert(content);
        }
        self.leases.insert(lease, Grant { worker, epoch, since: self.events, what: contents });
        let running = self.leases.values().filter(|lease| lease.worker == worker).count();
        let kept = running <= self.slots(worker);
        hold(kept, "a worker gets no more leases than slots", || format!("{worker} {running}"))
    }

    fn fresh(&mut self, epoch: Epoch) -> Result<(), String> {
        let last = self.last_epoch.replace(epoch);
        hold(last < Some(epoch), "epochs grow", || format!("{epoch} after {last:?}"))
    }
}

fn content(scene: &Scene<'_>, drv: &DrvPath) -> Result<usize, String> {
    let node = scene.world.node_of(drv).ok_or_else(|| format!("{drv} was never described"))?;
    Ok(scene.world.nodes[node].content)
}
