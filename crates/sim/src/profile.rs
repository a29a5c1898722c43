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
    /// A machine's process crashes, or the machine itself, at most this often in all.
    pub(crate) crashes: u64,
    /// A machine is cut off, at most this often in all.
    pub(crate) cuts: u64,
    /// A machine that crashed never comes back.
    pub(crate) retire: u64,
    /// Another process knocks with a machine's identity, at most this often in all.
    pub(crate) clones: u64,
    /// A heartbeat says that the machine is not well.
    pub(crate) unwell: u64,
    /// An administrator gives an order, at most this often in all.
    pub(crate) orders: u64,
    /// The coordinator crashes, at most this often in all.
    pub(crate) outages: u64,
    /// History is condensed when nothing is wanted; tried this often.
    pub(crate) condensations: u64,
    /// An acknowledgement is lost.
    pub(crate) unheard: u64,
    /// Paths are collected, at most this often in all.
    pub(crate) collections: u64,
    /// A machine that starts again has an empty store.
    pub(crate) emptied: u64,
    /// A worker cannot fetch from another.
    pub(crate) unreachable: u64,
    /// A worker takes paths to be lost that are not, or that it does not need.
    pub(crate) mistaken: u64,
    /// What a store holds at most, in bytes, until the world heals; 0 where nobody knows.
    pub(crate) disk_bytes: u64,
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
        let some = |random: &mut Random, most: u64| {
            if calm || random.chance(500) { 0 } else { random.within(1, most) }
        };
        Self {
            calm,
            transient: some(random, 200),
            infrastructure: some(random, 200),
            refuse: some(random, 150),
            silent: some(random, 100),
            eval: some(random, 200),
            realise: some(random, 200),
            duplicate: some(random, 200),
            crashes: some(random, 5),
            cuts: some(random, 5),
            retire: some(random, 400),
            clones: some(random, 2),
            unwell: some(random, 200),
            orders: some(random, 4),
            outages: if calm && random.chance(500) { random.within(1, 4) } else { some(random, 3) },
            condensations: some(random, 6),
            unheard: some(random, 300),
            collections: some(random, 4),
            emptied: some(random, 800),
            unreachable: some(random, 150),
            mistaken: some(random, 150),
            disk_bytes: if calm || random.chance(600) { 0 } else { random.within(1, 12) << 30 },
            cancel: some(random, 500),
            spurious: some(random, 100),
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
            away_ms: match random.below(4) {
                _ if calm => 60_000,
                0 => 0,
                _ => random.within(1_000, 20_000),
            },
            workers_per_crashing_step: u32::try_from(random.within(1, 3)).unwrap_or(1),
            quarantine_after: random.index(4),
            quarantine_rest_ms: random.within(500, 20_000),
            publish: random.chance(700),
            prefetch: random.chance(700),
            lost_attempts: if random.chance(100) {
                0
            } else {
                u32::try_from(random.within(1, 3)).unwrap_or(1)
            },
            remember_sizes: if random.chance(200) { 0 } else { 1_000 },
            remember_failures: if random.chance(300) { 0 } else { random.index(8) + 1 },
            ..FleetConfig::default()
        }
    }

    /// Whether the world has healed.
    pub(crate) fn is_well(&self) -> bool {
        self.outages == 0
    }

    /// From now on nothing fails any more.
    pub(crate) fn heal(&mut self) {
        let Self { config, latency_ms, work_ms, disk_bytes, .. } = self;
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
            cuts: 0,
            retire: 0,
            clones: 0,
            unwell: 0,
            orders: 0,
            outages: 0,
            condensations: 0,
            unheard: 0,
            collections: 0,
            emptied: 0,
            unreachable: 0,
            mistaken: 0,
            disk_bytes: *disk_bytes,
            cancel: 0,
            spurious: 0,
            latency_ms: *latency_ms,
            work_ms: *work_ms,
            config: config.clone(),
        };
    }
}
