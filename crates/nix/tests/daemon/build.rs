//! Builds on real daemons: how they are told, how they fail, how they are ended.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use fleet_nix::daemon::{
    ActivityKind, BuildResult, BuildStatus, BuildVerdict, Daemon, DaemonError, LogEvent, Settings, ignore,
};
use fleet_nix::{BasicDerivation, DerivedPath, OutputName, StorePath};
use fleet_testkit::{DaemonOptions, NixDaemon, Trust, wait_until_gone};

use crate::support::{
    ENDLESS, PATIENCE, basic_derivation, collect, connect, instantiate, journal_says, log_lines,
    shell_derivation, store,
};

async fn builder(daemon: &NixDaemon) -> Daemon {
    let mut client = connect(daemon).await;
    client.set_options(&Settings::for_building(client.trust())).await.expect("set");
    client
}

async fn build(client: &mut Daemon, (drv, basic): &(StorePath, BasicDerivation)) -> BuildResult {
    client.build_derivation(drv, basic, &mut ignore).await.expect("a result")
}

fn verdict(result: &BuildResult) -> BuildVerdict {
    BuildVerdict::of_result(result.status, &result.error_message)
}

#[tokio::test]
async fn a_build_streams_its_lines_and_phases_and_yields_its_output() {
    let daemon = NixDaemon::start_default();
    let mut client = builder(&daemon).await;
    let script = r#"
        echo '@nix {"action":"setPhase","phase":"buildPhase"}' >&2
        for number in 1 2 3; do echo "line $number"; done
        echo '@nix {"action":"setPhase","phase":"installPhase"}' >&2
        printf 'no line end' >&2
        echo made > $out"#;
    let (drv, basic) = basic_derivation(&daemon, &shell_derivation("told", "", script));
    let mut events = Vec::new();
    let result = client.build_derivation(&drv, &basic, &mut collect(&mut events)).await.expect("a result");
    assert_eq!(result.status, BuildStatus::Built);
    assert_eq!(result.error_message, "");
    assert!(result.start_time <= result.stop_time);
    let out = &result.built_outputs[&OutputName::out()];
    assert_eq!(Some(out), basic.output_path(&OutputName::out()));
    let made = std::fs::read_to_string(daemon.physical(&store().print(out))).expect("the output is there");
    assert_eq!(made, "made\n");

    let activity = events.iter().find_map(|event| match event {
        LogEvent::ActivityStarted(activity) if activity.kind == ActivityKind::Build => Some(activity),
        _ => None,
    });
    let activity = activity.expect("the build is an activity");
    assert_eq!(activity.subject(), Some(&*store().print(&drv)));
    assert_eq!(log_lines(&events)[&activity.id], ["line 1", "line 2", "line 3", "no line end"]);
    let mut phases = Vec::new();
    for event in &events {
        if let LogEvent::Phase { activity: id, phase } = event {
            assert_eq!(*id, activity.id);
            phases.push(phase.as_str());
        }
    }
    assert_eq!(phases, ["buildPhase", "installPhase"]);
    assert!(events.contains(&LogEvent::ActivityStopped { activity: activity.id }));

    // One connection builds again and again.
    let again = build(&mut client, &(drv, basic)).await;
    assert_eq!(verdict(&again), BuildVerdict::AlreadyValid);
    let next = basic_derivation(&daemon, &shell_derivation("next", "", "echo next > $out"));
    assert_eq!(verdict(&build(&mut client, &next).await), BuildVerdict::Built);
}

