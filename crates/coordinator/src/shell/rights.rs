//! Who may bring which store path, as things stand: the outputs of a lease its holder, what an evaluation needs
//! elsewhere its evaluator. Changes nothing.

use fleet_core::{DrvPath, WorkerId};
use tonic::Status;

use super::Shell;
use crate::rpc::status;
use crate::rpc::{Claim, Right};

impl Shell {
    pub(super) fn may_keep(&self, claim: &Claim) -> Result<(), Status> {
        let named = claim.worker.as_deref().map(|name| self.fleet.worker_named(name));
        let is_holder = |holder: WorkerId| named.is_none_or(|worker| worker == holder);
        match claim.right {
            Right::Lease(id, epoch) => {
                let lease = self.fleet.lease_view(id);
                let lease = lease.ok_or_else(|| status::no_such_work(&format!("lease {}", id.0)))?;
                if !is_holder(lease.worker) {
                    return Err(status::no_right("another worker holds this lease"));
                }
                if lease.epoch != epoch {
                    return Err(status::stale());
                }
                let mut steps = lease.steps.iter().map(|step| &step.drv);
                if steps.any(|drv: &DrvPath| self.derivations.makes(drv, &claim.path)) {
                    return Ok(());
                }
                Err(status::no_right(&format!("{} is no output of an open step of this lease", claim.path)))
            }
            Right::Eval(id, epoch) => {
                let (holder, current) = self
                    .fleet
                    .eval_job(id)
                    .ok_or_else(|| status::no_such_work(&format!("eval job {}", id.0)))?;
                if !is_holder(holder) {
                    return Err(status::no_right("another worker has this eval job"));
                }
                if current == epoch { Ok(()) } else { Err(status::stale()) }
            }
        }
    }
}
