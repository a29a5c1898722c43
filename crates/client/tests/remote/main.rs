//! fleetctl against a coordinator that does what a test tells it: lost answers, outages, interrupts, and what is shown.

mod carrying;
mod keeping;
mod program;
mod scripted;

use fleet_identity::Authority;
use fleet_identity::tls::ServerTls;
use fleet_testkit::Signal;
use fleet_wire::v1;
use program::{bare, flake, fleetctl, run, start, start_on_terminal};
use scripted::{Script, Scripted};

const TOPLEVEL: &str = "web  /nix/store/00000000000000000000000000000000-web\n";
const BUILD: [&str; 2] = ["build", "--all-hosts"];

/// A run in its middle: a step is being built.
fn in_its_middle(script: &mut Script) {
    script.released = 3;
}

#[test]
fn a_run_on_a_coordinator_ends_like_one_here() {
    let coordinator = Scripted::start();
    let _flake = flake(&coordinator);
    let arguments =
        ["--retry-failed", "--timeout", "2h", "--max-silent-time", "30m", "--max-log-size", "64MiB"];
    let outcome = run(fleetctl(&coordinator, &[&BUILD[..], &arguments[..]].concat())).expect(0);
    assert_eq!(outcome.text(), TOPLEVEL);
    let script = coordinator.state.script();
    let [request] = &script.submits[..] else { panic!("{:?}", script.submits) };
    assert!(request.retry_failed && !request.dirty && request.before.is_none());
    let limits =
        v1::StepLimits { timeout_s: 7200, max_silent_s: 1800, max_log_bytes: 64 << 20, max_output_bytes: 0 };
    assert_eq!(request.limits, Some(limits));
    assert!(script.stored_chunks > 0, "the tree was sent");
}

#[test]
fn a_submit_whose_answer_was_lost_is_sent_again_under_its_key() {
    let coordinator = Scripted::start();
    let _flake = flake(&coordinator);
    coordinator.state.change(|script| script.lose_submits = 3);
    let outcome = run(fleetctl(&coordinator, &BUILD)).expect(0);
    assert_eq!(outcome.text(), TOPLEVEL);
    assert!(
        outcome.stderr.contains("no contact with the coordinator: the answer was lost"),
        "{}",
        outcome.stderr
    );
    let script = coordinator.state.script();
    let keys: Vec<_> = script.submits.iter().map(|request| &request.idempotency_key).collect();
    assert_eq!(keys.len(), 4);
    assert!(keys.iter().all(|key| *key == keys[0] && !key.is_empty()), "{keys:?}");
    assert_eq!(script.asked_events[0].run, "run-1");
}

#[test]
fn a_coordinator_that_restarts_costs_no_event() {
    let mut coordinator = Scripted::start();
    let _flake = flake(&coordinator);
    coordinator.state.change(in_its_middle);
    let running = start(fleetctl(&coordinator, &["build", "--all-hosts", "-v"]));
    running.wait_until_it_says("Building web on b1");
    coordinator.stop();
    running.wait_until_it_says("the run goes on there, trying again for 10m");
    coordinator.go_on();
    coordinator.state.change(|script| script.released = usize::MAX);
    let outcome = running.finish().expect(0);
    assert_eq!(outcome.text(), TOPLEVEL);
    for once in ["Found 1 host", "Building web", "Built web", "Finished web", "there again", "no contact"] {
        assert_eq!(outcome.stderr.matches(once).count(), 1, "{once}:\n{}", outcome.stderr);
    }
    let script = coordinator.state.script();
    assert_eq!(script.submits.len(), 1);
    assert!(
        script.asked_events[1..].iter().all(|request| request.after_sequence == 3),
        "{:?}",
        script.asked_events
    );
}

