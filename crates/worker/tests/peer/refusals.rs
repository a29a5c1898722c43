//! Who may not fetch, and what is not believed.

use fleet_nix::signature::SecretKey;
use fleet_testkit::{DaemonOptions, Trust};
use fleet_worker::peer::{FetchError, Keys};

use crate::hall::{Desk, Hall, Machine, file_nar};

/// What a fetch says that nobody serves.
async fn refused(hall: &Hall, here: &Machine, desk: &Desk) -> String {
    match here.fetch(hall, desk).await {
        Err(FetchError::Nowhere { cause, .. }) => cause,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_is_for_one_receiver_at_one_holder_for_some_paths_and_a_while() {
    let hall = Hall::open();
    let (there, here) = (hall.machine("there"), hall.machine("here"));
    let info = there.add(&hall.path("a"), &file_nar(b"a"), &[]).await;
    let other = there.add(&hall.path("b"), &file_nar(b"b"), &[]).await;
    let server = there.serve(&hall).await;
    let told = |adjust: &dyn Fn(&mut fleet_wire::v1::TicketBody)| {
        let desk = hall.desk(&[&info]);
        desk.tell_with("there", server.address(), "here", &[&info], adjust);
        desk
    };
    for (desk, expected) in [
        (told(&|body| body.expires -= 3600), "expired"),
        (told(&|body| body.receiver = "else".to_owned()), "the ticket is for else at there"),
        (told(&|body| body.holder = "else".to_owned()), "the ticket is for here at else"),
        (told(&|body| body.paths = vec![other.path.to_string()]), "the ticket is not for"),
    ] {
        let cause = refused(&hall, &here, &desk).await;
        assert!(cause.contains(expected), "{cause}");
    }
    // The coordinator of another fleet, with the same CA.
    let mut forged = hall.desk(&[&info]);
    forged.sign_tickets_with(&SecretKey::from_seed("internal-1", &[8; 32]).expect("a name"));
    forged.tell("there", server.address(), "here", &[&info]);
    let cause = refused(&hall, &here, &forged).await;
    assert!(cause.contains("not signed by a key of this worker's coordinator"), "{cause}");
    here.fetch(&hall, &told(&|_| {})).await.expect("a good one is good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_under_another_name_is_not_spoken_to() {
    let hall = Hall::open();
    let (there, here) = (hall.machine("there"), hall.machine("here"));
    let info = there.add(&hall.path("a"), &file_nar(b"a"), &[]).await;
    let server = there.serve(&hall).await;
    let desk = hall.desk(&[&info]);
    desk.tell("else", server.address(), "here", &[&info]);
    let cause = refused(&hall, &here, &desk).await;
    assert!(cause.contains("no secure connection"), "{cause}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_certificate_of_the_ca_is_not_let_in() {
    let (hall, abroad) = (Hall::open(), Hall::open());
    let there = hall.machine("there");
    let mut here = hall.machine("here");
    here.credentials = abroad.certify("here", 0);
    let info = there.add(&hall.path("a"), &file_nar(b"a"), &[]).await;
    let server = there.serve(&hall).await;
    let desk = hall.desk(&[&info]);
    desk.tell("there", server.address(), "here", &[&info]);
    refused(&hall, &here, &desk).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_coordinator_did_not_sign_is_not_believed() {
    let hall = Hall::open();
    let (there, here) = (hall.machine("there"), hall.machine("here"));
    let info = there.add(&hall.path("a"), &file_nar(b"a"), &[]).await;
    let server = there.serve(&hall).await;
    let mut desk = hall.desk(&[&info]);
    desk.tell("there", server.address(), "here", &[&info]);
    desk.change_info(|info| info.nar_size += 8);
    let error = here.fetch(&hall, &desk).await.expect_err("the signature is of something else");
    assert!(matches!(error, FetchError::Described(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_does_not_trust_us_is_told_the_key_or_the_user() {
    let hall = Hall::open();
    let there = hall.machine("there");
    let key = hall.key.public_key().to_string();
    let untrusting = |options: &mut DaemonOptions| options.trust = Trust::Untrusted;
    let here = hall.machine_with("here", untrusting);
    let info = there.add(&hall.path("a"), &file_nar(b"a"), &[]).await;
    let server = there.serve(&hall).await;
    let desk = hall.desk(&[&info]);
    desk.tell("there", server.address(), "here", &[&info]);
    let error = here.fetch(&hall, &desk).await.expect_err("not trusted").to_string();
    assert!(error.contains(&key) && error.contains("trusted-public-keys"), "{error}");
    drop(here);
    let here = hall.machine_with("here", |options| {
        untrusting(options);
        options.trusted_public_keys = vec![key.clone()];
    });
    here.fetch(&hall, &desk).await.expect("with the key it is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_believes_only_the_keys_it_was_told() {
    let hall = Hall::open();
    let (there, here) = (hall.machine("there"), hall.machine("here"));
    let info = there.add(&hall.path("a"), &file_nar(b"a"), &[]).await;
    let server = there.serve_with(&hall, |config| config.keys = Keys::new(Vec::new)).await;
    let desk = hall.desk(&[&info]);
    desk.tell("there", server.address(), "here", &[&info]);
    let cause = refused(&hall, &here, &desk).await;
    assert!(cause.contains("not signed"), "{cause}");
}
