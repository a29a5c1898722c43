//! The state of a run as a fold over its events. Pure: knows neither clock nor screen.

use std::collections::{BTreeMap, BTreeSet};

use fleet_wire::v1::{self, Side, StepStatus, TargetStatus, run_event::Event};

/// Everything the display needs to know of a run.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    hosts: BTreeMap<HostKey, Host>,
    running: Vec<RunningStep>,
    counts: v1::Counts,
    at_ms: u64,
    finished: bool,
    submitted: bool,
    /// On the clock of the display.
    without_contact_since_ms: Option<u64>,
    waits_for: Option<String>,
}

/// Name and kind: two kinds of configuration may share a name.
pub(super) type HostKey = (String, v1::HostKind);

/// One host on the sides it exists on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// In the base.
    pub before: Option<TargetState>,
    /// In the result.
    pub after: Option<TargetState>,
}

/// How far one target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetState {
    /// Equal on both sides.
    Unchanged,
    /// Its toplevel is there, or in a dry run: known.
    Done,
    /// Not begun.
    Waiting,
    /// Stopped on request.
    Cancelled,
    /// Being evaluated.
    Evaluating,
    /// Its steps are being built.
    Building,
    /// It will have no toplevel.
    Failed,
}

/// A step that is being built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningStep {
    /// Its derivation.
    pub drv: String,
    /// The derivation's name.
    pub name: String,
    /// Where.
    pub worker: String,
    /// The builder's phase, if it tells.
    pub phase: String,
    /// Above 1 when it was tried before.
    pub attempt: u32,
    /// On the run's clock.
    pub started_ms: u64,
}

impl Progress {
    /// Takes one event in.
    pub fn apply(&mut self, event: &v1::RunEvent) {
        self.at_ms = self.at_ms.max(event.at_ms);
        match &event.event {
            Some(Event::HostsFound(found)) => {
                for host in &found.hosts {
                    self.set(&host.name, host.kind(), found.side(), TargetState::Waiting);
                }
            }
            Some(Event::TargetStarted(started)) => {
                self.set(&started.host, started.kind(), started.side(), TargetState::Evaluating);
            }
            Some(Event::TargetEvaluated(evaluated)) => {
                self.set(&evaluated.host, evaluated.kind(), evaluated.side(), TargetState::Building);
            }
            Some(Event::TargetSettled(settled)) => {
                self.set(&settled.host, settled.kind(), settled.side(), settled_state(settled.status()));
            }
            Some(Event::StepStarted(started)) => self.start(started, event.at_ms),
            Some(Event::StepPhase(phase)) => {
                if let Some(step) = self.running.iter_mut().find(|step| step.drv == phase.drv) {
                    step.phase.clone_from(&phase.phase);
                }
            }
            Some(Event::StepFinished(finished)) => self.finish(finished),
            Some(Event::Counts(counts)) => self.counts = *counts,
            Some(Event::RunFinished(finished)) => {
                self.finished = true;
                self.running.clear();
                if let Some(counts) = &finished.counts {
                    self.counts = *counts;
                }
            }
            Some(Event::StepLog(_) | Event::PathInfos(_) | Event::Notice(_)) | None => {}
        }
    }

    /// By name.
    pub fn hosts(&self) -> &BTreeMap<HostKey, Host> {
        &self.hosts
    }

    /// The longest running first.
    pub fn running(&self) -> &[RunningStep] {
        &self.running
    }

    /// As last told.
    pub fn counts(&self) -> &v1::Counts {
        &self.counts
    }

    /// Milliseconds from the submission to the last event.
    pub fn at_ms(&self) -> u64 {
        self.at_ms
    }

    /// Whether the run is over.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether the coordinator has the run.
    pub fn is_submitted(&self) -> bool {
        self.submitted
    }

    /// The coordinator has the run.
    pub fn submit(&mut self) {
        self.submitted = true;
    }

    /// Since when there has been no contact with the coordinator, on the clock of the display.
    pub fn without_contact_since_ms(&self) -> Option<u64> {
        self.without_contact_since_ms
    }

    /// There is no contact.
    pub fn lose_contact(&mut self, since_ms: u64) {
        self.without_contact_since_ms = Some(since_ms);
    }

    /// There is contact.
    pub fn regain_contact(&mut self) {
        self.without_contact_since_ms = None;
    }

    /// What the run waits for, if it stands still.
    pub fn waits_for(&self) -> Option<&str> {
        self.waits_for.as_deref()
    }

    /// Remembers it; tells whether it is another than before, and not only by a number that runs.
    pub fn wait_for(&mut self, what: Option<&str>) -> bool {
        let words = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
        let is_other = self.waits_for.as_deref().map(words) != what.map(words);
        if self.waits_for.as_deref() != what {
            self.waits_for = what.map(str::to_owned);
        }
        is_other
    }

    /// The name of the first host in the first of these states that any is in.
    pub fn first(&self, states: &[TargetState]) -> Option<&str> {
        let of = |state: &TargetState| self.hosts.iter().find(|(_, host)| host.overall() == *state);
        states.iter().find_map(of).map(|((name, _), _)| name.as_str())
    }

    /// Workers that build something now.
    pub fn workers(&self) -> usize {
        self.running.iter().map(|step| step.worker.as_str()).collect::<BTreeSet<_>>().len()
    }

    /// Targets in a state.
    pub fn targets(&self, state: TargetState) -> usize {
        let states = self.hosts.values().flat_map(|host| [host.before, host.after]);
        states.filter(|found| *found == Some(state)).count()
    }

    fn set(&mut self, host: &str, kind: v1::HostKind, side: Side, state: TargetState) {
        let host = self.hosts.entry((host.to_owned(), kind)).or_default();
        match side {
            Side::Before => host.before = Some(state),
            Side::After | Side::Unspecified => host.after = Some(state),
        }
    }

    fn start(&mut self, started: &v1::StepStarted, at_ms: u64) {
        self.running.retain(|step| step.drv != started.drv);
        self.running.push(RunningStep {
            drv: started.drv.clone(),
            name: started.name.clone(),
            worker: started.worker.clone(),
            phase: String::new(),
            attempt: started.attempt,
            started_ms: at_ms,
        });
    }

    fn finish(&mut self, finished: &v1::StepFinished) {
        self.running.retain(|step| step.drv != finished.drv);
        // The next counts say the same; until then the display must not lag behind what it printed.
        match finished.status() {
            StepStatus::Built => self.counts.built += 1,
            StepStatus::Failed => self.counts.failed += 1,
            _ => {}
        }
    }
}

impl Host {
    /// What its cell of the strip shows: the state that needs the most attention.
    pub fn overall(&self) -> TargetState {
        self.before.max(self.after).unwrap_or(TargetState::Waiting)
    }
}

fn settled_state(status: TargetStatus) -> TargetState {
    match status {
        TargetStatus::Built | TargetStatus::Cached | TargetStatus::Planned => TargetState::Done,
        TargetStatus::Unchanged => TargetState::Unchanged,
        TargetStatus::EvalFailed | TargetStatus::BuildFailed | TargetStatus::Unspecified => {
            TargetState::Failed
        }
        TargetStatus::Cancelled => TargetState::Cancelled,
    }
}
