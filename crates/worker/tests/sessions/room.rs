//! Garbage collections on a worker's machine: what they must not take, and those that the worker asks for itself.

use std::time::Duration;

use fleet_testkit::NixDaemon;
use fleet_wire::v1;
use fleet_wire::v1::worker_message::Message as FromWorker;
use fleet_wire::v1::{OutcomeClass, PathStanding};
use fleet_worker::Config;

use crate::moving::welcome_of_many;
use crate::scripted::{Driven, config, script, step, within};

fn collect(daemon: &NixDaemon) {
    let collected = daemon.command("nix-store", ["--gc", "--quiet"]).output().expect("starts");
    assert!(collected.status.success(), "{collected:?}");
}

fn output(built: &crate::scripted::Built) -> String {
    assert_eq!(built.outcome, OutcomeClass::Built, "{built:?}");
    format!("/nix/store/{}", built.report.outputs[0].path)
}

fn links(daemon: &NixDaemon) -> usize {
    std::fs::read_dir(daemon.scratch().join("worker/gcroots")).expect("a directory").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_are_kept_over_a_collection_and_a_start_until_their_time_is_over() {
    let daemon = NixDaemon::start_default();
    let mut driven = Driven::start(&daemon, &[]).await;
    let built = driven.build(&step(&daemon, &script("kept", "echo made > $out"))).await;
    let path = output(&built);
    let other = daemon.build_expression(&script("other", "echo made > $out")).remove(0);
    driven.stop();
    assert!(driven.ended().await.is_ok());
    collect(&daemon);
    assert!(daemon.physical(&path).exists(), "nobody works here, and it is kept");
    assert!(!daemon.physical(&other).exists(), "the collector does its work");

    let driven = Driven::start_on(&daemon.scratch().join("second"), &[], config(&daemon)).await;
    collect(&daemon);
    assert!(daemon.physical(&path).exists());
    driven.stop();
    assert!(driven.ended().await.is_ok());

    let config = Config { keep_outputs: Duration::ZERO, ..config(&daemon) };
    let _driven = Driven::start_on(&daemon.scratch().join("third"), &[], config).await;
    within(async {
        while links(&daemon) > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    collect(&daemon);
    assert!(!daemon.physical(&path).exists(), "nobody has asked for it in its time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_cleared_of_garbage_and_then_of_what_the_coordinator_has() {
    let daemon = NixDaemon::start_default();
    let config = Config {
        collect_below_bytes: u64::MAX,
        collect_to_bytes: u64::MAX,
        probe_interval: Duration::from_millis(100),
        ..config(&daemon)
    };
    let mut driven = Driven::start_as(&daemon, &[], config).await;
    driven.close();
    driven.meet(welcome_of_many(&[])).await;
    let kept = output(&driven.build(&step(&daemon, &script("kept", "echo made > $out"))).await);
    let young = output(&driven.build(&step(&daemon, &script("young", "echo made > $out"))).await);
    let garbage = daemon.build_expression(&script("garbage", "echo made > $out")).remove(0);
    within(async {
        while daemon.physical(&garbage).exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(daemon.physical(&kept).exists() && daemon.physical(&young).exists(), "nobody else has these");

    driven.keeper.stand(&[&kept], PathStanding::Kept);
    let lost = loop {
        if let FromWorker::PathsLost(v1::PathsLost { paths }) = driven.hear().await {
            break paths;
        }
    };
    assert_eq!(lost, [kept.trim_start_matches("/nix/store/")]);
    assert!(!daemon.physical(&kept).exists());
    assert!(daemon.physical(&young).exists());
    assert_eq!(links(&daemon), 1);
}
