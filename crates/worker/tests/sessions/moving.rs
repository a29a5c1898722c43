//! What a worker of several machines says of store paths, and what it brings: nothing by itself but sources, the rest
//! when it is told to.

use std::sync::Arc;

use fleet_nix::nar_dump::dump_path;
use fleet_store::{Digest, open_frame};
use fleet_testkit::NixDaemon;
use fleet_wire::v1;
use fleet_wire::v1::coordinator_message::Message;
use fleet_wire::v1::host_evaluated::Result as HostResult;
use fleet_wire::v1::worker_message::Message as FromWorker;
use fleet_wire::v1::{OutcomeClass, PathStanding};
use tokio::sync::Barrier;
use tonic::Status;

use crate::keeper::base;
use crate::scripted::{Driven, Packed, config, script, step, welcome};
use crate::{eval, hosts};

/// As a coordinator of several machines says it.
pub(crate) fn welcome_of_many(upstream_keys: &[&str]) -> v1::Welcome {
    let upstream_keys = upstream_keys.iter().map(|key| (*key).to_owned()).collect();
    v1::Welcome { upload_outputs: true, upstream_keys, ..welcome() }
}

async fn start(daemon: &NixDaemon, sources: &[&Packed], upstream_keys: &[&str]) -> Driven {
    let mut driven = Driven::start_as(daemon, sources, config(daemon)).await;
    driven.close();
    driven.meet(welcome_of_many(upstream_keys)).await;
    driven
}

/// A pair of keys, the secret one in a file.
fn key(daemon: &NixDaemon, name: &str) -> (std::path::PathBuf, String) {
    let secret = daemon.nix_stdout(["key", "generate-secret", "--key-name", name]);
    let file = daemon.scratch().join(name);
    std::fs::write(&file, secret.trim()).expect("writes");
    let secret: fleet_nix::SecretKey = secret.trim().parse().expect("a key");
    (file, secret.public_key().to_string())
}

