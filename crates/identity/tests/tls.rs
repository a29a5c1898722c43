//! Both ends of the port with real sockets and certificates: who gets in, what the other side is told, and what
//! stays open while certificates and CAs change.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use fleet_identity::authority::lifetime;
use fleet_identity::tls::{self, DialError, ServerTls, TlsFailure};
use fleet_identity::{
    Authority, Credentials, Fingerprint, Grant, Identity, NewKey, PublicKey, Role, TokenId, unix_now,
};
use rustls::{ClientConfig, HandshakeKind};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::client::TlsStream;

const LIMIT: Duration = Duration::from_secs(10);
const DAY: u64 = 24 * 3600;

struct Ca {
    directory: TempDir,
    authority: Authority,
}

fn new_ca() -> Ca {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Authority::open(directory.path(), unix_now() - DAY).expect("a CA");
    Ca { directory, authority }
}

fn server(authority: &Authority, made: u64, names: &[&str]) -> Credentials {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    authority.make_server(made, &names).expect("a server's certificate")
}

fn worker(authority: &Authority, made: u64) -> Credentials {
    let key = NewKey::generate();
    let public = PublicKey::from_request(&key.request()).expect("the request is good");
    let grant = Grant { name: "b1".parse().expect("a name"), enrolment: TokenId::from_bytes([1; 8]) };
    let issued = authority.sign_worker(made, &grant, &public).expect("it signs");
    let authorities = authority.certificates();
    Credentials { chain: vec![issued.certificate.into()], key: key.private(), authorities }
}

/// A port that tells each caller who it is, then echoes.
struct Port {
    tls: Arc<ServerTls>,
    number: u16,
}

async fn open_port(credentials: &Credentials) -> Port {
    let tls = Arc::new(ServerTls::new(credentials).expect("the credentials can be used"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let number = listener.local_addr().expect("it is bound").port();
    let shown = tls.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(TlsAcceptor::from(shown.config()), stream));
        }
    });
    Port { tls, number }
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream) -> io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let caller = shown.map(|der| Identity::from_certificate(der).map(|identity| identity.to_string()));
    let greeting =
        caller.map_or("nobody".to_owned(), |named| named.unwrap_or_else(|error| error.to_string()));
    stream.write_all(format!("{greeting}\n").as_bytes()).await?;
    let (mut from, mut to) = tokio::io::split(stream);
    tokio::io::copy(&mut from, &mut to).await.map(drop)
}

#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("cut")]
    Read(#[from] io::Error),
}

/// Dials by address, and reads how the port greets.
async fn call(config: &Arc<ClientConfig>, port: u16) -> Result<(TlsStream<TcpStream>, String), CallError> {
    let mut stream = tls::dial(config.clone(), "127.0.0.1", port, LIMIT).await?;
    let greeting = read_line(&mut stream).await?;
    Ok((stream, greeting))
}

async fn read_line(stream: &mut TlsStream<TcpStream>) -> io::Result<String> {
    let mut line = vec![];
    loop {
        match stream.read_u8().await? {
            b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
            byte => line.push(byte),
        }
    }
}

fn config(trusted: &Authority, own: Option<&Credentials>) -> Arc<ClientConfig> {
    tls::client_config(&trusted.certificates(), own).expect("it can be used")
}

/// What a caller with these credentials is told.
async fn failure(config: &Arc<ClientConfig>, port: u16, own: Option<&Credentials>) -> TlsFailure {
    let error = call(config, port).await.map(|(_, greeting)| greeting).expect_err("the handshake fails");
    let own = own.map(|own| own.identity().expect("it names somebody"));
    tls::explain(&error, own.as_ref(), unix_now()).expect("it is a failure of TLS")
}

#[tokio::test]
async fn the_port_knows_its_callers_by_their_certificates_and_lets_strangers_ask() {
    let ca = new_ca();
    let now = unix_now();
    let port = open_port(&server(&ca.authority, now, &["127.0.0.1"])).await;
    let own = worker(&ca.authority, now);
    let admin = ca.authority.make_client(now, DAY, &"ann".parse().expect("a name"), Role::Admin);
    let admin = admin.expect("a client's certificate");
    assert_eq!(admin.identity().map(|identity| identity.role()), Ok(Some(Role::Admin)));
    for (shown, expected) in [(Some(&own), "worker b1"), (Some(&admin), "client ann"), (None, "nobody")] {
        let (stream, greeting) =
            call(&config(&ca.authority, shown), port.number).await.expect("it is let in");
        assert_eq!(greeting, expected);
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    }
}

