//! Archives in order, whole or by range, with little read ahead.

use std::fs;

use fleet_store::{Digest, Manifest, Piece, StoreError};
use futures::{StreamExt, TryStreamExt};

use crate::on_every_store;
use crate::store::{Store, noise, overwrite};

on_every_store! {
    an_archive_is_read_in_order
    any_range_of_the_frames_is_what_it_is_in_a_row
    little_is_read_ahead
    a_chunk_that_is_not_as_the_manifest_says_ends_the_stream
}

async fn an_archive_is_read_in_order(store: Store) {
    let bytes = noise(4 << 20);
    let pieces = store.put_archive(&bytes).await;
    assert!(pieces.len() > 8);
    let chunks = store.objects.chunks();
    for ahead in [0, 1, 4, 100] {
        let contents: Vec<_> = chunks.contents(pieces.clone(), ahead).try_collect().await.expect("reads");
        let read: Vec<u8> = contents.into_iter().flat_map(|fetched| fetched.data).collect();
        assert!(read == bytes);
    }
    let frames: Vec<_> = chunks.frames(pieces.clone(), 4).try_collect().await.expect("reads");
    let frames: Vec<u8> = frames.concat();
    // Whoever unpacks them all in a row has the archive: that is what Nix does.
    assert!(zstd::stream::decode_all(&*frames).expect("zstd") == bytes);
    assert_eq!(Manifest { pieces, ..Manifest::default() }.frames_len(), frames.len() as u64);
    assert_eq!(chunks.contents(Vec::new(), 4).count().await, 0);
}

async fn any_range_of_the_frames_is_what_it_is_in_a_row(store: Store) {
    let pieces = store.put_archive(&noise(3 << 20)).await;
    let chunks = store.objects.chunks();
    let all: Vec<_> = chunks.frames(pieces.clone(), 4).try_collect().await.expect("reads");
    let all = all.concat();
    let end = all.len() as u64;
    let border = u64::from(pieces[0].frame);
    let manifest = Manifest { pieces, ..Manifest::default() };
    let ranges = [
        0..end,
        0..1,
        0..border,
        border..border + 1,
        border - 1..border + 1,
        5..end - 5,
        end - 1..end,
        end / 3..end / 2,
        0..0,
        end..end,
        7..7,
        end - 3..end + 9,
        end + 1..end + 2,
        0..u64::MAX,
    ];
    for range in ranges {
        let read: Vec<_> =
            chunks.frame_range(&manifest, range.clone(), 2).try_collect().await.expect("reads");
        let within = |at: u64| usize::try_from(at.min(end)).expect("small");
        assert!(read.concat() == all[within(range.start)..within(range.end)], "{range:?}");
    }
    // What is outside the range is not even looked at.
    fs::remove_file(store.chunk_file(manifest.pieces[0].digest)).expect("a file");
    let rest: Vec<_> = chunks.frame_range(&manifest, border..end, 2).try_collect().await.expect("reads");
    assert!(rest.concat() == all[usize::try_from(border).expect("small")..]);
}

async fn little_is_read_ahead(store: Store) {
    for number in 0..2 {
        let pieces = store.put_archive(&noise(6 << 20)).await;
        let chunks = store.objects.chunks();
        let mut given = match number {
            0 => chunks.contents(pieces.clone(), 2).map_ok(drop).boxed(),
            _ => chunks.frames(pieces.clone(), 2).map_ok(drop).boxed(),
        };
        assert!(given.next().await.expect("a chunk").is_ok());
        // All the rest is gone now; what had been read is still given.
        for piece in &pieces {
            fs::remove_file(store.chunk_file(piece.digest)).expect("a file");
        }
        let mut count = 1;
        let error = loop {
            match given.next().await.expect("it does not end well") {
                Ok(()) => count += 1,
                Err(error) => break error,
            }
        };
        assert!(count <= 3, "{count}");
        assert!(matches!(error, StoreError::Absent(digest) if digest == pieces[count].digest), "{error:?}");
    }
}

async fn a_chunk_that_is_not_as_the_manifest_says_ends_the_stream(store: Store) {
    let chunks = store.objects.chunks();
    let pieces = store.put_archive(&noise(1 << 20)).await;
    let with = |change: fn(&mut Piece)| {
        let mut pieces = pieces.clone();
        change(&mut pieces[1]);
        pieces
    };
    for wrong in [with(|piece| piece.size += 1), with(|piece| piece.frame += 1)] {
        let frames: Result<Vec<_>, _> = chunks.frames(wrong, 2).try_collect().await;
        assert!(matches!(frames, Err(StoreError::OtherSize { digest, .. }) if digest == pieces[1].digest));
    }
    let larger = chunks.contents(with(|piece| piece.size += 1), 2).try_collect::<Vec<_>>().await;
    assert!(matches!(larger, Err(StoreError::OtherSize { .. })));
    // Contents come from whatever frame there is, and so do frames of which nothing is said.
    chunks.contents(with(|piece| piece.frame += 1), 2).try_collect::<Vec<_>>().await.expect("reads");
    chunks.frames(with(|piece| piece.frame = 0), 2).try_collect::<Vec<_>>().await.expect("reads");
    let absent = chunks.frames(with(|piece| piece.digest = Digest::of(b"")), 2).try_collect::<Vec<_>>().await;
    assert!(matches!(absent, Err(StoreError::Absent(_))));
    overwrite(&store.chunk_file(pieces[1].digest), b"damage");
    let damaged = chunks.frames(pieces.clone(), 2).try_collect::<Vec<_>>().await;
    assert!(matches!(damaged, Err(StoreError::Damaged(digest)) if digest == pieces[1].digest));
}
