//! Chunks: written once and whole, never given damaged.

use std::collections::BTreeSet;
use std::fs;

use fleet_store::{Digest, Level, MAX_FRAME, RawChunk, Sealer, StoreError, seal_frame};
use futures::TryStreamExt;

use crate::on_every_store;
use crate::store::{Store, noise, overwrite};

on_every_store! {
    a_chunk_is_kept_once_and_a_forged_one_never
    what_is_damaged_at_rest_is_set_aside_by_name_and_can_be_put_again
    so_many_damaged_ones_are_kept_and_no_more
    what_was_mended_meanwhile_is_given
    the_missing_are_named_in_their_order
    chunks_are_listed_with_their_sizes_and_can_be_deleted
    many_readers_and_writers_of_one_chunk_agree
}

async fn a_chunk_is_kept_once_and_a_forged_one_never(store: Store) {
    let chunks = store.objects.chunks();
    let chunk = RawChunk::new(noise(1_000));
    let frame = seal_frame(&chunk).expect("compresses");
    let forged = Digest::of(b"two");
    assert!(matches!(chunks.put(forged, frame.clone()).await, Err(StoreError::Chunk(_))));
    assert!(matches!(chunks.put(chunk.digest, frame.slice(1..)).await, Err(StoreError::Chunk(_))));
    assert_eq!(store.names(""), Vec::<String>::new());
    chunks.put(chunk.digest, frame.clone()).await.expect("stores");
    let other = Sealer::new(Level::Fast).expect("memory").seal(&chunk).expect("compresses");
    chunks.put(chunk.digest, other).await.expect("again is fine");
    assert_eq!(chunks.get(chunk.digest).await.expect("reads"), frame);
    assert_eq!(chunks.read(chunk.digest).await.expect("reads"), chunk.data);
    assert!(matches!(chunks.get(forged).await, Err(StoreError::Absent(digest)) if digest == forged));
    chunks.make_durable(BTreeSet::from([chunk.digest])).await.expect("is safe");
}

async fn what_is_damaged_at_rest_is_set_aside_by_name_and_can_be_put_again(store: Store) {
    let chunks = store.objects.chunks();
    let digest = store.put(b"one").await;
    let file = store.chunk_file(digest);
    let whole = fs::read(&file).expect("a file");
    let mut flipped = whole.clone();
    *flipped.last_mut().expect("a byte") ^= 1;
    let other = seal_frame(&RawChunk::new(b"two".to_vec())).expect("compresses").to_vec();
    for damage in [Vec::new(), whole[..whole.len() - 1].to_vec(), flipped, other, vec![0; MAX_FRAME + 1]] {
        overwrite(&file, &damage);
        let read = chunks.fetch(digest).await;
        assert!(matches!(read, Err(StoreError::Damaged(named)) if named == digest), "{read:?}");
        assert_eq!(chunks.missing(vec![digest]).await.expect("answers"), vec![digest]);
        assert_eq!(store.names("damaged"), vec![digest.to_string()]);
        assert!(matches!(chunks.fetch(digest).await, Err(StoreError::Absent(_))));
        store.put(b"one").await;
        assert_eq!(chunks.read(digest).await.expect("reads"), b"one");
        // Whoever puts it need not have read it before.
        overwrite(&file, &damage);
        store.put(b"one").await;
        assert_eq!(chunks.read(digest).await.expect("reads"), b"one");
    }
}

async fn so_many_damaged_ones_are_kept_and_no_more(store: Store) {
    let chunks = store.objects.chunks();
    for number in 0..70_u32 {
        let digest = store.put(&number.to_le_bytes()).await;
        overwrite(&store.chunk_file(digest), b"damage");
        assert!(matches!(chunks.read(digest).await, Err(StoreError::Damaged(_))));
    }
    assert_eq!(store.names("damaged").len(), 64);
    assert_eq!(store.names("chunks"), Vec::<String>::new());
    // They are not taken for chunks.
    assert_eq!(chunks.list().try_collect::<Vec<_>>().await.expect("lists"), vec![]);
}

