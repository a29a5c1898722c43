//! A worker as a small state machine: it takes commands, works in pieces, and reports.
//!
//! Owns a store, a process with its builds and its spool, and what one session was told to do. Knows nothing of
//! the core's state; faults come from the profile.

mod labour;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fleet_core::{
    Command, DrvPath, Epoch, EvalJobId, EvalTask, Event, Host, LeaseId, LeasedStep, OutputPath, RealiseJobId,
    Session, SourceId, StepReport, WorkerHello, WorkerId,
};

use crate::contents::Contents;
use crate::profile::Profile;
use crate::random::Random;
use crate::world::World;

/// One machine; its store outlives its processes, and these their sessions.
#[derive(Debug)]
pub(crate) struct Machine {
    hello: WorkerHello,
    /// Contents that are valid here.
    pub(crate) store: Contents,
    /// Contents it built itself, as often as it did.
    pub(crate) built: Vec<usize>,
    /// Contents it refuses to build.
    pub(crate) refuses: Contents,
    boot: u64,
    /// Which start of its process this is.
    pub(crate) instance: u64,
    builds: BTreeMap<LeaseId, Build>,
    /// What was not acknowledged, by number.
    spool: BTreeMap<u64, (LeaseId, Epoch, Said)>,
    spooled: u64,
    pub(crate) session: Option<Link>,
    /// Whether others can fetch from it.
    pub(crate) reachable: bool,
    pub(crate) fate: Fate,
    pub(crate) unwell: bool,
}

/// Whether a machine comes back when its session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Returns,
    /// Never again.
    Retired,
    /// It was told that it was revoked, and tries all the same as long as there is trouble.
    Revoked,
}

/// A connection to the coordinator.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) session: Session,
    /// Once it is welcome.
    pub(crate) worker: Option<WorkerId>,
    evals: BTreeMap<EvalJobId, Eval>,
    /// When the last message arrives: the next one arrives no earlier.
    pub(crate) last_arrival: u64,
}

#[derive(Debug)]
struct Eval {
    epoch: Epoch,
    source: SourceId,
    /// None to discover.
    hosts: Option<VecDeque<Host>>,
    started: bool,
}

#[derive(Debug)]
struct Build {
    epoch: Epoch,
    steps: VecDeque<LeasedStep>,
    begun: bool,
}

/// What is said of a lease.
#[derive(Clone, Debug)]
pub(crate) enum Said {
    Step(DrvPath, StepReport),
    Finished,
}

/// A piece of work that comes due.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// Go on with an eval job.
    Eval(EvalJobId),
    /// Go on with a lease.
    Build(LeaseId),
    /// Realise this.
    Realise(RealiseJobId, Epoch, OutputPath),
}

/// What a piece of work came to.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// To be reported at once, with the number in the spool of what is kept until it is acknowledged.
    pub(crate) reports: Vec<(Option<u64>, Event)>,
    pub(crate) more: bool,
}

/// What surrounds a machine while it works.
pub(crate) struct Surroundings<'a> {
    pub(crate) world: &'a World,
    pub(crate) profile: &'a Profile,
    pub(crate) random: &'a mut Random,
    /// Contents that some machine serves.
    pub(crate) peers: Contents,
}

