//! The way to a coordinator: its address, who we say we are, and a connection that heals itself.
//!
//! Reads credentials and opens sockets; knows nothing of runs. Secrets never leave it but in a request's header.

mod connection;
mod credentials;
mod endpoint;
mod explained;
mod tls;
mod trouble;

pub use connection::{Connection, Link, ReachError};
pub use credentials::{CertificateFiles, CredentialError, Credentials, Secret, TokenSource};
pub use endpoint::{DEFAULT_PORT, Endpoint, EndpointError};
pub use explained::Explained;
pub use trouble::{Trouble, reason};
