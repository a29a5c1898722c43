//! The events of a run, gathered into the report of `fleet_diff`. Pure but for the clock that times the diff.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use fleet_diff::report::Seconds;
use fleet_diff::table::{Identity, PathFact};
use fleet_diff::{Catalog, ClosureDiff, Failure, HostReport, PathTable, Report, SideLabel, TargetReport};
use fleet_wire::v1::{self, Side, run_event::Event};

use crate::exit_code::Exit;

/// Of the daemon that embedded mode uses; chroot stores have it, too.
const STORE_DIR: &str = "/nix/store";

/// Everything a run said about its result.
#[derive(Debug, Default)]
pub struct Record {
    hosts: BTreeMap<HostKey, HostRecord>,
    paths: PathTable,
    notices: Vec<String>,
    finished: Option<v1::RunFinished>,
}

/// Name and kind: two kinds of configuration may share a name.
type HostKey = (String, v1::HostKind);

#[derive(Debug, Default)]
struct HostRecord {
    before: TargetReport,
    after: TargetReport,
}

/// Which trees were compared.
#[derive(Clone, Debug)]
pub struct Sides {
    /// The base, if there is one.
    pub before: Option<SideLabel>,
    /// The tree that was built.
    pub after: SideLabel,
}

impl Record {
    /// Takes one event in.
    pub fn apply(&mut self, event: v1::RunEvent) {
        match event.event {
            Some(Event::HostsFound(found)) => {
                for host in found.hosts {
                    let kind = host.kind();
                    self.hosts.entry((host.name, kind)).or_default();
                }
            }
            Some(Event::TargetSettled(settled)) => self.settle(settled),
            Some(Event::PathInfos(infos)) => {
                for info in infos.infos {
                    self.paths.add(fact(info));
                }
            }
            Some(Event::Notice(notice)) => self.notices.push(notice.text),
            Some(Event::RunFinished(finished)) => self.finished = Some(finished),
            _ => {}
        }
    }

    /// How the run ended; none while it goes on.
    pub fn finished(&self) -> Option<&v1::RunFinished> {
        self.finished.as_ref()
    }

    /// Names of all hosts that were found.
    pub fn host_names(&self) -> impl Iterator<Item = &str> {
        self.hosts.keys().map(|(name, _)| name.as_str())
    }

    /// Closure diffs and all.
    pub fn into_report(mut self, run: &str, sides: Sides) -> Report {
        let started = Instant::now();
        let compared = sides.before.is_some();
        let catalog = Catalog::new(&self.paths);
        let mut notices = std::mem::take(&mut self.notices);
        let mut hosts = Vec::new();
        for ((name, of_kind), host) in std::mem::take(&mut self.hosts) {
            let diff = if compared { diff(&catalog, &host, &name, &mut notices) } else { None };
            let mut report = HostReport::new(name, kind(of_kind), host.before, host.after, diff);
            // Without a base nothing has changed, though the host is on one side only.
            report.changed &= compared;
            hosts.push(report);
        }
        let finished = self.finished.unwrap_or_default();
        let counts = finished.counts.unwrap_or_default();
        let diff_s = started.elapsed().as_secs_f64();
        Report {
            run: run.to_owned(),
            store_dir: STORE_DIR.to_owned(),
            before: sides.before,
            after: sides.after,
            hosts,
            steps: fleet_diff::StepCounts {
                wanted: counts.wanted.into(),
                built: counts.built.into(),
                substituted: counts.substituted.into(),
                cached: counts.cached.into(),
                failed: counts.failed.into(),
                deduplicated: counts.deduplicated.into(),
            },
            seconds: Seconds {
                eval: seconds(finished.eval_ms),
                build: seconds(finished.build_ms),
                diff: diff_s,
                total: seconds(finished.total_ms) + diff_s,
            },
            failure: finished.failure.map(failure),
            notices,
        }
    }

    fn settle(&mut self, settled: v1::TargetSettled) {
        let (side, kind) = (settled.side(), settled.kind());
        let status = target_status(settled.status());
        let host = self.hosts.entry((settled.host, kind)).or_default();
        let target = TargetReport {
            drv: named(&settled.drv),
            // Of a failed target the place is known, but nothing is there.
            toplevel: named(&settled.toplevel).filter(|_| !status.is_failure()),
            status,
            failure: settled.failure.map(failure),
        };
        match side {
            Side::Before => host.before = target,
            Side::After | Side::Unspecified => host.after = target,
        }
    }
}

