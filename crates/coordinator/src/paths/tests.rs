use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use fleet_nix::nar::NarWriter;
use fleet_nix::{ContentAddress, ContentAddressMethod, References, source_path};
use fleet_paths::collector::Condemned;
use fleet_store::{Place, cut, seal_frame};

use super::*;

mod publishing;
mod verification;

/// A table on a store of its own.
struct Shelf {
    directory: tempfile::TempDir,
    chunks: ChunkStore,
    table: PathTable,
    forgotten: mpsc::Receiver<StorePath>,
}

impl Shelf {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (chunks, table, forgotten) = open(directory.path()).await;
        Self { directory, chunks, table, forgotten }
    }

    /// What is left after a crash.
    async fn reopened(self) -> Self {
        let (chunks, table, forgotten) = open(self.directory.path()).await;
        Self { chunks, table, forgotten, ..self }
    }

    async fn put(&self, chunks: &[(Digest, Bytes)]) {
        for (digest, frame) in chunks {
            self.chunks.put(*digest, frame.clone()).await.expect("there is room");
        }
    }

    /// Puts the chunks of a path and registers it.
    async fn keep(&self, made: &Made) {
        self.put(&made.chunks).await;
        self.register(made.path.clone()).await.expect("it is as described");
    }

    async fn register(&self, path: v1::StoredPath) -> Result<(), PathsError> {
        register(&self.table, path).await
    }

    fn has(&self, made: &Made) -> bool {
        self.table.has(&made.store_path())
    }

    /// A kept path as it would be brought.
    async fn kept(&self, made: &Made) -> Option<v1::StoredPath> {
        let (info, manifest) = self.table.read(&made.store_path()).await.expect("answers")?;
        let chunks = manifest.pieces.iter();
        let chunks = chunks.map(|p| v1::ChunkRef { digest: p.digest.0.to_vec().into(), size: p.size });
        Some(v1::StoredPath {
            info: Some(crate::infos::to_wire(&info)),
            manifest: Some(v1::Manifest { chunks: chunks.collect() }),
            ..v1::StoredPath::default()
        })
    }
}

async fn register(table: &PathTable, path: v1::StoredPath) -> Result<(), PathsError> {
    table.keep(table.verify(path, None).await?).await
}

async fn open(directory: &Path) -> (ChunkStore, PathTable, mpsc::Receiver<StorePath>) {
    let objects = Objects::open(&Place::Directory(directory.join("objects"))).expect("opens");
    let (forgotten, told) = mpsc::channel(64);
    let usage = Usage::new(3_600, Condemned::default());
    let table = PathTable::open(&objects, usage, forgotten).await.expect("lists");
    (objects.chunks(), table, told)
}

/// A path and its chunks.
#[derive(Clone)]
struct Made {
    path: v1::StoredPath,
    chunks: Vec<(Digest, Bytes)>,
}

impl Made {
    fn name(&self) -> String {
        self.path.info.clone().expect("an info").path
    }

    fn store_path(&self) -> StorePath {
        self.name().parse().expect("a store path")
    }

    fn refer_to(mut self, others: &[&Self]) -> Self {
        let info = self.path.info.as_mut().expect("an info");
        info.references.extend(others.iter().map(|other| other.name()));
        self
    }
}

/// A file of these contents, as an output that a derivation names.
fn file(number: u32, contents: &[u8]) -> Made {
    let mut writer = NarWriter::new(Vec::new()).expect("in memory");
    writer.file(true, contents.len() as u64, contents).expect("in memory");
    archive(number, &writer.finish().expect("an archive"))
}

fn archive(number: u32, bytes: &[u8]) -> Made {
    let cut: Vec<_> = cut(bytes).map(|chunk| chunk.expect("in memory")).collect();
    let refs = cut.iter().map(|chunk| v1::ChunkRef {
        digest: chunk.digest.0.to_vec().into(),
        size: u32::try_from(chunk.data.len()).expect("small"),
    });
    let info = v1::PathInfo {
        path: format!("{number:0>32}-made"),
        nar_hash: NarHash::of(bytes).0.to_vec().into(),
        nar_size: bytes.len() as u64,
        ..v1::PathInfo::default()
    };
    Made {
        path: v1::StoredPath {
            info: Some(info),
            manifest: Some(v1::Manifest { chunks: refs.collect() }),
            ..v1::StoredPath::default()
        },
        chunks: cut.iter().map(|chunk| (chunk.digest, seal_frame(chunk).expect("compresses"))).collect(),
    }
}