#[test]
fn an_outage_that_lasts_too_long_ends_with_how_to_come_back() {
    let mut coordinator = Scripted::start();
    let _flake = flake(&coordinator);
    coordinator.state.change(in_its_middle);
    let running = start(fleetctl(&coordinator, &["build", "--all-hosts", "-v", "--reconnect-for", "1s"]));
    running.wait_until_it_says("Building web on b1");
    coordinator.stop();
    let outcome = running.finish().expect(5);
    assert!(outcome.stdout.is_empty());
    assert!(
        outcome.stderr.contains("error: lost sight of run run-1, which goes on: cannot connect to unix:///"),
        "{}",
        outcome.stderr
    );
    assert!(outcome.stderr.ends_with("Come back to it with `fleetctl attach run-1`."), "{}", outcome.stderr);
}

#[test]
fn a_cancelled_ci_job_leaves_no_work() {
    for signal in [Signal::INT, Signal::TERM] {
        let coordinator = Scripted::start();
        let _flake = flake(&coordinator);
        coordinator.state.change(in_its_middle);
        let running = start(fleetctl(&coordinator, &["build", "--all-hosts", "-v"]));
        running.wait_until_it_says("Building web on b1");
        running.signal(signal);
        let outcome = running.finish().expect(130);
        assert!(outcome.stdout.is_empty(), "{outcome:?}");
        assert_eq!(coordinator.state.script().cancelled, ["run-1"], "{signal:?}");
    }
}

#[test]
fn an_interrupt_while_the_answer_to_a_submit_is_under_way_leaves_no_work() {
    let coordinator = Scripted::start();
    let _flake = flake(&coordinator);
    coordinator.state.change(|script| script.hold_submits = true);
    let running = start(fleetctl(&coordinator, &BUILD));
    coordinator.state.wait_until("the run is submitted", |script| !script.submits.is_empty());
    running.signal(Signal::TERM);
    running.wait_until_it_says("stopping");
    coordinator.state.change(|script| script.hold_submits = false);
    running.finish().expect(130);
    assert_eq!(coordinator.state.script().cancelled, ["run-1"]);
}

#[test]
fn a_cancel_during_an_outage_is_heard_when_it_ends() {
    let mut coordinator = Scripted::start();
    let _flake = flake(&coordinator);
    coordinator.state.change(in_its_middle);
    let running = start(fleetctl(&coordinator, &["build", "--all-hosts", "-v"]));
    running.wait_until_it_says("Building web on b1");
    coordinator.stop();
    running.wait_until_it_says("no contact");
    running.signal(Signal::INT);
    running.wait_until_it_says("stopping");
    coordinator.go_on();
    running.finish().expect(130);
    assert_eq!(coordinator.state.script().cancelled, ["run-1"]);
}

#[test]
fn a_cancel_that_nobody_heard_is_said() {
    let mut coordinator = Scripted::start();
    let _flake = flake(&coordinator);
    coordinator.state.change(in_its_middle);
    let running = start(fleetctl(&coordinator, &["build", "--all-hosts", "-v"]));
    running.wait_until_it_says("Building web on b1");
    coordinator.stop();
    running.wait_until_it_says("no contact");
    running.signal(Signal::INT);
    running.wait_until_it_says("stopping");
    running.signal(Signal::INT);
    let outcome = running.finish().expect(130);
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("has not heard that run run-1 is to be cancelled"), "{}", outcome.stderr);
}

#[test]
fn a_run_goes_on_when_the_terminal_goes_or_the_user_says_so() {
    let cases: [(&[&str], Signal); 3] = [
        (&[], Signal::HUP),
        (&["--detach-on-interrupt"], Signal::INT),
        (&["--detach-on-interrupt"], Signal::TERM),
    ];
    for (arguments, signal) in cases {
        let coordinator = Scripted::start();
        let _flake = flake(&coordinator);
        coordinator.state.change(in_its_middle);
        let running = start(fleetctl(&coordinator, &[&["build", "--all-hosts", "-v"], arguments].concat()));
        running.wait_until_it_says("Building web on b1");
        running.signal(signal);
        let outcome = running.finish().expect(7);
        assert!(outcome.stderr.contains("`fleetctl attach run-1` comes back to it"), "{}", outcome.stderr);
        assert!(outcome.stdout.is_empty() && coordinator.state.script().cancelled.is_empty());
    }
}

