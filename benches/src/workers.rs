//! Two workers of a fleet, as far as bytes go between them: the peer server of the one and the fetch engine of the
//! other, with real certificates and tickets. The coordinator's answer is made up; the time it would take is waited.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fleet_identity::{Authority, Credentials, Grant, NewKey, PublicKey, TokenId, unix_now};
use fleet_nix::daemon::{Daemon, DaemonAddress};
use fleet_nix::signature::SecretKey;
use fleet_nix::{PathInfo, StoreDir, StorePath};
use fleet_testkit::NixDaemon;
use fleet_wire::v1;
use fleet_worker::peer::{
    Fetched, Fetcher, FetcherConfig, Keys, Locate, Located, LocatedPath, ManifestCache, PeerConfig, Server,
    TICKET_PURPOSE,
};
use futures::stream::BoxStream;
use prost::Message;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::Status;

const SENDER: &str = "sender";
const RECEIVER: &str = "receiver";

/// The sending worker, and all that the receiving one needs of the fleet.
#[derive(Debug)]
pub struct Workers {
    runtime: Runtime,
    server: Server,
    daemon: DaemonAddress,
    key: SecretKey,
    receiver: PathBuf,
    _directory: TempDir,
}

impl Workers {
    /// Serves what is in this daemon's store.
    pub fn start(daemon: &NixDaemon) -> Self {
        let runtime = Runtime::new().expect("threads");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let authority = Authority::open(directory.path(), unix_now()).expect("a CA");
        let certify = |name: &str| {
            let key = NewKey::generate();
            let public = PublicKey::from_request(&key.request()).expect("a request");
            let grant = Grant { name: name.parse().expect("a name"), enrolment: TokenId::random() };
            let issued = authority.sign_worker(unix_now(), &grant, &public).expect("signed");
            let (chain, authorities) = (vec![issued.certificate.into()], authority.certificates());
            let file = directory.path().join(format!("{name}.pem"));
            Credentials { chain, key: key.private(), authorities }.write(&file).expect("written");
            file
        };
        let (sender, receiver) = (certify(SENDER), certify(RECEIVER));
        let key = SecretKey::from_seed("internal-1", &[7; 32]).expect("a name");
        let daemon = address(daemon);
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut config = PeerConfig::new(listen, sender, keys(&key), daemon.clone());
        config.manifests = Some(manifests(&directory.path().join("manifests")));
        let server = runtime.block_on(Server::start(config)).expect("it listens");
        Self { runtime, server, daemon, key, receiver, _directory: directory }
    }

    /// Where the sender listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Brings paths into the receiver's store by way of `through`; it is `distance` from the coordinator and back.
    pub fn copy(
        &self,
        receiver: &NixDaemon,
        through: SocketAddr,
        distance: Duration,
        paths: &[String],
    ) -> Fetched {
        let paths: BTreeSet<StorePath> = paths.iter().map(|path| base_name(path)).collect();
        let mut config = FetcherConfig::new(address(receiver), Some(self.receiver.clone()), keys(&self.key));
        config.manifests = Some(manifests(&receiver.scratch().join("manifests")));
        let desk = self.desk(through, distance, &paths);
        self.runtime.block_on(async {
            let fetcher = Fetcher::new(config, desk);
            let right = v1::WorkRight { lease: 1, ..v1::WorkRight::default() };
            let located = fetcher.locate(right, &paths).await.expect("known");
            fetcher.import(right, located).await.expect("copied")
        })
    }

    fn desk(&self, through: SocketAddr, distance: Duration, paths: &BTreeSet<StorePath>) -> Desk {
        let infos = self.runtime.block_on(async {
            let mut daemon = Daemon::connect(&self.daemon).await.expect("the daemon answers");
            daemon.query_path_infos(paths).await.expect("it knows")
        });
        let mut infos: Vec<PathInfo> = infos.into_iter().map(|info| info.expect("valid")).collect();
        for info in &mut infos {
            // Content-addressed paths would be believed for what they are.
            (info.content_address, info.signatures) = (None, Vec::new());
            info.sign(&StoreDir::default(), &self.key);
        }
        let body = v1::TicketBody {
            holder: SENDER.to_owned(),
            receiver: RECEIVER.to_owned(),
            expires: unix_now() + 600,
            paths: paths.iter().map(ToString::to_string).collect(),
        };
        let body = body.encode_to_vec();
        let signature = self.key.sign(&[TICKET_PURPOSE, &body].concat()).to_string();
        let holder = v1::Holder {
            worker: SENDER.to_owned(),
            addresses: vec![through.to_string()],
            ticket: Some(v1::Ticket { body: body.into(), signature }),
        };
        Desk { distance, infos, holder }
    }
}

/// What a coordinator would say.
struct Desk {
    distance: Duration,
    infos: Vec<PathInfo>,
    holder: v1::Holder,
}

impl Locate for Desk {
    async fn locate(&self, _: v1::LocateRequest) -> Result<Located, Status> {
        tokio::time::sleep(self.distance).await;
        let paths = self.infos.iter().map(|info| LocatedPath::held(info.clone(), vec![0])).collect();
        Ok(Located { holders: vec![self.holder.clone()], paths, ..Located::default() })
    }

    async fn chunks(
        &self,
        _: v1::GetRequest,
    ) -> Result<BoxStream<'static, Result<v1::Chunk, Status>>, Status> {
        Err(Status::not_found("only the sender has it"))
    }
}

fn keys(key: &SecretKey) -> Keys {
    let key = key.public_key();
    Keys::new(move || vec![key.clone()])
}

fn manifests(directory: &Path) -> Arc<ManifestCache> {
    Arc::new(ManifestCache::open(directory).expect("a directory"))
}

fn address(daemon: &NixDaemon) -> DaemonAddress {
    DaemonAddress::from_store_uri(&daemon.store_uri()).expect("a daemon's address")
}

fn base_name(path: &str) -> StorePath {
    path.rsplit('/').next().unwrap_or(path).parse().expect("a store path")
}
