//! Signatures that one side makes and the other checks.

use std::fs;
use std::path::Path;

use fleet_nix::narinfo::NarInfo;
use fleet_nix::{NarHash, PathInfo, PublicKey, References, SecretKey, StoreDir, source_path};
use fleet_testkit::{DaemonOptions, NixDaemon, short_temp_dir};

use crate::{printed_path, stdout};

#[test]
fn a_signature_of_nix_verifies() {
    let daemon = NixDaemon::start_default();
    let work = short_temp_dir();
    let secret = daemon.nix_stdout(["key", "generate-secret", "--key-name", "test.example-1"]);
    let key_file = work.path().join("key");
    fs::write(&key_file, &secret).expect("the key is written");
    let secret: SecretKey = secret.parse().expect("a key of Nix");
    let path = daemon.nix_stdout(["eval", "--raw", "--expr", r#"builtins.toFile "a" "b""#]);
    stdout(daemon.nix(["store", "sign", "--key-file"]).arg(&key_file).arg(&path));
    let cache = work.path().join("cache");
    let uri = format!("file://{}?compression=none", cache.display());
    stdout(&mut daemon.nix(["copy", "--no-check-sigs", "--to", &uri, &path]));
    let store = StoreDir::default();
    let hash_part = store.parse(&path).expect("a store path").hash_part().to_owned();
    let bytes = fs::read(cache.join(format!("{hash_part}.narinfo"))).expect("a narinfo");
    let info = NarInfo::parse_for(&store, &hash_part, &bytes).expect("Nix wrote it");
    assert!(info.path_info.is_signed_by(&store, &[secret.public_key()]));
}

#[test]
fn our_public_key_is_that_of_nix() {
    let daemon = NixDaemon::start_default();
    let secret = SecretKey::from_seed("test.example-1", &[5; 32]).expect("a valid name");
    let work = short_temp_dir();
    let file = work.path().join("key");
    fs::write(&file, secret.to_secret_string()).expect("the key is written");
    let mut command = daemon.nix(["key", "convert-secret-to-public"]);
    let public = stdout(command.stdin(fs::File::open(&file).expect("the key")));
    let public: PublicKey = String::from_utf8(public).expect("UTF-8").trim().parse().expect("a key");
    assert_eq!(public, secret.public_key());
}

/// Writes a binary cache of one object and returns the object's path.
fn write_cache(cache: &Path, key: &SecretKey) -> PathInfo {
    let store = StoreDir::default();
    fs::create_dir_all(cache.join("nar")).expect("a directory");
    fs::write(cache.join("file"), "contents").expect("a file");
    let nar = fleet_nix::nar_dump::dump_path(&cache.join("file"), Vec::new()).expect("packs");
    let nar_hash = NarHash::of(&nar);
    // Named as if it were built: no content address vouches for it, only the signature does.
    let path = source_path(&store, "built", nar_hash, &References::none()).expect("a valid name");
    let mut path_info = PathInfo {
        path,
        deriver: None,
        nar_hash,
        references: [].into(),
        registration_time: 0,
        nar_size: nar.len() as u64,
        ultimate: false,
        signatures: Vec::new(),
        content_address: None,
    };
    path_info.sign(&store, key);
    let info = NarInfo {
        path_info,
        url: "nar/built.nar".into(),
        compression: "none".into(),
        file_hash: Some(nar_hash.to_hash()),
        file_size: Some(nar.len() as u64),
    };
    let name = format!("{}.narinfo", info.path_info.path.hash_part());
    fs::write(cache.join(name), info.print(&store)).expect("the narinfo is written");
    fs::write(cache.join("nar/built.nar"), nar).expect("the archive is written");
    fs::write(cache.join("nix-cache-info"), "StoreDir: /nix/store\n").expect("the description is written");
    info.path_info
}

#[test]
fn nix_accepts_what_we_signed_and_nothing_else() {
    let trusted = SecretKey::from_seed("test.example-1", &[5; 32]).expect("a valid name");
    let other = SecretKey::from_seed("test.example-1", &[6; 32]).expect("a valid name");
    let daemon = NixDaemon::start(&DaemonOptions {
        require_signatures: true,
        trusted_public_keys: vec![trusted.public_key().to_string()],
        ..DaemonOptions::default()
    });
    let work = short_temp_dir();
    for (name, key, accepted) in [("forged", &other, false), ("honest", &trusted, true)] {
        let cache = work.path().join(name);
        let path = StoreDir::default().print(&write_cache(&cache, key).path);
        let from = format!("file://{}", cache.display());
        let output = daemon.nix(["copy", "--from", &from, &path]).output().expect("nix starts");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), accepted, "{complaint}");
        assert!(accepted || complaint.contains("signature"), "{complaint}");
    }
    let valid = printed_path(&mut daemon.nix(["path-info", "--all"]));
    assert_eq!(valid.name(), "built");
}
