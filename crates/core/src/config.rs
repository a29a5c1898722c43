//! Every knob of the core, with its default: the only place where they stand.
//!
//! Owns nothing at run time; must not know where values come from (files, flags and environment are the
//! shells' business).

use serde::{Deserialize, Serialize};

use crate::event::StepLimits;

/// Bounds and patience of a [`Fleet`](crate::Fleet).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FleetConfig {
    /// Runs at a time; a further one fails at once.
    pub max_runs: usize,
    /// Hosts of one run, both sides counted once.
    pub max_hosts: usize,
    /// Derivations known at a time, inputs that were never defined included.
    pub max_steps: usize,
    /// Workers known at a time, connected or not; those gone longest are forgotten for new ones.
    pub max_workers: usize,
    /// What a worker may claim to offer, for slots and eval slots each.
    pub max_slots: u32,
    /// Hosts one evaluator takes one after the other.
    pub eval_group: usize,
    /// Times a discovery or a host's evaluation is started before it has failed.
    pub eval_attempts: u32,
    /// Times a toplevel is tried to be realised before its target has failed.
    pub realise_attempts: u32,
    /// Realise jobs of one worker at a time.
    pub realises_per_worker: usize,
    /// Attempts a step gets when they fail in a way that another try might mend.
    pub transient_attempts: u32,
    /// Attempts a step gets when they fail through no fault of its own.
    pub infrastructure_attempts: u32,
    /// Workers that may refuse a step before it has failed.
    pub refusals: usize,
    /// How long a failed step rests before the next attempt.
    pub backoff: Backoff,
    /// How long work that fits no connected worker waits for one; 0 means not at all.
    pub unplaceable_after_ms: u64,
    /// How long work waits for the very first worker, if that is longer: a fleet that starts has none yet.
    pub first_worker_within_ms: u64,
    /// How long a run may take as a whole; 0 means for ever.
    pub run_deadline_ms: u64,
    /// Ended runs that views still show.
    pub finished_runs: usize,
    /// What an attempt may take where no run says otherwise.
    pub limits: StepLimits,
    /// How long a worker's leases wait for it when its session has ended; 0 means not at all.
    pub away_ms: u64,
    /// How long a worker's older session may still be heard after a newer one knocked, before that means
    /// that two use one identity: what was on the way arrives within it.
    pub contended_ms: u64,
    /// Workers that may be lost with a step before it has failed.
    pub workers_per_crashing_step: u32,
    /// Steps that a worker may fail in a row, by no fault of theirs, before it is quarantined; 0 means any.
    pub quarantine_after: usize,
    /// How long a quarantined worker rests before it is tried with one step.
    pub quarantine_rest_ms: u64,
    /// Failed steps that later runs believe to fail again; 0 means none.
    pub remember_failures: usize,
    /// Whether what a run's `after` side builds is brought to the coordinator.
    pub publish: bool,
    /// Bytes that leases leave free in a worker's store.
    pub disk_floor_bytes: u64,
    /// Bytes that a step is taken to need where none like it was ever built.
    pub disk_prior_bytes: u64,
    /// Steps whose sizes are remembered, by name and system; 0 means none.
    pub remember_sizes: usize,
    /// Whether workers whose slots are taken fetch ahead what their next step will need.
    pub prefetch: bool,
    /// Times the same output may be lost and made again for one run before what needs it has failed.
    pub lost_attempts: u32,
}

impl Default for FleetConfig {
    fn default() -> Self {
        Self {
            max_runs: 256,
            max_hosts: 10_000,
            max_steps: 4_000_000,
            max_workers: 4_096,
            max_slots: 1_024,
            eval_group: 8,
            eval_attempts: 3,
            realise_attempts: 3,
            realises_per_worker: 8,
            transient_attempts: 3,
            infrastructure_attempts: 5,
            refusals: 16,
            backoff: Backoff::default(),
            unplaceable_after_ms: 10 * 60 * 1_000,
            first_worker_within_ms: 30 * 1_000,
            run_deadline_ms: 24 * 60 * 60 * 1_000,
            finished_runs: 64,
            limits: StepLimits {
                timeout_s: Some(36_000),
                max_silent_s: Some(3_600),
                max_log_bytes: Some(64 << 20),
                max_output_bytes: None,
            },
            away_ms: 2 * 60 * 1_000,
            contended_ms: 5_000,
            workers_per_crashing_step: 3,
            quarantine_after: 3,
            quarantine_rest_ms: 5 * 60 * 1_000,
            remember_failures: 4_096,
            publish: true,
            disk_floor_bytes: 512 << 20,
            disk_prior_bytes: 64 << 20,
            remember_sizes: 16_384,
            prefetch: true,
            lost_attempts: 3,
        }
    }
}

impl FleetConfig {
    /// These settings for a fleet in one process: no other worker can join, and nothing is remembered.
    #[must_use]
    pub fn embedded(self) -> Self {
        Self {
            away_ms: 0,
            quarantine_after: 0,
            remember_failures: 0,
            unplaceable_after_ms: 0,
            publish: false,
            prefetch: false,
            // Nobody else has more room: the daemon says when there is none.
            disk_floor_bytes: 0,
            disk_prior_bytes: 0,
            remember_sizes: 0,
            ..self
        }
    }
}

/// Rests that grow by a factor: `base`, `base × factor`, `base × factor²`, … up to `cap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// After the first failure.
    pub base_ms: u64,
    /// From one rest to the next.
    pub factor: u64,
    /// Never longer than this.
    pub cap_ms: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base_ms: 1_000, factor: 3, cap_ms: 60_000 }
    }
}

impl Backoff {
    /// The rest after the `failures`th failure, counted from 1.
    pub fn delay_ms(self, failures: u32) -> u64 {
        let mut delay = self.base_ms.min(self.cap_ms);
        for _ in 1..failures.min(64) {
            delay = delay.saturating_mul(self.factor).min(self.cap_ms);
        }
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_up_to_the_cap() {
        let backoff = Backoff { base_ms: 10, factor: 3, cap_ms: 100 };
        let delays: Vec<_> = (0..6).map(|failures| backoff.delay_ms(failures)).collect();
        assert_eq!(delays, [10, 10, 30, 90, 100, 100]);
    }

    #[test]
    fn huge_factors_saturate() {
        let backoff = Backoff { base_ms: u64::MAX / 2, factor: u64::MAX, cap_ms: u64::MAX };
        assert_eq!(backoff.delay_ms(u32::MAX), u64::MAX);
    }
}
