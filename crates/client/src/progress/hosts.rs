//! The hosts of a run as the narrator knows them: what to call each, and which failed. Pure.

use std::collections::BTreeSet;

use fleet_wire::v1;

use super::escape::visible;

type HostKey = (String, v1::HostKind);

/// Found and failed hosts.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosts {
    found: BTreeSet<HostKey>,
    failed: BTreeSet<HostKey>,
}

impl Hosts {
    /// Takes the hosts of one side in.
    pub(super) fn find(&mut self, found: &v1::HostsFound) {
        self.found.extend(found.hosts.iter().map(|host| (host.name.clone(), host.kind())));
    }

    /// Remembers a failure of either side.
    pub(super) fn fail(&mut self, settled: &v1::TargetSettled) {
        self.failed.insert((settled.host.clone(), settled.kind()));
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.found.union(&self.failed).count()
    }

    /// How many failed.
    pub(super) fn failures(&self) -> usize {
        self.failed.len()
    }

    /// The name, with the kind before it where two kinds have it, as in the report.
    pub(super) fn label(&self, name: &str, kind: v1::HostKind) -> String {
        let of_other_kinds = self.found.iter().any(|(found, its)| found == name && *its != kind);
        let prefix = match kind {
            v1::HostKind::Nixos if of_other_kinds => "nixos/",
            v1::HostKind::Darwin if of_other_kinds => "darwin/",
            v1::HostKind::Home if of_other_kinds => "home/",
            _ => "",
        };
        format!("{prefix}{}", visible(name))
    }
}
