//! The main job on a small fleet: both sides of an update as one graph, built by a real daemon, then compared.

use std::collections::BTreeSet;
use std::time::Duration;

use fleet_testkit::{BinaryCache, DaemonOptions, NixDaemon, Signal, Trust};
use fleet_tests::{Fleetctl, Graph, HandMadeFleet, Outcome, ReplayedFleet};

const PATIENCE: Duration = Duration::from_mins(1);

/// The names that builders of a replayed fleet wrote to the journal.
fn built_names(daemon: &NixDaemon) -> Vec<String> {
    let name = |line: &String| line.split(' ').next().unwrap_or(line).to_owned();
    daemon.journal().lines().iter().map(name).collect()
}

fn compare(daemon: &NixDaemon, fleet: &ReplayedFleet, more: &[&str]) -> Outcome {
    let fleetctl = Fleetctl::new(daemon).args(["build", "--all-hosts", "--base", "HEAD~1"]).args(more);
    fleetctl.args([fleet.flake()]).run()
}

/// Every derivation of the changed hosts is built once, none of the unchanged ones' own, and the document
/// says so.
fn both_sides_are_built_once(trust: Trust) {
    let daemon = NixDaemon::start(&DaemonOptions { trust, ..DaemonOptions::default() });
    let graph = Graph::small_fleet();
    let fleet = ReplayedFleet::make(&daemon, &graph);
    let outcome = compare(&daemon, &fleet, &["--json"]);
    outcome.expect_code(0);

    let built = daemon.journal().lines();
    let distinct: BTreeSet<_> = built.iter().collect();
    assert_eq!(built.len(), distinct.len(), "something was built twice: {built:?}\n{outcome}");
    let names: BTreeSet<_> = built_names(&daemon).into_iter().collect();
    let wanted: BTreeSet<_> = graph.names_needed_by(&["web1", "web2", "db1"]).into_iter().collect();
    assert_eq!(names, wanted, "{outcome}");

    let document = outcome.json();
    assert_eq!(document["schema"], 1);
    assert_eq!(document["steps"]["built"], built.len(), "{outcome}");
    assert_eq!(document["steps"]["failed"], 0);
    assert!(document["steps"]["deduplicated"].as_u64() > Some(0), "{outcome}");
    let hosts: BTreeSet<_> = document["hosts"].as_object().expect("hosts").keys().cloned().collect();
    assert_eq!(hosts, ["db1", "mail1", "mon1", "web1", "web2"].map(str::to_owned).into());
    for (host, changed) in [("web1", true), ("web2", true), ("db1", true), ("mail1", false), ("mon1", false)]
    {
        let host = &document["hosts"][host];
        assert_eq!(host["changed"], changed, "{outcome}");
        assert_eq!(host["before"]["toplevel"] != host["after"]["toplevel"], changed, "{outcome}");
        let status = if changed { "built" } else { "unchanged" };
        assert_eq!([&host["before"]["status"], &host["after"]["status"]], [status, status], "{outcome}");
    }
}

#[test]
fn a_trusted_user_gets_each_derivation_built_at_most_once() {
    both_sides_are_built_once(Trust::Trusted);
}

#[test]
fn an_untrusted_user_gets_each_derivation_built_at_most_once() {
    both_sides_are_built_once(Trust::Untrusted);
}

#[test]
fn both_sides_build_at_the_same_time() {
    let daemon = NixDaemon::start_default();
    let mut graph = Graph::new();
    let old = graph.endless_package("old-1.0", &[]);
    let new = graph.endless_package("new-2.0", &[]);
    graph.host("web", old, new);
    let fleet = ReplayedFleet::make(&daemon, &graph);
    let running =
        Fleetctl::new(&daemon).args(["build", "--all-hosts", "--base", "HEAD~1", "--worker-slots", "2"]);
    let running = running.args([fleet.flake()]).start();
    for side in ["old-1.0 ", "new-2.0 "] {
        let started = daemon.journal().wait_for(PATIENCE, |line| line.starts_with(side));
        assert!(started.is_some(), "{side} never started beside the other");
    }
    running.signal(Signal::INT);
    running.finish().expect_code(130);
}

