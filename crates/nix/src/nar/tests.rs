use super::*;
use crate::hash::NarHash;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::{self, Read};

/// A tree, as tests think of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tree {
    File { executable: bool, contents: Vec<u8> },
    Symlink(Vec<u8>),
    Directory(Entries),
}

impl Tree {
    fn file(contents: &[u8]) -> Self {
        Self::File { executable: false, contents: contents.to_vec() }
    }

    fn directory<const N: usize>(entries: [(&[u8], Tree); N]) -> Self {
        Self::Directory(entries.into_iter().map(|(name, tree)| (name.to_vec(), tree)).collect())
    }

    fn write(&self, writer: &mut NarWriter<Vec<u8>>) -> Result<(), NarWriteError> {
        match self {
            Self::File { executable, contents } => {
                writer.file(*executable, contents.len() as u64, contents.as_slice())
            }
            Self::Symlink(target) => writer.symlink(target),
            Self::Directory(entries) => {
                writer.begin_directory()?;
                for (name, tree) in entries {
                    writer.entry(name)?;
                    tree.write(writer)?;
                }
                writer.end_directory()
            }
        }
    }

    fn nar(&self) -> Vec<u8> {
        let mut writer = NarWriter::new(Vec::new()).expect("a vector takes all");
        self.write(&mut writer).expect("a valid tree");
        writer.finish().expect("complete")
    }
}

type Entries = BTreeMap<Vec<u8>, Tree>;

/// Collects events into a tree: each open directory, and the name of the node to come.
#[derive(Default)]
struct Collector {
    open: Vec<(Entries, Vec<u8>)>,
    file: Option<(bool, Vec<u8>)>,
    root: Option<Tree>,
}

impl Collector {
    fn take(&mut self, event: NarEvent<'_>) {
        match event {
            NarEvent::Directory => self.open.push(Default::default()),
            NarEvent::Entry(name) => self.open.last_mut().expect("in a directory").1 = name.to_vec(),
            NarEvent::DirectoryEnd => {
                let (entries, _) = self.open.pop().expect("in a directory");
                self.node(Tree::Directory(entries));
            }
            NarEvent::File { executable, .. } => {
                assert!(self.file.is_none());
                self.file = Some((executable, Vec::new()));
            }
            NarEvent::Contents(bytes) => {
                assert!(!bytes.is_empty());
                self.file.as_mut().expect("in a file").1.extend_from_slice(bytes);
            }
            NarEvent::FileEnd => {
                let (executable, contents) = self.file.take().expect("in a file");
                self.node(Tree::File { executable, contents });
            }
            NarEvent::Symlink(target) => self.node(Tree::Symlink(target.to_vec())),
        }
    }

    fn node(&mut self, tree: Tree) {
        match self.open.last_mut() {
            Some((entries, name)) => assert!(entries.insert(std::mem::take(name), tree).is_none()),
            None => assert!(self.root.replace(tree).is_none()),
        }
    }
}

fn read(nar: &[u8]) -> Result<Tree, NarReadError> {
    let mut collector = Collector::default();
    read_nar(nar, |event| {
        collector.take(event);
        Ok::<(), NarReadError>(())
    })?;
    Ok(collector.root.expect("a whole archive has a root"))
}

fn fault(nar: &[u8]) -> NarError {
    match read(nar).expect_err("not an archive") {
        NarReadError::Nar(error) => error,
        NarReadError::Io(error) => panic!("{error}"),
    }
}

