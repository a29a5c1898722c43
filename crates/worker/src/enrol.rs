//! Trades a join token for this worker's certificate. The key is made here and never leaves; asking again with the same
//! token, after whatever went wrong, gives the same certificate.

use std::path::{Path, PathBuf};

use fleet_identity::{
    Credentials, CredentialsError, FileError, Identity, IdentityError, JoinToken, Kind, NewKey, RequestError,
    tls, unix_now,
};
use fleet_wire::v1;
use thiserror::Error;

use crate::link::{Endpoint, Link};

/// Key, certificate and CA, in one file of the state directory.
pub(crate) const CREDENTIALS: &str = "worker.pem";
/// A key that waits for its certificate.
const WAITING: &str = "worker.key";

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum EnrolError {
    /// The state directory.
    #[error("cannot create {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The waiting key.
    #[error(transparent)]
    Key(#[from] RequestError),
    /// The token's CA cannot be trusted.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The coordinator did not answer, or refused.
    #[error("the coordinator does not enrol this worker")]
    Refused(#[source] Box<tonic::Status>),
    /// The certificate cannot be kept.
    #[error(transparent)]
    File(#[from] FileError),
    /// What came back is no certificate.
    #[error("the coordinator's answer names nobody")]
    Answer(#[from] IdentityError),
    /// What is there cannot be read.
    #[error("what an earlier enrolment left cannot be read")]
    Present(#[from] CredentialsError),
}

/// Where a worker keeps its certificate.
pub fn credentials_file(state_dir: &Path) -> PathBuf {
    state_dir.join(CREDENTIALS)
}

/// Enrols, and says as whom.
pub async fn enrol(endpoint: &Endpoint, token: &JoinToken, state_dir: &Path) -> Result<Identity, EnrolError> {
    let directory = |source| EnrolError::Directory { path: state_dir.to_owned(), source };
    std::fs::create_dir_all(state_dir).map_err(directory)?;
    let file = credentials_file(state_dir);
    if let Some(identity) = present(&file, token)? {
        return Ok(identity);
    }
    let waiting = state_dir.join(WAITING);
    let key = NewKey::open(&waiting)?;
    let link = Link::stranger(endpoint, tls::pinned(token.authority)?);
    let mut client = v1::enrolment_client::EnrolmentClient::new(link.channel);
    let request = v1::EnrolRequest { token: token.to_string(), request: key.request().into() };
    let reply = client.enrol(request).await.map_err(|status| EnrolError::Refused(Box::new(status)))?;
    let identity = keep(reply.into_inner(), &key, &file)?;
    // Its work is done; the key stands beside its certificate now.
    let _ = std::fs::remove_file(waiting);
    Ok(identity)
}

/// Puts an answered request in place of what is there.
pub(crate) fn keep(reply: v1::EnrolReply, key: &NewKey, file: &Path) -> Result<Identity, EnrolError> {
    let der =
        |certificates: Vec<bytes::Bytes>| certificates.into_iter().map(|der| der.to_vec().into()).collect();
    let credentials =
        Credentials { chain: der(reply.chain), key: key.private(), authorities: der(reply.authorities) };
    let identity = credentials.identity()?;
    credentials.write(file)?;
    Ok(identity)
}

/// The certificate that this very token gave, if it is still good.
fn present(file: &Path, token: &JoinToken) -> Result<Option<Identity>, EnrolError> {
    let credentials = match Credentials::read(file) {
        Err(CredentialsError::File(FileError::Missing(_))) => return Ok(None),
        other => other?,
    };
    let identity = credentials.identity()?;
    let is_same = matches!(identity.kind, Kind::Worker { enrolment } if enrolment == token.id);
    Ok((is_same && unix_now() < identity.not_after).then_some(identity))
}
