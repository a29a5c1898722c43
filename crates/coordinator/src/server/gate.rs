//! What stands before the services until they are there: a coordinator that starts, or stands by, answers that it
//! is not serving. Whether it serves is answered here at all times, as gRPC and as a page.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response, StatusCode};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, HealthService};

use super::front::is_call;
use crate::access::HEALTH_CHECK;
use crate::cache::page;

/// Where load balancers look.
const HEALTH_PAGE: &str = "/healthz";

/// Health, and behind it the services `S` once they are there.
#[derive(Clone, Debug)]
pub(super) struct Gate<S> {
    active: Arc<OnceLock<S>>,
    reporter: HealthReporter,
    closed: &'static str,
}

impl<S> Gate<S> {
    /// Nothing behind it yet; `closed` is said to who asks for more than health.
    pub(super) fn new(health: &HealthReporter, closed: &'static str) -> Self {
        Self { active: Arc::default(), reporter: health.clone(), closed }
    }

    /// From now on requests go to `services`.
    pub(super) fn open(&self, services: S) {
        // Opened once; a second opening would change nothing.
        let _ = self.active.set(services);
    }

    fn health(&self) -> HealthService {
        HealthService::from_health_reporter(self.reporter.clone())
    }

    async fn health_page(health: HealthService) -> Response<Body> {
        let asked = tonic::Request::new(HealthCheckRequest::default());
        let answer = health.check(asked).await.map(|answer| answer.into_inner().status());
        match answer {
            Ok(ServingStatus::Serving) => page::text(StatusCode::OK, "serving"),
            _ => page::text(StatusCode::SERVICE_UNAVAILABLE, "not serving"),
        }
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
        let is_call = is_call(&request);
        if !is_call && request.uri().path() == HEALTH_PAGE {
            let (health, method) = (self.health(), request.method().clone());
            return Box::pin(async move { Ok(page::of(&method, Self::health_page(health).await)) });
        }
        match self.active.get() {
            Some(services) => Box::pin(services.clone().call(request)),
            None if request.uri().path() == HEALTH_CHECK && is_call => {
                Box::pin(HealthServer::new(self.health()).call(request))
            }
            None if is_call => {
                let status = Status::unavailable(self.closed);
                Box::pin(async move { Ok(status.into_http()) })
            }
            None => {
                let page = page::text(StatusCode::SERVICE_UNAVAILABLE, self.closed);
                Box::pin(async move { Ok(page) })
            }
        }
    }
}
