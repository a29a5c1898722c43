//! The report for people: what to know first stands first, and what several hosts share is said once.
//!
//! Verdict, failures, warnings, shared changes, what is left per host (collapsed), rebuilds, notices.

mod changes;
mod failures;
mod verdict;

use crate::closure_diff::ClosureDiff;
use crate::fleet_diff::FleetDiff;
use crate::report::escape;
use crate::report::host_set::HostNames;
use crate::report::model::{HostReport, Report, TargetStatus};

/// Writes the whole run.
pub fn markdown(report: &Report) -> String {
    let page = Page::new(report);
    let mut sections = vec![verdict::verdict(&page)];
    sections.extend(failures::failures(&page));
    if report.before.is_some() {
        sections.extend(changes::warnings(&page));
        sections.extend(changes::shared(&page));
        sections.extend(changes::per_host(&page));
        sections.extend(changes::rebuilt(&page));
    } else {
        sections.extend(toplevels(&page));
    }
    sections.extend(notices(&page));
    sections.join("\n")
}

/// A report with its hosts in order, and its diffs side by side.
struct Page<'a> {
    report: &'a Report,
    hosts: Vec<&'a HostReport>,
    names: HostNames,
    fleet: FleetDiff<'a>,
    /// Hosts with a diff: what "all" means for changes.
    compared: Vec<usize>,
}

impl<'a> Page<'a> {
    fn new(report: &'a Report) -> Self {
        let (names, hosts): (Vec<String>, Vec<&HostReport>) = report.named_hosts().into_iter().unzip();
        let diffs: Vec<(usize, &ClosureDiff)> =
            hosts.iter().enumerate().filter_map(|(place, host)| Some((place, host.diff.as_ref()?))).collect();
        let compared = diffs.iter().map(|&(place, _)| place).collect();
        Self { report, hosts, names: HostNames::new(names), fleet: FleetDiff::new(diffs), compared }
    }

    /// Places of the hosts of which something holds.
    fn hosts_where(&self, holds: impl Fn(&HostReport) -> bool) -> Vec<usize> {
        (0..self.hosts.len()).filter(|&place| holds(self.hosts[place])).collect()
    }

    fn failed(&self) -> Vec<usize> {
        self.hosts_where(|host| host.before.status.is_failure() || host.after.status.is_failure())
    }

    fn planned(&self) -> bool {
        self.hosts.iter().any(|host| host.after.status == TargetStatus::Planned)
    }

    /// A set of hosts among all of the run.
    fn of_all(&self, hosts: &[usize]) -> String {
        let whole: Vec<usize> = (0..self.hosts.len()).collect();
        self.names.show(hosts, &whole, "hosts")
    }

    /// A set of hosts among those with a diff.
    fn of_compared(&self, hosts: &[usize]) -> String {
        let noun = if self.compared.len() == self.hosts.len() { "hosts" } else { "changed hosts" };
        self.names.show(hosts, &self.compared, noun)
    }
}

/// Of a plain build: where everything is.
fn toplevels(page: &Page<'_>) -> Option<String> {
    let rows: Vec<String> = page
        .hosts
        .iter()
        .enumerate()
        .filter_map(|(place, host)| {
            let path = host.after.toplevel.as_ref().or(host.after.drv.as_ref())?;
            let path = escape::code(&page.report.store_path(path));
            Some(format!("| {} | {path} |\n", escape::code(page.names.name(place))))
        })
        .collect();
    (!rows.is_empty()).then(|| format!("| host | store path |\n|---|---|\n{}", rows.concat()))
}

fn notices(page: &Page<'_>) -> Option<String> {
    let notices: Vec<String> =
        page.report.notices.iter().map(|notice| format!("- {}\n", escape::inline(notice))).collect();
    (!notices.is_empty()).then(|| format!("## Notices\n\n{}", notices.concat()))
}

#[cfg(test)]
mod tests;