/// Bytes of words, each with its length and padding.
fn words(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in words {
        bytes.extend_from_slice(&(word.len() as u64).to_le_bytes());
        bytes.extend_from_slice(word);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes
}

/// An archive of a directory with empty files of these names.
fn nar_of_names(names: &[&[u8]]) -> Vec<u8> {
    let mut all: Vec<&[u8]> = vec![b"nix-archive-1", b"(", b"type", b"directory"];
    for name in names {
        all.extend([b"entry", b"(".as_slice(), b"name", name, b"node"]);
        all.extend([b"(".as_slice(), b"type", b"regular", b"contents", b"", b")", b")"]);
    }
    all.push(b")");
    words(&all)
}

fn sample() -> Tree {
    Tree::directory([
        (b"bin", Tree::directory([(b"a", Tree::File { executable: true, contents: b"#!x\n".to_vec() })])),
        (b"empty", Tree::file(b"")),
        (b"link", Tree::Symlink(b"bin/a".to_vec())),
        (b"none", Tree::directory([])),
        (b"\xff", Tree::file(b"12345678")),
    ])
}

#[test]
fn a_tree_reads_back() {
    for tree in [sample(), Tree::file(b"x"), Tree::Symlink(b"/".to_vec()), Tree::directory([])] {
        assert_eq!(read(&tree.nar()).expect("our own archive"), tree);
    }
}

#[test]
fn the_bytes_are_those_of_the_format() {
    let expected =
        words(&[b"nix-archive-1", b"(", b"type", b"regular", b"executable", b"", b"contents", b"hi", b")"]);
    assert_eq!(Tree::File { executable: true, contents: b"hi".to_vec() }.nar(), expected);
}

#[test]
fn an_archive_of_nix_is_read_and_written() {
    let nar = include_bytes!("../../tests/fixtures/tree.nar").as_slice();
    let script = Tree::File { executable: true, contents: b"#!/bin/sh\n".to_vec() };
    let expected = Tree::directory([
        (b"bin", Tree::directory([(b"nothing", Tree::file(b"")), (b"run", script)])),
        (b"eight", Tree::file(b"12345678")),
        (b"empty", Tree::directory([])),
        (b"link", Tree::Symlink(b"../nowhere".to_vec())),
    ]);
    assert_eq!(read(nar).expect("Nix wrote it"), expected);
    assert_eq!(expected.nar(), nar);
    let narinfo = include_str!("../../tests/fixtures/narinfo/nj06pxramhv7f1i2xpyi5h8l35aaa2hm.narinfo");
    let info = crate::NarInfo::parse(&crate::StoreDir::default(), narinfo.as_bytes()).expect("Nix wrote it");
    let described = (info.path_info.nar_hash, info.path_info.nar_size);
    assert_eq!(verify_nar(nar).expect("Nix wrote it"), described);
}

#[test]
fn verifying_hashes_the_whole_archive() {
    let nar = sample().nar();
    let (hash, size) = verify_nar(nar.as_slice()).expect("our own archive");
    assert_eq!((hash, size), (NarHash::of(&nar), nar.len() as u64));
}

#[test]
fn truncation_at_every_byte_is_noticed() {
    let nar = sample().nar();
    for len in 0..nar.len() {
        assert_eq!(fault(&nar[..len]), NarError::Truncated, "{len}");
    }
}

#[test]
fn trailing_bytes_are_noticed_and_left() {
    let mut nar = sample().nar();
    let len = nar.len();
    nar.extend_from_slice(b"after");
    assert_eq!(fault(&nar), NarError::Trailing);
    let mut parser = NarParser::new();
    let taken = parser.feed(&nar, |_| Ok::<(), NarError>(())).expect("an archive");
    assert_eq!(taken, len);
    assert!(parser.is_finished());
    assert_eq!(parser.feed(&nar[len..], |_| Ok::<(), NarError>(())), Ok(0));
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in [b"".as_slice(), b".", b"..", b"a/b", b"/", b"a\0b"] {
        assert!(matches!(fault(&nar_of_names(&[name])), NarError::BadName(_)), "{name:?}");
    }
    assert!(matches!(fault(&nar_of_names(&[b"a~nix~case~hack~1"])), NarError::CaseHack(_)));
    assert!(read(&nar_of_names(&[b"...", b"A", b"a", b"a b", b"\xff\n"])).is_ok());
}

#[test]
fn entries_are_sorted_and_unique() {
    for names in [[b"b", b"a"], [b"a", b"a"], [b"a", b"B"]] {
        assert!(matches!(fault(&nar_of_names(&[names[0], names[1]])), NarError::OutOfOrder(_)));
    }
}

#[test]
fn nothing_leads_through_a_link() {
    // A link cannot be followed: one name stands for one node, and holds no slash.
    let link: [&[u8]; 9] = [b"entry", b"(", b"name", b"a", b"node", b"(", b"type", b"symlink", b"target"];
    let start: [&[u8]; 4] = [b"nix-archive-1", b"(", b"type", b"directory"];
    let through: [&[u8]; 8] = [b"/etc", b")", b")", b"entry", b"(", b"name", b"a", b"node"];
    assert!(matches!(fault(&words(&[&start[..], &link, &through].concat())), NarError::OutOfOrder(_)));
    let inside: [&[u8]; 8] = [b"/etc", b")", b")", b"entry", b"(", b"name", b"a/b", b"node"];
    assert!(matches!(fault(&words(&[&start[..], &link, &inside].concat())), NarError::BadName(_)));
}

#[test]
fn an_archive_knows_no_owner_and_no_mode() {
    for word in [b"setuid".as_slice(), b"mode", b"owner", b"xattr"] {
        let nar = words(&[b"nix-archive-1", b"(", b"type", b"regular", word, b"", b"contents", b"", b")"]);
        assert!(matches!(fault(&nar), NarError::UnexpectedWord { .. }));
    }
}

#[test]
fn sizes_at_the_end_of_what_can_be_counted_are_only_sizes() {
    for size in [u64::MAX, u64::MAX - 7, 1 << 63, i64::MAX.unsigned_abs()] {
        let mut nar = words(&[b"nix-archive-1", b"(", b"type", b"regular", b"contents"]);
        nar.extend_from_slice(&size.to_le_bytes());
        nar.extend_from_slice(&[0; 64]);
        assert_eq!(fault(&nar), NarError::Truncated, "{size}");
        for before in [[b"nix-archive-1".as_slice(), b"(", b"type"].as_slice(), &[b"nix-archive-1"], &[]] {
            let mut nar = words(before);
            nar.extend_from_slice(&size.to_le_bytes());
            assert!(matches!(fault(&nar), NarError::TooLong { .. } | NarError::BadMagic), "{size}");
        }
    }
}

#[test]
fn every_length_is_bounded() {
    let name = |len| nar_of_names(&[&vec![b'a'; len]]);
    assert!(read(&name(255)).is_ok());
    assert_eq!(fault(&name(256)), NarError::TooLong { what: "entry name", length: 256, limit: 255 });
    let target =
        |len| words(&[b"nix-archive-1", b"(", b"type", b"symlink", b"target", &vec![b'a'; len], b")"]);
    assert!(read(&target(4095)).is_ok());
    assert_eq!(fault(&target(4096)), NarError::TooLong { what: "symlink target", length: 4096, limit: 4095 });
    for target in [b"".as_slice(), b"a\0"] {
        let nar = words(&[b"nix-archive-1", b"(", b"type", b"symlink", b"target", target, b")"]);
        assert!(matches!(fault(&nar), NarError::BadTarget(_)));
    }
    let mut endless = words(&[b"nix-archive-1", b"(", b"type", b"regular", b"contents"]);
    endless.extend_from_slice(&u64::MAX.to_le_bytes());
    endless.extend_from_slice(b"some");
    assert_eq!(fault(&endless), NarError::Truncated);
    assert_eq!(fault(&u64::MAX.to_le_bytes()), NarError::BadMagic);
}

#[test]
fn nesting_is_bounded_as_in_nix() {
    let nested = |depth: usize| {
        let mut all: Vec<&[u8]> = vec![b"nix-archive-1"];
        for _ in 0..depth {
            all.extend([b"(".as_slice(), b"type", b"directory", b"entry", b"(", b"name", b"a", b"node"]);
        }
        all.extend([b"(".as_slice(), b"type", b"regular", b"contents", b"", b")"]);
        for _ in 0..depth {
            all.extend([b")".as_slice(), b")"]);
        }
        words(&all)
    };
    assert!(read(&nested(63)).is_ok());
    assert_eq!(fault(&nested(64)), NarError::TooDeep);
    assert_eq!(fault(&nested(100_000)), NarError::TooDeep);
}

#[test]
fn other_words_are_refused() {
    let start: [&[u8]; 3] = [b"nix-archive-1", b"(", b"type"];
    let after = |rest: &[&[u8]]| fault(&words(&[&start, rest].concat()));
    let unexpected = |error| matches!(error, NarError::UnexpectedWord { .. });
    assert!(unexpected(after(&[b"fifo"])));
    assert!(unexpected(after(&[b"regular", b"target"])));
    assert!(unexpected(after(&[b"regular", b"executable", b"", b"executable"])));
    assert!(unexpected(after(&[b"regular", b"contents", b"", b"("])));
    assert!(unexpected(after(&[b"directory", b"node"])));
    assert!(unexpected(after(&[b"directory", b"entry", b")"])));
    assert!(unexpected(after(&[b"directory", b"entry", b"(", b"node"])));
    assert!(matches!(
        after(&[b"regular", b"executable", b"yes"]),
        NarError::TooLong { what: "value of 'executable'", .. }
    ));
    assert!(matches!(after(&[&[b'x'; 33]]), NarError::TooLong { .. }));
    assert_eq!(fault(&words(&[b"nix-archive-2"])), NarError::BadMagic);
    assert_eq!(fault(&words(&[b"nix-export"])), NarError::BadMagic);
}

#[test]
fn padding_is_zero() {
    let nar = Tree::file(b"abc").nar();
    let contents = nar.windows(3).position(|window| window == b"abc").expect("contents");
    for offset in contents + 3..contents + 8 {
        let mut bad = nar.clone();
        bad[offset] = 1;
        assert_eq!(fault(&bad), NarError::BadPadding);
    }
}

#[test]
fn an_error_of_the_visitor_stops_the_reading() {
    let result = read_nar(sample().nar().as_slice(), |_| Err(NarReadError::Io(io::Error::other("full"))));
    assert!(matches!(result, Err(NarReadError::Io(_))));
}

#[test]
fn an_interrupted_source_is_asked_again() {
    struct Interrupted<'a>(&'a [u8], bool);
    impl Read for Interrupted<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 { Err(io::ErrorKind::Interrupted.into()) } else { self.0.read(&mut buffer[..1]) }
        }
    }
    let nar = sample().nar();
    assert!(verify_nar(Interrupted(&nar, false)).is_ok());
}

