//! Renews this worker's certificate when two thirds of its life are over, beside the open session: connections made
//! afterwards show the new one. By the wall clock, as certificates are; a clock that jumped is noticed within a minute.

use std::path::Path;
use std::time::Duration;

use fleet_identity::{Credentials, NewKey, unix_now};
use fleet_wire::v1;
use tonic::transport::Channel;

use crate::backoff;
use crate::enrol::{self, EnrolError};

/// Between two looks at the clock.
const LOOK: Duration = Duration::from_mins(1);

/// Keeps the certificate in `file` fresh, for ever.
pub(crate) async fn keep_fresh(channel: Channel, file: &Path) {
    loop {
        if is_due(file) {
            match renew(channel.clone(), file).await {
                Ok(until) => tracing::info!(until, "the certificate has been renewed"),
                Err(error) => tracing::warn!(
                    "the certificate cannot be renewed: {}; trying again",
                    fleet_telemetry::with_causes(&error)
                ),
            }
        }
        // Not all workers of a fleet at once.
        tokio::time::sleep(LOOK / 2 + backoff::share(LOOK, backoff::random())).await;
    }
}

fn is_due(file: &Path) -> bool {
    let identity = Credentials::read(file).ok().and_then(|credentials| credentials.identity().ok());
    identity.is_some_and(|identity| identity.renew_at() <= unix_now())
}

async fn renew(channel: Channel, file: &Path) -> Result<u64, EnrolError> {
    let key = NewKey::generate();
    let mut client = v1::enrolment_client::EnrolmentClient::new(channel);
    let request = v1::RenewRequest { request: key.request().into() };
    let reply = client.renew(request).await.map_err(|status| EnrolError::Refused(Box::new(status)))?;
    Ok(enrol::keep(reply.into_inner(), &key, file)?.not_after)
}
