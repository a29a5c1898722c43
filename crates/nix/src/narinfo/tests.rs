use super::*;
use crate::addressing::{References, source_path};
use crate::content_address::ContentAddressMethod;
use crate::hash::HashAlgorithm;
use crate::signature::{PublicKey, SecretKey};
use proptest::prelude::*;

const PATH: &str = "00000000000000000000000000000000-a-1.0";

fn example() -> NarInfo {
    let mut path_info = PathInfo {
        path: PATH.parse().expect("valid"),
        deriver: Some("11111111111111111111111111111111-a-1.0.drv".parse().expect("valid")),
        nar_hash: NarHash::of(b"nar"),
        references: BTreeSet::from([
            PATH.parse().expect("valid"),
            "22222222222222222222222222222222-b".parse().expect("valid"),
        ]),
        registration_time: 0,
        nar_size: 120,
        ultimate: false,
        signatures: Vec::new(),
        content_address: None,
    };
    path_info.sign(&StoreDir::default(), &SecretKey::from_seed("k", &[3; 32]).expect("valid name"));
    NarInfo {
        path_info,
        url: "nar/abc.nar.zst".into(),
        compression: "zstd".into(),
        file_hash: Some(Hash::of(HashAlgorithm::Sha256, b"file")),
        file_size: Some(70),
    }
}

fn text() -> String {
    example().print(&StoreDir::default())
}

fn parse(text: &str) -> Result<NarInfo, NarInfoError> {
    NarInfo::parse(&StoreDir::default(), text.as_bytes())
}

/// The example with the line of `field` replaced by `line`.
fn with_line(field: &str, line: &str) -> String {
    let prefix = format!("{field}: ");
    let replace = |old: &str| {
        if old.starts_with(&prefix) { line.to_owned() } else { format!("{old}\n") }
    };
    text().lines().map(replace).collect()
}

#[test]
fn printed_narinfo_reads_back() {
    assert_eq!(parse(&text()), Ok(example()));
    let mut plain = example();
    plain.path_info.references.clear();
    plain.path_info.deriver = None;
    plain.path_info.signatures.clear();
    (plain.file_hash, plain.file_size) = (None, None);
    assert_eq!(parse(&plain.print(&StoreDir::default())), Ok(plain));
}

/// What the real Nix put into a binary cache, by file name.
const FIXTURES: [(&str, &str); 2] = [
    (
        "5347nwdv73cdvhas2a3zrby0adfyc5wx",
        include_str!("../../tests/fixtures/narinfo/5347nwdv73cdvhas2a3zrby0adfyc5wx.narinfo"),
    ),
    (
        "nj06pxramhv7f1i2xpyi5h8l35aaa2hm",
        include_str!("../../tests/fixtures/narinfo/nj06pxramhv7f1i2xpyi5h8l35aaa2hm.narinfo"),
    ),
];

#[test]
fn what_nix_wrote_prints_as_the_same_text() {
    let store = StoreDir::default();
    for (hash_part, text) in FIXTURES {
        let info = NarInfo::parse_for(&store, hash_part, text.as_bytes()).expect("Nix wrote it");
        assert_eq!(info.print(&store), text);
    }
}

#[test]
fn signatures_of_nix_verify_and_ours_are_the_same() {
    let store = StoreDir::default();
    let secret: SecretKey = include_str!("../../tests/fixtures/throwaway-key").trim().parse().expect("a key");
    let public: PublicKey = include_str!("../../tests/fixtures/public-key").trim().parse().expect("a key");
    assert_eq!(secret.public_key(), public);
    for (_, text) in FIXTURES {
        let mut info = NarInfo::parse(&store, text.as_bytes()).expect("Nix wrote it").path_info;
        assert!(info.is_signed_by(&store, std::slice::from_ref(&public)));
        let signatures = std::mem::take(&mut info.signatures);
        info.sign(&store, &secret);
        assert_eq!(info.signatures, signatures);
    }
}

#[test]
fn content_addresses_of_nix_give_their_paths() {
    for (_, text) in FIXTURES {
        let info = parse(text).expect("Nix wrote it").path_info;
        assert!(info.content_address.is_some());
        assert!(info.is_content_addressed(&StoreDir::default()));
    }
}

#[test]
fn each_missing_field_is_named() {
    for field in ["StorePath", "URL", "Compression", "NarHash", "NarSize", "References"] {
        assert_eq!(parse(&with_line(field, "")), Err(NarInfoError::MissingField(field)));
    }
    for field in ["FileHash", "FileSize", "Deriver", "Sig"] {
        assert!(parse(&with_line(field, "")).is_ok(), "{field}");
    }
}

#[test]
fn each_duplicate_field_is_named() {
    for line in text().lines() {
        let (field, _) = line.split_once(": ").expect("a field");
        let result = parse(&format!("{}{line}\n", text()));
        if field == "Sig" {
            assert!(result.is_ok());
        } else {
            assert!(matches!(result, Err(NarInfoError::DuplicateField(name)) if name == field), "{field}");
        }
    }
}

