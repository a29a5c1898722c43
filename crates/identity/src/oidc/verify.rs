//! The check of one token: shape, algorithm, signature, time, audience, rules, in this order. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::claims::Claims;
use super::keys::{Algorithm, KeySet};
use super::{Issuer, bound};
use crate::registry::Client;

/// Why a token is refused. What it says is repeated only once its signature was good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OidcError {
    /// More than [`bound::TOKEN_LEN`].
    #[error("the token has more than {} bytes", bound::TOKEN_LEN)]
    TooLarge,
    /// Not three parts of base64 and JSON.
    #[error("not a signed token (JWT)")]
    Malformed,
    /// `none`, a shared secret, or one that is not supported.
    #[error("the token must be signed with RS256 or ES256")]
    Algorithm,
    /// The header demands something that is not supported.
    #[error("the token's header has critical extensions")]
    Critical,
    /// Nobody here trusts who made it.
    #[error("the token is of an issuer that is not configured")]
    UnknownIssuer,
    /// The issuer has no such key, or not yet.
    #[error("the token is signed with a key that its issuer does not publish")]
    UnknownKey,
    /// Made by somebody else, or altered.
    #[error("the token's signature is wrong")]
    Signature,
    /// A claim is absent or of the wrong type.
    #[error("the token's claim {0} is missing or malformed")]
    Claim(&'static str),
    /// Meant for another service.
    #[error("the token is not meant for this coordinator: its audience is another")]
    Audience,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet: compare the clocks")]
    NotYetValid,
    /// No rule matches.
    #[error("no rule of issuer {issuer} lets {subject} in")]
    NoRule {
        /// Our name of the issuer.
        issuer: String,
        /// What the token says of the job.
        subject: String,
    },
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<serde_json::Value>,
}

struct Parts<'a> {
    header: Header,
    claims: Claims,
    signed: &'a str,
    signature: Vec<u8>,
}

/// Who the bearer of a token is, at `now`, seconds since 1970.
pub fn verify(token: &str, issuer: &Issuer, keys: &KeySet, now: u64) -> Result<Client, OidcError> {
    let parts = Parts::split(token)?;
    let algorithm = Algorithm::from_name(&parts.header.alg).ok_or(OidcError::Algorithm)?;
    if parts.header.crit.is_some() {
        return Err(OidcError::Critical);
    }
    let candidates = keys.candidates(algorithm, parts.header.kid.as_deref());
    if candidates.is_empty() {
        return Err(OidcError::UnknownKey);
    }
    if !candidates.iter().any(|key| key.verifies(parts.signed.as_bytes(), &parts.signature)) {
        return Err(OidcError::Signature);
    }
    let claims = parts.claims;
    if claims.issuer() != Some(&issuer.config.issuer) {
        return Err(OidcError::UnknownIssuer);
    }
    if !claims.has_audience(&issuer.config.audiences) {
        return Err(OidcError::Audience);
    }
    let expires = check_time(&claims, issuer, now)?;
    grant(&claims, issuer, expires)
}

/// What an unverified token says of its issuer, to find out whose keys to check it with.
pub fn issuer_of(token: &str) -> Result<String, OidcError> {
    let parts = Parts::split(token)?;
    parts.claims.issuer().map(str::to_owned).ok_or(OidcError::Claim("iss"))
}

impl<'a> Parts<'a> {
    fn split(token: &'a str) -> Result<Self, OidcError> {
        if token.len() > bound::TOKEN_LEN {
            return Err(OidcError::TooLarge);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(OidcError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(OidcError::Malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| OidcError::Malformed);
        let header = serde_json::from_slice(&decode(header)?).map_err(|_| OidcError::Malformed)?;
        let claims = Claims::parse(&decode(claims)?).ok_or(OidcError::Malformed)?;
        Ok(Self { header, claims, signed, signature: decode(signature)? })
    }
}

/// Until when the token counts.
fn check_time(claims: &Claims, issuer: &Issuer, now: u64) -> Result<u64, OidcError> {
    let time = |claim| claims.time(claim).map_err(OidcError::Claim);
    let required = |claim| time(claim)?.ok_or(OidcError::Claim(claim));
    let (expires, made) = (required("exp")?, required("iat")?);
    let begins = time("nbf")?.unwrap_or(made).max(made);
    if now.saturating_add(bound::LEEWAY_S) < begins {
        return Err(OidcError::NotYetValid);
    }
    let max_age_s = issuer.config.max_age_s.unwrap_or(bound::MAX_AGE_S);
    let expires = expires.min(made.saturating_add(max_age_s)).saturating_add(bound::LEEWAY_S);
    if expires <= now { Err(OidcError::Expired) } else { Ok(expires) }
}

fn grant(claims: &Claims, issuer: &Issuer, expires: u64) -> Result<Client, OidcError> {
    let matching = issuer.rules.iter().filter(|rule| {
        rule.claims.iter().all(|(claim, patterns)| {
            claims.text(claim).is_some_and(|text| patterns.iter().any(|pattern| pattern.matches(&text)))
        })
    });
    let name = format!("{}/{}", issuer.config.name, subject(claims));
    match matching.map(|rule| rule.role).max() {
        Some(role) => Ok(Client { name, role, expires }),
        None => Err(OidcError::NoRule { issuer: issuer.config.name.clone(), subject: subject(claims) }),
    }
}

/// What people call the job's project; letters that could mean something elsewhere become `_`.
fn subject(claims: &Claims) -> String {
    const MAX_LEN: usize = 200;
    let named = ["repository", "project_path", "sub"].into_iter().find_map(|claim| claims.text(claim));
    let plain =
        |letter: char| if letter.is_ascii_alphanumeric() || "-._/:@".contains(letter) { letter } else { '_' };
    named.unwrap_or_else(|| "unnamed".to_owned()).chars().take(MAX_LEN).map(plain).collect()
}
