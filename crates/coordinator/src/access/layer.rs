//! The layer in front of all services: finds out who calls, asks the table, and holds on to every open request, so
//! that it ends when its caller is shut out or the coordinator stops.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use fleet_identity::oidc::Verifier;
use fleet_identity::{ClientToken, Identity, Kind, Refused, unix_now};
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use tonic::{Code, Status};

use super::table::{Denied, find};
use super::{Caller, Directory, Failures};
use crate::rpc::status;
use crate::server::{Direction, Endable, OpenStream, OpenStreams, Peer, PeerOrigin, TooMany, network};

/// How often open requests are looked at again: certificates expire without anybody saying so.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// After its streams were told why they end, a connection of somebody shut out has so long.
const CUT_AFTER: Duration = Duration::from_secs(1);

/// What is needed to tell who calls.
#[derive(Clone, Debug)]
pub(crate) struct Gatekeeper(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    directory: Directory,
    oidc: ArcSwap<Verifier>,
    pub(super) open: Arc<OpenStreams<Shown>>,
    pub(super) failures: Arc<Failures>,
}

/// What the caller of an open request has shown, to be looked at again.
#[derive(Clone, Debug)]
pub(crate) enum Shown {
    Nothing,
    Certificate { identity: Arc<Identity>, connection: CancellationToken },
    Token { token: Arc<ClientToken>, expires: u64 },
}

impl Gatekeeper {
    /// Lets in whom the directory and the issuers know. Each caller may have `max_requests` open; who fails to show
    /// a page's reader is counted among `failures`.
    pub(crate) fn new(
        directory: Directory,
        oidc: Verifier,
        max_requests: usize,
        failures: Arc<Failures>,
    ) -> Self {
        let (oidc, open) = (ArcSwap::from_pointee(oidc), OpenStreams::new(max_requests));
        Self(Arc::new(Inner { directory, oidc, open, failures }))
    }

    /// Each caller may have so many requests open from now on.
    pub(crate) fn set_limit(&self, max_requests: usize) {
        self.0.open.set_limit(max_requests);
    }

    /// Other issuers from now on.
    pub(crate) fn set_issuers(&self, oidc: Verifier) {
        self.0.oidc.store(Arc::new(oidc));
    }

    /// Ends every open request.
    pub(crate) fn end_all(&self, why: &Status) {
        self.0.open.end(|_| Some(why.clone()));
    }

    /// Whether nobody could have come as a worker yet.
    pub(crate) fn knows_no_worker(&self) -> bool {
        self.0.directory.borrow().workers().next().is_none()
    }

    /// How many requests are open.
    pub(crate) fn open(&self) -> usize {
        self.0.open.count()
    }

