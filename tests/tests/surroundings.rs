//! What is missing, hostile or full around fleetctl: one clear paragraph and a next step, never a panic.

use std::fs;
use std::os::unix::fs::symlink;

use fleet_testkit::{DaemonOptions, NixDaemon};
use fleet_tests::{Fleetctl, HandMadeFleet};

const GOOD: &str = r#"package "good" "echo good > $out""#;

fn good_fleet(daemon: &NixDaemon) -> HandMadeFleet {
    let mut fleet = HandMadeFleet::new(daemon).host("web", GOOD);
    fleet.commit();
    fleet
}

fn build(daemon: &NixDaemon, fleet: &HandMadeFleet) -> Fleetctl {
    Fleetctl::new(daemon).args(["build", "--all-hosts"]).args([fleet.flake()])
}

#[test]
fn without_a_daemon_the_socket_is_named() {
    let daemon = NixDaemon::start_default();
    let fleet = good_fleet(&daemon);
    let nowhere = daemon.scratch().join("no-socket");
    let uri = format!("unix://{}?root={}", nowhere.display(), daemon.root().display());
    let outcome = build(&daemon, &fleet).env("NIX_REMOTE", uri).run();
    outcome.expect_clear_error(&["daemon", &nowhere.display().to_string()]);
}

#[test]
fn flakes_need_not_be_enabled() {
    let options = DaemonOptions { experimental_features: Vec::new(), ..DaemonOptions::default() };
    let daemon = NixDaemon::start(&options);
    let everything_enabled = NixDaemon::start_default();
    let mut fleet = HandMadeFleet::new(&everything_enabled).host("web", GOOD);
    fleet.commit();
    build(&daemon, &fleet).run().expect_code(0);
}

#[test]
fn without_git_the_error_says_so() {
    let daemon = NixDaemon::start_default();
    let fleet = good_fleet(&daemon);
    let path = daemon.scratch().join("only-nix");
    fs::create_dir(&path).expect("a directory");
    symlink(daemon.nix_bin(), path.join("nix")).expect("a link");
    build(&daemon, &fleet).env("PATH", &path).run().expect_clear_error(&["git"]);
}

#[test]
fn without_nix_the_error_says_so() {
    let daemon = NixDaemon::start_default();
    let fleet = good_fleet(&daemon);
    let missing = daemon.scratch().join("no-nix");
    let outcome = build(&daemon, &fleet).env("FLEET_NIX", &missing).run();
    outcome.expect_clear_error(&[&missing.display().to_string()]);
}

#[test]
fn a_flake_without_hosts_is_an_error_that_says_so() {
    let daemon = NixDaemon::start_default();
    let mut fleet = HandMadeFleet::new(&daemon);
    fleet.commit();
    build(&daemon, &fleet).run().expect_clear_error(&["host"]);
    fleet.repo.write("flake.nix", "{ outputs = { self }: { }; }");
    fleet.repo.commit("no outputs at all");
    build(&daemon, &fleet).run().expect_clear_error(&["host"]);
}

#[test]
fn a_glob_that_matches_no_host_is_an_error_that_says_so() {
    let daemon = NixDaemon::start_default();
    let fleet = good_fleet(&daemon);
    let outcome = Fleetctl::new(&daemon).args(["build", "--host", "db*"]).args([fleet.flake()]).run();
    outcome.expect_clear_error(&["db*"]);
}

#[test]
fn a_flake_that_does_not_evaluate_is_an_error_with_its_cause() {
    let daemon = NixDaemon::start_default();
    let mut fleet = HandMadeFleet::new(&daemon);
    fleet.repo.write(
        "flake.nix",
        "{ outputs = { self }: { nixosConfigurations = throw \"who deleted the hosts\"; }; }",
    );
    fleet.repo.commit("broken");
    build(&daemon, &fleet).run().expect_clear_error(&["who deleted the hosts"]);
    fleet.repo.write("flake.nix", "{ outputs = ");
    fleet.repo.commit("no Nix at all");
    build(&daemon, &fleet).run().expect_clear_error(&["syntax error"]);
}

#[test]
fn a_directory_without_a_flake_is_an_error_that_says_so() {
    let daemon = NixDaemon::start_default();
    let empty = daemon.scratch().join("empty");
    fs::create_dir(&empty).expect("a directory");
    let outcome = Fleetctl::new(&daemon).args(["build", "--all-hosts"]).args([&empty]).run();
    outcome.expect_clear_error(&["flake.nix", &empty.display().to_string()]);
}

#[test]
fn a_base_that_is_no_commit_is_an_error_that_says_so() {
    let daemon = NixDaemon::start_default();
    let fleet = good_fleet(&daemon);
    for base in ["no-such-branch", "--option", "$(touch pwned)"] {
        let outcome = build(&daemon, &fleet).args([&format!("--base={base}")]).run();
        outcome.expect_clear_error(&[base]);
    }
    assert!(!daemon.scratch().join("pwned").exists());
}

#[test]
fn a_wrong_option_ends_with_1_and_says_nothing_on_stdout() {
    let daemon = NixDaemon::start_default();
    let outcome = Fleetctl::new(&daemon).args(["build", "--all-host"]).run();
    outcome.expect_code(1);
    assert!(outcome.stdout.is_empty() && outcome.stderr.contains("--all-host"), "{outcome}");
}

