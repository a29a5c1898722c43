//! Collections of a real store, beside uploads that go on.

use std::collections::BTreeSet;

use fleet_nix::NarHash;
use fleet_nix::nar::NarWriter;
use fleet_paths::collector::Condemned;
use fleet_store::{Place, RawChunk, cut, seal_frame};
use fleet_wire::v1;

use super::*;
use crate::paths::Expected;

/// A store with a shell that knows these roots.
struct Store {
    directory: tempfile::TempDir,
    objects: Objects,
    table: PathTable,
    collection: Collection,
    roots: Arc<Mutex<Vec<StorePath>>>,
    _shell: mpsc::Sender<Input>,
    _forgotten: mpsc::Receiver<StorePath>,
}

/// A path and its chunks.
struct Made {
    path: StorePath,
    sent: v1::StoredPath,
    chunks: Vec<RawChunk>,
}

impl Store {
    async fn new(grace_s: u32) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let place = Place::Directory(directory.path().join("objects"));
        let objects = Objects::open(&place).expect("opens");
        let (forgotten, told) = mpsc::channel(4096);
        let usage = Usage::new(grace_s, Condemned::default());
        let table = PathTable::open(&objects, usage, forgotten).await.expect("lists");
        let (shell, mut asked) = mpsc::channel(8);
        let roots: Arc<Mutex<Vec<StorePath>>> = Arc::default();
        let answered = roots.clone();
        tokio::spawn(async move {
            while let Some(input) = asked.recv().await {
                if let Input::Roots(RootsInput::Needed(_, reply)) = input {
                    let paths = answered.lock().expect("no panic").clone();
                    let _ = reply.send(Ok(Needed { paths, chunks: Vec::new() }));
                }
            }
        });
        let retention = RetentionConfig { grace_s, ..RetentionConfig::default() };
        let collection =
            Collection::new(&objects, table.clone(), shell.downgrade(), retention, directory.path());
        Self { directory, objects, table, collection, roots, _shell: shell, _forgotten: told }
    }

    async fn bring(&self, made: &Made) {
        let usage = self.table.usage();
        let digests = made.chunks.iter().map(|chunk| chunk.digest).collect();
        let missing = usage.missing(&self.objects.chunks(), digests).await.expect("answers");
        for chunk in made.chunks.iter().filter(|chunk| missing.contains(&chunk.digest)) {
            let frame = seal_frame(chunk).expect("compresses");
            usage.put(&self.objects.chunks(), chunk.digest, frame).await.expect("there is room");
            tokio::task::yield_now().await;
        }
        let expected = Expected { discards: true, ..Expected::default() };
        let verified =
            self.table.verify(made.sent.clone(), Some(expected)).await.expect("all chunks are here");
        self.table.keep(verified).await.expect("its references are here");
    }

    async fn collect(&self, grace_s: u64) -> Progress {
        self.collection.collect(Purpose::Remove, Some(grace_s), |_| {}).await.expect("collects")
    }

    fn root(&self, made: &Made) {
        self.roots.lock().expect("no panic").push(made.path.clone());
    }

    fn here(&self) -> BTreeSet<StorePath> {
        self.table.kept().into_iter().map(|(path, _)| path).collect()
    }

    async fn chunks(&self) -> usize {
        self.objects.chunks().list().try_collect::<Vec<_>>().await.expect("lists").len()
    }
}

fn made(number: u32, contents: &[u8], reference: Option<&Made>) -> Made {
    let mut text = contents.to_vec();
    text.extend(reference.iter().flat_map(|made| made.path.as_str().bytes()));
    let mut writer = NarWriter::new(Vec::new()).expect("in memory");
    writer.file(false, text.len() as u64, &text[..]).expect("in memory");
    let nar = writer.finish().expect("an archive");
    let chunks: Vec<RawChunk> = cut(&nar[..]).map(|chunk| chunk.expect("in memory")).collect();
    let refs = chunks.iter().map(|chunk| v1::ChunkRef {
        digest: chunk.digest.0.to_vec().into(),
        size: u32::try_from(chunk.data.len()).expect("small"),
    });
    let info = v1::PathInfo {
        path: format!("{number:0>32}-made"),
        nar_hash: NarHash::of(&nar).0.to_vec().into(),
        nar_size: nar.len() as u64,
        references: reference.iter().map(|made| made.path.to_string()).collect(),
        ..v1::PathInfo::default()
    };
    let path = info.path.parse().expect("a store path");
    let manifest = Some(v1::Manifest { chunks: refs.collect() });
    Made { path, sent: v1::StoredPath { info: Some(info), manifest, ..v1::StoredPath::default() }, chunks }
}

