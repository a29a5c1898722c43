//! What a report says, before anyone decides how it looks.
//!
//! Plain data about one run. Names, causes and logs are whatever the outside world sent; the renderings escape.

use serde::Serialize;

use crate::closure_diff::ClosureDiff;

/// A whole run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Id of the run.
    pub run: String,
    /// Directory that store paths stand in, such as `/nix/store`.
    pub store_dir: String,
    /// The base of a comparison; none for a plain build.
    pub before: Option<SideLabel>,
    /// The tree that was built.
    pub after: SideLabel,
    /// Every host of either side, in any order.
    pub hosts: Vec<HostReport>,
    /// How many steps, and what became of them.
    pub steps: StepCounts,
    /// How long it took.
    pub seconds: Seconds,
    /// Why nothing could be done, if so.
    pub failure: Option<Failure>,
    /// What a person should know besides.
    pub notices: Vec<String>,
}

/// Which tree a side is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SideLabel {
    /// Commit, in full; none without git and for dirty trees.
    pub rev: Option<String>,
    /// Whether there were uncommitted changes.
    pub dirty: bool,
}

/// One host.
#[derive(Clone, Debug, PartialEq)]
pub struct HostReport {
    /// Attribute name; any text.
    pub name: String,
    /// Which attribute set it stands in.
    pub kind: HostKind,
    /// Of a plain build: absent.
    pub before: TargetReport,
    /// The built side.
    pub after: TargetReport,
    /// Whether its closure is another after the update.
    pub changed: bool,
    /// In what; none when a side has no toplevel or both have the same.
    pub diff: Option<ClosureDiff>,
}

impl HostReport {
    /// A host, changed if its two sides say so: other toplevels, other derivations where a toplevel is not
    /// known, or present on one side only. A host of which a side failed is not called changed.
    pub fn new(
        name: String,
        kind: HostKind,
        before: TargetReport,
        after: TargetReport,
        diff: Option<ClosureDiff>,
    ) -> Self {
        let absent = |target: &TargetReport| target.status == TargetStatus::Absent;
        let failed = before.status.is_failure() || after.status.is_failure();
        let changed = if failed {
            false
        } else if let (Some(old), Some(new)) = (&before.toplevel, &after.toplevel) {
            old != new
        } else if let (Some(old), Some(new)) = (&before.drv, &after.drv) {
            old != new
        } else {
            absent(&before) != absent(&after)
        };
        Self { name, kind, before, after, changed, diff }
    }
}

/// Which attribute set a host stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HostKind {
    /// `nixosConfigurations`
    Nixos,
    /// `darwinConfigurations`
    Darwin,
    /// `homeConfigurations`
    Home,
}

impl HostKind {
    /// As in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Nixos => "nixos",
            Self::Darwin => "darwin",
            Self::Home => "home",
        }
    }
}

/// One side of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetReport {
    /// Base name of the toplevel's derivation.
    pub drv: Option<String>,
    /// Base name of the toplevel.
    pub toplevel: Option<String>,
    /// How it ended.
    pub status: TargetStatus,
    /// Why it has no toplevel.
    pub failure: Option<Failure>,
}

/// How one side of one host ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetStatus {
    /// The side has no such host.
    #[default]
    Absent,
    /// Built by this run.
    Built,
    /// There already, or substituted.
    Cached,
    /// Equal on both sides: nothing was done.
    Unchanged,
    /// It does not evaluate.
    EvalFailed,
    /// Something it needs does not build.
    BuildFailed,
    /// Withdrawn.
    Cancelled,
    /// A dry run ends here.
    Planned,
}

impl TargetStatus {
    /// Whether there is no toplevel although one was wanted.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::EvalFailed | Self::BuildFailed | Self::Cancelled)
    }
}

/// Why something has no result.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Failure {
    /// Stable, lower snake case.
    pub code: String,
    /// One sentence.
    pub cause: String,
    /// Trace or end of the log.
    pub detail: String,
    /// Base name of the derivation that failed.
    pub drv: Option<String>,
}

/// How many steps, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StepCounts {
    /// Distinct ones that some target wants.
    pub wanted: u64,
    /// Built.
    pub built: u64,
    /// Paths fetched from substituters.
    pub substituted: u64,
    /// There already.
    pub cached: u64,
    /// Failed, or behind one that did.
    pub failed: u64,
    /// Requests beyond the first for the same step.
    pub deduplicated: u64,
}

/// How long the phases took, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Seconds {
    /// Until every host was evaluated.
    pub eval: f64,
    /// From the first step to the last.
    pub build: f64,
    /// The comparison.
    pub diff: f64,
    /// From start to end.
    pub total: f64,
}

impl Report {
    /// A base name as a store path.
    pub fn store_path(&self, base_name: &str) -> String {
        format!("{}/{base_name}", self.store_dir.trim_end_matches('/'))
    }

    /// Hosts with the names to show them by, in name order. A name that stands in several attribute sets
    /// is told apart by `kind/name`.
    pub(crate) fn named_hosts(&self) -> Vec<(String, &HostReport)> {
        let mut names: Vec<&str> = self.hosts.iter().map(|host| host.name.as_str()).collect();
        names.sort_unstable();
        let shared =
            |name: &str| names.partition_point(|&n| n <= name) - names.partition_point(|&n| n < name) > 1;
        let label = |host: &HostReport| {
            if shared(&host.name) { format!("{}/{}", host.kind.word(), host.name) } else { host.name.clone() }
        };
        let mut hosts: Vec<_> = self.hosts.iter().map(|host| (label(host), host)).collect();
        hosts.sort_by(|left, right| left.0.cmp(&right.0));
        hosts
    }
}
