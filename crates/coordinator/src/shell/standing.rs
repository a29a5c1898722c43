//! How workers stand, for people, and what administrators decide about them.

use fleet_core::view::{WorkerState, WorkerView};
use fleet_core::{Event, WorkerOrder};
use fleet_identity::Name;
use fleet_wire::{from_wire, v1};
use tonic::Status;

use super::Shell;
use super::round::Round;
use crate::rpc::status;

impl Shell {
    /// The fleet at a glance.
    pub(super) fn status(&self) -> v1::StatusReply {
        let work = self.fleet.work_view();
        let live = self.runs.live();
        let live = live.into_iter().filter_map(|run| self.runs.feed(run)).map(|feed| feed.summary());
        v1::StatusReply {
            live: live.collect(),
            workers: self.worker_statuses(),
            waiting: work.waiting as u64,
            ready: work.ready as u64,
            delayed: work.delayed as u64,
            leased: work.leased as u64,
            evals_waiting: work.evals_waiting as u64,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            read_only: self.read_only.borrow().clone(),
        }
    }

    /// Every worker that was seen, by name.
    pub(super) fn worker_statuses(&self) -> Vec<v1::WorkerStatus> {
        let mut known: Vec<_> = self.fleet.worker_views().map(|view| self.worker_status(&view)).collect();
        known.sort_by(|one, other| one.name.cmp(&other.name));
        known
    }

    fn worker_status(&self, view: &WorkerView) -> v1::WorkerStatus {
        let portrait = self.sessions.portraits.get(&view.worker);
        let hello = portrait.map(|portrait| portrait.hello.clone()).unwrap_or_default();
        let heard = portrait.map(|portrait| portrait.heard.elapsed().as_millis());
        let texts = |list: &[fleet_core::Feature]| list.iter().map(ToString::to_string).collect();
        v1::WorkerStatus {
            name: view.name.to_string(),
            state: state(view.state).to_owned(),
            reason: view.reason.to_string(),
            systems: view.systems.iter().map(ToString::to_string).collect(),
            features: texts(&view.features),
            mandatory_features: texts(&view.mandatory_features),
            slots: count(view.slots),
            eval_slots: count(view.eval_slots),
            leases: count(view.leased),
            evals: count(view.evaluating),
            nix_version: hello.nix_version,
            nix_lane: hello.nix_lane,
            fleet_version: hello.fleet_version,
            boot_id: view.boot.to_string(),
            speed: if hello.speed.is_finite() && hello.speed > 0.0 { hello.speed } else { 1.0 },
            load: portrait.map(|portrait| portrait.load.clone()),
            heard_ms_ago: heard.map_or(0, |ms| u64::try_from(ms).unwrap_or(u64::MAX).max(1)),
            building: view.building.iter().map(ToString::to_string).collect(),
            certificate_until: portrait.map_or(0, |portrait| portrait.certificate_until),
        }
    }

    /// An administrator decides about a worker. A revocation stands in the registry first.
    pub(super) fn order(
        &mut self,
        name: &str,
        order: WorkerOrder,
        reason: &str,
        round: &mut Round,
    ) -> Result<(), Status> {
        let reason = from_wire::reason(reason).unwrap_or_else(|| "".into());
        let enrolled = name.parse::<Name>().ok().filter(|name| self.registry.worker(name).is_some());
        let seen = self.fleet.worker_view(self.fleet.worker_named(name)).is_some();
        if !seen && enrolled.is_none() {
            return Err(status::unknown_worker(name));
        }
        if let (WorkerOrder::Revoke, Some(name)) = (order, enrolled) {
            let request = fleet_identity::Request::RevokeWorker { name, reason: reason.to_string() };
            self.change_registry(request, round)?;
            return Ok(());
        }
        let worker = self.fleet.worker_named(name);
        self.apply(Event::WorkerOrdered { worker, name: name.into(), order, reason }, round);
        self.forget_holder_if_gone(worker, round);
        Ok(())
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn state(state: WorkerState) -> &'static str {
    match state {
        WorkerState::Enrolled => "enrolled",
        WorkerState::Connected => "connected",
        WorkerState::Away => "away",
        WorkerState::Gone => "gone",
        WorkerState::Quarantined => "quarantined",
        WorkerState::Drained => "drained",
        WorkerState::Locked => "locked",
        WorkerState::Revoked => "revoked",
    }
}
