//! Manifests: the first of a name stays, and none is given that is not what was written.

use std::fs;

use bytes::Bytes;
use fleet_store::{Digest, Kept, Manifest, Piece, StoreError};
use futures::TryStreamExt;

use crate::on_every_store;
use crate::store::{Store, overwrite};

const NAME: &str = "00000000000000000000000000000000-x";
const OTHER: &str = "11111111111111111111111111111111-a+b-._?=c";

on_every_store! {
    the_first_of_a_name_stays
    damaged_ones_are_set_aside_and_can_be_kept_again
    one_that_was_written_for_another_name_is_damaged
    what_is_forgotten_or_deleted_can_be_kept_again
    all_are_listed_by_their_names
    names_never_leave_their_shelves
    one_that_is_replaced_is_the_new_one
}

fn manifest(text: &str) -> Manifest {
    let piece = |text: &[u8]| Piece { digest: Digest::of(text), size: 7, frame: 20 };
    Manifest { note: Bytes::copy_from_slice(text.as_bytes()), pieces: vec![piece(b"a"), piece(b"b")] }
}

async fn the_first_of_a_name_stays(store: Store) {
    let manifests = store.objects.manifests();
    assert_eq!(manifests.read(NAME).await.expect("reads"), None);
    assert!(!manifests.has(NAME).await.expect("looks"));
    assert_eq!(manifests.keep(NAME, &manifest("one")).await.expect("keeps"), Kept::Now);
    let before = Kept::Before(manifest("one"));
    assert_eq!(manifests.keep(NAME, &manifest("two")).await.expect("keeps"), before);
    assert_eq!(manifests.keep(OTHER, &manifest("two")).await.expect("keeps"), Kept::Now);
    let again = store.objects.manifests();
    assert!(again.has(NAME).await.expect("looks"));
    assert_eq!(again.read(NAME).await.expect("reads"), Some(manifest("one")));
}

async fn damaged_ones_are_set_aside_and_can_be_kept_again(store: Store) {
    let manifests = store.objects.manifests();
    let file = store.file("manifests", NAME);
    let whole = manifest("one").encode(NAME);
    let mut flipped = whole.clone();
    flipped[40] ^= 1;
    for damage in [Vec::new(), whole[..whole.len() - 1].to_vec(), flipped, b"fleet-manifest-1\n".to_vec()] {
        overwrite(&file, &damage);
        assert!(matches!(manifests.read(NAME).await, Err(StoreError::DamagedManifest(name)) if name == NAME));
        assert!(!manifests.has(NAME).await.expect("looks"));
        assert_eq!(store.names("damaged"), vec![NAME.to_owned()]);
        overwrite(&file, &damage);
        // Whoever keeps one need not have read it before.
        assert_eq!(manifests.keep(NAME, &manifest("one")).await.expect("keeps"), Kept::Now);
        assert_eq!(fs::read(&file).expect("a file"), whole);
    }
}

async fn one_that_was_written_for_another_name_is_damaged(store: Store) {
    let manifests = store.objects.manifests();
    manifests.keep(NAME, &manifest("one")).await.expect("keeps");
    overwrite(&store.file("manifests", OTHER), &fs::read(store.file("manifests", NAME)).expect("a file"));
    assert!(matches!(manifests.read(OTHER).await, Err(StoreError::DamagedManifest(_))));
    assert_eq!(manifests.read(NAME).await.expect("reads"), Some(manifest("one")));
}

async fn what_is_forgotten_or_deleted_can_be_kept_again(store: Store) {
    let manifests = store.objects.manifests();
    manifests.forget(NAME).await.expect("there is none");
    manifests.delete(&[NAME.to_owned()]).await.expect("there is none");
    manifests.keep(NAME, &manifest("one")).await.expect("keeps");
    manifests.forget(NAME).await.expect("forgets");
    assert!(!manifests.has(NAME).await.expect("looks"));
    assert_eq!(store.names("damaged"), vec![NAME.to_owned()]);
    assert_eq!(manifests.keep(NAME, &manifest("two")).await.expect("keeps"), Kept::Now);
    manifests.delete(&[NAME.to_owned(), OTHER.to_owned()]).await.expect("deletes");
    assert_eq!(manifests.read(NAME).await.expect("reads"), None);
}

async fn all_are_listed_by_their_names(store: Store) {
    let manifests = store.objects.manifests();
    manifests.keep(NAME, &manifest("one")).await.expect("keeps");
    manifests.keep(OTHER, &manifest("two")).await.expect("keeps");
    overwrite(&store.file("manifests", "no name of ours"), b"");
    let mut listed: Vec<_> = manifests.list().try_collect().await.expect("lists");
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(listed.iter().map(|listed| &*listed.name).collect::<Vec<_>>(), [NAME, OTHER]);
    assert_eq!(listed[0].size, manifest("one").encode(NAME).len() as u64);
}

async fn names_never_leave_their_shelves(store: Store) {
    let manifests = store.objects.manifests();
    let long = "a".repeat(256);
    for name in ["", "..", "../x", "a/../../x", "/etc/passwd", "ab\0", "ab/x", "ne", "ab%2e", "é-x-x", &long]
    {
        let refused = |error| matches!(error, StoreError::Name(_));
        assert!(manifests.has(name).await.is_err_and(refused), "{name:?}");
        assert!(manifests.read(name).await.is_err_and(refused), "{name:?}");
        assert!(manifests.keep(name, &manifest("one")).await.is_err_and(refused), "{name:?}");
        assert!(manifests.forget(name).await.is_err_and(refused), "{name:?}");
        assert!(manifests.delete(&[name.to_owned()]).await.is_err_and(refused), "{name:?}");
    }
    assert_eq!(store.names(""), Vec::<String>::new());
}

async fn one_that_is_replaced_is_the_new_one(store: Store) {
    let manifests = store.objects.manifests();
    manifests.keep(NAME, &manifest("one")).await.expect("keeps");
    manifests.replace(NAME, &manifest("two")).await.expect("replaces");
    assert_eq!(manifests.read(NAME).await.expect("reads"), Some(manifest("two")));
}

#[tokio::test]
async fn of_many_that_keep_one_name_at_once_one_wins() {
    let store = Store::in_a_directory();
    let manifests = store.objects.manifests();
    let all = (0..16).map(|number| {
        let manifests = manifests.clone();
        async move { manifests.keep(NAME, &manifest(&number.to_string())).await.expect("keeps") }
    });
    let all = futures::future::join_all(all).await;
    assert_eq!(all.iter().filter(|kept| **kept == Kept::Now).count(), 1);
    let winner = manifests.read(NAME).await.expect("reads").expect("one won");
    assert!(all.iter().all(|kept| *kept == Kept::Now || *kept == Kept::Before(winner.clone())));
}

#[tokio::test]
async fn one_that_is_too_large_is_neither_written_nor_read() {
    let store = Store::in_a_directory();
    let manifests = store.objects.manifests();
    let large = Manifest { note: vec![0; 32 << 20].into(), pieces: Vec::new() };
    assert!(matches!(manifests.keep(NAME, &large).await, Err(StoreError::TooLarge(_))));
    assert!(matches!(manifests.replace(NAME, &large).await, Err(StoreError::TooLarge(_))));
    overwrite(&store.file("manifests", NAME), &large.encode(NAME));
    assert!(matches!(manifests.read(NAME).await, Err(StoreError::DamagedManifest(_))));
}
