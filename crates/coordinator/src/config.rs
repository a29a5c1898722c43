//! The coordinator's settings; every default stands here.

use std::path::PathBuf;

use fleet_core::FleetConfig;

/// Settings of one coordinator.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where chunks, logs and the journal live; created when absent.
    pub state_dir: PathBuf,
    /// How the core decides.
    pub fleet: FleetConfig,
    /// What one attempt of a step may take.
    pub limits: StepLimits,
}

impl Config {
    /// The defaults, with state in `state_dir`.
    pub fn new(state_dir: PathBuf) -> Self {
        Self { state_dir, fleet: FleetConfig::default(), limits: StepLimits::default() }
    }
}

/// What one attempt of a step may take.
#[derive(Clone, Copy, Debug)]
pub struct StepLimits {
    /// Wall time in seconds.
    pub timeout_s: u32,
    /// Seconds without output.
    pub max_silent_s: u32,
    /// Bytes of log.
    pub max_log_bytes: u64,
}

impl Default for StepLimits {
    fn default() -> Self {
        Self { timeout_s: 36_000, max_silent_s: 3_600, max_log_bytes: 64 << 20 }
    }
}
