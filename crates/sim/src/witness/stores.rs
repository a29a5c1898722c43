//! Promises about stores: what is lost comes back before it is needed, disks have room for what is leased, and
//! who fetches ahead is busy.

use fleet_core::{
    DrvPath, Effect, Event, Goal, LeaseId, Notice, OutputPath, Publish, RunId, StepOutcome, StepReport,
    StepStatus, TargetStatus, WorkerId,
};

use super::{Lease, Scene, Witness, hold};
use crate::contents::Contents;
use crate::world::World;

impl Witness {
    /// An attempt ended: enters what it made, and what it says of stores.
    pub(super) fn stored(&mut self, world: &World, worker: WorkerId, lease: &Ended, report: &StepReport) {
        let StepReport::Ended { outcome, output_bytes, missing, .. } = report else { return };
        match outcome {
            StepOutcome::Built(_) | StepOutcome::AlreadyValid(_) => {
                self.made.insert(lease.content, self.events);
                self.lost = self.lost.without(Contents::from_iter([lease.content]));
            }
            StepOutcome::Failed(..) => self.loses(world, lease.node, false, lease.since, missing),
        }
        if *output_bytes == 0 {
            return;
        }
        let step = &world.nodes[lease.node].step;
        if self.config.remember_sizes > 0 {
            self.sizes.insert((step.name.clone(), step.system.clone()), *output_bytes);
        }
        if let Some(free) = self.workers.get_mut(&worker).and_then(|member| member.store_free.as_mut()) {
            *free = free.saturating_sub(*output_bytes);
        }
    }

    /// Who works on a node misses these paths. What it does not need is none of its business.
    pub(super) fn loses(
        &mut self,
        world: &World,
        node: usize,
        own: bool,
        since: usize,
        missing: &[OutputPath],
    ) {
        let content = world.nodes[node].content;
        // Of what was never described nobody knows what it needs.
        let plain = world.is_plain(node) && self.described.contains(content);
        let related = world.related(node);
        let inputs: Contents =
            world.nodes[node].inputs.iter().map(|input| world.nodes[*input].content).collect();
        for lost in missing.iter().filter_map(|path| world.content_at(path)) {
            if !related.contains(lost) || (lost == content && !own) {
                continue;
            }
            self.holders.remove(&lost);
            self.missed.insert(lost);
            let direct = inputs.contains(lost) || lost == content;
            let known = self.described.contains(lost) && !world.nodes[lost].step.outputs.is_empty();
            let still = self.made.get(&lost).is_none_or(|made| *made <= since);
            if direct && known && still && plain {
                self.lost.insert(lost);
                self.just_lost.insert(lost);
            }
        }
    }

    /// What an event ends early is waited for no more.
    pub(super) fn forgive(&mut self, effects: &[Effect]) {
        let notices = effects.iter().filter_map(|effect| match effect {
            Effect::Notify(_, notice) => Some(notice),
            _ => None,
        });
        for notice in notices {
            match notice {
                Notice::Finished(_) => self.lost = Contents::default(),
                Notice::StepFinished { status: StepStatus::Failed, .. } => {
                    self.lost = self.lost.without(self.just_lost);
                }
                Notice::TargetSettled { settled, .. } if settled.status == TargetStatus::BuildFailed => {
                    self.lost = self.lost.without(self.just_lost);
                }
                _ => {}
            }
        }
    }

    /// What an evaluation lists was described.
    pub(super) fn described(&mut self, world: &World, wanted: &[DrvPath]) {
        for node in wanted.iter().filter_map(|drv| world.node_of(drv)) {
            self.described.insert(world.nodes[node].content);
        }
    }

    /// Something that a worker says of its disk is believed from now on.
    pub(super) fn measured(&mut self, event: &Event, effects: &[Effect]) {
        let heeded = effects.iter().any(|effect| matches!(effect, Effect::Append(_)));
        if let Event::WorkerHeard { worker, load, .. } = event
            && heeded
            && let Some(member) = self.workers.get_mut(worker)
        {
            member.store_free = load.store_free;
        }
    }

    /// Judges whether a disk has room for a step, beside what its worker builds; answers what is kept for it.
    pub(super) fn room(&self, scene: &Scene<'_>, worker: WorkerId, node: usize) -> Result<u64, String> {
        let step = &scene.world.nodes[node].step;
        if !scene.world.is_made_once(scene.world.nodes[node].content) {
            // By which name its size is known depends on who was described first.
            return Ok(0);
        }
        let known = self.sizes.get(&(step.name.clone(), step.system.clone()));
        let bytes = known.copied().unwrap_or(self.config.disk_prior_bytes);
        let leases = self.leases.values().filter(|lease| lease.worker == worker);
        let building = leases.flat_map(|lease| &lease.what);
        let reserved: u64 = building.filter_map(|content| self.reserved.get(content)).sum();
        let free = self.workers.get(&worker).and_then(|member| member.store_free);
        let needed = self.config.disk_floor_bytes + reserved + bytes;
        hold(free.is_none_or(|free| free >= needed), "a worker gets what its disk has room for", || {
            format!("{} on {worker}: {free:?} of {needed}", step.drv)
        })?;
        Ok(bytes)
    }

    /// Judges whether a worker may fetch ahead.
    pub(super) fn fetches_ahead(
        &mut self,
        scene: &Scene<'_>,
        worker: WorkerId,
        drv: &DrvPath,
        lease: LeaseId,
        epoch: fleet_core::Epoch,
    ) -> Result<(), String> {
        self.hints += 1;
        let held = |lease: &Lease| (lease.worker, lease.epoch) == (worker, epoch);
        hold(
            self.leases.get(&lease).is_some_and(held),
            "a worker fetches ahead by a lease that it has",
            || format!("{worker} {lease}"),
        )?;
        let running = self.leases.values().filter(|lease| lease.worker == worker).count();
        let content = scene.world.node_of(drv).map(|node| scene.world.nodes[node].content);
        let building = self.leases.values().any(|lease| content.is_some_and(|it| lease.what.contains(&it)));
        let kept = running >= self.slots(worker) && !building && self.config.prefetch;
        hold(kept, "a worker fetches ahead for what it cannot have yet", || format!("{worker} {drv}"))
    }

    /// Judges whether a closure is brought to the coordinator when it should be.
    pub(super) fn published(
        &self,
        scene: &Scene<'_>,
        run: RunId,
        path: &OutputPath,
        publish: Publish,
    ) -> Result<(), String> {
        let Some(request) = self.runs.get(&run).map(|run| &run.request) else { return Ok(()) };
        let content = scene.world.content_at(path);
        let is_top = |source: &fleet_core::SourceId| {
            let tops = scene.world.trees[source].hosts.iter().filter_map(|(_, top)| top.as_ref().ok());
            tops.map(|top| scene.world.nodes[*top].content).any(|top| Some(top) == content)
        };
        let (before, after) = (request.before.as_ref().is_some_and(is_top), is_top(&request.after));
        let wanted = publish == Publish::Wanted;
        let kept =
            request.goal == Goal::Build && ((before && after) || wanted == (after && self.config.publish));
        hold(kept, "what is published is what a run results in", || format!("{run} {path} {publish:?}"))
    }
}

/// The attempt that a report ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) node: usize,
    pub(super) content: usize,
    /// The event with which it was leased.
    pub(super) since: usize,
}
