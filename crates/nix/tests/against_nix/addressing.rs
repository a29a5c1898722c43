//! Archives of real trees, and the paths that follow from contents.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use fleet_nix::content_address::{ContentAddress, ContentAddressMethod};
use fleet_nix::hash::{Hash, HashAlgorithm};
use fleet_nix::nar_dump::{NarDumpError, dump_path};
use fleet_nix::{NarHash, References, StoreDir, fixed_path, source_path, text_path};
use fleet_testkit::{NixDaemon, short_temp_dir};

use crate::{printed_path, stdout};

/// A tree with everything an archive can hold, and names that sort differently as text and as paths.
fn write_tree(root: &Path) {
    let odd = std::ffi::OsStr::from_bytes(b"\xff\n odd");
    for directory in ["a", "a/deep/er", "a-b", "empty", "a.d"] {
        fs::create_dir_all(root.join(directory)).expect("a directory");
    }
    for (name, mode) in [("run", 0o755), ("a/plain", 0o644), ("group", 0o654), ("a.d/x", 0o600)] {
        fs::write(root.join(name), name.repeat(1000)).expect("a file");
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).expect("its mode");
    }
    fs::write(root.join("nothing"), "").expect("a file");
    fs::write(root.join(odd), "x").expect("a file");
    symlink("../outside", root.join("a/link")).expect("a link");
    symlink("a", root.join("to-directory")).expect("a link");
}

#[test]
fn a_packed_tree_is_the_archive_of_nix() {
    let daemon = NixDaemon::start_default();
    let work = short_temp_dir();
    let tree = work.path().join("tree");
    write_tree(&tree);
    for path in [tree.clone(), tree.join("run"), tree.join("a/link")] {
        let expected = stdout(daemon.command("nix-store", ["--dump"]).arg(&path));
        let packed = dump_path(&path, Vec::new()).expect("packs");
        assert!(packed == expected, "{}", path.display());
    }
}

#[test]
fn what_cannot_be_packed_is_named() {
    let work = short_temp_dir();
    let missing = dump_path(&work.path().join("missing"), Vec::new());
    assert!(matches!(missing, Err(NarDumpError::Read { .. })));
    let socket = work.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let unsupported = dump_path(work.path(), Vec::new());
    assert!(matches!(unsupported, Err(NarDumpError::UnsupportedType(path)) if path == socket));
}

#[test]
fn paths_of_added_trees_follow_from_their_archive() {
    let daemon = NixDaemon::start_default();
    let work = short_temp_dir();
    let tree = work.path().join("tree");
    write_tree(&tree);
    let added = printed_path(daemon.command("nix-store", ["--add"]).arg(&tree));
    let hash = NarHash::of(&dump_path(&tree, Vec::new()).expect("packs"));
    assert_eq!(source_path(&StoreDir::default(), "tree", hash, &References::none()), Ok(added));
}

#[test]
fn paths_of_fixed_contents_follow_from_their_hash() {
    let daemon = NixDaemon::start_default();
    let work = short_temp_dir();
    let file = work.path().join("file");
    fs::write(&file, "contents").expect("a file");
    let archive = dump_path(&file, Vec::new()).expect("packs");
    for algorithm in [HashAlgorithm::Md5, HashAlgorithm::Sha1, HashAlgorithm::Sha256, HashAlgorithm::Sha512] {
        let cases = [
            (ContentAddressMethod::Flat, b"contents".as_slice(), vec!["--add-fixed"]),
            (ContentAddressMethod::NixArchive, &archive, vec!["--recursive", "--add-fixed"]),
        ];
        for (method, hashed, arguments) in cases {
            let mut command = daemon.command("nix-store", arguments);
            let added = printed_path(command.arg(algorithm.name()).arg(&file));
            let address = ContentAddress { method, hash: Hash::of(algorithm, hashed) };
            let path = fixed_path(&StoreDir::default(), "file", &address, &References::none());
            assert_eq!(path, Ok(added), "{address}");
        }
    }
}

#[test]
fn paths_of_texts_follow_from_text_and_references() {
    let daemon = NixDaemon::start_default();
    let store = StoreDir::default();
    let eval = |expression: &str| printed_path(&mut daemon.nix(["eval", "--raw", "--expr", expression]));
    let first = eval(r#"builtins.toFile "first" "text""#);
    let hash = NarHash::of(b"text").0;
    assert_eq!(text_path(&store, "first", hash, &[].into()), Ok(first.clone()));
    let second = eval(r#"builtins.toFile "second" "see ${builtins.toFile "first" "text"}""#);
    let hash = NarHash::of(format!("see {}", store.print(&first)).as_bytes()).0;
    assert_eq!(text_path(&store, "second", hash, &[first].into()), Ok(second));
}
