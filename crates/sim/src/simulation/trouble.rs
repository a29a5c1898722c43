//! What goes wrong with machines and networks, and the end of it.

use fleet_core::{Load, Session, WorkerOrder};

use super::{Coming, HEALED_AT, Simulation};
use crate::contents::Contents;
use crate::machine::Fate;
use crate::profile::Profile;

/// One fault. Which machine it hits is chosen when it comes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble {
    /// A process dies, or its machine.
    Crash,
    /// A machine is cut off; it lives on.
    Cut,
    /// Another process with a machine's identity: so many knocks are left.
    Clone { machine: Option<usize>, instance: u64, knocks: u64 },
    /// An administrator.
    Order,
    /// The coordinator, with its next append.
    Outage,
    /// Paths are collected on a machine.
    Collection,
}

impl Trouble {
    /// All that a profile brings.
    pub(super) fn of(profile: &Profile) -> Vec<Self> {
        let clone = Self::Clone { machine: None, instance: 0, knocks: 5 };
        let kinds = [
            (Self::Crash, profile.crashes),
            (Self::Cut, profile.cuts),
            (clone, profile.clones),
            (Self::Order, profile.orders),
            (Self::Outage, profile.outages),
            (Self::Collection, profile.collections),
        ];
        kinds.into_iter().flat_map(|(kind, times)| (0..times).map(move |_| kind)).collect()
    }
}

impl Simulation<'_> {
    pub(super) fn trouble(&mut self, trouble: Trouble) {
        if self.now > HEALED_AT {
            return;
        }
        let machine = self.random.index(self.machines.len());
        match trouble {
            Trouble::Crash => self.crash_machine(machine),
            Trouble::Cut => {
                self.lose_session(machine);
                let long = if self.random.chance(300) { self.profile.config.away_ms } else { 0 };
                let ms = long + self.random.below(10_000);
                self.after(ms, Coming::Return(machine));
            }
            Trouble::Clone { machine: chosen, instance, knocks } => {
                self.clone_knocks(chosen.unwrap_or(machine), instance, knocks);
            }
            Trouble::Order => self.give_order(machine),
            Trouble::Outage => self.doomed = Some(self.moment()),
            Trouble::Collection => self.collect(machine),
        }
    }

    fn crash_machine(&mut self, machine: usize) {
        self.lose_session(machine);
        let instance = self.name();
        if self.random.chance(500) {
            self.machines[machine].crash(instance);
        } else {
            self.machines[machine].reboot(instance);
            if self.random.chance(self.profile.emptied) {
                let store = std::mem::take(&mut self.machines[machine].store);
                self.witness.collected(store);
            }
        }
        // The first machine comes back: somebody must be able to do everything.
        if machine > 0 && self.random.chance(self.profile.retire) {
            self.machines[machine].fate = Fate::Retired;
        }
        let ms = self.random.below(10_000);
        self.after(ms, Coming::Return(machine));
    }

    /// A session ends without a word. Of its messages on the way, some are lost and some come when nobody counts
    /// on them.
    fn lose_session(&mut self, machine: usize) {
        self.machines[machine].reachable = false;
        let Some(link) = self.machines[machine].session.take() else { return };
        let lost = link.session;
        let long = if self.random.chance(150) { 20_000 } else { 3_000 };
        let noticed = self.now + self.random.below(long);
        let on_the_way = self.coming.iter().filter_map(|(key, coming)| match coming {
            Coming::Said { machine: by, session, .. } if *by == machine && *session == lost => Some(*key),
            _ => None,
        });
        let on_the_way: Vec<(u64, u64)> = on_the_way.collect();
        for key in on_the_way {
            let Some(coming) = self.coming.remove(&key) else { continue };
            if self.random.chance(500) {
                let late = noticed + self.random.below(3_000);
                self.schedule(late, coming);
            }
        }
        self.schedule(noticed, Coming::Missed { machine, session: lost });
    }

    fn clone_knocks(&mut self, machine: usize, instance: u64, knocks: u64) {
        let instance = if instance == 0 { self.name() } else { instance };
        let session = Session(self.name());
        let mut hello = self.machines[machine].hello();
        hello.instance = format!("clone{instance}").into();
        let holds = if instance.is_multiple_of(2) { self.machines[machine].holds() } else { Vec::new() };
        if self.up {
            let ms = self.random.within(0, self.profile.latency_ms);
            self.after(ms, Coming::Knock { machine, session, hello, holds, real: false });
        }
        if knocks > 1 {
            let ms = self.random.within(1_000, 4_000);
            let next = Trouble::Clone { machine: Some(machine), instance, knocks: knocks - 1 };
            self.after(ms, Coming::Trouble(next));
        }
    }

    fn give_order(&mut self, machine: usize) {
        if machine > 0 && self.random.chance(300) {
            self.schedule(self.now, Coming::Order { machine, order: WorkerOrder::Revoke });
            return;
        }
        self.schedule(self.now, Coming::Order { machine, order: WorkerOrder::Drain });
        if self.random.chance(600) {
            let ms = self.random.within(500, 15_000);
            self.after(ms, Coming::Order { machine, order: WorkerOrder::Resume });
        }
    }

    fn collect(&mut self, machine: usize) {
        let store = self.machines[machine].store;
        let random = &mut self.random;
        let gone: Contents = store.iter().filter(|_| random.chance(400)).collect();
        self.machines[machine].store = store.without(gone);
        self.witness.collected(gone);
    }

    /// A machine says that it lives, and how it is.
    pub(super) fn beat(&mut self, machine: usize, session: Session) {
        if !self.machines[machine].has_session(session) {
            return;
        }
        let turns = if self.machines[machine].unwell { 400 } else { self.profile.unwell };
        self.machines[machine].unwell ^= self.random.chance(turns);
        if self.now >= HEALED_AT {
            self.machines[machine].unwell = false;
        }
        let unwell = self.machines[machine].unwell.then(|| "its disk is full".into());
        let store_free = self.store_free(machine);
        let latency = self.random.within(0, self.profile.latency_ms);
        let Some(link) = self.machines[machine].session.as_mut() else { return };
        link.last_arrival = link.last_arrival.max(self.now + latency);
        let at = link.last_arrival;
        self.schedule(at, Coming::Heard { machine, session, load: Load { unwell, store_free } });
        if self.now < HEALED_AT {
            let ms = self.random.within(500, 3_000);
            self.after(ms, Coming::Beat { machine, session });
        }
    }

    /// What its store has room for. When the world has healed, somebody has tidied up.
    fn store_free(&self, machine: usize) -> Option<u64> {
        let total = match self.profile.disk_bytes {
            0 => return None,
            _ if self.now >= HEALED_AT => return Some(1 << 50),
            total => total,
        };
        Some(total.saturating_sub(self.world.bytes(self.machines[machine].store)))
    }

    pub(super) fn heal(&mut self) {
        self.profile.heal();
        self.doomed = None;
        for machine in 0..self.machines.len() {
            self.machines[machine].refuses = Contents::default();
            self.come_back(machine);
        }
        // What was on the way has arrived by then.
        self.after(30_000, Coming::Relief);
    }

    /// Administrators let everybody work again.
    pub(super) fn relieve(&mut self) {
        for machine in 0..self.machines.len() {
            let ms = self.random.below(2_000);
            self.after(ms, Coming::Order { machine, order: WorkerOrder::Resume });
        }
    }
}
