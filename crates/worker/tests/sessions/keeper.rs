//! The coordinator's chunks and paths, as a test sets them: it believes what it is told to believe, and keeps what it is
//! brought.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use fleet_store::Digest;
use fleet_wire::v1;
use fleet_wire::v1::PathStanding as Standing;
use futures::Stream;
use tokio::sync::Barrier;
use tonic::{Request, Response, Status, Streaming};

/// Shared by the services and the test.
#[derive(Clone, Default)]
pub(crate) struct Keeper(Arc<Mutex<Kept>>);

#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) chunks: BTreeMap<Bytes, Bytes>,
    pub(crate) standings: BTreeMap<String, Standing>,
    /// What is said of these when somebody vouches for them.
    pub(crate) believed: BTreeMap<String, Standing>,
    /// Everything asked for by look, question by question.
    pub(crate) looked: Vec<Vec<String>>,
    pub(crate) vouched: Vec<v1::VouchRequest>,
    /// In the order in which they came.
    pub(crate) registered: Vec<v1::StoredPath>,
    /// Chunks that were put.
    pub(crate) put: usize,
    /// How many chunks each question was about.
    pub(crate) asked: Vec<usize>,
    /// As many questions are answered only when all of them are asked.
    pub(crate) meet: Vec<Arc<Barrier>>,
    /// What a registration is refused with.
    pub(crate) refusal: Option<Status>,
    /// These are known with another content, and stand so when they are brought.
    pub(crate) differing: BTreeMap<String, Standing>,
}

impl Keeper {
    pub(crate) fn of(chunks: impl IntoIterator<Item = (Bytes, Bytes)>) -> Self {
        let keeper = Self::default();
        keeper.lock().chunks.extend(chunks);
        keeper
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().expect("no panic")
    }

    /// From now on it takes these for what is said.
    pub(crate) fn stand<S: AsRef<str>>(&self, paths: &[S], standing: Standing) {
        let mut kept = self.lock();
        for path in paths {
            kept.standings.insert(base(path.as_ref()), standing);
        }
    }

    /// Base names of what was registered, in order.
    pub(crate) fn registered(&self) -> Vec<String> {
        let kept = self.lock();
        kept.registered.iter().map(|stored| stored.info.clone().expect("an info").path).collect()
    }
}

/// The base name of a store path.
pub(crate) fn base(path: &str) -> String {
    path.trim_start_matches("/nix/store/").to_owned()
}

#[tonic::async_trait]
impl v1::chunks_server::Chunks for Keeper {
    async fn find_missing(
        &self,
        request: Request<v1::FindMissingRequest>,
    ) -> Result<Response<v1::FindMissingReply>, Status> {
        let digests = request.into_inner().digests;
        let meet = {
            let mut kept = self.lock();
            kept.asked.push(digests.len());
            kept.meet.pop()
        };
        if let Some(meet) = meet {
            meet.wait().await;
        }
        let kept = self.lock();
        let digests = digests.into_iter();
        let missing = digests.filter(|digest| !kept.chunks.contains_key(digest)).collect();
        Ok(Response::new(v1::FindMissingReply { missing }))
    }

    async fn put(&self, request: Request<Streaming<v1::Chunk>>) -> Result<Response<v1::PutReply>, Status> {
        let mut chunks = request.into_inner();
        let mut stored = 0;
        while let Some(chunk) = chunks.message().await? {
            let mut kept = self.lock();
            kept.chunks.insert(chunk.digest, chunk.frame);
            kept.put += 1;
            stored += 1;
        }
        Ok(Response::new(v1::PutReply { stored }))
    }

    type GetStream = Pin<Box<dyn Stream<Item = Result<v1::Chunk, Status>> + Send>>;

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        let request = request.into_inner();
        let chunks = self.lock().chunks.clone();
        let found = request.paths.into_iter().flat_map(|path| path.digests).map(move |digest| {
            let name =
                Digest::try_from(&*digest).map_err(|error| Status::invalid_argument(error.to_string()))?;
            let frame = chunks.get(&digest).cloned();
            let frame = frame.ok_or_else(|| Status::not_found(format!("chunk {name} is not here")))?;
            Ok(v1::Chunk { digest, frame })
        });
        Ok(Response::new(Box::pin(futures::stream::iter(found))))
    }
}

#[tonic::async_trait]
impl v1::paths_server::Paths for Keeper {
    async fn look(&self, request: Request<v1::LookRequest>) -> Result<Response<v1::LookReply>, Status> {
        let paths = request.into_inner().paths;
        let mut kept = self.lock();
        let standing = |path| kept.standings.get(path).copied().unwrap_or(Standing::Unknown).into();
        let standings = paths.iter().map(standing).collect();
        kept.looked.push(paths);
        Ok(Response::new(v1::LookReply { standings }))
    }

    async fn vouch(
        &self,
        request: Request<Streaming<v1::VouchRequest>>,
    ) -> Result<Response<v1::VouchReply>, Status> {
        let mut told = request.into_inner();
        let mut standings = Vec::new();
        while let Some(vouch) = told.message().await? {
            let v1::PathInfo { path, content_address, .. } = vouch.info.clone().expect("an info");
            let mut kept = self.lock();
            let by_content = if content_address.is_empty() { Standing::Unknown } else { Standing::Held };
            let standing = kept.believed.get(&path).copied().unwrap_or(by_content);
            if standing != Standing::Unknown {
                kept.standings.insert(path, standing);
            }
            kept.vouched.push(vouch);
            standings.push(standing.into());
        }
        Ok(Response::new(v1::VouchReply { standings }))
    }

    async fn register(
        &self,
        request: Request<Streaming<v1::StoredPath>>,
    ) -> Result<Response<v1::RegisterReply>, Status> {
        let mut paths = request.into_inner();
        let mut registered = 0;
        while let Some(stored) = paths.message().await? {
            let mut kept = self.lock();
            if let Some(refusal) = &kept.refusal {
                return Err(refusal.clone());
            }
            let chunks = stored.manifest.clone().expect("a manifest").chunks;
            assert!(chunks.iter().all(|chunk| kept.chunks.contains_key(&chunk.digest)), "bytes come first");
            let path = stored.info.clone().expect("an info").path;
            if let Some(standing) = kept.differing.get(&path).copied() {
                let refusal = Status::already_exists(format!("{path} is known with another content"));
                kept.standings.insert(path, standing);
                return Err(refusal);
            }
            kept.standings.insert(path, Standing::Kept);
            kept.registered.push(stored);
            registered += 1;
        }
        Ok(Response::new(v1::RegisterReply { registered }))
    }

    type LocateStream = Pin<Box<dyn Stream<Item = Result<v1::Located, Status>> + Send>>;

    /// Nobody has anything.
    async fn locate(
        &self,
        request: Request<v1::LocateRequest>,
    ) -> Result<Response<Self::LocateStream>, Status> {
        let request = request.into_inner();
        let kept = self.lock();
        let (lost, rest): (BTreeSet<String>, BTreeSet<String>) = request
            .paths
            .into_iter()
            .partition(|path| kept.standings.get(path).copied() == Some(Standing::Lost));
        assert!(rest.iter().all(|path| !kept.standings.contains_key(path)), "not in any test");
        let lost = v1::LostPaths { paths: lost.into_iter().collect() };
        let located = v1::Located { located: Some(v1::located::Located::Lost(lost)) };
        Ok(Response::new(Box::pin(futures::stream::iter([Ok(located)]))))
    }
}
