//! TLS configurations for both ends, of certificates and keys that are already in memory.
//!
//! One port serves callers with and without a certificate; who has none may do only what needs no identity. TLS 1.3
//! only: both ends are ours, and all who else may come speak it. Sessions are never resumed: a resumed one would skip the check of the certificate.

mod dial;
mod failure;
mod peer;
mod pinned;

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::credentials::Credentials;
use crate::secret::Fingerprint;

pub use dial::{DialError, dial};
pub use failure::{TlsFailure, explain};
pub use peer::{peer_client_config, peer_server_config};

/// Both kinds of HTTP that the port speaks, the better one first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate, a key, or both together.
    #[error("the key or a certificate cannot be used")]
    Unusable(#[source] rustls::Error),
    /// No CA to trust.
    #[error("there is no CA certificate to trust")]
    NoAuthority,
    /// The CAs cannot verify anything.
    #[error("the CA certificates cannot be used")]
    Authorities(#[source] rustls::client::VerifierBuilderError),
}

/// What the port shows and trusts, exchangeable while connections live: each keeps what it began with.
#[derive(Debug)]
pub struct ServerTls {
    current: ArcSwap<ServerConfig>,
}

impl ServerTls {
    /// Shows the credentials' chain and trusts their authorities.
    pub fn new(credentials: &Credentials) -> Result<Self, TlsError> {
        Ok(Self { current: ArcSwap::from_pointee(server_config(credentials)?) })
    }

    /// For the next connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// From the next connection on; on an error everything stays as it was.
    pub fn reload(&self, credentials: &Credentials) -> Result<(), TlsError> {
        self.current.store(Arc::new(server_config(credentials)?));
        Ok(())
    }
}

/// For workers and clients: trusts the authorities, shows the certificate if there is one.
pub fn client_config(
    authorities: &[CertificateDer<'static>],
    shown: Option<&Credentials>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = client_builder(&[&TLS13])?.with_root_certificates(roots(authorities)?);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(own) => builder
            .with_client_auth_cert(own.chain.clone(), own.key.clone_key())
            .map_err(TlsError::Unusable)?,
    };
    finish_client(&mut config);
    Ok(Arc::new(config))
}

/// For a machine that has nothing but a join token: trusts exactly the CA that the token names.
pub fn pinned(authority: Fingerprint) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = Arc::new(pinned::PinnedAuthority::new(authority, provider()));
    let mut config = client_builder(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    finish_client(&mut config);
    Ok(Arc::new(config))
}

/// For an https address of the world: a few odd certificates among a system's CAs do not matter.
pub(crate) fn https_config(authorities: Vec<CertificateDer<'static>>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities);
    Ok(Arc::new(
        client_builder(rustls::DEFAULT_VERSIONS)?.with_root_certificates(roots).with_no_client_auth(),
    ))
}

fn server_config(credentials: &Credentials) -> Result<ServerConfig, TlsError> {
    let roots = Arc::new(roots(&credentials.authorities)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).allow_unauthenticated();
    let verifier = verifier.build().map_err(TlsError::Authorities)?;
    let builder = ServerConfig::builder_with_provider(provider());
    let builder = builder.with_protocol_versions(&[&TLS13]).map_err(TlsError::Unusable)?;
    let (chain, key) = (credentials.chain.clone(), credentials.key.clone_key());
    let config = builder.with_client_cert_verifier(verifier).with_single_cert(chain, key);
    let mut config = config.map_err(TlsError::Unusable)?;
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

type ClientBuilder = rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>;

fn client_builder(versions: &[&'static SupportedProtocolVersion]) -> Result<ClientBuilder, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider());
    builder.with_protocol_versions(versions).map_err(TlsError::Unusable)
}

/// gRPC and nothing else.
fn finish_client(config: &mut ClientConfig) {
    config.alpn_protocols = vec![ALPN[0].to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
}

fn roots(authorities: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(TlsError::Unusable)?;
    }
    if roots.is_empty() { Err(TlsError::NoAuthority) } else { Ok(roots) }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
