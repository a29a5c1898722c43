//! The command line as typed: one definition per flag. What it means together with files, environment and
//! defaults is decided in `config` and `options`.
//!
//! Commands stand here; the options of those that build or watch runs in `run`, those about a coordinator's runs and
//! identities in `remote`, those about what is kept in `cache`, and the forms of values in `value`.

mod cache;
mod remote;
mod run;
mod value;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use cache::{CacheArgs, CacheCommand, CacheGcArgs, PinArgs, UnpinArgs};
pub use remote::{
    CancelArgs, ClientArgs, ClientCommand, ClientTokenArgs, LogsArgs, Role, RunsArgs, ShowArgs, StatusArgs,
    WhyArgs, WorkerArgs, WorkerCommand, WorkerTokenArgs,
};
pub use run::{
    AttachArgs, BuildArgs, DiffArgs, FollowArgs, LimitArgs, MAX_SLOTS, Output, ReportArgs, ReportFormat,
    RunArgs,
};
pub use value::{parse_duration, parse_size};

const EVERYWHERE: &str = "Options of every command";

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
    /// The coordinator to ask.
    #[arg(long, value_name = "URL", global = true, help_heading = EVERYWHERE,
        help = "The coordinator to ask, as https://HOST[:PORT] or unix:///PATH; `none` builds in this process")]
    pub coordinator: Option<String>,
    /// Certificates of the authority that vouches for the coordinator, PEM
    #[arg(long, value_name = "FILE", global = true, help_heading = EVERYWHERE, hide_short_help = true)]
    pub ca: Option<PathBuf>,
    /// Who we are: a certificate, PEM, with its key unless --client-key names that
    #[arg(long, value_name = "FILE", global = true, help_heading = EVERYWHERE, hide_short_help = true)]
    pub client_cert: Option<PathBuf>,
    /// The private key of --client-cert, PEM
    #[arg(long, value_name = "FILE", global = true, help_heading = EVERYWHERE, hide_short_help = true)]
    pub client_key: Option<PathBuf>,
    /// Who we are: a file with a token; tokens themselves are never given as options
    #[arg(long, value_name = "FILE", global = true, help_heading = EVERYWHERE, hide_short_help = true)]
    pub token_file: Option<PathBuf>,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum CliCommand {
    /// Build hosts of a flake; with --base, print what changed
    Build(BuildArgs),
    /// Build both sides of an update and print what changed
    Diff(DiffArgs),
    /// Print the log of a build
    Logs(LogsArgs),
    /// Watch a run of the coordinator to its end and print its result
    Attach(AttachArgs),
    /// List the coordinator's runs, the newest first
    Runs(RunsArgs),
    /// Show one run with its hosts
    Show(ShowArgs),
    /// Cancel a run
    Cancel(CancelArgs),
    /// Show live runs, the queue and the workers
    Status(StatusArgs),
    /// Tell what a host or a derivation waits for
    Why(WhyArgs),
    /// Enrol, look at and steer workers
    Worker(WorkerArgs),
    /// Make and revoke tokens of clients
    Client(ClientArgs),
    /// Look at the cache, collect its garbage, check it
    Cache(CacheArgs),
    /// Keep a run's results or a store path until it is unpinned
    Pin(PinArgs),
    /// Take a pin away
    Unpin(UnpinArgs),
    /// Print the version
    Version(VersionArgs),
    /// Print the settings in force and where each comes from
    Config(ConfigArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
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
