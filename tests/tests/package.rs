//! The Nix package of this workspace evaluates. It cannot be built here: that takes nixpkgs.

use fleet_testkit::NixDaemon;

/// What the package takes from nixpkgs, reduced to what evaluation sees of it.
const STAND_IN: &str = "{
  lib = {
    importTOML = file: builtins.fromTOML (builtins.readFile file);
    fileset = {
      unions = files: assert builtins.all builtins.pathExists files; files;
      toSource = { root, fileset }: assert builtins.pathExists root; fileset;
    };
    licenses = { mit = 1; asl20 = 2; };
  };
  rustPlatform.buildRustPackage = arguments: arguments;
}";

#[test]
fn the_package_names_files_and_crates_that_exist() {
    let daemon = NixDaemon::start_default();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../nix/package.nix");
    let expression = format!(
        "let package = import {file} {STAND_IN}; in
         assert builtins.pathExists package.cargoLock.lockFile;
         assert builtins.length package.src == 6;
         package.version + builtins.concatStringsSep \" \" package.cargoBuildFlags"
    );
    let evaluated =
        daemon.nix(["eval", "--impure", "--raw", "--expr", &expression]).output().expect("nix runs");
    let flags = ["client", "coordinator", "worker"].map(|name| format!("--package=fleet-{name}")).join(" ");
    let expected = format!("{}{flags}", env!("CARGO_PKG_VERSION"));
    let stderr = String::from_utf8_lossy(&evaluated.stderr);
    assert_eq!(String::from_utf8_lossy(&evaluated.stdout), expected, "{stderr}");
    for name in ["client", "coordinator", "worker"] {
        let manifest = format!("{}/../crates/{name}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
        let manifest = std::fs::read_to_string(manifest).expect("a manifest");
        assert!(manifest.contains(&format!("name = \"fleet-{name}\"")));
    }
}
