use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

struct Names(BTreeSet<String>);

impl Names {
    fn of(names: &[&str]) -> Self {
        Self(names.iter().map(|&name| name.to_owned()).collect())
    }
}

impl Evidence for Names {
    fn has_name(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    fn has_kernel(&self, version: &str) -> bool {
        self.0.iter().any(|name| kernel_version(name) == Some(version))
    }
}

/// name | version | output | variant
fn parts(name: &str, others: &[&str]) -> String {
    match identify(name, None, &Names::of(others)) {
        Identified::Package(package) => {
            format!("{} | {} | {} | {}", package.name, package.version, package.output, package.variant)
        }
        Identified::Configuration(kind, name) => format!("{kind:?} {name}"),
    }
}

#[test]
fn names_split_where_the_version_begins() {
    for (name, expected) in [
        ("firefox-131.0", "firefox | 131.0 |  | "),
        ("nfs-utils-2.7.1", "nfs-utils | 2.7.1 |  | "),
        ("curl-8.11.0-man", "curl | 8.11.0 | man | "),
        ("foo-unstable-2023-01-01", "foo | unstable-2023-01-01 |  | "),
        ("foo-7.1.0-unstable-2026-01-25", "foo | 7.1.0-unstable-2026-01-25 |  | "),
        ("nvim-treesitter-abc1234", "nvim-treesitter | abc1234 |  | "),
        ("nvim-treesitter-9f8e7d6", "nvim-treesitter | 9f8e7d6 |  | "),
        ("well-defaced", "well-defaced |  |  | "),
        ("python3-3.11.10", "python3 | 3.11.10 |  | "),
        ("python3.12-requests-2.32.3", "python-requests | 2.32.3 |  | python3.12"),
        ("python3.12-pyqt5-5.15.10-dev", "python-pyqt5 | 5.15.10 | dev | python3.12"),
        ("perl5.40.0-JSON-4.10", "perl-JSON | 4.10 |  | perl5.40.0"),
        ("zfs-kernel-2.4.1-6.18.16", "zfs-kernel | 2.4.1 |  | kernel 6.18.16"),
        ("initrd-linux-6.12.1", "System initrd"),
        ("-1.0", "-1.0 |  |  | "),
        ("", " |  |  | "),
    ] {
        assert_eq!(parts(name, &[]), expected, "{name}");
    }
}

#[test]
fn suffixes_peel_only_with_evidence() {
    assert_eq!(parts("foo-1.0-zstd", &[]), "foo | 1.0-zstd |  | ");
    assert_eq!(parts("foo-1.0-zstd", &["foo-1.0"]), "foo | 1.0 | zstd | ");
    let kernel = ["linux-6.18.16", "linux-6.18.16-modules"];
    assert_eq!(parts("linux-6.18.16-modules-shrunk", &kernel), "linux | 6.18.16 | modules-shrunk | ");
    assert_eq!(parts("foo-1.0-rc", &["foo-1.0"]), "foo | 1.0-rc |  | ");
    assert_eq!(parts("foo-1.0-unstable-2026-01-25", &["foo-1.0"]), "foo | 1.0-unstable-2026-01-25 |  | ");
    assert_eq!(parts("tool-man", &[]), "tool-man |  |  | ");
    assert_eq!(parts("tool-man", &["tool"]), "tool |  | man | ");
    assert_eq!(parts("tool-extra", &["tool"]), "tool-extra |  |  | ");
}

#[test]
fn kernel_modules_fold_when_their_kernel_is_there() {
    let kernel = ["linux-6.6.31"];
    assert_eq!(parts("nvidia-x11-550.78-6.6.31", &kernel), "nvidia-x11 | 550.78 |  | kernel 6.6.31");
    assert_eq!(parts("nvidia-x11-550.78-6.6.31", &[]), "nvidia-x11 | 550.78-6.6.31 |  | ");
}

#[test]
fn configuration_is_told_from_packages() {
    for (name, expected) in [
        ("unit-sshd.service", "Unit unit-sshd.service"),
        ("X-Restart-Triggers-dbus", "Trigger X-Restart-Triggers-dbus"),
        ("etc-10-nixos.rules", "Etc etc-10-nixos.rules"),
        ("nixos-system-web1-26.05.20260101.abcdef0", "System nixos-system"),
        ("stage-1-init.sh", "File stage-1-init.sh"),
        ("fix.patch", "Source fix.patch"),
        ("etcd-3.5.1", "etcd | 3.5.1 |  | "),
    ] {
        assert_eq!(parts(name, &[]), expected, "{name}");
    }
}

#[test]
fn the_derivation_knows_better_than_its_name() {
    let exact = |name: &str, pname: &str, version: &str, output: &str| {
        let identity = Identity { pname: pname.into(), version: version.into(), output: output.into() };
        match identify(name, Some(&identity), &Names::of(&[])) {
            Identified::Package(package) => {
                format!("{} | {} | {} | {}", package.name, package.version, package.output, package.variant)
            }
            Identified::Configuration(kind, name) => format!("{kind:?} {name}"),
        }
    };
    assert_eq!(exact("font-100dpi-1.0.3", "font-100dpi", "1.0.3", "out"), "font-100dpi | 1.0.3 |  | ");
    assert_eq!(exact("linux-6.12-modules", "linux", "6.12", "modules"), "linux | 6.12 | modules | ");
    let requests = exact("python3.12-requests-2.32.3", "requests", "2.32.3", "out");
    assert_eq!(requests, "python-requests | 2.32.3 |  | python3.12");
    let zfs = exact("zfs-kernel-2.4.1-6.18.16", "zfs-kernel", "2.4.1-6.18.16", "out");
    assert_eq!(zfs, exact("zfs-kernel-2.4.1-6.18.16", "zfs-kernel", "2.4.1", "out"));
    assert_eq!(zfs, "zfs-kernel | 2.4.1 |  | kernel 6.18.16");
}

#[test]
fn hashes_are_cut_wherever_they_end() {
    assert_eq!(name_of("0123456789abcdfghijklmnpqrsvwxyz-foo-1.0"), "foo-1.0");
    assert_eq!(name_of("short-foo-1.0"), "foo-1.0");
    assert_eq!(name_of("nodash"), "nodash");
}

proptest! {
    #[test]
    fn any_name_is_identified(
        name in "(.{0,40}|[a-z]{1,6}[0-9.]{0,4}(-[a-z0-9.]{0,8}){0,6})",
        other in "[a-z]{1,6}(-[0-9.]{1,4}){0,2}",
        pname in ".{0,8}",
        version in ".{0,8}",
    ) {
        let names = Names::of(&[&other]);
        identify(name_of(&name), None, &names);
        let identity = Identity { pname, version, output: String::new() };
        identify(&name, Some(&identity), &names);
    }
}
