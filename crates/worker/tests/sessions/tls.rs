//! Certificates: how a worker gets its own, keeps it fresh, and what it does when it is of no use.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fleet_identity::tls::ServerTls;
use fleet_identity::{
    Authority, Credentials, Fingerprint, Grant, JoinToken, NewKey, PublicKey, Secret, TokenId, unix_now,
};
use fleet_testkit::NixDaemon;
use fleet_wire::v1;
use fleet_worker::enrol::{credentials_file, enrol};
use fleet_worker::{Endpoint, Link, Pings};
use tonic::{Request, Response, Status};

use crate::relay::Relay;
use crate::scripted::{Driven, PATIENCE, Scripted, config, script, step, within};

/// A coordinator's CA and port, with a registry that knows one worker.
struct Office {
    authority: Arc<Authority>,
    relay: Relay,
    endpoint: Endpoint,
    scripted: Option<Scripted>,
    renewed: Arc<Mutex<usize>>,
    _directory: tempfile::TempDir,
}

impl Office {
    async fn open() -> Self {
        let directory = fleet_testkit::short_temp_dir();
        let authority = Arc::new(Authority::open(directory.path(), unix_now()).expect("a CA"));
        let port = authority.make_server(unix_now(), &["127.0.0.1".to_owned()]).expect("a certificate");
        let far = directory.path().join("far");
        let renewed = Arc::default();
        let service =
            Registry { authority: authority.clone(), given: Mutex::default(), renewed: Arc::clone(&renewed) };
        let scripted = Some(Scripted::listen_with(&far, v1::enrolment_server::EnrolmentServer::new(service)));
        let tls = Arc::new(ServerTls::new(&port).expect("usable"));
        let (relay, address) = Relay::tls(tls, &far).await;
        let endpoint = Endpoint::Https { host: "127.0.0.1".to_owned(), port: address.port() };
        Self { authority, relay, endpoint, scripted, renewed, _directory: directory }
    }

    fn token(&self) -> JoinToken {
        let (id, secret) = (TokenId::random(), Secret::random());
        JoinToken { id, secret, authority: self.authority.fingerprint() }
    }

    /// Puts a certificate into a state directory that was signed so many seconds ago.
    fn sign(&self, state_dir: &Path, ago: u64) {
        let key = NewKey::generate();
        let public = PublicKey::from_request(&key.request()).expect("a request");
        let grant = Grant { name: "w".parse().expect("a name"), enrolment: TokenId::random() };
        let issued = self.authority.sign_worker(unix_now() - ago, &grant, &public).expect("signed");
        let (chain, authorities) = (vec![issued.certificate.clone().into()], self.authority.certificates());
        std::fs::create_dir_all(state_dir).expect("a directory");
        let credentials = Credentials { chain, key: key.private(), authorities };
        credentials.write(&credentials_file(state_dir)).expect("written");
    }

    fn link(&self, state_dir: &Path) -> Link {
        Link::open(&self.endpoint, Some(credentials_file(state_dir)), Pings::default())
    }
}

struct Registry {
    authority: Arc<Authority>,
    given: Mutex<Option<(String, Fingerprint, v1::EnrolReply)>>,
    renewed: Arc<Mutex<usize>>,
}

impl Registry {
    fn sign(&self, request: &[u8], enrolment: TokenId) -> Result<v1::EnrolReply, Status> {
        let key =
            PublicKey::from_request(request).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let grant = Grant { name: "w".parse().expect("a name"), enrolment };
        let issued = self.authority.sign_worker(unix_now(), &grant, &key).expect("signed");
        Ok(v1::EnrolReply {
            name: "w".to_owned(),
            not_after: issued.identity.not_after,
            chain: vec![issued.certificate.into()],
            authorities: self.authority.certificates().iter().map(|der| der.to_vec().into()).collect(),
        })
    }
}

