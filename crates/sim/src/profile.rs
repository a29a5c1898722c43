//! Which faults a seed brings, and how often. Each seed leaves some out: rare combinations need room.

use fleet_core::{Backoff, FleetConfig};

use crate::random::Random;

/// Faults per thousand occasions, and how long things take.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    /// Whether nothing goes wrong but what the world itself breaks.
    pub(crate) calm: bool,
    /// A build fails in a way that another try may mend.
    pub(crate) transient: u64,
    /// A build fails through no fault of its own.
    pub(crate) infrastructure: u64,
    /// A worker refuses a step, for ever.
    pub(crate) refuse: u64,
    /// A worker stops a build, or ends a lease, without a word.
    pub(crate) silent: u64,
    /// An evaluator dies, stops early, or forgets hosts.
    pub(crate) eval: u64,
    /// Realising fails.
    pub(crate) realise: u64,
    /// A report comes twice.
    pub(crate) duplicate: u64,
    /// A machine crashes, at most this often in all.
    pub(crate) crashes: u64,
    /// Paths are collected, at most this often in all.
    pub(crate) collections: u64,
    /// A run is cancelled.
    pub(crate) cancel: u64,
    /// A timer fires though nobody armed it.
    pub(crate) spurious: u64,
    /// Longest time a message travels.
    pub(crate) latency_ms: u64,
    /// Longest time a build or evaluation takes.
    pub(crate) work_ms: u64,
    /// How the core is set up.
    pub(crate) config: FleetConfig,
}

impl Profile {
    /// The profile of a seed.
    pub(crate) fn generate(random: &mut Random) -> Self {
        let calm = random.chance(150);
        let mut some = |most: u64| if calm || random.chance(500) { 0 } else { random.within(1, most) };
        Self {
            calm,
            transient: some(200),
            infrastructure: some(200),
            refuse: some(150),
            silent: some(100),
            eval: some(200),
            realise: some(200),
            duplicate: some(200),
            crashes: some(6),
            collections: some(4),
            cancel: some(500),
            spurious: some(100),
            latency_ms: if random.chance(700) { random.within(1, 60) } else { random.within(60, 2_000) },
            work_ms: random.within(1, 3_000),
            config: Self::config(random, calm),
        }
    }

    fn config(random: &mut Random, calm: bool) -> FleetConfig {
        let none = calm || random.chance(800);
        FleetConfig {
            eval_group: random.index(4) + 1,
            backoff: Backoff { base_ms: random.within(0, 500), factor: random.within(1, 3), cap_ms: 4_000 },
            unplaceable_after_ms: if none { 30_000 } else { random.within(0, 10_000) },
            first_worker_within_ms: random.within(0, 5_000),
            run_deadline_ms: if none { 0 } else { random.within(1_000, 60_000) },
            max_runs: if none { 64 } else { 2 },
            max_hosts: if none { 1_000 } else { 3 },
            transient_attempts: u32::try_from(random.within(1, 3)).unwrap_or(1),
            infrastructure_attempts: u32::try_from(random.within(1, 5)).unwrap_or(1),
            refusals: random.index(3) + 1,
            realises_per_worker: random.index(2) + 1,
            finished_runs: 2,
            away_ms: 0,
            quarantine_after: 0,
            remember_failures: 0,
            ..FleetConfig::default()
        }
    }

    /// From now on nothing fails any more.
    pub(crate) fn heal(&mut self) {
        let Self { config, latency_ms, work_ms, .. } = self;
        *self = Self {
            calm: true,
            transient: 0,
            infrastructure: 0,
            refuse: 0,
            silent: 0,
            eval: 0,
            realise: 0,
            duplicate: 0,
            crashes: 0,
            collections: 0,
            cancel: 0,
            spurious: 0,
            latency_ms: *latency_ms,
            work_ms: *work_ms,
            config: config.clone(),
        };
    }
}
