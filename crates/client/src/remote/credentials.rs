//! Who we say we are: files and tokens, read when they are needed, so that renewed ones count at once.
//!
//! What is read here goes into a TLS handshake or a request's header and nowhere else: never into a log, an error or
//! a listing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fleet_identity::keyfile;
use fleet_identity::tls::TlsError;
use fleet_identity::{CredentialsError, FileError, IdentityError};
use thiserror::Error;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// A text that is shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps it.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Everything that tells the coordinator who we are, and us who it is.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Certificates of the authority that vouches for the coordinator; without, those that came with our certificate,
    /// else those of the system.
    pub ca: Option<PathBuf>,
    /// Our certificate and its private key.
    pub certificate: Option<CertificateFiles>,
    /// What every request carries.
    pub token: Option<TokenSource>,
}

/// PEM files.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// Ours, then those between it and the authority.
    pub certificate: PathBuf,
    /// Its private key; none if it stands in the same file, as coordinators write them.
    pub key: Option<PathBuf>,
}

/// Where a token comes from.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// The environment.
    Given(Secret),
    /// A file that is nobody else's.
    PrivateFile(PathBuf),
    /// A file that a CI system renews; it is short-lived, and its permissions are the system's.
    CiFile(PathBuf),
}

/// Why we cannot say who we are, or cannot tell who the other is.
#[derive(Clone, Debug, Error)]
pub enum CredentialError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] Arc<FileError>),
    /// A file with key and certificate is not what it should be.
    #[error(transparent)]
    Own(#[from] Arc<CredentialsError>),
    /// Our certificate names nobody.
    #[error("{path}: this certificate is not one of a coordinator's clients", path = .0.display())]
    Nameless(PathBuf, #[source] IdentityError),
    /// It is not what it should be.
    #[error("{path}: holds no {what} in PEM", path = path.display())]
    Lacks {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// A token that cannot stand in a header.
    #[error("the token of {0} is no token: it is empty, or holds spaces or control characters")]
    Token(String),
    /// Certificates and key do not make a whole.
    #[error(transparent)]
    Unusable(#[from] Arc<TlsError>),
    /// There is nobody to vouch for the coordinator.
    #[error("this machine has no list of certificate authorities")]
    NoAuthorities,
}

/// Puts the token into each request.
#[derive(Clone, Debug, Default)]
pub struct Bearer(Option<TokenSource>);

impl Bearer {
    /// Tokens from there; none for requests without.
    pub(super) fn new(token: Option<TokenSource>) -> Self {
        Self(token)
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(source) = &self.0 {
            let header = source.header().map_err(unusable)?;
            request.metadata_mut().insert("authorization", header);
        }
        Ok(request)
    }
}

fn unusable(error: CredentialError) -> Status {
    let mut status = Status::unauthenticated(error.to_string());
    status.set_source(Arc::new(error));
    status
}

impl TokenSource {
    /// Read anew for each request: files are renewed while a run goes on.
    fn header(&self) -> Result<MetadataValue<Ascii>, CredentialError> {
        let (bytes, place) = match self {
            Self::Given(Secret(text)) => (text.clone().into_bytes(), "FLEET_TOKEN".to_owned()),
            Self::PrivateFile(path) => (read_private(path)?, path.display().to_string()),
            Self::CiFile(path) => (read(path)?, path.display().to_string()),
        };
        let token = bytes.trim_ascii();
        let fit = !token.is_empty() && token.iter().all(u8::is_ascii_graphic);
        let header =
            fit.then(|| MetadataValue::try_from([b"Bearer ", token].concat().as_slice()).ok()).flatten();
        let mut header = header.ok_or(CredentialError::Token(place))?;
        header.set_sensitive(true);
        Ok(header)
    }
}

/// A file that tells who the other is: anybody may read it.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, CredentialError> {
    keyfile::read_public(path).map_err(|error| CredentialError::File(Arc::new(error)))
}

/// A file that tells who we are: it must be ours alone.
pub(super) fn read_private(path: &Path) -> Result<Vec<u8>, CredentialError> {
    let bytes = keyfile::read_private(path).map_err(|error| CredentialError::File(Arc::new(error)))?;
    Ok(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn header(source: &TokenSource) -> Result<String, String> {
        let header = source.header().map_err(|error| error.to_string())?;
        Ok(header.to_str().expect("ASCII").to_owned())
    }

    fn file(directory: &tempfile::TempDir, text: &str, mode: u32) -> PathBuf {
        let path = directory.path().join("token");
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
        path
    }

    #[test]
    fn a_token_is_read_anew_for_each_request() {
        let directory = tempfile::tempdir().expect("directory");
        let source = TokenSource::PrivateFile(file(&directory, "first\n", 0o600));
        assert_eq!(header(&source), Ok("Bearer first".to_owned()));
        file(&directory, "second\n", 0o600);
        assert_eq!(header(&source), Ok("Bearer second".to_owned()));
    }

    #[test]
    fn a_secret_that_everybody_can_read_is_refused() {
        let directory = tempfile::tempdir().expect("directory");
        let path = file(&directory, "secret", 0o644);
        assert!(
            header(&TokenSource::PrivateFile(path.clone())).expect_err("refused").contains("others can read")
        );
        assert_eq!(header(&TokenSource::CiFile(path)), Ok("Bearer secret".to_owned()));
    }

    #[test]
    fn no_error_and_no_debug_output_holds_the_token() {
        let directory = tempfile::tempdir().expect("directory");
        for token in ["", "two words", "line\nline", "bell\u{7}", "grün"] {
            let source = TokenSource::PrivateFile(file(&directory, token, 0o600));
            let error = header(&source).expect_err("refused");
            assert!(token.is_empty() || !error.contains(token), "{error}");
        }
        let secret = TokenSource::Given(Secret::new("fleet-client-v1.secret"));
        assert!(!format!("{secret:?}").contains("v1"), "{secret:?}");
        assert!(header(&secret).is_ok());
    }
}
