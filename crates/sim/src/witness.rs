//! A witness that sees every event and effect, and objects when they break a promise.
//!
//! Keeps its own books, made only from what it saw: it shares no code with the core. What it knows beyond
//! the core is the truth: which machine really has what, and what really fails.

mod orders;
mod runs;
mod stores;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fleet_core::view::FleetView;
use fleet_core::{
    Effect, Epoch, EvalJobId, EvalReport, Event, FleetConfig, Host, LeaseId, RealiseJobId, RunId,
    StepOutcome, StepReport, System, Time, Timer, WorkerId,
};

use crate::contents::Contents;
use crate::machine::Machine;
use crate::profile::Profile;
use crate::world::World;

use runs::RunBook;
use stores::Ended;
use workers::Member;

/// The books.
#[derive(Debug)]
pub(crate) struct Witness {
    calm: bool,
    config: FleetConfig,
    now: Time,
    /// What was valid everywhere in a calm world before anything was built.
    pub(crate) initial: Contents,
    workers: BTreeMap<WorkerId, Member>,
    leases: BTreeMap<LeaseId, Lease>,
    /// Leases that the worker which just joined has, and should not.
    stale: BTreeSet<LeaseId>,
    /// Contents that were being built when nobody wanted them any more.
    withdrawn: Contents,
    evals: BTreeMap<EvalJobId, Eval>,
    /// With the run and the node of the toplevel.
    realises: BTreeMap<RealiseJobId, Grant<(RunId, Option<usize>)>>,
    /// Attempts of each content so far, and whether the last one runs.
    attempts: BTreeMap<usize, (u32, bool)>,
    /// Contents that a worker which may come back reported to have.
    holders: BTreeMap<usize, WorkerId>,
    /// Contents that some machine lost at some time.
    collected: Contents,
    /// Events so far.
    events: usize,
    /// With which event each content was last made.
    made: BTreeMap<usize, usize>,
    /// Contents that the core was told of.
    described: Contents,
    /// Contents that are lost and not made again yet, and those of them that this event lost.
    lost: Contents,
    just_lost: Contents,
    /// Contents that were ever taken to be lost: nobody looked whether what they are made of is there.
    missed: Contents,
    /// How large outputs were when they were last built.
    sizes: BTreeMap<(Arc<str>, System), u64>,
    /// Bytes that are kept for contents while they are leased.
    reserved: BTreeMap<usize, u64>,
    /// Whether what was built was ever forgotten.
    condensed: bool,
    runs: BTreeMap<RunId, RunBook>,
    /// Runs that came when all was well.
    late: BTreeSet<RunId>,
    last_epoch: Option<Epoch>,
    pub(crate) runs_over: usize,
    pub(crate) leases_sent: usize,
    pub(crate) sessions: usize,
    /// Lost contents that were leased again.
    pub(crate) remade: usize,
    pub(crate) hints: usize,
}

/// A right that one worker has.
#[derive(Debug)]
struct Grant<T> {
    worker: WorkerId,
    epoch: Epoch,
    /// The event with which it was granted.
    since: usize,
    what: T,
}

/// With the contents not reported yet.
type Lease = Grant<BTreeSet<usize>>;
/// With the hosts not answered yet; none for a discovery.
type Eval = Grant<Option<BTreeSet<Host>>>;

/// What an event's effects are judged by.
struct Scene<'a> {
    world: &'a World,
    machines: &'a [Machine],
    collected: Contents,
}

impl Scene<'_> {
    /// Whether a content can be had at all, as far as the truth is known.
    fn has(&self, content: usize) -> bool {
        self.collected.and(self.world.substitutable).contains(content)
            || self.machines.iter().any(|machine| machine.store.contains(content))
    }
}

/// Fails unless `kept`.
fn hold(kept: bool, promise: &str, detail: impl FnOnce() -> String) -> Result<(), String> {
    if kept { Ok(()) } else { Err(format!("{promise}: {}", detail())) }
}