#[tokio::test]
async fn derivations_of_every_shape_are_built_as_the_daemon_itself_would() {
    let daemon = NixDaemon::start_default();
    let mut client = builder(&daemon).await;
    let input =
        shell_derivation("input", "outputs = [ \"out\" \"dev\" ];", "echo out > $out; echo dev > $dev");
    let several = format!(
        "let input = {input}; in {}",
        shell_derivation(
            "several",
            "outputs = [ \"out\" \"doc\" ]; dev = input.dev;",
            "echo $dev > $out; echo > $doc"
        )
    );
    let structured = shell_derivation(
        "structured",
        "__structuredAttrs = true; list = [ 1 2 ];",
        // The file for shells needs bash, which the sandbox's shell need not be.
        "read -r json < .attrs.json; path=''${json#*'\"out\":\"'}; \
         case $json in *'\"list\":[1,2]'*) echo > ''${path%%'\"'*};; esac",
    );
    let fixed = shell_derivation(
        "fixed",
        "outputHash = \"sha256-WJG0RCl+85vMKAk1jCbxiUXpPfkPD1BKR/lQdFWNDPA=\"; outputHashMode = \"flat\"; \
         outputHashAlgo = null;",
        "printf wrong > $out",
    );
    let steps = [
        basic_derivation(&daemon, &input),
        basic_derivation(&daemon, &several),
        basic_derivation(&daemon, &structured),
    ];
    for step in &steps {
        let result = build(&mut client, step).await;
        assert_eq!(result.status, BuildStatus::Built, "{}: {}", step.0, result.error_message);
        assert_eq!(result.built_outputs.len(), step.1.outputs.len());
    }
    let result = build(&mut client, &basic_derivation(&daemon, &fixed)).await;
    assert_eq!(verdict(&result), BuildVerdict::OutputRejected, "{}", result.error_message);
    assert!(result.error_message.contains("hash mismatch"));
}

#[tokio::test]
async fn a_failing_builder_is_told_with_its_log() {
    let daemon = NixDaemon::start_default();
    let mut client = builder(&daemon).await;
    let (drv, basic) =
        basic_derivation(&daemon, &shell_derivation("broken", "", "echo going; echo down >&2; exit 3"));
    let mut events = Vec::new();
    let result = client.build_derivation(&drv, &basic, &mut collect(&mut events)).await.expect("a result");
    assert_eq!(verdict(&result), BuildVerdict::BuildFailed);
    assert!(result.error_message.contains("exit code 3"), "{}", result.error_message);
    assert!(!result.error_message.contains('\u{1b}'));
    assert!(result.built_outputs.is_empty());
    let lines: Vec<String> = log_lines(&events).into_values().flatten().collect();
    assert_eq!(lines, ["going", "down"]);
    assert!(!client.is_poisoned());
}

#[tokio::test]
async fn limits_end_a_build_as_what_they_are() {
    let daemon = NixDaemon::start_default();
    let mut client = connect(&daemon).await;
    let building = Settings::for_building(client.trust());
    let endless = basic_derivation(&daemon, &shell_derivation("endless", "", ENDLESS));
    client.set_options(&Settings { timeout_s: 1, ..building.clone() }).await.expect("set");
    assert_eq!(verdict(&build(&mut client, &endless).await), BuildVerdict::TimedOut);
    client.set_options(&Settings { max_silent_s: 1, ..building.clone() }).await.expect("set");
    assert_eq!(verdict(&build(&mut client, &endless).await), BuildVerdict::TimedOut);
    let mut talkative = building;
    talkative.set("max-build-log-size", "1000");
    client.set_options(&talkative).await.expect("set");
    let script = "for n in 1 2 3 4 5 6 7 8 9; do printf '%0400d\\n' $n; done; read -t 1000 x <&2";
    let loud = basic_derivation(&daemon, &shell_derivation("loud", "", script));
    assert_eq!(verdict(&build(&mut client, &loud).await), BuildVerdict::LogLimit);
}

#[tokio::test]
async fn what_this_machine_does_not_build_is_told_from_what_fails() {
    let daemon = NixDaemon::start_default();
    let mut client = builder(&daemon).await;
    let elsewhere = shell_derivation("elsewhere", "system = \"riscv64-linux\";", "echo > $out");
    let featured = shell_derivation("featured", "requiredSystemFeatures = [ \"quantum\" ];", "echo > $out");
    let unsandboxed = shell_derivation("unsandboxed", "__noChroot = true;", "echo > $out");
    for expression in [elsewhere, featured, unsandboxed] {
        let result = build(&mut client, &basic_derivation(&daemon, &expression)).await;
        assert_eq!(
            verdict(&result),
            BuildVerdict::Placement,
            "{:?}: {}",
            result.status,
            result.error_message
        );
    }
    let idle = Settings { max_jobs: 0, ..Settings::for_building(client.trust()) };
    client.set_options(&idle).await.expect("set");
    let plain = basic_derivation(&daemon, &shell_derivation("plain", "", "echo > $out"));
    let outcome = client.build_derivation(&plain.0, &plain.1, &mut ignore).await;
    assert_eq!(BuildVerdict::of(&outcome), BuildVerdict::Placement, "{outcome:?}");
}