/// Bytes of several chunks.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(200_000).flatten().collect()
}

#[tokio::test]
async fn paths_survive_a_restart_as_they_were_brought() {
    let shelf = Shelf::new().await;
    let leaf = file(1, &noise(7));
    let outside = file(9, b"from a substituter");
    let top = file(3, b"top").refer_to(&[&leaf, &outside]);
    for made in [&leaf, &top] {
        shelf.keep(made).await;
    }
    let shelf = shelf.reopened().await;
    assert!(shelf.has(&top) && !shelf.has(&outside));
    assert_eq!(shelf.kept(&leaf).await, Some(leaf.path));
    assert_eq!(shelf.kept(&top).await, Some(top.path));
}

#[tokio::test]
async fn until_all_chunks_are_here_a_path_is_not() {
    let shelf = Shelf::new().await;
    let made = file(1, &noise(7));
    assert!(made.chunks.len() > 2);
    for put in 0..made.chunks.len() {
        let error = shelf.register(made.path.clone()).await.expect_err("a chunk is missing");
        assert!(
            matches!(&error, PathsError::NoChunk { chunk, .. } if *chunk == made.chunks[put].0),
            "{error}"
        );
        assert!(!shelf.has(&made));
        shelf.put(&made.chunks[put..=put]).await;
    }
    shelf.register(made.path.clone()).await.expect("now they are");
    assert!(shelf.has(&made));
}

#[tokio::test]
async fn what_a_worker_claims_is_not_believed() {
    let shelf = Shelf::new().await;
    let good = file(1, &noise(7));
    shelf.put(&good.chunks).await;
    let with = |change: &dyn Fn(&mut v1::StoredPath, &mut v1::PathInfo)| {
        let mut path = good.path.clone();
        let mut info = path.info.take().expect("an info");
        change(&mut path, &mut info);
        v1::StoredPath { info: Some(info), ..path }
    };
    let chunk = |path: &mut v1::StoredPath, change: &dyn Fn(&mut Vec<v1::ChunkRef>)| {
        change(&mut path.manifest.as_mut().expect("a manifest").chunks);
    };
    let bad: Vec<(&str, v1::StoredPath)> = vec![
        ("without path info", v1::StoredPath { info: None, ..good.path.clone() }),
        ("without manifest", v1::StoredPath { manifest: None, ..good.path.clone() }),
        ("is not a store path", with(&|_, info| info.path = "../../etc/passwd".to_owned())),
        ("is not a store path", with(&|_, info| info.references = vec![format!("{:0>32}-\n", 1)])),
        ("is not a store path", with(&|_, info| info.deriver = "x.drv".to_owned())),
        ("bad NAR hash", with(&|_, info| info.nar_hash = vec![1; 31].into())),
        ("has NAR hash", with(&|_, info| info.nar_hash = vec![1; 32].into())),
        ("bytes together", with(&|_, info| info.nar_size = u64::MAX)),
        (
            "bytes together",
            with(&|path, info| {
                (info.nar_size, path.manifest) = (0, Some(v1::Manifest::default()));
            }),
        ),
        ("more references than", with(&|_, info| info.references = vec!["x".to_owned(); 65_537])),
        ("more signatures than", with(&|_, info| info.signatures = vec!["x".to_owned(); 65])),
        ("bad signature", with(&|_, info| info.signatures = vec!["x".to_owned()])),
        ("bad content address", with(&|_, info| info.content_address = "fixed:r:sha256:x".to_owned())),
        ("bad chunk", with(&|path, _| chunk(path, &|chunks| chunks[0].digest = vec![1; 3].into()))),
        ("bad chunk", with(&|path, _| chunk(path, &|chunks| chunks[0].size = (1 << 20) + 1))),
        ("bad chunk", with(&|path, _| chunk(path, &|chunks| chunks[0].size = 0))),
        (
            "another size",
            with(&|path, _| {
                chunk(path, &|chunks| {
                    (chunks[0].size, chunks[1].size) = (chunks[0].size - 1, chunks[1].size + 1);
                });
            }),
        ),
        (
            "is no archive",
            with(&|path, _| {
                chunk(path, &|chunks| {
                    let first = chunks.remove(0);
                    chunks.push(first);
                });
            }),
        ),
    ];
    for (why, path) in bad {
        let error = shelf.register(path).await.expect_err(why);
        assert!(fleet_telemetry::with_causes(&error).contains(why), "{why}: {error}");
        let code = crate::rpc::status::paths(&error).code();
        assert_eq!(code, tonic::Code::InvalidArgument, "{error}");
    }
    assert!(!shelf.has(&good));
    shelf.register(good.path.clone()).await.expect("the truth is believed");
}

