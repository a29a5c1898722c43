//! Derivations as the Nix at hand writes and builds them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use fleet_nix::derivation::{DerivationError, ModuloMemo, modulo_hashes};
use fleet_nix::{Derivation, OutputName, StoreDir, StorePath};
use fleet_testkit::NixDaemon;

use crate::{daemon, stdout};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// All derivations in the daemon's store.
fn written(daemon: &NixDaemon) -> BTreeMap<StorePath, Vec<u8>> {
    let mut derivations = BTreeMap::new();
    for entry in fs::read_dir(daemon.physical("/nix/store")).expect("the store") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Ok(store_path) = name.parse::<StorePath>()
            && store_path.is_derivation()
        {
            derivations.insert(store_path, fs::read(&path).expect("a derivation"));
        }
    }
    derivations
}

fn parse(path: &StorePath, bytes: &[u8]) -> Result<Derivation, DerivationError> {
    Derivation::parse(&StoreDir::default(), path.derivation_name().expect("a derivation"), bytes)
}

#[test]
fn the_vectors_are_what_this_nix_writes() {
    let daemon = daemon();
    stdout(daemon.command("nix-instantiate", ["--"]).arg(fixtures().join("derivations.nix")));
    let written = written(&daemon);
    let kept = fs::read_dir(fixtures().join("derivations")).expect("vectors").count();
    assert_eq!(written.len(), kept);
    for (path, bytes) in written {
        let kept = fs::read(fixtures().join("derivations").join(path.as_str()));
        assert_eq!(kept.ok(), Some(bytes), "{path}");
    }
}

#[test]
fn output_paths_are_those_that_nix_shows() {
    let daemon = daemon();
    let store = StoreDir::default();
    stdout(daemon.command("nix-instantiate", ["--"]).arg(fixtures().join("derivations.nix")));
    let mut derivations = BTreeMap::new();
    for (path, bytes) in written(&daemon) {
        match parse(&path, &bytes) {
            Err(DerivationError::Dynamic) => {}
            derivation => {
                derivations.insert(path, derivation.expect("Nix wrote it"));
            }
        }
    }
    let mut memo = ModuloMemo::new();
    let load = |path: &StorePath| Ok::<_, DerivationError>(derivations[path].clone());
    modulo_hashes(&store, derivations.keys().cloned(), &mut memo, load).expect("all are there");
    for (path, derivation) in &derivations {
        derivation.check_output_paths(&store, |input| memo.get(input)).expect("Nix computed it");
        let known: Vec<String> =
            derivation.outputs.values().filter_map(|output| Some(store.print(output.path()?))).collect();
        if known.len() == derivation.outputs.len() {
            let shown = daemon.command("nix-store", ["--query", "--outputs", &store.print(path)]);
            let shown = String::from_utf8(stdout(&mut { shown })).expect("UTF-8");
            let mut shown: Vec<&str> = shown.lines().collect();
            shown.sort_unstable();
            let mut known: Vec<&str> = known.iter().map(String::as_str).collect();
            known.sort_unstable();
            assert_eq!(shown, known, "{path}");
        }
    }
}

#[test]
fn what_was_deferred_gets_the_path_that_nix_builds() {
    let daemon = daemon();
    let store = StoreDir::default();
    let expression = r#"
      let
        make = attributes: derivation ({ system = builtins.currentSystem; builder = "/bin/sh"; } // attributes);
        floating = make {
          name = "floating";
          outputs = [ "out" "lib" ];
          __contentAddressed = true;
          outputHashMode = "recursive";
          outputHashAlgo = "sha256";
          args = [ "-c" "echo out > $out; echo lib > $lib" ];
        };
      in make {
        name = "deferred";
        library = floating.lib;
        args = [ "-c" "echo $library ${floating} > $out" ];
      }"#;
    let built = daemon.build_expression(expression);
    let [built] = built.as_slice() else { panic!("one output: {built:?}") };
    let outputs: BTreeMap<&str, StorePath> = fs::read_to_string(daemon.physical(built))
        .expect("the output")
        .split_whitespace()
        .zip(["lib", "out"])
        .map(|(path, name)| (name, store.parse(path).expect("a store path")))
        .collect();
    let derivations = written(&daemon);
    let (path, deferred) = derivations
        .iter()
        .map(|(path, bytes)| (path, parse(path, bytes).expect("Nix wrote it")))
        .find(|(path, derivation)| path.name() == "deferred.drv" && !derivation.input_drvs.is_empty())
        .expect("instantiated");
    let basic = deferred
        .resolve(&store, |_, output| outputs.get(output.as_str()).cloned())
        .expect("all outputs are known");
    let resolved = basic.output_path(&OutputName::out()).map(|path| store.print(path));
    assert_eq!(resolved.as_ref(), Some(built), "{path}");
}