#[test]
fn hosts_with_hostile_names_are_built_and_named() {
    let daemon = NixDaemon::start_default();
    let names = ["--option", "a b;c", "$(touch pwned)", "quo\"te", "new\\nline", "ünï", "${x}", "a.b", "*"];
    let mut fleet = HandMadeFleet::new(&daemon);
    for (number, name) in names.into_iter().enumerate() {
        fleet = fleet.host(name, &format!(r#"package "top-{number}" "echo x > $out""#));
    }
    fleet.commit();
    let outcome = build(&daemon, &fleet).args(["--json"]).run();
    outcome.expect_code(0);
    let document = outcome.json();
    for (number, name) in names.into_iter().enumerate() {
        let toplevel = document["hosts"][name]["after"]["toplevel"].as_str().unwrap_or_default().to_owned();
        assert!(toplevel.ends_with(&format!("-top-{number}")), "{name}\n{outcome}");
    }
    assert!(!daemon.scratch().join("pwned").exists(), "a host name was run by a shell");
    let lines = build(&daemon, &fleet).run();
    lines.expect_code(0);
    assert_eq!(lines.stdout.lines().count(), names.len(), "one line a host\n{lines}");
}

#[test]
fn terminal_codes_in_names_and_logs_never_reach_the_terminal() {
    let daemon = NixDaemon::start_default();
    let mut fleet = HandMadeFleet::new(&daemon)
        .host("esc\u{1b}[2J", r#"package "noisy" "printf 'wiped \\033[2J out\\n'; exit 1""#);
    fleet.commit();
    let outcome = build(&daemon, &fleet).args(["-L"]).run();
    outcome.expect_code(4);
    assert!(outcome.stderr.contains("wiped"), "{outcome}");
    assert!(!outcome.stderr.contains('\u{1b}') && !outcome.stdout.contains('\u{1b}'), "{outcome}");
}

#[test]
fn directories_that_cannot_be_written_are_named() {
    let daemon = NixDaemon::start_default();
    let fleet = good_fleet(&daemon);
    // Nobody, not even root, can make a directory below a file.
    let file = daemon.scratch().join("file");
    fs::write(&file, "").expect("a file");
    let unusable = file.join("below");
    for variable in ["FLEET_STATE_DIR", "FLEET_CACHE_DIR"] {
        let outcome = build(&daemon, &fleet).env(variable, &unusable).run();
        outcome.expect_clear_error(&[&file.display().to_string()]);
    }
    let output = format!("--output=json={}", unusable.display());
    let outcome = build(&daemon, &fleet).args([&output]).run();
    assert_eq!(outcome.status.code(), Some(1), "{outcome}");
    assert!(outcome.stderr.contains(&file.display().to_string()), "{outcome}");
}

#[test]
fn in_ci_progress_is_folded_on_stderr_and_stdout_stays_clean() {
    let daemon = NixDaemon::start_default();
    let fleet = good_fleet(&daemon);
    let outcome = build(&daemon, &fleet).env("CI", "true").env("GITHUB_ACTIONS", "true").run();
    outcome.expect_code(0);
    assert!(outcome.stderr.contains("::group::"), "{outcome}");
    assert!(!outcome.stdout.contains("::"), "{outcome}");
}

/// The tests of full disks run once more inside a mount namespace of their own, where they may mount a small file
/// system; this needs what Nix's own sandbox needs.
mod full_disk {
    use super::{DaemonOptions, Fleetctl, NixDaemon, good_fleet};
    use fleet_tests::{DAEMON_SETTING, HandMadeFleet, fill, in_namespaces, small_file_system};

    #[test]
    fn a_full_disk_under_the_state_directory_is_said() {
        in_namespaces("full_disk::a_full_disk_under_the_state_directory_is_said", |place| {
            let daemon = NixDaemon::start_default();
            let fleet = good_fleet(&daemon);
            let full = small_file_system(place.join("full"), "64k");
            fill(&full);
            for variable in ["FLEET_STATE_DIR", "FLEET_CACHE_DIR"] {
                let fleetctl = Fleetctl::new(&daemon).env(variable, full.join("below"));
                let outcome = fleetctl.args(["build", "--all-hosts"]).args([fleet.flake()]).run();
                assert_eq!(outcome.status.code(), Some(1), "{variable}\n{outcome}");
                let said = outcome.stderr.to_lowercase();
                assert!(
                    said.contains("no space left") || said.contains("disk is full"),
                    "{variable}\n{outcome}"
                );
                assert!(!said.contains("panicked"), "{outcome}");
            }
        });
    }

    #[test]
    fn a_full_disk_under_the_store_is_said() {
        in_namespaces("full_disk::a_full_disk_under_the_store_is_said", |place| {
            let root = small_file_system(place.join("r"), "24m");
            let settings = vec![(DAEMON_SETTING.0.to_owned(), DAEMON_SETTING.1.to_owned())];
            let options = DaemonOptions { root: Some(root.clone()), settings, ..DaemonOptions::default() };
            let daemon = NixDaemon::start(&options);
            let big = r#"package "big" "printf '%67108864s' x > $out""#;
            let mut fleet = HandMadeFleet::new(&daemon).host("big", big);
            fleet.commit();
            let outcome = Fleetctl::new(&daemon).args(["build", "--all-hosts"]).args([fleet.flake()]).run();
            outcome.expect_code(4);
            assert!(outcome.stderr.to_lowercase().contains("no space left"), "{outcome}");
            assert!(outcome.stderr.contains("big"), "{outcome}");
        });
    }
}
