//! Bringing what others asked for, and what everybody is to be served.

use fleet_nix::{ContentAddress, ContentAddressMethod, Hash, HashAlgorithm, SecretKey};
use fleet_wire::v1;
use fleet_wire::v1::PathStanding;
use fleet_wire::v1::coordinator_message::Message as FromCoordinator;
use fleet_wire::v1::located::Located;
use fleet_wire::v1::run_event::Event;
use fleet_wire::v1::worker_message::Message;
use tonic::Code;

use crate::scripted::{Step, Watcher, finished};
use crate::world::{EVIL, HONEST, Machine, Made, STRANGE, World, refused, right, step};

/// With what is said of one path, and the bytes of another.
fn disguised(said: &Made, bytes: &str) -> Made {
    let other = Made::holding(&said.info().path, bytes, &[]);
    let stored = v1::StoredPath { manifest: other.stored.manifest, ..said.stored.clone() };
    let chunk = other.chunk;
    Made { stored, chunk }.with(|info| info.nar_size = other.stored.info.as_ref().expect("an info").nar_size)
}

async fn realise(machine: &mut Machine) -> v1::WorkRight {
    let FromCoordinator::Realise(job) = machine.next().await else { panic!("not a realise job") };
    assert!(job.publish);
    v1::WorkRight { realise_job: job.job, epoch: job.epoch, ..v1::WorkRight::default() }
}

/// The worker says that all is done, as often as it is asked; all that is told of the run.
async fn done(world: &mut World, mut right: v1::WorkRight) -> Vec<v1::RunEvent> {
    let mut watcher = Watcher::new(&world.running.local(), &world.run, 0, false).await;
    let rest = watcher.rest();
    let mut rest = std::pin::pin!(rest);
    loop {
        let (job, epoch) = (right.realise_job, right.epoch);
        let done = v1::PathsRealised { job, epoch, done: true, ..v1::PathsRealised::default() };
        world.evil.worker.say(Message::PathsRealised(done)).await;
        tokio::select! {
            events = &mut rest => return events,
            again = realise(&mut world.evil) => right = again,
        }
    }
}

fn cause(events: &[v1::RunEvent]) -> String {
    let settled = events.iter().filter_map(|event| match &event.event {
        Some(Event::TargetSettled(settled)) => settled.failure.as_ref(),
        _ => None,
    });
    settled.map(|failure| failure.cause.clone()).collect()
}

/// A library and a program that the evil worker builds, up to its job to bring them.
struct Program {
    secret: Step,
    library: Step,
    top: Step,
}

impl Program {
    fn new() -> Self {
        let library = step("library", EVIL, &[], None);
        let secret = step("secret", HONEST, &[], None);
        let top = step("top", EVIL, &[&library, &secret], None);
        Self { secret, library, top }
    }

    async fn begin(&self) -> (World, v1::WorkRight, Made, Made) {
        let mut world = World::new(&[&self.secret, &self.library, &self.top]).await;
        world.build(&[&self.secret]).await;
        let library = Made::holding(&self.library.output, "a library", &[]);
        let top = Made::new(&self.top.output, &[&self.library.output]);
        for (step, made) in [(&self.library, &library), (&self.top, &top)] {
            let lease = world.evil.lease(step).await;
            world.evil.report(&lease, step, &step.output, Some(made.info())).await;
        }
        let right = realise(&mut world.evil).await;
        (world, right, library, top)
    }
}

#[tokio::test]
async fn a_target_brings_its_closure_and_nothing_else() {
    let program = Program::new();
    let (mut world, own, library, top) = program.begin().await;
    let path = &*program.top.output;
    let (denied, exists, invalid) = (Code::PermissionDenied, Code::AlreadyExists, Code::InvalidArgument);
    let secret = Made::holding(&program.secret.output, program.secret.drv(), &[]);
    let rows = [
        ("an input that it does not refer to", own, secret, denied, "nothing that this work needs"),
        ("any path", own, Made::new(STRANGE, &[]), denied, "nothing that this work needs"),
        ("other contents", own, Made::holding(path, "evil", &[]), exists, "known with another content"),
        (
            "fewer references",
            own,
            top.clone().with(|info| info.references.clear()),
            exists,
            "known with another",
        ),
        (
            "more references",
            own,
            top.clone().with(|info| info.references.push(STRANGE.into())),
            exists,
            "known with another",
        ),
        ("what is said, and other bytes", own, disguised(&library, "a lib-ary"), invalid, "has NAR hash"),
        ("before what it refers to", own, top.clone(), Code::FailedPrecondition, "bring it first"),
        (
            "under an older epoch",
            v1::WorkRight { epoch: own.epoch + 1, ..own },
            top.clone(),
            Code::Aborted,
            "not the current",
        ),
    ];
    for (attack, right, made, code, text) in rows {
        refused(attack, world.evil.register(right, &made).await, code, text);
    }
    let other = world.honest.register(own, &library).await;
    refused("by another's job", other, denied, "another worker has this realise job");
    let all = [path, &program.library.output, &program.secret.output, STRANGE];
    world.serves_none(&all).await;
    let why = cause(&done(&mut world, own).await);
    assert!(why.contains("cannot be published"), "{why}");
    world.serves_none(&all).await;
}