fn sign(daemon: &NixDaemon, file: &std::path::Path, path: &str) {
    daemon.nix_stdout(["store", "sign", "--recursive", "--key-file", &file.to_string_lossy(), path]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_says_what_was_made_and_upstreams_paths_are_told_of_once() {
    let daemon = NixDaemon::start_default();
    let inner = script("inner", "echo inner > $out");
    let outer = format!("let inner = {inner}; in {}", script("outer", "echo ${inner} > $out"));
    let upstream = daemon.build_expression(&outer).remove(0);
    let (file, public) = key(&daemon, "cache-1");
    sign(&daemon, &file, &upstream);
    let mut driven = start(&daemon, &[], &[&public]).await;
    let closure = daemon.nix_stdout(["path-info", "--recursive", &upstream]);
    for path in closure.lines() {
        driven.keeper.lock().believed.insert(base(path), PathStanding::Upstream);
    }

    // It refers to what its input refers to: that must be known to be there.
    let through = |name: &str| {
        step(
            &daemon,
            &format!("let outer = {outer}; in {}", script(name, "read l < ${outer}; echo $l > $out")),
        )
    };
    let built = driven.build(&through("first")).await;
    assert_eq!(built.outcome, OutcomeClass::Built, "{built:?}");
    let info = built.report.outputs[0].info.clone().expect("an info");
    assert_eq!(info.path, built.report.outputs[0].path);
    assert_eq!((info.nar_hash.len(), info.references.len()), (32, 1));
    assert!(info.nar_size > 0 && info.references[0].ends_with("-inner"), "{info:?}");
    {
        let kept = driven.keeper.lock();
        assert!(kept.registered.is_empty() && kept.put == 0, "nothing is brought");
        let told: Vec<_> = kept.vouched.iter().map(|vouch| vouch.info.clone().expect("an info")).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].path.ends_with("-inner") && told[1].path.ends_with("-outer"),
            "references come first"
        );
        assert!(told.iter().all(|info| info.signatures.len() == 1));
        let right = kept.vouched[0].right.expect("a right");
        assert_eq!((right.lease, right.epoch), (1, 9));
    }
    let questions = driven.keeper.lock().looked.len();
    assert_eq!(driven.build(&through("second")).await.outcome, OutcomeClass::Built);
    assert_eq!(driven.keeper.lock().looked.len(), questions, "a step costs no question");

    driven.close();
    driven.meet(welcome_of_many(&[&public])).await;
    driven.acknowledge().await;
    let lease = driven.lease(&through("third")).await;
    loop {
        match driven.hear().await {
            FromWorker::LeaseFinished(finished) if finished.lease == lease => break,
            _ => {}
        }
    }
    let kept = driven.keeper.lock();
    assert_eq!(
        (kept.looked.len(), kept.vouched.len()),
        (questions + 1, 2),
        "a new session is asked, and knows"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_vouches_for_is_this_machines_fault_only_where_it_matters() {
    let daemon = NixDaemon::start_default();
    let inner = script("inner", "echo inner > $out");
    let outer = format!("let inner = {inner}; in {}", script("outer", "echo ${inner} > $out"));
    let local = daemon.build_expression(&outer).remove(0);
    let mut driven = start(&daemon, &[], &[]).await;
    let of =
        |name: &str, body: &str| step(&daemon, &format!("let outer = {outer}; in {}", script(name, body)));
    let plain = driven.build(&of("plain", "echo ${outer} > $out")).await;
    assert_eq!(plain.outcome, OutcomeClass::Built, "a direct input is nobody's secret: {plain:?}");
    let through = driven.build(&of("through", "read l < ${outer}; echo $l > $out")).await;
    assert_eq!(through.outcome, OutcomeClass::Placement, "{through:?}");
    let message = &through.report.message;
    assert!(message.contains("-inner") && message.contains(&base(&local)), "{message}");
    assert!(driven.keeper.lock().vouched.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_input_ends_the_step_at_once_and_by_name() {
    let daemon = NixDaemon::start_default();
    let input = script("input", "echo input > $out");
    let top = format!("let input = {input}; in {}", script("top", "echo ${input} > $out"));
    let work = step(&daemon, &top);
    let mut driven = start(&daemon, &[], &[]).await;
    driven.keeper.stand(&work.inputs, PathStanding::Lost);
    let built = driven.build(&work).await;
    assert_eq!(built.outcome, OutcomeClass::InputMissing, "{built:?}");
    assert_eq!(built.report.missing, work.inputs);

    let job = v1::Realise { job: 1, epoch: 4, path: work.inputs[0].clone(), ..v1::Realise::default() };
    let realised = driven.realise_as(job).await;
    assert!(realised.failure.is_some());
    assert_eq!(realised.missing, work.inputs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closure_is_published_as_far_as_it_is_not_there_each_path_after_what_it_refers_to() {
    let daemon = NixDaemon::start_default();
    let first = script("first", "echo first > $out");
    let second = format!("let first = {first}; in {}", script("second", "echo ${first} > $out"));
    let third = format!("let second = {second}; in {}", script("third", "echo ${second} > $out"));
    let top = format!("let third = {third}; in {}", script("top", "echo ${third} > $out"));
    let path = daemon.build_expression(&top).remove(0);
    let closure = daemon.nix_stdout(["path-info", "--recursive", &path]);
    let named = |name: &str| closure.lines().find(|path| path.ends_with(name)).expect("in the closure");
    let mut driven = start(&daemon, &[], &[]).await;
    let job = |job| {
        let (path, run) = (base(&path), "run".to_owned());
        v1::Realise { job, epoch: 4, path, closure: false, run, publish: true }
    };
    driven.keeper.stand(&[named("-first")], PathStanding::Upstream);
    driven.keeper.stand(&[named("-second"), named("-third")], PathStanding::Held);
    let refused = driven.realise_as(job(1)).await.failure.expect("a failure");
    assert!(refused.cause.contains("-top") && refused.cause.contains("this machine only"), "{refused:?}");

    driven.keeper.stand(&[named("-top")], PathStanding::Lost);
    let realised = driven.realise_as(job(2)).await;
    assert_eq!(realised.failure, None);
    assert_eq!(driven.keeper.registered(), ["-second", "-third", "-top"].map(|name| base(named(name))));
    {
        let kept = driven.keeper.lock();
        let right = kept.registered[0].right.expect("a right");
        assert_eq!((right.realise_job, right.epoch), (2, 4));
        assert!(kept.put > 0);
    }
    assert_eq!(driven.realise_as(job(3)).await.failure, None);
    assert_eq!(driven.keeper.registered().len(), 3, "what is kept is not brought again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_is_kept_with_another_content_keeps_nothing_else_from_being_published() {
    let daemon = NixDaemon::start_default();
    let first = script("first", "echo first > $out");
    let second = format!("let first = {first}; in {}", script("second", "echo ${first} > $out"));
    let third = format!("let second = {second}; in {}", script("third", "echo ${second} > $out"));
    let top = format!("let third = {third}; in {}", script("top", "echo ${third} > $out"));
    let path = daemon.build_expression(&top).remove(0);
    let closure = daemon.nix_stdout(["path-info", "--recursive", &path]);
    let closure: Vec<&str> = closure.lines().collect();
    let named = |name: &str| base(closure.iter().find(|path| path.ends_with(name)).expect("in the closure"));
    let mut driven = start(&daemon, &[], &[]).await;
    let job = |job| {
        let (path, run) = (base(&path), "run".to_owned());
        v1::Realise { job, epoch: 4, path, closure: false, run, publish: true }
    };
    driven.keeper.stand(&closure, PathStanding::Held);
    driven.keeper.lock().differing.insert(named("-second"), PathStanding::Kept);
    let realised = driven.realise_as(job(1)).await;
    assert_eq!(realised.failure, None, "the first of two contents serves as well");
    let mut registered = driven.keeper.registered();
    registered.dedup();
    assert_eq!(registered, ["-first", "-third", "-top"].map(named));

    driven.keeper.lock().registered.clear();
    driven.keeper.stand(&closure, PathStanding::Held);
    driven.keeper.lock().differing.insert(named("-second"), PathStanding::Held);
    let refused = driven.realise_as(job(2)).await.failure.expect("it is not there");
    assert!(refused.cause.contains(&named("-second")), "{refused:?}");
    let mut registered = driven.keeper.registered();
    registered.dedup();
    assert_eq!(registered, [named("-first")], "nothing without what it refers to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_questions_about_chunks_are_on_their_way_and_what_repeats_is_brought_once() {
    let daemon = NixDaemon::start_default();
    let large = "mkdir $out; dd if=/dev/urandom of=$out/a bs=1048576 count=32 2>&1; \
                 dd if=$out/a of=$out/b bs=1048576 2>&1";
    let path = daemon.build_expression(&script("large", large)).remove(0);
    let mut driven = start(&daemon, &[], &[]).await;
    driven.keeper.stand(&[&path], PathStanding::Held);
    driven.keeper.lock().meet = {
        let all = Arc::new(Barrier::new(4));
        std::iter::repeat_n(all, 4).collect()
    };
    let (run, publish) = ("run".to_owned(), true);
    let job = v1::Realise { job: 1, epoch: 4, path: base(&path), closure: false, run, publish };
    assert_eq!(driven.realise_as(job).await.failure, None);

    let kept = driven.keeper.lock();
    assert!(kept.meet.is_empty() && kept.asked.iter().all(|asked| *asked <= 16), "{:?}", kept.asked);
    assert_eq!(kept.put, kept.chunks.len(), "each once");
    let refs = &kept.registered[0].manifest.as_ref().expect("a manifest").chunks;
    assert!(refs.len() > kept.chunks.len(), "there were repetitions");
    let pieces = refs.iter().map(|piece| {
        let digest = Digest::try_from(&*piece.digest).expect("a digest");
        open_frame(digest, &kept.chunks[&piece.digest]).expect("a frame")
    });
    let archive = dump_path(&daemon.physical(&path), Vec::new()).expect("packs");
    assert!(pieces.collect::<Vec<_>>().concat() == archive, "in the order of the archive");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_needs_is_shared_and_what_is_not_here_is_said() {
    let daemon = NixDaemon::start_default();
    let first = script("first", "echo first > $out");
    let second = format!("let first = {first}; in {}", script("second", "echo ${first} > $out"));
    let path = base(&daemon.build_expression(&second).remove(0));
    let closure = daemon.nix_stdout(["path-info", "--recursive", &format!("/nix/store/{path}")]);
    let mut paths: Vec<String> = closure.lines().map(base).collect();
    paths.sort_by_key(|path| path.ends_with("-second"));
    let absent = "00000000000000000000000000000000-absent".to_owned();
    let mut driven = start(&daemon, &[], &[]).await;
    driven.keeper.stand(&paths, PathStanding::Held);

    let asked = paths.iter().chain([&absent]).cloned().collect();
    driven.say(Message::Share(v1::Share { share: 77, paths: asked })).await;
    let FromWorker::PathsLost(lost) = driven.hear().await else { panic!("not what was said") };
    assert_eq!(lost.paths, [absent]);
    assert_eq!(driven.keeper.registered(), paths);
    let right = driven.keeper.lock().registered[0].right.expect("a right");
    assert_eq!(right, v1::WorkRight { share: 77, ..v1::WorkRight::default() });

    // Nobody waits any more: that is no fault of the paths.
    driven.keeper.stand(&paths, PathStanding::Held);
    driven.keeper.lock().refusal = Some(Status::not_found("no such order"));
    driven.say(Message::Share(v1::Share { share: 78, paths: paths.clone() })).await;
    driven.keeper.lock().refusal = None;
    driven.say(Message::Share(v1::Share { share: 79, paths: vec![paths[0].clone(), "x".to_owned()] })).await;
    let FromWorker::PathsLost(lost) = driven.hear().await else { panic!("not what was said") };
    assert_eq!(lost.paths.len(), 2, "what cannot be read is with somebody else: {lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_this_machine_has_becomes_a_step_and_sources_are_brought() {
    let daemon = NixDaemon::start_default();
    let text = r#"builtins.toFile "text" "some text""#;
    let dep = script("dep", "echo dep > $out");
    let top = format!("(let dep = {dep}; text = {text}; in {})", script("top", "echo ${dep} ${text} > $out"));
    let flake = Packed::flake(&daemon, &hosts(&[("a", &top)]));
    let mut driven = start(&daemon, &[&flake], &[]).await;
    // Pure evaluation does not know the system: as the flake has it.
    let known = daemon.build_expression(&dep).remove(0);
    let told = driven.evaluate(1, &flake, eval(&["a"])).await;
    let [(_, HostResult::Evaluated(evaluated))] = &told.results[..] else { panic!("{told:?}") };
    assert_eq!(evaluated.wanted.len(), 2, "that it is valid here is no evidence: {evaluated:?}");
    let registered = driven.keeper.registered();
    let [brought] = &registered[..] else { panic!("{registered:?}") };
    assert!(brought.ends_with("-text"));
    assert_eq!(driven.keeper.lock().registered[0].right.expect("a right").eval_job, 1);

    driven.keeper.stand(&[&known], PathStanding::Held);
    let told = driven.evaluate(2, &flake, eval(&["a"])).await;
    let [(_, HostResult::Evaluated(evaluated))] = &told.results[..] else { panic!("{told:?}") };
    assert_eq!(evaluated.wanted.len(), 1, "somebody has it: {evaluated:?}");
    assert_eq!(driven.keeper.registered().len(), 1);
}
