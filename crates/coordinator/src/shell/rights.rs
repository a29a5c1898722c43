//! Who may read and bring which store paths, as things stand: a lease its inputs and outputs, a realise job the closure
//! of its toplevel, an eval job its sources, an order to share what it names. Changes nothing.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use fleet_core::{DrvPath, Epoch, EvalJobId, LeaseId, RealiseJobId, WorkerId};
use fleet_nix::StorePath;
use fleet_wire::v1;
use tonic::Status;

use super::Shell;
use crate::rpc::status;

/// By which right somebody reads or brings paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// Inputs and outputs of its steps.
    Lease(LeaseId, Epoch),
    /// What the evaluator needs, and others need from it.
    Eval(EvalJobId, Epoch),
    /// The closure of a toplevel.
    Realise(RealiseJobId, Epoch),
    /// What was asked for.
    Share(u64),
}

/// Who asks, and by which right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asking {
    /// The worker that its certificate names; none is this machine's own user, who may speak for any.
    pub(crate) worker: Option<Arc<str>>,
    pub(crate) right: Right,
}

impl Asking {
    /// As it was sent: exactly one right.
    pub(crate) fn new(worker: Option<Arc<str>>, right: Option<&v1::WorkRight>) -> Result<Self, Status> {
        let right = right.ok_or_else(|| status::no_right("it names no right"))?;
        let epoch = Epoch(right.epoch);
        let right = match (right.lease, right.eval_job, right.realise_job, right.share) {
            (0, 0, 0, 0) => return Err(status::no_right("it names no right")),
            (lease, 0, 0, 0) => Right::Lease(LeaseId(lease), epoch),
            (0, job, 0, 0) => Right::Eval(EvalJobId(job), epoch),
            (0, 0, job, 0) => Right::Realise(RealiseJobId(job), epoch),
            (0, 0, 0, share) => Right::Share(share),
            _ => return Err(status::several_rights()),
        };
        Ok(Self { worker, right })
    }
}

impl Shell {
    /// The worker that has this right now.
    pub(super) fn entitled(&self, asking: &Asking) -> Result<WorkerId, Status> {
        let named = asking.worker.as_deref().map(|name| self.fleet.worker_named(name));
        let own = |holder: WorkerId, current: bool, what: &str| {
            if named.is_some_and(|worker| worker != holder) {
                return Err(status::no_right(&format!("another worker has this {what}")));
            }
            if current { Ok(holder) } else { Err(status::stale()) }
        };
        match asking.right {
            Right::Lease(id, epoch) => {
                let lease = self.fleet.lease_view(id);
                let lease = lease.ok_or_else(|| status::no_such_work(&format!("lease {}", id.0)))?;
                own(lease.worker, lease.epoch == epoch, "lease")
            }
            Right::Eval(id, epoch) => {
                let job = self.fleet.eval_job(id);
                let (holder, current) =
                    job.ok_or_else(|| status::no_such_work(&format!("eval job {}", id.0)))?;
                own(holder, current == epoch, "eval job")
            }
            Right::Realise(id, epoch) => {
                let job = self.realises.get(&id);
                let job = job.ok_or_else(|| status::no_such_work(&format!("realise job {}", id.0)))?;
                own(job.worker, job.epoch == epoch, "realise job")
            }
            Right::Share(id) => {
                let holder = self.relays.ordered_from(id);
                let holder = holder.ok_or_else(|| status::no_such_work(&format!("order to share {id}")))?;
                own(holder, true, "order")
            }
        }
    }

    /// The paths whose closures a right lets its worker read.
    pub(super) fn readable(&self, worker: WorkerId, right: Right) -> Vec<StorePath> {
        match right {
            Right::Lease(id, _) => {
                let lease = self.fleet.lease_view(id);
                let steps = lease.into_iter().flat_map(|lease| lease.steps).map(|step| step.drv);
                let hinted = self.hints.get(&worker).filter(|(lease, _)| *lease == id);
                let drvs = steps.chain(hinted.map(|(_, drv)| drv.clone()));
                drvs.flat_map(|drv| self.seen_by_builder(&drv)).collect()
            }
            Right::Realise(id, _) => {
                self.realises.get(&id).and_then(|job| job.path.clone()).into_iter().collect()
            }
            Right::Eval(..) | Right::Share(_) => Vec::new(),
        }
    }

    /// Inputs of a step, and what earlier steps of its lease make.
    fn seen_by_builder(&self, drv: &DrvPath) -> Vec<StorePath> {
        let execution = self.derivations.execution(drv);
        execution.map(|execution| execution.inputs).unwrap_or_default()
    }

    /// Refuses chunks of paths that a right does not let its worker read, and such as are no part of its sources.
    pub(super) fn may_fetch(
        &mut self,
        asking: &Asking,
        paths: &[StorePath],
        source: &[Bytes],
    ) -> Result<(), Status> {
        let worker = self.entitled(asking)?;
        self.may_read(worker, asking.right, paths)?;
        if source.is_empty() {
            return Ok(());
        }
        let Right::Eval(job, _) = asking.right else {
            return Err(status::no_right("only an eval job has a source"));
        };
        let tree = self.evals.get(&job).and_then(|source| self.sources.get(source));
        let manifests = tree.into_iter().flat_map(|tree| {
            tree.manifest.iter().chain(tree.inputs.iter().filter_map(|input| input.manifest.as_ref()))
        });
        let own: HashSet<&Bytes> =
            manifests.flat_map(|manifest| &manifest.chunks).map(|c| &c.digest).collect();
        if source.iter().all(|digest| own.contains(digest)) {
            return Ok(());
        }
        Err(status::no_right("a chunk is no part of the sources of this eval job"))
    }

    /// Refuses paths that a right does not let its worker read.
    pub(super) fn may_read(
        &mut self,
        worker: WorkerId,
        right: Right,
        paths: &[StorePath],
    ) -> Result<(), Status> {
        // An evaluator may need anything that can be vouched for: contents that everybody can make again.
        if matches!(right, Right::Eval(..)) {
            let own =
                |path: &&StorePath| !self.known.info(path).is_some_and(|(_, origin)| origin.is_by_content());
            return match paths.iter().find(own) {
                Some(path) => Err(status::no_right(&format!("{path} is nothing that an eval job needs"))),
                None => Ok(()),
            };
        }
        if let Right::Realise(job, _) = right {
            return self.may_realise(job, paths);
        }
        let roots = self.readable(worker, right);
        let wanted: HashSet<&StorePath> = paths.iter().collect();
        let reached = self.known.reaches(&roots, &wanted);
        match paths.iter().find(|path| !reached.contains(*path)) {
            Some(path) => Err(status::no_right(&format!("{path} is nothing that this work needs"))),
            None => Ok(()),
        }
    }

    /// A closure is brought path by path: it is gone through again only for what is not known to be part of it.
    fn may_realise(&mut self, job: RealiseJobId, paths: &[StorePath]) -> Result<(), Status> {
        let Some(job) = self.realises.get_mut(&job) else { return Err(status::stale()) };
        if let Some(toplevel) = &job.path
            && paths.iter().any(|path| !job.closure.contains(path))
        {
            job.closure = self.known.reached(toplevel);
            #[cfg(test)]
            {
                job.walks += 1;
            }
        }
        match paths.iter().find(|path| !job.closure.contains(*path)) {
            Some(path) => Err(status::no_right(&format!("{path} is nothing that this work needs"))),
            None => Ok(()),
        }
    }
}