#[tokio::test]
async fn an_archive_is_one_archive_and_whole() {
    let shelf = Shelf::new().await;
    let mut writer = NarWriter::new(Vec::new()).expect("in memory");
    writer.file(false, 3, &b"abc"[..]).expect("in memory");
    let whole = writer.finish().expect("an archive");
    let bad = [whole[..whole.len() - 8].to_vec(), [&whole[..], &[0; 8]].concat(), b"no archive".to_vec()];
    for bytes in bad {
        let made = archive(1, &bytes);
        shelf.put(&made.chunks).await;
        let error = shelf.register(made.path.clone()).await.expect_err("no archive");
        assert!(matches!(error, PathsError::Archive { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_content_address_must_be_that_of_the_contents() {
    let shelf = Shelf::new().await;
    let made = file(1, b"contents");
    shelf.put(&made.chunks).await;
    let claim = |hash: NarHash| {
        let address = ContentAddress { method: ContentAddressMethod::NixArchive, hash: hash.to_hash() };
        let path = source_path(&StoreDir::default(), "made", hash, &References::none()).expect("a path");
        let mut stored = made.path.clone();
        let info = stored.info.as_mut().expect("an info");
        (info.path, info.content_address) = (path.to_string(), address.to_string());
        stored
    };
    let actual =
        NarHash(made.path.info.clone().expect("an info").nar_hash.as_ref().try_into().expect("32 bytes"));
    let forged = shelf.register(claim(NarHash::of(b"other"))).await.expect_err("other contents");
    assert!(forged.to_string().contains("content address"), "{forged}");
    let mut elsewhere = claim(actual);
    elsewhere.info.as_mut().expect("an info").path = made.name();
    assert!(shelf.register(elsewhere).await.is_err(), "another path");
    shelf.register(claim(actual)).await.expect("true");
}

#[tokio::test]
async fn of_two_contents_the_first_stays() {
    let shelf = Shelf::new().await;
    let (first, second) = (file(1, b"first"), file(1, b"second"));
    shelf.keep(&first).await;
    shelf.keep(&first).await;
    shelf.put(&second.chunks).await;
    let other_references = first.clone().refer_to(&[&file(2, b"other")]);
    for made in [&second, &other_references] {
        let error = shelf.register(made.path.clone()).await.expect_err("it differs");
        assert!(matches!(error, PathsError::Differs { .. }), "{error}");
        assert_eq!(crate::rpc::status::paths(&error).code(), tonic::Code::AlreadyExists);
    }
    assert_eq!(shelf.kept(&first).await, Some(first.path));
}

#[tokio::test]
async fn many_at_once_keep_one_whole_path() {
    let shelf = Shelf::new().await;
    let versions: Vec<Made> = (0..4).map(|version| file(1, &noise(version * 2 + 1))).collect();
    for made in &versions {
        shelf.put(&made.chunks).await;
    }
    let tries = versions.iter().cycle().take(40).map(|made| shelf.register(made.path.clone()));
    let results = futures::future::join_all(tries).await;
    let kept = shelf.kept(&versions[0]).await.expect("one of them");
    let winner = versions.iter().position(|made| kept == made.path).expect("whole");
    for (index, result) in results.into_iter().enumerate() {
        assert_eq!(result.is_ok(), index % versions.len() == winner, "{result:?}");
    }
}

#[tokio::test]
async fn a_path_that_lost_a_chunk_is_forgotten_and_can_be_brought_again() {
    let shelf = Shelf::new().await;
    let leaf = file(1, &noise(7));
    let top = file(2, b"top").refer_to(&[&leaf]);
    shelf.keep(&leaf).await;
    shelf.keep(&top).await;
    let damaged = leaf.chunks[1].0;
    let name = damaged.to_string();
    let place = shelf.directory.path().join("objects/chunks").join(&name[..2]).join(&name);
    let mut bytes = std::fs::read(&place).expect("a frame");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&place, bytes).expect("writes");
    // Found when somebody reads it; never given away.
    let error = shelf.chunks.get(damaged).await.expect_err("damaged");
    assert_eq!(crate::rpc::status::store(&error).code(), tonic::Code::DataLoss);
    assert!(error.to_string().contains(&name), "{error}");
    assert!(shelf.table.failed(&leaf.store_path(), &error).await.expect("forgets"), "{error}");
    assert!(!shelf.has(&leaf) && shelf.has(&top));
    shelf.keep(&leaf).await;
    assert_eq!(shelf.kept(&leaf).await, Some(leaf.path));
}

#[tokio::test]
async fn a_chunk_that_is_damaged_before_it_is_registered_is_asked_for_again() {
    let shelf = Shelf::new().await;
    let made = file(1, &noise(7));
    shelf.put(&made.chunks).await;
    let name = made.chunks[1].0.to_string();
    let place = shelf.directory.path().join("objects/chunks").join(&name[..2]).join(&name);
    std::fs::write(&place, b"").expect("a crash leaves an empty file");
    let error = shelf.register(made.path.clone()).await.expect_err("damaged");
    assert_eq!(crate::rpc::status::paths(&error).code(), tonic::Code::FailedPrecondition, "{error}");
    assert_eq!(shelf.chunks.missing(vec![made.chunks[1].0]).await.expect("answers"), [made.chunks[1].0]);
    shelf.keep(&made).await;
}

const INSIDE: &str = "FLEET_TEST_INSIDE";

/// Runs `test` with a file system of one megabyte, in a namespace of its own.
fn with_a_small_disk(name: &str, test: impl FnOnce(&Path)) {
    if let Some(place) = std::env::var_os(INSIDE) {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m,mode=755", "small"]).arg(&place);
        assert!(mount.status().expect("mount starts").success(), "a small file system is mounted");
        return test(Path::new(&place));
    }
    let place = tempfile::tempdir().expect("temporary directory");
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).expect("ours");
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--"])
        .arg(std::env::current_exe().expect("a test has a path"))
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, place.path())
        .output()
        .expect("unshare starts (util-linux; this test needs user namespaces, as Nix's sandbox does)");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "inside the namespace:\n{said}");
}

#[test]
fn a_full_chunk_store_says_so_and_keeps_nothing_by_half() {
    with_a_small_disk("paths::tests::a_full_chunk_store_says_so_and_keeps_nothing_by_half", |place| {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let (chunks, table, _forgotten) = open(place).await;
            let made = file(1, &noise(7));
            let mut full = None;
            for (digest, frame) in &made.chunks {
                full = full.or(chunks.put(*digest, frame.clone()).await.err());
            }
            let full = full.expect("1.6 MB do not fit");
            assert_eq!(crate::rpc::status::store(&full).code(), tonic::Code::ResourceExhausted, "{full}");
            let error = register(&table, made.path.clone()).await.expect_err("not all of it is here");
            assert!(matches!(error, PathsError::NoChunk { .. }), "{error}");
            // Not even the manifest of something small fits: no part of it is left.
            let small = file(2, b"small");
            let filler = std::fs::write(place.join("filler"), vec![0; 2 << 20]);
            assert!(filler.is_err());
            let put = async {
                for (digest, frame) in &small.chunks {
                    chunks.put(*digest, frame.clone()).await.map_err(PathsError::Store)?;
                }
                register(&table, small.path.clone()).await
            };
            let error = put.await.expect_err("the disk is full");
            assert_eq!(crate::rpc::status::paths(&error).code(), tonic::Code::ResourceExhausted, "{error}");
            assert!(!table.has(&small.store_path()) && !table.has(&made.store_path()));
            // With room again, both are kept.
            std::fs::remove_file(place.join("filler")).expect("ours");
            for (digest, frame) in &small.chunks {
                chunks.put(*digest, frame.clone()).await.expect("there is room");
            }
            register(&table, small.path.clone()).await.expect("there is room");
        });
    });
}
