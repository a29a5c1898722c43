//! What the core promises, one promise a test, told through events and effects only.

mod building;
mod disks;
mod earlier;
mod evaluating;
mod failing;
mod hints;
mod losing;
mod placing;
mod random;
mod restoring;
mod sessions;
mod sharing;
mod standing;
mod why;

use std::collections::{BTreeMap, BTreeSet};

use crate::effect::*;
use crate::event::*;
use crate::{
    Decision, Epoch, EvalJobId, Fleet, FleetConfig, Host, HostKind, LeaseId, RealiseJobId, Record, RunId,
    SourceId, Time,
};
use crate::{Session, Side, Target, WorkerId, invariant};

const RUN: RunId = RunId(1);
const WORKER: WorkerId = WorkerId(1);
const BEFORE: SourceId = SourceId([1; 32]);
const AFTER: SourceId = SourceId([2; 32]);

/// A fleet with everything it ever said, and what is due from its workers.
struct Stage {
    fleet: Fleet,
    now: u64,
    effects: Vec<Effect>,
    evals: BTreeMap<EvalJobId, (WorkerId, Epoch, SourceId, EvalTask)>,
    leases: BTreeMap<LeaseId, (WorkerId, Epoch, Vec<LeasedStep>)>,
    realises: BTreeMap<RealiseJobId, (WorkerId, Epoch, String)>,
    timers: Vec<(Timer, Time)>,
    cancelled: BTreeSet<LeaseId>,
    /// What was recorded: the fleet can be made of it again at any time.
    records: Vec<Record>,
    sessions: BTreeMap<WorkerId, Session>,
    ended: Vec<(WorkerId, Session, SessionEnd)>,
    events: usize,
    check_every: usize,
    /// Events with their effects, once they are asked for.
    script: Option<Vec<(Time, Event, Vec<Effect>)>>,
}

impl Stage {
    fn new(config: FleetConfig) -> Self {
        Self {
            fleet: Fleet::new(config),
            now: 0,
            effects: Vec::new(),
            evals: BTreeMap::new(),
            leases: BTreeMap::new(),
            realises: BTreeMap::new(),
            timers: Vec::new(),
            cancelled: BTreeSet::new(),
            records: Vec::new(),
            sessions: BTreeMap::new(),
            ended: Vec::new(),
            events: 0,
            check_every: 1,
            script: None,
        }
    }

    /// With one worker that can do everything with these slots.
    fn with_worker(slots: u32) -> Self {
        let mut stage = Self::new(plain());
        stage.join(WORKER, slots, 1);
        stage
    }

    fn apply(&mut self, event: Event) -> Vec<Effect> {
        self.now += 1;
        let effects = self.fleet.apply(Time(self.now), event.clone());
        if let Some(script) = &mut self.script {
            script.push((Time(self.now), event, effects.clone()));
        }
        invariant::check(&self.fleet).unwrap();
        for effect in &effects {
            match effect.clone() {
                Effect::Send(worker, Command::StartEval { job, epoch, source, task }) => {
                    self.evals.insert(job, (worker, epoch, source, task));
                }
                Effect::Send(worker, Command::StartLease { lease, epoch, steps }) => {
                    self.leases.insert(lease, (worker, epoch, steps));
                }
                Effect::Send(worker, Command::Realise { job, epoch, path, .. }) => {
                    self.realises.insert(job, (worker, epoch, path.to_string()));
                }
                Effect::Send(_, Command::CancelLease { lease, .. }) => {
                    self.cancelled.insert(lease);
                }
                Effect::Send(worker, Command::EndSession { session, end }) => {
                    self.ended.push((worker, session, end));
                }
                Effect::Arm(timer, at) => self.timers.push((timer, at)),
                Effect::Append(record) => self.records.push(record),
                _ => {}
            }
        }
        self.events += 1;
        if self.events.is_multiple_of(self.check_every) {
            self.check_restored();
        }
        self.effects.extend(effects.clone());
        effects
    }

    /// The same fleet again, of what was recorded, as a journal gives it back.
    fn restored(&self) -> Fleet {
        let read = |record: &Record| {
            let written = serde_json::to_string(record).unwrap();
            let read: Record = serde_json::from_str(&written).unwrap();
            assert_eq!(read, *record);
            read
        };
        let (config, sabotage) = (self.fleet.config.clone(), self.fleet.sabotage);
        Fleet::restore_sabotaged(config, self.records.iter().map(read), sabotage).unwrap()
    }

    fn check_restored(&self) {
        assert_eq!(
            format!("{:?}", self.restored()),
            format!("{:?}", self.fleet),
            "what is restored is what was"
        );
    }

    fn join(&mut self, worker: WorkerId, slots: u32, eval_slots: u32) {
        self.join_as(worker, &["x86_64-linux"], &[], slots, eval_slots);
    }

    fn join_as(
        &mut self,
        worker: WorkerId,
        systems: &[&str],
        features: &[&str],
        slots: u32,
        eval_slots: u32,
    ) {
        let hello = WorkerHello {
            systems: systems.iter().map(|system| (*system).into()).collect(),
            features: features.iter().map(|feature| (*feature).into()).collect(),
            slots,
            eval_slots,
            ..hello(worker)
        };
        self.join_with(worker, hello, &[]);
    }

