//! Sessions: who is let in, what a worker that comes back keeps, and what becomes of one that does not.
//!
//! Owns presence. One identity has one session; a second one at a time is a newer connection of the same
//! process, a process that came before its predecessor was missed, or a clone.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::effect::{Command, SessionEnd};
use crate::event::{Load, Timer, WorkerHello};
use crate::fleet::Fleet;
use crate::id::{Epoch, LeaseId, Session, Time, WorkerId};
use crate::lease::Loss;
use crate::sabotage::Sabotage;
use crate::worker::{Contender, Offer, Presence, Worker};

/// What is done about a hello.
#[derive(Debug, PartialEq, Eq)]
enum Reception {
    Welcome,
    /// Another instance is there: it may be dead, and not missed yet.
    Contends,
    /// Another instance is there, and alive.
    Cloned,
    /// It changes nothing.
    Refused(SessionEnd),
}

impl Fleet {
    /// The id of the worker with this name: the one it has, or one that no other had.
    pub fn worker_named(&self, name: &str) -> WorkerId {
        let known = self.workers.iter().find(|(_, worker)| &*worker.name == name);
        known.map_or(WorkerId(self.last_worker + 1), |(id, _)| *id)
    }

    fn receive(&self, id: WorkerId, hello: &WorkerHello) -> Reception {
        let Some(worker) = self.workers.get(&id) else {
            let full = self.workers.len() >= self.config.max_workers && self.forgettable().is_none();
            return if full { Reception::Refused(SessionEnd::TooMany) } else { Reception::Welcome };
        };
        if worker.standing.revoked.is_some() && !self.sabotaged(Sabotage::WelcomeRevoked) {
            return Reception::Refused(SessionEnd::Revoked);
        }
        if worker.standing.locked.is_some() {
            return Reception::Refused(SessionEnd::Locked);
        }
        match &worker.presence {
            Presence::Connected { .. } if worker.offer.instance == hello.instance => Reception::Welcome,
            Presence::Connected { contender: Some(contender), .. }
                if contender.instance == hello.instance =>
            {
                if contender.outlived {
                    Reception::Cloned
                } else {
                    Reception::Refused(SessionEnd::Contended)
                }
            }
            Presence::Connected { .. } => Reception::Contends,
            _ => Reception::Welcome,
        }
    }

    /// Whether a hello changes anything; one that does not is answered here.
    pub(crate) fn heeds_join(&mut self, id: WorkerId, session: Session, hello: &WorkerHello) -> bool {
        match self.receive(id, hello) {
            Reception::Refused(end) => {
                self.send(id, Command::EndSession { session, end });
                false
            }
            _ => true,
        }
    }

    pub(crate) fn worker_joined(
        &mut self,
        id: WorkerId,
        session: Session,
        hello: &WorkerHello,
        holds: &[(LeaseId, Epoch)],
    ) {
        match self.receive(id, hello) {
            Reception::Welcome => self.welcome(id, session, hello, holds),
            Reception::Contends => {
                let contender =
                    Contender { instance: Arc::clone(&hello.instance), since: self.now, outlived: false };
                if let Some(Worker { presence: Presence::Connected { contender: knocking, .. }, .. }) =
                    self.workers.get_mut(&id)
                {
                    *knocking = Some(contender);
                }
                self.send(id, Command::EndSession { session, end: SessionEnd::Contended });
            }
            Reception::Cloned => {
                self.send(id, Command::EndSession { session, end: SessionEnd::Locked });
                self.lock(id);
            }
            Reception::Refused(end) => self.send(id, Command::EndSession { session, end }),
        }
    }

    fn welcome(&mut self, id: WorkerId, session: Session, hello: &WorkerHello, holds: &[(LeaseId, Epoch)]) {
        self.introduce(id, &hello.name);
        let offer = Offer::of(hello, &self.config);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let before = std::mem::replace(&mut worker.offer, offer);
        let replaced = worker.session();
        worker.presence = Presence::Connected { session, contender: None };
        worker.unwell = None;
        let (name, drained) = (Arc::clone(&worker.name), worker.standing.drained.clone());
        self.met_worker = true;
        if let Some(session) = replaced {
            self.send(id, Command::EndSession { session, end: SessionEnd::Replaced });
            self.end_jobs(id, &name);
        }
        // After a start of the machine its builds are dead, and what they left may be half written.
        let rebooted = before.boot != hello.boot && !before.boot.is_empty();
        let kept: &[_] = if rebooted { &[] } else { holds };
        let same = before.instance == hello.instance && !rebooted;
        self.adopt(id, &name, kept, same);
        for (lease, epoch) in holds {
            if !self.holds(id, *lease, *epoch) {
                self.send(id, Command::CancelLease { lease: *lease, epoch: *epoch });
            }
        }
        if let Some(reason) = drained {
            self.send(id, Command::Drain { reason });
        }
    }

