//! The same commit gives the same toplevels as plain Nix, whatever the flake reads of itself.

use fleet_testkit::NixDaemon;
use fleet_tests::{Fleetctl, HandMadeFleet, Outcome};

/// A toplevel that depends on everything that a source carries.
const READS_ITSELF: &str = r#"package "self-${toString (self.revCount or 0)}" ''echo ${self.rev or "dirty"} ${toString self.lastModified} ${self.lastModifiedDate} ${self.narHash} ${self.outPath} ${self.shortRev or "none"} > $out''"#;

fn fleet_that_reads_itself(daemon: &NixDaemon) -> HandMadeFleet {
    let mut fleet = HandMadeFleet::new(daemon).host("web", READS_ITSELF);
    fleet.repo.write("modules/web.nix", "{ }");
    fleet.repo.commit("an earlier commit");
    fleet.commit();
    fleet
}

/// The toplevel that plain `nix build` makes of the same tree.
fn toplevel_by_nix(daemon: &NixDaemon, flake: &str) -> String {
    let attribute = format!("{flake}#nixosConfigurations.web.config.system.build.toplevel");
    daemon.nix_stdout(["build", "--no-link", "--print-out-paths", &attribute])
}

fn toplevel_by_fleetctl(daemon: &NixDaemon, flake: &str) -> (String, Outcome) {
    let outcome = Fleetctl::new(daemon).args(["build", flake, "--all-hosts"]).run();
    outcome.expect_code(0);
    let toplevel = outcome.stdout.trim().rsplit(' ').next().expect("a path").to_owned();
    (toplevel, outcome)
}

#[track_caller]
fn expect_same(daemon: &NixDaemon, flake: &str) {
    // fleetctl first: what Nix leaves in the store must not be what makes it right.
    let (ours, outcome) = toplevel_by_fleetctl(daemon, flake);
    assert_eq!(ours, toplevel_by_nix(daemon, flake), "{outcome}");
}

#[test]
fn a_clean_tree_gives_the_toplevel_of_plain_nix() {
    let daemon = NixDaemon::start_default();
    let fleet = fleet_that_reads_itself(&daemon);
    expect_same(&daemon, &fleet.flake().display().to_string());
}

#[test]
fn a_dirty_tree_gives_the_toplevel_of_plain_nix() {
    let daemon = NixDaemon::start_default();
    let fleet = fleet_that_reads_itself(&daemon);
    fleet.repo.write("modules/web.nix", "{ changed = true; }");
    fleet.repo.write("modules/new.nix", "{ }");
    fleet.repo.add("modules/new.nix");
    fleet.repo.write("untracked.nix", "{ }");
    expect_same(&daemon, &fleet.flake().display().to_string());
}

#[test]
fn a_tree_with_links_modes_and_odd_names_gives_the_toplevel_of_plain_nix() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let daemon = NixDaemon::start_default();
    let mut fleet = fleet_that_reads_itself(&daemon);
    let path = fleet.flake().to_owned();
    fleet.repo.write("script", "#!/bin/sh\n");
    std::fs::set_permissions(path.join("script"), std::fs::Permissions::from_mode(0o755)).expect("a mode");
    symlink("script", path.join("a link")).expect("a link");
    fleet.repo.write("odd/ü \"quoted\" name", [0_u8, 255, 10]);
    fleet.repo.write("a.b/x", "");
    fleet.repo.write("a/x", "");
    fleet.repo.commit("odd files");
    expect_same(&daemon, &path.display().to_string());
    std::fs::remove_file(path.join("script")).expect("removed");
    expect_same(&daemon, &path.display().to_string());
}

#[test]
fn a_flake_below_the_top_of_its_repository_gives_the_toplevel_of_plain_nix() {
    let daemon = NixDaemon::start_default();
    let mut fleet = fleet_that_reads_itself(&daemon);
    let flake = std::fs::read_to_string(fleet.flake().join("flake.nix")).expect("flake.nix");
    fleet.repo.write("below/flake.nix", flake);
    fleet.repo.commit("a flake below");
    expect_same(&daemon, &format!("{}?dir=below", fleet.flake().display()));
}

