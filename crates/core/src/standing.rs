//! Standing: what a worker may do besides being there.
//!
//! Owns orders of administrators, the lock on identities that two use, and the quarantine of workers that fail
//! what others manage.

use std::sync::Arc;

use crate::config::FleetConfig;
use crate::effect::{Command, SessionEnd};
use crate::event::{Timer, WorkerOrder};
use crate::fleet::Fleet;
use crate::id::{DrvPath, Time, WorkerId};
use crate::lease::Loss;
use crate::worker::{Quarantine, Standing, Worker};

impl Standing {
    /// Whether there is nothing to remember.
    pub(crate) fn is_good(&self) -> bool {
        self.drained.is_none() && self.locked.is_none() && self.revoked.is_none() && self.quarantine.is_none()
    }
}

impl Worker {
    /// Whether its rest is over and not ended yet.
    pub(crate) fn rests_until(&self, now: Time) -> bool {
        let until = self.standing.quarantine.as_ref().and_then(|quarantine| quarantine.until);
        until.is_some_and(|until| until <= now)
    }
}

impl Fleet {
    /// Whether an order changes anything.
    pub(crate) fn heeds_order(&self, id: WorkerId, order: WorkerOrder) -> bool {
        let Some(worker) = self.workers.get(&id) else {
            let room = self.workers.len() < self.config.max_workers || self.forgettable().is_some();
            return order != WorkerOrder::Resume && room;
        };
        let standing = &worker.standing;
        match order {
            WorkerOrder::Drain => standing.drained.is_none() && standing.revoked.is_none(),
            WorkerOrder::Revoke => standing.revoked.is_none(),
            WorkerOrder::Resume => {
                standing.drained.is_some() || standing.locked.is_some() || standing.quarantine.is_some()
            }
        }
    }

    pub(crate) fn worker_ordered(
        &mut self,
        id: WorkerId,
        name: &Arc<str>,
        order: WorkerOrder,
        reason: &Arc<str>,
    ) {
        self.introduce(id, name);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let (connected, session) = (worker.is_connected(), worker.session());
        let standing = &mut worker.standing;
        match order {
            WorkerOrder::Drain => {
                standing.drained = Some(Arc::clone(reason));
                if connected {
                    self.send(id, Command::Drain { reason: Arc::clone(reason) });
                }
            }
            WorkerOrder::Resume => {
                let drained = standing.drained.take().is_some();
                standing.locked = None;
                standing.quarantine = None;
                standing.strikes.clear();
                if connected && drained {
                    self.send(id, Command::Resume);
                }
            }
            WorkerOrder::Revoke => {
                standing.revoked = Some(Arc::clone(reason));
                if let Some(session) = session {
                    self.send(id, Command::EndSession { session, end: SessionEnd::Revoked });
                }
                self.void(id, Loss::Withdrawn);
            }
        }
    }

    /// Two use one identity: neither can be believed.
    pub(crate) fn lock(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.standing.locked = Some("two running workers use its identity".into());
        if let Some(session) = worker.session() {
            self.send(id, Command::EndSession { session, end: SessionEnd::Locked });
        }
        self.void(id, Loss::Withdrawn);
    }

    /// A worker failed a step by no fault of the step. Other steps count: one alone may be to blame after all.
    pub(crate) fn strike(&mut self, id: WorkerId, drv: DrvPath, cause: &Arc<str>) {
        let FleetConfig { quarantine_after, quarantine_rest_ms, .. } = self.config;
        let until = self.now.plus_ms(quarantine_rest_ms);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Standing { strikes, quarantine, .. } = &mut worker.standing;
        if quarantine_after == 0 {
            return;
        }
        if strikes.len() < quarantine_after && !strikes.contains(&drv) {
            strikes.push(drv);
        }
        let again = quarantine.as_ref().is_some_and(|quarantine| quarantine.until.is_none());
        if again || (quarantine.is_none() && strikes.len() >= quarantine_after) {
            let reason = format!("it failed {} steps in a row, the last one because {cause}", strikes.len());
            *quarantine = Some(Quarantine { reason: reason.into(), until: Some(until) });
            self.arm(Timer::Canary(id), until);
        }
    }

    /// A worker built something.
    pub(crate) fn absolve(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.standing.strikes.clear();
            worker.standing.quarantine = None;
        }
    }

    /// A quarantined worker has rested, and may be tried.
    pub(crate) fn canary_due(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id)
            && let Some(quarantine) = &mut worker.standing.quarantine
        {
            quarantine.until = None;
        }
    }

    pub(crate) fn rearm_canary(&mut self, id: WorkerId) {
        let quarantine = self.workers.get(&id).and_then(|worker| worker.standing.quarantine.as_ref());
        if let Some(until) = quarantine.and_then(|quarantine| quarantine.until) {
            self.arm(Timer::Canary(id), until);
        }
    }
}
