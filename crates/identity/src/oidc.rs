//! CI jobs let in by what their forge says of them: tokens of OpenID Connect, verified here.
//!
//! [`verify`] is pure: token, keys, time and rules in, a client out. [`Verifier`] keeps the issuers' keys, of a file or
//! an https address. A forge can make readers and submitters of its jobs; never administrators, so that no forge
//! can let a worker in.

mod claims;
mod glob;
mod https;
mod keys;
mod source;
mod verify;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::role::Role;

pub use glob::Glob;
pub use keys::{KeySet, KeySetError};
pub use source::{SourceError, Verifier, VerifyError};
pub use verify::{OidcError, issuer_of, verify};

/// Bounds.
pub mod bound {
    /// Bytes of a token.
    pub const TOKEN_LEN: usize = 16 * 1024;
    /// Bytes of a key set.
    pub const KEYS_LEN: usize = 256 * 1024;
    /// Keys in a set.
    pub const KEYS: usize = 64;
    /// Seconds that clocks may differ.
    pub const LEEWAY_S: u64 = 60;
    /// Seconds after which a token counts no more, whatever it says, unless told.
    pub const MAX_AGE_S: u64 = 900;
    /// Seconds after which keys of an address are fetched again, unless told.
    pub const KEYS_TTL_S: u64 = 600;
}

/// One issuer of tokens, as it stands in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// Short name of ours, the beginning of its clients' names.
    pub name: String,
    /// Exactly what stands in `iss`.
    pub issuer: String,
    /// One of these must stand in `aud`.
    pub audiences: Vec<String>,
    /// File of keys (JWKS). Either this or `jwks_url`.
    #[serde(default)]
    pub jwks_file: Option<PathBuf>,
    /// https address of keys.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// PEM file of the CAs behind that address; the system's unless given.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Seconds since its making that a token counts.
    #[serde(default)]
    pub max_age_s: Option<u64>,
    /// Seconds that fetched keys count as fresh.
    #[serde(default)]
    pub keys_ttl_s: Option<u64>,
    /// Which of its jobs may do what; the highest role of all that match.
    pub rules: Vec<RuleConfig>,
}

/// A rule: every claim named must match one of its patterns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// `read` or `submit`.
    pub role: Role,
    /// Claim to patterns. In a pattern `*` stands for any letters but `/`, `**` for any at all. At least one claim must
    /// say who owns the job (`repository`, `repository_owner`, `project_path`, `namespace_path`, `sub` or an
    /// id of these), and its patterns must begin with a name in full.
    pub claims: BTreeMap<String, Vec<String>>,
}

/// An issuer whose configuration has been checked.
#[derive(Clone, Debug)]
pub struct Issuer {
    pub(crate) config: IssuerConfig,
    pub(crate) rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) role: Role,
    pub(crate) claims: BTreeMap<String, Vec<Glob>>,
}

/// What is wrong with an issuer's configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// The name would be mistaken for something else.
    #[error("issuer {0:?}: its name is 1 to 63 of a-z, 0-9, dash and dot")]
    Name(String),
    /// Nobody could come, or anybody.
    #[error("issuer {0}: it needs its `issuer` address, and at least one audience that is not empty")]
    Audience(String),
    /// Neither or both.
    #[error("issuer {0}: give either jwks_file or jwks_url")]
    Keys(String),
    /// Keys over an open line are anybody's.
    #[error("issuer {0}: jwks_url must begin with https:// and name a host")]
    Url(String),
    /// A forge makes no administrators.
    #[error("issuer {0}: a rule cannot grant admin")]
    Admin(String),
    /// The rule would let strangers in.
    #[error(
        "issuer {issuer}: a rule must name the owner of the jobs by {claims}, beginning with a name in full, not a wildcard"
    )]
    Owner {
        /// Its name.
        issuer: String,
        /// The claims that say it.
        claims: String,
    },
    /// An empty pattern, or none for a claim.
    #[error("issuer {issuer}: no pattern, or an empty one, for claim {claim:?}")]
    Pattern {
        /// Its name.
        issuer: String,
        /// The claim.
        claim: String,
    },
    /// Its name or address is another's too.
    #[error("issuer {0}: is given twice")]
    Twice(String),
}

/// Claims that say who owns a job, and that nobody else can have.
const OWNERS: [&str; 9] = [
    "repository",
    "repository_id",
    "repository_owner",
    "repository_owner_id",
    "project_path",
    "project_id",
    "namespace_path",
    "namespace_id",
    "sub",
];

impl Issuer {
    /// Checks a configuration.
    pub fn new(config: IssuerConfig) -> Result<Self, IssuerError> {
        let name = config.name.clone();
        if name.parse::<crate::name::Name>().is_err() {
            return Err(IssuerError::Name(name));
        }
        if config.issuer.is_empty()
            || config.audiences.is_empty()
            || config.audiences.iter().any(String::is_empty)
        {
            return Err(IssuerError::Audience(name));
        }
        if config.jwks_file.is_some() == config.jwks_url.is_some() {
            return Err(IssuerError::Keys(name));
        }
        if config.jwks_url.as_deref().is_some_and(|url| https::Address::parse(url).is_none()) {
            return Err(IssuerError::Url(name));
        }
        let rules = config.rules.iter().map(|rule| Rule::new(&name, rule)).collect::<Result<_, _>>()?;
        Ok(Self { config, rules })
    }
}

impl Rule {
    fn new(issuer: &str, config: &RuleConfig) -> Result<Self, IssuerError> {
        if config.role == Role::Admin {
            return Err(IssuerError::Admin(issuer.to_owned()));
        }
        let mut claims = BTreeMap::new();
        for (claim, patterns) in &config.claims {
            if patterns.is_empty() || patterns.iter().any(String::is_empty) {
                return Err(IssuerError::Pattern { issuer: issuer.to_owned(), claim: claim.clone() });
            }
            claims.insert(claim.clone(), patterns.iter().map(|text| Glob::new(text)).collect::<Vec<_>>());
        }
        let names_owner = |claim: &str| {
            claims
                .get(claim)
                .is_some_and(|patterns: &Vec<Glob>| patterns.iter().all(Glob::begins_with_a_name))
        };
        if !OWNERS.into_iter().any(names_owner) {
            return Err(IssuerError::Owner { issuer: issuer.to_owned(), claims: OWNERS.join(", ") });
        }
        Ok(Self { role: config.role, claims })
    }
}