#[tonic::async_trait]
impl v1::enrolment_server::Enrolment for Registry {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::EnrolReply>, Status> {
        let request = request.into_inner();
        let token: JoinToken = request.token.parse().map_err(|_| Status::unauthenticated("no token"))?;
        let key = PublicKey::from_request(&request.request).expect("a request").fingerprint;
        let mut given = self.given.lock().expect("no panic");
        if let Some((used, owner, reply)) = &*given {
            let is_same = *used == request.token && *owner == key;
            let answer = is_same.then(|| reply.clone());
            return answer.map(Response::new).ok_or_else(|| Status::permission_denied("the token was used"));
        }
        let reply = self.sign(&request.request, token.id)?;
        *given = Some((request.token, key, reply.clone()));
        Ok(Response::new(reply))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::EnrolReply>, Status> {
        *self.renewed.lock().expect("no panic") += 1;
        self.sign(&request.into_inner().request, TokenId::random()).map(Response::new)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enrolment_gives_a_private_file_and_can_be_repeated() {
    let office = Office::open().await;
    let state = fleet_testkit::short_temp_dir();
    let (token, file) = (office.token(), credentials_file(state.path()));
    let first = within(enrol(&office.endpoint, &token, state.path())).await.expect("enrolled");
    assert_eq!(first.name.to_string(), "w");
    assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    let again = within(enrol(&office.endpoint, &token, state.path())).await.expect("it may be repeated");
    assert_eq!(again, first);

    // A crash after the answer, before it was kept: the waiting key asks again.
    std::fs::remove_file(&file).expect("there");
    let lost = within(enrol(&office.endpoint, &token, state.path())).await;
    assert!(lost.is_err(), "its key is gone with its certificate, and the token is used");
    let office = Office::open().await;
    let (token, state) = (office.token(), fleet_testkit::short_temp_dir());
    let key = NewKey::open(&state.path().join("worker.key")).expect("a waiting key");
    let asked = within(enrol(&office.endpoint, &token, state.path())).await.expect("enrolled");
    let kept = Credentials::read(&credentials_file(state.path())).expect("kept");
    assert_eq!(kept.key.secret_der(), key.private().secret_der(), "with the key that waited");
    assert_eq!(kept.identity().expect("an identity"), asked);

    let stranger = Office::open().await;
    let foreign = within(enrol(&stranger.endpoint, &token, fleet_testkit::short_temp_dir().path())).await;
    assert!(foreign.is_err(), "a token is good for one coordinator only");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_past_two_thirds_is_renewed_beside_the_open_session() {
    let daemon = NixDaemon::start_default();
    let mut office = Office::open().await;
    let config = config(&daemon);
    let state = config.state_dir.clone().expect("a state directory");
    office.sign(&state, 17 * 3600);
    let old = Credentials::read(&credentials_file(&state)).expect("there").identity().expect("an identity");
    let scripted = office.scripted.take().expect("unused");
    let mut driven = Driven::start_over(office.link(&state), scripted, config).await;
    let fresh = async {
        let identity = || Credentials::read(&credentials_file(&state)).ok()?.identity().ok();
        while identity().is_none_or(|identity| identity.serial == old.serial) {
            driven.beat(|_| true).await;
        }
    };
    tokio::time::timeout(PATIENCE, fresh).await.expect("renewed in time");
    assert_eq!(*office.renewed.lock().expect("no panic"), 1);
    assert_eq!(office.relay.accepted(), 1, "over the connection that was there");
    let built = driven.build(&step(&daemon, &script("after", "echo made > $out"))).await;
    assert_eq!(built.outcome, v1::OutcomeClass::Built, "the session goes on");
    driven.close();
    driven.knock().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_a_certificate_that_has_expired_does_not_hammer() {
    let daemon = NixDaemon::start_default();
    let office = Office::open().await;
    let config = config(&daemon);
    let state = config.state_dir.clone().expect("a state directory");
    office.sign(&state, 26 * 3600);
    let prepared = within(fleet_worker::Worker::prepare(config)).await.expect("prepared");
    let running = prepared.run(office.link(&state), fleet_worker::Stop::default());
    assert!(tokio::time::timeout(Duration::from_secs(5), running).await.is_err(), "it keeps trying");
    // The session and the renewal; each is refused once, and then waits.
    assert!((1..=3).contains(&office.relay.accepted()), "{} connections", office.relay.accepted());
}
