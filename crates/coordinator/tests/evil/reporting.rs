//! Saying of steps what cannot be.

use fleet_nix::{ContentAddress, ContentAddressMethod, Hash, HashAlgorithm};
use fleet_wire::v1;
use fleet_wire::v1::admin_client::AdminClient;
use fleet_wire::v1::coordinator_message::Message as FromCoordinator;
use fleet_wire::v1::run_event::Event;
use fleet_wire::v1::worker_message::Message;
use fleet_wire::v1::{OutcomeClass, PathStanding};
use tonic::Code;

use crate::scripted::{ScriptedWorker, Watcher, reported, within};
use crate::world::{EVIL, HONEST, Made, STRANGE, World, refused, right, step};

#[tokio::test]
async fn reports_that_cannot_be_true_make_nothing_known_and_their_worker_suspected() {
    let library = step("library", HONEST, &[], None);
    let flat = ContentAddress {
        method: ContentAddressMethod::Flat,
        hash: Hash::of(HashAlgorithm::Sha256, b"what is fetched"),
    };
    let names = ["foreign", "others", "kept", "beside", "silent", "mute"];
    let mut steps: Vec<_> = names.iter().map(|name| step(name, EVIL, &[], None)).collect();
    steps.push(step("fetched", EVIL, &[], Some(flat)));
    let after = step("after", HONEST, &[&library], None);
    let needed: Vec<_> = steps.iter().chain([&after]).collect();
    let top = step("top", HONEST, &needed, None);
    let mut all = vec![&library];
    all.extend(steps.iter());
    all.extend([&after, &top]);
    let mut world = World::new(&all).await;
    let known = Made::holding(&library.output, library.drv(), &[]);
    let lease = world.honest.lease(&library).await;
    world.honest.register(right(&lease), &known).await.expect("its own output");
    world.honest.report(&lease, &library, &library.output, Some(known.info())).await;
    let leases = world.evil.leases(&steps.iter().collect::<Vec<_>>()).await;
    let other = world.honest.lease(&after).await;

    // Of another's lease, and under an older epoch of its own: it is told that they are not its own.
    let info = Made::holding(&after.output, "evil", &[]).info();
    let stale = v1::Lease { epoch: leases[0].epoch - 1, ..leases[0].clone() };
    for (lease, step) in [(&other, &after), (&stale, &steps[0])] {
        let mut report = reported(lease, OutcomeClass::Built, step);
        report.outputs[0].info = Some(v1::PathInfo { path: step.output.clone(), ..info.clone() });
        world.evil.worker.say(Message::StepReported(report)).await;
        let FromCoordinator::CancelLease(taken) = world.evil.next().await else {
            panic!("it is not taken back")
        };
        assert_eq!((taken.lease, taken.epoch), (lease.lease, lease.epoch));
        assert_eq!(world.standing(&step.output).await, PathStanding::Unknown);
    }

    let of = |path: &str| Made::new(path, &[]).info();
    let unread = |path: &str| v1::PathInfo { nar_hash: vec![1].into(), ..of(path) };
    let seeing = Made::new(&steps[0].output, &[&library.output]).info();
    let lies = [
        ("refers to what it cannot see", &*steps[0].output, Some(seeing), "neither among its inputs"),
        ("another's output", &*after.output, Some(of(&after.output)), "is no output of the step"),
        ("what is here, as its own", &*library.output, None, "is no output of the step"),
        ("the info of another path", &*steps[3].output, Some(of(STRANGE)), "-strange"),
        ("nothing of its output", &*steps[4].output, None, "says nothing of"),
        ("no info that can be read", &*steps[5].output, Some(unread(&steps[5].output)), "bad NAR hash"),
        ("no content that is fixed", &*steps[6].output, Some(of(&steps[6].output)), "is named by nothing"),
    ];
    let mut watcher = Watcher::new(&world.running.local(), &world.run, 0, false).await;
    let built = |event: &Event| matches!(event, Event::StepFinished(ended) if ended.drv == library.drv());
    watcher.until(built).await;
    for ((lie, output, info, text), (lease, step)) in lies.into_iter().zip(leases.iter().zip(&steps)) {
        world.evil.report(lease, step, output, info).await;
        let ended = watcher.until(|event| matches!(event, Event::StepFinished(_))).await;
        let Event::StepFinished(ended) = ended else { unreachable!("it was waited for") };
        let cause = ended.failure.map(|failure| failure.cause).unwrap_or_default();
        assert_eq!(ended.drv, step.drv(), "{lie}: {cause}");
        assert!(cause.contains("is refused") && cause.contains(text), "{lie}: {cause}");
        assert_eq!(world.standing(&step.output).await, PathStanding::Unknown, "{lie}");
    }
    assert_eq!(world.standing(&after.output).await, PathStanding::Unknown);
    let evil = world.worker("evil").await;
    assert_eq!(evil.state, "quarantined", "{evil:?}");
    assert!(evil.reason.contains("what evil says it built is refused"), "{evil:?}");
    let outputs: Vec<&str> = steps.iter().chain([&after]).map(|step| &*step.output).collect();
    world.serves_none(&outputs).await;
    assert_eq!(world.narinfo(&library.output).await.0, 404);
}

#[tokio::test]
async fn a_revoked_worker_can_do_nothing() {
    let app = step("app", EVIL, &[], None);
    let mut world = World::new(&[&app]).await;
    let lease = world.evil.lease(&app).await;
    let own = right(&lease);
    let made = Made::new(&app.output, &[]);
    world.evil.put(made.chunk.clone()).await.expect("it may still");
    let order = v1::OrderWorkerRequest {
        name: "evil".to_owned(),
        order: v1::WorkerOrder::Revoke.into(),
        reason: "evil".to_owned(),
    };
    within(AdminClient::new(world.running.local()).order_worker(order)).await.expect("this user may");
    // Its connection ends within moments; what comes over a new one is answered.
    world.evil.channel = world.running.remote(Some(&world.evil.credentials));
    let evil = &world.evil;
    let (denied, text) = (Code::PermissionDenied, "revoked");
    refused("bringing a chunk", evil.put(made.chunk.clone()).await, denied, text);
    let mut paths = v1::paths_client::PathsClient::new(evil.channel.clone());
    let path = v1::StoredPath { right: Some(own), ..made.stored.clone() };
    refused("bringing a path", paths.register(futures::stream::iter([path])).await, denied, text);
    refused("vouching", evil.vouch(own, made.info()).await, denied, text);
    let asked = v1::LocateRequest { right: Some(own), paths: vec![app.output.clone()], ..Default::default() };
    refused("asking", evil.locate(asked).await, denied, text);
    let hello = v1::Hello { name: "evil".to_owned(), ..v1::Hello::default() };
    let again = ScriptedWorker::greet(&evil.channel, hello).await.map(|_| ());
    refused("coming again", again, denied, text);
    assert_eq!(world.standing(&app.output).await, PathStanding::Unknown);
    assert_eq!(world.worker("evil").await.state, "revoked");
    world.serves_none(&[&app.output]).await;
}
