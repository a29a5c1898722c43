//! The Nix binary cache, over HTTP, beside gRPC on the coordinator's port: what is published, as narinfo and archive,
//! and the logs of builds. Archives are the frames that are kept, in a row; nothing is packed again, and no more than
//! a few frames of each are in memory.
//!
//! Owns the signing keys and the bounds of downloads. What is published is decided elsewhere; here it is only read.
//! Whoever may not read learns nothing: to it all is absent.

mod asked;
mod download;
pub(crate) mod keys;
mod narinfo;
pub(crate) mod page;
mod shelf;

use std::sync::Arc;

use arc_swap::ArcSwap;
use fleet_nix::StoreDir;
use tonic::body::Body;
use tonic::codegen::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, ETAG, IF_NONE_MATCH, TRANSFER_ENCODING};
use tonic::codegen::http::request::Parts;
use tonic::codegen::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use crate::access::{Gatekeeper, Visitor};
use crate::config::CacheConfig;
use crate::logs::LogWriter;
use crate::server::{Direction, Endable, Peer};
use asked::{Asked, NoPage};
use download::Downloads;
pub use keys::KeyError;
pub(crate) use keys::Signer;
pub(crate) use shelf::Shelf;

/// What Nix calls a narinfo.
const NARINFO: &str = "text/x-nix-narinfo";
const CACHE_INFO: &str = "text/x-nix-cache-info";

/// All pages, shared by their clones.
#[derive(Clone, Debug)]
pub(crate) struct Pages(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store_dir: StoreDir,
    gatekeeper: Gatekeeper,
    settings: ArcSwap<CacheConfig>,
    signer: Arc<Signer>,
    shelf: Shelf,
    logs: LogWriter,
    downloads: Downloads,
}

impl Pages {
    pub(crate) fn new(
        gatekeeper: Gatekeeper,
        settings: CacheConfig,
        signer: Arc<Signer>,
        shelf: Shelf,
        logs: LogWriter,
    ) -> Self {
        let (store_dir, settings) = (StoreDir::default(), ArcSwap::from_pointee(settings));
        let downloads = Downloads::default();
        Self(Arc::new(Inner { store_dir, gatekeeper, settings, signer, shelf, logs, downloads }))
    }

    /// Other settings from now on; the keys are the signer's business.
    pub(crate) fn set(&self, settings: CacheConfig) {
        self.0.settings.store(Arc::new(settings));
    }

    /// Answers one request.
    pub(crate) async fn answer(&self, mut request: Request<Body>) -> Response<Body> {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let strangers = self.0.settings.load().public;
        let visitor = match self.0.gatekeeper.admit_visitor(&mut request, strangers).await {
            Ok(visitor) => visitor,
            Err(why) => return page::of(request.method(), page::not_admitted(why, !reads)),
        };
        if !reads {
            return page::read_only();
        }
        let Visitor { stream, peer, reads: reader } = visitor;
        let stream = Arc::new(stream);
        let (request, _content) = request.into_parts();
        let answer = tokio::select! {
            answer = self.page(&request, &peer, reader) => answer,
            why = stream.ended() => page::unavailable(why.message()),
        };
        let answer = answer.map(|body| Body::new(Endable::new(body, Direction::Page, stream)));
        page::of(&request.method, answer)
    }

    async fn page(&self, request: &Parts, peer: &Peer, reader: bool) -> Response<Body> {
        let headers = &request.headers;
        if headers.contains_key(TRANSFER_ENCODING)
            || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
        {
            return page::bad("a request for a page has no content");
        }
        let asked = match Asked::of(request.uri.path()) {
            Ok(asked) => asked,
            Err(NoPage::Bad) => return page::bad("no page has such a path"),
            Err(NoPage::Absent) => return page::not_found(),
        };
        let only_head = request.method == Method::HEAD;
        let answer = match asked {
            Asked::CacheInfo => Ok(self.cache_info()),
            Asked::NarInfo(hash_part) => self.narinfo(&hash_part, headers).await,
            Asked::Nar(hash_part, nar_hash) => {
                self.nar(&hash_part, &nar_hash, headers, peer, only_head).await
            }
            // A log may tell more than what it led to: strangers read none.
            Asked::Log(drv) if reader => self.log(drv.as_str()).await,
            Asked::Log(_) => Ok(page::not_found()),
        };
        answer.unwrap_or_else(|Unreadable| page::unavailable("what is kept cannot be read now"))
    }

    fn cache_info(&self) -> Response<Body> {
        let priority = self.0.settings.load().priority;
        let store_dir = self.0.store_dir.as_str();
        page::whole(CACHE_INFO, format!("StoreDir: {store_dir}\nWantMassQuery: 1\nPriority: {priority}\n"))
    }

    async fn narinfo(&self, hash_part: &str, headers: &HeaderMap) -> Result<Response<Body>, Unreadable> {
        let Some((info, manifest)) = self.0.shelf.published(hash_part).await? else {
            return Ok(page::not_found());
        };
        let text = narinfo::text(&self.0.store_dir, info, &manifest, &self.0.signer);
        let tag = narinfo::tag(text.as_bytes());
        if has_tag(headers, &tag) {
            return Ok(not_modified(tag));
        }
        let mut response = page::whole(NARINFO, text);
        response.headers_mut().insert(ETAG, tag);
        Ok(response)
    }

    async fn nar(
        &self,
        hash_part: &str,
        nar_hash: &str,
        headers: &HeaderMap,
        peer: &Peer,
        only_head: bool,
    ) -> Result<Response<Body>, Unreadable> {
        // First of all: what waits for room is to have nothing in memory.
        let room = if only_head { None } else { Some(self.0.downloads.room(peer).await) };
        let found = self.0.shelf.published(hash_part).await?;
        let found = found.filter(|(info, _)| info.nar_hash.to_hash().to_nix32() == nar_hash);
        let Some((info, manifest)) = found else { return Ok(page::not_found()) };
        let tag = narinfo::tag_of_frames(&manifest);
        if has_tag(headers, &tag) {
            return Ok(not_modified(tag));
        }
        let wanted = download::Wanted { path: info.path, manifest, part: headers, tag: &tag };
        let mut response = match room {
            None => wanted.head(),
            Some(room) => wanted.begin(room, &self.0.shelf, peer).await?,
        };
        response.headers_mut().insert(ETAG, tag);
        page::set(&mut response, ACCEPT_RANGES, "bytes");
        Ok(response)
    }

    async fn log(&self, drv: &str) -> Result<Response<Body>, Unreadable> {
        let (logs, drv) = (self.0.logs.clone(), drv.to_owned());
        logs.flush().await;
        let found = tokio::task::spawn_blocking(move || {
            let newest = crate::logs::kept(logs.directory(), &drv).pop()?;
            logs.read(&newest, 0, false).ok()
        });
        let Some(reader) = found.await.map_err(|_| Unreadable)? else { return Ok(page::not_found()) };
        Ok(download::log(reader))
    }
}

/// What is kept cannot be read; the log says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unreadable;

fn has_tag(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|value| value.split(',')).map(str::trim);
    known.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known).as_bytes() == tag.as_bytes())
}

fn not_modified(tag: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response.headers_mut().insert(ETAG, tag);
    response
}
