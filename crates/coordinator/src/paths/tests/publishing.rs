//! What is served to everybody, and what is not any more.

use std::collections::HashSet;

use futures::TryStreamExt;

use super::*;

fn paths(made: &[&Made]) -> Vec<StorePath> {
    made.iter().map(|made| made.store_path()).collect()
}

/// Three paths in a row, each referring to the one before.
async fn chain(shelf: &Shelf) -> [Made; 3] {
    let leaf = file(1, &noise(7));
    let middle = file(2, b"middle").refer_to(&[&leaf]);
    let top = file(3, b"top").refer_to(&[&middle]);
    for made in [&leaf, &middle, &top] {
        shelf.keep(made).await;
    }
    [leaf, middle, top]
}

impl Shelf {
    async fn served(&self, all: &[Made]) -> Vec<bool> {
        let mut served = Vec::new();
        for made in all {
            let found = self.table.published(made.store_path().hash_part()).await.expect("answers");
            served.push(found.is_some_and(|(info, manifest)| {
                info.path == made.store_path() && manifest.pieces.iter().all(|piece| piece.frame > 0)
            }));
        }
        served
    }

    fn file_of(&self, digest: Digest) -> std::path::PathBuf {
        let name = digest.to_string();
        self.directory.path().join("objects/chunks").join(&name[..2]).join(&name)
    }
}

#[tokio::test]
async fn nothing_is_served_before_all_it_refers_to() {
    let shelf = Shelf::new().await;
    let [leaf, middle, top] = chain(&shelf).await;
    let all = [leaf.clone(), middle.clone(), top.clone()];
    assert_eq!(shelf.served(&all).await, [false; 3]);
    let error =
        shelf.table.publish(&paths(&[&top, &middle]), &HashSet::new()).await.expect_err("the leaf is not");
    assert!(
        matches!(&error, PathsError::NoReference { reference, .. } if *reference == leaf.name()),
        "{error}"
    );
    assert_eq!(shelf.served(&all).await, [false; 3]);
    // In any order.
    shelf.table.publish(&paths(&[&top, &leaf, &middle]), &HashSet::new()).await.expect("all are kept");
    assert_eq!(shelf.served(&all).await, [true; 3]);
    shelf.table.publish(&paths(&[&top]), &HashSet::new()).await.expect("again is nothing");
    let shelf = shelf.reopened().await;
    assert_eq!(shelf.served(&all).await, [true; 3]);
}

#[tokio::test]
async fn what_upstream_serves_need_not_be_here() {
    let shelf = Shelf::new().await;
    let upstream = file(9, b"of a cache");
    let made = file(1, b"made").refer_to(&[&upstream]);
    shelf.keep(&made).await;
    shelf.table.publish(&paths(&[&made]), &HashSet::new()).await.expect_err("nobody serves its reference");
    shelf
        .table
        .publish(&paths(&[&made]), &HashSet::from([upstream.store_path()]))
        .await
        .expect("upstream does");
    assert_eq!(shelf.served(&[made, upstream]).await, [true, false]);
}

#[tokio::test]
async fn what_is_not_kept_is_not_published() {
    let shelf = Shelf::new().await;
    let made = file(1, b"made");
    let error = shelf.table.publish(&paths(&[&made]), &HashSet::new()).await.expect_err("it is not here");
    assert!(matches!(error, PathsError::NotKept { .. }), "{error}");
    for hash in ["", "..", "00000000000000000000000000000000", "\u{fc}00000000000000000000000000000"] {
        assert!(shelf.table.published(hash).await.expect("answers").is_none());
    }
}

#[tokio::test]
async fn a_damaged_path_and_all_that_refers_to_it_is_served_no_more_until_it_is_brought_again() {
    let mut shelf = Shelf::new().await;
    let all = chain(&shelf).await;
    let beside = file(8, b"beside");
    shelf.keep(&beside).await;
    let [leaf, middle, top] = &all;
    shelf.table.publish(&paths(&[leaf, middle, top, &beside]), &HashSet::new()).await.expect("all are kept");
    std::fs::write(shelf.file_of(leaf.chunks[1].0), b"damaged").expect("writes");
    let (_, manifest) =
        shelf.table.published(leaf.store_path().hash_part()).await.expect("answers").expect("published");
    let read: Result<Vec<_>, _> = shelf.chunks.frames(manifest.pieces, 2).try_collect().await;
    let error = read.expect_err("a chunk is damaged");
    assert!(shelf.table.failed(&leaf.store_path(), &error).await.expect("forgets"), "{error}");
    assert_eq!(shelf.forgotten.try_recv().expect("the shell is told"), leaf.store_path());
    assert_eq!(shelf.served(&all).await, [false; 3]);
    assert_eq!(shelf.served(std::slice::from_ref(&beside)).await, [true]);
    assert!(!shelf.has(leaf) && shelf.has(middle) && shelf.has(top));
    // As after a crash in between, nothing comes back by itself.
    let shelf = shelf.reopened().await;
    assert_eq!(shelf.served(&all).await, [false; 3]);
    shelf.keep(leaf).await;
    shelf.table.publish(&paths(&[leaf, middle, top]), &HashSet::new()).await.expect("all are kept");
    assert_eq!(shelf.served(&all).await, [true; 3]);
}

#[tokio::test]
async fn a_damaged_manifest_is_no_answer_and_takes_what_refers_to_it_along() {
    let shelf = Shelf::new().await;
    let all = chain(&shelf).await;
    shelf.table.publish(&paths(&[&all[0], &all[1], &all[2]]), &HashSet::new()).await.expect("all are kept");
    let shelf = shelf.reopened().await;
    let name = all[1].name();
    let place = shelf.directory.path().join("objects/manifests").join(&name[..2]).join(&name);
    std::fs::write(place, b"").expect("writes");
    assert_eq!(shelf.served(&all[1..2]).await, [false]);
    assert_eq!(shelf.served(&all).await, [true, false, false]);
}

#[tokio::test]
async fn a_path_that_lost_a_chunk_is_brought_again_as_a_whole() {
    let shelf = Shelf::new().await;
    let made = file(1, &noise(7));
    shelf.keep(&made).await;
    std::fs::remove_file(shelf.file_of(made.chunks[1].0)).expect("it is there");
    let error = shelf.register(made.path.clone()).await.expect_err("a chunk is missing");
    assert!(matches!(error, PathsError::NoChunk { .. }), "{error}");
    assert!(!shelf.has(&made));
    shelf.keep(&made).await;
    assert!(shelf.has(&made));
}

#[tokio::test]
async fn a_mark_without_a_path_is_removed_at_the_next_start() {
    let shelf = Shelf::new().await;
    let made = file(1, b"made");
    shelf.keep(&made).await;
    shelf.table.publish(&paths(&[&made]), &HashSet::new()).await.expect("it is kept");
    let name = made.name();
    let place = |kind: &str, file: &str| {
        shelf.directory.path().join("objects").join(kind).join(&name[..2]).join(file)
    };
    let (manifest, mark) = (place("manifests", &name), place("published", &name[..32]));
    std::fs::remove_file(manifest).expect("it is there");
    assert!(mark.exists());
    let shelf = shelf.reopened().await;
    assert!(!mark.exists());
    assert_eq!(shelf.served(&[made]).await, [false]);
}