#[tokio::test]
async fn no_session_is_resumed_past_the_check_of_its_certificate() {
    let ca = new_ca();
    let port = open_port(&server(&ca.authority, unix_now(), &["127.0.0.1"])).await;
    let own = worker(&ca.authority, unix_now());
    // A caller that would like to resume.
    let mut eager = (*config(&ca.authority, Some(&own))).clone();
    eager.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let eager = Arc::new(eager);
    for _ in 0..3 {
        let (stream, _) = call(&eager, port.number).await.expect("it is let in");
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn a_caller_learns_what_is_wrong_with_its_own_certificate() {
    let (ca, other) = (new_ca(), new_ca());
    let now = unix_now();
    let port = open_port(&server(&ca.authority, now, &["127.0.0.1"])).await;
    let expired = worker(&ca.authority, now - lifetime::WORKER_S - 10);
    let early = worker(&ca.authority, now + lifetime::BACKDATED_S + 600);
    let foreign = worker(&other.authority, now);
    let cases = [
        (&expired, TlsFailure::OwnExpired),
        (&early, TlsFailure::OwnNotYetValid),
        (&foreign, TlsFailure::OwnForeign),
    ];
    for (own, expected) in cases {
        assert_eq!(failure(&config(&ca.authority, Some(own)), port.number, Some(own)).await, expected);
    }
    let error =
        call(&config(&ca.authority, Some(&expired)), port.number).await.map(drop).expect_err("it is refused");
    let own = expired.identity().expect("it names somebody");
    let told = tls::explain(&error, Some(&own), own.not_after - 5);
    assert_eq!(told, Some(TlsFailure::ClocksDiffer), "by this clock it were valid");
}

#[tokio::test]
async fn a_caller_learns_what_is_wrong_with_the_coordinators_certificate() {
    let (ca, other) = (new_ca(), new_ca());
    let now = unix_now();
    let cases = [
        (
            server(&ca.authority, now - lifetime::SERVER_S - 10, &["127.0.0.1"]),
            TlsFailure::CoordinatorExpired,
        ),
        (
            server(&ca.authority, now + 2 * lifetime::BACKDATED_S, &["127.0.0.1"]),
            TlsFailure::CoordinatorNotYetValid,
        ),
        (server(&other.authority, now, &["127.0.0.1"]), TlsFailure::CoordinatorForeign),
        (server(&ca.authority, now, &["fleet.example.org"]), TlsFailure::CoordinatorOtherName),
    ];
    for (shown, expected) in cases {
        let port = open_port(&shown).await;
        assert_eq!(failure(&config(&ca.authority, None), port.number, None).await, expected);
    }
}

#[tokio::test]
async fn a_worker_cannot_stand_in_for_the_coordinator() {
    let ca = new_ca();
    let port = open_port(&worker(&ca.authority, unix_now())).await;
    let told = failure(&config(&ca.authority, None), port.number, None).await;
    assert!(matches!(told, TlsFailure::CoordinatorUnusable(_)), "it is made for another purpose: {told:?}");
}

#[tokio::test]
async fn a_port_without_tls_is_told_from_one_that_is_gone() {
    let ca = new_ca();
    let config = config(&ca.authority, None);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let number = listener.local_addr().expect("it is bound").port();
    let plain = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a caller");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("it is still there");
        listener
    });
    assert_eq!(failure(&config, number, None).await, TlsFailure::NotTls);
    drop(plain.await.expect("it served one"));
    let gone = call(&config, number).await.map(drop).expect_err("nobody listens");
    assert_eq!(tls::explain(&gone, None, unix_now()), None);
    let bad = tls::dial(config, "no host", number, LIMIT).await.map(drop);
    assert!(matches!(bad, Err(DialError::BadName(_))));
}

#[tokio::test]
async fn a_pinned_caller_trusts_the_ca_of_its_token_and_no_other() {
    let (ca, other) = (new_ca(), new_ca());
    let now = unix_now();
    let shown = server(&ca.authority, now, &["127.0.0.1"]);
    let port = open_port(&shown).await;
    let pinned = tls::pinned(ca.authority.fingerprint()).expect("a configuration");
    call(&pinned, port.number).await.expect("it is the right one");

    let foreign = tls::pinned(other.authority.fingerprint()).expect("a configuration");
    assert_eq!(failure(&foreign, port.number, None).await, TlsFailure::CoordinatorForeign);

    // Somebody else's server that sends the right CA along.
    let mut impostor = server(&other.authority, now, &["127.0.0.1"]);
    impostor.chain = vec![impostor.chain[0].clone(), shown.chain[1].clone()];
    let impostor = open_port(&impostor).await;
    assert_eq!(failure(&pinned, impostor.number, None).await, TlsFailure::CoordinatorForeign);

    // The name, the time and the purpose count as ever.
    let elsewhere = open_port(&server(&ca.authority, now, &["fleet.example.org"])).await;
    assert_eq!(failure(&pinned, elsewhere.number, None).await, TlsFailure::CoordinatorOtherName);
    let old = open_port(&server(&ca.authority, now - lifetime::SERVER_S - 10, &["127.0.0.1"])).await;
    assert_eq!(failure(&pinned, old.number, None).await, TlsFailure::CoordinatorExpired);
    let mut by_worker = worker(&ca.authority, now);
    by_worker.chain.push(shown.chain[1].clone());
    let by_worker = open_port(&by_worker).await;
    failure(&pinned, by_worker.number, None).await;

    let mut bare = shown;
    bare.chain.truncate(1);
    let bare = open_port(&bare).await;
    assert_eq!(failure(&pinned, bare.number, None).await, TlsFailure::CoordinatorForeign);
    let nobody = tls::pinned(Fingerprint::of_spki(b"")).expect("a configuration");
    assert_eq!(failure(&nobody, bare.number, None).await, TlsFailure::CoordinatorForeign);
}