#[test]
fn the_writer_refuses_what_the_parser_would() {
    let writer = || NarWriter::new(Vec::new()).expect("a vector takes all");
    let mut entries = writer();
    entries.begin_directory().expect("the root");
    let bad = |result| matches!(result, Err(NarWriteError::Nar(_)));
    assert!(bad(entries.entry(b"..")));
    assert!(bad(entries.entry(&[b'a'; 256])));
    entries.entry(b"b").expect("a name");
    assert!(matches!(entries.entry(b"c"), Err(NarWriteError::OutOfPlace("an entry"))));
    assert!(bad(entries.symlink(b"")));
    entries.symlink(b"t").expect("a target");
    assert!(bad(entries.entry(b"a")));
    entries.end_directory().expect("the end");
    assert!(matches!(entries.symlink(b"t"), Err(NarWriteError::OutOfPlace("a symlink"))));
    let mut deep = writer();
    for _ in 0..64 {
        deep.begin_directory().expect("not too deep");
        deep.entry(b"a").expect("a name");
    }
    assert!(bad(deep.begin_directory()));
    assert!(matches!(deep.finish(), Err(NarWriteError::OutOfPlace("its end"))));
}

#[test]
fn a_file_must_have_the_size_that_was_said() {
    for (contents, found) in [(b"abc".as_slice(), 3), (b"abcde", 5), (b"abcdefgh", 5)] {
        let mut writer = NarWriter::new(Vec::new()).expect("a vector takes all");
        let result = writer.file(false, 4, contents);
        assert!(
            matches!(result, Err(NarWriteError::WrongSize { declared: 4, found: size }) if size == found),
            "{result:?}"
        );
    }
}