#[tokio::test]
async fn what_is_served_of_a_path_was_looked_at() {
    let program = Program::new();
    let (mut world, own, library, top) = program.begin().await;
    let forged = SecretKey::from_seed("cache.nixos.org-1", &[9; 32]).expect("a key").sign(b"anything");
    let lies = |made: Made| {
        made.with(|info| {
            info.deriver = format!("{STRANGE}.drv");
            info.signatures = vec![forged.to_string()];
        })
    };
    let addressed =
        library.clone().with(|info| info.content_address = format!("fixed:r:sha256:{}", "0".repeat(52)));
    let address = world.evil.register(own, &addressed).await;
    refused("a content address of its own", address, Code::InvalidArgument, "does not follow");
    for made in [library, top] {
        world.evil.register(own, &lies(made)).await.expect("the closure of its target");
    }
    let events = done(&mut world, own).await;
    assert_eq!(finished(&events).outcome(), v1::RunOutcome::Succeeded, "{events:#?}");
    for (step, refers) in [(&program.library, ""), (&program.top, &*program.library.output)] {
        let (status, text) = world.narinfo(&step.output).await;
        assert_eq!(status, 200);
        let line =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        assert_eq!(line("References:"), refers);
        assert_eq!(line("Deriver:"), step.drv(), "who made it is known from its lease");
        assert_eq!(line("CA:"), "");
        assert!(!text.contains("cache.nixos.org-1") && text.matches("Sig:").count() == 1, "{text}");
    }
    world.serves_none(&[&program.secret.output]).await;
}

#[tokio::test]
async fn what_is_fixed_is_served_with_the_bytes_that_are_fixed() {
    let hash = Hash::of(HashAlgorithm::Sha256, b"what is fetched");
    let address = ContentAddress { method: ContentAddressMethod::Flat, hash };
    let top = step("top", EVIL, &[], Some(address));
    let mut world = World::new(&[&top]).await;
    let lease = world.evil.lease(&top).await;
    let made = Made::holding(&top.output, "something evil", &[]);
    let claimed = made.clone().with(|info| info.content_address = address.to_string());
    world.evil.report(&lease, &top, &top.output, Some(claimed.info())).await;
    let own = realise(&mut world.evil).await;
    for (attack, made) in [("the content address is claimed", claimed), ("it is not spoken of", made)] {
        let result = world.evil.register(own, &made).await;
        refused(attack, result, Code::InvalidArgument, "does not have the content address");
        world.serves_none(&[&top.output]).await;
    }
    let why = cause(&done(&mut world, own).await);
    assert!(why.contains("cannot be published"), "{why}");
    world.serves_none(&[&top.output]).await;
}

#[tokio::test]
async fn an_order_to_share_is_for_one_worker_and_for_what_it_names() {
    let (app, secret) = (step("app", EVIL, &[], None), step("secret", EVIL, &[], None));
    let slow = step("slow", HONEST, &[&app], None);
    let top = step("top", HONEST, &[&secret, &slow], None);
    let mut world = World::new(&[&app, &secret, &slow, &top]).await;
    let made = Made::holding(&app.output, "an app", &[]);
    let hidden = Made::holding(&secret.output, "a secret", &[]);
    let leases = world.evil.leases(&[&app, &secret]).await;
    for (lease, (step, made)) in leases.iter().zip([(&app, &made), (&secret, &hidden)]) {
        world.evil.report(lease, step, &step.output, Some(made.info())).await;
        world.until(&step.output, PathStanding::Held).await;
    }
    let slow_lease = world.honest.lease(&slow).await;
    let World { running, honest, mut evil, run } = world;
    let paths = vec![app.output.clone()];
    let asked = v1::LocateRequest {
        right: Some(right(&slow_lease)),
        paths,
        relay: true,
        ..v1::LocateRequest::default()
    };
    let attacks = async {
        let FromCoordinator::Share(share) = evil.next().await else { panic!("not asked to share") };
        assert_eq!(share.paths, std::slice::from_ref(&app.output));
        let own = v1::WorkRight { share: share.share, ..v1::WorkRight::default() };
        let invented = v1::WorkRight { share: share.share + 1, ..own };
        let (denied, exists) = (Code::PermissionDenied, Code::AlreadyExists);
        let rows = [
            ("what it does not name", &evil, own, hidden, denied, "was not asked for"),
            ("any path", &evil, own, Made::new(STRANGE, &[]), denied, "was not asked for"),
            (
                "other contents",
                &evil,
                own,
                Made::holding(&app.output, "evil", &[]),
                exists,
                "known with another",
            ),
            ("other bytes", &evil, own, disguised(&made, "an App"), Code::InvalidArgument, "has NAR hash"),
            ("by another worker", &honest, own, made.clone(), denied, "another worker has this order"),
            ("an invented order", &evil, invented, made, Code::NotFound, "no order to share"),
        ];
        for (attack, machine, right, made, code, text) in rows {
            refused(attack, machine.register(right, &made).await, code, text);
        }
        evil.lose(&app.output).await;
    };
    let (found, ()) = tokio::join!(honest.locate(asked), Box::pin(attacks));
    let lost = found.expect("an answer").into_iter().find_map(|located| match located.located {
        Some(Located::Lost(lost)) => Some(lost.paths),
        _ => None,
    });
    assert_eq!(lost, Some(vec![app.output.clone()]), "who said that it had it, had not");
    let world = World { running, honest, evil, run };
    world.serves_none(&[&app.output, &secret.output, STRANGE]).await;
}
