# fleetctl, fleet-coordinator and fleet-worker as one package: `pkgs.callPackage ./nix/package.nix { }`.
{ lib, rustPlatform }:
rustPlatform.buildRustPackage {
  pname = "fleetctl";
  inherit ((lib.importTOML ../Cargo.toml).workspace.package) version;

  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../Cargo.lock
      ../Cargo.toml
      ../benches
      ../crates
      ../proto
      ../tests
    ];
  };
  cargoLock.lockFile = ../Cargo.lock;
  cargoBuildFlags = map (name: "--package=fleet-${name}") [
    "client"
    "coordinator"
    "worker"
  ];

  # They start Nix daemons with stores of their own, which a build's sandbox does not allow.
  doCheck = false;

  meta = {
    description = "Builds a fleet of NixOS hosts as one graph";
    license = with lib.licenses; [
      mit
      asl20
    ];
    mainProgram = "fleetctl";
  };
}
