//! Promises to clients: what a run's notices say is true, complete, and ends once.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{
    Counts, DrvPath, Failure, FailureCode, Finished, Goal, Notice, OnFailure, Outcome, RunId, RunRequest,
    Settled, Side, StepStatus, Target, TargetStatus,
};

use super::{Scene, Witness, hold};

/// What one run's client was told.
#[derive(Debug)]
pub(super) struct RunBook {
    pub(super) request: RunRequest,
    /// Whether its client withdrew it.
    pub(super) may_cancel: bool,
    targets: BTreeMap<Target, Option<TargetStatus>>,
    running: BTreeSet<DrvPath>,
    counts: Counts,
    /// Whether counts were told with this event, after which only the end may come.
    counted: bool,
    finished: Option<Finished>,
}

impl RunBook {
    pub(super) fn new(request: RunRequest) -> Self {
        Self {
            request,
            may_cancel: false,
            targets: BTreeMap::new(),
            running: BTreeSet::new(),
            counts: Counts::default(),
            counted: false,
            finished: None,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.finished.is_some()
    }

    pub(super) fn begin_event(&mut self) {
        self.counted = false;
    }

    /// Counts that were told last agree with the notices.
    pub(super) fn end_event(&self) -> Result<(), String> {
        let kept = self.is_over() || self.counts.running as usize == self.running.len();
        hold(kept, "running steps are counted", || format!("{:?} {:?}", self.counts, self.running))
    }

    fn finish(&mut self, finished: &Finished) -> Result<(), String> {
        let open = self.targets.iter().find(|(_, status)| status.is_none());
        hold(open.is_none(), "a run ends after its targets", || format!("{open:?}"))?;
        let counts = finished.counts;
        hold(counts == self.counts, "the last counts are the final ones", || {
            format!("{:?} {counts:?}", self.counts)
        })?;
        let over = counts.built + counts.cached + counts.failed + counts.cancelled;
        let kept = self.request.goal == Goal::Plan || counts.wanted == over;
        hold(kept, "every wanted step has ended when the run has", || format!("{counts:?}"))?;
        let good = |status: &TargetStatus| {
            use TargetStatus::{Built, Cached, Planned, Unchanged};
            matches!(status, Built | Cached | Planned | Unchanged)
        };
        let statuses: Vec<TargetStatus> = self.targets.values().flatten().copied().collect();
        let kept = match finished.outcome {
            Outcome::Succeeded => !statuses.is_empty() && statuses.iter().all(good),
            Outcome::Partial => !statuses.iter().all(good),
            Outcome::Failed => finished.failure.is_some() && !statuses.iter().any(good),
            Outcome::Cancelled => true,
        };
        hold(kept, "the outcome sums up the targets", || format!("{finished:?} {statuses:?}"))?;
        self.finished = Some(finished.clone());
        Ok(())
    }
}

impl Witness {
    pub(super) fn notice(&mut self, scene: &Scene<'_>, id: RunId, notice: &Notice) -> Result<(), String> {
        let run = self.runs.get_mut(&id).ok_or_else(|| format!("nobody asked for run {id}"))?;
        hold(!run.is_over(), "the end of a run is told once, and last", || format!("{id} {notice:?}"))?;
        let kept = !run.counted || matches!(notice, Notice::Finished(_));
        hold(kept, "counts are told once, after their causes", || format!("{id} {notice:?}"))?;
        match notice {
            Notice::HostsFound { side, hosts } => {
                let targets = hosts.iter().map(|host| Target { host: host.clone(), side: *side });
                run.targets.extend(targets.map(|target| (target, None)));
            }
            Notice::StepStarted { drv, .. } => {
                hold(run.running.insert(drv.clone()), "a step starts once", || format!("{id} {drv}"))?;
            }
            Notice::StepFinished { drv, status, attempt, .. } => {
                let running = run.running.remove(drv);
                let kept = running == (*attempt > 0) || *status == StepStatus::Failed;
                hold(kept, "an attempt that ends had begun", || format!("{id} {notice:?}"))?;
                if *attempt > 0 {
                    self.attempt_ended(scene, drv, *attempt, *status)?;
                }
            }
            Notice::Counts(counts) => {
                run.counted = true;
                run.counts = *counts;
            }
            Notice::TargetSettled { target, settled } => self.settled(scene, id, target, settled)?,
            Notice::Finished(finished) => {
                // Hosts that were found before the run failed as a whole never became targets.
                if matches!(finished.outcome, Outcome::Failed | Outcome::Cancelled)
                    && run.targets.values().all(Option::is_none)
                {
                    run.targets.clear();
                }
                run.finish(finished)?;
                self.runs_over += 1;
                self.realises.retain(|_, realise| realise.what.0 != id);
            }
            Notice::TargetStarted { .. } | Notice::TargetEvaluated { .. } | Notice::Message(_) => {}
        }
        Ok(())
    }

