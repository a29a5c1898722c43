//! The issuers' keys, kept and renewed, and the check of bearers' tokens with them.
//!
//! Keys are fetched when a token needs them: when they are no longer fresh, or when a token names a key that is not
//! among them. One fetch at a time, and never two within a short while, whatever tokens come; keys that cannot be
//! renewed go on counting for a day.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::https::{self, Address};
use super::keys::{KeySet, KeySetError};
use super::verify::{OidcError, issuer_of, verify};
use super::{Issuer, IssuerConfig, IssuerError, bound};
use crate::keyfile::{self, FileError};
use crate::registry::Client;
use crate::tls::{DialError, TlsError};

/// No two fetches of one issuer's keys come closer, unless told.
const MIN_REFRESH: Duration = Duration::from_secs(15);
/// A fetch takes no longer.
const FETCH_LIMIT: Duration = Duration::from_secs(10);
/// Keys that could not be renewed for so long count no more.
const MAX_STALE: Duration = Duration::from_hours(24);

/// All issuers, with their keys.
#[derive(Debug, Default)]
pub struct Verifier {
    sources: Vec<Source>,
}

#[derive(Debug)]
struct Source {
    issuer: Issuer,
    place: Place,
    min_refresh: Duration,
    kept: ArcSwapOption<Kept>,
    /// When the last fetch began; held while one runs.
    last_fetch: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Kept {
    keys: KeySet,
    at: Instant,
}

#[derive(Debug)]
enum Place {
    File(std::path::PathBuf),
    Url { address: Address, tls: Arc<ClientConfig> },
}

/// Why an issuer's keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file of keys, or of CAs.
    #[error(transparent)]
    File(#[from] FileError),
    /// What came is no key set.
    #[error(transparent)]
    Keys(#[from] KeySetError),
    /// Nobody answers at the address, or not the right one.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection broke.
    #[error("the issuer's keys cannot be fetched")]
    Http(#[from] hyper::Error),
    /// Not 200.
    #[error("the address of the issuer's keys answers with status {0}")]
    Status(u16),
    /// Too long, or cut off.
    #[error("the address of the issuer's keys gives no answer of at most {} bytes", bound::KEYS_LEN)]
    Answer,
    /// Not in time.
    #[error("the address of the issuer's keys does not answer in time")]
    Late,
    /// They failed a moment ago.
    #[error("the issuer's keys could not be had a moment ago")]
    Resting,
    /// The CAs behind the address.
    #[error("there are no CAs to check the address of the issuer's keys with: give ca_file")]
    NoRoots,
    /// The CAs behind the address.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The configuration.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
}

/// Why a bearer is not let in.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The token: try another.
    #[error(transparent)]
    Refused(#[from] OidcError),
    /// The keys: try later.
    #[error("the keys of issuer {issuer} cannot be had")]
    Unavailable {
        /// Our name of it.
        issuer: String,
        /// Why.
        source: SourceError,
    },
}

impl Verifier {
    /// Checks the configuration; keys are fetched when the first token comes.
    pub fn new(issuers: Vec<IssuerConfig>) -> Result<Self, SourceError> {
        let mut sources: Vec<Source> = vec![];
        for config in issuers {
            let taken = |other: &Source| {
                other.issuer.config.name == config.name || other.issuer.config.issuer == config.issuer
            };
            if sources.iter().any(taken) {
                return Err(IssuerError::Twice(config.name).into());
            }
            sources.push(Source::new(config)?);
        }
        Ok(Self { sources })
    }

    /// Fetches an issuer's keys no more often than this.
    #[must_use]
    pub fn refreshing_every(mut self, min_refresh: Duration) -> Self {
        for source in &mut self.sources {
            source.min_refresh = min_refresh;
        }
        self
    }

    /// Whether any issuer is configured.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Who the bearer of a token is, at `now`, seconds since 1970.
    pub async fn verify(&self, token: &str, now: u64) -> Result<Client, VerifyError> {
        let named = issuer_of(token)?;
        let source = self.sources.iter().find(|source| source.issuer.config.issuer == named);
        let source = source.ok_or(OidcError::UnknownIssuer)?;
        let unavailable =
            |error| VerifyError::Unavailable { issuer: source.issuer.config.name.clone(), source: error };
        let kept = source.fresh().await.map_err(unavailable)?;
        match verify(token, &source.issuer, &kept.keys, now) {
            // The issuer may have a new key since.
            Err(OidcError::UnknownKey) => match source.newer_than(&kept).await {
                Some(newer) => Ok(verify(token, &source.issuer, &newer.keys, now)?),
                None => Err(OidcError::UnknownKey.into()),
            },
            verdict => Ok(verdict?),
        }
    }
}

impl Source {
    fn new(config: IssuerConfig) -> Result<Self, SourceError> {
        let issuer = Issuer::new(config)?;
        let config = &issuer.config;
        let place = match (&config.jwks_file, config.jwks_url.as_deref().and_then(Address::parse)) {
            (Some(file), _) => Place::File(file.clone()),
            (None, Some(address)) => Place::Url { address, tls: https_config(config)? },
            (None, None) => return Err(IssuerError::Keys(config.name.clone()).into()),
        };
        Ok(Self {
            issuer,
            place,
            min_refresh: MIN_REFRESH,
            kept: ArcSwapOption::empty(),
            last_fetch: Mutex::new(None),
        })
    }

    /// Keys that are fresh; older ones where fresh ones cannot be had.
    async fn fresh(&self) -> Result<Arc<Kept>, SourceError> {
        let ttl = Duration::from_secs(self.issuer.config.keys_ttl_s.unwrap_or(bound::KEYS_TTL_S));
        let is_fresh = |kept: &Arc<Kept>| kept.at.elapsed() < ttl;
        if let Some(kept) = self.kept.load_full().filter(is_fresh) {
            return Ok(kept);
        }
        let mut last_fetch = self.last_fetch.lock().await;
        match self.kept.load_full() {
            // Somebody else fetched them while this one waited for the lock.
            Some(kept) if is_fresh(&kept) => Ok(kept),
            old => {
                let old = old.filter(|kept| kept.at.elapsed() < MAX_STALE);
                self.fetch(&mut last_fetch).await.or_else(|error| old.ok_or(error))
            }
        }
    }

    /// Keys fetched after these, if that can be had.
    async fn newer_than(&self, seen: &Arc<Kept>) -> Option<Arc<Kept>> {
        let mut last_fetch = self.last_fetch.lock().await;
        match self.kept.load_full() {
            Some(kept) if kept.at > seen.at => Some(kept),
            _ => self.fetch(&mut last_fetch).await.ok(),
        }
    }

    async fn fetch(&self, last_fetch: &mut Option<Instant>) -> Result<Arc<Kept>, SourceError> {
        if last_fetch.is_some_and(|last| last.elapsed() < self.min_refresh) {
            return Err(SourceError::Resting);
        }
        let at = Instant::now();
        *last_fetch = Some(at);
        let keys = self.place.keys().await.inspect_err(|error| {
            let error: &dyn std::error::Error = error;
            tracing::warn!(issuer = self.issuer.config.name, error, "the issuer's keys cannot be had");
        })?;
        let kept = Arc::new(Kept { keys, at });
        self.kept.store(Some(kept.clone()));
        Ok(kept)
    }
}

impl Place {
    async fn keys(&self) -> Result<KeySet, SourceError> {
        match self {
            Self::File(path) => Ok(KeySet::parse(&keyfile::read_public(path)?)?),
            Self::Url { address, tls } => {
                let body = https::get(address, tls.clone(), bound::KEYS_LEN, FETCH_LIMIT).await?;
                Ok(KeySet::parse(&body)?)
            }
        }
    }
}

/// Trusts the given CAs, or the system's.
fn https_config(config: &IssuerConfig) -> Result<Arc<ClientConfig>, SourceError> {
    let roots: Vec<CertificateDer<'static>> = match &config.ca_file {
        Some(path) => {
            let pem = keyfile::read_public(path)?;
            CertificateDer::pem_slice_iter(&pem)
                .collect::<Result<_, _>>()
                .map_err(|_| SourceError::NoRoots)?
        }
        None => rustls_native_certs::load_native_certs().certs,
    };
    if roots.is_empty() {
        return Err(SourceError::NoRoots);
    }
    Ok(crate::tls::https_config(roots)?)
}