/// What a finished run means for the exit code; `stopped` tells whether the user asked it to end.
pub fn exit(report: &Report, outcome: v1::RunOutcome, stopped: bool) -> Exit {
    let failed = |target: &TargetReport| {
        matches!(target.status, fleet_diff::TargetStatus::EvalFailed | fleet_diff::TargetStatus::BuildFailed)
    };
    match outcome {
        v1::RunOutcome::Succeeded => Exit::Success,
        v1::RunOutcome::Partial => Exit::HostsFailed,
        // With --fail-fast the rest is cancelled because a host failed, not because the user said so.
        v1::RunOutcome::Cancelled
            if !stopped && report.hosts.iter().any(|host| failed(&host.before) || failed(&host.after)) =>
        {
            Exit::HostsFailed
        }
        v1::RunOutcome::Cancelled => Exit::Cancelled,
        v1::RunOutcome::Failed | v1::RunOutcome::Unspecified => Exit::Error,
    }
}

/// One line a host: its name and its toplevel. Hosts without one are left out; standard error has told why.
pub fn plain_lines(report: &Report) -> String {
    let mut hosts: Vec<&HostReport> = report.hosts.iter().collect();
    hosts.sort_by(|a, b| a.name.cmp(&b.name));
    // As in the other forms of the report: a name of several kinds is told apart by them.
    let shared: BTreeSet<&str> = hosts
        .windows(2)
        .filter(|pair| pair[0].name == pair[1].name)
        .map(|pair| pair[0].name.as_str())
        .collect();
    let line = |host: &&HostReport| {
        let toplevel = report.store_path(host.after.toplevel.as_deref()?);
        let name = crate::progress::visible(&host.name);
        let of_kind = if shared.contains(host.name.as_str()) {
            format!("{}/", host.kind.word())
        } else {
            String::new()
        };
        Some(format!("{of_kind}{name}  {toplevel}\n"))
    };
    hosts.iter().filter_map(line).collect()
}

fn diff(
    catalog: &Catalog<'_>,
    host: &HostRecord,
    name: &str,
    notices: &mut Vec<String>,
) -> Option<ClosureDiff> {
    let (before, after) = (host.before.toplevel.as_deref()?, host.after.toplevel.as_deref()?);
    if before == after || is_open(&host.before) || is_open(&host.after) {
        return None;
    }
    let table = catalog.table();
    match (table.closure(before), table.closure(after)) {
        (Ok(before), Ok(after)) => Some(ClosureDiff::between(catalog, &before, &after)),
        (Err(error), _) | (_, Err(error)) => {
            notices.push(format!("no diff of {name}: {error}"));
            None
        }
    }
}

/// Whether a toplevel is known but not made.
fn is_open(target: &TargetReport) -> bool {
    target.status == fleet_diff::TargetStatus::Planned || target.status.is_failure()
}

fn fact(info: v1::PathInfo) -> PathFact {
    let identity = (!info.pname.is_empty()).then_some(Identity {
        pname: info.pname,
        version: info.version,
        output: info.output,
    });
    PathFact { path: info.path, nar_size: info.nar_size, references: info.references, identity }
}

/// Base names, whether or not they came with the store directory.
fn named(path: &str) -> Option<String> {
    let base = path.rsplit('/').next().unwrap_or_default();
    (!base.is_empty()).then(|| base.to_owned())
}

fn failure(failure: v1::Failure) -> Failure {
    Failure { code: failure.code, cause: failure.cause, detail: failure.detail, drv: named(&failure.drv) }
}

fn kind(kind: v1::HostKind) -> fleet_diff::HostKind {
    match kind {
        v1::HostKind::Darwin => fleet_diff::HostKind::Darwin,
        v1::HostKind::Home => fleet_diff::HostKind::Home,
        v1::HostKind::Nixos | v1::HostKind::Unspecified => fleet_diff::HostKind::Nixos,
    }
}

fn target_status(status: v1::TargetStatus) -> fleet_diff::TargetStatus {
    use fleet_diff::TargetStatus as To;
    match status {
        v1::TargetStatus::Unspecified => To::Absent,
        v1::TargetStatus::Built => To::Built,
        v1::TargetStatus::Cached => To::Cached,
        v1::TargetStatus::Unchanged => To::Unchanged,
        v1::TargetStatus::EvalFailed => To::EvalFailed,
        v1::TargetStatus::BuildFailed => To::BuildFailed,
        v1::TargetStatus::Cancelled => To::Cancelled,
        v1::TargetStatus::Planned => To::Planned,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a run takes less than the 2^53 ms that are exact")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

#[cfg(test)]
mod tests;
