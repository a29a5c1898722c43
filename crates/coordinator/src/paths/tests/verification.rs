//! What is believed of an archive that was put: its references, and the content address it claims.

use fleet_nix::{Hash, HashAlgorithm, fixed_path};

use super::*;

const STORE: &str = "/nix/store/";

/// A file whose text names these paths.
fn naming(number: u32, others: &[&Made]) -> Made {
    let lines: Vec<String> = others.iter().map(|other| format!("{STORE}{}/bin/x", other.name())).collect();
    file(number, lines.join("\n").as_bytes())
}

fn expecting(candidates: &[&Made]) -> Expected {
    Expected { candidates: candidates.iter().map(|made| made.store_path()).collect(), ..Expected::default() }
}

impl Shelf {
    async fn bring(&self, made: &Made, expected: Expected) -> Result<(), PathsError> {
        self.put(&made.chunks).await;
        self.table.keep(self.table.verify(made.path.clone(), Some(expected)).await?).await
    }
}

#[tokio::test]
async fn references_are_those_that_the_bytes_name() {
    let shelf = Shelf::new().await;
    let (input, other) = (file(1, b"input"), file(2, b"other"));
    shelf.bring(&input, Expected::default()).await.expect("it refers to nothing");
    let silent = naming(3, &[&input]);
    let error = shelf.bring(&silent, expecting(&[&input])).await.expect_err("it names its input");
    assert!(
        matches!(&error, PathsError::Undeclared { reference, .. } if *reference == input.store_path()),
        "{error}"
    );
    assert_eq!(crate::rpc::status::paths(&error).code(), tonic::Code::InvalidArgument);
    let boastful = naming(3, &[&input]).refer_to(&[&input, &other]);
    let error =
        shelf.bring(&boastful, expecting(&[&input, &other])).await.expect_err("it does not name the other");
    assert!(
        matches!(&error, PathsError::NotThere { reference, .. } if *reference == other.store_path()),
        "{error}"
    );
    assert!(!shelf.has(&silent));
    shelf
        .bring(&naming(3, &[&input]).refer_to(&[&input]), expecting(&[&input, &other]))
        .await
        .expect("the truth");
    // What its builder could not have seen is text.
    shelf.bring(&naming(4, &[&other]), expecting(&[&input])).await.expect("nobody expects the other");
}

#[tokio::test]
async fn a_path_that_names_itself_says_so() {
    let shelf = Shelf::new().await;
    let itself = file(7, b"");
    let silent = naming(7, &[&itself]);
    let error = shelf.bring(&silent, Expected::default()).await.expect_err("it names itself");
    assert!(matches!(error, PathsError::Undeclared { .. }), "{error}");
    shelf.bring(&silent.clone().refer_to(&[&silent]), Expected::default()).await.expect("it says so");
}

#[tokio::test]
async fn a_reference_across_a_border_of_chunks_is_found() {
    let shelf = Shelf::new().await;
    let input = file(1, b"input");
    shelf.bring(&input, Expected::default()).await.expect("it refers to nothing");
    // Chunks of our own, cut through the middle of the name.
    let whole = naming(2, &[&input]);
    let mut archive = Vec::new();
    for (digest, _) in &whole.chunks {
        archive.extend(shelf_bytes(&whole, *digest));
    }
    let at =
        archive.windows(32).position(|window| *window == input.name().as_bytes()[..32]).expect("it names it");
    for cut in [at + 1, at + 16, at + 31] {
        let pieces = [&archive[..cut], &archive[cut..]];
        let mut made = whole.clone();
        let raw = pieces.map(|data| fleet_store::RawChunk { digest: Digest::of(data), data: data.to_vec() });
        let refs = raw.iter().map(|chunk| v1::ChunkRef {
            digest: chunk.digest.0.to_vec().into(),
            size: u32::try_from(chunk.data.len()).expect("small"),
        });
        made.path.manifest = Some(v1::Manifest { chunks: refs.collect() });
        made.chunks =
            raw.iter().map(|chunk| (chunk.digest, seal_frame(chunk).expect("compresses"))).collect();
        let error = shelf.bring(&made, expecting(&[&input])).await.expect_err("it names its input");
        assert!(matches!(error, PathsError::Undeclared { .. }), "{cut}: {error}");
    }
}

fn shelf_bytes(made: &Made, digest: Digest) -> Vec<u8> {
    let (_, frame) = made.chunks.iter().find(|(known, _)| *known == digest).expect("its chunk");
    fleet_store::open_frame(digest, frame).expect("our own frame")
}

#[tokio::test]
async fn a_derivation_may_discard_what_its_output_names() {
    let shelf = Shelf::new().await;
    let input = file(1, b"input");
    shelf.bring(&input, Expected::default()).await.expect("it refers to nothing");
    let discarding = || Expected { discards: true, ..expecting(&[&input]) };
    let boastful = naming(3, &[]).refer_to(&[&input]);
    let error = shelf.bring(&boastful, discarding()).await.expect_err("it does not name it");
    assert!(matches!(error, PathsError::NotThere { .. }), "{error}");
    shelf.bring(&naming(3, &[&input]), discarding()).await.expect("what it names is not needed");
}

