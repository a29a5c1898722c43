//! One seed's fleet from the first event to the last, in virtual time.
//!
//! Owns the clock and the heap of what is to come. Half of a simulation is trouble; then the world heals,
//! and everything asked for must come to an end.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{
    Command, DrvPath, EarlierFailures, Effect, EvalReport, Event, Feature, Fleet, Goal, HostKind, OnFailure,
    RunId, RunRequest, Selection, Session, SourceId, StepLimits, System, Time, Timer, WorkerHello, WorkerId,
    invariant,
};

use crate::machine::{Machine, Surroundings, Work};
use crate::profile::Profile;
use crate::random::Random;
use crate::witness::Witness;
use crate::world::World;

/// When the world heals.
const HEALED_AT: u64 = 40_000;
/// When everything must be over: healing, then the longest rests, deadlines and patience, several times.
const OVER_BY: u64 = 4_000_000;

/// A seed that broke a promise.
#[derive(Clone, Debug, thiserror::Error)]
#[error("seed {seed}, event {event} at {at} ms: {broken}")]
pub struct Defeat {
    /// Simulate it again with this.
    pub seed: u64,
    /// How many events had been applied.
    pub event: usize,
    /// Virtual time.
    pub at: u64,
    /// Which promise, and how.
    pub broken: String,
}

/// What a simulation came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Events applied.
    pub events: usize,
    /// Runs that ended.
    pub runs: usize,
    /// Leases granted.
    pub leases: usize,
}

/// Something that is to come.
#[derive(Debug)]
enum Coming {
    Arrival(Event),
    Order { machine: usize, session: WorkerId, command: Command },
    Work { machine: usize, session: WorkerId, work: Work },
    Crash(usize),
    Return(usize),
    Collection,
    Healing,
}

struct Simulation {
    random: Random,
    world: World,
    profile: Profile,
    fleet: Fleet,
    machines: Vec<Machine>,
    coming: BTreeMap<(u64, u64), Coming>,
    now: u64,
    sequence: u64,
    sessions: u64,
    /// Derivations the coordinator was told of.
    told: BTreeSet<DrvPath>,
    witness: Witness,
    history: Vec<(Time, Event, Vec<Effect>)>,
}

/// Simulates a seed. `prepare` may change the fleet before the first event.
pub fn simulate(seed: u64, prepare: impl Fn(&mut Fleet)) -> Result<Summary, Defeat> {
    watch(seed, prepare, &mut |_, _, _| {})
}

/// Sees each event with its time and effects, before they are judged.
pub type Watcher<'a> = &'a mut dyn FnMut(Time, &Event, &[Effect]);

/// Simulates a seed before the eyes of `watcher`.
pub fn watch(seed: u64, prepare: impl Fn(&mut Fleet), watcher: Watcher<'_>) -> Result<Summary, Defeat> {
    let mut random = Random::new(seed);
    let profile = Profile::generate(&mut random);
    let failures = random.chance(600);
    let world = World::generate(&mut random, failures);
    let mut fleet = Fleet::new(profile.config.clone());
    prepare(&mut fleet);
    let mut simulation = Simulation {
        witness: Witness::new(&profile),
        random,
        world,
        fleet,
        profile,
        machines: Vec::new(),
        coming: BTreeMap::new(),
        now: 0,
        sequence: 0,
        sessions: 0,
        told: BTreeSet::new(),
        history: Vec::new(),
    };
    simulation.set_up();
    let mut result = simulation.run(watcher);
    if result.is_ok() && seed.is_multiple_of(8) {
        result = simulation.replay(&prepare);
    }
    let (event, at) = (simulation.history.len(), simulation.now);
    result.map_err(|broken| Defeat { seed, event, at, broken })?;
    let Witness { runs_over: runs, leases_sent: leases, .. } = simulation.witness;
    Ok(Summary { events: event, runs, leases })
}

