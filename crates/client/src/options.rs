//! What a run is to do: arguments and settings, resolved into values that need no further interpretation.

use clap::ValueEnum;
use fleet_wire::v1;

use crate::args::{Kind, LimitArgs, Output, ReportArgs, ReportFormat, RunArgs};
use crate::config::Settings;
use crate::error::CliError;
use crate::source::{FlakeRef, Fragment};

/// A run as the user wants it.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one switch of the command line")]
pub struct RunOptions {
    /// The flake.
    pub flake: FlakeRef,
    /// The commit to compare with.
    pub base: Option<String>,
    /// Which hosts.
    pub selection: v1::Selection,
    /// Stop at the first failure.
    pub fail_fast: bool,
    /// Evaluate only.
    pub dry_run: bool,
    /// Try again what failed for good.
    pub retry_failed: bool,
    /// What a step may take, where it is not the coordinator's to say.
    pub limits: Option<v1::StepLimits>,
    /// What the run is of; empty when nobody knows.
    pub branch: String,
    /// Inputs that come along whether or not they could be fetched.
    pub bring: Vec<String>,
    /// Show build logs as they come.
    pub print_build_logs: bool,
    /// How the result is printed.
    pub report: ReportOptions,
}

/// How a result is printed.
#[derive(Clone, Debug)]
pub struct ReportOptions {
    /// In which form.
    pub format: ReportFormat,
    /// Files that get it, too.
    pub outputs: Vec<Output>,
    /// Whether two sides are compared.
    pub compared: bool,
}

/// What a command takes when no host is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unnamed {
    /// Every host.
    TakeAll,
    /// Ask the user to say so.
    Refuse,
}

impl RunOptions {
    /// Puts arguments and settings together.
    pub fn resolve(
        args: &RunArgs,
        base: Option<&str>,
        unnamed: Unnamed,
        flake: FlakeRef,
        settings: &Settings,
    ) -> Result<Self, CliError> {
        let selection = selection(args, unnamed, &flake, settings)?;
        Ok(Self {
            report: ReportOptions::resolve(&args.report, settings, base.is_some())?,
            flake,
            base: base.map(str::to_owned),
            selection,
            fail_fast: settings.fail_fast.value,
            dry_run: args.dry_run,
            retry_failed: args.retry_failed,
            limits: limits(&args.limits),
            branch: settings.branch.value.clone().unwrap_or_default(),
            bring: settings.bring.value.clone(),
            print_build_logs: settings.print_build_logs.value,
        })
    }
}

impl ReportOptions {
    /// Puts arguments and settings together; refuses forms that have nothing to compare.
    pub fn resolve(args: &ReportArgs, settings: &Settings, compared: bool) -> Result<Self, CliError> {
        if !compared && let Some(format @ (ReportFormat::Markdown | ReportFormat::Nvd)) = args.format {
            let name =
                format.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            return Err(CliError::new(format!("--format {name} compares two sides, but there is only one"))
                .next(
                    "Add --base REV, or leave --format out: without a base the result is one line a host",
                ));
        }
        if !compared
            && let Some(output) = args.outputs.iter().find(|output| output.format != ReportFormat::Json)
        {
            return Err(CliError::new(format!(
                "the report for {} compares two sides, but there is only one",
                output.file.display()
            ))
            .next("Add --base REV, or write json=FILE"));
        }
        let format = if args.json { ReportFormat::Json } else { settings.format.value };
        Ok(Self { format, outputs: args.outputs.clone(), compared })
    }
}

/// None when nothing is said: then the coordinator's count.
fn limits(args: &LimitArgs) -> Option<v1::StepLimits> {
    let limits = v1::StepLimits {
        timeout_s: args.timeout.unwrap_or(0),
        max_silent_s: args.max_silent_time.unwrap_or(0),
        max_log_bytes: args.max_log_size.unwrap_or(0),
        max_output_bytes: args.max_output_size.unwrap_or(0),
    };
    (limits != v1::StepLimits::default()).then_some(limits)
}

fn selection(
    args: &RunArgs,
    unnamed: Unnamed,
    flake: &FlakeRef,
    settings: &Settings,
) -> Result<v1::Selection, CliError> {
    let mut kinds: Vec<Kind> = settings.kind.value.clone();
    let mut hosts = args.hosts.clone();
    let mut excludes = settings.exclude.value.clone();
    if hosts.iter().any(String::is_empty) {
        return Err(CliError::new("--host needs a name or a glob").next("Use --all-hosts to take every host"));
    }
    if let Some(fragment) = &flake.fragment {
        if args.all_hosts || !hosts.is_empty() {
            return Err(CliError::new(format!(
                "`#{}` and --host or --all-hosts contradict each other",
                fragment.host
            ))
            .next("Keep one of them"));
        }
        kinds = fragment_kind(fragment).map_or(kinds, |kind| vec![kind]);
        hosts = vec![literal(&fragment.host)];
        // One host, by name: nothing is left to exclude.
        excludes = Vec::new();
    }
    if hosts.is_empty() && !args.all_hosts && unnamed == Unnamed::Refuse {
        return Err(CliError::new("no hosts are named")
            .next("Add --all-hosts, --host GLOB, or a host after the flake as in `.#web`"));
    }
    if args.excludes.is_empty() && hosts.iter().any(|glob| glob.ends_with("-minimal")) {
        excludes.retain(|glob| glob != "*-minimal");
    }
    excludes.retain(|glob| !glob.is_empty());
    kinds.dedup();
    let kinds = kinds.into_iter().map(|kind| wire_kind(kind).into()).collect();
    Ok(v1::Selection { hosts, excludes, kinds })
}