#[tokio::test]
async fn a_missing_input_is_told_with_and_without_substitution() {
    let daemon = NixDaemon::start_default();
    let mut client = connect(&daemon).await;
    let input = shell_derivation("unbuilt", "", "echo > $out");
    let user =
        basic_derivation(&daemon, &shell_derivation("user", &format!("input = {input};"), "echo > $out"));
    for use_substitutes in [true, false] {
        let settings = Settings { use_substitutes, ..Settings::for_building(client.trust()) };
        client.set_options(&settings).await.expect("set");
        let outcome = client.build_derivation(&user.0, &user.1, &mut ignore).await;
        assert_eq!(BuildVerdict::of(&outcome), BuildVerdict::InputMissing, "{outcome:?}");
    }
}

#[tokio::test]
async fn an_untrusted_client_builds_from_derivations_in_the_store() {
    let daemon = NixDaemon::start(&DaemonOptions { trust: Trust::Untrusted, ..DaemonOptions::default() });
    let mut client = builder(&daemon).await;
    let good = basic_derivation(&daemon, &shell_derivation("good", "", "echo good > $out"));
    let bad = instantiate(&daemon, &shell_derivation("bad", "", "echo said; exit 1"));
    let outcome = client.build_derivation(&good.0, &good.1, &mut ignore).await;
    assert_eq!(BuildVerdict::of(&outcome), BuildVerdict::NotTrusted, "{outcome:?}");
    assert!(!client.is_poisoned());

    client
        .set_options(&Settings { keep_going: true, ..Settings::for_building(client.trust()) })
        .await
        .expect("set");
    let targets = [DerivedPath::all_outputs(good.0.clone()), DerivedPath::all_outputs(bad.clone())];
    let mut events = Vec::new();
    let results =
        client.build_paths_with_results(&targets, &mut collect(&mut events)).await.expect("results");
    assert_eq!(results.len(), 2);
    for (target, result) in &results {
        if target.base() == &bad {
            assert_eq!(verdict(result), BuildVerdict::BuildFailed);
        } else {
            assert_eq!(verdict(result), BuildVerdict::Built);
            assert_eq!(result.built_outputs.get(&OutputName::out()), good.1.output_path(&OutputName::out()));
        }
    }
    let lines: Vec<String> = log_lines(&events).into_values().flatten().collect();
    assert_eq!(lines, ["said"]);
}

#[tokio::test]
async fn a_floating_output_is_told_where_it_landed() {
    let features = ["nix-command", "flakes", "ca-derivations"].map(str::to_owned).to_vec();
    let daemon =
        NixDaemon::start(&DaemonOptions { experimental_features: features, ..DaemonOptions::default() });
    let mut client = builder(&daemon).await;
    let floating = "__contentAddressed = true; outputHashMode = \"recursive\"; outputHashAlgo = \"sha256\";";
    let drv = instantiate(&daemon, &shell_derivation("floating", floating, "echo landed > $out"));
    let targets = [DerivedPath::all_outputs(drv.clone())];
    let results = client.build_paths_with_results(&targets, &mut ignore).await.expect("results");
    let [(_, result)] = results.as_slice() else { panic!("one result, not {results:?}") };
    assert_eq!(result.status, BuildStatus::Built, "{}", result.error_message);
    let out = &result.built_outputs[&OutputName::out()];
    let landed = std::fs::read_to_string(daemon.physical(&store().print(out))).expect("the output is there");
    assert_eq!(landed, "landed\n");
    let outputs = client.query_derivation_output_map(&drv).await.expect("answered");
    assert_eq!(outputs[&OutputName::out()].as_ref(), Some(out));
    let basic = basic_derivation(&daemon, &shell_derivation("other", floating, "echo other > $out"));
    let result = build(&mut client, &basic).await;
    assert_eq!(
        (result.status, result.built_outputs.len()),
        (BuildStatus::Built, 1),
        "{}",
        result.error_message
    );
}

