//! Replies that no daemon should send: every one is an error, none a panic, a hang or a large allocation.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use fleet_nix::daemon::stderr::Field;
use fleet_nix::daemon::{
    ActivityKind, CheckSignatures, Daemon, DaemonAddress, DaemonError, LogEvent, Malformed, Settings,
    Substitute, ignore,
};
use fleet_nix::{DerivedPath, StoreDir, StorePath};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::script::{Bytes, ERROR, LAST, NEXT, bytes, greet, greeting, play};
use crate::support::{collect, file_nar, source_info};

const PATH: &str = "/nix/store/11111111111111111111111111111111-a";

fn path() -> StorePath {
    PATH.strip_prefix("/nix/store/").expect("in the store").parse().expect("valid")
}

async fn client(script: Bytes) -> Daemon {
    greet(greeting(37, &[]).raw(&script.0)).await.0.expect("the greeting is in order")
}

/// Asks one question of a daemon that answers `script`.
async fn ask(script: Bytes) -> Result<bool, DaemonError> {
    client(script).await.is_valid_path(&path()).await
}

#[tokio::test]
async fn other_peers_and_other_versions_are_refused_by_name() {
    let refusal = async |script: Bytes| greet(script).await.0.expect_err("refused");
    let http = refusal(bytes().raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")).await;
    assert!(matches!(http, DaemonError::Malformed(Malformed::Magic(_))), "{http}");
    for minor in [0, 10, 34] {
        let old = refusal(greeting(minor, &[])).await;
        assert!(matches!(old, DaemonError::TooOld { major: 1, .. }), "{old}");
        let text = old.to_string();
        assert!(
            text.contains("Nix 2.18") && text.contains("upgrade") && text.contains(&format!("1.{minor},")),
            "{text}"
        );
    }
    let new = refusal(bytes().word(0x6478_696f).word(0x200)).await;
    assert!(matches!(new, DaemonError::TooNew { major: 2, minor: 0 }), "{new}");
    let trust = refusal(bytes().word(0x6478_696f).word(0x125).text("x").word(3)).await;
    assert!(matches!(trust, DaemonError::Malformed(Malformed::Unknown { value: 3, .. })), "{trust}");
    let features = refusal(bytes().word(0x6478_696f).word(0x126).word(1 << 40)).await;
    assert!(matches!(features, DaemonError::Malformed(Malformed::TooLong { .. })), "{features}");
    // What fails at start-up is said after the greeting.
    let mut broken = greeting(37, &[]).0;
    broken.truncate(broken.len() - 8);
    let error = refusal(Bytes(broken).raw(&remote_error("no store here", &[]).0)).await;
    assert!(error.remote().is_some_and(|error| error.message == "no store here"), "{error}");
}

fn remote_error(message: &str, traces: &[&str]) -> Bytes {
    let error = bytes().word(ERROR).text("Error").word(0).text("Error").text(message).word(0);
    traces.iter().fold(error.word(traces.len() as u64), |bytes, trace| bytes.word(0).text(trace))
}

#[tokio::test]
async fn errors_come_with_their_causes_and_without_colours_and_leave_the_connection_in_step() {
    let script = remote_error(
        "\u{1b}[31;1merror:\u{1b}[0m no",
        &["while \u{1b}[35;1mthis\u{1b}[0m", "while that", "at last"],
    );
    let script = script.raw(&remote_error("plain", &[]).0).word(LAST).word(1);
    let mut client = client(script).await;
    let error = client.is_valid_path(&path()).await.expect_err("refused");
    assert_eq!(error.to_string(), "error: no\n… while this\n… while that\n… at last");
    assert_eq!(error.remote().expect("remote").traces.len(), 3);
    let error = client.is_valid_path(&path()).await.expect_err("refused");
    assert_eq!(error.to_string(), "plain");
    assert!(client.is_valid_path(&path()).await.expect("answered"));
}

#[tokio::test]
async fn of_endless_messages_a_bounded_part_is_kept() {
    const KEPT: usize = 1024 * 1024;
    let long = "x".repeat(64 * 1024);
    let traces = vec![long.as_str(); 100];
    let fields = bytes().words(&[0x5253_4c54, 5, 999, 100]);
    let fields = (0..100).fold(fields, |bytes, _| bytes.word(1).text(&long));
    let mut client = client(fields.raw(&remote_error("no", &traces).0).words(&[LAST, 1])).await;
    let mut events = Vec::new();
    let error = client.ensure_path(&path(), &mut collect(&mut events)).await.expect_err("refused");
    let remote = error.remote().expect("remote");
    assert_eq!((remote.message.as_str(), remote.traces.len()), ("no", 100));
    assert_eq!(remote.traces.iter().map(String::len).sum::<usize>(), KEPT - "no".len());
    let [LogEvent::Other { fields, .. }] = events.as_slice() else { panic!("one event, not {events:?}") };
    let text = |field: &Field| if let Field::Text(text) = field { text.len() } else { 0 };
    assert_eq!(fields.iter().map(text).sum::<usize>(), KEPT);
    assert!(client.is_valid_path(&path()).await.expect("answered"));
}

#[tokio::test]
async fn what_cannot_stand_in_its_place_is_named() {
    let error = |head: Bytes| bytes().word(ERROR).raw(&head.0);
    let cases = [
        (bytes().word(0x1234), "0x1234 is not a message"),
        (bytes().word(0x6461_7461).word(10), "a demand for data"),
        (bytes().word(0x6461_7416).text("data"), "data was not expected"),
        (error(bytes().text("Strange")), "an error of another type"),
        (error(bytes().text("Error").word(0).text("Error").text("m").word(1)), "an absent position"),
        (
            error(bytes().text("Error").word(0).text("Error").text("m").words(&[0, 1 << 20])),
            "the causes of an error",
        ),
        (error(bytes().text("Error").word(0).word(1 << 30)), "the name of an error"),
        (bytes().words(&[0x5253_4c54, 1, 101, 1 << 32]), "the fields of a message"),
        (bytes().words(&[0x5253_4c54, 1, 101, 1, 7]), "the type of a field"),
        (bytes().word(NEXT).word(3).raw(b"abcXXXXX"), "padding is not zero"),
    ];
    for (script, expected) in cases {
        let error = ask(script).await.expect_err("malformed");
        assert!(matches!(error, DaemonError::Malformed(_)), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn bad_values_are_named_and_close_the_connection() {
    let info = |head: Bytes| bytes().word(LAST).word(1).raw(&head.0);
    let cases = [
        (info(bytes().text("/elsewhere/x")), "/elsewhere/x"),
        (info(bytes().text("").text("no hash")), "a NAR hash"),
        (info(bytes().text("").text(&"00".repeat(32)).word(u64::MAX)), "a set of store paths"),
        (info(bytes().word(1 << 40)), "a store path of"),
        (info(bytes().word(3).raw(&[0xff, 0xfe, 0xfd, 0, 0, 0, 0, 0])), "not UTF-8"),
        (
            info(bytes().text("").text(&"00".repeat(32)).words(&[0, 0, 0, 0, 0]).text("bogus:x")),
            "a content address",
        ),
    ];
    for (script, expected) in cases {
        let mut client = client(script).await;
        let error = client.query_path_info(&path()).await.expect_err("malformed");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(client.is_poisoned());
    }
    let result =
        |head: Bytes| bytes().words(&[LAST, 1]).text(PATH).word(0).text("").words(&[1, 0, 1, 1]).raw(&head.0);
    let cases = [
        (result(bytes().word(2)), "the mark of an optional value"),
        (
            result(
                bytes()
                    .words(&[0, 0, 1])
                    .text("out")
                    .text(r#"{"outPath":"11111111111111111111111111111111-a"}"#),
            ),
            "names no output",
        ),
        (result(bytes().words(&[0, 0, 1]).text("x!out").text("{}")), "a realisation"),
        (result(bytes().words(&[0, 0, 1]).text("x!out").text(&"[".repeat(100_000))), "a realisation"),
        (
            result(
                bytes()
                    .words(&[0, 0, 1])
                    .text("x!o/ut")
                    .text(r#"{"outPath":"11111111111111111111111111111111-a"}"#),
            ),
            "an output's name",
        ),
        (result(bytes().words(&[0, 0, 1 << 50])), "a map of built outputs"),
    ];
    for (script, expected) in cases {
        let targets = [DerivedPath::Opaque(path())];
        let error = client(script)
            .await
            .build_paths_with_results(&targets, &mut ignore)
            .await
            .expect_err("malformed");
        let text = error.to_string();
        assert!(text.contains(expected) && text.len() < 1000, "{error}");
    }
}

#[tokio::test]
async fn archives_that_are_none_are_refused_while_they_arrive() {
    let nar = file_nar(b"contents");
    let mut odd = nar.clone();
    odd[9] ^= 1;
    for (archive, poisoned) in [(nar, false), (odd, true)] {
        let mut client = client(bytes().words(&[LAST, 1, LAST]).raw(&archive)).await;
        let mut sink = Vec::new();
        let read = client.nar_from_path(&path(), &mut sink).await;
        assert_eq!(read.is_err(), poisoned, "{read:?}");
        assert_eq!(client.is_poisoned(), poisoned);
    }
}

#[tokio::test]
async fn unknown_activities_and_results_are_passed_on() {
    let started =
        bytes().words(&[0x5354_5254, 5, 3, 999]).text("doing").words(&[2, 0, 42, 1]).text("x").word(4);
    let results = bytes().words(&[0x5253_4c54, 5, 888, 0]).words(&[0x5253_4c54, 5, 101, 1, 0, 7]);
    let script = started.raw(&results.0).words(&[0x5354_4f50, 5]).word(NEXT).text("said\n").words(&[LAST, 1]);
    let mut client = client(script).await;
    let mut events = Vec::new();
    client.ensure_path(&path(), &mut collect(&mut events)).await.expect("it is there");
    let [LogEvent::ActivityStarted(activity), unknown, misshapen, stopped, said] = events.as_slice() else {
        panic!("five events, not {events:?}")
    };
    assert_eq!((activity.id, activity.parent, activity.kind), (5, 4, ActivityKind::Other(999)));
    assert!(matches!(unknown, LogEvent::Other { activity: 5, kind: 888, .. }));
    assert!(matches!(misshapen, LogEvent::Other { activity: 5, kind: 101, .. }), "a line without text");
    assert_eq!(stopped, &LogEvent::ActivityStopped { activity: 5 });
    assert_eq!(said, &LogEvent::Message { text: "said".to_owned() });
}

/// A conversation with one of everything, as a daemon says it.
fn recorded() -> Bytes {
    let greeting = greeting(38, &["realisation-with-path-not-hash"]).word(LAST);
    let started = bytes().words(&[0x5354_5254, 5, 3, 105]).text("building").words(&[1, 1]).text(PATH).word(0);
    let line = bytes().words(&[0x5253_4c54, 5, 101, 1, 1]).text("a line");
    let progress = bytes().words(&[0x5253_4c54, 5, 105, 4, 0, 1, 0, 2, 0, 3, 0, 4, 0x5354_4f50, 5]);
    let result = bytes().word(LAST).word(1).text(PATH).word(0).text("").words(&[1, 0, 1, 1, 1, 2, 0]);
    let outputs = bytes().word(1).text("out").text(PATH).word(1).text("k:x");
    let info =
        bytes().words(&[LAST, 1]).text(PATH).text(&"00".repeat(32)).word(1).text(PATH).words(&[1, 2, 0, 1]);
    let info = info.text("k:x").text("");
    let missing = bytes().word(LAST).word(1).text(PATH).words(&[0, 0, 5, 6]);
    let nar = bytes().words(&[LAST, 1, LAST]).raw(&file_nar(b"twelve bytes"));
    let parts =
        [greeting, started, line, progress, result, outputs, info, missing, nar, remote_error("no", &["t"])];
    parts.into_iter().reduce(|all, part| all.raw(&part.0)).expect("parts")
}

/// The same conversation, as a client holds it; the last answer is an error.
async fn converse(script: Bytes) -> Result<(), DaemonError> {
    let (stream, _heard) = play(script);
    let mut client = Daemon::greet(stream, StoreDir::default()).await?;
    client.set_options(&Settings::default()).await?;
    client.build_paths_with_results(&[DerivedPath::Opaque(path())], &mut ignore).await?;
    client.query_path_info(&path()).await?;
    client.query_missing(&[]).await?;
    client.nar_from_path(&path(), &mut tokio::io::sink()).await?;
    client.query_valid_paths(&BTreeSet::new(), Substitute::No).await?;
    Ok(())
}

#[tokio::test]
async fn a_conversation_cut_at_any_byte_is_a_lost_connection() {
    let whole = recorded();
    let end = converse(whole.clone()).await.expect_err("it ends in an error");
    assert!(end.remote().is_some_and(|error| error.message == "no"), "{end:?}");
    for cut in 0..whole.0.len() {
        let error = converse(Bytes(whole.0[..cut].to_vec())).await.expect_err("cut");
        assert!(
            matches!(&error, DaemonError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof),
            "{cut}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_conversation_with_any_byte_changed_ends() {
    let whole = recorded();
    for position in 0..whole.0.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed.0[position] ^= change;
            // Whatever it means now, it must end; some changes are within a text, and mean nothing.
            let _ = converse(changed).await;
        }
    }
}

#[tokio::test]
async fn a_daemon_that_talks_before_it_listens_is_no_deadlock() {
    let nar = file_nar(&vec![7; 8 << 20]);
    let info = source_info("large", &nar, &BTreeSet::new());
    let (client, mut server) = UnixStream::pair().expect("a pair of sockets");
    let talking = tokio::spawn(async move {
        let message = bytes().word(NEXT).text(&"x".repeat(4000)).0;
        server.write_all(&greeting(37, &[]).0).await.expect("heard");
        for _ in 0..2000 {
            server.write_all(&message).await.expect("heard, though nothing was read");
        }
        server.write_all(&bytes().word(LAST).0).await.expect("heard");
        let mut read = Vec::new();
        server.read_to_end(&mut read).await.expect("the whole body");
        read.len()
    });
    let mut client = Daemon::greet(client, StoreDir::default()).await.expect("greeted");
    client.add_to_store_nar(&info, &mut &nar[..], CheckSignatures::No).await.expect("added");
    drop(client);
    assert!(talking.await.expect("no panic") > nar.len());
}

#[tokio::test]
async fn an_error_before_the_body_was_sent_closes_the_connection_and_is_told() {
    let nar = file_nar(&vec![7; 8 << 20]);
    let info = source_info("large", &nar, &BTreeSet::new());
    let (client, mut server) = UnixStream::pair().expect("a pair of sockets");
    let server = tokio::spawn(async move {
        server.write_all(&greeting(37, &[]).0).await.expect("heard");
        // What the client says to greet, and the beginning of its request.
        server.read_exact(&mut [0; 4 * 8 + 8]).await.expect("a request");
        server.write_all(&remote_error("disk full", &[]).0).await.expect("heard");
        // Hangs up without reading the body.
    });
    let mut client = Daemon::greet(client, StoreDir::default()).await.expect("greeted");
    let error =
        client.add_to_store_nar(&info, &mut &nar[..], CheckSignatures::No).await.expect_err("refused");
    assert!(error.remote().is_some_and(|error| error.message == "disk full"), "{error:?}");
    assert!(client.is_poisoned());
    server.await.expect("no panic");
}

#[tokio::test]
async fn a_daemon_that_says_nothing_is_given_up() {
    let scratch = tempfile::tempdir().expect("a directory");
    let socket = scratch.path().join("s");
    let listener = UnixListener::bind(&socket).expect("bound");
    let address = DaemonAddress { socket, ..DaemonAddress::default() };
    let error = Daemon::connect_within(&address, Duration::from_millis(10)).await.expect_err("silence");
    assert!(matches!(error, DaemonError::GreetingTimedOut { .. }), "{error}");
    let (hung_up, accepted) = tokio::join!(Daemon::connect(&address), async {
        // The first connection waits in the queue still.
        let first = listener.accept().await.expect("a connection");
        let second = listener.accept().await.expect("a connection");
        drop((first, second));
    });
    let ((), error) = (accepted, hung_up.expect_err("it hung up"));
    assert!(matches!(error, DaemonError::HungUp { .. }), "{error}");
    assert!(error.to_string().contains("allowed-users"), "{error}");
}
