//! The worker as its coordinator meets it: real daemons, real builds, and a coordinator that keeps to a script.

mod away;
mod keeper;
mod machine;
mod moving;
mod programs;
mod relay;
mod room;
mod scripted;
mod tls;

use fleet_testkit::{BinaryCache, DaemonOptions, NixDaemon, Trust, wait_until_gone};
use fleet_wire::v1;
use fleet_wire::v1::OutcomeClass;
use fleet_wire::v1::coordinator_message::Message;
use fleet_wire::v1::eval_job::Task;
use fleet_wire::v1::host_evaluated::Result as HostResult;
use fleet_wire::v1::worker_message::Message as FromWorker;
use scripted::{Driven, PATIENCE, Packed, script, step};

pub(crate) const ENDLESS: &str = "echo started > /journal; while true; do read -t 1000 x <&2; done";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_is_built_logged_and_its_output_named() {
    let daemon = NixDaemon::start_default();
    let mut driven = Driven::start(&daemon, &[]).await;
    assert!(driven.hello.trusted);
    let work = step(&daemon, &script("plain", "echo said; echo made > $out"));
    let built = driven.build(&work).await;
    assert_eq!(built.outcome, OutcomeClass::Built, "{built:?}");
    assert!(built.begun);
    assert_eq!(built.log, "said\n");
    let [output] = &built.report.outputs[..] else { panic!("one output: {built:?}") };
    assert_eq!(output.name, "out");
    let made = std::fs::read_to_string(daemon.physical(&format!("/nix/store/{}", output.path)));
    assert_eq!(made.expect("it is in the store"), "made\n");

    let again = driven.build(&work).await;
    assert_eq!(again.outcome, OutcomeClass::AlreadyValid);
    assert_eq!(again.report.outputs, built.report.outputs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_input_is_substituted_and_one_that_nobody_serves_is_said() {
    let cache = BinaryCache::start();
    let input = script("input", "echo of the input > $out");
    let top =
        format!(r"let input = {input}; in {}", script("top", "read line < ${input}; echo $line > $out"));
    let upstream = NixDaemon::start_default();
    let published = upstream.build_expression(&input);
    let daemon =
        NixDaemon::start(&DaemonOptions { substituters: vec![cache.url()], ..DaemonOptions::default() });
    let mut driven = Driven::start(&daemon, &[]).await;
    let work = step(&daemon, &top);

    let missing = driven.build(&work).await;
    assert_eq!(missing.outcome, OutcomeClass::InputMissing, "{missing:?}");
    assert!(missing.report.message.contains("-input"), "{}", missing.report.message);

    cache.publish(&upstream, &published);
    let built = driven.build(&work).await;
    assert_eq!(built.outcome, OutcomeClass::Built, "{built:?}");
    let made = format!("/nix/store/{}", built.report.outputs[0].path);
    assert_eq!(std::fs::read_to_string(daemon.physical(&made)).expect("made"), "of the input\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_told_apart() {
    let daemon = NixDaemon::start_default();
    let mut driven = Driven::start(&daemon, &[]).await;

    let failed = driven.build(&step(&daemon, &script("fails", "echo why >&2; exit 3"))).await;
    assert_eq!(failed.outcome, OutcomeClass::BuildFailed, "{failed:?}");
    assert_eq!(failed.log, "why\n");

    let chatty = step(&daemon, &script("chatty", "while true; do echo yes; done"));
    let cut = driven.build(&v1::StepWork { max_log_bytes: 4096, ..chatty }).await;
    assert_eq!(cut.outcome, OutcomeClass::LogLimit, "{:?}", cut.report);
    assert!(cut.log.len() <= 4096 && cut.log.starts_with("yes\n"), "{} bytes", cut.log.len());

    let slow = step(&daemon, &script("slow", ENDLESS));
    let late = driven.build(&v1::StepWork { timeout_s: 1, ..slow }).await;
    assert_eq!(late.outcome, OutcomeClass::TimedOut, "{:?}", late.report);

    let foreign = script("foreign", "exit 0").replace("builtins.currentSystem", r#""riscv64-linux""#);
    let refused = driven.build(&step(&daemon, &foreign)).await;
    assert_eq!(refused.outcome, OutcomeClass::Placement, "{:?}", refused.report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_makes_no_sense_fails_its_step_only() {
    let daemon = NixDaemon::start_default();
    let mut driven = Driven::start(&daemon, &[]).await;
    let good = step(&daemon, &script("good", "echo made > $out"));
    let bad = [
        v1::StepWork { drv: "nonsense".into(), ..good.clone() },
        v1::StepWork { basic_derivation: b"Derive(".to_vec().into(), ..good.clone() },
        v1::StepWork { inputs: vec!["../x".into()], ..good.clone() },
    ];
    for work in bad {
        let built = driven.build(&work).await;
        assert_eq!(built.outcome, OutcomeClass::Infrastructure, "{built:?}");
    }
    assert_eq!(driven.build(&good).await.outcome, OutcomeClass::Built);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_lease_ends_its_builder_and_the_worker_works_on() {
    let daemon = NixDaemon::start_default();
    let mut driven = Driven::start(&daemon, &[]).await;
    let lease = driven.lease(&step(&daemon, &script("endless", ENDLESS))).await;
    assert!(matches!(driven.hear().await, FromWorker::StepBegun(_)));
    assert!(daemon.journal().wait_for(PATIENCE, |line| line == "started").is_some(), "the builder runs");
    let builders = daemon.builders();
    assert!(!builders.is_empty());
    driven.say(Message::CancelLease(v1::CancelLease { lease, epoch: 0 })).await;
    for builder in builders {
        assert!(wait_until_gone(builder, PATIENCE), "the builder goes on");
    }
    let next = driven.build(&step(&daemon, &script("next", "echo made > $out"))).await;
    assert_eq!(next.outcome, OutcomeClass::Built, "nothing is said of the cancelled lease: {next:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_cancelled_at_any_moment_leave_the_worker_sound() {
    let daemon = NixDaemon::start_default();
    let mut driven = Driven::start(&daemon, &[]).await;
    let works: Vec<_> =
        (0..12).map(|number| step(&daemon, &script(&format!("s{number}"), "echo made > $out"))).collect();
    for work in &works {
        let lease = driven.lease(work).await;
        driven.say(Message::CancelLease(v1::CancelLease { lease, epoch: 0 })).await;
    }
    driven.say(Message::CancelLease(v1::CancelLease { lease: 99, epoch: 0 })).await;
    let last = step(&daemon, &script("last", "echo made > $out"));
    let lease = driven.lease(&last).await;
    loop {
        match driven.hear().await {
            FromWorker::StepReported(report) if report.lease == lease => {
                assert_eq!(report.outcome(), OutcomeClass::Built, "{report:?}");
                break;
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_untrusting_daemon_builds_from_its_store() {
    let daemon = NixDaemon::start(&DaemonOptions { trust: Trust::Untrusted, ..DaemonOptions::default() });
    let mut driven = Driven::start(&daemon, &[]).await;
    assert!(!driven.hello.trusted);
    let input = script("input", "echo of the input > $out");
    let top =
        format!(r"let input = {input}; in {}", script("top", "read line < ${input}; echo $line > $out"));
    let work = step(&daemon, &top);
    daemon.build_expression(&input);
    let built = driven.build(&work).await;
    assert_eq!(built.outcome, OutcomeClass::Built, "{built:?}");
    assert_eq!(built.report.outputs.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_daemon_connections_are_made_again() {
    let daemon = NixDaemon::start_default();
    let flake = Packed::flake(&daemon, &hosts(&[("a", &script("top-a", "echo a > $out"))]));
    let mut driven = Driven::start(&daemon, &[&flake]).await;
    let first = driven.build(&step(&daemon, &script("first", "echo made > $out"))).await;
    assert_eq!(first.outcome, OutcomeClass::Built);
    // One process a connection: the worker loses its roots, its planner and its lane at once.
    for connection in daemon.processes().into_iter().filter(|pid| *pid != daemon.pid()) {
        fleet_testkit::kill_hard(connection);
        assert!(wait_until_gone(connection, PATIENCE));
    }
    let found = driven.evaluate(1, &flake, eval(&["a"])).await;
    assert!(matches!(&found.results[..], [(_, HostResult::Evaluated(_))]), "{found:?}");
    let work = step(&daemon, &script("second", "echo made > $out"));
    // The idle lane's end shows only when it is used: that costs no attempt.
    let built = driven.build(&work).await;
    assert_eq!(built.outcome, OutcomeClass::Built, "{built:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_gone_is_the_infrastructures_fault() {
    let daemon = NixDaemon::start_default();
    let mut driven = Driven::start(&daemon, &[]).await;
    let work = step(&daemon, &script("never", "echo made > $out"));
    for process in daemon.processes() {
        fleet_testkit::kill_hard(process);
    }
    let built = driven.build(&work).await;
    assert_eq!(built.outcome, OutcomeClass::DaemonGone, "{built:?}");
    assert!(built.report.message.contains("the Nix daemon"), "{}", built.report.message);
    driven.stop();
    assert!(driven.ended().await.is_ok());
}

pub(crate) fn hosts(toplevels: &[(&str, &str)]) -> String {
    let hosts: Vec<String> = toplevels
        .iter()
        .map(|(name, toplevel)| format!("\"{name}\".config.system.build.toplevel = {toplevel}; "))
        .collect();
    let hosts = hosts.concat();
    // Pure evaluation does not know the system it runs on.
    let system = if cfg!(target_arch = "aarch64") { "aarch64-linux" } else { "x86_64-linux" };
    format!("{{ nixosConfigurations = {{ {hosts} }}; }}")
        .replace("builtins.currentSystem", &format!("\"{system}\""))
}

pub(crate) fn eval(names: &[&str]) -> Task {
    let kind = v1::HostKind::Nixos.into();
    Task::Hosts(v1::EvalHosts {
        hosts: names.iter().map(|name| v1::Host { name: (*name).to_owned(), kind }).collect(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_are_found_and_evaluated_one_by_one_and_one_error_is_one_hosts() {
    let daemon = NixDaemon::start_default();
    let shared = script("shared", "echo shared > $out");
    let top = |name: &str| format!("(let shared = {shared}; in {})", script(name, "echo ${shared} > $out"));
    let flake = Packed::flake(
        &daemon,
        &hosts(&[("a", &top("top-a")), ("bad", r#"throw "no such luck""#), ("c d;e", &top("top-c"))]),
    );
    let mut driven = Driven::start(&daemon, &[&flake]).await;
    let kinds = vec![v1::HostKind::Nixos.into()];
    let found = driven.evaluate(1, &flake, Task::Discover(v1::Discover { kinds })).await;
    let names: Vec<&str> = found.hosts.iter().map(|host| host.name.as_str()).collect();
    assert_eq!(names, ["a", "bad", "c d;e"]);

    let told = driven.evaluate(2, &flake, eval(&["a", "bad", "c d;e"])).await;
    assert_eq!(told.finished.failure, None);
    assert_eq!(told.derivations.len(), 3, "the shared one is sent once");
    let [(_, HostResult::Evaluated(a)), (bad, HostResult::Failure(failure)), (_, HostResult::Evaluated(c))] =
        &told.results[..]
    else {
        panic!("not as written: {told:?}");
    };
    assert_eq!((a.wanted.len(), c.wanted.len()), (2, 2));
    assert_eq!(a.wanted[0], c.wanted[0], "inputs come before their users");
    assert_eq!((bad.as_str(), failure.code.as_str()), ("bad", "eval_failed"));
    assert!(failure.cause.contains("no such luck"), "{}", failure.cause);

    let again = driven.evaluate(3, &flake, eval(&["a"])).await;
    assert!(again.derivations.is_empty(), "nothing is sent twice: {:?}", again.derivations);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evaluation_cancelled_at_any_moment_loses_no_derivation() {
    let daemon = NixDaemon::start_default();
    let flake = Packed::flake(&daemon, &hosts(&[("a", &script("top-a", "echo a > $out"))]));
    let mut driven = Driven::start(&daemon, &[&flake]).await;
    let (job, epoch, source) = (1, 1, Some(flake.source.clone()));
    driven.say(Message::EvalJob(v1::EvalJob { job, epoch, source, task: Some(eval(&["a"])) })).await;
    assert!(matches!(driven.hear().await, FromWorker::HostStarted(_)));
    driven.say(Message::CancelEval(v1::CancelEval { job })).await;

    let source = Some(flake.source.clone());
    driven.say(Message::EvalJob(v1::EvalJob { job: 2, epoch, source, task: Some(eval(&["a"])) })).await;
    let mut seen = Vec::new();
    loop {
        match driven.hear().await {
            FromWorker::DerivationsSeen(derivations) => seen.extend(derivations.derivations),
            FromWorker::HostEvaluated(host) if host.job == 2 => {
                let Some(HostResult::Evaluated(evaluated)) = host.result else { panic!("{host:?}") };
                assert!(seen.iter().any(|derivation| derivation.drv == evaluated.drv));
                return;
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flake_that_does_not_evaluate_and_a_source_that_is_not_there_are_said() {
    let daemon = NixDaemon::start_default();
    let broken = Packed::flake(&daemon, r#"throw "broken flake""#);
    let mut driven = Driven::start(&daemon, &[&broken]).await;
    let kinds = vec![v1::HostKind::Nixos.into()];
    let found = driven.evaluate(1, &broken, Task::Discover(v1::Discover { kinds })).await;
    let failure = found.finished.failure.expect("a failure");
    assert_eq!(failure.code, "eval_failed");
    assert!(failure.cause.contains("broken flake"), "{failure:?}");

    let absent = Packed::flake(&daemon, "{ }");
    let gone = driven.evaluate(2, &absent, eval(&["a"])).await;
    let failure = gone.finished.failure.expect("a failure");
    assert!(failure.cause.contains("chunk"), "{failure:?}");
    assert_eq!(gone.finished.unstarted.len(), 1);

    let mut forged = Packed::flake(&daemon, "{ other = 1; }");
    forged.source.nar_hash = vec![7; 32].into();
    let mut driven = {
        drop(driven);
        let other = NixDaemon::start_default();
        let driven = Driven::start(&other, &[&forged]).await;
        (driven, other)
    };
    let refused = driven.0.evaluate(3, &forged, eval(&["a"])).await;
    assert_eq!(refused.finished.failure.expect("a failure").code, "no_source");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closure_is_told_once_a_run_and_a_missing_toplevel_is_said() {
    let daemon = NixDaemon::start_default();
    let input = script("input", "echo of the input > $out");
    let top = format!(r"let input = {input}; in {}", script("top", "echo ${input} > $out"));
    let path = daemon.build_expression(&top)[0].trim_start_matches("/nix/store/").to_owned();
    let mut driven = Driven::start(&daemon, &[]).await;
    let told = driven.realise(1, &path, "run-1").await;
    assert_eq!(told.failure, None);
    assert_eq!(told.infos.len(), 2, "{told:?}");
    assert!(told.infos.iter().any(|info| info.path == path && info.references.len() == 1));
    assert!(driven.realise(2, &path, "run-1").await.infos.is_empty());
    assert_eq!(driven.realise(3, &path, "run-2").await.infos.len(), 2);
    let absent = driven.realise(4, "00000000000000000000000000000000-absent", "run-1").await;
    assert!(absent.failure.expect("a failure").cause.contains("-absent"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_ends_when_it_is_told_and_its_builders_with_it() {
    let daemon = NixDaemon::start_default();
    let mut driven = Driven::start(&daemon, &[]).await;
    driven.lease(&step(&daemon, &script("endless", ENDLESS))).await;
    assert!(daemon.journal().wait_for(PATIENCE, |line| line == "started").is_some(), "the builder runs");
    let builders = daemon.builders();
    driven.say(Message::Shutdown(v1::Shutdown {})).await;
    assert!(driven.ended().await.is_ok());
    for builder in builders {
        assert!(wait_until_gone(builder, PATIENCE), "the builder outlives the worker");
    }
}
