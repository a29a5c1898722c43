//! Options of commands about what is kept: the cache, and what is pinned in it.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::value::parse_duration;

/// `fleetctl cache`.
#[derive(Clone, Debug, Args)]
pub struct CacheArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub command: CacheCommand,
}

/// What to do with the cache.
#[derive(Clone, Debug, Subcommand)]
pub enum CacheCommand {
    /// Tell how full it is, and which keys sign what it serves
    Info {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove what nothing needs any more
    ///
    /// What is found unneeded is removed when it still is after the grace: until then, it may come back into use.
    Gc(CacheGcArgs),
    /// Read everything back, and name what is damaged
    Verify {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
}

/// `fleetctl cache gc`.
#[derive(Clone, Debug, Args)]
pub struct CacheGcArgs {
    /// Only say what would be removed
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// How long something must have been unneeded, as in 24h [default: the coordinator's; 24h without one]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub grace: Option<Duration>,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// `fleetctl pin`.
#[derive(Clone, Debug, Args)]
pub struct PinArgs {
    /// A run, whose results are kept, or a store path with all it refers to
    #[arg(value_name = "RUN|PATH", required_unless_present = "list", conflicts_with = "list")]
    pub what: Option<String>,
    /// What to call it [default: the run or the path]
    #[arg(long, value_name = "NAME", conflicts_with = "list")]
    pub name: Option<String>,
    /// List everything that keeps store paths: pins, and runs by their age
    #[arg(long)]
    pub list: bool,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// `fleetctl unpin`.
#[derive(Clone, Debug, Args)]
pub struct UnpinArgs {
    /// As `fleetctl pin --list` names it
    #[arg(value_name = "NAME")]
    pub name: String,
}
