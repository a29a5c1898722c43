//! One seed's fleet from the first event to the last, in virtual time.
//!
//! Owns the clock and the heap of what is to come. The first part of a simulation is trouble; then the world
//! heals, and everything asked for must come to an end.

mod clients;
mod outage;
mod sessions;
mod trouble;

use std::collections::BTreeMap;
use std::ops::AddAssign;

use fleet_core::{
    Command, Effect, EvalReport, Event, Fleet, FleetConfig, Load, Record, RestoreError, RunId, Session,
    SessionEnd, Time, Timer, WorkerHello, WorkerId, WorkerOrder, invariant,
};

use crate::contents::Contents;
use crate::machine::{Machine, Surroundings, Work};
use crate::profile::Profile;
use crate::random::Random;
use crate::witness::Witness;
use crate::world::World;

use outage::{Journal, Moment};

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
    /// Times the coordinator crashed.
    pub outages: usize,
    /// Sessions that workers opened.
    pub sessions: usize,
    /// Lost outputs that were leased again.
    pub remade: usize,
    /// Times a worker was told to fetch ahead.
    pub hints: usize,
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.runs += other.runs;
        self.leases += other.leases;
        self.outages += other.outages;
        self.sessions += other.sessions;
        self.remade += other.remade;
        self.hints += other.hints;
    }
}

/// Makes a fleet of what its journal holds, which is nothing at first.
pub type Origin<'a> = &'a dyn Fn(FleetConfig, Vec<Record>) -> Result<Fleet, RestoreError>;

/// Sees each event with its time and effects, before they are judged.
pub type Watcher<'a> = &'a mut dyn FnMut(Time, &Event, &[Effect]);

/// Something that is to come.
#[derive(Debug)]
enum Coming {
    /// The coordinator's own clock.
    Timer(Timer),
    /// Of clients and administrators, who ask again until they are answered.
    Request(Event),
    Order {
        machine: usize,
        order: WorkerOrder,
    },
    Knock {
        machine: usize,
        session: Session,
        hello: WorkerHello,
        holds: Vec<(fleet_core::LeaseId, fleet_core::Epoch)>,
        real: bool,
    },
    Said {
        machine: usize,
        session: Session,
        number: Option<u64>,
        event: Event,
    },
    Heard {
        machine: usize,
        session: Session,
        load: Load,
    },
    Missed {
        machine: usize,
        session: Session,
    },
    /// From here on the coordinator's side of a session.
    Welcome {
        machine: usize,
        session: Session,
        worker: WorkerId,
    },
    Told {
        machine: usize,
        session: Session,
        command: Command,
    },
    Cut {
        machine: usize,
        session: Session,
        end: SessionEnd,
    },
    Acknowledged {
        machine: usize,
        number: u64,
    },
    /// From here on what machines do by themselves.
    Work {
        machine: usize,
        /// The instance or the session that it belongs to.
        of: u64,
        work: Work,
    },
    Beat {
        machine: usize,
        session: Session,
    },
    Return(usize),
    /// From here on trouble, and its end.
    Trouble(trouble::Trouble),
    Collapse,
    Start,
    Condensation,
    Healing,
    Relief,
    LateRun(RunId),
}

struct Simulation<'a> {
    random: Random,
    world: World,
    profile: Profile,
    origin: Origin<'a>,
    watcher: Watcher<'a>,
    fleet: Fleet,
    journal: Journal,
    /// When the coordinator is to crash: with its next append.
    doomed: Option<Moment>,
    /// Whether an append that will be lost has begun: nobody is told of anything.
    withheld: bool,
    up: bool,
    /// The coordinator's sessions.
    table: BTreeMap<WorkerId, sessions::Line>,
    machines: Vec<Machine>,
    coming: BTreeMap<(u64, u64), Coming>,
    now: u64,
    sequence: u64,
    /// The last number of a session, an instance or a boot.
    names: u64,
    events: usize,
    outages: usize,
    witness: Witness,
}

/// Simulates a seed.
pub fn simulate(seed: u64, origin: Origin<'_>) -> Result<Summary, Defeat> {
    watch(seed, origin, &mut |_, _, _| {})
}

/// Simulates a seed before the eyes of `watcher`.
pub fn watch(seed: u64, origin: Origin<'_>, watcher: Watcher<'_>) -> Result<Summary, Defeat> {
    let mut random = Random::new(seed);
    let profile = Profile::generate(&mut random);
    let failures = random.chance(600);
    let world = World::generate(&mut random, failures);
    let lost = |broken: String| Defeat { seed, event: 0, at: 0, broken };
    let fleet = origin(profile.config.clone(), Vec::new()).map_err(|error| lost(error.to_string()))?;
    let mut simulation = Simulation {
        witness: Witness::new(&profile),
        random,
        world,
        journal: Journal::new(seed.is_multiple_of(16)),
        fleet,
        profile,
        origin,
        watcher,
        doomed: None,
        withheld: false,
        up: true,
        table: BTreeMap::new(),
        machines: Vec::new(),
        coming: BTreeMap::new(),
        now: 0,
        sequence: 0,
        names: 0,
        events: 0,
        outages: 0,
    };
    simulation.set_up();
    let mut result = simulation.run();
    if result.is_ok() && seed.is_multiple_of(4) {
        result = simulation.agree();
    }
    let (events, at, outages) = (simulation.events, simulation.now, simulation.outages);
    result.map_err(|broken| Defeat { seed, event: events, at, broken })?;
    let Witness { runs_over: runs, leases_sent: leases, sessions, remade, hints, .. } = simulation.witness;
    Ok(Summary { events, runs, leases, outages, sessions, remade, hints })
}