#[test]
fn the_base_is_built_as_that_commit_even_when_the_tree_is_dirty() {
    let daemon = NixDaemon::start_default();
    let fleet = fleet_that_reads_itself(&daemon);
    let base = fleet.repo.git(&["rev-parse", "HEAD"]);
    fleet.repo.write("modules/web.nix", "{ changed = true; }");
    let flake = fleet.flake().display().to_string();
    let outcome =
        Fleetctl::new(&daemon).args(["build", &flake, "--all-hosts", "--base", "HEAD", "--json"]).run();
    outcome.expect_code(0);
    let host = outcome.json()["hosts"]["web"].clone();
    assert_eq!(
        host["before"]["toplevel"],
        toplevel_by_nix(&daemon, &format!("git+file://{flake}?rev={base}"))
    );
    assert_eq!(host["after"]["toplevel"], toplevel_by_nix(&daemon, &flake));
    assert_eq!(host["changed"], true);
}

#[test]
fn two_commits_of_the_same_tree_are_two_sources() {
    let daemon = NixDaemon::start_default();
    let fleet = fleet_that_reads_itself(&daemon);
    let base = fleet.repo.git(&["rev-parse", "HEAD"]);
    fleet.repo.git(&["commit", "--quiet", "--allow-empty", "--message", "nothing"]);
    let head = fleet.repo.git(&["rev-parse", "HEAD"]);
    let flake = fleet.flake().display().to_string();
    let outcome = Fleetctl::new(&daemon).args(["diff", &flake, "--base", "HEAD~1", "--json"]).run();
    outcome.expect_code(0);
    let host = outcome.json()["hosts"]["web"].clone();
    for (side, rev) in [("before", base), ("after", head)] {
        let by_nix = toplevel_by_nix(&daemon, &format!("git+file://{flake}?rev={rev}"));
        assert_eq!(host[side]["toplevel"], by_nix, "{side}: {outcome}");
    }
    assert_eq!(host["changed"], true);
    assert!(!outcome.stderr.contains("same tree"), "{outcome}");
}

#[test]
fn a_dirty_tree_whose_flake_reads_dirty_rev_is_told_that_it_differs() {
    let daemon = NixDaemon::start_default();
    let top = r#"package "reads-dirty-rev" ''echo ${self.dirtyRev or "none"} > $out''"#;
    let mut fleet = HandMadeFleet::new(&daemon).host("web", top);
    fleet.commit();
    fleet
        .repo
        .write("flake.nix", std::fs::read_to_string(fleet.flake().join("flake.nix")).expect("flake") + "\n");
    let (_, outcome) = toplevel_by_fleetctl(&daemon, &fleet.flake().display().to_string());
    assert!(outcome.stderr.contains("dirtyRev"), "{outcome}");
}

#[test]
fn the_lock_of_the_work_tree_is_never_written() {
    let daemon = NixDaemon::start_default();
    let mut input = fleet_testkit::GitRepo::init(daemon.scratch().join("input"));
    input.write("flake.nix", "{ outputs = _: { name = \"locked\"; }; }");
    input.commit("an input");
    let mut repo = fleet_testkit::GitRepo::init(daemon.scratch().join("unlocked"));
    let url = format!("git+file://{}", input.path().display());
    repo.write(
        "flake.nix",
        format!(
            "{{ inputs.i.url = \"{url}\"; outputs = {{ self, i }}: {{ nixosConfigurations = {{ }}; }}; }}"
        ),
    );
    repo.commit("no lock");
    let outcome = Fleetctl::new(&daemon).args(["build", "--all-hosts"]).args([repo.path()]).run();
    outcome.expect_clear_error(&["lock"]);
    assert!(!repo.path().join("flake.lock").exists(), "{outcome}");
    assert_eq!(repo.git(&["status", "--porcelain"]), "");
}