#[tokio::test]
async fn a_line_without_end_is_cut_and_the_build_goes_on() {
    let daemon = NixDaemon::start_default();
    let mut client = builder(&daemon).await;
    let script = "printf '%03000000d\\n' 7; echo short; echo > $out";
    let (drv, basic) = basic_derivation(&daemon, &shell_derivation("wide", "", script));
    let mut lines = Vec::new();
    let mut observer = |event| {
        if let LogEvent::BuildLogLine { line, .. } = event {
            lines.push(line);
        }
        ControlFlow::Continue(())
    };
    let result = client.build_derivation(&drv, &basic, &mut observer).await.expect("a result");
    assert_eq!(result.status, BuildStatus::Built);
    assert_eq!(lines.iter().map(Vec::len).collect::<Vec<_>>(), [1 << 20, 5]);
}

#[tokio::test]
async fn dropping_a_build_ends_its_builder() {
    let daemon = Arc::new(NixDaemon::start_default());
    let mut client = builder(&daemon).await;
    let (drv, basic) = basic_derivation(&daemon, &shell_derivation("endless", "", ENDLESS));
    let mut unseen = ignore;
    tokio::select! {
        result = client.build_derivation(&drv, &basic, &mut unseen) => panic!("it never ends, but: {result:?}"),
        () = journal_says(&daemon, "started") => {}
    }
    assert!(client.is_poisoned());
    assert_builders_end(&daemon);
    let error = client.build_derivation(&drv, &basic, &mut ignore).await.expect_err("given up");
    assert!(matches!(error, DaemonError::Poisoned));
}

#[tokio::test]
async fn an_observer_ends_a_build() {
    let daemon = Arc::new(NixDaemon::start_default());
    let mut client = builder(&daemon).await;
    let script = "echo started > /journal; echo speak; while true; do read -t 1000 x <&2; done";
    let (drv, basic) = basic_derivation(&daemon, &shell_derivation("endless", "", script));
    let mut builders = BTreeSet::new();
    let mut stop = |event| match event {
        LogEvent::BuildLogLine { .. } => {
            builders = daemon.builders();
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    };
    let error = client.build_derivation(&drv, &basic, &mut stop).await.expect_err("stopped");
    assert!(matches!(error, DaemonError::Aborted));
    assert!(!builders.is_empty());
    assert!(builders.into_iter().all(|pid| wait_until_gone(pid, PATIENCE)));
}

fn assert_builders_end(daemon: &NixDaemon) {
    // Those that have ended by now are not in the list; the others must follow.
    assert!(daemon.builders().into_iter().all(|pid| wait_until_gone(pid, PATIENCE)));
}

/// Workers run these in tasks of their own.
#[tokio::test]
async fn operations_can_move_between_threads() {
    let daemon = NixDaemon::start_default();
    let mut client = builder(&daemon).await;
    let step = basic_derivation(&daemon, &shell_derivation("moved", "", "echo > $out"));
    let target = [DerivedPath::all_outputs(step.0.clone())];
    let task = tokio::spawn(async move {
        let first = client.build_derivation(&step.0, &step.1, &mut ignore).await?;
        client.add_temp_roots([&step.0]).await?;
        client.build_paths_with_results(&target, &mut ignore).await?;
        client.query_closure([step.0.clone()]).await?;
        client.nar_from_path(&step.0, &mut tokio::io::sink()).await?;
        Ok::<_, DaemonError>(first)
    });
    assert_eq!(task.await.expect("no panic").expect("built").status, BuildStatus::Built);
}
