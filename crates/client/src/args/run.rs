//! Options of commands that submit or watch a run.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::Kind;
use super::value::{parse_duration, parse_seconds, parse_size};

/// Builds or evaluators at a time, at most.
pub const MAX_SLOTS: u32 = 1024;

const COORDINATED: &str = "With a coordinator";
const LIMITS: &str = "Limits of each step";

/// `fleetctl build`.
#[derive(Clone, Debug, Args)]
pub struct BuildArgs {
    /// Build the flake as it was at this commit too, and print what changed since
    #[arg(long, value_name = "REV")]
    pub base: Option<String>,
    /// Options shared with other commands.
    #[command(flatten)]
    pub run: RunArgs,
}

/// `fleetctl diff`.
#[derive(Clone, Debug, Args)]
pub struct DiffArgs {
    /// The commit to compare with
    #[arg(long, value_name = "REV", default_value = "HEAD")]
    pub base: String,
    /// Options shared with other commands.
    #[command(flatten)]
    pub run: RunArgs,
}

/// `fleetctl attach`.
#[derive(Clone, Debug, Args)]
pub struct AttachArgs {
    /// The run [default: the newest that has not ended]
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
    /// How to print the result.
    #[command(flatten)]
    pub report: ReportArgs,
    /// How to watch.
    #[command(flatten)]
    pub follow: FollowArgs,
}

/// Options of commands that build.
#[derive(Clone, Debug, Default, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is one switch of the command line")]
pub struct RunArgs {
    /// The flake: PATH, PATH?dir=SUB, PATH#HOST, path:PATH or git+file:PATH
    #[arg(value_name = "FLAKE", default_value = ".")]
    pub flake: String,
    /// Take every host of the flake
    #[arg(long, conflicts_with = "hosts")]
    pub all_hosts: bool,
    /// Take hosts whose name matches this glob; repeatable
    #[arg(long = "host", value_name = "GLOB")]
    pub hosts: Vec<String>,
    /// Leave out hosts whose name matches this glob; repeatable [default: *-minimal]
    ///
    /// Replaces the default; `--exclude ''` leaves out none. The default is lifted, too, when a --host glob
    /// ends in `-minimal`.
    #[arg(long = "exclude", value_name = "GLOB")]
    pub excludes: Vec<String>,
    /// Kinds of hosts; repeatable [default: nixos]
    #[arg(long = "kind", value_name = "KIND")]
    pub kinds: Vec<Kind>,
    /// How to print the result.
    #[command(flatten)]
    pub report: ReportArgs,
    /// Finish everything that does not depend on a failure (the default)
    #[arg(short = 'k', long, conflicts_with = "fail_fast")]
    pub keep_going: bool,
    /// Stop at the first failure
    #[arg(long)]
    pub fail_fast: bool,
    /// Evaluate, and say what would be built
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Try again what failed for good in an earlier run
    #[arg(long)]
    pub retry_failed: bool,
    /// Take this input of the flake along, as workers cannot fetch it; repeatable
    ///
    /// Inputs that are paths of this machine, or git repositories on it or behind SSH, come along by themselves. The
    /// name is as in flake.lock, with slashes below the flake's own inputs.
    #[arg(long, value_name = "INPUT")]
    pub bring: Vec<String>,
    /// What the run is of, for how long its results are kept [default: the git branch]
    #[arg(long, value_name = "NAME", help_heading = COORDINATED)]
    pub branch: Option<String>,
    /// Builds at a time [default: one per core]
    #[arg(short = 'j', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SLOTS)))]
    pub worker_slots: Option<u32>,
    /// Evaluators at a time [default: half the cores, at most four]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SLOTS)))]
    pub eval_slots: Option<u32>,
    /// Submit the run, print its name and leave
    #[arg(long, visible_alias = "no-wait", help_heading = COORDINATED)]
    pub detach: bool,
    /// How to watch.
    #[command(flatten)]
    pub follow: FollowArgs,
    /// What a step may take.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// How a result is printed.
#[derive(Clone, Debug, Default, Args)]
pub struct ReportArgs {
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// How to print the report [default: markdown]
    #[arg(long, value_name = "FORMAT", conflicts_with = "json")]
    pub format: Option<ReportFormat>,
    /// Write the report to a file, too; repeatable
    #[arg(long = "output", value_name = "FORMAT=FILE", value_parser = parse_output)]
    pub outputs: Vec<Output>,
}

/// How a run is watched.
#[derive(Clone, Debug, Default, Args)]
pub struct FollowArgs {
    /// Show build logs as they come, each line after its derivation's name
    #[arg(short = 'L', long)]
    pub print_build_logs: bool,
    /// Never fold successful output into groups in CI logs
    #[arg(long)]
    pub no_fold: bool,
    /// Leave the run going on when interrupted
    #[arg(long, help_heading = COORDINATED)]
    pub detach_on_interrupt: bool,
    /// How long to keep trying when the coordinator cannot be reached [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = COORDINATED)]
    pub reconnect_for: Option<Duration>,
}

/// What one step may take, instead of what the coordinator grants.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct LimitArgs {
    /// Wall time, as in 90m or 10h
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, help_heading = LIMITS)]
    pub timeout: Option<u32>,
    /// Time without output, as in 30m
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, help_heading = LIMITS)]
    pub max_silent_time: Option<u32>,
    /// Size of its log, as in 64MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = LIMITS)]
    pub max_log_size: Option<u64>,
    /// Size of its outputs together, as in 20GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = LIMITS)]
    pub max_output_size: Option<u64>,
}

/// Forms of the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReportFormat {
    /// For people and forges
    #[default]
    #[value(alias = "md")]
    Markdown,
    /// One nvd-style block per changed host
    Nvd,
    /// The result of the run, for programs
    Json,
}

/// One `FORMAT=FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its form.
    pub format: ReportFormat,
    /// Where it goes.
    pub file: PathBuf,
}

fn parse_output(text: &str) -> Result<Output, String> {
    let (format, file) = text.split_once('=').ok_or("expected FORMAT=FILE, as in markdown=report.md")?;
    let format = ReportFormat::from_str(format, false)
        .map_err(|_| format!("`{format}` is not a format: markdown, nvd and json are"))?;
    if file.is_empty() {
        return Err("the file name after = is empty".to_owned());
    }
    Ok(Output { format, file: file.into() })
}