    /// Opens a session; answers which.
    fn join_with(&mut self, worker: WorkerId, hello: WorkerHello, holds: &[(LeaseId, Epoch)]) -> Session {
        let session = Session(self.sessions.values().map(|session| session.0).max().unwrap_or(0) + 1);
        let effects = self.apply(Event::WorkerJoined { worker, session, hello, holds: holds.to_vec() });
        let refused = |effect: &Effect| matches!(effect, Effect::Send(_, Command::EndSession { session: ended, .. }) if *ended == session);
        if !effects.iter().any(refused) {
            self.sessions.insert(worker, session);
        }
        session
    }

    fn submit(&mut self, run: RunId, request: RunRequest) {
        self.apply(Event::RunSubmitted { run, request });
    }

    /// Answers the oldest eval job, which must be a discovery.
    fn discover(&mut self, names: &[&str]) {
        let (job, (worker, epoch, ..)) = self.evals.pop_first().expect("a discovery is due");
        let report = EvalReport::Discovered(names.iter().copied().map(host).collect());
        self.apply(Event::EvalReported { worker, job, epoch, report });
    }

    /// Reports on the eval job that has this host of this tree.
    fn evaluate(&mut self, source: SourceId, name: &str, result: Result<Evaluated, Failure>) {
        let has = |task: &EvalTask| matches!(task, EvalTask::Hosts(hosts) if hosts.contains(&host(name)));
        let job = self.evals.iter().find(|(_, (_, _, of, task))| *of == source && has(task));
        let (job, (worker, epoch, ..)) = job.expect("the host is being evaluated");
        let (worker, job, epoch) = (*worker, *job, *epoch);
        self.apply(Event::EvalReported { worker, job, epoch, report: EvalReport::HostStarted(host(name)) });
        let report = EvalReport::HostEvaluated { host: host(name), result };
        self.apply(Event::EvalReported { worker, job, epoch, report });
    }

