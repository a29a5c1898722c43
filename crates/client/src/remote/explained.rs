//! Why a coordinator hung up on us: it looks at our certificate only after our half of the handshake, and what it
//! answers then is often lost with the connection. So after a failure it is asked again, with nothing to lose.

use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, StdError, http};
use tonic::transport::Channel;

use super::connection::{ReachError, Way};

/// A channel that finds out whether a request failed because our certificate is refused.
#[derive(Clone, Debug)]
pub struct Explained {
    channel: Channel,
    way: Option<Arc<Way>>,
}

impl Explained {
    /// Without a way there is nothing to find out.
    pub(super) fn new(channel: Channel, way: Option<Way>) -> Self {
        Self { channel, way: way.map(Arc::new) }
    }
}

impl Service<http::Request<Body>> for Explained {
    type Response = http::Response<Body>;
    type Error = StdError;
    type Future = BoxFuture<Self::Response, StdError>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        self.channel.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (answer, way) = (self.channel.call(request), self.way.clone());
        Box::pin(async move {
            let error: StdError = match answer.await {
                Ok(response) => return Ok(response),
                Err(error) => error.into(),
            };
            match way {
                Some(way) if !is_known(&*error) => match way.refusal().await {
                    Some(refusal) => Err(of_stream(refusal)),
                    None => Err(error),
                },
                _ => Err(error),
            }
        })
    }
}

/// Whether the connection never came about: that says why by itself.
fn is_known(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(|error| error.downcast_ref::<ReachError>().is_some())
}

/// Its kind is found among the causes of a status.
fn of_stream(error: ReachError) -> StdError {
    let mut status = Status::unavailable(error.to_string());
    status.set_source(Arc::new(error));
    status.into()
}
