//! Promises about workers: who is let in, who keeps what, and who may get anything.

use std::collections::BTreeSet;

use fleet_core::{
    Command, Effect, Epoch, FailureClass, LeaseId, Session, SessionEnd, StepOutcome, Time, WorkerHello,
    WorkerId, WorkerOrder,
};

use super::{Witness, hold};

/// What is known of one worker.
#[derive(Debug, Default)]
pub(super) struct Member {
    pub(super) hello: WorkerHello,
    pub(super) place: Place,
    /// Leases it had when its session began.
    pub(super) kept: usize,
    pub(super) drained: bool,
    pub(super) unwell: bool,
    /// Bytes that its store has room for, as far as it was believed, less what it built since.
    pub(super) store_free: Option<u64>,
    trust: Trust,
    /// Contents it failed in a row, by no fault of theirs.
    strikes: BTreeSet<usize>,
    quarantine: Quarantine,
    /// Another instance, when it knocked first, and whether the present one was heard long after.
    knock: Option<(std::sync::Arc<str>, Time, bool)>,
}

/// Where a worker is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    #[default]
    Gone,
    Connected(Session),
    Away(Session, Time),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Trust {
    #[default]
    Trusted,
    Locked,
    Revoked,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Quarantine {
    #[default]
    None,
    Until(Time),
    /// One step at a time.
    Trial,
}

/// Whether a failure speaks against the worker.
fn blames_worker(class: FailureClass) -> bool {
    use FailureClass::{DaemonGone, DiskFull, Infrastructure, OutOfMemory, Transfer};
    matches!(class, Infrastructure | DiskFull | OutOfMemory | Transfer | DaemonGone)
}

impl Witness {
    /// Judges whether a worker was let in as it should be, and enters it.
    pub(super) fn joined(
        &mut self,
        now: Time,
        (id, session): (WorkerId, Session),
        hello: &WorkerHello,
        holds: &[(LeaseId, Epoch)],
        effects: &[Effect],
    ) -> Result<(), String> {
        self.sessions += 1;
        let end = effects.iter().find_map(|effect| match effect {
            Effect::Send(_, Command::EndSession { session: ended, end }) if *ended == session => Some(end),
            _ => None,
        });
        let member = self.workers.entry(id).or_default();
        let other = matches!(member.place, Place::Connected(_)) && member.hello.instance != hello.instance;
        let outlived = matches!(&member.knock, Some((instance, _, true)) if *instance == hello.instance);
        let kept = match end {
            Some(SessionEnd::Revoked) => member.trust == Trust::Revoked,
            Some(SessionEnd::Locked) => member.trust == Trust::Locked || (other && outlived),
            Some(SessionEnd::Contended) => other,
            Some(SessionEnd::Replaced | SessionEnd::TooMany) => false,
            None => member.trust == Trust::Trusted && !other,
        };
        hold(kept, "a worker is let in when it may be", || format!("{end:?} {member:?} {hello:?}"))?;
        match end {
            Some(SessionEnd::Locked) => {
                member.trust = Trust::Locked;
                self.leave(id);
            }
            Some(SessionEnd::Contended) => {
                let new = member.knock.as_ref().is_none_or(|knock| knock.0 != hello.instance);
                if new {
                    member.knock = Some((hello.instance.clone(), now, false));
                }
            }
            Some(_) => {}
            None => self.let_in(id, session, hello, holds),
        }
        Ok(())
    }

    fn let_in(&mut self, id: WorkerId, session: Session, hello: &WorkerHello, holds: &[(LeaseId, Epoch)]) {
        self.end_jobs(id);
        let Some(member) = self.workers.get_mut(&id) else { return };
        let rebooted = member.hello.boot != hello.boot && !member.hello.boot.is_empty();
        let same = member.hello.instance == hello.instance;
        let lost: Vec<LeaseId> = self
            .leases
            .iter()
            .filter(|(lease, held)| {
                held.worker == id && (rebooted || !holds.contains(&(**lease, held.epoch)))
            })
            .map(|(lease, _)| *lease)
            .collect();
        member.hello = hello.clone();
        member.place = Place::Connected(session);
        member.unwell = false;
        member.knock = None;
        for lease in lost {
            // What a living process has not never reached it.
            self.lose(lease, !same || rebooted);
        }
        let gone = holds.iter().filter(|(lease, epoch)| {
            !self.leases.get(lease).is_some_and(|held| held.worker == id && held.epoch == *epoch)
        });
        self.stale = gone.map(|(lease, _)| *lease).collect();
        let kept = self.leases.values().filter(|lease| lease.worker == id).count();
        if let Some(member) = self.workers.get_mut(&id) {
            member.kept = kept;
        }
    }

    /// A lease is lost; `blamed` says whether its worker may be to blame.
    fn lose(&mut self, lease: LeaseId, blamed: bool) {
        let Some(lost) = self.leases.remove(&lease) else { return };
        if blamed {
            for content in lost.what {
                self.strike(lost.worker, content);
            }
        }
    }

    /// A worker has nothing any more, and what it built may be built again.
    fn leave(&mut self, id: WorkerId) {
        self.end_jobs(id);
        self.leases.retain(|_, lease| lease.worker != id);
        self.holders.retain(|_, holder| *holder != id);
        if let Some(member) = self.workers.get_mut(&id) {
            member.place = Place::Gone;
            member.unwell = false;
            member.knock = None;
        }
    }

    fn end_jobs(&mut self, id: WorkerId) {
        self.evals.retain(|_, eval| eval.worker != id);
        self.realises.retain(|_, realise| realise.worker != id);
    }

    /// A session ended.
    pub(super) fn lost(&mut self, now: Time, id: WorkerId, session: Session) {
        let Some(member) = self.workers.get_mut(&id) else { return };
        if member.place != Place::Connected(session) {
            return;
        }
        member.place = Place::Away(session, now);
        self.end_jobs(id);
        if self.config.away_ms == 0 {
            self.stayed_away(now, id, session);
        }
    }

    /// Nothing waits for a worker any more, if its time is over.
    pub(super) fn stayed_away(&mut self, now: Time, id: WorkerId, of: Session) {
        let Some(member) = self.workers.get(&id) else { return };
        let Place::Away(session, since) = member.place else { return };
        if session != of || since.plus_ms(self.config.away_ms) > now {
            return;
        }
        let leases: Vec<LeaseId> =
            self.leases.iter().filter(|(_, lease)| lease.worker == id).map(|(lease, _)| *lease).collect();
        for lease in leases {
            self.lose(lease, true);
        }
        self.leave(id);
    }

    /// Every session is gone.
    pub(super) fn restarted(&mut self, now: Time) {
        self.evals.clear();
        self.realises.clear();
        let ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in ids {
            let Some(member) = self.workers.get_mut(&id) else { continue };
            let (Place::Connected(session) | Place::Away(session, _)) = member.place else { continue };
            member.place = Place::Away(session, now);
            if self.config.away_ms == 0 {
                self.stayed_away(now, id, session);
            }
        }
    }

    /// A worker says how it is.
    pub(super) fn heard(&mut self, now: Time, id: WorkerId, session: Session, unwell: bool) {
        let contended_ms = self.config.contended_ms;
        let Some(member) = self.workers.get_mut(&id) else { return };
        if member.place != Place::Connected(session) {
            return;
        }
        member.unwell = unwell;
        if let Some((_, since, outlived)) = &mut member.knock {
            *outlived |= since.plus_ms(contended_ms) <= now;
        }
    }

    pub(super) fn ordered(&mut self, id: WorkerId, order: WorkerOrder) {
        let member = self.workers.entry(id).or_default();
        match order {
            WorkerOrder::Drain => member.drained |= member.trust != Trust::Revoked,
            WorkerOrder::Resume => {
                member.drained = false;
                if member.trust == Trust::Locked {
                    member.trust = Trust::Trusted;
                }
                member.strikes.clear();
                member.quarantine = Quarantine::None;
            }
            WorkerOrder::Revoke => {
                member.trust = Trust::Revoked;
                self.leave(id);
            }
        }
    }

    /// How an attempt ended says something about its worker.
    pub(super) fn reflects(&mut self, id: WorkerId, content: usize, outcome: &StepOutcome) {
        match outcome {
            StepOutcome::Built(_) | StepOutcome::AlreadyValid(_) => {
                if let Some(member) = self.workers.get_mut(&id) {
                    member.strikes.clear();
                    member.quarantine = Quarantine::None;
                }
            }
            StepOutcome::Failed(class, _) if blames_worker(*class) => self.strike(id, content),
            StepOutcome::Failed(..) => {}
        }
    }

    pub(super) fn strike(&mut self, id: WorkerId, content: usize) {
        let (now, config) = (self.now, &self.config);
        let Some(member) = self.workers.get_mut(&id) else { return };
        if config.quarantine_after == 0 {
            return;
        }
        member.strikes.insert(content);
        let many = member.strikes.len() >= config.quarantine_after;
        if member.quarantine == Quarantine::Trial || (member.quarantine == Quarantine::None && many) {
            member.quarantine = Quarantine::Until(now.plus_ms(config.quarantine_rest_ms));
        }
    }

    pub(super) fn rested(&mut self, now: Time, id: WorkerId) {
        if let Some(member) = self.workers.get_mut(&id)
            && matches!(member.quarantine, Quarantine::Until(until) if until <= now)
        {
            member.quarantine = Quarantine::Trial;
        }
    }

    /// Whether a worker may get this.
    pub(super) fn may_get(&self, id: WorkerId, command: &Command) -> Result<&Member, String> {
        let none = || format!("only known workers get commands: {id} {command:?}");
        let member = self.workers.get(&id).ok_or_else(none)?;
        let connected = matches!(member.place, Place::Connected(_));
        let kept = match command {
            Command::EndSession { .. } => true,
            Command::CancelLease { .. } => member.place != Place::Gone,
            Command::CancelEval { .. } | Command::Drain { .. } | Command::Resume => connected,
            Command::StartEval { .. } => connected && !member.drained && !member.unwell,
            Command::Realise { .. } => connected && !member.unwell,
            Command::StartLease { .. } | Command::Prefetch { .. } => {
                let rests = matches!(member.quarantine, Quarantine::Until(_));
                connected && !member.drained && !member.unwell && !rests
            }
        };
        let kept = kept && (matches!(command, Command::EndSession { .. }) || member.trust == Trust::Trusted);
        hold(kept, "a worker gets nothing that it should not", || format!("{member:?} {command:?}"))?;
        Ok(member)
    }

    /// Leases a worker may have.
    pub(super) fn slots(&self, id: WorkerId) -> usize {
        let Some(member) = self.workers.get(&id) else { return 0 };
        let slots = if member.quarantine == Quarantine::Trial { 1 } else { member.hello.slots as usize };
        slots.max(member.kept)
    }
}
