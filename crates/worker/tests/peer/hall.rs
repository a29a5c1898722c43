//! Machines with daemons of their own and certificates of one CA, and a desk that knows where paths are, in a
//! coordinator's place.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fleet_identity::{Authority, Credentials, Grant, NewKey, PublicKey, TokenId, tls, unix_now};
use fleet_nix::daemon::{CheckSignatures, Daemon, DaemonAddress};
use fleet_nix::nar::NarWriter;
use fleet_nix::signature::SecretKey;
use fleet_nix::store_path::StorePath;
use fleet_nix::{NarHash, PathInfo, StoreDir};
use fleet_store::{cut, seal_frame};
use fleet_testkit::{DaemonOptions, NixDaemon};
use fleet_wire::v1;
use fleet_worker::peer::{
    FetchError, Fetched, Fetcher, FetcherConfig, Keys, Locate, Located, ManifestCache, PeerConfig, Server,
    TICKET_PURPOSE,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use hyper_util::rt::TokioIo;
use prost::Message;
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::{Channel, Uri};

const PATIENCE: Duration = Duration::from_mins(1);

/// Fails a test that would wait for ever.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

/// Bytes that do not compress.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(length.div_ceil(8)).flatten().take(length).collect()
}

/// The archive of one file.
pub(crate) fn file_nar(contents: &[u8]) -> Vec<u8> {
    let mut nar = NarWriter::new(Vec::new()).expect("in memory");
    nar.file(false, contents.len() as u64, contents).expect("packs");
    nar.finish().expect("whole")
}

/// A coordinator's CA and key.
pub(crate) struct Hall {
    authority: Authority,
    pub(crate) key: SecretKey,
    directory: TempDir,
    paths: AtomicU32,
}

impl Hall {
    pub(crate) fn open() -> Self {
        let directory = fleet_testkit::short_temp_dir();
        let authority = Authority::open(directory.path(), unix_now()).expect("a CA");
        let key = SecretKey::from_seed("internal-1", &[7; 32]).expect("a name");
        Self { authority, key, directory, paths: AtomicU32::new(1) }
    }

    /// The file with a worker's certificate that was signed so many seconds ago.
    pub(crate) fn certify(&self, name: &str, ago: u64) -> PathBuf {
        let key = NewKey::generate();
        let public = PublicKey::from_request(&key.request()).expect("a request");
        let grant = Grant { name: name.parse().expect("a name"), enrolment: TokenId::random() };
        let issued = self.authority.sign_worker(unix_now() - ago, &grant, &public).expect("signed");
        let (chain, authorities) = (vec![issued.certificate.into()], self.authority.certificates());
        let file = self.directory.path().join(format!("{name}.pem"));
        Credentials { chain, key: key.private(), authorities }.write(&file).expect("written");
        file
    }

    pub(crate) fn keys(&self) -> Keys {
        let key = self.key.public_key();
        Keys::new(move || vec![key.clone()])
    }

    /// A name that no other path of the test has.
    pub(crate) fn path(&self, name: &str) -> StorePath {
        let number = self.paths.fetch_add(1, Ordering::Relaxed);
        format!("{number:0>32}-{name}").parse().expect("a store path")
    }

    /// A machine that takes only what is signed.
    pub(crate) fn machine(&self, name: &str) -> Machine {
        self.machine_with(name, |_| {})
    }

    pub(crate) fn machine_with(&self, name: &str, adjust: impl FnOnce(&mut DaemonOptions)) -> Machine {
        let mut options = DaemonOptions { require_signatures: true, ..DaemonOptions::default() };
        adjust(&mut options);
        let daemon = NixDaemon::start(&options);
        let address = DaemonAddress::from_store_uri(&daemon.store_uri()).expect("a daemon's address");
        let manifests = ManifestCache::open(&daemon.scratch().join("cuts")).expect("a directory");
        Machine { daemon, address, credentials: self.certify(name, 0), manifests: Arc::new(manifests) }
    }

    /// A connection from one worker to another.
    pub(crate) async fn dial(&self, from: &str, to: &str, address: SocketAddr) -> Channel {
        let own = Credentials::read(&self.certify(from, 0)).expect("a certificate");
        let config = tls::peer_client_config(&own, to.parse().expect("a name")).expect("usable");
        let within = Duration::from_secs(5);
        let dialled = tls::dial(config, &address.ip().to_string(), address.port(), within).await;
        let mut stream = Some(TokioIo::new(dialled.expect("it listens")));
        let once = tower::service_fn(move |_: Uri| {
            let stream = stream.take();
            async move { stream.ok_or(std::io::Error::from(std::io::ErrorKind::NotConnected)) }
        });
        let endpoint = tonic::transport::Endpoint::from_static("https://worker");
        endpoint.connect_with_connector(once).await.expect("connected")
    }

