//! Which services a request is for: gRPC, or pages, which any HTTP client can ask for. Owns no state.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::header::CONTENT_TYPE;
use tonic::codegen::http::{Request, Response, Version};
use tonic::service::Routes;

use crate::access::Access;
use crate::cache::Pages;

/// Both kinds of services.
#[derive(Clone, Debug)]
pub(super) struct Front {
    procedures: Access<Routes>,
    pages: Pages,
}

impl Front {
    pub(super) fn new(procedures: Access<Routes>, pages: Pages) -> Self {
        Self { procedures, pages }
    }
}

/// Whether a request calls a procedure. The older HTTP has no trailers that clients would read: there is none there.
pub(super) fn is_call(request: &Request<Body>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE);
    let is_grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    is_grpc && request.version() == Version::HTTP_2
}

impl Service<Request<Body>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    /// Always: both are.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if is_call(&request) {
            return self.procedures.call(request);
        }
        let pages = self.pages.clone();
        Box::pin(async move { Ok(pages.answer(request).await) })
    }
}