#[test]
fn on_a_terminal_ctrl_c_asks() {
    let cases: [(&str, i32, &[&str]); 3] =
        [("d\n", 7, &[]), ("\n", 130, &["run-1"]), ("what?\nc\n", 130, &["run-1"])];
    for (answer, code, cancelled) in cases {
        let coordinator = Scripted::start();
        let _flake = flake(&coordinator);
        coordinator.state.change(in_its_middle);
        let mut running = start_on_terminal(fleetctl(&coordinator, &["build", "--all-hosts", "-v"]));
        running.wait_until_it_says("Building");
        running.signal(Signal::INT);
        running.wait_until_it_says("detach, or cancel the run? [d/C]");
        running.type_in(answer);
        running.finish().expect(code);
        assert_eq!(coordinator.state.script().cancelled, cancelled, "{answer:?}");
    }
}

#[test]
fn a_second_ctrl_c_takes_the_answer_in_capitals() {
    let coordinator = Scripted::start();
    let _flake = flake(&coordinator);
    coordinator.state.change(in_its_middle);
    let running = start_on_terminal(fleetctl(&coordinator, &["build", "--all-hosts", "-v"]));
    running.wait_until_it_says("Building");
    running.signal(Signal::INT);
    running.wait_until_it_says("[d/C]");
    running.signal(Signal::INT);
    running.finish().expect(130);
    assert_eq!(coordinator.state.script().cancelled, ["run-1"]);
}

#[test]
fn a_run_that_ends_while_the_question_stands_ends_as_ever() {
    let coordinator = Scripted::start();
    let _flake = flake(&coordinator);
    coordinator.state.change(in_its_middle);
    let running = start_on_terminal(fleetctl(&coordinator, &["build", "--all-hosts", "-v"]));
    running.wait_until_it_says("Building");
    running.signal(Signal::INT);
    running.wait_until_it_says("[d/C]");
    coordinator.state.change(|script| script.released = usize::MAX);
    let outcome = running.finish().expect(0);
    assert_eq!(outcome.text(), TOPLEVEL);
    assert!(outcome.stderr.contains("Finished"), "what came meanwhile is shown: {}", outcome.stderr);
}

#[test]
fn whoever_will_not_wait_gets_the_runs_name() {
    let coordinator = Scripted::start();
    let _flake = flake(&coordinator);
    coordinator.state.change(in_its_middle);
    assert_eq!(
        run(fleetctl(&coordinator, &["build", "--all-hosts", "--detach"])).expect(0).text(),
        "run-1\n"
    );
    let outcome = run(fleetctl(&coordinator, &["build", "--all-hosts", "--no-wait", "--json"])).expect(0);
    assert_eq!(outcome.text(), "{\"schema\":1,\"run\":\"run-2\"}\n");
    assert!(coordinator.state.script().asked_events.is_empty());
}