#[test]
fn malformed_lines_are_refused() {
    assert_eq!(
        parse(&format!("{}System: x86_64-linux\n", text())),
        Err(NarInfoError::UnknownField("System".into()))
    );
    assert_eq!(parse(&text().replace('\n', "\r\n")), Err(NarInfoError::BadLine(1)));
    assert!(matches!(parse(text().trim_end()), Err(NarInfoError::BadLine(_))));
    assert_eq!(parse("\n"), Err(NarInfoError::BadLine(1)));
    assert_eq!(parse("StorePath\n"), Err(NarInfoError::BadLine(1)));
    assert_eq!(NarInfo::parse(&StoreDir::default(), b"URL: \xff\n"), Err(NarInfoError::BadLine(1)));
    assert_eq!(parse(""), Err(NarInfoError::MissingField("StorePath")));
}

#[test]
fn numbers_are_positive_and_plain() {
    for number in ["0", "-1", "+1", "01", "1 ", "1e3", "18446744073709551616", ""] {
        let expected = Err(NarInfoError::BadNumber("NarSize"));
        assert_eq!(parse(&with_line("NarSize", &format!("NarSize: {number}\n"))), expected, "{number}");
    }
    assert!(parse(&with_line("FileSize", "FileSize: 18446744073709551615\n")).is_ok());
}

#[test]
fn urls_stay_below_the_cache() {
    for url in [
        "",
        "/nar/a",
        "../a",
        "nar/../../a",
        "nar/./a",
        "nar//a",
        "http://evil.example/a",
        "file:a",
        "nar/%2e%2e/a",
        "nar\\a",
        "nar/a b",
    ] {
        assert_eq!(parse(&with_line("URL", &format!("URL: {url}\n"))), Err(NarInfoError::BadUrl), "{url}");
    }
    assert!(parse(&with_line("URL", "URL: nar/a.nar?hash=0abc\n")).is_ok());
}

#[test]
fn a_narinfo_must_be_of_the_path_asked_for() {
    let store = StoreDir::default();
    let bytes = text().into_bytes();
    assert!(NarInfo::parse_for(&store, &PATH[..32], &bytes).is_ok());
    let other = "3".repeat(32);
    let result = NarInfo::parse_for(&store, &other, &bytes);
    assert!(matches!(result, Err(NarInfoError::OtherPath { .. })));
    let foreign = with_line("StorePath", &format!("StorePath: /gnu/store/{PATH}\n"));
    assert!(matches!(parse(&foreign), Err(NarInfoError::Path { field: "StorePath", .. })));
}

#[test]
fn hashes_references_and_signatures_are_checked() {
    let md5 = Hash::of(HashAlgorithm::Md5, b"");
    assert!(matches!(
        parse(&with_line("NarHash", &format!("NarHash: {md5}\n"))),
        Err(NarInfoError::Hash { field: "NarHash", .. })
    ));
    assert!(matches!(
        parse(&with_line("FileHash", "FileHash: sha256:abc\n")),
        Err(NarInfoError::Hash { field: "FileHash", .. })
    ));
    let twice = with_line("References", &format!("References: {PATH} {PATH}\n"));
    assert_eq!(parse(&twice), Err(NarInfoError::UnsortedReferences));
    for references in [format!("{PATH} "), format!(" {PATH}"), "a".into(), format!("/nix/store/{PATH}")] {
        let line = format!("References: {references}\n");
        let result = parse(&with_line("References", &line));
        assert!(matches!(result, Err(NarInfoError::Path { field: "References", .. })), "{references}");
    }
    assert!(matches!(parse(&with_line("Sig", "Sig: k:abc\n")), Err(NarInfoError::Signature(_))));
    let compression = with_line("Compression", "Compression: rar\n");
    assert_eq!(parse(&compression), Err(NarInfoError::BadCompression("rar".into())));
}

#[test]
fn a_false_content_address_is_refused() {
    let store = StoreDir::default();
    let line = format!("CA: fixed:r:{}\n", NarHash::of(b"nar"));
    assert!(matches!(parse(&format!("{}{line}", text())), Err(NarInfoError::FalseContentAddress(_))));
    let mut honest = example();
    honest.path_info.references.clear();
    honest.path_info.path =
        source_path(&store, "a", honest.path_info.nar_hash, &References::none()).expect("valid");
    honest.path_info.content_address = Some(ContentAddress {
        method: ContentAddressMethod::NixArchive,
        hash: honest.path_info.nar_hash.to_hash(),
    });
    assert_eq!(parse(&honest.print(&store)), Ok(honest));
    assert!(matches!(parse(&format!("{}CA: x\n", text())), Err(NarInfoError::ContentAddress(_))));
}

#[test]
fn endless_input_is_refused_unread() {
    let references = format!("References: {}\n", vec![PATH; 1 << 15].join(" "));
    assert!(matches!(parse(&with_line("References", &references)), Err(NarInfoError::TooLarge(_))));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = NarInfo::parse(&StoreDir::default(), &bytes);
    }

    #[test]
    fn a_changed_byte_never_panics(index: prop::sample::Index, byte: u8) {
        let mut bytes = text().into_bytes();
        let index = index.index(bytes.len());
        bytes[index] = byte;
        let _ = NarInfo::parse(&StoreDir::default(), &bytes);
    }

    #[test]
    fn truncation_is_noticed(cut: prop::sample::Index) {
        // Whole optional lines may be missing; half a line may not.
        let text = text();
        let cut = cut.index(text.len());
        if !text[..cut].ends_with('\n') {
            prop_assert!(parse(&text[..cut]).is_err());
        }
    }
}