    /// A desk that knows these paths, each after its references.
    pub(crate) fn desk(&self, paths: &[&PathInfo]) -> Desk {
        let mut infos: Vec<PathInfo> = paths.iter().map(|info| (*info).clone()).collect();
        for info in &mut infos {
            info.sign(&StoreDir::default(), &self.key);
        }
        Desk {
            key: self.key.clone(),
            infos,
            told: Arc::default(),
            kept: Arc::default(),
            asked: Arc::default(),
        }
    }
}

/// One machine of a fleet.
pub(crate) struct Machine {
    pub(crate) daemon: NixDaemon,
    pub(crate) address: DaemonAddress,
    pub(crate) credentials: PathBuf,
    pub(crate) manifests: Arc<ManifestCache>,
}

impl Machine {
    pub(crate) async fn connect(&self) -> Daemon {
        Daemon::connect(&self.address).await.expect("the daemon answers")
    }

    /// Adds a path as if it had been built here.
    pub(crate) async fn add(&self, path: &StorePath, nar: &[u8], references: &[&PathInfo]) -> PathInfo {
        let info = PathInfo {
            path: path.clone(),
            deriver: None,
            nar_hash: NarHash::of(nar),
            references: references.iter().map(|info| info.path.clone()).collect(),
            registration_time: 0,
            nar_size: nar.len() as u64,
            ultimate: false,
            signatures: Vec::new(),
            content_address: None,
        };
        let mut daemon = self.connect().await;
        daemon.add_to_store_nar(&info, &mut &nar[..], CheckSignatures::No).await.expect("added");
        info
    }

    pub(crate) async fn has(&self, info: &PathInfo) -> bool {
        self.connect().await.is_valid_path(&info.path).await.expect("answers")
    }

    /// What the store has under this path now.
    pub(crate) async fn nar(&self, info: &PathInfo) -> Vec<u8> {
        let mut nar = Vec::new();
        self.connect().await.nar_from_path(&info.path, &mut nar).await.expect("it is there");
        nar
    }

    pub(crate) async fn serve(&self, hall: &Hall) -> Server {
        self.serve_with(hall, |_| {}).await
    }

    pub(crate) async fn serve_with(&self, hall: &Hall, adjust: impl FnOnce(&mut PeerConfig)) -> Server {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = PeerConfig::new(listen, self.credentials.clone(), hall.keys(), self.address.clone());
        config.manifests = Some(self.manifests.clone());
        adjust(&mut config);
        Server::start(config).await.expect("it listens")
    }

    pub(crate) fn fetcher(&self, hall: &Hall, desk: &Desk) -> Fetcher<Desk> {
        let mut config =
            FetcherConfig::new(self.address.clone(), Some(self.credentials.clone()), hall.keys());
        config.manifests = Some(self.manifests.clone());
        Fetcher::new(config, desk.clone())
    }

    /// Brings all that the desk knows.
    pub(crate) async fn fetch(&self, hall: &Hall, desk: &Desk) -> Result<Fetched, FetchError> {
        let fetcher = self.fetcher(hall, desk);
        within(async {
            let paths: BTreeSet<StorePath> = desk.infos.iter().map(|info| info.path.clone()).collect();
            let right = v1::WorkRight { lease: 1, ..v1::WorkRight::default() };
            let located = fetcher.locate(right, &paths).await?;
            fetcher.import(right, located).await
        })
        .await
    }
}

/// Who has what, as a coordinator says it.
#[derive(Clone)]
pub(crate) struct Desk {
    key: SecretKey,
    infos: Vec<PathInfo>,
    told: Arc<Mutex<Vec<Told>>>,
    kept: Arc<Mutex<HashMap<StorePath, Kept>>>,
    asked: Arc<Mutex<Vec<v1::LocateRequest>>>,
}

type Kept = Vec<(v1::ChunkRef, Bytes)>;

#[derive(Clone)]
struct Told {
    holder: v1::Holder,
    paths: BTreeSet<StorePath>,
}

impl Desk {
    /// Has a machine named as a holder of some paths, for this receiver.
    pub(crate) fn tell(&self, holder: &str, address: SocketAddr, receiver: &str, paths: &[&PathInfo]) {
        self.tell_with(holder, address, receiver, paths, |_| {});
    }