    fn settled(
        &mut self,
        scene: &Scene<'_>,
        id: RunId,
        target: &Target,
        settled: &Settled,
    ) -> Result<(), String> {
        let Some(run) = self.runs.get_mut(&id) else { return Ok(()) };
        let before = run.targets.insert(target.clone(), Some(settled.status));
        hold(before == Some(None), "a target that was found settles once", || {
            format!("{target:?} {settled:?}")
        })?;
        let failed = matches!(settled.status, TargetStatus::EvalFailed | TargetStatus::BuildFailed);
        hold(failed == settled.failure.is_some(), "a failed target says why", || format!("{settled:?}"))?;
        let top = |side: Side| {
            let source = if side == Side::Before { run.request.before? } else { run.request.after };
            let hosts = &scene.world.trees[&source].hosts;
            hosts.iter().find(|(host, _)| *host == target.host)?.1.clone().ok()
        };
        let node = top(target.side);
        let kept = match settled.status {
            TargetStatus::Built | TargetStatus::Cached => {
                node.is_some_and(|node| scene.has(scene.world.nodes[node].content))
            }
            TargetStatus::Unchanged => {
                node.is_some() && run.request.before.is_some() && top(Side::Before) == top(Side::After)
            }
            TargetStatus::Cancelled => {
                let failed = |status: &Option<TargetStatus>| {
                    matches!(status, Some(TargetStatus::EvalFailed | TargetStatus::BuildFailed))
                };
                let fast = run.request.on_failure == OnFailure::FailFast && run.targets.values().any(failed);
                run.may_cancel || fast || self.config.run_deadline_ms > 0
            }
            TargetStatus::Planned => run.request.goal == Goal::Plan && node.is_some(),
            TargetStatus::EvalFailed => true,
            TargetStatus::BuildFailed => node
                .zip(settled.failure.as_ref())
                .is_some_and(|(node, failure)| is_to_blame(scene, node, failure)),
        };
        hold(kept, "a target ends as is true", || format!("run {id}: {target:?} {settled:?}"))?;
        let comes_back = self.collected.is_empty() || self.config.lost_attempts > 0;
        if self.late.contains(&id) && comes_back {
            let broken = |node: usize| {
                let related = scene.world.related(node);
                let mut nodes = scene.world.nodes.iter();
                nodes.any(|node| node.broken.is_some() && related.contains(node.content))
            };
            let kept = match settled.status {
                TargetStatus::BuildFailed => node.is_some_and(broken),
                TargetStatus::EvalFailed => node.is_none(),
                _ => true,
            };
            hold(kept, "when all is well, what fails is broken", || {
                format!("run {id}: {target:?} {settled:?}")
            })?;
        }
        if self.calm {
            let kept = self.fails_as_is_broken(scene, node, settled.status);
            hold(kept, "without faults, what fails is what is broken", || {
                format!("run {id}: {target:?} {settled:?}")
            })?;
        }
        Ok(())
    }

    /// Whether a target ended as it must where nothing goes wrong but what the world itself breaks.
    fn fails_as_is_broken(&self, scene: &Scene<'_>, node: Option<usize>, status: TargetStatus) -> bool {
        let missing = node.map(|node| scene.world.missing(self.initial, node));
        let broken =
            missing.is_some_and(|nodes| nodes.iter().any(|node| scene.world.nodes[*node].broken.is_some()));
        // Of several ways to make the same content, it is open which one is tried.
        let plain = node.is_some_and(|node| scene.world.is_plain(node));
        match status {
            TargetStatus::Built | TargetStatus::Cached => !broken || !plain,
            TargetStatus::BuildFailed => broken || !plain,
            TargetStatus::EvalFailed => node.is_none(),
            _ => true,
        }
    }
}

/// Whether a failure can be why this toplevel was not built.
fn is_to_blame(scene: &Scene<'_>, top: usize, failure: &Failure) -> bool {
    let needed = scene.world.related(top);
    let culprit = failure.drv.as_ref().and_then(|drv| scene.world.node_of(drv));
    let culprit = culprit.map(|node| &scene.world.nodes[node]);
    let is_needed = culprit.is_some_and(|culprit| needed.contains(culprit.content));
    match failure.code {
        FailureCode::TimedOut | FailureCode::LogLimit | FailureCode::OutputRejected => {
            is_needed && culprit.is_some_and(|culprit| culprit.broken.is_some())
        }
        // Realise jobs fail without a derivation.
        _ => culprit.is_none() || is_needed,
    }
}
