//! Marks of what is published.

use fleet_store::StoreError;
use futures::TryStreamExt;

use crate::on_every_store;
use crate::store::{Store, overwrite};

const HASH: &str = "00000000000000000000000000000000";
const NAME: &str = "00000000000000000000000000000000-x";

on_every_store! {
    a_mark_says_which_path_is_published
    a_damaged_mark_is_none_and_can_be_set_again
    names_are_those_of_store_paths
}

async fn a_mark_says_which_path_is_published(store: Store) {
    let published = store.objects.published();
    assert_eq!(published.get(HASH).await.expect("reads"), None);
    published.set(NAME).await.expect("marks");
    published.set(NAME).await.expect("again is fine");
    assert_eq!(published.get(HASH).await.expect("reads").as_deref(), Some(NAME));
    let listed: Vec<_> = published.list().try_collect().await.expect("lists");
    assert_eq!(listed.iter().map(|listed| &*listed.name).collect::<Vec<_>>(), [HASH]);
    published.clear(&[HASH.to_owned()]).await.expect("clears");
    published.clear(&[HASH.to_owned()]).await.expect("again is fine");
    assert_eq!(published.get(HASH).await.expect("reads"), None);
}

async fn a_damaged_mark_is_none_and_can_be_set_again(store: Store) {
    let published = store.objects.published();
    let other = "11111111111111111111111111111111-x";
    let long = format!("{NAME}{}", "x".repeat(255));
    for damage in ["", HASH, &NAME[..33], other, &long, "00000000000000000000000000000000-/", "\u{0}"] {
        overwrite(&store.file("published", HASH), damage.as_bytes());
        assert_eq!(published.get(HASH).await.expect("reads"), None, "{damage:?}");
        published.set(NAME).await.expect("marks");
        assert_eq!(published.get(HASH).await.expect("reads").as_deref(), Some(NAME), "{damage:?}");
    }
}

async fn names_are_those_of_store_paths(store: Store) {
    let published = store.objects.published();
    for hash in
        ["", "..", NAME, &HASH[1..], "0000000000000000000000000000000/", "é000000000000000000000000000000"]
    {
        let get = published.get(hash).await;
        assert!(matches!(get, Err(StoreError::Name(_))), "{hash}");
        assert!(matches!(published.clear(&[hash.to_owned()]).await, Err(StoreError::Name(_))), "{hash}");
    }
    let slashed = format!("{HASH}-a/b");
    for name in ["", HASH, "x", &NAME[..33], &NAME[1..], &slashed] {
        assert!(matches!(published.set(name).await, Err(StoreError::Name(_))), "{name}");
    }
    assert_eq!(store.names(""), Vec::<String>::new());
}
