//! Who may do what: the CA, certificates, join tokens, roles, CI identities.
//!
//! [`registry`] decides who is let in (pure); [`authority`] signs; [`identity`] reads what was signed; [`tls`] joins
//! the two ends; [`token`] is what people carry; [`oidc`] lets CI jobs in by what their forge says of them.
//! Nothing here knows of leases, runs or the wire.

pub mod authority;
pub mod credentials;
pub mod identity;
pub mod keyfile;
pub mod name;
pub mod oidc;
pub mod registry;
pub mod request;
pub mod role;
pub mod secret;
pub mod tls;
pub mod token;

#[cfg(feature = "testing")]
pub mod testing;

pub use authority::{Authority, AuthorityError, CaFiles};
pub use credentials::{Credentials, CredentialsError, certificates_pem};
pub use identity::{Identity, IdentityError, Kind};
pub use keyfile::FileError;
pub use name::{Name, NameError};
pub use registry::{
    Answer, Client, ClientStatus, Decision, Grant, Issued, Join, Refused, Registry, RegistryError,
    RegistryRecord, Request, Worker,
};
pub use request::{NewKey, PublicKey, RequestError};
pub use role::{Role, RoleError};
pub use secret::{Fingerprint, Malformed, Secret, SecretHash, TokenId};
pub use token::{ClientToken, JoinToken, TokenError};

/// The time as this crate takes it: seconds since 1970 on the machine's clock.
pub fn unix_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