fn any_tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        (any::<bool>(), any::<Vec<u8>>())
            .prop_map(|(executable, contents)| Tree::File { executable, contents }),
        prop::collection::vec(1..=255u8, 1..40).prop_map(Tree::Symlink),
    ];
    let name = prop::collection::vec(prop_oneof![1..=45u8, 48..=255u8], 1..12)
        .prop_filter("dots lead elsewhere", |name| name != b"." && name != b"..");
    leaf.prop_recursive(4, 30, 6, move |inner| {
        prop::collection::btree_map(name.clone(), inner, 0..6).prop_map(Tree::Directory)
    })
}

proptest! {
    #[test]
    fn any_tree_reads_back(tree in any_tree()) {
        prop_assert_eq!(read(&tree.nar()).expect("our own archive"), tree);
    }

    #[test]
    fn pieces_do_not_matter(tree in any_tree(), sizes in prop::collection::vec(1..20usize, 1..20)) {
        let nar = tree.nar();
        let (mut parser, mut collector, mut rest) = (NarParser::new(), Collector::default(), nar.as_slice());
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let piece = &rest[..rest.len().min(*size)];
            let taken = parser.feed(piece, |event| {
                collector.take(event);
                Ok::<(), NarError>(())
            });
            prop_assert_eq!(taken, Ok(piece.len()));
            rest = &rest[piece.len()..];
        }
        prop_assert_eq!(parser.finish(), Ok(()));
        prop_assert_eq!(collector.root, Some(tree));
    }

    #[test]
    fn events_write_the_archive_they_came_from(tree in any_tree()) {
        let nar = tree.nar();
        let mut writer = NarWriter::new(Vec::new()).expect("a vector takes all");
        read_nar(nar.as_slice(), |event| writer.put(event).map_err(|error| NarReadError::Io(io::Error::other(error))))
            .expect("our own archive");
        prop_assert_eq!(writer.finish().expect("complete"), nar);
    }

    #[test]
    fn whatever_is_read_is_the_one_archive_of_its_tree(index: prop::sample::Index, byte: u8) {
        let mut nar = sample().nar();
        let index = index.index(nar.len());
        nar[index] = byte;
        if let Ok(tree) = read(&nar) {
            prop_assert_eq!(tree.nar(), nar);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = read(&bytes);
        let mut nar = words(&[b"nix-archive-1", b"(", b"type"]);
        nar.extend_from_slice(&bytes);
        let _ = read(&nar);
    }
}
