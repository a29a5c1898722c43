//! Options of commands that ask a coordinator about its runs, its workers and its clients.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::value::parse_duration;

/// Runs that one answer lists at most.
const MAX_RUNS: i64 = 1000;

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
    /// Go on until the attempt ends; needs a coordinator
    #[arg(short, long)]
    pub follow: bool,
    /// How long --follow keeps trying when the coordinator cannot be reached [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub reconnect_for: Option<Duration>,
}

/// `fleetctl runs`.
#[derive(Clone, Debug, Args)]
pub struct RunsArgs {
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=MAX_RUNS))]
    pub limit: u32,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// `fleetctl show`.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    /// The run
    #[arg(value_name = "RUN")]
    pub run: String,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// `fleetctl cancel`.
#[derive(Clone, Debug, Args)]
pub struct CancelArgs {
    /// The run
    #[arg(value_name = "RUN")]
    pub run: String,
}

/// `fleetctl status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
    /// Show it again every two seconds, until interrupted
    #[arg(short, long)]
    pub watch: bool,
}

/// `fleetctl why`.
#[derive(Clone, Debug, Args)]
pub struct WhyArgs {
    /// A host, a derivation path or its base name
    #[arg(value_name = "HOST|DRV")]
    pub selector: String,
    /// The run to look in [default: every live one]
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// `fleetctl worker`.
#[derive(Clone, Debug, Args)]
pub struct WorkerArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub command: WorkerCommand,
}

/// What to do with workers.
#[derive(Clone, Debug, Subcommand)]
pub enum WorkerCommand {
    /// Make a token with which one worker can join, once
    Token(WorkerTokenArgs),
    /// List the workers
    #[command(visible_alias = "list")]
    Ls {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one worker
    Show {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a worker nothing new; what it builds is finished
    Drain {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        /// Why, for those who look
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Let a worker work again: ends drain, quarantine and lock
    Resume {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Shut a worker out for ever; its work is done elsewhere
    Revoke {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// `fleetctl worker token`.
#[derive(Clone, Debug, Args)]
pub struct WorkerTokenArgs {
    /// The name the worker will have: a-z, 0-9, dash and dot
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// A system it may build for; repeatable [default: what it offers]
    #[arg(long = "system", value_name = "SYSTEM")]
    pub systems: Vec<String>,
    /// A feature it may offer; repeatable [default: what it offers]
    #[arg(long = "feature", value_name = "FEATURE")]
    pub features: Vec<String>,
    /// How long the token can be used [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub ttl: Option<Duration>,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// `fleetctl client`.
#[derive(Clone, Debug, Args)]
pub struct ClientArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub command: ClientCommand,
}

/// What to do with clients.
#[derive(Clone, Debug, Subcommand)]
pub enum ClientCommand {
    /// Make a token for a person or a program
    Token(ClientTokenArgs),
    /// List the clients
    #[command(visible_alias = "list")]
    Ls {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Refuse a client from now on
    Revoke {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// `fleetctl client token`.
#[derive(Clone, Debug, Args)]
pub struct ClientTokenArgs {
    /// Who will use it: a-z, 0-9, dash and dot
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// What it allows
    #[arg(long, value_name = "ROLE")]
    pub role: Role,
    /// How long it can be used [default: 90d]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub ttl: Option<Duration>,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Look
    Read,
    /// Look, and build
    Submit,
    /// Everything
    Admin,
}