#[tokio::test]
async fn a_path_is_kept_only_after_what_it_refers_to() {
    let shelf = Shelf::new().await;
    let (input, upstream) = (file(1, b"input"), file(2, b"of a cache"));
    let made = naming(3, &[&input, &upstream]).refer_to(&[&input, &upstream]);
    let expected = || {
        let from_upstream = BTreeSet::from([upstream.store_path()]);
        Expected { upstream: from_upstream, ..expecting(&[&input, &upstream]) }
    };
    let error = shelf.bring(&made, expected()).await.expect_err("its input is not here");
    assert!(
        matches!(&error, PathsError::NoReference { reference, .. } if *reference == input.name()),
        "{error}"
    );
    assert_eq!(crate::rpc::status::paths(&error).code(), tonic::Code::FailedPrecondition);
    shelf.bring(&input, Expected::default()).await.expect("it refers to nothing");
    let error =
        shelf.bring(&made, expecting(&[&input, &upstream])).await.expect_err("nobody serves the other");
    assert!(matches!(error, PathsError::NoReference { .. }), "{error}");
    shelf.bring(&made, expected()).await.expect("all is there");
}

/// The path of this address, which refers to nothing but perhaps itself.
fn addressed(made: &Made, method: ContentAddressMethod, hash: Hash, to_self: bool) -> Made {
    let address = ContentAddress { method, hash };
    let references = References { to_self, ..References::none() };
    let path = fixed_path(&StoreDir::default(), "made", &address, &references).expect("a path");
    let mut made = made.clone();
    let info = made.path.info.as_mut().expect("an info");
    info.path = path.to_string();
    info.content_address = address.to_string();
    if to_self {
        info.references = vec![path.to_string()];
    }
    made
}

fn plain_file(contents: &[u8], executable: bool) -> (Made, Vec<u8>) {
    let mut writer = NarWriter::new(Vec::new()).expect("in memory");
    writer.file(executable, contents.len() as u64, contents).expect("in memory");
    let bytes = writer.finish().expect("an archive");
    (archive(1, &bytes), bytes)
}

#[tokio::test]
async fn every_kind_of_content_address_is_computed_again() {
    use ContentAddressMethod::{Flat, NixArchive, Text};
    let shelf = Shelf::new().await;
    let contents = noise(5);
    let (made, nar) = plain_file(&contents, false);
    let kinds = [
        (Flat, HashAlgorithm::Sha256, &contents),
        (Flat, HashAlgorithm::Md5, &contents),
        (Flat, HashAlgorithm::Sha512, &contents),
        (Text, HashAlgorithm::Sha256, &contents),
        (NixArchive, HashAlgorithm::Sha256, &nar),
        (NixArchive, HashAlgorithm::Sha1, &nar),
    ];
    for (method, algorithm, hashed) in kinds {
        let honest = addressed(&made, method, Hash::of(algorithm, hashed), false);
        shelf.bring(&honest, Expected::default()).await.expect("it has this address");
        let forged = addressed(&made, method, Hash::of(algorithm, b"other"), false);
        let error = shelf.bring(&forged, Expected::default()).await.expect_err("it has another");
        assert_eq!(
            crate::rpc::status::paths(&error).code(),
            tonic::Code::InvalidArgument,
            "{method:?}: {error}"
        );
        assert!(error.to_string().contains("content address"), "{error}");
    }
}

#[tokio::test]
async fn only_one_plain_file_has_the_address_of_a_file() {
    let shelf = Shelf::new().await;
    let hash = Hash::of(HashAlgorithm::Sha256, b"contents");
    let mut writer = NarWriter::new(Vec::new()).expect("in memory");
    writer.begin_directory().expect("in memory");
    writer.entry(b"file").expect("in memory");
    writer.file(false, 8, &b"contents"[..]).expect("in memory");
    writer.end_directory().expect("in memory");
    let directory = archive(1, &writer.finish().expect("an archive"));
    for made in [plain_file(b"contents", true).0, directory] {
        for method in [ContentAddressMethod::Flat, ContentAddressMethod::Text] {
            let error = shelf.bring(&addressed(&made, method, hash, false), Expected::default()).await;
            let error = error.expect_err("not one plain file");
            assert!(matches!(error, PathsError::OtherContent { .. }), "{error}");
        }
    }
    let git = addressed(&plain_file(b"contents", false).0, ContentAddressMethod::Git, hash, false);
    let error = shelf.bring(&git, Expected::default()).await.expect_err("nothing here hashes as git does");
    assert!(matches!(error, PathsError::OtherContent { .. }), "{error}");
}

#[tokio::test]
async fn the_address_of_what_refers_to_itself_is_computed_without_its_name() {
    let shelf = Shelf::new().await;
    // Nix: the hash of the archive with zeros for the hash part, and of where it stood.
    let blank = format!("{STORE}{}-made/bin", "\0".repeat(32));
    let (_, nar) = plain_file(blank.as_bytes(), false);
    let at = nar.windows(32).position(|window| window == [0; 32]).expect("zeros");
    let hash = Hash::of(HashAlgorithm::Sha256, &[&nar[..], format!("|{at}").as_bytes()].concat());
    let path = addressed(&file(1, b""), ContentAddressMethod::NixArchive, hash, true).name();
    let (made, _) = plain_file(format!("{STORE}{path}/bin").as_bytes(), false);
    let honest = addressed(&made, ContentAddressMethod::NixArchive, hash, true);
    assert_eq!(honest.name(), path);
    shelf.bring(&honest, Expected::default()).await.expect("it has this address");
    let (other, _) = plain_file(format!("{STORE}{path}/sbin").as_bytes(), false);
    let forged = addressed(&other, ContentAddressMethod::NixArchive, hash, true);
    let error = Shelf::new().await.bring(&forged, Expected::default()).await.expect_err("other contents");
    assert!(matches!(error, PathsError::OtherContent { .. }), "{error}");
}
