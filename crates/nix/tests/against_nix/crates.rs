//! Published crates as second opinions, on inputs that are made up.

use std::collections::BTreeMap;
use std::io::Read;

use fleet_nix::base32;
use fleet_nix::nar::NarWriter;
use nix_nar::{Content, Decoder};
use proptest::prelude::*;

/// Files by path, of which none lies below another.
type Files = BTreeMap<(String, String), (bool, Vec<u8>)>;

/// An archive of two levels: directories of files.
fn pack(files: &Files) -> Vec<u8> {
    let mut directories: BTreeMap<&str, BTreeMap<&str, &(bool, Vec<u8>)>> = BTreeMap::new();
    for ((directory, name), file) in files {
        directories.entry(directory).or_default().insert(name, file);
    }
    let mut writer = NarWriter::new(Vec::new()).expect("a vector takes all");
    writer.begin_directory().expect("in place");
    for (directory, entries) in directories {
        writer.entry(directory.as_bytes()).expect("in order");
        writer.begin_directory().expect("in place");
        for (name, (executable, contents)) in entries {
            writer.entry(name.as_bytes()).expect("in order");
            writer.file(*executable, contents.len() as u64, contents.as_slice()).expect("of this size");
        }
        writer.end_directory().expect("in place");
    }
    writer.end_directory().expect("in place");
    writer.finish().expect("complete")
}

/// What nix-nar finds in an archive.
fn unpack(nar: &[u8]) -> Files {
    let decoder = Decoder::new(nar).expect("an archive");
    let mut files = Files::new();
    for entry in decoder.entries().expect("an archive") {
        let entry = entry.expect("an entry");
        let Content::File { executable, mut data, .. } = entry.content else {
            continue;
        };
        let mut contents = Vec::new();
        data.read_to_end(&mut contents).expect("contents");
        let path = entry.path.expect("not the root");
        let (directory, name) = path.as_str().split_once('/').expect("two levels");
        files.insert((directory.to_owned(), name.to_owned()), (executable, contents));
    }
    files
}

proptest! {
    #[test]
    fn nix_nar_finds_what_we_packed(
        files in prop::collection::btree_map(("[a-c]{1,2}", "[a-zA-Z0-9+_-]{1,9}"), any::<(bool, Vec<u8>)>(), 0..9)
    ) {
        prop_assert_eq!(unpack(&pack(&files)), files);
    }

    #[test]
    fn nix_base32_writes_and_reads_the_same(bytes in prop::collection::vec(any::<u8>(), 1..80)) {
        let text = base32::encode(&bytes);
        prop_assert_eq!(&nix_base32::to_nix_base32(&bytes), &text);
        prop_assert_eq!(nix_base32::from_nix_base32(&text), Some(bytes));
    }
}