#[test]
fn whoever_attaches_gets_the_report_of_the_one_who_submitted() {
    let coordinator = Scripted::start();
    let repo = flake(&coordinator);
    repo.write("flake.nix", "{ outputs = _: { changed = 1; }; }");
    let build = |arguments: &[&str]| run(fleetctl(&coordinator, arguments)).expect(0).stdout;
    let json = build(&["build", "--all-hosts", "--base", "HEAD", "--json"]);
    assert!(coordinator.state.script().submits[0].dirty);
    // Times of the diff itself differ.
    let tidy = |bytes: &[u8]| {
        let mut json: serde_json::Value = serde_json::from_slice(bytes).expect("JSON");
        json.as_object_mut().expect("an object").remove("seconds");
        json
    };
    assert_eq!(tidy(&build(&["attach", "run-1", "--json"])), tidy(&json));
    let markdown = build(&["build", "--all-hosts", "--base", "HEAD"]);
    assert!(String::from_utf8_lossy(&markdown).contains("uncommitted changes"));
    let without_time = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.lines()
            .filter(|line| !line.contains("21 s"))
            .map(|line| line.to_owned() + "\n")
            .collect::<String>()
    };
    assert_eq!(without_time(&build(&["attach", "run-2"])), without_time(&markdown));
    let again = build(&["attach", "run-2"]);
    assert_eq!(without_time(&again), without_time(&build(&["attach", "run-2"])), "the same when asked again");
}