impl Simulation<'_> {
    fn schedule(&mut self, at: u64, coming: Coming) {
        self.sequence += 1;
        self.coming.insert((at, self.sequence), coming);
    }

    fn after(&mut self, ms: u64, coming: Coming) {
        self.schedule(self.now + ms, coming);
    }

    fn name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(((at, _), coming)) = self.coming.pop_first() {
            self.now = self.now.max(at);
            if self.now > OVER_BY {
                return Err(format!("a fleet without faults does not come to rest: {:?}", self.fleet.view()));
            }
            self.come(coming)?;
        }
        self.witness.rest(&self.fleet.view(), &self.machines)
    }

    fn come(&mut self, coming: Coming) -> Result<(), String> {
        match coming {
            Coming::Timer(timer) => self.arrive(Event::TimerFired { timer })?,
            Coming::Request(event) => self.request(event)?,
            Coming::Order { machine, order } => self.order(machine, order)?,
            Coming::Knock { machine, session, hello, holds, real } => {
                self.knock(machine, session, hello, holds, real)?;
            }
            Coming::Said { machine, session: _, number, event } => self.said(machine, number, event)?,
            Coming::Heard { machine, session, load } => {
                let worker = self.worker(machine);
                self.arrive(Event::WorkerHeard { worker, session, load })?;
            }
            Coming::Missed { machine, session } => self.missed(machine, session)?,
            Coming::Welcome { machine, session, worker } => self.welcome(machine, session, worker),
            Coming::Told { machine, session, command } => self.told(machine, session, command),
            Coming::Cut { machine, session, end } => self.cut_off(machine, session, &end),
            Coming::Acknowledged { machine, number } => self.machines[machine].acknowledged(number),
            Coming::Work { machine, of, work } => self.work(machine, of, &work),
            Coming::Beat { machine, session } => self.beat(machine, session),
            Coming::Return(machine) => self.come_back(machine),
            Coming::Trouble(trouble) => self.trouble(trouble),
            Coming::Collapse => self.crash()?,
            Coming::Start => self.start()?,
            Coming::Condensation => self.condense()?,
            Coming::Healing => self.heal(),
            Coming::Relief => self.relieve(),
            Coming::LateRun(run) => self.late_run(run),
        }
        Ok(())
    }

    /// The coordinator hears of something.
    fn arrive(&mut self, mut event: Event) -> Result<(), String> {
        if let Event::EvalReported {
            report: EvalReport::HostEvaluated { result: Ok(evaluated), .. }, ..
        } = &mut event
        {
            let nodes = evaluated.wanted.iter().filter_map(|drv| self.world.node_of(drv));
            let steps = nodes.map(|node| &self.world.nodes[node].step);
            evaluated.new_steps = steps.filter(|step| !self.fleet.knows(&step.drv)).cloned().collect();
        }
        let now = Time(self.now);
        let effects = self.fleet.apply(now, event.clone());
        self.events += 1;
        (self.watcher)(now, &event, &effects);
        let heeded = effects.iter().any(|effect| matches!(effect, Effect::Append(_)));
        let moment = if heeded && !self.withheld { self.doomed.take() } else { None };
        if let Some(Moment::Before) = moment {
            self.withheld = true;
            let ms = if self.random.chance(500) { 0 } else { self.random.below(1_000) };
            self.after(ms, Coming::Collapse);
        }
        if self.withheld {
            self.ask_again(event);
            return Ok(());
        }
        self.journal.append(now, &event, &effects);
        let seen = self.witness.event(now, &self.world, &self.machines, &event, &effects);
        seen?;
        if heeded {
            invariant::check(&self.fleet).map_err(|violation| violation.to_string())?;
        }
        if moment.is_some() {
            self.agree()?;
            return self.crash();
        }
        if let Event::WorkerJoined { worker, session, .. } = &event {
            self.open(*worker, *session, &effects);
        }
        for effect in effects {
            match effect {
                Effect::Send(worker, command) => self.send(worker, command),
                Effect::Arm(timer, at) => self.arm(timer, at.0),
                Effect::Append(_) | Effect::Notify(..) => {}
            }
        }
        Ok(())
    }

    fn arm(&mut self, timer: Timer, at: u64) {
        let late = self.random.below(self.profile.latency_ms);
        if self.random.chance(self.profile.spurious) {
            let early = self.random.within(self.now, at);
            self.schedule(early, Coming::Timer(timer.clone()));
        }
        self.schedule(at + late, Coming::Timer(timer));
    }

    fn work(&mut self, machine: usize, of: u64, work: &Work) {
        let tied = match work {
            Work::Build(_) => self.machines[machine].instance == of,
            Work::Eval(_) | Work::Realise(..) => self.machines[machine].has_session(Session(of)),
        };
        if !tied {
            return;
        }
        let reachable = self.machines.iter().filter(|machine| machine.reachable);
        let peers = reachable.map(|machine| machine.store).fold(self.machines[machine].store, Contents::and);
        let Self { world, profile, random, .. } = self;
        let mut around = Surroundings { world, profile, random, peers };
        let done = self.machines[machine].work(work, &mut around);
        for (number, event) in done.reports {
            self.report(machine, number, event);
        }
        if done.more {
            let ms = self.random.below(self.profile.work_ms);
            self.after(ms, Coming::Work { machine, of, work: work.clone() });
        }
    }
}
