//! What stands before the services until they are there: a coordinator that starts, or stands by, answers that it
//! is not serving.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::access::HEALTH_CHECK;

/// Health, and behind it the services `S` once they are there.
#[derive(Clone, Debug)]
pub(super) struct Gate<S> {
    active: Arc<OnceLock<S>>,
    health: HealthServer<HealthService>,
    closed: &'static str,
}

impl<S> Gate<S> {
    /// Nothing behind it yet; `closed` is said to who asks for more than health.
    pub(super) fn new(health: &HealthReporter, closed: &'static str) -> Self {
        let health = HealthServer::new(HealthService::from_health_reporter(health.clone()));
        Self { active: Arc::default(), health, closed }
    }

    /// From now on requests go to `services`.
    pub(super) fn open(&self, services: S) {
        // Opened once; a second opening would change nothing.
        let _ = self.active.set(services);
    }
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    /// Always: the services of tonic are.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.active.get() {
            Some(services) => Box::pin(services.clone().call(request)),
            None if request.uri().path() == HEALTH_CHECK => Box::pin(self.health.call(request)),
            None => {
                let status = Status::unavailable(self.closed);
                Box::pin(async move { Ok(status.into_http()) })
            }
        }
    }
}