impl Witness {
    pub(crate) fn new(profile: &Profile) -> Self {
        Self {
            calm: profile.calm,
            config: profile.config.clone(),
            now: Time(0),
            initial: Contents::default(),
            workers: BTreeMap::new(),
            leases: BTreeMap::new(),
            stale: BTreeSet::new(),
            withdrawn: Contents::default(),
            evals: BTreeMap::new(),
            realises: BTreeMap::new(),
            attempts: BTreeMap::new(),
            holders: BTreeMap::new(),
            collected: Contents::default(),
            events: 0,
            made: BTreeMap::new(),
            described: Contents::default(),
            lost: Contents::default(),
            just_lost: Contents::default(),
            missed: Contents::default(),
            sizes: BTreeMap::new(),
            reserved: BTreeMap::new(),
            condensed: false,
            runs: BTreeMap::new(),
            late: BTreeSet::new(),
            last_epoch: None,
            runs_over: 0,
            leases_sent: 0,
            sessions: 0,
            remade: 0,
            hints: 0,
        }
    }

    pub(crate) fn collected(&mut self, contents: Contents) {
        self.collected = self.collected.and(contents);
    }

    /// What was built is forgotten, and how often it was tried.
    pub(crate) fn condensed(&mut self) {
        self.condensed = true;
        self.attempts.clear();
        self.holders.clear();
        self.made.clear();
        (self.described, self.lost) = (Contents::default(), Contents::default());
    }

    /// Whether nobody wants anything.
    pub(crate) fn is_idle(&self) -> bool {
        self.runs.values().all(RunBook::is_over)
    }

    /// This run comes when all is well.
    pub(crate) fn late(&mut self, run: RunId) {
        self.late.insert(run);
    }

    /// Judges what the core did about an event.
    pub(crate) fn event(
        &mut self,
        now: Time,
        world: &World,
        machines: &[Machine],
        event: &Event,
        effects: &[Effect],
    ) -> Result<(), String> {
        self.now = now;
        self.events += 1;
        self.stale.clear();
        self.just_lost = Contents::default();
        if let Event::WorkerJoined { worker, session, hello, holds } = event {
            self.joined(now, (*worker, *session), hello, holds, effects)?;
        }
        let refused = !self.take_in(world, event);
        hold(!refused || effects.is_empty(), "a report from no current holder changes nothing", || {
            format!("{event:?} had {effects:?}")
        })?;
        self.measured(event, effects);
        self.forgive(effects);
        let scene = Scene { world, machines, collected: self.collected };
        for run in self.runs.values_mut() {
            run.begin_event();
        }
        for effect in effects {
            match effect {
                Effect::Append(record) => self.record(&scene, record)?,
                Effect::Send(worker, command) => self.command(&scene, *worker, command)?,
                Effect::Notify(run, notice) => self.notice(&scene, *run, notice)?,
                Effect::Arm(..) => {}
            }
        }
        self.runs.values().try_for_each(RunBook::end_event)
    }