    /// Leases that the worker still holds go on; its others are lost.
    fn adopt(&mut self, id: WorkerId, name: &Arc<str>, holds: &[(LeaseId, Epoch)], same_process: bool) {
        let Some(worker) = self.workers.get(&id) else { return };
        let held: BTreeSet<_> = holds.iter().copied().collect();
        let leases: Vec<LeaseId> = worker.leases.iter().copied().collect();
        for lease in leases {
            // What a living process has not never reached it; after we were away, it may not have been sent.
            let unsent = self.leases.get_mut(&lease).is_some_and(|lease| std::mem::take(&mut lease.unsure));
            let loss = match (same_process, unsent) {
                (true, true) => Loss::Withdrawn,
                (true, false) => Loss::Unreceived,
                (false, _) => Loss::Crash,
            };
            let epoch = self.leases.get(&lease).map(|lease| lease.epoch);
            let kept = epoch.is_some_and(|epoch| held.contains(&(lease, epoch)));
            let kept =
                (kept && !self.sabotaged(Sabotage::ForgetHolds)) || self.sabotaged(Sabotage::AdoptUnheld);
            if !kept {
                self.lease_lost(lease, name, loss);
            }
        }
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.kept = worker.leases.len();
        }
    }

    /// Whether this is a live lease of this worker.
    fn holds(&self, id: WorkerId, lease: LeaseId, epoch: Epoch) -> bool {
        self.leases.get(&lease).is_some_and(|lease| lease.worker == id && lease.epoch == epoch)
    }

    /// Makes a worker known. Where there is no room, one that is long gone makes some.
    pub(crate) fn introduce(&mut self, id: WorkerId, name: &Arc<str>) {
        if self.workers.contains_key(&id) {
            return;
        }
        while self.workers.len() >= self.config.max_workers
            && let Some(forgotten) = self.forgettable()
        {
            self.workers.remove(&forgotten);
        }
        self.workers.insert(id, Worker::new(Arc::clone(name)));
        self.last_worker = self.last_worker.max(id.0);
    }

    /// The worker that is gone longest, and about which nothing must be remembered.
    pub(crate) fn forgettable(&self) -> Option<WorkerId> {
        let gone = self.workers.iter().filter_map(|(id, worker)| match worker.presence {
            Presence::Gone { since } if worker.standing.is_good() => Some((since, *id)),
            _ => None,
        });
        gone.min().map(|(_, id)| id)
    }

    /// Whether a heartbeat changes anything.
    pub(crate) fn heeds_word(&self, now: Time, id: WorkerId, session: Session, load: &Load) -> bool {
        let Some(worker) = self.workers.get(&id) else { return false };
        let Presence::Connected { session: present, contender } = &worker.presence else { return false };
        let outlived = contender.as_ref().is_some_and(|contender| self.outlives(now, contender));
        let other = worker.unwell.is_some() != load.unwell.is_some();
        *present == session && (outlived || other || self.is_other_room(worker, load.store_free))
    }

    /// Whether the older session is alive though a newer one knocked: what was on the way has arrived.
    fn outlives(&self, now: Time, contender: &Contender) -> bool {
        !contender.outlived && contender.since.plus_ms(self.config.contended_ms) <= now
    }

    pub(crate) fn worker_heard(&mut self, id: WorkerId, load: &Load) {
        let (now, Some(worker)) = (self.now, self.workers.get(&id)) else { return };
        let outlived = match &worker.presence {
            Presence::Connected { contender: Some(contender), .. } => self.outlives(now, contender),
            _ => false,
        };
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if let Presence::Connected { contender: Some(contender), .. } = &mut worker.presence {
            contender.outlived |= outlived;
        }
        if worker.unwell.is_some() != load.unwell.is_some() {
            worker.unwell.clone_from(&load.unwell);
        }
        worker.store_free = load.store_free;
    }

    /// A session ended. Leases wait for the worker, if anything does.
    pub(crate) fn worker_lost(&mut self, id: WorkerId) {
        let away_ms = self.config.away_ms;
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let session = match worker.presence {
            Presence::Connected { session, .. } | Presence::Away { session, .. } => session,
            Presence::Unmet | Presence::Gone { .. } => return,
        };
        worker.presence = Presence::Away { session, since: now };
        let name = Arc::clone(&worker.name);
        self.end_jobs(id, &name);
        if away_ms == 0 {
            self.worker_stayed_away(id);
        } else {
            self.arm(Timer::WorkerAway(id, session), now.plus_ms(away_ms));
        }
    }

    /// Nothing waits for a worker any more.
    pub(crate) fn worker_stayed_away(&mut self, id: WorkerId) {
        if !self.sabotaged(Sabotage::WaitForEver) {
            self.void(id, Loss::Crash);
        }
    }

    /// A worker has nothing from here on.
    pub(crate) fn void(&mut self, id: WorkerId, loss: Loss) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.presence = Presence::Gone { since: now };
        worker.unwell = None;
        let name = Arc::clone(&worker.name);
        let leases: Vec<LeaseId> = worker.leases.iter().copied().collect();
        for lease in leases {
            if self.sabotaged(Sabotage::LoseBatches) {
                self.leases.remove(&lease);
            } else if loss == Loss::Crash || !self.sabotaged(Sabotage::KeepRevokedLeases) {
                self.lease_lost(lease, &name, loss);
            }
        }
        self.end_jobs(id, &name);
    }

    /// Jobs do not outlive the session they were given to.
    fn end_jobs(&mut self, id: WorkerId, name: &Arc<str>) {
        let Some(worker) = self.workers.get(&id) else { return };
        let realises: Vec<_> = worker.realises.iter().copied().collect();
        let evals: Vec<_> = worker.evals.iter().copied().collect();
        for job in realises {
            self.realise_lost(job, name);
        }
        // Last: a host that is given up lets its other side in, which may want what was leased here.
        for job in evals {
            self.eval_lost(job, name);
        }
    }
}
