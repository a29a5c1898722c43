//! Targets: where each host stands on each side, and how it ends.
//!
//! Owns the stages of a target. Every target settles exactly once.

use std::sync::Arc;

use crate::effect::{Notice, Settled, TargetStatus};
use crate::event::Failure;
use crate::fleet::Fleet;
use crate::graph::StepId;
use crate::id::{DrvPath, Host, OutputPath, RunId, Side, Target, WorkerId};
use crate::run::Run;

/// A host of a run, with what it is on each side it exists on.
#[derive(Debug)]
pub(crate) struct HostEntry {
    pub(crate) host: Host,
    sides: [Option<TargetEntry>; 2],
}

/// One target.
#[derive(Debug)]
pub(crate) struct TargetEntry {
    pub(crate) stage: Stage,
    /// Evaluations that were lost.
    pub(crate) tries: u32,
    pub(crate) drv: Option<DrvPath>,
    pub(crate) toplevel: Option<OutputPath>,
    /// Why it failed, once it has.
    pub(crate) failure: Option<Failure>,
    /// Steps that make again what was lost of its closure.
    pub(crate) lost: Vec<StepId>,
}

/// How far a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not looked at yet, or again.
    Found,
    /// An evaluator turned to it.
    Evaluating,
    /// Waits for the other side.
    Answered(Answer),
    /// Waits for this step.
    Building(StepId),
    /// Its toplevel is done, or was there.
    Realising(TargetStatus),
    Settled(TargetStatus),
}

/// What an evaluation said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// None when there is nothing to build.
    pub(crate) top: Option<StepId>,
    /// Derivations in dependency order, one for each step.
    pub(crate) wanted: Vec<StepId>,
    /// Who said it: what it calls missing may be there elsewhere.
    pub(crate) worker: WorkerId,
    /// The event before which it began: what it calls missing may have been built since.
    pub(crate) since: u64,
}

/// Names a target within a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TargetRef {
    pub(crate) run: RunId,
    pub(crate) host: u32,
    pub(crate) side: Side,
}

impl HostEntry {
    pub(crate) fn new(host: Host) -> Self {
        Self { host, sides: [None, None] }
    }

    pub(crate) fn add(&mut self, side: Side) {
        self.sides[side as usize] = Some(TargetEntry {
            stage: Stage::Found,
            tries: 0,
            drv: None,
            toplevel: None,
            failure: None,
            lost: Vec::new(),
        });
    }

    pub(crate) fn get(&self, side: Side) -> Option<&TargetEntry> {
        self.sides[side as usize].as_ref()
    }

    pub(crate) fn get_mut(&mut self, side: Side) -> Option<&mut TargetEntry> {
        self.sides[side as usize].as_mut()
    }

    /// Its targets, before first.
    pub(crate) fn targets(&self) -> impl Iterator<Item = (Side, &TargetEntry)> {
        [Side::Before, Side::After].into_iter().filter_map(|side| Some((side, self.get(side)?)))
    }

    pub(crate) fn target(&self, side: Side) -> Target {
        Target { host: self.host.clone(), side }
    }
}

impl Run {
    pub(crate) fn target(&self, at: TargetRef) -> Option<&TargetEntry> {
        self.hosts.get(at.host as usize)?.get(at.side)
    }

    pub(crate) fn target_mut(&mut self, at: TargetRef) -> Option<&mut TargetEntry> {
        self.hosts.get_mut(at.host as usize)?.get_mut(at.side)
    }

    /// All its targets that have no end yet.
    pub(crate) fn open_targets(&self, id: RunId) -> Vec<TargetRef> {
        let open = |entry: &TargetEntry| !matches!(entry.stage, Stage::Settled(_));
        let hosts = (0..).zip(&self.hosts);
        hosts
            .flat_map(|(host, entry)| {
                entry.targets().filter(|(_, target)| open(target)).map(move |(side, _)| TargetRef {
                    run: id,
                    host,
                    side,
                })
            })
            .collect()
    }
}

impl Fleet {
    /// Brings a target on; settled ones stay as they are.
    pub(crate) fn advance(&mut self, at: TargetRef, stage: Stage) {
        let Some(run) = self.runs.get_mut(&at.run) else { return };
        let Some(target) = run.target_mut(at) else { return };
        if !matches!(target.stage, Stage::Settled(_)) {
            target.stage = stage;
        }
    }

    /// Ends a target.
    pub(crate) fn settle(&mut self, at: TargetRef, status: TargetStatus, failure: Option<Failure>) {
        let Some(run) = self.runs.get_mut(&at.run) else { return };
        let Some(host) = run.hosts.get_mut(at.host as usize) else { return };
        let name = host.target(at.side);
        let Some(target) = host.get_mut(at.side) else { return };
        if matches!(target.stage, Stage::Settled(_)) {
            return;
        }
        target.stage = Stage::Settled(status);
        target.failure.clone_from(&failure);
        let (drv, toplevel) = (target.drv.clone(), target.toplevel.clone());
        run.unsettled -= 1;
        self.touched.insert(at.run);
        let settled = Settled { status, drv, toplevel, failure };
        self.notify(at.run, Notice::TargetSettled { target: name, settled });
        if matches!(status, TargetStatus::EvalFailed | TargetStatus::BuildFailed) {
            self.target_failed(at.run);
        }
    }

    /// A toplevel's step is done: its target has it realised, where its path is known.
    pub(crate) fn toplevel_done(&mut self, at: TargetRef, top: Option<StepId>, status: TargetStatus) {
        let built = top.and_then(|top| self.graph.step(top).built);
        let found = top.and_then(|top| self.floating_output(top));
        let Some(run) = self.runs.get_mut(&at.run) else { return };
        let Some(target) = run.target_mut(at) else { return };
        if target.toplevel.is_none() {
            target.toplevel = found;
        }
        let Some(path) = target.toplevel.clone() else {
            self.settle(at, status, None);
            return;
        };
        self.advance(at, Stage::Realising(status));
        self.want_realise(at, path, built.map(|built| built.by));
    }

    /// Where a step whose outputs float put its main one.
    fn floating_output(&self, step: StepId) -> Option<OutputPath> {
        let outputs = self.graph.floating.get(&step)?;
        let main = outputs.iter().find(|(name, _)| &**name == "out").or(outputs.first())?;
        Some(OutputPath(Arc::clone(&main.1.0)))
    }

    /// Withdraws all targets of a run that have no end yet.
    pub(crate) fn cancel_targets(&mut self, id: RunId) {
        let Some(run) = self.runs.get(&id) else { return };
        for at in run.open_targets(id) {
            self.settle(at, TargetStatus::Cancelled, None);
        }
        self.waiters.retain(|_, waiting| {
            waiting.retain(|at| at.run != id);
            !waiting.is_empty()
        });
    }
}
