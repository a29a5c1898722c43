//! Who asks for something: clients with runs, and how a seed's fleet looks at first.
//!
//! Clients ask again until they are answered; administrators do the same.

use fleet_core::{
    EarlierFailures, Event, Feature, Goal, HostKind, OnFailure, RunId, RunRequest, Selection, SourceId,
    StepLimits, System, WorkerHello, WorkerOrder,
};

use super::trouble::Trouble;
use super::{Coming, HEALED_AT, Simulation};
use crate::contents::Contents;
use crate::machine::Machine;
use crate::random::Random;

/// Of runs that come when all is well.
const LATE: u64 = 100;

impl Simulation<'_> {
    pub(super) fn set_up(&mut self) {
        let contents: Contents = self.world.nodes.iter().map(|node| node.content).collect();
        let valid = |random: &mut Random| contents.iter().filter(|_| random.chance(60)).collect::<Contents>();
        let common = valid(&mut self.random);
        self.witness.initial = common;
        for number in 0..self.random.within(1, 4) {
            let hello = self.hello(number);
            let store = if self.profile.calm { common } else { valid(&mut self.random) };
            self.machines.push(Machine::new(hello, store));
        }
        for machine in 0..self.machines.len() {
            let at = self.random.below(2_000);
            self.schedule(at, Coming::Return(machine));
        }
        for trouble in Trouble::of(&self.profile) {
            let at = self.random.below(HEALED_AT);
            self.schedule(at, Coming::Trouble(trouble));
        }
        for _ in 0..self.profile.condensations {
            let at = self.random.below(2 * HEALED_AT);
            self.schedule(at, Coming::Condensation);
        }
        for run in 0..self.random.within(1, 4) {
            self.submit(RunId(run));
        }
        self.schedule(HEALED_AT, Coming::Healing);
        for run in 0..self.random.below(3) {
            self.schedule(8 * HEALED_AT, Coming::LateRun(RunId(LATE + run)));
        }
    }

    fn hello(&mut self, number: u64) -> WorkerHello {
        // The first machine can do everything: after healing, all that is not broken can be built.
        let all = number == 0;
        let mut systems = vec![System::from("x86_64-linux")];
        let mut features = Vec::new();
        if all || self.random.chance(400) {
            systems.push("aarch64-linux".into());
        }
        if all || self.random.chance(400) {
            features.push(Feature::from("kvm"));
        }
        let slots = |random: &mut Random, least| u32::try_from(random.within(least, 3)).unwrap_or(1);
        WorkerHello {
            name: format!("machine{number}").into(),
            systems,
            features,
            slots: slots(&mut self.random, u64::from(all)),
            eval_slots: slots(&mut self.random, u64::from(all)),
            ..WorkerHello::default()
        }
    }

    fn request_of_run(&mut self) -> RunRequest {
        let random = &mut self.random;
        let sources: Vec<SourceId> = self.world.trees.keys().copied().collect();
        let source = |random: &mut Random| sources[random.index(sources.len())];
        let globs: &[&str] = if random.chance(150) { &["host[0-2]"] } else { &[] };
        RunRequest {
            before: random.chance(650).then(|| source(random)),
            after: source(random),
            selection: Selection {
                hosts: globs.iter().map(|glob| (*glob).into()).collect(),
                excludes: if random.chance(100) { vec!["*3".into()] } else { Vec::new() },
                kinds: vec![HostKind::Nixos],
            },
            on_failure: if random.chance(200) { OnFailure::FailFast } else { OnFailure::KeepGoing },
            goal: if random.chance(120) { Goal::Plan } else { Goal::Build },
            earlier_failures: if random.chance(150) {
                EarlierFailures::Retry
            } else {
                EarlierFailures::Believe
            },
            limits: StepLimits::default(),
        }
    }

    fn submit(&mut self, run: RunId) {
        let request = self.request_of_run();
        let at = self.random.below(HEALED_AT / 2);
        if self.random.chance(self.profile.cancel) {
            let cancelled = at + self.random.below(HEALED_AT / 4);
            self.schedule(cancelled, Coming::Request(Event::RunCancelled { run }));
        }
        self.schedule(at, Coming::Request(Event::RunSubmitted { run, request }));
    }

    /// When all is well and nobody wants anything, a run fails only by what is broken.
    pub(super) fn late_run(&mut self, run: RunId) {
        if !self.witness.is_idle() || !self.up {
            self.after(60_000, Coming::LateRun(run));
            return;
        }
        let request = self.request_of_run();
        self.witness.late(run);
        self.schedule(self.now, Coming::Request(Event::RunSubmitted { run, request }));
    }

    /// Somebody asks for something.
    pub(super) fn request(&mut self, event: Event) -> Result<(), String> {
        if self.up {
            return self.arrive(event);
        }
        self.ask_again(event);
        Ok(())
    }

    /// Nobody knows whether it was heard.
    pub(super) fn ask_again(&mut self, event: Event) {
        let again = match event {
            Event::RunSubmitted { .. } | Event::RunCancelled { .. } => Coming::Request(event),
            Event::WorkerOrdered { name, order, .. } => {
                let named = self.machines.iter().position(|machine| *machine.name() == *name);
                let Some(machine) = named else { return };
                Coming::Order { machine, order }
            }
            _ => return,
        };
        let ms = self.random.within(500, 3_000);
        self.after(ms, again);
    }

    /// An administrator decides about a machine.
    pub(super) fn order(&mut self, machine: usize, order: WorkerOrder) -> Result<(), String> {
        let (worker, name) = (self.worker(machine), self.machines[machine].name().into());
        self.request(Event::WorkerOrdered { worker, name, order, reason: "an order".into() })
    }
}
