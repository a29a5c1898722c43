//! The command line as typed: one definition per flag. What it means together with files, environment and
//! defaults is decided in `config` and `options`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

const EVERYWHERE: &str = "Options of every command";

/// Builds or evaluators at a time, at most.
pub const MAX_SLOTS: u32 = 1024;

/// Builds every host of a flake as one graph, and says what changed.
#[derive(Clone, Debug, Parser)]
#[command(name = "fleetctl", version, max_term_width = 100)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: CliCommand,
}

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
pub struct GlobalArgs {
    /// When to colour progress and messages
    #[arg(long, value_name = "WHEN", global = true, help_heading = EVERYWHERE)]
    pub color: Option<ColorChoice>,
    /// Print no progress, only the result and errors
    #[arg(short, long, global = true, help_heading = EVERYWHERE)]
    pub quiet: bool,
    /// Say more: what is evaluated and built, traces of errors
    #[arg(short, long, global = true, help_heading = EVERYWHERE, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// The Nix store to build with, as `daemon` or `unix://SOCKET?root=DIR`
    #[arg(long, value_name = "URI", global = true, help_heading = EVERYWHERE)]
    pub store: Option<String>,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum CliCommand {
    /// Build hosts of a flake; with --base, print what changed
    Build(BuildArgs),
    /// Build both sides of an update and print what changed
    Diff(DiffArgs),
    /// Print the kept log of a build
    Logs(LogsArgs),
    /// Print the version
    Version(VersionArgs),
    /// Print the settings in force and where each comes from
    Config(ConfigArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

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
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// How to print the report [default: markdown]
    #[arg(long, value_name = "FORMAT", conflicts_with = "json")]
    pub format: Option<ReportFormat>,
    /// Write the report to a file, too; repeatable
    #[arg(long = "output", value_name = "FORMAT=FILE", value_parser = parse_output)]
    pub outputs: Vec<Output>,
    /// Show build logs as they come, each line after its derivation's name
    #[arg(short = 'L', long)]
    pub print_build_logs: bool,
    /// Finish everything that does not depend on a failure (the default)
    #[arg(short = 'k', long, conflicts_with = "fail_fast")]
    pub keep_going: bool,
    /// Stop at the first failure
    #[arg(long)]
    pub fail_fast: bool,
    /// Evaluate, and say what would be built
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Builds at a time [default: one per core]
    #[arg(short = 'j', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SLOTS)))]
    pub worker_slots: Option<u32>,
    /// Evaluators at a time [default: half the cores, at most four]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SLOTS)))]
    pub eval_slots: Option<u32>,
    /// Never fold successful output into groups in CI logs
    #[arg(long)]
    pub no_fold: bool,
}

/// `fleetctl logs`.
#[derive(Clone, Debug, Args)]
pub struct LogsArgs {
    /// A host, a derivation path or its base name
    #[arg(value_name = "SELECTOR")]
    pub selector: String,
    /// The run to look in [default: the newest that knows the selector]
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// Which attempt [default: the last]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub attempt: Option<u32>,
}

/// `fleetctl version`.
#[derive(Clone, Debug, Args)]
pub struct VersionArgs {
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// `fleetctl config`.
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What to do with the settings.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every setting, its value and its origin
    Show {
        /// The flake whose fleet.toml counts
        #[arg(value_name = "FLAKE", default_value = ".")]
        flake: String,
    },
}

/// `fleetctl completions`.
#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR, CLICOLOR=0 or TERM=dumb say otherwise
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Kinds of configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// nixosConfigurations
    Nixos,
    /// darwinConfigurations
    Darwin,
    /// homeConfigurations
    Home,
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
