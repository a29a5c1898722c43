//! Random fleets in trouble, with workers that go away and come back, orders, and restarts of the coordinator.

use super::*;

/// A small generator: the same seed plays the same.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    /// Below `sides`.
    pub(super) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.roll(100) < percent
    }

    fn pick<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        (!all.is_empty()).then(|| all[self.roll(all.len())].clone())
    }
}

const WORKERS: u64 = 4;

/// A stage where anything may happen next.
pub(super) struct Trouble {
    pub(super) stage: Stage,
    dice: Dice,
    runs: u64,
    told: BTreeSet<crate::DrvPath>,
}

impl Trouble {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let config = FleetConfig {
            away_ms: [0, 50, 500][dice.roll(3)],
            contended_ms: 20,
            quarantine_after: dice.roll(3),
            quarantine_rest_ms: 100,
            remember_failures: dice.roll(4),
            max_workers: 3 + dice.roll(3),
            unplaceable_after_ms: [0, 400][dice.roll(2)],
            finished_runs: 2,
            ..FleetConfig::default()
        };
        let mut stage = Stage::new(config);
        stage.check_every = 16;
        Self { stage, dice, runs: 0, told: BTreeSet::new() }
    }

    /// Steps s0…s15, each needing some before it; the last `tops` are toplevels.
    fn evaluated(&mut self) -> Evaluated {
        let top = 12 + self.dice.roll(4);
        let mut wanted = vec![top];
        let mut at = 0;
        while let Some(number) = wanted.get(at).copied() {
            at += 1;
            wanted.extend(inputs(number));
        }
        wanted.sort_unstable();
        wanted.dedup();
        let steps: Vec<NewStep> = wanted.into_iter().map(numbered).collect();
        let mut evaluated = wants(&steps);
        evaluated.new_steps.retain(|step| self.told.insert(step.drv.clone()));
        evaluated
    }

    fn submit(&mut self) {
        self.runs += 1;
        let limits = StepLimits { timeout_s: self.dice.chance(30).then_some(5), ..StepLimits::default() };
        let retry = self.dice.chance(40);
        let request = RunRequest {
            on_failure: if self.dice.chance(20) { OnFailure::FailFast } else { OnFailure::KeepGoing },
            goal: if self.dice.chance(10) { Goal::Plan } else { Goal::Build },
            earlier_failures: if retry { EarlierFailures::Retry } else { EarlierFailures::Believe },
            limits,
            ..build(self.dice.chance(30).then_some(BEFORE))
        };
        self.stage.submit(RunId(self.runs), request);
    }

    fn answer_eval(&mut self) {
        let jobs: Vec<_> = self.stage.evals.iter().map(|(job, eval)| (*job, eval.clone())).collect();
        let Some((job, (worker, epoch, _, task))) = self.dice.pick(&jobs) else { return };
        let say = |stage: &mut Stage, report| {
            stage.apply(Event::EvalReported { worker, job, epoch, report });
        };
        if self.dice.chance(10) {
            self.stage.evals.remove(&job);
            let failure = failure(FailureCode::Infrastructure, "no memory");
            say(&mut self.stage, EvalReport::Finished { failure: Some(failure), unstarted: Vec::new() });
            return;
        }
        match task {
            EvalTask::Discover(_) => {
                self.stage.evals.remove(&job);
                let hosts = ["a", "b", "c"].map(host).to_vec();
                say(&mut self.stage, EvalReport::Discovered(hosts));
            }
            EvalTask::Hosts(hosts) => {
                self.stage.evals.remove(&job);
                for host in hosts {
                    let evaluated = self.evaluated();
                    let mut say =
                        |report| self.stage.apply(Event::EvalReported { worker, job, epoch, report });
                    say(EvalReport::HostStarted(host.clone()));
                    say(EvalReport::HostEvaluated { host, result: Ok(evaluated) });
                }
                let over = EvalReport::Finished { failure: None, unstarted: Vec::new() };
                self.stage.apply(Event::EvalReported { worker, job, epoch, report: over });
            }
        }
    }

    fn end_lease(&mut self, good: bool) {
        let leases: Vec<_> = self.stage.leases.iter().map(|(id, lease)| (*id, lease.clone())).collect();
        let Some((lease, (worker, epoch, steps))) = self.dice.pick(&leases) else { return };
        if !self.stage.sessions.contains_key(&worker) {
            return;
        }
        self.stage.leases.remove(&lease);
        if !good && self.dice.chance(8) {
            self.stage.apply(Event::LeaseFinished { worker, lease, epoch });
            return;
        }
        let classes = [
            FailureClass::BuildFailed,
            FailureClass::TimedOut,
            FailureClass::Transient,
            FailureClass::Infrastructure,
            FailureClass::Placement,
            FailureClass::InputMissing,
            FailureClass::DiskFull,
        ];
        for step in steps {
            let outcome = match self.dice.pick(&classes) {
                Some(class) if !good && self.dice.chance(40) => failed(class),
                _ => StepOutcome::Built(vec![("out".into(), "out".into())]),
            };
            let report = StepReport::Ended { outcome, duration_ms: 3, output_bytes: 0, missing: Vec::new() };
            self.stage.apply(Event::StepReported { worker, lease, epoch, drv: step.drv, report });
        }
    }

    fn realise(&mut self, good: bool) {
        let Some((job, (worker, epoch, _))) = self.stage.realises.pop_first() else { return };
        let lost = || failure(FailureCode::Transfer, "the substituter is away");
        let result = if good || self.dice.chance(80) { Ok(()) } else { Err(lost()) };
        self.stage.apply(Event::Realised { worker, job, epoch, result, missing: Vec::new() });
    }

    fn part(&mut self, worker: WorkerId) {
        if self.stage.sessions.contains_key(&worker) {
            self.forget_jobs(worker);
            self.stage.part(worker);
            self.stage.sessions.remove(&worker);
        }
    }

    fn forget_jobs(&mut self, worker: WorkerId) {
        self.stage.evals.retain(|_, (holder, ..)| *holder != worker);
        self.stage.realises.retain(|_, (holder, ..)| *holder != worker);
    }

    /// A worker comes: with all it has, with some of it, or with what it never had.
    fn join(&mut self, worker: WorkerId, good: bool) {
        let held = self.stage.leases.iter().filter(|(_, (holder, ..))| *holder == worker);
        let mut holds: Vec<_> = held.map(|(lease, (_, epoch, _))| (*lease, *epoch)).collect();
        if !good {
            holds.retain(|_| self.dice.chance(70));
            if self.dice.chance(20) {
                holds.push((LeaseId(3), Epoch(3)));
            }
        }
        let instance = if good || self.dice.chance(70) { "first" } else { "second" };
        let boot = if good || self.dice.chance(80) { "boot" } else { "again" };
        let hello = WorkerHello {
            slots: 2,
            instance: instance.into(),
            boot: boot.into(),
            mandatory_features: if worker == WorkerId(3) { vec!["kvm".into()] } else { Vec::new() },
            features: vec!["kvm".into()],
            ..hello(worker)
        };
        let (leases, evals, realises) =
            (self.stage.leases.clone(), self.stage.evals.clone(), self.stage.realises.clone());
        self.forget_jobs(worker);
        let kept = |lease: &LeaseId, epoch: &Epoch| holds.contains(&(*lease, *epoch));
        self.stage.leases.retain(|lease, (holder, epoch, _)| *holder != worker || kept(lease, epoch));
        let session = self.stage.join_with(worker, hello, &holds);
        if self.stage.sessions.get(&worker) != Some(&session) {
            // The older session goes on, with all it had.
            self.stage.leases.extend(leases);
            self.stage.evals.extend(evals);
            self.stage.realises.extend(realises);
        }
    }

    fn cut_ended(&mut self) {
        for (worker, session, _) in std::mem::take(&mut self.stage.ended) {
            if self.stage.sessions.get(&worker) == Some(&session) {
                self.forget_jobs(worker);
                self.stage.sessions.remove(&worker);
            }
        }
        let cancelled = std::mem::take(&mut self.stage.cancelled);
        self.stage.leases.retain(|lease, _| !cancelled.contains(lease));
    }

    fn order(&mut self) {
        let worker = WorkerId(self.dice.roll(4) as u64 + 1);
        let orders = [WorkerOrder::Drain, WorkerOrder::Resume, WorkerOrder::Resume, WorkerOrder::Revoke];
        let order = orders[self.dice.roll(orders.len())];
        if order == WorkerOrder::Revoke && (worker == WORKER || !self.dice.chance(50)) {
            return;
        }
        let name = format!("w{worker}").into();
        self.stage.apply(Event::WorkerOrdered { worker, name, order, reason: "so".into() });
    }

    fn hear(&mut self, good: bool) {
        for (worker, session) in self.stage.sessions.clone() {
            let unwell = (!good && self.dice.chance(20)).then(|| "the disk is full".into());
            self.stage.apply(Event::WorkerHeard {
                worker,
                session,
                load: Load { unwell, ..Load::default() },
            });
        }
    }

    /// The coordinator dies and starts again.
    pub(super) fn restart(&mut self) {
        self.stage.check_restored();
        self.stage.fleet = self.stage.restored();
        self.stage.sessions.clear();
        self.stage.evals.clear();
        self.stage.realises.clear();
        self.stage.timers.clear();
        let epoch_floor = Epoch(self.dice.roll(200) as u64);
        self.stage.apply(Event::Restarted { epoch_floor });
    }

    fn condense(&mut self) {
        if let Some(records) = self.stage.fleet.condense() {
            self.stage.records = records;
            self.stage.fleet = self.stage.restored();
            self.told.clear();
        }
    }

    fn cancel(&mut self) {
        let run = RunId(self.dice.roll(5) as u64 + 1);
        self.stage.apply(Event::RunCancelled { run });
    }

    pub(super) fn act(&mut self) {
        let worker = WorkerId(self.dice.roll(4) as u64 + 1);
        match self.dice.roll(100) {
            0..3 => self.submit(),
            3..25 => self.answer_eval(),
            25..60 => self.end_lease(false),
            60..70 => self.realise(false),
            70..75 => self.part(worker),
            75..85 => self.join(worker, false),
            85..88 => self.hear(false),
            88..90 => self.order(),
            90..91 => self.cancel(),
            91..93 => self.restart(),
            93..95 => self.condense(),
            _ => self.stage.fire_timers(),
        }
        self.cut_ended();
    }

    /// Nothing fails any more.
    pub(super) fn heal(&mut self) {
        for round in 0..400 {
            if self.stage.fleet.view().runs.iter().all(|run| run.finished.is_some()) {
                return;
            }
            for worker in (1..=WORKERS).map(WorkerId).filter(|_| round % 8 == 0) {
                let name = format!("w{worker}").into();
                let order = WorkerOrder::Resume;
                self.stage.apply(Event::WorkerOrdered { worker, name, order, reason: "".into() });
                if !self.stage.sessions.contains_key(&worker) {
                    self.join(worker, true);
                }
                self.cut_ended();
            }
            self.hear(true);
            for _ in 0..4 {
                self.answer_eval();
                self.end_lease(true);
                self.realise(true);
                self.cut_ended();
            }
            self.stage.fire_timers();
            self.cut_ended();
        }
        panic!("it does not come to rest: {:?}", self.stage.fleet.view());
    }
}

fn inputs(number: usize) -> Vec<usize> {
    (0..3).map(|way| (number * 7 + way * 5) % 16).filter(|input| *input < number).collect()
}

fn numbered(number: usize) -> NewStep {
    let inputs: Vec<String> = inputs(number).iter().map(|input| format!("s{input}")).collect();
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let features = if number.is_multiple_of(3) { vec!["kvm".into()] } else { Vec::new() };
    NewStep { features, fixed_output: number == 1, ..step(&format!("s{number}"), &inputs) }
}
