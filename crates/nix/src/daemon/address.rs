//! Where a daemon is: read from store URIs and from Nix's environment variables.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::store_path::{StoreDir, StorePath, StorePathError};

/// Where an installed daemon listens.
const DEFAULT_SOCKET: &str = "/nix/var/nix/daemon-socket/socket";

/// A daemon's socket, and what its store paths mean on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonAddress {
    /// The Unix socket.
    pub socket: PathBuf,
    /// The directory that stands for `/` in the daemon's store paths, if it is another.
    pub root: Option<PathBuf>,
    /// The store directory in store paths.
    pub store_dir: StoreDir,
}

/// Why a text does not say where a daemon is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// A store that is no daemon.
    #[error("the store '{uri}' is not a Nix daemon on this machine: {hint}")]
    NoDaemon {
        /// As given.
        uri: String,
        /// What to do.
        hint: &'static str,
    },
    /// A parameter that is not known for daemons.
    #[error("the store '{uri}' has the unknown parameter '{parameter}': `root` and `store` are understood")]
    UnknownParameter {
        /// As given.
        uri: String,
        /// Its name.
        parameter: String,
    },
    /// `%` must be followed by two hexadecimal digits, and the whole be UTF-8.
    #[error("the store '{uri}' has a bad percent escape")]
    BadEscape {
        /// As given.
        uri: String,
    },
    /// Sockets and roots are absolute paths.
    #[error("the store '{uri}' names the path '{path}', which is not absolute")]
    NotAbsolute {
        /// As given.
        uri: String,
        /// The path.
        path: String,
    },
    /// The store directory is none.
    #[error("the store '{uri}' has a bad store directory: {source}")]
    StoreDir {
        /// As given.
        uri: String,
        /// What is wrong.
        source: StorePathError,
    },
}

impl Default for DaemonAddress {
    fn default() -> Self {
        Self { socket: DEFAULT_SOCKET.into(), root: None, store_dir: StoreDir::default() }
    }
}

impl DaemonAddress {
    /// What Nix's programs would use here: `NIX_REMOTE` names the store, `NIX_DAEMON_SOCKET_PATH` the socket
    /// of the installed daemon.
    pub fn from_env() -> Result<Self, AddressError> {
        let variable = |name| std::env::var(name).unwrap_or_default();
        Self::resolve(&variable("NIX_REMOTE"), &variable("NIX_DAEMON_SOCKET_PATH"))
    }

    /// From a store URI: ``, `auto`, `daemon`, `unix://`, `unix://SOCKET?root=DIRECTORY`.
    pub fn from_store_uri(uri: &str) -> Result<Self, AddressError> {
        Self::resolve(uri, &std::env::var("NIX_DAEMON_SOCKET_PATH").unwrap_or_default())
    }

    /// As [`DaemonAddress::from_store_uri`]; `installed` is the installed daemon's socket, if it is not at
    /// the usual place.
    pub fn resolve(uri: &str, installed: &str) -> Result<Self, AddressError> {
        let (location, parameters) = uri.split_once('?').unwrap_or((uri, ""));
        let socket = match location {
            "" | "auto" | "daemon" | "unix://" | "unix" if installed.is_empty() => DEFAULT_SOCKET.to_owned(),
            "" | "auto" | "daemon" | "unix://" | "unix" => installed.to_owned(),
            location => match location.strip_prefix("unix://") {
                Some(socket) => unescape(uri, socket)?,
                None => {
                    return Err(AddressError::NoDaemon { uri: uri.to_owned(), hint: hint(location) });
                }
            },
        };
        let mut address = Self { socket: absolute(uri, socket)?, ..Self::default() };
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            address.set_parameter(uri, parameter)?;
        }
        Ok(address)
    }

    /// What `NIX_REMOTE` and `--store` take.
    pub fn store_uri(&self) -> String {
        let mut uri = format!("unix://{}", escape(&self.socket.to_string_lossy()));
        let mut separator = '?';
        let mut add = |name: &str, value: &str| {
            uri.push(separator);
            separator = '&';
            uri.push_str(name);
            uri.push('=');
            uri.push_str(&escape(value));
        };
        if let Some(root) = &self.root {
            add("root", &root.to_string_lossy());
        }
        if self.store_dir != StoreDir::default() {
            add("store", self.store_dir.as_str());
        }
        uri
    }

    /// Where the files of a store path are on this machine.
    pub fn physical(&self, store_dir: &StoreDir, path: &StorePath) -> PathBuf {
        let path = store_dir.join(path);
        match &self.root {
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(&path)),
            None => path,
        }
    }

    fn set_parameter(&mut self, uri: &str, parameter: &str) -> Result<(), AddressError> {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = unescape(uri, value)?;
        match name {
            "root" if value.is_empty() => self.root = None,
            "root" => self.root = Some(absolute(uri, value)?),
            "store" => {
                let store = StoreDir::new(&value);
                self.store_dir =
                    store.map_err(|source| AddressError::StoreDir { uri: uri.to_owned(), source })?;
            }
            // They tune Nix's own client, and say nothing about where the daemon is.
            "max-connections"
            | "max-connection-age"
            | "path-info-cache-size"
            | "priority"
            | "trusted"
            | "want-mass-query"
            | "system-features" => {}
            _ => {
                let (uri, parameter) = (uri.to_owned(), name.to_owned());
                return Err(AddressError::UnknownParameter { uri, parameter });
            }
        }
        Ok(())
    }
}