#[test]
fn attach_takes_the_newest_run_that_goes_on_and_leaving_it_ends_nothing() {
    let coordinator = Scripted::start();
    let _flake = flake(&coordinator);
    coordinator.state.change(in_its_middle);
    for _ in 0..2 {
        run(fleetctl(&coordinator, &["build", "--all-hosts", "--detach"])).expect(0);
    }
    let running = start(fleetctl(&coordinator, &["attach", "-v"]));
    running.wait_until_it_says("Building web on b1");
    running.signal(Signal::INT);
    let outcome = running.finish().expect(7);
    assert!(outcome.stderr.contains("run run-2 goes on"), "{}", outcome.stderr);
    assert!(coordinator.state.script().cancelled.is_empty());
    coordinator.state.change(|script| script.released = usize::MAX);
    let outcome = run(fleetctl(&coordinator, &["attach"])).expect(1);
    assert!(outcome.stderr.starts_with("error: no run goes on."), "{}", outcome.stderr);
    let outcome = run(fleetctl(&coordinator, &["attach", "run-77"])).expect(1);
    assert!(
        outcome.stderr.starts_with("error: the coordinator knows no run `run-77`."),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_log_goes_on_where_its_stream_broke() {
    let coordinator = Scripted::start();
    let log: Vec<u8> =
        (0..5_000_u32).flat_map(|line| format!("line {line} \u{1b}[31m\n").into_bytes()).collect();
    coordinator.state.change(|script| {
        script.log.clone_from(&log);
        script.break_log_at = Some(12_345);
    });
    let outcome = run(fleetctl(&coordinator, &["logs", "web", "--follow"])).expect(0);
    assert!(outcome.stdout == log, "bytes are passed on as they are, none twice, none missing");
    let script = coordinator.state.script();
    let [first, second] = &script.asked_logs[..] else { panic!("{:?}", script.asked_logs) };
    assert_eq!((first.selector.as_str(), first.attempt, first.offset), ("web", 0, 0));
    assert_eq!((second.attempt, second.offset), (2, 12_345), "the same attempt");
    assert_eq!(second.selector, "00000000000000000000000000000000-web.drv");
}

#[test]
fn what_a_slow_reader_missed_is_marked_beside_the_log() {
    let coordinator = Scripted::start();
    coordinator.state.change(|script| {
        script.log = vec![b'x'; 40_000];
        script.skip_log = 4_096;
    });
    let outcome = run(fleetctl(&coordinator, &["logs", "web", "-f"])).expect(0);
    assert_eq!(outcome.stdout.len(), 40_000 - 4_096);
    assert_eq!(outcome.stderr, "(4.0 KiB of the log are left out: this reader was too slow)");
}

#[test]
fn workers_are_enrolled_steered_and_shut_out() {
    let coordinator = Scripted::start();
    let arguments =
        ["worker", "token", "--name", "b9", "--system", "x86_64-linux", "--feature", "kvm", "--ttl", "2h"];
    assert_eq!(run(fleetctl(&coordinator, &arguments)).expect(0).text(), "fleet-join-v1.a.b.c\n");
    run(fleetctl(&coordinator, &["worker", "drain", "b1", "--reason", "new disk"])).expect(0);
    run(fleetctl(&coordinator, &["worker", "resume", "b1"])).expect(0);
    let refused = run(fleetctl(&coordinator, &["worker", "revoke", "b1"])).expect(1);
    assert!(refused.stderr.ends_with("Nobody can be asked here. Add --yes."), "{}", refused.stderr);
    run(fleetctl(&coordinator, &["worker", "revoke", "b1", "--yes"])).expect(0);
    let unknown = run(fleetctl(&coordinator, &["worker", "drain", "b7"])).expect(1);
    assert!(unknown.stderr.starts_with("error: the coordinator knows no worker `b7`."), "{}", unknown.stderr);
    let script = coordinator.state.script();
    let token = &script.tokens[0];
    assert_eq!((&*token.name, token.ttl_s), ("b9", 7200));
    assert_eq!(
        (&*token.systems, &*token.features),
        (&["x86_64-linux".to_owned()][..], &["kvm".to_owned()][..])
    );
    let orders: Vec<_> = script.orders.iter().map(|order| (order.order(), order.reason.as_str())).collect();
    let given = [
        (v1::WorkerOrder::Drain, "new disk"),
        (v1::WorkerOrder::Resume, ""),
        (v1::WorkerOrder::Revoke, ""),
        (v1::WorkerOrder::Drain, ""),
    ];
    assert_eq!(orders, given);
}

#[test]
fn revoking_on_a_terminal_asks() {
    let coordinator = Scripted::start();
    for (answer, code, orders) in [("n\n", 130, 0), ("y\n", 0, 1)] {
        let mut running = start_on_terminal(fleetctl(&coordinator, &["worker", "revoke", "b1"]));
        running.wait_until_it_says("[y/N]");
        running.type_in(answer);
        running.finish().expect(code);
        assert_eq!(coordinator.state.script().orders.len(), orders);
    }
}

#[test]
fn clients_get_tokens_and_lose_them() {
    let coordinator = Scripted::start();
    let token =
        run(fleetctl(&coordinator, &["client", "token", "--name", "ci", "--role", "submit", "--json"]));
    assert_eq!(
        token.expect(0).text(),
        "{\"schema\":1,\"expires_unix_s\":4000,\"token\":\"fleet-client-v1.a.b\"}\n"
    );
    assert_eq!(coordinator.state.script().client_tokens[0].role(), v1::Role::Submit);
    let list = run(fleetctl(&coordinator, &["client", "ls"])).expect(0);
    assert_eq!(list.text(), "CLIENT  ROLE    STATE\nci      submit  revoked\n");
    run(fleetctl(&coordinator, &["client", "revoke", "ci", "--yes"])).expect(0);
    let unknown = run(fleetctl(&coordinator, &["client", "revoke", "x", "--yes"])).expect(1);
    assert!(unknown.stderr.contains("knows no client `x`"), "{}", unknown.stderr);
}

#[test]
fn runs_are_listed_shown_cancelled_and_explained() {
    let coordinator = Scripted::start();
    let _flake = flake(&coordinator);
    coordinator.state.change(|script| {
        in_its_middle(script);
        script.why.answers = vec![v1::Why {
            subject: "web, after".to_owned(),
            state: "it is being built by b1".to_owned(),
            ..Default::default()
        }];
    });
    run(fleetctl(&coordinator, &["build", "--all-hosts", "--detach"])).expect(0);
    assert!(run(fleetctl(&coordinator, &["runs"])).expect(0).text().contains("running, 0 of 1 done"));
    let shown = run(fleetctl(&coordinator, &["show", "run-1", "--json"])).expect(0).json();
    assert_eq!((&shown["state"], &shown["hosts"][0]["host"]), (&"running".into(), &"web".into()));
    let why = run(fleetctl(&coordinator, &["why", "web"])).expect(0);
    assert_eq!(why.text(), "web, after: it is being built by b1\n");
    run(fleetctl(&coordinator, &["cancel", "run-1"])).expect(0);
    assert_eq!(coordinator.state.script().cancelled, ["run-1"]);
    let runs = run(fleetctl(&coordinator, &["runs", "--json"])).expect(0).json();
    assert_eq!(runs["runs"][0]["state"], "cancelled");
    let status = run(fleetctl(&coordinator, &["status", "--json"])).expect(0).json();
    assert_eq!(status["workers"], serde_json::json!([]));
    coordinator.state.change(|script| script.why.answers.clear());
    let nothing = run(fleetctl(&coordinator, &["why", "nothing"])).expect(1);
    assert!(
        nothing.stderr.contains("no live run has a host or a derivation `nothing`"),
        "{}",
        nothing.stderr
    );
    let unknown = run(fleetctl(&coordinator, &["cancel", "nothing"])).expect(1);
    assert!(unknown.stderr.contains("knows no run `nothing`"), "{}", unknown.stderr);
}

#[test]
fn each_kind_of_failure_has_its_exit_code() {
    let mut coordinator = Scripted::start();
    let _flake = flake(&coordinator);
    let status = || run(fleetctl(&coordinator, &["status"]));
    coordinator
        .state
        .change(|script| script.refuse = Some(tonic::Status::permission_denied("role read is too little")));
    assert!(status().expect(6).stderr.contains("role read is too little"));
    assert!(run(fleetctl(&coordinator, &BUILD)).expect(6).stderr.contains("role read is too little"));
    coordinator.state.change(|script| script.refuse = Some(tonic::Status::unauthenticated("no credentials")));
    assert!(status().expect(6).stderr.contains("does not know who you are"));
    coordinator.stop();
    let unreachable = run(fleetctl(&coordinator, &["runs"])).expect(5);
    assert!(unreachable.stderr.starts_with("error: cannot connect to unix:///"), "{}", unreachable.stderr);
    let patient = run(fleetctl(&coordinator, &["build", "--all-hosts", "--reconnect-for", "0"])).expect(5);
    assert!(patient.stderr.contains("cannot connect to unix:///"), "{}", patient.stderr);
    for arguments in
        [&["runs"][..], &["attach"], &["why", "x"], &["worker", "ls"], &["logs", "x", "--follow"]]
    {
        let error = run(bare(coordinator.scratch(), arguments)).expect(1);
        assert!(
            error.stderr.contains("needs a coordinator, and none is set. Name it with"),
            "{}",
            error.stderr
        );
    }
}

#[test]
fn a_coordinator_behind_tls_is_checked_and_told_who_we_are() {
    let coordinator = Scripted::start();
    let _flake = flake(&coordinator);
    let scratch = coordinator.scratch();
    let now = fleet_identity::unix_now();
    let authority = |name: &str| {
        let directory = scratch.join(name);
        std::fs::create_dir(&directory).expect("a directory");
        Authority::open(&directory, now).expect("an authority")
    };
    let ours = authority("ca");
    let server = ours.make_server(now, &["localhost".to_owned()]).expect("a certificate");
    let port = coordinator.serve_tls(std::sync::Arc::new(ServerTls::new(&server).expect("a port's side")));
    let pem = |name: &str, text: &str| {
        let path = scratch.join(name);
        let mut options = std::fs::File::options();
        std::os::unix::fs::OpenOptionsExt::mode(options.create(true).write(true).truncate(true), 0o600);
        std::io::Write::write_all(&mut options.open(&path).expect("a file"), text.as_bytes())
            .expect("written");
        path
    };
    let ca = scratch.join("ca.pem");
    std::fs::write(&ca, authority_pem(&server)).expect("written");
    let secure = |arguments: &[&str]| {
        let mut command = bare(scratch, arguments);
        command.env("FLEET_COORDINATOR", format!("https://localhost:{port}")).env("FLEET_CA", &ca);
        command
    };
    let token = pem("token", "fleet-client-v1.secret\n");
    let mut command = secure(&["build", "--all-hosts"]);
    command.env("FLEET_TOKEN_FILE", &token);
    assert_eq!(run(command).expect(0).text(), TOPLEVEL);
    let bearers = coordinator.state.script().authorization.clone();
    assert!(
        bearers.iter().all(|bearer| bearer.as_deref() == Some("Bearer fleet-client-v1.secret")),
        "{bearers:?}"
    );

    // One file that holds certificate, key and authority is all that an administrator's machine needs.
    let me = fleet_identity::Name::try_from("me".to_owned()).expect("a name");
    let certified = |authority: &Authority, name: &str, ttl_s: u64, made: u64| {
        let made =
            authority.make_client(made, ttl_s, &me, fleet_identity::Role::Admin).expect("a certificate");
        pem(name, &made.to_pem())
    };
    let mut command = bare(scratch, &["runs"]);
    command.env("FLEET_COORDINATOR", format!("https://localhost:{port}"));
    command.env("FLEET_CLIENT_CERT", certified(&ours, "me.pem", 3600, now));
    run(command).expect(0);
    let mut command = secure(&["runs"]);
    command.env("FLEET_CLIENT_CERT", certified(&ours, "old.pem", 3600, now - 3 * 3600));
    let expired = run(command).expect(6);
    assert!(expired.stderr.contains("certificate has expired"), "{}", expired.stderr);
    let mut command = secure(&["runs"]);
    command.env("FLEET_CLIENT_CERT", certified(&authority("foreign"), "foreign.pem", 3600, now));
    let foreign = run(command).expect(6);
    assert!(foreign.stderr.contains("refuses your certificate"), "{}", foreign.stderr);

    // A stranger's authority, a name that is not the certificate's, and a port that speaks no TLS.
    let stranger = authority("other").make_server(now, &["localhost".to_owned()]).expect("a certificate");
    let mut command = secure(&["runs"]);
    command.env("FLEET_CA", pem("other.pem", &authority_pem(&stranger)));
    let refused = run(command).expect(6);
    assert!(refused.stderr.contains("a CA that is not trusted here"), "{}", refused.stderr);
    let mut command = secure(&["runs"]);
    command.env("FLEET_COORDINATOR", format!("https://127.0.0.1:{port}"));
    assert!(run(command).expect(6).stderr.contains("not for the name that was dialled"));

    // Secrets are in no output, whatever goes wrong and however much is said.
    let mut command = secure(&["config", "show"]);
    command.env("FLEET_TOKEN", "fleet-client-v1.secret").env("FLEET_LOG", "trace");
    let shown = run(command).expect(0);
    assert!(shown.text().contains("(secret)") && !shown.text().contains("v1.secret"), "{}", shown.text());
    let mut command = secure(&["runs"]);
    command.env("FLEET_TOKEN", "fleet-client-v1.secret").env("FLEET_LOG", "trace");
    let listed = run(command).expect(0);
    assert!(
        !listed.stderr.contains("v1.secret") && !listed.text().contains("v1.secret"),
        "{}",
        listed.stderr
    );
}

#[test]
fn a_socket_is_not_told_any_token() {
    let coordinator = Scripted::start();
    let mut command = fleetctl(&coordinator, &["runs"]);
    command.env("FLEET_TOKEN", "fleet-client-v1.secret");
    run(command).expect(0);
    assert_eq!(coordinator.state.script().authorization, [None]);
}

/// The certificates of those who vouch for a server.
fn authority_pem(server: &fleet_identity::Credentials) -> String {
    let text = server.to_pem();
    let blocks = text.split_inclusive("-----END CERTIFICATE-----\n").collect::<Vec<_>>();
    // The key and the server's own certificate come first.
    blocks[server.chain.len()..].concat()
}