#[tokio::test]
async fn a_new_ca_comes_in_while_connections_live_and_the_old_one_goes() {
    let ca = new_ca();
    let now = unix_now();
    let directory = ca.directory.path();
    let port = open_port(&server(&ca.authority, now, &["127.0.0.1"])).await;
    let (old, pin) = (worker(&ca.authority, now), ca.authority.fingerprint());
    let (mut open, _) = call(&config(&ca.authority, Some(&old)), port.number).await.expect("it is let in");

    let both = Authority::rotate(directory, now).expect("a second CA");
    port.tls.reload(&server(&both, now, &["127.0.0.1"])).expect("it can be used");
    open.write_all(b"still here\n").await.expect("the connection lives");
    assert_eq!(read_line(&mut open).await.expect("the connection lives"), "still here");
    // Who knows only the old CA gets in with the old certificate, or with its token.
    call(&config(&ca.authority, Some(&old)), port.number).await.expect("the old CA counts");
    call(&tls::pinned(pin).expect("a configuration"), port.number).await.expect("the old token counts");
    assert_eq!(both.fingerprint(), pin, "tokens made now name the CA that the port shows");
    let new = worker(&both, now);
    call(&config(&both, Some(&new)), port.number).await.expect("the new CA counts");

    // Once nobody has the old one any more.
    std::fs::remove_file(directory.join("authority-previous.pem")).expect("it was there");
    let only_new = Authority::open(directory, now).expect("the new CA");
    port.tls.reload(&server(&only_new, now, &["127.0.0.1"])).expect("it can be used");
    call(&config(&both, Some(&new)), port.number)
        .await
        .expect("the new certificate was signed by the new CA");
    assert_eq!(failure(&config(&both, Some(&old)), port.number, Some(&old)).await, TlsFailure::OwnForeign);
    open.write_all(b"still here\n").await.expect("the connection lives");
    assert_eq!(read_line(&mut open).await.expect("the connection lives"), "still here");
}

#[tokio::test]
async fn a_reload_that_fails_changes_nothing() {
    let ca = new_ca();
    let shown = server(&ca.authority, unix_now(), &["127.0.0.1"]);
    let port = open_port(&shown).await;
    let mut mixed = shown.clone();
    mixed.key = NewKey::generate().private();
    port.tls.reload(&mixed).expect_err("the key is another's");
    let mut trusting_nobody = shown;
    trusting_nobody.authorities.clear();
    port.tls.reload(&trusting_nobody).expect_err("there is no CA");
    call(&config(&ca.authority, None), port.number).await.expect("it serves as before");
}

#[tokio::test]
async fn a_silent_port_does_not_keep_a_caller_waiting() {
    let ca = new_ca();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let number = listener.local_addr().expect("it is bound").port();
    let short = Duration::from_millis(50);
    let dialled = tls::dial(config(&ca.authority, None), "127.0.0.1", number, short);
    let dialled = tokio::time::timeout(LIMIT, dialled).await.expect("it gives up by itself");
    assert!(
        matches!(dialled, Err(DialError::Handshake { source, .. }) if source.kind() == io::ErrorKind::TimedOut)
    );
}

/// The error of a request over HTTP/2, as the programs see it.
async fn request(config: &Arc<ClientConfig>, port: u16) -> tonic::transport::Error {
    let config = config.clone();
    let connector = tower::service_fn(move |_| {
        let config = config.clone();
        async move { tls::dial(config, "127.0.0.1", port, LIMIT).await.map(hyper_util::rt::TokioIo::new) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://fleet");
    let mut channel = match endpoint.connect_with_connector(connector).await {
        Ok(channel) => channel,
        Err(error) => return error,
    };
    let ready = tower::ServiceExt::ready(&mut channel).await;
    let channel = match ready {
        Ok(channel) => channel,
        Err(error) => return error,
    };
    let request = http::Request::new(tonic::body::Body::empty());
    tower::Service::call(channel, request).await.map(drop).expect_err("the port does not speak HTTP")
}

#[tokio::test]
async fn a_refusal_is_understood_through_http2() {
    let (ca, other) = (new_ca(), new_ca());
    let now = unix_now();
    let port = open_port(&server(&ca.authority, now, &["127.0.0.1"])).await;
    let expired = worker(&ca.authority, now - lifetime::WORKER_S - 10);
    let foreign = worker(&other.authority, now);
    for (own, expected) in [(&expired, TlsFailure::OwnExpired), (&foreign, TlsFailure::OwnForeign)] {
        for _ in 0..20 {
            let error = request(&config(&ca.authority, Some(own)), port.number).await;
            let told = tls::explain(&error, Some(&own.identity().expect("it names somebody")), now);
            assert_eq!(told, Some(expected.clone()), "{error:?}");
        }
    }
}
