//! Where a coordinator is, as people write it. Pure.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;
use tonic::transport::Uri;

/// The port of a coordinator whose address names none.
pub const DEFAULT_PORT: u16 = 7143;

/// A coordinator's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Over TLS.
    Https {
        /// A name, or an address without brackets.
        host: String,
        /// Its port.
        port: u16,
    },
    /// On this machine.
    Unix(PathBuf),
}

/// Why a text is no address of a coordinator.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EndpointError {
    /// It does not say how to get there.
    #[error("`{text}` has no scheme; write {suggestion}")]
    NoScheme {
        /// As written.
        text: String,
        /// As it might be meant.
        suggestion: String,
    },
    /// Nothing we speak.
    #[error("`{0}` begins with neither https:// nor unix://")]
    Scheme(String),
    /// Passwords in addresses end up in logs.
    #[error("an address must not hold a user name or a password; name a token file instead")]
    UserInfo,
    /// Not an address.
    #[error("`{0}` is not https://HOST or https://HOST:PORT")]
    Malformed(String),
    /// A socket must be named from the root.
    #[error("`{0}` does not name a socket from the root; write unix:///PATH")]
    RelativeSocket(String),
}

impl Endpoint {
    /// Reads `https://HOST[:PORT]` or `unix:///PATH`.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        if let Some(path) = text.strip_prefix("unix://") {
            let path = PathBuf::from(path);
            let named = path.is_absolute() && path.file_name().is_some() && !text.contains('\0');
            return if named {
                Ok(Self::Unix(path))
            } else {
                Err(EndpointError::RelativeSocket(text.to_owned()))
            };
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            let (scheme, text) = (if text.starts_with('/') { "unix" } else { "https" }, text.to_owned());
            return Err(EndpointError::NoScheme { suggestion: format!("{scheme}://{text}"), text });
        };
        if rest.contains('@') {
            return Err(EndpointError::UserInfo);
        }
        if scheme != "https" {
            return Err(EndpointError::Scheme(text.to_owned()));
        }
        https(text).ok_or_else(|| EndpointError::Malformed(text.to_owned()))
    }

    /// For the request's authority: the scheme is `https` on a socket, too, as nobody looks at it there.
    pub(super) fn uri(&self) -> Option<Uri> {
        match self {
            Self::Https { .. } => self.to_string().parse().ok(),
            Self::Unix(_) => Some(Uri::from_static("https://localhost")),
        }
    }
}

fn https(text: &str) -> Option<Endpoint> {
    let uri: Uri = text.parse().ok()?;
    let authority = uri.authority()?;
    let bare = matches!(uri.path(), "" | "/") && uri.query().is_none() && !text.contains('#');
    let written = authority.host();
    let port = match authority.as_str().strip_prefix(written)? {
        "" => DEFAULT_PORT,
        port => port.strip_prefix(':')?.parse().ok().filter(|&port| port > 0)?,
    };
    let host = written.trim_start_matches('[').trim_end_matches(']');
    (bare && !host.is_empty()).then(|| Endpoint::Https { host: host.to_owned(), port })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Https { host, port } if host.contains(':') => write!(f, "https://[{host}]:{port}"),
            Self::Https { host, port } => write!(f, "https://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(String, u16)> {
        match Endpoint::parse(text) {
            Ok(Endpoint::Https { host, port }) => Some((host, port)),
            _ => None,
        }
    }

    #[test]
    fn addresses_are_hosts_or_sockets() {
        assert_eq!(parsed("https://build.example.org"), Some(("build.example.org".to_owned(), DEFAULT_PORT)));
        assert_eq!(parsed("https://build.example.org:8443/"), Some(("build.example.org".to_owned(), 8443)));
        assert_eq!(parsed("https://[::1]:8443"), Some(("::1".to_owned(), 8443)));
        assert_eq!(
            Endpoint::parse("unix:///run/fleet/socket"),
            Ok(Endpoint::Unix("/run/fleet/socket".into()))
        );
        for text in ["https://build.example.org:7143", "https://[2001:db8::1]:1", "unix:///run/x"] {
            assert_eq!(Endpoint::parse(text).expect("an address").to_string(), text);
            assert!(Endpoint::parse(text).expect("an address").uri().is_some());
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_might_be_meant() {
        let refused = |text| Endpoint::parse(text).expect_err("refused").to_string();
        insta::assert_snapshot!(refused("build.example.org:7143"), @"`build.example.org:7143` has no scheme; write https://build.example.org:7143");
        insta::assert_snapshot!(refused("/run/fleet/socket"), @"`/run/fleet/socket` has no scheme; write unix:///run/fleet/socket");
        insta::assert_snapshot!(refused("http://build.example.org"), @"`http://build.example.org` begins with neither https:// nor unix://");
        insta::assert_snapshot!(refused("unix://socket"), @"`unix://socket` does not name a socket from the root; write unix:///PATH");
        insta::assert_snapshot!(refused("https://me:secret@build.example.org"), @"an address must not hold a user name or a password; name a token file instead");
        for text in [
            "https://",
            "https://a b",
            "https://h:0",
            "https://h:65536",
            "https://h:",
            "https://h/runs",
            "https://h?x",
            "https://h#x",
            "https://:7143",
        ] {
            assert_eq!(Endpoint::parse(text), Err(EndpointError::Malformed(text.to_owned())), "{text}");
        }
        assert!(Endpoint::parse("unix:///").is_err());
        assert!(Endpoint::parse("").is_err());
    }
}