/// A glob that matches exactly this name.
fn literal(name: &str) -> String {
    name.chars().fold(String::new(), |mut glob, c| {
        match c {
            '*' | '?' | '[' => glob.extend(['[', c, ']']),
            c => glob.push(c),
        }
        glob
    })
}

fn fragment_kind(fragment: &Fragment) -> Option<Kind> {
    match fragment.attribute_set.as_deref()? {
        "darwinConfigurations" => Some(Kind::Darwin),
        "homeConfigurations" => Some(Kind::Home),
        _ => Some(Kind::Nixos),
    }
}

fn wire_kind(kind: Kind) -> v1::HostKind {
    match kind {
        Kind::Nixos => v1::HostKind::Nixos,
        Kind::Darwin => v1::HostKind::Darwin,
        Kind::Home => v1::HostKind::Home,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{GlobalArgs, ReportArgs};
    use crate::config::{Environment, Files};

    fn resolved(flake: &str, args: &RunArgs, base: Option<&str>) -> Result<RunOptions, String> {
        let environment = Environment([("HOME".into(), "/home/u".into())].into());
        let settings = Settings::resolve(&GlobalArgs::default(), args, &environment, &Files::default())
            .expect("settings");
        let flake = FlakeRef::parse(flake).expect("flake");
        RunOptions::resolve(args, base, Unnamed::Refuse, flake, &settings).map_err(|error| error.paragraph())
    }

    fn with_hosts(hosts: &[&str]) -> RunArgs {
        RunArgs { hosts: hosts.iter().map(|&host| host.to_owned()).collect(), ..RunArgs::default() }
    }

    #[test]
    fn minimal_hosts_are_left_out_unless_they_are_named() {
        let all = RunArgs { all_hosts: true, ..RunArgs::default() };
        assert_eq!(resolved(".", &all, None).expect("options").selection.excludes, ["*-minimal"]);
        let named = resolved(".", &with_hosts(&["web-minimal"]), None).expect("options");
        assert!(named.selection.excludes.is_empty());
        let lifted = RunArgs { excludes: vec![String::new()], ..all };
        assert!(resolved(".", &lifted, None).expect("options").selection.excludes.is_empty());
    }

    #[test]
    fn a_host_after_the_flake_is_taken_literally() {
        let options = resolved(".#a*b", &RunArgs::default(), None).expect("options");
        assert_eq!(options.selection.hosts, ["a[*]b"]);
        let options = resolved(".#darwinConfigurations.mac", &RunArgs::default(), None).expect("options");
        assert_eq!(options.selection.kinds, [i32::from(v1::HostKind::Darwin)]);
        assert_eq!(options.selection.hosts, ["mac"]);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        insta::assert_snapshot!(resolved(".#web", &with_hosts(&["db"]), None).expect_err("refused"), @"error: `#web` and --host or --all-hosts contradict each other. Keep one of them.");
        insta::assert_snapshot!(resolved(".", &RunArgs::default(), None).expect_err("refused"), @"error: no hosts are named. Add --all-hosts, --host GLOB, or a host after the flake as in `.#web`.");
        let output = Output { format: ReportFormat::Markdown, file: "r.md".into() };
        let report = ReportArgs { outputs: vec![output], ..ReportArgs::default() };
        let args = RunArgs { report, ..with_hosts(&["*"]) };
        insta::assert_snapshot!(resolved(".", &args, None).expect_err("refused"), @"error: the report for r.md compares two sides, but there is only one. Add --base REV, or write json=FILE.");
        assert!(resolved(".", &args, Some("HEAD")).is_ok());
        let report = ReportArgs { format: Some(ReportFormat::Nvd), ..ReportArgs::default() };
        let args = RunArgs { report, ..with_hosts(&["*"]) };
        insta::assert_snapshot!(resolved(".", &args, None).expect_err("refused"), @"error: --format nvd compares two sides, but there is only one. Add --base REV, or leave --format out: without a base the result is one line a host.");
        assert!(resolved(".", &args, Some("HEAD")).is_ok());
    }
}
