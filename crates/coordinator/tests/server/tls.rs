//! Certificates: which are taken, which are not and why, and how CAs follow one another.

use fleet_identity::tls::{TlsFailure, explain};
use fleet_identity::{Authority, Credentials, Grant, Kind, NewKey, PublicKey, Role, unix_now};
use fleet_wire::v1;
use fleet_wire::v1::worker_message::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::running::{Running, client, connect, list_runs, program, run, within, worker};

const DAY: u64 = 24 * 3600;

/// How a handshake with this certificate fails.
async fn refusal(running: &Running, shown: &Credentials) -> Option<TlsFailure> {
    let mut stream =
        connect(running.address, running.tls(Some(shown))).await.expect("the server's part is good");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    // The server may be faster.
    let _ = stream.write_all(preface).await;
    let mut answer = [0; 64];
    let error = within(stream.read(&mut answer)).await.err()?;
    let own = shown.identity().expect("a fleet certificate");
    Some(explain(&error, Some(&own), unix_now()).unwrap_or_else(|| panic!("not TLS: {error}")))
}

#[tokio::test]
async fn each_bad_certificate_has_its_own_error() {
    let running = Running::start();
    let (ours, now) = (running.authority(), unix_now());
    let elsewhere = tempfile::tempdir().expect("a directory");
    let theirs = Authority::open(elsewhere.path(), now).expect("a CA");
    let made = |authority: &Authority, at: u64| client(authority, "c", Role::Admin, at);
    assert_eq!(refusal(&running, &made(&ours, now)).await, None);
    assert_eq!(refusal(&running, &made(&ours, now - 2 * DAY)).await, Some(TlsFailure::OwnExpired));
    assert_eq!(refusal(&running, &made(&ours, now + 2 * DAY)).await, Some(TlsFailure::OwnNotYetValid));
    assert_eq!(refusal(&running, &made(&theirs, now)).await, Some(TlsFailure::OwnForeign));
    // Made by our CA for nobody: the coordinator's own certificate as a client's.
    let server = ours.make_server(now, &["localhost".to_owned()]).expect("a certificate");
    let mut stream = connect(running.address, running.tls(Some(&server))).await.expect("the server's part");
    assert!(within(stream.read(&mut [0; 64])).await.is_err(), "a server's certificate is nobody's");
    // The server goes on.
    assert_ne!(list_runs(running.remote(Some(&made(&ours, now))), None).await, Code::Unauthenticated);
}

#[tokio::test]
async fn a_worker_that_nobody_enrolled_is_not_let_in() {
    let running = Running::start();
    let forged = worker(&running.authority(), "w", unix_now());
    let mut client = v1::workers_client::WorkersClient::new(running.remote(Some(&forged)));
    let status = within(client.session(tokio_stream::pending())).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("not enrolled here"), "{status}");
}

/// A session that goes on until it is ended.
pub(crate) async fn session(
    running: &Running,
    credentials: &Credentials,
) -> (tokio::sync::mpsc::Sender<v1::WorkerMessage>, tonic::Streaming<v1::CoordinatorMessage>) {
    let (outbox, messages) = tokio::sync::mpsc::channel(8);
    let name = credentials.identity().expect("a worker").name.to_string();
    let hello =
        v1::Hello { name, systems: vec!["x86_64-linux".to_owned()], slots: 1, ..v1::Hello::default() };
    let hello = v1::WorkerMessage { message: Some(Message::Hello(hello)), ..v1::WorkerMessage::default() };
    outbox.send(hello).await.expect("there is room");
    let mut client = v1::workers_client::WorkersClient::new(running.remote(Some(credentials)));
    let mut inbound =
        within(client.session(ReceiverStream::new(messages))).await.expect("a session").into_inner();
    within(inbound.message()).await.expect("a stream").expect("a welcome");
    (outbox, inbound)
}

#[tokio::test]
async fn a_stream_does_not_outlive_its_worker_s_certificate() {
    let running = Running::start();
    let enrolled = running.enrolled("w").await;
    let Kind::Worker { enrolment } = enrolled.identity().expect("a worker").kind else { panic!("a client") };
    // Of the same enrolment, and in its last seconds.
    let key = NewKey::generate();
    let grant = Grant { name: "w".parse().expect("a name"), enrolment };
    let public = PublicKey::from_request(&key.request()).expect("a good request");
    let old = running.authority().sign_worker(unix_now() + 2 - DAY, &grant, &public).expect("a certificate");
    let chain = vec![old.certificate.into()];
    let old = Credentials { chain, key: key.private(), authorities: running.authority().certificates() };
    let (_outbox, mut inbound) = session(&running, &old).await;
    let status = loop {
        match within(inbound.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ends without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("has expired"), "{status}");
    // With the next certificate it is welcome at once.
    session(&running, &enrolled).await;
}

#[tokio::test]
async fn a_new_ca_is_taken_up_while_streams_are_open() {
    let running = Running::start();
    let old = running.enrolled("w").await;
    let before = running.authority();
    let (outbox, mut inbound) = session(&running, &old).await;
    let config = running.directory.path().join("coordinator.toml");
    let (code, _, said) = run(program(running.directory.path()).arg("--config").arg(config).arg("rotate-ca"));
    assert_eq!(code, Some(0), "{said}");
    running.signal("HUP");
    running.wait_for("settings read again");

    let new = running.enrolled("w2").await;
    assert_eq!(new.authorities.len(), 2, "both are learnt");
    assert!(!before.certificates().contains(&new.authorities[0]), "the new one signs");
    // Who knows only the old one reaches the port, with either certificate, and the open stream goes on.
    let tls = |shown| fleet_identity::tls::client_config(&before.certificates(), Some(shown)).expect("good");
    for shown in [&old, &new] {
        let channel = crate::running::dial(running.address, tls(shown));
        let mut client = v1::enrolment_client::EnrolmentClient::new(channel);
        let key = fleet_identity::NewKey::generate();
        let reply = within(client.renew(v1::RenewRequest { request: key.request().into() })).await;
        assert_eq!(reply.expect("renewed").get_ref().authorities.len(), 2);
    }
    let beat = Message::Heartbeat(v1::Heartbeat::default());
    outbox.send(v1::WorkerMessage { message: Some(beat), ..Default::default() }).await.expect("it is open");
    let nothing = tokio::time::timeout(std::time::Duration::from_millis(300), inbound.message()).await;
    assert!(!matches!(nothing, Ok(Ok(None) | Err(_))), "the stream ended: {nothing:?}");
}

#[tokio::test]
async fn the_socket_is_only_this_user_s() {
    use std::os::unix::fs::PermissionsExt;
    let running = Running::start();
    let mode = std::fs::metadata(running.socket()).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Even where somebody opened it to others, the peer is asked for.
    for path in [running.directory.path(), &running.state(), &running.socket()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("ours");
    }
    let socket = running.socket();
    // On Linux a thread may be another user than its process.
    let stranger = std::thread::spawn(move || {
        let nobody = rustix::process::Uid::from_raw(65_534);
        rustix::thread::set_thread_uid(nobody).expect("root may");
        let mut stream = std::os::unix::net::UnixStream::connect(socket).expect("the mode lets it in");
        std::io::Read::read(&mut stream, &mut [0; 1])
    });
    let heard = stranger.join().expect("it does not panic");
    assert!(matches!(heard, Ok(0) | Err(_)), "{heard:?}");
    running.wait_for("refused another user at the socket");
}