impl Machine {
    pub(crate) fn new(hello: WorkerHello, store: Contents) -> Self {
        Self {
            hello,
            store,
            built: Vec::new(),
            refuses: Contents::default(),
            boot: 0,
            instance: 0,
            builds: BTreeMap::new(),
            spool: BTreeMap::new(),
            spooled: 0,
            session: None,
            reachable: false,
            fate: Fate::Returns,
            unwell: false,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.hello.name
    }

    /// What it says of itself when it connects.
    pub(crate) fn hello(&self) -> WorkerHello {
        WorkerHello {
            boot: format!("boot{}", self.boot).into(),
            instance: format!("instance{}", self.instance).into(),
            ..self.hello.clone()
        }
    }

    /// Leases it works on, or has something to say about.
    pub(crate) fn holds(&self) -> Vec<(LeaseId, Epoch)> {
        let builds = self.builds.iter().map(|(lease, build)| (*lease, build.epoch));
        let spooled = self.spool.values().map(|(lease, epoch, _)| (*lease, *epoch));
        let all: BTreeSet<(LeaseId, Epoch)> = builds.chain(spooled).collect();
        all.into_iter().collect()
    }

    pub(crate) fn connect(&mut self, session: Session) {
        self.reachable = true;
        self.session = Some(Link { session, worker: None, evals: BTreeMap::new(), last_arrival: 0 });
    }

    pub(crate) fn has_session(&self, session: Session) -> bool {
        self.session.as_ref().is_some_and(|link| link.session == session)
    }

    /// Its process died, and another started: what was being built is over.
    pub(crate) fn crash(&mut self, instance: u64) {
        self.session = None;
        self.instance = instance;
        for (lease, build) in std::mem::take(&mut self.builds) {
            self.keep(lease, build.epoch, Said::Finished);
        }
    }

    /// It started again, and knows nothing of what it did.
    pub(crate) fn reboot(&mut self, instance: u64) {
        self.crash(instance);
        self.boot = instance;
        self.spool.clear();
    }

    /// Takes a command and says what to go on with.
    pub(crate) fn obey(&mut self, command: Command) -> Option<Work> {
        let link = self.session.as_mut()?;
        match command {
            Command::StartEval { job, epoch, source, task } => {
                let hosts = match task {
                    EvalTask::Discover(_) => None,
                    EvalTask::Hosts(hosts) => Some(hosts.into()),
                };
                link.evals.insert(job, Eval { epoch, source, hosts, started: false });
                Some(Work::Eval(job))
            }
            Command::CancelEval { job } => {
                link.evals.remove(&job);
                None
            }
            Command::StartLease { lease, epoch, steps } => {
                self.builds.insert(lease, Build { epoch, steps: steps.into(), begun: false });
                Some(Work::Build(lease))
            }
            Command::CancelLease { lease, .. } => {
                self.builds.remove(&lease);
                self.spool.retain(|_, (of, ..)| *of != lease);
                None
            }
            Command::Realise { job, epoch, path, .. } => Some(Work::Realise(job, epoch, path)),
            Command::Prefetch { .. }
            | Command::Drain { .. }
            | Command::Resume
            | Command::EndSession { .. } => None,
        }
    }

    /// Does a piece of work.
    pub(crate) fn work(&mut self, work: &Work, around: &mut Surroundings<'_>) -> Done {
        let worker = self.session.as_ref().and_then(|link| link.worker);
        let (events, more) = match work {
            Work::Build(lease) => {
                let Some(epoch) = self.builds.get(lease).map(|build| build.epoch) else {
                    return Done::default();
                };
                let said = self.build(*lease, around);
                let mut reports = Vec::new();
                for said in said {
                    let event = worker.map(|worker| event(worker, *lease, epoch, said.clone()));
                    let begins = matches!(said, Said::Step(_, StepReport::Begun));
                    let number = (!begins).then(|| self.keep(*lease, epoch, said));
                    reports.extend(event.map(|event| (number, event)));
                }
                return Done { reports, more: self.builds.contains_key(lease) };
            }
            Work::Eval(job) => {
                let Some((epoch, worker)) = self.eval(*job).map(|eval| eval.epoch).zip(worker) else {
                    return Done::default();
                };
                let reports = self.evaluate(*job, around).into_iter();
                let event = |report| Event::EvalReported { worker, job: *job, epoch, report };
                (reports.map(event).collect(), self.eval(*job).is_some())
            }
            Work::Realise(job, epoch, path) => {
                let Some(worker) = worker else { return Done::default() };
                let (result, missing) = self.realise(path, around);
                (vec![Event::Realised { worker, job: *job, epoch: *epoch, result, missing }], false)
            }
        };
        Done { reports: events.into_iter().map(|event| (None, event)).collect(), more }
    }

    /// All that was not acknowledged, as its present session says it.
    pub(crate) fn unacknowledged(&self) -> Vec<(Option<u64>, Event)> {
        let Some(worker) = self.session.as_ref().and_then(|link| link.worker) else { return Vec::new() };
        let again = |(number, (lease, epoch, said)): (&u64, &(LeaseId, Epoch, Said))| {
            (Some(*number), event(worker, *lease, *epoch, said.clone()))
        };
        self.spool.iter().map(again).collect()
    }

    pub(crate) fn acknowledged(&mut self, number: u64) {
        self.spool.remove(&number);
    }

    fn keep(&mut self, lease: LeaseId, epoch: Epoch, said: Said) -> u64 {
        self.spooled += 1;
        self.spool.insert(self.spooled, (lease, epoch, said));
        self.spooled
    }

    fn eval(&mut self, job: EvalJobId) -> Option<&mut Eval> {
        self.session.as_mut()?.evals.get_mut(&job)
    }

    fn end_eval(&mut self, job: EvalJobId) {
        self.session.as_mut().and_then(|link| link.evals.remove(&job));
    }
}

/// What is said of a lease, as the coordinator hears it.
fn event(worker: WorkerId, lease: LeaseId, epoch: Epoch, said: Said) -> Event {
    match said {
        Said::Step(drv, report) => Event::StepReported { worker, lease, epoch, drv, report },
        Said::Finished => Event::LeaseFinished { worker, lease, epoch },
    }
}
