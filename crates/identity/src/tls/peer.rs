//! Between two workers: both show the certificates the coordinator's CA gave them, and each looks at the other's name.
//! A worker is no server to the rest of the world: its certificate has no DNS name, so that the caller says which
//! worker it expects, wherever that listens.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme};

use super::{ALPN, TlsError, client_builder, finish_client, provider, roots};
use crate::credentials::Credentials;
use crate::identity::{Identity, Kind};
use crate::name::Name;

/// For a worker that lets others fetch from it: nobody comes in without a certificate of the CA.
pub fn peer_server_config(own: &Credentials) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider());
    let builder = builder.with_protocol_versions(&[&TLS13]).map_err(TlsError::Unusable)?;
    let config = builder.with_client_cert_verifier(verifier(own)?);
    let config = config.with_single_cert(own.chain.clone(), own.key.clone_key());
    let mut config = config.map_err(TlsError::Unusable)?;
    config.alpn_protocols = vec![ALPN[0].to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// For a worker that fetches from the worker of this name, and from nobody else.
pub fn peer_client_config(own: &Credentials, expected: Name) -> Result<Arc<ClientConfig>, TlsError> {
    let known = KnownWorker { expected, verifier: verifier(own)? };
    let builder = client_builder(&[&TLS13])?.dangerous().with_custom_certificate_verifier(Arc::new(known));
    let config = builder.with_client_auth_cert(own.chain.clone(), own.key.clone_key());
    let mut config = config.map_err(TlsError::Unusable)?;
    finish_client(&mut config);
    Ok(Arc::new(config))
}

fn verifier(own: &Credentials) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = Arc::new(roots(&own.authorities)?);
    WebPkiClientVerifier::builder_with_provider(roots, provider()).build().map_err(TlsError::Authorities)
}

/// Takes the certificate of one worker, as the coordinator would.
struct KnownWorker {
    expected: Name,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl fmt::Debug for KnownWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownWorker").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for KnownWorker {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verifier.verify_client_cert(end_entity, intermediates, now)?;
        match Identity::from_certificate(end_entity) {
            Ok(Identity { kind: Kind::Worker { .. }, name, .. }) if name == self.expected => {
                Ok(ServerCertVerified::assertion())
            }
            _ => Err(Error::InvalidCertificate(CertificateError::NotValidForName)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
