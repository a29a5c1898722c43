//! The pure layer beside the real Nix and beside published crates: same bytes, same paths, same signatures.

mod addressing;
mod crates;
mod derivations;
mod signatures;

use std::process::Command;

use fleet_nix::{StoreDir, StorePath};
use fleet_testkit::{DaemonOptions, NixDaemon};

/// A daemon that knows every form of derivation.
fn daemon() -> NixDaemon {
    let features = ["nix-command", "flakes", "ca-derivations", "impure-derivations", "dynamic-derivations"];
    let experimental_features = features.map(str::to_owned).to_vec();
    NixDaemon::start(&DaemonOptions { experimental_features, ..DaemonOptions::default() })
}

/// The stdout of a command that must succeed.
fn stdout(command: &mut Command) -> Vec<u8> {
    let output = command.output().expect("the command starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The one store path that a command prints.
fn printed_path(command: &mut Command) -> StorePath {
    let text = String::from_utf8(stdout(command)).expect("UTF-8");
    StoreDir::default().parse(text.trim()).expect("a store path")
}