    /// One run over one tree with these hosts, each evaluated as given.
    fn run(&mut self, run: RunId, hosts: &[(&str, Evaluated)]) {
        self.submit(run, build(None));
        self.discover(&hosts.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        for (name, evaluated) in hosts {
            self.evaluate(AFTER, name, Ok(evaluated.clone()));
        }
        self.finish_evals();
    }

    fn finish_evals(&mut self) {
        for (job, (worker, epoch, ..)) in std::mem::take(&mut self.evals) {
            let report = EvalReport::Finished { failure: None, unstarted: Vec::new() };
            self.apply(Event::EvalReported { worker, job, epoch, report });
        }
    }

    /// Names of what is leased now, in the order of the leases.
    fn leased(&self) -> Vec<String> {
        self.leases.values().flat_map(|(_, _, steps)| steps).map(|step| name_of(step.drv.as_str())).collect()
    }

    fn lease_of(&self, name: &str) -> LeaseId {
        let drv = drv(name);
        let lease = self.leases.iter().find(|(_, (_, _, steps))| steps.iter().any(|step| step.drv == drv));
        *lease.unwrap_or_else(|| panic!("{name} is leased: {:?}", self.leases)).0
    }

    /// Ends the lease of a step.
    fn end(&mut self, name: &str, outcome: StepOutcome) -> Vec<Effect> {
        self.end_with(name, outcome, 0, &[])
    }

    /// Ends the lease of a step that made so much, or misses these.
    fn end_with(
        &mut self,
        name: &str,
        outcome: StepOutcome,
        output_bytes: u64,
        missing: &[&str],
    ) -> Vec<Effect> {
        let lease = self.lease_of(name);
        let (worker, epoch, _) = self.leases.remove(&lease).unwrap();
        let missing = missing.iter().map(|path| (*path).into()).collect();
        let report = StepReport::Ended { outcome, duration_ms: 5, output_bytes, missing };
        let drv = drv(name);
        let effects = self.apply(Event::StepReported { worker, lease, epoch, drv, report });
        assert!(self.apply(Event::LeaseFinished { worker, lease, epoch }).is_empty(), "it is over already");
        effects
    }

    fn built(&mut self, name: &str) -> Vec<Effect> {
        self.end(name, StepOutcome::Built(vec![("out".into(), format!("{name}-out").into())]))
    }

    /// Builds and realises all there is.
    fn build_all(&mut self) {
        while let Some(name) = self.leased().first().cloned() {
            self.built(&name);
        }
        self.realise_all();
    }

    fn realise_all(&mut self) {
        while let Some((job, (worker, epoch, _))) = self.realises.pop_first() {
            self.apply(Event::Realised { worker, job, epoch, result: Ok(()), missing: Vec::new() });
        }
    }

    fn lose(&mut self, worker: WorkerId) {
        self.leases.retain(|_, (holder, ..)| *holder != worker);
        self.evals.retain(|_, (holder, ..)| *holder != worker);
        self.realises.retain(|_, (holder, ..)| *holder != worker);
        self.part(worker);
    }

    /// A session ends; the worker keeps what it has.
    fn part(&mut self, worker: WorkerId) {
        let session = self.sessions[&worker];
        self.apply(Event::WorkerLost { worker, session });
    }

    /// Fires all timers that are armed, at their time, but for the deadlines of runs.
    fn fire_timers(&mut self) {
        self.fire(|timer| !matches!(timer, Timer::RunDeadline(_)));
    }

    fn fire(&mut self, which: impl Fn(&Timer) -> bool) {
        let (due, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.timers).into_iter().partition(|(timer, _)| which(timer));
        self.timers = rest;
        for (timer, at) in due {
            self.now = self.now.max(at.0);
            self.apply(Event::TimerFired { timer });
        }
    }

    fn settled(&self, run: RunId) -> BTreeMap<(String, Side), Settled> {
        let settled = self.effects.iter().filter_map(|effect| match effect {
            Effect::Notify(of, Notice::TargetSettled { target, settled }) if *of == run => {
                Some(((target.host.name.to_string(), target.side), settled.clone()))
            }
            _ => None,
        });
        settled.collect()
    }

    fn status(&self, run: RunId, name: &str, side: Side) -> Option<TargetStatus> {
        self.settled(run).get(&(name.into(), side)).map(|settled| settled.status)
    }

    fn finished(&self, run: RunId) -> Option<Finished> {
        let mut finished = self.effects.iter().filter_map(|effect| match effect {
            Effect::Notify(of, Notice::Finished(finished)) if *of == run => Some(finished.clone()),
            _ => None,
        });
        let first = finished.next();
        assert!(finished.next().is_none(), "a run ends once");
        first
    }

    /// Step ends a run was told of, as name and status.
    fn ends(&self, run: RunId) -> Vec<(String, StepStatus)> {
        let ends = self.effects.iter().filter_map(|effect| match effect {
            Effect::Notify(of, Notice::StepFinished { drv, status, .. }) if *of == run => {
                Some((name_of(drv.as_str()), *status))
            }
            _ => None,
        });
        ends.collect()
    }
}

/// Settings under which workers are lost at once and nothing outlives its run.
fn plain() -> FleetConfig {
    FleetConfig { away_ms: 0, quarantine_after: 0, remember_failures: 0, ..FleetConfig::default() }
}

/// A worker that can do everything.
fn hello(worker: WorkerId) -> WorkerHello {
    WorkerHello {
        name: format!("w{worker}").into(),
        systems: vec!["x86_64-linux".into()],
        slots: 1,
        eval_slots: 1,
        instance: "first".into(),
        boot: "boot".into(),
        ..WorkerHello::default()
    }
}

fn host(name: &str) -> Host {
    Host { name: name.into(), kind: HostKind::Nixos }
}

fn drv(name: &str) -> crate::DrvPath {
    format!("{name}.drv").into()
}

fn name_of(drv: &str) -> String {
    drv.strip_suffix(".drv").unwrap_or(drv).into()
}

/// Builds all NixOS hosts of `AFTER`, and of `before` if given.
fn build(before: Option<SourceId>) -> RunRequest {
    RunRequest {
        before,
        after: AFTER,
        selection: Selection { hosts: Vec::new(), excludes: Vec::new(), kinds: vec![HostKind::Nixos] },
        on_failure: OnFailure::KeepGoing,
        goal: Goal::Build,
        earlier_failures: EarlierFailures::default(),
        limits: StepLimits::default(),
    }
}

/// A step with one output that needs these.
fn step(name: &str, inputs: &[&str]) -> NewStep {
    NewStep {
        drv: drv(name),
        name: name.into(),
        outputs: vec![format!("{name}-out").into()],
        system: "x86_64-linux".into(),
        features: Vec::new(),
        inputs: inputs.iter().map(|input| drv(input)).collect(),
        fixed_output: false,
        prefer_local: false,
    }
}

/// The last of these steps is the toplevel; all must be built.
fn wants(steps: &[NewStep]) -> Evaluated {
    let top = steps.last().expect("there is a toplevel");
    Evaluated {
        drv: top.drv.clone(),
        toplevel: top.outputs.first().cloned(),
        wanted: steps.iter().map(|step| step.drv.clone()).collect(),
        new_steps: steps.to_vec(),
        substitutable_new: 0,
    }
}

/// A toplevel that is there, or comes from a substituter.
fn there(name: &str) -> Evaluated {
    Evaluated {
        drv: drv(name),
        toplevel: Some(format!("{name}-out").into()),
        wanted: Vec::new(),
        new_steps: Vec::new(),
        substitutable_new: 7,
    }
}

fn failure(code: FailureCode, cause: &str) -> Failure {
    Failure { code, cause: cause.into(), detail: format!("log of {cause}").into(), drv: None }
}

fn failed(class: FailureClass) -> StepOutcome {
    StepOutcome::Failed(class, failure(FailureCode::BuildFailed, "builder failed"))
}