#[test]
fn the_report_of_an_update_names_what_changed() {
    let daemon = NixDaemon::start_default();
    let fleet = ReplayedFleet::make(&daemon, &Graph::small_fleet());
    let markdown = daemon.scratch().join("report.md");
    let json = daemon.scratch().join("report.json");
    let outputs =
        [format!("--output=markdown={}", markdown.display()), format!("--output=json={}", json.display())];
    let outcome = compare(&daemon, &fleet, &[&outputs[0], &outputs[1], "--format", "nvd"]);
    outcome.expect_code(0);
    assert!(outcome.stdout.starts_with("### db1\n"), "changed hosts in alphabetical order\n{outcome}");
    assert!(!outcome.stdout.contains("### mail1"), "unchanged hosts are left out\n{outcome}");
    assert!(outcome.stdout.contains("nginx"), "{outcome}");
    let markdown = std::fs::read_to_string(markdown).expect("the Markdown report is written");
    for word in ["nginx", "1.26.2", "1.27.0", "web1", "web2"] {
        assert!(markdown.contains(word), "the report lacks {word}:\n{markdown}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(json).expect("the JSON report is written"))
            .expect("JSON");
    assert_eq!(json["schema"], 1);
}

#[test]
fn an_update_that_changes_nothing_builds_nothing_and_says_so() {
    let daemon = NixDaemon::start_default();
    let mut graph = Graph::new();
    let nginx = graph.package("nginx-1.26.2", &[]);
    for host in ["web1", "web2", "web3"] {
        graph.host(host, nginx, nginx);
    }
    let fleet = ReplayedFleet::make(&daemon, &graph);
    let outcome = compare(&daemon, &fleet, &[]);
    outcome.expect_code(0);
    assert_eq!(built_names(&daemon), [""; 0], "{outcome}");
    let said = outcome.stdout.to_lowercase();
    assert!(
        said.contains("no changes") || said.contains("nothing changed") || said.contains("unchanged"),
        "{outcome}"
    );
    let document = compare(&daemon, &fleet, &["--json"]).json();
    assert_eq!(document["steps"]["built"], 0);
    assert_eq!(document["hosts"]["web1"]["after"]["status"], "unchanged");
}

#[test]
fn a_second_run_builds_nothing() {
    let daemon = NixDaemon::start_default();
    let fleet = ReplayedFleet::make(&daemon, &Graph::small_fleet());
    compare(&daemon, &fleet, &[]).expect_code(0);
    let built = daemon.journal().lines().len();
    let again = compare(&daemon, &fleet, &["--json"]);
    again.expect_code(0);
    assert_eq!(daemon.journal().lines().len(), built, "{again}");
    let document = again.json();
    assert_eq!(document["steps"]["built"], 0, "{again}");
    assert_eq!(document["hosts"]["web1"]["after"]["status"], "cached", "{again}");
}

#[test]
fn without_a_base_each_host_gets_one_line_with_its_toplevel() {
    let daemon = NixDaemon::start_default();
    let fleet = ReplayedFleet::make(&daemon, &Graph::small_fleet());
    let outcome = Fleetctl::new(&daemon).args(["build", "--all-hosts"]).args([fleet.flake()]).run();
    outcome.expect_code(0);
    let lines: Vec<_> = outcome.stdout.lines().map(|line| line.split("  ").collect::<Vec<_>>()).collect();
    let hosts: Vec<_> = lines.iter().map(|line| line[0].trim()).collect();
    assert_eq!(hosts, ["db1", "mail1", "mon1", "web1", "web2"], "{outcome}");
    for line in &lines {
        let path = line.last().expect("a path").trim();
        assert!(path.starts_with("/nix/store/") && daemon.physical(path).exists(), "{outcome}");
    }
}

#[test]
fn globs_choose_the_hosts() {
    let daemon = NixDaemon::start_default();
    let fleet = ReplayedFleet::make(&daemon, &Graph::small_fleet());
    let hosts = |arguments: &[&str]| {
        let outcome = Fleetctl::new(&daemon).args(["build", "--json", "--dry-run"]).args(arguments);
        let document = outcome.args([fleet.flake()]).run().json();
        document["hosts"].as_object().expect("hosts").keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(hosts(&["--host", "web*", "--host", "db1"]), ["db1", "web1", "web2"]);
    assert_eq!(hosts(&["--all-hosts", "--exclude", "web*", "--exclude", "m*"]), ["db1", "tiny-minimal"]);
    assert_eq!(hosts(&["--host", "tiny-minimal"]), ["tiny-minimal"]);
}

#[test]
fn a_dry_run_evaluates_and_builds_nothing() {
    let daemon = NixDaemon::start_default();
    let fleet = ReplayedFleet::make(&daemon, &Graph::small_fleet());
    let outcome = compare(&daemon, &fleet, &["--dry-run", "--json"]);
    outcome.expect_code(0);
    assert_eq!(built_names(&daemon), [""; 0]);
    let document = outcome.json();
    assert_eq!(document["hosts"]["web1"]["after"]["status"], "planned", "{outcome}");
    assert_eq!(document["steps"]["built"], 0);
    assert!(document["steps"]["wanted"].as_u64() > Some(0), "{outcome}");
}

#[test]
fn what_a_cache_has_is_not_built() {
    let cache = BinaryCache::start();
    let options = DaemonOptions { substituters: vec![cache.url()], ..DaemonOptions::default() };
    let daemon = NixDaemon::start(&options);
    let publisher = NixDaemon::start_default();
    let fleet = ReplayedFleet::make(&daemon, &Graph::small_fleet());
    fleet.publish_sources(&publisher, &cache);
    let outcome = compare(&daemon, &fleet, &["--json"]);
    outcome.expect_code(0);
    let built = built_names(&daemon);
    assert!(!built.iter().any(|name| name.contains(".tar.")), "a source was built: {built:?}\n{outcome}");
    assert!(built.contains(&"nixos-system-web1-24.11".to_owned()), "{outcome}");
}

#[test]
fn sources_that_differ_in_their_url_only_are_one_step() {
    for trust in [Trust::Trusted, Trust::Untrusted] {
        let daemon = NixDaemon::start(&DaemonOptions { trust, ..DaemonOptions::default() });
        let top = |url: &str, name: &str| {
            format!(r#"package "{name}" "read x < ${{fetched "{url}" "same"}}; echo $x {name} > $out""#)
        };
        let mut fleet = HandMadeFleet::new(&daemon)
            .host("one", &top("http://one.invalid/file", "top-one"))
            .host("two", &top("http://two.invalid/file", "top-two"));
        fleet.commit();
        let outcome =
            Fleetctl::new(&daemon).args(["build", "--all-hosts", "--json"]).args([fleet.flake()]).run();
        outcome.expect_code(0);
        let mut ran = daemon.journal().lines();
        ran.sort();
        assert_eq!(ran, ["fetched", "top-one", "top-two"], "{trust:?}\n{outcome}");
        assert_eq!(outcome.json()["steps"]["built"], 3, "{trust:?}\n{outcome}");
    }
}

#[test]
fn the_json_document_has_the_promised_shape() {
    let daemon = NixDaemon::start_default();
    let fleet = ReplayedFleet::make(&daemon, &Graph::small_fleet());
    let document = compare(&daemon, &fleet, &["--json"]).json();
    let keys = |value: &serde_json::Value| {
        value.as_object().expect("an object").keys().cloned().collect::<BTreeSet<_>>()
    };
    let named = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
    assert!(
        keys(&document).is_superset(&named(&["schema", "run", "hosts", "steps", "seconds"])),
        "{document:#}"
    );
    let host = &document["hosts"]["web1"];
    assert!(keys(host).is_superset(&named(&["kind", "before", "after", "changed"])), "{document:#}");
    assert_eq!(host["kind"], "nixos");
    for side in ["before", "after"] {
        assert!(
            keys(&host[side]).is_superset(&named(&["drv", "toplevel", "status", "cause"])),
            "{document:#}"
        );
        assert!(host[side]["drv"].as_str().is_some_and(|drv| drv.contains(".drv")), "{document:#}");
        assert!(host[side]["cause"].is_null(), "{document:#}");
    }
    let steps = named(&["wanted", "built", "substituted", "cached", "failed", "deduplicated"]);
    assert!(keys(&document["steps"]).is_superset(&steps), "{document:#}");
    for part in ["eval", "build", "diff", "total"] {
        assert!(document["seconds"][part].is_number(), "seconds.{part}\n{document:#}");
    }
}

#[test]
fn import_from_derivation_is_built_while_evaluating() {
    let daemon = NixDaemon::start_default();
    let made = r#"package "made-while-evaluating" "echo named > $out""#;
    let top =
        format!(r#"package "top-${{builtins.substring 0 5 (builtins.readFile ({made}))}}" "echo x > $out""#);
    let mut fleet = HandMadeFleet::new(&daemon).host("web", &top);
    fleet.commit();
    let outcome = Fleetctl::new(&daemon).args(["build", "--all-hosts"]).args([fleet.flake()]).run();
    outcome.expect_code(0);
    assert!(outcome.stdout.trim_end().ends_with("-top-named"), "{outcome}");
    assert_eq!(daemon.journal().lines(), ["made-while-evaluating", "top-named"], "{outcome}");
}
