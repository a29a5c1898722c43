//! Both ends of the connections: what travels, in which order, and what is lost with a session.
//!
//! Plays the parts of the coordinator's shell (its table of sessions) and of the worker's.

use fleet_core::{Command, Effect, Epoch, Event, LeaseId, Session, SessionEnd, WorkerHello, WorkerId};

use super::{Coming, HEALED_AT, Simulation};
use crate::machine::{Fate, Work};

/// The coordinator's end of a session.
#[derive(Debug)]
pub(super) struct Line {
    session: Session,
    /// Whose it is.
    machine: usize,
    /// When the last command arrives: the next one arrives no earlier.
    last_arrival: u64,
}

impl Simulation<'_> {
    /// The worker's id, as the shell finds it.
    pub(super) fn worker(&self, machine: usize) -> WorkerId {
        self.fleet.worker_named(self.machines[machine].name())
    }

    /// A machine that has no session tries to open one.
    pub(super) fn come_back(&mut self, machine: usize) {
        let tried = &self.machines[machine];
        let wants = match tried.fate {
            Fate::Returns => true,
            Fate::Retired => false,
            Fate::Revoked => self.now < HEALED_AT,
        };
        if tried.session.is_some() || !wants {
            return;
        }
        if !self.up {
            let ms = self.random.within(200, 2_000);
            self.after(ms, Coming::Return(machine));
            return;
        }
        let session = Session(self.name());
        self.machines[machine].connect(session);
        let (hello, holds) = (self.machines[machine].hello(), self.machines[machine].holds());
        let ms = self.random.within(0, self.profile.latency_ms);
        self.after(ms, Coming::Knock { machine, session, hello, holds, real: true });
    }

    /// A hello arrives.
    pub(super) fn knock(
        &mut self,
        machine: usize,
        session: Session,
        hello: WorkerHello,
        holds: Vec<(LeaseId, Epoch)>,
        real: bool,
    ) -> Result<(), String> {
        if real && !self.machines[machine].has_session(session) {
            // It gave up meanwhile; the coordinator will miss it.
            let ms = self.random.below(1_000);
            self.after(ms, Coming::Missed { machine, session });
        }
        if !real {
            // It is heard of no more.
            let ms = self.random.below(5_000);
            self.after(ms, Coming::Missed { machine, session });
        }
        let worker = self.worker(machine);
        self.arrive(Event::WorkerJoined { worker, session, hello, holds })
    }

    /// Enters the session of a worker that was let in, and tells it.
    pub(super) fn open(&mut self, worker: WorkerId, session: Session, effects: &[Effect]) {
        let refused = effects.iter().any(|effect| {
            matches!(effect, Effect::Send(_, Command::EndSession { session: ended, .. }) if *ended == session)
        });
        let Some(machine) = (0..self.machines.len()).find(|machine| self.worker(*machine) == worker) else {
            return;
        };
        if !refused {
            let at = self.now + self.random.within(0, self.profile.latency_ms);
            self.table.insert(worker, Line { session, machine, last_arrival: at });
            self.schedule(at, Coming::Welcome { machine, session, worker });
        }
    }

    /// The coordinator sends a command through the session that is the worker's now.
    pub(super) fn send(&mut self, worker: WorkerId, command: Command) {
        let latency = self.random.within(0, self.profile.latency_ms);
        if let Command::EndSession { session, end } = command {
            if self.table.get(&worker).is_some_and(|line| line.session == session) {
                self.table.remove(&worker);
            }
            for machine in 0..self.machines.len() {
                if self.machines[machine].has_session(session) {
                    self.after(latency, Coming::Cut { machine, session, end: end.clone() });
                }
            }
            return;
        }
        let Some(line) = self.table.get_mut(&worker) else { return };
        line.last_arrival = line.last_arrival.max(self.now + latency);
        let (at, machine, session) = (line.last_arrival, line.machine, line.session);
        self.schedule(at, Coming::Told { machine, session, command });
    }

    /// A machine learns that it was let in: what was not acknowledged is said again.
    pub(super) fn welcome(&mut self, machine: usize, session: Session, worker: WorkerId) {
        if !self.machines[machine].has_session(session) {
            return;
        }
        if let Some(link) = &mut self.machines[machine].session {
            link.worker = Some(worker);
        }
        for (number, event) in self.machines[machine].unacknowledged() {
            self.report(machine, number, event);
        }
        if self.profile.clones + self.profile.unwell + self.profile.disk_bytes > 0 {
            let ms = self.random.below(2_000);
            self.after(ms, Coming::Beat { machine, session });
        }
    }

    /// A command arrives.
    pub(super) fn told(&mut self, machine: usize, session: Session, command: Command) {
        if !self.machines[machine].has_session(session) {
            return;
        }
        if let Some(work) = self.machines[machine].obey(command) {
            let of = match work {
                Work::Build(_) => self.machines[machine].instance,
                Work::Eval(_) | Work::Realise(..) => session.0,
            };
            let ms = self.random.below(self.profile.work_ms);
            self.after(ms, Coming::Work { machine, of, work });
        }
    }

    /// The coordinator cut the session.
    pub(super) fn cut_off(&mut self, machine: usize, session: Session, end: &SessionEnd) {
        let cut = &mut self.machines[machine];
        if !cut.has_session(session) {
            return;
        }
        cut.session = None;
        if *end == SessionEnd::Revoked {
            cut.fate = Fate::Revoked;
        }
        let ms = match end {
            SessionEnd::Contended | SessionEnd::Replaced => self.random.within(500, 2_500),
            SessionEnd::Locked | SessionEnd::Revoked | SessionEnd::TooMany => {
                self.random.within(3_000, 9_000)
            }
        };
        self.after(ms, Coming::Return(machine));
    }

    /// A report travels: in order within its session, but a copy may come much later.
    pub(super) fn report(&mut self, machine: usize, number: Option<u64>, event: Event) {
        let latency = self.random.within(0, self.profile.latency_ms);
        let Some(link) = self.machines[machine].session.as_mut() else { return };
        link.last_arrival = link.last_arrival.max(self.now + latency);
        let (at, session) = (link.last_arrival, link.session);
        if self.random.chance(self.profile.duplicate) {
            let late = at + self.random.below(5_000);
            self.schedule(late, Coming::Said { machine, session, number, event: event.clone() });
        }
        self.schedule(at, Coming::Said { machine, session, number, event });
    }

    /// A report arrives. Once it is kept, its sender may forget it.
    pub(super) fn said(&mut self, machine: usize, number: Option<u64>, event: Event) -> Result<(), String> {
        self.arrive(event)?;
        if let Some(number) =
            number.filter(|_| self.up && !self.withheld && !self.random.chance(self.profile.unheard))
        {
            let ms = self.random.within(0, self.profile.latency_ms);
            self.after(ms, Coming::Acknowledged { machine, number });
        }
        Ok(())
    }

    /// The coordinator misses a session.
    pub(super) fn missed(&mut self, machine: usize, session: Session) -> Result<(), String> {
        let worker = self.worker(machine);
        if self.table.get(&worker).is_some_and(|line| line.session == session) {
            self.table.remove(&worker);
        }
        self.arrive(Event::WorkerLost { worker, session })
    }
}
