//! Peers that mean harm: what they do ends their connection, and nobody else's.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::running::{Running, bearing, check_health, within};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn settings() -> Vec<u8> {
    frame(4, 0, 0, &[])
}

/// A request for a procedure of strangers, in plain header fields.
fn request(stream: u32, flags: u8) -> Vec<u8> {
    let mut block = Vec::new();
    let fields = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", "/grpc.health.v1.Health/Check"),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
    ];
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("short"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    frame(1, flags, stream, &block)
}

/// Sends, over and over, until the other end closes the connection. Reads all the time, as a flood would, to
/// keep the other end's answers from slowing it down.
async fn flood(stream: impl AsyncRead + AsyncWrite, mut next: impl FnMut(u32) -> Vec<u8>) -> u32 {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let reading = async {
        let mut buffer = vec![0; 16 << 10];
        while reader.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
    };
    let mut sent = 0;
    let writing = async {
        let opening = [PREFACE, &settings()].concat();
        if writer.write_all(&opening).await.is_err() {
            return;
        }
        // Far more than any bound, and yet an end.
        while sent < 2_000_000 {
            let burst: Vec<u8> = (0..64).flat_map(|more| next(sent + more)).collect();
            if writer.write_all(&burst).await.is_err() {
                return;
            }
            sent += 64;
        }
        // Whatever was not refused is to be answered with the end of the connection.
        std::future::pending::<()>().await;
    };
    within(async {
        tokio::select! {
            () = reading => {}
            () = writing => {}
        }
    })
    .await;
    sent
}

/// The frames of each number.
type Flood = Box<dyn FnMut(u32) -> Vec<u8>>;

#[tokio::test]
async fn floods_end_their_connection_while_others_are_served() {
    let running = Running::start();
    let other = running.remote(None);
    check_health(other.clone()).await.expect("served");
    let odd = |number: u32| number * 2 + 1;
    let floods: [(&str, Flood); 8] = [
        ("ping", Box::new(|_| frame(6, 0, 0, &[0; 8]))),
        ("settings", Box::new(|_| settings())),
        ("rapid reset", Box::new(move |n| [request(odd(n), 4), frame(3, 0, odd(n), &[0, 0, 0, 8])].concat())),
        ("empty data", Box::new(|n| if n == 0 { request(1, 4) } else { frame(0, 0, 1, &[]) })),
        ("continuation", Box::new(|n| if n == 0 { request(1, 0) } else { frame(9, 0, 1, &[]) })),
        ("priority", Box::new(|_| frame(2, 0, 1, &[0; 5]))),
        ("window updates of nothing", Box::new(|_| frame(8, 0, 0, &[0; 4]))),
        (
            "headers of 64 KiB",
            Box::new(|n| {
                let field = [&[0, 1, b'a', 0x7f, 0x81, 0x7d][..], &[b'x'; 16_000]].concat();
                if n == 0 { frame(1, 1, 1, &field) } else { frame(9, u8::from(n == 4) * 4, 1, &field) }
            }),
        ),
    ];
    for (name, next) in floods {
        let sent = flood(running.raw().await, next).await;
        assert!(sent < 1_000_000, "{name}: {sent} frames were taken");
        check_health(other.clone()).await.unwrap_or_else(|status| panic!("after {name}: {status}"));
    }
}

#[tokio::test]
async fn a_peer_that_takes_nothing_holds_only_what_is_bounded() {
    let running = Running::start();
    let other = running.remote(None);
    // A window of zero bytes: answers cannot leave.
    let mut stream = running.raw().await;
    let no_window = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let requests: Vec<u8> =
        (0..256).flat_map(|n| [request(n * 2 + 1, 4), frame(0, 1, n * 2 + 1, &[0; 5])].concat()).collect();
    stream.write_all(&[PREFACE, &no_window, &requests].concat()).await.expect("it is taken");
    for _ in 0..10 {
        check_health(other.clone()).await.expect("others are served");
    }
}

#[tokio::test]
async fn who_is_slow_to_begin_is_not_waited_for() {
    let running = Running::start_with("[server]\nhandshake_within = \"300ms\"\nmax_anonymous = 3\n", |_| {});
    // One says nothing at all, one shakes hands and says nothing, one drips its preface.
    let mut mute = TcpStream::connect(running.address).await.expect("connected");
    let mut shaken = running.raw().await;
    let mut dripping = running.raw().await;
    let drips = async {
        for byte in PREFACE {
            if dripping.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // All of it would have taken longer than it had.
        let _ = dripping.read(&mut [0; 64]).await;
    };
    let ended = |read: std::io::Result<usize>| !matches!(read, Ok(1..));
    within(async {
        let (mut nothing, mut after_settings) = ([0; 1], Vec::new());
        let (one, two, ()) =
            tokio::join!(mute.read(&mut nothing), shaken.read_to_end(&mut after_settings), drips);
        assert!(ended(one), "the mute one");
        assert!(two.is_err() || after_settings.len() < 200, "the one that said nothing");
    })
    .await;
    // Their room is given back.
    check_health(running.remote(None)).await.expect("served");
}

#[tokio::test]
async fn a_peer_that_answers_nothing_is_given_up() {
    let running = Running::start_with("[server]\nkeepalive = \"200ms\"\n", |_| {});
    // It has said all that a client must say, and then its machine is gone.
    let mut gone = running.raw().await;
    gone.write_all(&[PREFACE, &settings()].concat()).await.expect("it is taken");
    within(async {
        let mut buffer = [0; 1024];
        while gone.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
    })
    .await;
    check_health(running.remote(None)).await.expect("others are served");
}

#[tokio::test]
async fn one_caller_s_requests_are_bounded_over_all_its_connections() {
    let running = Running::start_with("[server]\nmax_requests = 3\n", |_| {});
    let token = running.client_token("greedy", fleet_wire::v1::Role::Read).await;
    let other = running.client_token("modest", fleet_wire::v1::Role::Read).await;
    let watch = async |token: &str| {
        let mut client = tonic_health::pb::health_client::HealthClient::new(running.remote(None));
        let request = bearing(tonic_health::pb::HealthCheckRequest::default(), token);
        within(client.watch(request)).await
    };
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(watch(&token).await.expect("there is room"));
    }
    let status = watch(&token).await.expect_err("there is none");
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    watch(&other).await.expect("others have theirs");
    // What ends gives its room back, as soon as the coordinator hears of it.
    open.clear();
    within(async { while watch(&token).await.is_err() {} }).await;
}
