//! What to say when the coordinator or the worker in this process cannot start, or does not take a tree.

use std::error::Error;
use std::io;

use fleet_coordinator::StartError;
use fleet_nix::daemon::{AddressError, DaemonError};
use fleet_worker::WorkerError;

use super::{CliError, FULL, chain, plain};
use crate::embed::EmbedError;
use crate::upload::UploadError;

impl From<EmbedError> for CliError {
    fn from(error: EmbedError) -> Self {
        let what = chain(&error);
        if is_full(&error) {
            return Self::new(what).next(FULL);
        }
        let next = match &error {
            EmbedError::Store(AddressError::NoDaemon { uri, hint }) => {
                let mut rest = hint.chars();
                let first = rest.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
                return Self::new(format!(
                    "the store '{uri}' of --store, FLEET_STORE or NIX_REMOTE is not a Nix daemon on this machine"
                ))
                .next(first + rest.as_str());
            }
            EmbedError::Store(_) => {
                "Give `daemon` or `unix://SOCKET`, with --store, FLEET_STORE or NIX_REMOTE"
            }
            EmbedError::Coordinator(StartError::Directory { .. }) => {
                "Make the state directory writable, or set FLEET_STATE_DIR to one that is"
            }
            EmbedError::Coordinator(_) => {
                "Move the state directory away (`fleetctl config show` names it) and run the same command again"
            }
            EmbedError::Worker(WorkerError::Daemon(error)) => return daemon(error),
            EmbedError::Worker(WorkerError::Directory { .. }) => {
                "Make the cache directory writable, or set FLEET_CACHE_DIR to one that is"
            }
            EmbedError::Worker(WorkerError::Capabilities(_)) => {
                "Install Nix 2.18 or newer, put `nix` on PATH, or name it in FLEET_NIX"
            }
            EmbedError::Worker(WorkerError::Proxy(_)) => {
                "Make TMPDIR a directory that is writable and not too deep"
            }
            EmbedError::Worker(_) => "Run the same command again",
        };
        Self::new(what).next(next)
    }
}

/// The errors of the daemon say what to do in the same breath; here it is a sentence of its own.
fn daemon(error: &DaemonError) -> CliError {
    match error {
        DaemonError::Connect { socket, source } => {
            let what = format!("cannot connect to the Nix daemon at {}: {}", socket.display(), plain(source));
            CliError::new(what).next(
                "Start it (`systemctl start nix-daemon`, or run `nix-daemon`), or name its socket in \
                 NIX_DAEMON_SOCKET_PATH or with --store",
            )
        }
        DaemonError::HungUp { socket } => CliError::new(format!(
            "the Nix daemon at {} closed the connection at once",
            socket.display()
        ))
        .next("Ask an administrator to name this user in `allowed-users` of nix.conf; the daemon's log says more"),
        DaemonError::TooOld { major, minor } => {
            CliError::new(format!("the Nix daemon is too old: it speaks protocol {major}.{minor}, older than Nix 2.18"))
                .next("Upgrade Nix on this machine and restart nix-daemon")
        }
        other => CliError::new(chain(other))
            .next("`nix store info` tells whether Nix itself can reach its daemon; the daemon's log says more"),
    }
}

impl From<UploadError> for CliError {
    fn from(error: UploadError) -> Self {
        let retry = "Check the directories of `fleetctl config show`, and run the same command again";
        let next = if is_full(&error) { FULL } else { retry };
        Self::new(chain(&error)).next(next)
    }
}

/// Whether the deepest cause is a lack of space. Causes that crossed the wire are text only.
fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) {
            return true;
        }
        cause = error.source();
    }
    chain(error).to_lowercase().contains("no space left on device")
}

#[cfg(test)]
mod tests {
    use fleet_nix::daemon::DaemonAddress;

    use super::*;

    #[test]
    fn a_store_that_is_no_daemon_gets_one_next_step() {
        let said = |uri| {
            let error = DaemonAddress::from_store_uri(uri).expect_err("refused");
            CliError::from(EmbedError::Store(error)).paragraph()
        };
        insta::assert_snapshot!(said("https://x"), @"error: the store 'https://x' of --store, FLEET_STORE or NIX_REMOTE is not a Nix daemon on this machine. Use `daemon`, or `unix://SOCKET`.");
        insta::assert_snapshot!(said("local"), @"error: the store 'local' of --store, FLEET_STORE or NIX_REMOTE is not a Nix daemon on this machine. Builds go through a Nix daemon; start `nix-daemon` for this store, and name its socket as `unix://SOCKET?root=DIRECTORY`, or use `daemon` for the installed one.");
    }
}