fn hint(location: &str) -> &'static str {
    if location.starts_with("local") || location.starts_with('/') {
        return "builds go through a Nix daemon; start `nix-daemon` for this store, and name its socket as \
                `unix://SOCKET?root=DIRECTORY`, or use `daemon` for the installed one";
    }
    if location.starts_with("ssh") {
        return "run a worker on that machine instead, and use `daemon` here";
    }
    "use `daemon`, or `unix://SOCKET`"
}

fn absolute(uri: &str, path: String) -> Result<PathBuf, AddressError> {
    if Path::new(&path).is_absolute() {
        return Ok(path.into());
    }
    Err(AddressError::NotAbsolute { uri: uri.to_owned(), path })
}

fn unescape(uri: &str, text: &str) -> Result<String, AddressError> {
    let bad = || AddressError::BadEscape { uri: uri.to_owned() };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(bad());
        };
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| bad())?);
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

fn hex_digit(value: u8) -> char {
    char::from_digit(value.into(), 16).unwrap_or('0').to_ascii_uppercase()
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        let is_plain = byte.is_ascii_alphanumeric() || b"-._~/+=:@".contains(&byte);
        if is_plain {
            escaped.push(char::from(byte));
        } else {
            escaped.extend(['%', hex_digit(byte >> 4), hex_digit(byte & 15)]);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(uri: &str) -> Result<DaemonAddress, AddressError> {
        DaemonAddress::resolve(uri, "")
    }

    #[test]
    fn the_installed_daemon_has_many_names() {
        for uri in ["", "auto", "daemon", "unix://", "unix:///nix/var/nix/daemon-socket/socket"] {
            assert_eq!(resolve(uri), Ok(DaemonAddress::default()), "{uri}");
        }
        for uri in ["", "auto", "daemon", "unix://"] {
            let address = DaemonAddress::resolve(uri, "/run/nix/socket").expect("valid");
            assert_eq!(address.socket, Path::new("/run/nix/socket"));
        }
        let named = DaemonAddress::resolve("unix:///other", "/run/nix/socket").expect("valid");
        assert_eq!(named.socket, Path::new("/other"));
    }

    #[test]
    fn roots_and_store_directories_are_read_and_written() {
        let uri = "unix:///tmp/a%20b/s?root=/tmp/a%20b&store=/gnu/store&max-connections=3";
        let address = resolve(uri).expect("valid");
        assert_eq!(address.socket, Path::new("/tmp/a b/s"));
        assert_eq!(address.root.as_deref(), Some(Path::new("/tmp/a b")));
        assert_eq!(address.store_dir.as_str(), "/gnu/store");
        assert_eq!(resolve(&address.store_uri()), Ok(address.clone()));
        let path = "00000000000000000000000000000000-a".parse().expect("valid");
        let physical = address.physical(&address.store_dir, &path);
        assert_eq!(physical, Path::new("/tmp/a b/gnu/store/00000000000000000000000000000000-a"));
        assert_eq!(DaemonAddress::default().store_uri(), "unix:///nix/var/nix/daemon-socket/socket");
    }

    #[test]
    fn stores_that_are_no_daemon_are_refused_with_advice() {
        for (uri, advice) in [
            ("local", "nix-daemon"),
            ("local?root=/x", "nix-daemon"),
            ("/some/where", "nix-daemon"),
            ("ssh-ng://host", "worker"),
            ("ssh://host", "worker"),
            ("https://cache.example.org", "use `daemon`"),
        ] {
            let error = resolve(uri).expect_err("no daemon").to_string();
            assert!(error.contains(advice) && error.contains(uri), "{error}");
        }
    }

    #[test]
    fn bad_addresses_are_told_apart() {
        assert!(matches!(resolve("unix://relative"), Err(AddressError::NotAbsolute { .. })));
        assert!(matches!(resolve("daemon?root=relative"), Err(AddressError::NotAbsolute { .. })));
        assert!(matches!(resolve("daemon?bogus=1"), Err(AddressError::UnknownParameter { .. })));
        assert!(matches!(resolve("daemon?store=x"), Err(AddressError::StoreDir { .. })));
        for uri in ["unix:///%", "unix:///%2", "unix:///%zz", "unix:///%ff"] {
            assert!(matches!(resolve(uri), Err(AddressError::BadEscape { .. })), "{uri}");
        }
    }
}