#[tokio::test]
async fn what_no_root_leads_to_is_removed_and_the_rest_stays_whole() {
    let store = Store::new(0).await;
    let leaf = made(1, b"leaf", None);
    let (kept, gone) = (made(2, b"kept", Some(&leaf)), made(3, b"gone", Some(&leaf)));
    for made in [&leaf, &kept, &gone] {
        store.bring(made).await;
    }
    let all: Vec<StorePath> = store.here().into_iter().collect();
    store.table.publish(&all, &HashSet::new()).await.expect("all are kept");
    store.root(&kept);
    let said = store.collection.collect(Purpose::Rehearse, Some(0), |_| {}).await.expect("rehearses");
    assert_eq!((said.paths_removed, said.chunks_removed, store.here().len()), (1, 1, 3));
    let done = store.collect(0).await;
    assert_eq!((done.paths_removed, done.chunks_removed), (said.paths_removed, said.chunks_removed));
    assert_eq!(store.here(), BTreeSet::from([leaf.path.clone(), kept.path.clone()]));
    assert!(store.table.published(gone.path.hash_part()).await.expect("answers").is_none());
    assert!(store.table.published(kept.path.hash_part()).await.expect("answers").is_some());
    assert_eq!(store.chunks().await, 2);
    store.bring(&gone).await;
    assert_eq!(store.here().len(), 3);
}

#[tokio::test]
async fn the_grace_counts_and_is_remembered() {
    let store = Store::new(0).await;
    let made = made(1, b"made", None);
    store.bring(&made).await;
    let done = store.collect(1_000).await;
    assert_eq!((done.condemned, done.paths_removed), (2, 0));
    let saved = Saved::new(store.directory.path()).read();
    assert_eq!((saved.paths.len(), saved.chunks.len()), (1, 1));
    std::fs::write(store.directory.path().join("condemned.json"), b"{").expect("writes");
    assert_eq!(Saved::new(store.directory.path()).read(), Condemned::default());
}

#[tokio::test]
async fn an_upload_that_goes_on_is_never_disturbed() {
    // What was asked for within a minute stays, whatever the grace of the collection.
    let store = Store::new(60).await;
    let leaf = made(1, b"leaf", None);
    store.bring(&leaf).await;
    for number in 2..60 {
        let next = made(number, format!("made {number}").as_bytes(), Some(&leaf));
        let (done, ()) = tokio::join!(store.collect(0), store.bring(&next));
        assert_eq!((done.paths_removed, done.chunks_removed), (0, 0));
    }
    assert_eq!(store.here().len(), 59);
}

#[tokio::test]
async fn one_collection_or_check_goes_on_at_a_time() {
    let store = Store::new(0).await;
    let _one = store.collection.one.lock().await;
    let busy = store.collection.collect(Purpose::Remove, None, |_| {}).await;
    assert!(matches!(busy, Err(CollectError::Busy)));
    let (told, _telling) = mpsc::channel(1);
    assert!(matches!(store.collection.verify(&told).await, Err(CollectError::Busy)));
}

#[tokio::test]
async fn a_check_finds_every_damage_and_the_path_can_be_brought_again() {
    let store = Store::new(0).await;
    let whole = made(1, b"whole", None);
    let broken = made(2, b"broken", None);
    store.bring(&whole).await;
    store.bring(&broken).await;
    let name = broken.chunks[0].digest.to_string();
    let place = store.directory.path().join("objects/chunks").join(&name[..2]).join(&name);
    std::fs::write(&place, b"damaged").expect("writes");
    let check = async || {
        let (told, mut telling) = mpsc::channel(16);
        let last = store.collection.verify(&told).await.expect("checks");
        drop(told);
        let mut damaged = Vec::new();
        while let Some(word) = telling.recv().await {
            damaged.extend(word.damaged);
        }
        (last.paths, damaged)
    };
    let (paths, damaged) = check().await;
    assert_eq!((paths, damaged.len(), &damaged[0].path), (2, 1, &broken.path));
    assert!(!place.exists() && store.here() == BTreeSet::from([whole.path.clone()]));
    store.bring(&broken).await;
    assert_eq!(check().await, (2, Vec::new()));
}