impl Simulation {
    fn set_up(&mut self) {
        let leaves: Vec<usize> =
            (0..self.world.nodes.len()).map(|node| self.world.nodes[node].content).collect();
        let valid = |random: &mut Random| leaves.iter().copied().filter(|_| random.chance(60)).collect();
        let common: BTreeSet<usize> = valid(&mut self.random);
        self.witness.initial.clone_from(&common);
        for number in 0..self.random.within(1, 4) {
            let hello = self.hello(number);
            let store = if self.profile.calm { common.clone() } else { valid(&mut self.random) };
            self.machines.push(Machine::new(hello, store));
        }
        for machine in 0..self.machines.len() {
            let at = self.random.below(2_000);
            self.schedule(at, Coming::Return(machine));
        }
        for _ in 0..self.profile.crashes {
            let crash = Coming::Crash(self.random.index(self.machines.len()));
            let at = self.random.below(HEALED_AT);
            self.schedule(at, crash);
        }
        for _ in 0..self.profile.collections {
            let at = self.random.below(HEALED_AT);
            self.schedule(at, Coming::Collection);
        }
        for run in 0..self.random.within(1, 4) {
            self.submit(RunId(run));
        }
        self.schedule(HEALED_AT, Coming::Healing);
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

    fn submit(&mut self, run: RunId) {
        let random = &mut self.random;
        let sources: Vec<SourceId> = self.world.trees.keys().copied().collect();
        let source = |random: &mut Random| sources[random.index(sources.len())];
        let globs: &[&str] = if random.chance(150) { &["host[0-2]"] } else { &[] };
        let request = RunRequest {
            before: random.chance(650).then(|| source(random)),
            after: source(random),
            selection: Selection {
                hosts: globs.iter().map(|glob| (*glob).into()).collect(),
                excludes: if random.chance(100) { vec!["*3".into()] } else { Vec::new() },
                kinds: vec![HostKind::Nixos],
            },
            on_failure: if random.chance(200) { OnFailure::FailFast } else { OnFailure::KeepGoing },
            goal: if random.chance(120) { Goal::Plan } else { Goal::Build },
            earlier_failures: EarlierFailures::default(),
            limits: StepLimits::default(),
        };
        let at = self.random.below(HEALED_AT / 3);
        if self.random.chance(self.profile.cancel) {
            let cancelled = at + self.random.below(HEALED_AT / 4);
            self.schedule(cancelled, Coming::Arrival(Event::RunCancelled { run }));
        }
        self.schedule(at, Coming::Arrival(Event::RunSubmitted { run, request }));
    }

    fn schedule(&mut self, at: u64, coming: Coming) {
        self.sequence += 1;
        self.coming.insert((at, self.sequence), coming);
    }

    fn run(&mut self, watcher: Watcher<'_>) -> Result<(), String> {
        while let Some(((at, _), coming)) = self.coming.pop_first() {
            self.now = self.now.max(at);
            if self.now > OVER_BY {
                return Err(format!("a fleet without faults does not come to rest: {:?}", self.fleet.view()));
            }
            match coming {
                Coming::Arrival(event) => self.arrive(event, watcher)?,
                Coming::Order { machine, session, command } => self.order(machine, session, command),
                Coming::Work { machine, session, work } => self.work(machine, session, &work),
                Coming::Crash(machine) => self.crash(machine),
                Coming::Return(machine) => self.connect(machine),
                Coming::Collection => self.collect(),
                Coming::Healing => self.heal(),
            }
        }
        self.witness.rest(&self.fleet.view())
    }

    /// The coordinator hears of something.
    fn arrive(&mut self, mut event: Event, watcher: Watcher<'_>) -> Result<(), String> {
        if let Event::EvalReported {
            report: EvalReport::HostEvaluated { result: Ok(evaluated), .. }, ..
        } = &mut event
        {
            let nodes = evaluated.wanted.iter().filter_map(|drv| self.world.node_of(drv));
            let steps = nodes.map(|node| &self.world.nodes[node].step);
            evaluated.new_steps = steps.filter(|step| self.told.insert(step.drv.clone())).cloned().collect();
        }
        let now = Time(self.now);
        let effects = self.fleet.apply(now, event.clone());
        watcher(now, &event, &effects);
        for effect in &effects {
            match effect {
                Effect::Send(session, command) => self.send(*session, command.clone()),
                Effect::Arm(timer, at) => self.arm(timer.clone(), at.0),
                Effect::Append(_) | Effect::Notify(..) => {}
            }
        }
        let seen = self.witness.event(&self.world, &self.machines, &event, &effects);
        self.history.push((now, event, effects));
        seen?;
        invariant::check(&self.fleet).map_err(|violation| violation.to_string())
    }

    fn send(&mut self, session: WorkerId, command: Command) {
        let connected = |machine: &Machine| machine.session.as_ref().is_some_and(|held| held.id == session);
        if let Some(machine) = self.machines.iter().position(connected) {
            let at = self.now + self.random.within(0, self.profile.latency_ms);
            self.schedule(at, Coming::Order { machine, session, command });
        }
    }

    fn arm(&mut self, timer: Timer, at: u64) {
        let late = self.random.below(self.profile.latency_ms);
        if self.random.chance(self.profile.spurious) {
            let early = self.random.within(self.now, at);
            self.schedule(early, Coming::Arrival(Event::TimerFired { timer: timer.clone() }));
        }
        self.schedule(at + late, Coming::Arrival(Event::TimerFired { timer }));
    }

    fn is_current(&self, machine: usize, session: WorkerId) -> bool {
        self.machines[machine].session.as_ref().is_some_and(|held| held.id == session)
    }

    fn order(&mut self, machine: usize, session: WorkerId, command: Command) {
        if !self.is_current(machine, session) {
            return;
        }
        if let Some(work) = self.machines[machine].obey(command) {
            let at = self.now + self.random.below(self.profile.work_ms);
            self.schedule(at, Coming::Work { machine, session, work });
        }
    }

    fn work(&mut self, machine: usize, session: WorkerId, work: &Work) {
        if !self.is_current(machine, session) {
            return;
        }
        let (events, more) = self.do_work(machine, work);
        for event in events {
            self.report(machine, event);
        }
        if more {
            let at = self.now + self.random.below(self.profile.work_ms);
            self.schedule(at, Coming::Work { machine, session, work: work.clone() });
        }
    }

    fn do_work(&mut self, machine: usize, work: &Work) -> (Vec<Event>, bool) {
        let connected = self.machines.iter().filter(|machine| machine.session.is_some());
        let peers = connected.flat_map(|machine| machine.store.iter().copied()).collect();
        let Self { world, profile, random, .. } = self;
        let mut around = Surroundings { world, profile, random, peers: &peers };
        self.machines[machine].work(work, &mut around)
    }

    /// A report travels: in order within its session, but a copy may come much later.
    fn report(&mut self, machine: usize, event: Event) {
        let latency = self.random.within(0, self.profile.latency_ms);
        let Some(session) = self.machines[machine].session.as_mut() else { return };
        session.last_arrival = session.last_arrival.max(self.now + latency);
        let at = session.last_arrival;
        if self.random.chance(self.profile.duplicate) {
            let late = at + self.random.below(5_000);
            self.schedule(late, Coming::Arrival(event.clone()));
        }
        self.schedule(at, Coming::Arrival(event));
    }

    fn connect(&mut self, machine: usize) {
        if self.machines[machine].session.is_some() {
            return;
        }
        self.sessions += 1;
        let worker = WorkerId(self.sessions);
        self.machines[machine].connect(worker);
        let hello = self.machines[machine].hello.clone();
        self.schedule(
            self.now,
            Coming::Arrival(Event::WorkerJoined { worker, session: Session(1), hello, holds: Vec::new() }),
        );
    }

    /// A session ends. Of its reports on the way, some are lost and some come when nobody counts on them.
    fn crash(&mut self, machine: usize) {
        let noticed = self.now + self.random.below(3_000);
        // What it works on may come to an end unheard, and be told when it is no longer its own.
        for work in self.machines[machine].works() {
            for event in self.do_work(machine, &work).0 {
                let late = noticed + self.random.below(6_000);
                self.schedule(late, Coming::Arrival(event));
            }
        }
        let Some(session) = self.machines[machine].session.take() else { return };
        let worker = session.id;
        let on_the_way = self.coming.iter().filter_map(|(key, coming)| match coming {
            Coming::Arrival(
                Event::EvalReported { worker: by, .. }
                | Event::StepReported { worker: by, .. }
                | Event::LeaseFinished { worker: by, .. }
                | Event::Realised { worker: by, .. },
            ) if *by == worker => Some(*key),
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
        self.schedule(noticed, Coming::Arrival(Event::WorkerLost { worker, session: Session(1) }));
        let back = self.now + self.random.below(10_000);
        self.schedule(back, Coming::Return(machine));
    }

    fn collect(&mut self) {
        let machine = self.random.index(self.machines.len());
        let random = &mut self.random;
        let store = &mut self.machines[machine].store;
        let gone: Vec<usize> = store.iter().copied().filter(|_| random.chance(400)).collect();
        store.retain(|content| !gone.contains(content));
        self.witness.collected(&gone);
    }

    fn heal(&mut self) {
        self.profile.heal();
        for machine in 0..self.machines.len() {
            self.connect(machine);
        }
    }

    /// The same events at the same times have the same effects.
    fn replay(&self, prepare: impl Fn(&mut Fleet)) -> Result<(), String> {
        let mut fleet = Fleet::new(self.profile.config.clone());
        prepare(&mut fleet);
        for (number, (at, event, effects)) in self.history.iter().enumerate() {
            if fleet.apply(*at, event.clone()) != *effects {
                return Err(format!("event {number} has other effects when replayed: {event:?}"));
            }
        }
        Ok(())
    }
}