    pub(crate) fn tell_with(
        &self,
        holder: &str,
        address: SocketAddr,
        receiver: &str,
        paths: &[&PathInfo],
        adjust: impl FnOnce(&mut v1::TicketBody),
    ) {
        let names: BTreeSet<StorePath> = paths.iter().map(|info| info.path.clone()).collect();
        let mut body = v1::TicketBody {
            holder: holder.to_owned(),
            receiver: receiver.to_owned(),
            expires: unix_now() + 60,
            paths: names.iter().map(ToString::to_string).collect(),
        };
        adjust(&mut body);
        let body = body.encode_to_vec();
        let signature = self.key.sign(&[TICKET_PURPOSE, &body].concat()).to_string();
        let ticket = Some(v1::Ticket { body: body.into(), signature });
        let (worker, addresses) = (holder.to_owned(), vec![address.to_string()]);
        let holder = v1::Holder { worker, addresses, ticket };
        self.told.lock().expect("no panic").push(Told { holder, paths: names });
    }

    /// From the next question with `relay` on the coordinator has this path itself.
    pub(crate) fn keep_for_relay(&self, info: &PathInfo, nar: &[u8]) {
        let chunks = cut(nar).map(|chunk| {
            let chunk = chunk.expect("cuts");
            let digest = Bytes::copy_from_slice(&chunk.digest.0);
            let size = u32::try_from(chunk.data.len()).expect("small");
            (v1::ChunkRef { digest, size }, seal_frame(&chunk).expect("seals"))
        });
        self.kept.lock().expect("no panic").insert(info.path.clone(), chunks.collect());
    }

    /// Of another fleet.
    pub(crate) fn sign_tickets_with(&mut self, key: &SecretKey) {
        self.key = key.clone();
    }

    /// Says something of paths that was not signed.
    pub(crate) fn change_info(&mut self, change: impl FnMut(&mut PathInfo)) {
        self.infos.iter_mut().for_each(change);
    }

    /// Of all holders that were told.
    pub(crate) fn tickets(&self) -> Vec<v1::Ticket> {
        let told = self.told.lock().expect("no panic");
        told.iter().filter_map(|told| told.holder.ticket.clone()).collect()
    }

    /// Questions with `relay`.
    pub(crate) fn relays(&self) -> Vec<v1::LocateRequest> {
        let asked = self.asked.lock().expect("no panic");
        asked.iter().filter(|request| request.relay).cloned().collect()
    }
}

impl Locate for Desk {
    async fn locate(&self, request: v1::LocateRequest) -> Result<Located, Status> {
        self.asked.lock().expect("no panic").push(request.clone());
        let told = self.told.lock().expect("no panic").clone();
        let told: Vec<Told> =
            told.into_iter().filter(|told| !request.unreachable.contains(&told.holder.worker)).collect();
        let kept = self.kept.lock().expect("no panic");
        let mut located =
            Located { holders: told.iter().map(|told| told.holder.clone()).collect(), ..Located::default() };
        for info in self.infos.iter().filter(|info| request.paths.contains(&info.path.to_string())) {
            let holders = (0_u32..).zip(&told).filter(|(_, told)| told.paths.contains(&info.path));
            let chunks = kept.get(&info.path).filter(|_| request.relay);
            let path = v1::LocatedPath {
                info: Some(wire(info)),
                holders: holders.map(|(number, _)| number).collect(),
                manifest: chunks.map(|chunks| v1::Manifest {
                    chunks: chunks.iter().map(|(chunk, _)| chunk.clone()).collect(),
                }),
                upstream: false,
            };
            let part = v1::Located { located: Some(v1::located::Located::Path(path)) };
            located.add(part).expect("well formed");
        }
        Ok(located)
    }

    async fn chunks(
        &self,
        request: v1::GetRequest,
    ) -> Result<BoxStream<'static, Result<v1::Chunk, Status>>, Status> {
        let kept = self.kept.lock().expect("no panic");
        let mut chunks = Vec::new();
        for asked in &request.paths {
            let path: StorePath = asked.path.parse().expect("a store path");
            let known = kept.get(&path).ok_or_else(|| Status::not_found("not kept"))?;
            for digest in &asked.digests {
                let (_, frame) = known.iter().find(|(chunk, _)| chunk.digest == digest).expect("its own");
                chunks.push(Ok(v1::Chunk { digest: digest.clone(), frame: frame.clone() }));
            }
        }
        Ok(futures::stream::iter(chunks).boxed())
    }
}

fn wire(info: &PathInfo) -> v1::PathInfo {
    v1::PathInfo {
        path: info.path.to_string(),
        nar_hash: info.nar_hash.0.to_vec().into(),
        nar_size: info.nar_size,
        references: info.references.iter().map(ToString::to_string).collect(),
        content_address: info.content_address.as_ref().map(ToString::to_string).unwrap_or_default(),
        signatures: info.signatures.iter().map(ToString::to_string).collect(),
        ..v1::PathInfo::default()
    }
}