async fn what_was_mended_meanwhile_is_given(store: Store) {
    let chunks = store.objects.chunks();
    let digest = store.put(b"one").await;
    let whole = fs::read(store.chunk_file(digest)).expect("a file");
    for _ in 0..20 {
        overwrite(&store.chunk_file(digest), b"damage");
        let readers = (0..4).map(|_| async {
            let read = chunks.read(digest).await;
            if read.is_err() {
                chunks.put(digest, whole.clone().into()).await.expect("stores");
            }
            read
        });
        for read in futures::future::join_all(readers).await {
            match read {
                Ok(data) => assert_eq!(data, b"one"),
                Err(StoreError::Damaged(_) | StoreError::Absent(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        // Nobody set aside what another had put in its place.
        assert_eq!(chunks.read(digest).await.expect("somebody mended it"), b"one");
    }
}

async fn the_missing_are_named_in_their_order(store: Store) {
    let chunks = store.objects.chunks();
    let mut digests: Vec<Digest> = (0..3_000_u32).map(|number| Digest::of(&number.to_le_bytes())).collect();
    let there: BTreeSet<Digest> = [0, 7, 1_024, 2_999].map(|number: usize| digests[number]).into();
    for number in [0, 7, 1_024, 2_999_u32] {
        store.put(&number.to_le_bytes()).await;
    }
    // One asked for twice is answered twice.
    digests.extend([digests[0], digests[1]]);
    let expected: Vec<Digest> = digests.iter().copied().filter(|digest| !there.contains(digest)).collect();
    assert_eq!(chunks.missing(digests.clone()).await.expect("answers"), expected);
    let sizes = chunks.frame_sizes(digests.clone()).await.expect("answers");
    for (digest, size) in digests.iter().zip(sizes) {
        let file = fs::metadata(store.chunk_file(*digest)).ok().map(|found| found.len());
        assert_eq!(size, file);
    }
    assert_eq!(chunks.missing(Vec::new()).await.expect("answers"), vec![]);
}

async fn chunks_are_listed_with_their_sizes_and_can_be_deleted(store: Store) {
    let chunks = store.objects.chunks();
    let mut digests = Vec::new();
    for number in 0..20_u32 {
        digests.push(store.put(&number.to_le_bytes()).await);
    }
    overwrite(&store.file("chunks", "not-a-chunk"), b"of somebody else");
    let listed: Vec<_> = chunks.list().try_collect().await.expect("lists");
    assert_eq!(
        listed.iter().map(|listed| listed.name).collect::<BTreeSet<_>>(),
        digests.iter().copied().collect()
    );
    for listed in &listed {
        let found = fs::metadata(store.chunk_file(listed.name)).expect("a file");
        assert_eq!(listed.size, found.len());
        let difference = found.modified().expect("a time").duration_since(listed.modified);
        assert!(difference.as_ref().is_ok_and(|difference| difference.as_secs() < 2), "{difference:?}");
    }
    let absent = Digest::of(b"absent");
    chunks.delete(vec![digests[3], absent, digests[5]]).await.expect("deletes");
    chunks.delete(vec![digests[3]]).await.expect("again is fine");
    assert_eq!(chunks.missing(digests.clone()).await.expect("answers"), vec![digests[3], digests[5]]);
    chunks.delete(Vec::new()).await.expect("nothing is fine");
}

async fn many_readers_and_writers_of_one_chunk_agree(store: Store) {
    let chunks = store.objects.chunks();
    let chunk = RawChunk::new(noise(300_000));
    let frame = seal_frame(&chunk).expect("compresses");
    let work = (0..20).map(|_| async {
        chunks.put(chunk.digest, frame.clone()).await.expect("stores");
        assert_eq!(chunks.get(chunk.digest).await.expect("reads"), frame);
    });
    futures::future::join_all(work).await;
    assert_eq!(store.names(""), vec![chunk.digest.to_string()]);
}

#[tokio::test]
async fn what_is_absent_is_not_durable() {
    let store = Store::in_a_directory();
    let here = store.put(b"one").await;
    let absent = Digest::of(b"two");
    let durable = store.objects.chunks().make_durable(BTreeSet::from([here, absent])).await;
    assert!(matches!(durable, Err(StoreError::Absent(digest)) if digest == absent), "{durable:?}");
}

#[tokio::test]
async fn what_a_crash_left_unfinished_is_removed_when_it_is_old() {
    let store = Store::in_a_directory();
    let digest = store.put(b"one").await;
    let file = store.chunk_file(digest);
    let unfinished = file.with_file_name(format!("{digest}#1"));
    overwrite(&unfinished, b"half");
    let chunks = store.objects.chunks();
    assert_eq!(chunks.list().try_collect::<Vec<_>>().await.expect("lists").len(), 1);
    let hour = std::time::Duration::from_hours(1);
    assert_eq!(store.objects.remove_unfinished(hour).await.expect("looks"), 0);
    assert!(unfinished.exists());
    assert_eq!(store.objects.remove_unfinished(std::time::Duration::ZERO).await.expect("removes"), 1);
    assert!(!unfinished.exists());
    assert_eq!(chunks.read(digest).await.expect("reads"), b"one");
}
