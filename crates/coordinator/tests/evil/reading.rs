//! Reading what its work does not need.

use bytes::Bytes;
use fleet_wire::v1;
use fleet_wire::v1::chunks_client::ChunksClient;
use fleet_wire::v1::located::Located;
use fleet_wire::v1::worker_message::Message;
use tonic::{Code, Status};

use crate::scripted::within;
use crate::world::{EVIL, HONEST, Machine, Made, STRANGE, World, refused, right, step};

async fn get(
    machine: &Machine,
    right: Option<v1::WorkRight>,
    path: &str,
    digest: &Bytes,
) -> Result<Vec<v1::Chunk>, Status> {
    let paths = vec![v1::PathChunks { path: path.to_owned(), digests: vec![digest.clone()] }];
    let request = v1::GetRequest { right, paths };
    let mut stream = within(ChunksClient::new(machine.channel.clone()).get(request)).await?.into_inner();
    let mut chunks = Vec::new();
    while let Some(chunk) = within(stream.message()).await? {
        chunks.push(chunk);
    }
    Ok(chunks)
}

#[tokio::test]
async fn what_its_work_does_not_need() {
    let (library, secret) = (step("library", HONEST, &[], None), step("secret", HONEST, &[], None));
    let app = step("app", EVIL, &[&library], None);
    let slow = step("slow", HONEST, &[&secret], None);
    let top = step("top", HONEST, &[&app, &slow], None);
    let mut world = World::new(&[&library, &secret, &app, &slow, &top]).await;
    let leases = world.honest.leases(&[&library, &secret]).await;
    let mut digests = Vec::new();
    for (lease, step) in leases.iter().zip([&library, &secret]) {
        let made = Made::holding(&step.output, step.drv(), &[]);
        world.honest.register(right(lease), &made).await.expect("its own output");
        world.honest.report(lease, step, &step.output, Some(made.info())).await;
        digests.push(made.chunk.digest);
    }
    let lease = world.evil.lease(&app).await;
    let own = right(&lease);
    let others = right(&world.honest.lease(&slow).await);
    let none = v1::WorkRight::default();
    let (denied, missing) = (Code::PermissionDenied, Code::NotFound);
    let rows = [
        ("what its step does not need", Some(own), &*secret.output, denied, "nothing that this work needs"),
        ("its own output", Some(own), &app.output, denied, "nothing that this work needs"),
        ("what nobody knows", Some(own), STRANGE, denied, "nothing that this work needs"),
        ("by another's lease", Some(others), &secret.output, denied, "another worker has this lease"),
        (
            "by an older epoch",
            Some(v1::WorkRight { epoch: 0, ..own }),
            &library.output,
            Code::Aborted,
            "not the current",
        ),
        ("by no right", None, &library.output, denied, "names no right"),
        (
            "by a lease that never was",
            Some(v1::WorkRight { lease: 99, ..own }),
            &library.output,
            missing,
            "no lease 99",
        ),
        (
            "by an order that never was",
            Some(v1::WorkRight { share: 3, ..none }),
            &secret.output,
            missing,
            "no order",
        ),
        (
            "by a job that never was",
            Some(v1::WorkRight { eval_job: 99, ..none }),
            &secret.output,
            missing,
            "no eval job",
        ),
    ];
    for (attack, right, path, code, text) in rows {
        let asked = v1::LocateRequest { right, paths: vec![path.to_owned()], ..v1::LocateRequest::default() };
        refused(attack, world.evil.locate(asked).await, code, text);
        refused(attack, get(&world.evil, right, path, &digests[1]).await, code, text);
    }
    let wrong = get(&world.evil, Some(own), &library.output, &digests[1]).await;
    refused("another path's chunk", wrong, denied, "no part of");
    refused(
        "a chunk of no path",
        get(&world.evil, Some(own), "", &digests[1]).await,
        denied,
        "only an eval job",
    );
    let read = get(&world.evil, Some(own), &library.output, &digests[0]).await.expect("its input");
    assert_eq!(read[0].digest, digests[0], "what it needs, it may read");
    world.evil.report(&lease, &app, &app.output, Some(Made::new(&app.output, &[]).info())).await;
    world.until(&app.output, v1::PathStanding::Held).await;
    refused(
        "its input, afterwards",
        get(&world.evil, Some(own), &library.output, &digests[0]).await,
        missing,
        "no lease",
    );
}

#[tokio::test]
async fn what_it_says_of_who_has_what() {
    let library = step("library", HONEST, &[], None);
    let app = step("app", EVIL, &[&library], None);
    let slow = step("slow", HONEST, &[&library], None);
    let top = step("top", HONEST, &[&app, &slow], None);
    let mut world = World::new(&[&library, &app, &slow, &top]).await;
    world.build(&[&library]).await;
    let true_info = Made::holding(&library.output, library.drv(), &[]).info();
    // That it holds what it never had, and nobody heard of; and that it lost what others have.
    let paths = vec![library.output.clone(), STRANGE.to_owned()];
    world.evil.worker.say(Message::PathsHeld(v1::PathsHeld { paths })).await;
    world.evil.lose(&library.output).await;
    world.evil.lose(&library.output).await;
    let paths = vec![library.output.clone()];
    world.evil.worker.say(Message::PathsHeld(v1::PathsHeld { paths: paths.clone() })).await;
    let slow_lease = world.honest.lease(&slow).await;
    world.evil.lease(&app).await;
    let asked = v1::LocateRequest { right: Some(right(&slow_lease)), paths, ..v1::LocateRequest::default() };
    let located = world.honest.locate(asked).await.expect("its input");
    let infos: Vec<_> = located
        .into_iter()
        .filter_map(|located| match located.located {
            Some(Located::Path(path)) => path.info,
            _ => None,
        })
        .collect();
    assert_eq!(infos[0].nar_hash, true_info.nar_hash, "whoever gives the bytes, these they must be");
    assert_eq!(world.standing(STRANGE).await, v1::PathStanding::Unknown);
    assert_eq!(world.standing(&library.output).await, v1::PathStanding::Held);
    world.serves_none(&[&library.output, STRANGE]).await;
}
