//! Workers without their coordinator: what goes on, what is kept, what is offered again, and what is given up.

use std::time::Duration;

use fleet_testkit::{NixDaemon, wait_until_gone};
use fleet_wire::v1;
use fleet_wire::v1::OutcomeClass;
use fleet_wire::v1::coordinator_message::Message;
use fleet_wire::v1::worker_message::Message as FromWorker;
use fleet_worker::{Stop, Worker};
use tonic::Status;

use crate::relay::Relay;
use crate::scripted::{
    Driven, Gate, PATIENCE, Packed, Scripted, config, link_to, script, started, step, welcome,
};
use crate::{ENDLESS, eval, hosts};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_goes_on_while_the_coordinator_is_away_and_arrives_afterwards() {
    let (daemon, gate) = Gate::daemon();
    let mut driven = Driven::start(&daemon, &[]).await;
    let lease = driven.lease(&Gate::step(&daemon, "survivor")).await;
    assert!(matches!(driven.hear().await, FromWorker::StepBegun(_)));
    started(&daemon).await;

    driven.close();
    driven.knock().await;
    assert_eq!(driven.holds(), [lease]);
    assert_eq!(driven.hello.holds[0].epoch, 9);
    gate.open();
    assert!(daemon.journal().wait_for(PATIENCE, |line| line == "over").is_some(), "the builder went on");
    driven.say(Message::Welcome(welcome())).await;
    let built = driven.hear_lease(lease).await;
    assert!(built.begun, "what was not acknowledged is said again");
    assert_eq!((built.outcome, built.log.as_str()), (OutcomeClass::Built, "before\nafter\n"));
    assert_eq!(daemon.journal().lines().iter().filter(|line| *line == "started").count(), 1, "built once");

    driven.acknowledge().await;
    driven.beat(|beat| beat.spooled == 0).await;
    driven.close();
    driven.knock().await;
    assert!(driven.holds().is_empty(), "what was acknowledged is forgotten");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_survives_the_workers_end_and_nothing_is_built_again() {
    let daemon = NixDaemon::start_default();
    let mut driven = Driven::start(&daemon, &[]).await;
    let work = step(&daemon, &script("result", "echo started > /journal; echo made > $out"));
    let first = driven.build(&work).await;
    driven.stop();
    assert!(driven.ended().await.is_ok());

    let mut driven = Driven::start_on(&daemon.scratch().join("second"), &[], config(&daemon)).await;
    assert_eq!(driven.holds(), [1]);
    let again = driven.hear_lease(1).await;
    assert_eq!(again.report, first.report);
    assert_eq!(daemon.journal().lines(), ["started"]);
    driven.acknowledge().await;
    driven.beat(|beat| beat.spooled == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_survives_a_start_while_the_coordinator_is_away() {
    let daemon = NixDaemon::start_default();
    let mut driven = Driven::start(&daemon, &[]).await;
    let first = driven.build(&step(&daemon, &script("result", "echo made > $out"))).await;
    driven.stop();
    assert!(driven.ended().await.is_ok());

    let socket = daemon.scratch().join("second");
    let mut coordinator = Scripted::listen(&socket);
    let prepared = Worker::prepare(config(&daemon)).await.expect("the worker finds its daemon");
    let stop = Stop::default();
    let worker = tokio::spawn(prepared.run(link_to(&socket), stop.clone()));
    for _ in 0..2 {
        // Without a welcome nobody has said how long it may be away.
        coordinator.knock().await;
        assert_eq!(coordinator.holds(), [1]);
        coordinator.close();
    }
    coordinator.meet(welcome()).await;
    assert_eq!(coordinator.hear_lease(1).await.report, first.report);
    stop.at_once.cancel();
    assert!(worker.await.expect("no panic").is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_away_for_too_long_gives_its_leases_up() {
    let daemon = NixDaemon::start_default();
    let mut driven = Driven::start(&daemon, &[]).await;
    driven.close();
    driven.meet(v1::Welcome { away_ms: 300, ..welcome() }).await;
    let lease = driven.lease(&step(&daemon, &script("endless", ENDLESS))).await;
    assert!(matches!(driven.hear().await, FromWorker::StepBegun(_)));
    started(&daemon).await;
    let builders = daemon.builders();
    assert!(!builders.is_empty());
    driven.close();
    // A coordinator that does not say welcome has not taken it back.
    driven.knock().await;
    assert_eq!(driven.holds(), [lease]);
    for builder in builders {
        assert!(wait_until_gone(builder, PATIENCE), "the builder outlives its lease");
    }
    driven.close();
    driven.knock().await;
    assert!(driven.holds().is_empty(), "{:?}", driven.holds());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_was_given_to_others_is_cancelled_when_the_worker_comes_back() {
    let daemon = NixDaemon::start_default();
    let mut driven = Driven::start(&daemon, &[]).await;
    let lease = driven.lease(&step(&daemon, &script("endless", ENDLESS))).await;
    assert!(matches!(driven.hear().await, FromWorker::StepBegun(_)));
    started(&daemon).await;
    let builders = daemon.builders();
    driven.close();
    driven.meet(welcome()).await;
    assert!(matches!(driven.hear().await, FromWorker::StepBegun(_)));
    driven.say(Message::CancelLease(v1::CancelLease { lease, epoch: 8 })).await;
    driven.say(Message::CancelLease(v1::CancelLease { lease, epoch: 9 })).await;
    for builder in builders {
        assert!(wait_until_gone(builder, PATIENCE), "the builder goes on");
    }
    driven.beat(|beat| beat.leases == 0 && beat.spooled == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evaluation_ends_with_its_session() {
    let daemon = NixDaemon::start_default();
    let flake = Packed::flake(&daemon, &hosts(&[("a", &script("top-a", "echo a > $out"))]));
    let mut driven = Driven::start(&daemon, &[&flake]).await;
    let source = Some(flake.source.clone());
    driven.say(Message::EvalJob(v1::EvalJob { job: 1, epoch: 3, source, task: Some(eval(&["a"])) })).await;
    assert!(matches!(driven.hear().await, FromWorker::HostStarted(_)));
    driven.close();
    driven.meet(welcome()).await;
    // Anything of the first job would be heard here, and is not expected.
    let told = driven.evaluate(2, &flake, eval(&["a"])).await;
    assert_eq!(told.finished.failure, None);
    assert_eq!(told.derivations.len(), 1);
    driven.close();
    driven.meet(welcome()).await;
    let again = driven.evaluate(3, &flake, eval(&["a"])).await;
    assert_eq!(again.derivations.len(), 1, "a new session is told everything anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_stumbles_is_tried_again_soon_and_one_that_refuses_slowly() {
    let daemon = NixDaemon::start_default();
    let mut driven = Driven::start(&daemon, &[]).await;
    driven.end(Status::unavailable("the journal is full")).await;
    driven.knock().await;
    driven.end(Status::permission_denied("worker w was revoked")).await;
    let waited = tokio::time::timeout(Duration::from_secs(3), driven.knock()).await;
    assert!(waited.is_err(), "a refused worker hammers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flapping_coordinator_is_not_stormed() {
    let daemon = NixDaemon::start_default();
    let mut driven = Driven::start(&daemon, &[]).await;
    let mut knocks = 0;
    let flapping = async {
        loop {
            driven.close();
            driven.meet(welcome()).await;
            knocks += 1;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(6), flapping).await;
    assert!((1..=14).contains(&knocks), "{knocks} sessions in 6 s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_worker_says_so_finishes_and_ends() {
    let (daemon, gate) = Gate::daemon();
    let mut driven = Driven::start(&daemon, &[]).await;
    let lease = driven.lease(&Gate::step(&daemon, "last")).await;
    started(&daemon).await;
    driven.stop.drain.cancel();
    let beat = driven.beat(|beat| !beat.unwell.is_empty()).await;
    assert_eq!((beat.unwell.as_str(), beat.leases), ("draining", 1));
    gate.open();
    let built = driven.hear_lease(lease).await;
    assert_eq!(built.outcome, OutcomeClass::Built);
    driven.acknowledge().await;
    assert!(driven.ended().await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_finish_while_draining_is_handed_back() {
    let daemon = NixDaemon::start_default();
    let config = fleet_worker::Config { drain_timeout: Duration::from_millis(300), ..config(&daemon) };
    let mut driven = Driven::start_as(&daemon, &[], config).await;
    let lease = driven.lease(&step(&daemon, &script("endless", ENDLESS))).await;
    started(&daemon).await;
    let builders = daemon.builders();
    driven.stop.drain.cancel();
    loop {
        match driven.hear().await {
            FromWorker::LeaseFinished(finished) => {
                assert_eq!(finished.lease, lease);
                break;
            }
            FromWorker::StepBegun(_) | FromWorker::StepLogged(_) => {}
            other => panic!("nothing came of it: {other:?}"),
        }
    }
    driven.acknowledge().await;
    assert!(driven.ended().await.is_ok());
    for builder in builders {
        assert!(wait_until_gone(builder, PATIENCE), "the builder outlives the worker");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_carries_nothing_any_more_is_noticed_and_replaced() {
    let daemon = NixDaemon::start_default();
    let (near, far) = (daemon.scratch().join("near"), daemon.scratch().join("far"));
    let scripted = Scripted::listen(&far);
    let relay = Relay::unix(&near, &far);
    let mut driven = Driven::start_over(link_to(&near), scripted, config(&daemon)).await;
    let lease = driven.lease(&step(&daemon, &script("endless", ENDLESS))).await;
    started(&daemon).await;
    let builders = daemon.builders();
    relay.freeze();
    // Nothing is closed and nothing is refused: only unanswered pings tell.
    tokio::time::timeout(Duration::from_secs(20), driven.knock()).await.expect("the silence is noticed");
    assert_eq!(driven.holds(), [lease]);
    assert_eq!(daemon.builders(), builders, "its build goes on");
}