    /// Enters what an event says. False if it is a report that must be refused.
    fn take_in(&mut self, world: &World, event: &Event) -> bool {
        match event {
            Event::RunSubmitted { run, request } => {
                self.runs.entry(*run).or_insert_with(|| RunBook::new(request.clone()));
            }
            Event::RunCancelled { run } => {
                if let Some(run) = self.runs.get_mut(run) {
                    run.may_cancel = true;
                }
            }
            Event::Restarted { .. } => self.restarted(self.now),
            Event::WorkerHeard { worker, session, load } => {
                self.heard(self.now, *worker, *session, load.unwell.is_some());
            }
            Event::WorkerOrdered { worker, order, .. } => self.ordered(*worker, *order),
            Event::WorkerLost { worker, session } => self.lost(self.now, *worker, *session),
            Event::EvalReported { worker, job, epoch, report } => {
                // Definitions are facts whoever brings them; they may even make something ready.
                let facts = matches!(report, EvalReport::HostEvaluated { result: Ok(told), .. }
                    if !told.new_steps.is_empty());
                if let EvalReport::HostEvaluated { result: Ok(told), .. } = report {
                    self.described(world, &told.wanted);
                }
                return self.eval_reported(*worker, *job, *epoch, report) || facts;
            }
            Event::StepReported { worker, lease, epoch, drv, report } => {
                let Some(held) = current(&mut self.leases, lease, *worker, *epoch) else { return false };
                let ended = world.node_of(drv).map(|node| Ended {
                    node,
                    content: world.nodes[node].content,
                    since: held.since,
                });
                let StepReport::Ended { outcome, .. } = report else { return true };
                let Some(ended) = ended.filter(|ended| held.what.remove(&ended.content)) else {
                    return false;
                };
                let content = ended.content;
                if held.what.is_empty() {
                    self.leases.remove(lease);
                }
                if let StepOutcome::Built(_) | StepOutcome::AlreadyValid(_) = outcome {
                    self.holders.insert(content, *worker);
                }
                self.stored(world, *worker, &ended, report);
                self.reflects(*worker, content, outcome);
            }
            Event::LeaseFinished { worker, lease, epoch } => {
                if current(&mut self.leases, lease, *worker, *epoch).is_none() {
                    return false;
                }
                for content in self.leases.remove(lease).map(|lease| lease.what).unwrap_or_default() {
                    self.strike(*worker, content);
                }
            }
            Event::Realised { worker, job, epoch, missing, .. } => {
                let held = current(&mut self.realises, job, *worker, *epoch);
                let Some((since, top)) = held.map(|held| (held.since, held.what.1)) else { return false };
                self.realises.remove(job);
                if let Some(top) = top {
                    self.loses(world, top, true, since, missing);
                }
            }
            Event::TimerFired { timer: Timer::WorkerAway(worker, session) } => {
                self.stayed_away(self.now, *worker, *session);
            }
            Event::TimerFired { timer: Timer::Canary(worker) } => self.rested(self.now, *worker),
            Event::WorkerJoined { .. } | Event::TimerFired { .. } => {}
        }
        true
    }

    fn eval_reported(&mut self, worker: WorkerId, job: EvalJobId, epoch: Epoch, report: &EvalReport) -> bool {
        let Some(eval) = current(&mut self.evals, &job, worker, epoch) else { return false };
        match (report, &mut eval.what) {
            (EvalReport::Discovered(_), None) | (EvalReport::Finished { .. }, _) => {
                self.evals.remove(&job);
                true
            }
            (EvalReport::HostStarted(host), Some(hosts)) => hosts.contains(host),
            (EvalReport::HostEvaluated { host, .. }, Some(hosts)) => hosts.remove(host),
            _ => false,
        }
    }

    /// Judges a fleet to which nothing will happen any more.
    pub(crate) fn rest(&self, view: &FleetView, machines: &[Machine]) -> Result<(), String> {
        let over = self.runs.iter().find(|(_, run)| !run.is_over());
        hold(over.is_none(), "every run ends", || format!("{over:?} {view:?}"))?;
        let open = view.waiting + view.ready + view.delayed + view.leased + view.evals_waiting;
        hold(open == 0, "nothing is left when all runs have ended", || format!("{view:?}"))?;
        let busy = view.workers.iter().find(|worker| worker.leased + worker.evaluating > 0);
        hold(busy.is_none(), "no slot leaks", || format!("{busy:?}"))?;
        let attempt = self.attempts.iter().find(|(_, (_, running))| *running);
        hold(attempt.is_none(), "every attempt ends", || format!("{attempt:?}"))?;
        let mut built = BTreeSet::new();
        let mut all = machines.iter().flat_map(|machine| &machine.built);
        let twice = all.find(|content| !built.insert(**content) && !self.withdrawn.contains(**content));
        let excused = !self.calm || self.condensed;
        hold(excused || twice.is_none(), "an outage of the coordinator has nothing built twice", || {
            format!("{twice:?}")
        })
    }
}

/// The grant of this id, if the report comes from its holder under its epoch.
fn current<'a, K: Ord, T>(
    grants: &'a mut BTreeMap<K, Grant<T>>,
    id: &K,
    worker: WorkerId,
    epoch: Epoch,
) -> Option<&'a mut Grant<T>> {
    grants.get_mut(id).filter(|grant| grant.worker == worker && grant.epoch == epoch)
}