    /// Ends requests of whoever is no longer let in, for as long as the directory is kept. To be spawned.
    pub(crate) async fn look_after(self) {
        let mut directory = self.0.directory.clone();
        loop {
            tokio::select! {
                changed = directory.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_AGAIN_AFTER) => {}
            }
            let now = unix_now();
            self.0.open.end(|shown| self.no_longer(shown, now));
        }
    }

    fn no_longer(&self, shown: &Shown, now: u64) -> Option<Status> {
        let directory = self.0.directory.borrow();
        match shown {
            Shown::Certificate { identity, connection } => {
                let refused = directory.admit(now, identity).err()?;
                // What a client asked for in time is answered; a worker must have come with a new certificate.
                if matches!((&refused, identity.kind), (Refused::Expired(_), Kind::Client { .. })) {
                    return None;
                }
                let connection = connection.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(CUT_AFTER).await;
                    connection.cancel();
                });
                Some(status::shut_out(&refused))
            }
            Shown::Token { token, expires } if now < *expires => {
                directory.client(now, token).err().map(|refused| status::shut_out(&refused))
            }
            Shown::Nothing | Shown::Token { .. } => None,
        }
    }

    /// Who calls, by the connection, else by the token.
    pub(super) async fn identify(&self, peer: &Peer, token: Token<'_>) -> Result<(Caller, Shown), Status> {
        let identity = match &peer.origin {
            PeerOrigin::Here => return Ok((Caller::Here, Shown::Nothing)),
            PeerOrigin::Remote { identity, .. } => identity,
        };
        let now = unix_now();
        if let Some(identity) = identity {
            let admitted = self.0.directory.borrow().admit(now, identity);
            admitted.map_err(|refused| status::shut_out(&refused))?;
            let shown = Shown::Certificate { identity: identity.clone(), connection: peer.cut.clone() };
            return Ok((Caller::from_certificate(identity), shown));
        }
        let token = match token {
            Token::Absent => return Ok((Caller::Nobody, Shown::Nothing)),
            Token::Unreadable(why) => return Err(status::bad_credential(why)),
            Token::Shown(token) => token,
        };
        if ClientToken::is_meant_by(token) {
            let token: ClientToken = token.parse().map_err(|error| status::bad_credential(&error))?;
            let client = self.0.directory.borrow().client(now, &token);
            let client = client.map_err(|refused| status::shut_out(&refused))?;
            let shown = Shown::Token { token: Arc::new(token), expires: client.expires };
            return Ok((Caller::Client(Arc::new(client)), shown));
        }
        let oidc = self.0.oidc.load_full();
        let client = oidc.verify(token, now).await.map_err(|error| status::not_verified(&error))?;
        Ok((Caller::Client(Arc::new(client)), Shown::Nothing))
    }

    async fn admit(&self, request: &mut Request<Body>) -> Result<OpenStream<Shown>, Status> {
        let who = find(request.uri().path()).ok_or_else(status::not_served)?;
        let peer = request.extensions().get::<Peer>().cloned().ok_or_else(status::no_peer)?;
        let (caller, shown) = self.identify(&peer, bearer(request.headers())).await?;
        // No service, and no log of one, has business with it.
        request.headers_mut().remove(AUTHORIZATION);
        match who.check(&caller) {
            Ok(()) => {
                let counted = counted_as(&caller, &peer);
                request.extensions_mut().insert(caller);
                self.0.open.open(counted, shown).map_err(|TooMany| status::too_many_requests())
            }
            Err(Denied::Unknown) => Err(status::who_are_you()),
            Err(Denied::Forbidden(who)) => Err(status::forbidden(&who.describe())),
        }
    }
}

/// What a request holds of a token.
#[derive(Clone, Copy, Debug)]
pub(super) enum Token<'a> {
    Absent,
    Unreadable(&'static str),
    Shown(&'a str),
}

fn bearer(headers: &HeaderMap) -> Token<'_> {
    let Some(header) = headers.get(AUTHORIZATION) else { return Token::Absent };
    match header.to_str().ok().and_then(|text| text.split_once(' ')) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Token::Shown(token),
        _ => Token::Unreadable("the authorization header holds no bearer token"),
    }
}

/// Under which name a caller's requests are counted; this machine's own are not.
pub(super) fn counted_as(caller: &Caller, peer: &Peer) -> Option<String> {
    match (caller, &peer.origin) {
        (Caller::Worker(identity), _) => Some(format!("worker {}", identity.name)),
        (Caller::Client(client), _) => Some(format!("client {}", client.name)),
        (Caller::Nobody, PeerOrigin::Remote { address, .. }) => Some(network(*address).to_string()),
        _ => None,
    }
}

/// Our services never answer INTERNAL. Where tonic does so in their place, the caller's bytes are no messages.
fn blame_caller(answer: Response<Body>) -> Response<Body> {
    match Status::from_header_map(answer.headers()) {
        Some(error) if error.code() == Code::Internal => status::of_peer(error).into_http(),
        _ => answer,
    }
}

/// Services behind a gatekeeper.
#[derive(Clone, Debug)]
pub(crate) struct Access<S> {
    services: S,
    gatekeeper: Gatekeeper,
}

impl<S> Access<S> {
    pub(crate) fn new(services: S, gatekeeper: Gatekeeper) -> Self {
        Self { services, gatekeeper }
    }
}

impl<S> Service<Request<Body>> for Access<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    /// Always: the services of tonic are.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let (gatekeeper, mut services) = (self.gatekeeper.clone(), self.services.clone());
        Box::pin(async move {
            let stream = match gatekeeper.admit(&mut request).await {
                Ok(stream) => Arc::new(stream),
                Err(refused) => return Ok(refused.into_http()),
            };
            let held = stream.clone();
            let request = request.map(|body| Body::new(Endable::new(body, Direction::Request, held)));
            let answer = tokio::select! {
                answer = services.call(request) => answer?,
                why = stream.ended() => return Ok(why.into_http()),
            };
            Ok(blame_caller(answer).map(|body| Body::new(Endable::new(body, Direction::Response, stream))))
        })
    }
}
