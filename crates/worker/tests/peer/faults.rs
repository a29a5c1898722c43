//! Holders that are not there, break, or have lost what they had.

use std::time::{Duration, Instant};

use fleet_testkit::{Direction, FaultProxy};
use fleet_wire::v1;
use fleet_wire::v1::fetch_request::Request as Ask;
use fleet_wire::v1::peer_client::PeerClient;
use fleet_worker::peer::{FetchError, Gone};

use crate::hall::{Hall, file_nar, noise, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_is_silent_is_left_for_another_within_seconds() {
    let hall = Hall::open();
    let (first, second, here) = (hall.machine("first"), hall.machine("second"), hall.machine("here"));
    let nar = file_nar(&noise(1, 1 << 20));
    let info = first.add(&hall.path("a"), &nar, &[]).await;
    second.add(&info.path, &nar, &[]).await;
    let (one, two) = (first.serve(&hall).await, second.serve(&hall).await);
    let proxy = FaultProxy::start(one.address());
    proxy.silence(Direction::Downstream);
    let desk = hall.desk(&[&info]);
    desk.tell("first", proxy.address(), "here", &[&info]);
    desk.tell("second", two.address(), "here", &[&info]);
    let begun = Instant::now();
    here.fetch(&hall, &desk).await.expect("fetched");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(here.nar(&info).await == nar && desk.relays().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_holder_gives_comes_through_the_coordinator() {
    let hall = Hall::open();
    let (there, here) = (hall.machine("there"), hall.machine("here"));
    let (small, large) = (file_nar(b"small"), file_nar(&noise(1, 3 << 20)));
    let small_info = there.add(&hall.path("small"), &small, &[]).await;
    let large_info = there.add(&hall.path("large"), &large, &[&small_info]).await;
    let server = there.serve(&hall).await;
    let address = server.address();
    drop(server);
    let desk = hall.desk(&[&small_info, &large_info]);
    desk.tell("there", address, "here", &[&small_info, &large_info]);
    desk.keep_for_relay(&small_info, &small);
    desk.keep_for_relay(&large_info, &large);
    let fetched = here.fetch(&hall, &desk).await.expect("fetched");
    assert!(fetched.from_coordinator > 3 << 20 && fetched.from_peers == 0, "{fetched:?}");
    assert!(here.nar(&large_info).await == large);
    let [relay] = &desk.relays()[..] else { panic!("one question: {:?}", desk.relays()) };
    assert_eq!(
        (relay.unreachable.clone(), relay.alone, relay.paths.len()),
        (vec!["there".to_owned()], true, 2)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_gives_is_named_with_the_reason() {
    let hall = Hall::open();
    let (there, here) = (hall.machine("there"), hall.machine("here"));
    let info = there.add(&hall.path("a"), &file_nar(b"a"), &[]).await;
    let address = there.serve(&hall).await.address();
    let desk = hall.desk(&[&info]);
    desk.tell("there", address, "here", &[&info]);
    let error = here.fetch(&hall, &desk).await.expect_err("nobody listens");
    let FetchError::Nowhere { path, cause } = error else { panic!("{error}") };
    assert_eq!(path, info.path);
    assert!(cause.contains("there") && cause.contains("cannot be reached"), "{cause}");
    assert_eq!(desk.relays().len(), 3, "it is asked for so often and not for ever");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_within_a_path_is_gone_on_with() {
    let hall = Hall::open();
    let (first, second, here) = (hall.machine("first"), hall.machine("second"), hall.machine("here"));
    let (small, large) = (file_nar(b"small"), file_nar(&noise(1, 12 << 20)));
    let small_info = first.add(&hall.path("small"), &small, &[]).await;
    let large_info = first.add(&hall.path("large"), &large, &[]).await;
    second.add(&large_info.path, &large, &[]).await;
    let (one, two) = (first.serve(&hall).await, second.serve(&hall).await);
    let proxy = FaultProxy::start(one.address());
    let desk = hall.desk(&[&small_info, &large_info]);
    desk.tell("first", proxy.address(), "here", &[&small_info, &large_info]);
    desk.tell("second", two.address(), "here", &[&large_info]);
    proxy.break_after(Direction::Downstream, 6 << 20);
    let fetched = here.fetch(&hall, &desk).await.expect("fetched");
    assert!(here.nar(&large_info).await == large && here.has(&small_info).await);
    assert!(desk.relays().is_empty());
    assert!(fetched.from_peers < 22 << 20, "{fetched:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_a_holder_has_lost_comes_from_another() {
    let hall = Hall::open();
    let (first, second, here) = (hall.machine("first"), hall.machine("second"), hall.machine("here"));
    let (kept, lost) = (file_nar(b"kept"), file_nar(b"lost"));
    let lost_info = second.add(&hall.path("lost"), &lost, &[]).await;
    let kept_info = first.add(&hall.path("kept"), &kept, &[]).await;
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let one = first.serve_with(&hall, |config| {
        config.gone = Gone::new(move |path| told.send(path.clone()).expect("somebody listens"));
    });
    let (one, two) = (one.await, second.serve(&hall).await);
    let desk = hall.desk(&[&lost_info, &kept_info]);
    desk.tell("first", one.address(), "here", &[&lost_info, &kept_info]);
    desk.tell("second", two.address(), "here", &[&lost_info]);
    here.fetch(&hall, &desk).await.expect("fetched");
    assert!(here.has(&lost_info).await && here.has(&kept_info).await);
    assert_eq!(heard.recv().await, Some(lost_info.path), "its coordinator should know");
    assert!(desk.relays().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_takes_nothing_does_not_hold_up_others() {
    let hall = Hall::open();
    let (there, here) = (hall.machine("there"), hall.machine("here"));
    let large = file_nar(&noise(1, 40 << 20));
    let large_info = there.add(&hall.path("large"), &large, &[]).await;
    let small_info = there.add(&hall.path("small"), &file_nar(b"small"), &[]).await;
    let server = there.serve_with(&hall, |config| {
        config.fetches = 1;
        config.taken_within = Duration::from_millis(300);
    });
    let server = server.await;
    let desk = hall.desk(&[&small_info]);
    desk.tell("there", server.address(), "slow", &[&large_info]);
    let ticket = desk.tickets().remove(0);
    let channel = hall.dial("slow", "there", server.address()).await;
    let (asking, asked) = tokio::sync::mpsc::channel(1);
    let paths = vec![v1::FetchPath { path: large_info.path.to_string(), manifest_first: false }];
    let open = Ask::Open(v1::FetchOpen { ticket: Some(ticket), paths });
    asking.send(v1::FetchRequest { request: Some(open) }).await.expect("listens");
    let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
    let mut slow = within(PeerClient::new(channel).fetch(asked)).await.expect("begins").into_inner();
    let desk = hall.desk(&[&small_info]);
    desk.tell("there", server.address(), "here", &[&small_info]);
    here.fetch(&hall, &desk).await.expect("fetched, though one at a time is served");
    let mut received = 0;
    let end = loop {
        match within(slow.message()).await {
            Ok(Some(_)) => received += 1,
            end => break end,
        }
    };
    let end = end.expect_err("it is broken off before its end");
    assert!(end.message().contains("nothing was taken"), "{end:?}");
    assert!(received < 130, "{received} chunks of some 160");
}
